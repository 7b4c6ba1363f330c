"""Who ours is measured against: two that need no training by gradient, four that do."""

from benchmarks.peers.base import Effort, Peer
from benchmarks.peers.delta_ensemble import DeltaEnsemble
from benchmarks.peers.gru import AutoregressiveGRU
from benchmarks.peers.rssm import DreamerRSSM
from benchmarks.peers.tdmpc import ConsistentLatent

TRAINED: dict[str, type[Peer]] = {
    "ensemble": DeltaEnsemble,
    "gru": AutoregressiveGRU,
    "rssm": DreamerRSSM,
    "tdmpc": ConsistentLatent,
}

__all__ = [
    "TRAINED",
    "AutoregressiveGRU",
    "ConsistentLatent",
    "DeltaEnsemble",
    "DreamerRSSM",
    "Effort",
    "Peer",
]
