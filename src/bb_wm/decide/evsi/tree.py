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

    samples  z imagined per latent and ask to average p(o | h, z) over, in pairs +-x. 0: p(o) at the
             mode of the call's step. A decoder learnt open loop, as `WorldModel`'s is by its
             rollout loss, gives the predictive p(o) itself there; a simulator whose z is the truth
             needs samples
    inner    the same further ahead
    utility  how candidates are valued; a limit per outcome bars a candidate, `abstain` is always
             there beside one
    """

    depth: int = 2
    samples: int = 0
    inner: int = 0
    utility: Utility = Utility()  # noqa: RUF009 (frozen)
    horizon: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= 4:
            raise ConfigError("AskTree.depth", expected="1..4", actual=self.depth)
        for name in ("samples", "inner"):
            value = getattr(self, name)
            if value < 0 or value % 2:
                raise ConfigError(f"AskTree.{name}", expected="an even number >= 0", actual=value)
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
        """Worth of every ask at latents [N] where `seen` [N, *shape] was observed last.

        Deterministic: the same luck for every latent, drawn from `seed`.
        """
        if len(latent.batch_shape) != 1:
            raise BatchError("latent", expected="one batch axis [N]", actual=latent.batch_shape)
        if not asks or len({ask.name for ask in asks}) != len(asks):
            names = [ask.name for ask in asks]
            raise ConfigError("asks", expected="one or more of different names", actual=names)
        generator = torch.Generator().manual_seed(self.seed)
        half = draw_noise((max(self.samples, self.inner) // 2, model.noise_size), generator)
        noise = torch.stack([half, -half], dim=1).flatten(0, 1).to(latent.h)
        with torch.no_grad():
            return _Level(self, model, list(asks), candidates, noise).asked(
                latent, seen, self.depth, self.samples
            )


@dataclass(frozen=True, slots=True, eq=False)
class _Level:
    """What stays the same all over the tree."""

    tree: AskTree
    model: Observer
    asks: list[ListedAsk]
    candidates: Candidates
    noise: Tensor

    def asked(self, latent: Latent, seen: Seen, depth: int, samples: int) -> Asked:
        now = self._best(*self._worths(latent)) if any(a.changes for a in self.asks) else None
        parts = [self._ask(latent, seen, ask, depth, samples, now) for ask in self.asks]
        evsi, error, info, risk = (torch.stack(p, dim=-1) for p in zip(*parts, strict=True))
        return Asked(evsi, error, info, risk)

    def _ask(
        self,
        latent: Latent,
        seen: Seen,
        ask: ListedAsk,
        depth: int,
        samples: int,
        now: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Net, standard error, info and risk [N] of one ask; looked at only where it is open."""
        if ask.open is not None:
            able = ask.open(seen).bool()
            if not bool(able.all()):
                return self._ask_some(latent, seen, ask, depth, samples, now, able)
        told = ask.answers(seen)
        count = latent.batch_shape[0]
        kinds = {int(value.shape[1]) for value in told.values()}
        if len(kinds) != 1 or any(value.shape[0] != count for value in told.values()):
            raise BatchError(
                f"answers of {ask.name}",
                expected=f"[{count}, K, ...] with one K in every key",
                actual={key: list(value.shape) for key, value in told.items()},
            )
        size = kinds.pop()
        probability, after = self._predicted(latent, ask, told, samples)
        after_each = after.expand(size).flatten()
        flat = {key: value.flatten(0, 1) for key, value in told.items()}
        read = self.model.condition(after_each, flat)
        worth, risk = (part.reshape(count, size, -1) for part in self._worths(read))
        best = self._best(worth, risk)
        if depth > 1:
            best = best + self._further(read, flat, depth - 1).reshape(count, size)
        values = (probability * best[:, None]).sum(-1)  # [N, samples]
        share = probability.mean(1)[..., None]
        blind = self._best((share * worth).sum(1), (share * risk).sum(1))
        info = values.mean(1) - blind
        pairs = values.reshape(count, -1, min(2, values.shape[1])).mean(-1)
        error = pairs.std(1) / pairs.shape[1] ** 0.5 if pairs.shape[1] > 1 else pairs[:, 0] * 0
        net = info - ask.cost(seen).to(info)
        if now is not None and ask.changes:
            net = net + blind - now
        return net, error, info, self.model.predict_safety(after)

    def _ask_some(
        self,
        latent: Latent,
        seen: Seen,
        ask: ListedAsk,
        depth: int,
        samples: int,
        now: Tensor | None,
        able: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        zero = torch.zeros(able.shape[0]).to(latent.h)
        whole = (torch.full_like(zero, -torch.inf), zero, zero.clone(), zero.clone())
        rows = able.nonzero()[:, 0]
        if rows.numel():
            part = {key: value[rows] for key, value in seen.items()}
            base = None if now is None else now[rows]
            found = self._ask(latent[rows], part, replace(ask, open=None), depth, samples, base)
            for column, values in zip(whole, found, strict=True):
                column[rows] = values
        return whole

    def _predicted(
        self, latent: Latent, ask: ListedAsk, told: Seen, samples: int
    ) -> tuple[Tensor, Latent]:
        """p(o | z_i) of the listed answers [N, samples or 1, K], and the latents after the call."""
        count = latent.batch_shape[0]
        action = ask.action.to(latent.h).expand(count, max(1, samples), -1)
        noise = self.noise[:samples].expand(count, samples, -1) if samples else None
        imagined = self.model.step(latent.expand(max(1, samples)), action, noise)
        # Decoded once per z: the K answers are broadcast against [N, samples, 1].
        keys = tuple(told) if ask.keys is None else ask.keys
        shown = {key: told[key].unsqueeze(1) for key in keys}
        likelihood = self.model.log_likelihood(imagined.expand(1), shown)
        return likelihood.softmax(-1), imagined[:, 0]

    def _further(self, latent: Latent, seen: Seen, depth: int) -> Tensor:
        """What asking on is worth, at least nothing, [N]; in pieces that memory holds."""
        pieces = []
        for rows in torch.split(torch.arange(latent.batch_shape[0]), _ROWS_AT_ONCE):
            part = {key: value[rows] for key, value in seen.items()}
            further = self.asked(latent[rows], part, depth, self.tree.inner)
            pieces.append(further.evsi.amax(-1).clamp_min(0.0))
        return torch.cat(pieces)

    def _worths(self, latent: Latent) -> tuple[Tensor, Tensor]:
        """Utility and V_s to go [N, C] of the candidates."""
        horizon = horizon_of(self.candidates, self.tree.horizon)
        found = worth_of(self.model, latent, self.candidates, self.tree.utility, horizon, None)
        risks = torch.zeros_like(found.returns) if found.risks is None else found.risks
        return found.returns - self.tree.utility.risk_weight * risks, risks

    def _best(self, worth: Tensor, risk: Tensor) -> Tensor:
        """The best candidate's utility [...] out of [..., C]; the limit bars some."""
        utility = self.tree.utility
        if utility.limit is not None:
            worth = worth.masked_fill(risk > utility.limit.bound, -torch.inf)
        best = worth.amax(-1)
        if utility.limit is None and utility.abstain is None:
            return best
        return best.clamp_min(utility.abstain or 0.0)
