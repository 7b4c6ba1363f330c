"""Every smell injected into real training runs: how often it is found, how often healthy runs are
called smelly.

    python -m benchmarks.smells                            20 seeds, about 8 small trainings each
    python -m benchmarks.smells --seeds 100 101 --out DIR  a few of them
    python -m benchmarks.smells --table --out DIR          only the table of what is there

Started again it goes on where it stopped; started twice, the processes share the work. Thresholds
were shaped on seeds below 100; the default seeds, 100 to 119, judge them.

One run is one model trained on 2500 rows of a small world. Injected are, in this order: the plain
KL x 1000 or z muted (by turns); imagination pushed off in one direction, further at every step;
rows of operators who leak the reward, and a strong planner; no risky row in training; a core that
looks back over all it has imagined; actions shifted by a row, in training alone or in all rows;
answers that were never logged, or an ask whose price is taken for zero. A false alarm is a smell
found in a healthy run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from bb_wm.config import GRU, Gaussian, Objective, WorldModelConfig
from bb_wm.data import EpisodeStore, SequenceSampler, collect
from bb_wm.diagnose import Report, diagnose
from bb_wm.diagnose.smells import DETECTORS, UNKNOWN
from bb_wm.rssm import WorldModel
from bb_wm.testing.worlds import (
    EchoWorld,
    HazardChain,
    KalmanWorld,
    LineWorld,
)
from bb_wm.types import ActionSpec, Episode, ObsSpec
from benchmarks.results import Job, Results, say, work
from benchmarks.smell_injections import (
    LooksBack,
    Muted,
    copy_as,
    pushed,
    shifted,
    without_risk,
)
from benchmarks.smell_worlds import (
    DONE,
    SEEN,
    HintPlay,
    LampWorld,
    Operators,
    hide_quality,
    hint_episodes,
)

ROOT = Path(__file__).resolve().parents[1]
JUDGING: Final = tuple(range(100, 120))
FOUND_BAR, FALSE_BAR = 0.9, 0.05
Maker = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Settings:
    """The same for every world and smell; nothing is tuned per world."""

    rows: int = 2500
    heldout_rows: int = 1500
    updates: int = 600
    batch_size: int = 16
    length: int = 12
    push: float = 0.15

    def config(self, seed: int, **changes: Any) -> WorldModelConfig:
        small = WorldModelConfig(
            core=GRU(32),
            latent=Gaussian(12),
            hidden=32,
            head_hidden=32,
            features=16,
            layers=1,
            warmup=50,
            average=0.99,
            objective=Objective(steps=5, starts=1, free_updates=200),
            seed=seed,
            budget=None,
        )
        return small.override(**changes)


def world_of(name: str, seed: int) -> Maker:
    makers: dict[str, Maker] = {
        "line": LineWorld,
        "kalman": lambda: KalmanWorld(seed),
        "echo": EchoWorld,
        "hazard": lambda: HazardChain(depth=3, rate=0.03, length=50),
    }
    return makers[name]


@dataclass(frozen=True, slots=True)
class Data:
    """Training and held-out rows of a world, and the world itself."""

    obs: ObsSpec
    action: ActionSpec
    training: list[Episode]
    heldout: list[Episode]
    simulator: Maker | None


def gather(make: Maker, settings: Settings, seed: int) -> Data:
    env = make()
    return Data(
        ObsSpec.of(env.observation_space),
        ActionSpec.of(env.action_space),
        collect(make, rows=settings.rows, seed=seed),
        collect(make, rows=settings.heldout_rows, seed=seed + 1_000_000),
        make,
    )


def fit(data: Data, config: WorldModelConfig, settings: Settings) -> WorldModel:
    """A model trained on the training rows."""
    model = WorldModel(data.obs, data.action, config)
    store = EpisodeStore(None, data.obs, data.action)
    store.append(data.training)
    longest = max(len(episode) for episode in data.training)
    length = min(settings.length, longest)
    size = settings.batch_size * settings.length // length
    sampler = SequenceSampler(store, batch_size=size, length=length, seed=config.seed)
    for _ in range(settings.updates):
        model.update(sampler.sample())
    return model


def judge(model: WorldModel, data: Data, ledger: Path | None = None) -> dict[str, Any]:
    report = diagnose(
        model, data.heldout, training=data.training, simulator=data.simulator, ledger=ledger
    )
    return verdicts(report)


def verdicts(report: Report) -> dict[str, Any]:
    return {
        smell.name: {
            "status": smell.status,
            "severity": smell.severity,
            "evidence": smell.evidence,
            "numbers": {k: v for k, v in smell.numbers.items() if np.isfinite(v)},
        }
        for smell in report.smells
    }


# --- the runs -------------------------------------------------------------------------------------

Arms = dict[str, dict[str, Any]]


def base(seed: int, settings: Settings) -> Arms:
    """A healthy run; the same one with pushed imagination, and with a core that looks back."""
    name = ("line", "kalman", "echo", "hazard")[seed % 4]
    data = gather(world_of(name, seed), settings, seed)
    model = fit(data, settings.config(seed), settings)
    arms = {f"healthy {name}": judge(model, data)}
    if name != "hazard":
        arms["rollout drift"] = judge(pushed(model, settings.push, seed), data)
    arms["latency creep"] = judge(copy_as(LooksBack, model), data)
    return arms


def collapse(seed: int, settings: Settings) -> Arms:
    name = ("line", "kalman", "hazard")[seed % 3]
    data = gather(world_of(name, seed), settings, seed)
    config = settings.config(seed)
    if seed % 2:
        config = config.override(latent=Muted(12))
    else:
        # The plain KL: balance and free nats are there against this very collapse, and win.
        plain = Objective.plain(beta=1000.0)
        config = config.override(objective=replace(plain, steps=5, starts=1))
    return {"posterior collapse": judge(fit(data, config, settings), data)}


def blind(seed: int, settings: Settings) -> Arms:
    name = ("line", "kalman", "hazard")[seed % 3]
    data = gather(world_of(name, seed), settings, seed)
    data = replace(data, training=without_risk(data.training))
    return {"safety blind spots": judge(fit(data, settings.config(seed), settings), data)}


def misaligned(seed: int, settings: Settings) -> Arms:
    name = ("line", "kalman", "echo")[seed % 3]
    data = gather(world_of(name, seed), settings, seed)
    late = seed % 2 == 0
    moved = shifted(data.training, late)
    heldout = shifted(data.heldout, late) if seed % 4 < 2 else data.heldout
    data = replace(data, training=moved, heldout=heldout)
    return {"action misalignment": judge(fit(data, settings.config(seed), settings), data)}


def lamp(seed: int, settings: Settings) -> Arms:
    healthy = gather(LampWorld, settings, seed)
    arms = {"healthy lamp": judge(fit(healthy, settings.config(seed), settings), healthy)}
    rows = [
        hide_quality(
            collect(lambda: LampWorld(shown=True), rows=count, policy=Operators(), seed=from_)
        )
        for count, from_ in ((settings.rows, seed), (settings.heldout_rows, seed + 1_000_000))
    ]
    leaky = replace(healthy, training=rows[0], heldout=rows[1])
    return {
        **arms,
        "reward hacking": judge(fit(leaky, settings.config(seed), settings), leaky),
    }


def hints(seed: int, settings: Settings) -> Arms:
    """Healthy at a low and at a high price; answers never logged; the high price taken for zero."""

    def learnt(blank: bool) -> tuple[WorldModel, Data]:
        data = Data(
            ObsSpec.of(SEEN),
            ActionSpec.of(DONE),
            hint_episodes(settings.rows // 2, seed, blank=blank),
            hint_episodes(settings.heldout_rows // 2, seed + 1_000_000, blank=blank),
            None,
        )
        # The worth of taking is a product of hint and act: it is learnt late, so learn faster.
        config = settings.config(seed, learning_rate=3e-3)
        config = config.override(objective=replace(config.objective, reward=3.0))
        return fit(data, config, settings), data

    def asked(model: WorldModel, data: Data, price: float, told: float) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "ledger.sqlite"
            HintPlay(model, price=price, told=told, seed=seed).write(path)
            return judge(model, data, ledger=path)

    model, data = learnt(blank=False)
    name = "EVSI helplessness or hubris"
    arms = {
        "healthy hints, cheap": asked(model, data, 0.02, 0.02),
        "healthy hints, dear": asked(model, data, 0.9, 0.9),
    }
    if seed % 2:
        return {**arms, name: asked(model, data, 0.9, 0.0)}
    return {**arms, name: asked(*learnt(blank=True), 0.02, 0.02)}


PARTS: Final[Mapping[str, Callable[[int, Settings], Arms]]] = {
    "base": base,
    "collapse": collapse,
    "blind": blind,
    "misaligned": misaligned,
    "lamp": lamp,
    "hints": hints,
}


def measure(job: Job, settings: Settings) -> dict[str, Any]:
    began = time.perf_counter()
    torch.manual_seed(job.seed)
    arms = PARTS[job.preset](job.seed, settings)
    for arm, found in arms.items():
        told = [f"{name} ({smell['severity']})" for name, smell in found.items() if _is(smell)]
        say(f"  {arm}: {', '.join(told) or 'nothing found'}")
    return {"arms": arms, "seconds": time.perf_counter() - began}


def _is(smell: Mapping[str, Any]) -> bool:
    return bool(smell["status"] == "found")


# --- the table ------------------------------------------------------------------------------------


def table(results: Results, seeds: Sequence[int]) -> tuple[str, bool]:
    """Rates by smell as Markdown, and whether both bars are met."""
    found: dict[str, list[bool]] = defaultdict(list)
    alarms: dict[str, list[bool]] = defaultdict(list)
    unsure: dict[str, int] = defaultdict(int)
    for result in results.all():
        if result.get("part") != "smells" or result["seed"] not in seeds:
            continue
        for arm, smells in result["arms"].items():
            if arm in smells:
                found[arm].append(_is(smells[arm]))
                continue
            for name, smell in smells.items():
                if smell["status"] == UNKNOWN:
                    unsure[name] += 1
                else:
                    alarms[name].append(_is(smell))
    lines = [
        "| smell | injected runs | found | healthy runs | false alarms | not enough evidence |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    good = True
    for detector in DETECTORS:
        name = detector.name
        hit, wrong = found[name], alarms[name]
        good &= bool(hit and wrong) and np.mean(hit) >= FOUND_BAR and np.mean(wrong) <= FALSE_BAR
        lines.append(
            f"| {name} | {len(hit)} | {_share(hit)} | {len(wrong)} | {_share(wrong)} "
            f"| {unsure[name]} |"
        )
    lines.append("")
    lines.append(f"Bars (>= {FOUND_BAR:.0%} found, <= {FALSE_BAR:.0%} false): {_verdict(good)}")
    return "\n".join(lines), good


def _share(hits: Sequence[bool]) -> str:
    return f"{sum(hits)} ({np.mean(hits):.0%})" if hits else "-"


def _verdict(good: bool) -> str:
    return "met" if good else "not met"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.smells",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=list(JUDGING))
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--updates", type=int, default=Settings().updates)
    parser.add_argument("--out", type=Path, default=ROOT / "bench-out-smells")
    parser.add_argument("--table", action="store_true", help="measure nothing, print what is there")
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    torch.set_num_threads(1)
    results, settings = Results(options.out), replace(Settings(), updates=options.updates)
    failed = 0
    if not options.table:
        jobs = [
            Job("smells", "small", part, seed) for seed in options.seeds for part in options.parts
        ]
        failed = work(jobs, results, asdict(settings), lambda job: measure(job, settings))
    text, _ = table(results, options.seeds)
    say(text)
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
