"""Words that every form of a description has in common."""

import inspect


def about(thing: type) -> str:
    """The first paragraph of what it says of itself, in one line."""
    return (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")


def snake(name: str) -> str:
    """The name of a class in lower case, with ``_`` between its words."""
    return "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")
