"""One self-contained HTML page per run: verdicts first, then pictures, evidence and every number.

No network, which the page's own policy enforces; one small script for the theme, the horizon
slider, and renewal where `bb-wm inspect` serves it. Charts are SVG written here, so a page needs no
drawing package.
"""

from bb_wm.diagnose.page.content import Page, describe_software
from bb_wm.diagnose.page.curves import read_curves
from bb_wm.diagnose.page.render import MAX_PAGE_BYTES, render_page, write_page

__all__ = [
    "MAX_PAGE_BYTES",
    "Page",
    "describe_software",
    "read_curves",
    "render_page",
    "write_page",
]
