"""The example of a gated browser, lived in small on a real page."""

from __future__ import annotations

from pathlib import Path

import pytest

from bb_wm.worlds.catalogue import find_world

_WORLD = find_world("miniwob/click-dialog-2")
pytestmark = [
    pytest.mark.skipif(not _WORLD.installed, reason=f"needs: {_WORLD.install}"),
    pytest.mark.xdist_group("browser"),  # one Chromium at a time
    pytest.mark.timeout(600),  # a browser on a busy machine
]


def test_the_life_of_a_gate_in_small(tmp_path: Path) -> None:
    """Too few episodes for a bound: everything is held, and nothing reaches the page."""
    from examples.gate_a_click import live, table

    columns, bound = live(tmp_path, "click-dialog-2", episodes=24, updates=2, tasks=2)
    assert "episodes of the 59 a bound needs" in bound.findings[-1]
    free, held = columns["careful"], columns["careless, gated"]
    assert (free.solved, free.unsafe) == (2, 0)
    assert (held.solved, held.unsafe) == (0, 0)
    assert held.harmless == held.harmless_held
    assert held.destructive == held.destructive_held
    assert held.destructive + held.harmless > 2  # it went on trying to the end of both tasks
    assert "destructive clicks held" in table(columns)
