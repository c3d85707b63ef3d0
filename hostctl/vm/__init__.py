"""VMs: what they are made of, their command lines, and the QEMU processes."""
