"""metrics.jsonl: torn tails, full disks, and cutting back to what a checkpoint knew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bb_wm.errors import DataError, SaveError
from bb_wm.learn import Record, read_metrics
from bb_wm.learn.metrics import MetricsLog


def record(update: int, **numbers: float) -> Record:
    return Record("train", update, 100, 2, numbers or {"loss": update / 3})


def test_lines_come_back_exactly(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(record(1, loss=0.1 + 0.2, kl=float("nan")))
    log.append(Record("evaluate", 1, 100, 2, {"nrmse_10": 0.25}))
    head = {"update": 1, "rows": 100, "episodes": 2}
    assert read_metrics(log.path) == [
        {"kind": "train", **head, "loss": 0.1 + 0.2, "kl": None},
        {"kind": "evaluate", **head, "nrmse_10": 0.25},
    ]


def test_a_torn_tail_is_left_out_and_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for update in range(4):
        log.append(record(update))
    whole = path.read_bytes()
    for torn in range(1, 30):
        path.write_bytes(whole[:-torn])
        assert len(read_metrics(path)) == 3
        again = MetricsLog(path)
        assert again.count == 3
        assert again.cut(3) == 0
        again.append(record(3))
        assert path.read_bytes() == whole


def test_cutting_back_and_saying_what_is_missing(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert log.cut(0) == 0
    for update in range(5):
        log.append(record(update))
    assert log.cut(2) == 0
    assert [line["update"] for line in read_metrics(log.path)] == [0, 1]
    assert log.cut(4) == 2


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(DataError) as caught:
        read_metrics(path)
    assert caught.value.field == "metrics.jsonl line 2"


def test_lines_wait_for_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(record(0))
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        return real(descriptor, data[:7])  # a short write: the disk is full in mid-line

    monkeypatch.setattr(os, "write", full)
    for update in (1, 2):
        with pytest.raises(SaveError):
            log.append(record(update))
    monkeypatch.undo()
    assert [line["update"] for line in read_metrics(log.path)] == [0]
    log.append(record(3))
    assert [line["update"] for line in read_metrics(log.path)] == [0, 1, 2, 3]
