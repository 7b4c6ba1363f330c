"""The planners: random shooting, cross-entropy, path integral, enumeration.

Each is a frozen bundle of settings with one method, `.plan(model, latent, ...) -> Plan`, and runs
on any object that answers protocols.Dynamics.
"""

from bb_wm.decide.cem import CEM
from bb_wm.decide.enumerate import Enumerate
from bb_wm.decide.mppi import MPPI
from bb_wm.decide.plan import Plan, PlanNoise
from bb_wm.decide.planner import Planner
from bb_wm.decide.shooting import RandomShooting

__all__ = ["CEM", "MPPI", "Enumerate", "Plan", "PlanNoise", "Planner", "RandomShooting"]
