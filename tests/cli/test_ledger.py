"""`bb-wm ledger`: a real ledger shown from the shell."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from bb_wm.decide import Evidence, Gate, Ledger
from bb_wm.decide.evidence import AskEvidence, CandidateEvidence

GATE = Gate(limit=0.2, max_age=5.0, clock=lambda: 100.0)
PUSH = Evidence(
    candidates=(CandidateEvidence("push", 2.0, 0.05, 0.1),),
    hold_utility=1.0,
    horizon=10,
    observed_at=99.5,
    policy="CEM",
)


def ledger_command(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bb_wm", "ledger", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_decisions_are_listed_and_the_exit_code_is_calm(tmp_path: Path) -> None:
    path = tmp_path / "decisions.sqlite"
    with Ledger(path) as ledger:
        for _ in range(3):
            ledger.record(GATE.decide(PUSH))
        ledger.record(GATE.decide(replace(PUSH, observed_at=0.0)))
    done = ledger_command(str(path), "--newest", "2")
    assert done.returncode == 0, done.stderr
    assert "3 ACT, 1 HOLD" in done.stdout
    assert [line.split()[1] for line in done.stdout.splitlines()[-2:]] == ["ACT", "HOLD"]


def test_an_alarm_is_exit_code_1(tmp_path: Path) -> None:
    path = tmp_path / "decisions.sqlite"
    ask = AskEvidence("look", -0.3, -0.31, -0.29, 0.0, 0.0, info=0.5)
    with Ledger(path, durable=False) as ledger:
        for _ in range(150):
            ledger.record(GATE.decide(replace(PUSH, asks=(ask,))))
    done = ledger_command(str(path))
    assert done.returncode == 1, done.stderr
    assert "ALARM hubris" in done.stdout


def test_what_is_not_a_ledger_is_refused(tmp_path: Path) -> None:
    missing = ledger_command(str(tmp_path / "none.sqlite"))
    assert missing.returncode in (1, 2)
    assert "none.sqlite" in missing.stderr
    assert "Traceback" not in missing.stderr
    assert ledger_command(str(tmp_path), "--newest", "-1").returncode == 2
