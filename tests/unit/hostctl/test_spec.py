"""LAB.toml: what is read, and how mistakes are refused."""

from pathlib import Path

import pytest

from hostctl.spec import find_lab, mdev_uuid, read_lab, shipped
from mdevemu.errors import ConfigError

ACCEL = """
[accelerator]
name = "small"
hbm = "64MiB"
[[engine]]
name = "dma0"
operations = ["copy"]
[[type]]
name = "half"
instances = 2
"""

LAB = """
[lab]
name = "two"
accelerator = "small.toml"
[[mdev]]
name = "red"
type = "half"
weight = 3
[[vm]]
name = "first"
mdevs = ["red"]
memory = "1GiB"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small.toml").write_text(ACCEL)
    return tmp_path


def lab(folder: Path, text: str) -> Path:
    file = folder / "two.toml"
    file.write_text(text)
    return file


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_lab(lab(folder, text))
    return str(caught.value).replace(f"{folder}/", "")


def test_lab_is_read_with_defaults(folder: Path) -> None:
    spec = read_lab(lab(folder, LAB))
    assert spec.name == "two"
    assert [(kind.name, kind.instances) for kind in spec.accelerator.types] == [("half", 2)]
    assert spec.mdev("red").weight == 3
    assert spec.mdev("red").uuid == mdev_uuid("two", "red")
    (vm,) = spec.vms
    assert (vm.memory, vm.cpus, vm.iommu, vm.kernel) == (1 << 30, 1, "intel", ())


def test_type_may_carry_the_drivers_prefix(folder: Path) -> None:
    spec = read_lab(lab(folder, LAB.replace('"half"', '"mdevemu-half"')))
    assert spec.mdevs[0].type == "half"


def test_uuid_differs_between_labs_and_mdevs_and_stays() -> None:
    assert mdev_uuid("a", "b") == mdev_uuid("a", "b")
    assert len({mdev_uuid("a", "b"), mdev_uuid("a", "c"), mdev_uuid("b", "b")}) == 3


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[[mdev]]", "[[mdevs]]", "two.toml: unknown key 'mdevs'; did you mean 'mdev'?"),
        ("weight", "wieght", "two.toml.mdev[0]: unknown key 'wieght'; did you mean 'weight'?"),
        ('"half"', '"hafl"', "two.toml.mdev[0].type: unknown type 'hafl'; did you mean 'half'?"),
        ('["red"]', '["rde"]', "two.toml.vm[0].mdevs[0]: unknown mdev 'rde'; did you mean 'red'?"),
        ('["red"]', '["red", "red"]', "two.toml.vm: mdev 'red' is given to two"),
        ('"1GiB"', '"1Gib"', "two.toml.vm[0].memory: '1Gib' is not a size"),
        ("small.toml", "smal.toml", "smal.toml: No such file or directory"),
        ("small.toml", "dmeo", "unknown shipped profile 'dmeo'; did you mean 'demo'?"),
        ('"two"', '"Two"', "two.toml.lab.name: 'Two' is not a name"),
        ("[lab]", "[lab", "two.toml: is not TOML"),
        ("[lab]", f"x = {'[' * 5000}", "two.toml: is not TOML"),
        ("[lab]", f"x = {'1' * 5000}", "two.toml: is not TOML"),
        ("weight = 3", "weight = 0", "two.toml.mdev[0].weight: 0 is out of range"),
    ],
)
def test_mistake_is_refused_with_file_key_and_nearest(
    folder: Path, old: str, new: str, expected: str
) -> None:
    assert old in LAB
    assert refusal(folder, LAB.replace(old, new)).startswith(expected) or expected in refusal(
        folder, LAB.replace(old, new)
    )


def test_more_mdevs_than_the_type_has_is_refused(folder: Path) -> None:
    more = "".join(f'[[mdev]]\nname = "m{n}"\ntype = "half"\n' for n in range(2))
    assert "no room for 'm1': 2 of 2 instances are in use" in refusal(folder, LAB + more)


def test_same_name_twice_is_refused(folder: Path) -> None:
    twice = '[[mdev]]\nname = "red"\ntype = "half"\n'
    assert "the name 'red' is there twice" in refusal(folder, LAB + twice)


def test_binary_file_is_refused(folder: Path) -> None:
    file = folder / "binary.toml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not text"):
        read_lab(file)


def test_every_shipped_lab_can_be_read() -> None:
    assert "demo" in shipped()
    for name in shipped():
        assert read_lab(find_lab(name)).vms


def test_demo_accelerator_has_no_hbm_for_a_third_slice() -> None:
    accelerator = read_lab(find_lab("demo")).accelerator
    (kind,) = accelerator.types
    assert (kind.instances, accelerator.hbm) == (2, 2 * kind.hbm)
