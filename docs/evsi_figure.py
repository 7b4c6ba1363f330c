"""Draws docs/evsi.png: what one answer is worth on ToolDesk, and what gates earn with it.

    python docs/evsi_figure.py

Every number is exact (`bb_wm.testing.tooldesk_exact`); nothing is sampled or learned.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from bb_wm.testing import tooldesk_exact as exact

STAKE, PRICE, TOOL = 1.0, 1.0, "B"
INK, BLUE, ORANGE, GREY = "#1f2937", "#2563eb", "#d97706", "#9ca3af"
BARS = (
    ("optimum", "bayes_optimal"),
    ("two-call lookahead", "two_call_lookahead"),
    ("batch EVSI, n ≤ 3", "batch_evsi_n3"),
    ("one-call EVSI", "myopic_exact_evsi"),
    ("confidence threshold", "maxprob<0.9_B"),
    ("always ask A, 4 times", "always_A4"),
    ("never ask", "never"),
    ("latent EVPI", "latent_evpi"),
)


def values(sure: float) -> tuple[float, float]:
    """V_no and V_read of one call, where the best guess is right with probability `sure`."""
    belief = (sure, *([(1 - sure) / 3] * 3))
    silence = exact.SILENCE[TOOL]
    read = silence * exact.stop_value(belief, STAKE)
    for named, probability in enumerate(exact.answer_probabilities(belief, TOOL)):
        right = [exact.RIGHT[TOOL] if k == named else (1 - exact.RIGHT[TOOL]) / 3 for k in range(4)]
        after = tuple(b * r / probability for b, r in zip(belief, right, strict=True))
        read += (1 - silence) * probability * exact.stop_value(after, STAKE)
    return exact.stop_value(belief, STAKE), read


def draw_worth(axes: plt.Axes) -> None:
    sure = np.linspace(0.25, 1.0, 400)
    v_no, v_read = np.asarray([values(x) for x in sure]).T
    cost = exact.UNIT_COST[TOOL] * PRICE
    ask = v_read - v_no > cost
    axes.fill_between(sure, v_no + cost, v_read, where=ask, color=BLUE, alpha=0.15, lw=0)
    axes.plot(sure, v_read, color=BLUE, lw=2, label="after reading the answer: E max U")
    axes.plot(sure, v_no, color=INK, lw=2, label="deciding now: max E U")
    axes.plot(sure, v_no + cost, color=INK, lw=1, ls=":", label=f"deciding now + cost {cost:g}")
    middle = 2 / 3
    low, high = values(middle)
    axes.annotate(
        "", (middle, high), (middle, low), arrowprops={"arrowstyle": "<->", "color": BLUE}
    )
    axes.text(middle - 0.015, 0.42, "gain of\nasking", color=BLUE, ha="right", va="center")
    axes.text(0.27, 0.30, "EVSI > 0: ASK", color=BLUE)
    end = sure[ask][-1]
    axes.text(end + 0.01, 0.13, "EVSI < 0:\nACT", color=INK, va="center")
    axes.axvline(end, color=GREY, lw=0.8)
    axes.set_xlabel("probability that the best guess is right")
    axes.set_ylabel("expected reward")
    axes.set_title(
        "Asking first: right pays 1, wrong −2, not acting 0;\n"
        "the tool is right 95 % of the time, silent 25 %",
        fontsize=10,
    )
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    axes.set_ylim(-0.03, 1.05)


def draw_gates(axes: plt.Axes) -> None:
    table = exact.gates()
    names = [title for title, _ in BARS][::-1]
    earned = [exact.mean_value(table[name]) for _, name in BARS][::-1]
    colours = [BLUE if "EVSI" in n or "lookahead" in n or n == "optimum" else GREY for n in names]
    colours = [
        ORANGE if name == "latent EVPI" else c for name, c in zip(names, colours, strict=True)
    ]
    axes.barh(names, earned, color=colours, height=0.65)
    for place, value in enumerate(earned):
        axes.text(value + 0.02, place, f"{value:.2f}", va="center", fontsize=8, color=INK)
    axes.set_xlim(0, 1.65)
    axes.set_xlabel("mean reward of an episode")
    axes.set_title("What gates earn on ToolDesk (exact)\n", fontsize=10)


def main() -> Path:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.1), width_ratios=(1.15, 1))
    draw_worth(left)
    draw_gates(right)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    path = Path(__file__).with_name("evsi.png")
    figure.savefig(path, dpi=130)
    return path


if __name__ == "__main__":
    print(main())
