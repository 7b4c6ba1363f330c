"""GatedEnv: what reaches the machine, in every mode and under every fault we could think of."""

import json
import math
import threading
import time
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from bb_wm.config import GRU, Gaussian, WorldModelConfig
from bb_wm.data import EpisodeStore
from bb_wm.data.collecting import collect
from bb_wm.decide import Enumerate, Gate, Ledger, RandomShooting, Verdict, read_ledger
from bb_wm.diagnose.calibration import TrustedHorizon, calibrate
from bb_wm.errors import BatchError, ConfigError, PolicyError
from bb_wm.imagine import Limit, Utility
from bb_wm.rssm import WorldModel
from bb_wm.serve.gated_env import GatedEnv
from bb_wm.serve.model_evidence import Judged, ModelEvidence, unbounded_trust
from bb_wm.testing.point_hazard import PointHazardEnv, PointHazardLayout, PointHazardOracle
from bb_wm.types import ActionSpec, Episode, ObsSpec
from bb_wm.worlds.catalogue import make_world

REST = np.zeros(2, np.float32)
GATE = Gate(limit=0.05, max_age=60.0, min_gain=-1e6)
PEAK = Utility(over_time="peak")


class Spy(gym.Wrapper):
    """What reached the environment."""

    def __init__(self, env) -> None:
        super().__init__(env)
        self.sent = []

    def step(self, action):
        self.sent.append(np.array(action))
        return self.env.step(action)


def maker(**more):
    settings = {"bound": unbounded_trust, "utility": PEAK, "horizon": 6, "samples": 4}
    return ModelEvidence(PointHazardOracle(), REST, **{**settings, **more})


@pytest.fixture
def gated(tmp_path):
    """Builds a GatedEnv around a point among hazards whose model is exact; Spy under it."""
    opened = []

    def build(evidence=None, **more):
        spy = Spy(more.pop("env", None) or PointHazardEnv())
        book = more.pop("ledger", None)
        if book is None:  # an empty ledger is false
            book = Ledger(tmp_path / f"ledger{len(opened)}", durable=False)
        settings = {"gate": GATE, "fallback": REST, "mode": "enforce", **more}
        env = GatedEnv(spy, maker=evidence or maker(), ledger=book, **settings)
        opened.append((env, book))
        return env, spy

    yield build
    for env, book in opened:
        env.close()
        book.close()


def straight(obs):
    """An agent that knows nothing of hazards: full thrust to the goal."""
    way = obs[4:6] - obs[:2]
    return (way / max(np.abs(way).max(), 1e-6)).astype(np.float32)


def play(env, policy=straight, seed=0):
    """Return, unsafe rows and the gate's notes of one episode."""
    obs, _ = env.reset(seed=seed)
    total, unsafe, notes, over = 0.0, 0, [], False
    while not over:
        obs, reward, ended, cut, info = env.step(policy(obs))
        total, unsafe, over = total + reward, unsafe + (info["cost"] > 0), ended or cut
        notes.append(info.get("gate"))
    return total, unsafe, notes


# --- what it is for --------------------------------------------------------------------------


def escape(obs):
    """A real fallback: away from a hazard that is near, otherwise brake."""
    x, y, radius = min(
        PointHazardLayout().hazards, key=lambda h: np.hypot(obs[0] - h[0], obs[1] - h[1]) - h[2]
    )
    away = obs[:2] - (x, y)
    if np.hypot(*away) - radius > 0.08:
        return np.clip(-40 * obs[2:4], -1, 1).astype(np.float32)
    return (away / np.abs(away).max()).astype(np.float32)


def test_the_gate_keeps_a_blind_agent_out_of_the_hazards(gated) -> None:
    env, spy = gated(fallback=escape, env=PointHazardEnv(steps=80))
    alone = sum(play(PointHazardEnv(steps=80), seed=seed)[1] for seed in range(2))
    notes, unsafe = [], 0
    for seed in range(2):
        _, met, told = play(env, seed=seed)
        unsafe, notes = unsafe + met, notes + told
    assert alone > 15
    assert unsafe <= 0.1 * alone
    assert {note.sent for note in notes} == {"agent", "fallback"}
    assert len(env.ledger) == len(notes) == len(spy.sent)
    for note in notes:
        assert (note.decision.verdict is Verdict.ACT) == (note.sent == "agent")
        if note.sent == "fallback":
            assert {"risk", "risk_bound"} & set(note.decision.reasons)


def test_a_planner_replaces_what_is_held_and_drives_alone(gated) -> None:
    planner = RandomShooting(horizon=8, samples=2, candidates=32)
    careful = Utility(over_time="peak", limit=Limit(0.05))
    env, spy = gated(
        maker(planner=planner, utility=careful), fallback=escape, env=PointHazardEnv(steps=40)
    )
    total, unsafe, notes = play(env, seed=1)
    assert "planned" in {note.sent for note in notes}
    assert unsafe <= 1
    held_only, _, _ = play(gated(fallback=escape, env=PointHazardEnv(steps=40))[0], seed=1)
    assert total > held_only
    env.reset(seed=2)
    info = env.step(None)[4]  # no proposal: the planner's action
    assert info["gate"].sent == "planned"
    assert np.abs(spy.sent[-1]).max() <= 1


def test_the_agents_own_action_passes_bit_for_bit_and_cannot_be_changed_meanwhile(gated) -> None:
    env, spy = gated()
    env.reset(seed=0)
    action = np.array([0.123456789012345, -0.1], np.float64)

    class Changing(ModelEvidence):
        def judge(self, *args, **kwargs):
            action[:] = 99.0
            return super().judge(*args, **kwargs)

    env.maker = Changing(PointHazardOracle(), REST, bound=unbounded_trust, utility=PEAK)
    assert env.step(action)[4]["gate"].sent == "agent"
    assert spy.sent[-1].tolist() == [0.123456789012345, -0.1]


def test_hold_utility_is_falling_back_and_gains_are_counted_from_it(gated) -> None:
    """By hand: without hazards and noise the return is 10 x the way made good."""
    layout = PointHazardLayout(hazards=(), noise_sd=0.0)
    evidence = ModelEvidence(
        PointHazardOracle(layout),
        REST,
        bound=unbounded_trust,
        utility=Utility(discount=1.0),
        horizon=3,
    )
    evidence.begin()
    evidence.see(np.array([0, 0, 0, 0, 0.7, 0], np.float32), None)
    judged = evidence.judge(np.array([1, 0], np.float32), observed_at=1.0, deadline=None)
    (candidate,) = judged.evidence.candidates
    way = 0.02 * (1 + 0.8 + 0.64) + 0.0  # one push, then coasting: sum over 3 rows
    assert candidate.name == "proposed"
    assert candidate.utility == pytest.approx(10 * way, rel=1e-4)
    assert judged.evidence.hold_utility == pytest.approx(0.0, abs=1e-6)
    assert judged.evidence.horizon == 3
    held = replace_after(evidence, "repeat")
    judged = held.judge(np.array([1, 0], np.float32), observed_at=1.0, deadline=None)
    speeds = [0.02, 0.036, 0.0488]
    assert judged.evidence.candidates[0].utility == pytest.approx(10 * sum(speeds), rel=1e-4)


def replace_after(evidence, after):
    evidence._after = after
    return evidence


def test_shadow_and_record_block_nothing(gated, tmp_path) -> None:
    episodes = []
    env, spy = gated(mode="shadow", record=episodes.append)
    plain = Spy(PointHazardEnv())
    assert play(env)[:2] == play(plain)[:2]
    assert np.array_equal(spy.sent, plain.sent)
    assert len(env.ledger) == 120
    assert {row["verdict"] for row in env.ledger.rows(200)} == {"ACT", "HOLD"}
    (wanted,) = collect(PointHazardEnv(), episodes=1)
    assert len(episodes[0]) == 121 == len(wanted)
    assert np.allclose(episodes[0].action[:-1], np.array(plain.sent))

    with EpisodeStore(
        tmp_path / "rows",
        obs_spec=ObsSpec.of(plain.observation_space),
        action_spec=ActionSpec.of(plain.action_space),
    ) as store:
        recorder = GatedEnv(
            Spy(PointHazardEnv()), GATE, REST, mode="record", record=lambda e: store.append([e])
        )
        play(recorder)
        recorder.reset(seed=1)
        recorder.step(REST)
        recorder.reset(seed=2)  # an episode that is broken off is kept as truncated
        assert [len(episode) for episode in store] == [121, 2]
        assert store[1].truncated
        assert np.array_equal(store[0].safety > 0, episodes[0].safety > 0)


@pytest.mark.parametrize("factor", [0.5, 5.0])
def test_what_was_sent_is_recorded_though_the_world_changes_it(factor: float) -> None:
    class Rough(PointHazardEnv):
        def step(self, action):
            told = super().step(action)
            action *= factor
            return told

    episodes = []
    env = GatedEnv(Rough(), GATE, REST, mode="record", record=episodes.append)
    play(env)
    plain = Spy(PointHazardEnv())
    play(plain)
    assert np.allclose(episodes[0].action[:-1], np.array(plain.sent))


# --- faults: only the fallback may reach the machine -----------------------------------------


class Faulty(ModelEvidence):
    """Real evidence, until a fault at one place."""

    def __init__(self, place, error=None, **more) -> None:
        self.place, self.error = place, error or RuntimeError("injected")
        self.armed = False
        super().__init__(
            PointHazardOracle(), REST, bound=unbounded_trust, utility=PEAK, horizon=4, **more
        )
        self.armed = True

    def begin(self):
        if self.armed and self.place == "begin":
            raise self.error
        super().begin()

    def see(self, obs, done):
        if self.place == "see":
            raise self.error
        super().see(obs, done)

    def judge(self, *args, **kwargs):
        if self.place == "judge":
            raise self.error
        judged = super().judge(*args, **kwargs)
        return self.spoilt(judged)

    def spoilt(self, judged):
        evidence = judged.evidence
        (one,) = evidence.candidates
        changes = {
            "nan utility": {"candidates": (replace(one, utility=math.nan),)},
            "inf utility": {"candidates": (replace(one, utility=math.inf),)},
            "nan risk": {"candidates": (replace(one, risk=math.nan),)},
            "no bound": {"candidates": (replace(one, risk_bound=math.inf),)},
            "nan bound": {"candidates": (replace(one, risk_bound=math.nan),)},
            "negative risk": {"candidates": (replace(one, risk=-1.0),)},
            "nan hold": {"hold_utility": math.nan},
            "no candidates": {"candidates": ()},
            "stale": {"observed_at": evidence.observed_at - 61.0},
            "from the future": {"observed_at": evidence.observed_at + 1e6},
            "no policy": {"policy": None},
            "horizon": {"horizon": 99},
            "nan strangeness": {"ood": math.nan},
            "late": {"deadline": evidence.observed_at - 1e3},
        }
        if self.place in changes:
            return Judged(replace(evidence, **changes[self.place]), judged.actions)
        if self.place == "no evidence":
            return Judged(None, judged.actions)
        if self.place == "nothing":
            return None
        actions = {
            "nan action": (np.full(2, np.nan, np.float32),),
            "outside": (np.full(2, 5.0, np.float32),),
            "wrong size": (np.zeros(3, np.float32),),
            "no actions": (),
        }
        if self.place in actions:
            return Judged(evidence, actions[self.place])
        return judged


FAULTS = [
    *("begin", "see", "judge", "nan utility", "inf utility", "nan risk", "no bound", "nan bound"),
    *("negative risk", "nan hold", "no candidates", "stale", "from the future", "no policy"),
    *("horizon", "nan strangeness", "late", "no evidence", "nothing"),
    *("nan action", "outside", "wrong size", "no actions"),
]


@pytest.mark.parametrize("deadline", [None, 5.0])
@pytest.mark.parametrize("place", FAULTS)
def test_a_fault_in_any_stage_sends_the_fallback(place, deadline, gated) -> None:
    env, spy = gated(Faulty(place), deadline_s=deadline)
    env.reset(seed=0)
    for _ in range(3):
        info = env.step(np.full(2, 0.5, np.float32))[4]
        assert info["gate"].sent == "fallback", place
        assert info["gate"].decision.verdict is Verdict.HOLD
    assert np.array_equal(spy.sent, np.zeros((3, 2)))
    sound, spy = gated(Faulty("nowhere"), deadline_s=deadline)
    sound.reset(seed=0)
    assert sound.step(np.full(2, 0.5, np.float32))[4]["gate"].sent == "agent"
    env.close()
    rows = env.ledger.rows()
    assert len(rows) == 3
    assert all(row["verdict"] == "HOLD" or row["withdrawn"] for row in rows)


@pytest.mark.parametrize("error", [MemoryError("m"), RecursionError("r"), KeyError("k")])
def test_any_exception_is_a_hold(error, gated) -> None:
    env, spy = gated(Faulty("judge", error))
    env.reset(seed=0)
    decision = env.step(np.ones(2, np.float32))[4]["gate"].decision
    assert decision.reasons[0] == "stage_failed"
    assert type(error).__name__ in decision.reason
    assert np.array_equal(spy.sent, [REST])


@pytest.mark.parametrize(
    "action",
    [
        np.array([np.nan, 0], np.float32),
        np.array([np.inf, 0], np.float32),
        np.array([7.0, 0], np.float32),
        np.zeros(3, np.float32),
        "full speed",
        None,
        {"a": 1},
    ],
)
def test_a_proposal_that_is_no_action_never_arrives(action, gated) -> None:
    env, spy = gated()
    env.reset(seed=0)
    assert env.step(action)[4]["gate"].sent == "fallback"
    assert np.array_equal(spy.sent, [REST])


class Blinded(gym.Wrapper):
    """NaN in the observations of some rows."""

    def __init__(self, env, rows) -> None:
        super().__init__(env)
        self.rows, self.row = rows, 0

    def reset(self, **more):
        self.row = 0
        obs, info = self.env.reset(**more)
        return self._seen(obs), info

    def step(self, action):
        self.row += 1
        obs, *rest = self.env.step(action)
        return self._seen(obs), *rest

    def _seen(self, obs):
        return np.full_like(obs, np.nan) if self.row in self.rows else obs


def tiny_model(env):
    config = WorldModelConfig(
        core=GRU(size=16),
        latent=Gaussian(width=32),
        hidden=16,
        head_hidden=8,
        features=8,
        budget=None,
    )
    return WorldModel(env.observation_space, env.action_space, config)


@pytest.mark.parametrize("learned", [False, True])
def test_an_observation_of_nan_holds_and_the_next_good_one_starts_a_belief_anew(
    learned, gated
) -> None:
    world = PointHazardEnv()
    model = tiny_model(world) if learned else PointHazardOracle()
    evidence = ModelEvidence(
        model,
        REST,
        bound=lambda risk: 0.0 * risk,
        horizon=4,
        samples=2,
        least_rows=2,
        action_spec=ActionSpec.of(world.action_space),
    )
    loose = Gate(limit=1e6, max_age=60.0, min_gain=-1e6)
    env, spy = gated(evidence, env=Blinded(world, {3, 4}), gate=loose)
    env.reset(seed=0)
    sent = [env.step(np.full(2, 0.5, np.float32))[4]["gate"].sent for _ in range(8)]
    # row 0 is one row only; rows 3, 4 are blind; row 5 is the first of a new belief
    assert sent == [
        "fallback",
        "agent",
        "agent",
        "fallback",
        "fallback",
        "fallback",
        *["agent"] * 2,
    ]
    assert [not s.any() for s in spy.sent] == [s == "fallback" for s in sent]


@pytest.mark.parametrize("method", ["step", "predict_reward", "predict_safety", "predict_continue"])
@pytest.mark.parametrize("how", ["raises", "nan", "inf"])
def test_a_broken_model_holds(method, how, gated) -> None:
    oracle = PointHazardOracle()

    class Broken:
        noise_size, action_size, action_spec = 2, 2, PointHazardOracle.action_spec

        def __getattr__(self, name):
            real = getattr(oracle, name)
            if name != method:
                return real

            def wrong(*args, **kwargs):
                if how == "raises":
                    raise RuntimeError("injected")
                found, bad = real(*args, **kwargs), float(how)
                if method != "step":
                    return found * bad
                return found.map(lambda t: t * bad if t.numel() else t)

            return wrong

    broken = ModelEvidence(Broken(), REST, bound=unbounded_trust, horizon=8)
    env, spy = gated(broken)
    env.reset(seed=0)
    assert env.step(np.full(2, 0.5, np.float32))[4]["gate"].sent == "fallback"
    assert np.array_equal(spy.sent, [REST])


def test_without_a_durable_record_nothing_but_the_fallback_is_sent(gated, tmp_path) -> None:
    class Full(Ledger):
        def record(self, *args, **kwargs):
            raise OSError(28, "No space left on device")

    env, spy = gated(ledger=Full(tmp_path / "full"))
    env.reset(seed=0)
    gated_info = env.step(np.full(2, 0.5, np.float32))[4]["gate"]
    assert gated_info.sent == "fallback"
    assert gated_info.decision.reasons == ("no_record",)
    assert np.array_equal(spy.sent, [REST])


# --- time ------------------------------------------------------------------------------------


class Clock:
    """A clock that is told what time it is; `jump` is added when it is read the n-th time."""

    def __init__(self, jump=0.0, at=None) -> None:
        self.time, self.reads, self.jump, self.at = 100.0, 0, jump, at

    def __call__(self):
        self.reads += 1
        if self.reads == self.at:
            self.time += self.jump
        return self.time


def reads_of_a_step(gated, clock, deadline) -> tuple[list[int], GatedEnv, Spy]:
    env, spy = gated(gate=replace(GATE, clock=clock), deadline_s=deadline)
    env.reset(seed=0)
    before = clock.reads
    sent = env.step(np.full(2, 0.5, np.float32))[4]["gate"].sent
    return [before + 1, clock.reads, sent], env, spy


def test_wherever_the_clock_jumps_past_the_deadline_the_fallback_is_sent(gated) -> None:
    (first, last, sent), _, _ = reads_of_a_step(gated, Clock(), 1.0)
    assert sent == "agent"
    actuated = last - 1  # the very last reading is of the observation that came back
    late = []
    for at in range(first + 1, last + 1):
        clock = Clock(jump=1.5, at=at)
        (_, _, sent), env, spy = reads_of_a_step(gated, clock, 1.0)
        late.append(sent)
        if sent == "fallback":
            assert np.array_equal(spy.sent, [REST])
            env.close()  # puts what came too late on record as not carried out
            newest = env.ledger.rows(1)[0]
            assert newest["verdict"] == "HOLD" or newest["withdrawn"]
    assert late == ["fallback"] * (actuated - first) + ["agent"]


@pytest.mark.parametrize("broken", [math.nan, math.inf, RuntimeError])
def test_a_broken_clock_sends_the_fallback(broken, gated) -> None:
    def clock():
        if isinstance(broken, float):
            return broken
        raise broken("injected")

    for deadline in (None, 1.0):
        env, spy = gated(gate=replace(GATE, clock=clock), deadline_s=deadline)
        env.reset(seed=0)
        assert env.step(np.full(2, 0.5, np.float32))[4]["gate"].sent == "fallback"
        assert np.array_equal(spy.sent, [REST])


def test_an_agent_that_thinks_too_long_acts_on_a_stale_belief(gated) -> None:
    clock = Clock()
    env, spy = gated(gate=replace(GATE, clock=clock, max_age=0.5))
    env.reset(seed=0)
    clock.time += 0.6
    info = env.step(np.full(2, 0.5, np.float32))[4]
    assert info["gate"].decision.reasons == ("stale",)
    assert env.step(np.full(2, 0.5, np.float32))[4]["gate"].sent == "agent"
    assert np.array_equal(spy.sent[0], REST)


class Hanging(ModelEvidence):
    """Hangs in its first judgement until told to go on."""

    def __init__(self) -> None:
        self.go_on, self.seen, self.hangs = threading.Event(), [], True
        super().__init__(PointHazardOracle(), REST, bound=unbounded_trust, utility=PEAK, horizon=4)

    def see(self, obs, done):
        self.seen.append(None if done is None else done.copy())
        super().see(obs, done)

    def judge(self, *args, **kwargs):
        if self.hangs:
            self.go_on.wait(20)
        return super().judge(*args, **kwargs)


def test_a_decision_that_hangs_holds_up_nobody_and_the_belief_catches_up(gated) -> None:
    evidence = Hanging()
    env, spy = gated(evidence, deadline_s=0.1)
    env.reset(seed=0)
    push = np.full(2, 0.5, np.float32)
    started = time.monotonic()
    notes = [env.step(push)[4]["gate"] for _ in range(4)]
    spent = time.monotonic() - started
    assert spent < 5  # it did not wait for the twenty seconds
    assert [note.sent for note in notes] == ["fallback"] * 4
    assert all(note.late for note in notes)
    assert len(evidence.seen) == 1
    evidence.hangs = False
    evidence.go_on.set()
    env.deadline_s = 5.0
    for _ in range(100):  # the thread needs a moment to come back
        if (note := env.step(push)[4]["gate"]).sent == "agent":
            break
        time.sleep(0.01)
    assert note.sent == "agent"
    # every row was told in order, with what was really done in it
    assert evidence.seen[0] is None
    assert np.array_equal(evidence.seen[1:], np.array(spy.sent[:-1], np.float32))
    env.close()
    rows = env.ledger.rows(200)
    assert sum(r["verdict"] == "ACT" and not r["withdrawn"] for r in rows) == 1
    assert len(rows) == len(spy.sent)


# --- fallbacks and settings ------------------------------------------------------------------


def test_a_fallback_may_look_and_its_own_failure_sends_nothing(gated) -> None:
    env, spy = gated(Faulty("judge"), fallback=lambda obs: -10 * obs[2:4].clip(-0.1, 0.1))
    obs, _ = env.reset(seed=0)
    env.step(np.ones(2, np.float32))
    assert np.allclose(spy.sent[0], -10 * obs[2:4])
    for wrong in (lambda obs: np.full(2, np.nan), lambda obs: None, lambda obs: 1 / 0):
        env, spy = gated(Faulty("judge"), fallback=wrong)
        env.reset(seed=0)
        with pytest.raises(PolicyError, match="independent stop"):
            env.step(np.ones(2, np.float32))
        assert spy.sent == []


def test_settings_are_refused_before_anything_runs(tmp_path) -> None:
    world = PointHazardEnv()
    with Ledger(tmp_path / "l") as book:
        for more, said in (
            ({"mode": "watch"}, "record, shadow, enforce"),
            ({"maker": None}, "maker"),
            ({"ledger": None}, "ledger"),
            ({"mode": "record"}, "record"),
            ({"deadline_s": 0.0}, "deadline_s"),
            ({"deadline_s": math.nan}, "deadline_s"),
        ):
            settings = {"maker": maker(), "ledger": book, **more}
            with pytest.raises(ConfigError, match=said):
                GatedEnv(world, GATE, REST, **settings)
        for fallback in (np.full(2, np.nan), np.full(2, 3.0), np.zeros(5)):
            with pytest.raises(Exception, match="action"):
                GatedEnv(world, GATE, fallback, maker=maker(), ledger=book)
    for more in ({"horizon": 0}, {"samples": 0}, {"after": "sleep"}, {"least_rows": 1.5}):
        with pytest.raises(ConfigError, match=next(iter(more))):
            maker(**more)


def test_choices_and_plans_of_choices_pass_in_their_own_form(gated) -> None:
    """A learned model of CartPole, whose actions are indices."""
    maker_of, _ = make_world("CartPole-v1")
    world = maker_of()
    model = tiny_model(world)
    loose = Gate(limit=1e6, max_age=60.0, min_gain=-1e6)
    evidence = ModelEvidence(
        model, 0, bound=unbounded_trust, planner=Enumerate(horizon=3, samples=2)
    )
    env, spy = gated(evidence, env=world, gate=loose, fallback=0)
    env.reset(seed=0)
    sent = [env.step(1)[4]["gate"].sent for _ in range(5)] + [env.step(None)[4]["gate"].sent]
    assert set(sent) <= {"agent", "planned"}
    assert sent[-1] == "planned"
    assert all(int(action) in (0, 1) and action.ndim == 0 for action in spy.sent)


def test_a_calibration_gives_the_bound_and_the_strangeness(gated) -> None:
    maker_of, world = make_world("LineWorld")
    episodes = collect(maker_of, episodes=140, seed=0, risk=world.risk, max_episode_rows=12)
    made = maker_of()
    torch.manual_seed(0)
    model = tiny_model(made)
    calibration = calibrate(model, episodes, horizons=(4,))
    assert math.isfinite(calibration.bounds[4].margin())
    size = made.action_space.shape
    evidence = ModelEvidence(model, np.zeros(size), bound=calibration, horizon=4, samples=4)
    evidence.begin()
    obs, _ = made.reset(seed=0)
    evidence.see(obs, None)
    judged = evidence.judge(np.zeros(size, np.float32), observed_at=0.0, deadline=None)
    (candidate,) = judged.evidence.candidates
    assert math.isfinite(candidate.risk_bound)
    assert candidate.risk_bound >= candidate.risk
    if calibration.ood is not None:
        assert judged.evidence.ood is not None
        assert math.isfinite(judged.evidence.ood)
    with pytest.raises(ConfigError, match="horizon"):
        ModelEvidence(model, np.zeros(size), bound=calibration, horizon=5)
    later = ModelEvidence(model, np.zeros(size), bound=calibration, horizon=4, least_rows=2)
    later.see(obs, None)
    with pytest.raises(BatchError):
        later.see(np.full_like(obs, np.nan), np.zeros(later.action_spec.size, np.float32))
    later.see(obs, None)  # a belief anew, of one row
    with pytest.raises(ConfigError, match="belief"):
        later.judge(np.zeros(size, np.float32), observed_at=0.0, deadline=None)


def test_what_cannot_be_imagined_so_far_is_held(gated) -> None:
    """The gate acts only within the rows that the model's two paths agree on."""
    maker_of, world = make_world("LineWorld")
    episodes = collect(maker_of, episodes=40, seed=0, risk=world.risk, max_episode_rows=16)
    model = tiny_model(maker_of())
    fitted = TrustedHorizon.fit(model, episodes, bound=100.0, reach=6, context=4)
    loose = Gate(limit=1e6, max_age=60.0, min_gain=-1e6)
    sent = {}
    for bound in (100.0, 1e-9):
        evidence = ModelEvidence(
            model,
            np.zeros(maker_of().action_space.shape),
            bound=unbounded_trust,
            trust=replace(fitted, bound=bound),
            horizon=4,
            samples=2,
        )
        env, _ = gated(evidence, env=maker_of(), gate=loose, fallback=np.zeros(1, np.float32))
        env.reset(seed=0)
        told = env.step(np.full(1, 0.1, np.float32))[4]["gate"]
        sent[bound] = told.sent
        if bound < 1:
            assert "can be trusted" in told.decision.reason
    assert sent == {100.0: "agent", 1e-9: "fallback"}
    with pytest.raises(ConfigError, match="horizon"):
        ModelEvidence(model, REST[:1], bound=unbounded_trust, trust=fitted, horizon=7)
    with pytest.raises(ConfigError, match="trust"):
        maker(trust=fitted)


def test_what_was_available_is_recorded_too(gated) -> None:
    """A desk with no call left cannot ask: the mask of every row comes with the episode."""
    maker_of, _ = make_world("ToolDesk")
    recorded: list[Episode] = []
    env, _ = gated(env=maker_of(), mode="record", record=recorded.append, gate=None, fallback=7)
    env.reset(seed=0)
    for action in (0, 0, 0, 0, 7):
        env.step(action)
    (episode,) = recorded
    assert episode.action_mask is not None
    assert episode.action_mask[0].all()
    assert not episode.action_mask[4][:3].any()
    assert episode.action_mask[4][3:].all()


# --- what came of it -------------------------------------------------------------------------


class Counting(gym.Wrapper):
    """Row t is rewarded with t and costs 10 t: sums that can be had by hand."""

    def reset(self, **more):
        self.row = 0
        return self.env.reset(**more)

    def step(self, action):
        self.row += 1
        obs, _, ended, cut, _ = self.env.step(action)
        return obs, float(self.row), ended, cut, {"cost": 10.0 * self.row}


def outcomes(env) -> list[tuple]:
    """(rows, return, risk, sent) of every decision in order; None where there is no outcome."""
    found = []
    for row in reversed(env.ledger.rows(100)):
        if row["note"] is None:
            found.append(None)
            continue
        note = json.loads(row["note"])
        found.append((note["rows"], row["realised_return"], row["realised_risk"], note["sent"]))
    return found


@pytest.mark.parametrize("deadline", [None, 5.0])
@pytest.mark.parametrize("mode", ["shadow", "enforce"])
def test_the_ledger_learns_what_came_of_each_decision(mode, deadline, gated) -> None:
    held = mode == "enforce"
    bound = (lambda risk: math.inf) if held else unbounded_trust
    evidence = maker(horizon=3, bound=bound)
    env, _ = gated(evidence, env=Counting(PointHazardEnv()), mode=mode, deadline_s=deadline)
    sent = "fallback" if held else "agent"
    env.reset(seed=0)
    for _ in range(5):
        env.step(np.full(2, 0.5, np.float32))
    assert outcomes(env)[2:] == [None] * 3  # their rows are not all there
    env.reset(seed=1)  # broken off: what came of the last ones is known for fewer rows
    env.step(np.full(2, 0.5, np.float32))
    env.close()
    assert outcomes(env) == [
        (3, 6.0, 60.0, sent),
        (3, 9.0, 90.0, sent),
        (3, 12.0, 120.0, sent),
        (2, 9.0, 90.0, sent),
        (1, 5.0, 50.0, sent),
        (1, 1.0, 10.0, sent),
    ]
    assert not env.faults
    assert "6 with an outcome" in read_ledger(env.ledger).text


def test_what_came_of_it_is_left_out_where_it_is_not_known(gated) -> None:
    class Unknown(Counting):
        def step(self, action):
            obs, reward, ended, cut, info = super().step(action)
            return obs, math.nan if self.row == 2 else reward, ended, cut, info

    env, spy = gated(maker(horizon=2), env=Unknown(PointHazardEnv()))
    env.reset(seed=0)
    for _ in range(4):
        env.step(np.zeros(2, np.float32))
    env.close()
    assert [one and one[:2] for one in outcomes(env)] == [None, None, (2, 7.0), (1, 4.0)]
    assert [fault.stage for fault in env.faults] == ["outcome"]
    assert len(spy.sent) == 4


def test_a_ledger_that_takes_no_outcomes_blocks_nothing(gated, tmp_path) -> None:
    class Deaf(Ledger):
        def outcome(self, *args, **kwargs):
            raise OSError(28, "No space left on device")

    env, _ = gated(maker(horizon=1), ledger=Deaf(tmp_path / "deaf", durable=False))
    env.reset(seed=0)
    sent = [env.step(np.full(2, 0.5, np.float32))[4]["gate"].sent for _ in range(3)]
    env.close()
    assert sent == ["agent"] * 3
    assert [fault.stage for fault in env.faults] == ["outcome"] * 3
