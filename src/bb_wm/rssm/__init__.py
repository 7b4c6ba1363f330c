"""The front door: `from bb_wm.rssm import WorldModel`."""

from bb_wm.rssm.world_model import ShortcutDynamics, WorldModel

__all__ = ["ShortcutDynamics", "WorldModel"]
