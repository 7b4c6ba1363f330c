"""Harmless names and plain JSON: what may be written as text, and what is believed when read."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final

from bb_wm.errors import BBWMError, PathError, SaveError

MAX_JSON_BYTES: Final = 1 << 20
MAX_JSON_DEPTH: Final = 32
MAX_JSON_DIGITS: Final = 64

_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_DEVICES: Final = {"con", "prn", "aux", "nul"} | {
    f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10)
}


def check_name(name: object, field: str = "name") -> str:
    """The name, when it is a harmless file name; PathError otherwise."""
    harmless = isinstance(name, str) and _NAME.fullmatch(name)
    if harmless and str(name).split(".")[0].lower() not in _DEVICES:
        return str(name)
    raise PathError(
        field,
        expected="1 to 64 characters of A-Z a-z 0-9 . _ - not starting with a dot",
        actual=ascii(name),
    )


def dump_json(value: Any, field: str = "meta") -> bytes:
    """Canonical JSON: sorted, indented, ASCII. SaveError where it would not come back the same."""
    _check_json(value, field, 0)
    return (json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n").encode("ascii")


def _check_json(value: Any, field: str, depth: int) -> None:
    if depth > MAX_JSON_DEPTH:
        raise SaveError(field, expected=f"at most {MAX_JSON_DEPTH} levels", actual="more")
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise SaveError(field, expected="keys that are strings", actual=repr(key))
            _check_json(item, f"{field}.{key}", depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check_json(item, f"{field}[{index}]", depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise SaveError(field, expected="a finite number", actual=value)
    elif value is not None and not isinstance(value, bool | int | str):
        raise SaveError(field, expected="plain JSON values", actual=type(value).__name__)


def load_json(
    data: bytes,
    *,
    error: type[BBWMError],
    field: str = "json",
    max_bytes: int = MAX_JSON_BYTES,
    max_depth: int = MAX_JSON_DEPTH,
) -> Any:
    """Parsed JSON; `error` on NaN, 1e999, a key twice, too deep, too long, or not UTF-8."""

    def refuse(actual: object) -> BBWMError:
        return error(field, expected="plain JSON in UTF-8", actual=actual)

    def no_constant(text: str) -> float:
        raise refuse(f"the number {text}")

    def real(text: str) -> float:
        number = float(text)
        if not math.isfinite(number) or len(text) > MAX_JSON_DIGITS:
            raise refuse(f"the number {text[:20]}")
        return number

    def whole(text: str) -> int:
        if len(text) > MAX_JSON_DIGITS:
            raise refuse(f"a number of {len(text)} digits")
        return int(text)

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            keys = [key for key, _ in pairs]
            raise refuse(f"the key {next(k for k in keys if keys.count(k) > 1)!r} twice")
        return result

    if len(data) > max_bytes:
        raise error(field, expected=f"at most {max_bytes} bytes", actual=f"{len(data)} bytes")
    try:
        value = json.loads(
            data.decode("utf-8"),
            parse_constant=no_constant,
            parse_float=real,
            parse_int=whole,
            object_pairs_hook=no_duplicates,
        )
    except (ValueError, RecursionError) as cause:
        if isinstance(cause, BBWMError):
            raise
        raise refuse(str(cause)[:80]) from None
    level = [value]
    for _ in range(max_depth + 1):
        level = [node for node in level if isinstance(node, dict | list)]
        if not level:
            return value
        level = [
            item for node in level for item in (node.values() if isinstance(node, dict) else node)
        ]
    raise error(field, expected=f"at most {max_depth} levels", actual="more")


def seal_json(body: Mapping[str, Any], field: str = "meta") -> bytes:
    """Canonical JSON of `body` with `seal`, the SHA-256 of the same JSON without it."""
    return dump_json({**body, "seal": hashlib.sha256(dump_json(body, field)).hexdigest()}, field)


def unseal_json(raw: bytes, *, error: type[BBWMError], field: str = "json") -> dict[str, Any]:
    """The body that `seal_json` wrote; `error` when a single byte of it is another one."""
    body = load_json(raw, error=error, field=field)
    if isinstance(body, dict) and body.pop("seal", None) is not None:
        try:
            if seal_json(body, field) == raw:
                return body
        except SaveError:
            pass
    raise error(
        field,
        expected="JSON as it was written, with its seal",
        actual="a seal that does not fit: changed or damaged",
    )
