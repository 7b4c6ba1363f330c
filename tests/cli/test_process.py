"""What the command line asks of the system."""

from __future__ import annotations

import ctypes
import os
import platform
import resource

import pytest
import torch

from bb_wm.cli import process, runs


def test_freed_memory_is_used_again() -> None:
    if platform.libc_ver()[0] != "glibc":
        assert not process.reuse_memory()
        return
    assert process.reuse_memory()
    for _ in range(2):  # 64 MiB each, which glibc would map anew and hand back every time
        torch.empty(2**24).fill_(1.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.empty(2**24).fill_(1.0)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < 5 * 2**26 / resource.getpagesize()  # in less than five of the eight times


def test_other_systems_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: object) -> object:
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", none)
    assert not process.reuse_memory()


def test_what_the_user_says_of_waiting_threads_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    process.prepare_process()
    assert os.environ["OMP_WAIT_POLICY"] == "active"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    process.prepare_process()
    assert os.environ["OMP_WAIT_POLICY"] == "passive"


def test_precision_is_torchs_own_switch_and_is_told() -> None:
    from bb_wm.diagnose.page.content import describe_software

    before = torch.get_float32_matmul_precision()
    try:
        runs.use_precision("medium")
        assert describe_software()["float32 products"] == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
