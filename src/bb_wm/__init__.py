"""A compact latent world model: what will probably happen, what it is worth, how risky it is.

    from bb_wm import WorldModel

    wm = WorldModel(obs_shape=4, action_dim=2)
    loss, metrics = wm.update(batch)
    latent = wm.encode(obs)
    trajectory = wm.rollout(latent, policy, horizon=10)

and, deciding with it, `EVSI` (is asking worth it?), planners (`CEM`, `MPPI`) and `Gate`.

Everything public is `bb_wm.X`. Names are loaded when first used, so `import bb_wm` alone imports
neither torch nor any optional package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bb_wm.lazy import lazily

if TYPE_CHECKING:
    from bb_wm.config import GRU as GRU
    from bb_wm.config import Categorical as Categorical
    from bb_wm.config import Gaussian as Gaussian
    from bb_wm.config import Transformer as Transformer
    from bb_wm.config import WorldModelConfig as WorldModelConfig
    from bb_wm.decide import CEM as CEM
    from bb_wm.decide import EVSI as EVSI
    from bb_wm.decide import MPPI as MPPI
    from bb_wm.decide import Ask as Ask
    from bb_wm.decide import Asker as Asker
    from bb_wm.decide import AskEvidence as AskEvidence
    from bb_wm.decide import AskTree as AskTree
    from bb_wm.decide import Decision as Decision
    from bb_wm.decide import Evidence as Evidence
    from bb_wm.decide import EVSIResult as EVSIResult
    from bb_wm.decide import Gate as Gate
    from bb_wm.decide import Ledger as Ledger
    from bb_wm.decide import ListedAsk as ListedAsk
    from bb_wm.decide import Plan as Plan
    from bb_wm.decide import RandomShooting as RandomShooting
    from bb_wm.decide import Verdict as Verdict
    from bb_wm.errors import ActionError as ActionError
    from bb_wm.errors import AlignmentError as AlignmentError
    from bb_wm.errors import BatchError as BatchError
    from bb_wm.errors import BBWMError as BBWMError
    from bb_wm.errors import CheckpointError as CheckpointError
    from bb_wm.errors import ConfigError as ConfigError
    from bb_wm.errors import DataError as DataError
    from bb_wm.errors import DeviceError as DeviceError
    from bb_wm.errors import DtypeError as DtypeError
    from bb_wm.errors import EpisodeError as EpisodeError
    from bb_wm.errors import HorizonError as HorizonError
    from bb_wm.errors import InputTypeError as InputTypeError
    from bb_wm.errors import LatentError as LatentError
    from bb_wm.errors import LockError as LockError
    from bb_wm.errors import MissingExtraError as MissingExtraError
    from bb_wm.errors import PathError as PathError
    from bb_wm.errors import PolicyError as PolicyError
    from bb_wm.errors import RangeError as RangeError
    from bb_wm.errors import ResourceError as ResourceError
    from bb_wm.errors import SaveError as SaveError
    from bb_wm.errors import VersionError as VersionError
    from bb_wm.imagine import Belief as Belief
    from bb_wm.imagine import CVaR as CVaR
    from bb_wm.imagine import Limit as Limit
    from bb_wm.imagine import Mean as Mean
    from bb_wm.imagine import Utility as Utility
    from bb_wm.imagine import Worst as Worst
    from bb_wm.model.native import use_native as use_native
    from bb_wm.rssm import WorldModel as WorldModel
    from bb_wm.types import ActionSpec as ActionSpec
    from bb_wm.types import Batch as Batch
    from bb_wm.types import Episode as Episode
    from bb_wm.types import Latent as Latent
    from bb_wm.types import ObsSpec as ObsSpec
    from bb_wm.types import Trajectory as Trajectory

__version__ = "0.1.0"

_HOMES = {
    "config": ("Categorical", "GRU", "Gaussian", "Transformer", "WorldModelConfig"),
    "decide": (
        "Ask",
        "AskEvidence",
        "AskTree",
        "Asker",
        "CEM",
        "Decision",
        "EVSI",
        "EVSIResult",
        "Evidence",
        "Gate",
        "Ledger",
        "ListedAsk",
        "MPPI",
        "Plan",
        "RandomShooting",
        "Verdict",
    ),
    "errors": (
        "ActionError",
        "AlignmentError",
        "BBWMError",
        "BatchError",
        "CheckpointError",
        "ConfigError",
        "DataError",
        "DeviceError",
        "DtypeError",
        "EpisodeError",
        "HorizonError",
        "InputTypeError",
        "LatentError",
        "LockError",
        "MissingExtraError",
        "PathError",
        "PolicyError",
        "RangeError",
        "ResourceError",
        "SaveError",
        "VersionError",
    ),
    "imagine": ("Belief", "CVaR", "Limit", "Mean", "Utility", "Worst"),
    "model.native": ("use_native",),
    "rssm": ("WorldModel",),
    "types": ("ActionSpec", "Batch", "Episode", "Latent", "ObsSpec", "Trajectory"),
}

__getattr__, __dir__, __all__ = lazily(__name__, _HOMES)
__all__ += ["__version__"]
