"""The main job from end to end with the built-in model: what is printed, what is left on the disk, how it ends."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rolltune.__main__ import main
from rolltune.tiny import ads
from rolltune.weights.names import flatten
from rolltune.weights.roll_file import load_roll, read_card

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """set1 of twelve sample advertisements, both answers in both splits."""
    folder = tmp_path_factory.mktemp("ads") / "set1"
    (folder / "images").mkdir(parents=True)
    kinds = {"yes": [], "no": []}
    for number, sample in enumerate(ads.samples(0)):
        answer = "yes" if sample.lawful else "no"
        if len(kinds[answer]) < 6:
            name = f"images/{number}.{sample.format}"
            (folder / name).write_bytes(ads.picture(sample, number))
            kinds[answer].append({"prefix": ads.PROMPT, "suffix": answer, "image": name})
    for split, part in (("train", slice(0, 4)), ("valid", slice(4, 6))):
        rows = [row for pair in zip(kinds["yes"][part], kinds["no"][part], strict=True) for row in pair]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One for all runs: programs that one compiled serve the next."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def here(tmp_path, dataset, cache, monkeypatch):
    """A person's folder with the data set in it, as the working directory."""
    shutil.copytree(dataset, tmp_path / "dataset" / "set1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROLLTUNE_CACHE", str(cache))
    return tmp_path


def learn(*arguments: str) -> int:
    fixed = [
        "learn",
        "-d",
        "set1",
        "--config.steps=4",
        "--config.log_every=2",
        "--config.rank=2",
        "--config.warmup=0",
        "--config.rate=2e-4",
    ]
    return main([*fixed, "--config.redraws=0", "--config.evaluate_batch=12", *arguments])


def left(folder: Path) -> set[str]:
    outside = ("dataset/", "cache/")
    files = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return {re.sub(r"events\.out\.tfevents\.\d+\.rolltune", "events", n) for n in files if not n.startswith(outside)}


BLOCK = r"""Result: {} \({}\).*
  Tp=\d+ Tn=\d+ Fp=\d+ Fn=\d+
  accuracy:  \d\.\d+
  precision: .*
  recall:    \d\.\d+
  F-measure: .*
"""
PATHS = (r"\./dataset/set1/train\.jsonl", r"\./dataset/set1/valid\.jsonl", r"\./dataset/set1 \(all\)")


def test_a_run_prints_saves_and_can_be_gone_on_with(here, capsys):
    assert learn("-w", "first") == 0
    out = capsys.readouterr().out
    for stage in ("not trained", "1st trained"):
        for path in PATHS:
            assert re.search(BLOCK.format(path, stage), out), (path, stage)
    steps = re.findall(r"^step: (\d)/4   lr: (\S+)   loss: \d+\.\d{4}$", out, re.M)
    assert [step for step, _ in steps] == ["2", "4"] and float(steps[0][1]) == pytest.approx(1.309e-4)
    reports = {f"reports/first.{ending}" for ending in ("html", "metrics.jsonl", "tensorboard/events")}
    assert left(here) == {"checkpoints/first.npz", *reports}
    logged = [json.loads(line) for line in (here / "reports/first.metrics.jsonl").read_text().splitlines()]
    assert [one["step"] for one in logged] == [0, 2, 4, 4] and "valid/f-measure" in logged[0]
    assert logged[3]["valid/log-loss"] != logged[0]["valid/log-loss"]
    roll = load_roll("checkpoints/first.npz")
    assert any(np.any(leaf) for path, leaf in flatten(roll.tree).items() if path.endswith("/b"))
    assert roll.card.prompt == ads.PROMPT and roll.card.answers == ["no", "yes"] and roll.card.metrics["passes"] == 1
    assert roll.card.metrics["known"] == {"valid": 0}

    assert learn("-w", "second", "-2", "--config.rate=2e-5") == 0
    out = capsys.readouterr().out
    assert "going on with ./checkpoints/first.npz by its own recipe, at lr 2e-05" in out
    assert re.search(BLOCK.format(PATHS[0], "1st trained"), out) and re.search(
        BLOCK.format(PATHS[0], "2nd trained"), out
    )
    card = read_card("checkpoints/second.npz")
    assert card.metrics["passes"] == 2 and card.recipe["rate"] == pytest.approx(2e-5)
    again = load_roll("checkpoints/second.npz")
    near = [np.abs(a - b).max() for a, b in zip(flatten(again.tree).values(), flatten(roll.tree).values(), strict=True)]
    assert 0 < max(near) < 1e-3  # it began where the first one ended


def test_a_diverging_run_leaves_the_earlier_roll_alone(here, capsys):
    earlier = Path("checkpoints/mine.npz")
    earlier.parent.mkdir()
    earlier.write_bytes(b"an earlier roll")
    assert learn("-w", "mine") == 2 and "there already" in capsys.readouterr().err
    status = learn("-w", "mine", "--overwrite", "--config.rate=1e30", "--config.optimizer=sgd", "--config.clip=0")
    said = capsys.readouterr()
    assert status == 3 and earlier.read_bytes() == b"an earlier roll"
    assert re.search(r"nothing was saved: all 1 rolls ended early.*lower rate.*--config\.rate=", said.out)
    assert "roll 0: loss or gradient not finite at step 1/4" in said.out + said.err
    assert left(here) == {"checkpoints/mine.npz", "reports/mine.metrics.jsonl", "reports/mine.tensorboard/events"}


@pytest.mark.parametrize(
    ("line", "arguments", "message"),
    [
        ('{"prefix": "x", "suffix": \n', (), r"train\.jsonl:3"),
        ('{"prefix": "x", "suffix": "yes", "image": "images/none.png"}\n', (), r"train\.jsonl:3.*none\.png"),
        (
            '{"prefix": "' + "long " * 400 + '", "suffix": "yes"}\n',
            ("--config.max_tokens=400",),
            r"train\.jsonl:3: \d+ tok",
        ),
        ("", ("--config.stepz=1",), r"--config\.stepz"),
        ("", ("--repeat", "2"), r"--repeat 2 repeats --folds or --rolls"),
        ("", ("--keep", "few"), r"--keep takes best, all, vote or a number from 1, not 'few'"),
        ("", ("--model", "nowhere.npz"), r"nowhere\.npz"),
        ("", ("-w", "../up"), r"'\.\./up'.*plain name"),
        ("", ("--grace", "inf"), r"--grace inf: expected seconds above 0"),
        ("", ("--grace", "nan"), r"--grace nan"),
        ("", ("--resume",), r"checkpoints/wrong\.state: no interrupted run"),
        ("", ("-2",), r"no roll in \./checkpoints"),
        ("", ("--config.first_layer=9",), r"first_layer: 9.*0 to 3"),
    ],
)
def test_what_a_person_did_is_said_and_nothing_is_written(here, capsys, line, arguments, message):
    rows = Path("dataset/set1/train.jsonl")
    lines = rows.read_text().splitlines(keepends=True)
    rows.write_text("".join(lines[:2]) + (line or lines[2]) + "".join(lines[3:]))
    assert learn("-w", "wrong", *arguments) == 2
    said = capsys.readouterr()
    assert re.search(message, said.err) and "Traceback" not in said.err + said.out
    assert left(here) == set()


INTERRUPTIBLE = (
    "--rolls",
    "2",
    "--config.rates=(2e-4, 1e-3)",
    "--config.steps=5",
    "--config.log_every=2",
    "--config.batch=1",
    "--config.method=attention",  # with states in eight bits and weights rounded at random: all of it comes back
    "--config.optimizer=adamw8bit",
    "--config.trained_dtype=bfloat16",
)


def test_an_interrupted_run_gone_on_with_equals_one_that_was_not(here, capsys):
    from event_scalars import scalars  # not above: this file is imported by another process, too

    assert learn("-w", "whole", *INTERRUPTIBLE, "--keep", "all") == 0
    board = json.loads(Path("reports/whole.leaderboard.json").read_text())
    assert board and "saved roll" in capsys.readouterr().out
    saved = [read_card(path) for path in sorted(Path("checkpoints").glob("whole*.npz"))]
    assert saved and all(card.recipe["rate"] == pytest.approx((2e-4, 1e-3)[card.seed]) for card in saved)
    command = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_learn import learn; sys.exit(learn(*sys.argv[2:]))"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", command, str(Path(__file__).parent), "-w", "cut", *INTERRUPTIBLE, "--resume", "auto"],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    said = []
    for line in first.stdout:
        said.append(line)
        if re.search(r"\b2/5", line):
            first.send_signal(signal.SIGINT)
            break
    output = "".join([*said, *first.stdout])
    assert first.wait(timeout=300) == 130, output
    stopped = re.search(r"stopped at step (\d+); go on with the same command and --resume", output)
    assert stopped and 2 <= int(stopped[1]) < 5
    assert not Path("checkpoints/cut.npz").exists()
    capsys.readouterr()

    assert learn("-w", "cut", *INTERRUPTIBLE) == 2
    assert "an interrupted run is there; go on with --resume" in capsys.readouterr().err
    assert learn("-w", "cut", *INTERRUPTIBLE, "--resume", "--config.rank=3") == 2
    assert "rank was 2, is 3" in capsys.readouterr().err
    assert learn("-w", "cut", *INTERRUPTIBLE, "--resume", "auto") == 0
    assert f"going on from step {stopped[1]}" in capsys.readouterr().out
    assert not Path("checkpoints/cut.state").exists()
    one, other = (load_roll(f"checkpoints/{name}.npz") for name in ("whole", "cut"))
    assert one.card == other.card
    for path, leaf in flatten(one.tree).items():
        np.testing.assert_array_equal(flatten(other.tree)[path], leaf, err_msg=path)
    logged = [Path(f"reports/{name}.metrics.jsonl").read_text().splitlines() for name in ("whole", "cut")]
    of_machine = lambda name: name == "time" or name.startswith(("speed/", "memory/"))
    without = lambda lines: [{k: v for k, v in json.loads(line).items() if not of_machine(k)} for line in lines]
    assert without(logged[0]) == without(logged[1])
    curves = [
        {path.parent.name: scalars(path.parent) for path in Path(f"reports/{name}.tensorboard").glob("roll*/events*")}
        for name in ("whole", "cut")
    ]
    assert curves[0] == curves[1] and len(curves[0]["roll0"]["loss"]) > 1


def test_more_rounds_of_rolls_give_the_spread_over_their_seeds(here, capsys):
    assert learn("-w", "rounds", *INTERRUPTIBLE, "--repeat", "2") == 0
    said = capsys.readouterr().out
    board = json.loads(Path("reports/rounds.leaderboard.json").read_text())
    alive = [roll for roll in board["rolls"] if roll["state"] == "alive"]
    figures = [roll["valid"]["accuracy"] for roll in alive]
    drawn = len(board["rolls"])
    assert f"over the seeds of {len(alive)} of the {drawn} rolls that were first drawn" in said and drawn > 2
    mean = round(sum(figures) / len(figures), 4)
    assert re.search(rf"\baccuracy: +{mean} \({min(figures)} to {max(figures)}, ", said)
