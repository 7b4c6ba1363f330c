"""Logs, episodes and environments -> batches; storage. Names load on first use, torch only then."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bb_wm.data.alignment import AlignmentReport as AlignmentReport
    from bb_wm.data.alignment import probe_alignment as probe_alignment
    from bb_wm.data.collecting import collect as collect
    from bb_wm.data.collecting import collect_episodes as collect_episodes
    from bb_wm.data.door import as_batch as as_batch
    from bb_wm.data.door import as_obs as as_obs
    from bb_wm.data.episodes import validate_episode as validate_episode
    from bb_wm.data.files import LoadedEpisodes as LoadedEpisodes
    from bb_wm.data.files import load_episodes as load_episodes
    from bb_wm.data.files import save_episodes_npz as save_episodes_npz
    from bb_wm.data.recorder import Policy as Policy
    from bb_wm.data.rows import EpisodeBuilder as EpisodeBuilder
    from bb_wm.data.sampler import SequenceSampler as SequenceSampler
    from bb_wm.data.store import EpisodeStore as EpisodeStore
    from bb_wm.data.store import StoreReport as StoreReport
    from bb_wm.data.table import TableColumns as TableColumns

_HOMES = {
    "as_batch": "door",
    "as_obs": "door",
    "collect": "collecting",
    "collect_episodes": "collecting",
    "load_episodes": "files",
    "probe_alignment": "alignment",
    "save_episodes_npz": "files",
    "AlignmentReport": "alignment",
    "EpisodeBuilder": "rows",
    "EpisodeStore": "store",
    "LoadedEpisodes": "files",
    "Policy": "recorder",
    "SequenceSampler": "sampler",
    "StoreReport": "store",
    "TableColumns": "table",
    "validate_episode": "episodes",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
