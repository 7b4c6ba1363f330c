"""One training step that cannot break the parameters: clip, guard, AdamW, averaged weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.model.network import Network


@dataclass(frozen=True, slots=True)
class OptimiserSettings:
    """AdamW with warm-up and adaptive clipping; `average` is the decay of averaged weights."""

    learning_rate: float
    warmup: int
    weight_decay: float
    clip: float
    average: float


class Optimiser:
    """Steps a network and keeps `averaged`, an exponential average of its weights.

    The average is what beliefs and rollouts use: it is steadier than the last step's weights
    (Polyak & Juditsky 1992) and needs no schedule that would have to know when training ends.
    Its statistics are the trained network's own tensors, not copies.
    """

    def __init__(self, network: Network, settings: OptimiserSettings) -> None:
        self.settings = settings
        self.network = network
        self.steps = 0
        self.names = [name for name, _ in network.named_parameters()]
        self.parameters: list[Tensor] = list(network.parameters())
        self.averaged = copy.deepcopy(network).requires_grad_(False)
        self._share_buffers()
        self.averages: list[Tensor] = list(self.averaged.parameters())
        self.buffers = list(network.buffers())
        self.adam = torch.optim.AdamW(
            self.parameters,
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        # The moments exist from the start, so that a state is complete at any time.
        for parameter in self.parameters:
            self.adam.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    def _share_buffers(self) -> None:
        for mine, theirs in zip(self.network.modules(), self.averaged.modules(), strict=True):
            for name, buffer in mine.named_buffers(recurse=False):
                theirs.register_buffer(name, buffer)

    def snapshot(self) -> list[Tensor]:
        """Copies of all running statistics, to put back if the step is refused."""
        return [buffer.clone() for buffer in self.buffers]

    def restore(self, snapshot: list[Tensor]) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self.buffers, snapshot)

    def step(self, loss: Tensor) -> tuple[bool, float]:
        """Backward and one step; (applied, norm of the gradient before clipping).

        A loss or gradient that is not finite changes nothing: not the parameters, not the moments.
        """
        if not bool(torch.isfinite(loss)):
            return False, float("nan")
        self.adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        owners = [p for p in self.parameters if p.grad is not None]
        gradients = [p.grad for p in owners if p.grad is not None]
        sizes = torch.stack(torch._foreach_norm(gradients))
        norm = float(sizes.norm())
        if not norm < float("inf"):
            self.adam.zero_grad(set_to_none=True)
            return False, norm
        if self.settings.clip > 0.0:
            weights = torch.stack(torch._foreach_norm(owners)).detach()
            # A tensor's gradient is at most `clip` of the tensor's own norm (NFNets; DreamerV3).
            limit = self.settings.clip * weights.clamp_min(1e-3)
            torch._foreach_mul_(gradients, list((limit / (sizes + 1e-8)).clamp_max(1.0).unbind()))
        self.steps += 1
        rate = self.settings.learning_rate * min(1.0, self.steps / max(1, self.settings.warmup))
        self.adam.param_groups[0]["lr"] = rate
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        self._average()
        return True, norm

    @torch.no_grad()
    def _average(self) -> None:
        # The decay grows with the steps, so that the average never remembers the random start.
        decay = min(self.settings.average, self.steps / (self.steps + 10))
        torch._foreach_lerp_(self.averages, self.parameters, 1.0 - decay)

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, by name."""
        tensors: dict[str, Tensor] = {"optimiser/steps": torch.tensor(self.steps)}
        for name, parameter, average in zip(
            self.names, self.parameters, self.averages, strict=True
        ):
            moments = self.adam.state[parameter]
            tensors[f"parameter/{name}"] = parameter.detach()
            tensors[f"averaged/{name}"] = average
            tensors[f"optimiser/first/{name}"] = moments["exp_avg"]
            tensors[f"optimiser/second/{name}"] = moments["exp_avg_sq"]
        for name, buffer in self.network.named_buffers():
            tensors[f"statistics/{name}"] = buffer
        return tensors

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`; the caller has checked names, shapes and dtypes."""
        self.steps = int(tensors["optimiser/steps"])
        for name, parameter, average in zip(
            self.names, self.parameters, self.averages, strict=True
        ):
            moments = self.adam.state[parameter]
            parameter.copy_(tensors[f"parameter/{name}"])
            average.copy_(tensors[f"averaged/{name}"])
            moments["exp_avg"].copy_(tensors[f"optimiser/first/{name}"])
            moments["exp_avg_sq"].copy_(tensors[f"optimiser/second/{name}"])
            moments["step"].fill_(float(self.steps))
        for name, buffer in self.network.named_buffers():
            buffer.copy_(tensors[f"statistics/{name}"])
