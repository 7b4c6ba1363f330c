"""`bb-wm inspect RUN`: the page of a run, served on this machine while it trains."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Annotated, Any, Final

import tyro

from bb_wm.cli import runs
from bb_wm.cli.report import (
    LEDGER,
    REPORT,
    begun,
    compose,
    config_of,
    curves_of,
    examine,
    newest_report,
)
from bb_wm.cli.words import parse_words
from bb_wm.errors import BBWMError, ConfigError

if TYPE_CHECKING:
    from bb_wm.diagnose.page import Page
    from bb_wm.learn.run import Run

EXAMPLES: Final = """
Open the address it prints; the page renews itself as training goes on. Only this machine can reach
it, it changes nothing in RUN, and it serves nothing but the page. Ctrl-C ends it, training goes on.

Examples
  bb-wm inspect runs/Pendulum-v1
  bb-wm inspect runs/Pendulum-v1 --port 9000 --judge-every 120
"""
HOST: Final = "127.0.0.1"
WINDOWS: Final = 100


@dataclass(frozen=True, slots=True)
class Arguments:
    """Watch a run: its page at http://127.0.0.1:PORT, up to date, for this machine only."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run folder, such as runs/Pendulum-v1."""
    port: int = 8765
    """Where to listen; 0 takes any free one."""
    every: float = 3.0
    """Seconds between two questions of the page whether there is something new."""
    judge_every: float = 30.0
    """Least seconds between two looks at a new checkpoint, which cost the processor; 0: none."""
    threads: int = 1
    """Processor threads for looking at checkpoints."""


def parse(words: Sequence[str]) -> Arguments:
    """The flags of `bb-wm inspect`."""
    return parse_words(Arguments, words, command="bb-wm inspect", examples=EXAMPLES)


def run(arguments: Arguments) -> int:
    """Serve until interrupted."""
    runs.use_threads(arguments.threads)
    if not 0 <= arguments.port < 65536:
        raise ConfigError("--port", expected="0 to 65535", actual=arguments.port)
    if not 0.2 <= arguments.every <= 3600:
        raise ConfigError("--every", expected="0.2 to 3600 seconds", actual=arguments.every)
    if not 0 <= arguments.judge_every < 1e6:
        raise ConfigError("--judge-every", expected="0 or more", actual=arguments.judge_every)
    watcher = Watcher(runs.open_run(arguments.run), every=arguments.every)
    with serve(watcher, arguments.port) as server:
        print(f"http://{HOST}:{server.server_port}/  (Ctrl-C ends it)", flush=True)
        with watcher.judging(arguments.judge_every):
            server.serve_forever()
    return 0


class Watcher:
    """The newest page of a run folder, made again only when something in it has changed."""

    def __init__(self, run: Run, *, every: float = 3.0) -> None:
        self.run, self.every = run, every
        self._lock = threading.Lock()
        self._judged: Page | None = None
        self._looks = 0
        self._shown: tuple[str, bytes] = ("", b"")

    def state(self) -> dict[str, str]:
        """What the page asks for: a stamp that changes with what is shown, and a line."""
        seen = repr([_mark(self.run.metrics), self._looks])
        stamp = hashlib.sha256(seen.encode()).hexdigest()[:16]
        return {"stamp": stamp, "status": self._status()}

    def page(self) -> bytes:
        """The page as bytes."""
        from bb_wm.diagnose.page import Page, render_page

        with self._lock:
            state = self.state()
            if state["stamp"] != self._shown[0]:
                page = self._judged or Page(
                    title=self.run.name, provenance=begun(self.run), config=config_of(self.run)
                )
                page = replace(page, curves=curves_of(self.run), progress=state["status"])
                html = render_page(page, stamp=state["stamp"], every=self.every)
                self._shown = (state["stamp"], html.encode("utf-8"))
            return self._shown[1]

    def judge(self) -> bool:
        """Look at the newest checkpoint; whether there was a whole one. Reads, never writes."""
        from bb_wm.diagnose.trusted import fit_trust

        try:
            model = self.run.load_model()
            heldout = runs.rows_of(self.run, model, heldout=True)
            if not heldout:
                return False
            report = newest_report(self.run)
            if report is None or report.updates != model.updates:
                report = examine(self.run, model, heldout, windows=WINDOWS)
            if report.trusted is None:
                report = replace(report, trusted=fit_trust(model, heldout)[1])
            page = compose(self.run, model, report, heldout)
        except (BBWMError, OSError) as error:  # a checkpoint may be replaced while it is read
            print(f"Not judged: {str(error).splitlines()[0]}", file=sys.stderr)
            return False
        self._judged = page
        self._looks += 1
        return True

    @contextlib.contextmanager
    def judging(self, pause: float) -> Iterator[None]:
        """Meanwhile judge every new checkpoint, at most one in `pause` seconds; 0: none.

        A look that has begun is waited for: PyTorch aborts when a program ends under its feet.
        """
        over = threading.Event()

        def go_on() -> None:
            seen: object = None
            while not over.is_set():
                mark = self._newest()
                if mark is None or mark == seen:
                    over.wait(min(1.0, pause))
                    continue
                seen = mark
                self.judge()
                over.wait(pause)

        worker = threading.Thread(target=go_on, daemon=True, name="judge")
        if pause:
            worker.start()
        try:
            yield
        finally:
            over.set()
            if pause:
                worker.join()

    def _newest(self) -> object:
        from bb_wm.learn.checkpoint import list_steps

        steps = list_steps(self.run.checkpoints)
        if not steps:
            return None
        return steps[-1], [_mark(self.run.folder / name) for name in (REPORT, LEDGER)]

    def _status(self) -> str:
        goal, update = self.run.settings.updates, 0
        for line in reversed(_tail(self.run.metrics)):
            try:
                update = int(json.loads(line)["update"])
                break
            except (ValueError, KeyError, TypeError):
                continue
        if update >= goal:
            return f"Trained: {update} of {goal} updates."
        if not update:
            return f"Nothing learnt yet; {goal} updates are planned."
        quiet = max(0.0, time.time() - _mark(self.run.metrics)[1] / 1e9)
        age = f"{quiet:.0f} s" if quiet < 120 else f"{quiet / 60:.0f} min"
        return f"Update {update} of {goal} ({update / goal:.0%}), written {age} ago."


def serve(watcher: Watcher, port: int) -> ThreadingHTTPServer:
    """A server of the page on this machine only; ConfigError where the port is taken."""
    try:
        server = ThreadingHTTPServer((HOST, port), _handler(watcher))
    except OSError as error:
        raise ConfigError(
            "--port",
            expected="a free port",
            actual=f"{port}: {error.strerror}",
            hint="name another one, or 0 for any.",
        ) from error
    server.daemon_threads = True
    return server


def _handler(watcher: Watcher) -> type[BaseHTTPRequestHandler]:
    """Answers two fixed addresses and nothing else: no path ever becomes a file name."""

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "bb-wm", ""

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, *, body: bool) -> None:
            here = [f"{name}:{self.connection.getsockname()[1]}" for name in (HOST, "localhost")]
            if self.headers.get("Host") not in here:
                self.send_error(403, "Not this host")  # another site's name made to point here
                return
            if self.path == "/":
                kind, content = "text/html; charset=utf-8", watcher.page()
            elif self.path == "/state.json":
                kind, content = "application/json", json.dumps(watcher.state()).encode("ascii")
            else:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            for name, value in _HEADERS.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Quiet: it is asked every few seconds."""

    return Handler


_HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def _mark(path: os.PathLike[str]) -> tuple[int, int]:
    """(size, time of change) of a file; zeros where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0)
    return (found.st_size, found.st_mtime_ns)


def _tail(path: os.PathLike[str], size: int = 1 << 14) -> list[str]:
    """The last lines of a file; none where there is none."""
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - size))
            return stream.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []
