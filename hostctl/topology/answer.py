"""Answers to questions about topologies, and why there are none."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from hostctl.topology.facts import Engine, Topology
from hostctl.topology.query import Function, Query, Question
from mdevemu.profile import blocked, routes

LOCAL, REMOTE = 10, 20
"""Relative distances within a NUMA node and to another.  Spec: ACPI 6.5 §5.2.17."""

MOST = 64
"""Answers of one accelerator that are told."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Engines that are what was asked for.

    Attributes:
        accelerator: its name.
        distance: to the node that was asked for, as the ACPI SLIT has it; None if none was.
        engines: their names, one for each function.
        stack: the HBM stack that they share; None if that was not asked.
        types: mdev types of which a slice has all of them.
    """

    accelerator: str
    address: str
    node: int
    distance: int | None
    engines: tuple[str, ...]
    stack: str | None
    types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """An accelerator that has no answer, and why."""

    accelerator: str
    why: str


def answer(query: Query, among: Iterable[Topology]) -> tuple[list[Answer], list[Refused]]:
    """What each accelerator has, nearest ones only if that was asked; and who has nothing."""
    found: list[Answer] = []
    refused: list[Refused] = []
    for topology in among:
        if why := _elsewhere(query, topology):
            refused.append(Refused(topology.name, why))
        elif here := list(itertools.islice(_answers(query, topology), MOST)):
            found += here
        else:
            refused.append(Refused(topology.name, _why_not(query, topology)))
    best = min((each.distance for each in found if each.distance is not None), default=None)
    far = {each.address: each for each in found if each.distance != best}
    for each in far.values():
        why = f"is next to node{each.node}, at distance {each.distance} and not {best}"
        refused.append(Refused(each.accelerator, why))
    return [each for each in found if each.distance == best], refused


def _elsewhere(query: Query, topology: Topology) -> str | None:
    """Which selector an accelerator does not meet."""
    has = {
        "numaNode": str(topology.node),
        "pcieRoot": topology.root,
        "pciBusID": topology.address,
        "accelerator": topology.name,
    }
    for key, wanted in query.where.items():
        if key in has and has[key] != wanted:
            return f"its {key} is {has[key]}"
    return None


def _able(engines: Iterable[Engine], function: Function) -> list[str]:
    return [engine.name for engine in engines if function.operations & {*engine.operations}]


def _answers(query: Query, topology: Topology) -> Iterator[Answer]:
    """What slices there can be of an accelerator have what is asked."""
    distance = None
    if query.near is not None:
        distance = LOCAL if query.near == topology.node else REMOTE
    seen = set()
    for reach in dict.fromkeys(each for kind in topology.types for each in kind.engines):
        for engines, stack in _among(query, topology, reach):
            if (engines, stack) not in seen:
                seen.add((engines, stack))
                yield Answer(
                    topology.name,
                    topology.address,
                    topology.node,
                    distance,
                    engines,
                    stack,
                    topology.types_with(engines),
                )


def _among(
    query: Query, topology: Topology, names: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], str | None]]:
    """Engines of those names that are what is asked, and the stack that they share."""
    engines = [engine for engine in topology.engines if engine.name in names]
    match query.question:
        case Question.ENGINE:
            for engine in engines:
                if all(_able([engine], function) for function in query.functions):
                    yield (engine.name,), None
        case Question.SHARE:
            for stack in topology.stacks:
                sharing = [engine for engine in engines if engine.name in stack.engines]
                able = [_able(sharing, function) for function in query.functions]
                if all(able):
                    yield tuple(each[0] for each in able), stack.name
        case Question.CHAIN:
            able = [_able(engines, function) for function in query.functions]
            for route in routes(able, topology.links):
                yield route, None


def _why_not(query: Query, topology: Topology) -> str:
    """Why an accelerator that meets all selectors has no answer."""
    able = [_able(topology.engines, function) for function in query.functions]
    for function, engines in zip(query.functions, able, strict=True):
        if not engines:
            return f"no engine does {function.name}"
    names = [engine.name for engine in topology.engines]
    if next(_among(query, topology, names), None):
        return "no type of slice has engines that do all of it"
    words = [f"{f.name} ({' '.join(e)})" for f, e in zip(query.functions, able, strict=True)]
    match query.question:
        case Question.ENGINE:
            return f"no engine does all of it: {', '.join(words)}"
        case Question.SHARE:
            stacks = "; ".join(f"{each.name}: {' '.join(each.engines)}" for each in topology.stacks)
            return f"no stack is shared by {', '.join(words)} ({stacks or 'it has no HBM'})"
        case Question.CHAIN:
            stuck = blocked(able, topology.links)
            assert stuck, "else there was an answer"
            return f"no link from {words[stuck - 1]} to {words[stuck]}"
