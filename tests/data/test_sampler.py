"""Sampled rows are the stored rows, episode after episode, every row about equally often."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.data.builders import OBS, discrete, make_episode, rich_obs

from bb_wm.data import EpisodeStore, SequenceSampler, as_batch
from bb_wm.errors import CheckpointError, ConfigError, DataError
from bb_wm.types import ActionSpec, Batch, Episode

ACTION = ActionSpec.of(2)


def numbered(lengths: list[int], first: int = 0, **options: Any) -> list[Episode]:
    """Episodes whose first observed number is 1000 * episode + row, so that a row can be named."""
    found = []
    for i, rows in enumerate(lengths, start=first):
        episode = make_episode(rows, seed=i, end=("terminated", "truncated")[i % 2], **options)
        key = "pos" if "pos" in episode.obs else "obs"
        episode.obs[key][:, 0] = 1000 * i + np.arange(rows)
        found.append(episode)
    return found


def store_of(episodes: list[Episode], path: Path | None = None) -> EpisodeStore:
    store = EpisodeStore(path, OBS, ACTION)
    store.append(episodes)
    return store


def check(batch: Batch, episodes: list[Episode], key: str = "obs") -> list[tuple[int, int]]:
    """Compare every row with the stored one, bit for bit; (episode, first row) per sequence."""
    names = batch.obs[key][..., 0].numpy().astype(int)
    assert batch.valid.all()
    for b in range(batch.shape[0]):
        named = [divmod(int(name), 1000) for name in names[b]]
        for t, (number, row) in enumerate(named):
            episode = episodes[number]
            assert bool(batch.is_first[b, t]) == (row == 0)
            if t:  # what follows is the next row, or another episode's first where this one ended
                before, last = named[t - 1]
                over = last == len(episodes[before]) - 1
                assert (number, row) == (before, last + 1) or (over and row == 0)
            for name, stored in episode.obs.items():
                sampled = batch.obs[name][b, t].numpy()
                assert sampled.dtype == stored.dtype
                assert sampled.tobytes() == stored[row].tobytes()
            for name in ("action", "reward", "safety"):
                sampled = getattr(batch, name)[b, t].numpy()
                assert sampled.tobytes() == getattr(episode, name)[row].tobytes()
            ended = row == len(episode) - 1 and episode.terminated
            assert bool(batch.terminated[b, t]) == ended
            if batch.action_mask is not None:
                mask = episode.action_mask
                wanted = np.ones(episode.action.shape[1:], bool) if mask is None else mask[row]
                assert batch.action_mask[b, t].tolist() == wanted.tolist()
    return [(int(name) // 1000, int(name) % 1000) for name in names[:, 0]]


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_hundred_thousand_sampled_rows_are_the_stored_ones(tmp_path: Path, on_disk: bool) -> None:
    held = numbered([5, 40, 8, 9, 2, 100])
    store = store_of(held, tmp_path / "s" if on_disk else None)
    sampler = SequenceSampler(store, batch_size=128, length=8, seed=1)
    seen: set[tuple[int, int]] = set()
    for _ in range(100):
        batch = sampler.sample()
        seen.update(check(batch, held))
        as_batch(batch, OBS, ACTION)
    assert seen == {
        (e, s) for e, rows in enumerate([5, 40, 8, 9, 2, 100]) for s in range(max(rows - 8, 0) + 1)
    }


def test_images_choices_and_masks_are_sampled_too() -> None:
    spec, action = rich_obs(), discrete(3)
    held = numbered([6, 4, 7], obs_spec=spec, action_spec=action)
    held += numbered([5, 9], 3, obs_spec=spec, action_spec=action, masked=True)
    held += numbered([5], 5, obs_spec=spec, action_spec=action)
    held[3].action_mask[1, :] = held[3].action[1] > 0  # type: ignore[index]
    store = EpisodeStore(None, spec, action)
    store.append(held[:2])
    sampler = SequenceSampler(store, batch_size=16, length=4)
    assert sampler.sample().action_mask is None
    store.append(held[2:])
    for _ in range(30):
        batch = sampler.sample()
        check(batch, held, "pos")
        as_batch(batch, spec, action, masked=True)


@given(st.integers(2, 9), st.lists(st.integers(2, 40), min_size=1, max_size=5))
def test_every_row_is_covered_evenly(length: int, lengths: list[int]) -> None:
    """Exact counts over all places a window can be laid, not a sample of them."""
    if sum(lengths) < length:
        return
    sampler = SequenceSampler(store_of(numbered(lengths)), batch_size=1, length=length)
    places = sum(rows + length - 1 for rows in lengths)
    draws: Counter[tuple[int, int]] = Counter()

    class Dice:
        """Every number once, in order."""

        def __init__(self) -> None:
            self.next = 0

        def integers(self, high: int, size: int) -> np.ndarray:
            assert high == places
            self.next += 1
            return np.array([self.next - 1])

    sampler._random = Dice()  # type: ignore[assignment]
    for _ in range(places):
        episode, start = sampler._draw()
        draws[int(episode[0]), int(start[0])] += 1
    for e, rows in enumerate(lengths):
        covered = np.zeros(rows, int)
        for (number, start), count in draws.items():
            if number == e:
                covered[start : start + length] += count
        assert covered.min() >= length, "no row less often than by laying windows evenly"
        if rows >= 2 * length:
            assert covered.max() <= 2 * length - 1
        else:
            assert covered.max() <= rows + length - 1
    assert sum(draws.values()) == places


def test_drawing_is_uniform_over_the_places() -> None:
    lengths, length = [3, 20], 6
    sampler = SequenceSampler(store_of(numbered(lengths)), batch_size=1000, length=length, seed=3)
    counts: Counter[tuple[int, int]] = Counter()
    for _ in range(60):
        episode, start = sampler._draw()
        counts.update(zip(episode.tolist(), start.tolist(), strict=True))
    want = {(0, 0): 8.0, (1, 0): 6.0, (1, 14): 6.0, **{(1, s): 1.0 for s in range(1, 14)}}
    assert counts.keys() == want.keys()
    total = sum(want.values())
    chi = sum((counts[k] - 60_000 * w / total) ** 2 / (60_000 * w / total) for k, w in want.items())
    assert chi < 37.7  # 0.1 % of chi-square with 15 degrees of freedom


def test_windows_of_short_episodes_are_filled_by_others_evenly() -> None:
    lengths, length = [3, 4, 2, 3], 40
    sampler = SequenceSampler(
        store_of(numbered([*lengths, 50])), batch_size=400, length=length, seed=2
    )
    counts: Counter[int] = Counter()
    for _ in range(30):
        batch = sampler.sample()
        names = batch.obs["obs"][..., 0].numpy().astype(int)
        firsts = batch.is_first.numpy()
        # The first is drawn by places and the last may be cut off: between them all are even.
        for b in range(400):
            begun = names[b, np.flatnonzero(firsts[b])] // 1000
            if begun.tolist() and begun[0] < 4:
                counts.update(begun[1:3].tolist())
    total = sum(counts.values())
    chi = sum((counts[e] - total / 5) ** 2 / (total / 5) for e in range(5))
    assert total > 5_000
    assert chi < 18.5  # 0.1 % of chi-square with 4 degrees of freedom


def equal(a: Batch, b: Batch) -> bool:
    names = ("action", "reward", "safety", "terminated", "is_first", "valid")
    return torch.equal(a.obs["obs"], b.obs["obs"]) and all(
        torch.equal(getattr(a, n), getattr(b, n)) for n in names
    )


@pytest.mark.parametrize("point", [0, 1, 7])
def test_resumed_equals_uninterrupted(tmp_path: Path, point: int) -> None:
    held = numbered([9, 30, 4, 12, 15])
    whole = store_of(held[:3])
    one = SequenceSampler(whole, batch_size=4, length=6, seed=5)
    for i in range(point):
        one.sample()
        if i == 3:
            whole.append(held[3:4])
    text = json.dumps(one.state_dict())
    want = [one.sample() for _ in range(3)]
    whole.append(held[4:])
    want += [one.sample() for _ in range(3)]

    known = held[:4] if point > 3 else held[:3]
    again = store_of([*known, *numbered([20], 8)], tmp_path / "s")  # and one that was never saved
    two = SequenceSampler(again, batch_size=4, length=6, seed=99)
    two.sample()
    state = json.loads(text)
    again.truncate(state["next_id"])
    two.load_state_dict(state)
    got = [two.sample() for _ in range(3)]
    again.append(held[4:])
    got += [two.sample() for _ in range(3)]
    assert all(equal(a, b) for a, b in zip(got, want, strict=True))


def test_seeds_decide_and_nothing_else() -> None:
    held = numbered([30, 20])
    torch.manual_seed(0)
    a = SequenceSampler(store_of(held), batch_size=8, length=5, seed=1)
    batches = [a.sample() for _ in range(3)]
    torch.manual_seed(1)
    np.random.seed(3)
    b = SequenceSampler(store_of(held), batch_size=8, length=5, seed=1)
    c = SequenceSampler(store_of(held), batch_size=8, length=5, seed=2)
    assert all(equal(x, b.sample()) for x in batches)
    assert not all(equal(x, c.sample()) for x in batches)


def test_a_state_of_another_sampler_is_refused() -> None:
    sampler = SequenceSampler(store_of(numbered([9, 9])), batch_size=4, length=6)
    state = sampler.state_dict()
    before = json.dumps(state)
    for change in (
        {"batch_size": 5},
        {"length": 7},
        {"next_id": 3},
        {"next_id": None},
        {"generator": None},
        {"generator": {**state["generator"], "bit_generator": "MT19937"}},
        {"generator": {**state["generator"], "state": {"state": -1, "inc": 1}}},
    ):
        with pytest.raises(CheckpointError):
            sampler.load_state_dict({**state, **change})
        assert json.dumps(sampler.state_dict()) == before
    with pytest.raises(CheckpointError):
        sampler.load_state_dict({})


def test_it_grows_with_the_store_and_forgets_with_it() -> None:
    held = numbered([8, 8, 8])
    store = store_of(held[:1])
    sampler = SequenceSampler(store, batch_size=64, length=4)
    assert {e for e, _ in check(sampler.sample(), held)} == {0}
    store.append(held[1:])
    assert {e for e, _ in check(sampler.sample(), held)} == {0, 1, 2}
    store.truncate(1)
    others = [held[0], *numbered([9, 9], 1)]
    store.append(others[1:])
    assert {e for e, _ in check(sampler.sample(), others)} == {0, 1, 2}
    assert (sampler.episodes, sampler.rows) == (3, 26)
    store.truncate(0)
    with pytest.raises(DataError):
        sampler.sample()


def test_damaged_chunks_are_not_sampled(tmp_path: Path) -> None:
    held = numbered([8, 8, 8])
    with EpisodeStore(tmp_path / "s", OBS, ACTION) as store:
        for episode in held:
            store.append([episode])
    victim = sorted((tmp_path / "s" / "chunks").iterdir())[1]
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    store = EpisodeStore(tmp_path / "s", mode="r")
    sampler = SequenceSampler(store, batch_size=64, length=4)
    assert {e for e, _ in check(sampler.sample(), held)} == {0, 2}
    assert store.report.lost_episodes == 1


def test_too_little_data_is_an_error_at_once() -> None:
    store = EpisodeStore(None, OBS, ACTION)
    with pytest.raises(DataError, match="0 rows"):
        SequenceSampler(store, length=4)
    store.append(numbered([3]))
    with pytest.raises(DataError, match="3 rows"):
        SequenceSampler(store, length=4)
    store.append(numbered([2]))
    SequenceSampler(store, length=4).sample()


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"batch_size": 2.0},
        {"batch_size": True},
        {"length": 1},
        {"length": "8"},
        {"seed": -1},
        {"seed": 2**64},
        {"seed": None},
        {"seed": 0.5},
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        SequenceSampler(store_of(numbered([90])), **options)
    assert caught.value.field == next(iter(options))


def test_a_sampled_batch_is_nobody_elses() -> None:
    held = numbered([20])
    store = store_of(held)
    sampler = SequenceSampler(store, batch_size=4, length=20)
    for tensor in (batch := sampler.sample()).obs["obs"], batch.reward:
        tensor.fill_(7)
    check(sampler.sample(), held)
