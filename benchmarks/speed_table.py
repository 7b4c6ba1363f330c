"""The tables of speed and of growth, from the JSON of `benchmarks.speed_peers` and `.scale`."""

from __future__ import annotations

from typing import Any

import numpy as np

from bb_wm.diagnose.tables import Table
from benchmarks.peers_speed.line import SHAPES, TASKS
from benchmarks.speed_flops import imagined_flops

Found = list[dict[str, Any]]
OURS = "ours"
FASTEST = "ours, fastest settings"
NAMES = ((OURS, ""), (FASTEST, ", fastest settings"))
# Issue 5's bars: how many times the fastest peer's speed.
BARS = {("update", 16): 3.0, ("update", 64): 2.5, ("imagine", 0): 5.0, ("decide", 0): 4.0}
EVSI_BAR, ROOF_BAR = 6.0, 0.45  # times a plain decision; share of the float32 roofline
_WHAT = """Observations of 24, 6 actions, perceptrons of 256 in two layers, z of 32 x 32. Update:
reconstruction, KL, reward and continuation, with the optimiser's step. Imagine: 1024 starts x 15
rows under a two-layer policy. Decide: encode one observation, 64 candidates x 12 rows. EVSI: 64
imagined answers x 8 candidates x 12 rows. "Fastest settings" are those of `bb-wm train --precision
medium --native`: wide products in bfloat16, C++ between them, freed memory kept; the peers are in
float32. "All defaults" also trains the risk, open loop and shortcut terms, which no peer has, and
judges the best plans on 8 samples each. The first update includes importing, building and
compiling, on a machine as busy as it was.""".replace("\n", " ")


def page(found: Found) -> str:
    """Tables of results made with the same settings."""
    settings, software = found[0]["settings"], found[0]["software"]
    clock = "CPU time" if settings["threads"] == 1 else "wall time"
    pins = found[0]["pins"]
    named = [pin for pins_ in pins.values() for pin in pins_ if _named(pin, pins)]
    made = (
        f"{settings['threads']} thread(s), {clock}, medians of {settings['rounds']} rounds in "
        f"which everyone works in turn for {settings['seconds']} s; {software['machine']}, torch "
        f"{software['torch']}, commit {software['commit']}; {', '.join(named)}."
    )
    sections = [f"{made} {_WHAT}"]
    for result in sorted(found, key=lambda r: list(SHAPES).index(r["world"])):
        sections += [_times(result).markdown(), _ratios(result).markdown(), _roof(result)]
    return "\n\n".join(sections)


def _named(pin: str, pins: dict[str, Any]) -> bool:
    return pin.split("==")[0] in (*pins, "jax")


def _title(result: dict[str, Any]) -> str:
    shape = SHAPES[result["world"]]
    return f"h {shape.size}, update of {shape.batch} x {shape.rows} rows"


def _clock(result: dict[str, Any]) -> int:
    return 0 if result["settings"]["threads"] == 1 else 1


def _seconds(result: dict[str, Any], row: str, task: str) -> np.ndarray | None:
    """One number per round."""
    found = result["rows"].get(row, {}).get(task)
    return None if found is None else np.array(found["rounds"])[:, _clock(result)]


def _times(result: dict[str, Any]) -> Table:
    tasks = [t for t in TASKS if any(t in row for row in result["rows"].values())]
    rows = []
    for name in sorted(result["rows"], key=lambda name: (not name.startswith(OURS), name)):
        row = result["rows"][name]
        times = [_seconds(result, name, task) for task in tasks]
        if all(one is None for one in times):
            continue
        cells = ["-" if one is None else f"{1000 * np.median(one):.1f}" for one in times]
        first = row["update"]["first"] if "update" in row else None
        memory = "-", "-"
        if "peak_mib" in row:
            memory = f"{row['peak_mib']:.0f}", f"{row['peak_mib'] - row['base_mib']:.0f}"
        cells += ["-" if first is None else f"{first:.1f}", *memory]
        rows.append((name, *cells, f"{row['parameters'] / 1e6:.2f}"))
    header = ("", *(f"{task}, ms" for task in tasks), "first update, s", "peak MiB")
    header = (*header, "of these beyond imports", "parameters, M")
    return Table(_title(result), header, tuple(rows))


def _ratios(result: dict[str, Any]) -> Table:
    rows = []
    for name, note in NAMES:
        rows += [_faster(result, name, task, note) for task in TASKS[:3]]
    rows += [_asked(result, name, note) for name, note in NAMES]
    rows = [row for row in rows if row]
    memory = {k: v["peak_mib"] for k, v in result["rows"].items() if "peak_mib" in v}
    peers_memory = {k: v for k, v in memory.items() if not k.startswith(OURS)}
    if OURS in memory and peers_memory:
        leanest = min(peers_memory, key=lambda name: peers_memory[name])
        ratio = memory[OURS] / peers_memory[leanest]
        verdict = f"at most 1, {'met' if ratio <= 1 else 'missed'}"
        rows.append(("memory of an update", leanest, f"{ratio:.2f} of its peak", verdict))
    header = ("", "fastest or leanest peer", "ours is faster by [middle half]", "bar")
    return Table("Ours beside the best peer of the same run", header, tuple(rows))


def _faster(result: dict[str, Any], name: str, task: str, note: str) -> tuple[str, ...]:
    """A row of a task's ratio to the fastest peer; empty where either is missing."""
    ours, peer = _seconds(result, name, task), _fastest_peer(result, task)
    if ours is None or peer is None:
        return ()
    low, middle, high = np.quantile(peer[1] / ours, (0.25, 0.5, 0.75))
    bar = _bar(result, task)
    verdict = f"{bar:g}, {'met' if middle >= bar else 'missed'}"
    return task + note, peer[0], f"{middle:.2f} [{low:.2f}, {high:.2f}]", verdict


def _fastest_peer(result: dict[str, Any], task: str) -> tuple[str, np.ndarray] | None:
    """Its name and its seconds per round."""
    peers = {}
    for peer in result["rows"]:
        theirs = _seconds(result, peer, task)
        if theirs is not None and not peer.startswith(OURS):
            peers[peer] = theirs
    if not peers:
        return None
    return min(peers.items(), key=lambda item: float(np.median(item[1])))


def _bar(result: dict[str, Any], task: str) -> float:
    return BARS[task, SHAPES[result["world"]].rows if task == "update" else 0]


def _asked(result: dict[str, Any], name: str, note: str) -> tuple[str, ...]:
    """A row of what EVSI costs in plain decisions; empty where either is missing."""
    plain, asked = (_seconds(result, name, task) for task in ("decide", "evsi"))
    if plain is None or asked is None:
        return ()
    low, middle, high = np.quantile(asked / plain, (0.25, 0.5, 0.75))
    verdict = f"at most {EVSI_BAR:g}, {'met' if middle <= EVSI_BAR else 'missed'}"
    told = f"{middle:.2f} [{low:.2f}, {high:.2f}] times its cost"
    return "evsi" + note, "our plain decision", told, verdict


def roofline(result: dict[str, Any]) -> dict[str, float]:
    """GFLOP/s of the dominating product at its best, and what share of it our update reaches: in
    float32, and as the fastest settings multiply."""
    clock = _clock(result)
    found = {}
    for name, row in (("gemm", OURS), ("gemm_medium", FASTEST)):
        told = result["gemm"].get(name)
        if told is None:
            continue
        rate = result["gemm_gflop"] / float(np.array(told["rounds"])[:, clock].min())
        found[name] = rate
        update = _seconds(result, row, "update")
        if update is not None:
            found[f"{name}_share"] = result["gflop"] / float(np.median(update)) / rate
    return found


def _roof(result: dict[str, Any]) -> str:
    found = roofline(result)
    if "gemm" not in found:
        return ""
    text = (
        f"An update of ours is {result['gflop']:.1f} GFLOP of matrix products. The largest of them "
        f"({result['gemm_size']}) alone runs at {found['gemm']:.0f} GFLOP/s in float32"
    )
    if "gemm_medium" in found:
        text += f" and at {found['gemm_medium']:.0f} with the fastest settings"
    if "gemm_share" not in found:
        return text + "."
    share = found["gemm_share"]
    met = "met" if share >= ROOF_BAR else "missed"
    bar = f" (bar for the wide update {ROOF_BAR:.0%}: {met})" if result["world"] == "wide" else ""
    reached = f"our update reaches {share:.0%} of the float32 rate{bar}"
    if "gemm_medium_share" in found:
        reached += f" and {found['gemm_medium_share']:.0%} of the other"
    return f"{text}; {reached}.{_least(result, found)}"


def _least(result: dict[str, Any], rates: dict[str, float]) -> str:
    """What the products alone take at these rates, beside what the bars leave for everything."""
    if "gemm_medium" not in rates:
        return ""
    shape, told = SHAPES[result["world"]], []
    for task in TASKS[:3]:
        peer = _fastest_peer(result, task)
        if peer is None or _seconds(result, FASTEST, task) is None:
            continue
        if task == "update":
            least = result["gflop"] / rates["gemm_medium"]
        else:
            least = imagined_flops(shape, task) / 1e9 / rates["gemm_medium"]
        allowed = float(np.median(peer[1])) / _bar(result, task)
        told.append(f"{task} {1000 * least:.1f} of {1000 * allowed:.1f} ms")
    if not told:
        return ""
    return (
        " The products alone, at the faster rate, would take, of the time that the bar leaves for "
        f"everything: {', '.join(told)}."
    )


def growth(found: Found) -> str:
    """Tables of `python -m benchmarks scale`."""
    settings, software = found[0]["settings"], found[0]["software"]
    rows = []
    for result in found:
        for axis, told in result["axes"].items():
            cost = ", ".join(f"{k}: {1000 * v:.1f}" for k, v in told["seconds"])
            bar = told["bar"]
            verdict = "-"
            if bar is not None:
                verdict = f"{bar:g}, {'met' if told['slope'] <= bar else 'missed'}"
            rows.append((axis, told["task"], cost, f"{told['slope']:.2f}", verdict))
    header = ("axis", "task", "CPU ms at each value", "log-log slope", "bar")
    head = (
        f"One thread, medians of {settings['rounds']} interleaved rounds; {software['machine']}, "
        f"torch {software['torch']}, commit {software['commit']}. A slope of 1 is a cost that "
        "doubles where the axis doubles."
    )
    return "\n\n".join([head, Table("Growth of cost", header, tuple(rows)).markdown()])
