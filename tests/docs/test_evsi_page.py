"""The page about EVSI: its 20 lines run and say what it says, its figures are the exact ones."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bb_wm.testing import tooldesk_exact as exact

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "evsi.md").read_text()


def test_the_twenty_lines_run_and_say_what_the_page_says() -> None:
    """V_read = P(silence) E[ship | silence] = .72 - .01 * 10 = .62; less the cost .57."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 24
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    asked, beep, silence = done.stdout.splitlines()
    assert asked.startswith("Ask 'scan' first: net of its cost the answer is worth 0.57")
    assert beep.startswith("beep: Hold:")
    assert silence.startswith("silence: Do 'ship'")
    assert "risk bound 0.0137 is within 0.02" in silence


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        ("bayes_optimal", "1.43 of 1.43"),
        ("maxprob<0.9_B", "best threshold 1.28"),
        ("always_A4", "always asking 1.12"),
        ("never", "never asking 0.51"),
    ],
)
def test_the_figures_of_the_page_are_exact(gate: str, told: str) -> None:
    assert told in " ".join(PAGE.split())
    assert f"{exact.mean_value(exact.gates()[gate]):.2f}" in told


def test_the_picture_is_there() -> None:
    assert (DOCS / "evsi.png").read_bytes().startswith(b"\x89PNG")
