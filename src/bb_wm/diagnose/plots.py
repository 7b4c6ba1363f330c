"""Pictures of windows as PNG, for `bb-wm rollout`; the page draws its own.

Needs the extra `plots` (matplotlib). Figures are made without pyplot: no global state, no display.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from bb_wm.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bb_wm.diagnose.traces import Traces

_INK, _GRID = "#1d1e1f", "#d9dadb"
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
}


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
                    label=traces.band,
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


def to_png(figure: Figure, *, dpi: int = 160) -> bytes:
    """The figure on white."""
    buffer = io.BytesIO()
    with _style():
        figure.savefig(
            buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None}
        )
    return buffer.getvalue()


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


def _few_ticks(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(nbins=3, min_n_ticks=2))
    axes.ticklabel_format(axis="y", scilimits=(-3, 4), useOffset=False)
    power = axes.yaxis.get_offset_text()  # at the right, where no title is
    power.set(x=1.0, horizontalalignment="right")


def _colour(name: str) -> str:
    if name.startswith("ridge"):
        return _LINEAR
    return _COLOURS.get(name, _OTHER)


def _shorten(label: str, limit: int = 14) -> str:
    return label if len(label) <= limit else "…" + label[-(limit - 1) :]
