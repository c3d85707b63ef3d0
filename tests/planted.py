"""Plants each bug of planted.toml in a copy of the tree; exit 1 if the tests miss one.

    python -m tests.planted [WORD...]

Bugs whose name has one of the words, or all of them.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TESTS = ["tests/unit", "tests/contract", "tests/protocol", "tests/isolation"]
AT_ONCE = 2
LIMIT = 600
PASSED, FAILED, CRASHED = 0, 1, range(-64, 0)


def verdict(bug: dict[str, Any]) -> tuple[bool, str]:
    """Plant one bug; whether the tests noticed, and a line that says so."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as copy:
        tree = Path(copy, "tree")
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        target = tree / bug["file"]
        text = target.read_text()
        if text.count(bug["old"]) != 1:
            return False, f"STALE    {bug['name']}: {bug['old']!r} is not in {bug['file']} once"
        target.write_text(text.replace(bug["old"], bug["new"]))
        command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider"]
        where = [name for name in bug.get("tests", TESTS) if (tree / name).exists()]
        done = subprocess.run(
            [*command, *where],
            cwd=tree,
            env={**os.environ, "MDEVEMU_PLANTED": "1"},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
    seconds = time.monotonic() - begun
    # Only a failed test counts: a bug that keeps the tests from being found proves nothing.
    if done.returncode == FAILED or done.returncode in CRASHED:
        return True, f"noticed  {bug['name']} ({seconds:.0f} s)"
    if done.returncode == PASSED:
        return False, f"MISSED   {bug['name']} ({seconds:.0f} s)"
    return False, f"BROKEN   {bug['name']}\n{done.stdout}{done.stderr}"


def main(words: list[str]) -> int:
    """Try the bugs, two at a time; the exit status."""
    with (ROOT / "tests" / "planted.toml").open("rb") as file:
        bugs = tomllib.load(file)["bug"]
    chosen = [bug for bug in bugs if not words or any(word in bug["name"] for word in words)]
    missed = not chosen
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for noticed, line in pool.map(verdict, chosen):
            print(line, flush=True)
            missed |= not noticed
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
