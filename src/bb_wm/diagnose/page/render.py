"""The whole page as one HTML text, and as a file."""

from __future__ import annotations

import base64
import hashlib
import os
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bb_wm import durable
from bb_wm.diagnose.page import sections
from bb_wm.diagnose.page.imagination import imagination
from bb_wm.diagnose.page.markup import text
from bb_wm.diagnose.page.verdicts import cards, draw_cards, headline, lead
from bb_wm.errors import ResourceError

if TYPE_CHECKING:
    from bb_wm.diagnose.page.content import Page

MAX_PAGE_BYTES: Final = 6 * 1024 * 1024
_PARTS: Final = (
    ("imagination", "Imagination", imagination),
    ("learning", "Learning", sections.learning),
    ("calibration", "Calibration", sections.calibrated),
    ("smells", "Smells", sections.smells),
    ("evsi", "Asking", sections.asking),
    ("promotion", "Promotion", sections.promotions),
    ("figures", "Figures", sections.figures),
    ("origins", "Provenance", sections.origins),
)


def write_page(path: str | os.PathLike[str], page: Page) -> Path:
    """Write the page, whole or not at all. ResourceError when it would exceed 6 MB."""
    raw = render_page(page).encode("utf-8")
    if len(raw) > MAX_PAGE_BYTES:
        raise ResourceError(
            "page",
            expected=f"at most {MAX_PAGE_BYTES} bytes",
            actual=len(raw),
            hint="show fewer windows or smaller images.",
        )
    target = Path(path)
    durable.write_file(target, raw)
    return target


def render_page(page: Page, *, stamp: str = "", every: float = 0.0) -> str:
    """The page's HTML: itself and nothing else, which its Content-Security-Policy enforces.

    With `every` seconds > 0 it asks the server it came from for `/state.json` so often, and renews
    itself when that says another stamp.
    """
    shown = [(name, title, part(page)) for name, title, part in _PARTS]
    body = "\n".join(inside for _, _, inside in shown if inside)
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, inside in shown if inside)
    style, script = _resource("page.css"), _resource("page.js")
    status = (
        f'<p class="status" id="status" role="status" data-stamp="{text(stamp)}" '
        f'data-every="{1000 * every:g}">{text(page.progress)}</p>'
        if every
        else ""
    )
    return (
        '<!doctype html>\n<html lang="en" class="no-script">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy(live=bool(every))}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<title>{text(page.title)}: bb_wm</title>\n<link rel="icon" href="data:,">\n'
        f"<style>{style}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#main">To the content</a>\n'
        f'<div class="bar"><div><nav id="nav" aria-label="Sections">{links}</nav>'
        '<button id="theme" type="button" hidden>Theme: auto</button></div></div>\n'
        f'{status}\n<div id="head">{_head(page)}</div>\n<main id="main">\n{body}\n</main>\n'
        "<footer>Made by bb_wm. Everything is in this one file; it asks nothing of any network."
        f"</footer>\n<script>{script}</script>\n</body>\n</html>\n"
    )


def policy(*, live: bool = False) -> str:
    """A Content-Security-Policy under which only the page's own style and script count and nothing
    can be fetched; `live` lets the script ask the server that the page came from."""
    rules = [
        "default-src 'none'",
        "img-src data:",
        f"style-src '{_digest('page.css')}'",
        f"script-src '{_digest('page.js')}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return "; ".join([*rules, "connect-src 'self'"] if live else rules)


def _head(page: Page) -> str:
    report = page.report
    if report is None:
        said, below, shown = "No verdict yet.", "There is no checkpoint to judge so far.", ""
    else:
        said, below = headline(report), lead(report)
        shown = draw_cards(cards(report)) + sections.alarms(page)
    at = "" if report is None or report.updates is None else f" after {report.updates} updates"
    return (
        f'<header><p class="kicker">{text(page.title)}: world model{at}</p>'
        f'<h1>{text(said)}</h1><p class="lead">{text(below)}</p>{shown}</header>'
    )


def _resource(name: str) -> str:
    return resources.files("bb_wm.diagnose.page").joinpath(name).read_text(encoding="utf-8")


def _digest(name: str) -> str:
    digest = hashlib.sha256(_resource(name).encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
