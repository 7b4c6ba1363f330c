"""The speed benchmark without its peers: the line workers speak, the arithmetic, the tables."""

from __future__ import annotations

import sys

import pytest
import torch
from benchmarks.peers_speed import line
from benchmarks.peers_speed.line import SHAPES, Shape
from benchmarks.peers_speed.ours import Ours
from benchmarks.results import Results
from benchmarks.speed_envs import Peer, python_of
from benchmarks.speed_peers import Plan, Worker, measure
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import report, scale, speed_flops, speed_peers, speed_table

TINY = SHAPES["tiny"]
PLAN = Plan(threads=1, rounds=2, seconds=0.0)


# --- arithmetic -----------------------------------------------------------------------------------


MANY_ROWS = Shape(16, 8, 9, units=12, groups=4, classes=4)  # 72: z is looked up
MANY_AT_ONCE = Shape(16, 64, 3, units=12, groups=4, classes=4)  # within the time loop too
FEW = Shape(32, 3, 7, units=24, groups=3, classes=5)


@pytest.mark.parametrize("shape", [TINY, FEW, MANY_ROWS, MANY_AT_ONCE])
def test_flops_by_hand_are_those_torch_counts(shape):
    model = Ours(shape)
    with FlopCounterMode(display=False) as counter:
        model.update()
    assert speed_flops.update_flops(shape) == counter.get_total_flops()


def test_flops_of_the_issue_shape_by_hand():
    # 4096 rows: 2 * 4096 * 1024 * 794, what z's gradient takes through trunk, heads and decoder.
    largest = speed_flops.dominating(SHAPES["wide"])
    assert (largest.name, largest.flops) == ("trunk, heads, decoder: z", 6_660_554_752)


@pytest.mark.parametrize("task", ["imagine", "decide"])
def test_flops_of_imagined_rows_are_those_torch_counts(task, monkeypatch):
    monkeypatch.setattr(line, "STARTS", 64)  # from here on z is looked up
    model = Ours(TINY)
    with FlopCounterMode(display=False) as counter:
        model.model.encode(model.one)
    encoded = counter.get_total_flops() if task == "decide" else 0
    with FlopCounterMode(display=False) as counter:
        getattr(model, task)()
    assert speed_flops.imagined_flops(TINY, task) == counter.get_total_flops() - encoded


def test_slope_of_a_power():
    assert scale.slope([1, 2, 4, 8], [3, 6, 12, 24]) == pytest.approx(1.0)
    assert scale.slope([1, 2, 4], [5, 20, 80]) == pytest.approx(2.0)


def test_growth_measures_every_value_of_its_axis(monkeypatch):
    monkeypatch.setitem(scale.AXES, "rows", (scale.Case(batch=2), (3, 6), 1.05))
    found = scale.measure("rows", 2)
    assert [value for value, _ in found["seconds"]] == [3, 6]
    assert all(seconds > 0 for _, seconds in found["seconds"])


# --- workers --------------------------------------------------------------------------------------


@pytest.fixture
def ours(tmp_path):
    command = [sys.executable, "-m", "benchmarks.peers_speed.ours", "equal"]
    worker = Worker(speed_peers.OURS, command, 1, tmp_path / "log")
    yield worker
    worker.close()


def test_worker_answers_for_its_mistakes_and_outlives_a_dead_one(ours, tmp_path, capsys):
    told = ours.ask("tiny", "update", 2)
    assert len(told["seconds"]) == 2, told
    assert min(min(pair) for pair in told["seconds"]) >= 0
    assert min(told["first"], told["parameters"], told["base_mib"], told["peak_mib"]) > 0
    assert ours.ask("tiny", "dance", 1) == {"absent": True}
    assert "KeyError" in ours.ask("nothing", "update", 1)["error"]

    dead = Worker("dead, eager", [sys.executable, "-c", "raise SystemExit(3)"], 1, tmp_path / "d")
    found = measure([ours, dead], "tiny", ["update", "gemm"], PLAN)
    dead.close()
    assert len(found["rows"]["ours"]["update"]["rounds"]) == 2
    assert found["rows"]["dead, eager"] == {}
    assert "dead, eager: no update. the worker stopped" in capsys.readouterr().out


def test_a_peer_that_cannot_be_installed_is_told_of_and_left_out(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.speed_envs.shutil.which", lambda name: None)
    monkeypatch.setattr("benchmarks.speed_envs._commands", lambda *_: [["false"]])
    assert python_of(Peer("nobody", "no_worker", ("nobody==0",)), tmp_path) is None
    assert "nobody: left out, it could not be installed." in capsys.readouterr().out


def test_tasks_do_what_they_say():
    model = Ours(TINY)
    trajectory = model.imagine()
    assert trajectory.reward.shape == (line.STARTS, line.ROWS)
    assert model.decide().actions.shape[-2:] == (line.AHEAD, line.ACTION)
    assert model.evsi().name == "look"
    loss, terms = model.update()
    weighed = terms["reconstruction"] + terms["kl"] + 10 * terms["reward"] + terms["continuation"]
    assert loss == pytest.approx(weighed, rel=1e-5)
    assert terms["rollout"] == terms["shortcut"] == 0


def test_the_roofline_is_the_same_product_twice():
    model = Ours(TINY)
    assert torch.allclose(model.gemm(), model.gemm_medium(), rtol=0.02)
    assert model.gemm().shape == (20, 48)  # the gates of the core


# --- tables ---------------------------------------------------------------------------------------


def _result(results: Results, *, threads: int = 2) -> None:
    def rounds(*wall: float) -> dict[str, object]:
        return {"first": 2.5, "rounds": [[9.0, seconds] for seconds in wall]}

    told = {"parameters": 2e6, "base_mib": 100.0}
    rows = {
        "ours": told | {"update": rounds(0.1, 0.2, 0.1), "peak_mib": 300.0},
        "torchrl, eager": told | {"update": rounds(0.5, 0.4, 0.4), "peak_mib": 400.0},
        "sheeprl, eager": told | {"update": rounds(0.9, 0.9, 0.9), "peak_mib": 350.0},
    }
    rows["ours"] |= {"decide": rounds(0.01), "evsi": rounds(0.05), "gemm": rounds(0.01, 0.02)}
    gemm = {"gemm": rows["ours"].pop("gemm"), "gemm_medium": None}
    settings = {"threads": threads, "rounds": 3, "seconds": 0.5}
    job = speed_peers.Job("speed", "wide", f"{threads}-threads", 0)
    pins = {"torchrl": ["torchrl==0.14.1", "torch==2.13.0"]}
    made = {"rows": rows, "gflop": 8.0, "gemm_gflop": 1.0, "gemm_size": "a x b", "gemm": gemm}
    results.write(job, settings, made | {"pins": pins})


def test_table_from_json_is_part_of_the_report(tmp_path):
    results = Results(tmp_path / "out")
    _result(results)
    axes = {
        "batch": {"task": "update", "seconds": [[8, 0.1], [16, 0.2]], "slope": 1.0, "bar": 1.05}
    }
    results.write(speed_peers.Job("scale", "cost", "default", 0), {"rounds": 3}, {"axes": axes})
    page = tmp_path / "page.md"
    assert report.write([results], page) == 0
    text = page.read_text()
    assert "| ours | 100.0 | 10.0 | 50.0 | 2.5 | 300 | 200 | 2.00 |" in text
    # By rounds 5, 2 and 4 times faster than torchrl, which is faster than sheeprl.
    assert "| update | torchrl, eager | 4.00 [3.00, 4.50] | 3, met |" in text
    assert (
        "| evsi | our plain decision | 5.00 [5.00, 5.00] times its cost | at most 6, met |" in text
    )
    assert "| memory of an update | sheeprl, eager | 0.86 of its peak | at most 1, met |" in text
    # 8 GFLOP in 0.1 s are 80 GFLOP/s, of 100 that 1 GFLOP in 0.01 s shows.
    assert "our update reaches 80% of the float32 rate (bar for the wide update 45%: met)" in text
    assert "torchrl==0.14.1" in text
    assert "torch==2.13.0" not in text
    assert "| batch | update | 8: 100.0, 16: 200.0 | 1.00 | 1.05, met |" in text


def test_one_thread_is_judged_by_cpu_time(tmp_path):
    results = Results(tmp_path)
    _result(results, threads=1)
    (found,) = results.all()
    assert "| ours | 9000.0 |" in speed_table.page([found])
    assert speed_table.roofline(found)["gemm"] == pytest.approx(1 / 9)
