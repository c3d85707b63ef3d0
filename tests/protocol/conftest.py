"""A session, and a server, with a simple device behind it, and nothing of them left behind."""

import gc

import pytest

from tests.support.vfio_user import Desk, hello, open_fds, served


@pytest.fixture(scope="package", autouse=True)
def nothing_of_others():
    """Descriptors are counted here: none of those that go may be of tests that were before."""
    gc.collect()


@pytest.fixture
def desk():
    """A session that has agreed on a version, without a socket."""
    before = open_fds()
    desk = Desk()
    desk.tell(hello())
    yield desk
    desk.close()
    assert open_fds() == before


@pytest.fixture
def host(tmp_path):
    """A server in a thread of its own."""
    before = open_fds()
    with served(tmp_path / "mdev.sock") as host:
        yield host
    assert open_fds() == before
