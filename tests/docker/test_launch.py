"""The launch examples: each against what its engine accepts, and processes really joined as each of them would.

Kubernetes' own part of the JobSet is checked against its published schema. JobSet's and SkyPilot's own fields are
checked against the lists below, which were written from JobSet v1alpha2's definition and SkyPilot 0.14.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from rolltune.errors import UserError
from rolltune.hosts import Place, find_place

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "docker/launch"
JOBSET = {
    "failurePolicy": dict,
    "replicatedJobs": list,
    "network": dict,
    "successPolicy": dict,
    "startupPolicy": dict,
    "suspend": bool,
    "ttlSecondsAfterFinished": int,
}
SKYPILOT = {
    "name": str,
    "workdir": str,
    "num_nodes": int,
    "resources": dict,
    "setup": str,
    "run": str,
    "envs": dict,
    "file_mounts": dict,
}


def check_fields(given: dict, known: dict[str, type]) -> None:
    assert [name for name, value in given.items() if not isinstance(value, known.get(name, ()))] == []


@pytest.fixture
def jobset() -> dict:
    return yaml.safe_load((LAUNCH / "kubernetes-jobset.yaml").read_text())


def job_of(jobset: dict) -> dict:
    """The Job that JobSet makes of its template, named and versioned as Kubernetes would see it."""
    template = jobset["spec"]["replicatedJobs"][0]["template"]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "rolltune-hosts-0"}, "spec": template["spec"]}


def test_the_jobset_is_what_kubernetes_accepts(jobset):
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    check_fields(jobset["spec"], JOBSET)
    assert set(jobset["spec"]["replicatedJobs"][0]) == {"name", "replicas", "template"}
    kubernetes_validate.validate(job_of(jobset), "1.33", strict=True)


def test_kubernetes_schema_notices_a_wrong_field(jobset):
    job = job_of(jobset)
    job["spec"]["template"]["spec"]["containers"][0]["volumes"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, "1.33", strict=True)


def test_the_jobset_agrees_with_itself(jobset):
    replicated = jobset["spec"]["replicatedJobs"][0]
    job = replicated["template"]["spec"]
    container = job["template"]["spec"]["containers"][0]
    settings = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert settings["ROLLTUNE_HOSTS"] == str(job["parallelism"]) == str(job["completions"])
    name = jobset["metadata"]["name"]
    assert settings["JAX_COORDINATOR_ADDRESS"].startswith(f"{name}-{replicated['name']}-0-0.{name}:")
    printed = subprocess.check_output([str(ROOT / "bin/docker-run.sh"), "--dry-run"], text=True)
    for mount in container["volumeMounts"]:
        assert mount["mountPath"] == "/dev/shm" or f"target={mount['mountPath']}" in printed


def test_the_skypilot_task_has_known_fields_and_what_makes_it_one_run_sets_what_is_read():
    text = (LAUNCH / "skypilot.yaml").read_text()
    check_fields(yaml.safe_load(text), SKYPILOT)
    lines = [line.removeprefix("#   ") for line in text.splitlines() if line.startswith("#   export")]
    script = "\n".join([*lines, 'echo "$JAX_COORDINATOR_ADDRESS $ROLLTUNE_HOST $ROLLTUNE_HOSTS"'])
    given = {"SKYPILOT_NODE_IPS": "10.0.0.4\n10.0.0.5", "SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_NODES": "2"}
    environment = given | {"PATH": os.environ["PATH"]}
    assert subprocess.check_output(["bash", "-c", script], env=environment, text=True) == "10.0.0.4:8476 1 2\n"


def on_the_cpu() -> dict[str, str]:
    paths = {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return (
        {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        | paths
        | {"JAX_PLATFORMS": "cpu"}
    )


JOIN = """
import os, sys
import jax
from rolltune.hosts import joined, launched
with joined(launched(os.environ)) as hosts:
    print(hosts.gather(hosts.place.host), jax.device_count(), os.environ["JAX_LOCAL_DEVICE_IDS"], file=sys.stderr)
"""


def test_the_slurm_script_joins_its_processes(tmp_path):
    """A stand-in srun starts the step's two processes here, with the variables that Slurm sets."""
    srun = tmp_path / "srun"
    srun.write_text(
        "#!/bin/bash\n"
        "export SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 SLURM_LOCALID=0 SLURM_STEP_NUM_NODES=2\n"
        'SLURM_PROCID=0 "$@" & first=$!\nSLURM_PROCID=1 "$@" & second=$!\n'
        "wait $first && wait $second\n"
    )
    srun.chmod(0o755)
    (tmp_path / "playground").mkdir()
    settings = on_the_cpu()
    settings |= {
        "PATH": f"{tmp_path}:{settings['PATH']}",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_GPUS_ON_NODE": "4",
    }
    done = subprocess.run(
        ["bash", str(LAUNCH / "slurm.sbatch"), sys.executable, "-c", JOIN],
        env=settings,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    said = sorted(line for line in done.stderr.splitlines() if "[0, 1]" in line)
    assert said == ["[0, 1] 2 0,1,2,3", "host 1: [0, 1] 2 0,1,2,3"]


def test_the_slurm_scripts_flags_are_those_of_sbatch():
    known = {"job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "time", "output"}
    known |= {"open-mode", "signal", "requeue"}  # on SIGTERM the state is saved, and the job goes on from it
    text = (LAUNCH / "slurm.sbatch").read_text()
    flags = {line.removeprefix("#SBATCH --").split("=")[0] for line in text.splitlines() if line.startswith("#SBATCH")}
    assert flags == known
    assert text.index("#SBATCH --output") < text.index("\nset -euo")  # sbatch stops reading at the first command
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(LAUNCH / "slurm.sbatch")], check=True)


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, Place(0, 1)),
        ({"ROLLTUNE_HOSTS": "1", "ROLLTUNE_HOST": "0"}, Place(0, 1)),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}, Place(3, 4, by_slurm=True)),
        # As `rolltune.launch` hands it on: Slurm is still there to be asked for host 0's address.
        ({"SLURM_PROCID": "3", "ROLLTUNE_HOSTS": "4", "ROLLTUNE_HOST": "3"}, Place(3, 4, by_slurm=True)),
    ],
)
def test_the_place_is_read_from_the_environment(environment, place):
    assert find_place(environment) == place


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"ROLLTUNE_HOSTS": "two", "ROLLTUNE_HOST": "0"}, "ROLLTUNE_HOSTS"),
        ({"ROLLTUNE_HOSTS": "2"}, "ROLLTUNE_HOST"),
        ({"ROLLTUNE_HOSTS": "2", "ROLLTUNE_HOST": "2", "JAX_COORDINATOR_ADDRESS": "a:1"}, "ROLLTUNE_HOST=2"),
        ({"ROLLTUNE_HOSTS": "2", "ROLLTUNE_HOST": "1"}, "JAX_COORDINATOR_ADDRESS"),
    ],
)
def test_a_wrong_environment_is_named(environment, named):
    with pytest.raises(UserError, match=named):
        find_place(environment)
