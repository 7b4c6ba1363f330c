"""One real, tiny run that the commands' tests share; each worker of pytest makes its own."""

import subprocess
import sys
from pathlib import Path

import pytest

SMALL = [
    *("--preset", "tiny", "--rows", "600", "--heldout-rows", "300", "--updates", "12"),
    *("--batch-size", "8", "--length", "32", "--evaluate-every", "6"),
    *("--checkpoint-every", "6", "--log-every", "3", "--threads", "1"),
]


def start(*words, cwd, **options):
    """`bb-wm words` as a process of its own."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-m", "bb_wm", *map(str, words)]
    return subprocess.Popen(command, cwd=cwd, **{**pipes, **options})


def call(*words, cwd, **options):
    """`bb-wm words` until it ends: (exit code, standard output, standard error)."""
    process = start(*words, cwd=cwd, **options)
    out, err = process.communicate(timeout=250)
    return process.returncode, out, err


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> tuple[Path, str, str]:
    """A folder in which `bb-wm train LineWorld` ran, and what it printed on both streams."""
    place = tmp_path_factory.mktemp("house with a space")
    code, out, err = call("train", "LineWorld", *SMALL, cwd=place)
    assert code == 0, err
    return place, out, err
