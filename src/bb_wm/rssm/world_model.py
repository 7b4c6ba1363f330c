"""WorldModel: assembles the parts and answers the document's section 4. Holds no arithmetic."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import torch

from bb_wm import durable
from bb_wm.config import WorldModelConfig
from bb_wm.data.door import as_batch, as_obs
from bb_wm.durable.tensors import decode_tensors, encode_tensors
from bb_wm.errors import (
    BatchError,
    CheckpointError,
    ConfigError,
    HorizonError,
    InputTypeError,
    LatentError,
)
from bb_wm.imagine.rollout import rollout
from bb_wm.model.losses import LossTerms
from bb_wm.model.objective import Noise, evaluate_terms
from bb_wm.model.optimiser import Optimiser, OptimiserSettings, Rate
from bb_wm.protocols import draw_noise
from bb_wm.rssm.build import (
    GENERATOR,
    build_network,
    check_compiler,
    check_same_tensors,
    find_device,
)
from bb_wm.rssm.inputs import as_actions, as_flat_action, check_latent
from bb_wm.rssm.shortcut import ShortcutDynamics
from bb_wm.types import ActionSpec, Batch, Latent, ObsSpec, Trajectory

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.imagine.rollout import Policy

Mode = Literal["mode", "sample", "shortcut"]
MODES = ("mode", "sample", "shortcut")
PREDICTIONS = ("predict_reward", "predict_safety", "predict_continue")
FORMAT = 1


class WorldModel:
    """A compact latent simulator of a world whose actions have consequences.

    `obs_shape` is an int, a tuple, a dict of them or a Gymnasium Space; `action_dim` an int
    (continuous) or a Space. Inputs are numpy arrays or tensors, one row or any batch of rows.
    Beliefs and rollouts use averaged weights; `update` trains the ones behind them. It answers
    `protocols.Observer`, so it can be planned with, asked about and gated.
    """

    def __init__(
        self,
        obs_shape: Any,
        action_dim: Any,
        config: WorldModelConfig | None = None,
        *,
        device: str | torch.device = "cpu",
    ) -> None:
        config = WorldModelConfig() if config is None else config
        if not isinstance(config, WorldModelConfig):
            raise InputTypeError(
                "config", expected="a WorldModelConfig", actual=type(config).__name__
            )
        self.obs_spec = ObsSpec.of(obs_shape)
        self.action_spec = ActionSpec.of(action_dim)
        self.config = config
        self.device = find_device(device)
        network = build_network(self.obs_spec, self.action_spec, config).to(self.device)
        self._optimiser = Optimiser(
            network,
            OptimiserSettings(
                Rate(config.learning_rate, config.warmup, config.anneal),
                Rate(config.guess_rate, config.warmup, config.guess_anneal, power=1.0),
                config.weight_decay,
                config.clip,
                config.average,
            ),
        )
        self._training = network
        self._network = self._optimiser.averaged
        self._rssm = self._network.rssm
        # Two streams of chance, so that imagining or evaluating never changes what is learnt.
        self._learning = torch.Generator(self.device).manual_seed(config.seed)
        self._imagining = torch.Generator(self.device).manual_seed(config.seed + 1)
        self.updates = 0
        self._warned = False

    # --- training -------------------------------------------------------------------------------

    def update(self, batch: Batch | Mapping[str, Any]) -> tuple[float, dict[str, float]]:
        """One training step on [B, T] rows; (loss, metrics).

        Raises a typed error before anything changed when the batch is malformed. When a number
        inside is not finite the step is skipped: parameters, moments and statistics stay as they
        were, and metrics["skipped"] is 1.
        """
        rows = self._batch(batch)
        noise = self._draw(rows)
        before = self._optimiser.snapshot()
        self._training.observe(rows)
        terms = evaluate_terms(
            self._training, rows, self.config.objective, noise, updates=self.updates, track=True
        )
        applied, norm = self._optimiser.step(terms.total)
        if not applied:
            self._optimiser.restore(before)
        self.updates += 1
        named = _named(terms)
        loss, *values = torch.stack([terms.total, *named.values()]).detach().tolist()
        metrics: dict[str, float] = dict(zip(named, values, strict=True))
        metrics["gradient_norm"] = norm
        metrics["skipped"] = float(not applied)
        return loss, metrics

    def loss(self, batch: Batch | Mapping[str, Any], *, seed: int = 0) -> LossTerms:
        """Every loss term of a batch under fixed noise, with gradients, without a step."""
        rows = self._batch(batch)
        generator = torch.Generator(self.device).manual_seed(seed)
        noise = self._draw(rows, generator)
        return evaluate_terms(
            self._training, rows, self.config.objective, noise, updates=self.updates, track=False
        )

    def _batch(self, batch: Batch | Mapping[str, Any], *, learn: bool = True) -> Batch:
        rows = as_batch(
            batch,
            self.obs_spec,
            self.action_spec,
            masked=self.config.action_mask and learn,
            device=self.device,
            learn=learn,
        )
        budget = self.config.budget
        count = rows.shape[0] * rows.shape[1]
        if learn and budget is not None and count < budget.rows[0] and not self._warned:
            self._warned = True
            warnings.warn(
                f"update got {count} rows; the budget is {budget.rows[0]} to {budget.rows[1]} and "
                "more. Fewer rows make noisy steps.",
                stacklevel=3,
            )
        return rows

    def _draw(self, batch: Batch, generator: torch.Generator | None = None) -> Noise:
        generator = self._learning if generator is None else generator
        objective = self.config.objective
        return Noise.draw(batch, self.config.latent.noise_size, objective, generator)

    # --- beliefs --------------------------------------------------------------------------------

    def encode(
        self,
        obs: Any,
        previous: Latent | None = None,
        action: Any = None,
        *,
        noise: Tensor | None = None,
    ) -> Latent:
        """The belief after seeing `obs`: a fresh one, or `previous` continued by `action`.

        `action` is what was done in previous's row and led to obs. Without noise [*batch, N] z is
        the posterior's mode.
        """
        seen, shape = as_obs(obs, self.obs_spec, device=self.device)
        if (previous is None) != (action is None):
            raise InputTypeError(
                "previous and action",
                expected="both (to continue a belief) or neither (to start one)",
                actual=f"previous {'given' if previous is not None else 'missing'}, "
                f"action {'given' if action is not None else 'missing'}",
            )
        rssm = self._rssm
        sight = rssm.look(seen)
        if previous is None:
            start = rssm.empty(shape)
            projected = start.h.new_zeros(*shape, rssm.core.project(self._no_action()).shape[-1])
        else:
            start = check_latent(previous, rssm)
            if start.batch_shape != shape:
                raise LatentError(
                    "previous",
                    expected=f"a belief for each of the rows {list(shape)}",
                    actual=list(start.batch_shape),
                )
            flat = as_flat_action(action, self.action_spec, shape, self.device)
            projected = rssm.core.project(rssm.scale_action(flat))
        h, memory = rssm.advance(start, projected)
        return rssm.read(Latent(h, start.z, memory, sight), sight, noise)

    def _no_action(self) -> Tensor:
        return torch.zeros(self.action_spec.size, device=self.device)

    def filter(self, batch: Batch | Mapping[str, Any]) -> Latent:
        """The belief at every real row, [B, T]; the posterior's mode, resets respected."""
        rows = self._batch(batch, learn=False)
        sight = self._rssm.look(rows.obs)
        walk = self._rssm.filter(sight, rows.action, rows.is_first, None)
        memory = torch.stack(walk.memories, dim=1)
        return Latent(walk.h, walk.z, memory, sight)

    # --- imagination ----------------------------------------------------------------------------

    def rollout(
        self,
        latent: Latent,
        policy: Policy | Any,
        horizon: int | None = None,
        *,
        mode: Mode = "mode",
        generator: torch.Generator | None = None,
    ) -> Trajectory:
        """Imagine `horizon` rows from `latent` [*batch] under a policy or given actions.

        `policy` is a callable Latent -> flat action [*batch, A], or actions [*batch, H, A] (native
        indices are accepted); actions may have extra candidate axes after the batch, over which
        the latent is repeated. `mode` follows the most probable z ("mode", least error), draws
        z ("sample", for spread and risk) or skips z ("shortcut", most exact on short horizons).
        """
        check_latent(latent, self._rssm)
        if mode not in MODES:
            raise ConfigError("mode", expected=f"one of {list(MODES)}", actual=repr(mode))
        actions: Policy | Tensor
        if callable(policy):
            if isinstance(policy, type):
                raise InputTypeError(
                    "policy", expected="a callable object", actual=f"the class {policy.__name__}"
                )
            actions = policy
            horizon = self.config.horizon if horizon is None else horizon
        else:
            actions, extra = as_actions(
                policy, self.action_spec, latent.batch_shape, horizon, self.device
            )
            latent = latent.expand(*extra) if extra else latent
            horizon = actions.shape[-2]
        self._check_horizon(horizon)
        if mode == "shortcut":
            return rollout(self.shortcut, self._sighted(latent), actions, horizon)
        noise = None
        if mode == "sample":
            shape = (*latent.batch_shape, horizon, self.noise_size)
            noise = draw_noise(shape, generator or self._imagining, self.device)
        return rollout(self, latent, actions, horizon, noise=noise)

    @property
    def shortcut(self) -> ShortcutDynamics:
        """The shortcut path as dynamics of its own, to plan with."""
        return ShortcutDynamics(self._network, self)

    def _check_horizon(self, horizon: object) -> None:
        if isinstance(horizon, bool) or not isinstance(horizon, int) or horizon < 1:
            raise ConfigError("horizon", expected="a positive int", actual=repr(horizon))
        if horizon > self.config.max_horizon:
            raise HorizonError(
                "horizon",
                expected=f"at most {self.config.max_horizon}, what this model was set up for",
                actual=horizon,
                hint="WorldModelConfig(max_horizon=...) allows more on purpose.",
            )

    def _sighted(self, latent: Latent) -> Latent:
        """The latent with a sight: decoded and looked at, where nothing was seen."""
        if latent.sight.shape[-1]:
            return latent
        decoded = self._rssm.decode(latent)
        return Latent(latent.h, latent.z, latent.memory, self._rssm.look(decoded))

    def imagined_obs(self, trajectory: Trajectory) -> dict[str, Tensor]:
        """What the trajectory's path predicts to be seen, per key [*batch, K, *shape]."""
        if trajectory.latents.sight.shape[-1]:
            return self._rssm.show(trajectory.latents)
        return self._rssm.decode(trajectory.latents)

    @property
    def noise_size(self) -> int:
        """N, standard normals per step."""
        return self.config.latent.noise_size

    @property
    def obs_noise_size(self) -> int:
        """M, standard normals per imagined observation."""
        return self._rssm.obs_noise_size

    @property
    def action_size(self) -> int:
        """A, the length of a flat action."""
        return self.action_spec.size

    def step(self, latent: Latent, action: Tensor, noise: Tensor | None = None) -> Latent:
        """The next latent under a flat action; the mode when noise is None."""
        return self._rssm.step(latent, action, noise)

    def imagine_obs(self, latent: Latent, noise: Tensor | None = None) -> dict[str, Tensor]:
        """o ~ p(o | h, z) per key in data units; the most probable one without noise."""
        return self._rssm.decode(latent, noise)

    def condition(
        self, latent: Latent, obs: Mapping[str, Tensor], noise: Tensor | None = None
    ) -> Latent:
        """The belief after reading `obs` in the latent's own row: h stays, z ~ q(z | h, o)."""
        return self._rssm.read(latent, self._rssm.look(obs), noise)

    def posterior_statistics(self, latent: Latent, obs: Mapping[str, Tensor]) -> Tensor:
        """Statistics [*batch, F] of q(z | h, obs): what an answer changes in the belief."""
        return self.config.latent.statistics(self._posterior(latent, obs))

    def posterior_moments(self, latent: Latent, obs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [*batch, Z] of z under q(z | h, obs)."""
        return self.config.latent.moments(self._posterior(latent, obs))

    def _posterior(self, latent: Latent, obs: Mapping[str, Tensor]) -> Tensor:
        return self._rssm.posterior(latent.h, self._rssm.embed(self._rssm.look(obs)))

    def log_likelihood(self, latent: Latent, obs: Mapping[str, Tensor]) -> Tensor:
        """log p(obs | h, z) [*batch], in nats per observation in model units.

        Keys left out are not asked about. Raises BatchError for a key that is not the model's.
        """
        self._check_keys(obs)
        return self._rssm.log_likelihood(latent, obs)

    def next_log_likelihood(
        self, latent: Latent, action: Tensor, obs: Mapping[str, Tensor]
    ) -> Tensor:
        """log p(obs' | h, obs, action) [*batch] of the next row, by the shortcut that skips z.

        `latent` must have seen its row (as after `encode` or `condition`), `action` is flat. What
        is learnt here at every row is the prediction itself: no z is drawn that the decoder never
        met. Nats in model units, of an image in its features. Raises BatchError for a strange key
        or a latent that was only imagined.
        """
        self._check_keys(obs)
        if latent.sight.shape[-1] != self._rssm.sight_size:
            raise BatchError(
                "latent.sight",
                expected=f"[..., {self._rssm.sight_size}]",
                actual=list(latent.sight.shape),
                hint="The shortcut starts from a row that was seen: encode(...) or condition(...).",
            )
        return self._rssm.next_log_likelihood(latent, action, obs)

    def _check_keys(self, obs: Mapping[str, Tensor]) -> None:
        strange = sorted(set(obs) - set(self._rssm.keys))
        if strange or not obs:
            raise BatchError("obs", expected=f"some of {list(self._rssm.keys)}", actual=strange)

    def predict_reward(self, latent: Latent) -> Tensor:
        """r(s) [*batch] in the data's units."""
        return self._network.predict_reward(latent)

    def predict_safety(self, latent: Latent) -> Tensor:
        """V_s(s) >= 0 [*batch] in the data's units; larger is worse."""
        return self._network.predict_safety(latent)

    def predict_continue(self, latent: Latent) -> Tensor:
        """Probability [*batch] that the row is not terminal."""
        return self._network.predict_continue(latent)

    def predict_outcomes(self, latent: Latent) -> tuple[Tensor, Tensor, Tensor]:
        """(reward, safety, continue) [*batch] in one pass: what rollouts ask of every row."""
        if any(_overridden(self, name) for name in PREDICTIONS):
            return (
                self.predict_reward(latent),
                self.predict_safety(latent),
                self.predict_continue(latent),
            )
        return self._network.predict_outcomes(latent)

    def predict_action_mask(self, latent: Latent) -> Tensor:
        """Probability [*batch, A] that each entry of a flat action is available."""
        return self._network.predict_action_mask(latent)

    def kl(self, batch: Batch | Mapping[str, Any]) -> Tensor:
        """Raw D_KL(q || p) per variable at every real row, [B, T, variables], in nats."""
        rows = self._batch(batch, learn=False)
        walk = self._rssm.filter(self._rssm.look(rows.obs), rows.action, rows.is_first, None)
        return self.config.latent.kl_per_variable(walk.posterior, walk.prior)

    def compile(self, **options: Any) -> Self:
        """Compile imagination's steps by torch.compile, where one model imagines for long; itself.

        Rollouts, plans and EVSI then take compiled steps of both paths; learning and reading rows
        stay as they are. The first imagination of each shape waits until it is compiled.
        `python -m benchmarks.speed --compiled` prints how long, and what it gains. `options` are
        torch.compile's. Nothing of it is saved. Raises ConfigError where a CPU has no C++ compiler.
        """
        check_compiler(self.device, options)
        for name in ("step", "shortcut_step"):
            step = getattr(type(self._rssm), name).__get__(self._rssm)
            setattr(self._rssm, name, torch.compile(step, **options))
        return self

    # --- keeping --------------------------------------------------------------------------------

    def state_tensors(self) -> dict[str, Tensor]:
        """Everything the next update depends on, by name: weights, averages, moments, statistics,
        generators and counters. Tensors are the model's own: copy them before changing them."""
        return {
            **self._optimiser.state(),
            **{GENERATOR + name: one.get_state() for name, one in self._generators().items()},
            "updates": torch.tensor(self.updates),
        }

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put a state back; CheckpointError listing the differences, before anything changed."""
        check_same_tensors(self.state_tensors(), tensors)
        self._optimiser.load_state(dict(tensors))
        for name, generator in self._generators().items():
            state = tensors[GENERATOR + name].cpu()
            # Of another kind of device it cannot go on: chance begins at the seed there.
            if state.shape == generator.get_state().shape:
                generator.set_state(state)
        self.updates = int(tensors["updates"])

    def _generators(self) -> dict[str, torch.Generator]:
        return {"learning": self._learning, "imagining": self._imagining}

    def describe(self) -> dict[str, Any]:
        """What is needed beside the tensors to build the model again, as plain JSON."""
        return {
            "kind": "world model",
            "format": FORMAT,
            "obs_spec": self.obs_spec.to_json(),
            "action_spec": self.action_spec.to_json(),
            "config": self.config.to_json(),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write model.safetensors and manifest.json (SHA-256) into the directory, atomically."""
        files = {"model.safetensors": encode_tensors(self.state_tensors())}
        durable.write_files(path, files, self.describe())

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, device: str | torch.device = "cpu"
    ) -> WorldModel:
        """A saved model, after every digest agreed. Nothing in it is executed."""
        manifest, files = durable.read_files(path)
        if manifest.meta.get("kind") != "world model" or "model.safetensors" not in files:
            raise CheckpointError("path", expected="a saved world model", actual=str(path))
        model = cls.build(manifest.meta, device=device)
        tensors = decode_tensors(files["model.safetensors"], source="model.safetensors")
        model.load_state_tensors(tensors)
        return model

    @classmethod
    def build(
        cls, described: Mapping[str, Any], *, device: str | torch.device = "cpu"
    ) -> WorldModel:
        """A fresh model from what `describe` gave."""
        if described.get("format") != FORMAT:
            raise CheckpointError(
                "format of the model",
                expected=FORMAT,
                actual=described.get("format", "none"),
                hint="another version of bb_wm described it.",
            )
        return cls(
            ObsSpec.from_json(described["obs_spec"]),
            ActionSpec.from_json(described["action_spec"]),
            WorldModelConfig.from_json(described["config"]),
            device=device,
        )

    def __repr__(self) -> str:
        count = sum(parameter.numel() for parameter in self._training.parameters())
        keys = ", ".join(f"{e.key} {list(e.shape)}" for e in self.obs_spec.entries)
        core, latent = self.config.core, self.config.latent
        return (
            f"WorldModel({keys} -> {core} {latent}, {count:,} parameters, {self.updates} updates)"
        )


def _overridden(model: WorldModel, name: str) -> bool:
    return name in vars(model) or getattr(type(model), name) is not getattr(WorldModel, name)


def _named(terms: LossTerms) -> dict[str, Tensor]:
    names = (
        "reconstruction",
        "kl",
        "kl_raw",
        "reward",
        "safety",
        "rollout",
        "shortcut",
        "continuation",
    )
    return {name: cast("Tensor", getattr(terms, name)) for name in names}
