"""Filtering: rows of a batch are independent, resets isolate, nothing looks ahead."""

from __future__ import annotations

import pytest
import torch
from tests.model.builders import IDS, PAIRS, small_batch, small_network, small_noise

from bb_wm.model.cores import Core
from bb_wm.model.dynamics import Filtered
from bb_wm.model.modalities import Vector
from bb_wm.model.network import Network
from bb_wm.model.stochastic import Stochastic
from bb_wm.types import Batch, Latent

every_pair = pytest.mark.parametrize(("core", "family"), PAIRS, ids=IDS)


def walk(network: Network, batch: Batch, noise: torch.Tensor) -> Filtered:
    sight = network.rssm.look(batch.obs)
    return network.rssm.filter(sight, batch.action, batch.is_first, noise)


@every_pair
def test_rows_of_a_batch_are_independent(core: Core, family: Stochastic) -> None:
    network, batch = small_network(core, family, double=True), small_batch(double=True)
    noise = small_noise(network, batch).filter
    whole = walk(network, batch, noise)
    for row in range(4):
        one = batch.map(lambda t, row=row: t[row : row + 1])  # type: ignore[misc]
        alone = walk(network, one, noise[row : row + 1])
        torch.testing.assert_close(alone.h[0], whole.h[row], atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(alone.z[0], whole.z[row], atol=1e-12, rtol=1e-12)


@every_pair
def test_nothing_before_a_reset_reaches_past_it(core: Core, family: Stochastic) -> None:
    """By value: a sequence with a reset at row 4 goes on as a fresh one. By gradient: exactly 0."""
    network, batch = small_network(core, family, double=True), small_batch(double=True)
    batch.is_first[:, 4] = True
    noise = small_noise(network, batch).filter
    whole = walk(network, batch, noise)
    fresh = walk(network, batch.map(lambda t: t[:, 4:]), noise[:, 4:])
    torch.testing.assert_close(fresh.h, whole.h[:, 4:], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(fresh.prior, whole.prior[:, 4:], atol=1e-12, rtol=1e-12)

    obs, action = batch.obs["obs"].requires_grad_(), batch.action.requires_grad_()
    after = walk(network, batch, noise)
    out = (
        after.h[:, 4:].sum() + after.posterior[:, 4:].sum() + after.memories[-1][..., -4:, :].sum()
    )
    by_obs, by_action = torch.autograd.grad(out, (obs, action))
    assert bool((by_obs[:, :4] == 0).all())
    assert bool((by_action[:, :4] == 0).all())
    assert bool((by_obs[:, 4:7].abs().sum(-1) > 0).all())


@every_pair
def test_nothing_looks_ahead(core: Core, family: Stochastic) -> None:
    """Row t knows obs up to t and actions up to t - 1: its own action leads to the next row."""
    network, batch = small_network(core, family, double=True), small_batch(double=True)
    obs, action = batch.obs["obs"].requires_grad_(), batch.action.requires_grad_()
    out = walk(network, batch, small_noise(network, batch).filter)
    for t in range(8):
        parts = out.posterior[:, t].sum() + out.h[:, t].sum() + out.prior[:, t].sum()
        by_obs, by_action = torch.autograd.grad(
            parts, (obs, action), retain_graph=True, allow_unused=True
        )
        assert bool((by_obs[:, t + 1 :] == 0).all())
        if by_action is not None:  # row 0 depends on no action at all
            assert bool((by_action[:, t:] == 0).all())
            assert bool((by_action[:, :t].abs().sum(-1) > 0).all())


@every_pair
def test_the_prior_does_not_see_its_own_row(core: Core, family: Stochastic) -> None:
    network, batch = small_network(core, family), small_batch()
    noise = small_noise(network, batch).filter
    before = walk(network, batch, noise).prior[:, 5]
    batch.obs["obs"][:, 5] += 3.0
    torch.testing.assert_close(walk(network, batch, noise).prior[:, 5], before, atol=0, rtol=0)


@every_pair
def test_a_step_with_the_truth_read_in_is_the_filter(core: Core, family: Stochastic) -> None:
    """advance + read, one row at a time, gives what filter gives."""
    network, batch = small_network(core, family, double=True), small_batch(double=True)
    rssm = network.rssm
    sight = rssm.look(batch.obs)
    whole = rssm.filter(sight, batch.action, batch.is_first, None)
    latent: Latent = rssm.empty((4,))
    projected = torch.zeros_like(rssm.core.project(batch.action[:, 0]))
    for t in range(8):
        h, memory = rssm.advance(latent, projected)
        latent = rssm.read(Latent(h, latent.z, memory, sight[:, t]), sight[:, t])
        torch.testing.assert_close(latent.h, whole.h[:, t], atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(latent.z, whole.z[:, t], atol=1e-12, rtol=1e-12)
        projected = rssm.core.project(rssm.scale_action(batch.action[:, t]))


@every_pair
def test_what_memory_adds_is_weighed_in_beliefs_and_whole_in_learning(
    core: Core, family: Stochastic
) -> None:
    network, batch = small_network(core, family), small_batch()
    rssm = network.rssm
    torch.nn.init.normal_(rssm.direct.output.weight)
    start = walk(network, batch, small_noise(network, batch).filter).row(3)
    action = batch.action[:, 0]
    whole, _ = rssm.shortcut_step(start, action, learning=True)
    assert torch.equal(rssm.shortcut_step(start, action)[0].sight, whole.sight)
    free = rssm.memory_share.free
    rssm.memory_share.value[free] = 0.0
    alone = rssm.shortcut_step(start, action)[0].sight
    scaled = rssm.scale_action(action)
    expected = rssm.advance_sight(start.sight, rssm.guess(start.sight, scaled))
    assert torch.equal(alone[:, free], expected[:, free])
    assert not torch.equal(alone[:, free], whole.sight[:, free])
    # Choices have nothing in between.
    assert torch.equal(alone[:, ~free], whole.sight[:, ~free])
    assert torch.equal(rssm.shortcut_step(start, action, learning=True)[0].sight, whole.sight)


def test_h_learns_from_memorys_part_as_far_as_it_comes_true() -> None:
    network, batch = small_network(*PAIRS[0], double=True), small_batch(double=True)
    rssm = network.rssm
    torch.nn.init.normal_(rssm.direct.output.weight)
    latent = walk(network, batch, small_noise(network, batch).filter).row(3).detach()
    h, scaled = latent.h.requires_grad_(), rssm.scale_action(batch.action[:, 0])

    def slopes() -> tuple[torch.Tensor, ...]:
        said = rssm.predict_sight(h, latent.sight, scaled)[1].square().sum()
        return torch.autograd.grad(said, [h, *rssm.direct.parameters()])

    by_h, *whole = slopes()
    rssm.memory_share.value.fill_(0.25)
    shared, *same = slopes()
    torch.testing.assert_close(shared, 0.25 * by_h)
    torch.testing.assert_close(same, whole)
    # What is imagined has its own gradient, whole: of the raw output no share is taken there.
    foreseen = rssm.foresee(h, latent.sight, scaled)[1].square().sum()
    torch.testing.assert_close(torch.autograd.grad(foreseen, h)[0], by_h)


@every_pair
def test_the_shortcut_never_asks_the_prior(core: Core, family: Stochastic) -> None:
    network, batch = small_network(core, family), small_batch()
    walked = walk(network, batch, small_noise(network, batch).filter)
    action = batch.action[:, 0]
    latent, _ = network.rssm.shortcut_step(walked.row(3), action)
    for parameter in network.rssm.prior_net.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    again, _ = network.rssm.shortcut_step(walked.row(3), action)
    assert bool(torch.isfinite(again.h).all())
    torch.testing.assert_close(again.sight, latent.sight, atol=0, rtol=0)


def test_actions_enter_scaled_to_their_box() -> None:
    from gymnasium.spaces import Box, Dict, Discrete
    from tests.model.builders import small_config

    from bb_wm.rssm.build import build_network
    from bb_wm.types import ActionSpec, ObsSpec

    spec = ActionSpec.of(Dict({"a": Box(0.0, 10.0, (2,)), "k": Discrete(3)}))
    network = build_network(ObsSpec.of(3), spec, small_config(*PAIRS[0]))
    flat = torch.tensor([0.0, 10.0, 0.0, 1.0, 0.0])
    expected = torch.tensor([-1.0, 1.0, 0.0, 1.0, 0.0])
    torch.testing.assert_close(network.rssm.scale_action(flat), expected)


@every_pair
def test_what_is_foretold_cannot_run_away(core: Core, family: Stochastic) -> None:
    """A foretold sight is fed back: it stays where rows ever were, and a bit."""
    network = small_network(core, family, double=True)
    rssm = network.rssm
    vector = next(run.modality for run in rssm.runs if isinstance(run.modality, Vector))
    rows = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    vector.rows.update(rows[:, None].expand(3, vector.sight_size))
    far = torch.full((2, rssm.sight_size), 50.0, dtype=torch.float64)
    settled = vector.show(rssm.settle_sight(far)[..., : vector.sight_size])
    torch.testing.assert_close(settled, torch.full_like(settled, 1.5))  # 1 and a quarter of 2
    assert torch.equal(rssm.settle_sight(0.0 * far), 0.0 * far)
