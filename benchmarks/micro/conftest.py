"""One thread, and processor time (pytest.ini): a busy machine then says about the same."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)
