"""The peers of `python -m benchmarks speed`, each pinned in a virtual environment of its own.

They never become requirements of the project. Where an environment cannot be made the reason is
told and the peer is left out; everything else is measured all the same.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import say

ROOT = Path(__file__).resolve().parents[1]
ENVS = ROOT / "bench-envs"
MODULES = "benchmarks.peers_speed"


@dataclass(frozen=True, slots=True)
class Peer:
    """A package: its worker's module, what is installed, and what is installed without its own
    requirements because nothing measured here needs them."""

    name: str
    module: str
    pins: tuple[str, ...]
    bare: tuple[str, ...] = ()


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "torchrl",
            "torchrl_worker",
            ("torch==2.13.0", "torchrl==0.14.1", "tensordict==0.14.3", "numpy==2.4.6"),
        ),
        # Its requirements name tensorflow, gym and crafter for environments. JAX 0.4.30 is of the
        # last line with which this release, the author's last on the index, runs unchanged.
        Peer(
            "dreamerv3",
            "dreamerv3_worker",
            (
                "jax==0.4.30",
                "jaxlib==0.4.30",
                "numpy==1.26.4",
                "scipy==1.13.1",
                "optax==0.2.3",
                "chex==0.1.86",
                "tensorflow_probability==0.24.0",
                "rich",
                "ruamel.yaml",
                "cloudpickle",
                "setuptools",
            ),
            bare=("dreamerv3==1.5.0",),
        ),
        Peer("sheeprl", "sheeprl_worker", ("torch==2.13.0", "sheeprl==0.8.4")),
    )
}


def python_of(peer: Peer, envs: Path = ENVS) -> Path | None:
    """The peer's interpreter, its environment made where it is missing; None where that failed."""
    folder = envs / peer.name
    python, stamp = folder / "bin" / "python", folder / "pins.txt"
    wanted = "\n".join((*peer.pins, *peer.bare)) + "\n"
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    say(f"{peer.name}: installing {', '.join((*peer.bare, *peer.pins))} into {folder} (minutes)")
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        for command in _commands(peer, folder, python):
            _run(command)
    except (OSError, subprocess.SubprocessError) as error:
        say(f"{peer.name}: left out, it could not be installed. {_why(error)}")
        return None
    stamp.write_text(wanted)
    return python


def _commands(peer: Peer, folder: Path, python: Path) -> list[list[str]]:
    uv = shutil.which("uv")
    if uv:
        make = [uv, "venv", "-q", "--clear", "--python", sys.executable, str(folder)]
        install = [uv, "pip", "install", "-q", "--python", str(python)]
    else:
        make = [sys.executable, "-m", "venv", "--clear", str(folder)]
        install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    commands = [make, [*install, *peer.pins]]
    return commands + ([[*install, "--no-deps", *peer.bare]] if peer.bare else [])


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=1800)


def _why(error: Exception) -> str:
    told = getattr(error, "stderr", None) or str(error)
    lines = [x for x in str(told).splitlines() if x.strip() and not x.startswith("WARNING")]
    return " ".join(lines[-3:])[:500]
