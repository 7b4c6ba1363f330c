"""kill -9 at random moments of a real training: all resume to the same end, nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "scripts" / "soak.py"


def soak(kills: int, seed: int) -> str:
    command = [sys.executable, str(SOAK), "--kills", str(kills), "--seed", str(seed)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.timeout(300)
def test_four_kills() -> None:
    assert soak(4, seed=1) == (
        "4 kills: 4 resumed, 4 ended bit for bit as the uninterrupted run, "
        "0 acknowledged things lost"
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills() -> None:
    assert soak(20, seed=2).startswith("20 kills: 20 resumed, 20 ended bit for bit")
