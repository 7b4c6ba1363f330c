"""The examples of a robot and a plant behind the gate: who is watched, and what is counted."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from examples.gate_a_plant import Controller
from examples.gate_a_robot import (
    HORIZON,
    Beyond,
    Played,
    Swimmer,
    Watched,
    as_asked,
    falling,
    live,
    play,
    record,
    table,
)

from bb_wm.worlds.catalogue import make_world

SPACE = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
STILL = np.zeros(2, np.float32)


class Fixed:
    """Always half ahead."""

    def begin(self, generator: np.random.Generator) -> Any:
        return lambda obs: np.full(2, 0.5, np.float32)


class Nothing:
    def begin(self, generator: np.random.Generator) -> Any:
        return lambda obs: STILL


def test_what_is_recorded_holds_the_agent_the_fallback_and_anything_else() -> None:
    def rows(seed: int) -> np.ndarray:
        act = Watched(Fixed(), falling(STILL), SPACE).begin(np.random.default_rng(seed))
        return np.array([act(None) for _ in range(4000)])

    seen = rows(3)
    own, fallen = (seen == 0.5).all(-1), (seen == 0.0).all(-1)
    assert own.mean() == pytest.approx(0.6, abs=0.08)
    assert fallen.mean() == pytest.approx(0.25, abs=0.08)
    assert np.abs(seen[~own & ~fallen].mean(0)).max() < 0.1
    assert np.abs(seen).max() <= 1.0
    runs = np.diff(np.flatnonzero(np.diff(np.r_[False, fallen, False])))[::2]
    assert (runs >= 10).any()  # long enough for what the gate imagines
    assert np.array_equal(seen, rows(3))
    assert not np.array_equal(seen, rows(4))


def test_the_bound_is_made_from_what_the_gate_asks_about() -> None:
    action = np.zeros((2 * HORIZON + 4, 1), np.float32)
    action[3] = 0.5  # followed by the fallback to the end of the look ahead
    action[3 + HORIZON] = 0.2  # one row later; what follows it is the fallback, to the end
    safe = np.zeros_like(action)
    asked = np.flatnonzero(as_asked(action, safe))
    assert asked.tolist() == [3, 3 + HORIZON]
    action[2 + HORIZON] = 0.1  # the ninth row after row 3 is something else; so is what follows it
    assert np.flatnonzero(as_asked(action, safe)).tolist() == [3 + HORIZON]
    action[-2] = 0.3  # the last action of all: nothing after it, but within row 13 too
    assert np.flatnonzero(as_asked(action, safe)).tolist() == [len(action) - 2]
    action[-3] = safe[-3] = 0.4  # what the fallback is there, is the fallback there
    assert np.flatnonzero(as_asked(action, safe)).tolist() == [len(action) - 2]


def test_far_beyond_the_limit_is_no_worse_than_beyond_it() -> None:
    risk = Beyond(lambda *row: row[0])
    assert [risk(cost) for cost in (0.0, 0.05, 0.1, 7.0)] == pytest.approx([0.0, 0.5, 1.0, 1.0])


def test_the_controller_warms_what_has_reacted_too_little() -> None:
    act = Controller().begin(np.random.default_rng(0))
    assert act(np.array([0.9, 325.0, 0.8, 0.85]))[0] == pytest.approx(0.05 * 11)
    assert act(np.array([0.8, 325.0, 0.8, 0.85]))[0] == pytest.approx(-0.5)  # its memory is even
    assert act(np.array([0.1, 380.0, 0.8, 0.85])) == -1.0


def test_the_counts_of_a_table_by_hand() -> None:
    free = Played([10.0, 20.0], [3, 0], [2, 0], [1.5, 0.0], [10, 10], [0, 0])
    held = Played([9.0, 19.0], [0, 1], [0, 1], [0.0, 0.5], [10, 10], [5, 0], [0.001, 0.003])
    lines = table({"ungated": free, "gated": held}).splitlines()
    cells = {line[:30].strip(): line[30:].split("  ") for line in lines}
    told = {name: [cell.strip() for cell in row if cell.strip()] for name, row in cells.items()}
    assert told["rows over the limit"] == ["3 of 20", "1 of 20"]
    assert told["times it went over the limit"] == ["2", "1"]
    assert told["episodes over the limit"] == ["1 of 2", "1 of 2"]
    assert told["return, per episode"] == ["15", "14"]
    assert told["actions held"] == ["0.0%", "25.0%"]
    assert told["median decision, ms"] == ["-", "2.0"]


def test_the_swimmer_is_careless_and_its_fallback_leads_out() -> None:
    pytest.importorskip("mujoco", reason='pip install "bb_wm[mujoco]"')
    maker, world = make_world("Swimmer-v5")
    env = maker()
    free, again = (play(env, Swimmer(), 2, 200, world.risk) for _ in range(2))
    still = play(env, Nothing(), 2, 200, world.risk)
    assert free == again
    assert min(free.unsafe) > 0
    assert np.mean(free.returns) > np.mean(still.returns) + 10
    assert still.unsafe == [0, 0]
    # at its fastest, then no torque: inside the limit within 5 rows, and it stays there
    obs, _ = env.reset(seed=0)
    bad, act = 0, Swimmer(careless=1.0).begin(np.random.default_rng(0))
    while bad < 1:
        obs, *_, info = env.step(act(obs))
        bad += info["cost"] > 0
    after = [env.step(STILL)[4]["cost"] for _ in range(40)]
    assert max(after[5:]) == 0.0
    env.close()


def test_the_life_of_a_gate_in_small(tmp_path, capsys) -> None:
    """Too few episodes for a bound: everything is held, as if the fallback were all there is."""
    pytest.importorskip("mujoco", reason='pip install "bb_wm[mujoco]"')
    small: dict[str, Any] = {"limit": 0.1, "length": 40, "rows": 400, "updates": 2}
    small |= {"calibrating": 6, "episodes": 1}
    columns, bound = live(tmp_path, "Swimmer-v5", Swimmer(), [0.0, 0.0], **small)
    assert "episodes of the 59 a bound needs" in bound.findings[-1]
    env = make_world("Swimmer-v5")[0]()
    still = play(env, Nothing(), 1, 40, make_world("Swimmer-v5")[1].risk)
    env.close()
    held = columns["gated"]
    assert (held.returns, held.held, held.unsafe) == (still.returns, [40], [0])
    assert columns["ungated"].held == [0]
    assert len(held.seconds) == 40
    assert list(tmp_path.glob("*.ledger"))
    said = capsys.readouterr().out
    assert "learning from" in said
    assert "infinite, so every action will be held" in said
    assert "gated: 1 of 1 episodes" in said
    again, _ = live(tmp_path, "Swimmer-v5", Swimmer(), [0.0, 0.0], **small)
    assert "learning from" not in capsys.readouterr().out  # the model was kept
    assert again["gated"].returns == held.returns


def test_recording_repeats(tmp_path) -> None:
    pytest.importorskip("mujoco", reason='pip install "bb_wm[mujoco]"')
    one, other = (
        record("Swimmer-v5", Swimmer(), [0.0, 0.0], 50, 7, episodes=2)[1] for _ in range(2)
    )
    assert [len(e) for e in one] == [51, 51]
    assert all(np.array_equal(a.action, b.action) for a, b in zip(one, other, strict=True))
    assert any((e.action[:-1] == 0).all(-1).any() for e in one)


def test_the_fallback_of_the_drive_leads_out_at_once_and_no_voltage_does_not() -> None:
    pytest.importorskip("gym_electric_motor", reason='pip install "bb_wm[factory]"')
    from benchmarks.domain_agents import Reluctance, no_current

    env = make_world("Cont-CC-SynRM-v0")[0]()
    stays = {}
    for fallback in (no_current, lambda obs: np.zeros(3, np.float32)):
        over = 0
        for number in range(8):
            obs, _ = env.reset(seed=number)
            act, cost = Reluctance(careless=1.0).begin(np.random.default_rng(number)), 0.0
            for _ in range(60):
                obs, _, ended, _, info = env.step(act(obs))
                cost = info["cost"]
                if cost > 0 or ended:
                    break
            if ended or cost == 0:
                continue
            for _ in range(30):
                obs, _, _, _, info = env.step(fallback(obs))
                over += info["cost"] > 0
        stays[fallback is no_current] = over
    env.close()
    assert stays[True] == 0
    assert stays[False] > 30
