"""Profiles: what an accelerator consists of, what slices of it exist, and what fits where."""

from mdevemu.accel.route import blocked, routes
from mdevemu.profile.explain import Explanation, Move, explain
from mdevemu.profile.occupancy import Holding, Occupancy, Place
from mdevemu.profile.parse import load, parse
from mdevemu.profile.shipped import locate, shipped
from mdevemu.profile.spec import AcceleratorSpec, GroupSpec
from mdevemu.profile.table import NAME_CHARACTERS, is_name
from mdevemu.profile.topology import FUNCTIONS, reachable, topology
from mdevemu.profile.types import DEVICE_API, DRIVER, MdevType
from mdevemu.profile.typetable import MAX_WEIGHT

__all__ = [
    "AcceleratorSpec",
    "DEVICE_API",
    "DRIVER",
    "Explanation",
    "FUNCTIONS",
    "GroupSpec",
    "Holding",
    "MAX_WEIGHT",
    "MdevType",
    "Move",
    "NAME_CHARACTERS",
    "Occupancy",
    "Place",
    "blocked",
    "explain",
    "is_name",
    "load",
    "locate",
    "parse",
    "reachable",
    "routes",
    "shipped",
    "topology",
]
