"""What is around drivers under test: an accelerator that can do everything, and mdevs of it."""

import itertools
import json
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence

from hostctl.runtime import folder_of
from hostctl.spec import LabSpec, MdevSpec, VmSpec, mdev_uuid
from mdevemu.profile import parse

MDEV = "device"
"""Name of the mdev, where there is one."""

OPERATIONS = """\
nop copy fill compare crc32c sha256 deflate inflate aes_gcm_encrypt aes_gcm_decrypt"""
"""All that an engine can do."""

_numbers = itertools.count(1)
_TYPE = "whole"
_FILE = """\
[accelerator]
name = "under-test"
hbm = "{hbm}"

[[engine]]
name = "engine0"
operations = {operations}
"""


def text(types: Iterable[Mapping[str, object]], hbm: str = "256MiB") -> str:
    """The accelerator's profile: one engine, and these tables ``[[type]]``."""
    tables = ("".join(f"{key} = {_value(each[key])}\n" for key in each) for each in types)
    parts = (f"\n[[type]]\n{lines}" for lines in tables)
    return _FILE.format(hbm=hbm, operations=_value(OPERATIONS.split())) + "".join(parts)


def _value(value: object) -> str:
    """A value in TOML; texts, numbers, truths and lists look as in JSON."""
    return json.dumps(value, default=str)


def whole(personality: str) -> Mapping[str, object]:
    """A type with all that there is, for one mdev."""
    return {
        "name": _TYPE,
        "personality": personality,
        "hbm": "64MiB",
        "queues": 4,
        "instances": 1,
    }


def lab_of(profile: str, mdevs: Sequence[str], vms: Sequence[VmSpec]) -> LabSpec:
    """A lab with these mdevs of the type ``whole`` and these VMs, and a name that no other has.

    Its profile's file is not there.

    Raises:
        ConfigError: the profile cannot be used.
        HostError: there is no place for it.
    """
    name = f"run-{os.getpid()}-{next(_numbers)}"
    file = folder_of(name).path / "accelerator.toml"
    accelerator = parse(file.name, tomllib.loads(profile))
    made = tuple(MdevSpec(mdev, _TYPE, None, mdev_uuid(name, mdev)) for mdev in mdevs)
    return LabSpec(file, name, file, accelerator, None, made, tuple(vms))
