"""EVSI against problems of known answer: bias, RMSE, coverage, and the naive nested estimator.

    python benchmarks/evsi.py                    # 100 replications at N = 256 and 1024
    python benchmarks/evsi.py --replications 20 --particles 256 --case P1_gauss2

The naive nested estimator spends the same number of rollouts, N x C: N / 8 answers, and for each
8 worlds drawn from the exact posterior, with V_no from the same worlds.

    python benchmarks/evsi.py --only speed       # one decision with the default WorldModel

The speed part times one decision of a first stage of 64 particles on --threads threads: wall time,
and processor time, which grows less when the machine is busy with other work.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
import torch

from bb_wm.decide.evsi import EVSI, Ask, JointSamples
from bb_wm.imagine.utility import Limit, Utility
from bb_wm.rssm import WorldModel
from bb_wm.testing.evsi_cases import CASES, Case

INNER = 8


def utility_for(name: str) -> Utility:
    if name.startswith("P9b"):
        return Utility(discount=1.0, limit=Limit(0.12))
    return Utility(discount=0.95 if name == "P4_tiger_H5" else 1.0)


def nested(case: Case, particles: int, seed: int) -> float:
    """(8 / N) sum_o max_a mean_j U(s_j, a) - max_a mean U, s_j ~ p(. | o), all from one model."""
    generator = torch.Generator().manual_seed(seed)
    outer = max(2, particles // INNER)
    latent = case.belief(outer, generator)
    noise = torch.randn(outer, case.model.obs_noise_size, generator=generator)
    told = case.model.imagine_obs(latent, noise)
    wide = latent.expand(INNER)
    seen = {key: v[:, None].expand(-1, INNER, *v.shape[1:]) for key, v in told.items()}
    draws = torch.randn(outer, INNER, case.model.noise_size, generator=generator)
    again = case.model.condition(wide, seen, draws)
    worth = case.candidates(again)
    return float(worth.mean(1).amax(-1).mean() - worth.mean((0, 1)).max())


def can_nest(case: Case) -> bool:
    """One call that only informs, answered by a world whose posterior can be drawn exactly."""
    free = case.before is None and case.ask.calls == 1 and not case.name.startswith("P9b")
    return free and case.name != "P14_ensemble"


def measure(case: Case, particles: int, replications: int, first: int = 0) -> dict[str, float]:
    evsi = EVSI(utility=utility_for(case.name), particles=particles, tower=False)
    weighted = case.name.startswith("P9b")  # a limit needs the weights, not a draw of them
    seeds = range(first, first + replications)
    start = time.process_time()
    results = [case.run(evsi, seed, weighted=weighted) for seed in seeds]
    spent = (time.process_time() - start) / replications
    error = np.array([r.gain for r in results]) - case.gross
    row = {
        "bias": float(error.mean()),
        "rmse": math.sqrt(float((error**2).mean())),
        "cover": float(np.mean([r.lower - 1e-9 <= case.net <= r.upper + 1e-9 for r in results])),
        "ms": 1e3 * spent,
        "naive": math.nan,
    }
    if can_nest(case):
        naive = np.array([nested(case, particles, s) for s in seeds]) - case.gross
        row["naive"] = math.sqrt(float((naive**2).mean()))
    return row


def within(case: Case, row: dict[str, float], particles: int) -> bool:
    if case.name == "P7_zero_info":
        return abs(row["bias"]) <= 0.02 and row["rmse"] <= 0.03
    slack = 1e-9
    inside = abs(row["bias"]) <= case.bias_bar(particles) + slack
    return inside and row["rmse"] <= case.rmse_bar(particles) + slack


def prepare(ask: Ask, candidates: int = 8, horizon: int = 10) -> Callable[[], object]:
    """One EVSI decision with the default WorldModel: 8 numbers seen, 4 done."""
    torch.manual_seed(0)
    model = WorldModel(8, 4)
    generator = torch.Generator().manual_seed(0)
    latent = model.encode(torch.randn(1, 8, generator=generator).expand(64, 8))
    noise = torch.randn(64, model.noise_size, generator=generator)
    cloud = model.step(latent, torch.randn(64, 4, generator=generator), noise)
    actions = torch.randn(candidates, horizon, 4, generator=generator)
    evsi = EVSI(first_stage=64, compute_price=math.inf)
    return lambda: evsi(model, cloud, ask, actions)


def speed(candidates: int = 8, horizon: int = 10, rounds: int = 15) -> None:
    """Median ms of one EVSI decision."""
    asks = {"look (same row)": Ask("look"), "call (its own step)": Ask("call", torch.zeros(4))}
    print(f"one decision, 64 worlds, {candidates} candidates x {horizon} rows, default WorldModel")
    for name, ask in asks.items():
        decide = prepare(ask, candidates, horizon)
        times, walls = [], []
        for _ in range(rounds + 2):
            start, began = time.process_time(), time.perf_counter()
            decide()
            times.append(1e3 * (time.process_time() - start))
            walls.append(1e3 * (time.perf_counter() - began))
        wall, own = (float(np.median(column[2:])) for column in (walls, times))
        print(f"  {name:20s} {wall:6.1f} ms, {own:6.1f} ms of processor")
    print(f"  estimate alone, arrays in hand (64 worlds x 8 answers): {own_time():.1f} ms")


def own_time() -> float:
    """Median ms of one estimate from 64 worlds x 8 answers, arrays in hand."""
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(64, 4, generator=generator).double()
    told = theta[:, None] + torch.randn(64, 8, 4, generator=generator)
    samples, evsi, times = JointSamples(theta, features=told), EVSI(), []
    for _ in range(30):
        start = time.process_time()
        evsi.estimate(samples)
        times.append(time.process_time() - start)
    return 1e3 * float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evsi", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--replications", type=int, default=100)
    parser.add_argument("--particles", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--case", nargs="+", default=list(CASES))
    parser.add_argument("--seed", type=int, default=0, help="of the first replication")
    parser.add_argument("--only", choices=("table", "speed"), default=None)
    parser.add_argument("--threads", type=int, default=2, help="of the speed part")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.only != "speed":
        table(arguments)
    if arguments.only != "table":
        torch.set_num_threads(arguments.threads)
        speed()


def table(arguments: argparse.Namespace) -> None:
    head = ("case", "N", "gross", "bias", "bar", "RMSE", "bar", "cover", "naive RMSE", "ratio")
    print(("{:22s}" + "{:>6s}" + "{:>11s}" * 8).format(*head), "   ms")
    better = failed = 0
    for particles in arguments.particles:
        for name in arguments.case:
            case = CASES[name]()
            row = measure(case, particles, arguments.replications, arguments.seed)
            ratio = row["rmse"] / row["naive"] if row["naive"] > 1e-9 else math.nan
            better += ratio <= 0.5
            good = within(case, row, particles)
            failed += not good
            bars = case.bias_bar(particles), case.rmse_bar(particles)
            cells = (case.gross, row["bias"], bars[0], row["rmse"], bars[1], row["cover"])
            text = "".join(f"{x:11.4f}" for x in (*cells, row["naive"], ratio))
            mark = "" if good else "  OUTSIDE"
            print(f"{name:22s}{particles:6d}{text} {row['ms']:5.1f}{mark}", flush=True)
    print(f"\n{better} rows with at most half of the naive RMSE; {failed} rows outside the bars")


if __name__ == "__main__":
    main()
