"""Every command on a real run: what it prints, what it writes, and how it refuses."""

import hashlib
import json
import os
import re
import shutil
import signal
import time

import pytest
from tests.cli.conftest import SMALL, call, start

from bb_wm.cli import main

pytestmark = [pytest.mark.xdist_group("cli"), pytest.mark.timeout(300)]


def snapshot(folder):
    """Every file below `folder` with its digest and time of change."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_train_ends_with_the_held_out_table_and_the_page(trained):
    place, out, err = trained
    for word in ("Open-loop error", "persistence", "ridge ARX", "mode", "shortcut", "k=10"):
        assert word in out
    page = place / re.search(r"^Page: (.+)$", out, re.MULTILINE)[1]
    assert page == place / "runs/LineWorld/page.html"
    assert "<svg" in page.read_text()
    assert re.search(r"^Trust: .*rows? ahead", out, re.MULTILINE)
    assert (page.parent / "trust.json").is_file()
    assert "alignment probe" in err
    assert "Traceback" not in err


def test_the_run_folder_says_what_it_is(trained):
    run = trained[0] / "runs/LineWorld"
    told = json.loads((run / "run.json").read_text())
    assert told["world"]["name"] == "LineWorld"
    assert told["settings"]["updates"] == 12
    assert told["config"]["config"]["core"] == {"type": "GRU", "size": 32}
    table = json.loads((run / "evaluation.json").read_text())
    assert {path["name"] for path in table["paths"]} >= {"mode", "shortcut", "persistence"}
    assert (run / "checkpoints" / "step-000000012" / "manifest.json").is_file()
    curves = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["update"] for row in curves if row["kind"] == "evaluate"] == [6, 12]


def test_the_model_of_a_run_is_the_one_that_was_saved(trained):
    import torch

    from bb_wm.cli import runs

    run = runs.open_run(trained[0] / "runs/LineWorld")
    model = runs.load_model(run)
    assert model.updates == 12
    again = runs.load_model(run).state_tensors()
    for name, tensor in model.state_tensors().items():
        assert torch.equal(tensor, again[name]), name


def test_evaluate_prints_the_same_table_again(trained, monkeypatch, capsys):
    place, out, _ = trained
    monkeypatch.chdir(place)
    assert main(["evaluate", "runs/LineWorld"]) == 0
    assert capsys.readouterr().out == out


def test_evaluate_takes_the_best_checkpoint_and_fewer_windows(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained[0])
    assert main(["evaluate", "runs/LineWorld", "--checkpoint", "best", "--windows", "7"]) == 0
    assert re.search(r"^\s+windows\s+7 ", capsys.readouterr().out, re.MULTILINE)


def test_rollout_draws_real_against_imagined(trained, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(trained[0])
    words = ["rollout", "runs/LineWorld", "--windows", "2", "--horizon", "5", "--out", tmp_path]
    assert main([str(word) for word in words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line in lines:
        picture = line.split("  ")[0]
        with open(picture, "rb") as file:
            assert file.read(8) == b"\x89PNG\r\n\x1a\n"


def test_a_second_run_of_a_world_gets_a_folder_of_its_own(trained, monkeypatch):
    from bb_wm.cli.runs import free_folder

    monkeypatch.chdir(trained[0])
    assert str(free_folder("LineWorld")) == "runs/LineWorld-2"
    assert str(free_folder("EchoWorld")) == "runs/EchoWorld"


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["train", "LineWorld", "--run", "runs/LineWorld", *SMALL], "--run"),
        (["train", "LineWorld", "--run", "runs/LineWorld", "--seed", "5"], "--run"),
        (["train", "EchoWorld", "--run", "runs/LineWorld", "--resume", *SMALL], "world."),
        (["train", "LineWorld", "--run", "runs/LineWorld", "--resume", *SMALL, "--length", "16"],
         "length"),
        (["train", "LineWorld", "--run", "runs/LineWorld", "--resume", *SMALL,
          "--model.latent.width", "40"], "latent.width"),
        (["train", "LineWorld", "--run", "nothing-here", "--resume", *SMALL], "run"),
        (["resume", "."], "run"),
        (["evaluate", "nothing-here"], "run"),
        (["rollout", "."], "run"),
    ],
)  # fmt: skip
def test_a_run_folder_in_the_way_is_3_and_stays_as_it_was(
    words, field, trained, monkeypatch, capsys
):
    monkeypatch.chdir(trained[0])
    before = snapshot(trained[0])
    assert main(words) == 3
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.search(rf"^  field .*{re.escape(field)}", shown.err, re.MULTILINE), shown.err
    assert snapshot(trained[0]) == before


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["train", "LineWorld", "--rows", "-1"], "--rows"),
        (["train", "LineWorld", "--updates", "0"], "--updates"),
        (["train", "LineWorld", "--updates=1.5"], "--updates"),
        (["train", "LineWorld", "--update-ratio", "nan"], "--update-ratio"),
        (["train", "LineWorld", "--model.core.size", "4000"], "--model.core.size"),
        (["train", "LineWorld", "--model.core.size", "-4"], "core.size"),
        (["train", "LineWorld", "--model.learning-rate", "inf"], "learning_rate"),
        (["train", "LineWorld", "--seed", "-1"], "--seed"),
        (["train", "LineWorld", "--threads", "-2"], "--threads"),
        (["train", "LineWorld", "--preset", "huge"], "--preset"),
        (["train", "LineWorld", "--device", "abacus"], "abacus"),
        (["train", "LineWorld", "--latent_dmi", "3"], "--latent_dmi"),
        (["train", "LineWrold"], "LineWorld"),
        (["train", "../LineWorld/x\x00y"], "world"),
        (["evaluate", "runs/LineWorld", "--windows", "0"], "--windows"),
        (["rollout", "runs/LineWorld", "--horizon", "-3"], "--horizon"),
        (["resume", "runs/LineWorld", "--updates", "-3"], "updates"),
        (["worlds", "--domain", "sea"], "--domain"),
    ],
)
def test_a_wrong_value_is_2_names_its_flag_and_makes_nothing(
    words, named, trained, monkeypatch, capsys
):
    monkeypatch.chdir(trained[0])
    before = snapshot(trained[0])
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert named in shown.err
    assert "Traceback" not in shown.err
    assert snapshot(trained[0]) == before


def wait_for_updates(process, run):
    """Wait until training has logged its first updates."""
    log = run / "metrics.jsonl"
    while not (log.exists() and log.stat().st_size):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_signal_saves_and_says_how_to_go_on(number, code, tmp_path):
    words = ["train", "LineWorld", *SMALL, "--updates", "100000", "--checkpoint-every", "100000"]
    process = start(*words, "--run", "long", cwd=tmp_path)
    wait_for_updates(process, tmp_path / "long")
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code
    assert out == ""
    assert "bb-wm resume long" in err
    steps = [path.name for path in (tmp_path / "long/checkpoints").glob("step-*")]
    assert steps
    assert max(steps) > "step-000000000"


def test_a_run_killed_half_way_ends_as_the_uninterrupted_one(
    trained, tmp_path, monkeypatch, capsys
):
    """The same table and the same log: resume is exact through the shell too."""
    place, out, _ = trained
    shutil.copytree(place / "runs", tmp_path / "runs")
    run = tmp_path / "runs/LineWorld"
    for later in ("checkpoints/step-000000012", "checkpoints/best"):
        shutil.rmtree(run / later)
    monkeypatch.chdir(tmp_path)
    assert main(["resume", "runs/LineWorld", "--threads", "1"]) == 0
    assert capsys.readouterr().out == out
    assert (run / "metrics.jsonl").read_text() == (
        place / "runs/LineWorld/metrics.jsonl"
    ).read_text()


def test_a_reader_that_leaves_does_not_lose_the_evaluation(trained, tmp_path):
    shutil.copytree(trained[0] / "runs", tmp_path / "runs")
    (tmp_path / "runs/LineWorld/page.html").unlink()
    read, write = os.pipe()
    os.close(read)
    code, _, err = call("evaluate", "runs/LineWorld", cwd=tmp_path, stdout=write)
    os.close(write)
    assert code == 1
    assert "Traceback" not in err
    assert (tmp_path / "runs/LineWorld/page.html").is_file()


def test_a_damaged_checkpoint_gives_way_to_the_one_before(trained, tmp_path, monkeypatch, capsys):
    shutil.copytree(trained[0] / "runs", tmp_path / "runs")
    steps = sorted((tmp_path / "runs/LineWorld/checkpoints").glob("step-*"))
    path = steps[-1] / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "runs/LineWorld", "--windows", "5"]) == 0
    shown = capsys.readouterr()
    assert "step-000000012" in shown.err


def test_the_numbers_followed_are_those_the_world_has():
    import numpy as np
    from gymnasium.spaces import Discrete

    from bb_wm import GRU, Episode, WorldModel, WorldModelConfig
    from bb_wm.cli.learning import held_out_numbers

    draw = np.random.default_rng(0)
    model = WorldModel(Discrete(3), Discrete(2), WorldModelConfig(core=GRU(32), hidden=16))
    episodes = []
    for _ in range(2):
        action = np.eye(2, dtype=np.float32)[draw.integers(2, size=30)]
        action[-1] = 0
        zero = np.zeros(30, np.float32)
        seen = {"obs": draw.integers(3, size=(30, 1))}
        episodes.append(Episode(seen, action, zero, zero, False, True))
    numbers = held_out_numbers(model, episodes)
    assert set(numbers) == {"exact_obs_10", "shortcut_exact_obs_10"}
    assert all(0 <= value <= 1 for value in numbers.values())
