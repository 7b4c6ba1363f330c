"""The headline: what is said of a report first, by its numbers."""

from __future__ import annotations

import dataclasses
import math

from tests.diagnose.test_page import TRUSTED, full  # noqa: F401

from bb_wm.diagnose import render_page
from bb_wm.diagnose.page import verdicts
from bb_wm.diagnose.trusted import Trusted


def with_excess(report, *values, width=0.05):
    from bb_wm.diagnose.estimates import Estimate

    excess = tuple(Estimate(v, v - width, v + width, 50) for v in values)
    drift = dataclasses.replace(report.measured.drift, excess=excess)
    return dataclasses.replace(report, measured=dataclasses.replace(report.measured, drift=drift))


def with_smells(report, **found):
    smells = tuple(
        dataclasses.replace(s, status="found", severity=found[s.name.replace(" ", "_")])
        if s.name.replace(" ", "_") in found
        else dataclasses.replace(s, status="clear")
        for s in report.smells
    )
    return dataclasses.replace(report, smells=smells)


def test_how_far_is_where_the_interval_last_lies_below_one(full):  # noqa: F811
    report = full.report
    found = with_excess(report, *[0.2] * 6, 0.97, 0.3, *[0.2] * 7)
    assert verdicts.holds(found) == 6  # at 7 steps it may be no better; later luck does not count
    found = dataclasses.replace(found, trusted=None)  # as reports were before
    assert verdicts.far(found).tone == "careful"
    assert verdicts.far(found).answer == "6 rows"
    assert verdicts.holds(with_excess(report, *[0.2] * 15)) == 15
    all_ = with_excess(dataclasses.replace(report, trusted=None), *[0.2] * 15)
    assert verdicts.far(all_).answer == "All 15 rows"
    assert verdicts.far(with_excess(report, 0.2, 0.3, 1.2, *[2.0] * 12)).tone == "bad"
    assert verdicts.holds(with_excess(report, *[math.nan] * 15)) is None


def test_how_far_says_the_promise_or_that_there_is_none(full):  # noqa: F811
    held = with_excess(full.report, *[0.2] * 15)
    card = verdicts.far(held)
    assert TRUSTED.mean == 0.25 * 2 + 0.5 * 15
    assert (card.answer, card.tone) == ("8.0 of 15 rows", "good")
    assert "0.2 standard deviations" in card.reason
    assert "at most 10\u00a0% of cases (95\u00a0% sure)" in card.reason
    short = dataclasses.replace(TRUSTED, shares=(0.0, 0.0, 1.0))
    assert verdicts.far(dataclasses.replace(held, trusted=short)).tone == "good"  # all of 2 rows
    few = dataclasses.replace(TRUSTED, shares=(0.0, 1.0, *[0.0] * 14))
    assert verdicts.far(dataclasses.replace(held, trusted=few)).tone == "careful"
    none = dataclasses.replace(TRUSTED, shares=(1.0, *[0.0] * 15), promised=False)
    card = verdicts.far(dataclasses.replace(held, trusted=none))
    assert (card.answer, card.tone) == ("No promise", "careful")
    assert card.reason.startswith("No row ahead can be promised to stay within 0.2")
    lacking = Trusted(lacking="episodes must be at least 4")
    page = dataclasses.replace(full, report=dataclasses.replace(held, trusted=lacking))
    assert verdicts.far(page.report).answer == "All 15 rows"
    assert "could not be fitted: episodes must be" in render_page(page)
    assert ' id="trusted-rows"' not in render_page(page)
    assert ' id="trusted-rows"' in render_page(full)


def test_the_lead_holds_the_error_against_doing_without_the_model(full):  # noqa: F811
    def lead(model, persistence, linear):
        paths = [p for p in full.report.evaluation.paths if p.is_model][:1]
        paths += [dataclasses.replace(paths[0], name="persistence", is_model=False)]
        paths += [dataclasses.replace(paths[0], name="ridge ARX(10)", is_model=False)]
        paths = [
            dataclasses.replace(path, nrmse=(value,) * len(path.nrmse))
            for path, value in zip(paths, (model, persistence, linear), strict=True)
        ]
        evaluation = dataclasses.replace(full.report.evaluation, paths=tuple(paths))
        return verdicts.lead(dataclasses.replace(full.report, evaluation=evaluation))

    told = lead(0.1, 0.5, 0.04)
    assert "20\u00a0% of that of saying that nothing changes and 2.50 times" in told
    assert "far above that of a linear model" in lead(0.1, 0.5, 1e-9)
    assert lead(0.1, 0.0, 0.2).count("of that of") == 1  # of nothing there is no share
    assert "could be scored" in lead(math.nan, 1.0, 1.0)


def test_a_share_is_never_shown_as_less_than_none(full):  # noqa: F811
    from bb_wm.diagnose.estimates import Estimate
    from bb_wm.diagnose.report import share
    from bb_wm.diagnose.smells import SafetyBlindSpots

    assert share(Estimate(-0.129, -0.194, 0.02, 50)) == "0 [0, 0.0200]"
    kept = full.report.measured
    for value, said in (
        (-0.129, "no risk came beyond"),
        (0.1, "0.1 of all risk (99 %: at least 0)"),
    ):
        risk = dataclasses.replace(
            kept.risk,
            hidden=Estimate(value, value - 0.2, value + 0.2, 50),
            events=50,
            event_units=9,
        )
        smell = SafetyBlindSpots().judge(dataclasses.replace(kept, risk=risk))
        assert smell.status == "clear"
        assert smell.evidence.replace("0.100", "0.1").startswith(said)


def test_a_serious_smell_says_no_and_a_warning_says_with_care(full):  # noqa: F811
    clear = with_smells(full.report)
    assert verdicts.trust(clear).tone == "good"
    assert "7 of 7" in verdicts.headline(clear)
    few = dataclasses.replace(
        clear,
        smells=tuple(
            dataclasses.replace(smell, status=status)
            for smell, status in zip(
                clear.smells, ["clear"] * 3 + ["not enough evidence"] * 4, strict=True
            )
        ),
    )
    assert (verdicts.trust(few).answer, verdicts.trust(few).tone) == ("Not known", "unknown")
    assert verdicts.headline(few).startswith("Too little evidence for a verdict: 3 of 7 checks")
    warned = with_smells(full.report, latency_creep="warning")
    assert verdicts.trust(warned).answer == "With care"
    both = with_smells(full.report, latency_creep="warning", rollout_drift="serious")
    assert verdicts.trust(both).answer == "No"
    assert verdicts.headline(both) == "Do not act on this model: rollout drift."


def test_no_risk_seen_is_not_no_risk(full):  # noqa: F811
    assert full.report.measured.risk.events == 0
    assert verdicts.risky(full.report).tone == "unknown"
