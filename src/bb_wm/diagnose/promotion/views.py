"""What two models say of the same states and the same plans, in numbers.

Three kinds of plans start in every held-out state:
- the logged one, the real actions that followed: its true risk is known, so both heads are
  calibrated and compared on it;
- each model's own choice, made by the same planner under the same search noise: it is what would
  be done after and before the promotion. Both models judge both choices;
- random plans, the same for both: over these and the two choices their preferences are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from bb_wm.decide.colour import coloured
from bb_wm.decide.problem import Layout
from bb_wm.decide.shooting import uniform_scores
from bb_wm.diagnose.open_loop import context_batch
from bb_wm.diagnose.windows import Windows, cut_windows, plan_windows
from bb_wm.errors import ConfigError, DataError, HorizonError
from bb_wm.imagine.rollout import rollout
from bb_wm.protocols import Dynamics, draw_noise

if TYPE_CHECKING:
    from torch import Tensor

    from bb_wm.decide.planner import Planner
    from bb_wm.diagnose.promotion.rule import PromotionRule
    from bb_wm.imagine.utility import Utility
    from bb_wm.types import ActionSpec, Batch, Episode, Latent, ObsSpec

OLD, NEW = 0, 1
_STARTS = 64  # planned at once
_ROLLOUTS = 1 << 16  # imagined at once; both bound memory


class Candidate(Dynamics, Protocol):
    """What promotion needs of a model: dynamics that also read real rows. WorldModel answers it."""

    @property
    def obs_spec(self) -> ObsSpec: ...

    @property
    def action_spec(self) -> ActionSpec: ...

    def filter(self, batch: Batch) -> Latent:
        """The belief at every real row [B, T]."""
        ...


@dataclass(frozen=True, slots=True)
class Views:
    """Numbers of S states; where there is an axis of two, it is (old, new). Risks are V_s to go.

    episode  [S]        the held-out episode of the state
    true     [S]        what really came of the logged plan
    logged   [2, S]     what each model says of the logged plan
    own      [2, 2, S]  what model j says of model i's choice: own[j, i]
    acts     [2, S]     whether the model's choice would be carried out (valid, allowed, worth it)
    sound    [2, S]     whether everything the model said was finite
    same     [S]        whether both chose the same actions
    value    [2, 2, S]  the utility that model j gives model i's choice
    wishes   [2, S, M]  utilities of the shared plans and both choices
    """

    episode: np.ndarray
    true: np.ndarray
    logged: np.ndarray
    own: np.ndarray
    acts: np.ndarray
    sound: np.ndarray
    same: np.ndarray
    value: np.ndarray
    wishes: np.ndarray


def compare_views(
    new: Candidate,
    old: Candidate,
    episodes: Sequence[Episode],
    *,
    planner: Planner,
    utility: Utility,
    rule: PromotionRule,
) -> Views:
    """Both models on the same states and plans. Raises ConfigError where they cannot be paired,
    DataError where the episodes are too short, HorizonError for a horizon a model refuses."""
    models = (old, new)
    _check_pair(old, new, planner)
    windows = choose_states(episodes, planner.horizon, rule)
    true = realised_risk(windows, utility)
    logged = torch.from_numpy(np.ascontiguousarray(windows.future, np.float32))
    with torch.no_grad():
        starts = [starting_beliefs(model, windows) for model in models]
        choices = [
            own_choices(model, start, planner, utility, rule.seed)
            for model, start in zip(models, starts, strict=True)
        ]
        shared = _shared_plans(old, planner.horizon, rule)
        own = [torch.nan_to_num(actions) for actions, _, _ in choices]
        plans = torch.cat(
            [
                logged[:, None],
                own[OLD][:, None],
                own[NEW][:, None],
                shared.expand(len(windows), *shared.shape),
            ],
            dim=1,
        )
        said = [
            _judge(model, start, plans, utility, rule)
            for model, start in zip(models, starts, strict=True)
        ]
    risks = np.stack([risk for risk, _ in said])
    values = np.stack([value for _, value in said])
    finite = np.isfinite(risks).all(-1) & np.isfinite(values).all(-1)
    valid = np.stack([good.numpy() for _, good, _ in choices])
    return Views(
        episode=windows.episode,
        true=true,
        logged=risks[..., 0],
        own=np.moveaxis(risks[..., 1:3], -1, 1),
        acts=np.stack([act.numpy() for _, _, act in choices]),
        sound=finite & valid,
        same=(own[OLD] == own[NEW]).flatten(1).all(-1).numpy(),
        value=np.moveaxis(values[..., 1:3], -1, 1),
        wishes=values[..., 1:],
    )


def choose_states(episodes: Sequence[Episode], horizon: int, rule: PromotionRule) -> Windows:
    """At most `rule.states` windows whose risk to go is known: all rows there, or the world ended.

    A window that the recording cut short says nothing of what came after, and is left out. Episodes
    take turns, since it is their number that a bound rests on.
    """
    plan = plan_windows([len(e) for e in episodes], context=rule.context, horizons=(horizon,))
    if plan.reach != horizon:
        raise DataError(
            "episodes",
            expected=f"episodes of {plan.context + horizon} rows: {plan.context} to read and "
            f"{horizon} ahead",
            actual=plan.note,
            hint="use a shorter horizon or context.",
        )
    cut = cut_windows(
        episodes, context=plan.context, reach=horizon, count=4 * rule.states, seed=rule.seed
    )
    known = np.flatnonzero(cut.target_valid.all(1) | cut.ended)
    if not known.size:
        raise DataError("episodes", expected="windows with a known end", actual="none")
    known = np.random.default_rng(rule.seed).permutation(known)
    turn = _turns(cut.episode[known])
    return cut.take(np.sort(known[np.argsort(turn, kind="stable")[: rule.states]]))


def _turns(episode: np.ndarray) -> np.ndarray:
    """For each place the number of earlier places with the same episode."""
    order = np.argsort(episode, kind="stable")
    new = np.r_[True, np.diff(episode[order]) != 0]
    first = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
    turn = np.empty(len(order), np.int64)
    turn[order] = np.arange(len(order)) - first
    return turn


def realised_risk(windows: Windows, utility: Utility) -> np.ndarray:
    """The true V_s to go [S] of the logged plans, as the utility counts it."""
    met = np.where(windows.target_valid, windows.safety[:, windows.context :], 0.0)
    if utility.over_time == "peak":
        return np.asarray(met.max(axis=1), np.float64)
    weights = utility.risk_discount ** np.arange(windows.reach)
    return np.asarray((met * weights).sum(axis=1), np.float64)


def _check_pair(old: Candidate, new: Candidate, planner: Planner) -> None:
    for name in ("obs_spec", "action_spec"):
        if getattr(old, name) != getattr(new, name):
            raise ConfigError(
                f"new.{name}",
                expected="the old model's",
                actual="another one",
                hint="models of different spaces cannot be compared on the same plans.",
            )
    for model in (old, new):
        limit = getattr(getattr(model, "config", None), "max_horizon", None)
        if limit is not None and planner.horizon > limit:
            raise HorizonError(
                "planner.horizon",
                expected=f"at most {limit}, what both models were set up for",
                actual=planner.horizon,
            )


def starting_beliefs(model: Candidate, windows: Windows) -> Latent:
    """The belief [S] at each window's last context row."""
    return model.filter(context_batch(model, windows))[:, -1]  # type: ignore[arg-type]


def own_choices(
    model: Candidate, starts: Latent, planner: Planner, utility: Utility, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The model's own plans [S, H, A], whether they are valid and would be carried out, [S]."""
    actions, valid, acts = [], [], []
    planner = replace(planner, starts_at_once=None)
    for first in range(0, starts.batch_shape[0], _STARTS):
        piece = starts[first : first + _STARTS]
        places = range(first, first + piece.batch_shape[0])
        # The search's noise comes first out of each generator: both models search alike.
        chance = [torch.Generator().manual_seed(seed * 1_000_003 + place) for place in places]
        plan = planner.plan(
            model, piece, action_spec=model.action_spec, utility=utility, generator=chance
        )
        actions.append(plan.actions.cpu().float())
        valid.append(plan.valid.cpu())
        acts.append((plan.allowed & ~plan.abstain).cpu())
    return torch.cat(actions), torch.cat(valid), torch.cat(acts)


def _shared_plans(model: Candidate, horizon: int, rule: PromotionRule) -> Tensor:
    """Random plans [M, H, A] over the action space; neighbouring steps alike, as plans are."""
    generator = torch.Generator().manual_seed(rule.seed)
    normal = draw_noise((rule.shared, horizon, model.action_size), generator)
    layout = Layout.of(model.action_spec, normal)
    return layout.realise(uniform_scores(layout, coloured(normal, 1.0)))


def _judge(
    model: Candidate, starts: Latent, plans: Tensor, utility: Utility, rule: PromotionRule
) -> tuple[np.ndarray, np.ndarray]:
    """Expected V_s to go and utility [S, M] of plans [S, M, H, A], all plans under one luck."""
    count, horizon = plans.shape[1], plans.shape[2]
    samples = rule.samples if model.noise_size else 1
    generator = torch.Generator().manual_seed(rule.seed + 1)
    step = max(1, _ROLLOUTS // (count * samples))
    risks, values = [], []
    for first in range(0, len(plans), step):
        start = starts[first : first + step]
        shape = (start.batch_shape[0], count, samples)
        noise = None
        if model.noise_size:
            size = (shape[0], samples, horizon, model.noise_size)
            drawn = draw_noise(size, generator).to(start.h)
            noise = drawn[:, None].expand(*shape, horizon, model.noise_size)
        actions = plans[first : first + step].to(start.h)
        wide = actions[:, :, None].expand(*shape, *actions.shape[2:])
        trajectory = rollout(model, start.expand(count, samples), wide, horizon, noise=noise)
        risks.append(utility.risks(trajectory).mean(-1).double().cpu().numpy())
        values.append(utility(trajectory).utility.double().cpu().numpy())
    return np.concatenate(risks), np.concatenate(values)
