"""What a judge rests on, and what it lacks, in words for the person who runs it.

Counts and tools' names (as printable ASCII) are all that stands here; no text of others does.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from bb_wm.serve.bounds import fewest, fewest_harmful
from bb_wm.serve.experience import Experience, tool_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bb_wm.serve.bounds import Margin
    from bb_wm.serve.calls import ToolCall
    from bb_wm.serve.judge import Judge

EACH: Final = 20  # harmful and harmless calls of one tool below which few models tell them apart
RECORD: Final = (
    f"record it where it can do no damage, both when it hurts and when it does not, about {EACH} "
    "of each"
)


def summary(judge: Judge) -> str:
    """One line: the rows learnt from, the margins, how many harmful calls would be allowed."""
    safe, harmful = judge.margins
    harm = fewest_harmful(safe.coverage)
    most = max([judge.alarm.calls, *(one.alarm.calls for one in judge.looks.values())])
    first = " without a look-up first" if judge.looks else ""
    parts = [
        f"{sum(judge.learnt.calls.values())} calls of {len(judge.learnt.calls)} tools learnt from",
        f"margin {safe.margin:.3g} from {safe.calls} held-out calls of harmless tools",
        f"{harmful.margin:.3g} from {harmful.calls} of tools that did harm{first}"
        + _needed(harmful, "always held"),
        *(_looked_at(judge, look, grounds.margin) for look, grounds in judge.looks.items()),
        f"of {judge.heldout_harm} held-out calls that did harm {judge.missed} would be allowed"
        + ("" if most >= harm else f" ({harm} needed: such tools are always held)"),
    ]
    return "; ".join(parts + thin_tools(judge.learnt, judge.names))


def _looked_at(judge: Judge, look: bytes, margin: Margin) -> str:
    """The margin of calls straight after a look-up; `look` is its action's bytes."""
    name = name_of(tool_of(np.frombuffer(look, np.float32)), judge.names)
    held = _needed(margin, "such calls are held")
    return f"{margin.margin:.3g} from {margin.calls} straight after {name}{held}"


def _needed(margin: Margin, then: str) -> str:
    finite = math.isfinite(margin.margin)
    return "" if finite else f" ({fewest(margin.coverage)} needed: {then})"


def thin_tools(seen: Experience, names: Mapping[bytes, str]) -> list[str]:
    """Of each tool that did harm: that too few of its calls did, or did not, to tell them apart."""
    lines = []
    for tool, harmful in seen.harmful.items():
        harmless = seen.calls[tool] - harmful
        if min(harmful, harmless) < EACH:
            lines.append(f"{name_of(tool, names)}: {counts(harmful, harmless)} recorded")
    return lines


def counts(harmful: int, harmless: int) -> str:
    """Both counts as they are printed everywhere."""
    return f"{harmful} harmful and {harmless} harmless calls"


def name_of(tool: bytes, names: Mapping[bytes, str]) -> str:
    """The tool's name, or the beginning of its code where it was not kept."""
    return names.get(tool) or f"the tool {tool.hex()[:8]}"


def lacks(
    judge: Judge,
    call: ToolCall,
    action: np.ndarray,
    risk: float,
    limit: float,
    after: bytes = b"",
) -> str:
    """What has to be done before a call like this one, straight after this look-up, can be allowed,
    as a sentence; "" where it was judged on enough, and is held for what is expected of it."""
    code = tool_of(action)
    if not judge.is_known(action):
        shape = " with arguments of this shape" if code in judge.learnt.calls else ""
        return f"bb-wm has never seen {call.shown}{shape}: record such calls, then train again"
    if not risk <= limit:
        return ""
    if judge.presumed(call, code) > limit:
        return (
            f"by its server's word {call.shown} may destroy things, and bb-wm learnt from "
            f"{judge.learnt.calls[code]} calls of it: record {judge.prior.enough(limit)}, train"
        )
    return _lacks_grounds(judge, call, code, after)


def _lacks_grounds(judge: Judge, call: ToolCall, code: bytes, after: bytes) -> str:
    """The same of what the judge was tested on."""
    harmful = code in judge.harmful
    grounds = judge.grounds(after)
    if not after:  # a look-up might have been made
        grounds = max([grounds, *judge.looks.values()], key=lambda one: one.alarm.calls)
    margin = grounds.margin if harmful else judge.margins[False]
    kind = "have done harm" if harmful else "have done none"
    if not math.isfinite(margin.margin):
        return (
            f"bb-wm can test itself on only {margin.calls} calls of tools that {kind}, "
            f"{fewest(margin.coverage)} are needed: let shadow run, or record more, and start again"
        )
    if not harmful:
        return ""
    if not math.isfinite(grounds.alarm.level):
        return (
            f"bb-wm can test itself on only {grounds.alarm.calls} calls that did harm, "
            f"{fewest_harmful(margin.coverage)} are needed before it may allow a {call.shown}: let "
            f"shadow run, or {RECORD}"
        )
    if grounds != judge.grounds(after):
        return ""  # it is held because no look-up was worth it
    bad = judge.learnt.harmful[code]
    few = f" ({counts(bad, judge.learnt.calls[code] - bad)} learnt from)"
    return (
        f"bb-wm does not yet tell a harmless {call.shown} from a harmful one{few}: {RECORD}, then "
        "train again"
    )
