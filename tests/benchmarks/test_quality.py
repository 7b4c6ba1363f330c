"""The benchmark of prediction: its scores by hand, its rules, and that it goes on where it was."""

from __future__ import annotations

import json

import numpy as np
import pytest
from benchmarks.quality_rows import NOISE, Rules, hide, reaching
from tests.diagnose.helpers import linear_episodes, make_episode

from bb_wm.diagnose import evaluate_predictors
from bb_wm.diagnose.baselines import Forecast
from bb_wm.diagnose.scores import measure_variances
from bb_wm.types import ObsSpec
from benchmarks import quality, quality_spread, quality_table

# --- spread ---------------------------------------------------------------------------------------


def test_the_crps_by_hand():
    samples = np.array([0.0, 1.0, 3.0]).reshape(1, 3, 1, 1)
    # E|X - y| = (2 + 1 + 1) / 3; pairs 1, 3, 2 have the mean 2; 4/3 - 2/2.
    assert quality_spread.crps(samples, np.full((1, 1, 1), 2.0)).item() == pytest.approx(1 / 3)


def test_a_normal_law_has_its_known_crps():
    random = np.random.default_rng(0)
    samples = random.standard_normal((40_000, quality_spread.SAMPLES, 1, 1))
    real = random.standard_normal((40_000, 1, 1))
    score = quality_spread.crps(samples, real).mean()
    assert score == pytest.approx(1 / np.sqrt(np.pi), abs=0.01)  # Gneiting and Raftery 2007


def test_coverage_is_the_nominal_one_of_a_right_law_and_falls_where_it_is_too_narrow():
    random = np.random.default_rng(1)
    episodes = [make_episode(random.standard_normal((4_000, 2)))]
    variances = measure_variances(ObsSpec.of(2), episodes)
    samples = random.standard_normal((4_000, quality_spread.SAMPLES, 3, 2))
    real = random.standard_normal((4_000, 3, 2))
    valid = np.ones((4_000, 3), bool)

    def judged(scale: float, shift: float = 0.0) -> dict:
        moved = scale * samples + shift
        return quality_spread.judge(moved, real, valid, variances, (1, 3))["3"]

    right = judged(1.0)
    assert right["coverage"] == pytest.approx(quality_spread.NOMINAL, abs=0.01)
    assert right["crps"] == pytest.approx(1 / np.sqrt(np.pi), abs=0.02)
    assert judged(0.5)["coverage"] < 0.7
    assert judged(2.0)["coverage"] > 0.98
    below, above = judged(1.0, shift=1.0)["outside"]
    assert below > 4 * above
    assert judged(0.5)["crps"] > right["crps"]
    assert judged(2.0)["crps"] > right["crps"]


def test_rows_that_do_not_exist_are_not_judged():
    variances = measure_variances(ObsSpec.of(1), [make_episode(np.arange(9.0)[:, None])])
    samples = np.zeros((2, quality_spread.SAMPLES, 1, 1))
    real = np.array([0.0, 5.0]).reshape(2, 1, 1)
    valid = np.array([[True], [False]])
    judged = quality_spread.judge(samples, real, valid, variances, (1,))["1"]
    assert judged["coverage"] == 1.0
    assert judged["crps"] == 0.0


# --- rows -----------------------------------------------------------------------------------------


def test_hidden_columns_are_gone_and_the_others_noisy():
    episodes = linear_episodes(30, 50, 0)
    hidden = hide(episodes, "obs", [1], np.array([0.3]), np.random.default_rng(0))
    (key,) = hidden[0].obs
    assert key == ObsSpec.of(1).entries[0].key
    error = np.concatenate(
        [h.obs[key][:, 0] - e.obs["obs"][:, 1] for h, e in zip(hidden, episodes, strict=True)]
    )
    assert error.std() == pytest.approx(0.3, rel=0.1)
    assert abs(error.mean()) < 0.03
    np.testing.assert_array_equal(hidden[3].action, episodes[3].action)


def test_a_world_with_columns_after_an_at_shows_only_these():
    rules = Rules(rows=400, heldout_rows=210, validation_rows=210)
    data = quality.gather("Pendulum-v1@0,1", 3, rules)
    assert data.obs_spec == ObsSpec.of(2)
    radius = np.concatenate([(e.obs["obs"] ** 2).sum(1) for e in data.training])
    assert 0 < np.abs(radius - 1).mean() < 4 * NOISE  # cos and sin, a little off the circle
    first = [part[0].obs["obs"][0].tolist() for part in (data.training, data.validation, data.held)]
    assert len({tuple(row) for row in first}) == 3


def test_where_most_episodes_end_at_once_the_ones_that_reach_ten_steps_are_judged():
    short, long = linear_episodes(9, 6, 0), linear_episodes(3, 14, 1)
    assert reaching([*short, *long], Rules()) == long
    assert reaching(long, Rules()) == long
    assert reaching(short, Rules()) == short


# --- the command ----------------------------------------------------------------------------------


def _run(tmp_path, *words: str) -> int:
    small = ("--updates", "2", "--rows", "300", "--heldout-rows", "210", "--windows", "20")
    place = ("--seeds", "0", "--rates", "1e-3", "--out", str(tmp_path))
    return quality.main([*words, *small, *place])


def test_the_command_measures_goes_on_and_tells(tmp_path, capsys):
    world = ("--worlds", "Pendulum-v1")
    assert _run(tmp_path, *world, "--only-peers") == 0
    names = {path.name for path in tmp_path.glob("*.json")}
    peers = set(quality.MODELS) - {quality.OURS, quality.EXACT}  # all is seen: nothing to infer
    assert names == {f"quality-Pendulum-v1-{m}-s0.json" for m in peers}
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert "geometric mean" not in capsys.readouterr().out

    assert _run(tmp_path, *world) == 0
    assert {path: path.stat().st_mtime_ns for path in written} == written
    page = capsys.readouterr().out
    ours = json.loads((tmp_path / "quality-Pendulum-v1-ours-s0.json").read_text())
    error = ours["evaluation"]["paths"][0]["nrmse"][9]
    rival = json.loads((tmp_path / "quality-Pendulum-v1-gru-s0.json").read_text())
    theirs = rival["evaluation"]["paths"][0]["nrmse"][9]
    row = next(line for line in page.splitlines() if line.startswith("| **geometric mean** | mode"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert float(cells[4]) == pytest.approx(error / theirs, rel=0.01)
    assert set(ours["calibration"]) == {"1", "5", "10", "15"}
    assert (tmp_path / "quality.md").read_text().strip() in page

    before = ours["software"]["commit"], (tmp_path / "quality-Pendulum-v1-ours-s0.json").stat()
    assert _run(tmp_path, *world, "--only-ours", "--afresh") == 0
    assert (tmp_path / "quality-Pendulum-v1-ours-s0.json").stat().st_mtime_ns > before[
        1
    ].st_mtime_ns
    assert {path: path.stat().st_mtime_ns for path in written} == written


# --- the table ------------------------------------------------------------------------------------


class Shifted:
    """Persistence that is off by `shift`."""

    def __init__(self, name: str, shift: float) -> None:
        self.name, self._shift = name, shift

    def fit(self, episodes):
        return self

    def predict(self, obs, action, reward, future) -> Forecast:
        held = {k: np.repeat(v[:, -1:], future.shape[1], 1) + self._shift for k, v in obs.items()}
        return Forecast(held, np.zeros(future.shape[:2]))


def _result(world: str, model: str, seed: int, shift: float) -> dict:
    still = [make_episode(np.tile(np.array([[i, -i]], float), (60, 1))) for i in range(4)]
    name = "mode" if model == "ours" else model
    evaluation = evaluate_predictors(ObsSpec.of(2), [Shifted(name, shift)], still)
    return {
        "part": "quality",
        "world": world,
        "preset": model,
        "seed": seed,
        "settings": {},
        "software": {"commit": "abc"},
        "evaluation": evaluation.to_json(),
        "wall_seconds": 1.0,
        "cpu_seconds": 1.0,
    }


def test_ratios_are_geometric_means_over_worlds_and_the_best_peer_is_named():
    found = [
        _result(world, model, seed, shift)
        for seed in (0, 1)
        for world, shifts in {
            "A-v1": {"ours": 0.2, "ridge": 0.4, "ensemble": 0.1},
            "B-v1": {"ours": 0.2, "ridge": 0.1, "ensemble": 0.8},
        }.items()
        for model, shift in shifts.items()
    ]
    page = quality_table.page(found, Rules().to_json())
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if "| mode |" in line
    ]
    assert rows[0] == ["A-v1", "mode", *["2.00 [2.00, 2.00]"] * 2, "ensemble"]
    assert rows[1][2:] == ["0.250 [0.250, 0.250]", "2.00 [2.00, 2.00]", "ridge"]
    middle = 0.5**0.5  # of 2 and 1/4
    assert rows[2][0] == "**geometric mean**"
    assert float(rows[2][2].split(" ")[0]) == pytest.approx(middle, rel=0.01)
    assert rows[3][:4] == ["worst world", "mode", "2.00", "2.00"]
