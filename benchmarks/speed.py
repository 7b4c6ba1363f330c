"""What an update, a rollout, a plan and a decision cost: python -m benchmarks.speed --help.

Every case runs in turn on each checkout (this one and `--against FOLDER`), each in a process of its
own, so that a busy machine slows both alike. With `--compiled` the first is this checkout after
`WorldModel.compile()`, with `--native` after `bb_wm.use_native()`, the other without it. Printed
are medians of repeats in milliseconds, of the process's CPU and of the wall, and the ratio of CPU
medians to the other's with the middle half of the paired ratios. The model's numbers do not matter
here, only its shapes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from bb_wm.config import GRU, Categorical, Transformer, WorldModelConfig
from bb_wm.decide import CEM, RandomShooting
from bb_wm.model.native import use_native
from bb_wm.rssm import WorldModel
from bb_wm.worlds import tooldesk

HERE = Path(__file__).resolve().parents[1]


# --- shapes ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shape:
    """A model and the batch it learns from."""

    batch: int
    rows: int
    config: WorldModelConfig
    obs: int = 24
    action: int = 6
    tools: bool = False

    def model(self) -> WorldModel:
        if self.tools:
            desk = tooldesk.ToolDesk()
            return WorldModel(tooldesk.observation_space(), desk.action_space, self.config)
        return WorldModel(self.obs, self.action, self.config)

    def data(self) -> dict[str, Any]:
        """Noise in the shape of data; ToolDesk's own episodes."""
        generator = np.random.default_rng(0)
        size = (self.batch, self.rows)
        if self.tools:
            return _desks(self.batch, generator)
        return {
            "obs": generator.standard_normal((*size, self.obs)).astype(np.float32),
            "action": generator.uniform(-1, 1, (*size, self.action)).astype(np.float32),
            "reward": generator.standard_normal(size).astype(np.float32),
            "safety": generator.random(size).astype(np.float32),
            "terminated": np.zeros(size, bool),
        }


def _desks(count: int, generator: np.random.Generator) -> dict[str, Any]:
    desks = tooldesk.sample_desks(count, generator)
    steps, length = np.arange(tooldesk.CALLS + 2), desks.length[:, None]
    size = (count, steps.size)
    return {
        "obs": {k: v if v.ndim == 3 else v[..., None] for k, v in desks.obs.items()},
        "action": desks.flat_action,
        "reward": desks.reward,
        "safety": desks.safety,
        "terminated": steps == length - 1,
        "is_first": np.broadcast_to(steps == 0, size).copy(),
        "valid": steps < length,
    }


def _large(size: int) -> WorldModelConfig:
    return WorldModelConfig(
        core=GRU(size), latent=Categorical(32, 32), hidden=256, head_hidden=256, budget=None
    )


SHAPES = {
    "default": Shape(16, 32, WorldModelConfig(), obs=10, action=2),
    "categorical": Shape(16, 32, WorldModelConfig(latent=Categorical()), obs=10, action=2),
    "transformer": Shape(16, 32, WorldModelConfig(core=Transformer()), obs=10, action=2),
    "tooldesk": Shape(128, 6, WorldModelConfig(), tools=True),
    "wide": Shape(256, 16, _large(256)),
    "long": Shape(16, 64, _large(256)),
    "wide-512": Shape(256, 16, _large(512)),
}
TASKS = ("update", "rollout", "plan", "decide")
DEFAULT_SHAPES = "default,categorical,transformer,tooldesk,wide,long"


def prepare(shape: Shape, task: str, switch: str = "") -> Callable[[], object]:
    """What is timed: one update; 1024 starts x 15 rows; CEM 256 x 10 x 4; one decision 64 x 12."""
    model, data = shape.model(), shape.data()
    if switch == "compiled":
        model.compile()
    if switch == "native":
        use_native()
    if task == "update":
        return lambda: model.update(data)
    obs, width = data["obs"], model.action_size

    def first(count: int) -> Any:
        def pick(array: np.ndarray) -> np.ndarray:
            return np.resize(array.reshape(-1, *array.shape[2:]), (count, *array.shape[2:]))

        return {k: pick(v) for k, v in obs.items()} if isinstance(obs, dict) else pick(obs)

    if task == "rollout":
        latent = model.encode(first(1024))
        generator = torch.Generator().manual_seed(0)
        actions = torch.from_numpy(
            model.action_spec.sample(np.random.default_rng(0), 1024 * 15)
        ).reshape(1024, 15, width)

        @torch.no_grad()  # as planning imagines; a policy that learns in imagination records
        def imagine() -> object:
            return model.rollout(latent, actions, mode="sample", generator=generator)

        return imagine
    if task == "plan":
        start = model.encode(first(1))
        return lambda: CEM(horizon=10, candidates=256, rounds=4).plan(model, start)
    one = first(1)
    planner = RandomShooting(horizon=12, candidates=64)
    return lambda: planner.plan(model, model.encode(one))


# --- workers --------------------------------------------------------------------------------------


def work(switch: str) -> None:
    """Answers lines of `shape task repeats` with the seconds of each repeat."""
    if torch.get_num_threads() == 1 and hasattr(os, "sched_setaffinity"):
        # Checkouts share a core, or one of them might share its core with somebody busy.
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    ready: dict[tuple[str, str], Callable[[], object]] = {}
    for line in sys.stdin:
        name, task, repeats = line.split()
        if (name, task) not in ready:
            ready.clear()
            ready[name, task] = prepare(SHAPES[name], task, switch)
            began = time.perf_counter()
            for _ in range(2):
                ready[name, task]()
            if switch:
                took = time.perf_counter() - began
                print(f"{name} {task}: the first two took {took:.1f} s", file=sys.stderr)
        times = []
        for _ in range(int(repeats)):
            cpu, wall = time.process_time(), time.perf_counter()
            ready[name, task]()
            times.append((time.process_time() - cpu, time.perf_counter() - wall))
        print(json.dumps(times), flush=True)


class Worker:
    """A process that runs the cases with the library of one checkout, with one switch or none."""

    def __init__(self, checkout: Path, threads: int, precision: str, switch: str = "") -> None:
        source = checkout / "src"
        if not (source / "bb_wm").is_dir():
            raise SystemExit(f"{source} holds no bb_wm")
        environment = {**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{HERE}"}
        environment |= {"OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
        words = ["--worker", "--precision", precision, *[f"--{switch}"] * bool(switch)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.speed", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=HERE,
            text=True,
        )

    def run(self, shape: str, task: str, repeats: int) -> list[tuple[float, float]]:
        reader, writer = self.process.stdout, self.process.stdin
        assert reader is not None
        assert writer is not None
        return _ask(reader, writer, f"{shape} {task} {repeats}\n")

    def close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait(timeout=60)


def _ask(reader: IO[str], writer: IO[str], line: str) -> list[tuple[float, float]]:
    writer.write(line)
    writer.flush()
    answer = reader.readline()
    if not answer:
        raise SystemExit(f"the worker stopped at {line.strip()!r}; its error stands above")
    return [(cpu, wall) for cpu, wall in json.loads(answer)]


# --- figures --------------------------------------------------------------------------------------


def measure(
    workers: list[Worker], shape: str, task: str, rounds: int, repeats: int
) -> dict[str, Any]:
    """Medians in milliseconds per checkout, and the other's CPU over ours, paired by round."""
    times = np.zeros((len(workers), rounds, 2))
    for turn in range(rounds):
        for place in range(len(workers)):
            # Who begins changes from round to round.
            which = (place + turn) % len(workers)
            times[which, turn] = np.median(workers[which].run(shape, task, repeats), axis=0)
    cpu, wall = np.median(1000 * times, axis=1).T
    found = {"shape": shape, "task": task, "cpu_ms": cpu[0], "wall_ms": wall[0]}
    if len(workers) > 1:
        low, middle, high = np.quantile(times[1, :, 0] / times[0, :, 0], (0.25, 0.5, 0.75))
        found |= {"other_cpu_ms": cpu[1], "other_wall_ms": wall[1]}
        found |= {"ratio": middle, "ratio_low": low, "ratio_high": high}
    return {k: v if isinstance(v, str) else round(float(v), 3) for k, v in found.items()}


def line_of(found: dict[str, Any]) -> str:
    head = f"{found['shape']:<14}{found['task']:<9}{found['cpu_ms']:9.1f}{found['wall_ms']:9.1f}"
    if "ratio" not in found:
        return head
    return (
        f"{head}{found['other_cpu_ms']:11.1f}{found['other_wall_ms']:9.1f}{found['ratio']:8.2f}x "
        f"[{found['ratio_low']:.2f}, {found['ratio_high']:.2f}]"
    )


def cases(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    for name, known in (("shapes", SHAPES), ("tasks", TASKS)):
        unknown = set(getattr(options, name).split(",")) - set(known)
        if unknown:
            raise SystemExit(f"--{name}: {sorted(unknown)} not among {list(known)}")
    for shape in options.shapes.split(","):
        for task in options.tasks.split(","):
            yield shape, task


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--shapes", default=DEFAULT_SHAPES, help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--against", type=Path, help="another checkout to compare with")
    switches = parser.add_mutually_exclusive_group()
    switches.add_argument("--compiled", action="store_true", help="compare with compiled steps")
    switches.add_argument("--native", action="store_true", help="compare with C++ between products")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=3, help="in a row, per round and checkout")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--precision", default="highest", choices=("highest", "high", "medium"), help="of products"
    )
    options = parser.parse_args()
    torch.set_float32_matmul_precision(options.precision)
    switch = "compiled" if options.compiled else "native" if options.native else ""
    if options.worker:
        work(switch)
        return 0
    todo = list(cases(options))
    folders = [HERE, *([options.against.resolve()] if options.against else [])]
    workers = [Worker(folder, options.threads, options.precision) for folder in folders]
    if switch:
        workers = [Worker(HERE, options.threads, options.precision, switch), workers[0]]
    title = f"{'shape':<14}{'task':<9}{'CPU ms':>9}{'wall ms':>9}"
    print(title + (f"{'other CPU':>11}{'wall':>9}{'ratio':>9}" if len(workers) > 1 else ""))
    figures = []
    try:
        for shape, task in todo:
            figures.append(measure(workers, shape, task, options.rounds, options.repeats))
            print(line_of(figures[-1]), flush=True)
    finally:
        for worker in workers:
            worker.close()
    if options.json:
        software = {"torch": torch.__version__, "threads": options.threads}
        options.json.write_text(json.dumps({"software": software, "figures": figures}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
