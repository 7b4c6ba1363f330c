"""The latency governor: a planner within a budget of milliseconds, and it says what that cost.

The planner is put on a ladder of cheaper ones: fewer candidates first, then fewer rows ahead (or
the other way round). Each plan is made on the richest rung that is expected, from measured times,
to end within the budget. A plan that does not end in time is cut off and not given out.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from bb_wm.decide.evidence import Fault
from bb_wm.errors import ConfigError
from bb_wm.imagine.belief import Belief

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.decide.plan import Plan
    from bb_wm.decide.planner import Planner
    from bb_wm.protocols import Dynamics
    from bb_wm.types import Latent

_TICK = 1e-6  # milliseconds; a clock that stood still says nothing, but must not be divided by
_RATIO = 0.7  # from rung to rung; finer rungs take longer to climb, coarser ones waste budget


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyBudget:
    """What a plan may cost, and what may be given up for it.

    milliseconds      of one call of `plan`, all starts together
    least_candidates, least_horizon   the cheapest planner that is still worth asking
    first             what is given up first. Fewer candidates miss better plans; fewer rows ahead
                      miss risk that comes later, and V_s to go is then summed over fewer rows: a
                      limit on it must be one for that horizon.
    reserve           share of the budget kept free: a rung is taken if its expected time is within
                      the rest
    climb             a richer rung must fit into this share of the budget ...
    patience          ... for so many plans in a row before it is taken (hysteresis)
    window            plans over which the machine's slowest moment counts
    """

    milliseconds: float
    least_candidates: int = 16
    least_horizon: int = 3
    first: Literal["candidates", "horizon"] = "candidates"
    reserve: float = 0.1
    climb: float = 0.75
    patience: int = 8
    window: int = 16

    def __post_init__(self) -> None:
        for name in ("least_candidates", "least_horizon", "patience", "window"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"LatencyBudget.{name}", expected="an int >= 1", actual=value)
        if not 0 < self.milliseconds < float("inf"):
            raise ConfigError(
                "LatencyBudget.milliseconds", expected="a number > 0", actual=self.milliseconds
            )
        if not 0 <= self.reserve < 1:
            raise ConfigError("LatencyBudget.reserve", expected="in [0, 1)", actual=self.reserve)
        if not 0 < self.climb <= 1 - self.reserve:
            raise ConfigError(
                "LatencyBudget.climb",
                expected="in (0, 1 - reserve]",
                actual=self.climb,
                hint="a rung that is climbed to must also be one that is kept.",
            )
        if self.first not in ("candidates", "horizon"):
            raise ConfigError(
                "LatencyBudget.first", expected="'candidates' or 'horizon'", actual=self.first
            )


@dataclass(frozen=True, slots=True)
class LatencyReport:
    """What one plan was allowed, what it took and what was given up; times in milliseconds.

    `rung` counts from 0, the cheapest, to `rungs` - 1, the planner as it was given; `candidates` is
    0 for a planner that has no such setting. `expected` is None before anything was measured.
    """

    budget: float
    spent: float
    expected: float | None
    rung: int
    rungs: int
    horizon: int
    full_horizon: int
    candidates: int
    full_candidates: int
    moved: Literal["down", "up", "stayed"]
    on_time: bool

    @property
    def shortened(self) -> bool:
        """Whether the plan is not the one the planner as given would have made."""
        return self.rung < self.rungs - 1

    @property
    def words(self) -> str:
        """One sentence for a person."""
        took = f"{self.spent:.1f} of {self.budget:g} ms"
        if not self.on_time:
            return f"No plan: it was cut off after {took}, on rung {self.rung + 1} of {self.rungs}."
        if not self.shortened:
            return f"Planned in full, {took}."
        what = []
        if self.candidates < self.full_candidates:
            what.append(f"{self.candidates} of {self.full_candidates} candidates")
        if self.horizon < self.full_horizon:
            what.append(f"{self.horizon} of {self.full_horizon} rows ahead")
        return f"Shortened to {' and '.join(what)} to keep the budget, {took}."

    @property
    def fault(self) -> Fault | None:
        """For Evidence.fault: a gate that reads it HOLDs where there is no plan in time."""
        return None if self.on_time else Fault("planning", "OutOfTime", self.words)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, for the context of a ledger's record."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**plain, "shortened": self.shortened, "words": self.words}


@dataclass(frozen=True, slots=True)
class GovernedPlan:
    """A plan made within the budget, or None where there was none in time, and the report."""

    plan: Plan | None
    report: LatencyReport


class Governor:
    """Plans within a budget. It remembers how long plans took, so keep one per planner and model.

    Given the same readings of `clock` (seconds) it makes the same choices. The expected time of a
    rung never falls with its richness. Without `measure` it begins on the cheapest rung and climbs.
    """

    def __init__(
        self,
        planner: Planner,
        budget: LatencyBudget,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.budget = budget
        self.clock = clock
        self.rungs = ladder(planner, budget)
        self.rung = 0
        self._cost: dict[int, float] = {}  # milliseconds per start, by rung, when it was measured
        self._slowness: deque[float] = deque(maxlen=budget.window)
        self._comfortable = 0

    def measure(
        self, model: Dynamics, latent: Latent | Belief, *, repeats: int = 3, **options: Any
    ) -> tuple[float, ...]:
        """Times every rung, the cheapest first, until one exceeds the budget; then starts anew from
        the richest that fits. Gives the milliseconds of those measured (the slowest of `repeats`;
        one more before it warms up). Do this before a service opens: it keeps to no budget.
        """
        if repeats < 1:
            raise ConfigError("repeats", expected="1 or more", actual=repeats)
        self._slowness.clear()
        self._comfortable, starts, times = 0, _starts(latent), []
        self._cost.clear()
        for rung in range(len(self.rungs)):
            self._timed(rung, model, latent, None, options)
            slowest = max(
                self._timed(rung, model, latent, None, options)[1] for _ in range(repeats)
            )
            times.append(slowest)
            self._cost[rung] = slowest / starts
            if slowest > self.budget.milliseconds:
                break
        self.rung = self._richest(starts) or 0
        return tuple(times)

    def plan(self, model: Dynamics, latent: Latent | Belief, **options: Any) -> GovernedPlan:
        """The plan of the richest rung that fits; `options` go to `Planner.plan`.

        `previous` and a `mask` of every step are cut to the rung's horizon. Raises ConfigError for
        `noise`, whose shape would depend on the rung: pass a generator.
        """
        if options.get("noise") is not None:
            raise ConfigError("noise", expected="none under a governor", actual="given")
        starts = _starts(latent)
        before = self.rung
        self.rung = self._choose(starts)
        expected = self._expected(self.rung, starts)
        plan, spent = self._timed(self.rung, model, latent, self.budget.milliseconds, options)
        self._learn(self.rung, spent, starts)
        moved: Literal["down", "up", "stayed"] = "stayed"
        if self.rung != before:
            moved = "down" if self.rung < before else "up"
        on_time = plan is not None and spent <= self.budget.milliseconds
        report = self._report(spent, expected, moved, on_time)
        return GovernedPlan(plan if on_time else None, report)

    # --- inside ----------------------------------------------------------------------------------

    def _choose(self, starts: int) -> int:
        """Down at once and as far as needed; up one rung, after patience."""
        within = self.budget.milliseconds * (1 - self.budget.reserve)
        now = self._expected(self.rung, starts)
        if now is not None and now > within:
            self._comfortable = 0
            fits = self._richest(starts)
            return 0 if fits is None else min(fits, self.rung)
        if self.rung == len(self.rungs) - 1:
            return self.rung
        richer = self._expected(self.rung + 1, starts)
        easy = richer is not None and richer <= self.budget.milliseconds * self.budget.climb
        self._comfortable = self._comfortable + 1 if easy else 0
        if self._comfortable < self.budget.patience:
            return self.rung
        self._comfortable = 0
        return self.rung + 1

    def _richest(self, starts: int) -> int | None:
        within = self.budget.milliseconds * (1 - self.budget.reserve)
        for rung in reversed(range(len(self.rungs))):
            expected = self._expected(rung, starts)
            if expected is not None and expected <= within:
                return rung
        return None

    def _expected(self, rung: int, starts: int) -> float | None:
        """Milliseconds [of all starts] a rung would take now; never less than a cheaper rung's.

        As measured, times how much slower than that the slowest recent plan was. What was not
        measured is scaled by its work from the nearest rung that was.
        """
        if not self._cost:
            return None
        slowness = max(self._slowness, default=1.0)
        cost = max(self._cost_of(cheaper) for cheaper in range(rung + 1))
        return cost * starts * slowness

    def _cost_of(self, rung: int) -> float:
        if rung in self._cost:
            return self._cost[rung]
        nearest = min(self._cost, key=lambda known: (abs(known - rung), known))
        return self._cost[nearest] * work(self.rungs[rung]) / work(self.rungs[nearest])

    def _learn(self, rung: int, spent: float, starts: int) -> None:
        if rung not in self._cost:
            # Told apart from a slow moment by how slow the measured rungs are just now.
            self._cost[rung] = spent / starts / max(self._slowness, default=1.0)
        self._slowness.append(spent / starts / self._cost[rung])

    def _timed(
        self,
        rung: int,
        model: Dynamics,
        latent: Latent | Belief,
        milliseconds: float | None,
        options: dict[str, Any],
    ) -> tuple[Plan | None, float]:
        """A plan, or None where it was cut off; and the milliseconds it took."""
        planner = self.rungs[rung]
        fitted = _fit_options(options, planner.horizon, len(latent.batch_shape) + 2)
        began = self.clock()
        until = float("inf") if milliseconds is None else began + milliseconds / 1000
        plan: Plan | None = None
        try:
            watched = cast("Dynamics", _Watched(model, self.clock, until))
            plan = planner.plan(watched, latent, **fitted)
            _wait_for(plan.actions)
        except _OutOfTimeError:
            plan = None
        return plan, max(1000 * (self.clock() - began), _TICK)

    def _report(
        self,
        spent: float,
        expected: float | None,
        moved: Literal["down", "up", "stayed"],
        on_time: bool,
    ) -> LatencyReport:
        mine, full = self.rungs[self.rung], self.rungs[-1]
        return LatencyReport(
            budget=self.budget.milliseconds,
            spent=spent,
            expected=expected,
            rung=self.rung,
            rungs=len(self.rungs),
            horizon=mine.horizon,
            full_horizon=full.horizon,
            candidates=getattr(mine, "candidates", 0),
            full_candidates=getattr(full, "candidates", 0),
            moved=moved,
            on_time=on_time,
        )


def ladder(planner: Planner, budget: LatencyBudget) -> tuple[Planner, ...]:
    """The planner and cheaper ones, the cheapest first; each gives up candidates or rows ahead."""
    names = ["candidates", "horizon"] if budget.first == "candidates" else ["horizon", "candidates"]
    least = {"candidates": budget.least_candidates, "horizon": budget.least_horizon}
    found = [planner]
    for name in names:
        value = getattr(planner, name, None)
        while isinstance(value, int) and value > least[name]:
            value = max(least[name], min(value - 1, int(value * _RATIO)))
            found.append(_with(found[-1], name, value, planner))
    return tuple(reversed(found))


def work(planner: Planner) -> int:
    """Imagined rows of one plan of one start, up to a factor: rounds x candidates x horizon."""
    rounds, candidates = planner.search_shape
    return max(rounds * candidates, 1) * planner.horizon


def _with(planner: Planner, name: str, value: int, full: Planner) -> Planner:
    changes: dict[str, int] = {name: value}
    elites = getattr(full, "elites", None)
    if name == "candidates" and isinstance(elites, int):
        # The same share of the candidates shapes the next round.
        share = elites / int(getattr(full, name))
        changes["elites"] = min(value, max(1, round(share * value)))
    return replace(planner, **changes)


def _starts(latent: Latent | Belief) -> int:
    count = 1
    for axis in latent.batch_shape:
        count *= axis
    return max(count, 1)


def _fit_options(options: dict[str, Any], horizon: int, every_step: int) -> dict[str, Any]:
    """The options for a shorter horizon: the previous plan and a mask of `every_step` (by its
    number of axes) are cut."""
    fitted = dict(options)
    mask = options.get("mask")
    if mask is not None and mask.dim() == every_step:
        fitted["mask"] = mask[..., :horizon, :]
    previous: Plan | None = options.get("previous")
    if previous is not None:
        fitted["previous"] = _fit_plan(previous, horizon)
    return fitted


def _fit_plan(plan: Plan, horizon: int) -> Plan | None:
    """The plan's first rows; None where it is shorter than the horizon: then the search is cold."""
    if plan.actions.shape[-2] < horizon:
        return None
    names = ("actions", "candidates", "scores", "centre")
    return replace(plan, **{name: getattr(plan, name)[..., :horizon, :] for name in names})


def _wait_for(tensor: Tensor) -> None:
    """On a GPU a call returns before its work is done; only what is done counts."""
    if tensor.is_cuda:
        import torch

        torch.cuda.synchronize(tensor.device)


class _OutOfTimeError(Exception):
    """Raised between two imagined rows; never leaves the governor."""


class _Watched:
    """The same dynamics in all they answer, but a step after the deadline is not taken."""

    def __init__(self, model: Dynamics, clock: Callable[[], float], until: float) -> None:
        self._model, self._clock, self._until = model, clock, until

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def step(self, latent: Latent, action: Tensor, noise: Tensor | None = None) -> Latent:
        if self._clock() >= self._until:
            raise _OutOfTimeError
        return self._model.step(latent, action, noise)
