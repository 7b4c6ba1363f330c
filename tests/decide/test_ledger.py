"""The ledger file: what goes in comes out, after kills, full disks, and from two processes."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bb_wm.decide.evidence import AskEvidence, CandidateEvidence, Evidence
from bb_wm.decide.gate import Gate, Verdict
from bb_wm.decide.ledger import Ledger, observation_digest
from bb_wm.errors import (
    DataError,
    InputTypeError,
    LockError,
    PathError,
    SaveError,
    VersionError,
)

GATE = Gate(limit=0.2, max_age=1.0, clock=lambda: 100.0)
GOOD = Evidence(
    candidates=(CandidateEvidence("push", 2.0, 0.05, 0.1, 0.1),),
    hold_utility=1.0,
    horizon=10,
    observed_at=99.5,
    policy="CEM",
    asks=(AskEvidence("look", -0.2, -0.3, -0.1, 0.0, 0.0, 0.05, info=0.3, cost=0.5),),
)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite")


def test_what_goes_in_comes_out_after_reopening(ledger: Ledger) -> None:
    decision = GATE.decide(GOOD)
    obs = np.arange(3.0)
    ledger.record(decision, {"task": "stack"}, obs=obs, gate=GATE)
    ledger.outcome(decision.decision_id, 1.25, 0.5, steps=7)
    ledger.close()
    (row,) = Ledger(ledger.path).rows()
    expected: dict[str, Any] = {
        "id": decision.decision_id,
        "verdict": "ACT",
        "choice": "push",
        "place": 0,
        "utility": 2.0,
        "gain": 1.0,
        "evsi": -0.2,
        "standard_error": 0.1,
        "risk": 0.05,
        "risk_bound": 0.1,
        "risk_limit": 0.2,
        "horizon": 10,
        "age": 0.5,
        "reasons": '["gain_over_cost"]',
        "reason": decision.reason,
        "ask": "look",
        "ask_info": 0.3,
        "ask_cost": 0.5,
        "forced": None,
        "gate": GATE.digest,
        "context": '{"task": "stack"}',
        "obs_sha256": observation_digest(obs),
        "obs": None,
        "realised_return": 1.25,
        "realised_risk": 0.5,
        "note": '{"steps": 7}',
    }
    assert {key: row[key] for key in expected} == expected


def test_observations_are_stored_only_when_asked_for(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite", keep_observations=True)
    ledger.record(GATE.decide(GOOD), obs={"x": np.asarray([1, 2])})
    assert '"values": [1, 2]' in ledger.rows()[0]["obs"]


def test_observation_digests_tell_apart_dtype_shape_name_and_value() -> None:
    base = np.arange(6, dtype=np.float32)
    different = [
        base,
        base + 1,
        base.astype(np.float64),
        base.reshape(2, 3),
        {"x": base},
        {"x": base, "y": base},
    ]
    assert len({observation_digest(obs) for obs in different}) == len(different)
    assert observation_digest({"a": 1, "b": 2}) == observation_digest({"b": 2, "a": 1})
    assert observation_digest(base[::2]) == observation_digest(base[::2].copy())
    with pytest.raises(InputTypeError):
        observation_digest(np.asarray([object()]))


def test_numbers_that_are_not_finite_are_null(ledger: Ledger) -> None:
    ledger.record(GATE.decide(replace(GOOD, candidates=())))
    row = ledger.rows()[0]
    assert row["verdict"] == "HOLD"
    assert row["utility"] is None


@pytest.mark.parametrize(
    "context", [{"x": float("nan")}, {"x": object()}, {"x": "a" * 70_000}, {"x": np.float32(1)}]
)
def test_a_context_that_is_not_small_plain_json_is_refused(ledger: Ledger, context: Any) -> None:
    with pytest.raises(InputTypeError):
        ledger.record(GATE.decide(GOOD), context)
    assert len(ledger) == 0


def test_outcomes_belong_to_a_decision_once_and_are_finite(ledger: Ledger) -> None:
    name = ledger.record(GATE.decide(GOOD))
    for value in (float("nan"), float("inf"), None, "3"):
        with pytest.raises(InputTypeError):
            ledger.outcome(name, value)  # type: ignore[arg-type]
    with pytest.raises(InputTypeError):
        ledger.outcome(name, 1.0, float("nan"))
    with pytest.raises(DataError):
        ledger.outcome("nobody", 1.0)
    ledger.outcome(name, 1.0)
    with pytest.raises(DataError):
        ledger.outcome(name, 2.0)
    assert ledger.rows()[0]["realised_return"] == 1.0


def test_an_id_is_used_once(ledger: Ledger) -> None:
    decision = GATE.decide(GOOD)
    ledger.record(decision)
    with pytest.raises(DataError):
        ledger.record(decision)
    assert len(ledger) == 1


def test_text_is_data_and_never_sql(ledger: Ledger) -> None:
    nasty = "'); DROP TABLE decisions; --"
    hostile = replace(GOOD, candidates=(replace(GOOD.candidates[0], name=nasty),))
    ledger.record(GATE.decide(hostile), {"note": nasty})
    assert ledger.rows()[0]["choice"] == nasty


# --- files that are not ours ----------------------------------------------------------------------


def test_other_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_bytes(b"not a database, but long enough to have a header of one hundred bytes" * 4)
    before = text.read_bytes()
    with pytest.raises(DataError):
        Ledger(text)
    assert text.read_bytes() == before
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE cats (name)")
    with pytest.raises(DataError) as caught:
        Ledger(other)
    assert "another database" in str(caught.value)


def test_a_newer_schema_is_refused(ledger: Ledger) -> None:
    ledger.close()
    with sqlite3.connect(ledger.path) as connection:
        connection.execute("PRAGMA user_version = 2")
    with pytest.raises(VersionError):
        Ledger(ledger.path)


def test_a_missing_or_unreachable_path(tmp_path: Path) -> None:
    with pytest.raises(PathError):
        Ledger(tmp_path / "none.sqlite", create=False)
    assert not (tmp_path / "none.sqlite").exists()
    with pytest.raises(SaveError):
        Ledger(tmp_path / "no" / "folder" / "l.sqlite")


# --- faults of the machine ------------------------------------------------------------------------


def test_a_full_database_raises_and_keeps_what_was_there(ledger: Ledger) -> None:
    """SQLite's own "database or disk is full", reached by a page limit."""
    first = ledger.record(GATE.decide(GOOD))
    pages = ledger.select("PRAGMA page_count")[0][0]
    ledger.select(f"PRAGMA max_page_count = {pages}")
    for _ in range(3):
        with pytest.raises(SaveError) as caught:
            ledger.record(GATE.decide(GOOD), {"x": "a" * 30_000})
    assert "full" in str(caught.value)
    kept = len(ledger)
    ledger.select("PRAGMA max_page_count = 1000000")
    ledger.record(GATE.decide(GOOD))  # and goes on when there is room again
    assert len(ledger) == kept + 1
    assert ledger.rows(1000)[-1]["id"] == first
    assert ledger.select("PRAGMA integrity_check")[0][0] == "ok"


_FILE_LIMIT = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.path.insert(0, {tests!r})
from test_ledger import GATE, GOOD
from bb_wm.decide.ledger import Ledger
from bb_wm.errors import SaveError
ledger = Ledger({path!r})
done = [ledger.record(GATE.decide(GOOD))]
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
try:
    for _ in range(1000):
        done.append(ledger.record(GATE.decide(GOOD), {{"x": "a" * 2000}}))
except SaveError as error:
    print(len(done))
    sys.exit(0)
sys.exit(3)
"""


def test_a_full_disk_raises_and_keeps_every_acknowledged_record(tmp_path: Path) -> None:
    """The operating system refuses to let any file grow past 60 kB, in a process of its own."""
    path = tmp_path / "l.sqlite"
    code = _FILE_LIMIT.format(tests=str(Path(__file__).parent), path=str(path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(Ledger(path)) == int(done.stdout) >= 2


_WRITER = """
import sys
sys.path.insert(0, {tests!r})
from test_ledger import GATE, GOOD
from bb_wm.decide.ledger import Ledger
ledger = Ledger({path!r})
for _ in range({count}):
    sys.stdout.write(ledger.record(GATE.decide(GOOD), {{"x": "a" * 500}}) + "\\n")
    sys.stdout.flush()
"""


def _writer(path: Path, count: int) -> subprocess.Popen[bytes]:
    code = _WRITER.format(tests=str(Path(__file__).parent), path=str(path), count=count)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)


def test_kill_nine_loses_no_acknowledged_record(tmp_path: Path) -> None:
    """Six writers of one file, each killed at a random moment while it writes."""
    path, chance = tmp_path / "l.sqlite", random.Random(0)
    acknowledged: list[str] = []
    for _ in range(6):
        writer = _writer(path, 100_000)
        assert writer.stdout is not None
        lines = [writer.stdout.readline()]  # it writes by now
        time.sleep(chance.uniform(0.0, 0.15))
        writer.send_signal(signal.SIGKILL)
        lines += writer.stdout.readlines()
        writer.wait()
        acknowledged += [line.decode().strip() for line in lines if line.endswith(b"\n")]
    ledger = Ledger(path)
    found = {row["id"] for row in ledger.rows(10**6)}
    assert len(acknowledged) >= 6
    assert set(acknowledged) <= found
    assert len(found) <= len(acknowledged) + 6  # at most the one in flight per kill
    assert ledger.select("PRAGMA integrity_check")[0][0] == "ok"
    ledger.record(GATE.decide(GOOD))


def test_two_processes_write_one_new_file(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    writers = [_writer(path, 150) for _ in range(2)]
    told = [set(writer.communicate()[0].decode().split()) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert {row["id"] for row in Ledger(path).rows(1000)} == told[0] | told[1]
    assert len(told[0] | told[1]) == 300


def test_threads_share_one_ledger(ledger: Ledger) -> None:
    def write() -> None:
        for _ in range(30):
            ledger.record(GATE.decide(GOOD))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ledger) == 120


def _forked(ledger: Ledger, decision_id: str) -> None:
    ledger.record(replace(GATE.decide(GOOD), decision_id=decision_id))
    os._exit(0)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_opens_its_own_connection(ledger: Ledger) -> None:
    ledger.record(GATE.decide(GOOD))
    child = multiprocessing.get_context("fork").Process(target=_forked, args=(ledger, "child"))
    child.start()
    child.join()
    assert child.exitcode == 0
    ledger.record(GATE.decide(GOOD))
    assert [row["id"] for row in ledger.rows()][1] == "child"


def test_a_writer_that_never_ends_is_a_lock_error(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    Ledger(path).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    impatient = Ledger(path, busy_seconds=0.05)
    with pytest.raises(LockError):
        impatient.record(GATE.decide(GOOD))
    other.execute("ROLLBACK")
    impatient.record(GATE.decide(GOOD))


def test_a_closed_ledger_opens_again_and_withdrawals_are_marked(ledger: Ledger) -> None:
    name = ledger.record(GATE.decide(GOOD))
    ledger.close()
    ledger.withdraw(name, "the arm was switched off")
    assert ledger.rows()[0]["withdrawn"] == "the arm was switched off"
    assert GATE.decide(GOOD).verdict is Verdict.ACT


def test_the_ledger_loads_without_torch() -> None:
    code = (
        "import sys, bb_wm.decide as d; d.Ledger, d.read_ledger; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
