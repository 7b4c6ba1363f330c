"""The types that flow through the house; importable without torch."""

from bb_wm.types.action_spec import ActionPart, ActionSpec
from bb_wm.types.latent import Latent, Trajectory, stack_latents
from bb_wm.types.obs_spec import ObsEntry, ObsSpec
from bb_wm.types.rows import Batch, Episode

__all__ = [
    "ActionPart",
    "ActionSpec",
    "Batch",
    "Episode",
    "Latent",
    "ObsEntry",
    "ObsSpec",
    "Trajectory",
    "stack_latents",
]
