"""The benchmark's gate, given a model that is exactly right, must score as the exact gates do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks.tooldesk import batch_of
from benchmarks.tooldesk_play import LearnedPlay, forced_pairs
from tests.exact_desk import ExactDesk

from bb_wm.decide import Ledger, read_ledger
from bb_wm.testing import tooldesk_exact as exact
from bb_wm.testing import tooldesk_score as scoring
from bb_wm.worlds import tooldesk


@pytest.mark.parametrize(
    ("depth", "twin", "name"),
    [
        (1, "myopic_exact_evsi", "one_call"),
        pytest.param(2, "two_call_lookahead", "two_call", marks=pytest.mark.slow),
    ],
)
def test_an_exact_model_plays_as_the_exact_gate_of_its_depth(
    depth: int, twin: str, name: str
) -> None:
    play = LearnedPlay(ExactDesk(), depth=depth, particles=1)  # type: ignore[arg-type]
    found = scoring.score(play)
    assert found.value == pytest.approx(exact.mean_value(exact.gates()[twin]), abs=1e-4)
    line = found.calibration[name]
    assert (line.slope, line.r2, line.sign_accuracy) == pytest.approx((1, 1, 1), abs=1e-3)
    assert line.bias == pytest.approx(0.0, abs=1e-5)
    assert found.useless_share == 0.0


def test_forced_pairs_realise_what_an_exact_model_estimates(tmp_path: Path) -> None:
    """One-call EVSI of the best tool against the paired gains of 150 episodes: within 4 errors."""
    play = LearnedPlay(ExactDesk(), depth=1, particles=1)  # type: ignore[arg-type]
    with Ledger(tmp_path / "l.sqlite", durable=False) as ledger:
        forced_pairs(play, ledger, 150)
        (line,) = read_ledger(ledger).calibration
    assert (line.method, line.n) == ("paired", 150)
    assert line.mean_gain == pytest.approx(line.mean_estimate, abs=4 * line.mean_gain_error)
    assert line.slope == pytest.approx(1.0, abs=4 * line.slope_error)
    assert line.slope_error < 0.2


def test_batches_hold_the_rows_of_the_world() -> None:
    desks = tooldesk.sample_desks(50, np.random.default_rng(0))
    batch = batch_of(desks, np.arange(50))
    for row, episode in enumerate(desks.episodes()):
        size = len(episode)
        assert batch["valid"][row].sum() == size
        assert batch["terminated"][row].nonzero()[0].tolist() == [size - 1]
        assert np.array_equal(batch["action"][row, :size], episode.action)
        assert np.array_equal(batch["obs"]["named"][row, :size], episode.obs["named"])
