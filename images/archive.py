"""Debian archives (``.deb``), unpacked without root: no script of a package is run."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from images.errors import HostError
from images.progress import Progress

MERGED = ("bin", "lib", "lib64", "sbin")
"""Folders of the root that are links into usr; the package that makes them is not in it."""


def unpack(archives: Sequence[Path], root: Path, progress: Progress) -> None:
    """Unpack ``archives`` into the folder ``root``, which is made.

    Raises:
        HostError: one cannot be unpacked; ``root`` is half made.
    """
    for name in MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    sizes = [archive.stat().st_size for archive in archives]
    for number, archive in enumerate(archives):
        progress.advance(sum(sizes[:number]) / sum(sizes), archive.name.partition("_")[0])
        done = subprocess.run(
            ["dpkg-deb", "-x", str(archive), str(root)], capture_output=True, text=True
        )
        if done.returncode:
            raise HostError(
                f"cannot unpack {archive.name}",
                "see that the cache folder has 1 GiB free",
                done.stderr.strip(),
            )
