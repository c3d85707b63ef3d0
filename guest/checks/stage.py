"""Two processes of this guest, with tables of their own, and what happens to their commands."""

from guest import pasids
from guest.access import PAGE, Buffer
from guest.bench import Bench, status_name
from guest.native import Operation, PasidMode, Status
from guest.protocol import Message
from guest.queue import Command, Completion, Queue, of_process
from guest.tables import PASID_BITS, READ_ONLY, Directory, Frames, Process

LENGTH = 64  # bytes of each copy
# Virtual addresses, the same ones in every process; no two share a last table.
SOURCE, DESTINATION = 0x12_3456_7000, 0x15_0000_0000
NOTHING, LATE, RINGS = 0x16_4000_0000, 0x17_8000_0000, 0x18_C000_0000
# Causes.  Spec: RISC-V Privileged, mcause; RISC-V IOMMU 1.0, Fault/Event-Queue
READ_PAGE, WRITE_PAGE, READ_GUEST_PAGE, PDT_NOT_VALID = 13, 15, 21, 266


class Stage:
    """Processes A and B, each with a source and a destination.

    Attributes:
        bits: width of the PASIDs that the directory can hold.
        pages: memory that they share out.
        of_a, of_b: bytes of source and destination.
        faults: what the host must have a record of, in order.
        requests: page requests that came, in order.
    """

    def __init__(self, bench: Bench, frames: Frames, pages: Buffer, mode: PasidMode) -> None:
        self.bench, self.device, self.pages = bench, bench.device, pages
        self.faults: list[Message] = []
        self.requests: list[Message] = []
        self._used = 0
        self.bits = min(bench.device.pasid_bits, PASID_BITS[mode])
        self.directory = Directory(frames, mode)
        # The highest numbers, so that every level of the directory has an index that is not 0.
        highest = (1 << self.bits) - 1
        self.a, self.b = self.directory.enter(highest), self.directory.enter(highest - 1)
        self.of_a, self.of_b = self._furnish(self.a, b"A"), self._furnish(self.b, b"B")
        pasids.use_directory(self.device, self.directory)
        pasids.invalidate_space(self.device, None)
        for process in (self.a, self.b):
            pasids.invalidate_context(self.device, process.pasid)

    def page(self) -> tuple[int, memoryview]:
        """A page of our own that is in no table yet: (Iova, bytes)."""
        at, self._used = self._used, self._used + PAGE
        return self.pages.iova + at, self.pages.view[at : at + PAGE]

    def _furnish(self, process: Process, letter: bytes) -> tuple[memoryview, memoryview]:
        """Map a source full of a letter, and a destination; gives their bytes."""
        (source, content), (destination, result) = self.page(), self.page()
        process.map(SOURCE, source, READ_ONLY)
        process.map(DESTINATION, destination)
        content[:] = letter * PAGE
        return content, result

    def copy(
        self, process: Process, source: int = SOURCE, destination: int = DESTINATION
    ) -> Command:
        """A copy between addresses of a process."""
        return Command(
            Operation.COPY,
            length=LENGTH,
            source=source,
            destination=destination,
            pasid=of_process(process.pasid),
        )

    def fault(
        self,
        queue: Queue,
        case: str,
        command: Command,
        address: int,
        cause: int,
        user: Process | None = None,
    ) -> Completion:
        """A command that must fault at ``address``; ``user`` has the queue."""
        done = queue.run(command)
        pasid = user.pasid if user else command.pasid & ~of_process(0)
        self.record(case, pasid, done, address, cause)
        return done

    def record(self, case: str, pasid: int, done: Completion, address: int, cause: int) -> None:
        """Keep what became of a command that must have faulted."""
        status = Status.WRITE_FAULT if cause == WRITE_PAGE else Status.READ_FAULT
        self.faults.append(
            {
                "case": case,
                "pasid": pasid,
                "status": status_name(done.status),
                "cause": done.cause,
                "address": done.address,
                "expected-cause": cause,
                "expected-address": address,
                "ok": (done.status, done.cause, done.address) == (status, cause, address),
            }
        )
