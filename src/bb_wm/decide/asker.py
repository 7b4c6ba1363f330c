"""From a learned belief to what a gate judges: candidates to do, and asks with what they are worth.

`Asker` is for asks whose answers can be listed, looked ahead by an `AskTree`. Everything it says
comes from the model; of the world it is told the candidates, and what each ask costs and may
answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from bb_wm.decide.evidence import AskEvidence, Evidence
from bb_wm.decide.evsi.tree import Asked, AskTree, ListedAsk, Seen
from bb_wm.decide.evsi.worths import worth_of
from bb_wm.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.protocols import Observer
    from bb_wm.types import Latent

_Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True, eq=False)
class Asker:
    """Evidence about beliefs [N] of a model, or [N, P] of P equally likely particles each.

    candidates  flat actions [C, H, A], each a plan of H rows; `names` [C] say what they are
    asks        what may be asked first, valued by `tree`; with `weigh` False they are only listed
                (worth NaN, which no gate asks for), for strategies that do not weigh asking
    hold        utility of doing nothing, that a candidate's gain is counted from
    """

    model: Observer
    candidates: Tensor
    names: Sequence[str]
    asks: Sequence[ListedAsk]
    tree: AskTree = field(default_factory=AskTree)
    weigh: bool = True
    hold: float = 0.0
    policy: str = "candidates"

    def __post_init__(self) -> None:
        if self.candidates.dim() != 3 or len(self.names) != self.candidates.shape[0]:
            raise ConfigError(
                "Asker.candidates",
                expected=f"actions [C, H, A] with {len(self.names)} names",
                actual=list(self.candidates.shape),
            )

    def worth(self, latent: Latent) -> tuple[Tensor, Tensor]:
        """Utility and V_s to go [N, C] of every candidate, imagined along the modes of each
        particle's z; the mean over the particles."""
        horizon = int(self.candidates.shape[1])
        utility = self.tree.utility
        found = worth_of(self.model, latent.flatten(), self.candidates, utility, horizon, None)

        def mean(values: Tensor) -> Tensor:
            return values.reshape(latent.batch_shape[0], -1, values.shape[-1]).mean(1)

        returns = mean(found.returns)
        risks = torch.zeros_like(returns) if found.risks is None else mean(found.risks)
        return returns - utility.risk_weight * risks, risks

    def look(self, latent: Latent, seen: Seen) -> Asked:
        """What each ask is worth at these beliefs, where `seen` [N, *shape] was observed last."""
        if not self.weigh:
            count = latent.batch_shape[0]
            able = [ask.open(seen) if ask.open else torch.ones(count) > 0 for ask in self.asks]
            worth = torch.where(torch.stack(able, -1), torch.nan, -torch.inf)
            return Asked(worth, worth, worth, worth)
        return self.tree(self.model, latent, seen, self.asks, self.candidates)

    def evidence(
        self, latent: Latent, seen: Seen, *, observed_at: float, asked: Asked | None = None
    ) -> list[Evidence]:
        """One Evidence per belief; `asked` where it was already looked at.

        The risk bound is the estimate itself: calibrate the model's risk and set the bound from
        that (`dataclasses.replace`) before the limit of a gate means anything outside.
        """
        with torch.no_grad():
            worth, risk = self.worth(latent)
        if asked is None and self.asks:
            asked = self.look(latent, seen)
        return [
            Evidence.of_arrays(
                utilities=worth[row].tolist(),
                risks=risk[row].tolist(),
                risk_bounds=risk[row].tolist(),
                names=self.names,
                hold_utility=self.hold,
                horizon=int(self.candidates.shape[1]),
                observed_at=observed_at,
                policy=self.policy,
                asks=() if asked is None else self._asks(asked, row),
            )
            for row in range(latent.batch_shape[0])
        ]

    def _asks(self, asked: Asked, row: int) -> tuple[AskEvidence, ...]:
        """The asks that can be made. A NaN stays one: the gate knows what to do with it."""
        found = []
        for k, ask in enumerate(self.asks):
            net, error = float(asked.evsi[row, k]), float(asked.standard_error[row, k])
            if net == float("-inf"):
                continue
            risk, info = float(asked.risk[row, k]), float(asked.info[row, k])
            found.append(
                AskEvidence(
                    name=ask.name,
                    evsi=net,
                    lower=net - _Z95 * error,
                    upper=net + _Z95 * error,
                    risk=risk,
                    risk_bound=risk,
                    standard_error=error,
                    info=info,
                )
            )
        return tuple(found)
