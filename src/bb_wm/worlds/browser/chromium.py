"""A headless Chromium on one page of MiniWoB++, driven by WebDriver: begin, see, aim, click, type.

Nothing leaves the machine: the pages are files, and no name of a host is ever resolved.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import os
import signal
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from bb_wm.errors import DataError, MissingExtraError
from bb_wm.worlds.world import BROWSER, browser_programs, install_line

WIDTH: Final = 160  # of the task's part of the page, in CSS pixels
HEIGHT: Final = 210
_ASIDE: Final = (450, 280)  # where the pointer rests and touches nothing
_START_MS: Final = 300_000  # a browser on a busy machine; the driver's own limit is a minute
_QUIT_S: Final = 5.0
_FLAGS: Final = (
    "headless=new",
    "disable-gpu",
    "disable-dev-shm-usage",
    "disable-extensions",
    "disable-background-networking",
    "disable-component-update",
    "disable-default-apps",
    "disable-sync",
    "force-device-scale-factor=1",
    "host-resolver-rules=MAP * ~NOTFOUND",
    "mute-audio",
    "no-first-run",
    "window-size=500,450",
)


@dataclass(frozen=True, slots=True)
class Aim:
    """A point that a click on an element hits, and whether what it hits is destructive."""

    x: int
    y: int
    destructive: bool


class Chromium:
    """The browser with the page of `task` open.

    Raises MissingExtraError with the install line where something is absent. Every other failure of
    the browser is a DataError; `alive` says whether it can go on.
    """

    def __init__(self, task: str, timeout_s: float) -> None:
        self._driver = _open(timeout_s)
        self._end = weakref.finalize(self, _end, self._driver)
        self.alive = True
        pages = Path(str(importlib.resources.files("miniwob"))) / "html" / "miniwob"
        script = importlib.resources.files(__package__).joinpath("page.js").read_text("utf-8")
        self._do(lambda driver: driver.get((pages / f"{task}.html").as_uri()))
        self._do(lambda driver: driver.execute_script(script))
        self._do(lambda driver: driver.execute_async_script("bbwm.load(arguments[0]);"))

    def begin(self, seed: int) -> str:
        """A new episode; gives the task in words."""
        self._move(*_ASIDE, press=False)
        return str(self.ask("begin", seed))

    def ask(self, name: str, *words: Any) -> Any:
        """What page.js answers."""
        call = f"return bbwm.{name}(...arguments);"
        return self._do(lambda driver: driver.execute_script(call, *words))

    def aim(self, index: int, task: str, fields: dict[str, str]) -> Aim | None:
        """Where a click on a listed element would land; None where it would not hit it."""
        found = self.ask("aim", index, task, fields)
        if found is None:
            return None
        return Aim(int(found["x"]), int(found["y"]), bool(found["destructive"]))

    def click(self, aim: Aim) -> None:
        """A real click of the mouse."""
        self._move(aim.x, aim.y, press=True)

    def type(self, text: str) -> None:
        """Real key strokes into what has the focus, in the place of what stands there."""
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        def strokes(driver: Any) -> None:
            chain = ActionChains(driver, duration=0).key_down(Keys.CONTROL).send_keys("a")
            chain.key_up(Keys.CONTROL).send_keys(text or Keys.DELETE).perform()

        self._do(strokes)

    def screenshot(self, height: int, width: int) -> np.ndarray:
        """The task's part of the page, uint8 [height, width, 3]."""
        import io

        from PIL import Image

        png = self._do(lambda driver: driver.get_screenshot_as_png())
        with Image.open(io.BytesIO(png)) as picture:
            part = picture.convert("RGB").crop((0, 0, WIDTH, HEIGHT))
            small = part.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(small, np.uint8)

    def close(self, *, gently: bool = True) -> None:
        """End it; what hangs is not asked first."""
        self.alive = False
        if self._end.detach() is not None:
            _end(self._driver, gently)

    def _move(self, x: int, y: int, *, press: bool) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        def move(driver: Any) -> None:
            actions: Any = ActionChains(driver, duration=0).w3c_actions
            actions.pointer_action.move_to_location(x, y)
            if press:
                actions.pointer_action.click()
            actions.perform()

        self._do(move)

    def _do(self, what: Any) -> Any:
        from selenium.common.exceptions import WebDriverException
        from urllib3.exceptions import HTTPError

        if not self.alive:
            raise DataError("browser", expected="reset() first", actual="none is running")
        try:
            return what(self._driver)
        except (WebDriverException, HTTPError, OSError) as error:
            self.close(gently=False)
            raise DataError(
                "browser",
                expected="an answer",
                actual=_said(error),
                hint="reset() starts a new one.",
            ) from error


def _open(timeout_s: float) -> Any:
    """A driver of a fresh browser."""
    programs = browser_programs()
    if programs is None:
        raise MissingExtraError(
            "browser",
            expected="chromium and chromedriver on the PATH",
            actual="not installed",
            hint=install_line(BROWSER),
        )
    from selenium import webdriver
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.chrome.service import Service
    from urllib3.exceptions import HTTPError

    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    for flag in (*_FLAGS, *(["no-sandbox"] if os.geteuid() == 0 else [])):
        options.add_argument(flag)
    options.add_experimental_option("browserStartupTimeout", _START_MS)
    service = Service(str(programs[1]))
    try:
        driver: Any = webdriver.Chrome(service=service, options=options)
    except (WebDriverException, HTTPError, OSError) as error:
        service.stop()
        raise DataError(
            "browser", expected="to start", actual=_said(error), hint="is the machine very busy?"
        ) from error
    driver.set_page_load_timeout(timeout_s)
    driver.set_script_timeout(timeout_s)
    driver.command_executor.client_config.timeout = timeout_s + 2.0  # what hangs altogether
    return driver


def _said(error: Exception) -> str:
    """The first line of what the browser said; the rest is its stack."""
    lines = str(getattr(error, "msg", None) or error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _end(driver: Any, gently: bool = True) -> None:
    """End browser and driver; the browser must not outlive its driver."""
    try:
        if not gently:
            raise TimeoutError
        driver.command_executor.client_config.timeout = _QUIT_S
        driver.execute("quit")
    except Exception:  # whatever it is, killing is what is left
        _kill(driver.capabilities.get("goog:processID"))
    process, driver.service.process = driver.service.process, None  # selenium would wait for it
    if process is not None:
        process.kill()
        process.wait()


def _kill(browser: object) -> None:
    if isinstance(browser, int) and browser > 1:
        with contextlib.suppress(OSError):  # gone already
            os.kill(browser, signal.SIGKILL)
