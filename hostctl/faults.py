"""Injected faults, as the emulator tells of them."""

from collections.abc import Mapping
from dataclasses import dataclass

from hostctl.tables import Table


@dataclass(frozen=True, slots=True)
class Injection:
    """A fault of one mdev.

    Attributes:
        id: its number.
        options: what was asked for, by name.
        hits: how often it struck.
        spent: it strikes no more.
    """

    id: int
    mdev: str
    kind: str
    options: Mapping[str, object]
    hits: int
    spent: bool


@dataclass(frozen=True, slots=True)
class FaultKind:
    """What can be injected.

    Attributes:
        occasion: what it strikes.
        effect: what becomes of that.
        options: which ones mean something for it.
        needs: those of them that must be given.
    """

    kind: str
    occasion: str
    effect: str
    options: tuple[str, ...]
    needs: tuple[str, ...]


def injection(reply: Table) -> Injection:
    """An injected fault as the emulator shows it."""
    return Injection(
        id=reply.whole("id", 1),
        mdev=reply.text("mdev"),
        kind=reply.text("kind"),
        options=reply.table("options").facts,
        hits=reply.whole("hits", 0),
        spent=reply.truth("spent"),
    )


def kind(reply: Table) -> FaultKind:
    """A kind of fault as the emulator describes it."""
    return FaultKind(
        kind=reply.text("kind"),
        occasion=reply.text("occasion"),
        effect=reply.text("effect"),
        options=reply.texts("options"),
        needs=reply.texts("needs"),
    )
