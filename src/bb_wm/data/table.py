"""Episodes from one table, CSV or Parquet, a row per step and named columns."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bb_wm.data.rows import RewardPlace
from bb_wm.errors import ConfigError, DataError, MissingExtraError

MAX_TABLE_BYTES = 8 << 30
Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TableColumns:
    """Which column is what.

    `obs`: names of one vector, or key -> names for several; empty: every column `obs.*`. `action`:
    names of the flat action, or the one column of indices; empty: `action.*`, or `action`.
    `next_obs`: in the order of `obs` (one vector only): the row the action led to, used for an
    episode's last one; empty: `next_obs.*`, if there. `episode`, `t` and `reward` must be there;
    `safety`, `terminated` and `truncated` are taken where they are. In Parquet a column may hold a
    list of numbers per row. `t` must grow by the same step within an episode.
    """

    episode: str = "episode"
    t: str = "t"
    obs: Names | Mapping[str, Names] = ()
    action: Names = ()
    next_obs: Names = ()
    reward: str = "reward"
    safety: str = "safety"
    terminated: str = "terminated"
    truncated: str = "truncated"


def read_table(path: Path, columns: TableColumns, rewards: RewardPlace) -> list[dict[str, Any]]:
    """The raw arrays of every episode, in the order of their first row.

    Keys: name, obs, action, reward, safety, terminated, truncated as `episode_from_arrays` wants
    them. A blank action in the last row means that none was done there.
    """
    size = path.stat().st_size
    if size > MAX_TABLE_BYTES:
        raise DataError(path.name, expected=f"at most {MAX_TABLE_BYTES} bytes", actual=size)
    table = _read_csv(path) if path.suffix == ".csv" else _read_parquet(path)
    columns = _resolved(path, table, columns)
    groups = _groups(path, table, columns)
    return [_episode(path, table, columns, name, rows, rewards) for name, rows in groups.items()]


def _read_csv(path: Path) -> dict[str, Any]:
    """Columns of a CSV file as text; numbers are parsed when asked for."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            names = next(reader, [])
            rows = [row for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(path.name, expected="a UTF-8 CSV file", actual=str(error)) from error
    _check_names(path, names)
    for number, row in enumerate(rows, 2):
        if len(row) != len(names):
            raise DataError(
                f"{path.name}: line {number}", expected=f"{len(names)} fields", actual=len(row)
            )
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def _read_parquet(path: Path) -> dict[str, Any]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtraError(
            path.name, expected="pyarrow", actual="absent", hint='pip install "bb_wm[tables]"'
        ) from error
    try:
        file = parquet.ParquetFile(path)
        unpacked = sum(
            file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)
        )
        if unpacked > MAX_TABLE_BYTES:
            raise DataError(path.name, expected=f"at most {MAX_TABLE_BYTES} bytes", actual=unpacked)
        table = file.read()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(path.name, expected="a readable Parquet file", actual=str(error)) from error
    _check_names(path, table.column_names)
    return {name: table.column(name) for name in table.column_names}


def _check_names(path: Path, names: list[str]) -> None:
    if not names or len(set(names)) != len(names):
        raise DataError(path.name, expected="a header of different names", actual=names[:8])


def _resolved(path: Path, table: Mapping[str, Any], columns: TableColumns) -> TableColumns:
    """With the prefix conventions carried out; DataError for a column that is not there."""

    def prefixed(prefix: str) -> Names:
        return tuple(name for name in table if name.startswith(prefix))

    obs = columns.obs or prefixed("obs.")
    action = columns.action or prefixed("action.") or ("action",)
    after = columns.next_obs or prefixed("next_obs.")
    if after and (isinstance(obs, Mapping) or len(after) != len(obs)):
        raise ConfigError("next_obs", expected="one column per column of obs", actual=after)
    flat = [n for names in obs.values() for n in names] if isinstance(obs, Mapping) else list(obs)
    needed = [columns.episode, columns.t, columns.reward, *flat, *action, *after]
    absent = [name for name in needed if name not in table]
    if absent or not flat:
        raise DataError(
            path.name,
            expected=f"columns {absent or ['obs.*']}",
            actual=f"columns {list(table)[:12]}",
            hint="name yours: --columns.obs A B --columns.action C (in Python TableColumns).",
        )
    return TableColumns(
        columns.episode,
        columns.t,
        obs,
        action,
        after,
        columns.reward,
        columns.safety if columns.safety in table or "cost" not in table else "cost",
        columns.terminated,
        columns.truncated,
    )


def _groups(path: Path, table: Mapping[str, Any], columns: TableColumns) -> dict[Any, np.ndarray]:
    """Row numbers of every episode, in the order of `t`; gaps and repeats are refused."""
    names = table[columns.episode]
    labels = names if isinstance(names, list) else names.to_pylist()
    times = _numbers(path, table, columns.t, np.arange(len(labels)))
    found: dict[Any, list[int]] = {}
    for row, label in enumerate(labels):
        if label is None or label == "":
            raise DataError(f"{path.name}: {columns.episode}", expected="a name", actual="blank")
        found.setdefault(label, []).append(row)
    groups = {}
    for label, rows in found.items():
        order = np.asarray(rows)[np.argsort(times[rows], kind="stable")]
        steps = np.diff(times[order])
        if not np.isfinite(times[order]).all() or (
            len(steps) and (steps[0] <= 0 or not np.allclose(steps, steps[0], rtol=1e-3))
        ):
            raise DataError(
                f"{path.name}: {columns.t} of episode {label!r}",
                expected="equal steps, none missing or repeated",
                actual=f"steps {steps.min():g} .. {steps.max():g}" if len(steps) else "no number",
            )
        groups[label] = order
    if not groups:
        raise DataError(path.name, expected="at least one row", actual="none")
    return groups


def _numbers(path: Path, table: Mapping[str, Any], name: str, rows: np.ndarray) -> np.ndarray:
    """A column's numbers at `rows`, [n] or [n, k] for lists; a blank is NaN."""
    column = table[name]
    if isinstance(column, list):
        return np.array([_parsed(path, name, column[row], int(row) + 2) for row in rows])
    values = column.take(rows).to_pylist()
    if values and isinstance(values[0], list):
        if len({len(value) if isinstance(value, list) else -1 for value in values}) != 1:
            raise DataError(
                f"{path.name}: {name}", expected="lists of one length", actual="several"
            )
    else:
        values = [np.nan if value is None else value for value in values]
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{path.name}: {name}", expected="numbers", actual=f"dtype {array.dtype}")
    return array


def _parsed(path: Path, name: str, text: str, line: int) -> float:
    plain = text.strip().lower()
    if plain in ("", "true", "false"):
        return {"": float("nan"), "true": 1.0, "false": 0.0}[plain]
    try:
        return float(plain)
    except ValueError:
        raise DataError(
            f"{path.name}: {name}, line {line}", expected="a number", actual=repr(text[:40])
        ) from None


def _matrix(path: Path, table: Mapping[str, Any], names: Names, rows: np.ndarray) -> np.ndarray:
    parts = [_numbers(path, table, name, rows) for name in names]
    return np.concatenate([part.reshape(len(rows), -1) for part in parts], 1)


def _episode(
    path: Path,
    table: Mapping[str, Any],
    columns: TableColumns,
    name: Any,
    rows: np.ndarray,
    rewards: RewardPlace,
) -> dict[str, Any]:
    def per_row(column: str) -> np.ndarray:
        return _numbers(path, table, column, rows) if column in table else np.zeros(len(rows))

    if isinstance(columns.obs, Mapping):
        obs: Any = {key: _matrix(path, table, names, rows) for key, names in columns.obs.items()}
    else:
        obs = _matrix(path, table, columns.obs, rows)
    action = _matrix(path, table, columns.action, rows).astype(np.float64)
    raw = {field: per_row(getattr(columns, field)) for field in ("reward", "safety")}
    ends = {f: np.nan_to_num(per_row(getattr(columns, f))) for f in ("terminated", "truncated")}
    none_done = bool(np.isnan(action[-1]).all())
    place = f"{path.name}: episode {name!r}"
    if rewards == "arriving":
        action = action[:-1]
        for values in raw.values():
            values[0] = np.nan_to_num(values[0])  # a blank: nothing was received yet
    elif none_done:
        action = action[:-1]
        for field, values in raw.items():
            if np.nan_to_num(values[-1]) != 0:
                raise DataError(
                    f"{place}, {field}",
                    expected="blank or 0 in the last row, where no action was done",
                    actual=float(values[-1]),
                    hint='rewards="arriving" if a row holds what was received on reaching it.',
                )
        raw = {field: values[:-1] for field, values in raw.items()}
        ends = {field: _last_two_joined(values) for field, values in ends.items()}
    elif columns.next_obs:
        obs = np.concatenate([obs, _matrix(path, table, columns.next_obs, rows[-1:])])
    if action.shape[1:] == (1,) and len(columns.action) == 1:
        action = action[:, 0]
    return {"name": place, "obs": obs, "action": action, **raw, **ends}


def _last_two_joined(flags: np.ndarray) -> np.ndarray:
    """Without the last row, whose flag joins the one before: logs mark the end in either."""
    joined = flags[:-1].copy()
    if len(joined):
        joined[-1] = max(joined[-1], flags[-1])
    return joined
