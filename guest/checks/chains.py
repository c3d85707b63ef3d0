"""Check: chains give what their stages give one by one, complete once and stay in HBM between."""

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby

from guest import native
from guest.access import PAGE
from guest.arguments import Arguments
from guest.bench import Bench, Run, operation_name, status_name
from guest.chain import Chain, end_of
from guest.checks.cases import Trial
from guest.checks.chain_mistakes import make_mistakes
from guest.checks.chain_stages import LONGEST, PARAMETERS, ROOM, Walk
from guest.checks.completions import settle
from guest.checks.places import Place, in_hbm, in_memory
from guest.native import Flag, Operation, Status
from guest.protocol import Message
from guest.queue import Command, Completion, Queue

CHAINS = (
    (Operation.COPY,) * native.MAX_STAGES,
    (Operation.COPY, Operation.COMPARE),
    (Operation.FILL, Operation.COPY, Operation.COMPARE),
    (Operation.COPY, Operation.CRC32C),
    (Operation.DEFLATE, Operation.INFLATE, Operation.SHA256),
    (Operation.INFLATE, Operation.CRC32C),
    (Operation.DEFLATE, Operation.AES_GCM_ENCRYPT),
    (Operation.AES_GCM_DECRYPT, Operation.INFLATE),
    (
        Operation.DEFLATE,
        Operation.AES_GCM_ENCRYPT,
        Operation.AES_GCM_DECRYPT,
        Operation.INFLATE,
        Operation.SHA256,
    ),
)
_LENGTHS = (15, LONGEST)  # bytes that the chains begin with
_HBM = (native.MAX_STAGES + 2) * ROOM  # bytes: a source, what each stage leaves, a list
_SECRET = 4096  # bytes that must stay in HBM
_PIECE = 32  # bytes of it that are looked for: shorter ones could be there by chance


def run(bench: Bench, arguments: Arguments, run: Run) -> Message:
    """Every chain of which the slice has the operations, with data from ``seed``.

    A chain runs over 15 and over 4097 bytes; its list, its source and its last destination
    are in memory, then in HBM.

    Facts: ``skipped``, why nothing was run, or None; per chain ``runs``, ``equal``,
    ``mismatches`` and the stage at which it is ``unlinked``; ``not-offered``, for lack of an
    operation; ``secret``, what became of data that no stage takes out of HBM; commands,
    completions and interrupts; ``errors``, how mistakes were answered.
    """
    seed = arguments.number("seed", 1)
    arguments.finish()
    if Operation.CHAIN not in bench.device.operations:
        return {"skipped": "the slice does not offer chains"}
    hbm = in_hbm(bench, 0, _HBM)
    if hbm is None:
        return {"skipped": f"chains need {_HBM} bytes of HBM, the slice has {bench.device.hbm}"}
    offered = [each for each in CHAINS if {*each} <= {*bench.device.operations}]
    found: Message = {}
    with ExitStack() as stack, bench.open_queue(0) as queue:
        trials = [*_trials(bench, stack, hbm, random.Random(seed))]
        for operations in offered:
            found[name_of(operations)] = _go(queue, operations, trials, hbm, run)
        secret = _pass_on(bench, queue, hbm)
        counts: Message = {
            "commands": queue.submitted,
            "completions": queue.completed,
            "interrupts": queue.interrupts,
        }
    return {
        "skipped": None,
        "seed": seed,
        "chains": found,
        "not-offered": [name_of(each) for each in CHAINS if each not in offered],
        "secret": secret,
        **counts,
        "errors": make_mistakes(bench, hbm),
    }


def _go(
    queue: Queue,
    operations: tuple[Operation, ...],
    trials: Sequence[tuple[Trial, Chain]],
    hbm: Place,
    run: Run,
) -> Message:
    """Run one chain over all inputs; over one only, if it turns out that it cannot run here."""
    work = [hbm.part(number * ROOM, ROOM) for number in range(1, native.MAX_STAGES)]
    mismatches: list[Message] = []
    runs, equal, unlinked = 0, 0, None
    for trial, chain in trials:
        if run.stopped() or unlinked is not None:
            break
        walk = Walk(trial, operations, work)
        cookie = trial.chance.getrandbits(64)
        done = _run(queue, chain.load(walk.stages)._replace(cookie=cookie))
        wrong = "the cookie of another" if done.cookie != cookie else _wrong(walk, done)
        if wrong:
            place = trial.source.kind
            mismatches.append({"length": trial.length, "in": place, "wrong": wrong})
        if done.status == Status.UNLINKED:
            unlinked = end_of(done).stage
        else:
            runs, equal = runs + 1, equal + (wrong is None)
    run.tell({"chain": name_of(operations), "runs": runs})
    return {"runs": runs, "equal": equal, "mismatches": mismatches, "unlinked": unlinked}


def _run(queue: Queue, command: Command) -> Completion:
    """Run a chain, and wait for its interrupt as well: two that are close would be one."""
    done = queue.run(command)
    settle(queue, queue.submitted)
    return done


def _wrong(walk: Walk, done: Completion) -> str | None:
    """What is wrong with how a chain ended."""
    match done.status:
        case Status.SUCCESS:
            return walk.differs(done)
        case Status.UNLINKED:
            return None if walk.untouched else "unlinked, and yet a stage wrote"
    end = end_of(done)
    return f"status {status_name(done.status)} at stage {end.stage}, address {done.address:#x}"


def name_of(operations: tuple[Operation, ...]) -> str:
    """``copy > compare``; ``copy x 16`` for the same one again and again."""
    stages = [(operation_name(each), len([*same])) for each, same in groupby(operations)]
    return " > ".join(name if count == 1 else f"{name} x {count}" for name, count in stages)


def _trials(
    bench: Bench, stack: ExitStack, hbm: Place, chance: random.Random
) -> Iterator[tuple[Trial, Chain]]:
    """Each length in memory and in HBM, and the list likewise."""
    source, destination, listed = (
        in_memory(stack.enter_context(bench.memory(size))) for size in (ROOM, ROOM, PAGE)
    )
    parameters = in_memory(stack.enter_context(bench.memory(PARAMETERS)))
    last = hbm.part(native.MAX_STAGES * ROOM, ROOM)
    inside = hbm.part((native.MAX_STAGES + 1) * ROOM, PAGE)
    for number, length in enumerate(_LENGTHS):
        yield (
            Trial(chance, source, destination, parameters, length, 2 * number),
            Chain(listed.address, listed.view),
        )
        yield (
            Trial(chance, hbm.part(0, ROOM), last, parameters, length, 2 * number + 1),
            Chain(inside.address, inside.view, in_hbm=True),
        )


def _pass_on(bench: Bench, queue: Queue, hbm: Place) -> Message:
    """Pass a secret on in HBM, and look for it in all memory that the device reaches."""
    secret = random.Random(_SECRET).randbytes(_SECRET)
    first, second, third = (hbm.part(at * ROOM, _SECRET) for at in range(3))
    for place, content in ((first, secret), (second, bytes(_SECRET)), (third, secret)):
        place.view[:] = content
    both = Flag.SOURCE_HBM | Flag.DESTINATION_HBM
    copy = Command(Operation.COPY, _SECRET, first.address, second.address, flags=both)
    compare = Command(Operation.COMPARE, operand=third.address, flags=Flag.OPERAND_HBM)
    with bench.memory(PAGE) as memory:
        done = _run(queue, Chain(memory.iova, memory.view).load([copy, compare]))
        outside = [
            f"memory at {buffer.iova + at:#x}"
            for buffer in bench.access.buffers()
            for piece in range(0, _SECRET, _PIECE)
            if (at := bytes(buffer.view).find(secret[piece : piece + _PIECE])) >= 0
        ]
    return {
        "status": status_name(done.status),
        "passed-on": second.view == secret,
        "outside-hbm": outside,
    }
