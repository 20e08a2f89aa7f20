"""The entrypoint's report on the GPU, with a stand-in nvidia-smi, and that it then becomes the command."""

import os
import subprocess
from pathlib import Path

import pytest

ENTRYPOINT = Path(__file__).resolve().parents[2] / "docker/entrypoint.sh"


@pytest.fixture
def report(tmp_path):
    """`report(card=..., ROLLTUNE_ACCELERATOR=...)` is what is said; without a card nvidia-smi fails."""
    version = tmp_path / "version"
    devices = tmp_path / "dev"
    devices.mkdir()

    def run(card: str | None = None, wsl: bool = False, **environment: str) -> str:
        version.write_text("Linux version 5.15.167.4-microsoft-standard-WSL2" if wsl else "Linux version 6.1.0")
        tool = tmp_path / "nvidia-smi"
        tool.write_text(
            "#!/bin/bash\n"
            'if [ "$1" = -L ]; then echo "GPU 0: card"; exit; fi\n'
            f'fields=$(tr -cd , <<<"{card}")\n'
            'if [ "$(tr -cd , <<<"$1")" != "$fields" ]; then echo "Field is not a valid field to query."; exit 2; fi\n'
            f'echo "{card}"\n'
            if card
            else "#!/bin/bash\nexit 9\n"
        )
        tool.chmod(0o755)
        done = subprocess.run(
            ["bash", str(ENTRYPOINT), "bash", "-c", 'echo "the command ${JAX_PLATFORMS:-}"'],
            env={
                "PATH": f"{tmp_path}:{os.environ['PATH']}",
                "ROLLTUNE_PROC_VERSION": str(version),
                "ROLLTUNE_DEVICES": str(devices),
            }
            | environment,
            capture_output=True,
            text=True,
            check=True,
        )
        kept = environment.get("JAX_PLATFORMS", "" if card or any(devices.iterdir()) else "cpu")
        assert done.stdout == f"the command {kept}\n"  # without a card JAX is not left to show a traceback
        return done.stderr

    return run


def test_a_good_card_is_one_line(report):
    said = report("NVIDIA GeForce RTX 4070, 12282 MiB, 560.94, 8.9", ROLLTUNE_ACCELERATOR="cuda12")
    assert said == "rolltune: GPU NVIDIA GeForce RTX 4070, 12282 MiB, driver 560.94\n"


@pytest.mark.parametrize(
    ("accelerator", "card", "advice"),
    [
        ("cuda12", "Tesla, 16 GiB, 520.61, 7.0", "needs 525"),
        ("cuda12", "Tesla, 16 GiB, 470.82", "driver 470.82\nrolltune:   this driver is too old"),
        ("cuda13", "RTX, 12 GiB, 560.94, 8.9", "bin/docker-build.sh cuda12"),
        ("cuda13", "V100, 16 GiB, 590.10, 7.0", "compute capability 7.0"),
        ("cuda12", "GTX, 4 GiB, 530.10, 5.0", "compute capability 5.0"),
    ],
)
def test_what_is_too_old_is_said_with_advice(report, accelerator, card, advice):
    said = report(card, ROLLTUNE_ACCELERATOR=accelerator)
    assert advice in said and "probably compute on the CPU" in said


def test_no_card_in_a_gpu_image(report):
    said = report(ROLLTUNE_ACCELERATOR="cuda12")
    assert "--gpus all" in said and "WSL" not in said
    assert "install none inside WSL" in report(ROLLTUNE_ACCELERATOR="cuda12", wsl=True)


def test_wsl_with_a_card_names_its_two_traps(report):
    said = report("RTX 4070, 12282 MiB, 560.94, 8.9", wsl=True, ROLLTUNE_ACCELERATOR="cuda12")
    assert "ten times slower" in said and "ALLOCATOR" not in said
    card, other = "RTX 4070, 12282 MiB, 560.94, 8.9", {"XLA_PYTHON_CLIENT_ALLOCATOR": "bfc"}
    assert "ALLOCATOR=cuda_async again" in report(card, wsl=True, ROLLTUNE_ACCELERATOR="cuda12", **other)


def test_the_cpu_image_and_silence(report):
    assert "CPU" in report(ROLLTUNE_ACCELERATOR="cpu")
    assert report(ROLLTUNE_ACCELERATOR="cuda12", ROLLTUNE_QUIET="1") == ""


def test_jax_is_left_to_itself_where_the_person_or_a_device_says_otherwise(report, tmp_path):
    report(ROLLTUNE_ACCELERATOR="cuda12", JAX_PLATFORMS="cuda")
    (tmp_path / "dev/nvidia0").touch()
    report(ROLLTUNE_ACCELERATOR="cuda12")
