"""The judge: what a run's model says of a call, as evidence for a gate.

Everything comes from the run folder: the model, which tools, shapes and texts were recorded, how
often, and the margin of its risk on held-out conversations.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bb_wm.decide import AskEvidence, CandidateEvidence, Evidence
from bb_wm.decide.evidence import stage
from bb_wm.errors import ConfigError, DataError
from bb_wm.serve.asking import LookUp, person_evidence, refused_look
from bb_wm.serve.bounds import Margin, Prior, fewest
from bb_wm.serve.calls import ToolCall
from bb_wm.serve.experience import experience_of
from bb_wm.serve.featurise import (
    CODE,
    SHAPE_AT,
    TOOL,
    Featuriser,
    Known,
    call_places,
    tool_code,
)

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.rssm import WorldModel
    from bb_wm.serve.conversation import Obs
    from bb_wm.serve.recording import Recording
    from bb_wm.types import Episode, Latent

_ENOUGH: Final = 2_000  # held-out calls that a margin is made from
_SAMPLES: Final = 32  # imagined outcomes per call, under one fixed noise


@dataclass(frozen=True, slots=True)
class Judge:
    """A trained model of tool calls, with what it needs to be believed.

    recorded   calls per tool code in the rows learnt from
    shapes     codes of argument shapes there
    known      texts that have a code
    harmful    codes of tools that did harm there, or in what was held out
    margins    of tools that did no harm, and of those that did
    """

    model: WorldModel
    featuriser: Featuriser
    recorded: Counter[bytes]
    shapes: frozenset[bytes]
    known: Known
    harmful: frozenset[bytes]
    margins: tuple[Margin, Margin]
    name: str = ""
    prior: Prior = field(default_factory=Prior)

    @classmethod
    def load(
        cls,
        run: str | Path,
        featuriser: Featuriser | None = None,
        *,
        coverage: float = 0.95,
        prior: Prior | None = None,
        limit: float = math.inf,
        recording: Recording | None = None,
    ) -> Judge:
        """From a run folder of `bb-wm train`. Conversations that are in `recording` and not in the
        run came later: they are held out too. Raises ConfigError, CheckpointError, VersionError,
        DataError: what is damaged or made for other calls is not used."""
        from bb_wm.data import EpisodeStore
        from bb_wm.learn.run import Run

        opened = Run.open(run)
        made = featuriser or Featuriser()
        model = opened.load_model()
        made.check_same(model.obs_spec, model.action_spec)

        def rows(folder: Path) -> list[Episode]:
            if not (folder / "store.json").exists():
                return []
            with EpisodeStore(folder, model.obs_spec, model.action_spec, mode="r") as store:
                return list(store)

        train, heldout = rows(opened.episodes), rows(opened.heldout)
        if recording is not None:
            heldout = [*heldout, *recording.besides([*train, *heldout])]
        return cls.of(
            model,
            made,
            train,
            heldout,
            coverage=coverage,
            prior=prior,
            limit=limit,
            name=opened.name,
        )

    @classmethod
    def of(
        cls,
        model: WorldModel,
        featuriser: Featuriser,
        train: Sequence[Episode],
        heldout: Sequence[Episode],
        *,
        coverage: float = 0.95,
        prior: Prior | None = None,
        limit: float = math.inf,
        name: str = "",
    ) -> Judge:
        """From a model, the conversations it learnt from and others held out.

        `limit` is the gate's: the margins are then made of the held-out calls that are expected to
        stay within it. What is expected beyond is held whatever its margin, and its errors, large
        where harm was foreseen but did not come, say nothing of the calls that may be allowed.
        """
        if not 0.5 <= coverage < 1:
            raise ConfigError("coverage", expected="within [0.5, 1)", actual=coverage)
        if not train:
            raise DataError("run", expected="recorded conversations", actual="none")
        recorded, shapes, texts, harmful = experience_of(train)
        harmful |= experience_of(heldout)[3]  # harm is harm, learnt from or not
        judge = cls(
            model,
            featuriser,
            recorded,
            frozenset(shapes),
            Known(frozenset(texts), grow=False),
            frozenset(harmful),
            (Margin.of([], coverage), Margin.of([], coverage)),
            name,
            prior or Prior(),
        )
        errors = judge._errors(heldout, limit)
        margins = Margin.of(errors[False], coverage), Margin.of(errors[True], coverage)
        return replace(judge, margins=margins)

    # --- belief --------------------------------------------------------------------------------

    def begin(self, obs: Obs) -> Latent:
        """The belief at the start of a conversation."""
        import torch

        with torch.no_grad():
            return self.model.encode(_batched(obs))

    def go_on(self, latent: Latent, action: np.ndarray, obs: Obs) -> Latent:
        """The belief after a call [A] and what was seen then."""
        import torch

        with torch.no_grad():
            return self.model.encode(_batched(obs), latent, action[None])

    # --- evidence ------------------------------------------------------------------------------

    def is_known(self, call: ToolCall, action: np.ndarray) -> bool:
        """Whether the tool and this shape of arguments were recorded."""
        shape = action[SHAPE_AT : SHAPE_AT + CODE].tobytes()
        return tool_code(call).tobytes() in self.recorded and shape in self.shapes

    def weigh(self, latent: Latent, call: ToolCall, action: np.ndarray) -> CandidateEvidence:
        """Reward, risk and its bound of one call; an unknown call has the bound inf."""
        reward, risk = self.outcomes(latent, action)
        mean_risk = float(risk.mean())
        spread = float(reward.std(correction=1)) / math.sqrt(reward.shape[0])
        code = tool_code(call).tobytes()
        bound = math.inf
        if self.is_known(call, action):
            learnt = self.margins[code in self.harmful].bound(mean_risk)
            bound = max(learnt, self.prior.of(call.hints, self.recorded[code]))
        return CandidateEvidence(
            name=call.shown,
            utility=float(reward.mean()),
            risk=mean_risk,
            risk_bound=bound,
            standard_error=spread,
        )

    def outcomes(self, latent: Latent, action: np.ndarray) -> tuple[Tensor, Tensor]:
        """Reward and V_s of the next row, [S] each, over a fixed set of chances."""
        import torch

        from bb_wm.protocols import draw_noise

        with torch.no_grad(), stage("model"):
            chance = torch.Generator().manual_seed(0)
            noise = draw_noise((_SAMPLES, self.model.noise_size), chance)
            wide = latent[0].expand(_SAMPLES)
            flat = torch.from_numpy(action).to(wide.h).expand(_SAMPLES, -1)
            reached = self.model.step(wide, flat, noise)
            return self.model.predict_reward(reached), self.model.predict_safety(reached)

    def evidence(
        self,
        latent: Latent,
        call: ToolCall,
        action: np.ndarray,
        *,
        limit: float,
        observed_at: float,
        deadline: float,
        look_ups: Sequence[tuple[LookUp, np.ndarray]] = (),
        person: float | None = None,
    ) -> Evidence:
        """What a gate is told of `call`. `person`: the price of asking one, None: nobody to ask."""
        one = self.weigh(latent, call, action)
        asks: list[AskEvidence] = []
        bounded = math.isfinite(one.risk_bound)
        if bounded and one.risk_bound > limit:
            asks = [self._look(latent, one, action, limit, *pair) for pair in look_ups]
        known = self.is_known(call, action)
        if person is not None and (known or not call.hints.may_destroy):
            asks.append(person_evidence(one, limit, self.prior.risk, person))
            if not bounded:  # a number the gate can weigh, and never within its limit
                one = replace(one, risk_bound=max(one.risk, self.prior.risk) + limit + 1.0)
        return Evidence(
            candidates=(one,),
            asks=tuple(ask for ask in asks if ask.usable),
            hold_utility=0.0,
            horizon=1,
            observed_at=observed_at,
            policy="agent",
            deadline=deadline,
        )

    def _look(
        self,
        latent: Latent,
        one: CandidateEvidence,
        action: np.ndarray,
        limit: float,
        look: LookUp,
        look_action: np.ndarray,
    ) -> AskEvidence:
        """What a look first is worth: the call may turn out harmless and be allowed after it.

        EVSI's info alone: the look's own reward, and what it does to the world, are no reason to
        make it.
        """
        import torch

        from bb_wm.decide import EVSI, Ask
        from bb_wm.imagine.utility import Limit, Utility

        margin = one.risk_bound - one.risk  # the bound's share that seeing more cannot take away
        with stage("look_up"):
            risks = self.weigh(latent, look.call, look_action)
            if margin >= limit:
                return refused_look(look, risks)
            utility = Utility(discount=1.0, limit=Limit(limit), abstain=0.0)
            ask = Ask(look.name, action=torch.from_numpy(look_action).to(latent.h), cost=look.cost)
            search = EVSI(utility=utility, particles=64, answers=4, tower=False)
            found = search(self.model, latent, ask, lambda at: self._worth(at, action, margin))
            told = AskEvidence.of(found, risk=risks.risk, risk_bound=risks.risk_bound)
            return replace(
                told,
                evsi=told.evsi - told.effect,
                lower=told.lower - told.effect,
                upper=told.upper - told.effect,
            )

    def _worth(self, latents: Latent, action: np.ndarray, margin: float) -> tuple[Tensor, Tensor]:
        """Reward and bound on V_s, [N, 1] each, of making the call from each of N beliefs."""
        import torch

        flat = torch.from_numpy(action).to(latents.h).expand(*latents.batch_shape, -1)
        reached = self.model.step(latents, flat)
        reward = self.model.predict_reward(reached)
        return reward[..., None], self.model.predict_safety(reached)[..., None] + margin

    def _errors(self, episodes: Iterable[Episode], limit: float) -> dict[bool, list[float]]:
        """Held-out errors V_s - risk of every call made whose risk is at most `limit` (or NaN), by
        whether its tool has done harm."""
        import torch

        errors: dict[bool, list[float]] = {False: [], True: []}
        for episode in episodes:
            actions = np.stack([self.known.masked(a, call_places()) for a in episode.action])
            with torch.no_grad():
                beliefs = self.model.filter(self._rows(episode, actions))
            for t in range(len(episode) - 1):
                if not actions[t][0]:  # a refused call did nothing
                    continue
                risk = float(self.outcomes(beliefs[:, t], actions[t])[1].mean())
                if risk > limit:
                    continue
                code = actions[t][1 : 1 + TOOL].tobytes()
                errors[code in self.harmful].append(float(episode.safety[t + 1]) - risk)
            if len(errors[False]) + len(errors[True]) >= _ENOUGH:
                break
        return errors

    def _rows(self, episode: Episode, actions: np.ndarray) -> dict[str, Any]:
        """One episode as a batch of one, its texts masked."""
        length = len(episode)
        obs = [self._known_obs(episode, t) for t in range(length)]
        ended = np.zeros((1, length), bool)
        ended[0, -1] = episode.terminated
        return {
            "obs": {key: np.stack([row[key] for row in obs])[None] for key in obs[0]},
            "action": actions[None],
            "reward": episode.reward[None],
            "safety": episode.safety[None],
            "terminated": ended,
            "is_first": (np.arange(length) == 0)[None],
        }

    def _known_obs(self, episode: Episode, t: int) -> Obs:
        from bb_wm.serve.conversation import masked_obs

        return masked_obs({key: values[t] for key, values in episode.obs.items()}, self.known)

    def summary(self) -> str:
        """One line for a person: what this judge rests on."""
        safe, harmful = self.margins
        least = fewest(safe.coverage)
        parts = [
            f"{sum(self.recorded.values())} calls of {len(self.recorded)} tools learnt from",
            f"margin {safe.margin:.3g} from {safe.calls} held-out calls of harmless tools",
            f"{harmful.margin:.3g} from {harmful.calls} of tools that did harm"
            + ("" if math.isfinite(harmful.margin) else f" ({least} needed: always held)"),
        ]
        return "; ".join(parts)


def _batched(obs: Obs) -> dict[str, Any]:
    return {key: value[None] for key, value in obs.items()}
