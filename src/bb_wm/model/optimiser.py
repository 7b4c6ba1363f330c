"""One training step that cannot break the parameters: clip, guard, AdamW or SOAP, averages."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from bb_wm.model.soap import Soap

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.model.network import Network


@dataclass(frozen=True, slots=True)
class Rate:
    """A learning rate: up to `peak` over `warmup` steps, and from `anneal` on (0: never) down with
    a power of the steps, which needs no end that is known beforehand: their square root (Vaswani et
    al. 2017), or the steps themselves (Robbins & Monro 1951).
    """

    peak: float
    warmup: int
    anneal: int
    power: float = 0.5

    def at(self, step: int) -> float:
        """The rate of a step, from 1 on."""
        risen = min(1.0, step / max(1, self.warmup))
        fallen = min(1.0, (self.anneal / step) ** self.power) if self.anneal else 1.0
        return self.peak * risen * fallen


@dataclass(frozen=True, slots=True)
class OptimiserSettings:
    """AdamW with adaptive clipping; `average` is the decay of averaged weights.

    `guess` is the rate of the net that says what a row alone says: a plain regression that learns
    by itself, by SOAP, and bears larger steps than a recurrent net and the heads that plans are
    judged by.
    """

    rate: Rate
    guess: Rate
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
        # The moments exist from the start, so that a state is complete at any time.
        self.first = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.second = [torch.zeros_like(parameter) for parameter in self.parameters]
        alone = {id(parameter) for parameter in network.rssm.markov.parameters()}
        guesses = [i for i, p in enumerate(self.parameters) if id(p) in alone]
        # Where each parameter of the row's own net stands among them.
        self.guesses = {i: k for k, i in enumerate(guesses)}
        self.soap = Soap(
            {self.names[i]: self.parameters[i] for i in guesses},
            [self.first[i] for i in guesses],
            [self.second[i] for i in guesses],
        )

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
        self._forget_gradients()
        loss.backward()  # type: ignore[no-untyped-call]
        reached = [i for i, p in enumerate(self.parameters) if p.grad is not None]
        owners = [self.parameters[i] for i in reached]
        gradients = [p.grad for p in owners if p.grad is not None]
        sizes = torch.stack(torch._foreach_norm(gradients))
        norm = float(sizes.norm())
        if not norm < float("inf"):
            self._forget_gradients()
            return False, norm
        if self.settings.clip > 0.0:
            weights = torch.stack(torch._foreach_norm(owners)).detach()
            # A tensor's gradient is at most `clip` of the tensor's own norm (NFNets; DreamerV3).
            limit = self.settings.clip * weights.clamp_min(1e-3)
            torch._foreach_mul_(gradients, list((limit / (sizes + 1e-8)).clamp_max(1.0).unbind()))
        self.steps += 1
        found = dict(zip(reached, gradients, strict=True))
        self._adamw([i for i in reached if i not in self.guesses], found)
        self.soap.step(
            {k: found[i] for i, k in self.guesses.items() if i in found},
            self.steps,
            rate=self.settings.guess.at(self.steps),
            weight_decay=self.settings.weight_decay,
        )
        self._forget_gradients()
        self._average()
        return True, norm

    @torch.no_grad()
    def _adamw(self, which: list[int], gradients: dict[int, Tensor]) -> None:
        """AdamW (Loshchilov & Hutter 2019) by the kernel of torch.optim.AdamW(fused=True).

        The class itself would load torch's compiler at its first use: 800 modules, over a second.
        """
        if not which:
            return
        owners = [self.parameters[i] for i in which]
        step = torch.tensor(float(self.steps), device=owners[0].device)
        torch._fused_adamw_(
            owners,
            [gradients[i] for i in which],
            [self.first[i] for i in which],
            [self.second[i] for i in which],
            [],
            [step] * len(which),
            lr=self.settings.rate.at(self.steps),
            beta1=0.9,
            beta2=0.999,
            weight_decay=self.settings.weight_decay,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )

    def _forget_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def _average(self) -> None:
        # The decay grows with the steps, so that the average never remembers the random start.
        decay = min(self.settings.average, self.steps / (self.steps + 10))
        torch._foreach_lerp_(self.averages, self.parameters, 1.0 - decay)

    def _kinds(self) -> dict[str, list[Tensor]]:
        return {
            "parameter": self.parameters,
            "averaged": self.averages,
            "optimiser/first": self.first,
            "optimiser/second": self.second,
        }

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, by name."""
        tensors: dict[str, Tensor] = {"optimiser/steps": torch.tensor(self.steps)}
        for kind, members in self._kinds().items():
            for name, member in zip(self.names, members, strict=True):
                tensors[f"{kind}/{name}"] = member.detach()
        for name, tensor in self.soap.state().items():
            tensors[f"optimiser/{name}"] = tensor
        for name, buffer in self.network.named_buffers():
            tensors[f"statistics/{name}"] = buffer
        return tensors

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`; the caller has checked names, shapes and dtypes."""
        self.steps = int(tensors["optimiser/steps"])
        for kind, members in self._kinds().items():
            for name, member in zip(self.names, members, strict=True):
                member.copy_(tensors[f"{kind}/{name}"])
        for name, tensor in self.soap.state().items():
            tensor.copy_(tensors[f"optimiser/{name}"])
        for name, buffer in self.network.named_buffers():
            buffer.copy_(tensors[f"statistics/{name}"])
