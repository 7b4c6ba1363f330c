"""The sections below the headline, each from measurements; "" where there is nothing to show."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bb_wm.diagnose.evaluation import number
from bb_wm.diagnose.page import charts
from bb_wm.diagnose.page.markup import details, figure, grid, section, table, text
from bb_wm.diagnose.page.verdicts import Tone, tone_mark
from bb_wm.diagnose.report import interval, share
from bb_wm.diagnose.smells.smell import CLEAR
from bb_wm.diagnose.tables import Table

if TYPE_CHECKING:
    from bb_wm.diagnose.calibration_curves import Curve as Calibration
    from bb_wm.diagnose.page.content import Page
    from bb_wm.diagnose.smells.smell import Smell

_MEANS = {
    "reconstruction": "Reconstruction loss (nats)",
    "kl_raw": "KL(posterior || prior), raw (nats)",
    "kl": "KL as trained on, with free bits (nats)",
    "rollout": "Rollout consistency",
    "shortcut": "Shortcut",
    "reward": "Reward error",
    "safety": "Risk error",
    "continuation": "Continuation",
    "loss": "Total loss",
    "gradient_norm": "Gradient norm",
}
_TELLS = {
    "reconstruction": "Negative log likelihood of the rows read.",
    "kl_raw": "Without free bits; below, on held-out rows.",
}
_ANCHORS = {"reconstruction": "reconstruction", "kl_raw": "kl"}
_FIRST = ("reconstruction", "kl_raw")


def learning(page: Page) -> str:
    """Reconstruction and KL first, held-out error next, the other losses folded away."""
    first: list[str] = []
    judged: list[str] = []
    rest: list[str] = []
    for name, curve in page.curves.items():
        drawn = figure(
            charts.learning(name, curve),
            title=_MEANS.get(name) or _judged(name),
            caption=_TELLS.get(name, ""),
            name=_ANCHORS.get(name, ""),
        )
        kept = first if name in _FIRST else judged if name.startswith("held-out") else rest
        kept.append(drawn)
    beliefs = _beliefs(page)
    folded = details("All other losses", grid(rest), name="other-losses") if rest else ""
    if not (first or judged or beliefs or folded):
        return ""
    note = (
        "Thin: each value in the log. Thick: their running median. KL is what a row tells beyond "
        "what was expected: near 0 everywhere, the latent is not used."
    )
    return section(
        "learning", "How it learnt", grid([*first, *beliefs]), _held_out(judged), folded, note=note
    )


def _judged(name: str) -> str:
    """ "held-out shortcut_nrmse_5" for someone who reads it the first time."""
    found = re.fullmatch(r"held-out (shortcut_)?nrmse_(\d+)", name)
    if found is None:
        return name.replace("_", " ")
    path = ", shortcut" if found[1] else ""
    return f"Error {found[2]} row{'' if found[2] == '1' else 's'} ahead{path} (NRMSE)"


def _held_out(figures: list[str]) -> str:
    if not figures:
        return ""
    return details(f"{len(figures)} held-out errors while training", grid(figures), name="held-out")


def _beliefs(page: Page) -> list[str]:
    """KL by row read, by rows imagined, by variable, and reconstruction by row read."""
    if page.report is None:
        return []
    kept = page.report.measured.beliefs
    drawn = [
        (
            "kl-rows",
            "KL by row read (nats)",
            charts.by_step("KL", "rows read", {"mode": kept.kl_by_row}),
            f"The first row tells most: {interval(kept.first_kl)} nats.",
        ),
        (
            "kl-horizon",
            "KL by rows imagined (nats)",
            charts.by_step("KL", "rows imagined", {"mode": kept.kl_by_horizon}),
            "Between what is believed after seeing a row and what was imagined of it.",
        ),
        (
            "kl-variables",
            "KL by variable of z (nats)",
            charts.bars("KL by variable", "variables of z, largest first", kept.kl_by_variable),
            f"Share of a first row that z tells: {share(kept.use)}.",
        ),
        (
            "reconstruction-rows",
            "Reconstruction error by row read",
            charts.by_step("reconstruction error", "rows read", {"mode": kept.reconstruction}),
            "Squared error on held-out rows; 1 is what a constant has.",
        ),
    ]
    return [figure(d, title=title, caption=text(told), name=name)
            for name, title, d, told in drawn if d]  # fmt: skip


def calibrated(page: Page) -> str:
    """Reward and risk, in their row and imagined; Delta V_s against the true change."""
    if page.report is None:
        return ""
    kept = page.report.measured
    k = kept.ahead
    shown = [
        ("reward-calibration", "Reward, in its row", kept.reward),
        ("imagined-reward", f"Reward, {k} rows ahead", kept.imagined_reward),
        ("risk-reliability", "Risk V_s, in its row", kept.risk.curve),
        ("delta-risk", f"Delta V_s over {k} rows", kept.delta_risk),
    ]
    figures = [_calibration(name, title, curve) for name, title, curve in shown]
    note = (
        "Each dot is a tenth of the held-out rows with about the same prediction: what was said on "
        "average against what came. On the dashed diagonal it is true; larger risk is worse."
    )
    return section("calibration", "Is what it says true?", grid(figures, four=True), note=note)


def _calibration(name: str, title: str, curve: Calibration) -> str:
    drawn = charts.calibration(title, curve)
    if not drawn:
        told = '<p class="note">No rows to compare.</p>'
        return figure(told, title=title, name=name)
    caption = (
        f"{curve.count} rows. Slope {number(curve.slope)} (1 is right), mean error "
        f"{interval(curve.bias)}, RMSE {number(curve.rmse)}; always saying the mean has "
        f"{number(curve.spread)}."
    )
    return figure(drawn, title=title, caption=text(caption), name=name)


def smells(page: Page) -> str:
    """Every smell: found ones open with what to do, the others with why they are not there."""
    if page.report is None:
        return ""
    items = "".join(_smell(smell) for smell in page.report.smells)
    note = (
        "Named ways to fail, looked for in held-out evidence. Where there is too little of it, no "
        "verdict is given rather than a kind one."
    )
    return section("smells", "Failure smells", f'<ul class="smells">{items}</ul>', note=note)


def tone_of(smell: Smell) -> Tone:
    """How a smell is shown."""
    if smell.found:
        return "bad" if smell.severity == "serious" else "careful"
    return "good" if smell.status == CLEAR else "unknown"


def _smell(smell: Smell) -> str:
    tone = tone_of(smell)
    word = smell.severity if smell.found else smell.status
    where = f" Most in episode {smell.episode}, row {smell.row}." if smell.episode >= 0 else ""
    evidence = _capital(smell.evidence)
    advice = f"<p><b>What to do.</b> {text(smell.advice)}</p>" if smell.found else ""
    why = f'<p class="why">Held against {number(smell.threshold)}: {text(smell.reason)}.</p>'
    mark = smell.name.lower().replace(" ", "-")
    folded = why if smell.found else details("Threshold and reason", why, name=f"why-{mark}")
    return (
        f'<li class="is-{tone}" id="smell-{text(mark)}"><h3>{text(_capital(smell.name))} '
        f"{tone_mark(tone, word)}</h3><p>{text(evidence)}{where}</p>{advice}{folded}</li>"
    )


def alarms(page: Page) -> str:
    """Found smells right below the headline, each with what to do."""
    found = () if page.report is None else page.report.found
    if not found:
        return ""
    return f'<ul class="smells alarms">{"".join(_alarm(smell) for smell in found)}</ul>'


def _alarm(smell: Smell) -> str:
    tone = tone_of(smell)
    mark = smell.name.lower().replace(" ", "-")
    return (
        f'<li class="is-{tone}"><h3>{text(_capital(smell.name))} {tone_mark(tone, smell.severity)}'
        f'</h3><p>{text(smell.advice)} <a href="#smell-{text(mark)}">Evidence</a></p></li>'
    )


def asking(page: Page) -> str:
    """EVSI estimates against realised gains, alarms, and the newest decisions."""
    ledger = page.ledger
    if ledger is None:
        if page.report is None:
            return ""
        told = (
            '<p class="note">No ledger: no decisions were recorded with this model, so nothing is '
            "known of how its EVSI estimates compare with realised gains.</p>"
        )
        return section("evsi", "Was asking worth it?", told)
    counts = ", ".join(f"{count} {name}" for name, count in ledger.counts.items()) or "none"
    settled = ledger.calibration
    lines = (
        ("decisions", *(str(one.n) for one in settled)),
        ("estimated EVSI", *(number(one.mean_estimate) for one in settled)),
        (
            "realised gain",
            *(f"{number(one.mean_gain)} (se {number(one.mean_gain_error)})" for one in settled),
        ),
        ("slope", *(f"{number(one.slope)} (se {number(one.slope_error)})" for one in settled)),
    )
    header = ("settled by", *(one.method for one in settled))
    parts = [f"<p>Decisions: {text(counts)}; {ledger.outcomes} with an outcome.</p>"]
    if settled:
        shown = table(Table("EVSI estimates against realised gains", header, lines))
        drawn = figure(
            f'<div class="beside">{charts.gains(settled)}{shown}</div>',
            title="Estimated EVSI against realised gain",
            caption="Whiskers: two standard errors. On the diagonal the estimates come true.",
            wide=True,
        )
        parts.append(grid([drawn]))
    else:
        parts.append(
            '<p class="note">No decision was settled by lot, so estimates cannot be held against '
            "gains: the gate's own choices would be a selected sample.</p>"
        )
    parts += [f"<p>{tone_mark('careful', alarm.name)} {text(alarm.reason)}</p>"
              for alarm in ledger.alarms]  # fmt: skip
    if ledger.rows:
        newest = table(_decisions(ledger.rows), words=(6,))
        parts.append(details(f"The newest {len(ledger.rows)} decisions", newest, name="decisions"))
    note = "Realised gain is the return after asking, its cost included, less the return without."
    return section("evsi", "Was asking worth it?", *parts, note=note)


def _decisions(rows: Any) -> Table:
    def shown(value: Any) -> str:
        return "-" if value is None else number(float(value))

    cells = tuple(
        (
            str(row["id"])[:8],
            str(row["verdict"]),
            str(row["choice"] or "-"),
            shown(row["gain"]),
            shown(row["evsi"]),
            shown(row["realised_return"]),
            str(row["reason"]),
        )
        for row in rows
    )
    header = ("decision", "verdict", "choice", "gain", "EVSI", "return", "reason")
    return Table("Newest decisions", header, cells)


def promotions(page: Page) -> str:
    """Recorded verdicts on replacing a model, newest first."""
    if not page.promotions:
        return ""
    items = "".join(_promotion(entry) for entry in reversed(page.promotions))
    note = "May a new model replace an old one? Only where risk does not rise."
    return section("promotion", "Promotion", f'<ul class="smells">{items}</ul>', note=note)


def _promotion(entry: Mapping[str, Any]) -> str:
    verdict = str(entry.get("verdict", ""))
    tones: dict[str, Tone] = {"PROMOTE": "good", "BLOCK": "bad", "REFUSE": "unknown"}
    tone = tones.get(verdict, "unknown")
    names = (str(entry.get(side, {}).get("path", "?")) for side in ("new", "old"))
    rows = tuple(
        (
            str(check.get("what", "")),
            _plain(check.get("value")),
            f"{'at least' if check.get('at_least') else 'at most'} {_plain(check.get('limit'))}",
            "ok" if check.get("passed") else str(check.get("breach", "")),
        )
        for check in entry.get("checks", ())
    )
    checks = table(Table("Conditions", ("", "value", "must be", ""), rows))
    folded = details("Conditions", checks, name=f"promotion-{text(entry.get('number', 0))}")
    made = str(entry.get("made_at", ""))
    return (
        f'<li class="is-{tone}"><h3>{text(" over ".join(names))} {tone_mark(tone, verdict)}</h3>'
        f"<p>{text(entry.get('reason', ''))}</p><p class='why'>{text(made)}</p>{folded}</li>"
    )


def figures(page: Page) -> str:
    """Every number of the report as tables, folded."""
    if page.report is None:
        return ""
    tables = [one for one in page.report.tables() if one.title != "Smells"]
    shown = "".join(
        details(one.title, table(one), name=f"table-{i}") for i, one in enumerate(tables)
    )
    note = (
        "<b>mode</b> imagines through the latent prior, taking its most probable value; "
        "<b>shortcut</b> predicts the next observation directly and reads it again. Both, and the "
        "baselines, see the same real rows and are given the same real actions. "
        "<b>Persistence</b> says that nothing changes, <b>ridge ARX</b> is a linear model."
    )
    return section("figures", "All figures", f'<div class="tables">{shown}</div>', note=note)


def origins(page: Page) -> str:
    """Configuration and provenance."""
    parts = []
    if page.provenance:
        rows = tuple((str(name), _plain(value)) for name, value in page.provenance.items())
        parts.append(table(Table("Provenance", ("", ""), rows)))
    if page.config:
        plain = json.dumps(page.config, indent=2, ensure_ascii=False, default=str)
        inside = f'<pre tabindex="0">{text(plain)}</pre>'
        parts.append(details("All settings", inside, name="settings"))
    return section("origins", "Configuration and provenance", *parts) if parts else ""


def _plain(value: object) -> str:
    if isinstance(value, float) and not isinstance(value, bool):
        return "-" if math.isnan(value) else number(value)
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_plain(one)}" for name, one in value.items())
    return "-" if value is None else str(value)


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:] if name[:2] != "z " else name
