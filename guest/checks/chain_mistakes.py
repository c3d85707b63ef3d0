"""Chains as a bad driver writes them: each error names its stage, and no later one has begun."""

import zlib
from typing import NamedTuple

from guest import native
from guest.access import PAGE
from guest.bench import Bench
from guest.chain import Chain, end_of
from guest.checks.mistakes import verdict
from guest.checks.places import Output, Place, in_memory
from guest.native import Flag, Operation, Status
from guest.protocol import Message
from guest.queue import Command, Queue, of_process

_LENGTH = 64  # bytes that the chains begin with
_FAR = native.MMU_END  # behind the HBM and what the MMU of the slice translates
_UNKNOWN = 0xEE  # no operation


class _Mistake(NamedTuple):
    """A chain and how it must end.

    Attributes:
        stage: which one is to blame; None for the chain itself.
        begun: the stages before that one are done; otherwise none is.
        address: what the completion must name as the address at fault; None for anything.
        chain: the chain's descriptor, if it is not what the list wants.
    """

    name: str
    status: Status
    stage: int | None
    stages: list[Command]
    begun: bool = False
    address: int | None = None
    chain: Command | None = None


class _Ground:
    """Where the chains work: two places in HBM, then memory.

    Attributes:
        end: the first Iova behind our memory, where nothing is.
        hbm: bytes of HBM.
        good: three copies without a mistake.
    """

    def __init__(self, bench: Bench, memory: Place, hbm: Place) -> None:
        self.end = memory.address + len(memory.view)
        self.hbm = bench.device.hbm
        self.list = Chain(memory.address + PAGE, memory.view[PAGE : 3 * PAGE])
        self._sources = memory.part(0, PAGE)
        self._used = 0  # bytes of it
        self._places = (hbm.part(0, PAGE), hbm.part(PAGE, PAGE), memory.part(3 * PAGE, PAGE))
        self.outputs = self.guard()
        self.good = self.all_of(Operation.COPY, b"\xff" * _LENGTH)

    def guard(self) -> list[Output]:
        """Make the outputs of the three stages untouched."""
        self.outputs = [Output(place, PAGE // 2, 2 * _LENGTH) for place in self._places]
        return self.outputs

    def all_of(self, operation: Operation, data: bytes) -> list[Command]:
        """Three stages of one operation, which no engine need pass on; the first reads ``data``."""
        source = self._sources.part(self._used, len(data))
        source.view[:], self._used = data, self._used + len(data)
        first, *others = (
            Command(
                operation,
                destination=output.place.address,
                capacity=2 * _LENGTH,
                flags=output.place.destination,
            )
            for output in self.outputs
        )
        return [first._replace(source=source.address, length=len(data)), *others]

    def with_(self, stage: int, **fields: int) -> list[Command]:
        """The good chain with other ``fields`` in one stage."""
        stages = list(self.good)
        stages[stage] = Command._make({**stages[stage]._asdict(), **fields}.values())
        return stages


def make_mistakes(bench: Bench, hbm: Place) -> list[Message]:
    """Each mistake with what was expected and what came; ``ok`` if they agree.

    Part of ``hbm`` is written.
    """
    offered = bench.device.operations
    with bench.memory(4 * PAGE) as buffer, bench.open_queue(0) as queue:
        ground = _Ground(bench, in_memory(buffer), hbm)
        found = [
            _make(queue, ground, mistake)
            for mistake in (*_of_chains(ground), *_of_stages(ground), *_found_late(ground))
            if not mistake.begun or mistake.stages[0].operation in offered
        ]
        if Operation.COPY in offered:
            works = queue.run(ground.list.load(ground.good)).status
            found.append(verdict("none, after all of these", Status.SUCCESS, works))
        return found


def _of_chains(ground: _Ground) -> list[_Mistake]:
    good, copy = ground.good, ground.good[1]
    chain = ground.list.load(good)
    over = ground.hbm - _LENGTH
    return [
        _Mistake("list of one stage", Status.LENGTH, None, good[:1]),
        _Mistake("list too long", Status.LENGTH, None, [*good, *[copy] * native.MAX_STAGES]),
        _Mistake(
            "list that ends within a stage",
            Status.LENGTH,
            None,
            good,
            chain=chain._replace(length=chain.length - 1),
        ),
        _Mistake(
            "list nowhere",
            Status.READ_FAULT,
            None,
            good,
            address=ground.end,
            chain=chain._replace(source=ground.end),
        ),
        _Mistake(
            "list over HBM's end",
            Status.HBM_RANGE,
            None,
            good,
            address=over,
            chain=chain._replace(source=over, flags=Flag.SOURCE_HBM),
        ),
        _Mistake(
            "chain with a destination",
            Status.INVALID_FIELD,
            None,
            good,
            chain=chain._replace(destination=copy.destination, flags=Flag.DESTINATION_HBM),
        ),
    ]


def _of_stages(ground: _Ground) -> list[_Mistake]:
    """What stages say wrongly: it is found before any begins."""
    out = ground.good[2].destination
    invalid = [
        ("data that leaves HBM at once", 0, ground.with_(0, destination=out, flags=0)),
        ("data that leaves HBM on its way", 1, ground.with_(1, destination=out, flags=0)),
        ("source of its own", 1, ground.with_(1, source=ground.good[0].source)),
        ("source of its own in HBM", 2, ground.with_(2, flags=Flag.SOURCE_HBM)),
        ("length of its own", 2, ground.with_(2, length=_LENGTH)),
        ("nothing passed on", 1, ground.with_(1, operation=Operation.CRC32C)),
        ("no data taken", 1, ground.with_(1, operation=Operation.FILL)),
        ("stage with a cookie", 2, ground.with_(2, cookie=1)),
        ("stage with a PASID", 1, ground.with_(1, pasid=of_process(1))),
        ("stage without interrupt", 2, ground.with_(2, flags=Flag.NO_INTERRUPT)),
    ]
    unknown = [
        ("unknown operation", 1, ground.with_(1, operation=_UNKNOWN)),
        ("chain in a chain", 2, ground.with_(2, operation=Operation.CHAIN)),
    ]
    return [
        *(_Mistake(name, Status.INVALID_FIELD, stage, made) for name, stage, made in invalid),
        *(_Mistake(name, Status.UNKNOWN_OPERATION, stage, made) for name, stage, made in unknown),
        _Mistake(
            "destination behind the MMU",
            Status.HBM_RANGE,
            1,
            ground.with_(1, destination=_FAR),
            address=_FAR,
        ),
    ]


def _found_late(ground: _Ground) -> list[_Mistake]:
    """What only shows when the stage is done."""
    over, text = ground.hbm - _LENGTH // 2, b"\xff" * _LENGTH
    full = ground.all_of(Operation.DEFLATE, text)
    full[1] = full[1]._replace(capacity=2)
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(text) + packer.flush()
    return [
        _Mistake(
            "source nowhere",
            Status.READ_FAULT,
            0,
            ground.with_(0, source=ground.end),
            begun=True,
            address=ground.end,
        ),
        _Mistake(
            "destination over HBM's end",
            Status.HBM_RANGE,
            1,
            ground.with_(1, destination=over),
            begun=True,
            address=over,
        ),
        _Mistake(
            "destination nowhere",
            Status.WRITE_FAULT,
            2,
            ground.with_(2, destination=ground.end),
            begun=True,
            address=ground.end,
        ),
        _Mistake("no room for deflate", Status.CAPACITY, 1, full, begun=True),
        _Mistake(
            "no deflate stream",
            Status.CORRUPT,
            1,
            ground.all_of(Operation.INFLATE, packed),
            begun=True,
        ),
    ]


def _make(queue: Queue, ground: _Ground, mistake: _Mistake) -> Message:
    outputs = ground.guard()
    command = ground.list.load(mistake.stages)
    done = queue.run(mistake.chain or command)
    end = end_of(done)
    # The stage to blame may have written a part.
    after = outputs[(mistake.stage or 0) + 1 :] if mistake.begun else outputs
    facts = verdict(mistake.name, mistake.status, done.status)
    facts |= {
        "stage": end.stage,
        "expected-stage": mistake.stage,
        "address": done.address,
        "cause": done.cause,
        "untouched": all(output.untouched for output in after),
    }
    agree = [facts["untouched"], end == (mistake.stage, 0)]
    if mistake.address is not None:
        facts["expected-address"] = mistake.address
        # The IOMMU refuses what is not in HBM, and must be named as the reason.
        refused = mistake.status != Status.HBM_RANGE
        agree.append((done.address, bool(done.cause)) == (mistake.address, refused))
    facts["ok"] = bool(facts["ok"]) and all(agree)
    return facts
