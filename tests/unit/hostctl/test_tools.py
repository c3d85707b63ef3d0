"""The emulator's own commands, run by hostctl."""

import json
from pathlib import Path

import pytest

from hostctl.cli.bench import bench
from hostctl.cli.vectors import vectors
from hostctl.errors import FINDING, OK
from mdevemu.errors import ConfigError
from tests.unit.hostctl.command import PROJECT

EMPTY = {"format": "riscv-iommu-vectors", "version": 1, "scenarios": 0}
FETCH = {
    "id": "one",
    "config": {
        "capabilities": "0x210",
        "fctl": "0x0",
        "ddtp": "0x0",
        "cqb": "0x400",
        "fqb": "0x800",
        "pqb": "0x0",
        "mem_size": "0x10000",
        "pq_enable": 0,
    },
    "mem": [],
    "steps": [
        {
            "op": "translate",
            "req": {"at": "U", "op": "r", "did": 1, "pv": 0, "pid": 0, "priv": 0, "iova": "0x0"},
            "exp": {"status": "ok", "pa": "0x0"},
        }
    ],
}


@pytest.fixture
def file(tmp_path):
    def write(*scenarios) -> Path:
        path = tmp_path / "vectors"
        lines = [{**EMPTY, "scenarios": len(scenarios)}, *scenarios]
        path.write_text("\n".join(map(json.dumps, lines)))
        return path

    return write


def run(command, *arguments):
    return command.main([str(each) for each in arguments], standalone_mode=False)


def test_vectors_are_shown_and_tell_by_their_status(file, capfd):
    assert run(vectors, file()) == OK
    assert "0 scenarios" in capfd.readouterr().out
    path = file(FETCH)
    assert run(vectors, path) == FINDING
    assert f"{path}: 1 scenarios" in capfd.readouterr().out


def test_vectors_as_json_have_a_schema(file, capfd):
    path = file(FETCH)
    assert run(vectors, path, "--json") == FINDING
    said = json.loads(capfd.readouterr().out)
    assert said["schema"] == "mdevemu.hostctl.iommu.vectors/1"
    assert said["files"][0]["mismatches"][0]["what"] == "status"


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_file_that_is_refused_is_named(tmp_path, options):
    with pytest.raises(ConfigError) as caught:
        run(vectors, tmp_path / "none", *options)
    assert caught.value.where == str(tmp_path / "none")
    assert "No such file" in caught.value.wrong


def test_file_whose_name_looks_like_an_option_is_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        run(vectors, "--", "--json")
    assert "No such file" in caught.value.wrong


def test_bench_is_shown_and_given(capfd):
    assert run(bench, "iommu", "--rounds", "1") == OK
    assert "scalar hit" in capfd.readouterr().out
    assert run(bench, "iommu", "--rounds", "1", "--json") == OK
    said = json.loads(capfd.readouterr().out)
    assert said["schema"] == "mdevemu.hostctl.bench.iommu/1"
    assert {"name", "nanoseconds", "lookups", "rate"} == set(said["kinds"][0])
