"""The front door: the document's section 4, on every core and family, and what it promises."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tests.model.builders import IDS, PAIRS, small_batch, small_config

from bb_wm.config import WorldModelConfig
from bb_wm.errors import BBWMError, CheckpointError, HorizonError
from bb_wm.model.cores import Core
from bb_wm.model.stochastic import Stochastic
from bb_wm.protocols import Dynamics, Observer
from bb_wm.rssm import WorldModel
from bb_wm.types import Latent

every_pair = pytest.mark.parametrize(("core", "family"), PAIRS, ids=IDS)
MODES = ("mode", "sample", "shortcut")


def small_model(core: Core = PAIRS[0][0], family: Stochastic = PAIRS[0][1]) -> WorldModel:
    return WorldModel(3, 2, small_config(core, family))


def zero_policy(latent: Latent) -> torch.Tensor:
    return latent.h.new_zeros(*latent.batch_shape, 2)


def digest(model: WorldModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_tensors().items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert different == []


def test_the_documents_section_4_as_printed() -> None:
    obs_shape, action_dim = 3, 2
    batch, policy = small_batch(16, 16), zero_policy
    obs = np.zeros(3, np.float32)

    from bb_wm.rssm import WorldModel

    wm = WorldModel(obs_shape, action_dim)

    # training step
    loss, metrics = wm.update(batch)

    # rollout
    latent = wm.encode(obs)
    traj = wm.rollout(latent, policy, horizon=10)

    assert isinstance(loss, float)
    assert metrics["kl_raw"] >= 0.0
    assert traj.reward.shape == (10,)
    assert wm.predict_reward(latent).shape == ()
    assert float(wm.predict_safety(latent)) >= 0.0


@every_pair
def test_every_core_and_family_trains_filters_rolls_saves_and_loads(
    core: Core, family: Stochastic, tmp_path: Path
) -> None:
    model, batch = small_model(core, family), small_batch()
    before = digest(model)
    model.update(batch)
    moved = [n for n, t in digest(model).items() if not torch.equal(t, before[n])]
    assert any(name.startswith("parameter/") for name in moved)
    filtered = model.filter(batch)
    assert filtered.batch_shape == (4, 8)
    for mode in MODES:
        trajectory = model.rollout(filtered, zero_policy, 4, mode=mode)  # type: ignore[arg-type]
        assert trajectory.reward.shape == (4, 8, 4)
        assert model.imagined_obs(trajectory)["obs"].shape == (4, 8, 4, 3)
        assert bool((trajectory.safety >= 0).all())
        assert bool(((trajectory.continuation >= 0) & (trajectory.continuation <= 1)).all())
    model.save(tmp_path / "m")
    loaded = WorldModel.load(tmp_path / "m")
    assert_same(digest(model), digest(loaded))
    assert model.update(batch) == loaded.update(batch)  # and goes on bit for bit
    assert_same(digest(model), digest(loaded))


@every_pair
@pytest.mark.parametrize("mode", MODES)
def test_a_short_rollout_is_the_prefix_of_a_long_one(
    core: Core, family: Stochastic, mode: str
) -> None:
    model = small_model(core, family)
    model.update(small_batch())
    latent = model.encode(np.ones((2, 3), np.float32))
    actions = torch.randn(2, 10, 2)

    def imagine(horizon: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(3)
        # The same noise for both: one draw per row of the longer one, in the same order.
        return model.rollout(
            latent,
            actions[:, :horizon],
            mode=mode,
            generator=generator,  # type: ignore[arg-type]
        ).latents.h

    if mode == "sample":
        noise = torch.randn(2, 10, model.noise_size)
        from bb_wm.imagine.rollout import rollout

        long = rollout(model, latent, actions, 10, noise=noise).latents.h
        short = rollout(model, latent, actions[:, :5], 5, noise=noise[:, :5]).latents.h
    else:
        long, short = imagine(10), imagine(5)
    assert torch.equal(long[:, :5], short)
    assert not torch.allclose(long[:, 9], long[:, 4])


@every_pair
def test_encode_continues_a_belief_as_the_filter_does(core: Core, family: Stochastic) -> None:
    model, batch = small_model(core, family), small_batch()
    model.update(batch)
    filtered = model.filter(batch)
    latent = model.encode(batch.obs["obs"][:, 0])
    for t in range(8):
        torch.testing.assert_close(latent.h, filtered.h[:, t], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(latent.z, filtered.z[:, t], atol=1e-5, rtol=1e-5)
        if t < 7:
            obs, action = batch.obs["obs"][:, t + 1].numpy(), batch.action[:, t].numpy()
            latent = model.encode(obs, latent, action)


def test_single_rows_and_batches_agree_and_numpy_equals_tensor() -> None:
    model = small_model()
    model.update(small_batch())
    obs = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    whole = model.encode(obs)
    for row in range(5):
        one = model.encode(torch.from_numpy(obs[row]))
        torch.testing.assert_close(one.h, whole.h[row], atol=1e-6, rtol=1e-5)


def test_candidates_share_a_latent() -> None:
    model = small_model()
    latent = model.encode(np.zeros((4, 3), np.float32))
    actions = torch.randn(4, 6, 5, 2)
    whole = model.rollout(latent, actions)
    assert whole.reward.shape == (4, 6, 5)
    alone = model.rollout(latent, actions[:, 2])
    torch.testing.assert_close(whole.reward[:, 2], alone.reward, atol=1e-6, rtol=1e-5)


def test_it_answers_the_protocols() -> None:
    model = small_model()
    assert isinstance(model, Observer)
    assert isinstance(model.shortcut, Dynamics)
    latent = model.encode(np.zeros((4, 3), np.float32))
    noise = torch.randn(4, model.obs_noise_size)
    obs = model.imagine_obs(latent, noise)
    assert model.condition(latent, obs).h.equal(latent.h)
    assert model.log_likelihood(latent, obs).shape == (4,)


def test_outcomes_in_one_pass_are_the_three_predictions() -> None:
    model = small_model()
    model.update(small_batch())
    latent = model.filter(small_batch())
    for dynamics in (model, model.shortcut):
        reward, safety, goes_on = dynamics.predict_outcomes(latent)
        torch.testing.assert_close(reward, dynamics.predict_reward(latent))
        torch.testing.assert_close(safety, dynamics.predict_safety(latent))
        torch.testing.assert_close(goes_on, dynamics.predict_continue(latent))


def test_a_rollout_hears_a_prediction_that_was_overridden() -> None:
    class Timid(WorldModel):
        def predict_safety(self, latent: Latent) -> torch.Tensor:
            return torch.full(latent.batch_shape, 7.0)

    plain = small_model()
    timid = Timid(3, 2, plain.config)
    latent = timid.encode(np.zeros((2, 3), np.float32))
    for mode in ("mode", "shortcut"):
        assert (timid.rollout(latent, zero_policy, 3, mode=mode).safety == 7.0).all()
    plain.predict_safety = timid.predict_safety  # type: ignore[method-assign]
    assert (plain.rollout(latent, zero_policy, 3).safety == 7.0).all()


def test_a_state_of_another_kind_of_device_is_taken_but_for_its_chance() -> None:
    """A GPU's generator has a state of another size."""
    model, other = small_model(), small_model()
    model.update(small_batch())
    state = {k: v.clone() for k, v in model.state_tensors().items()}
    for name in ("generator/learning", "generator/imagining"):
        state[name] = torch.zeros(16, dtype=torch.uint8)
    other.load_state_tensors(state)
    assert other.updates == 1
    latent = model.encode(np.zeros(3, np.float32))
    assert torch.equal(latent.h, other.encode(np.zeros(3, np.float32)).h)


@every_pair
def test_posterior_statistics_say_which_posterior_it_is(core: Core, family: Stochastic) -> None:
    """They are those of the parameters that the filter itself used."""
    model, batch = small_model(core, family), small_batch()
    model.update(batch)
    latent = model.filter(batch)
    rssm = model._rssm
    walk = rssm.filter(rssm.look(batch.obs), batch.action, batch.is_first, None)
    told = model.posterior_statistics(latent, batch.obs)
    torch.testing.assert_close(told, family.statistics(walk.posterior), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(told[0], told[1])


def test_the_likelihood_is_highest_at_its_own_mode() -> None:
    model = small_model()
    model.update(small_batch())
    latent = model.encode(np.zeros((4, 3), np.float32))
    best = model.imagine_obs(latent)
    top = model.log_likelihood(latent, best)
    for _ in range(5):
        other = {"obs": best["obs"] + 0.1 * torch.randn(4, 3)}
        assert bool((model.log_likelihood(latent, other) < top).all())


def test_a_shortcut_from_an_imagined_latent_decodes_first() -> None:
    model = small_model()
    model.update(small_batch())
    imagined = model.rollout(model.encode(np.zeros((2, 3), np.float32)), zero_policy, 3)
    last = imagined.latents[:, -1]
    assert last.sight.shape[-1] == 0
    trajectory = model.rollout(last, zero_policy, 2, mode="shortcut")
    assert model.imagined_obs(trajectory)["obs"].shape == (2, 2, 3)


def test_imagining_and_saving_never_change_what_is_learnt(tmp_path: Path) -> None:
    plain, busy = small_model(), small_model()
    batch = small_batch()
    outside = torch.random.get_rng_state()
    for step in range(3):
        plain.update(batch)
        busy.rollout(busy.encode(np.zeros(3, np.float32)), zero_policy, 4, mode="sample")
        busy.filter(batch)
        busy.loss(batch)
        busy.save(tmp_path / str(step))
        busy.update(batch)
    a, b = digest(plain), digest(busy)
    del a["generator/imagining"], b["generator/imagining"]
    assert_same(a, b)
    assert torch.equal(outside, torch.random.get_rng_state())  # the caller's randomness is his own


def test_a_number_that_breaks_inside_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A NaN born in the loss, and one born in the backward pass: both steps are skipped."""
    from bb_wm.rssm import world_model

    real = world_model.evaluate_terms
    for poison in (lambda x: x * float("nan"), lambda x: torch.sqrt(x * 0.0) + x):
        model, batch = small_model(), small_batch()
        model.update(batch)
        before = digest(model)

        def broken(*args: object, poison: object = poison, **kwargs: object) -> object:
            from dataclasses import replace

            terms = real(*args, **kwargs)  # type: ignore[arg-type]
            return replace(terms, total=poison(terms.total))  # type: ignore[operator]

        monkeypatch.setattr(world_model, "evaluate_terms", broken)
        _, metrics = model.update(batch)
        assert metrics["skipped"] == 1.0
        after = digest(model)
        for name in ("generator/learning", "updates"):
            del before[name], after[name]
        assert_same(before, after)
        monkeypatch.setattr(world_model, "evaluate_terms", real)
        _, metrics = model.update(batch)
        assert metrics["skipped"] == 0.0


def test_rich_spaces_from_gymnasium() -> None:
    obs = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (16, 16, 3), np.uint8),
            "joints": spaces.Box(-1, 1, (2, 2)),
            "mode": spaces.Discrete(3),
        }
    )
    action = spaces.Dict({"what": spaces.Discrete(4), "where": spaces.Box(-1, 1, (2,))})
    config = small_config(*PAIRS[0], features=8)
    model = WorldModel(obs, action, config)
    generator = np.random.default_rng(0)
    batch = {
        "obs": {
            "camera": generator.integers(0, 256, (2, 5, 16, 16, 3)).astype(np.uint8),
            "joints": generator.standard_normal((2, 5, 2, 2)).astype(np.float32),
            "mode": generator.integers(0, 3, (2, 5)),
        },
        "action": model.action_spec.sample(generator, 10).reshape(2, 5, 6),
        "reward": generator.standard_normal((2, 5)).astype(np.float32),
        "terminated": np.zeros((2, 5), bool),
    }
    loss, metrics = model.update(batch)
    assert np.isfinite(loss)
    assert metrics["skipped"] == 0.0
    latent = model.encode({key: value[:, 0] for key, value in batch["obs"].items()})  # type: ignore[attr-defined]
    native = {"what": np.array([0, 3]), "where": np.zeros((2, 2), np.float32)}
    latent = model.encode({k: v[:, 1] for k, v in batch["obs"].items()}, latent, native)  # type: ignore[attr-defined]
    trajectory = model.rollout(latent, torch.zeros(2, 3, 6), mode="shortcut")
    seen = model.imagined_obs(trajectory)
    assert {key: tuple(value.shape) for key, value in seen.items()} == {
        "camera": (2, 3, 16, 16, 3),
        "joints": (2, 3, 2, 2),
        "mode": (2, 3, 1),
    }


def test_action_masks_are_learnt_and_asked() -> None:
    config = small_config(
        *PAIRS[0], action_mask=True, learning_rate=1e-2, warmup=0, clip=0.0, average=0.0
    )
    model = WorldModel(3, spaces.Discrete(3), config)
    batch = small_batch(4, 8)
    mask = np.ones((4, 8, 3), bool)
    mask[..., 2] = False
    raw = {
        "obs": batch.obs["obs"],
        "action": np.zeros((4, 8), np.int64),
        "reward": batch.reward,
        "terminated": batch.terminated,
        "action_mask": mask,
    }
    for _ in range(60):
        model.update(raw)
    available = model.predict_action_mask(model.encode(np.zeros(3, np.float32)))
    assert float(available[2]) < 0.4 < 0.6 < float(available[0])
    with pytest.raises(BBWMError):  # an action that was not available cannot have been done
        model.update({**raw, "action": np.full((4, 8), 2)})


def test_learning_through_imagination_reaches_the_policy_and_not_the_model() -> None:
    model = small_model()
    latent = model.encode(np.zeros((2, 3), np.float32))
    actions = torch.zeros(2, 4, 2, requires_grad=True)
    model.rollout(latent, actions).reward.sum().backward()
    before = digest(model)
    assert actions.grad is not None
    assert_same(before, digest(model))


def test_the_horizon_is_bounded_by_what_the_model_was_set_up_for() -> None:
    model = small_model()
    latent = model.encode(np.zeros(3, np.float32))
    assert model.rollout(latent, zero_policy).horizon == 10
    with pytest.raises(HorizonError, match="max_horizon"):
        model.rollout(latent, zero_policy, 16)


def test_a_small_batch_is_told_once_against_the_budget() -> None:
    model = WorldModel(3, 2, WorldModelConfig())
    with pytest.warns(UserWarning, match="budget"):
        model.update(small_batch())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.update(small_batch())


def test_another_models_state_is_refused_before_anything_changes() -> None:
    model, other = small_model(), small_model(*PAIRS[1])
    before = digest(model)
    with pytest.raises(CheckpointError, match="differences"):
        model.load_state_tensors(other.state_tensors())
    assert_same(before, digest(model))


@pytest.mark.parametrize(("rows", "forgets"), [(8, False), (32, True), (100, True)])
def test_only_sequences_longer_than_an_open_loop_forget(rows: int, forgets: bool) -> None:
    model = WorldModel(3, 2)
    batch = small_batch(2, rows)
    drawn = [model._draw(batch).forget for _ in range(400)]
    assert all(0 <= row < rows for row in drawn)
    share = sum(row > 0 for row in drawn) / len(drawn)
    assert share == pytest.approx(forgets * (rows - 1) / max(64, rows), abs=0.08)
