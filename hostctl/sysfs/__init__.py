"""The mdev tree of a Linux host, served live from an emulator."""
