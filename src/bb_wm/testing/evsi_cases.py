"""Problems of known EVSI, each an Observer with candidates and an ask, and how to run them.

`CASES[name]()` builds one; `case.run(EVSI(...), seed)` estimates it from sampled particles and
`case.exact()` from the whole belief where it is finite. Sources: Raiffa & Schlaifer 1961;
Kaelbling, Littman & Cassandra 1998 (Tiger); Smith & Simmons 2004 (RockSample's sensor).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bb_wm.decide.evsi.ask import Ask, Candidates
from bb_wm.decide.evsi.engine import EVSI
from bb_wm.imagine.ensemble import Ensemble
from bb_wm.imagine.utility import Utility
from bb_wm.testing.paper_worlds import BetaBinomialWorld, FiniteWorld, GaussianWorld, latent_of
from bb_wm.testing.tabular import tiger
from bb_wm.types import Latent

if TYPE_CHECKING:
    from bb_wm.decide.evsi.result import EVSIResult
    from bb_wm.protocols import Observer


@dataclass(frozen=True)
class Case:
    """One problem: gross = info + effect, net = gross - cost.

    sd_psi is the sd over worlds of what the best rule gains there (U of the informed choice minus
    U of the blind one), sigma_roll the spread of a rollout's luck that all candidates share.
    """

    name: str
    model: Observer
    belief: Callable[[int, torch.Generator], object]
    ask: Ask
    candidates: Candidates
    gross: float
    sd_psi: float
    before: Candidates | None = None
    whole: object = None
    sigma_roll: float = 0.0

    @property
    def net(self) -> float:
        return self.gross - self.ask.price

    def run(self, evsi: EVSI, seed: int, *, weighted: bool = False) -> EVSIResult:
        """One estimate from evsi.particles particles drawn with `seed`.

        They are drawn independently, or, when `weighted`, systematically by EVSI itself from the
        whole finite belief with its weights, as an agent that knows its weights would have it.
        """
        generator = torch.Generator().manual_seed(seed)
        belief = self.whole if weighted else self.belief(evsi.particles, generator)
        return evsi(
            self.model, belief, self.ask, self.candidates, before=self.before, generator=generator
        )

    def exact(self, evsi: EVSI | None = None) -> EVSIResult:
        """The EVSI of the whole belief, without sampling; only where the belief is finite."""
        evsi = evsi or EVSI(utility=Utility(discount=1.0))
        return evsi(
            self.model, self.whole, self.ask, self.candidates, before=self.before, exact=True
        )

    def bias_bar(self, particles: int) -> float:
        spread = 0.4 * self.sd_psi + 0.1 * self.sigma_roll
        return 0.02 * abs(self.gross) + spread / math.sqrt(particles)

    def rmse_bar(self, particles: int) -> float:
        spread = math.sqrt(self.sd_psi**2 + 0.2 * self.sigma_roll**2)
        return 1.3 * spread / math.sqrt(particles) + 0.02 * abs(self.gross)


def _column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gaussian_case(
    name: str,
    world: GaussianWorld,
    candidates: Callable[[Latent], Tensor],
    *,
    gross: float,
    sd_psi: float,
    cost: float,
    sigma_roll: float = 0.0,
    ask: Ask | None = None,
) -> Case:
    """A case on a GaussianWorld whose answer "o" is read at `cost`."""

    def belief(count: int, generator: torch.Generator) -> Latent:
        noise = torch.randn(count, world.noise_size, generator=generator, dtype=torch.float64)
        return world.prior(noise)

    ask = ask or Ask("read", cost=cost)
    return Case(name, world, belief, ask, candidates, gross, sd_psi, sigma_roll=sigma_roll)


def finite_case(
    name: str,
    prior: Tensor,
    utility: Tensor,
    answer: Tensor,
    *,
    cost: float,
    calls: int = 1,
    risk: Tensor | None = None,
) -> Case:
    """A case on states with `prior` [S], utility [S, C] (V_s [S, C]), answers [S, K]; its gross and
    sd_psi are summed over all answers here."""
    world = FiniteWorld(prior, answer)
    joint = answer
    for _ in range(calls - 1):
        joint = (joint[:, :, None] * answer[:, None]).flatten(1)
    sums = torch.einsum("s,sk,sc->kc", prior, joint, utility)
    blind = (prior @ utility).argmax()
    gain = utility[:, sums.argmax(-1)] - utility[:, [int(blind)]]
    in_state = (joint * gain).sum(-1)
    mean = (prior * in_state).sum()
    spread = (prior * (in_state - mean).square()).sum().sqrt()

    def worth(latent: Latent) -> Tensor | tuple[Tensor, Tensor]:
        if risk is None:
            return latent.z @ utility
        return latent.z @ utility, latent.z @ risk

    ask = Ask("tool", cost=cost, calls=calls, answers=world.answers())
    whole = (world.states(), prior)
    return Case(name, world, _from(whole), ask, worth, float(mean), float(spread), whole=whole)


def _from(whole: tuple[Latent, Tensor]) -> Callable[[int, torch.Generator], object]:
    def belief(count: int, generator: torch.Generator) -> Latent:
        index = torch.multinomial(whole[1], count, replacement=True, generator=generator)
        return whole[0][index]

    return belief


def two_gaussians() -> Case:
    """P1: two candidates with Gaussian worths, one noisy look."""
    world = GaussianWorld(_column(-0.5), 4.0 * torch.eye(1).double(), torch.eye(1).double(), 1.5)
    return gaussian_case(
        "P1_gauss2",
        world,
        lambda s: torch.cat([torch.zeros_like(s.z), s.z], -1),
        gross=0.41922382915288303,
        sd_psi=1.06,
        cost=0.25,
    )


def beta_binomial(*, listed: bool = True) -> Case:
    """listed: answers are summed over; otherwise they are drawn and regressed on."""
    world = BetaBinomialWorld(3.0, 5.0, 6)

    def belief(count: int, generator: torch.Generator) -> Latent:
        return world.prior(torch.randn(count, 1, generator=generator))

    return Case(
        "P2_betabin",
        world,
        belief,
        Ask("sample", cost=0.2, answers=world.answers() if listed else None),
        lambda s: torch.cat([torch.zeros_like(s.z), 10 * s.z - 4], -1),
        gross=191 / 572,
        sd_psi=0.866,
    )


def five_arms() -> Case:
    """Five correlated arms; the look shows a mixture of the middle three."""
    spread = np.array([0.2, 0.9, 1.2, 1.5, 0.7])
    apart = np.abs(np.subtract.outer(np.arange(5), np.arange(5)))
    covariance = torch.tensor(np.outer(spread, spread) * 0.6**apart)
    sees = _column(0, 0.5, 1, 0.5, 0)[None]
    world = GaussianWorld(_column(0.3, 0.2, 0, -0.2, 0.25), covariance, sees, 1.0)
    return gaussian_case(
        "P3_gauss5", world, lambda s: s.z, gross=0.24546107388880106, sd_psi=0.611, cost=0.1
    )


def tiger_plans(horizon: int, discount: float = 0.95, accuracy: float = 0.85) -> Tensor:
    """alpha [plans, 2]: state values of every conditional plan that is best at a belief reachable
    by listening, `horizon` steps left."""
    world = tiger(accuracy)
    odds = accuracy / (1 - accuracy)
    beliefs = np.array([[1 / (1 + odds**-d), 1 / (1 + odds**d)] for d in range(-12, 13)])
    plans = np.zeros((1, 2))
    for _ in range(horizon):
        made = []
        for action in range(3):
            move, see = world.transition[action], world.observation[action]
            for first in plans:
                for second in plans:
                    later = move @ (see * np.stack([first, second], 1)).sum(1)
                    made.append(world.reward[action] + discount * later)
        stacked = np.array(made)
        keep = sorted(set((beliefs @ stacked.T).argmax(1).tolist()))
        plans = stacked[keep]
    return torch.tensor(plans)


def tiger_gate(horizon: int = 5, discount: float = 0.95) -> Case:
    """Open now and go on optimally, or listen now and go on optimally; rewards hold the cost."""
    world = tiger()
    after, later = tiger_plans(horizon - 1, discount), tiger_plans(horizon - 1, discount).mean(1)
    opened = torch.tensor(world.reward[1:]) + discount * later.max()
    states = world.latent(torch.arange(2))
    half = _column(0.5, 0.5)
    listen = torch.eye(3).double()[0]
    answers = {"obs": torch.arange(2)[:, None]}
    # Net of the cost that the rewards hold already: 1 is put back and taken out once.
    return Case(
        "P4_tiger_H5",
        world,
        _from((states, half)),
        Ask("listen", listen, cost=1.0, cost_in_reward=True, answers=answers),
        lambda s: s.h @ after.T,
        gross=47.057329185312504,
        sd_psi=55.0,
        before=lambda s: s.h @ opened.T,
        whole=(states, half),
    )


def tiger_stop(calls: int) -> Case:
    """Tiger: listen `calls` times, then open a door or leave."""
    utility = torch.tensor([[0.0, -100.0, 10.0], [0.0, 10.0, -100.0]], dtype=torch.float64)
    heard = torch.tensor([[0.85, 0.15], [0.15, 0.85]], dtype=torch.float64)
    name = f"P4b_tiger_stop_n{calls}"
    return finite_case(name, _column(0.5, 0.5), utility, heard, cost=1.0, calls=calls)


def look_up(*, perfect: bool = False) -> Case:
    """Four intents; commit +5 / -8, hand over +1; the tool may say nothing or something wrong."""
    utility = torch.cat([13 * torch.eye(4) - 8, torch.ones(4, 1)], 1).double()
    told = torch.eye(4).double() * 0.8 + 0.05
    answer = torch.cat([told * 0.9, torch.full((4, 1), 0.1, dtype=torch.float64)], 1)
    if perfect:
        answer = torch.eye(4).double()
    return finite_case(
        "P8_perfect" if perfect else "P5_lookup",
        _column(0.4, 0.3, 0.2, 0.1),
        utility,
        answer,
        cost=1.0 if perfect else 0.4,
    )


def rock(distance: float, readings: int = 1) -> Case:
    """RockSample's sensor: the farther the rock, the less a reading tells."""
    right = 0.5 * (1 + 2 ** (-distance / 4))
    answer = torch.tensor([[right, 1 - right], [1 - right, right]], dtype=torch.float64)
    utility = torch.tensor([[0.0, 10.0], [0.0, -10.0]], dtype=torch.float64)
    name = f"P6_rock_d{distance:g}_n{readings}"
    return finite_case(name, _column(0.5, 0.5), utility, answer, cost=0.3, calls=readings)


def zero_information() -> Case:
    """z = (theta, luck of the rollout); the answer hangs on neither."""
    world = GaussianWorld(_column(0, 0), torch.eye(2).double(), torch.zeros(1, 2).double(), 1.0)
    sign, lean = _column(1, -1, 1, -1), 0.02 * torch.arange(4).double()
    return gaussian_case(
        "P7_zero_info",
        world,
        lambda s: lean + s.z[..., :1] * sign + 2 * s.z[..., 1:],
        gross=0.0,
        sd_psi=0.0,
        cost=0.05,
        sigma_roll=2.0,
    )


RETURNS = torch.tensor([[10.0, 4.0, 0.0], [10.0, 4.0, 0.0]], dtype=torch.float64)
RISKS = torch.tensor([[0.2, 0.1, 0.0], [10.0, 4.0, 0.0]], dtype=torch.float64)


def risky(p_bad: float, risk_weight: float, name: str) -> Case:
    """Go (10), go slowly (4) or stop (0); in the bad state the risks are 10, 4, 0."""
    answer = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
    prior = _column(1 - p_bad, p_bad)
    return finite_case(name, prior, RETURNS - risk_weight * RISKS, answer, cost=0.3)


def hard_limit() -> Case:
    """The ask of P9b: judged with EVSI(utility=Utility(limit=Limit(.12, scope)))."""
    utility = torch.tensor([[5.0, 0.0], [5.0, 0.0]], dtype=torch.float64)
    risk = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    answer = torch.tensor([[0.95, 0.05], [0.25, 0.75]], dtype=torch.float64)
    case = finite_case("P9b_hard_limit_trap", _column(0.9, 0.1), utility, answer, cost=0, risk=risk)
    # After the bad answer, 12 % of the time, the limit forbids what was allowed in ignorance.
    return replace(case, gross=-0.6, sd_psi=1.05)


def quadratic(*, q_scale: float = 1.0, q_gain: float = 1.0) -> Case:
    """A linear-Gaussian RSSM; q may be over-confident or have the wrong gain."""
    one = torch.eye(1).double()
    world = GaussianWorld(_column(0.3), one, one, 0.7, q_scale, q_gain)
    at = _column(-1.5, -0.5, 0.5, 1.5)

    def worth(latent: Latent) -> Tensor:
        return torch.cat([1 - (latent.z - at).square(), torch.zeros_like(latent.z)], -1)

    return gaussian_case(
        "P10_lgrssm_quad", world, worth, gross=0.5792381301250309, sd_psi=0.579, cost=0.2
    )


def intervening() -> Case:
    """The tool takes a step in which the plant may break, then reads it."""
    prior, moves = _column(0.8, 0.2), torch.tensor([[0.9, 0.1], [0.0, 1.0]], dtype=torch.float64)
    answer = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64)
    world = FiniteWorld(prior, answer, moves)
    utility = torch.tensor([[12.0, 5.0], [-20.0, 5.0]], dtype=torch.float64)
    ask = Ask("inspect", torch.zeros(1).double(), cost=0.5, answers=world.answers())
    # Both what was and what is, so that the mover's whole belief can be listed.
    whole = (world.states(), prior)
    return Case(
        "P11_intervening_tool",
        world,
        _from(whole),
        ask,
        lambda s: s.z @ utility,
        gross=3.2360000000000015,
        sd_psi=9.917,
        before=lambda s: s.z @ utility,
    )


def sixteen() -> Case:
    """Four candidates, each worth a different mixture of sixteen unknowns."""
    generator = np.random.default_rng(7)
    weights = torch.tensor(generator.normal(size=(4, 16)) / 4)
    offsets = torch.tensor(generator.normal(size=4) * 0.15)
    eye = torch.eye(16).double()
    world = GaussianWorld(torch.zeros(16).double(), eye, eye, 1.0)
    return gaussian_case(
        "P12_hd16",
        world,
        lambda s: offsets + s.z @ weights.T,
        gross=0.5241572494520689,
        sd_psi=0.973,
        cost=0.1,
    )


def extra_key() -> Case:
    """theta and the error e1 of a first sensor that was read as .4; a second shares that error."""
    covariance = torch.tensor([[0.5, -0.5], [-0.5, 0.5]], dtype=torch.float64)
    world = GaussianWorld(
        _column(0.2, 0.2), covariance, _column(1, 0.8)[None], 0.5, also=_column(1, 1)[None]
    )
    return gaussian_case(
        "P13_extra_key",
        world,
        lambda s: torch.cat([torch.full_like(s.z[..., :1], 0.1), s.z[..., :1]], -1),
        gross=0.036914241560568856,
        sd_psi=0.376,
        cost=0.02,
        ask=Ask("second sensor", keys=("o",), seen={"also": _column(0.4)}, cost=0.02),
    )


def two_models() -> Case:
    """Two models that differ in what the actions do and in what the tool says."""
    utility = torch.tensor([[5.0, -3.0, 0.0], [-3.0, 5.0, 0.0]], dtype=torch.float64)
    says = torch.tensor([[0.1, 0.9], [0.8, 0.2]], dtype=torch.float64)
    members = [FiniteWorld(_column(1.0), says[[m]]) for m in range(2)]
    model = Ensemble(members)
    one = latent_of(torch.ones(1, 1).double())
    both = model.belief([one, one])

    def belief(count: int, generator: torch.Generator) -> Latent:
        return both.latents[torch.randint(2, (count,), generator=generator)]

    return Case(
        "P14_ensemble",
        model,
        belief,
        Ask("tool", cost=0.5, answers=members[0].answers()),
        lambda s: utility[s.h[..., 0].long()],
        gross=2.8,
        sd_psi=3.6,
        whole=both,
    )


CASES: dict[str, Callable[[], Case]] = {
    "P1_gauss2": two_gaussians,
    "P2_betabin": beta_binomial,
    "P3_gauss5": five_arms,
    "P4_tiger_H5": tiger_gate,
    **{f"P4b_tiger_stop_n{n}": (lambda n=n: tiger_stop(n)) for n in (1, 2, 3, 4)},  # type: ignore[misc]
    "P5_lookup": look_up,
    "P6_rock_d0_n1": lambda: rock(0),
    "P6_rock_d2_n1": lambda: rock(2),
    "P6_rock_d5_n1": lambda: rock(5),
    "P6_rock_d5_n3": lambda: rock(5, 3),
    "P6_rock_d12_n1": lambda: rock(12),
    "P7_zero_info": zero_information,
    "P8_perfect": lambda: look_up(perfect=True),
    "P9_risk": lambda: risky(0.08, 0.5, "P9_risk"),
    "P9b_hard_limit_trap": hard_limit,
    "P9c_risk_lambda15": lambda: risky(0.2, 1.5, "P9c_risk_lambda15"),
    "P10_lgrssm_quad": quadratic,
    "P11_intervening_tool": intervening,
    "P12_hd16": sixteen,
    "P13_extra_key": extra_key,
    "P14_ensemble": two_models,
}
