"""The gate where agents can reach it: tool calls recorded, judged, held.

`Guard` is the life cycle (record, shadow, enforce); `bb-wm mcp` puts it in front of any MCP server,
`bb_wm.serve.langchain_guard` and `bb_wm.serve.pydantic_ai_guard` into an agent. Names load on first
use, and the frameworks only with their adapters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bb_wm.lazy import lazily

if TYPE_CHECKING:
    from bb_wm.serve.asking import LookUp as LookUp
    from bb_wm.serve.bounds import Margin as Margin
    from bb_wm.serve.bounds import Prior as Prior
    from bb_wm.serve.calls import Answer as Answer
    from bb_wm.serve.calls import Hints as Hints
    from bb_wm.serve.calls import ToolCall as ToolCall
    from bb_wm.serve.driving import drive as drive
    from bb_wm.serve.featurise import Featuriser as Featuriser
    from bb_wm.serve.gated_env import GatedEnv as GatedEnv
    from bb_wm.serve.guard import Guard as Guard
    from bb_wm.serve.harm import Undone as Undone
    from bb_wm.serve.judge import Judge as Judge
    from bb_wm.serve.model_evidence import ModelEvidence as ModelEvidence
    from bb_wm.serve.model_evidence import unbounded_trust as unbounded_trust
    from bb_wm.serve.recording import Recording as Recording
    from bb_wm.serve.settings import GuardSettings as GuardSettings
    from bb_wm.serve.settings import Mode as Mode
    from bb_wm.serve.steps import Reply as Reply

_HOMES = {
    "asking": ("LookUp",),
    "bounds": ("Margin", "Prior"),
    "calls": ("Answer", "Hints", "ToolCall"),
    "driving": ("drive",),
    "featurise": ("Featuriser",),
    "gated_env": ("GatedEnv",),
    "guard": ("Guard",),
    "harm": ("Undone",),
    "judge": ("Judge",),
    "model_evidence": ("ModelEvidence", "unbounded_trust"),
    "recording": ("Recording",),
    "settings": ("GuardSettings", "Mode"),
    "steps": ("Reply",),
}

__getattr__, __dir__, __all__ = lazily(__name__, _HOMES)
