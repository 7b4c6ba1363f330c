"""What a person sees: plain lines at a measured pace, bars only in a terminal."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bb_wm.errors import MissingExtraError, SaveError
from bb_wm.learn import (
    Interruption,
    ProgressDisplay,
    Record,
    TensorBoard,
    TrainResult,
    TrainSettings,
)
from bb_wm.learn.progress import Speed, in_time, in_words
from bb_wm.learn.tensorboard import curve_name

RESULT = TrainResult("finished", "Trained 30 updates.", 0, 30, 400, 4, 0, 0, 0, "d", seconds=65.0)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (-3, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.6, "1 h 00 min"),
        (7800, "2 h 10 min"),
    ],
)
def test_times_as_said(seconds: float, said: str) -> None:
    assert in_time(seconds) == said


def test_losses_in_plain_words() -> None:
    numbers = {"other": 1.0, "kl_raw": 0.8412, "loss": 3.2149, "safety": 0.5}
    assert in_words(numbers) == "loss 3.21, surprise (KL) 0.841, risk error 0.5"
    assert in_words({}) == ""


def test_speed_by_hand() -> None:
    clock = Clock()
    speed = Speed(clock, window=10.0)
    assert speed.per_second == 0.0
    for second in range(4):
        clock.now = 100.0 + second
        speed.mark(5 * second)
    assert speed.per_second == 5.0
    for second in range(4, 30):  # twice as fast from here: the window forgets the start
        clock.now = 100.0 + second
        speed.mark(15 + 10 * (second - 3))
    assert speed.per_second == 10.0


def test_outside_a_terminal_a_line_now_and_then(tmp_path: Path) -> None:
    clock, stream = Clock(), io.StringIO()
    display = ProgressDisplay(stream, every=10.0, clock=clock)
    display.started(tmp_path, TrainSettings(rows=1000, updates=30), 0)
    for update in range(1, 31):
        clock.now += 1.0
        display.logged(Record("train", update, 1000, 4, {"loss": 2.0}))
        display.updated(update, 2.0, {})
    display.evaluated(Record("evaluate", 30, 1000, 4, {"nrmse_10": 0.123}))
    display.noticed("something")
    display.save_failed(30, SaveError("path", expected="space", actual="none"))
    display.ended(RESULT)
    lines = stream.getvalue().splitlines()
    assert lines[0] == f"Training in {tmp_path}"
    assert lines[1:4] == [
        "updates 1 of 30, starting, loss 2",
        "updates 11 of 30, 1 a second, 19 s left, loss 2",
        "updates 21 of 30, 1 a second, 9 s left, loss 2",
    ]
    assert lines[4:6] == ["Held out, at update 30: nrmse_10 0.123", "Note: something"]
    assert "not written" in lines[6]
    assert lines[7] == "Trained 30 updates. (30 updates on 400 rows, 1 min 05 s)"


def test_both_parts_have_a_speed_of_their_own(tmp_path: Path) -> None:
    clock, stream = Clock(), io.StringIO()
    display = ProgressDisplay(stream, every=0.0, clock=clock)
    display.started(tmp_path, TrainSettings(rows=1000, heldout_rows=200), 0)
    for heldout, counts in ((True, (100, 200)), (False, (50, 100))):
        for episodes, rows in enumerate(counts, start=1):
            clock.now += 1.0
            display.collected(rows, episodes, heldout)
    assert stream.getvalue().splitlines()[1:] == [
        "held-out rows 100 of 200, starting, 1 episodes",
        "held-out rows 200 of 200, 100 a second, 0 s left, 2 episodes",
        "rows 50 of 1000, starting, 1 episodes",
        "rows 100 of 1000, 50 a second, 18 s left, 2 episodes",
    ]


def test_in_a_terminal_bars(tmp_path: Path) -> None:
    stream = Terminal()
    display = ProgressDisplay(stream)
    display.started(tmp_path, TrainSettings(rows=1000, heldout_rows=100, updates=30), 0)
    display.collected(100, 2, True)
    display.collected(1000, 4, False)
    display.noticed("a note with [brackets]")
    display.updated(30, 2.0, {})
    display.ended(RESULT)
    shown = stream.getvalue()
    for part in ("held-out rows", "1000/1000", "30/30", "a note with [brackets]", "Trained 30"):
        assert part in shown


class Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_closed_stream_stops_nothing(tmp_path: Path) -> None:
    display = ProgressDisplay(Gone())
    display.started(tmp_path, TrainSettings(), 0)
    display.ended(RESULT)


@pytest.mark.parametrize(
    ("number", "kind", "curve"),
    [
        ("reconstruction", "train", "1_reconstruction/reconstruction"),
        ("kl_raw", "train", "2_kl/kl_raw"),
        ("rollout", "train", "3_rollout_error/rollout"),
        ("nrmse_10", "evaluate", "3_rollout_error/heldout_nrmse_10"),
        ("reward", "train", "reward/reward"),
        ("evsi_mean", "evaluate", "4_evsi/heldout_evsi_mean"),
        ("safety", "train", "5_risk/safety"),
        ("gradient_norm", "train", "optimiser/gradient_norm"),
        ("loss", "train", "loss/loss"),
        ("a/b", "train", "loss/a_b"),
    ],
)
def test_curves_are_grouped(number: str, kind: str, curve: str) -> None:
    assert curve_name(number, kind) == curve


def test_curves_read_back_and_cut_when_resumed(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for start, losses in ((0, [5.0, 4.0, 3.0]), (1, [2.0])):
        board = TensorBoard()
        board.started(tmp_path, TrainSettings(), start)
        for update, loss in enumerate(losses, start=start + 1):
            board.logged(Record("train", update, 10, 1, {"loss": loss, "kl_raw": 0.5}))
        board.evaluated(Record("evaluate", 2, 10, 1, {"nrmse_10": 0.25}))
        board.ended(RESULT)
    read = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"loss/loss", "2_kl/kl_raw", "speed/updates_per_second"} <= set(read.Tags()["scalars"])
    losses = [(event.step, event.value) for event in read.Scalars("loss/loss")]
    assert losses == [(1, 5.0), (2, 2.0)]
    assert read.Scalars("3_rollout_error/heldout_nrmse_10")[-1].value == 0.25


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.event_file_writer", None)
    assert TensorBoard.if_installed() is None
    with pytest.raises(MissingExtraError, match="pip install"):
        TensorBoard()


def test_one_signal_is_noted_and_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        with Interruption() as stop:
            assert not stop
            assert stop.exit_code == 0
            os.kill(os.getpid(), number)
            assert stop
        assert (stop.signal, stop.exit_code) == (number, code)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_signal_ends_the_process_at_once() -> None:
    script = (
        "import os, signal\n"
        "from bb_wm.learn.interruption import Interruption\n"
        "with Interruption():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "print('still here')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (130, b"")
