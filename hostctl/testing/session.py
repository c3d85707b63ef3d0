"""One run of pytest: what its options say, and what its tests have tried of devices."""

import contextlib
import io
import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hostctl import coverage
from hostctl.cli.coverage import tell
from hostctl.output import Output
from hostctl.testing import story
from hostctl.testing.rig import Rig, start
from hostctl.testing.run import Run
from hostctl.testing.wish import Wish
from mdevemu.errors import MdevError

KEPT = "accel-kept"
"""Folder for what ``--accel-keep`` keeps."""
COVERAGE = "accel-coverage.json"
_NEVER = 4  # names of what was never tried, of each kind
_NAMED = 200  # characters of a test's name that become a folder's


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The plugin's options.

    Attributes:
        level: what is real; see ``hostctl.testing.rig.LEVELS``.
        trace: whose stories are told: "off" (nobody's), "on-failure" or "all".
        seed: chooses wherever a test does not.
        strict: nothing is forgiven.
        keep: folder for whole stories and logs; None keeps nothing.
        cover: collect what drivers try.
        plugins: options by which pytest was told to load plugins.
    """

    level: str
    trace: str
    seed: int
    strict: bool
    keep: Path | None
    cover: bool
    plugins: Sequence[str] = ()

    def command(self, test: str) -> str:
        """What is typed to run a test again."""
        words = [
            "pytest",
            *self.plugins,
            test,
            f"--accel-level={self.level}",
            f"--accel-seed={self.seed}",
        ]
        if self.strict:
            words.append("--accel-strict")
        if self.cover:
            words.append("--accel-cover")
        return shlex.join(words)


@dataclass
class Session:
    """What tests share.

    Attributes:
        settings: the options.
        covered: what was tried of devices, one for each accelerator that is gone.
    """

    settings: Settings
    covered: list[coverage.Coverage] = field(default_factory=list)

    @contextlib.contextmanager
    def rigs(self) -> Iterator["Rigs"]:
        """Accelerators for the tests of one module."""
        made = Rigs(self)
        try:
            yield made
        finally:
            made.close()

    def told(self, run: Run, failure: str, command: str) -> str:
        """A test's story, as a report has it; the whole is kept if that is wanted."""
        found = run.story(failure, command)
        if self.settings.keep is not None:
            folder = self.settings.keep / _folder(run.test)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "story.txt").write_text("\n".join(story.lines(found, whole=True)) + "\n")
            events = (json.dumps(event.record) + "\n" for event in found.events)
            (folder / "trace.jsonl").write_text("".join(events))
            for name, log in run.rig.logs().items():
                if log.exists():
                    (folder / name).write_bytes(log.read_bytes())
            return "\n".join([*story.lines(found), f"kept: {folder}"])
        return "\n".join(story.lines(found))


class Rigs:
    """Accelerators for the tests of one module, each started when the first test wants it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._rigs: dict[tuple[object, ...], Rig] = {}

    def rig(self, wish: Wish) -> Rig:
        """The one that fulfils a wish, and answers.

        Raises:
            MdevError: it cannot be started.
        """
        key = wish.accelerator
        if key in self._rigs and not _answers(self._rigs[key]):
            self._rigs.pop(key).close()
        if key not in self._rigs:
            self._rigs[key] = self._start(wish)
        return self._rigs[key]

    def _start(self, wish: Wish) -> Rig:
        settings = self._session.settings
        made = start(wish, settings.level)
        if settings.cover:
            made.control.collect_coverage(True)
        if settings.trace != "off":
            made.keep_details()
        return made

    def close(self) -> None:
        """Take all of them down."""
        with contextlib.ExitStack() as stack:
            for rig in self._rigs.values():
                stack.callback(rig.close)
            if self._session.settings.cover:
                alive = (rig for rig in self._rigs.values() if _answers(rig))
                self._session.covered += [rig.control.coverage() for rig in alive]


def _answers(rig: Rig) -> bool:
    try:
        rig.control.mdevs()
    except MdevError:
        return False
    return True


def _folder(test: str) -> str:
    return "".join(c if c.isalnum() or c in "-._[]" else "_" for c in test)[-_NAMED:]


def conclude(
    own: Sequence[coverage.Coverage], workers: Sequence[object], file: Path
) -> Iterator[str]:
    """Write what was tried in a whole run to a file, and show it.

    Args:
        own: what this process has collected.
        workers: records of what others have.
        file: where it goes.
    """
    total = coverage.merged([*own, *(coverage.parse("worker", each) for each in workers)])
    if not total:
        yield "no accelerator was used"
        return
    shown = io.StringIO()
    tell(total, Output(out=shown), _NEVER)
    yield from shown.getvalue().splitlines()
    coverage.write(file, total)
    yield f"written: {file}; hostctl coverage show has all of it"
