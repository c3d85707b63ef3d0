"""Questions about topologies, from text.

    query     = [ question ] { selector }
    question  = "share" "(" "hbm" ")" ":" function { "," function }
              | "chain" ":" function { ">" function }
    selector  = key "=" value

A function is an operation's name, or the beginning of some up to an underscore: ``aes`` is
each of ``aes_gcm_encrypt`` and ``aes_gcm_decrypt``.
"""

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass

from mdevemu.errors import ConfigError, shown, unknown
from mdevemu.profile import FUNCTIONS


class Question(enum.Enum):
    """What engines are to have in common."""

    ENGINE = "one engine"
    SHARE = "share(hbm)"
    CHAIN = "chain"


@dataclass(frozen=True, slots=True)
class Function:
    """What an engine shall be able to do: one of some operations."""

    name: str
    operations: frozenset[str]


@dataclass(frozen=True, slots=True)
class Query:
    """A question.

    Attributes:
        functions: of one engine, of engines that share a stack, or of the stages of a chain.
        near: the NUMA node that the nearest is wanted to; None for any.
        where: further selectors, by key.
    """

    question: Question
    functions: tuple[Function, ...]
    near: int | None
    where: Mapping[str, str]


MOST_STAGES = 16
_WORD = re.compile(r"[A-Za-z0-9_]+")
_KEY = re.compile(r"[A-Za-z]+(?=\s*=)")
_VALUE = re.compile(r"[^\s,>=]+")
_NODE = re.compile(r"(?:node)?(\d{1,4})")
_QUESTIONS = {
    re.compile(r"share\s*\(\s*hbm\s*\)\s*:"): (Question.SHARE, ","),
    re.compile(r"chain\s*:"): (Question.CHAIN, ">"),
}
FORMS = "func=NAME, share(hbm): NAME, NAME or chain: NAME > NAME, then near=nodeN and others"
SELECTORS = {
    "func": "what the engine does",
    "near": "the nearest to a NUMA node",
    "numaNode": "next to a NUMA node",
    "pcieRoot": "below a PCI root",
    "pciBusID": "at a PCI address",
    "accelerator": "of that name",
}


def parse_query(text: str) -> Query:
    """A question from text.

    Raises:
        ConfigError: it is none; the message has the position, counted from 1.
    """
    return _Parser(text).query()


class _Parser:
    """One text, and how far it was read."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def _take(self, form: re.Pattern[str]) -> str | None:
        """What is next, if it has the form."""
        while self._text[self._at : self._at + 1].isspace():
            self._at += 1
        if match := form.match(self._text, self._at):
            self._at = match.end()
            return match[0]
        return None

    def _refuse(self, wrong: str, read: str = "") -> ConfigError:
        """What is wrong at the position, or with what was just ``read`` before it."""
        return ConfigError("QUERY", f"position {self._at - len(read) + 1}: {wrong}")

    def _rest(self) -> str:
        return shown(self._text[self._at :]) if self._at < len(self._text) else "its end"

    def query(self) -> Query:
        """All of it."""
        question, functions = Question.ENGINE, list[Function]()
        for form, (asked, separator) in _QUESTIONS.items():
            if self._take(form):
                question, functions = asked, self._functions(separator)
        where: dict[str, str] = {}
        near = None
        while key := self._take(_KEY):
            if key not in SELECTORS:
                raise self._refuse(unknown("selector", key, SELECTORS), key)
            if key in where or (key == "near" and near is not None):
                raise self._refuse(f"{key} is there twice", key)
            self._take(re.compile("="))
            value = self._take(_VALUE)
            if value is None:
                raise self._refuse(f"a value of {key} is missing")
            if key == "func":
                if question is not Question.ENGINE:
                    raise self._refuse(f"func= does not go with {question.value}", value)
                functions.append(self._function(value))
            elif key in ("near", "numaNode"):
                node = self._node(key, value)
                near, where = (node, where) if key == "near" else (near, where | {key: str(node)})
            else:
                where[key] = value
        if self._take(re.compile(r"\S")):
            self._at -= 1
            raise self._refuse(f"{self._rest()} means nothing here (accepted: {FORMS})")
        if not functions and near is None and not where:
            raise self._refuse(f"it asks for nothing (accepted: {FORMS})")
        return Query(question, tuple(functions), near, where)

    def _functions(self, separator: str) -> list[Function]:
        found = []
        while True:
            word = self._take(_WORD)
            if word is None:
                raise self._refuse(f"a function is missing before {self._rest()}")
            found.append(self._function(word))
            if not self._take(re.compile(separator)):
                break
        if not 2 <= len(found) <= MOST_STAGES:
            raise self._refuse(
                f"{len(found)} functions (accepted: 2 to {MOST_STAGES}, with {separator!r} between)"
            )
        return found

    def _function(self, word: str) -> Function:
        operations = frozenset(
            name for name in FUNCTIONS if name == word or name.startswith(f"{word}_")
        )
        if not operations:
            raise self._refuse(unknown("function", word, FUNCTIONS), word)
        return Function(word, operations)

    def _node(self, key: str, value: str) -> int:
        match = _NODE.fullmatch(value)
        if match is None:
            raise self._refuse(f"{key}: {shown(value)} is no node (accepted: as node1)", value)
        return int(match[1])
