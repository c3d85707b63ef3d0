"""Three tenants of one device id doing anything at all, against a model that is too simple to err.

The model knows no tables and no caches: per tenant a list of windows, per file its
bytes.  Every access must end as the model says, byte by byte; and after every step
every file and the HBM must hold exactly the model's bytes.
"""

import os
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mdevemu.errors import DmaFault, RequestError
from mdevemu.fds import Fd
from mdevemu.memory import Ram
from mdevemu.units import HBM_IOVA, MIB, PAGE, Hpa, Iova
from tests.support.host import Host, lent, ready

TENANTS = 3
FILE = 4 * MIB
SLICE = 2 * MIB
HBM = Hpa(1 << 40)
# Windows start at a few places: pages that touch, superpages, and one far away.
STARTS = [*range(0, 6 * PAGE, PAGE), 2 * MIB, 4 * MIB, 1 << 30]
SIZES = [PAGE, 2 * PAGE, 4 * PAGE, 2 * MIB, 2 * MIB + PAGE]
OFFSETS = [0, PAGE, 3 * PAGE, 2 * MIB - PAGE, 2 * MIB]

tenant = st.integers(0, TENANTS - 1)
start = st.sampled_from(STARTS)
edge = st.sampled_from([-8, -1, 0, 1, 100, PAGE - 3, 2 * PAGE - 1, 4 * PAGE - 8, 2 * MIB - 2])
length = st.sampled_from([1, 2, 8, 16, 300, PAGE, 2 * PAGE + 5])


@dataclass
class Window:
    """What the model knows of a window: file bytes at an offset, or nothing at all."""

    size: int
    offset: int
    backed: bool
    writable: bool


@dataclass
class Tenant:
    """One tenant: the real thing, and what the model says of it."""

    space: object
    port: object
    file: Fd
    memory: bytearray
    hbm: int
    windows: dict[int, Window] = field(default_factory=dict)
    enabled: bool = True


class Tenants(RuleBasedStateMachine):
    """All accesses carry the same device id; only the PASID tells tenants apart."""

    @initialize()
    def begin(self):
        self.host = Host(tables=2 * MIB)
        self.real_hbm = Ram(TENANTS * SLICE)
        self.host.memory.add(HBM, self.real_hbm, TENANTS * SLICE)
        self.hbm = bytearray(TENANTS * SLICE)
        self.tenants = [self.arrive(number) for number in range(TENANTS)]
        self.gone = []  # ports whose tenant left: (port, PASID)
        self.stamp = 0
        # Nobody starts with nothing, so that every step can matter.
        for n, who in enumerate(self.tenants):
            self.map(n, 0, 2 * PAGE, 0, "rw")
            self.map(n, 2 * MIB, 2 * MIB, 0, "r")
            self.use_all(who)

    def arrive(self, number):
        """A new tenant on slice ``number``, with a file nobody else has."""
        space = self.host.space()
        space.map_hbm(Hpa(HBM + number * SLICE), SLICE)
        # One of them lends a file that may shrink: it is never mapped.
        file = lent(FILE, sealed=number != 2)
        return Tenant(space, ready(space), file, bytearray(FILE), number * SLICE)

    def where(self, who, at, write):
        """(its bytes, index) of one byte of an access, or None if it must fault."""
        if HBM_IOVA <= at < HBM_IOVA + SLICE:
            return self.hbm, who.hbm + at - HBM_IOVA
        for base, window in who.windows.items():
            if base <= at < base + window.size:
                if not window.backed or (write and not window.writable):
                    return None
                return who.memory, window.offset + at - base
        return None

    def expect(self, who, at, count, write):
        """Where every byte is, and the Iova of the first that faults, if one does."""
        if not who.enabled:
            return [], at
        found = []
        byte = at
        while byte < at + count:
            # The answer is the same for all bytes of a page.
            step = min(PAGE - byte % PAGE, at + count - byte)
            place = self.where(who, byte, write)
            if place is None:
                return [], byte
            found.append((*place, step))
            byte += step
        return found, None

    @rule(
        n=tenant,
        at=start,
        size=st.sampled_from(SIZES),
        offset=st.sampled_from(OFFSETS),
        kind=st.sampled_from(["rw", "rw", "rw", "r", "none", "no file"]),
    )
    def map(self, n, at, size, offset, kind):
        who = self.tenants[n]
        overlaps = any(
            base < at + size and at < base + window.size for base, window in who.windows.items()
        )
        backed = kind in ("rw", "r")
        file = None if kind == "no file" else who.file.duplicate()
        allowed = not overlaps and not (backed and offset + size > FILE)
        readable, writable = kind != "none", kind in ("rw", "no file")

        def act():
            who.space.map(at, size, file, offset, readable=readable, writable=writable)

        if allowed:
            act()
            who.windows[at] = Window(size, offset, backed, kind == "rw")
        else:
            with pytest.raises(RequestError):
                act()

    @rule(n=tenant, at=start, size=st.sampled_from(SIZES))
    def unmap_anything(self, n, at, size):
        who = self.tenants[n]
        window = who.windows.get(at)
        if window is not None and window.size == size:
            who.space.unmap(at, size)
            del who.windows[at]
        else:
            with pytest.raises(RequestError):
                who.space.unmap(at, size)

    @precondition(lambda self: any(who.windows for who in self.tenants))
    @rule(data=st.data(), used=st.booleans())
    def unmap(self, data, used):
        who = data.draw(st.sampled_from([who for who in self.tenants if who.windows]), "tenant")
        at = data.draw(st.sampled_from(sorted(who.windows)), "window")
        if used:
            self.access(who, at, 8, False)
        who.space.unmap(at, who.windows.pop(at).size)
        self.access(who, at, 8, False)

    @precondition(lambda self: any(who.windows for who in self.tenants))
    @rule(data=st.data(), by=edge, count=length, write=st.booleans())
    def use(self, data, by, count, write):
        who = data.draw(st.sampled_from([who for who in self.tenants if who.windows]), "tenant")
        at = data.draw(st.sampled_from(sorted(who.windows)), "window")
        self.access(who, max(at + by % who.windows[at].size, 0), count, write)

    @rule(n=tenant, used=st.booleans())
    def clear(self, n, used):
        who = self.tenants[n]
        if used:
            self.use_all(who)
        who.space.clear()
        touched, who.windows = who.windows, {}
        for at in touched:
            self.access(who, at, 8, False)

    def use_all(self, who):
        """Read in every window, so that its translation is cached."""
        for at in sorted(who.windows):
            self.access(who, at, 8, False)

    @rule(n=tenant, enabled=st.booleans())
    def bus_master(self, n, enabled):
        self.tenants[n].enabled = self.tenants[n].port.enabled = enabled

    @rule(n=tenant)
    def leave_and_return(self, n):
        old = self.tenants[n]
        self.use_all(old)
        old.space.close()
        old.file.close()
        new = self.arrive(n)
        # The slice changes hands clean; a PASID is free for the next one.
        self.real_hbm.write(new.hbm, bytes(SLICE))
        self.hbm[new.hbm : new.hbm + SLICE] = bytes(SLICE)
        self.tenants[n] = new
        old.port.enabled = True
        self.gone.append((old.port, old.space.pasid))

    @rule(n=tenant, at=start, by=edge, count=length, write=st.booleans())
    def reach(self, n, at, by, count, write):
        self.access(self.tenants[n], max(at + by, 0), count, write)

    @rule(
        n=tenant,
        at=st.sampled_from([0, 8, PAGE - 1, SLICE - PAGE, SLICE - 4, SLICE, -8]),
        count=length,
        write=st.booleans(),
    )
    def reach_hbm(self, n, at, count, write):
        self.access(self.tenants[n], HBM_IOVA + at, count, write)

    @rule(n=tenant, other=tenant, count=length, write=st.booleans())
    def trespass(self, n, other, count, write):
        """Go wherever somebody else just could."""
        for at in sorted(self.tenants[other].windows):
            self.access(self.tenants[n], at, count, write)

    @rule(n=tenant, at=start, count=length)
    def views(self, n, at, count):
        who = self.tenants[n]
        places, faulting = self.expect(who, at, count, False)
        if faulting is not None:
            with pytest.raises(DmaFault) as caught:
                who.port.views(Iova(at), count, False)
            assert caught.value.address == faulting
            self.faulted(who, faulting, False)
            return
        found = who.port.views(Iova(at), count, False)
        data = b"".join(
            bytes(each) if isinstance(each, memoryview) else each.read() for each in found
        )
        assert data == b"".join(bytes(mem[i : i + c]) for mem, i, c in places)

    def access(self, who, at, count, write):
        """Try it, and hold it against the model."""
        places, faulting = self.expect(who, at, count, write)
        if write:
            self.stamp += 1
            data = bytes((self.stamp * 37 + i) % 251 for i in range(count))
        if faulting is not None:
            with pytest.raises(DmaFault) as caught:
                who.port.write(Iova(at), data) if write else who.port.read(Iova(at), count)
            assert caught.value.address == faulting
            assert caught.value.length == at + count - faulting
            assert caught.value.write == write
            self.faulted(who, faulting, write)
        elif write:
            who.port.write(Iova(at), data)
            for memory, index, step in places:
                memory[index : index + step] = data[:step]
                data = data[step:]
        else:
            wanted = b"".join(bytes(mem[i : i + c]) for mem, i, c in places)
            assert who.port.read(Iova(at), count) == wanted

    def faulted(self, who, at, write):
        """Exactly this fault is on record, under this tenant's name and no other."""
        wanted = [(who.space.pasid, 15 if write else 13, at)] if who.enabled else []
        assert self.host.faults() == wanted

    @invariant()
    def memory_is_exactly_what_the_model_says(self):
        if not hasattr(self, "tenants"):
            return
        for who in self.tenants:
            assert os.pread(who.file.fileno(), FILE, 0) == who.memory
        assert self.real_hbm.read(0, len(self.hbm)) == self.hbm
        assert self.host.faults() == []

    @invariant()
    def who_left_reaches_only_what_its_successor_may(self):
        """A port of the past has a PASID that is free, or that somebody else has now."""
        if not hasattr(self, "tenants"):
            return
        now = {who.space.pasid: who for who in self.tenants}
        assert len(now) == TENANTS
        for port, pasid in self.gone[-2:]:
            successor = now.get(pasid)
            for at in STARTS[:3]:
                place = None if successor is None else self.where(successor, at, False)
                if place is None:
                    with pytest.raises(DmaFault):
                        port.read(Iova(at), 1)
                else:
                    assert port.read(Iova(at), 1)[0] == place[0][place[1]]
            self.host.faults()

    def teardown(self):
        if not hasattr(self, "tenants"):
            return
        for who in self.tenants:
            who.space.close()
            who.file.close()


# Whoever only wants to know that a planted bug is found need not see its smallest example.
UNSHRUNK = (Phase.explicit, Phase.generate)

TestTenants = Tenants.TestCase
TestTenants.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    phases=UNSHRUNK if "MDEVEMU_PLANTED" in os.environ else tuple(Phase),
    suppress_health_check=[HealthCheck.too_slow],
)
