"""Adaptive asking: call a tool, read it, and call again or choose, up to `depth` calls.

    V_0(b) = max_a E_b U_a        V_d(b) = max( V_0(b), max_k [ E_o V_{d-1}(b | k, o) - cost_k ] )

For asks that only inform and whose answers can be listed. One call can be worth nothing where two
are worth a lot; which second call to make may depend on the first answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from bb_wm.decide.evsi.estimate import assign_folds
from bb_wm.decide.evsi.samples import JointSamples
from bb_wm.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from torch import Tensor

_MOST = 4_000_000  # numbers in one level of the tree


@dataclass(frozen=True, slots=True)
class Lookahead:
    """What asking each tool first is worth, net, if up to depth - 1 further calls may follow.

    v_stop  max_a E U_a, choosing now        evsi[k]  V(ask k first, then the best) - v_stop
    `first` is the tool with the largest evsi, None where none is positive. standard_error[k] is of
    the honest score; all are means of an in-sample plug-in and an honest score.
    """

    v_stop: float
    evsi: dict[str, float]
    standard_error: dict[str, float]
    first: str | None
    depth: int


@dataclass(frozen=True, slots=True, eq=False)
class _Tool:
    name: str
    likelihood: Tensor
    cost: float


def lookahead(
    utility: Tensor,
    tools: Mapping[str, tuple[Tensor, float]],
    *,
    depth: int = 2,
    weights: Tensor | None = None,
    exact: bool = False,
    folds: int = 5,
    seed: int = 0,
) -> Lookahead:
    """Two-call lookahead (`depth` 2) from worlds: utility [N, C], tools name -> (p(o | i) [N, K],
    cost of a call). `exact`: the worlds are the whole belief. Raises ResourceError when the tree is
    too large, BatchError where a table is broken."""
    if not 1 <= depth <= 4:
        raise ConfigError("lookahead.depth", expected="1..4", actual=depth)
    if not tools:
        raise ConfigError("lookahead.tools", expected="at least one", actual="none")
    checked = []
    for name, (table, cost) in tools.items():
        if not math.isfinite(cost):
            raise ConfigError(f"cost of {name}", expected="finite", actual=cost)
        one = JointSamples(utility, likelihood=table, weights=weights, exact=exact).validated()
        assert one.likelihood is not None
        checked.append((one, _Tool(name, one.likelihood, float(cost))))
    samples, listed = checked[0][0], [tool for _, tool in checked]
    leaves = sum(tool.likelihood.shape[1] for tool in listed) ** depth
    if leaves * samples.count > _MOST * 8:
        raise ResourceError(
            "lookahead",
            expected=f"<= {_MOST * 8} numbers",
            actual=leaves * samples.count,
            hint="fewer tools, answers, worlds or calls.",
        )
    worth, share = samples.utility, samples.probability()
    folds = 1 if exact else min(folds, samples.count)
    fold = (
        torch.zeros(samples.count, dtype=torch.long)
        if exact
        else assign_folds(samples, folds, seed)
    )
    root = torch.ones(1, samples.count, dtype=torch.float64)
    hopeful = _first_calls(root, share, worth, listed, depth)
    scores = [hopeful[1]] if exact else []
    if not exact:
        whole = torch.zeros_like(hopeful[1])
        for f in range(folds):
            mine = fold == f
            others = share * ~mine
            part = _first_calls(root, others / others.sum(), worth, listed, depth)[1]
            whole[:, mine] = part[:, mine]
        scores = [whole]
    return _report(hopeful[0], scores[0], share, listed, depth, exact)


def _report(
    plug_in: Tensor, scores: Tensor, share: Tensor, tools: list[_Tool], depth: int, exact: bool
) -> Lookahead:
    """Row 0 is stopping, row k asking tool k first."""
    honest = (scores * share).sum(-1)
    middle = plug_in if exact else (plug_in + honest) / 2
    gains = middle[1:] - middle[0]
    difference = scores[1:] - scores[:1]
    centred = difference - (difference * share).sum(-1, keepdim=True)
    variance = (share.square() * centred.square()).sum(-1)
    error = torch.zeros_like(gains) if exact else variance.sqrt()
    best = int(gains.argmax())
    return Lookahead(
        v_stop=float(middle[0]),
        evsi={tool.name: float(g) for tool, g in zip(tools, gains, strict=True)},
        standard_error={tool.name: float(e) for tool, e in zip(tools, error, strict=True)},
        first=tools[best].name if float(gains[best]) > 0 else None,
        depth=depth,
    )


def _first_calls(
    reach: Tensor, choose: Tensor, worth: Tensor, tools: list[_Tool], depth: int
) -> tuple[Tensor, Tensor]:
    """Values [1 + tools] under the weights that choose, and the score of every world [.., N]."""
    value, score = _stop(reach, choose, worth)
    values, scores = [value[0]], [score[0]]
    for tool in tools:
        value, score = _ask(reach, choose, worth, tools, tool, depth)
        values.append(value[0])
        scores.append(score[0])
    return torch.stack(values), torch.stack(scores)


def _stop(reach: Tensor, choose: Tensor, worth: Tensor) -> tuple[Tensor, Tensor]:
    """The best candidate at nodes with p(answers so far | world) `reach` [M, N]."""
    value, pick = ((reach * choose) @ worth).max(-1)
    return value, reach * worth.T[pick]


def _ask(
    reach: Tensor, choose: Tensor, worth: Tensor, tools: list[_Tool], tool: _Tool, depth: int
) -> tuple[Tensor, Tensor]:
    nodes, count = reach.shape
    children = (reach[:, None] * tool.likelihood.T).reshape(-1, count)
    value, score = _best(children, choose, worth, tools, depth - 1)
    answers = tool.likelihood.shape[1]
    price = tool.cost * (reach * choose).sum(-1)
    value = value.reshape(nodes, answers).sum(1) - price
    return value, score.reshape(nodes, answers, count).sum(1) - tool.cost * reach


def _best(
    reach: Tensor, choose: Tensor, worth: Tensor, tools: list[_Tool], depth: int
) -> tuple[Tensor, Tensor]:
    """Stop or ask again, whichever the choosing weights prefer; ties stop."""
    value, score = _stop(reach, choose, worth)
    if depth == 0:
        return value, score
    for tool in tools:
        other, other_score = _ask(reach, choose, worth, tools, tool, depth)
        better = other > value + 1e-12 * value.abs()
        value = torch.where(better, other, value)
        score = torch.where(better[:, None], other_score, score)
    return value, score
