"""Smells while training: told once, after two looks, and without touching what is learnt."""

from __future__ import annotations

import json
from dataclasses import replace

from tests.learn.helpers import SETTINGS, judge, make_trainer

from bb_wm.learn import Callback, Record
from bb_wm.learn.smell_watch import SmellWatch
from bb_wm.learn.tensorboard import curve_name


class Listener(Callback):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.records: list[Record] = []

    def noticed(self, note: str) -> None:
        self.notes.append(note)

    def evaluated(self, record: Record) -> None:
        self.records.append(record)


def look_at(watch: SmellWatch, looks: list[dict[str, str]]) -> None:
    """The watch through several evaluations, each finding what it is told."""
    for number, found in enumerate(looks, start=1):
        watch._look = lambda model, episodes, found=found: found
        watch.judging(lambda model, episodes: {})(None, [])
        watch.evaluated(Record("evaluate", 500 * number, 10, 1, {}))


def test_a_smell_is_told_once_and_only_when_it_stays():
    telling, drawing = Listener(), Listener()
    watch = SmellWatch(None, tell=[telling], draw=[drawing])
    here, gone = {"rollout drift": "it drifts."}, {"rollout drift": ""}
    look_at(watch, [here, gone, here])
    assert telling.notes == []
    look_at(watch, [here, here, gone, here, here])
    assert telling.notes == ["smell at update 500: it drifts."]
    assert watch.told == ["rollout drift"]
    assert [r.numbers["smell_rollout_drift"] for r in drawing.records] == [1, 0, 1, 1, 1, 0, 1, 1]
    assert telling.records == []


def test_smells_have_a_group_of_their_own_among_the_curves():
    for name in ("smell_posterior_collapse", "smell_rollout_drift", "smell_safety_blind_spots"):
        assert curve_name(name, "evaluate") == f"smells/heldout_{name}"
    assert curve_name("kl_raw", "train") == "2_kl/kl_raw"


def test_a_real_training_is_watched_and_learns_the_same(tmp_path):
    from bb_wm.diagnose.diagnosis import glance

    def look(model, episodes):
        return {s.name: s.sentence() if s.found else "" for s in glance(model, episodes)}

    settings = replace(SETTINGS, heldout_rows=240)
    listener = Listener()
    watch = SmellWatch(look, tell=[listener], draw=[listener])
    watched = make_trainer(
        tmp_path / "watched", settings, evaluate=watch.judging(judge), callbacks=[watch]
    ).train()
    alone = make_trainer(tmp_path / "alone", settings).train()
    assert watched.digest == alone.digest
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("watched", "alone")]
    assert lines[0] == lines[1]
    assert json.loads(lines[0].splitlines()[0])["kind"] == "train"
    assert {r.update for r in listener.records} == {4, 8, 12, 13}
    assert set(listener.records[0].numbers) == {
        "smell_posterior_collapse",
        "smell_rollout_drift",
        "smell_safety_blind_spots",
        "smell_action_misalignment",
    }
