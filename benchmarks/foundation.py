"""The foundation's measurements, each written as JSON and gathered into docs/benchmarks.md.

    python -m benchmarks exact                      KalmanWorld, EchoWorld, LineWorld
    python -m benchmarks worlds                     Pendulum, Acrobot, Reacher, Hopper, CartPole
    python -m benchmarks worlds --jobs 2 --seeds 0 1 2 --worlds Pendulum-v1
    python -m benchmarks import-time                what `import bb_wm` adds to `import torch`
    python -m benchmarks report                     write docs/benchmarks.md from the results
    python -m benchmarks PART --help                quality, speed, scale, instructions, overhead

Started again, a command goes on where it stopped; started twice, the processes share the work.
One thread per process. Results made with other settings (--updates, --rows ...) are measured anew.

Commands of their own, `python -m benchmarks.NAME --help`: browser, domains, evsi, long_rollouts,
pixels, promotion, risk, smells, speed, tooldesk, tools; and `python benchmarks/planning.py --help`.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch

from benchmarks import exact_worlds, real_worlds, report
from benchmarks.results import Job, Results, say, work
from benchmarks.training import PRESETS, Settings

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("exact", "worlds", "import-time", "report")


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(arguments)
    if options.command == "report":
        folders = [Results(folder) for folder in options.out]
        return report.write(folders, options.page, keep=options.keep)
    results = Results(options.out)
    if options.command == "import-time":
        return _import_time(results)
    if options.jobs > 1:
        return _several(arguments, options.jobs)
    torch.set_num_threads(1)
    settings = _settings(options)
    jobs = [
        Job(options.command, world, preset, seed)
        for seed in options.seeds
        for world in options.worlds
        for preset in options.presets
    ]
    measure = exact_worlds.measure if options.command == "exact" else real_worlds.measure
    failed = work(jobs, results, settings.to_json(), lambda job: measure(job, settings))
    missing = [job.label for job in jobs if not results.done(job, settings.to_json())]
    if missing:
        say(f"not done (failed, or another process is at it): {', '.join(missing)}")
    return int(failed > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--out", type=Path, default=ROOT / "bench-out", help="folder of the JSON results"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, worlds, presets in (
        ("exact", exact_worlds.WORLDS, tuple(PRESETS)),
        ("worlds", real_worlds.WORLDS, tuple(PRESETS)),
    ):
        command = commands.add_parser(name, parents=[shared], help=f"measure on {name}")
        known = worlds if name == "exact" else None
        command.add_argument("--worlds", nargs="+", default=list(worlds), choices=known)
        command.add_argument("--presets", nargs="+", default=list(presets), choices=presets)
        command.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
        command.add_argument("--jobs", type=int, default=1, help="processes that share the work")
        for field in fields(Settings):
            if field.type == "int":
                flag = f"--{field.name.replace('_', '-')}"
                command.add_argument(flag, type=int, default=field.default)
    commands.add_parser("import-time", parents=[shared], help="what importing costs")
    page = commands.add_parser("report", help="write the tables")
    page.add_argument(
        "--out",
        type=Path,
        nargs="+",
        default=[ROOT / "bench-out"],
        help="folders of JSON results; those made with other settings get a section of their own",
    )
    page.add_argument("--keep", action="store_true", help="leave sections without results as is")
    page.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md")
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    names = [field.name for field in fields(Settings) if field.type == "int"]
    return replace(Settings(), **{name: getattr(options, name) for name in names})


def _several(arguments: list[str], count: int) -> int:
    """`count` processes of the same command; locks on the results share the work among them."""
    at = next(i for i, word in enumerate(arguments) if word.startswith("--jobs"))
    rest = arguments[:at] + arguments[at + (1 if "=" in arguments[at] else 2) :]
    command = [sys.executable, "-m", "benchmarks", *rest]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    children = [subprocess.Popen(command, cwd=ROOT, env=os.environ | threads) for _ in range(count)]
    try:
        return max(child.wait() for child in children)
    except KeyboardInterrupt:
        for child in children:
            child.terminate()
        return 130


def _import_time(results: Results) -> int:
    """scripts/import-time, with its numbers kept."""
    loader = importlib.machinery.SourceFileLoader("import_time", str(ROOT / "scripts/import-time"))
    spec = importlib.util.spec_from_loader("import_time", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    measured = {name: module.seconds(code) for name, code in module.CASES.items()}
    for name, value in measured.items():
        say(f"{name:<26}{value:7.3f} s")
    job = Job("import-time", "import", "fresh-process", 0)
    results.write(job, {}, {"seconds": measured, "bar": module.BAR})
    return 0
