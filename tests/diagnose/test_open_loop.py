from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
import torch
from rich.console import Console
from tests.diagnose.helpers import A, LinearModel, linear_episodes, make_episode

from bb_wm.diagnose import evaluate
from bb_wm.diagnose.baselines import Persistence
from bb_wm.diagnose.evaluation import Evaluation
from bb_wm.diagnose.open_loop import evaluate_predictors, forecast, imagine, imagine_samples
from bb_wm.diagnose.windows import cut_windows
from bb_wm.errors import ConfigError
from bb_wm.types import Episode, ObsSpec


def test_a_perfect_model_has_no_error_and_the_linear_baseline_neither():
    train, held = linear_episodes(8, 60, 0), linear_episodes(8, 60, 1)
    result = evaluate(LinearModel(), held, training=train)
    assert max(result.path("mode").nrmse) < 1e-5
    assert max(result.path("mode").reward_nrmse) < 1e-5
    assert result.reconstruction == 0.0
    assert result.path("ridge ARX(10)").nrmse[9] < 1e-4
    assert result.path("persistence").nrmse[9] > 0.5
    assert result.kl == 0.25  # two variables at 0.125; the first row of a window does not count
    assert (result.context, result.horizons) == (10, (1, 5, 10, 15))


def test_a_wrong_model_has_the_error_of_the_law_it_believes():
    # with no actions and no noise a model with matrix 0 predicts 0: MSE_k = E x_{t+k}^2
    held = [
        make_episode(episode.obs["obs"], np.zeros((60, 2))) for episode in linear_episodes(6, 60, 2)
    ]
    model = LinearModel(matrix=np.zeros((2, 2)))
    result = evaluate(model, held, baselines=[], windows=None)
    cut = cut_windows(held, context=10, reach=15, count=None, seed=0)
    rows = np.concatenate([e.obs["obs"] for e in held]).astype(np.float64)
    for k in (1, 15):
        valid = cut.target_valid[:, k - 1]
        seen = cut.obs["obs"][valid, 9 + k].astype(np.float64)
        theory = np.sqrt(np.mean((seen**2).mean(0) / rows.var(0)))
        assert result.nrmse("mode", k) == pytest.approx(theory, rel=1e-5)


def test_actions_reach_the_rows_they_lead_to():
    # shifting the model's actions by one row must show: the windows hand over the right ones
    held = linear_episodes(4, 40, 3)

    class Late(LinearModel):
        def rollout(self, latent, policy, horizon=None, *, mode="mode", generator=None):
            return super().rollout(
                latent, policy.roll(1, dims=-2), horizon, mode=mode, generator=generator
            )

    assert evaluate(Late(), held, baselines=[]).nrmse("mode", 1) > 0.2
    assert evaluate(LinearModel(), held, baselines=[]).nrmse("mode", 1) < 1e-5


def test_every_mode_is_asked_for_and_unknown_ones_refused():
    model = LinearModel()
    held = linear_episodes(4, 40, 3)
    result = evaluate(model, held, baselines=[], modes=("shortcut", "sample", "mode"))
    assert [path.name for path in result.paths] == ["shortcut", "sample", "mode"]
    assert model.asked == ["shortcut", "sample", "mode"]
    with pytest.raises(ConfigError):
        evaluate(model, held, modes=("best",))


def test_the_mean_of_samples_errs_by_the_law_of_large_numbers():
    # spread s per step: the mean of 16 samples after one step errs by s / 4 in each dimension
    held = linear_episodes(10, 60, 4)
    result = evaluate(LinearModel(spread=0.4), held, baselines=[], modes=("sample",), windows=None)
    rows = np.concatenate([e.obs["obs"] for e in held]).astype(np.float64)
    theory = 0.1 * np.sqrt(np.mean(1 / rows.var(axis=0)))
    assert result.nrmse("sample", 1) == pytest.approx(theory, rel=0.06)
    cut = cut_windows(held, context=10, reach=3, count=40, seed=0)
    samples = imagine_samples(LinearModel(spread=0.4), cut, count=300, seed=1)["obs"]
    assert samples.shape == (40, 300, 3, 2)
    assert samples[:, :, 0].std(axis=1).mean() == pytest.approx(0.4, rel=0.02)


def test_evaluating_is_repeatable_and_disturbs_no_generator():
    held = linear_episodes(4, 40, 5)
    torch.manual_seed(7)
    np.random.seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    one, two = (
        evaluate(LinearModel(spread=0.1), held, modes=("sample",), windows=50, seed=3)
        for _ in range(2)
    )
    assert one.to_json() | {"seconds": 0} == two.to_json() | {"seconds": 0}
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    other = evaluate(LinearModel(spread=0.1), held, modes=("sample",), windows=50, seed=4)
    assert other.path("sample").nrmse != one.path("sample").nrmse


def crossing_episodes(count: int, seed: int) -> list[Episode]:
    """Linear episodes whose risk is 1 where x[0] > 1, and which end there."""
    kept = []
    for episode in linear_episodes(count, 40, seed):
        x = episode.obs["obs"]
        over = np.flatnonzero(x[1:, 0] > 1.5)
        rows = int(over[0]) + 2 if over.size else 40
        if rows < 6:
            continue
        safety = np.zeros(rows)
        safety[-1] = float(over.size > 0)
        action = episode.action[:rows].copy()
        action[-1] = 0
        kept.append(make_episode(x[:rows], action, safety=safety, terminated=over.size > 0))
    return kept


def test_risk_and_end_foreseen_by_one_who_knows_them():
    held = crossing_episodes(60, 0)
    over = lambda x: (x[..., 0] > 1.5).float()  # noqa: E731
    result = evaluate(LinearModel(risk=over, ending=over), held, baselines=[], windows=None)
    risk = result.path("mode").risk
    assert risk is not None
    assert 0.05 < result.event_rate[9] < 0.95
    assert all(value == 1.0 for value in risk.auroc)
    assert max(risk.rmse) == 0.0
    assert risk.brier == 0.0
    assert result.brier_reference > 0.005


def test_one_who_cannot_tell_risk_ranks_it_by_chance():
    result = evaluate(LinearModel(), crossing_episodes(60, 0), baselines=[], windows=None)
    risk = result.path("mode").risk
    assert risk is not None
    assert set(risk.auroc) == {0.5}
    alive = 1 - result.brier_reference  # p(1-p) with p near 1
    assert risk.brier == pytest.approx(1 - (1 + math.sqrt(4 * alive - 3)) / 2, rel=1e-6)


def test_worlds_without_risk_have_no_ranking():
    result = evaluate(LinearModel(), linear_episodes(4, 40, 0))
    risk = result.path("mode").risk
    assert risk is not None
    assert all(math.isnan(value) for value in risk.auroc)
    assert "AUROC" in result.table()


def test_broken_predictions_are_infinitely_wrong_not_dropped():
    class Broken(LinearModel):
        def imagined_obs(self, trajectory):
            values = trajectory.latents.h.clone()
            values[0, 3:] = float("nan")
            return {"obs": values}

    result = evaluate(Broken(), linear_episodes(4, 40, 0))
    assert result.nrmse("mode", 1) < 1e-5
    assert result.nrmse("mode", 10) == math.inf
    again = Evaluation.from_json(result.to_json())
    assert again.nrmse("mode", 10) == math.inf
    assert "inf" in result.table()


def test_predictors_alone_get_the_same_windows_as_beside_a_model():
    held = linear_episodes(5, 50, 6)
    beside = evaluate(LinearModel(), held, baselines=[Persistence()], windows=40, seed=2)
    alone = evaluate_predictors(ObsSpec.of(2), [Persistence()], held, windows=40, seed=2)
    assert alone.path("persistence") == beside.path("persistence")
    assert alone.counts == beside.counts


def test_imagining_in_chunks_changes_nothing(monkeypatch):
    held = linear_episodes(3, 40, 7)
    cut = cut_windows(held, context=4, reach=5, count=None, seed=0)
    whole = imagine(LinearModel(), cut)
    monkeypatch.setattr("bb_wm.diagnose.open_loop._CHUNK", 7)
    pieces = imagine(LinearModel(), cut)
    assert np.array_equal(whole.forecast.obs["obs"], pieces.forecast.obs["obs"])
    assert np.array_equal(whole.discount, pieces.discount)


def test_persistence_forecast_repeats_the_last_seen_row():
    cut = cut_windows(linear_episodes(2, 20, 8), context=3, reach=4, count=5, seed=0)
    held = forecast(Persistence(), cut)
    assert np.array_equal(held.obs["obs"][:, 3], cut.obs["obs"][:, 2])
    assert np.array_equal(held.reward[:, 0], cut.reward[:, 2])


def test_the_table_reads_the_same_in_every_form():
    held = linear_episodes(6, 60, 1)
    result = evaluate(LinearModel(matrix=0.9 * A), held, training=linear_episodes(6, 60, 0))
    text, markdown = result.table(), result.table("markdown")
    assert text.startswith("At 10 steps the model's error is ")
    assert " of persistence and " in text
    shown = f"{result.nrmse('mode', 10):.3g}"
    assert shown in text
    assert shown in markdown
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(result.rich())
    assert shown in console.export_text()


def test_evaluations_survive_json_exactly():
    result = evaluate(LinearModel(matrix=0.9 * A), linear_episodes(6, 60, 1))
    text = json.dumps(result.to_json(), allow_nan=False)
    again = Evaluation.from_json(json.loads(text))
    assert json.dumps(again.to_json(), allow_nan=False) == text
    assert again.path("mode").nrmse == result.path("mode").nrmse
    damaged = json.loads(text)
    del damaged["paths"]
    with pytest.raises(ValueError):
        Evaluation.from_json(damaged)
    with pytest.raises(ValueError):
        Evaluation.from_json({**json.loads(text), "format": 99})
