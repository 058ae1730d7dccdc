"""Write HTML pages: escape every text, inline every figure, load nothing from elsewhere."""

from __future__ import annotations

import html
import io
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from typing import NewType

from matplotlib.figure import Figure

from raypipe.display.style import INK, styled

Html = NewType("Html", str)
"""Text that is HTML already; the functions of this module escape all other text."""

_DPI = 160
_SVG_COLUMN_DENSITY = 'N<tspan baseline-shift="sub" font-size="75%">H</tspan>'
_figure_numbers = itertools.count(1)

_CSS = """
:root { color-scheme: light dark; --ink: #1d2126; --soft: #5b636e; --line: #d9dde3;
  --page: #fcfcfa; --card: #ffffff; --accent: #b23a4c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ea; --soft: #9aa3ad; --line: #343a42;
  --page: #14171a; --card: #1b1f24; --accent: #e58492; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
main { max-width: 74rem; margin: 0 auto; padding: 2.5rem 1.5rem 5rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.3rem; margin: 3.2rem 0 .8rem; padding-top: .9rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6rem 0 .5rem; }
p { max-width: 46rem; margin: .5rem 0; }
sub { line-height: 0; }
.lead { color: var(--soft); margin: 0; }
.note { color: var(--soft); font-size: .9rem; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: 1.2rem 0 0; font-size: .9rem; }
a { color: var(--accent); text-underline-offset: .2em; }
nav a { color: var(--soft); text-underline-offset: .2em; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); gap: 1rem;
  margin: 1.8rem 0 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: 1rem 1.2rem; }
.card .label { color: var(--soft); font-size: .9rem; }
.card .value { font-size: 1.75rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.card .place { color: var(--soft); font-size: .85rem; line-height: 1.4; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(27rem, 100%), 1fr));
  gap: 1.2rem; align-items: start; margin: 1rem 0; }
.grid.small { grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); }
.go { font-size: 1.1rem; margin: 1.2rem 0 0; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: .9rem 1rem 1rem; }
figure.wide { grid-column: 1 / -1; }
figure h3 { margin: 0 0 .1rem; font-size: .95rem; overflow-wrap: anywhere; }
figure .sub { margin: 0 0 .5rem; color: var(--soft); font-size: .85rem;
  font-variant-numeric: tabular-nums; }
figure svg { display: block; width: 100%; height: auto; margin: 0 auto; }
figure svg text { font-family: inherit !important; }
figcaption { color: var(--soft); font-size: .87rem; line-height: 1.45; margin-top: .6rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums;
  min-width: 50%; }
th, td { text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { font-weight: 600; color: var(--soft); line-height: 1.3; }
td.number, th.number { text-align: right; }
td.number { white-space: nowrap; }
th { vertical-align: bottom; }
td.best { font-weight: 700; }
td small { color: var(--soft); font-weight: 400; }
td.text { overflow-wrap: anywhere; min-width: 9.5rem; }
td.wide { min-width: 15rem; }
code, pre { font: .85em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
code { overflow-wrap: anywhere; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: .8rem 1rem; overflow-x: auto; }
details summary { cursor: pointer; color: var(--soft); margin: .8rem 0; }
footer { margin-top: 4rem; color: var(--soft); font-size: .85rem; }
@media print { main { max-width: none; padding: 0; } figure, tr, .card { break-inside: avoid; }
  nav { display: none; } }
"""


def escape(text: object) -> Html:
    """Escape text for HTML."""
    return Html(html.escape(str(text)))


def typeset(text: object) -> Html:
    """Escape text for HTML, and set the subscript of the column density N_H."""
    return Html(escape(text).replace("N_H", "N<sub>H</sub>"))


def join(parts: Iterable[Html]) -> Html:
    """Join pieces of HTML."""
    return Html("\n".join(parts))


def paragraph(text: object, style: str = "") -> Html:
    """Return a paragraph of text."""
    return Html(f"<p{_class(style)}>{escape(text)}</p>")


def section(anchor: str, title: str, *body: Html) -> Html:
    """Return a section with a title, to which the navigation links by `anchor`."""
    return Html(
        f'<section id="{escape(anchor)}"><h2>{escape(title)}</h2>\n{join(body)}\n</section>'
    )


def heading(text: str) -> Html:
    """Return a heading within a section."""
    return Html(f"<h3>{escape(text)}</h3>")


def cards(items: Iterable[tuple[str, str, str]]) -> Html:
    """Return cards of figures, each with its label, its value and a note that explains it."""
    inner = (
        f'<div class="card"><div class="label">{typeset(label)}</div>'
        f'<div class="value">{escape(value)}</div><div class="place">{escape(note)}</div></div>'
        for label, value, note in items
    )
    return Html(f'<div class="cards">{"".join(inner)}</div>')


def bullets(sentences: Iterable[str]) -> Html:
    """Return a list of sentences."""
    return Html(f"<ul>{''.join(f'<li>{typeset(each)}</li>' for each in sentences)}</ul>")


def page_link(text: str, address: str) -> Html:
    """Return a paragraph that leads to another page."""
    return Html(f'<p class="go">{_linked(text, address)}</p>')


def _linked(text: object, address: str) -> Html:
    return Html(f'<a href="{escape(address)}">{typeset(text)}</a>')


def block(*parts: Html) -> Html:
    """Group parts that stay together in a grid."""
    return Html(f"<div>{join(parts)}</div>")


def grid(parts: Iterable[Html], small: bool = False) -> Html:
    """Lay out figures or blocks side by side, as far as the width allows; three if `small`."""
    return Html(f'<div class="grid{" small" if small else ""}">{join(parts)}</div>')


def figure(
    drawing: Figure,
    caption: str,
    *,
    title: str = "",
    subtitle: str = "",
    wide: bool = False,
    link: str = "",
) -> Html:
    """Inline a drawing, with a caption that explains it; its title leads to the page `link`."""
    named = _linked(title, link) if link else escape(title)
    head = f"<h3>{named}</h3>" if title else ""
    head += f'<p class="sub">{escape(subtitle)}</p>' if subtitle else ""
    foot = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return Html(f"<figure{_class('wide' if wide else '')}>{head}{svg(drawing)}{foot}</figure>")


def svg(drawing: Figure) -> Html:
    """Convert a drawing to an inline SVG element whose ink is the text color of the page.

    The column density gets its subscript. Ids are made unique on the page, and metadata and
    namespaces that only a separate file needs are removed.
    """
    buffer = io.StringIO()
    with styled():
        drawing.savefig(buffer, format="svg", dpi=_DPI, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    prefix = f"f{next(_figure_numbers)}-"
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", text)
    width = float(drawing.get_figwidth())
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(
        r'(<svg[^>]*?) width="[^"]*"',
        rf'\1 role="img" style="max-width: {width * 1.35:.1f}in"',
        text,
        count=1,
    )
    text = re.sub(r"\bN_H\b(?=[^<>]*</text>)", _SVG_COLUMN_DENSITY, text)
    return Html(text.replace(INK, "currentColor").strip())


def table(
    headers: Sequence[str], rows: Iterable[Sequence[Html]], numbers: Iterable[int] = ()
) -> Html:
    """Return a table of cells made by `text_cell` or `number_cell`; `numbers` align right."""
    right = set(numbers)
    head = "".join(
        f"<th{_class('number' if i in right else '')}>{typeset(name)}</th>"
        for i, name in enumerate(headers)
    )
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return Html(
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def text_cell(text: object, small: str = "", wide: bool = False, link: str = "") -> Html:
    """Return a cell of text, which may lead to the page `link`, with a remark in small print."""
    shown = _linked(text, link) if link else escape(text)
    remark = f"<br><small>{escape(small)}</small>" if small else ""
    return Html(f'<td class="text{" wide" if wide else ""}">{shown}{remark}</td>')


def word_cell(text: object, right: bool = False) -> Html:
    """Return a cell of a word or two, no wider than they are."""
    return Html(f"<td{_class('number' if right else '')}>{escape(text)}</td>")


def number_cell(
    value: float | None,
    form: str = ".3f",
    error: float | None = None,
    best: bool = False,
) -> Html:
    """Return a cell of a number with its error; None, NaN and infinity become a dash."""
    if value is None or not math.isfinite(value):
        return Html('<td class="number">–</td>')
    spread = "" if error is None else f" <small>± {escape(format(error, form.lstrip('+')))}</small>"
    style = "number best" if best else "number"
    return Html(f'<td class="{style}">{escape(minus(format(value, form)))}{spread}</td>')


def facts(items: Iterable[tuple[str, object]]) -> Html:
    """Return a table of names and values."""
    return table(("", ""), ([text_cell(name), text_cell(value)] for name, value in items))


def details(summary: str, body: Html) -> Html:
    """Return content that the reader can unfold under its summary."""
    return Html(f"<details><summary>{escape(summary)}</summary>{body}</details>")


def preformatted(text: str) -> Html:
    """Return text in a fixed-width font, with its spaces and line breaks."""
    return Html(f"<pre>{escape(text)}</pre>")


def page(title: str, lead: str, sections: Sequence[tuple[str, str, Html]], footer: str) -> Html:
    """Return the whole page from sections (anchor, title, HTML of `section`)."""
    links = "".join(
        f'<a href="#{escape(anchor)}">{escape(name)}</a>' for anchor, name, _ in sections
    )
    return Html(
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p>\n<nav>{links}</nav>\n'
        f"{join(body for _, _, body in sections)}\n<footer>{escape(footer)}</footer>\n"
        "</main>\n</body>\n</html>\n"
    )


def count_of(number: int, noun: str) -> str:
    """Format a number with its noun, in the plural unless the number is 1."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def minus(text: str) -> str:
    """Set typographic minus signs of numbers, and no sign if a number is rounded to zero.

    Hyphens of words ("z-scores", "PCA-8") stay.
    """
    if not any(digit in text for digit in "123456789"):
        text = text.lstrip("+-")
    return re.sub(r"(?<![A-Za-z])-(?=[\d.])|(?<=\de)-(?=\d)", "−", text)


def _class(style: str) -> str:
    return f' class="{style}"' if style else ""
