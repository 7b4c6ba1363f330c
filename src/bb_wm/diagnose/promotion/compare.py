"""`promote`: the promotion rule applied to two models on the same held-out episodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bb_wm.diagnose.promotion.estimates import estimate
from bb_wm.diagnose.promotion.result import Check, Outcome, Promotion, plain
from bb_wm.diagnose.promotion.rule import PromotionRule
from bb_wm.diagnose.promotion.views import NEW, OLD, compare_views
from bb_wm.imagine.utility import Utility

if TYPE_CHECKING:
    from bb_wm.decide.planner import Planner
    from bb_wm.diagnose.promotion.estimates import Estimates
    from bb_wm.diagnose.promotion.views import Candidate, Views
    from bb_wm.types import Episode

_CALIBRATABLE = 2  # episodes; below it a table would judge what it was fitted on


def promote(
    new: Candidate,
    old: Candidate,
    episodes: Sequence[Episode],
    *,
    planner: Planner,
    utility: Utility | None = None,
    rule: PromotionRule | None = None,
) -> Promotion:
    """May `new` replace `old`? Judged on `episodes` that neither was trained on.

    In every held-out state both models plan as they would when deployed, by the same planner and
    utility under the same search noise. Delta V_s is the risk to go of the new choice minus that of
    the old one, both as the calibrated heads see them, each believed as far as the true risks of
    the logged plans bear it out. PROMOTE if, by resampling episodes, the upper bound of its 95th
    percentile over states is not above the tolerance, the new head is not blind where the old one
    saw risk, and the two models' preferences are not further apart than the trust region. REFUSE
    if there are too few episodes, or too few with risk, to say so.

    The verdict holds for these states, this planner and this utility, and for risk that shows in
    the data: what neither model nor data know of is not judged. Raises ConfigError where the two
    cannot be paired, DataError where the episodes are too short, HorizonError.
    """
    utility = Utility() if utility is None else utility
    rule = PromotionRule() if rule is None else rule
    views = compare_views(new, old, episodes, planner=planner, utility=utility, rule=rule)
    checks = [*_data_checks(views, rule), *_sound_checks(views)]
    found: Estimates | None = None
    if views.sound.all() and len(np.unique(views.episode)) >= _CALIBRATABLE:
        found = estimate(views, rule)
        checks += _risk_checks(found, views, rule)
    return Promotion(
        outcome=_outcome(checks, complete=found is not None),
        checks=tuple(checks),
        numbers=_numbers(views, found),
        settings={"rule": plain(rule), "planner": plain(planner), "utility": plain(utility)},
        tables=() if found is None else tuple(table.to_json() for table in found.tables),
    )


def _outcome(checks: Sequence[Check], *, complete: bool) -> Outcome:
    """Broken numbers block whatever the data; then data that cannot tell refuse; then the rest."""
    broken = {check.code for check in checks if not check.passed}
    if "new_sound" in broken:
        return Outcome.BLOCK
    refused = any(not c.passed and c.outcome is Outcome.REFUSE for c in checks)
    if refused or not complete:
        return Outcome.REFUSE
    return Outcome.BLOCK if broken else Outcome.PROMOTE


def _data_checks(views: Views, rule: PromotionRule) -> list[Check]:
    episodes = len(np.unique(views.episode))
    risky = len(np.unique(views.episode[views.true > 0]))
    refuse = Outcome.REFUSE
    return [
        Check(
            "episodes",
            "Number of held-out episodes",
            episodes,
            max(rule.episodes_needed, _CALIBRATABLE),
            refuse,
            at_least=True,
        ),
        Check(
            "risky_episodes",
            "Number of those with risk in the compared rows",
            risky,
            rule.risky_episodes_needed,
            refuse,
            at_least=True,
        ),
    ]


def _sound_checks(views: Views) -> list[Check]:
    broken = (~views.sound).sum(-1)
    return [
        Check(
            "new_sound",
            "States in which the new model gives no finite plan or numbers",
            float(broken[NEW]),
            0.0,
            Outcome.BLOCK,
        ),
        Check(
            "old_sound",
            "States in which the old model gives no finite plan or numbers",
            float(broken[OLD]),
            0.0,
            Outcome.REFUSE,
        ),
    ]


def _risk_checks(found: Estimates, views: Views, rule: PromotionRule) -> list[Check]:
    episodes = len(np.unique(views.episode))
    tolerance = rule.tolerance(found.old_level, found.severity, episodes)
    sure = f"{rule.confidence:.0%}"
    return [
        Check(
            "delta_risk",
            f"Percentile {100 * rule.percentile:g} of Delta V_s, upper {sure} bound",
            found.delta.bound,
            tolerance,
            Outcome.BLOCK,
        ),
        Check(
            "blind",
            f"Share of the risk seen by the old head that the new one misses, lower {sure} bound",
            found.lost.bound,
            rule.missed,
            Outcome.BLOCK,
        ),
        Check(
            "trust_region",
            f"KL(new || old) of the preferences, upper {sure} bound in nats",
            found.kl.bound,
            rule.trust,
            Outcome.BLOCK,
        ),
    ]


def _numbers(views: Views, found: Estimates | None) -> dict[str, float]:
    numbers: dict[str, float] = {
        "states": float(len(views.episode)),
        "states_with_risk": float((views.true > 0).sum()),
        "same_choice_share": float(views.same.mean()),
        "old_acts_share": float(views.acts[OLD].mean()),
        "new_acts_share": float(views.acts[NEW].mean()),
        "true_risk_of_logged_plans": float(views.true.mean()),
    }
    if found is None:
        return numbers | {"delta_risk_percentile": math.nan}
    return numbers | {
        "delta_risk_percentile": found.delta.value,
        "delta_risk_mean": found.delta_mean,
        "old_choice_risk": found.risk[OLD],
        "new_choice_risk": found.risk[NEW],
        "old_choice_risk_percentile": found.old_level,
        "utility_gained": found.gain,
        "weight_of_new_head": found.weight,
        "old_head_rmse": found.error[OLD],
        "new_head_rmse": found.error[NEW],
        "risk_lost_share": found.lost.value,
        "kl_mean": found.kl.value,
    }
