"""Kernels and modules of an operator's: read from their files, refused by name."""

import io
from pathlib import Path

import pytest

from hostctl.output import Output
from hostctl.vm import accelerator, payload
from hostctl.vm.kernel import Modules, kernel_release
from hostctl.vm.modules import Module, ModuleFile
from hostctl.vm.run import Request, attach, guest
from mdevemu.accel.operations import OPERATIONS
from mdevemu.errors import ConfigError
from mdevemu.profile import load
from tests.support.elf import relocatable
from tests.unit.hostctl.command import Hostctl

RELEASE = "6.99.1-own"


def image(version: bytes = RELEASE.encode() + b" (me@here) #1", magic: bytes = b"HdrS") -> bytes:
    """The head of a bzImage; its version's text is at 0x400."""
    content = bytearray(0x600)
    content[0x202:0x206] = magic
    content[0x20E:0x210] = (0x200).to_bytes(2, "little")
    content[0x400 : 0x400 + len(version)] = version
    return bytes(content)


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    file = tmp_path / "bzImage"
    file.write_bytes(image())
    return file


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What modules_install leaves behind."""
    folder = tmp_path / "installed/lib/modules" / RELEASE
    (folder / "kernel").mkdir(parents=True)
    (folder / "modules.dep").write_text("kernel/own.ko:\n")
    (folder / "kernel/own.ko").write_bytes(b"module")
    (folder / "build").symlink_to("/")
    return tmp_path / "installed"


def module(folder: Path, modinfo: bytes = b"name=own\0depends=a,b\0vermagic=6.99.1\0") -> Path:
    file = folder / "own.ko"
    file.write_bytes(relocatable(".modinfo", modinfo))
    return file


def test_release_is_the_first_word_of_the_versions_text(kernel: Path) -> None:
    assert kernel_release(kernel) == RELEASE


@pytest.mark.parametrize(
    "content", [b"", b"\x7fELF", image(magic=b"Hdr?"), image(b""), image()[:0x400], b"\xff" * 999]
)
def test_what_is_no_bzimage_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "vmlinuz"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"vmlinuz: is no bzImage .accepted: arch/x86/boot"):
        kernel_release(file)


@pytest.mark.parametrize("below", ["", "lib/modules", f"lib/modules/{RELEASE}"])
def test_modules_are_found_where_modules_install_puts_them(tree: Path, below: str) -> None:
    found = Modules.find(tree / below, RELEASE)
    assert found.folder == tree / "lib/modules" / RELEASE
    names = sorted(str(file.relative_to(found.folder)) for file in found.files())
    assert names == ["kernel/own.ko", "modules.dep"], "and nothing behind the link"
    assert found.size == len("kernel/own.ko:\nmodule")


def test_modules_of_another_kernel_are_refused(tree: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no modules of kernel 6\.0 .accepted: what 'make"):
        Modules.find(tree, "6.0")
    with pytest.raises(ConfigError, match=rf"has the modules of kernel {RELEASE}, and this one"):
        Modules.find(tree / "lib/modules" / RELEASE, "6.0")


def test_payload_is_the_guests_files_and_then_the_modules(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "initrd").write_bytes(b"070701 the guest's own..")
    payload.write(tmp_path / "both", tmp_path / "initrd", Modules.find(tree, RELEASE))
    own, _, more = (tmp_path / "both").read_bytes().partition(b"..")
    assert own == b"070701 the guest's own"
    assert f"usr/lib/modules/{RELEASE}/kernel/own.ko\0".encode() in more
    assert more.count(b"070701") == 8, "five folders above the files, two files, the end"


def test_module_file_says_its_name_and_what_it_needs(tmp_path: Path) -> None:
    found = Module.parse(f"'{module(tmp_path)}' debug=1 text='a b'", debian=True)
    assert (found.name, found.parameters) == ("own", ("debug=1", "text=a b"))
    assert found.wanted == ("a", "b")


def test_module_file_that_needs_nothing(tmp_path: Path) -> None:
    assert ModuleFile.read(module(tmp_path, b"name=own\0depends=\0")).needs == ()


def test_module_of_the_kernels_is_wanted_by_its_name() -> None:
    assert Module.parse("vfio-pci ids=1234:acc1", debian=True).wanted == ("vfio-pci",)
    assert Module.parse("dmatest", debian=False).file is None, "that is the operator's to have"


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"not at all", relocatable(".text", b"x")])
def test_what_is_no_module_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "own.ko").write_bytes(content)
    with pytest.raises(ConfigError, match=r"own\.ko: is no kernel module"):
        ModuleFile.read(tmp_path / "own.ko")


@pytest.mark.parametrize("text", ["", "a/b", "'", "own.ko.xz", "../x"])
def test_words_that_name_no_module_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^module: "):
        Module.parse(text, debian=True)


def test_accelerator_can_do_everything_whatever_the_personality(tmp_path: Path) -> None:
    file = tmp_path / "accelerator.toml"
    for personality in ("native", "ioat", "adder"):
        file.write_text(accelerator.text([accelerator.whole(personality)]))
        spec = load(file)
        assert spec.types[0].personality == personality
        assert set(spec.engines[0].operations) == set(OPERATIONS)


def test_debugger_is_told_where_the_symbols_are(tmp_path: Path) -> None:
    built = tmp_path / "arch/x86/boot/bzImage"
    assert attach(Path("/run/gdb.sock"), built).endswith(" gdb -ex 'target remote /run/gdb.sock'")
    (tmp_path / "vmlinux").touch()
    assert f" gdb {tmp_path}/vmlinux -ex " in attach(Path("/run/gdb.sock"), built)


def refusal(request: Request) -> str:
    """How a request is refused, before anything starts."""
    with pytest.raises(ConfigError) as refused:
        guest(request, Output(out=io.StringIO(), err=io.StringIO())).__enter__()
    return str(refused.value)


def test_requests_that_cannot_be_are_refused_before_anything_starts(
    kernel: Path, tree: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "missing"
    assert refusal(Request(kernel=missing)) == f"{missing}: No such file or directory"
    assert refusal(Request(kernel=tmp_path)) == f"{tmp_path}: Is a directory"
    assert refusal(Request(share=missing)) == f"share: {missing} is no folder"
    assert "modules: they are of no use without" in refusal(Request(tree=tree))
    assert "has no modules of kernel" in refusal(Request(kernel=kernel, tree=missing))
    assert "missing.ko: No such file" in refusal(Request(modules=[f"{missing}.ko"]))
    large = Request(kernel=kernel, tree=tree, memory=1 << 20)
    assert "bytes of modules are too many for a guest of 1048576 bytes" in refusal(large)


def test_command_line_refuses_with_status_2(tmp_path: Path) -> None:
    hostctl = Hostctl(tmp_path)
    for given in (["--kernel", "none"], ["--memory", "1"], ["--viommu", "arm"], ["--module", "'"]):
        done = hostctl.run("vm", "run", *given, "--", "true")
        assert done.returncode == 2, done.stderr
    assert hostctl.run("module", "build", "--json").returncode == 2
