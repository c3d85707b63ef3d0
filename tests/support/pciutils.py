"""pciutils' own view of a config space, if this machine has pciutils."""

import re
import subprocess


def dump(data):
    """A config space as ``lspci -xxxx`` prints it, and ``lspci -F`` reads it."""
    lines = [
        f"{at:02x}: {' '.join(f'{byte:02x}' for byte in data[at : at + 16])}"
        for at in range(0, len(data), 16)
    ]
    return "\n".join(["00:00.0 Device", *lines, ""])


def shown(program, data, folder):
    """What ``lspci -vvv`` says of a config space; ``program`` is an argv prefix."""
    file = folder / "config"
    file.write_text(dump(data))
    done = subprocess.run(
        [*program, "-F", str(file), "-vvv", "-nn"], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def facts(text):
    """Flags and settings of each part of a listing: the header and each capability."""
    parts = re.split(r"\tCapabilities: ", text)
    found = {}
    for part in parts:
        name = part.partition("\n")[0] if part is not parts[0] else "header"
        key = name.split()[0]
        tokens = set(re.findall(r"[A-Za-z0-9/<>]+[+-](?![\w.])|\w+=\w+|x\d+|\S+GT/s", part))
        found[key] = tokens
    return found
