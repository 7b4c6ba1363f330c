"""The chain of verdicts: appended only, and every change to it is noticed."""

import json
import shutil

import numpy as np
import pytest
from tests.diagnose.helpers import linear_episodes

from bb_wm import durable
from bb_wm.diagnose.promotion.record import (
    PromotionLog,
    digest_episode,
    digest_episodes,
    digest_model,
)
from bb_wm.diagnose.promotion.result import Check, Outcome, Promotion
from bb_wm.errors import ConfigError, DataError, LockError, SaveError

FOUND = Promotion(
    Outcome.BLOCK,
    (Check("delta_risk", "Delta", 0.5, 0.1, Outcome.BLOCK),),
    {"states": 3.0, "none": float("nan")},
    {"rule": {"kind": "PromotionRule"}},
)
A, B, C = ({"path": name, "digest": name * 64} for name in "abc")


def filled(folder, count=4):
    log = PromotionLog(folder)
    for _ in range(count):
        log.append(FOUND, new=A, old=B, data=C)
    return log


def test_entries_chain_by_digest_and_come_back(tmp_path):
    log = filled(tmp_path / "promotions", 3)
    entries = log.entries()
    assert [entry.number for entry in entries] == [1, 2, 3]
    assert [entry.body["previous"] for entry in entries] == [
        "0" * 64, entries[0].digest, entries[1].digest,
    ]  # fmt: skip
    body = entries[-1].body
    assert body["verdict"] == "BLOCK"
    assert body["checks"][0]["value"] == 0.5
    assert body["numbers"] == {"states": 3.0, "none": None}
    assert (body["new"], body["old"], body["data"]) == (A, B, C)


def test_an_earlier_entry_is_never_written_again(tmp_path):
    log = filled(tmp_path, 2)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("0*.json")}
    log.append(FOUND, new=A, old=B, data=C)
    assert all((tmp_path / name).read_bytes() == raw for name, raw in before.items())


def test_every_change_is_noticed(tmp_path):
    good = tmp_path / "good"
    filled(good)
    draw = np.random.default_rng(0)

    def flip(folder):
        path = sorted(folder.glob("*.json"))[int(draw.integers(5))]
        raw = bytearray(path.read_bytes())
        raw[int(draw.integers(len(raw)))] ^= 1 << int(draw.integers(8))
        path.write_bytes(bytes(raw))

    def reseal(folder):
        path = folder / "000002.json"
        body = durable.unseal_json(path.read_bytes(), error=DataError)
        path.write_bytes(durable.seal_json({**body, "verdict": "PROMOTE"}))

    def swap(folder):
        first, second = folder / "000002.json", folder / "000003.json"
        one, two = first.read_bytes(), second.read_bytes()
        first.write_bytes(two)
        second.write_bytes(one)

    def lose(number):
        return lambda folder: (folder / f"{number:06d}.json").unlink()

    edits = [flip] * 60 + [reseal, swap, lose(1), lose(2), lose(4)]
    edits += [lambda folder: (folder / "head.json").unlink()]
    for number, edit in enumerate(edits):
        bad = tmp_path / f"bad-{number}"
        shutil.copytree(good, bad)
        edit(bad)
        with pytest.raises(DataError):
            PromotionLog(bad).entries()
        with pytest.raises(DataError):
            PromotionLog(bad).append(FOUND, new=A, old=B, data=C)
        shutil.rmtree(bad)


def test_a_crash_between_entry_and_head_loses_nothing(tmp_path):
    log = filled(tmp_path, 2)
    head = (tmp_path / "head.json").read_bytes()
    log.append(FOUND, new=A, old=B, data=C)
    (tmp_path / "head.json").write_bytes(head)  # as if killed before the head was written
    assert len(log.entries()) == 3
    assert log.append(FOUND, new=A, old=B, data=C).number == 4
    assert len(log.entries()) == 4


def test_a_full_disk_leaves_the_chain_as_it_was(tmp_path, monkeypatch):
    log = filled(tmp_path, 2)

    def full(path, data):
        raise SaveError("path", expected="space", actual="none")

    with monkeypatch.context() as patch:
        patch.setattr(durable, "write_file", full)
        with pytest.raises(SaveError):
            log.append(FOUND, new=A, old=B, data=C)
    assert len(log.entries()) == 2
    assert log.append(FOUND, new=A, old=B, data=C).number == 3


def test_a_second_writer_is_refused(tmp_path):
    log = filled(tmp_path, 1)
    with durable.RunLock(tmp_path), pytest.raises(LockError):
        log.append(FOUND, new=A, old=B, data=C)


def test_a_verdict_without_digests_is_not_recorded(tmp_path):
    with pytest.raises(ConfigError):
        PromotionLog(tmp_path).append(FOUND, new={"path": "a"}, old=B, data=C)
    assert PromotionLog(tmp_path).entries() == []


def test_digests_are_of_content():
    episodes = linear_episodes(3, 6, seed=0)
    same = linear_episodes(3, 6, seed=0)
    assert digest_episodes(episodes) == digest_episodes(same)
    assert digest_episodes(episodes) != digest_episodes(episodes[::-1])
    for change in ("action", "reward", "safety"):
        other = linear_episodes(1, 6, seed=0)[0]
        getattr(other, change)[2] += 1
        assert digest_episode(other) != digest_episode(episodes[0])
    with pytest.raises(ConfigError):
        digest_model(object())


def test_the_digest_of_a_model_is_of_its_weights_and_settings(tmp_path):
    from bb_wm.config import WorldModelConfig
    from bb_wm.model.cores import GRU
    from bb_wm.rssm import WorldModel

    config = WorldModelConfig(core=GRU(8), hidden=8, head_hidden=8, features=8, budget=None)
    model = WorldModel(2, 1, config)
    before = digest_model(model)
    model.save(tmp_path / "model")
    assert digest_model(WorldModel.load(tmp_path / "model")) == before
    assert digest_model(WorldModel(2, 1, config.override(seed=1))) != before
    longer = WorldModel(2, 1, config.override(max_horizon=16))
    assert json.dumps(longer.describe()) != json.dumps(model.describe())
    assert digest_model(longer) != before
