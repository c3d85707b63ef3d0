"""The accelerator's file: what is accepted, and how everything else is refused."""

import copy
import errno

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mdevemu.accel.operations import OPERATIONS
from mdevemu.errors import ConfigError
from mdevemu.profile import MdevType, load, parse
from mdevemu.units import GIB, MIB

GOOD = {
    "accelerator": {"name": "demo", "address": "0000:02:00.0", "hbm": "256MiB"},
    "engine": [
        {"name": "dma0", "operations": ["nop", "copy"]},
        {"name": "crypto0", "operations": ["sha256"]},
    ],
    "type": [
        {
            "name": "half",
            "description": "Half of it",
            "personality": "native",
            "hbm": "128MiB",
            "weight": 3,
            "queues": 8,
            "instances": 2,
        },
        {"name": "small"},
    ],
}
MISSING = object()


def changed(table, key, value, index=0):
    """The good file with one key changed, or missing."""
    made = copy.deepcopy(GOOD)
    where = made[table] if table == "accelerator" else made[table][index]
    if value is MISSING:
        del where[key]
    else:
        where[key] = value
    return made


def refusal(given):
    with pytest.raises(ConfigError) as caught:
        parse("lab.toml", given)
    assert caught.value.number == errno.EINVAL
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_everything_in_a_good_file_is_found():
    spec = parse("lab.toml", GOOD)
    assert not spec.coverage
    assert parse("lab.toml", changed("accelerator", "coverage", True)).coverage
    assert (spec.name, spec.device_id, spec.hbm) == ("demo", 0x200, 256 * MIB)
    assert [(each.name, each.operations) for each in spec.engines] == [
        ("dma0", ("nop", "copy")),
        ("crypto0", ("sha256",)),
    ]
    assert spec.types[0] == MdevType(
        name="half",
        description="Half of it",
        personality="native",
        hbm=128 * MIB,
        weight=3,
        queues=8,
        instances=2,
    )


def test_what_is_not_given_has_its_default():
    given = copy.deepcopy(GOOD)
    del given["accelerator"]["address"]
    spec = parse("lab.toml", given)
    assert spec.device_id == 0x100
    small = spec.types[1]
    assert (small.description, small.personality, small.hbm) == ("", "native", 0)
    assert (small.weight, small.queues, small.instances) == (1, 4, 4096)


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (0, 0),
        (2 * MIB, 2 * MIB),
        ("0B", 0),
        ("2097152B", 2 * MIB),
        ("2048KiB", 2 * MIB),
        ("64MiB", 64 * MIB),
        ("64 MiB", 64 * MIB),
        ("1GiB", GIB),
        ("64GiB", 64 * GIB),
    ],
)
def test_sizes_are_written_as_numbers_or_with_a_unit(written, size):
    given = changed("accelerator", "hbm", written)
    given["type"] = [{"name": "small"}]
    assert parse("lab.toml", given).hbm == size


@pytest.mark.parametrize("name", ["a", "Half-2_x.y", "0"])
def test_names_that_are_accepted(name):
    assert parse("lab.toml", changed("accelerator", "name", name)).name == name


def test_type_is_described_as_the_kernel_does():
    half, small = parse("lab.toml", GOOD).types
    assert half.id == "mdevemu-half"
    assert half.details.splitlines() == [
        "personality=native",
        f"hbm={128 * MIB}",
        "weight=3",
        "queues=8",
        "attach=pasid",
        "interrupts=msix",
        "Half of it",
    ]
    assert small.details.splitlines()[-2:] == ["attach=pasid", "interrupts=msix"]


def test_type_with_pasids_of_its_guest():
    (kind,) = parse("lab.toml", GOOD | {"type": [{"name": "own", "attach": "rid"}]}).types
    assert (kind.attach, kind.pasid_bits) == ("rid", 8)


def test_type_with_msi_says_so():
    (kind,) = parse("lab.toml", GOOD | {"type": [{"name": "own", "interrupts": "msi"}]}).types
    assert kind.details.splitlines()[-1] == "interrupts=msi"


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"interrupts": "intx"}, "interrupts: unknown value 'intx'.*msi.*msix"),
        ({"interrupts": "msi", "personality": "ioat"}, "interrupts: the ioat tells its channels"),
    ],
)
def test_interrupts_that_cannot_be_are_refused(given, wrong):
    with pytest.raises(ConfigError, match=wrong):
        parse("lab.toml", GOOD | {"type": [{"name": "own"} | given]})


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"attach": "vf"}, "attach: unknown value 'vf'"),
        ({"attach": "rid", "pasid-bits": 21}, "pasid-bits: 21 .accepted: a whole number from 1"),
        ({"pasid-bits": 8}, "pasid-bits: is for types with attach = 'rid'"),
        ({"attach": "rid", "personality": "adder"}, "attach: the adder has no PASIDs"),
    ],
)
def test_attachment_that_cannot_be_is_refused(given, wrong):
    with pytest.raises(ConfigError, match=wrong):
        parse("lab.toml", GOOD | {"type": [{"name": "own"} | given]})


def test_most_that_a_command_moves_is_chosen_where_the_personality_lets_it_be():
    given = {"name": "own", "personality": "ioat", "max-transfer": "64KiB"}
    (kind,) = parse("lab.toml", GOOD | {"type": [given]}).types
    assert kind.max_transfer == 65536
    assert kind.details.splitlines()[-1] == "max-transfer=65536"
    (kind,) = parse("lab.toml", GOOD | {"type": [{"name": "own", "personality": "ioat"}]}).types
    assert kind.max_transfer is None


@pytest.mark.parametrize("size", [0, 4095, 2048, 5000, "3KiB", "4GiB", -4096, True, "x", 4096.0])
def test_most_that_a_command_moves_is_a_power_of_two_within_limits(size):
    given = {"name": "own", "personality": "ioat", "max-transfer": size}
    with pytest.raises(ConfigError, match=r"max-transfer: .* .accepted: a power of two from 4096 "):
        parse("lab.toml", GOOD | {"type": [given]})


def test_most_that_a_command_moves_is_not_chosen_for_others():
    given = {"name": "own", "personality": "native", "max-transfer": "64KiB"}
    with pytest.raises(ConfigError, match="max-transfer: is not to be chosen for the native"):
        parse("lab.toml", GOOD | {"type": [given]})


# Refusals: file, table, key, what is wrong, what is accepted.

LONG = "9" * 5000
SIZES = [1, MIB, 3 * MIB, -2 * MIB, 65 * GIB, True, False, 2.0, None, [], {}, "", "MiB", "2mib"]
SIZES += ["2MB", "2 M", "-2MiB", "1.5GiB", "0x200000", "2MiBKiB", "3MiB", "65GiB", "2097152"]
SIZES += [f"{LONG}MiB", 10**5000, "²MiB", "2\nMiB"]
TEXTS = [1, True, None, [], ["native"], {}, {"a": 1}, 1.5, float("nan"), 10**5000]
NAMES = [*TEXTS, "", " ", "a b", "a/b", "../x", "a\n", "-", "._-", "\0", "a" * 5000 + " "]
ADDRESSES = ["", "01:00.0", "0000:01:20.0", "0000:01:00.8", "0000:1:00.0", "0000:01:00.0\n"]
NUMBERS = [-1, 0x1_0000, 1.0, True, False, None, "1", [], {}, 10**5000, float("inf")]
COUNTS = [0, -1, 1.0, True, None, "1", [1], {}, 10**5000]

WRONG = [
    *[("accelerator", "name", value, "") for value in (MISSING, *NAMES)],
    *[("accelerator", "address", value, "") for value in (*TEXTS, *ADDRESSES)],
    *[("accelerator", "numa-node", value, "0 to 1023") for value in NUMBERS],
    *[("accelerator", "hbm", value, "64 GiB, as '64MiB'") for value in SIZES],
    ("accelerator", "hbm", MISSING, "is missing"),
    *[("engine", "name", value, "") for value in (MISSING, *NAMES)],
    *[
        ("engine", "operations", value, "compare, copy, crc32c")
        for value in (*TEXTS, "copy", ["copy", 7], ["copy", []], [None], [["copy"]], ["cpoy"])
    ],
    ("engine", "operations", MISSING, "is missing"),
    *[("type", "name", value, "") for value in (MISSING, *NAMES)],
    *[("type", "description", value, "") for value in TEXTS],
    *[("type", "personality", value, "adder, ioat, native") for value in (*TEXTS, "", "nativ")],
    *[("type", "hbm", value, "64 GiB, as '64MiB'") for value in SIZES],
    ("type", "hbm", "258MiB", str(256 * MIB)),
    *[("type", "weight", value, "1 to 1000") for value in (*COUNTS, 1001)],
    *[("type", "queues", value, "1 to 16") for value in (*COUNTS, 17)],
    *[("type", "instances", value, "1 to 4096") for value in (*COUNTS, 4097)],
    *[("accelerator", "coverage", value, "true, false") for value in (1, "yes", None)],
]


@pytest.mark.parametrize(
    ("table", "key", "value", "accepted"),
    WRONG,
    ids=[f"{table}-{key}-{number}" for number, (table, key, *_) in enumerate(WRONG)],
)
def test_wrong_value_is_refused_by_file_table_and_key(table, key, value, accepted):
    text = refusal(changed(table, key, value))
    place = "[accelerator]" if table == "accelerator" else f"[[{table}]] 1"
    assert text.startswith(f"lab.toml: {place}: {key}: ")
    assert accepted in text
    assert len(text) < 600


@pytest.mark.parametrize(
    ("table", "key", "near"),
    [
        ("accelerator", "nmae", "name"),
        ("accelerator", "adress", "address"),
        ("engine", "operation", "operations"),
        ("type", "wieght", "weight"),
        ("type", "HBM", None),
    ],
)
def test_unknown_key_names_its_table_and_the_nearest(table, key, near):
    text = refusal(changed(table, key, 1))
    place = "[accelerator]" if table == "accelerator" else f"[[{table}]] 1"
    assert text.startswith(f"lab.toml: {place}: unknown key {key!r}")
    assert near is None or f"did you mean {near!r}?" in text
    assert "accepted: " in text
    assert "name" in text.partition("accepted")[2]


@pytest.mark.parametrize("index", [0, 1])
def test_second_table_of_a_kind_is_named_by_its_number(index):
    text = refusal(changed("type", "queues", 99, index))
    assert text.startswith(f"lab.toml: [[type]] {index + 1}: queues: ")


@pytest.mark.parametrize(("key", "near"), [("types", "type"), ("engin", "engine"), ("x", None)])
def test_unknown_table_names_the_nearest(key, near):
    text = refusal(GOOD | {key: []})
    assert text.startswith(f"lab.toml: unknown table {key!r}")
    assert near is None or f"did you mean {near!r}?" in text
    assert "(accepted: accelerator, chain, engine, group, hbm, link, queue, type)" in text


@pytest.mark.parametrize("value", [MISSING, 1, "x", [], [{}], None])
def test_table_of_the_accelerator_is_needed(value):
    given = {key: each for key, each in GOOD.items() if key != "accelerator"}
    text = refusal(given if value is MISSING else given | {"accelerator": value})
    assert text == "lab.toml: the table [accelerator] is missing"


@pytest.mark.parametrize("kind", ["engine", "type"])
@pytest.mark.parametrize("value", [MISSING, 1, "x", [], {}, {"name": "a"}, [1], [{}, 1], None])
def test_at_least_one_table_of_engines_and_types_is_needed(kind, value):
    given = {key: each for key, each in GOOD.items() if key != kind}
    text = refusal(given if value is MISSING else given | {kind: value})
    assert text == f"lab.toml: at least one table [[{kind}]] is needed"


@pytest.mark.parametrize("kind", ["engine", "type"])
def test_name_that_is_there_twice_is_refused(kind):
    text = refusal(GOOD | {kind: [GOOD[kind][0]] * 2})
    assert text == f"lab.toml: [[{kind}]] 2: name: {GOOD[kind][0]['name']!r} is there twice"


def test_misspelt_operation_names_the_nearest():
    text = refusal(changed("engine", "operations", ["cpoy"]))
    assert "'cpoy'; did you mean 'copy'?" in text
    assert all(name in text for name in OPERATIONS)


# Files.


def written(folder, data):
    path = folder / "lab.toml"
    path.write_bytes(data)
    return path


def test_file_of_good_toml_is_read(tmp_path):
    data = b'[accelerator]\nname="x"\nhbm="4MiB"\n[[engine]]\nname="e"\noperations=["nop"]\n'
    spec = load(written(tmp_path, data + b'[[type]]\nname="t"\nqueues=0x2\n'))
    assert spec.types[0].queues == 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[accelerator",
        b"a = 1\na = 2",
        b"\xff\xfe\0",
        b'x = "\n"',
        b"x = " + LONG.encode(),
        b"x = " + b"[" * 20000,
        b"[accelerator]\nname = 0x" + b"f" * 5000,
        b"\0",
    ],
    ids=["empty", "cut", "twice", "binary", "newline", "digits", "deep", "hex", "zero"],
)
def test_file_that_cannot_be_used_is_refused_in_one_line(tmp_path, data):
    path = written(tmp_path, data)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert "lab.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_file_that_is_not_there_or_no_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"none.toml: No such file"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path)


# Anything.

scalars = st.one_of(
    st.integers(-5, 70_000),
    st.integers(),
    st.booleans(),
    st.floats(),
    st.text(max_size=10),
    st.dates(),
    st.sampled_from(["native", "adder", "copy", "4MiB", "half", "name", "1GiB"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=3,
)
keys = st.sampled_from(["name", "hbm", "address", "operations", "personality", "weight"])
keys |= st.sampled_from(["queues", "instances", "description"]) | st.text(max_size=6)
tables = st.dictionaries(keys, values, max_size=6)
files = st.dictionaries(
    st.sampled_from(["accelerator", "engine", "type"]) | st.text(max_size=8),
    values | tables | st.lists(tables, max_size=3),
)


def outcome(given_file):
    """What a file is parsed to, or how it is refused."""
    try:
        return parse("lab.toml", given_file)
    except ConfigError as refused:
        return refused


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(files)
@example(GOOD)
def test_anything_is_accepted_or_refused_and_nothing_escapes(given_file):
    refused = outcome(given_file)
    if isinstance(refused, ConfigError):
        assert refused.where.startswith("lab.toml")
        assert "\n" not in str(refused)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([("accelerator", k) for k in GOOD["accelerator"]])
    | st.sampled_from([("engine", k) for k in GOOD["engine"][0]])
    | st.sampled_from([("type", k) for k in GOOD["type"][0]]),
    values,
)
def test_any_value_of_a_known_key_is_accepted_or_refused_by_its_name(place, value):
    table, key = place
    spec = outcome(changed(table, key, value))
    if isinstance(spec, ConfigError):
        assert key in str(spec)
        assert f"[{table}]" in str(spec) or "that the accelerator has" in str(spec)
    else:
        assert 0 <= spec.hbm <= 64 * GIB
        assert all(kind.hbm <= spec.hbm and kind.hbm % (2 * MIB) == 0 for kind in spec.types)
        assert all(1 <= kind.queues <= 16 and 1 <= kind.weight <= 1000 for kind in spec.types)
        assert spec.hbm % (2 * MIB) == 0
