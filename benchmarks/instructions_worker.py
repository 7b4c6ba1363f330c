"""Runs under valgrind for `benchmarks.instructions`: counts one call of each task named.

`python -m benchmarks.instructions_worker SWITCH TASK...`; SWITCH is the library that turns counting
on and off. A task is warmed first, and the collector of garbage rests: when it runs is chance.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys

import torch

from benchmarks.speed import SHAPES, prepare

WARM = 2


def main(switch: str, *tasks: str) -> None:
    torch.set_num_threads(1)
    counting = ctypes.CDLL(switch)
    for task in tasks:
        run = prepare(SHAPES["default"], task)
        for _ in range(WARM):
            run()
        gc.collect()
        gc.disable()
        counting.start()
        run()
        counting.stop(task.encode())
        gc.enable()
    os._exit(0)  # taking torch down takes minutes under valgrind


if __name__ == "__main__":
    main(*sys.argv[1:])
