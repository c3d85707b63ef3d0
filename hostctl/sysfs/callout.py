"""A callout script of mdevctl's for our types: attributes of running mdevs, and changing them.

mdevctl itself knows of no attributes that a device has; such a script tells it, and applies
a live modification.  It stands alone, so that it can be copied to where mdevctl looks.

Source: mdevctl 1.4.0, mdevctl(8), "Callouts".
"""

import argparse
import json
import os
import stat
import sys
from pathlib import Path

OK, FAILED, NOT_OURS = 0, 1, 2
TYPES = "mdevemu-"
SUPPORTS = {
    "supports": {
        "version": 2,
        "actions": [
            "start",
            "stop",
            "define",
            "undefine",
            "modify",
            "attributes",
            "capabilities",
        ],
        "events": ["pre", "post", "notify", "get", "live"],
    }
}


def main() -> int:
    """Answer one call of mdevctl's; the exit status is 2 for types that are not ours."""
    parser = argparse.ArgumentParser()
    for name in "teasup":
        parser.add_argument(f"-{name}")
    call = parser.parse_args()
    if not call.t.startswith(TYPES):
        return NOT_OURS
    device = Path(os.environ.get("MDEVCTL_ENV_ROOT", "/"), "sys/bus/mdev/devices", call.u)
    match call.e, call.a:
        case "get", "capabilities":
            print(json.dumps(SUPPORTS))
        case "get", "attributes":
            found = _attributes(device) if device.exists() else {}
            print(json.dumps([{name: value} for name, value in found.items()]))
        case "live", "modify":
            wanted = json.load(sys.stdin)["attrs"]
            return _apply(device, [pair for each in wanted for pair in each.items()])
    return OK


def _attributes(device: Path) -> dict[str, str]:
    """What can be read and written of an mdev."""
    both = stat.S_IRUSR | stat.S_IWUSR
    files = sorted(path for path in device.iterdir() if path.is_file())
    return {
        path.name: path.read_text().rstrip("\n")
        for path in files
        if path.stat().st_mode & both == both
    }


def _apply(device: Path, wanted: list[tuple[str, str]]) -> int:
    """Write attributes in order; when one is refused, the former ones are there again."""
    former = _attributes(device)
    try:
        for name, value in wanted:
            # Not to be created: a file that is not there is no attribute.
            with (device / name).open("r+") as file:
                file.write(value)
    except OSError as error:
        print(f"{error.filename or name}: {error.strerror}", file=sys.stderr)
        for name, value in former.items():
            (device / name).write_text(value)
        return FAILED
    return OK


if __name__ == "__main__":
    sys.exit(main())
