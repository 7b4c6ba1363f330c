"""Training curves from metrics.jsonl: losses by update, and what was judged on held-out rows."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

Curve = list[tuple[float, float]]
"""(update, value), in the order of the file; finite numbers only."""

LOSSES: Final = (
    "reconstruction", "kl_raw", "kl", "rollout", "shortcut", "reward", "safety", "continuation",
    "mask", "loss", "gradient_norm",
)  # fmt: skip
_HELD_OUT: Final = re.compile(r"(shortcut_)?(nrmse|exact)_\w+")
MOST_POINTS: Final = 400
TAIL_BYTES: Final = 32 << 20  # of the file's end; a longer log is read from there


def read_curves(path: str | Path) -> dict[str, Curve]:
    """The curves in a metrics.jsonl that change, losses first, then "held-out ..." ones.

    A torn last line and foreign fields are passed over; a run that was resumed draws one line.
    """
    with open(path, "rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - TAIL_BYTES))
        raw = stream.read()
    return pick_curves(_rows(raw.decode("utf-8", errors="replace").splitlines()))


def pick_curves(rows: Iterable[Mapping[str, Any]]) -> dict[str, Curve]:
    """The same from rows of numbers."""
    found: dict[str, Curve] = {}
    for row in rows:
        update, judged = row.get("update"), row.get("kind") == "evaluate"
        if not _is_number(update):
            continue
        for name, value in row.items():
            shown = bool(_HELD_OUT.fullmatch(name)) if judged else name in LOSSES
            if shown and _is_number(value):
                label = f"held-out {name}" if judged else name
                found.setdefault(label, []).append((float(update), float(value)))  # type: ignore[arg-type]
    order = sorted(found, key=lambda n: LOSSES.index(n) if n in LOSSES else len(LOSSES))
    return {name: found[name] for name in order if len({y for _, y in found[name]}) > 1}


def thin(curve: Curve, most: int = MOST_POINTS) -> Curve:
    """At most `most` points, each the mean of its neighbours; the last one stays as it is."""
    if len(curve) <= most:
        return curve
    kept = []
    for i in range(most - 1):
        part = curve[i * (len(curve) - 1) // (most - 1) : (i + 1) * (len(curve) - 1) // (most - 1)]
        kept.append(tuple(sum(column) / len(part) for column in zip(*part, strict=True)))
    return [*((x, y) for x, y in kept), curve[-1]]


def running_median(curve: Curve) -> Curve:
    """Median over a twentieth of the curve."""
    half = max(1, len(curve) // 40)
    smooth = []
    for i, (x, _) in enumerate(curve):
        near = sorted(y for _, y in curve[max(0, i - half) : i + half + 1])
        smooth.append((x, (near[(len(near) - 1) // 2] + near[len(near) // 2]) / 2))
    return smooth


def _rows(lines: Iterable[str]) -> Iterable[Mapping[str, Any]]:
    for line in lines:
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            continue
        if isinstance(row, dict):
            yield row


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
