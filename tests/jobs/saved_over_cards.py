"""Saved rolls on a base that several cards share, on virtual devices: run by test_shared_base.py."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from rolltune import adapters, base, trees
from rolltune.__main__ import main
from rolltune.errors import UserError
from rolltune.jobs import export as exporting
from rolltune.jobs import laying, predict, scorer, validate
from rolltune.models import cut
from rolltune.recipe import Recipe
from rolltune.weights.card import RollCard
from rolltune.weights.roll_file import save_roll

CUT, WHOLE = "--config.sharding=fsdp", "--config.sharding=rolls"


@pytest.fixture
def saved(drawn_ads, tmp_path, monkeypatch):
    """checkpoints/{lora,full}.npz with random changes of the built-in model, and ten ads, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROLLTUNE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(drawn_ads, tmp_path, dirs_exist_ok=True)
    rows = (tmp_path / "data.jsonl").read_text().splitlines()[:10]
    (tmp_path / "few.jsonl").write_text("\n".join(rows) + "\n")
    model, params = base.load("tiny", dtype="float32")
    flat = trees.flatten(params)
    for method, first in (("lora", 1), ("full", 0)):
        recipe = Recipe(
            task="choose", method=method, rank=2, first_layer=first, dtype="float32", evaluate_batch=3, sharding="fsdp"
        )
        draw, tree = np.random.default_rng(0), {}
        some = lambda *shape: draw.normal(0, 0.05, shape).astype(np.float32)  # noqa: B023
        for path, word in adapters.trainability(adapters.METHODS[method], list(flat)).items():
            if word == "lora":
                layers, i, o = flat[path].shape
                tree |= {f"{path}/a": some(layers - 1, i, 2), f"{path}/b": some(layers - 1, 2, o)}
            elif word == "full":
                tree[path] = np.asarray(flat[path]) + some(*flat[path].shape)
        card = RollCard(model.base, method, dataclasses.asdict(recipe), "is it?", ["no", "yes"], {"positive": "yes"})
        save_roll(f"checkpoints/{method}.npz", trees.unflatten(tree), card)
    return tmp_path


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_roll_scores_and_writes_as_on_one_card(saved, method):
    """Ten rows by three, on four cards: as the roll's own recipe lays its base, and as was typed."""
    path, file = saved / f"checkpoints/{method}.npz", saved / "few.jsonl"

    def scored(*typed):
        (cell,) = validate.score(validate.Options([file], laying=typed, predictions=saved / "p.jsonl"), [path], print)
        rows = (saved / "p.jsonl").read_text()
        predictor = predict.Predictor([scorer.read_saved(path)], predict.Options(laying=typed, generate=3))
        shown = sorted(saved.glob("images/*"))[:3]
        texts = [row.answer for row in predictor.predict(shown, "what is it?")]
        return cell.metrics, rows, texts, predictor._bench

    found, rows, texts, bench = scored()
    expected, plain_rows, plain, alone = scored(WHOLE)
    assert found.log_loss == pytest.approx(expected.log_loss, abs=1e-5) and texts == plain
    probabilities = lambda text: np.array([float(one) for one in _numbers(text)])
    np.testing.assert_allclose(probabilities(rows), probabilities(plain_rows), atol=1e-5)
    assert alone.places is None and dict(bench.mesh.shape) == {"rolls": 1, "cards": 4}
    parts = [leaf for leaf in jax.tree.leaves(bench.params, is_leaf=cut.is_cut) if cut.is_cut(leaf)]
    assert parts and all(4 * part.values.addressable_shards[0].data.size == part.values.size for part in parts)
    if method == "full":
        (one,) = predict.Predictor([scorer.read_saved(path)])._scorers
        assert one.parts and all(
            4 * one.trainables[path].addressable_shards[0].data.size == one.trainables[path].size for path in one.parts
        )


def _numbers(text):
    import json

    for line in text.splitlines():
        yield from json.loads(line)["probabilities"].values()


def test_merged_on_a_base_that_is_cut_it_is_the_same_file(saved, monkeypatch):
    """The files' tensors go through the host one at a time; no card ever holds the whole base. An adapter is written
    without any of its weights."""
    made = []
    load = exporting.load_base
    monkeypatch.setattr(exporting, "load_base", lambda *given: made.append(load(*given)) or made[-1])
    for name, word in (("cut", CUT), ("whole", WHOLE)):
        assert main(["export", "-m", "lora", "--to", "hf", "--output", name, word]) == 0
    assert (saved / "cut/model.safetensors").read_bytes() == (saved / "whole/model.safetensors").read_bytes()
    assert [places is not None for _, _, places in made] == [True, True, False, False]
    monkeypatch.setattr(base, "load_opened", lambda *given: pytest.fail("the weights were read"))
    assert main(["export", "-m", "lora", "--output", "adapter"]) == 0


def test_what_is_typed_says_where_the_base_lies_and_nothing_else(saved, capsys):
    assert laying.typed([]) == {} and laying.typed([CUT])["sharding"] == "fsdp"
    with pytest.raises(UserError, match="rank: a saved roll has its own recipe"):
        laying.typed([CUT, "--config.rank=4"])
    for command in (
        ["validate", "-m", "lora", "few.jsonl"],
        ["predict", "-m", "lora", "few.jsonl"],
        ["export", "-m", "lora"],
    ):
        assert main([*command, "--config.sharding=some"]) == 2
        assert "--config.sharding" in capsys.readouterr().err


def test_what_leaves_no_room_for_rows_is_cut_by_itself(monkeypatch):
    opened = base.open_model("tiny", dtype="float32")
    size = laying.size_of(opened.shapes())
    said: list[str] = []

    def places(free, **more):
        monkeypatch.setattr(laying, "free_bytes", lambda: free)
        return laying.scoring_groups(Recipe(**more), opened, said.append)

    assert places(None) is None and places(2 * size) is None
    assert dict(places(size).mesh.shape) == {"rolls": 1, "cards": 4} and "are cut over 4 cards" in said[-1]
    assert places(2 * size, method="full") is not None  # its own weights are as many once more
    group = lambda size: places(None, sharding="fsdp", sharding_group=size).mesh.shape["cards"]
    assert (group(2), group(3), group(8)) == (2, 4, 4)  # trained on groups that there are not here
