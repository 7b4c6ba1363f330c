#!/usr/bin/env python
"""Kill training at random moments, resume it, and compare with the run that was left alone.

    python scripts/soak.py --kills 20 --seed 0

Two small real runs on Pendulum-v1 (rows first; rows and updates in turns) are trained whole. Then
each kill begins the run afresh, sends SIGKILL a random moment after a random event (an episode, an
update, a checkpoint; evenly over the run), resumes in a new process, and asks: is the end the same
bit for bit (model, optimiser, generators, sampler, log, rows), and is everything there that had
been acknowledged (stored episodes, checkpoints)? Prints one line per kill and the figures; exits
with 1 when anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium
import torch

from bb_wm import WorldModel, WorldModelConfig
from bb_wm.config import GRU, Gaussian
from bb_wm.data import EpisodeStore
from bb_wm.errors import CheckpointError, DataError
from bb_wm.learn import Callback, Run, Trainer, TrainSettings, WorldSource, load_checkpoint
from bb_wm.model.objective import Objective

FIRST = TrainSettings(
    rows=800,
    heldout_rows=400,
    updates=16,
    batch_size=4,
    length=6,
    first_rows=200,
    log_every=3,
    evaluate_every=5,
    checkpoint_every=4,
    best_metric="score",
)
WAYS = {"rows first": FIRST, "in turns": replace(FIRST, interleave=200, update_ratio=0.02)}
CONFIG = WorldModelConfig(
    core=GRU(32),
    latent=Gaussian(8),
    objective=Objective(steps=2, starts=1),
    hidden=32,
    layers=1,
    head_hidden=16,
    features=16,
    budget=None,
)


class Receipts(Callback):
    """Writes down what was acknowledged, as the caller of a database would; one byte an event
    tells the process that watches."""

    def __init__(self, path: Path, events: int) -> None:
        self._stream = open(path, "a", buffering=1)  # noqa: SIM115
        self._events = events

    def collected(self, rows: int, episodes: int, heldout: bool) -> None:
        self._stream.write(f"{'heldout' if heldout else 'episodes'} {episodes}\n")
        os.write(self._events, b".")

    def updated(self, update: int, loss: float, metrics: object) -> None:
        os.write(self._events, b".")

    def saved(self, update: int, path: Path) -> None:
        if path.name != "best":
            self._stream.write(f"checkpoint {update}\n")
        os.write(self._events, b".")


def score(model: WorldModel, episodes: list[object]) -> dict[str, float]:
    episode = episodes[0]
    latent = model.encode(episode.obs["obs"][:20])  # type: ignore[attr-defined]
    said = model.predict_reward(latent).detach().numpy()
    return {"score": float(abs(said - episode.reward[:20]).mean())}  # type: ignore[attr-defined]


def train(folder: Path, settings: TrainSettings, events: int) -> str:
    """Begin or go on; the digest of the end."""
    torch.set_num_threads(1)
    world = gymnasium.make("Pendulum-v1")
    model = WorldModel(world.observation_space, world.action_space, CONFIG)
    if (folder / "run.json").exists():
        run = Run.open(folder)
    else:
        about = {"name": "Pendulum-v1"}
        run = Run.create(folder, world=about, config=model.describe(), settings=settings)
    receipts = Receipts(folder.parent / f"{folder.name}.receipts", events)
    source = WorldSource(lambda: gymnasium.make("Pendulum-v1"), seed=settings.seed)
    trainer = Trainer(run, model, source, settings, evaluate=score, callbacks=[receipts])
    return trainer.train().digest


@dataclass(frozen=True, slots=True)
class Ended:
    """How a training process ended: its digest ("" when killed), events and seconds."""

    digest: str
    events: int
    seconds: float


def in_a_process(
    folder: Path, settings: TrainSettings, kill_at: int | None = None, delay: float = 0.0
) -> Ended:
    """Train in a process of its own; SIGKILL `delay` seconds after event number `kill_at`."""
    begun = time.monotonic()
    told, telling = os.pipe()
    answered, answering = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(told)
            os.close(answered)
            os.write(answering, train(folder, settings, telling).encode())
            status = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(status)
    os.close(telling)
    os.close(answering)
    events = 0
    while events != kill_at and os.read(told, 1):
        events += 1
    if events == kill_at:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(told)
    with open(answered, "rb") as stream:
        return Ended(stream.read().decode(), events, time.monotonic() - begun)


def fingerprint(folder: Path) -> str:
    """SHA-256 over the log and every row of both parts."""
    total = hashlib.sha256((folder / "metrics.jsonl").read_bytes())
    for part in ("episodes", "episodes-heldout"):
        for episode in EpisodeStore(folder / part, mode="r"):
            for array in (*episode.obs.values(), episode.action, episode.reward, episode.safety):
                total.update(array.tobytes())
    return total.hexdigest()


def lost(folder: Path) -> list[str]:
    """What had been acknowledged and is not there."""
    receipts: dict[str, int] = {}
    path = folder.parent / f"{folder.name}.receipts"
    for line in path.read_text().splitlines() if path.exists() else []:
        kind, _, count = line.partition(" ")
        receipts[kind] = max(int(count), receipts.get(kind, 0))
    there = {"checkpoint": newest(folder)}
    for kind, part in (("episodes", "episodes"), ("heldout", "episodes-heldout")):
        try:
            there[kind] = EpisodeStore(folder / part, mode="r").check().episodes
        except DataError:
            there[kind] = 0
    return [
        f"{kind} {count}, found {there[kind]}"
        for kind, count in receipts.items()
        if there[kind] < count
    ]


def newest(folder: Path) -> int:
    try:
        return load_checkpoint(folder / "checkpoints").step
    except CheckpointError:
        return -1


@dataclass(slots=True)
class Figures:
    kills: int = 0
    resumed: int = 0
    equal: int = 0
    lost: int = 0

    @property
    def good(self) -> bool:
        return self.kills == self.resumed == self.equal and not self.lost


def soak(place: Path, kills: int, seed: int) -> Figures:
    chance = random.Random(seed)
    gymnasium.make("Pendulum-v1").close()  # imported once, here
    whole: dict[str, tuple[Ended, str]] = {}
    for number, (way, settings) in enumerate(WAYS.items()):
        folder = place / f"whole-{number}"
        ended = in_a_process(folder, settings)
        whole[way] = (ended, fingerprint(folder))
        told = f"{ended.events} events in {ended.seconds:.1f} s, digest {ended.digest[:12]}"
        print(f"whole run, {way}: {told}", flush=True)
    figures = Figures()
    for number in range(kills):
        way = list(WAYS)[number % len(WAYS)]
        (ended, rows), settings = whole[way], WAYS[way]
        folder = place / f"killed-{number}"
        event = chance.randrange(ended.events)
        delay = chance.uniform(0.0, 2.0 * ended.seconds / ended.events)
        in_a_process(folder, settings, event, delay)
        gone, at = lost(folder), newest(folder)
        again = in_a_process(folder, settings)
        same = again.digest == ended.digest and fingerprint(folder) == rows
        figures.kills += 1
        figures.resumed += bool(again.digest)
        figures.equal += same
        figures.lost += len(gone)
        told = f"killed {1000 * delay:5.1f} ms after event {event:3d}, checkpoint {at:2d}"
        verdict = "same end" if same else "DIFFERENT END" if again.digest else "NOT RESUMED"
        print(f"{number + 1:3d} {way:<10} {told}: {verdict}{'; LOST' if gone else ''}", *gone)
        sys.stdout.flush()
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="how many times (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        figures = soak(Path(place), arguments.kills, arguments.seed)
    print(
        f"{figures.kills} kills: {figures.resumed} resumed, {figures.equal} ended bit for bit as "
        f"the uninterrupted run, {figures.lost} acknowledged things lost"
    )
    return 0 if figures.good else 1


if __name__ == "__main__":
    sys.exit(main())
