"""``hostctl engine``."""

from pathlib import Path

import pytest

from hostctl.control import Control
from tests.support.serving import Serving, short_folder
from tests.unit.hostctl.command import Hostctl


def test_engine_is_reprogrammed_and_mistakes_are_named(tmp_path: Path) -> None:
    hostctl = Hostctl(tmp_path)
    with short_folder() as folder:
        serving = Serving(folder)
        path = str(serving.runtime / "control.sock")
        listener = serving.control()
        control = Control(path)
        control.create("mdevemu-native", name="red", uuid=None, weight=None)
        done = hostctl.run("engine", "reprogram", "all", "fill", "nop", "--control", path)
        assert done.stdout.splitlines()[1].split() == ["all", "1", "0", "-", "nop", "fill", "red"]
        event = listener.event("ENGINE_REPROGRAMMED")
        assert (event["name"], event["operations"], event["mdevs"]) == (
            "all",
            ["nop", "fill"],
            ["red"],
        )
        for arguments, wrong in (
            (("al", "nop"), "engine: unknown engine 'al'; did you mean 'all'?"),
            (("all", "nope"), "operations: unknown operation 'nope'; did you mean 'nop'?"),
        ):
            refused = hostctl.run("engine", "reprogram", *arguments, "--control", path)
            assert (refused.returncode, wrong in refused.stderr) == (2, True)
        (shown,) = hostctl.facts("engine", "list", "--control", path)["engines"]
        assert (shown["operations"], shown["version"]) == (["nop", "fill"], 1)
        control.close()
        serving.stop()


@pytest.mark.parametrize("given", [["nop", 1], "nop", [None]])
def test_operations_are_a_list_of_texts(given: object) -> None:
    with short_folder() as folder:
        serving = Serving(folder)
        told = serving.control().refused(
            "reprogram-engine", engine="all", operations=given, policy="kill"
        )
        assert "'operations' is" in told[1]
        assert "not [str]" in told[1]
        serving.stop()
