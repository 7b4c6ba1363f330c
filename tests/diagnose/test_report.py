"""A whole diagnosis of a real model: every line of section 6, kept as JSON and brought back."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from tests.diagnose.helpers import linear_episodes

from bb_wm.config import GRU, Categorical, Gaussian, WorldModelConfig
from bb_wm.decide import Ledger
from bb_wm.diagnose import Report, diagnose
from bb_wm.diagnose.diagnosis import glance
from bb_wm.errors import DataError, PathError, VersionError
from bb_wm.rssm import WorldModel
from bb_wm.rssm.divergence import kl_by_horizon
from bb_wm.testing.worlds import LineWorld

SMALL = WorldModelConfig(
    core=GRU(16), latent=Gaussian(4), hidden=16, head_hidden=8, features=8, budget=None
)


@pytest.fixture(scope="module")
def report() -> Report:
    return diagnose(
        WorldModel(2, 2, SMALL),
        linear_episodes(10, 60, 1, noise=0.1),
        training=linear_episodes(10, 60, 0, noise=0.1),
        windows=80,
    )


def batch_of(rows: int, seed: int) -> dict:
    draw = np.random.default_rng(seed)
    first = np.zeros((5, rows), bool)
    first[:, 0] = True
    return {
        "obs": draw.standard_normal((5, rows, 2)).astype(np.float32),
        "action": draw.uniform(-1, 1, (5, rows, 2)).astype(np.float32),
        "reward": np.zeros((5, rows), np.float32),
        "terminated": np.zeros((5, rows), bool),
        "is_first": first,
    }


@pytest.mark.parametrize("latent", [Gaussian(4), Categorical(4, 8)])
def test_one_step_ahead_the_kl_by_horizon_is_the_models_own_kl(latent):
    model = WorldModel(2, 2, dataclasses.replace(SMALL, latent=latent))
    batch = batch_of(7, 0)
    ahead = kl_by_horizon(model, batch, 3)
    own = model.kl(batch).sum(-1)
    assert ahead.shape == (5, 4)
    torch.testing.assert_close(ahead[:, 0], own[:, 3])
    assert not torch.allclose(ahead[:, 2], own[:, 5])  # two rows imagined in between
    assert (ahead >= -1e-6).all()


def test_the_report_holds_every_line_of_section_six(report):
    kept = report.measured
    assert len(kept.beliefs.reconstruction) == 10  # reconstruction, by row read
    assert len(kept.beliefs.kl_by_row) == 10  # KL: per step,
    assert len(kept.beliefs.kl_by_variable) == 4  # per variable,
    assert len(kept.beliefs.kl_by_horizon) == 15  # and by horizon
    one_step = kept.beliefs.kl_by_horizon[0]
    assert one_step == pytest.approx(kept.beliefs.kl_by_row[-1], rel=0.6)
    assert sum(kept.beliefs.kl_by_variable) == pytest.approx(
        float(np.mean(kept.beliefs.kl_by_row[1:]))
    )
    names = [path.name for path in report.evaluation.paths]
    assert "persistence" in names  # rollout error, persistence beside it
    assert kept.reward.count == 10 * 59
    assert sum(b.count for b in kept.risk.curve.bins) == 10 * 59  # reliability bins
    assert kept.delta_risk.count > 0
    assert kept.actions.shuffled.known
    assert {t.horizon for t in kept.latency.timings} >= {1, 5, 10, 15}
    assert len(report.smells) == 7


def test_a_report_is_the_same_after_json(report, tmp_path):
    path = tmp_path / "report.json"
    report.save(path)
    again = Report.load(path)
    assert again.to_json() == report.to_json()
    assert again.smells == report.smells
    assert again.table() == report.table()


def test_how_far_may_be_trusted_is_kept_and_reports_of_before_load(report):
    from bb_wm.diagnose.trusted import Trusted, fit_trust
    from bb_wm.rssm import WorldModel

    model, held = WorldModel(2, 2, SMALL), linear_episodes(10, 60, 1, noise=0.1)
    trust, told = fit_trust(model, held)
    assert told.reach == trust.reach
    assert sum(told.shares) == pytest.approx(1.0)
    assert told.promised == math.isfinite(trust.caution)
    assert (told.mean == 0) or told.promised  # without a promise nothing is trusted
    kept = dataclasses.replace(report, trusted=told)
    assert Report.from_json(json.loads(json.dumps(kept.to_json()))).trusted == told
    assert told.sentence() in kept.table()
    old = report.to_json()
    del old["trusted"]
    assert Report.from_json(old).trusted is None
    none, lacking = fit_trust(model, held[:2])
    assert none is None
    assert lacking == Trusted(lacking=lacking.lacking)
    assert "at least 4" in lacking.sentence()


def test_a_report_from_elsewhere_is_refused_by_name(report, tmp_path):
    plain = report.to_json()
    path = tmp_path / "report.json"
    cases = [
        ({**plain, "kind": "something"}, DataError),
        ({**plain, "format": 99}, VersionError),
        ({**plain, "smells": [{"name": "x"}]}, DataError),
        ({**plain, "smells": None}, DataError),
        ({**plain, "measured": {**plain["measured"], "ahead": "os.system"}}, DataError),
        ({k: v for k, v in plain.items() if k != "evaluation"}, DataError),
    ]
    for broken, kind in cases:
        path.write_text(json.dumps(broken))
        with pytest.raises(kind):
            Report.load(path)
    path.write_bytes(b"\x80\x04\x95")  # a pickle's beginning
    with pytest.raises(DataError):
        Report.load(path)


def test_the_tables_show_smells_first_and_name_what_was_measured(report):
    text = report.table()
    for words in (
        "Smells",
        "Rollout error",
        "KL by rows imagined",
        "reward, in its row",
        "Delta V_s over 10 rows",
        "Risk by predicted risk",
        "shuffled",
        "One rollout in ms",
        "persistence",
    ):
        assert words in text
    assert report.tables()[0].title == "Smells"
    assert "**Smells**" in report.table("markdown")
    with pytest.raises(DataError):
        report.table("html")
    assert str(report) == text


def test_diagnosing_changes_nothing_and_says_the_same_again(report):
    model = WorldModel(2, 2, SMALL)
    before = {name: value.clone() for name, value in model.state_tensors().items()}
    stream = torch.get_rng_state()
    episodes = linear_episodes(10, 60, 1, noise=0.1)
    first, again = (
        diagnose(model, episodes, windows=40, latency=False, probe=False) for _ in range(2)
    )
    after = model.state_tensors()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(stream, torch.get_rng_state())
    assert first.to_json() | {"seconds": 0} == again.to_json() | {"seconds": 0} or _close(
        first, again
    )


def _close(first: Report, again: Report) -> bool:
    """Equal but for the evaluation's own seconds."""
    one, two = first.to_json(), again.to_json()
    return one["measured"] == two["measured"] and one["smells"] == two["smells"]


def test_a_simulator_adds_the_planning_effort():
    world = LineWorld(length=30)
    model = WorldModel(world.observation_space, world.action_space, SMALL)
    from bb_wm.data import collect

    found = diagnose(
        model,
        collect(world, rows=300, seed=0),
        simulator=lambda: LineWorld(length=30),
        windows=40,
        latency=False,
        probe=False,
    )
    effort = found.measured.effort
    assert effort is not None
    assert effort.starts == 24
    assert [row.candidates for row in effort.rows] == [1, 32, 512]
    assert "Planning effort" in found.table()
    assert found.smell("reward hacking").numbers["worst_start"] >= 0


def test_a_ledger_adds_the_asking(tmp_path):
    path = tmp_path / "ledger.sqlite"
    Ledger(path, durable=False).close()
    model, episodes = WorldModel(2, 2, SMALL), linear_episodes(10, 40, 1)
    found = diagnose(model, episodes, ledger=path, windows=40, latency=False, probe=False)
    assert found.measured.asking is not None
    assert found.measured.asking.open == 0
    assert found.smell("EVSI helplessness or hubris").status == "not enough evidence"
    with pytest.raises(PathError):
        diagnose(model, episodes, ledger=tmp_path / "none", windows=40, latency=False, probe=False)


def test_without_rows_nothing_is_said():
    with pytest.raises(DataError) as caught:
        diagnose(WorldModel(2, 2, SMALL), [])
    assert caught.value.field == "data"


def test_too_few_rows_are_not_taken_for_health():
    found = diagnose(WorldModel(2, 2, SMALL), linear_episodes(1, 30, 1), latency=False, probe=False)
    assert {smell.status for smell in found.smells} == {"not enough evidence"}


def test_a_glance_judges_the_four_that_rows_alone_can_show():
    smells = glance(WorldModel(2, 2, SMALL), linear_episodes(10, 60, 1))
    assert {smell.name for smell in smells} == {
        "posterior collapse",
        "rollout drift",
        "safety blind spots",
        "action misalignment",
    }
    short = dataclasses.replace(SMALL, horizon=2, max_horizon=2)
    assert len(glance(WorldModel(2, 2, short), linear_episodes(10, 60, 1))) == 4


def test_seven_smells_are_in_the_words_of_the_report(report):
    for smell in report.smells:
        assert smell.reason
        assert smell.advice
        assert smell.sentence().startswith(smell.name)
        assert all(isinstance(value, float) for value in smell.numbers.values())
        assert math.isfinite(smell.threshold)
    with pytest.raises(KeyError, match="rollout drift"):
        report.smell("rollout drifts")
