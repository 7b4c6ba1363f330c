"""Motors and the reactor: Gymnasium's contract, seeds that decide, and risk that was measured."""

import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from bb_wm.data.collecting import collect
from bb_wm.errors import ConfigError
from bb_wm.worlds.catalogue import make_world
from bb_wm.worlds.motor import ElectricMotor, _currents
from bb_wm.worlds.reactor import ReactorCSTR

pytestmark = pytest.mark.xdist_group("factory")


@pytest.fixture(scope="module")
def _motors() -> None:
    pytest.importorskip("gym_electric_motor", reason='needs: pip install "bb_wm[factory]"')


@pytest.fixture(scope="module")
def _pcgym() -> None:
    pytest.importorskip("pcgym", reason='needs: pip install "bb_wm[factory]"')


@pytest.mark.usefixtures("_motors")
@pytest.mark.parametrize("motor", ["Cont-CC-PMSM-v0", "Finite-CC-PermExDc-v0", "Cont-TC-SCIM-v0"])
def test_motors_pass_gymnasiums_checker(motor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        check_env(ElectricMotor(motor), skip_render_check=True)


@pytest.mark.usefixtures("_pcgym")
@pytest.mark.timeout(300)  # pcgym brings jax and casadi
def test_the_reactor_passes_gymnasiums_checker() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        check_env(ReactorCSTR(), skip_render_check=True)


@pytest.mark.usefixtures("_motors")
def test_overcurrent_by_hand() -> None:
    motor = ElectricMotor("Cont-CC-PMSM-v0")
    state = np.zeros(14)
    sd, sq = motor.names.index("i_sd"), motor.names.index("i_sq")
    nominal = 240 / 400
    for current, cost in ((0.5, 0.0), (nominal, 0.0), (0.8, 0.5), (1.0, 1.0), (1.2, 1.5)):
        state[[sd, sq]] = 0.6 * current, -0.8 * current
        assert motor.overcurrent(state) == pytest.approx(cost, abs=1e-9)
    dc = ElectricMotor("Finite-CC-PermExDc-v0")
    assert dc.names == ("omega", "torque", "i", "u", "u_sup", "i wanted")
    nominal = 97 / 210
    assert dc.overcurrent(np.array([0, 0, -0.9, 0, 1])) == pytest.approx(
        (0.9 - nominal) / (1 - nominal)
    )


def test_which_numbers_are_currents() -> None:
    assert _currents(["omega", "torque", "i_a", "i_b", "i_c", "i_sd", "i_sq", "u_a"]) == [[5, 6]]
    assert _currents(["omega", "i_a", "i_e", "u_sup"]) == [[1], [2]]
    assert _currents(["i_sd", "i_sq", "i_e"]) == [[0, 1], [2]]


@pytest.mark.usefixtures("_motors")
def test_a_drive_that_trips_has_cost_one_or_more_and_ends() -> None:
    maker, world = make_world("Finite-CC-PermExDc-v0")
    episodes = collect(maker, episodes=6, seed=0, risk=world.risk)
    for episode in episodes:
        assert episode.terminated
        assert episode.safety[-1] >= 1
        assert (episode.safety[:-1] < 1).all()
        current = np.abs(episode.obs["obs"][1:, 2])
        nominal = 97 / 210
        wanted = np.maximum((current - nominal) / (1 - nominal), 0)
        assert np.allclose(episode.safety[1:], wanted, atol=1e-5)
    assert any(((e.safety > 0) & (e.safety < 1)).any() for e in episodes)


@pytest.mark.usefixtures("_motors")
def test_a_motor_is_cut_off_after_its_steps_and_differs_by_seed() -> None:
    motor = ElectricMotor(steps=3)
    rest = np.zeros(3, np.float32)
    first = motor.reset(seed=1)[0]
    ends = [motor.step(rest)[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]
    assert np.array_equal(first, motor.reset(seed=1)[0])
    assert not np.array_equal(first, motor.reset(seed=2)[0])
    assert not np.array_equal(motor.reset()[0], motor.reset()[0])


@pytest.mark.usefixtures("_pcgym")
def test_the_reactors_cost_is_the_violation_that_pcgym_measures() -> None:
    reactor = ReactorCSTR()
    reactor.reset(seed=3)
    hot, costs, ends = np.ones(1, np.float32), [], []
    for step in range(100):
        obs, _, ended, cut, info = reactor.step(hot)
        measured = float(reactor._plant.info["cons_info"][0, step, 0])  # pcgym's own account
        assert info["cost"] == pytest.approx(measured / 10, abs=1e-9)
        assert info["measured"]["temperature"] == pytest.approx(float(obs[1]), rel=1e-5)
        costs.append(info["cost"])
        ends.append((ended, cut))
    assert max(costs) > 8  # ignited: more than 80 K over
    assert set(ends[:-1]) == {(False, False)}
    assert ends[-1] == (False, True)


@pytest.mark.usefixtures("_pcgym")
def test_a_cool_reactor_is_safe_and_starts_differ() -> None:
    reactor = ReactorCSTR(steps=20)
    starts = []
    for seed in (0, 0, 1):
        starts.append(reactor.reset(seed=seed)[0])
        costs = [reactor.step(-np.ones(1, np.float32))[4]["cost"] for _ in range(20)]
        assert costs == [0.0] * 20
    assert np.array_equal(starts[0], starts[1])
    assert not np.array_equal(starts[0], starts[2])


@pytest.mark.usefixtures("_pcgym")
def test_a_random_agent_overheats_the_reactor_now_and_then() -> None:
    maker, world = make_world("CSTR")
    episodes = collect(maker, episodes=6, seed=1, risk=world.risk)
    risky = np.concatenate([e.safety > 0 for e in episodes])
    assert 0.01 < risky.mean() < 0.4


def test_settings_that_cannot_be_are_refused() -> None:
    for wrong in ({"steps": 1}, {"coolant": (300.0, 290.0)}, {"hottest": 0.0}):
        with pytest.raises(ConfigError, match="coolant"):
            ReactorCSTR(**wrong)
    with pytest.raises(ConfigError, match="steps"):
        ElectricMotor(steps=0)
