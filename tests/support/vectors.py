"""Replays the reference vectors of tests/vectors against our IOMMU.

tests/vectors/README.md gives the format.  Each scenario gets a fresh IOMMU, and
software's part is played here: registers, the command queue, the drained queues.
"""

import json
import lzma
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mdevemu.iommu import Access, Fault, Iommu, Request
from mdevemu.iommu.ats import Invalidation, PageRequest, PageResponse, Status
from mdevemu.iommu.formats import FaultHeader, FaultRecord, PageRequestHeader, PageRequestRecord
from mdevemu.iommu.registers import Capabilities, IommuRegisters
from mdevemu.layout import fields_of, sizeof, unpack
from mdevemu.memory import PhysicalMemory, Ram
from mdevemu.trace import Trace
from mdevemu.units import Hpa

VECTORS = Path(__file__).parent.parent / "vectors" / "iommu-vectors.jsonl.xz"
ACCESS = {"r": Access.READ, "w": Access.WRITE, "x": Access.EXECUTE}
STATUS = {
    Status.SUCCESS: "ok",
    Status.UNSUPPORTED_REQUEST: "ur",
    Status.COMPLETER_ABORT: "ca",
}
Json = dict[str, Any]


def scenarios() -> Iterator[Json]:
    """Every scenario of the file, in order."""
    with lzma.open(VECTORS, "rt") as lines:
        head = json.loads(next(lines))
        assert (head["format"], head["version"]) == ("riscv-iommu-vectors", 1)
        for line in lines:
            yield json.loads(line)


class Bench:
    """One IOMMU, its memory, and the software that drives it."""

    def __init__(self, config: Json) -> None:
        size = int(config["mem_size"], 16)
        self.memory = PhysicalMemory()
        self.ram = Ram(size)
        self.memory.add(Hpa(0), self.ram, size)
        self.iommu = Iommu(
            self.memory,
            Trace(time.monotonic_ns, depth=1),
            capabilities=Capabilities(int(config["capabilities"], 16)),
            fabric=self,
        )
        self.responses: list[PageResponse] = []
        self.write(IommuRegisters.cqb, int(config["cqb"], 16))
        self.write(IommuRegisters.cqcsr, 1)
        self.write(IommuRegisters.fqb, int(config["fqb"], 16))
        self.write(IommuRegisters.fqcsr, 1)
        self.write(IommuRegisters.pqb, int(config["pqb"], 16))
        self.write(IommuRegisters.pqcsr, config["pq_enable"])
        self.write(IommuRegisters.ddtp, int(config["ddtp"], 16))

    def invalidate(self, message: Invalidation) -> None:
        """No vector sends one."""
        raise AssertionError(message)

    def respond(self, message: PageResponse) -> None:
        """What the IOMMU answers for software."""
        self.responses.append(message)

    def read(self, register: Any) -> int:
        data = self.iommu.read_register(register.offset, register.length)
        return int.from_bytes(data, "little")

    def write(self, register: Any, value: int) -> None:
        self.iommu.write_register(register.offset, value.to_bytes(register.length, "little"))

    def store(self, stores: list[list[str]]) -> None:
        """Stores by the processor: no cache sees them."""
        for at, data in stores:
            self.memory.write(int(at, 16), bytes.fromhex(data))

    def command(self, raw: bytes) -> str:
        """Queue one command; recover if it is illegal."""
        base, tail = self.read(IommuRegisters.cqb), self.read(IommuRegisters.cqt)
        entries = 2 << (base & 0x1F)
        self.memory.write((base >> 10 << 12) + tail * 16, raw)
        self.write(IommuRegisters.cqt, (tail + 1) % entries)
        if self.read(IommuRegisters.cqcsr) >> 10 & 1:
            self.write(IommuRegisters.cqt, tail)
            self.write(IommuRegisters.cqcsr, 1 | 1 << 10)
            assert self.read(IommuRegisters.cqh) == tail
            return "illegal"
        assert self.read(IommuRegisters.cqh) == (tail + 1) % entries
        return "ok"

    def translate(self, given: Json) -> Json:
        """One request, and its answer in the words of the vectors."""
        iova = int(given["iova"], 16)
        request = Request(
            device_id=given["did"],
            process_id=given["pid"] if given["pv"] else None,
            iova=iova,
            access=ACCESS[given.get("op", "r" if given.get("nw") else "w")],
            supervisor=bool(given["priv"]),
            translated=given["at"] == "T",
            asks=given["at"] == "A",
            execute=bool(given.get("exec")),
        )
        if not request.asks:
            try:
                line = self.iommu.translate(request)
            except Fault as fault:
                return {"status": "ur", "cause": int(fault.cause)}
            return {"status": "ok", "pa": iova + line.delta, "pbmt": line.pbmt}
        answer = self.iommu.ask(request)
        return {
            "status": STATUS[answer.status],
            "pa": answer.address + iova - answer.low,
            "r": int(answer.read),
            "w": int(answer.write),
            "x": int(answer.execute),
            "priv": int(answer.privileged),
            "global": int(answer.everywhere),
            "u": 0,
            "n": 0,
        }

    def faults(self) -> list[Json]:
        """Drain the fault queue."""
        found = []
        for data in self._drain(
            IommuRegisters.fqb, IommuRegisters.fqh, IommuRegisters.fqt, sizeof(FaultRecord)
        ):
            record = unpack(FaultRecord, data)
            header = FaultHeader(record.header)
            assert record.custom == 0
            fields = {name: int(getattr(header, name)) for name in fields_of(FaultHeader)}
            found.append({**fields, "iotval": record.iotval, "iotval2": record.iotval2})
        return found

    def page_requests(self) -> list[Json]:
        """Drain the page request queue."""
        found = []
        for data in self._drain(
            IommuRegisters.pqb, IommuRegisters.pqh, IommuRegisters.pqt, sizeof(PageRequestRecord)
        ):
            record = unpack(PageRequestRecord, data)
            header = PageRequestHeader(record.header)
            fields = {name: int(getattr(header, name)) for name in fields_of(PageRequestHeader)}
            found.append({**fields, "payload": record.payload})
        return found

    def _drain(self, base: Any, head: Any, tail: Any, size: int) -> Iterator[bytes]:
        where = self.read(base)
        at, end = self.read(head), self.read(tail)
        while at != end:
            yield self.memory.read((where >> 10 << 12) + at * size, size)
            at = (at + 1) % (2 << (where & 0x1F))
        self.write(head, at)


def replay(scenario: Json) -> None:
    """Run one scenario; AssertionError names the step that differs."""
    bench = Bench(scenario["config"])
    bench.store(scenario["mem"])
    stores = list(scenario["mem"])
    step: object = "start"
    for step, each in enumerate(scenario["steps"]):
        where = f"{scenario['id']} step {step} {scenario['tags']}: {each}"
        expected = each.get("exp", {})
        faults: list[Json] = expected.get("fq", [])
        match each["op"]:
            case "write":
                bench.store(each["mem"])
                stores += each["mem"]
            case "command":
                assert bench.command(bytes.fromhex(each["raw"])) == expected["status"], where
            case "translate":
                _compare(expected, bench.translate(each["req"]), where)
            case "page_request":
                _page_request(bench, each["msg"], expected["prgr"], where)
            case "drain_pq":
                _page_queue(bench, expected, where)
            case other:
                raise AssertionError(f"unknown step {other}")
        _faults(bench.faults(), faults, where)
        for at, data in expected.get("mem", []):
            stores.append([at, data])
            assert bench.memory.read(int(at, 16), len(data) // 2).hex() == data, (where, at)
    final: dict[int, int] = {}
    for at, data in stores:
        for offset, byte in enumerate(bytes.fromhex(data)):
            final[int(at, 16) + offset] = byte
    for at, data in stores:
        start, size = int(at, 16), len(data) // 2
        wanted = bytes(final[start + offset] for offset in range(size))
        assert bench.memory.read(start, size) == wanted, f"{scenario['id']} memory at {at}"


def _compare(expected: Json, got: Json, where: str) -> None:
    assert got["status"] == expected["status"], (where, got)
    if got["status"] != "ok":
        assert got.get("cause", expected["cause"]) == expected["cause"], (where, got)
        return
    for name in ("pa", "pbmt", "r", "w", "x", "priv", "global", "u", "n"):
        wanted = expected.get(name)
        if wanted is not None and name in got:
            value = int(wanted, 16) if isinstance(wanted, str) else wanted
            assert got[name] == value, (where, name, got)


def _faults(got: list[Json], expected: list[Json], where: str) -> None:
    assert len(got) == len(expected), (where, got)
    for one, wanted in zip(got, expected, strict=True):
        for name in ("cause", "did", "pv", "pid", "priv", "ttyp"):
            assert one[name] == wanted[name], (where, name, one)
        assert one["iotval"] == int(wanted["iotval"], 16), (where, one)
        mask = int(wanted["iotval2_mask"], 16)
        assert one["iotval2"] & mask == int(wanted["iotval2"], 16) & mask, (where, one)


def _page_request(bench: Bench, given: Json, expected: list[Json], where: str) -> None:
    bench.responses.clear()
    bench.iommu.page_request(
        PageRequest(
            rid=given["rid"],
            segment=given["dseg"] if given["dsv"] else None,
            pasid=given["pid"] if given["pv"] else None,
            privileged=bool(given["priv"]),
            execute=bool(given["exec"]),
            payload=int(given["payload"], 16),
        )
    )
    assert len(bench.responses) == len(expected), (where, bench.responses)
    for response, wanted in zip(bench.responses, expected, strict=True):
        got = {
            "rid": response.rid,
            "dsv": int(response.segment is not None),
            "dseg": response.segment or 0,
            "pv": int(response.pasid is not None),
            "pid": response.pasid or 0,
            "code": int(response.code),
            "prgi": response.index,
        }
        assert got == {**got, **wanted}, (where, got)


def _page_queue(bench: Bench, expected: Json, where: str) -> None:
    csr = bench.read(IommuRegisters.pqcsr)
    assert (csr >> 9 & 1, csr >> 8 & 1) == (expected["pqof"], expected["pqmf"]), where
    got = bench.page_requests()
    bench.write(IommuRegisters.pqcsr, csr)
    wanted = [{**each, "payload": int(each["payload"], 16)} for each in expected["pq"]]
    assert got == wanted, (where, got)
