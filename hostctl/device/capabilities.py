"""What the words of PCI capabilities mean, as tables; names and wording are lspci's.

Spec: PCI Local Bus 3.0, PCI Express Base 5.0 §7, PCI Bus Power Management 1.2, and
linux/pci_regs.h for numbers of capabilities.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Value: TypeAlias = bool | int | str


@dataclass(frozen=True, slots=True)
class Field:
    """Some bits of a word.

    Attributes:
        name: lspci's.
        low, high: first and last bit.
        form: how the number reads; None for one bit, shown as + or -.
        joint: what stands between name and number; with None the name is left out.
    """

    name: str
    low: int
    high: int
    form: Callable[[int], Value] | None = None
    joint: str | None = " "

    def of(self, word: int) -> Value:
        """What a word says."""
        number = word >> self.low & (1 << self.high - self.low + 1) - 1
        return bool(number) if self.form is None else self.form(number)


@dataclass(frozen=True, slots=True)
class Group:
    """One word of a capability, or several lines of lspci.

    Attributes:
        name: what its line begins with.
        at: offset in the capability, in bytes.
        size: bytes of the word.
        lines: which fields are on which line.
    """

    name: str
    at: int
    size: int
    lines: Sequence[Sequence[Field]]


def flag(name: str, bit: int) -> Field:
    """One bit."""
    return Field(name, bit, bit)


def number(
    name: str,
    low: int,
    high: int,
    form: Callable[[int], Value] = int,
    joint: str | None = " ",
) -> Field:
    """Bits that are a number, or stand for something."""
    return Field(name, low, high, form, joint)


def _of(*names: str) -> Callable[[int], str]:
    return lambda at: names[at] if at < len(names) else "unknown"


def _bytes(code: int) -> str:
    return f"{128 << code} bytes"


def _hex(digits: int) -> Callable[[int], str]:
    return lambda value: f"{value:0{digits}x}"


_SPEED = _of("unknown", *(f"{each}GT/s" for each in ("2.5", "5", "8", "16", "32", "64")))
_L0S = _of("<64ns", "<128ns", "<256ns", "<512ns", "<1us", "<2us", "<4us", "unlimited")
_L1 = _of("<1us", "<2us", "<4us", "<8us", "<16us", "<32us", "<64us", "unlimited")
_STATE = _of("D0", "D1", "D2", "D3")
_CURRENT = _of(*(f"{each}mA" for each in (0, 55, 100, 160, 220, 270, 320, 375)))


def _speeds(mask: int) -> str:
    """Link speeds: lspci shows a range."""
    names = [_SPEED(bit + 1) for bit in range(6) if mask >> bit & 1]
    if not names:
        return "unknown"
    return names[0] if len(names) == 1 else f"{names[0].removesuffix('GT/s')}-{names[-1]}"


COMMAND = [
    "I/O",
    "Mem",
    "BusMaster",
    "SpecCycle",
    "MemWINV",
    "VGASnoop",
    "ParErr",
    "Stepping",
    "SERR",
    "FastB2B",
    "DisINTx",
]
"""Bits of the command register, from 0."""

STATUS = {
    "Cap": 4,
    "66MHz": 5,
    "UDF": 6,
    "FastB2B": 7,
    "ParErr": 8,
    ">TAbort": 11,
    "<TAbort": 12,
    "<MAbort": 13,
    ">SERR": 14,
    "<PERR": 15,
    "INTx": 3,
}
"""Bits of the status register; the two of DEVSEL stand after the fifth."""

POWER = [
    Group(
        "Flags",
        2,
        2,
        [
            [
                flag("PMEClk", 3),
                flag("DSI", 5),
                flag("D1", 9),
                flag("D2", 10),
                number("AuxCurrent", 6, 8, _CURRENT, "="),
                flag("PME-D0", 11),
                flag("PME-D1", 12),
                flag("PME-D2", 13),
                flag("PME-D3hot", 14),
                flag("PME-D3cold", 15),
            ]
        ],
    ),
    Group(
        "Status",
        4,
        2,
        [
            [
                number("State", 0, 1, _STATE, None),
                flag("NoSoftRst", 3),
                flag("PME-Enable", 8),
                number("DSel", 9, 12, joint="="),
                number("DScale", 13, 14, joint="="),
                flag("PME", 15),
            ]
        ],
    ),
]

DEVICE = [
    Group(
        "DevCap",
        4,
        4,
        [
            [
                number("MaxPayload", 0, 2, _bytes),
                number("PhantFunc", 3, 4, lambda n: (1 << n) - 1),
                number("Latency L0s", 6, 8, _L0S),
                number("L1", 9, 11, _L1),
            ],
            [
                flag("ExtTag", 5),
                flag("AttnBtn", 12),
                flag("AttnInd", 13),
                flag("PwrInd", 14),
                flag("RBE", 15),
                flag("FLReset", 28),
            ],
        ],
    ),
    Group(
        "DevCtl",
        8,
        2,
        [
            [flag("CorrErr", 0), flag("NonFatalErr", 1), flag("FatalErr", 2), flag("UnsupReq", 3)],
            [
                flag("RlxdOrd", 4),
                flag("ExtTag", 8),
                flag("PhantFunc", 9),
                flag("AuxPwr", 10),
                flag("NoSnoop", 11),
            ],
            [number("MaxPayload", 5, 7, _bytes), number("MaxReadReq", 12, 14, _bytes)],
        ],
    ),
    Group(
        "DevSta",
        10,
        2,
        [
            [
                flag("CorrErr", 0),
                flag("NonFatalErr", 1),
                flag("FatalErr", 2),
                flag("UnsupReq", 3),
                flag("AuxPwr", 4),
                flag("TransPend", 5),
            ]
        ],
    ),
]

LINK = [
    Group(
        "LnkCap",
        12,
        4,
        [
            [
                number("Port", 24, 31, lambda n: f"#{n}"),
                number("Speed", 0, 3, _SPEED),
                number("Width", 4, 9, lambda n: f"x{n}"),
                number("ASPM", 10, 11, _of("not supported", "L0s", "L1", "L0s L1")),
            ],
            [
                flag("ClockPM", 18),
                flag("Surprise", 19),
                flag("LLActRep", 20),
                flag("BwNot", 21),
                flag("ASPMOptComp", 22),
            ],
        ],
    ),
    Group(
        "LnkCtl",
        16,
        2,
        [
            [
                number(
                    "ASPM", 0, 1, _of("Disabled", "L0s Enabled", "L1 Enabled", "L0s L1 Enabled")
                ),
                number("RCB", 3, 3, lambda n: f"{128 if n else 64} bytes"),
                flag("LnkDisable", 4),
                flag("CommClk", 6),
            ],
            [
                flag("ExtSynch", 7),
                flag("ClockPM", 8),
                flag("AutWidDis", 9),
                flag("BWInt", 10),
                flag("AutBWInt", 11),
            ],
        ],
    ),
    Group(
        "LnkSta",
        18,
        2,
        [
            [number("Speed", 0, 3, _SPEED), number("Width", 4, 9, lambda n: f"x{n}")],
            [
                flag("TrErr", 10),
                flag("Train", 11),
                flag("SlotClk", 12),
                flag("DLActive", 13),
                flag("BWMgmt", 14),
                flag("ABWMgmt", 15),
            ],
        ],
    ),
]

SECOND = [
    Group(
        "DevCap2",
        0x24,
        4,
        [
            [
                number("Completion Timeout ranges", 0, 3, _hex(1), ": "),
                flag("TimeoutDis", 4),
                flag("NROPrPrP", 10),
                flag("LTR", 11),
            ],
            [
                flag("10BitTagComp", 16),
                flag("10BitTagReq", 17),
                flag("ExtFmt", 20),
                flag("EETLPPrefix", 21),
                number("MaxEETLPPrefixes", 22, 23, lambda n: n or 4),
            ],
        ],
    ),
    Group("DevCtl2", 0x28, 2, [[flag("TimeoutDis", 4), flag("LTR", 10)]]),
    Group("LnkCap2", 0x2C, 4, [[number("Supported Link Speeds", 1, 7, _speeds, ": ")]]),
    Group(
        "LnkCtl2",
        0x30,
        2,
        [
            [
                number("Target Link Speed", 0, 3, _SPEED, ": "),
                flag("EnterCompliance", 4),
                flag("SpeedDis", 5),
            ]
        ],
    ),
]

EXPRESS_TYPES = (
    "Endpoint",
    "Legacy Endpoint",
    "PCIe Device type 2",
    "PCIe Device type 3",
    "Root Port",
    "Upstream Port",
    "Downstream Port",
    "PCI-Express to PCI/PCI-X Bridge",
    "PCI/PCI-X to PCI-Express Bridge",
    "Root Complex Integrated Endpoint",
    "Root Complex Event Collector",
)

UNCORRECTABLE = {
    "DLP": 4,
    "SDES": 5,
    "TLP": 12,
    "FCP": 13,
    "CmpltTO": 14,
    "CmpltAbrt": 15,
    "UnxCmplt": 16,
    "RxOF": 17,
    "MalfTLP": 18,
    "ECRC": 19,
    "UnsupReq": 20,
    "ACSViol": 21,
}
CORRECTABLE = {
    "RxErr": 0,
    "BadTLP": 6,
    "BadDLLP": 7,
    "Rollover": 8,
    "Timeout": 12,
    "AdvNonFatalErr": 13,
}


def _errors(name: str, at: int, errors: dict[str, int]) -> Group:
    return Group(name, at, 4, [[flag(each, bit) for each, bit in errors.items()]])


ERRORS = [
    _errors("UESta", 4, UNCORRECTABLE),
    _errors("UEMsk", 8, UNCORRECTABLE),
    _errors("UESvrt", 12, UNCORRECTABLE),
    _errors("CESta", 16, CORRECTABLE),
    _errors("CEMsk", 20, CORRECTABLE),
    Group(
        "AERCap",
        24,
        4,
        [
            [
                number("First Error Pointer", 0, 4, _hex(2), ": "),
                flag("ECRCGenCap", 5),
                flag("ECRCGenEn", 6),
                flag("ECRCChkCap", 7),
                flag("ECRCChkEn", 8),
            ]
        ],
    ),
]

EXTENDED: dict[int, Sequence[Group]] = {
    0x01: ERRORS,
    0x0F: [
        Group("ATSCap", 4, 2, [[number("Invalidate Queue Depth", 0, 4, _hex(2), ": ")]]),
        Group(
            "ATSCtl",
            6,
            2,
            [[flag("Enable", 15), number("Smallest Translation Unit", 0, 4, _hex(2), ": ")]],
        ),
    ],
    0x13: [
        Group("PRICtl", 4, 2, [[flag("Enable", 0), flag("Reset", 1)]]),
        Group(
            "PRISta",
            6,
            2,
            [[flag("RF", 0), flag("UPRGI", 1), flag("Stopped", 8), flag("PASID", 15)]],
        ),
    ],
    0x1B: [
        Group(
            "PASIDCap",
            4,
            2,
            [[flag("Exec", 1), flag("Priv", 2), number("Max PASID Width", 8, 12, _hex(2), ": ")]],
        ),
        Group("PASIDCtl", 6, 2, [[flag("Enable", 0), flag("Exec", 1), flag("Priv", 2)]]),
    ],
}

NAMES = {
    0x01: "Power Management",
    0x02: "AGP",
    0x03: "Vital Product Data",
    0x04: "Slot ID",
    0x05: "MSI",
    0x06: "CompactPCI hot-swap",
    0x07: "PCI-X",
    0x08: "HyperTransport",
    0x09: "Vendor Specific Information",
    0x0A: "Debug port",
    0x0B: "CompactPCI central resource control",
    0x0C: "Hot-plug capable",
    0x0D: "Subsystem",
    0x0E: "AGP3",
    0x0F: "Secure device",
    0x10: "Express",
    0x11: "MSI-X",
    0x12: "SATA HBA",
    0x13: "PCI Advanced Features",
    0x14: "Enhanced Allocation",
    0x15: "Flattening Portal Bridge",
}

EXTENDED_NAMES = {
    0x01: "Advanced Error Reporting",
    0x02: "Virtual Channel",
    0x03: "Device Serial Number",
    0x04: "Power Budgeting",
    0x05: "Root Complex Link",
    0x06: "Root Complex Internal Link",
    0x07: "Root Complex Event Collector Endpoint Association",
    0x08: "Multi-Function Virtual Channel",
    0x09: "Virtual Channel",
    0x0A: "Root Bridge Control Block",
    0x0B: "Vendor Specific Information",
    0x0D: "Access Control Services",
    0x0E: "Alternative Routing-ID Interpretation (ARI)",
    0x0F: "Address Translation Service (ATS)",
    0x10: "Single Root I/O Virtualization (SR-IOV)",
    0x11: "Multi-Root I/O Virtualization (MR-IOV)",
    0x12: "Multicast",
    0x13: "Page Request Interface (PRI)",
    0x15: "Physical Resizable BAR",
    0x16: "Dynamic Power Allocation",
    0x17: "Transaction Processing Hints",
    0x18: "Latency Tolerance Reporting",
    0x19: "Secondary PCI Express",
    0x1A: "Protocol Multiplexing",
    0x1B: "Process Address Space ID (PASID)",
    0x1C: "LN Requester",
    0x1D: "Downstream Port Containment",
    0x1E: "L1 PM Substates",
    0x1F: "Precision Time Measurement",
    0x20: "PCI Express over M_PHY",
    0x21: "FRS Queueing",
    0x22: "Readiness Time Reporting",
    0x23: "Designated Vendor-Specific",
    0x24: "VF Resizable BAR",
    0x25: "Data Link Feature",
    0x26: "Physical Layer 16.0 GT/s",
    0x27: "Lane Margining at the Receiver",
    0x28: "Hierarchy ID",
    0x29: "Native PCIe Enclosure Management",
    0x2A: "Physical Layer 32.0 GT/s",
    0x2E: "Data Object Exchange",
}

CLASSES = (
    "Unclassified device",
    "Mass storage controller",
    "Network controller",
    "Display controller",
    "Multimedia controller",
    "Memory controller",
    "Bridge",
    "Communication controller",
    "Generic system peripheral",
    "Input device controller",
    "Docking station",
    "Processor",
    "Serial bus controller",
    "Wireless controller",
    "Intelligent controller",
    "Satellite communications controller",
    "Encryption controller",
    "Signal processing controller",
    "Processing accelerators",
    "Non-Essential Instrumentation",
)
"""Base classes, from 0."""
