"""``hostctl profile``: accelerators as files."""

import dataclasses
import re
from pathlib import Path

import click

from hostctl.cli.options import Commands, json_option
from hostctl.output import Output, size
from mdevemu.errors import ConfigError
from mdevemu.profile import NAME_CHARACTERS, AcceleratorSpec, is_name, load, locate, shipped


@click.group(cls=Commands)
def profile() -> None:
    """Accelerators as files: engines, HBM, links, work queues, types."""


@profile.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the profiles that come with the program."""
    output = Output(json=as_json)
    found = [load(locate(name)) for name in shipped()]
    if output.json:
        output.record("profile.list", {"profiles": [_facts(each) for each in found]})
        return
    output.rows(
        "",
        ("profile", "engines", "hbm", "types", "description"),
        [
            (
                each.name,
                len(each.engines),
                size(each.hbm),
                " ".join(kind.name for kind in each.types),
                each.description,
            )
            for each in found
        ],
    )


@profile.command()
@click.argument("name", metavar="PROFILE")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show what PROFILE, a file or the name of a shipped one, describes."""
    output = Output(json=as_json)
    found = load(locate(name))
    if output.json:
        output.record("profile.show", {"profile": _facts(found)})
        return
    where = f"{found.address} below {found.root}, next to NUMA node {found.numa_node}"
    output.line(f"{found.name}: {where}")
    for most, whose in (
        (found.read_buffers, "of all groups"),
        (found.read_buffer_limit, "of groups that are limited"),
    ):
        if most:
            output.line(f"read buffers {whose}: {most}")
    output.rows(
        "", ("engine", "operations"), [(e.name, " ".join(e.operations)) for e in found.engines]
    )
    stacks = [(s.name, size(s.size), " ".join(s.engines)) for s in found.stacks]
    queues = [
        (q.name, q.group, _mode(q.dedicated), q.size, q.threshold or "-", q.priority)
        for q in found.work_queues.values()
    ]
    groups = [
        (
            g.name,
            " ".join(g.engines),
            g.read_buffers or "-",
            g.reserved,
            "yes" if g.limited else "no",
        )
        for g in found.groups
    ]
    for columns, rows in (
        (("stack", "size", "engines"), stacks),
        (("link", "to"), [(link.source, link.target) for link in found.links]),
        (("chain", "engines"), [(c.name, " > ".join(c.engines)) for c in found.chains]),
        (("group", "engines", "read buffers", "reserved", "limited"), groups),
        (("queue", "group", "mode", "size", "threshold", "priority"), queues),
    ):
        if rows:
            output.rows("", columns, rows)
    output.rows(
        "",
        ("type", "personality", "hbm", "starts", "compute", "weight", "queues", "instances"),
        [
            (
                kind.name,
                kind.personality,
                size(kind.hbm),
                " ".join(str(at // found.share_bytes) for at in kind.starts) or "-",
                kind.compute or "-",
                kind.weight,
                kind.queues,
                kind.instances,
            )
            for kind in found.types
        ],
    )


@profile.command()
@click.argument("names", metavar="PROFILE...", nargs=-1, required=True)
@json_option
def validate(names: tuple[str, ...], as_json: bool) -> None:
    """Check each PROFILE; the first mistake is named with file, line and key (exit status 2)."""
    output = Output(json=as_json)
    found = [load(locate(name)) for name in names]
    if output.json:
        output.record("profile.validate", {"profiles": [each.name for each in found]})
        return
    for name in names:
        output.line(f"{name}: ok")


@profile.command()
@click.argument("file", metavar="FILE.toml", type=click.Path(path_type=Path))
@click.option(
    "--like", default="demo", show_default=True, help="The shipped profile to begin with."
)
@json_option
def new(file: Path, like: str, as_json: bool) -> None:
    """Write a profile to FILE.toml that is like a shipped one, to be edited; its name is FILE."""
    output = Output(json=as_json)
    text = locate(like, where="--like").read_text()
    if not is_name(file.stem):
        raise ConfigError(str(file), f"{file.stem!r} is no name (accepted: {NAME_CHARACTERS})")
    text = re.sub(r'(?m)^name = ".*"$', f'name = "{file.stem}"', text, count=1)
    try:
        with file.open("x") as made:
            made.write(text)
    except OSError as error:
        raise ConfigError(str(file), error.strerror or str(error)) from None
    if output.json:
        output.record("profile.new", {"file": str(file), "like": like})
    else:
        output.line(str(file))


def _mode(dedicated: bool) -> str:
    return "dedicated" if dedicated else "shared"


def _facts(found: AcceleratorSpec) -> dict[str, object]:
    """A profile for JSON; sizes and starts in bytes."""
    facts = dataclasses.asdict(found) | {"hbm": found.hbm}
    return facts | {"types": [{"id": kind.id, **dataclasses.asdict(kind)} for kind in found.types]}
