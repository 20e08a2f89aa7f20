"""What the facts about a GPU mean; gathering them on a machine without one."""

import dataclasses
import os
from pathlib import Path

import pytest

from rolltune.commands import doctor
from rolltune.data.findings import ERROR, NOTE, WARNING
from rolltune.errors import UserError
from rolltune.jobs import gpu_doctor
from rolltune.jobs.gpu_doctor import Cache, Facts, Gpu, findings, read_gpus, spilled, version

GIB = 2**30
CARD = Gpu("NVIDIA GeForce RTX 4070", 12 * GIB, 1 * GIB, "560.35.03", 8.9)
WELL = Facts("0.10.1", "cuda12", "0.10.1", "gpu", "", (CARD,), True, {}, 4 * GIB, "", (0.01,) * 8, (), GIB)


def told(**changed):
    return [(one.level, one.kind) for one in findings(dataclasses.replace(WELL, **changed))]


def test_a_machine_that_is_well_hears_what_the_desktop_holds():
    assert told() == [(NOTE, "memory in use")]
    assert "09-plan_memory.py --desktop 1.0GiB" in findings(WELL)[0].advice


@pytest.mark.parametrize(
    "changed, level, kind",
    [
        ({"jax": "0.11.1", "plugin_version": "0.11.1"}, ERROR, "known-bad version"),
        ({"jax": "0.11.1", "plugin_version": "0.11.1", "wsl": False}, NOTE, "untried version"),
        ({"plugin_version": "0.10.0"}, ERROR, "versions differ"),
        ({"gpus": (dataclasses.replace(CARD, driver="520.1"),)}, ERROR, "old driver"),
        ({"gpus": (dataclasses.replace(CARD, capability=7.5),)}, WARNING, "no bfloat16"),
        ({"gpus": (dataclasses.replace(CARD, capability=5.0),)}, ERROR, "old card"),
        ({"gpus": (dataclasses.replace(CARD, used=6 * GIB),)}, WARNING, "memory in use"),
        ({"large_error": "RESOURCE_EXHAUSTED"}, ERROR, "large allocation"),
        ({"blocks": (0.01,) * 30 + (0.3,) * 3}, WARNING, "memory spills over"),
        ({"settings": {"XLA_PYTHON_CLIENT_ALLOCATOR": "platform"}}, WARNING, "allocator"),
        ({"settings": {"XLA_PYTHON_CLIENT_PREALLOCATE": "true"}}, WARNING, "allocator"),
        ({"settings": {"JAX_PLATFORMS": "cpu"}}, ERROR, "GPU not used"),
        ({"caches": (Cache(Path("/c"), "Permission denied"),)}, ERROR, "cache folder"),
        ({"caches": (Cache(Path("/c"), "", 5e6),)}, WARNING, "slow cache folder"),
        ({"shared": 64 * 2**20}, WARNING, "shared memory"),
        ({"backend": "cpu", "gpus": (), "plugin": ""}, ERROR, "no GPU"),
        ({"backend": "cpu", "plugin": ""}, ERROR, "JAX for the CPU"),
        ({"backend": "cpu"}, ERROR, "GPU not used"),
        ({"backend": "", "backend_error": "cuInit(0) failed"}, ERROR, "JAX does not start"),
    ],
)
def test_what_is_wrong_is_found(changed, level, kind):
    assert (level, kind) in told(**changed)
    assert kind not in {found for _, found in told()} or level != NOTE


def test_what_lies_just_within_its_limit_is_well():
    limits = {
        "gpus": (Gpu("card", 8 * GIB, 2 * GIB, "525", 8.0),),
        "caches": (Cache(Path("/c"), "", 50e6),),
        "shared": 2**28,
        "settings": {"XLA_PYTHON_CLIENT_ALLOCATOR": "cuda_async", "XLA_PYTHON_CLIENT_PREALLOCATE": "0"},
    }
    assert told(**limits) == [(NOTE, "memory in use")]
    newer = {"plugin": "cuda13", "gpus": (Gpu("card", 8 * GIB, 0, "580.1", 7.5),)}
    assert told(**newer) == [(WARNING, "no bfloat16"), (NOTE, "memory in use")]
    older = {"plugin": "cuda13", "gpus": (Gpu("card", 8 * GIB, 0, "579.9", None),)}
    assert told(**older) == [(ERROR, "old driver"), (NOTE, "memory in use")]
    assert told(shared=None, blocks=(0.01,) * 3 + (9.0,), settings={"JAX_PLATFORMS": "cuda"}) == [
        (WARNING, "memory spills over"),
        (NOTE, "memory in use"),
    ]
    assert told(settings={"JAX_PLATFORMS": "cpu"}, gpus=()) == []


def test_the_facts_are_told_in_a_few_lines():
    caches = (Cache(Path("/cache"), "", 120e6), Cache(Path("/full"), "No space left on device"))
    settings = {"XLA_FLAGS": "--a", "JAX_X": "1"}
    known = dataclasses.replace(WELL, blocks=(0.25, 0.001, 0.5, 0.125), caches=caches, settings=settings)
    assert gpu_doctor.told(known) == [
        "JAX 0.10.1 with cuda12 0.10.1, computing on gpu",
        "NVIDIA GeForce RTX 4070: 12.00 GiB, 1.00 GiB in use, driver 560.35.03, compute capability 8.9",
        "one array of 4.00 GiB: made",
        "1.00 GiB filled and read, at 1 GB/s",
        "/cache: 120 MB/s",
        "/dev/shm: 1.00 GiB",
        "XLA_FLAGS=--a",
        "JAX_X=1",
    ]
    bare = Facts("0.10.1", backend="", gpus=(dataclasses.replace(CARD, capability=None),), large=GIB, large_error="no")
    assert gpu_doctor.told(bare) == [
        "JAX 0.10.1 for the CPU, computing on nothing",
        "NVIDIA GeForce RTX 4070: 12.00 GiB, 1.00 GiB in use, driver 560.35.03",
    ]


def test_nearly_all_that_is_free_is_tried_after_the_person_s_settings_were_read(monkeypatch):
    asked = []
    monkeypatch.setenv("XLA_OWN", "mine")
    monkeypatch.setattr(gpu_doctor, "listed_gpus", lambda: (CARD, dataclasses.replace(CARD, used=4 * GIB)))
    monkeypatch.setattr(gpu_doctor, "started_backend", lambda: ("gpu", ""))
    monkeypatch.setattr(gpu_doctor, "allocation_error", lambda size: asked.append(size) or "")
    monkeypatch.setattr(gpu_doctor, "block_times", lambda size: asked.append(size) or [0.5])
    monkeypatch.setattr(gpu_doctor, "tried", lambda folder: Cache(folder))
    share = lambda environment: monkeypatch.setenv("XLA_OWN", "shared")
    facts = gpu_doctor.gather(share)
    assert asked == [4 * GIB, int(8 * GIB * 0.9)] and facts.large == 4 * GIB and facts.blocks == (0.5,)
    assert facts.settings["XLA_OWN"] == "mine" and list(facts.settings) == sorted(facts.settings)
    assert all(name.startswith(("XLA_", "JAX_", "TF_GPU_")) for name in facts.settings)
    assert [one.path.name for one in facts.caches] == [facts.caches[0].path.name, "xla", "checkpoints"]
    monkeypatch.setattr(gpu_doctor, "allocation_error", lambda size: "no room")
    assert (gpu_doctor.gather(share).blocks, gpu_doctor.gather(share).large_error) == ((), "no room")
    monkeypatch.setattr(gpu_doctor, "started_backend", lambda: ("", "cuInit"))
    stopped = gpu_doctor.gather(share)
    assert (stopped.backend, stopped.backend_error, stopped.large) == ("", "cuInit", 0)


def test_blocks_are_passed_over_a_few_times_each_and_a_full_card_ends_them(monkeypatch):
    monkeypatch.setattr(gpu_doctor, "BLOCK", 64)
    assert len(gpu_doctor.block_times(64 * 3 + 63)) == 3 and gpu_doctor.block_times(63) == []
    assert all(seconds > 0 for seconds in gpu_doctor.block_times(64))
    assert gpu_doctor.allocation_error(64) == "" and "\n" not in gpu_doctor.allocation_error(2**62)
    assert gpu_doctor.allocation_error(2**62)


def test_the_most_urgent_comes_first():
    levels = [level for level, _ in told(large_error="no room", settings={"XLA_PYTHON_CLIENT_ALLOCATOR": "bfc"})]
    assert levels == [ERROR, WARNING, NOTE]


def test_numbers_are_read_as_they_are_printed():
    assert version("0.11.1rc2") == (0, 11, 1) and version("560.35.03") > version("525") and version("x") == ()
    lines = "NVIDIA H100 80GB HBM3, 81559, 4, 570.1, 9.0\nOld, 4000, 10, 470.1, [N/A]\nfailed to ask\n"
    assert [(gpu.name, gpu.used, gpu.capability) for gpu in read_gpus(lines)] == [
        ("NVIDIA H100 80GB HBM3", 4 << 20, 9.0),
        ("Old", 10 << 20, None),
    ]
    assert spilled([0.01] * 20 + [0.2] * 5) == 5 and spilled([0.01, 0.012] * 9) == 0 and spilled([1.0, 0.01]) == 0


def test_the_driver_is_asked_for_its_cards(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\n[ $# = 2 ] && printf 'H100, 81559, 4, 570.1, 9.0\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert gpu_doctor.listed_gpus() == (Gpu("H100", 81559 << 20, 4 << 20, "570.1", 9.0),)
    program.write_text("#!/bin/sh\nprintf 'H100, 81559, 4, 570.1, 9.0\\n'\nexit 9\n")
    assert gpu_doctor.listed_gpus() == ()
    program.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_doctor.listed_gpus() == ()


def test_a_folder_that_cannot_be_written_says_why(tmp_path, monkeypatch):
    synced, sync = [], os.fsync
    monkeypatch.setattr(gpu_doctor.os, "fsync", lambda number: synced.append(number) or sync(number))
    found = gpu_doctor.tried(tmp_path / "not" / "yet", size=1024)
    assert len(synced) == 1  # it is the disk that is timed, not the memory before it
    assert not found.problem and found.speed > 0 and not list(tmp_path.iterdir())

    def full(path, mode):
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(gpu_doctor, "open", full, raising=False)
    assert gpu_doctor.tried(tmp_path, size=1024).problem == "No space left on device"


def test_without_data_the_gpu_is_looked_at(monkeypatch, capsys):
    for facts, status in ((WELL, 0), (dataclasses.replace(WELL, backend="cpu", gpus=(), plugin=""), 1)):
        monkeypatch.setattr(gpu_doctor, "gather", lambda share, facts=facts: facts)
        assert doctor.main([]) == status
        said = capsys.readouterr().out
        assert ("the GPU is ready" in said) == (status == 0) and "JAX 0.10.1" in said
    with pytest.raises(UserError, match="--fix is for data"):
        doctor.main(["--fix"])
