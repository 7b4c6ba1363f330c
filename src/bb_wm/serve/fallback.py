"""The fallback in imagination: what a machine would be sent after an action, row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bb_wm.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.types import ActionSpec, Latent, ObsSpec


class Fallback:
    """A constant action, or a function obs -> action (the environment's own forms).

    A function is asked about the rows that `model` expects: the mode of every step, decoded.
    Raises ConfigError at once where `model` cannot be asked what it expects to see; what the
    function raises is raised, and the gate then holds.
    """

    def __init__(self, model: Any, spec: ActionSpec, fallback: Any) -> None:
        self._model, self._spec = model, spec
        self._rule: Callable[[Any], Any] | None = fallback if callable(fallback) else None
        self._action: np.ndarray | None = None
        if self._rule is None:
            self._action = self._flat(fallback)
        elif not hasattr(model, "imagine_obs") or not hasattr(model, "obs_spec"):
            raise ConfigError(
                "fallback",
                expected="an action, where the model decodes no observation",
                actual="a function of the observation",
            )

    def now(self, obs: Any) -> np.ndarray:
        """The flat action [A] of falling back at once, where `obs` is seen."""
        return self._flat(self._rule(obs)) if self._rule is not None else self._constant()

    def after(self, latent: Latent, first: Tensor, horizon: int) -> Tensor:
        """[H, A]: `first` [A] done from `latent`, then the fallback."""
        if self._rule is None:
            rest = torch.from_numpy(self._constant())[None]
            return torch.cat([first[None], rest.expand(horizon - 1, -1)])
        actions = [first]
        for _ in range(horizon - 1):
            latent = self._model.step(latent, actions[-1].to(latent.h))
            seen = native_obs(self._model.obs_spec, self._model.imagine_obs(latent))
            actions.append(torch.from_numpy(self._flat(self._rule(seen))))
        return torch.stack(actions)

    def _constant(self) -> np.ndarray:
        assert self._action is not None
        return self._action

    def _flat(self, action: Any) -> np.ndarray:
        return np.array(self._spec.flatten(action), np.float32).reshape(self._spec.size)


def native_obs(spec: ObsSpec, decoded: Mapping[str, Tensor]) -> Any:
    """A decoded row {key: [...]} as the environment shows it: an array, or dicts of arrays (a tuple
    as a dict of "0", "1", ...)."""
    arrays = {key: value.detach().cpu().numpy() for key, value in decoded.items()}
    if spec.single:
        return next(iter(arrays.values()))
    nested: dict[str, Any] = {}
    for key, value in arrays.items():
        *path, last = key.split("/")
        at = nested
        for part in path:
            at = at.setdefault(part, {})
        at[last] = value
    return nested
