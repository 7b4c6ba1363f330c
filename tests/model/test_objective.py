"""The objective: parts add up, masks hold, terms react to what they should react to."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tests.model.builders import IDS, PAIRS, small_batch, small_network, small_noise

from bb_wm.errors import ConfigError
from bb_wm.model.cores import Core
from bb_wm.model.dynamics import Filtered
from bb_wm.model.losses import LossTerms, balanced_kl, free_nats, past_the_end, reachable
from bb_wm.model.network import OUTCOMES, Network
from bb_wm.model.objective import Objective, evaluate_terms
from bb_wm.model.stochastic import Gaussian, Stochastic
from bb_wm.types import Batch

every_pair = pytest.mark.parametrize(("core", "family"), PAIRS, ids=IDS)
DEFAULT = Objective(steps=3, starts=2)


def terms_of(
    network: Network, batch: Batch, objective: Objective = DEFAULT, *, updates: int = 10_000
) -> LossTerms:
    noise = small_noise(network, batch)
    return evaluate_terms(network, batch, objective, noise, updates=updates, track=False)


def test_reachable_by_hand() -> None:
    valid = torch.tensor([[True] * 6, [True, True, True, True, False, False]])
    first = torch.zeros(2, 6, dtype=torch.bool)
    first[0, 3] = True
    got = reachable(valid, first, torch.tensor([0, 3, 4]), 3)
    yes, no = True, False
    assert got.tolist() == [
        [[yes, yes, no], [yes, yes, no], [yes, no, no]],
        [[yes, yes, yes], [no, no, no], [no, no, no]],
    ]


def test_past_the_end_by_hand() -> None:
    yes, no = True, False
    valid = torch.tensor([[yes] * 6, [yes, yes, yes, yes, no, no]])
    first = torch.zeros(2, 6, dtype=torch.bool)
    first[0, 3] = True
    ended = torch.zeros(2, 6, dtype=torch.bool)
    ended[0, 2] = ended[1, 3] = True  # one before a reset, one before padding
    got = past_the_end(valid, first, ended, torch.tensor([0, 3, 4]), 3)
    assert got.tolist() == [
        [[no, no, yes], [no, no, no], [no, no, no]],
        [[no, no, no], [yes, yes, yes], [no, no, no]],
    ]


def test_past_the_end_only_continuation_is_taught_with_the_last_action_held() -> None:
    network, batch = small_network(*PAIRS[0]), small_batch()
    batch.terminated[:, 1] = True  # padding follows; starts are rows 0 and 2
    batch.valid[:, 2:] = False
    batch.is_first[:, 1:] = False
    with torch.no_grad():  # the output layers begin at zero and would let no slope through
        for head in (network.continuation.net, network.reward.net):
            head.output.weight.normal_(generator=torch.Generator().manual_seed(0))

    def slopes(objective: Objective) -> torch.Tensor:
        terms = terms_of(network, batch, objective)
        return torch.autograd.grad(terms.rollout, network.continuation.net.output.bias)[0]

    taught = slopes(DEFAULT)
    batch.terminated[:, 1] = False  # the same rows, cut off instead of ended
    assert not torch.allclose(taught, slopes(DEFAULT))
    batch.terminated[:, 1] = True
    value = terms_of(network, batch).rollout
    batch.action[:, 1:] = 7.0  # actions of rows at and after the end were never done
    batch.reward[:, 2:] = 7.0
    torch.testing.assert_close(terms_of(network, batch).rollout, value)


def test_balanced_kl_splits_the_gradient_and_free_nats_stop_it() -> None:
    family = Gaussian(2)
    q = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    p = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    plain_q, plain_p = torch.autograd.grad(family.kl(q, p).sum(), (q, p))
    balanced = balanced_kl(family, q, p, dynamics=1.0, representation=0.1)
    by_q, by_p = torch.autograd.grad(balanced.sum(), (q, p))
    torch.testing.assert_close(by_q, 0.1 * plain_q)
    torch.testing.assert_close(by_p, plain_p)
    torch.testing.assert_close(balanced, 1.1 * family.kl(q, p))
    kl = torch.tensor([0.2, 3.0], requires_grad=True)
    kept = free_nats(kl, 0.5)
    assert kept.tolist() == [0.5, 3.0]
    assert torch.autograd.grad(kept.sum(), kl)[0].tolist() == [0.0, 1.0]


def test_free_nats_are_annealed_from_one() -> None:
    objective = Objective(free=0.1, free_updates=100)
    assert objective.free_at(0) == pytest.approx(1.0)
    assert objective.free_at(50) == pytest.approx(0.55)
    assert objective.free_at(100) == objective.free_at(10**6) == pytest.approx(0.1)
    assert Objective.plain().free_at(0) == 0.0


@every_pair
def test_the_total_is_the_weighted_sum(core: Core, family: Stochastic) -> None:
    network, batch = small_network(core, family), small_batch()
    objective = replace(DEFAULT, beta=0.7, reward=2.0, safety=3.0, continuation=0.5, shortcut=0.3)
    terms = terms_of(network, batch, objective)
    expected = (
        terms.reconstruction
        + 0.7 * terms.kl
        + 2.0 * terms.reward
        + 3.0 * terms.safety
        + 0.5 * terms.continuation
        + terms.rollout
        + 0.3 * terms.shortcut
    )
    torch.testing.assert_close(terms.total, expected)
    assert all(math.isfinite(getattr(terms, name).item()) for name in terms.__slots__)


@pytest.mark.parametrize(
    "silent", [["safety"], ["reward", "continuation"], list(OUTCOMES)], ids=str
)
def test_a_head_of_weight_0_is_not_computed_and_moves_no_other(silent: list[str]) -> None:
    network, batch = small_network(*PAIRS[0]), small_batch()
    whole = terms_of(network, batch)
    terms = terms_of(network, batch, replace(DEFAULT, **dict.fromkeys(silent, 0.0)))
    terms.total.backward()
    for name in ("reconstruction", "kl", "shortcut", *OUTCOMES):
        if name in silent:
            assert getattr(terms, name).item() == 0.0
        else:
            torch.testing.assert_close(getattr(terms, name), getattr(whole, name))
    for name in OUTCOMES:
        slopes = [parameter.grad for parameter in network.head(name).parameters()]
        assert all((slope is None) == (name in silent) for slope in slopes)


def test_the_plain_form_is_the_documents_sum() -> None:
    """l_rec + beta KL + l_reward + l_safety + l_rollout, with -log p and the plain KL."""
    network, batch = small_network(*PAIRS[0]), small_batch()
    plain = replace(Objective.plain(beta=0.5), steps=3, starts=2)
    terms = terms_of(network, batch, plain, updates=0)
    torch.testing.assert_close(terms.kl, terms.kl_raw)
    expected = (
        terms.reconstruction + 0.5 * terms.kl_raw + terms.reward + terms.safety + terms.rollout
    )
    torch.testing.assert_close(terms.total, expected + terms.continuation)
    walk = network.rssm.filter(
        network.rssm.look(batch.obs),
        batch.action,
        batch.is_first,
        small_noise(network, batch).filter,
    )
    features = torch.cat([walk.h, walk.z], -1)
    modality = network.rssm.modality(0)
    mean = modality.head(network.rssm.decode_trunk(features))
    nll = -torch.distributions.Normal(mean, 1.0).log_prob(batch.obs["obs"]).sum(-1).mean()
    torch.testing.assert_close(terms.reconstruction, nll)


@every_pair
def test_padding_changes_nothing(core: Core, family: Stochastic) -> None:
    network = small_network(core, family, double=True)
    batch = small_batch(rows=8, double=True)
    batch.valid[1, 5:] = False
    wild = batch.map(torch.clone)
    wild.obs["obs"][1, 5:] = 1e3
    wild.reward[1, 5:], wild.safety[1, 5:] = 1e3, 1e3
    wild.action[1, 5:] = 1e3
    a, b = terms_of(network, batch), terms_of(network, wild)
    for name in a.__slots__:
        torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=1e-12, rtol=1e-12)


@every_pair
def test_permuting_targets_between_rows_changes_the_loss(core: Core, family: Stochastic) -> None:
    """A silent broadcast would average over rows and not notice."""
    network, batch = small_network(core, family), small_batch()
    base = terms_of(network, batch)
    for field in ("reward", "safety"):
        moved = replace(batch, **{field: getattr(batch, field).flip(0)})
        assert not torch.isclose(getattr(terms_of(network, moved), field), getattr(base, field))
    ended = batch.terminated.clone()
    ended[0, -1] = True
    other = replace(batch, terminated=ended)
    assert not torch.isclose(terms_of(network, other).continuation, base.continuation)


@every_pair
def test_open_loop_terms_never_cross_a_reset(core: Core, family: Stochastic) -> None:
    """Starts at rows 0 and 2, three steps: with a reset at row 1 and 3 nothing is reachable."""
    network, batch = small_network(core, family), small_batch()
    batch.is_first[:, 1] = True
    batch.is_first[:, 3] = True
    terms = terms_of(network, batch)
    assert terms.rollout.item() == 0.0
    batch.is_first[:, 1] = False
    assert terms_of(network, batch).rollout.item() != 0.0


@every_pair
def test_every_parameter_learns_from_the_default_objective(core: Core, family: Stochastic) -> None:
    network, batch = small_network(core, family), small_batch()
    terms_of(network, batch).total.backward()
    silent = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not bool((parameter.grad != 0).any())
    ]
    assert silent == []


@every_pair
def test_a_past_that_is_forgotten_reaches_no_later_belief(core: Core, family: Stochastic) -> None:
    network, batch = small_network(core, family), small_batch()
    other = replace(batch, obs={"obs": batch.obs["obs"].clone()}, action=batch.action.clone())
    other.obs["obs"][:, :4] += 1.0
    other.action[:, :4] += 1.0
    noise = replace(small_noise(network, batch), forget=4)
    seen: list[Filtered] = []
    real = network.rssm.filter

    def spied(*given: torch.Tensor) -> Filtered:
        seen.append(real(*given))
        return seen[-1]

    network.rssm.filter = spied  # type: ignore[method-assign]
    for rows in (batch, other):
        evaluate_terms(network, rows, DEFAULT, noise, updates=0, track=False)
    for name in ("h", "z"):
        one, two = (getattr(walk, name) for walk in seen)
        assert torch.equal(one[:, 4:], two[:, 4:])
        assert not torch.allclose(one[:, 1:4], two[:, 1:4])


def test_a_forgotten_past_changes_beliefs_alone() -> None:
    """What a row leads to is still what it leads to; what its past earned is not asked of it."""
    network, batch = small_network(*PAIRS[0]), small_batch()
    noise = replace(small_noise(network, batch, starts=(2, 3)), forget=4)
    heard = batch.reward.clone()
    heard[:, 4] += 100.0
    terms = [
        evaluate_terms(network, rows, DEFAULT, noise, updates=0, track=False)
        for rows in (batch, replace(batch, reward=heard))
    ]
    assert torch.equal(terms[0].reward, terms[1].reward)
    moved = replace(batch, obs={"obs": batch.obs["obs"].clone()})
    moved.obs["obs"][:, 4] += 1.0  # two rows open loop from row 2
    found = evaluate_terms(network, moved, DEFAULT, noise, updates=0, track=False)
    assert not torch.equal(found.rollout, terms[0].rollout)
    assert not torch.equal(found.shortcut, terms[0].shortcut)


def test_tracking_uses_the_batchs_own_errors() -> None:
    network, batch = small_network(*PAIRS[0]), small_batch()
    noise = small_noise(network, batch)
    evaluate_terms(network, batch, DEFAULT, noise, updates=0, track=False)
    vector = network.rssm.modality(0)
    assert bool((vector.decode_scale.variance == 1).all())  # type: ignore[union-attr,operator]
    evaluate_terms(network, batch, DEFAULT, noise, updates=0, track=True)
    assert bool((vector.decode_scale.variance != 1).all())  # type: ignore[union-attr,operator]
    assert bool((vector.direct_scale.variance != 1).all())  # type: ignore[union-attr,operator]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beta", -1.0),
        ("beta", float("nan")),
        ("reward", float("inf")),
        ("steps", 0),
        ("starts", True),
        ("rollout", "1"),
        ("free", None),
        ("dynamics", None),
    ],
)
def test_bad_weights_are_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        Objective(**{name: value})  # type: ignore[arg-type]
    assert name in caught.value.field
