"""A topology as a picture: engines to the left, HBM stacks with their slices to the right."""

from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape

from hostctl.output import size
from hostctl.topology.facts import Stack, Topology

# All in pixels.
WIDTH, MARGIN, ROW, GAP, HEAD = 900, 20, 44, 14, 60
ENGINES_AT, ENGINE_WIDTH = 120, 330
STACKS_AT, STACK_WIDTH = 610, 250
STYLE = (
    "text{font:13px sans-serif}.small{font-size:11px;fill:#555}"
    ".card{fill:#fafafa;stroke:#999}.engine{fill:#e7f0fb;stroke:#37679b}"
    ".stack{fill:#f3efe2;stroke:#8a7434}.mdev{stroke:#333;fill-opacity:.75}"
    ".share{stroke:#8a7434;fill:none}.link{stroke:#37679b;stroke-width:2;fill:none;"
    "marker-end:url(#tip)}"
)
COLOURS = ("#e27c7c", "#7ca5e2", "#8fc98f", "#d9b35c", "#b48fd1", "#6fc7c7", "#c98f9f", "#a9a96b")


def as_svg(among: Sequence[Topology]) -> str:
    """One SVG document, an accelerator below the other."""
    parts: list[str] = []
    top = MARGIN
    for topology in among:
        parts += _accelerator(topology, top)
        top += _height(topology) + MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" '
            f'viewBox="0 0 {WIDTH} {top}">',
            f"<style>{STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#37679b"/></marker>'
            "</defs>",
            *parts,
            "</svg>\n",
        ]
    )


def _height(topology: Topology) -> int:
    rows = max(len(topology.engines), len(topology.stacks), 1)
    return HEAD + rows * (ROW + GAP)


def _middle(top: int, number: int) -> int:
    """Where the row of that number has its middle."""
    return top + HEAD + number * (ROW + GAP) + ROW // 2


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}"{style}>{escape(text)}</text>'


def _box(kind: str, x: float, y: float, width: float, height: float, more: str = "") -> str:
    return (
        f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4"'
        f"{more}/>"
    )


def _accelerator(topology: Topology, top: int) -> Iterable[str]:
    where = f"{topology.root} / {topology.address}, NUMA node {topology.node}"
    yield "<g>"
    yield _box("card", MARGIN, top, WIDTH - 2 * MARGIN, _height(topology))
    yield _text(2 * MARGIN, top + 24, topology.name)
    yield _text(2 * MARGIN, top + 42, where, "small")
    rows = {engine.name: _middle(top, at) for at, engine in enumerate(topology.engines)}
    for number, stack in enumerate(topology.stacks):
        at = _middle(top, number)
        for name in stack.engines:
            right = ENGINES_AT + ENGINE_WIDTH
            bend = (right + STACKS_AT) // 2
            yield (
                f'<path class="share" d="M{right} {rows[name]}C{bend} {rows[name]} {bend} {at} '
                f'{STACKS_AT} {at}"/>'
            )
    for source, target in sorted(topology.links):
        start, end = rows[source], rows[target]
        # Down and up are drawn apart: each shows its own arrow.
        bend = ENGINES_AT - (70 if start < end else 35)
        yield (
            f'<path class="link" d="M{ENGINES_AT} {start}C{bend} {start} {bend} {end} '
            f'{ENGINES_AT} {end}"><title>{escape(f"{source} > {target}")}</title></path>'
        )
    for engine in topology.engines:
        at = rows[engine.name]
        yield _box("engine", ENGINES_AT, at - ROW // 2, ENGINE_WIDTH, ROW)
        yield _text(ENGINES_AT + 8, at - 4, engine.name)
        yield _text(ENGINES_AT + 8, at + 14, " ".join(engine.operations) or "nothing", "small")
    for number, stack in enumerate(topology.stacks):
        yield from _stack(topology, stack, _middle(top, number))
    yield "</g>"


def _stack(topology: Topology, stack: Stack, at: int) -> Iterable[str]:
    """A stack, and the parts of it that slices have."""
    yield _box("stack", STACKS_AT, at - ROW // 2, STACK_WIDTH, ROW)
    for number, mdev in enumerate(topology.mdevs):
        start = max(mdev.base, stack.base) - stack.base
        held = min(mdev.base + mdev.size, stack.base + stack.size) - stack.base - start
        if held > 0:
            x = STACKS_AT + STACK_WIDTH * start / stack.size
            width = STACK_WIDTH * held / stack.size
            fill = f' fill="{COLOURS[number % len(COLOURS)]}"'
            yield _box("mdev", x, at, width, ROW // 2, fill)
            yield _text(x + 4, at + 15, mdev.name, "small")
    yield _text(STACKS_AT + 8, at - 6, f"{stack.name}, {size(stack.size)}")
