"""The pytest plugin: accelerators, clients and guests as fixtures; a failure tells its story.

``plugin`` is what pytest loads; it imports the rest when a test wants it.  The types of the
fixtures, for annotations, are these.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guest.access import Access
    from hostctl.control import Mdev
    from hostctl.testing.guests import VmUnderTest
    from hostctl.testing.rig import Rig
    from hostctl.testing.views import Faults, Iommu, Tenant, Trace

__all__ = ["Access", "Faults", "Iommu", "Mdev", "Rig", "Tenant", "Trace", "VmUnderTest"]


def __getattr__(name: str) -> object:
    """The type of that name, imported now: pytest loads this package in every project."""
    from importlib import import_module

    homes = {
        "Access": "guest.access",
        "Mdev": "hostctl.control",
        "Rig": "hostctl.testing.rig",
        "VmUnderTest": "hostctl.testing.guests",
    }
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(homes.get(name, "hostctl.testing.views")), name)
