"""New projects outside our tree: a personality that is the adder, to be changed into another."""

from hostctl.project.write import write

__all__ = ["write"]
