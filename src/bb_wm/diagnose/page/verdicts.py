"""The headline: can I trust it, how far, how risky, how fast. One card each, from measurements."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from bb_wm.diagnose.evaluation import number
from bb_wm.diagnose.page.markup import text
from bb_wm.diagnose.smells.smell import UNKNOWN

if TYPE_CHECKING:
    from bb_wm.diagnose.report import Report

Tone = Literal["good", "careful", "bad", "unknown"]
WORDS: Final[dict[Tone, str]] = {
    "good": "good",
    "careful": "with care",
    "bad": "problem",
    "unknown": "not known",
}
_MARKS: Final[dict[Tone, str]] = {  # a shape for each, for those who do not see the colour
    "good": '<circle cx="7" cy="7" r="6" fill="currentColor"/>',
    "careful": '<path d="M7 1 13 13H1z" fill="currentColor"/>',
    "bad": '<path d="M2 2h10v10H2z" fill="currentColor"/>',
    "unknown": '<circle cx="7" cy="7" r="5" fill="none" stroke="currentColor" stroke-width="2"/>',
}
SHORTEST: Final = 5  # steps: the shortest horizon that section 5 of the specification plans with
USUAL: Final = 10


@dataclass(frozen=True, slots=True)
class Card:
    """A question, its short answer, how good that is, and the figures behind it."""

    question: str
    answer: str
    tone: Tone
    reason: str


def headline(report: Report) -> str:
    """One sentence for the top of the page."""
    found = report.found
    serious = [smell.name for smell in found if smell.severity == "serious"]
    if serious:
        return f"Do not act on this model: {_listed(serious)}."
    if found:
        return f"Usable with care: {_listed([smell.name for smell in found])}."
    made, all_ = _checked(report), len(report.smells)
    if 2 * made <= all_:
        return f"Too little evidence for a verdict: {made} of {all_} checks could be made."
    return f"{made} of {all_} checks found nothing against this model."


def lead(report: Report) -> str:
    """The sentence below it: the error against doing without this model."""
    evaluation, k = report.evaluation, report.evaluation.headline
    model = next((path for path in evaluation.paths if path.is_model), None)
    error = math.nan if model is None else model.nrmse[k - 1]
    others = [p for p in evaluation.paths if not p.is_model and p.nrmse[k - 1] > 0]
    if not (math.isfinite(error) and others):
        return evaluation.verdict()
    parts = [_times(error / other.nrmse[k - 1], _named(other.name)) for other in others]
    rows = f"{k} row{'' if k == 1 else 's'}"
    told = f"Imagined {rows} ahead, its error is {_listed(parts)}"
    return f"{told} (NRMSE {number(error)}; 0 is perfect, 1 always says the mean)."


def cards(report: Report) -> tuple[Card, ...]:
    """The four questions, in the order they are asked."""
    return trust(report), far(report), risky(report), fast(report)


def trust(report: Report) -> Card:
    """By smells: a serious one says no, a warning says with care. What was not checked is named;
    where that is half of them or more, nothing is said."""
    question = "Can I trust it?"
    open_ = [smell.name for smell in report.smells if smell.status == UNKNOWN]
    left = f" Not checked for lack of evidence: {_listed(open_)}." if open_ else ""
    found = report.found
    serious = [smell.name for smell in found if smell.severity == "serious"]
    if serious:
        return Card(question, "No", "bad", f"Found: {_listed(serious)}.{left}")
    if found:
        names = _listed([smell.name for smell in found])
        return Card(question, "With care", "careful", f"Found: {names}.{left}")
    clear = _checked(report)
    told = f"{clear} of {len(report.smells)} known failures were looked for and not found."
    if 2 * clear <= len(report.smells):
        return Card(question, "Not known", "unknown", told + left)
    return Card(question, "So far, yes", "good", told + left)


def _checked(report: Report) -> int:
    """How many smells there was enough evidence to look for."""
    return sum(smell.status != UNKNOWN for smell in report.smells)


def holds(report: Report) -> int | None:
    """Steps up to which imagining is surely (99 %) better than the better of persistence and the
    best constant; None where there are too few windows to tell."""
    excess = report.measured.drift.excess
    if not excess or not excess[0].known:
        return None
    for k, found in enumerate(excess, start=1):
        if not (found.known and found.high < 1):
            return k - 1
    return len(excess)


def far(report: Report) -> Card:
    """By the rows that may be trusted, where that was fitted and a promise kept; else by rollout
    error against doing without a model. 5 rows are the least one plans with."""
    question, steps = "How far?", holds(report)
    trusted = report.trusted
    reach = len(report.measured.drift.excess)
    promise = "" if trusted is None else trusted.sentence()
    if steps is None:
        told = f"Too few held-out windows to tell. {promise}".strip()
        return Card(question, "Not known", "unknown", told)
    tone: Tone = "bad" if steps < min(SHORTEST, reach) else "careful"
    if steps >= min(USUAL, reach):
        tone = "good"
    answer = f"{'All ' if steps == reach else ''}{steps} row{'' if steps == 1 else 's'}"
    so_far = f"all {reach}" if steps == reach else f"{steps} of {reach}"
    better = f"Surely better than 'nothing changes' and the best constant in {so_far} rows tried."
    if trusted is not None and not trusted.lacking:
        answer = "No promise"
        if trusted.promised:
            answer = f"{trusted.mean:.1f} of {trusted.reach} rows"
            promise = f"On average; there it {trusted.promise()}."
        if tone == "good" and trusted.mean < min(SHORTEST, trusted.reach):
            tone = "careful"
    return Card(question, answer, tone, f"{promise} {better}".strip())


def risky(report: Report) -> Card:
    """By the share of all risk that came where the model had called it safe."""
    question, risk = "How risky?", report.measured.risk
    if not risk.events:
        told = "No held-out row had risk, so what it says of risk is untested."
        return Card(question, "Not known", "unknown", told)
    smell = next((s for s in report.smells if s.name == "safety blind spots"), None)
    hidden = risk.hidden
    told = ""
    if math.isfinite(hidden.value):
        most = _share(min(hidden.high, 1.0))
        told = f"Share of all risk that came unpredicted in rows it called safe (at most {most})."
    model = next((p for p in report.evaluation.paths if p.is_model), None)
    k = report.evaluation.headline
    if model is not None and model.risk is not None and model.risk.auroc:
        ranking = model.risk.auroc[k - 1]
        if math.isfinite(ranking):
            told += f" A plan with risk within {k} rows ranks above one without "
            told += f"{_share(ranking)} of the time."
    told += f" {risk.events} risky rows seen."
    if smell is None or smell.status == UNKNOWN:
        answer = (
            f"Misses {_share(hidden.value)} of risk" if math.isfinite(hidden.value) else "Not known"
        )
        return Card(question, answer, "unknown", f"{told} Too few to be sure.".strip())
    tone: Tone = "bad" if smell.found else "good" if hidden.high < smell.threshold else "careful"
    return Card(question, f"Misses {_share(hidden.value)} of risk", tone, told.strip())


def fast(report: Report) -> Card:
    """By the time of one rollout of the longest horizon on the machine of the diagnosis."""
    question, latency = "How fast?", report.measured.latency
    timings = () if latency is None else latency.timings
    if latency is None or not timings:
        return Card(question, "Not known", "unknown", "Rollouts were not timed.")
    longest = [t for t in timings if t.horizon == max(one.horizon for one in timings)]
    single = min(longest, key=lambda t: t.batch)
    many = max(longest, key=lambda t: t.batch)
    told = f"One imagined future of {single.horizon} steps, on this machine."
    if many.batch > single.batch:
        told += f" {many.batch} at once: {number(many.median_ms)} ms."
    smell = next((s for s in report.smells if s.name == "latency creep"), None)
    tone: Tone = "good"
    if smell is not None and smell.found:
        tone = "bad" if smell.severity == "serious" else "careful"
    if latency.budget_ms is not None:
        told += f" Budget: {number(latency.budget_ms)} ms."
    return Card(question, f"{number(single.median_ms)} ms", tone, told)


def draw_cards(shown: tuple[Card, ...]) -> str:
    """The cards as HTML."""
    return f'<div class="cards">{"".join(_card(one) for one in shown)}</div>'


def tone_mark(tone: Tone, word: str = "") -> str:
    """A shape and a word in the tone's colour."""
    return (
        f'<span class="tone {tone}"><svg viewBox="0 0 14 14" aria-hidden="true">{_MARKS[tone]}'
        f"</svg>{text(word or WORDS[tone])}</span>"
    )


def _card(card: Card) -> str:
    return (
        f'<article class="card"><h2>{text(card.question)}</h2><p class="answer ink">'
        f"{text(card.answer)}</p><div class='tone-row'>{tone_mark(card.tone)}</div>"
        f"<p>{text(card.reason)}</p></article>"
    )


def _share(value: float) -> str:
    """A share as a percentage; below none is none."""
    if not math.isfinite(value):
        return "-"
    kept = max(0.0, value)
    digits = 0 if kept >= 0.0995 or kept == 0 else 1
    return f"{100 * kept:.{digits}f}\u00a0%"


def _times(ratio: float, of: str) -> str:
    """ "22 % of that of X", "3.1 times that of X", or that it is far more."""
    if ratio < 1:
        return f"{_share(ratio)} of that of {of}"
    return f"{number(ratio)} times that of {of}" if ratio < 100 else f"far above that of {of}"


def _named(baseline: str) -> str:
    """A baseline for someone who has not met it."""
    if baseline == "persistence":
        return "saying that nothing changes"
    return "a linear model" if baseline.startswith("ridge") else baseline


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
