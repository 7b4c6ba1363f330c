"""A careless clerk in a real browser, and a gate that stops its destructive clicks.

    python examples/gate_a_click.py OUT                            everything; some minutes
    python examples/gate_a_click.py OUT --record 120 --updates 150 --tasks 5    a quick look
    python examples/gate_a_click.py OUT --tasks 25                 what OUT holds is used again

The pages are MiniWoB++'s, in a headless Chromium. A clerk that knows its task, but now and then
clicks whichever button or bin is there, is watched (record); a model learns what a click leads to
(train); on the same pages the clerk then works without a gate and through one (enforce). What is
printed: destructive clicks avoided, and what that cost. Needs:
pip install "bb_wm[browser]" && apt-get install chromium chromium-driver
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bb_wm import WorldModel, WorldModelConfig
from bb_wm.data import EpisodeStore, SequenceSampler, collect
from bb_wm.decide import Gate, Ledger
from bb_wm.diagnose.calibration import RiskCalibration, calibrate
from bb_wm.serve.gated_env import GatedEnv
from bb_wm.serve.model_evidence import ModelEvidence
from bb_wm.types import ActionSpec, Episode, ObsSpec
from bb_wm.worlds.browser.clerks import Clerk
from bb_wm.worlds.browser.page import WAIT
from bb_wm.worlds.catalogue import make_world

SLIPS = 0.5  # of the clerk that is gated
HELD_OUT = 0.3  # share of the recording that the bound is made from, never learnt from


@dataclass
class Played:
    """What a number of tasks came to."""

    tasks: int = 0
    solved: int = 0
    unsafe: int = 0
    destructive: int = 0
    destructive_held: int = 0
    harmless: int = 0
    harmless_held: int = 0

    def add(self, destructive: bool, held: bool) -> None:
        self.destructive += destructive
        self.destructive_held += destructive and held
        self.harmless += not destructive
        self.harmless_held += held and not destructive


def record(folder: Path, task: str, episodes: int, seed: int = 1) -> EpisodeStore:
    """Watch a clerk that slips, strays and pauses; `folder` keeps what was seen.

    Without pauses the model would never have seen what a gate does when it holds.
    """
    maker, world = make_world(f"miniwob/{task}")
    env = maker()
    try:
        specs = ObsSpec.of(env.observation_space), ActionSpec.of(env.action_space)
        clerk = Clerk(task, slips=0.35, strays=0.2, pauses=0.25)
        seen = collect(env, episodes=episodes, policy=clerk, seed=seed, risk=world.risk)
    finally:
        env.close()
    store = EpisodeStore(folder, *specs)
    store.append(seen)
    return store


def split(store: EpisodeStore) -> tuple[list[Episode], list[Episode]]:
    """What is learnt from, and what is held out."""
    episodes = [store[index] for index in range(len(store))]
    cut = round(len(episodes) * (1 - HELD_OUT))
    return episodes[:cut], episodes[cut:]


def train(store: EpisodeStore, updates: int, seed: int = 0) -> WorldModel:
    """The default model, with the action masks that the page reports."""
    learnt = EpisodeStore(None, store.obs_spec, store.action_spec)
    learnt.append(split(store)[0])
    model = WorldModel(
        store.obs_spec, store.action_spec, WorldModelConfig(action_mask=True, seed=seed)
    )
    sampler = SequenceSampler(learnt, batch_size=96, length=4, seed=seed)
    started = time.process_time()
    for update in range(1, updates + 1):
        metrics = model.update(sampler.sample())[1]
        if update % 100 == 0:
            used = time.process_time() - started
            print(f"  update {update}: safety {metrics['safety']:.3f}, {used:.0f} s", flush=True)
    return model


def gated(env: Any, model: WorldModel, bound: RiskCalibration, ledger: Path) -> GatedEnv:
    """The page behind the gate: what is not allowed is not done at all."""
    evidence = ModelEvidence(model, WAIT, bound=bound, horizon=1)
    # it blocks for risk alone, never for a poor return
    gate = Gate(limit=0.5, max_age=60.0, min_gain=-1e9)
    return GatedEnv(env, gate, WAIT, maker=evidence, ledger=Ledger(ledger))


def play(env: Any, clerk: Clerk, tasks: int, seed: int = 1000) -> Played:
    """The clerk at work on `tasks` pages; each begins as its seed says, gated or not."""
    found = Played(tasks)
    for number in range(seed, seed + tasks):
        obs, info = env.reset(seed=number)
        act = clerk.begin(np.random.default_rng(number))
        over = False
        while not over:
            action = act(obs)
            destructive = env.unwrapped.risk(action) > 0  # measured, told to nobody
            obs, _, ended, cut, info = env.step(action)
            over = ended or cut
            held = "gate" in info and info["gate"].sent == "fallback"
            found.add(destructive, held)
            found.unsafe += info["cost"] > 0
        found.solved += info["solved"]
    return found


def table(columns: dict[str, Played]) -> str:
    """Destructive clicks avoided, and what that cost."""
    rows = [("", list(columns))]
    for name, value in (
        ("tasks solved", lambda p: f"{p.solved} of {p.tasks}"),
        ("destructive clicks on the page", lambda p: str(p.unsafe)),
        ("destructive clicks held", lambda p: f"{p.destructive_held} of {p.destructive}"),
        ("harmless actions held", lambda p: f"{p.harmless_held} of {p.harmless}"),
    ):
        rows.append((name, [value(p) for p in columns.values()]))
    return "\n".join(f"{name:<32}" + "".join(f"{c:>18}" for c in cells) for name, cells in rows)


def live(
    out: Path, task: str, *, episodes: int, updates: int, tasks: int, seed: int = 0
) -> tuple[dict[str, Played], RiskCalibration]:
    """The whole life cycle in the folder `out`; what it holds already is used again."""
    recording, kept = out / "recording", out / "model"
    if recording.exists():
        store = EpisodeStore(recording, mode="r")
    else:
        store = record(recording, task, episodes, seed=1 + seed)
    learnt, held = split(store)
    harm = sum(bool((episode.safety > 0).any()) for episode in learnt)
    print(f"recorded {len(store)} episodes; learning from {len(learnt)}, {harm} of them unsafe")
    if kept.exists():
        model = WorldModel.load(kept)
    else:
        model = train(store, updates, seed)
        model.save(kept)
    bound = calibrate(model, held, horizons=(1,))
    for line in bound.findings:
        print(line)
    env = make_world(f"miniwob/{task}")[0]()
    careless = Clerk(task, slips=SLIPS)
    try:
        columns = {
            "careful": play(env, Clerk(task), tasks),
            "careless": play(env, careless, tasks),
            "careless, gated": play(
                gated(env, model, bound, out / f"{time.time_ns()}.ledger"), careless, tasks
            ),
        }
    finally:
        env.close()
    return columns, bound


def cli() -> None:
    """The example."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    words.add_argument("out", type=Path, help="a folder of its own")
    words.add_argument("--task", default="click-dialog-2", help="of `bb-wm worlds --domain ui`")
    words.add_argument("--record", type=int, default=500, help="episodes to watch")
    words.add_argument("--updates", type=int, default=600, help="of the model")
    words.add_argument("--tasks", type=int, default=10, help="played in each of the three ways")
    given = words.parse_args()
    columns, _ = live(
        given.out.resolve(),
        given.task,
        episodes=given.record,
        updates=given.updates,
        tasks=given.tasks,
    )
    print(table(columns))


if __name__ == "__main__":
    cli()
