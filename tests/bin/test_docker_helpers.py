"""bin/docker-build.sh and docker-run.sh with stand-in programs: Linux and simulated MSYS2.

The stand-in `docker` writes down its arguments; MSYS2's own rewriting of paths cannot be had outside Windows.
"""

import itertools
import os
import pty
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKER = """
case "$1" in
  version) echo "${ENGINE:-24.0.5}" ;;
  info) echo "${SECURITY:-[name=seccomp]}" ;;
  image) exit "${IMAGE_MISSING:-0}" ;;
  *) printf '%s\\n' "$@" > "$RECORD"; echo "$MSYS_NO_PATHCONV $MSYS2_ARG_CONV_EXCL" >> "$RECORD.settings" ;;
esac
exit "${STATUS:-0}"
"""


@pytest.fixture
def linux(machine):
    machine.add("docker", DOCKER)
    machine.add("nvidia-smi", "exit 9")
    return machine


@pytest.fixture
def windows(linux):
    """Git Bash, as far as our scripts can see it: its name, cygpath, winpty, and a driver reached through .exe."""
    linux.add("uname", "echo MINGW64_NT-10.0-22631")
    linux.add("cygpath", '[ "$1" = -m ] || exit 1; printf "C:/msys64%s\\n" "$2"')
    linux.add("winpty", 'echo winpty >> "$RECORD.winpty"; exec "$@"')
    linux.add("nvidia-smi.exe", 'echo "GPU 0: NVIDIA GeForce RTX 4070 (UUID: GPU-0)"')
    return linux


def run(machine, *arguments, terminal=None, **environment):
    """Run docker-run.sh on folders of the test's own; return the process and what docker was given."""
    record = machine.folder / "record"
    folders = {
        f"ROLLTUNE_{name.upper()}": str(machine.folder / name) for name in ("playground", "cache", "checkpoints")
    }
    settings = {"RECORD": str(record)} | folders | environment
    done = machine.run("bin/docker-run.sh", *arguments, terminal=terminal, **settings)
    return done, record.read_text().splitlines() if record.exists() else []


def after(arguments, flag):
    return [value for name, value in itertools.pairwise(arguments) if name == flag]


def words(command):
    """What a shell makes of a printed command."""
    return subprocess.check_output(["bash", "-c", f"printf '%s\\n' {command}"], text=True).splitlines()


def test_linux_runs_as_the_caller_without_a_gpu_that_is_not_there(linux):
    done, given = run(linux, "./03-do_learn.py", "-d", "a set")
    assert done.returncode == 0, done.stderr
    assert given[:2] == ["run", "--rm"] and given[-4:] == ["rolltune:latest", "./03-do_learn.py", "-d", "a set"]
    assert len(after(given, "--user")) == 1 and "--gpus" not in given and "--tty" not in given
    assert f'type=bind,"source={linux.folder}/cache",target=/rolltune/cache' in after(given, "--mount")
    assert (linux.folder / "playground/checkpoints").is_dir()  # the engine would have made it as root


@pytest.mark.parametrize(("tool", "expected"), [("GPU 0: NVIDIA H200", ["all"]), ("No devices were found", [])])
def test_the_gpu_is_passed_on_only_when_one_is_listed(linux, tool, expected):
    linux.add("nvidia-smi", f'echo "{tool}"')
    _, given = run(linux, "true")
    assert after(given, "--gpus") == expected
    _, given = run(linux, "--cpu", "true")
    assert after(given, "--gpus") == []


def test_a_rootless_engine_runs_as_its_root(linux):
    _, given = run(linux, "true", SECURITY="[name=seccomp name=rootless]")
    assert after(given, "--user") == ["0:0"]


@pytest.mark.parametrize("name", ["with space", "a,b", "it's", 'a "b"', "a:b", "ラベル é", "--flag", "$HOME"])
def test_odd_names_of_folders_arrive_as_one_field(linux, name):
    _, given = run(linux, "true", ROLLTUNE_CACHE=str(linux.folder / name))
    quoted = str(linux.folder / name).replace('"', '""')
    assert after(given, "--mount")[1] == f'type=bind,"source={quoted}",target=/rolltune/cache'


def test_secrets_are_passed_by_name_only(linux):
    done, given = run(linux, "--dry-run", "true", HF_TOKEN="hf_hidden", KAGGLE_KEY="hidden too")
    assert given == [] and "hidden" not in done.stdout
    assert after(words(done.stdout), "--env") == ["HF_TOKEN", "KAGGLE_KEY"]


def test_a_dry_run_prints_exactly_what_would_run(linux):
    done, _ = run(linux, "--dry-run", "cat", "a file", ROLLTUNE_CACHE=str(linux.folder / "it's, here"))
    _, given = run(linux, "cat", "a file", ROLLTUNE_CACHE=str(linux.folder / "it's, here"))
    assert words(done.stdout)[1:] == given


def test_more_arguments_for_docker_go_before_the_image(linux):
    _, given = run(linux, "true", ROLLTUNE_DOCKER_RUN_ARGS="--network=none --cpus 2")
    assert given[-5:] == ["--network=none", "--cpus", "2", "rolltune:latest", "true"]
    _, given = run(linux, "true", ROLLTUNE_DOCKER_RUN_ARGS="--network=none\n  --cpus\t2\n")
    assert given[-5:] == ["--network=none", "--cpus", "2", "rolltune:latest", "true"]
    done = linux.run("bin/docker-build.sh", "--dry-run", ROLLTUNE_DOCKER_BUILD_ARGS="--no-cache\n--pull")
    assert words(done.stdout)[-3:-1] == ["--no-cache", "--pull"]


@pytest.mark.parametrize("script", ["bin/docker-run.sh", "playground/02-shuffle_data.sh"])
def test_cdpath_leads_nobody_astray(linux, script):
    """With CDPATH set, `cd bin/..` looks there first, and prints where it went."""
    for name in ("bin", "playground", "cache"):
        (linux.folder / "elsewhere" / name).mkdir(parents=True)
    linux.add("python3", """[ "$1" = -c ] || printf '%s\\n' "$@" >&2""")
    settings = {"CDPATH": str(linux.folder / "elsewhere"), "ROLLTUNE_CACHE": "cache", "PYTHON": "python3"}
    path = {"PATH": f"{linux.programs}:{os.environ['PATH']}", "HOME": str(linux.folder)}
    arguments = ["--dry-run"] if script.startswith("bin") else []
    done = subprocess.run(["bash", script, *arguments], cwd=ROOT, env=settings | path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert f"{ROOT}/playground" in said and "elsewhere" not in said


def test_credentials_are_mounted_if_there_are_any(linux):
    _, given = run(linux, "true")
    assert len(after(given, "--mount")) == 3
    (linux.folder / "home/.kaggle").mkdir()
    (linux.folder / "home/token").write_text("x")
    _, given = run(linux, "true", HF_TOKEN_PATH=str(linux.folder / "home/token"))
    assert [mount.endswith(",readonly") for mount in after(given, "--mount")] == [False, False, False, True, True]


def test_the_exit_status_is_the_commands(linux):
    done, _ = run(linux, "false", STATUS="0")
    assert done.returncode == 0
    linux.add("docker", DOCKER.replace('exit "${STATUS:-0}"', '[ "$1" != run ] || exit 37'))
    done, _ = run(linux, "false")
    assert done.returncode == 37


def test_an_engine_that_does_not_answer_is_explained(linux):
    linux.add("docker", "echo 'permission denied while trying to connect' >&2; exit 1")
    done, _ = run(linux, "true")
    assert done.returncode == 1
    assert "permission denied" in done.stderr and "usermod -aG docker" in done.stderr


def test_an_old_engine_is_refused_and_a_new_one_not(linux):
    done, given = run(linux, "true", ENGINE="19.03.15")
    assert done.returncode == 1 and "19.03.15" in done.stderr and given == []
    done, _ = run(linux, "true", ENGINE="20.10.24+dfsg1")
    assert done.returncode == 0, done.stderr


def test_no_docker_at_all_names_the_other_way(bare_machine):
    done = bare_machine.run("bin/docker-build.sh", "cpu")
    assert done.returncode == 1 and "./bin/quickstart.sh" in done.stderr


def test_a_missing_image_names_the_command(linux):
    done, given = run(linux, "true", IMAGE_MISSING="1")
    assert done.returncode == 1 and given == [] and "./bin/docker-build.sh" in done.stderr


@pytest.mark.parametrize(
    ("card", "flags", "accelerator"),
    [("No devices", [], "cpu"), ("GPU 0: NVIDIA H200", [], "cuda12"), ("GPU 0: NVIDIA H200", ["--cpu"], "cpu")],
)
def test_the_build_that_is_offered_suits_the_machine(linux, card, flags, accelerator):
    linux.add("nvidia-smi", f'echo "{card}"')
    linux.add("docker", DOCKER.replace('exit "${IMAGE_MISSING:-0}"', "exit 1").replace('"$RECORD"', '"$RECORD.$1"'))
    ours, theirs = pty.openpty()
    os.write(ours, b"y\n")
    done, _ = run(linux, *flags, "true", terminal=theirs)
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 0, done.stderr
    built = (linux.folder / "record.build").read_text().splitlines()
    assert f"ACCELERATOR={accelerator}" in built
    assert (linux.folder / "record.run").read_text().splitlines()[-1] == "true"


def test_a_service_without_a_home_can_run_it(linux):
    command = ["env", "--unset=HOME", "/bin/bash", str(ROOT / "bin/docker-run.sh"), "--dry-run", "true"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_windows_paths_gpu_and_no_rewriting(windows):
    done, given = run(windows, "./03-do_learn.py", "-d", "set1")
    assert done.returncode == 0, done.stderr
    assert f'type=bind,"source=C:/msys64{windows.folder}/cache",target=/rolltune/cache' in after(given, "--mount")
    assert after(given, "--gpus") == ["all"] and "--user" not in given
    assert (windows.folder / "record.settings").read_text() == "1 *\n"
    assert not (windows.folder / "record.winpty").exists()  # winpty without a terminal fails


def test_windows_with_a_terminal_goes_through_winpty(windows):
    ours, theirs = pty.openpty()
    done, given = run(windows, "true", terminal=theirs)
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 0
    assert (windows.folder / "record.winpty").read_text() == "winpty\n"
    assert "--tty" in given


def test_build_default_and_arguments(linux):
    done = linux.run("bin/docker-build.sh", "--dry-run", ROLLTUNE_BASE_IMAGE="localhost/python:3.13-slim")
    given = words(done.stdout)
    assert given[:3] == ["DOCKER_BUILDKIT=1", "docker", "build"]
    assert after(given, "--build-arg") == [
        "ACCELERATOR=cuda12",
        "BIG_VISION=no",
        "BASE_IMAGE=localhost/python:3.13-slim",
    ]
    done = linux.run("bin/docker-build.sh", "cuda11")
    assert done.returncode == 1 and "cuda11" in done.stderr and "cuda12" in done.stderr


def test_build_hands_the_certificates_over_as_a_secret(linux):
    (linux.folder / "ca.pem").write_text("x")
    done = linux.run("bin/docker-build.sh", "cpu", "--dry-run", ROLLTUNE_CA_BUNDLE=str(linux.folder / "ca.pem"))
    assert after(words(done.stdout), "--secret") == [f"id=ca_bundle,src={linux.folder}/ca.pem"]
    done = linux.run("bin/docker-build.sh", "cpu", ROLLTUNE_CA_BUNDLE="/nowhere.pem")
    assert done.returncode == 1 and "/nowhere.pem" in done.stderr


@pytest.mark.parametrize("script", ["quickstart.sh", "test.sh", "docker-build.sh", "docker-run.sh"])
def test_help_shows_the_comment_at_the_top(linux, script):
    done = linux.run(f"bin/{script}", "--help")
    assert done.returncode == 0 and f"./bin/{script}" in done.stdout and "set -euo" not in done.stdout
