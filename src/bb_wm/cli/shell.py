"""What a shell expects of a program: exit codes, readable failures, quiet pipes, signals."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from bb_wm.errors import (
    BBWMError,
    CheckpointError,
    ConfigError,
    DeviceError,
    InputTypeError,
    LockError,
    MissingExtraError,
    PathError,
)

FAILED: Final = 1
USAGE: Final = 2
CONFLICT: Final = 3
INTERRUPTED: Final = 130
TERMINATED: Final = 143

# What the caller typed, against what a run folder holds; every other error of ours is a failure.
_USAGE_ERRORS: Final = (ConfigError, InputTypeError, DeviceError, PathError, MissingExtraError)
_CONFLICT_ERRORS: Final = (LockError, CheckpointError)


class RunConflictError(BBWMError, FileExistsError):
    """The run folder does not fit: there is none of that name, or it holds another run."""


def exit_code(error: BBWMError) -> int:
    """2 for usage and values, 3 for conflicts over a run folder, 1 for the rest."""
    if isinstance(error, (RunConflictError, *_CONFLICT_ERRORS)):
        return CONFLICT
    return USAGE if isinstance(error, _USAGE_ERRORS) else FAILED


def explain(error: BBWMError, command: str) -> str:
    """One block that says what was wrong, what was expected, what came, and what to do."""
    kind = (type(error).__doc__ or "Something is wrong.").splitlines()[0]
    rows = {
        "field": error.field,
        "expected": error.expected,
        "got": error.actual,
        "step": getattr(error, "step", -1),
        "hint": error.hint,
    }
    lines = [
        f"  {name:<9} {_printable(text)}" for name, text in rows.items() if text not in ("", -1)
    ]
    return "\n".join([f"{command}: {kind}", *lines])


def near(path: Path) -> str:
    """`path` from here when it lies below, else in full."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _printable(text: object) -> str:
    """Control characters made visible, so that a strange name cannot steer the terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def guarded(body: Callable[[], int], *, command: str, debug: bool = False) -> int:
    """Run `body`; every way it can end becomes an exit code and, if needed, a readable line."""
    _soften_streams()
    if not debug:
        warnings.showwarning = _warn_in_a_line
    with _terminate_as_exit():
        try:
            code = body()
            sys.stdout.flush()
            return code
        except BBWMError as error:
            if debug:
                traceback.print_exc()
            _complain(explain(error, command))
            return exit_code(error)
        except KeyboardInterrupt:
            _complain(f"{command}: interrupted.")
            return INTERRUPTED
        except SystemExit as stop:
            return _flushed(stop.code, command)
        except BrokenPipeError:
            _drop_stdout()
            return FAILED
        except OSError as error:
            return _system_failure(error, command, debug)


def _flushed(code: object, command: str) -> int:
    """The exit code of a SystemExit, after what it printed has really left."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return _system_failure(error, command, debug=False)
    if code is None:
        return 0
    if isinstance(code, int):
        return code
    _complain(str(code))
    return FAILED


def _system_failure(error: OSError, command: str, debug: bool) -> int:
    """A full disk or a closed pipe under our output is a line; anything else shows where."""
    if isinstance(error, BrokenPipeError):
        _drop_stdout()
        return FAILED
    if debug:
        traceback.print_exc()
    where = f" ({error.filename})" if error.filename else ""
    _complain(f"{command}: {_printable(error.strerror or error)}{_printable(where)}.")
    _drop_stdout()
    return FAILED


def _warn_in_a_line(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as people read it: without the line of source that happened to raise it."""
    _complain(f"Warning: {message}")


def _complain(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def _drop_stdout() -> None:
    """Send what is still buffered nowhere, so that the interpreter's last flush cannot fail."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _soften_streams() -> None:
    """Print what a locale or a file name cannot encode as escapes rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def _terminate_as_exit() -> Iterator[None]:
    """SIGTERM outside training ends the program in an orderly way, with 143."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # not the main thread: somebody else's business
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
