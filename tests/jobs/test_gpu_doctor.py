"""What the facts about a GPU mean; gathering them on a machine without one."""

import dataclasses
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


def test_a_folder_that_cannot_be_written_says_why(tmp_path, monkeypatch):
    found = gpu_doctor.tried(tmp_path / "not" / "yet", size=1024)
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
