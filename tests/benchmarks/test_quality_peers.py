"""The peers are what they say: by hand, by torch's own distributions, by what they learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from benchmarks.peers import (
    TRAINED,
    AutoregressiveGRU,
    ConsistentLatent,
    DeltaEnsemble,
    DreamerRSSM,
    Effort,
)
from benchmarks.peers.base import _average
from benchmarks.peers.delta_ensemble import MEMBERS, _Members
from benchmarks.peers.rssm import (
    CLASSES,
    UNIMIX,
    VARIABLES,
    bins,
    divergence,
    draw_code,
    gumbel,
    probabilities,
    symexp,
    symlog,
    two_hot,
)
from benchmarks.peers.tdmpc import BINS, ENCODER_SHARE, SIMPLEX, SLOW, simplices
from tests.diagnose.helpers import linear_episodes

from bb_wm.diagnose import evaluate_predictors
from bb_wm.types import ActionSpec, ObsSpec

SPECS = ObsSpec.of(2), ActionSpec.of(2)
SMALL = Effort(updates=3, sequences=4, length=12)


def _asked(episodes, rows: int = 10, steps: int = 6):
    obs = {"obs": np.stack([e.obs["obs"][:rows] for e in episodes])}
    action = np.stack([e.action for e in episodes])
    return obs, action[:, : rows - 1], action[:, rows - 1 : rows - 1 + steps]


@pytest.mark.parametrize("name", TRAINED)
def test_a_prediction_uses_no_row_after_its_own_and_no_action_after_it(name):
    episodes = linear_episodes(6, 40, 0)
    peer = TRAINED[name](*SPECS, SMALL).fit(episodes)
    obs, past, future = _asked(episodes)
    reward = np.zeros(obs["obs"].shape[:2], np.float32)
    before = peer.predict(obs, past, reward, future)
    assert before.obs["obs"].shape == (6, 6, 2)
    assert before.reward.shape == (6, 6)
    later = future.copy()
    later[:, 3] += 1.0  # leads from row 3 to row 4 of the prediction
    after = peer.predict(obs, past, reward, later)
    np.testing.assert_array_equal(before.obs["obs"][:, :3], after.obs["obs"][:, :3])
    assert not np.allclose(before.obs["obs"][:, 3], after.obs["obs"][:, 3])


@pytest.mark.parametrize("name", [name for name, kind in TRAINED.items() if kind.has_spread])
def test_samples_are_drawn_by_their_seed_and_windows_do_not_mix(name):
    episodes = linear_episodes(6, 40, 0)
    peer = TRAINED[name](*SPECS, SMALL).fit(episodes)
    obs, past, future = _asked(episodes)
    state = torch.get_rng_state()
    first, again, other = (
        peer.sample(obs, past, future, count=16, seed=seed)["obs"] for seed in (1, 1, 2)
    )
    assert torch.equal(state, torch.get_rng_state())
    assert first.shape == (6, 16, 6, 2)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert (first.std(axis=1) > 0).any()
    # Around each window's own prediction, not a neighbour's.
    guess = peer.predict(obs, past, np.zeros(obs["obs"].shape[:2]), future).obs["obs"]
    if name != "rssm":  # which has learnt nothing yet
        mine = np.abs(first.mean(axis=1) - guess)[:, 0].sum()
        theirs = np.abs(first.mean(axis=1) - np.roll(guess, 1, axis=0))[:, 0].sum()
        assert mine < theirs


def test_the_ensemble_learns_a_noisy_linear_law_and_its_noise():
    episodes = linear_episodes(40, 50, 0, noise=0.3)
    effort = Effort(updates=200, rate=3e-3, sequences=8, length=16)
    peer = DeltaEnsemble(*SPECS, effort).fit(episodes)
    obs, past, future = _asked(linear_episodes(200, 20, 5, noise=0.3), steps=1)
    samples = peer.sample(obs, past, future, count=40, seed=0)["obs"]
    assert samples[:, :, 0].std(axis=1).mean() == pytest.approx(0.3, rel=0.2)
    result = evaluate_predictors(SPECS[0], [peer], linear_episodes(5, 50, 1))
    assert result.nrmse(peer.name, 1) < 0.1


def test_members_of_the_ensemble_are_independent_and_their_variance_bounded():
    torch.manual_seed(0)
    net = _Members(3, 2)
    x = torch.randn(MEMBERS, 7, 3)
    mean, log_variance = (law.detach() for law in net(1e3 * x))
    assert float(log_variance.max()) <= 0.5 + 1e-3
    assert float(log_variance.min()) >= -10.0 - 1e-3
    other = x.clone()
    other[2] += 1.0
    changed = (net(x)[0] != net(other)[0]).any(dim=-1).any(dim=-1)
    assert changed.tolist() == [False, False, True, False, False]
    by_hand = x[1]
    for i, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True)):
        by_hand = by_hand @ weight[1] + bias[1]
        by_hand = torch.nn.functional.silu(by_hand) if i < len(net.weights) - 1 else by_hand
    torch.testing.assert_close(net(x)[0][1], by_hand[:, :2])
    assert mean.shape == (MEMBERS, 7, 2)


def test_the_gru_remembers_what_the_ensemble_cannot():
    effort = Effort(updates=150, rate=3e-3, sequences=8, length=16)
    training, held = linear_episodes(40, 50, 0, delay=2), linear_episodes(6, 50, 1, delay=2)
    peers = [kind(*SPECS, effort).fit(training) for kind in (AutoregressiveGRU, DeltaEnsemble)]
    result = evaluate_predictors(SPECS[0], peers, held)
    gru, ensemble = (result.nrmse(peer.name, 1) for peer in peers)
    assert gru < 0.6 * ensemble


def test_the_steps_of_the_gru_are_those_of_its_reading():
    peer = AutoregressiveGRU(*SPECS, SMALL).fit(linear_episodes(6, 40, 0))
    inputs = torch.randn(3, 5, 4)
    with torch.no_grad():
        whole = peer.net.read(inputs)
        hidden = torch.zeros(3, whole.shape[-1])
        for t in range(5):
            hidden = peer.net.step(inputs[:, t], hidden)
            torch.testing.assert_close(hidden, whole[:, t])


# --- the RSSM -------------------------------------------------------------------------------------


def test_divergence_is_torchs_own_of_mixed_categoricals():
    torch.manual_seed(0)
    logits = 5 * torch.randn(2, 4, VARIABLES * CLASSES)
    p, q = probabilities(logits[0]), probabilities(logits[1])
    assert float(p.min()) >= UNIMIX / CLASSES * (1 - 1e-6)
    torch.testing.assert_close(p.sum(-1), torch.ones(4, VARIABLES))
    laws = [torch.distributions.Categorical(probs=x) for x in (p, q)]
    torch.testing.assert_close(divergence(p, q), torch.distributions.kl_divergence(*laws).sum(-1))


def test_a_nat_is_free_on_each_side_and_the_sides_are_balanced():
    near = torch.zeros(1, VARIABLES * CLASSES)
    far = near.clone()
    far[..., ::CLASSES] = 6.0
    p, q = probabilities(near), probabilities(far)
    assert DreamerRSSM._divergences(p, p).item() == pytest.approx(1.1)
    apart = divergence(q, p).item()
    assert apart > 1
    assert DreamerRSSM._divergences(q, p).item() == pytest.approx(1.1 * apart)
    prior = near.clone().requires_grad_()
    posterior = far.clone().requires_grad_()
    DreamerRSSM._divergences(probabilities(posterior), probabilities(prior)).sum().backward()
    alone = prior.detach().clone().requires_grad_()
    divergence(probabilities(far), probabilities(alone)).sum().backward()
    torch.testing.assert_close(prior.grad, alone.grad)  # weight 1.0
    own = far.clone().requires_grad_()
    divergence(probabilities(own), probabilities(near)).sum().backward()
    torch.testing.assert_close(posterior.grad, 0.1 * own.grad)


def test_codes_are_drawn_by_their_probabilities_and_pass_gradients_through():
    torch.manual_seed(0)
    logits = torch.zeros(VARIABLES * CLASSES)
    logits[0] = 2.0
    p = probabilities(logits).expand(4_000, -1, -1)
    code = draw_code(p, gumbel(*p.shape)).view(4_000, VARIABLES, CLASSES)
    torch.testing.assert_close(code.sum(-1), torch.ones(4_000, VARIABLES))
    assert code[:, 0, 0].mean().item() == pytest.approx(p[0, 0, 0].item(), abs=0.03)
    likeliest = draw_code(p[:1], None).view(VARIABLES, CLASSES)
    assert likeliest[0, 0] == 1
    free = p[:1].clone().requires_grad_()
    (draw_code(free, None) * torch.arange(VARIABLES * CLASSES)).sum().backward()
    torch.testing.assert_close(
        free.grad.flatten(), torch.arange(VARIABLES * CLASSES, dtype=torch.float32)
    )


def test_symlog_and_two_hot_by_hand():
    x = torch.tensor([-50.0, -0.1, 0.0, 3.0, 1e4])
    torch.testing.assert_close(symexp(symlog(x)), x)
    assert symlog(torch.tensor(np.e - 1)).item() == pytest.approx(1.0)
    edges = torch.tensor([-1.0, 0.0, 2.0])
    weights = two_hot(torch.tensor([0.5, -1.0, 2.0, 9.0]), edges)
    expected = [[0, 0.75, 0.25], [1, 0, 0], [0, 0, 1], [0, 0, 1]]
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float32))
    assert (bins() == -bins().flip(0)).all()
    torch.testing.assert_close(
        two_hot(torch.tensor([-0.3, 1.7]), edges) @ edges, torch.tensor([-0.3, 1.7])
    )


def test_the_rssm_learns_to_tell_rows_apart():
    episodes = linear_episodes(40, 50, 0)
    effort = Effort(updates=120, rate=3e-3, sequences=8, length=16)
    peer = DreamerRSSM(*SPECS, effort).fit(episodes)
    peer.reading = peer.readings[1]
    result = evaluate_predictors(SPECS[0], [peer], linear_episodes(6, 50, 1), windows=100)
    assert result.nrmse(peer.name, 1) < 0.75


# --- TD-MPC2's latent -----------------------------------------------------------------------------


def test_simplices_add_up_to_one_each():
    torch.manual_seed(0)
    latent = simplices(3 * torch.randn(5, 2 * SIMPLEX))
    torch.testing.assert_close(latent.view(5, 2, SIMPLEX).sum(-1), torch.ones(5, 2))
    assert float(latent.min()) > 0


def test_the_latent_learns_a_law_it_is_never_asked_to_decode():
    effort = Effort(updates=150, rate=1e-3, sequences=8, length=16)
    training, held = linear_episodes(40, 50, 0), linear_episodes(6, 50, 1)
    peers = [ConsistentLatent(*SPECS, e).fit(training) for e in (SMALL, effort)]
    early, late = (
        evaluate_predictors(SPECS[0], [peer], held, windows=100).nrmse(peer.name, 5)
        for peer in peers
    )
    assert late < 0.3 < early


def test_the_encoder_learns_at_its_share_of_the_rate_and_the_slow_value_by_following():
    peer = ConsistentLatent(*SPECS, SMALL)
    peer.net = peer._build()
    groups = peer._shares()
    assert [share for _, share in groups] == [ENCODER_SHARE, 1.0]
    learning = {id(p) for group, _ in groups for p in group}
    slow = {id(p) for p in peer.net.slow.parameters()}
    assert learning | slow == {id(p) for p in peer.net.parameters()}
    assert not learning & slow
    with torch.no_grad():
        peer.net.value[-1].bias += 1.0
    peer.net.follow()
    torch.testing.assert_close(peer.net.slow[-1].bias, torch.full((BINS,), SLOW))


def test_averages_follow_at_once_and_remember_later():
    kept, new = [torch.zeros(1)], [torch.ones(1)]
    _average(kept, new, 1)
    assert kept[0].item() == pytest.approx(1 - 2 / 11)
    kept = [torch.zeros(1)]
    _average(kept, new, torch.tensor(100_000))
    assert kept[0].item() == pytest.approx(0.002)
