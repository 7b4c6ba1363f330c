"""What asking first and being recorded cost a decision."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.evsi import prepare

from bb_wm.decide import Ask, CandidateEvidence, Evidence, Gate, Ledger

ASKS = [Ask("look"), Ask("call", torch.zeros(4))]


@pytest.mark.parametrize("ask", ASKS, ids=lambda ask: ask.name)
def bench_evsi(benchmark: Any, ask: Ask) -> None:
    """64 worlds, 8 candidates x 10 rows, default model; a call takes a row of its own."""
    benchmark(prepare(ask))


@pytest.mark.benchmark(timer=time.perf_counter)
def bench_ledger(benchmark: Any, tmp_path: Path) -> None:
    """One decision on disk; wall time, for it is the disk that is waited for."""
    candidate = CandidateEvidence("go", utility=1.0, risk=0.1, risk_bound=0.2)
    evidence = Evidence(
        candidates=[candidate], hold_utility=0.0, horizon=10, observed_at=0.0, policy="p"
    )
    decision = Gate(limit=0.5, max_age=1.0).decide(evidence, now=0.5)
    numbers = itertools.count()
    with Ledger(tmp_path / "ledger.db") as ledger:
        benchmark(lambda: ledger.record(replace(decision, decision_id=str(next(numbers)))))
