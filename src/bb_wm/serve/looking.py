"""What a look-up before a call is worth: by what such looks brought, or by imagining its answers.

Both are EVSI, its info alone: E over answers of what is then gained by making the call if it is
allowed, less its price. The look's own reward, and what it does to the world, are no reason to make
it. Held-out calls after the look know the answers that really come; a model of a few hundred calls
imagines something between them, which decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from bb_wm.decide import AskEvidence, CandidateEvidence
from bb_wm.decide.evidence import stage
from bb_wm.serve.asking import LookUp
from bb_wm.serve.experience import tool_of

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.serve.judge import Judge
    from bb_wm.types import Latent

NEAREST: Final = 40  # held-out calls that an expectation is made of
FEWEST: Final = 20  # below which there is none


@dataclass(frozen=True, slots=True)
class Worth:
    """What came of held-out calls of one tool straight after one look-up.

    risks   [n] estimates before the look
    gains   [n] what the call brought where it would have been allowed after the look, else 0
    """

    risks: np.ndarray
    gains: np.ndarray

    @classmethod
    def of(cls, calls: Iterable[tuple[float, float]]) -> Worth | None:
        """From (estimate before the look, gain); None below `FEWEST` of them."""
        known = np.array([pair for pair in calls if np.isfinite(pair).all()]).reshape(-1, 2)
        return None if len(known) < FEWEST else cls(known[:, 0], known[:, 1])

    def of_looking(self, look: LookUp, risk: float, call: CandidateEvidence) -> AskEvidence:
        """The look as an ask, where a call is expected to have this `risk`: the mean gain of the
        calls that were expected to have one like it, and its error. `call`: the look itself."""
        near = self.gains[np.argsort(np.abs(self.risks - risk), kind="stable")[:NEAREST]]
        info = float(near.mean())
        error = float(near.std(ddof=1)) / math.sqrt(len(near))
        return AskEvidence(
            look.name,
            info - look.cost,
            info - look.cost - 1.96 * error,
            info - look.cost + 1.96 * error,
            call.risk,
            call.risk_bound,
            standard_error=error,
            info=info,
            cost=look.cost,
        )


def imagined(
    judge: Judge,
    latent: Latent,
    action: np.ndarray,
    limit: float,
    look: LookUp,
    look_action: np.ndarray,
    call: CandidateEvidence,
) -> AskEvidence:
    """The look as an ask, by its imagined answers. `call`: the look itself."""
    import torch

    from bb_wm.decide import EVSI, Ask
    from bb_wm.imagine.utility import Limit, Utility

    after = judge.look_of(look_action)

    def worth(latents: Latent) -> tuple[Tensor, Tensor]:
        """Reward and bound on V_s, [N, 1] each, of making the call from each of N beliefs."""
        flat = torch.from_numpy(action).to(latents.h).expand(*latents.batch_shape, -1)
        reached = judge.model.step(latents, flat)
        risks, tool = judge.model.predict_safety(reached), tool_of(action)
        bounds = risks.new_tensor([judge.learnt_bound(tool, r, after) for r in risks.tolist()])
        return judge.model.predict_reward(reached)[..., None], bounds[..., None]

    with stage("look_up"):
        utility = Utility(discount=1.0, limit=Limit(limit), abstain=0.0)
        ask = Ask(look.name, action=torch.from_numpy(look_action).to(latent.h), cost=look.cost)
        search = EVSI(utility=utility, particles=64, answers=4, tower=False)
        found = search(judge.model, latent, ask, worth)
    told = AskEvidence.of(found, risk=call.risk, risk_bound=call.risk_bound)
    return replace(
        told,
        evsi=told.evsi - told.effect,
        lower=told.lower - told.effect,
        upper=told.upper - told.effect,
    )
