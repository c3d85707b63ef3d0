"""``hostctl find`` and ``hostctl topo``."""

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hostctl.control import Control
from hostctl.topology import (
    Topology,
    answer,
    as_svg,
    as_tree,
    described,
    parse_query,
    read_topology,
)
from mdevemu.errors import ConfigError
from mdevemu.profile import locate, shipped
from tests.support.serving import Serving, short_folder
from tests.unit.hostctl.command import Hostctl


def profile(name: str) -> Topology:
    return described(locate(name))


def asked(text: str, *names: str) -> tuple[list[tuple[str, ...]], dict[str, str]]:
    """The engines of each answer, and who has none and why."""
    found, refused = answer(parse_query(text), map(profile, names))
    return [each.engines for each in found], {each.accelerator: each.why for each in refused}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("func=deflte", "position 6: unknown function 'deflte'; did you mean 'deflate'?"),
        ("fnc=deflate", "position 1: unknown selector 'fnc'; did you mean 'func'?"),
        ("func=", "position 6: a value of func is missing"),
        ("func=copy near=far", "position 16: near: 'far' is no node (accepted: as node1)"),
        ("near=node1 near=node1", "position 12: near is there twice"),
        ("share(hbm): copy", "position 17: 1 functions (accepted: 2 to 16, with ',' between)"),
        ("share(hbm): copy,", "position 18: a function is missing before its end"),
        (
            "share(hbm): copy > fill",
            "position 18: 1 functions (accepted: 2 to 16, with ',' between)",
        ),
        ("chain: copy > , fill", "position 15: a function is missing before ', fill'"),
        ("chain: copy > fill func=nop", "position 25: func= does not go with chain"),
        ("share(ram): copy, fill", "position 1: 'share(ram): copy, fill' means nothing here"),
        ("func=copy ~", "position 11: '~' means nothing here"),
        ("", "position 1: it asks for nothing"),
    ],
)
def test_what_is_no_question_is_refused_with_its_position(text: str, wrong: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"QUERY: {wrong}")):
        parse_query(text)


def test_nearest_is_told_and_further_ones_are_refused() -> None:
    engines, refused = asked("func=deflate near=node1", "demo", "hbm-8x", "ioat")
    assert engines == [("compute0",)]
    assert refused == {
        "ioat": "no engine does deflate",
        "demo": "is next to node0, at distance 20 and not 10",
    }
    # Where nothing is next to the node, what there is is the nearest.
    assert asked("func=deflate near=node1", "demo") == ([("compute0",)], {})


def test_one_engine_does_all_that_is_asked_of_it() -> None:
    assert asked("func=deflate func=crc32c", "hbm-8x") == ([("compute0",)], {})
    engines, refused = asked("func=deflate func=copy", "hbm-8x", "queues")
    assert engines == [("engine0.3",)]
    assert refused["hbm-8x"] == "no engine does all of it: deflate (compute0), copy (dma0 dma1)"


def test_stacks_that_engines_share() -> None:
    found, _ = answer(parse_query("share(hbm): deflate, aes"), [profile("hbm-8x")])
    assert [each.stack for each in found] == ["hbm4", "hbm5", "hbm6", "hbm7"]
    assert {each.engines for each in found} == {("compute0", "crypto0")}
    engines, refused = asked("share(hbm): nop, copy", "ioat")
    assert (engines, refused) == ([], {"ioat": "no engine does nop"})


def test_engines_that_share_no_stack_are_named(tmp_path: Path) -> None:
    file = tmp_path / "apart.toml"
    text = locate("hbm-8x").read_text().replace('"dma1", "compute0", "crypto0"', '"crypto0"')
    file.write_text(text)
    _, refused = answer(parse_query("share(hbm): deflate, aes"), [described(file)])
    assert refused[0].why.startswith(
        "no stack is shared by deflate (compute0), aes (crypto0) (hbm0: dma0 compute0; hbm1"
    )


def test_chains_follow_links_in_their_direction() -> None:
    assert asked("chain: deflate > aes > crc32c", "hbm-8x")[0] == [
        ("compute0", "crypto0", "compute0")
    ]
    assert asked("chain: deflate > aes > copy", "hbm-8x") == (
        [],
        {"hbm-8x": "no link from aes (crypto0) to copy (dma0 dma1)"},
    )
    # What stays in its engine needs no link.
    assert asked("chain: deflate > crc32c", "hbm-8x")[0] == [("compute0", "compute0")]


def test_selectors_choose_accelerators() -> None:
    engines, refused = asked("func=copy pcieRoot=pci0000:3a numaNode=1", "hbm-8x", "demo")
    assert engines == [("dma0",), ("dma1",)]
    assert refused == {"demo": "its pcieRoot is pci0000:00"}
    assert asked("accelerator=demo", "hbm-8x", "demo")[0] == [("dma0",), ("compute0",)]


def test_what_no_slice_can_have_is_no_answer() -> None:
    # The engines are in two groups, and a slice has the engines of one.
    assert asked("chain: crc32c > deflate", "queues") == (
        [("engine0.3", "engine0.3")],
        {},
    )
    found, _ = answer(parse_query("func=deflate"), [profile("queues")])
    assert [each.types for each in found] == [("mdevemu-1swq",)]


@pytest.fixture(scope="module")
def live() -> Iterator[tuple[Control, str]]:
    with short_folder() as folder:
        serving = Serving(folder, text=locate("hbm-8x").read_text())
        path = serving.runtime / "control.sock"
        control = Control(path)
        control.create("mdevemu-1g.10gb", name="red", uuid=None, weight=None)
        yield control, str(path)
        control.close()
        serving.stop()


def test_running_accelerator_is_what_its_profile_says_and_has_mdevs(
    live: tuple[Control, str], tmp_path: Path
) -> None:
    topology = read_topology(live[0])
    assert (topology.engines, topology.links) == (profile("hbm-8x").engines, topology.links)
    tree = as_tree([topology])
    assert "   │  ├─ hbm0 5 GiB: dma0 compute0" in tree
    assert tree.count("   │  │  └─ red: 5 GiB") == 2
    assert "      └─ red mdevemu-1g.10gb" in tree
    hostctl = Hostctl(tmp_path)
    found = hostctl.facts("find", "chain:", "deflate > aes", "--control", live[1])
    assert [each["engines"] for each in found["found"]] == [["compute0", "crypto0"]]
    done = hostctl.run("find", "chain: aes > copy", "--control", live[1])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "not hbm-8x: no link from aes (crypto0) to copy (dma0 dma1)\n"
    assert "no lab is up" in hostctl.run("find", "func=copy").stderr


def test_picture_has_every_engine_stack_link_and_slice(live: tuple[Control, str]) -> None:
    found = [read_topology(live[0]), *map(profile, shipped())]
    drawn = ElementTree.fromstring(as_svg(found))
    kinds = [each.get("class") for each in drawn.iter()]
    assert kinds.count("card") == len(found)
    assert kinds.count("engine") == sum(len(each.engines) for each in found)
    assert kinds.count("stack") == sum(len(each.stacks) for each in found)
    assert kinds.count("link") == sum(len(each.links) for each in found)
    assert kinds.count("mdev") == 2
    words = "".join(drawn.itertext())
    assert all(engine.name in words for each in found for engine in each.engines)
