"""Drive a headless Chromium through its DevTools protocol, for tests of pages."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import websocket

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_SECONDS = 120.0


class Page:
    """A page in Chromium: what it logs, what it asks the network for, and what it answers."""

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, timeout=_SECONDS, suppress_origin=True)
        self._number = 0
        self.errors: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol, and return its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return dict(message["result"])
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        match message.get("method"), message.get("params", {}):
            case "Runtime.exceptionThrown", event:
                self.errors.append(json.dumps(event["exceptionDetails"])[:2000])
            case "Runtime.consoleAPICalled", event if event["type"] in ("error", "assert"):
                self.errors.append(json.dumps(event["args"])[:2000])
            case "Log.entryAdded", event if event["entry"]["level"] == "error":
                self.errors.append(event["entry"]["text"])
            case "Network.requestWillBeSent", event:
                self.requests.append(event["request"]["url"])

    def run(self, expression: str) -> Any:
        """Evaluate JavaScript, wait for a promise, and return the value."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:2000])
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = 60.0) -> None:
        """Wait until an expression is true; fail after some seconds."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({expression})"):
            assert time.monotonic() < end, f"never true: {expression}; {self.errors}"
            time.sleep(0.05)

    def open(self, place: Path | str, width: int = 1400, height: int = 1000) -> None:
        """Open a file, or an address, in a window of that size."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        self.call("Page.navigate", url=place if isinstance(place, str) else place.as_uri())

    def move(self, x: float, y: float) -> None:
        """Move the pointer."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def drag(self, *places: tuple[float, float]) -> None:
        """Press the button at the first place, move through the others, and release it."""
        for i, (x, y) in enumerate(places):
            kind = "mousePressed" if i == 0 else "mouseMoved"
            self.call(
                "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1,
                clickCount=1,
            )  # fmt: skip
        x, y = places[-1]
        self.call(
            "Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, button="left", clickCount=1
        )

    def screenshot(self, file: Path) -> None:
        """Write a picture of the whole page."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(answer["data"]))

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def find_chromium() -> str | None:
    """Return the path of Chromium, None without one."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


@contextmanager
def chromium_page(folder: Path) -> Iterator[Page]:
    """Start Chromium with its profile in a folder; skip the test where there is none."""
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium on this machine")
    options = [
        "--headless=new", "--no-sandbox", "--no-first-run", "--disable-extensions",
        "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
        "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--remote-debugging-port=0",
        f"--user-data-dir={folder}",
    ]  # fmt: skip
    process = subprocess.Popen(
        [program, *options, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        page = Page(_address(folder / "DevToolsActivePort", process))
        try:
            yield page
        finally:
            page.close()
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def _address(file: Path, process: subprocess.Popen[bytes]) -> str:
    end = time.monotonic() + _SECONDS
    while not (file.exists() and file.read_text().count("\n")):
        assert process.poll() is None, f"Chromium ended with {process.returncode}"
        assert time.monotonic() < end, "Chromium does not start"
        time.sleep(0.05)
    port = file.read_text().split("\n")[0]
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=10) as answer:
            pages = [each for each in json.load(answer) if each["type"] == "page"]
        if pages:
            return str(pages[0]["webSocketDebuggerUrl"])
        assert time.monotonic() < end, "Chromium opens no page"
        time.sleep(0.05)
