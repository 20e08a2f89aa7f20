"""04-validate on a roll of the built-in model: the roll's own prompt, answers and base, whatever the data says."""

import json
import shutil

import pytest

from rolltune.__main__ import main
from rolltune.tiny.ads import PROMPT
from rolltune.weights.roll_file import read_card


@pytest.fixture(scope="module")
def trained(drawn_ads, tmp_path_factory):
    """A folder with twelve sample ads and two rolls of two steps on them, checkpoints/first.npz and first.rank2.npz."""
    folder = tmp_path_factory.mktemp("validate")
    shutil.copytree(drawn_ads, folder / "drawn")
    rows = [json.loads(line) for line in (folder / "drawn/data.jsonl").read_text().splitlines()]
    few = [row for row in rows if row["suffix"] == "yes"][:6] + [row for row in rows if row["suffix"] == "no"][:6]
    (folder / "drawn/few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in few))
    (folder / "drawn/asked.jsonl").write_text("".join(json.dumps(row | {"prefix": "what?"}) + "\n" for row in few))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ROLLTUNE_CACHE", str(folder / "cache"))
        steps = ["--config.steps=2", "--config.log_every=2", "--config.warmup=0", "--config.rate=3e-3"]
        rolls = ["--rolls", "2", "--keep", "all", "--config.redraws=0", "--config.alphas=(4, 32)"]
        on_disk = ["--config.table_gib=0"]  # of learning, and of validating with these rolls
        assert main(["learn", "-d", "drawn/few.jsonl", "-w", "first", *steps, *rolls, *on_disk]) == 0
        assert len(list((folder / "cache/features").glob("*/*"))) == 12 + 1
        yield folder


def blocks(text: str) -> list[str]:
    return [part.split("\n", 1)[1] for part in text.split("Result: ")[1:]]


def test_the_roll_keeps_its_prompt_and_its_figures(trained, capsys):
    assert (
        main(["validate", "-m", "checkpoints/*.npz", "drawn/few.jsonl", "drawn/asked.jsonl", "--json", "t.json"]) == 0
    )
    few, asked = (part.split("predicted:")[0] for part in blocks(capsys.readouterr().out)[:2])
    assert few == asked  # another question in the data changes nothing: the roll brings its own
    cells = json.loads((trained / "t.json").read_text())
    assert PROMPT not in json.dumps(cells) and "checkpoints/first.npz" in json.dumps(cells)


def test_each_roll_is_scaled_by_its_own_alpha(trained):
    cards = {path: read_card(path) for path in ("checkpoints/first.npz", "checkpoints/first.rank2.npz")}
    assert {card.recipe["alpha"] for card in cards.values()} == {4.0, 32.0}
    assert main(["validate", "-m", *cards, "drawn/few.jsonl", "--json", "both.json"]) == 0
    board = json.loads((trained / "reports/first.leaderboard.json").read_text())
    own = {roll["seed"]: roll["settings"] for roll in board["rolls"]}
    losses = set()
    for cell in json.loads((trained / "both.json").read_text())["cells"]:
        card = cards[cell["checkpoint"].removeprefix("./")]
        assert own[card.seed] == {"alpha": card.recipe["alpha"]} and card.recipe["alphas"] == []
        loss = cell["metrics"]["log-loss"]
        assert loss == pytest.approx(card.metrics["train"]["log-loss"], abs=1e-5)
        losses.add(round(loss, 3))
    assert len(losses) == 2


def test_rolls_vote_as_07_lets_them(trained, capsys):
    rolls = ["checkpoints/first.npz", "checkpoints/first.rank2.npz"]
    flags = ["--vote", "--json", "vote.json", "--predictions", "vote.jsonl"]
    assert main(["validate", "-m", *rolls, "drawn/few.jsonl", *flags]) == 0
    assert "few.jsonl (vote of 2: ./checkpoints/first.npz, ./checkpoints/first.rank2.npz)" in capsys.readouterr().out
    assert main(["predict", "-m", *rolls, "drawn/few.jsonl", "--output", "both.jsonl"]) == 0
    read = lambda name: [json.loads(line) for line in (trained / name).read_text().splitlines()]
    voted, predicted = [row for row in read("vote.jsonl") if row["roll"] == "vote of 2"], read("both.jsonl")
    assert len(voted) == 12 and [{k: v for k, v in row.items() if k != "roll"} for row in voted] == predicted
    *_, cell = json.loads((trained / "vote.json").read_text())["cells"]
    right = sum(row["answer"] == row["right"] for row in voted)
    assert cell["checkpoint"] == "vote of 2" and cell["trained_on"] and cell["metrics"]["accuracy"] == right / 12
    assert main(["validate", "-m", rolls[0], "drawn/few.jsonl", "--vote"]) == 2
    assert "name two or more" in capsys.readouterr().err


def test_pictures_are_computed_once_for_all_rolls(trained, capsys, monkeypatch):
    from rolltune.inputs import features

    seen, real = [], features.files
    monkeypatch.setattr(features, "files", lambda *given: seen.append(len(given[2].places)) or real(*given))
    assert main(["validate", "-m", "checkpoints/*.npz", "drawn/few.jsonl", "drawn/asked.jsonl"]) == 0
    assert seen == [12]  # two rolls, and two files with the same pictures


def test_rolls_and_data_are_told_apart_where_a_shell_expanded_the_pattern(trained, capsys):
    assert main(["validate", "-m", "checkpoints/first.npz", "drawn/few.jsonl"]) == 0
    assert capsys.readouterr().out.count("Result: ") == 1


def test_a_roll_and_a_set_may_have_one_name(trained, capsys):
    (trained / "dataset/first").mkdir(parents=True)
    rows = (trained / "drawn/few.jsonl").read_text().replace('"images/', '"../../drawn/images/')
    (trained / "dataset/first/train.jsonl").write_text(rows)
    (trained / "dataset/first/split.json").write_text('{"image_root": "../../drawn"}')
    assert main(["validate", "-m", "first", "first"]) == 0
    assert "./dataset/first/train.jsonl" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-m", "nothing/*.npz", "drawn/few.jsonl"], "no roll has such a name"),
        (["-m", "big.whole.npz", "--model", "tiny", "drawn/few.jsonl"], "is a whole model and its own base"),
        (["-m", "a.npz", "b.jsonl"], "a.npz"),
        (["-m", "checkpoints/first.npz", "drawn/few.jsonl", "--metric", "luck"], "no metric is called 'luck'"),
    ],
)
def test_what_is_missing_is_named_before_anything_is_scored(trained, capsys, arguments, said):
    (trained / "big.whole.npz").touch()
    assert main(["validate", *arguments]) == 2
    shown = capsys.readouterr()
    assert said in shown.err and not shown.out
