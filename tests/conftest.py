"""Settings of every test: one torch thread, repeatable chance and hypothesis."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "everyday", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("nightly", max_examples=2000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("BB_WM_HYPOTHESIS", "everyday"))


@pytest.fixture(autouse=True)
def _same_chance_for_every_test() -> None:
    """A test that draws from a global generator draws the same in any order and worker."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
