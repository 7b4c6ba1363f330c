"""What an EVSI says: the parts, the net, how sure, and why. Importable without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

ASK, DO_NOT_ASK, UNDECIDED = "ask", "do not ask", "undecided"


@dataclass(frozen=True, slots=True)
class EVSIResult:
    """The expected value of sample information of one ask, in units of utility.

    evsi = info + effect - cost
    info    V_read - V_blind, what reading the answer is worth
    effect  V_blind - V_no, what the call itself does: delay, wear, repair; any sign
    cost    the price of the call

    `lower`, `upper` are the 95 % interval of evsi, `standard_error` that of its honest score.
    `evpi_bound` bounds info from above (knowing the latent itself); never an estimate of it.
    `tower_gap` is the largest E_o E_q[U_a | o] - E[U_a] over candidates, with its standard error;
    `tower_alarm` (|gap| > 3 se) says that q, and every number computed from q alone, is not to be
    believed. NaN where it was not checked.
    `status`: "ask", "do not ask", "undecided", or "refused: why"; when undecided, the sign of evsi
    is the better guess. `alarms` name what a person should look at.
    `worlds` counts particles, `rollouts` imagined rollouts used.
    """

    name: str
    info: float
    effect: float
    cost: float
    evsi: float
    standard_error: float
    lower: float
    upper: float
    v_no: float
    v_blind: float
    v_read: float
    evpi_bound: float
    tower_gap: float
    tower_standard_error: float
    tower_alarm: bool
    effective_sample_size: float
    status: str
    worlds: int
    rollouts: int
    calls: int = 1
    estimator: str = ""
    opportunity_loss: float = math.nan
    alarms: tuple[str, ...] = ()

    @property
    def gain(self) -> float:
        """info + effect: gross, before the cost."""
        return self.info + self.effect

    @property
    def refused(self) -> bool:
        return self.status.startswith("refused")

    @property
    def usable(self) -> bool:
        """Not refused and every number that decides is finite."""
        numbers = (self.info, self.effect, self.cost, self.evsi, self.lower, self.upper)
        return not self.refused and all(math.isfinite(x) for x in numbers)

    def __str__(self) -> str:
        if self.refused:
            return f"{self.name}: {self.status}"
        return (
            f"{self.name}: EVSI {self.evsi:+.4g} [{self.lower:+.4g}, {self.upper:+.4g}] = info "
            f"{self.info:.4g} + effect {self.effect:+.4g} - cost {self.cost:.4g}: {self.status}"
        )


def refusal(name: str, why: str, *, cost: float = math.nan, calls: int = 1) -> EVSIResult:
    """A result without numbers: whoever reads it must not ask, nor act on it."""
    nan = math.nan
    return EVSIResult(
        name=name,
        info=nan,
        effect=nan,
        cost=cost,
        evsi=nan,
        standard_error=nan,
        lower=nan,
        upper=nan,
        v_no=nan,
        v_blind=nan,
        v_read=nan,
        evpi_bound=nan,
        tower_gap=nan,
        tower_standard_error=nan,
        tower_alarm=False,
        effective_sample_size=0.0,
        status=f"refused: {why}",
        worlds=0,
        rollouts=0,
        calls=calls,
    )


@dataclass(frozen=True, slots=True)
class Ranking:
    """Several asks estimated on the same worlds, best net first.

    `best` is the ask with the largest gross - cost. `selected` is what choosing it is really
    worth: the ask is chosen on some folds and its net is read on the held one, so the optimiser's
    curse (the best of several noisy estimates looks too good) is not in it; `selected_error` its
    standard error. `status` decides on that, for the best ask.
    """

    results: tuple[EVSIResult, ...]
    selected: float
    selected_error: float
    status: str

    @property
    def best(self) -> EVSIResult:
        return self.results[0]

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, name: str) -> EVSIResult:
        for result in self.results:
            if result.name == name:
                return result
        raise KeyError(name)


def opportunity_loss(evsi: float, standard_error: float) -> float:
    """Expected loss of acting now on the sign of evsi: se [phi(u) - u Phi(-u)], u = |evsi| / se.

    At u = 0 it is .3989 se; it falls to .0833 se at u = 1.
    """
    if standard_error <= 0:
        return 0.0
    u = abs(evsi) / standard_error
    density = math.exp(-0.5 * u * u) / math.sqrt(2 * math.pi)
    return standard_error * (density - u * 0.5 * math.erfc(u / math.sqrt(2)))
