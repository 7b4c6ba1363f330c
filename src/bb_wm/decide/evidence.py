"""What a gate judges: the numbers of one state, as they came out of planning and asking.

Nothing here is checked on the way in: a NaN is evidence too, and the gate answers it with HOLD.
Plain Python numbers, numpy scalars and one-element tensors are all taken. No torch is imported.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from typing import Any

from bb_wm.errors import BatchError


def number(value: Any) -> float:
    """The value as a float; NaN for whatever is not one number (None, text, bools, lists)."""
    if value is None or isinstance(value, bool | str | bytes):
        return math.nan
    try:
        return float(value)
    except Exception:
        return math.nan


@dataclass(frozen=True, slots=True)
class CandidateEvidence:
    """What is known of one candidate. Units of utility, and of V_s for the risks (larger is worse).

    risk            estimated risk to go of doing it
    risk_bound      calibrated upper bound on that risk; inf where there is none
    standard_error  of `utility`
    cost            price of doing it that `utility` does not contain yet (never count it twice)
    """

    name: str
    utility: float
    risk: float
    risk_bound: float
    standard_error: float = 0.0
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class AskEvidence:
    """What is known of one ask: its worth net of cost, how sure that is, and the risk of the call.

    `lower` and `upper` bound `evsi` (95 %). `usable` is False where the estimator refused.
    """

    name: str
    evsi: float
    lower: float
    upper: float
    risk: float
    risk_bound: float
    standard_error: float = 0.0
    info: float = 0.0
    effect: float = 0.0
    cost: float = 0.0
    usable: bool = True

    @classmethod
    def of(cls, result: Any, *, risk: float, risk_bound: float) -> AskEvidence:
        """From what `EVSI(...)` gives (EVSIResult), with the risk of making the call itself."""
        return cls(
            name=str(result.name),
            evsi=number(result.evsi),
            lower=number(result.lower),
            upper=number(result.upper),
            risk=number(risk),
            risk_bound=number(risk_bound),
            standard_error=number(result.standard_error),
            info=number(result.info),
            effect=number(result.effect),
            cost=number(result.cost),
            usable=bool(result.usable),
        )


def numbers_of(option: CandidateEvidence | AskEvidence) -> dict[str, float]:
    """Every number that is known of a candidate or an ask, by name."""
    names = [field.name for field in fields(option) if field.name not in ("name", "usable")]
    return {name: number(getattr(option, name)) for name in names}


@dataclass(frozen=True, slots=True)
class Fault:
    """An exception that was caught on the way to the evidence, and the stage it happened in."""

    stage: str
    error: str
    message: str

    @classmethod
    def of(cls, error: BaseException, stage: str) -> Fault:
        named = getattr(error, _STAGE, None)
        with suppress(Exception):  # the same object may be raised again elsewhere
            delattr(error, _STAGE)
        return cls(str(named or stage), type(error).__name__, str(error)[:200])


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything the gate is told about one state. Times are seconds of one monotonic clock.

    candidates       what could be done
    hold_utility     utility of doing nothing; a candidate's gain is counted from it
    horizon          rows imagined to get these numbers
    observed_at      when the observation behind the belief was made
    policy           name or digest of what proposed the candidates; None or "" is missing
    asks             what could be asked first
    trusted_horizon  how far this latent may be imagined, where the model says so
    ood              out-of-distribution score, larger is stranger, where there is one
    deadline         the decision is worth nothing later
    limit            this state's own risk limit; the smaller of it and the gate's binds
    model            digest of the model, where the gate pins one
    fault            a stage that failed; then the rest is not believed
    """

    candidates: Sequence[CandidateEvidence]
    hold_utility: float
    horizon: int
    observed_at: float
    policy: str | None
    asks: Sequence[AskEvidence] = ()
    trusted_horizon: int | None = None
    ood: float | None = None
    deadline: float | None = None
    limit: float | None = None
    model: str | None = None
    fault: Fault | None = None
    decision_id: str = ""

    @classmethod
    def of_arrays(
        cls,
        *,
        utilities: Iterable[Any],
        risks: Iterable[Any],
        risk_bounds: Iterable[Any],
        spreads: Iterable[Any] | None = None,
        names: Iterable[str] | None = None,
        **state: Any,
    ) -> Evidence:
        """From one array per quantity, [M] each; `spreads` are standard errors of the utilities.

        Raises BatchError when the lengths differ; numbers are not looked at. `state` holds the
        fields of Evidence.
        """
        columns = [list(utilities), list(risks), list(risk_bounds)]
        count = len(columns[0])
        columns.append([0.0] * count if spreads is None else list(spreads))
        labels = [str(i) for i in range(count)] if names is None else [str(n) for n in names]
        sizes = [len(column) for column in (*columns, labels)]
        if len(set(sizes)) != 1:
            raise BatchError("candidates", expected="columns of one length", actual=sizes)
        rows = zip(labels, *columns, strict=True)
        made = tuple(
            CandidateEvidence(name, number(u), number(v), number(b), number(e))
            for name, u, v, b, e in rows
        )
        return cls(candidates=made, **state)

    @classmethod
    def failed(cls, fault: Fault) -> Evidence:
        """Evidence of nothing but a failure: always HOLD."""
        return cls(
            candidates=(),
            hold_utility=math.nan,
            horizon=0,
            observed_at=math.nan,
            policy=None,
            fault=fault,
        )


_STAGE = "__bb_wm_stage__"


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Names what is being done, so that a failure inside is reported with this name.

    The innermost stage wins. The exception itself goes on unchanged.
    """
    try:
        yield
    except Exception as error:
        if not hasattr(error, _STAGE):
            # an exception that takes no attributes keeps its secret; the outer name serves
            with suppress(Exception):
                setattr(error, _STAGE, name)
        raise
