"""``hostctl mdev accesses`` in front of an emulator."""

import json

from hostctl.cli.main import run
from mdevemu.vfio_user.client import Client


def test_what_a_driver_did_is_shown(ioat, capsys):
    mdev = ioat.control.create("mdevemu-ioat", name="red", uuid=None, weight=None)
    client = Client(mdev.socket, timeout=10)
    for _ in range(3):
        client.write_u32(0, 0x400, 1)
    for _ in range(1200):
        client.read_u64(0, 0x88)
    client.close()
    command = ["mdev", "accesses", "red", "--control", str(ioat.control_path)]
    assert run([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["unmodelled"] == [
        {"bar": 0, "offset": 0x400, "length": 4, "write": True, "count": 3}
    ]
    (spin,) = said["spins"]
    assert (spin["register"], spin["reads"]) == ("channel_status[0]", 1200)
    assert run(command) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["BAR0", "0x400", "4", "write", "3"] in rows
    [shown] = [row for row in rows if row[:1] == ["channel_status[0]"]]
    assert shown[1:4] == ["1200", "0x3", "state=HALTED"]
