"""The ledger: every decision with its numbers, and later what came of it, in one SQLite file.

Write-ahead log, one transaction per record, fsynced before `record` returns: a decision once
recorded survives kill -9 and power loss. Several processes may write to one file. What cannot be
written raises SaveError and leaves the file as it was; `decide_and_record` (decide/experiment.py)
turns that into HOLD, for without a durable record nothing may act. Observations are hashed, not
stored, unless asked for.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from bb_wm.decide.evidence import number
from bb_wm.decide.gate import Decision, Gate
from bb_wm.errors import DataError, InputTypeError, LockError, PathError, SaveError, VersionError

SCHEMA: Final = 1
APPLICATION: Final = 0x62625F6C  # "bb_l" in the file's header: a ledger and nothing else
MAX_CONTEXT_BYTES: Final = 64 * 1024
_TABLES: Final = """
CREATE TABLE decisions (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE, made_at REAL NOT NULL,
    verdict TEXT NOT NULL, choice TEXT, place INTEGER,
    utility REAL, gain REAL, evsi REAL, standard_error REAL, risk REAL, risk_bound REAL,
    risk_limit REAL, horizon INTEGER, age REAL, reasons TEXT NOT NULL, reason TEXT NOT NULL,
    ask TEXT, ask_info REAL, ask_cost REAL, forced TEXT, share REAL, pair TEXT, gate TEXT,
    context TEXT NOT NULL, obs_sha256 TEXT, obs TEXT, withdrawn TEXT
);
CREATE TABLE outcomes (
    id TEXT NOT NULL PRIMARY KEY REFERENCES decisions (id), recorded_at REAL NOT NULL,
    realised_return REAL NOT NULL, realised_risk REAL, note TEXT NOT NULL
);
CREATE INDEX decisions_pair ON decisions (pair) WHERE pair IS NOT NULL;
"""


class Ledger:
    """An open ledger file; made when it is not there, if `create`. Usable from several threads.

    With durable=False records survive kill -9 but the last may be lost with the power: for
    experiments, where nothing outside depends on them, and about a hundred times faster.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        create: bool = True,
        keep_observations: bool = False,
        durable: bool = True,
        busy_seconds: float = 5.0,
    ) -> None:
        self.path = Path(path)
        if not create and not self.path.is_file():
            raise PathError("ledger", expected="an existing ledger", actual=f"nothing at {path}")
        self.keep_observations = keep_observations
        self._busy = busy_seconds
        self._durable = durable
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._process = -1
        with self._translated("open"):
            self._open()

    # --- writing ---------------------------------------------------------------------------------

    def record(
        self,
        decision: Decision,
        context: Mapping[str, Any] | None = None,
        *,
        obs: Any = None,
        gate: Gate | None = None,
        share: float | None = None,
        pair: str | None = None,
    ) -> str:
        """Writes the decision durably and gives its id.

        `context` is JSON of at most 64 KiB. `obs` (array or mapping of arrays) is hashed, and
        stored only by a ledger made with keep_observations. `pair` joins two decisions that were
        made for the same state, one forced to ask and one forced not to. Raises SaveError,
        LockError, InputTypeError; a decision id may be used once.
        """
        text = _json(context or {})
        ask = decision.best_ask
        row: dict[str, Any] = {
            "id": decision.decision_id,
            "made_at": time.time(),
            "verdict": decision.verdict.value,
            "choice": decision.choice,
            "place": decision.index,
            "horizon": decision.horizon,
            "reasons": json.dumps(decision.reasons),
            "reason": decision.reason,
            "risk_limit": _real(decision.limit),
            "ask": None if ask is None else ask.name,
            "ask_info": None if ask is None else _real(ask.info),
            "ask_cost": None if ask is None else _real(ask.cost),
            "forced": decision.forced,
            "share": share,
            "pair": pair,
            "gate": None if gate is None else gate.digest,
            "context": text,
            "obs_sha256": None if obs is None else observation_digest(obs),
            "obs": _json(_plain(obs)) if obs is not None and self.keep_observations else None,
        }
        for name in ("utility", "gain", "evsi", "standard_error", "risk", "risk_bound", "age"):
            row[name] = _real(getattr(decision, name))
        columns, marks = ", ".join(row), ", ".join(f":{name}" for name in row)
        with self._writing("record") as connection:
            connection.execute(f"INSERT INTO decisions ({columns}) VALUES ({marks})", row)
        return decision.decision_id

    def outcome(
        self,
        decision_id: str,
        realised_return: float,
        realised_risk: float | None = None,
        **note: Any,
    ) -> None:
        """What came of a decision, once: its return from then on (costs of asking included), risk.

        Raises DataError for an id without a decision, or one that has its outcome already.
        """
        value, risk = number(realised_return), number(realised_risk)
        if not math.isfinite(value):
            raise InputTypeError(
                "realised_return", expected="a finite number", actual=repr(realised_return)
            )
        if realised_risk is not None and not math.isfinite(risk):
            raise InputTypeError(
                "realised_risk", expected="a finite number or None", actual=repr(realised_risk)
            )
        text = _json(note)
        with self._writing("outcome") as connection:
            found = connection.execute("SELECT 1 FROM decisions WHERE id = ?", (decision_id,))
            if found.fetchone() is None:
                raise DataError(
                    "decision_id", expected="a recorded decision", actual=repr(decision_id)
                )
            try:
                connection.execute(
                    "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?)",
                    (decision_id, time.time(), value, _real(risk), text),
                )
            except sqlite3.IntegrityError as error:
                raise DataError(
                    "decision_id", expected="no outcome yet", actual=repr(decision_id)
                ) from error

    def withdraw(self, decision_id: str, why: str) -> None:
        """Marks a recorded decision as not carried out."""
        with self._writing("withdraw") as connection:
            connection.execute(
                "UPDATE decisions SET withdrawn = ? WHERE id = ?", (why[:200], decision_id)
            )

    # --- reading ---------------------------------------------------------------------------------

    def select(self, query: str, values: tuple[Any, ...] = ()) -> list[sqlite3.Row]:
        """Rows of a reading query over `decisions` and `outcomes`."""
        with self._lock, self._translated("read"):
            return list(self._open().execute(query, values))

    def __len__(self) -> int:
        return int(self.select("SELECT count(*) FROM decisions")[0][0])

    def rows(self, limit: int = 20) -> list[dict[str, Any]]:
        """The newest decisions with their outcomes, newest first."""
        found = self.select(
            "SELECT d.*, o.realised_return, o.realised_risk, o.note FROM decisions d "
            "LEFT JOIN outcomes o USING (id) ORDER BY d.number DESC LIMIT ?",
            (limit,),
        )
        return [dict(row) for row in found]

    def close(self) -> None:
        with self._lock:
            if self._connection is not None and self._process == os.getpid():
                self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- inside ----------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        """The connection of this process: one inherited through a fork is never used."""
        if self._connection is not None and self._process == os.getpid():
            return self._connection
        connection = sqlite3.connect(
            self.path, timeout=self._busy, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        try:
            self._write_ahead(connection)
            connection.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA trusted_schema = OFF")
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection, self._process = connection, os.getpid()
        return connection

    def _write_ahead(self, connection: sqlite3.Connection) -> None:
        """SQLite does not wait when two processes turn the log on at once, so we do."""
        patience = time.monotonic() + self._busy
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > patience:
                    raise
                time.sleep(0.01)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        if self._identity(connection) == (APPLICATION, SCHEMA):
            return
        connection.execute("BEGIN IMMEDIATE")  # two processes may both find the file empty
        try:
            application, version = self._identity(connection)
            if (application, version) == (0, 0) and not _has_tables(connection):
                for statement in _TABLES.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION}")
                connection.execute(f"PRAGMA user_version = {SCHEMA}")
            elif application != APPLICATION:
                raise DataError(
                    "ledger", expected="a ledger file", actual=f"another database at {self.path}"
                )
            elif version != SCHEMA:
                raise VersionError(
                    "ledger", expected=f"schema version {SCHEMA}", actual=f"version {version}"
                )
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    @staticmethod
    def _identity(connection: sqlite3.Connection) -> tuple[int, int]:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        return int(application), int(connection.execute("PRAGMA user_version").fetchone()[0])

    @contextmanager
    def _writing(self, what: str) -> Iterator[sqlite3.Connection]:
        with self._lock, self._translated(what):
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        """SQLite's errors as ours."""
        field = f"ledger.{what}"
        try:
            yield
        except sqlite3.IntegrityError as error:
            raise DataError(field, expected="an id used once", actual=error) from error
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                raise LockError(
                    field, expected=f"the file free within {self._busy} s", actual=error
                ) from error
            if what == "read":
                raise DataError(field, expected="a readable ledger", actual=error) from error
            raise SaveError(
                field,
                expected=f"to reach {self.path}",
                actual=error,
                hint="nothing was written; check space and permissions.",
            ) from error
        except sqlite3.DatabaseError as error:
            raise DataError(field, expected="an undamaged ledger", actual=error) from error


def _has_tables(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None


def _real(value: float) -> float | None:
    """SQLite turns NaN into NULL and keeps infinities; null for both is plainer."""
    return value if math.isfinite(value) else None


def _json(value: Any) -> str:
    try:
        text = json.dumps(value, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputTypeError("context", expected="plain, finite JSON", actual=error) from error
    if len(text) > MAX_CONTEXT_BYTES:
        raise InputTypeError(
            "context", expected=f"at most {MAX_CONTEXT_BYTES} bytes", actual=len(text)
        )
    return text


def _arrays(obs: Any) -> dict[str, np.ndarray]:
    pairs = obs.items() if isinstance(obs, Mapping) else [("obs", obs)]
    return {str(key): np.asarray(value) for key, value in sorted(pairs)}


def _plain(obs: Any) -> dict[str, Any]:
    return {
        key: {"dtype": array.dtype.str, "values": array.tolist()}
        for key, array in _arrays(obs).items()
    }


def observation_digest(obs: Any) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of an observation."""
    digest = hashlib.sha256()
    for key, array in _arrays(obs).items():
        if array.dtype.hasobject:
            raise InputTypeError(f"obs[{key!r}]", expected="numbers", actual=array.dtype)
        digest.update(json.dumps([key, array.dtype.str, list(array.shape)]).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
