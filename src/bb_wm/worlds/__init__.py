"""Worlds of others behind Gymnasium's interface: what can be trained on, by name."""

from bb_wm.worlds.catalogue import World, list_worlds, make_world, register_worlds

__all__ = ["World", "list_worlds", "make_world", "register_worlds"]
