"""The host controller: labs of VMs with slices of an accelerator.

A client of the emulator's and QEMU's sockets, with no daemon of its own.
"""
