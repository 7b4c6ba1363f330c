"""Who ours is measured against: two that need no training by gradient, three that do."""

from benchmarks.peers.base import Effort, Peer
from benchmarks.peers.delta_ensemble import DeltaEnsemble
from benchmarks.peers.gru import AutoregressiveGRU
from benchmarks.peers.rssm import DreamerRSSM

TRAINED: dict[str, type[Peer]] = {
    "ensemble": DeltaEnsemble,
    "gru": AutoregressiveGRU,
    "rssm": DreamerRSSM,
}

__all__ = ["TRAINED", "AutoregressiveGRU", "DeltaEnsemble", "DreamerRSSM", "Effort", "Peer"]
