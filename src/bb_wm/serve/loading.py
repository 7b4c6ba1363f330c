"""A judge that is still being loaded, so that an agent's first question is answered at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from bb_wm.decide.evidence import Fault

if TYPE_CHECKING:
    from bb_wm.serve.judge import Judge


class Loading:
    """`make` at work in a thread of its own; what it raises becomes a Fault, told to `report`.

    Until it is done there is no judge: in enforce calls wait for it, and are held after their
    patience; in shadow they go on.
    """

    def __init__(
        self, make: Callable[[], Judge], report: Callable[[str], None] = lambda line: None
    ) -> None:
        self._make, self._report = make, report
        self._found: Judge | Fault = Fault(
            "model", "StillLoading", "the model is still being loaded"
        )
        self._done = threading.Event()
        threading.Thread(target=self._load, daemon=True, name="bb_wm-loading").start()

    def wait(self, seconds: float) -> Judge | Fault:
        """The judge; why there is none; or, after `seconds`, that it is still being loaded."""
        self._done.wait(max(seconds, 0.0))
        return self._found

    def _load(self) -> None:
        try:
            self._found = self._make()
        except BaseException as error:  # whatever it is, there is no judge
            self._found = Fault.of(error, "model")
            self._report(f"no model: {error}")
        self._done.set()
