"""08-export on rolls of the built-in model: each form read again as the same model, refusals, the page, the upload."""

import dataclasses
import json
import re
import types
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import RepositoryNotFoundError
from PIL import Image

import rolltune
from rolltune import adapters, base, trees
from rolltune.__main__ import main
from rolltune.jobs import export as job
from rolltune.jobs import hub
from rolltune.jobs.export import Options, export
from rolltune.jobs.model_card import _code, _plain, model_card
from rolltune.recipe import Recipe
from rolltune.weights import merged as merging
from rolltune.weights.card import RollCard
from rolltune.weights.checkpoint import open_checkpoint
from rolltune.weights.roll_file import RollFile, save_roll

SIDE = 112  # pixels that the built-in model sees: such pictures nobody resizes
ODD = "<b>bold</b> | `x` \x1b[31m"
METRICS = {
    "positive": "yes",
    "files": {"train": {"path": "/home/somebody/secret/train.jsonl", "rows": "ab", "sha256": "cd"}},
    "train": {"n": 12, "accuracy": 0.75, "tp": 3, "interval_95": {"accuracy": {"low": 0.5, "high": 0.9}}},
    "valid": {"n": 4, "accuracy": 0.5},
    "learned": ["p:marks-of-pictures"],
    "run": {"rolls": 3, "fold": None, "made with": {"rolltune": "0"}},
}


@pytest.fixture(scope="module")
def tiny():
    return base.load("tiny", dtype="float32")


@pytest.fixture
def make_roll(tiny, tmp_path, monkeypatch):
    """`make_roll(quantize="int8")` is a roll with random factors, checkpoints/made.npz below the current folder."""
    monkeypatch.chdir(tmp_path)
    model, params = tiny

    def make(prompt=f"is it? {ODD}", task="choose", **more):
        recipe = Recipe(task=task, rank=2, alpha=3.0, first_layer=1, dtype="float32", evaluate_batch=2, **more)
        draw, tree = np.random.default_rng(0), {}
        shapes = trees.shapes(params)
        for path, word in adapters.trainability(adapters.METHODS["lora"], list(shapes)).items():
            if word == "lora":
                layers, i, o = shapes[path]
                tree[f"{path}/a"] = draw.standard_normal((layers - 1, i, 2)).astype(np.float32) * 0.1
                tree[f"{path}/b"] = draw.standard_normal((layers - 1, 2, o)).astype(np.float32) * 0.1
        loaded = base.load("tiny", "", "float32", recipe.packing)[0] if more else model
        answers = [] if task == "write" else ["no", "yes"]
        card = RollCard(loaded.base, "lora", dataclasses.asdict(recipe), prompt, answers, METRICS)
        save_roll("checkpoints/made.npz", trees.unflatten(tree), card)
        return tmp_path / "checkpoints/made.npz"

    return make


@pytest.mark.parametrize(("form", "task"), [("hf", "choose"), ("npz", "write")])
def test_merged_it_is_the_same_model_with_the_change(form, task, make_roll, tiny, tmp_path, capsys):
    path = make_roll(task=task)
    assert main(["export", "-m", "made", "--to", form]) == 0
    told = capsys.readouterr().out
    assert "largest difference of a weight" in told and "largest difference of a log-probability" in told
    folder = tmp_path / f"exports/made-{form}"
    target = folder if form == "hf" else folder / "made.whole.npz"
    assert form == "npz" or [one.name for one in folder.glob("*.safetensors*")] == ["model.safetensors"]
    _, found = base.load(str(target), dtype="float32")
    _, params = tiny
    with np.load(path) as arrays:
        pair = [arrays[f"text/layers/mlp/up/kernel/{side}"] for side in "ab"]
    old = np.asarray(params["text"]["layers"]["mlp"]["up"]["kernel"])
    new = np.asarray(found["text"]["layers"]["mlp"]["up"]["kernel"])
    np.testing.assert_array_equal(new[0], old[0])  # below the first layer that was trained
    np.testing.assert_allclose(new[1:], old[1:] + 1.5 * pair[0] @ pair[1], rtol=2**-8, atol=1e-6)
    np.testing.assert_array_equal(found["vision"]["patch"]["kernel"], params["vision"]["patch"]["kernel"])
    page = (folder / "README.md").read_text()
    assert "learned from: no forecast" in page and "the best of 3 rolls was chosen on these" in page
    assert "0.500 to 0.900" in page and "train.jsonl" in page and "largest difference" in page
    for private in ("secret", "marks-of-pictures", "\x1b"):
        assert private not in page
    assert "`` is it? <b>bold</b> \\| `x` \\x1b[31m ``" in page  # as code: no bold, no colour
    assert main(["export", "-m", "made", "--to", form]) == 2  # never over what is there
    assert "choose another name" in capsys.readouterr().err


def test_what_counts_for_nothing_is_refused_or_said_once(make_roll, tmp_path, capsys):
    said: list[str] = []
    with pytest.raises(job.UserError, match="--dequantize is of a merged model"):
        export(make_roll(), Options("peft", tmp_path / "out", dequantize=True), said.append)
    export(make_roll(sharding="fsdp"), Options("hf", tmp_path / "out", dequantize=True), said.append)
    assert "--dequantize counts for nothing: the roll was trained on a base of full size" in said
    assert capsys.readouterr().err.count("sharding: ") == 1  # though two bases are laid: the roll's and the merged one


def test_shards_have_the_published_names_and_an_index(make_roll, tmp_path, monkeypatch):
    path = make_roll()
    whole = job.fill_hf
    monkeypatch.setattr(job, "fill_hf", lambda *given: whole(*given, shard=100_000))
    export(path, Options("hf", tmp_path / "out"), print)
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 2 and "language_model.model.layers.0.mlp.up_proj.weight" in index
    assert sum(one.stat().st_size for one in (tmp_path / "out").glob("model-*.safetensors")) > 400_000
    assert len(open_checkpoint(tmp_path / "out").tensors) == len(index)


def test_no_tensor_is_held_beside_the_one_that_is_written(make_roll, tmp_path, monkeypatch):
    """Merged layers are made one at a time, and let go of."""
    path, alive, most = make_roll(), [0], [0]

    class Counted(np.ndarray):
        def __array_finalize__(self, source):
            alive[0] += 1
            most[0] = max(most[0], alive[0])

        def __del__(self):
            alive[0] -= 1

    of = merging.Change.of
    monkeypatch.setattr(merging.Change, "of", lambda *given: of(*given).view(Counted))
    export(path, Options("hf", tmp_path / "out"), lambda text: None)
    assert 0 < most[0] <= 8


def test_of_a_quantized_base_only_what_was_asked_for(make_roll, tmp_path, capsys):
    path = make_roll(quantize="int8")
    assert main(["export", "-m", "made", "--to", "hf"]) == 2
    assert "--dequantize" in (told := capsys.readouterr().err) and "--to peft" in told
    assert main(["export", "-m", "made", "--to", "hf", "--dequantize"]) == 0
    assert "the base was in four or eight bits" in capsys.readouterr().out
    changed = open_checkpoint(tmp_path / "exports/made-hf").tensors["language_model.model.layers.0.mlp.up_proj.weight"]
    plain = open_checkpoint(base.TINY / "paligemma-tiny.npz").tensors["llm/layers/mlp/gating_einsum"]
    count = changed.shape[0] * changed.shape[1]
    # Layer 0 has no adapter: it is what int8 stands for, near the file's and not the same.
    original = plain.read(0, 2 * count).reshape(2, *changed.shape[::-1])[1].T.astype(np.float32)
    found = changed.read(0, count).reshape(changed.shape).astype(np.float32)
    apart = np.abs(found - original).max()
    assert 0 < apart < 0.01 * np.abs(original).max()
    assert main(["export", "-m", str(path)]) == 0 and "load the base so" in capsys.readouterr().out


def test_what_float8_rounds_is_no_difference_of_a_merged_weight(make_roll, capsys):
    make_roll(quantize="float8")
    assert main(["export", "-m", "made", "--to", "hf", "--dequantize"]) == 0
    told = capsys.readouterr().out
    assert float(re.search(r"adapter on its base is (\S+) ", told)[1]) < 0.02 and "products were in float8" in told
    assert main(["export", "-m", "made"]) == 0 and "products in float8" in capsys.readouterr().out


def test_a_difference_above_the_bound_leaves_nothing(make_roll, tmp_path, monkeypatch):
    path = make_roll()
    monkeypatch.setattr(job, "BOUNDS", dict.fromkeys(job.BOUNDS, 1e-9))
    with pytest.raises(job.UserError, match="scores otherwise"):
        export(path, Options("hf", tmp_path / "exports/out"), print)
    assert not (tmp_path / "exports").exists()
    monkeypatch.undo()
    whole = job.fill_hf

    def damaged(folder, tensors, config):
        whole(folder, tensors, config)
        with open(folder / "model.safetensors", "r+b") as file:
            file.seek(-3, 2)
            file.write(b"\x40")

    monkeypatch.setattr(job, "fill_hf", damaged)
    with pytest.raises(job.UserError, match=r"was read back .* off"):
        export(path, Options("hf", tmp_path / "out"), print)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_an_adapter_from_elsewhere_is_validated_like_the_roll_it_was(make_roll, tmp_path, capsys):
    make_roll(prompt="")
    assert main(["export", "-m", "made"]) == 0
    rows = []
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append({"prefix": "is it?", "suffix": ["no", "yes"][number % 2], "image": f"{number}.png"})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ["validate", "-m", "made", "exports/made-peft", "rows.jsonl", "--model", "tiny", "--predictions", "p.jsonl"]
    assert main(asked) == 0
    assert "whether it has learned from these rows is not known" in capsys.readouterr().out
    found = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    own, foreign = ([row["probabilities"] for row in found if row["roll"].endswith(end)] for end in (".npz", "-peft"))
    assert len(own) == 4 and len({json.dumps(one) for one in own}) > 1
    for one, other in zip(own, foreign, strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    asking = [json.dumps({"prefix": row["prefix"], "image": row["image"]}) + "\n" for row in rows]
    (tmp_path / "asking.jsonl").write_text("".join(asking))
    peft = ["-m", "exports/made-peft", "--model", "tiny"]
    assert main(["predict", *peft, "--answers", "no, yes", "asking.jsonl", "--output", "q.jsonl"]) == 0
    assert "whether it has learned from these rows is not known" in capsys.readouterr().out
    asked = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    assert [row["probabilities"] for row in asked] == foreign and asked[0]["right"] is None
    assert main(["predict", *peft, "asking.jsonl"]) == 2 and "--answers yes,no" in capsys.readouterr().err
    assert main(["predict", "-m", "made", "--answers", "a,b", "asking.jsonl"]) == 2
    assert "the rolls have their own" in capsys.readouterr().err
    found = rolltune.load("exports/made-peft", "tiny", answers=("no", "yes")).predict("0.png", "is it?")
    assert found[0].probabilities == pytest.approx(foreign[0], rel=1e-6)
    assert main(["predict", *peft, "--generate", "2", "asking.jsonl", "--output", "w.jsonl"]) == 0
    assert len((tmp_path / "w.jsonl").read_text().splitlines()) == 4
    config = tmp_path / "exports/made-peft/adapter_config.json"
    config.write_text(config.read_text().replace('"tiny"', '"somebody/base"'))
    assert main(["validate", "-m", "exports/made-peft", "rows.jsonl"]) == 2
    assert "--model PATH" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["hf", "npz"])
def test_a_model_that_was_fine_tuned_whole_elsewhere_is_scored_as_the_roll_was(form, make_roll, tmp_path, capsys):
    make_roll(prompt="")
    assert main(["export", "-m", "made", "--to", form]) == 0
    model = tmp_path / "exports/made-hf"
    if form == "npz":  # as big_vision knows it: without what is beside it
        model = tmp_path / "exports/made-npz/made.npz"
        (tmp_path / "exports/made-npz/made.whole.npz").rename(model)
    rows = []
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append({"prefix": "is it?", "suffix": ["no", "yes"][number % 2], "image": f"{number}.png"})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["validate", "-m", "made", str(model), "rows.jsonl", "--predictions", "p.jsonl"]) == 0
    found = [json.loads(line)["probabilities"] for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    for own, merged in zip(found[:3], found[3:], strict=True):
        assert own == pytest.approx(merged, abs=0.01)  # bfloat16 of the tiny model's file
    assert main(["predict", "-m", str(model), "rows.jsonl", "--output", "q.jsonl"]) == 0
    asked = [json.loads(line)["probabilities"] for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    assert asked == found[3:]
    capsys.readouterr()
    assert main(["predict", "-m", str(model), "rows.jsonl", "--model", "tiny"]) == 2
    assert "its own base" in capsys.readouterr().err


def test_a_published_base_is_called_by_its_name_on_the_hub():
    assert job._published("llava-v1.6-mistral-7b-float16") == "llava-hf/llava-v1.6-mistral-7b-hf"
    assert job._published("my-own") == "my-own"


PERSON = {"name": "somebody", "orgs": [{"name": "a-lab"}], "auth": {"accessToken": {"role": "write"}}}


class Hub:
    """The library's API, at its boundary."""

    def __init__(self, private=True, error=None, person=PERSON):
        self.calls, self.private, self.error, self.person = [], private, error, person

    def whoami(self):
        if isinstance(self.person, Exception):
            raise self.person
        return self.person

    def create_repo(self, **given):
        if self.error:
            raise self.error
        self.calls.append(("create", given))

    def repo_info(self, **given):
        if self.private is None:
            raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)  # what it is made of differs by version
        return types.SimpleNamespace(private=self.private)

    def upload_folder(self, **given):
        self.calls.append(("upload", given))


def test_the_upload_is_private_and_asked_for(make_roll, monkeypatch, capsys):
    make_roll()
    there = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: there)
    assert main(["export", "-m", "made", "--output", "a", "--base-name", "some/base"]) == 0 and there.calls == []
    assert json.loads(Path("a/adapter_config.json").read_text())["base_model_name_or_path"] == "some/base"
    assert 'base_model: "some/base"' in Path("a/README.md").read_text()
    assert main(["export", "-m", "made", "--output", "b", "--upload", "somebody/ads"]) == 0
    (_, made), (_, sent) = there.calls
    assert made["private"] is True and (made["repo_id"], sent["repo_id"]) == ("somebody/ads", "somebody/ads")
    assert sent["folder_path"] == "b" and sent["ignore_patterns"] == ["*.whole.json"]
    there.private = False  # a name that is there, for everybody to see
    assert main(["export", "-m", "made", "--output", "c", "--upload", "somebody/ads"]) == 2
    assert "nothing was sent" in capsys.readouterr().err and len(there.calls) == 2 and not Path("c").exists()
    assert main(["export", "-m", "made", "--output", "d", "--upload", "somebody/ads", "--public"]) == 0
    assert there.calls[-2][1]["private"] is False
    assert main(["export", "-m", "made", "--output", "e", "--upload", "ads"]) == 2


@pytest.mark.parametrize(
    ("person", "name", "said"),
    [
        (OSError("401 for Bearer hf_abcdefGHIJKL0123456789"), "somebody/ads", "Nothing was done yet: log in"),
        (PERSON, "nobody/ads", "the login is of somebody, who can write to somebody, a-lab"),
        (PERSON | {"auth": {"accessToken": {"role": "read"}}}, "a-lab/ads", "the token may only read"),
    ],
)
def test_the_login_is_tried_before_any_work(tmp_path, monkeypatch, capsys, person, name, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.npz").touch()  # not even opened
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: Hub(person=person, private=None))
    assert main(["export", "-m", "x.npz", "--upload", name]) == 2
    told = capsys.readouterr().err
    assert said in told and "hf_abcdef" not in told and not (tmp_path / "exports").exists()


def test_a_name_that_is_free_or_ones_own_may_be_taken(monkeypatch):
    for private in (None, True):
        made = Hub(private=private)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda made=made: made)
        assert hub.check_upload("a-lab/ads", False) is made and made.calls == []


def test_no_token_is_shown_or_written(make_roll, tmp_path, monkeypatch, capsys):
    make_roll()
    token = "hf_abcdefGHIJKL0123456789"
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: Hub(error=OSError(f"401 for Bearer {token}\nmore")))
    assert main(["export", "-m", "made", "--output", "out", "--upload", "somebody/ads"]) == 2
    shown = "".join(capsys.readouterr())
    assert token not in shown and "401 for Bearer hf_..." in shown and "hf auth login" in shown
    assert (tmp_path / "out/README.md").exists()  # complete, though it was not sent
    assert not [one for one in tmp_path.rglob("*") if one.is_file() and token.encode() in one.read_bytes()]


def test_the_page_says_what_was_learned_from_how_and_how_well():
    metrics = {**METRICS, "valid": {"n": 4, "accuracy": 0.5}, "test": {"n": 3, "accuracy": 1.0}, "passes": 1}
    card = RollCard(base.Base("x", "ab"), "lora", {}, "so?", ["no", "a|b"], metrics, seed=42)
    page = model_card(card, Recipe(rank=5, rate=0.25), "hf", "out", "some/base", ["fine"])
    lines = page.splitlines()
    assert 'library_name: "transformers"' in lines and 'tags: ["rolltune", "hf"]' in lines and "- asked: `so?`" in lines
    assert "- answers: `no`, `a\\|b`" in lines and "| train | `train.jsonl` | 12 | cd |" in lines
    assert "| accuracy | 0.7500 | 0.500 to 0.900 |" in lines and "| tp | 3 |  |" in lines and "| n |" not in page
    assert "**test** (not learned from), 3 rows" in lines and "| accuracy | 1.0000 |  |" in lines
    assert "| seed | 42 |" in lines and "| rank | `5` |" in lines and "| rate | `0.25` |" in lines
    assert "| base's digest | `ab` |" in lines and "| made with | `rolltune 0` |" in lines and "- fine" in lines
    assert "of pass" not in page and "PeftModel" not in page
    one = dataclasses.replace(card, metrics={**metrics, "run": {"rolls": 1}})
    assert "**valid** (not learned from), 4 rows" in model_card(one, Recipe(), "peft", "out", "some/base", [])
    assert "PeftModel" in model_card(one, Recipe(), "peft", "out", "some/base", [])


def test_what_an_export_found_is_told_with_its_share_of_the_rounding():
    found = merging.Difference(0.125, "text/norm/scale", 0.5)
    opened = lambda name: types.SimpleNamespace(checkpoint=types.SimpleNamespace(path=Path(name)), words={})
    weights, scores = job._told(found, 0.03125, 0.5, "bfloat16", False, "npz", opened("a.npz"))
    assert weights.endswith("a weight is 0.125 (text/norm/scale), 50% of what bfloat16 may round")
    assert scores.endswith("from the adapter on its base is 0.0312 (at most 0.5)")
    packed, resized = job._told(found, 0.0, 0.5, "bfloat16", True, "hf", opened("a.npz"))[2:]
    assert "in four or eight bits" in packed and "resizes pictures by its own rule" in resized
    assert len(job._told(found, 0.0, 0.5, "bfloat16", False, "hf", opened("folder"))) == 2


def test_an_adapter_is_advised_of_what_is_one():
    factors = {"a/kernel": {"a": 0, "b": 0}}
    assert "--to peft" in job._instead(factors | {job.CLASSES: 0})
    assert "trained_dtype" in job._instead(factors | {"a/bias": 0})


def test_no_text_of_people_is_markdown_or_html():
    assert _code("a") == "`a`" and _code("") == "" and _code(" \n ") == "" and _code("a\n b") == "`a b`"
    for text in ("a`b", "`", "a``b", "```", "``a`"):
        made = _code(text)
        fence = made[: len(made) - len(made.lstrip("`"))]
        assert made == f"{fence} {text} {fence}" and fence not in text
    assert _code("a|b") == "`a\\|b`"
    assert _plain("*a* [b](c) <i>\n| `d`") == "\\*a\\* \\[b\\]\\(c\\) \\<i\\> \\| \\`d\\`"


def test_what_lies_beside_the_weights_goes_along(tmp_path):
    """Of a Hugging Face folder its small files, not its weights and not their index; a tokenizer in any case."""
    source, out = tmp_path / "hf", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    for name in (
        "config.json",
        "tokenizer.json",
        "modeling.py",
        "LICENSE.txt",
        "NOTICE",
        "chat.jinja",
        "USE_POLICY.md",
    ):
        (source / name).write_text(name)
    for name in ("model.safetensors", "model.safetensors.index.json", "picture.png"):
        (source / name).write_text(name)
    (source / "more.json").mkdir()
    (out / "config.json").write_text("new")
    (tmp_path / "my.json").write_text("tokens")
    tokenizer = types.SimpleNamespace(path=tmp_path / "my.json")
    family = types.SimpleNamespace(tokenizers=("tokenizer.model", "tokenizer.json"))
    model = types.SimpleNamespace(tokenizer=tokenizer, family=family)
    opened = lambda place: types.SimpleNamespace(checkpoint=types.SimpleNamespace(path=place), model=model)
    job._copy_beside(opened(source), out, 0)
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        "config.json": "new",
        **{
            name: name
            for name in ("tokenizer.json", "modeling.py", "LICENSE.txt", "NOTICE", "chat.jinja", "USE_POLICY.md")
        },
    }
    bare = tmp_path / "bare"
    bare.mkdir()
    job._copy_beside(opened(tmp_path / "model.npz"), bare, 0)
    assert {path.name: path.read_text() for path in bare.iterdir()} == {"tokenizer.json": "tokens"}
    names = {"tokenizer.model": "tokenizer.model", "odd.model": "tokenizer.model", "odd.txt": "odd.txt"}
    for own, name in names.items():
        tokenizer.path = tmp_path / own
        assert job._tokenizer_name(opened(source)) == name


def test_the_page_says_what_is_not_known():
    card = RollCard(base.Base("x", "ab"), "lora", {}, "", [], {"passes": 2})
    page = model_card(card, Recipe(task="write"), "peft", "x", "some/base", ["fine"])
    assert "the question of each row" in page and "it writes its answers" in page and "pass 2" in page
    assert page.startswith('---\nlibrary_name: "peft"\nbase_model: "some/base"')


def test_what_was_trained_on_other_weights_is_not_merged(tmp_path, monkeypatch):
    own, other = base.Base("tiny", "ab"), types.SimpleNamespace(base=base.Base("tiny", "cd"))
    monkeypatch.setattr(job, "load_base", lambda *given: (other, {}, None))
    roll, saved = RollFile({}, RollCard(own, "lora", {})), types.SimpleNamespace(recipe=None)
    with pytest.raises(job.UserError, match="the same name, but other weights"):
        job._scores(("tiny", "", "float32", (), 0), tmp_path / "a.npz", roll, saved, [], print)
