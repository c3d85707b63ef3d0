"""What can go wrong between a machine and an image: the machine's fault, with the fix."""


class HostError(Exception):
    """The machine cannot do what is needed; exit status 3.

    Attributes:
        wrong: what is missing or failed, in one line.
        fix: what the operator can do about it.
        details: the last lines of the program that failed, or "".
    """

    def __init__(self, wrong: str, fix: str, details: str = "") -> None:
        super().__init__(f"{wrong}\n  fix: {fix}" + (f"\n{details}" if details else ""))
        self.wrong = wrong
        self.fix = fix
        self.details = details


class NoModule(HostError):
    """The guest's kernel has no module of a name that was asked for."""


class BuildError(HostError):
    """A compiler was there, and refused what it was given."""
