"""Tables and constants of a device are what its declarations say, whole and usable."""

import ast
import enum
import json
import re
import shutil
import subprocess
from struct import Struct as Format
from types import ModuleType

import pytest

from mdevemu.describe import FORMATS, c_header, markdown, python
from mdevemu.describe import json as as_json
from mdevemu.describe import text as as_text
from mdevemu.layout import fields_of, members_of, sizeof, width_of
from mdevemu.personalities import PERSONALITIES
from mdevemu.personalities.native import Native
from mdevemu.registers import declared
from tests.support import native as driver

each = pytest.mark.parametrize("kind", PERSONALITIES.values(), ids=PERSONALITIES)


def constants(kind):
    """The generated module."""
    made = ModuleType("constants")
    exec(python(kind), vars(made))
    return made


def maps_of(kind):
    """Every register map, the one in configuration space last."""
    interface = kind.interface
    return [*interface.maps.values(), *([interface.config] if interface.config else [])]


def rows(text):
    """Cells of every line of a table, without the lines under headings."""
    lines = [line for line in text.splitlines() if line.startswith("|") and "---" not in line]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_form_is_offered():
    assert set(FORMATS) == {"c", "json", "markdown", "python", "text"}


@each
def test_every_field_of_every_register_is_in_the_tables(kind):
    text = markdown(kind)
    register, seen = None, []
    for at, name, place, field, access, reset, _ in (row for row in rows(text) if len(row) == 7):
        if at == "offset":
            continue
        register = (at, name) if name else register
        seen.append((*register, place, field, access, reset))
    expected = []
    for registers in maps_of(kind):
        for reg in declared(registers):
            at, name = f"{reg.offset:#06x}", reg.name
            if reg.count > 1:
                at, name = f"{at} + n * {reg.stride:#x}", f"{name}[n], n < {reg.count}"
            for field_name, field in fields_of(reg.word).items():
                high, low = field.high, field.low
                place = str(low) if high == low else f"{high}:{low}"
                reset = hex(int(field.reset) >> low)
                expected.append((at, name, place, field_name, field.access.name, reset))
    assert seen == expected


@each
def test_tables_are_well_formed(kind):
    width = None
    for line in markdown(kind).splitlines():
        if not line.startswith("|"):
            width = None
            continue
        assert line.endswith("|")
        width = width or line.count("|")
        assert line.count("|") == width, line
    for text in FORMATS.values():
        made = text(kind)
        assert made.endswith("\n")
        assert not made.endswith("\n\n")
        assert made == text(kind), "made twice, it is the same"


@each
def test_structs_and_codes_are_in_the_tables(kind):
    text = markdown(kind)
    for struct in kind.interface.structs:
        assert f"### {struct.__name__}: {sizeof(struct)} bytes" in text
        for name, at, size in members_of(struct):
            assert f"| {at:#04x} | {size} | {name} |" in text
    for codes in kind.interface.codes:
        for code in codes:
            assert f"| {code.value} | {code.name} |" in text


@each
def test_constants_place_every_register_and_field(kind):
    made = constants(kind)
    for registers in maps_of(kind):
        for reg in declared(registers):
            name = reg.name.upper()
            offset = getattr(made, name)
            if reg.count > 1:
                block = name.split("_")[0]
                offset += getattr(made, f"{block}_BASE")
                assert getattr(made, f"{block}_STRIDE") == reg.stride
                assert getattr(made, f"{block}_COUNT") == reg.count
            assert offset == reg.offset
            for field_name, field in fields_of(reg.word).items():
                width = field.high - field.low + 1
                found = getattr(made, f"{name}_{field_name.upper()}", None)
                assert found == ((field.low, width) if width < width_of(reg.word) else None)


@each
def test_constants_hold_structs_and_codes(kind):
    made = constants(kind)
    for struct in kind.interface.structs:
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", struct.__name__).upper()
        found = getattr(made, name)
        assert isinstance(found, Format)
        assert found.size == sizeof(struct)
        for member, at, _ in members_of(struct):
            assert getattr(made, f"{name}_{member.upper()}") == at
    for codes in kind.interface.codes:
        found = getattr(made, codes.__name__)
        assert issubclass(found, enum.IntFlag) == issubclass(codes, enum.IntFlag)
        assert {code.name: code.value for code in found} == {c.name: c.value for c in codes}


@each
def test_no_constant_replaces_another(kind):
    names = [
        target.id
        for statement in ast.parse(python(kind)).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
    ]
    assert sorted(names) == sorted(set(names))


@each
def test_constants_need_the_standard_library_only(kind):
    imported = [
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(ast.parse(python(kind)))
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert set(imported) <= {"enum", "struct"}


def test_native_device_is_the_one_that_the_tests_drive():
    """The tests' driver has its numbers from the documentation, not from here."""
    made = constants(Native)
    assert (made.VENDOR, made.DEVICE, made.CLASS) == (0x1234, 0xACC1, 0x120000)
    assert made.DESCRIPTOR.format == driver.DESCRIPTOR.format
    assert made.COMPLETION.format == driver.COMPLETION.format
    assert made.AES_GCM.format == driver.AES_GCM.format
    assert {code.name.lower(): code.value for code in made.Operation} == driver.CODE
    for name in ("CAPABILITIES", "HBM_SIZE", "CONTROL", "SCRATCH", "INTERRUPT_STATUS"):
        assert getattr(made, name) == getattr(driver, name)
    for name in ("SQ_BASE", "CQ_BASE", "SHADOW", "SIZE", "SQ_HEAD", "CQ_TAIL"):
        assert getattr(made, f"QUEUE_{name}") == getattr(driver, name)
    assert (made.QUEUE_BASE, made.QUEUE_STRIDE) == (driver.QUEUES, driver.STRIDE)
    for code in made.Status:
        assert getattr(driver, code.name) == code
    for code in made.FaultCode:
        assert getattr(driver, code.name) == code
    assert [made.QueueState.STALLED, made.QueueState.FAILED] == [driver.STALLED, driver.FAILED]


compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler, cc")


def defined(header):
    """Macros of a header with their values as text."""
    return dict(re.findall(r"^#define (\w+(?:\(n\))?) (.+)$", header, re.MULTILINE))


@compiler
@each
def test_header_compiles_and_its_names_are_unique(kind, tmp_path):
    header = c_header(kind)
    names = re.findall(r"^#define (\w+)|^\t(\w+) = ", header, re.MULTILINE)
    flat = [first or second for first, second in names]
    assert sorted(flat) == sorted(set(flat))
    file = tmp_path / "device.h"
    file.write_text(header)
    options = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]
    done = subprocess.run(
        ["cc", *options, "-x", "c", str(file)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@compiler
def test_header_has_the_numbers_that_the_declarations_have(tmp_path):
    """What a compiler makes of it, for one of each kind."""
    program = tmp_path / "program.c"
    (tmp_path / "native.h").write_text(c_header(Native))
    program.write_text(
        """
        #include <stddef.h>
        #include "native.h"
        _Static_assert(NATIVE_QUEUE_CONTROL(3) == 0x4000 + 3 * 0x40 + 0x1c, "");
        _Static_assert(NATIVE_QUEUE_CONTROL_COUNT == 16, "");
        _Static_assert(NATIVE_QUEUE_CONTROL_VECTOR_MASK == 0xffff0000u, "");
        _Static_assert(NATIVE_QUEUE_CONTROL_VECTOR_SHIFT == 16, "");
        _Static_assert(NATIVE_STATUS_CORRUPT == 9, "");
        _Static_assert(sizeof(struct native_descriptor) == 64, "");
        _Static_assert(offsetof(struct native_aes_gcm, nonce) == 8, "");
        _Static_assert(sizeof(((struct native_aes_gcm *)0)->nonce) == 12, "");
        """
    )
    done = subprocess.run(
        ["cc", "-std=c11", "-Werror", "-fsyntax-only", str(program)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@each
def test_header_places_every_register_and_field(kind):
    macros = defined(c_header(kind))
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).upper()
    for registers in maps_of(kind):
        for reg in declared(registers):
            name = f"{prefix}_{reg.name.upper()}"
            if reg.count > 1:
                assert macros[f"{name}(n)"] == f"(0x{reg.offset:X} + (n) * 0x{reg.stride:X})"
            else:
                assert int(macros[name], 16) == reg.offset
            for field_name, field in fields_of(reg.word).items():
                mask = macros[f"{name}_{field_name.upper()}_MASK"]
                assert int(re.search("0x[0-9A-F]+", mask)[0], 16) == field.mask
                assert int(macros[f"{name}_{field_name.upper()}_SHIFT"]) == field.low


@each
def test_json_holds_every_register_and_field(kind):
    facts = json.loads(as_json(kind))
    assert facts["schema"] == "mdevemu.describe/1"
    assert facts["device"] == kind.identity.device
    described = [*(bar["registers"] for bar in facts["bars"]), facts["config"]]
    for registers, found in zip(maps_of(kind), described, strict=False):
        assert [
            (each["name"], each["offset"], each["count"], each["stride"]) for each in found
        ] == [(reg.name, reg.offset, reg.count, reg.stride) for reg in declared(registers)]
        for reg, each in zip(declared(registers), found, strict=True):
            assert each["fields"] == [
                {
                    "name": name,
                    "high": field.high,
                    "low": field.low,
                    "access": field.access.name,
                    "reset": field.reset >> field.low,
                }
                for name, field in fields_of(reg.word).items()
            ]
    assert {each["name"]: each["size"] for each in facts["structs"]} == {
        struct.__name__: sizeof(struct) for struct in kind.interface.structs
    }
    assert {each["name"]: each["members"] for each in facts["codes"]} == {
        codes.__name__: {code.name: code.value for code in codes} for codes in kind.interface.codes
    }


@each
def test_text_has_a_line_for_each_register_and_field(kind):
    lines = as_text(kind).splitlines()
    fields = sum(
        len(fields_of(reg.word)) for registers in maps_of(kind) for reg in declared(registers)
    )
    assert sum(bool(re.match(r"\s+(\d+:)?\d+  (R|W)\w+ +0x", line)) for line in lines) == fields
    for registers in maps_of(kind):
        for reg in declared(registers):
            assert any(line.startswith(f"  {reg.offset:#06x}  {reg.name}") for line in lines)
