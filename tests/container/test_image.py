"""The image on a real engine: built on a stand-in base for the CPU, then used as a person would use it."""

import json
import os
import pty
import signal
import subprocess
import time

# What a person types in the container, with a quarter of the steps to spare time; the tiny model needs neither account
# nor network.
MAIN_JOB = [
    ["python3", "-m", "rolltune", "sample-ads", "dataset"],
    ["./02-shuffle_data.sh", "-v", "10", "-n", "set1"],
    ["./03-do_learn.py", "-d", "set1", "-w", "trained-set1", "--config.steps=64"],
    ["./04-validate.py", "-m", "./checkpoints/*.npz", "dataset/set1/train.jsonl", "dataset/set1/valid.jsonl"],
]


def test_the_main_job_leaves_its_files_on_the_host_as_the_caller(image, person):
    printed = ""
    for command in MAIN_JOB:
        done = person.run(*command)
        assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        printed += done.stdout
    assert "step: " in printed and "Tp=" in printed and "F-measure: " in printed
    made = [
        person.clone / "playground/dataset/data.jsonl",
        person.clone / "playground/dataset/set1/train.jsonl",
        person.clone / "playground/dataset/set1/valid.jsonl",
        person.clone / "checkpoints/trained-set1.npz",
    ]
    assert [path.name for path in made if not path.is_file() or path.stat().st_uid != person.uid] == []
    rows = [json.loads(line) for line in made[0].read_text().splitlines()]
    assert len(rows) == 96 and sum(1 for _ in made[2].open()) == 10


def test_the_compilation_cache_lands_on_the_host(image, person):
    program = "import jax; print(jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((64, 64))))"
    settings = {"ROLLTUNE_DOCKER_RUN_ARGS": "--network=none --env JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0"}
    done = person.run("python3", "-c", program, environment=settings)
    assert (done.returncode, done.stdout) == (0, "262144.0\n"), done.stderr
    kept = [path for path in (person.clone / "cache/xla").rglob("*") if path.is_file()]
    assert kept and all(path.stat().st_uid == person.uid for path in kept)


def test_nobody_in_particular_has_a_home_and_a_name(image, person):
    program = "import getpass, pathlib; pathlib.Path.home().joinpath('x').write_text('1'); print(getpass.getuser())"
    done = person.run("python3", "-c", program)
    assert (done.returncode, done.stdout) == (0, "rolltune\n"), done.stderr


def test_the_exit_status_and_stdin_come_through(image, person):
    assert person.run("bash", "-c", "exit 37").returncode == 37
    done = person.run("cat", stdin=None, input="from the host\n")
    assert (done.returncode, done.stdout) == (0, "from the host\n")


def test_a_user_error_in_the_container_is_status_2(image, person):
    done = person.run("rolltune", "lern")
    assert done.returncode == 2 and done.stderr.startswith("error: there is no command 'lern'")


def test_sigterm_reaches_the_program(image, person):
    program = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit('asked to stop'))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)"
    )
    script = [str(person.clone / "bin/docker-run.sh"), "python3", "-c", program]
    settings = {"ROLLTUNE_DOCKER_RUN_ARGS": "--network=none", "ROLLTUNE_QUIET": "1"}
    process = subprocess.Popen(
        script, env=person.engine.environment | settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=20)
    assert (process.returncode, error) == (1, "asked to stop\n")


def test_a_terminal_comes_through(image, person):
    ours, theirs = pty.openpty()
    done = person.run(
        "bash", "-c", "test -t 0 && test -t 1 && exit 5", stdin=theirs, stdout=theirs, capture_output=False
    )
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 5


def test_compose_works_on_the_same_folders(image, person, compose):
    (person.clone / "playground/checkpoints").mkdir(exist_ok=True)
    os.chown(person.clone / "playground/checkpoints", person.uid, person.uid)
    network = person.engine.folder / "network.yaml"  # the engine has no bridge
    network.write_text("services: {rolltune: {network_mode: none}, rolltune-gpu: {network_mode: none}}")
    settings = {"ROLLTUNE_UID": str(person.uid), "ROLLTUNE_GID": str(person.uid), "HOME": str(person.home)}
    script = "ls ./03-do_learn.py && touch dataset/x ../cache/x checkpoints/x && exit 7"
    done = subprocess.run(
        [
            *(*person.user, compose, "-f", "docker/compose.yaml", "-f", str(network)),
            *("run", "--rm", "--no-TTY", "rolltune", "bash", "-c", script),
        ],
        env=person.engine.environment | settings,
        cwd=person.clone,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (7, "./03-do_learn.py\n"), done.stderr
    made = [person.clone / folder / "x" for folder in ("playground/dataset", "cache", "checkpoints")]
    assert [path.stat().st_uid for path in made] == [person.uid] * 3


def test_the_packages_agree_with_each_other(image, person):
    """pip resolved nothing when it installed the lock: what it would have noticed is looked for here."""
    done = person.run("pip", "check")
    assert (done.returncode, done.stdout) == (0, "No broken requirements found.\n"), done.stdout


def test_credentials_are_mounted_read_only(image, person):
    (person.home / ".kaggle").mkdir()
    (person.home / ".kaggle/kaggle.json").write_text("kaggle's")
    (person.home / ".cache/huggingface").mkdir(parents=True)
    (person.home / ".cache/huggingface/token").write_text("hugging face's")
    script = 'cat ~/.kaggle/kaggle.json "$HF_TOKEN_PATH"; touch ~/.kaggle/x 2>&1 | grep -o "Read-only file system"'
    done = person.run("bash", "-c", script)
    assert done.stdout == "kaggle'shugging face'sRead-only file system\n", done.stderr


def test_an_image_that_is_missing_is_an_error_that_names_the_command(image, person):
    done = person.run("true", environment={"ROLLTUNE_IMAGE": "rolltune:nobody-built-this"})
    assert done.returncode == 1 and "./bin/docker-build.sh" in done.stderr


def test_a_change_of_the_source_does_not_install_the_packages_again(image, person):
    with (person.clone / "rolltune/errors.py").open("a") as source:
        source.write("CHANGED = True\n")
    start = time.monotonic()
    printed = person.build()
    assert time.monotonic() - start < 30
    layer = next(line for line in printed.splitlines() if "--require-hashes" in line)
    assert f"{layer.split()[0]} CACHED" in printed, printed[-3000:]
    assert person.run("python3", "-c", "from rolltune.errors import CHANGED").returncode == 0


def test_nothing_of_the_build_stays_in_the_image(engine, image):
    history = engine.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image).stdout
    settings = engine.docker("image", "inspect", image).stdout
    authorities = os.environ.get("SSL_CERT_FILE", "no such setting")
    assert authorities not in history and authorities not in settings
    assert json.loads(settings)[0]["Config"]["User"] == "1000:1000"
    assert json.loads(settings)[0]["Size"] < 1.2e9  # docs/container.md says 1.1 GB
    names = names_in_layers(json.loads(settings)[0]["GraphDriver"]["Data"])
    assert "opt/venv/bin/rolltune" in names  # else the search below looked at nothing
    forbidden = ("root/.cache/", "root/.config/", "run/secrets/", "etc/pip.conf", "tmp/", "mnt/", "root/.kaggle/")
    assert [name for name in names if name.startswith(forbidden)] == []
    assert [name for name in names if name.startswith("rolltune/") and name.endswith((".npz", ".jsonl"))] == []


def names_in_layers(storage: dict[str, str]) -> set[str]:
    """Every file of every layer, those that a later layer hides included: what `docker save` would give away."""
    layers = [storage["UpperDir"], *storage.get("LowerDir", "").split(":")]
    names: set[str] = set()
    for layer in filter(None, layers):
        for folder, _, files in os.walk(layer):
            relative = os.path.relpath(folder, layer)
            names.update(os.path.normpath(os.path.join(relative, name)) for name in files)
    return names
