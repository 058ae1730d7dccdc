// Exchange selections with TOPCAT, Aladin and others by SAMP, through the server of this page.
"use strict";

const SAMP_POLL_MS = 1000;

class Samp {
  constructor(explorer) {
    Object.assign(this, { explorer, after: 0 });
    $("samp").hidden = false;
    $("samp-connect").addEventListener("click", () => this.connect());
    $("samp-send").addEventListener("click", () => this.send());
  }

  say(text) {
    $("samp-status").textContent = text;
  }

  async connect() {
    const { error } = await this.explorer.catalog.json("samp_connect");
    this.say(error ?? "Connected: tables and rows that other programs send are selected here.");
    if (error) return;
    $("samp-connect").disabled = true;
    $("samp-send").disabled = false;
    this.poll();
  }

  async send() {
    const { error, programs } = await this.explorer.catalog.json("samp_send", { rows: this.explorer.selection });
    this.say(error ?? (programs.length ? `Sent to ${programs.join(", ")}.` : "No program that takes tables is connected: start TOPCAT or Aladin."));
  }

  /** Select what other programs have sent, as long as the page is open. */
  async poll() {
    const events = await this.explorer.catalog.json("samp_received", { after: this.after });
    for (const { number, rows, text } of events) {
      this.after = number;
      this.say(text);
      if (rows.length) await this.explorer.select(rows);
    }
    setTimeout(() => this.poll(), SAMP_POLL_MS);
  }
}
