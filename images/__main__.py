"""``python -m images``: make the guest image, and say where it is."""

import argparse
import json
import sys

from images.build import build
from images.errors import HostError
from images.progress import Console
from images.sysroot import find_qemu


def main() -> int:
    """Make whatever is missing; the exit status: 0, or 3 if the machine cannot."""
    parser = argparse.ArgumentParser(prog="images", description="Make the guest image.")
    parser.add_argument("--json", action="store_true", help="print the paths as JSON")
    wanted = parser.parse_args()
    progress = Console()
    try:
        image = build(progress=progress)
        qemu = find_qemu(progress)
    except HostError as error:
        print(f"images: {error}", file=sys.stderr)
        return 3
    facts = {
        "schema": "mdevemu.images/1",
        "kernel": str(image.kernel),
        "initrd": str(image.initrd),
        "release": image.release,
        "line": image.line,
        "port": image.port,
        "qemu": {"argv": qemu.argv_prefix, "env": qemu.env, "origin": qemu.origin},
    }
    if wanted.json:
        print(json.dumps(facts, indent=2))
    else:
        for name in ("kernel", "initrd", "release", "line"):
            print(f"{name:8} {facts[name]}")
        print(f"{'qemu':8} {qemu.origin}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
