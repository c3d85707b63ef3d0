"""From device id and process id to an address space: the two directories and their checks.

Spec: RISC-V IOMMU 1.0, Process to locate the Device-context; Process to locate
the Process-context; and the configuration checks of both
"""

from dataclasses import dataclass

from mdevemu.iommu.causes import Cause, Fault
from mdevemu.iommu.formats import (
    DeviceAttributes,
    Directory,
    DirectoryMode,
    GuestTranslation,
    ProcessAttributes,
    TablePointer,
    TranslationControl,
    reserved,
)
from mdevemu.iommu.registers import Capabilities, FeatureControl, Mode, can_choose_rv32
from mdevemu.iommu.walk import (
    FIRST_SCHEMES,
    SECOND_SCHEMES,
    SV32,
    SV32X4,
    MsiTable,
    Scheme,
    Space,
    Step,
    Walker,
)
from mdevemu.layout import Word, fields_of
from mdevemu.memory import Miss, PhysicalMemory

MSI_OFF, MSI_FLAT = 0, 1
PROCESS_BITS = {DirectoryMode.PD8: 8, DirectoryMode.PD17: 17, DirectoryMode.PD20: 20}
LEVELS = {Mode.ONE_LEVEL: 1, Mode.TWO_LEVELS: 2, Mode.THREE_LEVELS: 3}

_DIRECTORY_RESERVED = reserved(Directory)
_TC_RESERVED = reserved(TranslationControl)
_TA_RESERVED = reserved(DeviceAttributes)
_POINTER_RESERVED = reserved(TablePointer)
_PROCESS_RESERVED = reserved(ProcessAttributes)
_QOS = DeviceAttributes.rcid.mask | DeviceAttributes.mcid.mask


@dataclass(frozen=True, slots=True)
class DeviceContext:
    """A device context that passed its checks.

    Attributes:
        en_ats, en_pri, t2gpa, dtf, pdtv, prpr, dpe: the bits of tc.
        sxl: first-stage tables are those of RV32.
        directory, directory_root: mode and (guest) physical address of the PDT, if PDTV.
        own: the space of requests without a process id, unless DPE gives them one.
        untagged: the space of a request that has no first stage at all.
    """

    en_ats: bool
    en_pri: bool
    t2gpa: bool
    dtf: bool
    pdtv: bool
    prpr: bool
    dpe: bool
    sxl: bool
    directory: DirectoryMode
    directory_root: int
    own: Space
    untagged: Space


class Directories:
    """Walks the device directory and the process directories."""

    def __init__(
        self,
        memory: PhysicalMemory,
        walker: Walker,
        capabilities: Capabilities,
        fctl: FeatureControl,
    ) -> None:
        self._memory = memory
        self._walker = walker
        self._capabilities = capabilities
        self._fctl = fctl
        # DDI[0] is 7 bits wide in base format (32-byte contexts), 6 in extended (64-byte).
        self._leaf_bits = 6 if capabilities.msi_flat else 7
        self._size = 64 if capabilities.msi_flat else 32
        self._guest_pages = _guest_page_bits(capabilities)

    def fits(self, device_id: int, mode: int) -> bool:
        """The device id is no wider than ``mode`` allows (step 5 of translating an IOVA)."""
        if mode == Mode.THREE_LEVELS:
            return True
        return device_id >> self._leaf_bits + 9 * (LEVELS[Mode(mode)] - 1) == 0

    def device(
        self, mode: int, root: int, device_id: int, steps: list[Step] | None = None
    ) -> DeviceContext:
        """Locate and check a device context; ``root`` is the root table's physical address.

        Raises:
            Fault: causes 257 to 259.
        """
        big = self._fctl.be
        # 1. Let a be ddtp.PPN x 2^12 and let i = LEVELS - 1.
        table = root
        for level in range(LEVELS[Mode(mode)] - 1, 0, -1):
            # 3. Let ddte be the eight bytes at a + DDI[i] x 8.
            index = device_id >> self._leaf_bits + 9 * (level - 1) & 0x1FF
            at = table + index * 8
            self._walker.tally.devices += 1
            entry = self._words(at, 1, big, Cause.DDT_ENTRY_LOAD_ACCESS_FAULT)[0]
            if steps is not None:
                steps.append(Step("DDT", level, index, at, entry, names(Directory, entry), False))
            # 5. and 6.
            if not entry & 1:
                raise Fault(Cause.DDT_ENTRY_NOT_VALID)
            if entry & _DIRECTORY_RESERVED:
                raise Fault(Cause.DDT_ENTRY_MISCONFIGURED)
            # 7. Let i = i - 1 and let a = ddte.PPN x 2^12.
            table = Directory(entry).ppn << 12
        # 8. Let DC be the DC_SIZE bytes at a + DDI[0] x DC_SIZE.
        index = device_id & (1 << self._leaf_bits) - 1
        at = table + index * self._size
        self._walker.tally.devices += 1
        words = self._words(at, self._size // 8, big, Cause.DDT_ENTRY_LOAD_ACCESS_FAULT)
        if steps is not None:
            flags = names(TranslationControl, words[0])
            steps.append(Step("DC", 0, index, at, words[0], flags, False))
        # 9. and 10.
        if not words[0] & 1:
            raise Fault(Cause.DDT_ENTRY_NOT_VALID)
        context = self._checked(words)
        if context is None:
            raise Fault(Cause.DDT_ENTRY_MISCONFIGURED)
        # 11. The device-context has been successfully located.
        return context

    def _checked(self, words: tuple[int, ...]) -> DeviceContext | None:
        """A device context that passes every check, or None.

        Spec: RISC-V IOMMU 1.0, Device-context configuration checks
        """
        can, fctl = self._capabilities, self._fctl
        tc = TranslationControl(words[0])
        guest = GuestTranslation(words[1])
        ta = DeviceAttributes(words[2])
        fsc = TablePointer(words[3])
        # 1. Bits reserved for future standard use.
        if words[0] & _TC_RESERVED or words[2] & _TA_RESERVED or words[3] & _POINTER_RESERVED:
            return None
        if words[2] & _QOS and not can.qosid:
            return None
        # 2. to 7.
        if not can.ats and (tc.en_ats or tc.en_pri or tc.prpr):
            return None
        if not tc.en_ats and (tc.t2gpa or tc.en_pri):
            return None
        if tc.prpr and not tc.en_pri:
            return None
        if tc.t2gpa and (not can.t2gpa or guest.mode == 0):
            return None
        # The legal values of SXL and SBE.
        if fctl.gxl != tc.sxl and (fctl.gxl or not can_choose_rv32(can)):
            return None
        if tc.sbe != fctl.be and not can.end:
            return None
        # 8. to 12.
        first: Scheme | None = None
        directory = DirectoryMode.BARE
        if tc.pdtv:
            if fsc.mode > DirectoryMode.PD20:
                return None
            directory = DirectoryMode(fsc.mode)
            if not {0: True, 1: can.pd8, 2: can.pd17, 3: can.pd20}[fsc.mode]:
                return None
        else:
            if tc.dpe or not self.supports(fsc.mode, rv32=tc.sxl):
                return None
            first = _first_scheme(fsc.mode, rv32=tc.sxl)
        # 13. to 15., and the root's alignment to 16 KiB.
        second: Scheme | None = None
        if guest.mode:
            second = self._second_scheme(guest.mode)
            if second is None or guest.ppn & 3:
                return None
        # AMO_HWAD.
        if not can.amo_hwad and (tc.sade or tc.gade):
            return None
        msi: MsiTable | None = None
        if can.msi_flat:
            pages = (1 << self._guest_pages) - 1
            pointer = TablePointer(words[4])
            if words[4] & _POINTER_RESERVED or words[7]:
                return None
            if words[5] & ~pages or words[6] & ~pages:
                return None
            if pointer.mode not in (MSI_OFF, MSI_FLAT):
                return None
            # A Bare second stage leaves no guest whose interrupt files these could be.
            if pointer.mode == MSI_FLAT and second is None:
                return None
            if pointer.mode == MSI_FLAT:
                msi = MsiTable(pointer.ppn << 12, words[5], words[6])

        def space(scheme: Scheme | None, root: int, pscid: int) -> Space:
            return Space(
                first=scheme,
                first_root=root,
                second=second,
                second_root=guest.ppn << 12,
                pscid=pscid,
                gscid=guest.gscid,
                sade=tc.sade,
                gade=tc.gade,
                supervisor=False,
                sum=False,
                big=tc.sbe,
                rv32=tc.sxl,
                msi=msi,
            )

        untagged = space(None, 0, 0)
        return DeviceContext(
            en_ats=tc.en_ats,
            en_pri=tc.en_pri,
            t2gpa=tc.t2gpa,
            dtf=tc.dtf,
            pdtv=tc.pdtv,
            prpr=tc.prpr,
            dpe=tc.dpe,
            sxl=tc.sxl,
            directory=directory,
            directory_root=fsc.ppn << 12,
            own=untagged if first is None else space(first, fsc.ppn << 12, ta.pscid),
            untagged=untagged,
        )

    def process(
        self,
        context: DeviceContext,
        process_id: int,
        access: int,
        steps: list[Step] | None = None,
    ) -> Space:
        """Locate and check a process context; ``access`` is the request's.

        Raises:
            Fault: causes 265 to 267, or a guest-page fault if the directory is a guest's.
        """
        guest = context.untagged
        big = guest.big
        # 1. Let a be pdtp.PPN x 2^12 and let i = LEVELS - 1.
        table = context.directory_root
        for level in range(int(context.directory) - 1, -1, -1):
            # 2. Let a = a + PDI[i] x 8, or a + PDI[0] x 16 in the last level.
            if level:
                index = process_id >> 8 + 9 * (level - 1) & (0x1FF if level == 1 else 7)
                at = table + index * 8
            else:
                index = process_id & 0xFF
                at = table + index * 16
            # 3. If the second stage is not Bare, a is a GPA.
            if guest.second is not None:
                miss = Cause.PDT_ENTRY_LOAD_ACCESS_FAULT
                at = self._walker.implicit(guest, at, access, miss=miss, steps=steps)
            # 4. If i == 0 go to step 10.
            if level == 0:
                break
            # 5. to 9.
            self._walker.tally.processes += 1
            entry = self._words(at, 1, big, Cause.PDT_ENTRY_LOAD_ACCESS_FAULT)[0]
            if steps is not None:
                steps.append(Step("PDT", level, index, at, entry, names(Directory, entry), False))
            if not entry & 1:
                raise Fault(Cause.PDT_ENTRY_NOT_VALID)
            if entry & _DIRECTORY_RESERVED:
                raise Fault(Cause.PDT_ENTRY_MISCONFIGURED)
            table = Directory(entry).ppn << 12
        # 10. Let PC be the 16 bytes at a.
        self._walker.tally.processes += 1
        words = self._words(at, 2, big, Cause.PDT_ENTRY_LOAD_ACCESS_FAULT)
        if steps is not None:
            flags = names(ProcessAttributes, words[0])
            steps.append(Step("PC", 0, index, at, words[0], flags, False))
        # 11. and 12.
        if not words[0] & 1:
            raise Fault(Cause.PDT_ENTRY_NOT_VALID)
        ta, fsc = ProcessAttributes(words[0]), TablePointer(words[1])
        if words[0] & _PROCESS_RESERVED or words[1] & _POINTER_RESERVED:
            raise Fault(Cause.PDT_ENTRY_MISCONFIGURED)
        if not self.supports(fsc.mode, rv32=context.sxl):
            raise Fault(Cause.PDT_ENTRY_MISCONFIGURED)
        # 13. The process-context has been successfully located.
        return Space(
            first=_first_scheme(fsc.mode, rv32=context.sxl),
            first_root=fsc.ppn << 12,
            second=guest.second,
            second_root=guest.second_root,
            pscid=ta.pscid,
            gscid=guest.gscid,
            sade=guest.sade,
            gade=guest.gade,
            supervisor=ta.ens,
            sum=ta.sum,
            big=big,
            rv32=context.sxl,
            msi=guest.msi,
        )

    def supports(self, mode: int, *, rv32: bool) -> bool:
        """A first-stage mode is defined, and this IOMMU has it.

        Spec: RISC-V IOMMU 1.0, encodings of iosatp.MODE
        """
        can = self._capabilities
        if rv32:
            return bool({0: True, 8: can.sv32}.get(mode, False))
        return bool({0: True, 8: can.sv39, 9: can.sv48, 10: can.sv57}.get(mode, False))

    def _second_scheme(self, mode: int) -> Scheme | None:
        """The second stage's format, or None if the mode is not defined or not there.

        Spec: RISC-V IOMMU 1.0, encodings of iohgatp.MODE
        """
        can = self._capabilities
        if self._fctl.gxl:
            return SV32X4 if mode == 8 and can.sv32x4 else None
        there = {8: can.sv39x4, 9: can.sv48x4, 10: can.sv57x4}.get(mode, False)
        return SECOND_SCHEMES[mode] if there else None

    def _words(self, at: int, count: int, big: bool, cause: Cause) -> tuple[int, ...]:
        """``count`` doublewords at a physical address."""
        try:
            data = self._memory.read(at, 8 * count)
        except Miss:
            raise Fault(cause) from None
        order = "big" if big else "little"
        return tuple(
            int.from_bytes(data[n : n + 8], order)  # type: ignore[arg-type]
            for n in range(0, 8 * count, 8)
        )


def names(kind: type[Word], raw: int) -> tuple[str, ...]:
    """The fields of a word that are not zero, by name; a number with its value."""
    shown = []
    for name, field in fields_of(kind).items():
        value = (raw & field.mask) >> field.low
        if value:
            shown.append(name.upper() if field.high == field.low else f"{name.upper()}={value:#x}")
    return tuple(shown)


def _first_scheme(mode: int, *, rv32: bool) -> Scheme | None:
    if mode == 0:
        return None
    return SV32 if rv32 else FIRST_SCHEMES[mode]


def _guest_page_bits(can: Capabilities) -> int:
    """Bits of a guest page number: MGPAW - 12.

    Spec: RISC-V IOMMU 1.0, MSI address mask and pattern
    """
    widths = ((can.sv57x4, 59), (can.sv48x4, 50), (can.sv39x4, 41), (can.sv32x4, 34))
    return next((bits for there, bits in widths if there), can.pas) - 12
