"""A simulated accelerator, sliced into mediated devices behind vfio-user sockets."""

__version__ = "0.1.0"
