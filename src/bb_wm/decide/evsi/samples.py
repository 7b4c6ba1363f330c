"""Joint samples: what EVSI is computed from, and the door for those who bring their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from bb_wm.errors import BatchError, RangeError

if TYPE_CHECKING:
    from torch import Tensor

_PAIRS = 64  # candidates up to which pointwise dominated ones are looked for


@dataclass(frozen=True, slots=True, eq=False)
class JointSamples:
    """N draws of (world, answer, worth of every candidate) for one ask.

    utility     [N, C]   U of candidate c in world i after the call, without the price of the call
    before      [N, C0]  U without the call; None when the call only informs (then effect = 0)
    risk, before_risk    V_s >= 0 of the same shapes, where a criterion reads them
    likelihood  [N, K]   p(answer k | world i), rows summing to 1: answers are summed over exactly
    features    [N, R, F] what the agent knows after answer r of world i, a function of the answer
                         alone (statistics of q(. | h', o')): answers are regressed on
    weights     [N]      of the worlds, equal when None
    exact       the N worlds are the whole belief, not draws from it: no sampling error remains
    groups      [N]      worlds that share an ancestor stay in one fold
    strata      [N]      every fold gets its share of each stratum: the few atoms of a known belief
    reread      [N, C]   U from a latent drawn from q after the answer, for the tower check; equal
                         to utility where a candidate was not imagined again
    reread_features [N, G] what the agent knows after that answer; None checks averages only
    call_risk   [N]      V_s of the call itself
    rollouts    how many imagined rollouts these samples took
    collapsed   q did not move with the answers although the answers differ

    Exactly one of `likelihood` and `features` is given. All values must be finite.
    """

    utility: Tensor
    before: Tensor | None = None
    risk: Tensor | None = None
    before_risk: Tensor | None = None
    likelihood: Tensor | None = None
    features: Tensor | None = None
    weights: Tensor | None = None
    exact: bool = False
    groups: Tensor | None = None
    strata: Tensor | None = None
    reread: Tensor | None = None
    reread_features: Tensor | None = None
    call_risk: Tensor | None = None
    rollouts: int = 0
    collapsed: bool = False

    @property
    def count(self) -> int:
        return int(self.utility.shape[0])

    def validated(self) -> JointSamples:
        """The same in float64, or BatchError naming the field that cannot be used."""
        given = {
            name: None if getattr(self, name) is None else _real(name, getattr(self, name))
            for name in _SHAPES
        }
        worth = given["utility"]
        if worth is None or worth.dim() != 2 or 0 in worth.shape:
            raise BatchError("utility", expected="[N, C], both > 0", actual=_shape(worth))
        sizes = {"N": worth.shape[0], "C": worth.shape[1]}
        for name, axes in _SHAPES.items():
            _check_axes(name, given[name], axes, sizes)
        if (given["likelihood"] is None) == (given["features"] is None):
            raise BatchError(
                "answers", expected="either likelihood or features", actual="both or neither"
            )
        _check_ranges(given)
        if given["weights"] is not None:
            given["weights"] = given["weights"] / given["weights"].sum()
        groups = None if self.groups is None else torch.as_tensor(self.groups).long().flatten()
        if groups is not None and groups.shape[0] != sizes["N"]:
            raise BatchError("groups", expected=[sizes["N"]], actual=list(groups.shape))
        strata = None if self.strata is None else torch.as_tensor(self.strata).long().flatten()
        if strata is not None and strata.shape[0] != sizes["N"]:
            raise BatchError("strata", expected=[sizes["N"]], actual=list(strata.shape))
        return replace(self, groups=groups, strata=strata, **given)  # type: ignore[arg-type]

    def probability(self) -> Tensor:
        """Weights [N] that sum to 1."""
        if self.weights is not None:
            return self.weights
        return torch.full((self.count,), 1.0 / self.count, dtype=torch.float64)

    def effective_size(self) -> float:
        """1 / sum w^2: how many equal draws these are worth."""
        return float(1.0 / self.probability().square().sum())

    @staticmethod
    def concatenate(parts: list[JointSamples]) -> JointSamples:
        """Stages of one sequential estimate put together, each with its share of the weight."""
        if len(parts) == 1:
            return parts[0]
        total = sum(part.count for part in parts)

        def join(name: str) -> Tensor | None:
            values = [getattr(part, name) for part in parts]
            return None if values[0] is None else torch.cat(values)

        weights = None
        if any(part.weights is not None for part in parts):
            weights = torch.cat([part.probability() * (part.count / total) for part in parts])
        tensors = {name: join(name) for name in (*_SHAPES, "groups", "strata") if name != "weights"}
        return replace(
            parts[0],
            weights=weights,
            rollouts=sum(part.rollouts for part in parts),
            collapsed=all(part.collapsed for part in parts),
            **tensors,  # type: ignore[arg-type]
        )


_SHAPES = {
    "utility": "NC",
    "before": "NB",
    "risk": "NC",
    "before_risk": "NB",
    "likelihood": "NK",
    "features": "NRF",
    "weights": "N",
    "reread": "NC",
    "reread_features": "NG",
    "call_risk": "N",
}


def prune(utility: Tensor, risk: Tensor | None) -> Tensor:
    """Indices of candidates that are not matched or beaten in every single world by another one.

    A duplicate or dominated candidate can never be worth choosing; left in, it would only add
    noise to a maximum. Of equal candidates the first stays.
    """
    count = utility.shape[1]
    if count == 1 or count > _PAIRS:
        return torch.arange(count)
    if risk is None:
        covers = torch.stack([(utility >= utility[:, [c]]).all(0) for c in range(count)])
        same = torch.stack([(utility == utility[:, [c]]).all(0) for c in range(count)])
    else:
        covers = torch.stack(
            [((utility >= utility[:, [c]]) & (risk <= risk[:, [c]])).all(0) for c in range(count)]
        )
        same = torch.stack(
            [((utility == utility[:, [c]]) & (risk == risk[:, [c]])).all(0) for c in range(count)]
        )
    # covers[c, d]: d is at least as good as c in every world.
    earlier = torch.arange(count)[None] < torch.arange(count)[:, None]
    beaten = (covers & (~same | earlier) & ~torch.eye(count, dtype=torch.bool)).any(1)
    return torch.nonzero(~beaten).flatten()


def _real(name: str, value: Any) -> Tensor:
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BatchError(name, expected="numbers", actual=type(value).__name__) from error
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise BatchError(name, expected="real numbers", actual=tensor.dtype)
    tensor = tensor.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise BatchError(name, expected="finite numbers", actual=f"{bad} NaN or infinite")
    return tensor


def _check_axes(name: str, value: Tensor | None, axes: str, sizes: dict[str, int]) -> None:
    if value is None:
        return
    expected = [sizes.get(axis, axis) for axis in axes]
    fits = value.dim() == len(axes) and 0 not in value.shape
    for axis, size in zip(axes, value.shape, strict=False):
        fits = fits and sizes.setdefault(axis, int(size)) == size
    if not fits:
        raise BatchError(name, expected=expected, actual=list(value.shape))


def _check_ranges(given: dict[str, Tensor | None]) -> None:
    for name in ("risk", "before_risk", "call_risk", "weights", "likelihood"):
        value = given[name]
        if value is not None and bool((value < 0).any()):
            raise RangeError(name, expected=">= 0", actual=float(value.min()))
    weights, table = given["weights"], given["likelihood"]
    if weights is not None and not float(weights.sum()) > 0:
        raise RangeError("weights", expected="a positive sum", actual=float(weights.sum()))
    if table is not None and float((table.sum(-1) - 1).abs().max()) > 1e-6:
        raise RangeError(
            "likelihood",
            expected="rows that sum to 1",
            actual=f"off by up to {float((table.sum(-1) - 1).abs().max()):.3g}",
            hint="list every answer, 'no answer' too.",
        )


def _shape(value: Tensor | None) -> object:
    return "none" if value is None else list(value.shape)
