"""The Debian mirror that this machine is configured to use.

Spec: sources.list(5), both forms
"""

import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from images.errors import HostError

RELEASES = ("bookworm", "trixie", "forky", "duke")
CLASSES = ("oldstable", "stable", "testing", "unstable", "sid", "experimental")
"""With the releases: suites of Debian's main archive, without ``-updates`` and the like."""

SCHEMES = tuple(
    f"{prefix}{scheme}"
    for prefix in ("", "mirror+", "tor+")
    for scheme in ("http", "https", "file", "copy", "ftp", "mirror", "ar", "s3")
)
"""Where apt can fetch a suite that it has never seen from: all its methods but cdrom."""

WHERE = ("LIST", "Dir::Etc::sourcelist/f", "PARTS", "Dir::Etc::sourceparts/d")
"""Names for a shell, and the settings of apt whose values they get."""


class Source(NamedTuple):
    """One place that apt fetches from.

    Attributes:
        uri: of the archive, as written.
        suites: as written, also ``bookworm-updates`` and the like.
        components: ``main`` and the like.
    """

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]


def one_line(text: str) -> Iterator[Source]:
    """The sources of a file in the one-line form (``deb [options] URI suite component...``)."""
    for line in text.splitlines():
        words = re.sub(r"\[[^]]*\]", " ", line.partition("#")[0]).split()
        if len(words) >= 3 and words[0] == "deb":
            yield Source(words[1], (words[2],), tuple(words[3:]))


def deb822(text: str) -> Iterator[Source]:
    """The sources of a file in the deb822 form (``Types:``, ``URIs:``, ...), if enabled."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n[ \t]*\n", "\n".join(lines)):
        fields: dict[str, list[str]] = {}
        last: list[str] = []
        for line in stanza.splitlines():
            if line[:1] in (" ", "\t"):
                last += line.split()
                continue
            name, colon, value = line.partition(":")
            if colon:
                last = fields[name.strip().lower()] = value.split()
        enabled = fields.get("enabled", ["yes"])[0].lower() not in ("no", "false", "0")
        if enabled and "deb" in fields.get("types", []):
            suites, components = fields.get("suites", []), fields.get("components", [])
            for uri in fields.get("uris", []):
                yield Source(uri, tuple(suites), tuple(components))


def choose(sources: Iterable[Source]) -> str | None:
    """The URI of the first source that offers Debian's main archive, or None.

    A security archive has suites of its own (``bookworm-security``); somebody else's archive
    has suites or components that Debian has not.
    """
    for source in sources:
        scheme = source.uri.partition(":")[0]
        if (
            scheme in SCHEMES
            and "main" in source.components
            and {*RELEASES, *CLASSES}.intersection(source.suites)
        ):
            return source.uri
    return None


def configured() -> str:
    """The URI of the Debian mirror in this machine's apt configuration.

    Raises:
        HostError: apt is missing, or no source is a Debian mirror.
    """
    try:
        shell = subprocess.run(
            ["apt-config", "shell", *WHERE],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise HostError(
            f"apt-config does not run ({error})", "use a Debian machine (12 or newer)"
        ) from error
    settings = dict(word.split("=", 1) for word in shlex.split(shell))
    found = list(read(Path(settings["LIST"]), Path(settings["PARTS"])))
    uri = choose(found)
    if uri is None:
        seen = ", ".join(sorted({printable(source.uri) for source in found})) or "none at all"
        raise HostError(
            f"no source of this machine's apt is a Debian mirror (sources: {seen})",
            "add one to /etc/apt/sources.list.d, for example a debian.sources as Debian ships it",
        )
    return uri


def printable(uri: str) -> str:
    """``uri`` without the name and the password that it may hold."""
    return re.sub(r"//[^/@]*@", "//", uri)


def read(main: Path, parts: Path) -> Iterator[Source]:
    """Every source in the file ``main`` and in the folder ``parts``, in apt's order."""
    if main.is_file():
        yield from one_line(main.read_text(errors="replace"))
    files = sorted(parts.iterdir()) if parts.is_dir() else []
    for file in files:
        if file.suffix == ".list":
            yield from one_line(file.read_text(errors="replace"))
        elif file.suffix == ".sources":
            yield from deb822(file.read_text(errors="replace"))
