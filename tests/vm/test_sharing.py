"""Two guests share a buffer of HBM by consent of both, until it is revoked; a third never does."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from guest import native
from guest.bench import Bench
from guest.checks import run_check
from hostctl.guest import Agent
from hostctl.socket_access import SocketAccess
from mdevemu.units import HBM_IOVA, KIB
from tests.unit.hostctl.command import Hostctl

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

ACCELERATOR = """
[accelerator]
name = "three"
hbm = "48MiB"
[[engine]]
name = "dma0"
operations = ["nop", "copy", "fill", "compare"]
[[type]]
name = "third"
personality = "native"
hbm = "16MiB"
queues = 2
instances = 3
"""

LAB = """
[lab]
name = "three"
accelerator = "./accelerator.toml"
[[mdev]]
name = "red"
type = "third"
[[mdev]]
name = "blue"
type = "third"
[[mdev]]
name = "green"
type = "third"
[[vm]]
name = "red"
mdevs = ["red"]
memory = "512MiB"
[[vm]]
name = "blue"
mdevs = ["blue"]
memory = "512MiB"
"""

Facts = dict[str, Any]


class Three:
    """Red and blue in guests of their own, and green in none."""

    def __init__(self, hostctl: Hostctl, agents: dict[str, Agent], green: Bench) -> None:
        self.hostctl = hostctl
        self._agents = agents
        self._green = green

    def check(self, who: str, name: str, arguments: Facts) -> Facts:
        """What a check finds."""
        if who == "green":
            return run_check(name, self._green, arguments)
        return self._agents[who].check(name, arguments)

    def do(self, who: str, step: str, **arguments: object) -> Facts:
        """A step of sharing."""
        return self.check(who, "sharing", {"do": step, **arguments})

    def shown(self, who: str) -> Facts:
        """What the operator sees of an mdev."""
        found: Facts = self.hostctl.facts("mdev", "show", who)["mdevs"][0]
        return found


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    folder = tmp_path_factory.mktemp("lab")
    (folder / "accelerator.toml").write_text(ACCELERATOR)
    (folder / "three.toml").write_text(LAB)
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp", prefix="hc-"))
        hostctl = Hostctl(Path(name))
        session = hostctl.up(str(folder / "three.toml"))
        stack.callback(session.close)
        lab = Path(hostctl.facts("ps")["labs"][0]["folder"])
        agents = {
            each: stack.enter_context(Agent(lab / f"{each}.agent.sock")) for each in ("red", "blue")
        }
        socket = hostctl.facts("mdev", "show", "green")["mdevs"][0]["socket"]
        green = stack.enter_context(closing(Bench(SocketAccess(socket))))
        yield Three(hostctl, agents, green)


def test_check_of_buffers_holds_in_a_guest(three: Three) -> None:
    facts = three.check("red", "buffers", {})
    assert (facts["skipped"], facts["scrubbed"], facts["scattered"]) == (None, True, True)
    assert [each for each in facts["errors"] if not each["ok"]] == []
    assert facts["left"] == 0
    shown = three.shown("red")
    assert (shown["hbm_used"], shown["hbm_scrubbing"]) == (0, 0)
    assert shown["hbm_high_water"] == shown["hbm_size"] == 16 << 20


@pytest.mark.parametrize("mapped", [False, True])
def test_guests_share_the_very_memory_until_it_is_revoked(three: Three, mapped: bool) -> None:
    secret = bytes(range(256)) * 16
    numbers = {who: three.do(who, "join")["number"] for who in ("red", "blue", "green")}
    lent = three.do("red", "export", peer=numbers["blue"], content=secret.hex(), mapped=mapped)
    assert (lent["address"] >= native.MMU_AT) is mapped

    assert three.do("green", "import", handle=lent["handle"]) == {"refused": "denied"}
    taken = three.do("blue", "import", handle=lent["handle"])
    there = {"address": taken["address"], "length": 4 * KIB}
    found = three.do("blue", "read", **there)
    assert (found["status"], found["content"]) == ("success", secret.hex())

    # No copy: both translations end in the same place.
    walks = [
        three.hostctl.facts("iommu", "walk", who, hex(HBM_IOVA + at["address"]))
        for who, at in (("red", lent), ("blue", taken))
    ]
    assert walks[0]["hpa"] == walks[1]["hpa"] is not None
    assert three.do("blue", "write", address=taken["address"], content="00")["status"] == (
        "write-fault"
    )
    assert three.shown("blue")["hbm_imported"] == 4 * KIB

    stolen = three.do("green", "read", **there)
    assert (stolen["status"], stolen["fault"]) == ("hbm-unmapped", taken["address"])
    assert stolen["content"] == bytes(4 * KIB).hex()

    assert three.do("red", "revoke", handle=lent["handle"])["refused"] is None
    after = three.do("blue", "read", **there)
    assert (after["status"], after["fault"]) == ("hbm-unmapped", taken["address"])
    assert after["content"] == bytes(4 * KIB).hex()
    assert three.do("blue", "import", handle=lent["handle"]) == {"refused": "denied"}
    assert three.do("red", "free", address=lent["address"])["refused"] is None
    assert three.shown("blue")["hbm_imported"] == three.shown("red")["hbm_used"] == 0


def test_tenant_that_is_reset_is_nobody_to_the_others(three: Three) -> None:
    number = three.do("blue", "join")["number"]
    lent = three.do("red", "export", peer=number, content="11" * 16)
    three.check("blue", "buffers", {})  # resets the device first
    assert three.do("blue", "import", handle=lent["handle"]) == {"refused": "denied"}
    assert three.do("red", "export", peer=number, content="11") == {"refused": "denied"}
    assert three.do("red", "free", address=lent["address"])["refused"] is None
