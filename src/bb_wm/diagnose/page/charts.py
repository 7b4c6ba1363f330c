"""The page's charts: each takes measurements and gives an <svg> with its description."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bb_wm.diagnose.evaluation import number
from bb_wm.diagnose.page.curves import running_median, thin
from bb_wm.diagnose.page.svg import WIDTH, Axis, Frame, drawing, labels

if TYPE_CHECKING:
    from bb_wm.decide.ledger_report import GainCalibration
    from bb_wm.diagnose.calibration_curves import Curve as Calibration
    from bb_wm.diagnose.evaluation import Evaluation
    from bb_wm.diagnose.page.curves import Curve

_NARROW = 260.0  # four beside each other on a laptop
_KINDS = ("mode", "shortcut", "persistence")


def kind_of(path: str) -> str:
    """The class that draws a path of that name, everywhere the same colour and dashes."""
    if path.startswith("ridge"):
        return "linear"
    return path if path in _KINDS else "other"


def errors(evaluation: Evaluation) -> str:
    """NRMSE over the horizon for the model's paths and the baselines, on a logarithmic scale."""
    scored = [p for p in evaluation.paths if any(math.isfinite(v) for v in p.nrmse)]
    reach = len(evaluation.counts)
    if not scored or reach < 2:
        return ""
    every = [v for path in scored for v in path.nrmse]
    frame = Frame(Axis(1, reach), Axis.around(every, log=True), height=170)
    steps = range(1, reach + 1)
    lines = [
        frame.line(zip(steps, path.nrmse, strict=True), kind_of(path.name))
        for path in reversed(scored)
    ]
    ticks = sorted({1, reach, *(k for k in evaluation.horizons if k <= reach)})
    k = evaluation.headline
    told = ", ".join(f"{path.name} {number(path.nrmse[k - 1])}" for path in scored)
    alt = f"Line chart of NRMSE against the number of steps imagined. At {k} steps: {told}."
    inside = (
        frame.rungs() + frame.foot("steps imagined (k)", ticks) + cursor(frame) + "".join(lines)
    )
    return drawing(inside, frame.bottom + 34, alt)


def cursor(frame: Frame) -> str:
    """The upright line that follows the horizon slider."""
    start, step = (frame.at(k, frame.y.low)[0] for k in (0, 1))
    return (
        f'<line class="cursor" data-cursor="{start:.2f} {step - start:.3f}" x1="-9" x2="-9" '
        f'y1="{frame.top:g}" y2="{frame.bottom:g}"/>'
    )


def learning(name: str, curve: Curve) -> str:
    """One training curve: its values thin, their running median thick."""
    raw, smooth = thin(curve), thin(running_median(curve))
    frame = Frame(
        Axis(raw[0][0], max(raw[-1][0], raw[0][0] + 1)),
        Axis.around(y for _, y in raw),
        height=92,
    )
    lines = frame.line(raw, "mode thin") + frame.line(smooth, "mode")
    ends = f"from {number(curve[0][1])} to {number(curve[-1][1])}"
    alt = f"Line chart of {name} over {curve[-1][0]:.0f} updates, {ends}."
    return drawing(frame.rungs(3) + frame.foot("updates") + lines, frame.bottom + 34, alt)


def calibration(name: str, curve: Calibration) -> str:
    """Mean of what was real against mean of what was predicted, by bins; the diagonal is right."""
    if not curve.bins:
        return ""
    said, was = [b.predicted for b in curve.bins], [b.real for b in curve.bins]
    axis = Axis.around([*said, *was])
    frame = Frame(axis, axis, top=22, height=170, width=_NARROW)
    diagonal = frame.line([(axis.low, axis.low), (axis.high, axis.high)], "ideal")
    most = max(b.count for b in curve.bins)
    dots = "".join(frame.dot(b.predicted, b.real, 3 + 3 * math.sqrt(b.count / most))
                   for b in curve.bins)  # fmt: skip
    line = frame.line(zip(said, was, strict=True), "mode thin")
    told = "; ".join(f"{number(a)} was {number(b)}" for a, b in zip(said, was, strict=True))
    alt = f"Calibration of {name}: predicted against real in {len(said)} bins: {told}."
    below = frame.foot("predicted", axis.ticks(3))
    inside = frame.head("real") + frame.rungs() + below + diagonal + line + dots
    return drawing(inside, frame.bottom + 34, alt, width=_NARROW)


def by_step(
    name: str, foot: str, series: Mapping[str, Sequence[float]], *, least: float = 0.0
) -> str:
    """Lines over 1, 2, ...: {kind: values}, from `least` up where nothing lies below."""
    longest = max((len(values) for values in series.values()), default=0)
    known = [v for values in series.values() for v in values if math.isfinite(v)]
    if longest < 2 or not known:
        return ""
    y = Axis.around([*known, least])
    frame = Frame(Axis(1, longest), y, height=110)
    lines = "".join(frame.line(enumerate(values, start=1), kind) for kind, values in series.items())
    first = next(iter(series.values()))
    alt = f"Line chart of {name} for {foot} 1 to {longest}: {', '.join(map(number, first))}."
    return drawing(frame.rungs(3) + frame.foot(foot) + lines, frame.bottom + 34, alt)


def bars(name: str, foot: str, values: Sequence[float]) -> str:
    """Bars of the values, largest first."""
    shown = sorted((v for v in values if math.isfinite(v)), reverse=True)
    if not shown:
        return ""
    frame = Frame(Axis(0, len(shown)), Axis(0, max(shown[0] * 1.06, 1e-9)), height=110)
    wide = (WIDTH - frame.left - frame.right) / len(shown)
    drawn = []
    for i, value in enumerate(shown):
        x, y = frame.at(i, max(value, 0.0))
        drawn.append(
            f'<rect class="bar-fill" x="{x + 0.1 * wide:.1f}" y="{y:.1f}" '
            f'width="{0.8 * wide:.1f}" height="{frame.bottom - y:.1f}"/>'
        )
    alt = f"Bars of {name}, largest first: {', '.join(map(number, shown[:16]))}."
    inside = frame.rungs(3) + frame.foot(foot, []) + "".join(drawn)
    return drawing(inside, frame.bottom + 34, alt)


def shares(name: str, foot: str, values: Sequence[float]) -> str:
    """Bars of shares over 0, 1, 2, ..."""
    frame = Frame(Axis(-0.5, len(values) - 0.5), Axis(0, 1.06 * max(values)), top=22, height=126)
    wide = frame.at(1, 0)[0] - frame.at(0, 0)[0]
    drawn = []
    for k, value in enumerate(values):
        x, y = frame.at(k - 0.4, value)
        drawn.append(
            f'<rect class="bar-fill" x="{x:.1f}" y="{y:.1f}" width="{0.8 * wide:.1f}" '
            f'height="{frame.bottom - y:.1f}"/>'
        )
    told = ", ".join(f"{k}: {value:.0%}" for k, value in enumerate(values) if value)
    ticks = sorted({0, *range(5, len(values), 5), len(values) - 1})
    inside = frame.head("share of held-out rows") + frame.rungs(3) + frame.foot(foot, ticks)
    return drawing(inside + "".join(drawn), frame.bottom + 34, f"Bars of {name}: {told}.")


def gains(lines: Sequence[GainCalibration]) -> str:
    """Estimated EVSI against realised gain, a point with two standard errors per method."""
    points = [
        (one, one.mean_gain_error if math.isfinite(one.mean_gain_error) else 0.0)
        for one in lines
        if math.isfinite(one.mean_estimate) and math.isfinite(one.mean_gain)
    ]
    if not points:
        return ""
    ends = [one.mean_gain + s * 2 * e for one, e in points for s in (-1, 1)]
    axis = Axis.around([0.0, *ends, *(one.mean_estimate for one, _ in points)], pad=0.12)
    frame = Frame(axis, axis, top=22, height=170, right=18)
    drawn = [frame.line([(axis.low, axis.low), (axis.high, axis.high)], "ideal")]
    for one, error in points:
        x, low = frame.at(one.mean_estimate, one.mean_gain - 2 * error)
        high = frame.at(one.mean_estimate, one.mean_gain + 2 * error)[1]
        drawn.append(
            f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
        )
        drawn.append(frame.dot(one.mean_estimate, one.mean_gain, 4.5))
        top = frame.at(one.mean_estimate, one.mean_gain)[1]
        left = len(points) > 1 and one is min(points, key=lambda p: p[0].mean_estimate)[0]
        drawn.append(
            f'<text x="{x - 9 if left else x + 9:.1f}" y="{top + 16:.1f}" '
            f'text-anchor="{"end" if left else "start"}">{one.method}</text>'
        )
    told = "; ".join(
        f"{one.method}: estimated {number(one.mean_estimate)}, realised {number(one.mean_gain)}"
        for one, _ in points
    )
    alt = f"Estimated EVSI against realised gain. {told}."
    return drawing(
        frame.head("realised gain") + frame.rungs() + frame.foot("estimated EVSI") + "".join(drawn),
        frame.bottom + 34,
        alt,
    )


__all__ = [
    "bars", "by_step", "calibration", "cursor", "errors", "gains", "kind_of", "labels", "learning",
    "shares",
]  # fmt: skip
