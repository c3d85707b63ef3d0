"""docs/native.md: what it has people type works."""

import os
import re
import subprocess
from pathlib import Path

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs/native.md").read_text()


def test_drivers_share_a_buffer_as_the_page_says(tmp_path):
    (script,) = re.findall(
        r"```sh\n(.*?)```", PAGE.partition("### Two drivers, one buffer")[2], re.S
    )
    done = subprocess.run(
        ["sh", "-c", script.replace("/tmp/lend", str(tmp_path))],
        cwd=PROJECT,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
