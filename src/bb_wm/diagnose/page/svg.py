"""Line charts as SVG text: no drawing package, colours by class from the page's style.

A chart is WIDTH units wide and shown at about that many pixels on a phone, so its letters are as
large as they are written here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bb_wm.diagnose.page.markup import text

WIDTH = 360.0
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of numbers along a length; logarithmic where `log`."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def around(cls, values: Iterable[float], *, log: bool = False, pad: float = 0.06) -> Axis:
        """The range of all finite values (positive ones, if `log`), with a little room."""
        known = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
        if not known:
            return cls(0.1, 1.0, log) if log else cls(0.0, 1.0)
        low, high = min(known), max(known)
        if log:
            spread = max(math.log10(high / low), 0.3)
            return cls(low / 10 ** (pad * spread), high * 10 ** (pad * spread), True)
        room = pad * (high - low) or max(abs(high), 1.0) * pad
        return cls(low - room, high + room)

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high end; NaN stays NaN."""
        if self.log:
            if not value > 0:
                return math.nan
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, count: int = 4) -> list[float]:
        """Round numbers inside the range."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            for parts in ((1, 2, 5), (1, 3), (1,)):
                every = [m * 10.0**e for e in range(first, last + 1) for m in parts]
                inside = [v for v in every if self.low <= v <= self.high]
                if len(inside) <= count + 1:
                    break
            return inside[:: max(1, math.ceil(len(inside) / (count + 1)))]
        power = 10.0 ** math.floor(math.log10(self.high - self.low))
        found: list[float] = []
        for step in (power * m for m in (5, 2, 1, 0.5, 0.2, 0.1)):
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            found = [i * step for i in range(first, last + 1)]
            if len(found) >= max(2, count):
                break
        return found[:: max(1, math.ceil(len(found) / (count + 2)))]


@dataclass(frozen=True, slots=True)
class Frame:
    """The area of a chart inside its margins, and the two axes over it."""

    x: Axis
    y: Axis
    top: float = 10.0
    height: float = 130.0
    left: float = 46.0
    right: float = 12.0
    width: float = WIDTH

    @property
    def bottom(self) -> float:
        return self.top + self.height

    def at(self, x: float, y: float) -> Point:
        """Where a point is drawn."""
        wide = self.width - self.left - self.right
        return (
            self.left + wide * self.x.place(x),
            self.bottom - self.height * self.y.place(y),
        )

    def rungs(self, count: int = 4) -> str:
        """Horizontal lines with their numbers."""
        ticks = self.y.ticks(count)
        drawn = []
        for value, label in zip(ticks, labels(ticks), strict=True):
            y = self.at(self.x.low, value)[1]
            drawn.append(
                f'<line class="grid-line" x1="{self.left:g}" y1="{y:.1f}" '
                f'x2="{self.width - self.right:g}" y2="{y:.1f}"/>'
                f'<text x="{self.left - 6:g}" y="{y + 3.8:.1f}" text-anchor="end">{label}</text>'
            )
        return "".join(drawn)

    def foot(self, name: str, ticks: Sequence[float] | None = None) -> str:
        """The line below with its numbers and what they are."""
        shown = self.x.ticks(5) if ticks is None else list(ticks)
        drawn = [
            f'<line class="axis" x1="{self.left:g}" y1="{self.bottom:g}" '
            f'x2="{self.width - self.right:g}" y2="{self.bottom:g}"/>'
        ]
        for value, label in zip(shown, labels(shown), strict=True):
            x = self.at(value, self.y.low)[0]
            drawn.append(
                f'<text x="{x:.1f}" y="{self.bottom + 14:g}" text-anchor="middle">{label}</text>'
            )
        middle = (self.left + self.width - self.right) / 2
        drawn.append(
            f'<text x="{middle:g}" y="{self.bottom + 29:g}" text-anchor="middle">{text(name)}'
            "</text>"
        )
        return "".join(drawn)

    def head(self, name: str) -> str:
        """What the numbers at the left are, above them."""
        return f'<text x="{self.left:g}" y="{self.top - 8:g}">{text(name)}</text>'

    def line(self, points: Iterable[Point], kind: str) -> str:
        """A line through the points, broken where one is not finite."""
        drawn, pen = [], "M"
        for x, y in points:
            px, py = self.at(x, y)
            if not (math.isfinite(px) and math.isfinite(py)):
                pen = "M"
                continue
            drawn.append(f"{pen}{px:.1f} {py:.1f}")
            pen = "L"
        return f'<path class="line {kind}" d="{"".join(drawn)}"/>' if drawn else ""

    def band(self, low: Sequence[Point], high: Sequence[Point]) -> str:
        """The area between two lines of the same x; a gap in either is a gap in it."""
        pieces: list[list[tuple[Point, Point]]] = [[]]
        for (x, a), (_, b) in zip(low, high, strict=True):
            if math.isfinite(a) and math.isfinite(b):
                pieces[-1].append((self.at(x, a), self.at(x, b)))
            elif pieces[-1]:
                pieces.append([])
        shapes = []
        for piece in pieces:
            if piece:
                around = [a for a, _ in piece] + [b for _, b in reversed(piece)]
                shapes.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in around) + "Z")
        return f'<path class="band" d="{"".join(shapes)}"/>' if shapes else ""

    def dot(self, x: float, y: float, radius: float = 3.0) -> str:
        px, py = self.at(x, y)
        if not (math.isfinite(px) and math.isfinite(py)):
            return ""
        return f'<circle class="dot" cx="{px:.1f}" cy="{py:.1f}" r="{radius:.1f}"/>'


def labels(values: Sequence[float]) -> list[str]:
    """Ticks in one way of writing: plain, or with powers of ten where plain would be long."""
    shown = [v for v in values if v]
    largest = max((abs(v) for v in shown), default=0.0)
    least = min((abs(v) for v in shown), default=1.0)
    if largest < 1e5 and least >= 1e-3:
        return [f"{v:.10g}" if abs(v) > 1e-12 * largest else "0" for v in
                (round(v, 6) for v in values)]  # fmt: skip
    return ["0" if abs(v) <= 1e-9 * largest else _power(v) for v in values]


def _power(value: float) -> str:
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def drawing(inside: str, height: float, alt: str, *, width: float = WIDTH, extra: str = "") -> str:
    """The <svg> element; `alt` is what someone who cannot see it is told."""
    told = text(alt)
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{told}"{extra}>'
        f"{inside}</svg>"
    )
