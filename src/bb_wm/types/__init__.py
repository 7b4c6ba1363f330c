"""The types that flow through the house; importable without torch."""

from bb_wm.types.latent import Latent, Trajectory, stack_latents
from bb_wm.types.rows import Batch, Episode
from bb_wm.types.spaces import ActionPart, ActionSpec, ObsEntry, ObsSpec

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
