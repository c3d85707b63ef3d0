"""What an accelerator does with definitions when it comes up: start those that are automatic."""

from collections.abc import Callable

from mdevemu.definitions import Definition, Definitions
from mdevemu.errors import ConfigError


def start_defined(
    definitions: Definitions,
    parent: str,
    start: Callable[[Definition], None],
    failed: Callable[[str, ConfigError], None],
) -> None:
    """Start every automatic mdev of a parent; one that fails does not stop the others.

    ``start`` starts one or raises ConfigError; ``failed`` hears its UUID and why.
    """
    for path in definitions.files(parent=parent):
        try:
            definition = definitions.of(path)
            if definition.auto:
                start(definition)
        except ConfigError as wrong:
            failed(path.name, wrong)
