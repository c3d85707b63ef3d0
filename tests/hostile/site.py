"""An emulator with hostile clients and neighbours, and what must be true of it all the time."""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.hostile.files import Files
from tests.hostile.messages import Generator, Hostile
from tests.hostile.neighbour import Neighbours
from tests.hostile.speak import LOOK, speak
from tests.support.serving import Serving, short_folder, until

ACCELERATOR = """
[accelerator]
name = "target"
hbm = "32MiB"
[[engine]]
name = "all"
operations = ["nop", "copy", "fill", "compare", "crc32c", "sha256", "deflate", "inflate"]
[[type]]
name = "native"
hbm = "4MiB"
[[type]]
name = "msi"
interrupts = "msi"
[[type]]
name = "rid"
hbm = "2MiB"
attach = "rid"
[[type]]
name = "adder"
personality = "adder"
[[type]]
name = "ioat"
personality = "ioat"
"""
TARGETS = ("native", "adder", "ioat", "msi", "rid")
"""Types of the mdevs that hostile clients have, by turns."""
NEIGHBOURS = 2


class Site:
    """All of it, up.

    Attributes:
        neighbours: those who mean well.
        messages: how many were sent.
        descriptors: how many the emulator has when nobody attacks.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._generator = Generator(seed)
        self.messages = 0
        self._serving = Serving(folder, text=ACCELERATOR)
        self._control = self._serving.control()
        self._targets = [self._create(name) for name in TARGETS]
        self.neighbours = Neighbours([self._create("native") for _ in range(NEIGHBOURS)])
        self._files = Files()
        until(lambda: self._attached() == [False] * len(TARGETS) + [True] * NEIGHBOURS)
        self.descriptors = self._serving.descriptors()

    def _create(self, name: str) -> str:
        return str(self._control("create-mdev", type=f"mdevemu-{name}")["socket"])

    def make(self, numbers: Iterable[int]) -> list[tuple[int, list[Hostile]]]:
        """These conversations, ready to be had, with as many looks at the neighbours."""
        made = []
        for number in numbers:
            messages: list[Hostile] = []
            for message in self._generator.conversation(number):
                messages.append(message)
                if len(messages) % LOOK == 0:
                    self.neighbours.look()
            made.append((number, messages))
        return made

    def attack(self, conversations: Iterable[tuple[int, list[Hostile]]]) -> None:
        """Have conversations; whatever goes wrong says in which.

        Raises:
            AssertionError: the emulator ended, stopped serving, or did a neighbour harm.
        """
        for number, messages in conversations:
            pick = random.Random(self._generator.seed << 64 | number)
            target = self._targets[number % len(self._targets)]
            try:
                self.messages += speak(target, messages, self._files, pick, self.neighbours.look)
                assert self._serving.process.poll() is None, "the emulator ended"
            except (OSError, AssertionError) as wrong:
                raise AssertionError(
                    f"{wrong!r} in conversation {number}, after {self.messages} messages;"
                    f" again: --seed {self._generator.seed} --first {number}"
                    f"\n{self._last_words()}"
                ) from wrong

    def _last_words(self) -> str:
        self._serving.process.terminate()
        return self._serving.process.communicate()[1]

    def check(self) -> None:
        """Nothing is left of hostile clients, and the emulator answers.

        Raises:
            AssertionError: that did not come true in time.
        """
        until(lambda: not any(self._attached()[: len(TARGETS)]))
        assert self._serving.descriptors() == self.descriptors, "descriptors are left"
        assert all(self._attached()[len(TARGETS) :]), "a neighbour was sent away"

    def _attached(self) -> list[bool]:
        """Which mdevs have a client."""
        return [mdev["attached"] for mdev in self._control("query-mdevs")]

    def resident(self) -> int:
        """Bytes of memory that the emulator has to itself."""
        status = Path(f"/proc/{self._serving.process.pid}/status").read_text()
        (line,) = (each for each in status.splitlines() if each.startswith("RssAnon"))
        return int(line.split()[1]) << 10

    def kill(self) -> None:
        """End it, whatever state it is in."""
        self.neighbours.close()
        self._files.close()
        self._serving.process.kill()
        self._serving.stop()

    def close(self) -> None:
        """End it; it must end as it does when nothing ever happened."""
        self.neighbours.close()
        self._files.close()
        code, _, err = self._serving.stop()
        assert (code, err) == (0, ""), f"exit status {code}\n{err}"


@contextmanager
def site(seed: int) -> Iterator[Site]:
    """A site that is closed, and its end checked."""
    with short_folder() as folder:
        made = Site(folder, seed)
        try:
            yield made
        except BaseException:
            made.kill()
            raise
        made.close()
