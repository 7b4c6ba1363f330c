"""Real against imagined: a few held-out windows with their bands, and the horizon slider."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from bb_wm.diagnose.page import charts
from bb_wm.diagnose.page.charts import errors, kind_of
from bb_wm.diagnose.page.frames import shown_frames
from bb_wm.diagnose.page.markup import figure, grid, legend, section, table, text
from bb_wm.diagnose.page.svg import WIDTH, Axis, Frame, drawing

if TYPE_CHECKING:
    from bb_wm.diagnose.evaluation import Evaluation
    from bb_wm.diagnose.page.content import Page
    from bb_wm.diagnose.traces import Traces
    from bb_wm.diagnose.trusted import Trusted

_PANEL = 62.0
_GAP = 26.0


def imagination(page: Page) -> str:
    """The section; "" where nothing was imagined yet."""
    traces = page.traces
    evaluation = None if page.report is None else page.report.evaluation
    trusted = _trusted(None if page.report is None else page.report.trusted)
    if traces is None or not len(traces):
        return "" if evaluation is None else _errors_alone(evaluation, trusted)
    names = list(traces.paths)
    series = [("real", "real"), *((kind_of(name), name) for name in names)]
    if np.isfinite(traces.low).any():
        series.append(("band", traces.band))
    windows = [figure(_window(traces, i), title=_place(traces, i), name=f"window-{i}")
               for i in range(len(traces))]  # fmt: skip
    curve = "" if evaluation is None else _errors(evaluation)
    note = (
        f"The model sees the shaded {traces.context} rows; from there it is given only the actions "
        "and imagines on by itself: <b>mode</b> through the latent's most probable values, "
        "<b>shortcut</b> by predicting each next observation directly. Held-out windows drawn by "
        "chance, not chosen. Move the slider to see how far it holds."
    )
    return section(
        "imagination",
        "Real against imagined",
        _slider(traces),
        legend(series),
        grid([*windows, *trusted, curve]),
        _data(traces, evaluation),
        note=note,
    )


def _errors_alone(evaluation: Evaluation, trusted: list[str]) -> str:
    drawn = [one for one in (*trusted, _errors(evaluation)) if one]
    return section("imagination", "Real against imagined", grid(drawn)) if drawn else ""


def _trusted(trusted: Trusted | None) -> list[str]:
    """How many rows ahead may be trusted, from row to row; [] where nothing was fitted."""
    if trusted is None or not trusted.shares:
        return []
    drawn = charts.shares("trusted rows", "rows ahead that may be trusted", trusted.shares)
    why = (
        "It differs from row to row. The same actions are imagined along two paths, <b>mode</b> "
        "and <b>shortcut</b>; where these part, at most one is right, and rows from there on are "
        "not trusted."
        if trusted.promised
        else "However cautiously it was asked, what was imagined of held-out rows was further off "
        "too often."
    )
    told = f"<p>{text(trusted.sentence())}</p><p>{why}</p>"
    beside = f'<div class="beside">{drawn}<div>{told}</div></div>'
    title = "How many rows ahead may be trusted"
    return [figure(beside, title=title, name="trusted-rows", wide=True)]


def _errors(evaluation: Evaluation) -> str:
    drawn = errors(evaluation)
    if not drawn:
        return ""
    scored = [p.name for p in evaluation.paths if any(math.isfinite(v) for v in p.nrmse)]
    caption = (
        f"Over {evaluation.windows} held-out windows; 0 is perfect, 1 predicts the mean. "
        "Persistence says that nothing changes."
    )
    key = legend([(kind_of(name), name) for name in scored])
    beside = f'<div class="beside">{drawn}{table(evaluation.tables()[0])}</div>'
    return figure(
        key + beside,
        title="Error by horizon (NRMSE)",
        caption=text(caption),
        name="rollout-error",
        wide=True,
    )


def _slider(traces: Traces) -> str:
    reach = traces.real.shape[1] - traces.context
    return (
        '<div class="slider"><label for="horizon">Horizon<input type="range" id="horizon" min="1" '
        f'max="{reach}" value="{reach}" step="1" aria-describedby="horizon-told"><output '
        f'id="horizon-value" for="horizon">{reach} of {reach}</output></label>'
        '<p id="horizon-told"></p></div>'
    )


def _place(traces: Traces, index: int) -> str:
    first = traces.start[index]
    return f"Episode {traces.episode[index]}, from row {first}"


def _window(traces: Traces, index: int) -> str:
    """One <svg>: a panel per dimension; what was imagined is revealed up to the horizon."""
    context, rows = traces.context, traces.real.shape[1]
    axis = Axis(1 - context, rows - context)
    panels, revealed, frame = [], [], None
    for d, label in enumerate(traces.labels):
        shown = [traces.real[index, :, d], traces.low[index, :, d], traces.high[index, :, d]]
        shown += [values[index, :, d] for values in traces.paths.values()]
        frame = Frame(
            axis,
            Axis.around(np.concatenate(shown).tolist()),
            top=20 + d * (_PANEL + _GAP),
            height=_PANEL,
        )
        panels.append(_panel(frame, label, context))
        revealed.append(_imagined(frame, traces, index, d))
        real = _steps(range(1 - context, rows - context + 1), traces.real[index, :, d],
                      traces.steps[d])  # fmt: skip
        panels.append(frame.line(real, "real"))
    if frame is None:
        return shown_frames(traces, index)
    edge, step = frame.at(0, frame.y.low)[0], frame.at(1, frame.y.low)[0] - frame.at(0, 0.0)[0]
    clip = (
        f'<clipPath id="reveal-{index}"><rect x="0" y="0" width="{WIDTH:g}" '
        f'height="{frame.bottom + 4:g}" data-reveal="{edge + 1:.2f} {step:.3f}"/></clipPath>'
    )
    mark = (
        f'<line class="cursor" data-cursor="{edge:.2f} {step:.3f}" x1="-9" x2="-9" y1="14" '
        f'y2="{frame.bottom:g}"/>'
    )
    inside = (
        f'{clip}{"".join(panels)}<g clip-path="url(#reveal-{index})">{"".join(revealed)}</g>{mark}'
        + frame.foot("rows after the last one seen")
    )
    return shown_frames(traces, index) + drawing(
        inside, frame.bottom + 34, _told(traces, index), extra=' class="panel"'
    )


def _panel(frame: Frame, label: str, context: int) -> str:
    start, end = frame.at(1 - context, 0.0)[0], frame.at(0, 0.0)[0]
    return (
        f'<text class="name" x="{frame.left:g}" y="{frame.top - 6:g}">{text(label)}</text>'
        f'<rect class="seen" x="{start:.1f}" y="{frame.top:g}" width="{end - start:.1f}" '
        f'height="{frame.height:g}"/>{frame.rungs(2)}'
    )


def _imagined(frame: Frame, traces: Traces, index: int, d: int) -> str:
    ahead = range(1, traces.low.shape[1] + 1)
    stepped = traces.steps[d]
    ends = [_steps(ahead, side[index, :, d], stepped) for side in (traces.low, traces.high)]
    drawn = [frame.band(ends[0], ends[1])]
    for name, values in traces.paths.items():
        drawn.append(frame.line(_steps(ahead, values[index, :, d], stepped), kind_of(name)))
    return "".join(drawn)


def _steps(rows: range, values: np.ndarray, stepped: bool) -> list[tuple[float, float]]:
    """Points of a line; of a discrete one, its treads half a row to each side."""
    if not stepped:
        return [(float(x), float(y)) for x, y in zip(rows, values, strict=True)]
    return [(x + side, float(y)) for x, y in zip(rows, values, strict=True) for side in (-0.5, 0.5)]


def _told(traces: Traces, index: int) -> str:
    """What someone who cannot see the picture is told: where it ends and how it ended."""
    last = []
    for d, label in enumerate(traces.labels):
        for name, values in traces.paths.items():
            known = np.flatnonzero(np.isfinite(values[index, :, d]))
            if known.size:
                k = int(known[-1])
                real = traces.real[index, traces.context + k, d]
                last.append(f"{label} {real:.3g}, {name} {values[index, k, d]:.3g}")
            break
    return (
        f"Real and imagined values, {_place(traces, index).lower()}. At the last step, real and "
        f"imagined: {'; '.join(last)}."
    )


def _data(traces: Traces, evaluation: Evaluation | None) -> str:
    """What the slider reads out, as inert JSON."""
    reach = traces.real.shape[1] - traces.context
    paths: list[dict[str, Any]] = []
    for path in () if evaluation is None else evaluation.paths:
        if any(math.isfinite(v) for v in path.nrmse):
            values = [v if math.isfinite(v) else None for v in path.nrmse]
            paths.append({"name": path.name, "nrmse": values})
    content = {"reach": reach, "paths": paths, "inside": coverage(traces)}
    plain = json.dumps(content, allow_nan=False, separators=(",", ":"))
    for sign, code in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        plain = plain.replace(sign, code)
    return f'<script type="application/json" id="page-data">{plain}</script>'


def coverage(traces: Traces) -> list[tuple[int, int]]:
    """Up to each step k: how many real values lie within the band, of how many that have one."""
    real = traces.real[:, traces.context :]
    banded = np.isfinite(traces.low) & np.isfinite(traces.high) & np.isfinite(real)
    with np.errstate(invalid="ignore"):
        inside = banded & (traces.low <= real) & (real <= traces.high)
    hits, all_ = (np.cumsum(x.sum(axis=(0, 2))) for x in (inside, banded))
    return [(int(a), int(b)) for a, b in zip(hits, all_, strict=True)]
