"""The speed of our updates, imagination and decisions beside pinned peers, in one run.

    python -m benchmarks speed                         wide and long, 2 threads
    python -m benchmarks speed --threads 1 --shapes wide,long,wide-512,long-512
    python -m benchmarks speed --install               only make the peers' environments
    python -m benchmarks speed --peers torchrl --tasks update --rounds 9

S1 one update (wide: 256 sequences of 16 rows, long: 16 of 64) with reconstruction, KL, reward and
continuation, the optimiser's step included. S2 imagine 1024 starts x 15 rows under a two-layer
policy, with reward and continuation. S3 decide: encode one observation, 64 random candidates x 12
rows, take the best. S4 evsi (ours only): 64 imagined answers x 8 candidates x 12 rows.

Everyone works in turn, round by round, so that a busy machine slows all alike; a ratio is the
median of the rounds' own ratios with their middle half. Time is CPU time with one thread, else wall
time. JSON per shape goes to bench-out/speed, and to docs/benchmarks.md by
`python -m benchmarks report --out bench-out bench-out/speed`. To compare two checkouts of ours:
`python -m benchmarks.speed --against FOLDER`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers_speed.line import SHAPES, TASKS
from benchmarks.results import Job, Results, say
from benchmarks.speed_envs import ENVS, MODULES, PEERS, ROOT, python_of
from benchmarks.speed_flops import dominating, update_flops

OURS = "ours"
GEMMS = ("gemm", "gemm_medium")
# Rows of the table: what is run in whose environment, and with which word for its setting.
SETTINGS = {
    OURS: (None, "equal"),
    "ours, fastest settings": (None, "fastest"),
    "ours, all defaults": (None, "default"),
    "torchrl, step compiled": ("torchrl", "step"),
    "torchrl, eager": ("torchrl", "eager"),
    "dreamerv3, jit": ("dreamerv3", "jit"),
    "sheeprl, step compiled": ("sheeprl", "step"),
    "sheeprl, eager": ("sheeprl", "eager"),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How long everyone works: `seconds` in a row, each of `rounds` times."""

    threads: int
    rounds: int
    seconds: float

    @property
    def clock(self) -> int:
        """Which of (CPU, wall) counts; CPU time of several threads includes their waiting."""
        return 0 if self.threads == 1 else 1


class Worker:
    """A process that answers the lines of `benchmarks.peers_speed.line`."""

    def __init__(self, name: str, command: Sequence[str], threads: int, log: Path) -> None:
        self.name = name
        self.log = log
        self.cache = tempfile.TemporaryDirectory(prefix="speed-")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        environment |= {
            "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
            "PYTHONWARNINGS": "ignore",
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            # Threads that wait do not take a core from another worker, or from what else runs.
            "OMP_WAIT_POLICY": "passive",
            # The first call compiles for the first time.
            "TORCHINDUCTOR_CACHE_DIR": self.cache.name,
        }
        with open(log, "w") as errors:
            self.process = subprocess.Popen(
                _bound(command, threads),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                cwd=ROOT,
                text=True,
            )

    def ask(self, shape: str, task: str, repeats: int) -> dict[str, Any]:
        """The worker's answer; {"error": ...} where it has none."""
        reader, writer = self.process.stdout, self.process.stdin
        assert reader is not None
        assert writer is not None
        try:
            writer.write(f"{shape} {task} {repeats}\n")
            writer.flush()
            answer: dict[str, Any] = json.loads(reader.readline() or "{}")
        except BrokenPipeError:
            answer = {}
        return answer or {"error": f"the worker stopped; its last words are in {self.log}"}

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            # A line for a worker that died is still waiting to be written.
            with contextlib.suppress(BrokenPipeError):
                if stream is not None:
                    stream.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.cache.cleanup()


def _bound(command: Sequence[str], threads: int) -> list[str]:
    """The command on as many cores as it has threads: JAX takes all that it sees."""
    if not hasattr(os, "sched_getaffinity"):
        return list(command)
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    if len(cores) < threads:
        say(f"only {len(cores)} cores for {threads} threads")
    return ["taskset", "-c", ",".join(map(str, cores)), *command]


def commands(peers: Sequence[str], envs: Path = ENVS) -> dict[str, list[str]]:
    """Name of every row -> how its worker is started; peers that cannot be installed are told of
    and left out."""
    pythons = {name: python_of(PEERS[name], envs) for name in peers}
    found = {}
    for name, (peer, setting) in SETTINGS.items():
        if peer is None:
            found[name] = [sys.executable, "-m", f"{MODULES}.ours", setting]
        elif (python := pythons.get(peer)) is not None:
            found[name] = [str(python), "-m", f"{MODULES}.{PEERS[peer].module}", setting]
    return found


# --- measuring ------------------------------------------------------------------------------------


def measure(
    workers: list[Worker],
    shape: str,
    tasks: Sequence[str],
    plan: Plan,
    keep: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Everything of one shape: per row and task the rounds' medians [CPU, wall] in seconds.

    `keep` is given what there is after every task, so that a run that is stopped leaves something.
    """
    rows: dict[str, dict[str, Any]] = {worker.name: {} for worker in workers}
    found: dict[str, Any] = {}
    for task in tasks:
        able = [(w, repeats) for w in workers if (repeats := _ready(w, shape, task, plan, rows))]
        for turn in range(plan.rounds):
            for place in range(len(able)):
                # Who begins changes from round to round.
                worker, repeats = able[(place + turn) % len(able)]
                told = worker.ask(shape, task, repeats)
                if "error" in told:
                    raise SystemExit(f"{worker.name} failed at {task}: {told['error']}")
                middle = np.median(told["seconds"], axis=0).tolist()
                rows[worker.name][task]["rounds"].append(middle)
                if task == "update":
                    rows[worker.name]["peak_mib"] = told["peak_mib"]
        for worker, _ in able:
            say(f"  {task:<12}{worker.name:<26}{_line(rows[worker.name][task], plan)}")
        found = {"rows": rows, "gflop": update_flops(SHAPES[shape]) / 1e9}
        found |= _roofline(rows, shape)
        keep(found)
    return found


def _ready(
    worker: Worker, shape: str, task: str, plan: Plan, rows: dict[str, dict[str, Any]]
) -> int:
    """How many repeats fill the worker's turn; 0 where it cannot do the task, which is told."""
    told = worker.ask(shape, task, 0)
    if "error" in told:
        say(f"  {worker.name}: no {task}. {told['error']}")
    if "error" in told or "absent" in told:
        return 0
    probe = worker.ask(shape, task, 1)["seconds"][0][1]
    rows[worker.name][task] = {"first": told["first"], "rounds": []}
    rows[worker.name] |= {"parameters": told["parameters"], "base_mib": told["base_mib"]}
    return int(np.clip(round(plan.seconds / max(probe, 1e-6)), 1, 1000))


def _line(found: dict[str, Any], plan: Plan) -> str:
    times = np.array(found["rounds"])[:, plan.clock]
    low, middle, high = 1000 * np.quantile(times, (0.25, 0.5, 0.75))
    return f"{middle:9.1f} ms [{low:.1f}, {high:.1f}]   first call {found['first']:.1f} s"


def _roofline(rows: dict[str, dict[str, Any]], shape: str) -> dict[str, Any]:
    product, ours = dominating(SHAPES[shape]), rows.get(OURS, {})
    flops = product.flops / product.passes / 1e9
    size = f"{product.rows} x {product.inputs} x {product.outputs}"
    return {"gemm_gflop": flops, "gemm_size": size, "gemm": {k: ours.get(k) for k in GEMMS}}


def run(
    shape: str,
    tasks: Sequence[str],
    started: dict[str, list[str]],
    plan: Plan,
    keep: Callable[[dict[str, Any]], None],
) -> None:
    """Workers of their own for one shape, so that memory and first calls are the shape's own."""
    logs = Path(tempfile.mkdtemp(prefix="speed-log-"))
    workers = [
        Worker(name, command, plan.threads, logs / f"{number}.log")
        for number, (name, command) in enumerate(started.items())
    ]
    try:
        measure(workers, shape, [*tasks, *GEMMS], plan, keep)
    finally:
        for worker in workers:
            worker.close()


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    peers = [name for name in options.peers.split(",") if name]
    started = commands(peers, options.envs)
    if options.rows:
        started = {name: command for name, command in started.items() if name in options.rows}
    if options.install:
        return int(any(name not in {SETTINGS[k][0] for k in started} for name in peers))
    shapes, tasks = options.shapes.split(","), options.tasks.split(",")
    plan = Plan(options.threads, options.rounds, options.seconds)
    results = Results(options.out)
    settings = {"threads": plan.threads, "rounds": plan.rounds, "seconds": plan.seconds}
    pins = {name: [*PEERS[name].bare, *PEERS[name].pins] for name in peers}
    for shape in shapes:
        say(f"{shape}: {SHAPES[shape]}, {plan.threads} threads")
        job = Job("speed", shape, f"{plan.threads}-threads", 0)

        def keep(found: dict[str, Any], job: Job = job) -> None:
            results.write(job, settings, found | {"pins": pins, "load": os.getloadavg()[0]})

        # What does not depend on the batch is measured once, with the wide one.
        once = tasks if shape.startswith("wide") or len(shapes) == 1 else ["update"]
        run(shape, [task for task in once if task in tasks], started, plan, keep)
    from benchmarks import speed_table

    parts = [r for r in results.all() if r["part"] == "speed" and r["world"] in shapes]
    say(speed_table.page([r for r in parts if r["settings"] == settings]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shapes", default="wide,long", type=_among(SHAPES))
    parser.add_argument("--tasks", default=",".join(TASKS), type=_among(TASKS))
    parser.add_argument("--peers", default=",".join(PEERS), type=_among(PEERS))
    parser.add_argument("--rows", nargs="+", choices=list(SETTINGS), help="only these rows")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of work in a row, each round")
    parser.add_argument("--out", type=Path, default=ROOT / "bench-out" / "speed")
    parser.add_argument("--envs", type=Path, default=ENVS, help="folder of the peers' environments")
    parser.add_argument("--install", action="store_true", help="make the environments and stop")
    return parser


def _among(known: Any) -> Any:
    def check(text: str) -> str:
        strange = sorted(set(text.split(",")) - set(known) - {""})
        if strange:
            raise argparse.ArgumentTypeError(f"{strange} not among {list(known)}")
        return text

    return check
