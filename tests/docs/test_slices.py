"""docs/slices.md is a session that runs as it is typed, and names every table and key."""

import re
import subprocess
import sys
from pathlib import Path

from hostctl.cli.mdev import mdev
from mdevemu.mdev.attributes import ATTRIBUTES
from mdevemu.profile.parse import ACCELERATOR_KEYS, TABLE_KEYS
from tests.support.serving import short_folder

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/slices.md").read_text()
SESSIONS = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
LAYOUTS = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
KNOWN = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
MARK = "== "


def typed():
    """Every command of the page, with what it prints."""
    found = []
    for session in SESSIONS:
        for line in session.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def test_session_runs_as_it_is_typed():
    commands = typed()
    lines = ["trap 'kill $!; wait $!' EXIT"]
    for number, (command, _) in enumerate(commands):
        lines += [f"echo '{MARK}{number}'", command]
        if command.endswith("&"):
            lines.append("until [ -s log ]; do sleep 0.05; done")
    script = "\n".join(lines).replace("./lab python", sys.executable)
    script = script.replace("./lab ", f"{sys.executable} -m hostctl ")
    with short_folder() as folder:
        (folder / "layouts.toml").write_text(LAYOUTS[1])
        done = subprocess.run(
            ["sh", "-c", script],
            cwd=folder,
            env={"PYTHONPATH": f"{ROOT}:{':'.join(sys.path)}", "PATH": "/usr/bin:/bin"}
            | {"XDG_RUNTIME_DIR": str(folder), "COLUMNS": "300"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=110,
        )
    outputs = re.split(rf"^{MARK}\d+\n", done.stdout, flags=re.MULTILINE)[1:]
    for (command, expected), output in zip(commands, outputs, strict=True):
        named = UUID.sub(lambda match: match[0] if match[0] == KNOWN else "MDEV", output)
        assert named.splitlines() == expected, command


def test_every_table_and_key_is_named():
    known = {"[accelerator]": set(ACCELERATOR_KEYS)}
    known |= {f"[[{kind}]]": set(keys) for kind, keys in TABLE_KEYS.items()}
    said: dict[str, set[str]] = {}
    table = ""
    for line in PAGE.splitlines():
        if line.startswith("| ") and line.count("|") == 4:
            first, keys = line.split("|")[1:3]
            table = first.strip(" `") or table
            said.setdefault(table, set()).update(re.findall(r"`([a-z-]+)`", keys))
    assert {name: keys for name, keys in said.items() if name in known} == known


def test_attributes_and_verbs_are_those_that_there_are():
    for name in ATTRIBUTES:
        assert f"`{name}`" in PAGE
    (verbs,) = re.findall(r"`hostctl mdev ([a-z|]+)`", PAGE)
    assert set(verbs.split("|")) < set(mdev.commands)
