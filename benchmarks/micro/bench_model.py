"""Believing, imagining, planning and learning, at default shapes and wide ones."""

from __future__ import annotations

from typing import Any

import pytest
from benchmarks.speed import SHAPES, Shape, prepare

from bb_wm.rssm import WorldModel


@pytest.fixture(params=["default", "wide"])
def shape(request: pytest.FixtureRequest) -> Shape:
    """h 128 with 10 numbers seen and 2 done; h 256 with z 32 x 32, 24 seen and 6 done."""
    return SHAPES[request.param]


@pytest.fixture
def model(shape: Shape) -> WorldModel:
    return shape.model()


@pytest.fixture
def row(shape: Shape) -> dict[str, Any]:
    """One row of every sequence of a batch: 16 by default, 256 wide."""
    data = shape.data()
    return {"obs": data["obs"][:, 0], "action": data["action"][:, 0]}


def bench_encode(benchmark: Any, model: WorldModel, row: dict[str, Any]) -> None:
    """A fresh belief for every sequence."""
    benchmark(model.encode, row["obs"])


def bench_belief_step(benchmark: Any, model: WorldModel, row: dict[str, Any]) -> None:
    """Every belief continued by what was done and what was then seen."""
    belief = model.encode(row["obs"])
    benchmark(model.encode, row["obs"], belief, row["action"])


@pytest.mark.parametrize("task", ["rollout", "plan", "decide", "update"])
def bench_task(benchmark: Any, shape: Shape, task: str) -> None:
    """1024 starts x 15 rows; CEM 256 x 10 x 4; one decision 64 x 12; 16 x 32 or 256 x 16 rows."""
    benchmark(prepare(shape, task))
