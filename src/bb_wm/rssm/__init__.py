"""The front door: `from bb_wm.rssm import WorldModel`."""

from bb_wm.rssm.latent_net import LatentNet
from bb_wm.rssm.shortcut import ShortcutDynamics
from bb_wm.rssm.world_model import WorldModel

__all__ = ["LatentNet", "ShortcutDynamics", "WorldModel"]
