"""Logs, episodes and environments -> batches; storage. Names load on first use, torch only then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bb_wm.lazy import lazily

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
    "alignment": ("AlignmentReport", "probe_alignment"),
    "collecting": ("collect", "collect_episodes"),
    "door": ("as_batch", "as_obs"),
    "episodes": ("validate_episode",),
    "files": ("LoadedEpisodes", "load_episodes", "save_episodes_npz"),
    "recorder": ("Policy",),
    "rows": ("EpisodeBuilder",),
    "sampler": ("SequenceSampler",),
    "store": ("EpisodeStore", "StoreReport"),
    "table": ("TableColumns",),
}

__getattr__, __dir__, __all__ = lazily(__name__, _HOMES)
