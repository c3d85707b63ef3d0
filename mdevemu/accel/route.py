"""Which engines can work one after the other: each is linked to the next."""

from collections.abc import Collection, Iterator, Sequence

Links = Collection[tuple[str, str]]
"""Names of engines, (from, to): data can pass without leaving the device."""


def passes(source: str, target: str, links: Links) -> bool:
    """Data can pass from one engine to another, or stays where it is."""
    return source == target or (source, target) in links


def onward(stages: Sequence[Sequence[str]], links: Links) -> list[list[str]]:
    """Of the engines of each stage, by name, those from which the last stage can be reached.

    A stage from which it cannot be reached has none, nor have those before it.
    """
    found: list[list[str]] = []
    for names in reversed(stages):
        after = found[-1] if found else None
        found.append(
            [
                name
                for name in names
                if after is None or any(passes(name, other, links) for other in after)
            ]
        )
    return found[::-1]


def blocked(stages: Sequence[Sequence[str]], links: Links) -> int | None:
    """The first stage that cannot be reached from the first; None if all can."""
    there: Sequence[str] = []
    for number, names in enumerate(stages):
        there = [
            name
            for name in names
            if not number or any(passes(before, name, links) for before in there)
        ]
        if not there:
            return number
    return None


def routes(stages: Sequence[Sequence[str]], links: Links) -> Iterator[tuple[str, ...]]:
    """Every way through the stages, one engine for each."""
    able = onward(stages, links)

    def go(done: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if len(done) == len(able):
            yield done
            return
        for name in able[len(done)]:
            if not done or passes(done[-1], name, links):
                yield from go((*done, name))

    return go(())
