"""Safety-Gymnasium's worker: what it needs is said; a worker that fails is ended and named."""

import os
import stat
import sys

import numpy as np
import pytest

from bb_wm.data.collecting import collect
from bb_wm.errors import DataError, MissingExtraError
from bb_wm.worlds.catalogue import find_world, make_world
from bb_wm.worlds.safety import SafetyGymnasium
from bb_wm.worlds.world import SAFETY_PYTHON

SPACES = '{"obs":{"low":[-1,-1],"high":[1,1]},"action":{"low":[-1],"high":[1]}}'


def python_that(tmp_path, monkeypatch, script: str) -> None:
    """Names a `python` that runs `script` instead of the worker."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv(SAFETY_PYTHON, str(path))


def test_without_a_python_of_its_own_the_way_to_one_is_said(monkeypatch, tmp_path) -> None:
    for named in ("", str(tmp_path / "nothing")):
        monkeypatch.setenv(SAFETY_PYTHON, named)
        assert not find_world("safety/SafetyPointGoal1-v0").installed
        with pytest.raises(MissingExtraError, match=r"safety-gymnasium==1\.0\.0") as caught:
            make_world("safety/SafetyPointGoal1-v0")
        assert f"export {SAFETY_PYTHON}=" in caught.value.hint
        with pytest.raises(MissingExtraError, match=SAFETY_PYTHON):
            SafetyGymnasium()


def test_a_python_that_lacks_it_says_so(monkeypatch) -> None:
    monkeypatch.setenv(SAFETY_PYTHON, sys.executable)
    with pytest.raises(DataError, match="No module named 'safety_gymnasium'"):
        SafetyGymnasium()


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ("sleep 30", "within 0.3 s"),  # hangs
        ("read line; exit 3", "its end"),  # dies
        ("read line; echo broken; read line", "JSON"),
        ("read line; echo '[1]'; read line", "JSON object"),
        ("read line; echo oh dear >&2; exit 3", "oh dear"),
    ],
)
def test_a_worker_that_fails_is_ended_and_named(after, said, tmp_path, monkeypatch) -> None:
    python_that(tmp_path, monkeypatch, f"echo '{SPACES}'; {after}")
    env = SafetyGymnasium(timeout_s=5.0)
    env._worker._timeout = 0.3
    worker = env._worker
    with pytest.raises(DataError, match=said):
        env.reset(seed=0)
    assert not worker.alive
    with pytest.raises(DataError, match="safety worker"):
        env.step(np.zeros(1))
    env.close()


def test_reset_starts_a_new_worker_and_close_ends_it(tmp_path, monkeypatch) -> None:
    answer = '{"obs":[0.5,0],"reward":1,"cost":2,"terminated":false,"truncated":true}'
    python_that(tmp_path, monkeypatch, f"echo '{SPACES}'; while read l; do echo '{answer}'; done")
    env = SafetyGymnasium()
    assert env.reset(seed=1)[0].tolist() == [0.5, 0.0]
    assert env.step(np.zeros(1))[1:] == (1.0, False, True, {"cost": 2.0})
    first = env._worker
    first._process.kill()
    first._process.wait()
    assert env.reset()[0].tolist() == [0.5, 0.0]
    second = env._worker
    env.close()
    assert first is not second
    assert not second.alive


@pytest.mark.skipif(not os.environ.get(SAFETY_PYTHON), reason=f"{SAFETY_PYTHON} is not set")
@pytest.mark.timeout(300)
def test_the_real_worker_collects_rows_with_costs() -> None:
    maker, world = make_world("safety/SafetyPointGoal1-v0")
    left, right = (collect(maker, rows=300, seed=4, risk=world.risk)[0] for _ in range(2))
    assert left.obs["obs"].shape == (300, 60)
    assert (left.safety >= 0).all()
    for name in ("reward", "safety", "action"):
        assert np.array_equal(getattr(left, name), getattr(right, name))
    assert np.array_equal(left.obs["obs"], right.obs["obs"])
