"""How many instructions one update and one decision take, and who spends them.

    python -m benchmarks instructions
    python -m benchmarks instructions --tasks decide --runs 1

Callgrind counts them at the default shapes (`benchmarks.speed`), on one thread. Other work on the
machine changes nothing in a count but what depends on addresses; the runs, all at once, say how
well counts agree, and so how small a creep can show. Valgrind knows no AVX-512, so the kernels are
those of AVX2: compare what is not kernels with any machine, kernels with such counts only. Minutes:
valgrind imports torch slowly. JSON goes to bench-out/instructions.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bb_wm.diagnose.tables import Table
from bb_wm.errors import ConfigError
from benchmarks.results import Job, Results, say
from benchmarks.speed_envs import ROOT

TASKS = ("decide", "update")
GROUPS = ("python", "binding", "dispatch", "kernels", "system")
_WHAT = {
    "python": "interpreter, NumPy",
    "binding": "libtorch_python: from Python to C++ and back",
    "dispatch": "libtorch_cpu and libc10 but for kernels: choosing, checking, autograd",
    "kernels": "MKL, oneDNN, Sleef and the loops of torch",
    "system": "libc and others: memory, copies, locks",
}
_KERNEL = re.compile(r"mkl_|dnnl|gemm|Sleef|::(AVX2|DEFAULT)::|_kernel(?!_functor)|vectorized_")
_PYTHON = re.compile(r"python3|/lib-dynload/|/numpy|libffi")
_NO_AVX512 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
_SWITCH = """#include <valgrind/callgrind.h>
void start(void) { CALLGRIND_START_INSTRUMENTATION; CALLGRIND_ZERO_STATS; }
void stop(const char *name) { CALLGRIND_DUMP_STATS_AT(name); CALLGRIND_STOP_INSTRUMENTATION; }
"""


# --- what callgrind wrote -------------------------------------------------------------------------


def group_of(library: str, function: str) -> str:
    """Which of GROUPS an instruction belongs to, by its library and function."""
    name = library.rsplit("/", 1)[-1]
    if name == "???":  # written at run time: oneDNN's
        return "kernels"
    if name.startswith("libtorch_python"):
        return "binding"
    if name.startswith(("libtorch", "libc10", "libmkl", "libdnnl")):
        return "kernels" if _KERNEL.search(function) else "dispatch"
    return "python" if _PYTHON.search(library) else "system"


def parse(lines: Iterable[str]) -> tuple[str, Counter[str]]:
    """The task a dump was triggered for, and its instructions by group.

    Raises ConfigError where they do not add up to the dump's own total. Names are written once and
    numbered: "fn=(7) name", later "fn=(7)". The line after "calls=" is the callee's cost, which the
    callee has already.
    """
    names: dict[tuple[bool, str], str] = {}
    now = {True: "", False: ""}  # library, function
    task, total, callee = "", 0, False
    found: Counter[str] = Counter()
    for line in lines:
        key, _, value = line.rstrip("\n").partition("=")
        if callee:
            callee = False
        elif key in ("ob", "cob", "fn", "cfn"):
            number, _, name = value.partition(" ")
            library = key.endswith("ob")
            if name:
                names[library, number] = name
            if not key.startswith("c"):
                now[library] = names[library, number]
        elif key == "calls":
            callee = True
        elif line[0:1] in "+-*0123456789" and line.strip():
            found[group_of(now[True], now[False])] += int(line.split()[-1])
        elif line.startswith("desc: Trigger:"):
            task = line.split()[-1]
        elif line.startswith("totals:"):
            total = int(line.split()[1])
    if not total or found.total() != total:
        raise ConfigError("callgrind", expected=f"{total} instructions", actual=found.total())
    return task, found


# --- counting -------------------------------------------------------------------------------------


def build_switch(folder: Path) -> Path:
    """The library through which a Python process turns counting on. ConfigError without tools."""
    for tool in ("valgrind", "cc"):
        if shutil.which(tool) is None:
            raise ConfigError(
                tool, expected="on the PATH", actual="absent", hint="apt-get install valgrind gcc"
            )
    source, library = folder / "switch.c", folder / "switch.so"
    source.write_text(_SWITCH)
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError("cc", expected="valgrind/callgrind.h", actual=done.stderr[-300:])
    return library


def begin(switch: Path, folder: Path, tasks: Sequence[str]) -> subprocess.Popen[str]:
    """A process under valgrind that leaves `dump.1`, ... in the folder, one per task."""
    folder.mkdir()
    steady = ["setarch", "-R"] if shutil.which("setarch") else []  # addresses as in every run
    options = ["--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder / 'dump'}"]
    worker = [sys.executable, "-m", "benchmarks.instructions_worker", str(switch), *tasks]
    settings = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", **_NO_AVX512}
    return subprocess.Popen(
        [*steady, "valgrind", *options, *worker],
        cwd=ROOT,
        env=os.environ | settings,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], folder: Path) -> dict[str, Counter[str]]:
    """Instructions by task and group. ConfigError where valgrind could not run this torch."""
    _, told = process.communicate()
    if process.returncode:
        raise ConfigError(
            "valgrind",
            expected="a torch that it can run",
            actual=f"exit {process.returncode}: {told[-600:]}",
            hint="an unknown instruction may be AVX-512 or newer than this valgrind.",
        )
    return dict(parse(path.open(errors="replace")) for path in sorted(folder.glob("dump.*")))


def count(tasks: Sequence[str], runs: int) -> dict[str, list[Counter[str]]]:
    """Per task the instructions of every run by group."""
    with tempfile.TemporaryDirectory() as place:
        switch = build_switch(Path(place))
        folders = [Path(place) / f"run-{number}" for number in range(runs)]
        processes = [begin(switch, folder, tasks) for folder in folders]
        found = [finish(process, where) for process, where in zip(processes, folders, strict=True)]
    return {task: [run[task] for run in found] for task in tasks}


# --- showing --------------------------------------------------------------------------------------


def spread(counts: Sequence[int]) -> float:
    """How far runs lie apart, relative to the first."""
    return (max(counts) - min(counts)) / counts[0] if counts[0] else 0.0


def table(task: str, runs: Sequence[Counter[str]]) -> Table:
    """The first run's counts, their shares, and how far the runs lie apart."""
    totals = [run.total() for run in runs]
    rows = []
    for name in GROUPS:
        counts = [run[name] for run in runs]
        share = f"{counts[0] / totals[0]:.1%}"
        rows.append((f"{name}: {_WHAT[name]}", f"{counts[0]:,}", share, f"{spread(counts):.3%}"))
    rows.append(("all", f"{totals[0]:,}", "100.0%", f"{spread(totals):.3%}"))
    header = ("", "instructions", "share", f"{len(runs)} runs apart")
    return Table(f"One {task}, default shapes", header, tuple(rows))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks instructions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "bench-out" / "instructions")
    options = parser.parse_args(arguments)
    try:
        found = count(options.tasks, options.runs)
    except ConfigError as error:
        say(str(error))
        return 2
    results = Results(options.out)
    settings: dict[str, Any] = {"runs": options.runs}
    for task, runs in found.items():
        job = Job("instructions", task, "default", 0)
        results.write(job, settings, {"instructions": [dict(run) for run in runs]})
        say(table(task, runs).text() + "\n")
    return 0
