"""`bb-wm check` on worlds, logs and runs, right and shifted."""

import importlib.util
import sys
from dataclasses import replace

import gymnasium
import numpy as np
import pytest

from bb_wm.cli import main
from bb_wm.data.files import save_episodes_npz
from bb_wm.types import ActionSpec, Episode, ObsSpec

pytestmark = [pytest.mark.xdist_group("cli"), pytest.mark.timeout(300)]

OBS, ACTION = ObsSpec.of(2), ActionSpec.of(1)


def echo_episodes(count=12, rows=60, late=0):
    """obs[t+1] = (action[t], t / rows); `late` stores every action that many rows too late."""
    draw = np.random.default_rng(0)
    made = []
    for _ in range(count):
        done = draw.uniform(-1, 1, rows + 1).astype(np.float32)
        seen = np.stack([np.append(0, done[: rows - 1]), np.arange(rows) / rows], 1)
        action = np.roll(done, late)[:rows, None].copy()
        action[-1] = 0
        reward = seen[:, 0].astype(np.float32)
        reward[0] = 0
        made.append(
            Episode(
                obs={"obs": seen.astype(np.float32)},
                action=action,
                reward=reward,
                safety=np.maximum(reward - 0.9, 0),
                terminated=False,
                truncated=True,
            )
        )
    return made


def log(folder, episodes):
    save_episodes_npz(folder, episodes, OBS, ACTION)
    return str(folder)


def test_a_good_log_is_usable_and_described(tmp_path, capsys):
    path = log(tmp_path / "good log", echo_episodes())
    assert main(["check", path]) == 0
    shown = capsys.readouterr().out
    assert "720 in 12 episodes of 60 to 60" in shown
    assert "Alignment: aligned." in shown
    assert f"Usable: bb-wm train {path}" in shown


def test_shifted_actions_are_refused_and_the_shift_is_named(tmp_path, capsys):
    assert main(["check", log(tmp_path / "late", echo_episodes(late=1))]) == 1
    shown = capsys.readouterr()
    assert "Alignment: shifted." in shown.out
    assert "Usable" not in shown.out
    assert "one row too late" in shown.err
    assert "yours[t+1]" in shown.err


def test_training_on_shifted_actions_stops_at_the_probe(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", log(tmp_path / "late", echo_episodes(late=1)), "--preset", "tiny"]
    assert main([*words, "--updates", "2"]) == 1
    assert "one row too late" in capsys.readouterr().err


def test_what_limits_a_model_is_said(tmp_path, capsys):
    episodes = [replace(e, safety=np.zeros_like(e.safety)) for e in echo_episodes(count=1)]
    assert main(["check", log(tmp_path / "poor", episodes)]) == 0
    shown = capsys.readouterr().out
    assert "One episode only" in shown
    assert "The risk is always 0" in shown


def test_a_world_is_collected_from_and_checked(capsys):
    assert main(["check", "EchoWorld", "--rows", "900"]) == 0
    shown = capsys.readouterr().out
    assert "Environment: EchoWorld (made by bb_wm/EchoWorld-v0)" in shown
    assert "Alignment: aligned." in shown
    assert "events: risk sets in" in shown
    assert "Verdict: usable." in shown


MINE = """
import gymnasium, numpy
class Arm(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-9.0, 9.0, (2,), numpy.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), numpy.float32)
    def __init__(self, broken=False, render_mode=None):
        self.render_mode, self.broken = render_mode, broken
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.row, self.at = 0, self.np_random.uniform(-1, 1, 2)
        return self.at.astype(numpy.float32), {}
    def step(self, action):
        self.row += 1
        self.at = 0.8 * self.at + float(action[0])
        if self.broken:
            self.at[0] = numpy.nan
        return self.at.astype(numpy.float32), float(self.at[0]), self.row == 25, False, {}
gymnasium.register("ArmForTest-v0", Arm)
gymnasium.register("BrokenArmForTest-v0", Arm, kwargs={"broken": True})
"""


@pytest.fixture
def my_envs(tmp_path, monkeypatch):
    (tmp_path / "my_envs_for_check.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "my_envs_for_check"
    for name in ("ArmForTest-v0", "BrokenArmForTest-v0"):
        gymnasium.registry.pop(name, None)
    sys.modules.pop("my_envs_for_check", None)


def test_an_environment_of_ones_own_is_told_what_to_fix(my_envs, capsys):
    assert main(["check", f"{my_envs}:ArmForTest-v0", "--rows", "900"]) == 0
    shown = capsys.readouterr().out
    assert 'To fix: risk: info["cost"] is never reported' in shown
    assert "PhysicsRisk" in shown
    assert "To fix: episode end: every episode terminates at row 26: that is a time limit" in shown
    assert "To fix: rare events: none in" in shown
    assert "Verdict: usable, with 3 things to fix." in shown


def test_an_environment_that_cannot_be_learnt_from_is_1(my_envs, capsys):
    assert main(["check", f"{my_envs}:BrokenArmForTest-v0"]) == 1
    shown = capsys.readouterr()
    assert "Stop: observation: NaN or infinity" in shown.out
    assert "Verdict: not usable." in shown.out
    assert "Usable" not in shown.out
    assert "repair or mask the sensor" in shown.err


def test_worlds_says_what_each_needs_and_how_to_get_it(capsys, monkeypatch):
    real = importlib.util.find_spec
    gone = ("dm_control", "pcgym")
    monkeypatch.setattr(importlib.util, "find_spec", lambda m: None if m in gone else real(m))
    assert main(["worlds"]) == 0
    shown = capsys.readouterr().out
    line = 'dm_control/reacher-easy-v0   [needs robot; missing: pip install "bb_wm[robot]"]'
    assert line in shown
    assert "CartPole-v1   [needs gymnasium; installed]" in shown
    assert 'CSTR   [needs factory; missing: pip install "bb_wm[factory]"]' in shown
    assert main(["worlds", "--missing", "--domain", "factory"]) == 0
    shown = capsys.readouterr().out
    assert "CSTR" in shown
    assert "To install what is missing:" in shown
    assert "CartPole" not in shown
    assert main(["worlds", "--missing", "--domain", "control"]) == 0
    assert "Everything" in capsys.readouterr().out
    assert main(["check", "CSTR"]) == 2
    assert 'pip install "bb_wm[factory]"' in capsys.readouterr().err


def test_the_rows_of_a_run_can_be_checked(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained[0])
    assert main(["check", "runs/LineWorld"]) == 0
    first = capsys.readouterr().out
    assert main(["check", "runs/LineWorld/episodes"]) == 0
    assert capsys.readouterr().out.splitlines()[:8] == first.splitlines()[:8]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.npz", b"", "empty.npz"),
        ("rows.txt", b"1 2 3", ".parquet"),
        ("bad.csv", b"a,b\n1,2\n", "bad.csv"),
        ("torn.parquet", b"PAR1 nothing", "torn.parquet"),
    ],
)
def test_a_file_that_cannot_be_believed_is_1_and_named(name, content, said, tmp_path, capsys):
    (tmp_path / name).write_bytes(content)
    assert main(["check", str(tmp_path / name)]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err


def test_a_recorded_tool_with_too_little_harm_is_named(tmp_path, capsys):
    from bb_wm.serve import Answer, Guard, Recording, ToolCall, drive

    path = tmp_path / "calls"
    with Guard(
        "record",
        recording=Recording(path),
        harm=lambda call: lambda answer: float(call.name == "wipe" and call.arguments["n"] % 5 < 1),
    ) as guard:
        for start in range(4):
            talk = guard.begin()
            for n in range(10):
                for name in ("look", "wipe"):
                    call = ToolCall(name, {"n": n + start})
                    drive(guard, talk, call, lambda made: Answer(("done",), {"text": 1}))
            guard.end(talk)
    assert main(["check", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "To fix: tool: wipe: 8 harmful and 32 harmless calls recorded -> record it" in shown
    assert "look:" not in shown


def test_a_table_with_names_of_its_own_can_be_trained_on_and_resumed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = ["run,step,heat,clock,valve,gain"]
    for number, episode in enumerate(echo_episodes(count=8, rows=45)):
        for t, (heat, clock) in enumerate(episode.obs["obs"]):
            valve = "" if t == 44 else f"{episode.action[t, 0]:.6f}"
            lines.append(f"{number},{t},{heat:.6f},{clock:.6f},{valve},{episode.reward[t]:.6f}")
    (tmp_path / "plant.csv").write_text("\n".join(lines))
    reading = ["--rewards", "arriving", "--columns.obs", "heat", "clock", "--columns.action"]
    reading += ["valve", "--columns.episode", "run", "--columns.t", "step"]
    reading += ["--columns.reward", "gain"]
    assert main(["check", "plant.csv", *reading]) == 0, capsys.readouterr().err
    assert "Alignment: aligned." in capsys.readouterr().out
    short = ["--preset", "tiny", "--updates", "2", "--batch-size", "8", "--length", "16"]
    assert main(["train", "plant.csv", *reading, *short]) == 0
    assert main(["resume", "runs/plant", "--updates", "3"]) == 0
    assert "ridge ARX" in capsys.readouterr().out
