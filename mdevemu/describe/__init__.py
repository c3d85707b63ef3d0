"""A device's interface in other forms: tables for people, constants for its driver."""

from collections.abc import Callable
from typing import Any

from mdevemu.accel import Personality
from mdevemu.describe.c_header import c_header
from mdevemu.describe.json import json
from mdevemu.describe.markdown import markdown
from mdevemu.describe.python import python
from mdevemu.describe.text import text

FORMATS: dict[str, Callable[[type[Personality[Any]]], str]] = {
    "c": c_header,
    "json": json,
    "markdown": markdown,
    "python": python,
    "text": text,
}

__all__ = ["FORMATS", "c_header", "json", "markdown", "python", "text"]
