"""Guest images: from the packages of a Debian mirror to a kernel and an initramfs that boot.

mirror    the machine's apt configuration -> the Debian mirror it uses
packages  package names -> verified archives (apt, with a state of our own, no root)
archive   archives -> a folder with what is in them
sysroot   archives -> the private root: QEMU, the kernel, what the guest is made of
programs  the QEMU to run: the one on the PATH if it is new enough, else the private root's
recipe    what goes into the guest (a value)
build     recipe, private root and agent -> kernel and initramfs, cached by their inputs
toolchain the kernel's headers and their compiler -> modules for the guest
dmatest   Linux's test of DMA drivers, from the kernel's source
"""
