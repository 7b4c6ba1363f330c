"""The model card: README.md beside the checkpoints, in words and measured figures only."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bb_wm import durable
from bb_wm.diagnose.evaluation import number
from bb_wm.diagnose.page.verdicts import cards, headline, holds
from bb_wm.diagnose.smells.smell import UNKNOWN

if TYPE_CHECKING:
    from bb_wm.diagnose.report import Report


def write_card(
    folder: str | os.PathLike[str],
    report: Report,
    *,
    name: str,
    about: Mapping[str, object],
) -> Path:
    """Write README.md into `folder`, whole or not at all; its path. SaveError where that fails."""
    place = Path(folder) / "README.md"
    durable.write_file(place, model_card(report, name=name, about=about).encode("utf-8"))
    return place


def model_card(report: Report, *, name: str, about: Mapping[str, object]) -> str:
    """What the model is for, what was measured of it and where not to believe it, as Markdown.

    `about` says where it comes from. Every figure is the report's; what was not measured is said
    to be unknown.
    """
    evaluation = report.evaluation
    steps = holds(report)
    reach = "" if not steps else f", for planning up to {steps} steps ahead behind a gate"
    trained = "" if report.updates is None else f", after {report.updates} updates"
    answers = "\n".join(
        f"| {card.question} | {_plain(card.answer)} | {_plain(card.reason)} |"
        for card in cards(report)
    )
    facts = "\n".join(f"| {_plain(key)} | {_plain(value)} |" for key, value in about.items())
    return f"""---
library_name: bb_wm
tags: [world-model, rssm]
---
# {_plain(name)}

A bb_wm world model{trained}. **{_plain(headline(report))}** {_plain(evaluation.verdict())}

| question | answer | from |
|---|---|---|
{answers}

## Use

It says what will probably follow from actions in the world below, what that is worth and how risky
it is{reach}. It was judged on rows of that world as they were recorded: elsewhere, or under
behaviour unlike theirs, nothing below holds.

```python
from bb_wm.learn import Run

model = Run.open("RUN").load_model()  # RUN is the folder above this one
```

## Measured

On {evaluation.episodes} held-out episodes ({evaluation.rows} rows, {evaluation.windows} windows)
that the model never learnt from; {evaluation.context} real rows are read, then it imagines alone.

{_measured(report)}

## Where not to believe it

{_smells(report)}

## Where it comes from

| | |
|---|---|
{facts}
"""


def _measured(report: Report) -> str:
    evaluation, kept = report.evaluation, report.measured
    tables = [table.markdown() for table in evaluation.tables()[:-1]]
    lines = [
        f"- Reward, {kept.ahead} rows ahead: slope {number(kept.imagined_reward.slope)} of "
        f"truth on prediction (1 is right), RMSE {number(kept.imagined_reward.rmse)}, where always "
        f"saying the mean has {number(kept.imagined_reward.spread)}.",
        f"- Delta V_s over {kept.ahead} rows: slope {number(kept.delta_risk.slope)}, RMSE "
        f"{number(kept.delta_risk.rmse)} against {number(kept.delta_risk.spread)}.",
        f"- Risky rows seen: {kept.risk.events}.",
    ]
    if not math.isnan(evaluation.kl):
        lines.append(f"- Raw KL(posterior || prior): {number(evaluation.kl)} nats per row.")
    return "\n\n".join([*tables, "\n".join(lines)])


def _smells(report: Report) -> str:
    lines = [
        f"- **{_plain(smell.name)} ({smell.severity})**: {_plain(smell.evidence)} "
        f"{_plain(smell.advice)}"
        for smell in report.found
    ]
    if not lines:
        lines.append("- No smell was found.")
    unknown = [smell for smell in report.smells if smell.status == UNKNOWN]
    lines += [f"- Not known, {_plain(smell.name)}: {_plain(smell.evidence)}" for smell in unknown]
    return "\n".join(lines)


def _plain(value: object) -> str:
    """One line that Markdown shows as it is: nothing from outside becomes a link, tag or table."""
    if isinstance(value, Mapping):
        value = "; ".join(f"{key}: {one}" for key, one in value.items())
    line = " ".join(str(value).split())
    return re.sub(r"([\\`*_\[\]<>|#!])", r"\\\1", line)
