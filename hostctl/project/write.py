"""Writes a project: the adder's own source under another name, and what goes with it."""

import importlib.util
import keyword
import re
import shutil
import string
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mdevemu.errors import ConfigError, shown

TEMPLATES = Path(__file__).parent

ADDER = "personalities/adder.py"
"""The device that every new one begins as: read where it is, so that there is no copy."""

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST = 32


def write(name: str, folder: Path) -> list[Path]:
    """Write the project of a personality into ``folder``, which must not exist; its files.

    Raises:
        ConfigError: a name that cannot be one or is taken, a folder that is there or cannot
            be made; nothing was written.
    """
    check(name)
    if folder.exists() or folder.is_symlink():
        raise ConfigError(str(folder), "is there already")
    files = contents(name)
    try:
        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as fresh:
            made = Path(fresh) / folder.name
            for path, text in files.items():
                (made / path).parent.mkdir(parents=True, exist_ok=True)
                (made / path).write_text(text, encoding="utf-8")
            shutil.move(made, folder)
    except OSError as error:
        raise ConfigError(str(folder), error.strerror or str(error)) from None
    return [folder / path for path in files]


def check(name: str) -> None:
    """See that a name can be one of a new personality.

    Raises:
        ConfigError: it cannot.
    """
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        accepted = f"lower-case letters, digits and '-' between them, up to {_LONGEST} characters"
        raise ConfigError("name", f"{shown(name)} (accepted: a letter, then {accepted})")
    if keyword.iskeyword(class_name(name)):
        raise ConfigError("name", f"{shown(name)} would be a class {class_name(name)}")
    # Our own devices are modules and packages beside the adder.
    if any((_mdevemu() / "personalities" / taken).exists() for taken in (f"{name}.py", name)):
        raise ConfigError("name", f"{shown(name)} is a personality of mdevemu's own")


def contents(name: str) -> Mapping[str, str]:
    """The text of each file of a project, by its path."""
    module = f"mdevemu_{name.replace('-', '_')}"
    values = {
        "name": name,
        "distribution": f"mdevemu-{name}",
        "module": module,
        "class_": class_name(name),
    }

    def filled(template: str) -> str:
        text = (TEMPLATES / f"{template}.in").read_text(encoding="utf-8")
        return string.Template(text).substitute(values)

    return {
        "pyproject.toml": filled("pyproject.toml"),
        "README.md": filled("README.md"),
        f"{module}/__init__.py": f'"""The device {name} for mdevemu."""\n',
        f"{module}/device.py": device(name),
        "tests/test_device.py": filled("test_device.py"),
    }


def device(name: str) -> str:
    """The adder's source, with the names of another device."""
    source = (_mdevemu() / ADDER).read_text(encoding="utf-8")
    renamed = re.sub(r"\bAdder(Regs)?\b", rf"{class_name(name)}\1", source)
    return renamed.replace("  Copy this file.\n", "\n", 1)


def class_name(name: str) -> str:
    """What the class of a personality is called."""
    return "".join(part.capitalize() for part in name.split("-"))


def _mdevemu() -> Path:
    """Where mdevemu is; found, and not imported."""
    found = importlib.util.find_spec("mdevemu")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent
