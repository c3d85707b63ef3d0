"""Arguments from outside: each wrong one is named, with what it must be."""

import pytest

from guest.arguments import Arguments
from guest.errors import InvalidArgument


@pytest.mark.parametrize(
    ("values", "ask", "words"),
    [
        ({}, lambda a: a.text("name"), ["name", "missing"]),
        ({"name": 3}, lambda a: a.text("name"), ["name", "a string", "3"]),
        ({"n": True}, lambda a: a.number("n"), ["n", "integer"]),
        ({"n": "0xz"}, lambda a: a.number("n"), ["n", "integer", "0xz"]),
        ({"n": 0}, lambda a: a.number("n", least=1), ["n", "at least 1"]),
        ({"n": -1}, lambda a: a.number("n"), ["n", "at least 0"]),
        ({"t": -0.5}, lambda a: a.seconds("t"), ["t", "seconds"]),
        ({"f": 1}, lambda a: a.flag("f", False), ["f", "true or false"]),
        ({"d": "abc"}, lambda a: a.data("d"), ["d", "hexadecimal"]),
        ({"l": ["a", 1]}, lambda a: a.texts("l"), ["l", "list of strings"]),
        ({"l": [1, True]}, lambda a: a.numbers("l"), ["l", "list of integers"]),
        ({"l": [1]}, lambda a: a.objects("l"), ["l", "list of objects"]),
        ({"o": []}, lambda a: a.nested("o"), ["o", "an object"]),
        ({"e": {"A": 1}}, lambda a: a.pairs("e"), ["e", "strings"]),
    ],
)
def test_wrong_argument_is_named_with_what_it_must_be(values, ask, words):
    with pytest.raises(InvalidArgument) as caught:
        ask(Arguments(values))
    assert all(word in str(caught.value) for word in words)


def test_arguments_that_are_no_object_are_refused():
    with pytest.raises(InvalidArgument, match="object"):
        Arguments([1])


def test_defaults_stand_for_what_is_missing():
    arguments = Arguments(None)
    assert arguments.text("a", "x") == "x"
    assert arguments.optional_text("b") is None
    assert arguments.number("c", 7) == 7
    assert arguments.seconds("d", 1.5) == 1.5
    assert arguments.flag("e", True) is True
    assert arguments.texts("f", []) == []
    assert arguments.pairs("g") == {}
    arguments.nested("h").finish()
    arguments.finish()


def test_number_takes_hexadecimal_text():
    assert Arguments({"iova": "0xffff800000000000"}).number("iova") == 0xFFFF_8000_0000_0000


def test_finish_unknown_argument_names_the_nearest():
    arguments = Arguments({"sede": 1})
    arguments.number("seed", 1)
    arguments.number("rounds", 1)
    with pytest.raises(InvalidArgument, match=r"'sede'; did you mean 'seed'\? .*rounds, seed"):
        arguments.finish()
