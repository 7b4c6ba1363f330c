"""Several choices at once against each by itself."""

from __future__ import annotations

import pytest
import torch
from gymnasium import spaces
from tests.model.builders import PAIRS, small_config
from torch.nn import functional as F

from bb_wm.model import choices as of_choices
from bb_wm.model.choices import Choices, hot_of_level, hot_of_max, mixed_kl
from bb_wm.model.heads import beside_trunk, side_by_side
from bb_wm.model.nets import MLP
from bb_wm.rssm.build import build_network
from bb_wm.types import ActionSpec, Latent, ObsSpec

every_shape = pytest.mark.parametrize("classes", [(3,), (4, 4, 4), (2, 5, 3)], ids=str)


def draw(classes: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 2, sum(classes), generator=generator, dtype=torch.float64)
    index = [torch.randint(n, (6, 2), generator=generator) for n in classes]
    return logits.requires_grad_(), torch.stack(index, dim=-1)


@every_shape
def test_one_hots_and_cross_entropy(classes: tuple[int, ...]) -> None:
    choices, (logits, index) = Choices(classes), draw(classes)
    hots = choices.one_hot(index).double()
    parts = [F.one_hot(index[..., i], n) for i, n in enumerate(classes)]
    assert torch.equal(hots, torch.cat(parts, dim=-1).double())
    assert torch.equal(choices.index_of(hots), index)
    mine = choices.cross_entropy(logits, hots)
    pieces = torch.split(logits, list(classes), dim=-1)
    each = [
        F.cross_entropy(piece.movedim(-1, 1), index[..., i], reduction="none")
        for i, piece in enumerate(pieces)
    ]
    theirs = torch.stack(each).sum(0)
    torch.testing.assert_close(mine, theirs)
    slope = torch.linspace(1.0, 2.0, 12, dtype=torch.float64).reshape(6, 2)
    (by_mine,) = torch.autograd.grad(mine, logits, slope)
    (by_theirs,) = torch.autograd.grad(theirs, logits, slope)
    torch.testing.assert_close(by_mine, by_theirs)
    assert torch.autograd.gradcheck(lambda x: choices.cross_entropy(x, hots), logits)


@every_shape
def test_hard_choices_have_the_softmaxs_gradient(classes: tuple[int, ...]) -> None:
    choices, (logits, _) = Choices(classes), draw(classes)
    hard = choices.hard(logits)
    assert torch.equal(choices.one_hot(choices.index_of(logits)).double(), hard)
    slope = torch.randn(hard.shape, dtype=torch.float64)
    soft = torch.cat([p.softmax(-1) for p in torch.split(logits, list(classes), dim=-1)], dim=-1)
    (mine,) = torch.autograd.grad(hard, logits, slope)
    (theirs,) = torch.autograd.grad(soft, logits, slope)
    torch.testing.assert_close(mine, theirs)


def test_among_equals_the_first_is_taken() -> None:
    values = torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0], [3.0, 1.0, 2.0]])
    assert hot_of_max(values).argmax(-1).tolist() == [1, 0, 0]
    assert hot_of_max(values).sum(-1).tolist() == [1.0, 1.0, 1.0]


def test_what_is_no_number_still_gives_one_class() -> None:
    values = torch.tensor([[1.0, float("nan"), 2.0], [0.0, 5.0, 1.0]])
    assert hot_of_max(values).sum(-1).tolist() == [1.0, 1.0]
    assert hot_of_max(values)[1].tolist() == [0.0, 1.0, 0.0]


def test_a_level_falls_into_its_share() -> None:
    probs = torch.tensor([0.25, 0.25, 0.5]).expand(5, 3)
    level = torch.tensor([[0.1], [0.25], [0.26], [0.9], [1.5]])
    hot = hot_of_level(probs, level)
    assert hot.argmax(-1).tolist() == [0, 0, 1, 2, 2]
    assert hot.sum(-1).tolist() == [1.0] * 5


def test_neighbouring_discrete_keys_are_seen_as_each_by_itself() -> None:
    obs_space = spaces.Dict(
        {
            "a": spaces.Discrete(3),
            "b": spaces.MultiDiscrete([4, 2]),
            "c": spaces.Box(-1.0, 1.0, (2,)),
            "d": spaces.Discrete(5),
        }
    )
    spec = ObsSpec.of(obs_space)
    rssm = build_network(spec, ActionSpec.of(2), small_config(*PAIRS[0])).rssm
    assert [run.keys for run in rssm.runs] == [("a", "b"), ("c",), ("d",)]
    obs = {
        "a": torch.randint(3, (5, 1)),
        "b": torch.stack([torch.randint(4, (5,)), torch.randint(2, (5,))], dim=-1),
        "c": torch.randn(5, 2),
        "d": torch.randint(5, (5, 1)),
    }
    latent = Latent(torch.randn(5, 16), torch.randn(5, 4), torch.zeros(5, 0, 0), rssm.look(obs))
    trunk = rssm.decode_trunk(torch.cat([latent.h, latent.z], dim=-1))
    total = torch.zeros(5)
    for i, key in enumerate(rssm.keys):
        modality = rssm.modality(i)
        error = modality.error(modality.head(trunk), modality.look(obs[key]))
        total = total - modality.nll(error.unsqueeze(-2), "decode", 0).squeeze(-1)
        decoded = modality.decode(modality.head(trunk))
        torch.testing.assert_close(rssm.decode(latent)[key], decoded)
        torch.testing.assert_close(rssm.show(latent)[key], obs[key])
    torch.testing.assert_close(rssm.log_likelihood(latent, obs), total)
    parts = [rssm.log_likelihood(latent, {key: value}) for key, value in obs.items()]
    torch.testing.assert_close(torch.stack(parts).sum(0), total)
    names = [name for name, _ in rssm.named_parameters() if name.startswith("modalities")]
    assert names == [f"modalities.{i}.head.{kind}" for i in range(4) for kind in ("weight", "bias")]


def test_heads_side_by_side_are_the_heads() -> None:
    nets = [MLP(7, 1, hidden=5, layers=1) for _ in range(3)]
    x = torch.randn(4, 3, 7)
    expected = torch.cat([net(x) for net in nets], dim=-1)
    torch.testing.assert_close(side_by_side(nets, x[..., :4], x[..., 4:], None), expected)


def test_heads_beside_the_trunk_are_heads_and_trunk() -> None:
    trunk = MLP(7, 4, hidden=6, layers=2)
    nets = [MLP(7, 1, hidden=5, layers=1) for _ in range(3)]
    x = torch.randn(4, 3, 7)
    paths = [torch.randn(2, 7), torch.randn(3, 7)]
    read, outcomes, beside = beside_trunk(trunk, nets, paths, x[..., :4], x[..., 4:], None)
    torch.testing.assert_close(read, trunk(x))
    torch.testing.assert_close(beside, [x @ path.t() for path in paths])
    torch.testing.assert_close(outcomes, side_by_side(nets, x[..., :4], x[..., 4:], None))


@pytest.mark.parametrize("block", [1, 20, 2**17])
def test_mixed_divergence_is_autograds(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_choices, "_BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    q, p, slope = (
        torch.randn(*size, generator=generator, dtype=torch.float64)
        for size in [(3, 5, 4), (3, 5, 4), (3, 5)]
    )
    q, p = (3.0 * q).requires_grad_(), (3.0 * p).requires_grad_()

    def plain(q: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        a, b = (0.9 * x.softmax(-1) + 0.1 / 4 for x in (q, p))
        return (a * (a.log() - b.log())).sum(-1)

    found, expected = mixed_kl(q, p, 0.1), plain(q, p)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    for mine, theirs in zip(
        torch.autograd.grad(found, (q, p), slope),
        torch.autograd.grad(expected, (q, p), slope),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    held = mixed_kl(q.detach(), p, 0.1)
    assert torch.autograd.grad(held, p, slope)[0].shape == p.shape
