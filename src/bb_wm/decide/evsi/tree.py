"""Asking ahead of a learned belief: the answers of every ask are listed, read, and asked on from.

    V_0(b) = max_a E_b U_a        V_d(b) = max( V_0(b), max_k [ E_o V_{d-1}(b | k, o) - cost_k ] )

`lookahead` solves the same recursion for worlds that are tables of likelihoods. A learned latent is
no such world: it holds what is believed, so what an answer teaches is known only by reading it. So
each answer is conditioned on, and the recursion goes on from there, for many latents at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from bb_wm.decide.evsi.ask import Candidates
from bb_wm.decide.evsi.worths import horizon_of, worth_of
from bb_wm.errors import BatchError, ConfigError
from bb_wm.imagine.utility import Utility
from bb_wm.protocols import draw_noise

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.protocols import Observer
    from bb_wm.types import Latent

Seen = Mapping[str, "Tensor"]
_ROWS_AT_ONCE = 2048  # latents of one level of the tree held in memory together


@dataclass(frozen=True, slots=True, eq=False)
class ListedAsk:
    """An ask whose every answer can be listed.

    action   flat action [A] of the call
    answers  what is seen now, key -> [N, *shape], to all that may be seen next, key -> [N, K, ...]:
             whole observations, with what the call leaves alone or changes for certain beside the
             answer. How likely each is, the model says.
    cost     what is seen now -> price of the call [N], in units of utility
    changes  whether the call may change the world. False: an effect is an error of the model and
             is left out, as V_read and V_blind are taken under the same p(o).
    keys     the keys that tell the answers apart; p(o) is their likelihood alone. A decoder holds
             keys independent given z, so a z that has not made up its mind would count the ways
             that keys agree with each other instead of the answers. None: all keys
    open     what is seen now -> whether the call can be made [N], bool; None: always
    """

    name: str
    action: Tensor
    answers: Callable[[Seen], Seen]
    cost: Callable[[Seen], Tensor]
    changes: bool = False
    keys: tuple[str, ...] | None = None
    open: Callable[[Seen], Tensor] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Per latent [N] and ask [K]: net worth (-inf where the call cannot be made), its standard
    error of sampling, what reading the answer adds (with what asking on is worth, net), and V_s
    of the call's own row (larger is worse)."""

    evsi: Tensor
    standard_error: Tensor
    info: Tensor
    risk: Tensor


@dataclass(frozen=True, slots=True)
class AskTree:
    """What each ask is worth if up to `depth` calls may be made, the first one included.

    A belief may be several particles: what is believed of an answer or a candidate is the mean over
    them, and what is chosen is chosen for all of them together.

    draw     whether the call's step and the reading of an answer draw z, for each particle its own
             way. False follows the modes: a decoder learnt open loop, as `WorldModel`'s is by its
             rollout loss, gives the predictive p(o) itself there
    utility  how candidates are valued; a limit per outcome bars a candidate, `abstain` is always
             there beside one
    """

    depth: int = 2
    draw: bool = False
    utility: Utility = Utility()  # noqa: RUF009 (frozen)
    horizon: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= 4:
            raise ConfigError("AskTree.depth", expected="1..4", actual=self.depth)
        if self.utility.limit is not None and self.utility.limit.scope != "outcome":
            raise ConfigError(
                "AskTree.utility.limit",
                expected="a limit per outcome",
                actual=self.utility.limit.scope,
                hint="EVSI(...) keeps one budget for the whole rule.",
            )

    def __call__(
        self,
        model: Observer,
        latent: Latent,
        seen: Seen,
        asks: Sequence[ListedAsk],
        candidates: Candidates,
    ) -> Asked:
        """Worth of every ask at beliefs [N], or [N, P] of P particles, where `seen` [N, *shape]
        was observed last.

        Deterministic: the same luck for every belief, drawn from `seed`.
        """
        if len(latent.batch_shape) == 1:
            latent = latent.expand(1)
        if len(latent.batch_shape) != 2:
            raise BatchError("latent", expected="[N] or [N, P]", actual=latent.batch_shape)
        if not asks or len({ask.name for ask in asks}) != len(asks):
            names = [ask.name for ask in asks]
            raise ConfigError("asks", expected="one or more of different names", actual=names)
        noise = None
        if self.draw:
            generator = torch.Generator().manual_seed(self.seed)
            particles = latent.batch_shape[1]
            noise = draw_noise((2, particles, model.noise_size), generator).to(latent.h)
        with torch.no_grad():
            level = _Level(self, model, list(asks), candidates, noise)
            return level.asked(latent, seen, self.depth)


@dataclass(frozen=True, slots=True, eq=False)
class _Level:
    """What stays the same all over the tree. Latents are [N, P]."""

    tree: AskTree
    model: Observer
    asks: list[ListedAsk]
    candidates: Candidates
    noise: Tensor | None  # [2, P, Z]: of the call's step, and of reading

    def asked(self, latent: Latent, seen: Seen, depth: int) -> Asked:
        now = self._best(*self._worths(latent)) if any(a.changes for a in self.asks) else None
        parts = [self._ask(latent, seen, ask, depth, now) for ask in self.asks]
        evsi, error, info, risk = (torch.stack(p, dim=-1) for p in zip(*parts, strict=True))
        return Asked(evsi, error, info, risk)

    def _ask(
        self, latent: Latent, seen: Seen, ask: ListedAsk, depth: int, now: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Net, standard error, info and risk [N] of one ask; looked at only where it is open."""
        if ask.open is not None:
            able = ask.open(seen).bool()
            if not bool(able.all()):
                return self._ask_some(latent, seen, ask, depth, now, able)
        told = ask.answers(seen)
        count, particles = latent.batch_shape
        kinds = {int(value.shape[1]) for value in told.values()}
        if len(kinds) != 1 or any(value.shape[0] != count for value in told.values()):
            raise BatchError(
                f"answers of {ask.name}",
                expected=f"[{count}, K, ...] with one K in every key",
                actual={key: list(value.shape) for key, value in told.items()},
            )
        size = kinds.pop()
        after = self._step(latent, ask)
        likelihood = self._likelihood(latent, after, ask, told)  # [N, P, K]
        flat = {key: value.flatten(0, 1) for key, value in told.items()}
        read = self._read(after.expand(size), flat)
        worth, risk = (part.reshape(count, size, -1) for part in self._worths(read))
        best = self._best(worth, risk)
        if depth > 1:
            best = best + self._further(read, flat, depth - 1).reshape(count, size)
        share = likelihood.mean(1)[..., None]
        blind = self._best((share * worth).sum(1), (share * risk).sum(1))
        values = (likelihood * best[:, None]).sum(-1)  # [N, P]
        info = values.mean(1) - blind
        error = values.std(1) / particles**0.5 if particles > 1 else torch.zeros_like(info)
        net = info - ask.cost(seen).to(info)
        if now is not None and ask.changes:
            net = net + blind - now
        return net, error, info, self.model.predict_safety(after).mean(1)

    def _ask_some(
        self,
        latent: Latent,
        seen: Seen,
        ask: ListedAsk,
        depth: int,
        now: Tensor | None,
        able: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        zero = torch.zeros(able.shape[0]).to(latent.h)
        whole = (torch.full_like(zero, -torch.inf), zero, zero.clone(), zero.clone())
        rows = able.nonzero()[:, 0]
        if rows.numel():
            part = {key: value[rows] for key, value in seen.items()}
            base = None if now is None else now[rows]
            found = self._ask(latent[rows], part, replace(ask, open=None), depth, base)
            for column, values in zip(whole, found, strict=True):
                column[rows] = values
        return whole

    def _step(self, latent: Latent, ask: ListedAsk) -> Latent:
        """The latents [N, P] after the call."""
        action = ask.action.to(latent.h).expand(*latent.batch_shape, -1)
        noise = None if self.noise is None else self.noise[0].expand(*latent.batch_shape, -1)
        return self.model.step(latent, action, noise)

    def _likelihood(self, latent: Latent, after: Latent, ask: ListedAsk, told: Seen) -> Tensor:
        """p(o) of the listed answers, [N, P, K]: predicted by the model itself where it can, else
        as the latent after the call decodes it."""
        keys = tuple(told) if ask.keys is None else ask.keys
        # Predicted once per particle: the K answers are broadcast against [N, P, 1].
        shown = {key: told[key].unsqueeze(1) for key in keys}
        offered = getattr(self.model, "next_log_likelihood", None)
        if offered is None:
            return self.model.log_likelihood(after.expand(1), shown).softmax(-1)
        action = ask.action.to(latent.h).expand(*latent.batch_shape, 1, -1)
        found: Tensor = offered(latent.expand(1), action, shown)
        return found.softmax(-1)

    def _read(self, after: Latent, flat: Seen) -> Latent:
        """Latents [N, P, K] that read the answers [N * K, ...]: [N * K, P]."""
        count, particles, size = after.batch_shape
        turned = after.map(
            lambda t: t.transpose(1, 2).reshape(count * size, particles, *t.shape[3:])
        )
        noise = None if self.noise is None else self.noise[1].expand(count * size, -1, -1)
        told = {
            key: value[:, None].expand(-1, particles, *value.shape[1:])
            for key, value in flat.items()
        }
        return self.model.condition(turned, told, noise)

    def _further(self, latent: Latent, seen: Seen, depth: int) -> Tensor:
        """What asking on is worth, at least nothing, [N]; in pieces that memory holds."""
        pieces = []
        at_once = max(1, _ROWS_AT_ONCE // latent.batch_shape[1])
        for rows in torch.split(torch.arange(latent.batch_shape[0]), at_once):
            part = {key: value[rows] for key, value in seen.items()}
            further = self.asked(latent[rows], part, depth)
            pieces.append(further.evsi.amax(-1).clamp_min(0.0))
        return torch.cat(pieces)

    def _worths(self, latent: Latent) -> tuple[Tensor, Tensor]:
        """Utility and V_s to go [N, C] of the candidates, the mean over the particles."""
        count, particles = latent.batch_shape
        horizon = horizon_of(self.candidates, self.tree.horizon)
        flat = latent.flatten()
        found = worth_of(self.model, flat, self.candidates, self.tree.utility, horizon, None)
        returns = found.returns.reshape(count, particles, -1).mean(1)
        if found.risks is None:
            return returns, torch.zeros_like(returns)
        risks = found.risks.reshape(count, particles, -1).mean(1)
        return returns - self.tree.utility.risk_weight * risks, risks

    def _best(self, worth: Tensor, risk: Tensor) -> Tensor:
        """The best candidate's utility [...] out of [..., C]; the limit bars some."""
        utility = self.tree.utility
        if utility.limit is not None:
            worth = worth.masked_fill(risk > utility.limit.bound, -torch.inf)
        best = worth.amax(-1)
        if utility.limit is None and utility.abstain is None:
            return best
        return best.clamp_min(utility.abstain or 0.0)
