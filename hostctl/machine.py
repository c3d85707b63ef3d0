"""What this machine runs VMs with: QEMU, the guest's kernel and file system, KVM or not."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from hostctl.errors import HostError
from hostctl.output import Output
from hostctl.vm import kvm
from hostctl.vm.spec import Machine
from images.build import build
from images.progress import Console
from images.recipe import Recipe
from images.sysroot import find_qemu


def guest_machine(output: Output, modules: Iterable[str] = ()) -> Machine:
    """QEMU and a guest that boots; what the cache lacks is fetched and built, which is narrated.

    Args:
        modules: kernel modules that the guest must have, besides those of every guest.

    Raises:
        images.errors.HostError: something cannot be had.
    """
    recipe = Recipe()
    known = {*recipe.loaded, *recipe.modules}
    if more := sorted({name.replace("-", "_") for name in modules} - known):
        recipe = replace(recipe, modules=(*recipe.modules, *more))
    progress = Console(output.err)
    program = find_qemu(progress)
    image = build(recipe, progress)
    return Machine(
        qemu=tuple(program.argv_prefix),
        environment=program.env,
        kernel=Path(image.kernel),
        initrd=Path(image.initrd),
        append=tuple(image.line.split()),
    )


def pick_accelerator(machine: Machine, wish: str, output: Output) -> str:
    """How QEMU shall run guests: ``wish`` is "kvm", "tcg" or "auto"; says so if KVM is no use.

    Raises:
        HostError: KVM is wished for, and runs no guest here.
    """
    if wish == "tcg":
        return "tcg"
    verdict = kvm.probe(machine)
    if wish == "kvm" and not verdict.usable:
        raise HostError(verdict.why, "leave out '--accel kvm' to have QEMU translate (TCG)")
    if not verdict.usable:
        output.say(f"guests run under TCG, which is slower: {verdict.why}")
    return verdict.accelerator
