"""One smell: what it is, whether it is there, by which numbers, and what to do."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from bb_wm.diagnose.report import Measured

FOUND: Final = "found"
CLEAR: Final = "clear"
UNKNOWN: Final = "not enough evidence"
Status = Literal["found", "clear", "not enough evidence"]
Severity = Literal["serious", "warning"]


@dataclass(frozen=True, slots=True)
class Smell:
    """The verdict on one smell.

    evidence   the measured numbers in a sentence; where status is "not enough evidence", what lacks
    threshold  the number the evidence was held against, and `reason` why it is that
    severity   "serious": do not act on this model; "warning": know it
    numbers    what was measured, by name
    episode, row  where it shows most, -1 where it has no place
    """

    name: str
    status: Status
    severity: Severity
    evidence: str
    threshold: float
    reason: str
    advice: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    episode: int = -1
    row: int = -1

    @property
    def found(self) -> bool:
        return self.status == FOUND

    def sentence(self) -> str:
        """The verdict for a person: what, by which numbers, where, what to do."""
        where = f" (episode {self.episode}, row {self.row})" if self.episode >= 0 else ""
        label = f"{self.name} ({self.severity})" if self.found else f"{self.name}: {self.status}"
        return f"{label}: {self.evidence}{where} {self.advice if self.found else ''}".rstrip()


class Detector(abc.ABC):
    """Judges one smell from what a diagnosis measured; a frozen setting, one class in one file."""

    name: str
    threshold: float
    reason: str
    advice: str

    @abc.abstractmethod
    def judge(self, measured: Measured) -> Smell:
        """The verdict; "not enough evidence" rather than "clear" where too little was seen."""

    def found(
        self,
        evidence: str,
        numbers: Mapping[str, float],
        *,
        severity: Severity = "serious",
        place: tuple[int, int] = (-1, -1),
    ) -> Smell:
        return self._smell(FOUND, evidence, numbers, severity, place)

    def clear(self, evidence: str, numbers: Mapping[str, float]) -> Smell:
        return self._smell(CLEAR, evidence, numbers, "serious", (-1, -1))

    def unknown(self, lacking: str, numbers: Mapping[str, float] | None = None) -> Smell:
        return self._smell(UNKNOWN, lacking, numbers or {}, "serious", (-1, -1))

    def _smell(
        self,
        status: Status,
        evidence: str,
        numbers: Mapping[str, float],
        severity: Severity,
        place: tuple[int, int],
    ) -> Smell:
        return Smell(
            name=self.name,
            status=status,
            severity=severity,
            evidence=evidence,
            threshold=self.threshold,
            reason=self.reason,
            advice=self.advice,
            numbers=dict(numbers),
            episode=place[0],
            row=place[1],
        )
