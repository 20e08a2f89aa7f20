"""The Compose file says the same as bin/docker-run.sh. tests/container runs it."""

import re
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def test_compose_mounts_and_settings_are_those_of_docker_run(monkeypatch):
    monkeypatch.delenv("ROLLTUNE_CACHE")  # the tests' own, which moves a mount
    services = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
    printed = subprocess.check_output([str(ROOT / "bin/docker-run.sh"), "--dry-run", "--gpu"], text=True)
    command = subprocess.check_output(["bash", "-c", f"printf '%s\\n' {printed}"], text=True)
    passed_on = re.search(r"for name in (.*?); do", (ROOT / "bin/docker-run.sh").read_text(), re.DOTALL)[1]
    for name, service in services.items():
        assert service["environment"] == passed_on.replace("\\\n", "").split()
        assert "--init\n" in command and service["init"] and f"--shm-size\n{service['shm_size']}\n" in command
        for volume in service["volumes"]:
            source = str((ROOT / "docker" / volume["source"]).resolve()).replace('"', '""')
            assert f'type=bind,"source={source}",target={volume["target"]}\n' in command, name
    assert services["rolltune-gpu"]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert "deploy" not in services["rolltune"]
