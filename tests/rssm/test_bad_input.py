"""Classes C1-C13 and O1-O13 of the reliability design: typed errors, nothing changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tests.model.builders import PAIRS, small_batch, small_config

from bb_wm.config import Budget, WorldModelConfig
from bb_wm.errors import (
    ActionError,
    BatchError,
    BBWMError,
    ConfigError,
    DeviceError,
    DtypeError,
    EpisodeError,
    HorizonError,
    InputTypeError,
    LatentError,
    PolicyError,
    RangeError,
    ResourceError,
)
from bb_wm.model.cores import GRU, Transformer
from bb_wm.model.stochastic import Categorical, Gaussian
from bb_wm.rssm import WorldModel
from bb_wm.types import Latent


def config(**changes: Any) -> WorldModelConfig:
    return WorldModelConfig(**changes)


def build(obs: Any = 3, action: Any = 2, **changes: Any) -> WorldModel:
    return WorldModel(obs, action, small_config(*PAIRS[0], **changes))


CONSTRUCTOR: dict[str, list[tuple[type[BBWMError], str, Callable[[], object]]]] = {
    "C1": [
        (ConfigError, "obs_shape", lambda: build(())),
        (ConfigError, "obs_shape", lambda: build(0)),
        (ConfigError, "obs_shape", lambda: build((3, -1))),
        (ConfigError, "obs_shape", lambda: build({})),
        (ConfigError, "obs_shape", lambda: build({"a": (0,)})),
    ],
    "C2": [
        (ConfigError, "obs_shape", lambda: build(3.0)),
        (ConfigError, "obs_shape", lambda: build("3")),
        (ConfigError, "obs_shape", lambda: build(None)),
        (ConfigError, "obs_shape", lambda: build(True)),
        (ConfigError, "obs_shape", lambda: build({1: 3})),
        (ConfigError, "obs_shape", lambda: build(spaces.Text(10))),
    ],
    "C3": [(ResourceError, "obs_shape", lambda: build((10**6, 10**6)))],
    "C4": [
        (ConfigError, "action_dim", lambda: build(action=0)),
        (ConfigError, "action_dim", lambda: build(action=-2)),
        (ConfigError, "action_dim", lambda: build(action=True)),
        (ConfigError, "action_dim", lambda: build(action=2.0)),
        (ConfigError, "action_dim", lambda: build(action=float("nan"))),
        (ConfigError, "action_dim", lambda: build(action=spaces.Dict({}))),
        (ConfigError, "action_dim", lambda: build(action=spaces.Discrete(3, start=1))),
    ],
    "C5": [
        (ConfigError, "latent.width", lambda: Gaussian(0)),
        (ConfigError, "latent.classes", lambda: Categorical(16, 1)),
        (ConfigError, "core.size", lambda: GRU(-1)),
        (ConfigError, "core.size", lambda: Transformer(130, heads=4)),
        (ConfigError, "hidden", lambda: config(hidden=1.5)),
    ],
    "C6": [
        (ConfigError, "latent", lambda: config(latent="gausian")),
        (ConfigError, "core", lambda: config(core="lstm")),
        (ConfigError, "core", lambda: config(core=GRU)),
        (ConfigError, "objective", lambda: config(objective="elbo")),
    ],
    "C7": [
        (ConfigError, "horizon", lambda: config(horizon=0)),
        (ConfigError, "horizon", lambda: config(horizon=-1)),
        (ConfigError, "horizon", lambda: config(horizon=40, max_horizon=40)),
        (ConfigError, "max_horizon", lambda: config(horizon=10, max_horizon=5)),
    ],
    "C8": [
        (ConfigError, "learning_rate", lambda: config(learning_rate=float("nan"))),
        (ConfigError, "learning_rate", lambda: config(learning_rate=-1e-3)),
        (ConfigError, "clip", lambda: config(clip=float("inf"))),
        (ConfigError, "average", lambda: config(average=1.0)),
    ],
    "C9": [
        (ConfigError, "config.hiden", lambda: config().override(hiden=3)),
        (
            ConfigError,
            "config.latent.widht",
            lambda: WorldModelConfig.from_json(
                {"version": 1, "latent": {"type": "Gaussian", "widht": 3}}
            ),
        ),
    ],
    "C10": [
        (DeviceError, "device", lambda: WorldModel(3, 2, device="gpu0")),
        (DeviceError, "device", lambda: WorldModel(3, 2, device="cuda:99")),
        (DeviceError, "device", lambda: WorldModel(3, 2, device="meta")),
    ],
    "C12": [(ConfigError, "objective", lambda: build(objective=_half_balanced()))],
    "C13": [
        (ConfigError, "seed", lambda: config(seed=-1)),
        (ConfigError, "seed", lambda: config(seed=2**64)),
        (ConfigError, "seed", lambda: config(seed=1.0)),
        (ConfigError, "seed", lambda: config(seed=True)),
    ],
    "budget": [
        (ConfigError, "latent.width", lambda: config(latent=Gaussian(16))),
        (ConfigError, "latent.classes", lambda: config(latent=Categorical(16, 8))),
        (ConfigError, "core.size", lambda: config(core=GRU(512))),
        (ConfigError, "horizon", lambda: config(horizon=3)),
        (ConfigError, "budget", lambda: config(budget="free")),
    ],
}


def _half_balanced() -> object:
    from bb_wm.model.objective import Objective

    return Objective(dynamics=None, representation=0.1)


@pytest.mark.parametrize(
    ("kind", "field", "make"),
    [
        pytest.param(*case, id=f"{row}-{i}")
        for row, c in CONSTRUCTOR.items()
        for i, case in enumerate(c)
    ],
)
def test_constructor(kind: type[BBWMError], field: str, make: Callable[[], object]) -> None:
    state = torch.random.get_rng_state()
    with pytest.raises(kind) as caught:
        make()
    error = caught.value
    assert error.field.startswith(field)
    assert error.expected
    assert error.actual
    assert len(str(error)) <= 400
    assert error.expected in str(error)
    assert error.actual in str(error)
    assert torch.equal(state, torch.random.get_rng_state())


def test_c6_and_c9_suggest_what_was_meant() -> None:
    with pytest.raises(ConfigError, match=r"did you mean Gaussian\(\)"):
        config(latent="gausian")
    with pytest.raises(ConfigError, match="did you mean 'hidden'"):
        config().override(hiden=3)
    with pytest.raises(TypeError, match="latent_dmi"):
        config(latent_dmi=3)


def test_a_lifted_budget_is_a_decision_that_is_written_down() -> None:
    wide = config(latent=Gaussian(256), budget=None)
    assert WorldModelConfig.from_json(wide.to_json()) == wide
    wider = config(latent=Gaussian(256), budget=Budget(latent=(32, 256)))
    assert WorldModelConfig.from_json(wider.to_json()) == wider


def _bad(**changes: Any) -> Mapping[str, Any]:
    batch = small_batch()
    raw: dict[str, Any] = {
        "obs": batch.obs["obs"],
        "action": batch.action,
        "reward": batch.reward,
        "safety": batch.safety,
        "terminated": batch.terminated,
        "is_first": batch.is_first,
        "valid": batch.valid,
    }
    return {**raw, **changes}


def _with(name: str, place: tuple[int, ...], value: float) -> Mapping[str, Any]:
    raw = dict(_bad())
    changed = raw[name].clone()
    changed[place] = value
    return {**raw, name: changed}


ended = torch.zeros(4, 8, dtype=torch.bool)
ended[1, 3] = True
BATCHES: list[tuple[type[BBWMError], Mapping[str, Any]]] = [
    (BatchError, {k: v for k, v in _bad().items() if k != "reward"}),
    (BatchError, _bad(extra=torch.zeros(4, 8))),
    (BatchError, _bad(reward=torch.zeros(4, 8, 1))),
    (BatchError, _bad(obs=torch.zeros(8, 4, 3))),
    (BatchError, _with("obs", (1, 2, 0), float("nan"))),
    (BatchError, _with("reward", (3, 7), float("inf"))),
    (RangeError, _with("obs", (0, 0, 0), 1e9)),
    (RangeError, _with("safety", (0, 1), -0.5)),
    (DtypeError, _bad(obs=torch.zeros(4, 8, 3, dtype=torch.float64))),
    (DtypeError, _bad(terminated=torch.zeros(4, 8))),
    (EpisodeError, _bad(terminated=ended)),
    (BatchError, _bad(valid=torch.zeros(4, 8, dtype=torch.bool))),
]


@pytest.mark.parametrize(("kind", "raw"), BATCHES)
def test_a_refused_batch_changes_nothing(kind: type[BBWMError], raw: Mapping[str, Any]) -> None:
    model = build()
    model.update(small_batch())
    before = {name: tensor.clone() for name, tensor in model.state_tensors().items()}
    with pytest.raises(kind):
        model.update(raw)
    after = model.state_tensors()
    assert all(torch.equal(before[name], after[name]) for name in before)


# --- observations, latents, rollouts, policies ---------------------------------------------------


def zeros(latent: Latent) -> torch.Tensor:
    return latent.h.new_zeros(*latent.batch_shape, 2)


def mutate(latent: Latent) -> torch.Tensor:
    latent.h.add_(1.0)
    return zeros(latent)


def fail(latent: Latent) -> torch.Tensor:
    raise RuntimeError("the policy's own trouble")


POLICIES: dict[str, tuple[type[BBWMError], object]] = {
    "none": (PolicyError, lambda s: None),
    "shape": (PolicyError, lambda s: torch.zeros(3)),
    "dtype": (PolicyError, lambda s: torch.zeros(2, dtype=torch.long)),
    "nan": (PolicyError, lambda s: torch.full((2,), float("nan"))),
    "raises": (PolicyError, fail),
    "mutates": (PolicyError, mutate),
    "generator": (PolicyError, lambda s: (x for x in ())),
    "class": (InputTypeError, torch.nn.Linear),
    "empty": (ConfigError, torch.zeros(0, 2)),
    "width": (ActionError, torch.zeros(5, 3)),
    "nan actions": (ActionError, torch.full((5, 2), float("nan"))),
    "too few": (ActionError, torch.zeros(5, 2)),
}


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_that_cannot_be_used(name: str) -> None:
    kind, policy = POLICIES[name]
    model = build()
    latent = model.encode(np.zeros(3, np.float32))
    before = latent.h.clone()
    horizon = 8 if name == "too few" else None
    with pytest.raises(kind) as caught:
        model.rollout(latent, policy, horizon)
    if name == "raises":
        assert isinstance(caught.value.__cause__, RuntimeError)
        assert caught.value.step == 0  # type: ignore[attr-defined]
    if name != "mutates":
        assert torch.equal(latent.h, before)


def test_a_late_failure_names_its_step() -> None:
    model, calls = build(), []

    def tires(latent: Latent) -> torch.Tensor:
        calls.append(1)
        return zeros(latent) if len(calls) < 4 else torch.zeros(7)

    with pytest.raises(PolicyError, match="step 3") as caught:
        model.rollout(model.encode(np.zeros(3, np.float32)), tires)
    assert caught.value.step == 3


@pytest.mark.parametrize("horizon", [0, -1, True, 2.0, 99])
def test_horizons(horizon: Any) -> None:
    model = build()
    latent = model.encode(np.zeros(3, np.float32))
    with pytest.raises(HorizonError if horizon == 99 else ConfigError):
        model.rollout(latent, zeros, horizon)


def test_latents_of_another_model_or_broken() -> None:
    model, other = build(), WorldModel(3, 2, small_config(*PAIRS[1]))
    latent = model.encode(np.zeros((2, 3), np.float32))
    foreign = other.encode(np.zeros((2, 3), np.float32))
    broken = latent.map(torch.clone)
    broken.z[0, 0] = float("nan")
    for bad in (foreign, broken):
        with pytest.raises(LatentError):
            model.rollout(bad, zeros)
        with pytest.raises(LatentError):
            model.encode(np.zeros((2, 3), np.float32), bad, np.zeros((2, 2), np.float32))
    for wrong in ("a latent", None, latent.h):
        with pytest.raises(InputTypeError):
            model.rollout(wrong, zeros)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "obs"),
    [
        (BatchError, np.zeros(4, np.float32)),
        (BatchError, np.float32(1.0)),
        (BatchError, np.array([np.nan, 0, 0], np.float32)),
        (DtypeError, np.zeros(3, np.complex64)),
        (DtypeError, None),
        (DtypeError, np.array(["a", "b", "c"])),
    ],
)
def test_observations(kind: type[BBWMError], obs: Any) -> None:
    model = build()
    with pytest.raises(kind) as caught:
        model.encode(obs)
    assert caught.value.field.startswith("obs")


def test_a_belief_is_continued_with_its_action_or_not_at_all() -> None:
    model = build()
    obs = np.zeros(3, np.float32)
    latent = model.encode(obs)
    with pytest.raises(InputTypeError, match="both"):
        model.encode(obs, latent)
    with pytest.raises(InputTypeError, match="neither"):
        model.encode(obs, action=np.zeros(2, np.float32))
    with pytest.raises(ActionError):
        model.encode(obs, latent, np.zeros(3, np.float32))
    with pytest.raises(ActionError):
        model.encode(obs, latent, np.zeros((5, 2), np.float32))


def test_modes() -> None:
    model = build()
    with pytest.raises(ConfigError, match="shortcut"):
        model.rollout(model.encode(np.zeros(3, np.float32)), zeros, mode="best")  # type: ignore[arg-type]
