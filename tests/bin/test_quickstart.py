"""What bin/quickstart.sh and test.sh say on a machine that lacks something, and when they have nothing to do."""

import shutil
import sys

import pytest


@pytest.mark.parametrize("script", ["quickstart.sh", "test.sh"])
def test_no_python_at_all_says_how_to_get_one(bare_machine, script):
    done = bare_machine.run(f"bin/{script}", ROLLTUNE_VENV=str(bare_machine.folder / "venv"))
    assert done.returncode == 1
    assert "there is no Python" in done.stderr and "apt install python3" in done.stderr


def test_a_python_that_is_too_old_is_named(bare_machine):
    answer = 'case "$2" in *print*) echo "/usr/bin/python3 is 3.9.2" ;; *) exit 1 ;; esac'
    bare_machine.add("python3", answer)
    done = bare_machine.run("bin/quickstart.sh", ROLLTUNE_VENV=str(bare_machine.folder / "venv"))
    assert done.returncode == 1 and "/usr/bin/python3 is 3.9.2" in done.stderr and "3.11" in done.stderr


def test_a_named_python_that_does_not_do_is_an_error(machine):
    done = machine.run("bin/quickstart.sh", ROLLTUNE_PYTHON="/bin/false", ROLLTUNE_VENV=str(machine.folder / "venv"))
    assert done.returncode == 1 and "/bin/false is not a Python" in done.stderr


def test_python_without_venv_names_the_package(machine):
    machine.add("python3.13", '[ "$1" != -m ] || { echo "ensurepip is not available" >&2; exit 1; }')
    done = machine.run("bin/quickstart.sh", ROLLTUNE_VENV=str(machine.folder / "venv"))
    assert done.returncode == 1 and "apt install python3-venv" in done.stderr


def test_a_colon_in_the_path_is_named_with_the_way_round_it(machine):
    done = machine.run("bin/quickstart.sh", ROLLTUNE_PYTHON=sys.executable, ROLLTUNE_VENV=str(machine.folder / "1:2"))
    assert done.returncode == 1 and "a colon" in done.stderr and "export ROLLTUNE_VENV=$HOME/" in done.stderr


def test_a_half_made_environment_is_made_again(machine):
    """What is left where python3-venv is missing: a Python without pip. Installing the package must be enough."""
    venv = machine.folder / "venv"
    (venv / "bin").mkdir(parents=True)
    machine.add("python3.13", '[[ "$*" != *pip* ]] || exit 1; [ "$2" != venv ] || echo "making it anew" >&2')
    shutil.copy(machine.programs / "python3.13", venv / "bin/python")
    done = machine.run("bin/quickstart.sh", "--install-only", ROLLTUNE_VENV=str(venv))
    assert "making it anew" in done.stderr


def test_no_network_is_said_and_the_log_named(machine):
    """A real pip, sent to an address where nothing listens."""
    venv = machine.folder / "venv"
    done = machine.run(
        "bin/quickstart.sh",
        ROLLTUNE_PYTHON=sys.executable,
        ROLLTUNE_VENV=str(venv),
        PIP_CONFIG_FILE="/dev/null",
        PIP_INDEX_URL="http://127.0.0.1:9/simple",
        PIP_RETRIES="0",
        PIP_NO_CACHE_DIR="1",
    )
    assert done.returncode == 1
    assert "is there a network?" in done.stderr and f"{venv}/install.log" in done.stderr
    assert not (venv / "rolltune-installed").exists()


def test_what_is_installed_is_not_installed_again(machine):
    """The second run must not need pip, nor a network: a venv whose pip fails, marked as complete."""
    venv = machine.folder / "venv"
    (venv / "bin").mkdir(parents=True)
    python = venv / "bin/python"
    python.write_text('#!/bin/bash\n[ "$1" != -m ] || { echo "pip was called" >&2; exit 1; }\n')
    python.chmod(0o755)
    done = machine.run("bin/quickstart.sh", "--install-only", ROLLTUNE_VENV=str(venv))
    assert done.returncode == 1 and "pip was called" in done.stderr
    shutil.copy(python, machine.programs / "python3.13")
    python.write_text("#!/bin/bash\n")
    assert machine.run("bin/quickstart.sh", "--install-only", ROLLTUNE_VENV=str(venv)).returncode == 0
    python.write_text('#!/bin/bash\n[ "$1" != -m ] || { echo "pip was called" >&2; exit 1; }\n')
    done = machine.run("bin/quickstart.sh", "--install-only", ROLLTUNE_VENV=str(venv))
    assert done.returncode == 0 and "pip was called" not in done.stderr
    done = machine.run("bin/test.sh", ROLLTUNE_VENV=str(venv))  # another lock: not what is installed there
    assert done.returncode == 1 and "pip was called" in done.stderr


def test_a_relative_environment_is_found_from_the_playground_too(machine):
    (machine.folder / "venv/bin").mkdir(parents=True)
    python = machine.folder / "venv/bin/python"
    python.write_text("#!/bin/bash\n")
    python.chmod(0o755)
    done = machine.run("bin/quickstart.sh", "--install-only", ROLLTUNE_VENV="venv")
    assert f"installed in {machine.folder}/venv" in done.stderr


@pytest.mark.parametrize("argument", ["--with=cuda12", "--gpu", "now"])
def test_an_unknown_argument_is_an_error(machine, argument):
    done = machine.run("bin/quickstart.sh", argument)
    assert done.returncode == 1 and argument in done.stderr


def test_with_takes_an_accelerator(machine):
    done = machine.run("bin/quickstart.sh", "--with", "rocm")
    assert done.returncode == 1 and "cuda12" in done.stderr and "'rocm'" in done.stderr


@pytest.mark.parametrize("system", ["MINGW64_NT-10.0-22631", "Darwin"])
def test_a_gpu_that_jax_cannot_use_is_refused_before_anything_is_fetched(machine, system):
    """The CUDA wheels are for Linux: pip would say that it found none, as if there were no network."""
    machine.add("uname", f"echo {system}")
    done = machine.run("bin/quickstart.sh", "--with", "cuda12", ROLLTUNE_VENV=str(machine.folder / "venv"))
    assert done.returncode == 1 and system in done.stderr and "WSL2" in done.stderr
    assert not (machine.folder / "venv").exists()
