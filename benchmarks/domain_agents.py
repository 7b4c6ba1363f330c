"""Agents of benchmarks.domains that no example shows: each earns something and is careless."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from examples.gate_a_robot import Act

_LINK: Final = 0.12  # m, both links of dm_control's reacher
_OHM, _LD, _LQ, _POLES, _SPEED = 0.57, 0.0101, 0.0041, 4, 100.0  # gym-electric-motor's SynRM
_AMPERE, _VOLT, _ROW = 18.0, 210.0, 1e-4  # of a current of 1, of an action of 1; s
_PHASES: Final = 2 * np.pi / 3 * np.arange(3)


@dataclass(frozen=True, slots=True)
class Reacher:
    """Pulls its finger to the target (Jacobian transpose), in bad stretches with all its strength.

    careless  chance per row that a bad stretch of 5 to 15 rows begins, with damping forgotten and
              a target that it only imagines
    """

    careless: float = 0.01

    def begin(self, generator: np.random.Generator) -> Act:
        """obs -> torques [2] of one episode."""
        bad, way = 0, np.zeros(2)

        def act(obs: Any) -> np.ndarray:
            nonlocal bad, way
            begins, length, x, y = generator.random(4)
            if bad == 0 and begins < self.careless:
                bad, way = 5 + int(10 * length), np.array([x, y]) - 0.5
            shoulder, elbow = obs["position"][0], obs["position"].sum()
            far = np.array([-np.sin(elbow), np.cos(elbow)])
            jacobian = _LINK * np.stack(
                [np.array([-np.sin(shoulder), np.cos(shoulder)]) + far, far]
            )
            pull = jacobian @ (way if bad else obs["to_target"])
            torque = 200.0 * pull - (0.0 if bad else 0.3) * obs["velocity"]
            bad = max(bad - 1, 0)
            return np.clip(torque, -1.0, 1.0)

        return act


@dataclass(frozen=True, slots=True)
class Reluctance:
    """Current control of a reluctance motor; in bad stretches it wants far more current.

    The wanted current is shortened to 85 % of the nominal one, and taken 2.2 times in bad stretches
    of 10 to 30 rows, which begin with a chance of `careless` per row.
    """

    careless: float = 0.008

    def begin(self, generator: np.random.Generator) -> Act:
        """obs -> three voltages of one episode."""
        bad = 0

        def act(obs: Any) -> np.ndarray:
            nonlocal bad
            begins, length = generator.random(2)
            if bad == 0 and begins < self.careless:
                bad = 10 + int(20 * length)
            wanted = np.asarray(obs[14:16], float)
            wanted *= min(1.0, 0.47 / max(float(np.hypot(*wanted)), 1e-9)) * (2.2 if bad else 1.0)
            bad = max(bad - 1, 0)
            return _towards(wanted, obs)

        return act


def no_current(obs: Any) -> np.ndarray:
    """The fallback of the drive: the voltages that take its current away. No voltage is none:
    what flows then takes 18 ms, 180 rows, to fade, and turning drives it on."""
    return _towards(np.zeros(2), obs)


def _towards(wanted: np.ndarray, obs: Any) -> np.ndarray:
    """Voltages [3] that bring the current (d, q), in units of the limit, to the wanted one."""
    (d, q), (more_d, more_q) = obs[5:7] * _AMPERE, (wanted - obs[5:7]) * _AMPERE
    turning = _POLES * _SPEED
    along = _OHM * d - turning * _LQ * q + 3000.0 * _LD * more_d
    across = _OHM * q + turning * _LD * d + 3000.0 * _LQ * more_q
    angle = obs[12] * np.pi + turning * _ROW - _PHASES
    volts = along * np.cos(angle) - across * np.sin(angle)
    return np.clip(volts / _VOLT, -1.0, 1.0).astype(np.float32)
