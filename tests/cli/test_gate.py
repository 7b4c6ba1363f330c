"""`bb-wm gate`: a run's model behind a gate, beside simpler habits."""

from __future__ import annotations

import json
import re

import pytest
from tests.cli.conftest import call

from bb_wm.decide import read_ledger

SMALL = [
    *("--rows", "1500", "--heldout-rows", "200", "--updates", "40", "--batch-size", "32"),
    *("--length", "6", "--threads", "1"),
]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder in which a model of ToolDesk was learnt, not for long."""
    place = tmp_path_factory.mktemp("desk")
    code, _, err = call("train", "ToolDesk", *SMALL, cwd=place)
    assert code == 0, err
    return place


def test_every_strategy_plays_the_same_episodes_and_decisions_go_on_record(desk) -> None:
    words = ("gate", "runs/ToolDesk", "--episodes", "8", "--depth", "1", "--threads", "1")
    code, out, err = call(*words, cwd=desk)
    assert code == 0, err
    rows = {line[:36].strip(): line[36:].split() for line in out.splitlines() if line.strip()}
    assert rows["always ask A"][4] == "4.00,"
    assert rows["never ask"][4] == "0.00,"
    assert rows["exact optimum"] == ["1.427"]
    assert any(name.startswith("best threshold: ask") for name in rows)
    report = read_ledger(desk / "runs/ToolDesk/ledger.sqlite")
    gate = " ".join(rows["gate (this model)"])
    asked = sum(float(n) for n in re.findall(r"[ABC] ([\d.]+)", gate))
    assert sum(report.counts.values()) == pytest.approx(8 * (1 + asked), abs=0.5)


def test_a_world_with_masks_learns_them(desk) -> None:
    described = json.loads((desk / "runs/ToolDesk/run.json").read_text())
    assert '"action_mask": true' in json.dumps(described)


def test_a_world_without_asks_is_refused_with_a_hint(trained) -> None:
    place, _, _ = trained
    code, _, err = call("gate", "runs/LineWorld", cwd=place)
    assert code == 2
    assert "ToolDesk" in err
    assert "docs/evsi.md" in err
