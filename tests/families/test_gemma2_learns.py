"""Which of three: a made Gemma 2 on the disk, trained by a head and by answer tokens, saved, validated and resumed."""

import json
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from rolltune import base
from rolltune.data.examples import Turn
from rolltune.errors import UserError
from rolltune.evaluation.tasks import Task
from rolltune.families import gemma2
from rolltune.jobs.interrupts import Interrupts
from rolltune.jobs.learn import INTERRUPTED, Options, learn
from rolltune.jobs.validate import Options as Validation
from rolltune.jobs.validate import validate
from rolltune.recipe import Recipe
from rolltune.text import tokenizer
from rolltune.text.encode import classify_row
from rolltune.training.plan import plan_for
from rolltune.weights.hf import write_hf
from rolltune.weights.names import flatten, nest, to_file
from rolltune.weights.roll_file import Base, load_roll

ENTRIES = dict(
    model_type="gemma2", hidden_size=32, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    intermediate_size=48, sliding_window=8, query_pre_attn_scalar=8, vocab_size=128, final_logit_softcapping=3.0,
)  # fmt: skip
WORDS = {"a": "the first says more", "b": "here the second helps", "tie": "both are the same to me"}
LONG = "and so it goes on and on " * 6


def write_model(folder: Path, entries: dict, classes: int = 0) -> None:
    """Shards of random weights and config.json; the same weights whether they have a head or not."""
    config = gemma2.FAMILY.config(entries, {"score.weight": (classes, 32)} if classes else {}, "config.json")
    table, draw = gemma2.tensors(config), np.random.default_rng(0)
    width = lambda row: row.shape[0] if row.path.endswith("/kernel") else config.text.width
    random = lambda row: draw.standard_normal(row.ours, np.float32) * np.float32(width(row) ** -0.5)
    write_hf(folder, to_file(nest((row.path, random(row)) for row in table), table), entries, shard=40_000)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A checkpoint folder, and a tokenizer with Gemma's special ids."""
    folder = tmp_path_factory.mktemp("made") / "gemma2"
    write_model(folder, ENTRIES)
    assert len(list(folder.glob("*.safetensors"))) > 2
    lines = folder / "lines.txt"
    lines.write_text("\n".join([*WORDS.values(), LONG, "a", "b", "tie"] * 4))
    sentencepiece.SentencePieceTrainer.Train(
        input=str(lines), model_prefix=str(folder / "tokenizer"), vocab_size=112, hard_vocab_limit=False,
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, add_dummy_prefix=False, byte_fallback=False, minloglevel=2,
        user_defined_symbols=["<start_of_turn>", "<end_of_turn>"], model_type="bpe", character_coverage=1.0,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def here(tmp_path, cache, monkeypatch):
    """A person's folder with rows of three answers, two of them too long."""
    folder = tmp_path / "dataset" / "set1"
    folder.mkdir(parents=True)
    for split, count in (("train", 12), ("valid", 6)):
        rows = [(f"{words} {number}", answer) for number in range(count // 3) for answer, words in WORDS.items()]
        rows[:2] = [(f"{text} {LONG}", answer) for text, answer in rows[:2]]
        lines = [json.dumps({"prefix": text, "suffix": answer}) + "\n" for text, answer in rows]
        (folder / f"{split}.jsonl").write_text("".join(lines))
        table = ["prefix,suffix\n", *(f"{text},{answer}\n" for text, answer in rows)]
        (folder / f"{split}.csv").write_text("".join(table))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROLLTUNE_CACHE", str(cache))
    return tmp_path


def recipe(model, **changed):
    given = dict(
        model=str(model), task="classify", max_tokens=24, truncate="right", first_layer=2, steps=12, log_every=4,
        rank=4, rate=1e-2, batch=3, metric="log-loss", warmup=0.0, explosion_factor=100.0, evaluate_batch=6,
    )  # fmt: skip
    return Recipe(**(given | changed))


class Stop(Interrupts):
    """Asks to stop when the loop has looked three times."""

    looks = 0

    def doing(self, what):
        self.at(what)

    def asked(self):
        self.looks += 1
        return self.looks > 3


def train(name: str, recipe: Recipe, interrupts=Interrupts, **options) -> tuple[int, str]:
    """(status, what was said)."""
    said: list[str] = []
    status = learn(Options("set1", name, **options), recipe, interrupts(said.append))
    return status, "\n".join(said)


def validated(rolls: list[str], *data: str, say=print) -> list[dict]:
    """The figures of each roll on each of the data sets."""
    paths = [Path(f"checkpoints/{name}.npz") for name in rolls]
    validate(Validation([Path(one) for one in data], "log-loss", json=Path("cells.json")), paths, say)
    return [cell["metrics"] for cell in json.loads(Path("cells.json").read_text())["cells"]]


def test_a_head_learns_above_the_first_layer_and_is_validated_as_it_was(here, model):
    status, said = train("head", recipe(model), rolls="3", keep="all")
    assert status == 0 and "4 of 18 rows were cut to 24 tokens, on their right" in said
    ranked = json.loads(Path("reports/head.leaderboard.json").read_text())["rolls"]
    losses = [roll["train"]["log-loss"] for roll in ranked]
    assert len(set(losses)) == 3 and max(losses) < 0.8 < np.log(3)  # guessing is the latter
    names = ["head", "head.rank2", "head.rank3"]
    for name in names:
        saved = flatten(load_roll(f"checkpoints/{name}.npz").tree)
        assert saved["text/classes/kernel"].shape == (32, 3)
        assert {len(leaf) for path, leaf in saved.items() if path.startswith("text/layers/")} == {2}
    said = []
    files = [f"dataset/set1/{file}" for file in ("train.jsonl", "valid.jsonl", "valid.csv")]
    cells = validated(names, *files, say=said.append)
    assert said.count("2 of 6 rows were cut to 24 tokens, on their right") == 6
    with pytest.raises(UserError, match="writes no words"):
        validate(Validation([Path(files[1])], generate=4), [Path("checkpoints/head.npz")], print)
    expected = [roll[split] for roll in ranked for split in ("train", "valid", "valid")]
    for found, told in zip(cells, expected, strict=True):
        assert found["log-loss"] == pytest.approx(told["log-loss"], abs=1e-6)
        assert found["predicted"] == told["predicted"]


def test_training_gone_on_with_equals_one_that_was_not_interrupted(here, model):
    assert train("whole", recipe(model), rolls="2")[0] == 0
    status, said = train("cut", recipe(model), Stop, rolls="2")
    assert status == INTERRUPTED and "stopped at step" in said
    status, said = train("cut", recipe(model), rolls="2", resume=True)
    assert status == 0 and "going on from step" in said
    one, other = (load_roll(f"checkpoints/{name}.npz") for name in ("whole", "cut"))
    assert one.card == other.card
    for path, leaf in flatten(one.tree).items():
        np.testing.assert_array_equal(flatten(other.tree)[path], leaf, err_msg=path)


def test_answer_tokens_of_the_chat_are_learned_from_the_same_rows(here, model):
    status, said = train("chat", recipe(model, task="choose", truncate="", max_tokens=256, stall=0.0), rolls="2")
    assert status == 0 and "cut" not in said
    best = json.loads(Path("reports/chat.leaderboard.json").read_text())["rolls"][0]
    assert best["train"]["log-loss"] < np.log(3)
    (valid,) = validated(["chat"], "dataset/set1/valid.jsonl")
    assert valid["log-loss"] == pytest.approx(best["valid"]["log-loss"], abs=1e-6)


def test_a_text_that_is_too_long_is_an_error_unless_cutting_was_asked_for(here, model):
    with pytest.raises(UserError, match=r"(?s)4 rows are longer than 24 tokens.*train\.jsonl:1"):
        train("long", recipe(model, truncate=""))


def test_a_classifier_s_row_ends_with_eos_even_where_it_is_cut(model):
    opened = tokenizer.load(model / "tokenizer.model")
    for limit in (None, 8):
        turns = [Turn("user", LONG)]
        row, cut = classify_row(gemma2.FAMILY.classifier, opened, 0, turns, [1], [], limit=limit)
        assert (row.tokens[0], row.tokens[-1], row.predict.tolist()) == (2, 1, [len(row.tokens) - 1])
        assert (cut > 0, len(row.tokens) == 8) == (limit == 8, limit == 8)


def test_a_published_head_is_of_as_many_classes_as_the_data_and_of_no_other_task():
    params = {"text/classes/kernel": (32, 4), "text/layers/attn/q/kernel": (4, 32, 32)}
    made = base.Model(gemma2.FAMILY, gemma2.FAMILY.config(ENTRIES, {}, "config.json"), None, Base("made", "0"))
    asked = lambda task, answers: plan_for(made, params, Recipe(task=task), Task(task, answers))
    with pytest.raises(UserError, match="made has a head of 4 classes, the data 3 answers"):
        asked("classify", ("a", "b", "tie"))
    with pytest.raises(UserError, match=r"made has a head of 4 classes.*task=classify"):
        asked("choose", ("a", "b", "tie"))
    assert asked("classify", ("a", "b", "c", "d")).words["text/classes/kernel"] == "full"


NAMED = {"0": "tie", "1": "a", "2": "b"}  # in no order of ours
ODD = ({"0": "a", "1": "b"}, {"0": "a", "1": "b", "2": "a"}, {"0": "a", "1": "b", "3": "c"})


def test_a_published_head_is_read_by_the_names_of_its_classes(here, model, tmp_path):
    """Frozen, and so nearly the published classifier: data and answers may stand in any order."""
    for name, labels in (("named", NAMED), ("numbered", {str(n): f"LABEL_{n}" for n in range(3)})):
        write_model(tmp_path / name, ENTRIES | {"id2label": labels}, 3)
        (tmp_path / name / "tokenizer.model").write_bytes((model / "tokenizer.model").read_bytes())
    rules = (("text/norm/scale", "full"), (".*", "frozen"))
    frozen = dict(method="rules", rules=rules, rate=1e-9, steps=1, first_layer=0)
    assert train("sorted", recipe(tmp_path / "named", **frozen))[0] == 0
    before = load_roll("checkpoints/sorted.npz").card.metrics["valid"]["log-loss"]
    assert train("places", recipe(tmp_path / "numbered", **frozen, answers=tuple(NAMED.values())))[0] == 0
    assert train("wrong", recipe(tmp_path / "numbered", **frozen))[0] == 0
    found = [one["log-loss"] for one in validated(["sorted", "places", "wrong"], "dataset/set1/valid.jsonl")]
    assert found[0] == pytest.approx(before, abs=1e-6) and found[1] == pytest.approx(before, abs=1e-6)
    assert abs(found[2] - before) > 1e-3
    opened, asked = base.open_model(str(tmp_path / "named")).model, Task("classify", ("a", "b", "ties"))
    lists = r"\['tie', 'a', 'b'\] \(id2label\).*\['a', 'b', 'ties'\].*head's: 'tie'.*data's: 'ties'"
    with pytest.raises(UserError, match=lists):
        plan_for(opened, {"text/classes/kernel": (32, 3)}, Recipe(task="classify"), asked)


@pytest.mark.parametrize("labels", ODD)
def test_names_that_do_not_name_each_class_once_are_refused(labels):
    with pytest.raises(UserError, match=r"id2label is .* the head has 3 outputs"):
        gemma2.FAMILY.config(ENTRIES | {"id2label": labels}, {"score.weight": (3, 32)}, "config.json")
