"""A server of ours with a simple device behind it, in a thread, and nothing of it left behind."""

import pytest

from tests.support.vfio_user import open_fds, served


@pytest.fixture
def host(tmp_path):
    before = open_fds()
    with served(tmp_path / "mdev.sock") as host:
        yield host
    assert open_fds() == before
