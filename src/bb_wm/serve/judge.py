"""The judge: what a run's model says of a call, as evidence for a gate.

Everything comes from the run folder: the model, which tools, shapes and texts were recorded, how
often, and the margin of its risk on held-out conversations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bb_wm.decide import AskEvidence, CandidateEvidence, Evidence
from bb_wm.decide.evidence import stage
from bb_wm.errors import ConfigError, DataError
from bb_wm.serve.asking import LookUp, person_evidence, refused_look
from bb_wm.serve.bounds import Alarm, Grounds, Margin, Prior
from bb_wm.serve.calls import ToolCall
from bb_wm.serve.conversation import Obs, masked_action, masked_obs
from bb_wm.serve.experience import Experience, tool_of
from bb_wm.serve.featurise import (
    CODE,
    ERROR_AT,
    KEY,
    REFUSALS_AT,
    SHAPE_AT,
    Featuriser,
    Known,
)
from bb_wm.serve.heldout import JudgedCall, judged_calls
from bb_wm.serve.looking import Worth, imagined
from bb_wm.serve.telling import summary

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.rssm import WorldModel
    from bb_wm.serve.recording import Recording
    from bb_wm.types import Episode, Latent

_SAMPLES: Final = 32  # imagined outcomes per call, under one fixed noise


@dataclass(frozen=True, slots=True)
class Judge:
    """A trained model of tool calls, with what it needs to be believed.

    learnt     what the rows learnt from have seen
    known      texts that have a code
    harmful    codes of tools that did harm there, or in what was held out
    margins    of tools that did no harm, and of those that did
    alarm      of those that did
    looks      the same of calls made straight after a look-up, by its action; `margins` and `alarm`
               are then of the others: what was tested after a look says nothing of calls without
    worths     what look-ups brought there, by (tool, look-up)
    missed     held-out calls beyond the limit that would have been allowed
    limit      the gate's, as far as it was told
    names      of tools by their code, where the recording tells them
    """

    model: WorldModel
    featuriser: Featuriser
    learnt: Experience
    known: Known
    harmful: frozenset[bytes]
    margins: tuple[Margin, Margin]
    alarm: Alarm = field(default_factory=Alarm)
    looks: Mapping[bytes, Grounds] = field(default_factory=dict)
    worths: Mapping[tuple[bytes, bytes], Worth] = field(default_factory=dict)
    missed: int = 0
    limit: float = math.inf
    name: str = ""
    prior: Prior = field(default_factory=Prior)
    names: Mapping[bytes, str] = field(default_factory=dict)

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
        look_ups: Sequence[LookUp] = (),
    ) -> Judge:
        """From a run folder of `bb-wm train`. Conversations that are in `recording` and not in the
        run came later: they are held out too. Calls straight after one of `look_ups` are tested
        apart. Raises ConfigError, CheckpointError, VersionError, DataError: what is damaged or made
        for other calls is not used."""
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
            names=None if recording is None else recording.names(),
            look_ups=look_ups,
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
        names: Mapping[bytes, str] | None = None,
        look_ups: Sequence[LookUp] = (),
    ) -> Judge:
        """From a model, the conversations it learnt from and others held out.

        `limit` is the gate's: the margins are then made of the held-out calls that are expected to
        stay within it, the alarm of those that went beyond. What is expected beyond is held
        whatever its margin, and its errors, large where harm was foreseen but did not come, say
        nothing of the calls that may be allowed.
        """
        if not 0.5 <= coverage < 1:
            raise ConfigError("coverage", expected="within [0.5, 1)", actual=coverage)
        if not train:
            raise DataError("run", expected="recorded conversations", actual="none")
        learnt = Experience.of(train)
        known = Known(frozenset(learnt.texts), grow=False)
        untested = Grounds.of([], limit, coverage)
        judge = cls(
            model,
            featuriser,
            learnt,
            known,
            # harm is harm, learnt from or not
            frozenset(learnt.harmful) | frozenset(Experience.of(heldout).harmful),
            (untested.margin, untested.margin),
            looks={
                masked_action(featuriser.act(look.call), known).tobytes(): untested
                for look in look_ups
            },
            limit=limit,
            name=name,
            prior=prior or Prior(),
            names=dict(names or {}),
        )
        return judge._calibrated(heldout, coverage)

    def _calibrated(self, heldout: Sequence[Episode], coverage: float) -> Judge:
        """The same with the margins and the alarm that held-out conversations give."""
        calls = list(judged_calls(self, heldout))

        def grounds(chosen: Callable[[JudgedCall], bool]) -> Grounds:
            pairs = [(one.risk, one.harm) for one in calls if chosen(one)]
            return Grounds.of(pairs, self.limit, coverage)

        def after(look: bytes) -> Grounds:
            return grounds(lambda one: one.tool in self.harmful and one.after == look)

        safe, harmful = grounds(lambda one: one.tool not in self.harmful), after(b"")
        judge = replace(
            self,
            margins=(safe.margin, harmful.margin),
            alarm=harmful.alarm,
            looks={look: after(look) for look in self.looks},
        )
        beyond = self.limit if math.isfinite(self.limit) else 0.0
        missed = [one for one in calls if one.harm > beyond and judge._would_allow(one)]
        return replace(judge, missed=len(missed), worths=judge._worths(calls))

    def _would_allow(self, one: JudgedCall) -> bool:
        return self.learnt_bound(one.tool, one.risk, one.after) <= self.limit

    def _worths(self, calls: Sequence[JudgedCall]) -> dict[tuple[bytes, bytes], Worth]:
        """What having looked brought in held-out calls of tools that did harm."""
        found: dict[tuple[bytes, bytes], list[tuple[float, float]]] = {}
        for one in calls:
            if one.after and one.tool in self.harmful:
                gain = max(one.reward, 0.0) if self._would_allow(one) else 0.0
                found.setdefault((one.tool, one.after), []).append((one.before, gain))
        made = {key: Worth.of(pairs) for key, pairs in found.items()}
        return {key: worth for key, worth in made.items() if worth is not None}

    # --- belief --------------------------------------------------------------------------------

    def goes_on(self, action: np.ndarray) -> bool:
        """Whether the row that this action [A] led to is for the model to see. A refused call did
        nothing; a model that never learnt from one would take it for something that was done."""
        return bool(action[0]) or self.learnt.refused > 0

    def sees(self, obs: Obs) -> Obs:
        """What the model may see of a row: no unknown text, no refusals it never learnt from."""
        seen = masked_obs(obs, self.known)
        if not self.learnt.refused:
            seen[KEY][REFUSALS_AT] = 0.0
        return seen

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

    def is_known(self, action: np.ndarray) -> bool:
        """Whether the tool and the shape of arguments of this call [A] were recorded."""
        shape = action[SHAPE_AT : SHAPE_AT + CODE].tobytes()
        return tool_of(action) in self.learnt.calls and shape in self.learnt.shapes

    def after(self, action: np.ndarray, obs: Obs) -> bytes:
        """Which look-up a call comes straight after, where the last one made was `action` [A] and
        led to `obs`; b"" where it was none or failed. Texts may be masked or not."""
        return b"" if obs[KEY][ERROR_AT] else self.look_of(masked_action(action, self.known))

    def look_of(self, action: np.ndarray) -> bytes:
        """Which look-up this masked action [A] is, of those that calls were tested after; b"" where
        it is none of them."""
        made = action.tobytes()
        return made if made in self.looks else b""

    @property
    def heldout_harm(self) -> int:
        """How many held-out calls did harm, after a look-up or not."""
        return self.alarm.calls + sum(one.alarm.calls for one in self.looks.values())

    def grounds(self, after: bytes) -> Grounds:
        """What tools that have done harm were tested on, straight after this look-up."""
        return self.looks[after] if after else Grounds(self.margins[True], self.alarm)

    def learnt_bound(self, tool: bytes, risk: float, after: bytes = b"") -> float:
        """The bound on V_s of a call of a tool (its code) with this estimated risk, hints apart."""
        if tool in self.harmful:
            return self.grounds(after).bound(risk)
        return self.margins[False].bound(risk)

    def presumed(self, call: ToolCall, tool: bytes) -> float:
        """The least bound that the hints of a call leave; `tool` is its tool's code."""
        return self.prior.of(call.hints, self.learnt.calls[tool])

    def weigh(
        self, latent: Latent, call: ToolCall, action: np.ndarray, after: bytes = b""
    ) -> CandidateEvidence:
        """Reward, risk and its bound of one call; an unknown call has the bound inf."""
        reward, risk = self.outcomes(latent, action)
        mean_risk = float(risk.mean())
        spread = float(reward.std(correction=1)) / math.sqrt(reward.shape[0])
        tool = tool_of(action)
        bound = math.inf
        if self.is_known(action):
            learnt = self.learnt_bound(tool, mean_risk, after)
            bound = max(learnt, self.presumed(call, tool))
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

        with torch.no_grad(), stage("model"):
            wide = latent[0].expand(_SAMPLES)
            flat = torch.from_numpy(action).to(wide.h).expand(_SAMPLES, -1)
            reached = self.model.step(wide, flat, _chances(self.model.noise_size))
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
        after: bytes = b"",
    ) -> Evidence:
        """What a gate is told of `call`. `person`: the price of asking one, None: nobody to ask;
        `after`: the look-up it comes straight after."""
        one = self.weigh(latent, call, action, after)
        known = self.is_known(action)
        looks = look_ups if known and not one.risk_bound <= limit else ()
        asks = [self._look(latent, call, action, limit, *pair) for pair in looks]
        asks = [ask for ask in asks if ask.usable]
        if person is not None and (known or not call.hints.may_destroy):
            asks.append(person_evidence(one, limit, self.prior.risk, person))
        if asks and not math.isfinite(one.risk_bound):
            # a number the gate can weigh, and never within its limit
            one = replace(one, risk_bound=max(one.risk, self.prior.risk) + limit + 1.0)
        return Evidence(
            candidates=(one,),
            asks=tuple(asks),
            hold_utility=0.0,
            horizon=1,
            observed_at=observed_at,
            policy="agent",
            deadline=deadline,
        )

    def _look(
        self,
        latent: Latent,
        call: ToolCall,
        action: np.ndarray,
        limit: float,
        look: LookUp,
        look_action: np.ndarray,
    ) -> AskEvidence:
        """What a look first is worth: the call may turn out harmless and be allowed after it."""
        tool, after = tool_of(action), self.look_of(look_action)
        risks = self.weigh(latent, look.call, look_action)
        # what seeing more cannot take away
        if max(self.learnt_bound(tool, 0.0, after), self.presumed(call, tool)) > limit:
            return refused_look(look, risks)
        worth = self.worths.get((tool, after))
        if worth is None:
            return imagined(self, latent, action, limit, look, look_action, risks)
        return worth.of_looking(look, float(self.outcomes(latent, action)[1].mean()), risks)

    def summary(self) -> str:
        """One line for a person: what this judge rests on."""
        return summary(self)


@cache
def _chances(size: int) -> Tensor:
    """The one noise [S, size] that every call is judged under."""
    import torch

    from bb_wm.protocols import draw_noise

    return draw_noise((_SAMPLES, size), torch.Generator().manual_seed(0))


def _batched(obs: Obs) -> dict[str, Any]:
    return {key: value[None] for key, value in obs.items()}
