"""The benchmark of the domains: its figures by hand, and that its agents are what they are said."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.domain_agents import Reacher, Reluctance
from benchmarks.domains import compared, report
from examples.gate_a_robot import Played


def played(returns, unsafe, events=None) -> Played:
    count = len(returns)
    harm = [float(u) for u in unsafe]
    return Played(returns, unsafe, events or unsafe, harm, [10] * count, [1] * count, [0.002])


def test_what_was_avoided_and_kept_by_hand() -> None:
    free, held = played([10.0, 20.0], [8, 2], [4, 1]), played([8.0, 19.0], [1, 0], [1, 0])
    found = compared(free, held)
    assert found["fewer"]["unsafe"][0] == pytest.approx(0.9)
    assert found["fewer"]["events"][0] == pytest.approx(0.8)
    assert found["fewer"]["episodes"][0] == pytest.approx(0.5)
    assert found["kept"][0] == pytest.approx(27 / 30)
    value, low, high = found["kept"]
    assert low <= value <= high
    # returns below 0: a tenth of their size lost is 90 % kept, less pain is more than all
    assert compared(played([-10.0], [1]), played([-11.0], [0]))["kept"][0] == pytest.approx(0.9)
    assert compared(played([-10.0], [1]), played([-5.0], [0]))["kept"][0] == pytest.approx(1.5)
    assert compared(played([1.0], [0]), played([1.0], [0]))["fewer"]["unsafe"][0] is None


def result(nrmse: float, auroc: float, held: Played) -> dict:
    free = played([10.0, 10.0], [5, 5])
    columns = {}
    for name, one in (("ungated", free), ("gated", held), ("fallback alone", held)):
        columns[name] = {
            **{n: getattr(one, n) for n in ("returns", "unsafe", "events", "rows", "held")},
            "decision_ms": 2.0,
        }
    return {
        "world": "W",
        "seed": 0,
        "train_seconds": 1.0,
        "nrmse": {"mode": nrmse, "shortcut": 0.1, "persistence": 0.9, "ridge ARX(10)": 0.5},
        "auroc": {"mode": auroc, "shortcut": 0.95},
        "columns": columns,
        **compared(free, held),
    }


@pytest.mark.parametrize(
    ("nrmse", "auroc", "held", "bars"),
    [
        (0.2, 0.93, played([10.0, 8.0], [1, 0]), (True, True)),
        (0.6, 0.93, played([10.0, 8.0], [3, 0]), (False, False)),
        (0.2, 0.85, played([10.0, 7.0], [0, 0]), (False, False)),
        (0.2, 0.93, played([10.0, 8.0], [1, 0], [3, 0]), (True, False)),
    ],
)
def test_a_bar_is_met_only_where_all_of_it_is(nrmse, auroc, held, bars) -> None:
    lines = [line for line in report([result(nrmse, auroc, held)]).splitlines() if "  W " in line]
    assert [not line.endswith("NOT met") for line in lines] == list(bars)


def test_the_motors_agent_wants_at_most_its_share_of_the_nominal_current() -> None:
    obs = np.zeros(16, np.float32)
    obs[14:] = (0.5, 0.5)
    obs[5:7] = 0.47 / np.sqrt(2)
    careful = Reluctance(careless=0.0).begin(np.random.default_rng(0))
    careless = Reluctance(careless=1.0).begin(np.random.default_rng(0))
    # at what it wants: the voltage that holds it there, which resistance and turning need
    current = 18 * 0.47 / np.sqrt(2)
    along, across = (0.57 - 400 * 0.0041) * current, (0.57 + 400 * 0.0101) * current
    assert np.hypot(along, across) / 210 == pytest.approx(
        np.sqrt(2 / 3 * np.square(careful(obs)).sum()), rel=1e-4
    )
    assert np.abs(careless(obs)).max() > 1.5 * np.abs(careful(obs)).max()


def test_the_reacher_pulls_towards_its_target() -> None:
    obs = {
        "position": np.array([0.0, 0.0]),  # stretched out along x: only up and down are open to it
        "to_target": np.array([0.0, 0.002]),
        "velocity": np.zeros(2),
    }
    torque = Reacher(careless=0.0).begin(np.random.default_rng(0))(obs)
    assert torque == pytest.approx([200 * 0.24 * 0.002, 200 * 0.12 * 0.002])
    obs["velocity"] = np.array([1.0, 0.0])
    assert Reacher(careless=0.0).begin(np.random.default_rng(0))(obs)[0] < 0
