"""Pictures of an evaluation, as PNG and as SVG that follows the page's light or dark colours.

Needs the extra `plots` (matplotlib). Figures are made without pyplot: no global state, no display.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bb_wm.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bb_wm.diagnose.evaluation import Evaluation
    from bb_wm.diagnose.traces import Traces

# Stand-ins that to_svg replaces by the page's own colours; each is a grey nothing else uses.
_INK, _GRID, _PAPER = "#1d1e1f", "#d9dadb", "#fefdfc"
_COLOURS = {"mode": "#2f7de1", "shortcut": "#e0701a", "sample": "#a05bd6", "persistence": "#8a8f98"}
_LINEAR, _OTHER = "#1f9d68", "#c2437f"
_STYLES = {"mode": "-", "shortcut": "--", "sample": "-", "persistence": ":"}
_RC = {
    "font.size": 8.0,
    "font.family": "sans-serif",
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.grid": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "svg.fonttype": "none",
    "svg.hashsalt": "bb_wm",
}
_LOSSES = (
    "loss", "reconstruction", "kl", "kl_raw", "reward", "safety", "rollout", "shortcut",
    "continuation", "mask", "gradient_norm",
)  # fmt: skip
_AXES = ("updates", "update", "step")


def draw_errors(evaluation: Evaluation) -> Figure:
    """NRMSE over the horizon, every path and baseline, on a logarithmic scale."""
    figure = _figure(4.0, 2.9)
    with _style():
        axes = _panels(figure, 1, left=0.66, right=0.1, top=0.08, bottom=0.42)[0]
        steps = np.arange(1, len(evaluation.counts) + 1)
        for path in evaluation.paths:
            values = np.asarray(path.nrmse)
            if np.isfinite(values).any():
                axes.plot(
                    steps,
                    np.where(np.isfinite(values) & (values > 0), values, np.nan),
                    color=_colour(path.name),
                    linestyle=_STYLES.get(path.name, "-."),
                    marker="o" if path.is_model else None,
                    markersize=2.5,
                    label=path.name,
                )
        _plain_log_scale(axes)
        axes.set_xlabel("steps without seeing (k)")
        axes.set_ylabel("NRMSE")
        axes.yaxis.set_label_coords(-0.155, 0.5)
        axes.set_xticks(sorted({*evaluation.horizons, 1, int(steps[-1])}))
        axes.legend(loc="best")
    return figure


def draw_window(traces: Traces, index: int) -> Figure:
    """One window: a panel per dimension, real rows against both paths, the context shaded."""
    count = len(traces.labels)
    figure = _figure(3.9, 0.85 + 0.9 * count)
    context, rows = traces.context, traces.real.shape[1]
    time = np.arange(1 - context, rows - context + 1)
    ahead = time[context:]
    with _style():
        panels = _panels(figure, count, left=0.68, right=0.08, top=0.42, bottom=0.4)
        for d, axes in enumerate(panels):
            axes.axvspan(time[0], 0.0, color=_INK, alpha=0.08, linewidth=0)
            how = "steps-mid" if traces.steps[d] else "default"
            low, high = traces.low[index, :, d], traces.high[index, :, d]
            if np.isfinite(low).any():
                axes.fill_between(
                    ahead,
                    low,
                    high,
                    color=_COLOURS["mode"],
                    alpha=0.2,
                    linewidth=0,
                    label="5-95 % of 16 samples",
                    step="mid" if traces.steps[d] else None,
                )
            axes.plot(time, traces.real[index, :, d], color=_INK, drawstyle=how, label="real")
            for name, values in traces.paths.items():
                axes.plot(
                    ahead,
                    values[index, :, d],
                    color=_colour(name),
                    drawstyle=how,
                    linestyle=_STYLES.get(name, "-."),
                    label=name,
                )
            axes.set_ylabel(_shorten(traces.labels[d]), fontsize=7.5)
            axes.yaxis.set_label_coords(-0.17, 0.5)
            axes.set_xlim(time[0], time[-1])
            _few_ticks(axes)
        panels[-1].set_xlabel("rows after the last one seen")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper center", ncols=2, fontsize=7.5)
    return figure


def draw_pictures(traces: Traces, key: str, index: int, *, columns: int = 5) -> Figure:
    """Image keys: real pixels above imagined ones, at `columns` steps."""
    real, imagined = (pair[index] for pair in traces.pictures[key])
    chosen = np.unique(np.linspace(0, len(real) - 1, columns).round().astype(int))
    figure = _figure(3.9, 1.9)
    with _style():
        figure.subplots_adjust(left=0.09, right=0.99, top=0.9, bottom=0.02, wspace=0.06)
        grid = figure.subplots(2, len(chosen), squeeze=False)
        for row, (name, images) in enumerate((("real", real), ("imagined", imagined))):
            for column, k in enumerate(chosen):
                axes: Axes = grid[row, column]
                pixels = images[k]
                axes.imshow(pixels[..., 0] if pixels.shape[-1] == 1 else pixels, cmap="gray")
                axes.set_xticks([])
                axes.set_yticks([])
                axes.grid(False)
                if row == 0:
                    axes.set_title(f"k={k + 1}", fontsize=7.5)
            grid[row, 0].set_ylabel(name)
    return figure


def draw_curve(name: str, x: np.ndarray, y: np.ndarray) -> Figure:
    """One training curve: raw values thin, their running median thick."""
    figure = _figure(3.2, 1.6)
    with _style():
        _curve(_panels(figure, 1, left=0.5, right=0.1, top=0.24, bottom=0.36)[0], name, x, y)
    return figure


def draw_losses(metrics: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """All training curves in one picture, two columns wide."""
    rows = max(1, math.ceil(len(metrics) / 2))
    figure = _figure(6.4, 1.6 * rows)
    with _style():
        place = {"left": 0.08, "right": 0.985, "top": 1 - 0.24 / (1.6 * rows)}
        figure.subplots_adjust(**place, bottom=0.36 / (1.6 * rows), hspace=0.65, wspace=0.2)
        grid = figure.subplots(rows, 2, squeeze=False).ravel()
        for axes, (name, (x, y)) in zip(grid, metrics.items(), strict=False):
            _curve(axes, name, x, y)
        for axes in grid[len(metrics) :]:
            axes.set_visible(False)
    return figure


def read_metrics(path: str | Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The loss curves in a metrics.jsonl: name -> (updates, values); finite numbers only.

    A last line cut off by an interruption is passed over; unknown fields are ignored.
    """
    rows: list[dict[str, Any]] = []
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return pick_metrics(rows)


def pick_metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Curves that change, from rows of numbers; names may carry a prefix such as "loss/"."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        x = next((row[name] for name in _AXES if _is_number(row.get(name))), None)
        if x is None:
            continue
        for name, value in row.items():
            if name.rsplit("/", 1)[-1] in _LOSSES and _is_number(value):
                curves.setdefault(name, []).append((float(x), float(value)))
    order = sorted(curves, key=lambda name: _LOSSES.index(name.rsplit("/", 1)[-1]))
    return {
        name: (np.array([x for x, _ in curves[name]]), np.array([y for _, y in curves[name]]))
        for name in order
        if len(curves[name]) > 1 and len({y for _, y in curves[name]}) > 1
    }


def to_png(figure: Figure, *, dpi: int = 160) -> bytes:
    """The figure on white."""
    buffer = io.BytesIO()
    with _style():
        figure.savefig(
            buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None}
        )
    return buffer.getvalue()


def to_svg(figure: Figure, label: str) -> str:
    """The figure as an <svg> element to put into a page: transparent, scaling, with a label.

    Ink, grid and paper follow the CSS variables --ink, --grid and --paper.
    """
    buffer = io.StringIO()
    with _style():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    head, rest = text.split(">", 1)
    box = re.search(r'viewBox="([^"]+)"', head)
    assert box is not None, "matplotlib writes a viewBox"
    for stand_in, name in ((_INK, "ink"), (_GRID, "grid"), (_PAPER, "paper")):
        rest = rest.replace(stand_in, f"var(--{name})")
    mark = format(abs(hash_text(rest)), "x")
    rest = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{mark}-", rest)
    alt = _escape(label)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box.group(1)}" role="img" aria-label="{alt}"><title>{alt}</title>{rest}'
    )


def hash_text(text: str) -> int:
    """A short stable number, so that two pictures on a page do not share element ids."""
    import zlib

    return zlib.crc32(text.encode())


def require_matplotlib() -> None:
    """MissingExtraError with the install line where matplotlib is absent."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "matplotlib",
            expected="installed for pictures",
            actual="absent",
            hint='pip install "bb_wm[plots]"',
        ) from error


def _figure(width: float, height: float) -> Figure:
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
    return figure


def _style() -> Any:
    import matplotlib as mpl

    return mpl.rc_context(_RC)  # type: ignore[arg-type]


def _panels(
    figure: Figure, count: int, *, left: float, right: float, top: float, bottom: float
) -> list[Axes]:
    """`count` panels above each other within margins in inches; layout engines take seconds."""
    width, height = figure.get_size_inches()
    figure.subplots_adjust(
        left=left / width,
        right=1 - right / width,
        top=1 - top / height,
        bottom=bottom / height,
        hspace=0.18,
    )
    return list(figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0])


def _curve(axes: Axes, name: str, x: np.ndarray, y: np.ndarray) -> None:
    axes.plot(x, y, color=_COLOURS["mode"], linewidth=0.6, alpha=0.45)
    axes.plot(x, _running_median(y), color=_COLOURS["mode"])
    axes.set_title(name, fontsize=8, loc="left", pad=4)
    axes.set_xlabel("updates", labelpad=1)
    _few_ticks(axes)


def _few_ticks(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(nbins=3, min_n_ticks=2))
    axes.ticklabel_format(axis="y", scilimits=(-3, 4), useOffset=False)
    power = axes.yaxis.get_offset_text()  # at the right, where no title is
    power.set(x=1.0, horizontalalignment="right")


def _plain_log_scale(axes: Axes) -> None:
    """A logarithmic axis that says 0.2 and 0.5, not 2 x 10^-1."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _colour(name: str) -> str:
    if name.startswith("ridge"):
        return _LINEAR
    return _COLOURS.get(name, _OTHER)


def _shorten(label: str, limit: int = 14) -> str:
    return label if len(label) <= limit else "…" + label[-(limit - 1) :]


def _running_median(values: np.ndarray) -> np.ndarray:
    """Median over a window of a twentieth of the curve."""
    half = max(1, len(values) // 40)
    return np.asarray(
        [np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _escape(text: str) -> str:
    import html

    return html.escape(text, quote=True)
