"""What the private root and the guest are made of.  Everything here is a value."""

from dataclasses import dataclass
from typing import NamedTuple

PORT = "org.mdevemu.agent.0"
"""Name of the virtio-serial port on which the guest's agent answers."""


class Suite(NamedTuple):
    """A suite of the Debian archive.

    Attributes:
        name: its codename.
        preferred: source packages that are taken from this suite although an older one has them.
    """

    name: str
    preferred: tuple[str, ...] = ()


@dataclass(frozen=True)
class Root:
    """What the private root is made of.

    Attributes:
        suites: where its packages come from.
        packages: what is in it, besides dependencies.
        assumed: dependencies that are left out, because they only matter to an installed
            system, each with the virtual packages that it stands for.
    """

    suites: tuple[Suite, ...] = (
        Suite("trixie"),
        Suite("trixie-backports", ("qemu", "seabios")),
    )
    packages: tuple[str, ...] = (
        "busybox-static",
        "kmod",
        "libpython3-stdlib",
        "linux-image-amd64",
        "pciutils",
        "python3-minimal",
        "qemu-system-x86",
        "zstd",
    )
    assumed: tuple[tuple[str, str], ...] = (
        ("adduser", ""),
        ("coreutils", ""),
        ("debconf", "debconf-2.0 (= 9999:0)"),
        ("dpkg", ""),
        ("initramfs-tools", "linux-initramfs-tool (= 9999:0)"),
        ("media-types", ""),
        ("mount", ""),
        ("netbase", ""),
        ("passwd", ""),
        ("systemd", ""),
        ("tzdata", ""),
        ("udev", ""),
    )


ASSUMED = """\
base-files bash coreutils debianutils dpkg libasan8 libatomic1 libcc1-0 libgomp1 libgprofng0
libhwasan0 libitm1 liblsan0 libquadmath0 libssl3t64 libtsan2 libubsan1 linux-base mawk pahole
perl-base xz-utils"""
"""What a compiler of kernels needs not: libraries of other programs, and what is only used to
sign modules or to describe their types; and what every Debian machine has."""


@dataclass(frozen=True)
class Compiler:
    """What the root is made of in which kernel modules are built, besides the kernel's headers.

    Attributes:
        suite: where its packages come from: the suite of the kernel.
        packages: what is in it, besides dependencies; the headers bring the compiler.
        assumed: dependencies that are left out.
    """

    suite: str = "trixie"
    packages: tuple[str, ...] = ("make",)
    assumed: tuple[str, ...] = tuple(ASSUMED.split())


def of_release(codename: str, *packages: str) -> Root:
    """A few packages of a Debian release, by its codename, in a private root of their own."""
    return Root(suites=(Suite(codename),), packages=packages)


VFIO = ("vfio_pci", "vfio_iommu_type1")
"""The guest's way to its own devices from user space, behind a virtual IOMMU."""

CRYPTO = ("algif_aead", "algif_hash", "algif_skcipher", "aesni_intel", "gcm", "ghash_generic")
"""AF_ALG and what AES-GCM needs, so that a guest can check an accelerator's results with it.

The generic modules serve a processor for which aesni_intel has no GCM.
"""

SUMS = ("crc32c_generic", "crc32c_intel")
FILES = ("9p", "9pnet_virtio", "overlay")
DEVICES = ("idxd", "ioatdma", "uio_pci_generic", "virtio_iommu", "virtio_rng")

EXTENSIONS = "_asyncio _contextvars _ctypes _decimal _queue mmap resource termios"
"""Python modules in C that are not in the interpreter itself.

Without _hashlib, hashlib uses its built-in algorithms, and the image has no libcrypto.
"""

LEFT_OUT = """\
_pyrepl antigravity curses dbm ensurepip idlelib mailbox multiprocessing pydoc_data sitecustomize
sqlite3 test this tkinter turtle turtledemo venv webbrowser wsgiref xml xmlrpc zoneinfo"""
"""Modules and packages of Python's library that no guest needs."""

ENCODINGS = """\
__init__ aliases ascii base64_codec cp437 hex_codec idna latin_1 punycode raw_unicode_escape
unicode_escape utf_16 utf_16_be utf_16_le utf_32 utf_8 utf_8_sig zlib_codec"""
"""Modules of Python's ``encodings`` that are kept; the others are code pages."""

KMOD = "depmod insmod modinfo modprobe rmmod"
"""What kmod is called in /usr/sbin."""

LINE = (
    "console=ttyS0",
    "quiet",
    "panic=-1",
    "cryptomgr.notests=1",
    "initcall_blacklist=init_encrypted,crypto_kdf108_init",
    "tsc=reliable",
    "no_timer_check",
)
"""Kernel parameters of every guest.

A panic ends the VM.  The rest is time: under TCG the kernel needs 4.3 s to /init without
them and 3.0 s with them.  Self-tests of ciphers cost 0.9 s, those of encrypted keys and of a
key derivation that nobody uses 0.5 s, calibrating a TSC that the emulator defines 0.3 s.
"""


@dataclass(frozen=True)
class Recipe:
    """What the guest is made of.

    Attributes:
        loaded: kernel modules that are loaded before the agent starts.
        modules: kernel modules that are there to be loaded by name.
        programs: paths in the private root of programs; their libraries follow.
        data: paths in the private root of plain files.
        links: (path in the guest, target).
        python: version of the private root's Python, as in its folder's name.
        extensions: Python modules in C; their libraries follow.
        left_out: modules and packages of Python's library that are not taken.
        encodings: modules of Python's ``encodings`` that are taken.
        line: kernel parameters.
    """

    loaded: tuple[str, ...] = (*VFIO, *CRYPTO)
    modules: tuple[str, ...] = (*FILES, *DEVICES, *SUMS)
    programs: tuple[str, ...] = (
        "usr/bin/busybox",
        "usr/bin/kmod",
        "usr/bin/lspci",
        "usr/bin/python3.13",
        "usr/bin/setpci",
    )
    data: tuple[str, ...] = ("usr/share/misc/pci.ids",)
    links: tuple[tuple[str, str], ...] = (
        *((f"usr/sbin/{name}", "../bin/kmod") for name in KMOD.split()),
        ("usr/bin/lsmod", "kmod"),
        ("usr/bin/python3", "python3.13"),
    )
    python: str = "3.13"
    extensions: tuple[str, ...] = tuple(EXTENSIONS.split())
    left_out: tuple[str, ...] = tuple(LEFT_OUT.split())
    encodings: tuple[str, ...] = tuple(ENCODINGS.split())
    line: tuple[str, ...] = LINE
