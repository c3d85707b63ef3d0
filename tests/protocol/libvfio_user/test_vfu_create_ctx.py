"""A server that nobody comes to."""


def test_vfu_create_ctx_default(host):
    """It is there, and it goes away without a word to the device."""
    assert host.path.is_socket()
    host.halt()
    host.server.close()
    assert not host.path.exists()
    assert host.device.log == []
