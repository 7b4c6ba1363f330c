"""What a process of ours asks of the system before torch is loaded; no result depends on it."""

from __future__ import annotations

import ctypes
import os
from typing import Final

# glibc's names of what mallopt sets, and the largest value that every version takes.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_LARGEST: Final = 2**31 - 1
_LARGEST_OF_OLD: Final = 2**25


def prepare_process() -> None:
    """Threads that wait sleep, and memory that was freed is used again."""
    # Threads that spin while they wait are five times slower where others work on the same cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    reuse_memory()


def reuse_memory() -> bool:
    """Keep freed memory for the next large tensor instead of handing it back to the system, whose
    every new page costs a fault: a tenth of a wide update. False where there is no glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    kept = mallopt(_MMAP_THRESHOLD, _LARGEST) or mallopt(_MMAP_THRESHOLD, _LARGEST_OF_OLD)
    return bool(kept and mallopt(_TRIM_THRESHOLD, _LARGEST))
