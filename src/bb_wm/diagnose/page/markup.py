"""The few pieces of HTML a page is made of. Every word from outside goes through `text`."""

from __future__ import annotations

import html
from collections.abc import Sequence

from bb_wm.diagnose.tables import Table


def text(value: object) -> str:
    """Escaped for an element or a quoted attribute; control characters made visible."""
    plain = "".join(c if c.isprintable() or c in "\n\t\u00a0" else "\N{REPLACEMENT CHARACTER}"
                    for c in str(value))  # fmt: skip
    return html.escape(plain, quote=True)


def section(name: str, title: str, *parts: str, note: str = "") -> str:
    """A part of the page with an anchor and, under its title, a sentence on how to read it."""
    told = f'<p class="note">{note}</p>' if note else ""
    inside = "\n".join(part for part in parts if part)
    return (
        f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{text(title)}'
        f"</h2>{told}\n{inside}</section>"
    )


def figure(
    drawing: str, *, title: str = "", caption: str = "", name: str = "", wide: bool = False
) -> str:
    """A drawing with its title above and its reading below. `caption` is HTML."""
    anchor = f' id="{name}"' if name else ""
    head = f"<h3>{text(title)}</h3>" if title else ""
    foot = f"<figcaption>{caption}</figcaption>" if caption else ""
    kind = ' class="wide"' if wide else ""
    return f"<figure{anchor}{kind}>{head}{drawing}{foot}</figure>"


def grid(figures: Sequence[str], *, four: bool = False) -> str:
    """Figures beside each other where there is room; `four` narrow ones to a row on a laptop."""
    shown = [one for one in figures if one]
    kind = "grid four" if four else "grid"
    return f'<div class="{kind}">{"".join(shown)}</div>' if shown else ""


def legend(series: Sequence[tuple[str, str]]) -> str:
    """(class, label) pairs; the class "band" is drawn as an area."""
    items = []
    for kind, label in series:
        mark = (
            '<rect class="band" width="26" height="10"/>'
            if kind == "band"
            else f'<line class="line {kind}" x1="0" y1="5" x2="26" y2="5"/>'
        )
        sample = f'<svg viewBox="0 0 26 10" aria-hidden="true">{mark}</svg>'
        items.append(f"<li>{sample}{text(label)}</li>")
    return f'<ul class="legend">{"".join(items)}</ul>'


def details(summary: str, inside: str, *, name: str, opened: bool = False) -> str:
    """Folded away until asked for. `inside` is HTML."""
    state = " open" if opened else ""
    return f'<details id="{name}"{state}><summary>{text(summary)}</summary>{inside}</details>'


def table(content: Table, *, words: Sequence[int] = ()) -> str:
    """A table that scrolls by itself on a narrow screen; columns in `words` hold sentences."""
    head = ""
    if content.has_header:
        cells = "".join(f'<th scope="col">{text(name)}</th>' for name in content.header)
        head = f"<thead><tr>{cells}</tr></thead>"
    rows = []
    for cells_ in content.rows:
        rest = "".join(
            f"<td{' class=words' if i in words else ''}>{text(cell)}</td>"
            for i, cell in enumerate(cells_[1:], start=1)
        )
        rows.append(f'<tr><th scope="row">{text(cells_[0])}</th>{rest}</tr>')
    kind = "" if content.has_header else ' class="facts"'
    label = text(content.title or "table")
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{label}">'
        f"<table{kind}>{head}<tbody>{''.join(rows)}</tbody></table></div>"
    )
