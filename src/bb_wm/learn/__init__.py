"""Training: collect, update, look, save; run folders, checkpoints. Torch loads when it trains."""

from bb_wm.learn.callbacks import Callback, Record, TrainResult
from bb_wm.learn.checkpoint import (
    Checkpoint,
    load_best,
    load_checkpoint,
    read_checkpoint,
    save_best,
    save_checkpoint,
)
from bb_wm.learn.interruption import Interruption
from bb_wm.learn.metrics import read_metrics
from bb_wm.learn.progress import ProgressDisplay
from bb_wm.learn.run import Run, is_run
from bb_wm.learn.settings import TrainSettings
from bb_wm.learn.sources import EpisodeSource, RecordedSource, WorldSource
from bb_wm.learn.tensorboard import TensorBoard
from bb_wm.learn.trainer import Evaluate, Learner, Trainer

__all__ = [
    "Callback",
    "Checkpoint",
    "EpisodeSource",
    "Evaluate",
    "Interruption",
    "Learner",
    "ProgressDisplay",
    "Record",
    "RecordedSource",
    "Run",
    "TensorBoard",
    "TrainResult",
    "TrainSettings",
    "Trainer",
    "WorldSource",
    "is_run",
    "load_best",
    "load_checkpoint",
    "read_checkpoint",
    "read_metrics",
    "save_best",
    "save_checkpoint",
]
