"""The in-guest agent: runs commands, drives the sliced device through VFIO, checks it.

Standard library only, and little of that: a guest under TCG pays for every import.
"""

__version__ = "0.1.0"
