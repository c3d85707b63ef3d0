"""Where engines, memory and slices lie: read, asked about, drawn."""

from hostctl.topology.answer import Answer, Refused, answer
from hostctl.topology.facts import Topology, described, read_topology
from hostctl.topology.query import Query, parse_query
from hostctl.topology.svg import as_svg
from hostctl.topology.tree import as_tree

__all__ = [
    "Answer",
    "Query",
    "Refused",
    "Topology",
    "answer",
    "as_svg",
    "as_tree",
    "described",
    "parse_query",
    "read_topology",
]
