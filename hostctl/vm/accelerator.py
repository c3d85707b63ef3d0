"""What is around one VM under test: an accelerator that can do everything, and one mdev of it."""

import itertools
import json
import os
import tomllib

from hostctl.runtime import folder_of
from hostctl.spec import LabSpec, MdevSpec, VmSpec, mdev_uuid
from mdevemu.errors import ConfigError
from mdevemu.profile import parse

MDEV = "device"
"""Name of the mdev."""

OPERATIONS = """\
nop copy fill compare crc32c sha256 deflate inflate aes_gcm_encrypt aes_gcm_decrypt"""
"""All that an engine can do."""

_numbers = itertools.count(1)
_TYPE = "whole"
_FILE = """\
[accelerator]
name = "under-test"
hbm = "64MiB"

[[engine]]
name = "engine0"
operations = {operations}

[[type]]
name = {type}
personality = {personality}
hbm = "64MiB"
queues = 4
instances = 1
"""


def text(personality: str) -> str:
    """The accelerator's profile: one type, with all that there is."""
    return _FILE.format(
        operations=json.dumps(OPERATIONS.split()),
        type=json.dumps(_TYPE),
        personality=json.dumps(personality),
    )


def lab_of(vm: VmSpec, personality: str) -> LabSpec:
    """A lab with that VM, and a name that no other has; its profile's file is not there.

    Raises:
        ConfigError: there is no such personality.
        HostError: there is no place for it.
    """
    name = f"run-{os.getpid()}-{next(_numbers)}"
    file = folder_of(name).path / "accelerator.toml"
    mdev = MdevSpec(MDEV, _TYPE, None, mdev_uuid(name, MDEV))
    try:
        accelerator = parse(file.name, tomllib.loads(text(personality)))
    except ConfigError as error:
        # The rest of the file is ours.
        raise ConfigError("personality", error.wrong) from None
    return LabSpec(file, name, file, accelerator, None, (mdev,), (vm,))
