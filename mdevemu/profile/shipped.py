"""The profiles that come with the program."""

from pathlib import Path

from mdevemu.errors import ConfigError, unknown

FOLDER = Path(__file__).parent / "profiles"


def shipped() -> list[str]:
    """Their names."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def locate(given: str, base: Path = Path(), where: str = "PROFILE") -> Path:
    """The file that a path, from the folder ``base``, or the name of a shipped profile stands for.

    Raises:
        ConfigError: there is no shipped one of that name; ``where`` named it.
    """
    if "/" in given or given.endswith(".toml"):
        return base / given
    if given not in shipped():
        raise ConfigError(where, unknown("shipped profile", given, shipped()) + "; or give a path")
    return FOLDER / f"{given}.toml"
