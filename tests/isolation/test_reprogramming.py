"""Whatever is reprogrammed, stopped and submitted in whatever order: each command ends once."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from mdevemu.accel.engine import Policy, Program, coded
from mdevemu.errors import ConfigError
from tests.support.bench import BASE, Bench
from tests.support.native import DATA, DESTINATION_HBM, Driver, descriptor

SETS = [["copy", "fill"], ["copy"], ["crc32c", "copy"], ["sha256"]]
LIST = DATA + 0x8_0000
SPEC = {
    **BASE,
    "engine": [{"name": name, "operations": SETS[0]} for name in ("a", "b")],
    "link": [{"from": "a", "to": "b"}],
}
COMMANDS = [
    {"name": "copy", "length": 5 << 16, "source": DATA, "destination": DATA + (1 << 20)},
    {"name": "fill", "length": 64, "destination": DATA + (1 << 19)},
    {"name": "crc32c", "length": 1 << 17, "source": DATA},
    {"name": "chain", "length": 128, "source": LIST},
]
DOINGS = st.one_of(
    st.tuples(st.just("submit"), st.integers(0, 1), st.sampled_from(COMMANDS)),
    st.tuples(st.just("step"), st.integers(1, 5), st.none()),
    st.tuples(
        st.just("reprogram"),
        st.integers(0, 1),
        st.tuples(st.sampled_from(SETS), st.sampled_from(Policy)),
    ),
    st.tuples(st.just("stop"), st.integers(0, 1), st.none()),
)


@settings(max_examples=120, deadline=None)
@given(st.lists(DOINGS, max_size=40))
def test_each_command_completes_exactly_once(doings):
    bench = Bench(SPEC)
    drivers = [Driver(bench), Driver(bench)]
    queues, sent, versions = [], [0, 0], [0, 0]
    try:
        for driver in drivers:
            driver.ram.write(
                LIST,
                descriptor("copy", DESTINATION_HBM, source=DATA, length=3 << 16, destination=0)
                + descriptor("copy", DESTINATION_HBM, destination=1 << 20),
            )
            queues.append(driver.queue(0, log2=6))
        for doing, number, what in doings:
            if doing == "submit":
                fields = {key: value for key, value in what.items() if key != "name"}
                queues[number].submit(descriptor(what["name"], cookie=sent[number], **fields))
                sent[number] += 1
            elif doing == "step":
                for _ in range(number):
                    bench.parent.step()
            elif doing == "reprogram":
                engine, (names, policy) = bench.parent.engines.all[number], what

                def changed(number=number):
                    versions[number] += 1

                try:
                    engine.reprogram(Program(coded(names), policy, changed))
                except ConfigError:
                    assert engine.program is not None
            else:
                personality = drivers[number].mdev.personality
                personality.rest.stop("test", lambda _: None)
                for lane in personality.lanes:
                    lane.put_back()
                personality.rest.run("test")
        bench.work()
        for queue, count in zip(queues, sent, strict=True):
            assert Counter(done.cookie for done in queue.reap()) == Counter(range(count))
        for engine, count in zip(bench.parent.engines.all, versions, strict=True):
            assert (engine.program, engine.running, engine.version) == (None, 0, count)
    finally:
        for driver in drivers:
            driver.close()
