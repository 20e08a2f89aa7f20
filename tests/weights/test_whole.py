"""Whole models: what big_vision reads, and beside it what makes it the same model when it is read back here."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rolltune import base
from rolltune.errors import UserError
from rolltune.families import paligemma
from rolltune.families.paligemma_config import hf_config
from rolltune.families.paligemma_names import hf_rows
from rolltune.models import decoder, vision
from rolltune.models.attention import Rope
from rolltune.weights.card import Base, RollCard
from rolltune.weights.checkpoint import Checkpoint
from rolltune.weights.hf import write_hf
from rolltune.weights.names import to_file
from rolltune.weights.roll_file import load_roll, read_card

# With all that big_vision's npz does not say, and the rows past the tokenizer's that Hugging Face's files have.
ODD = paligemma.Config(
    vision.Config(image_size=28, patch=14, width=16, layers=1, heads=2, mlp=24, norm_eps=1e-5),
    decoder.Config(
        vocab=1024 + 64, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, mlp=48, post_norms=True, attn_softcap=5.0,
        final_softcap=3.0, query_scale=0.25, sliding_window=6, rope=Rope(5e5), norm_eps=1e-5,
    ),
    resize="bicubic",
)  # fmt: skip
TOKENIZER = base.TINY / "tokenizer.model"
CARD = RollCard(
    Base("base", "ab" * 32), "lora", {"model": "../cache/base", "rank": 4, "first_layer": 1}, "ok?", ["no", "yes"]
)


@pytest.fixture
def opened(tmp_path):
    """(the model, its parameters) of a Hugging Face folder."""
    params = jax.tree.map(np.asarray, paligemma.init(ODD, jax.random.key(0)))
    write_hf(tmp_path / "hf", to_file(params, hf_rows(ODD)), hf_config(ODD))
    shutil.copy(TOKENIZER, tmp_path / "hf")
    return base.load(str(tmp_path / "hf"), dtype="float32")


def test_rows_past_the_tokenizers_are_left_behind(opened):
    model, params = opened
    assert params["text"]["embed"]["embedding"].shape == (1024, 32) and model.config.text.vocab == 1024


def test_a_whole_model_is_read_back_as_the_same_model(opened, tmp_path):
    model, params = opened
    path = tmp_path / "made" / "x.whole.npz"
    base.save_whole(path, params, model, CARD)
    plain = np.load(path)
    assert plain["params/llm/embedder/input_embedding"].shape == (1024, 32)
    assert all(name.startswith(("params/llm/", "params/img/")) for name in plain.files)
    again, read = base.load(str(path), dtype="float32")
    assert again.config == model.config and again.base.hash == model.base.hash and again.exact == model.exact
    jax.tree.map(np.testing.assert_array_equal, read, params)
    path.rename(path.with_name("plain.npz"))  # big_vision's own conventions
    bare, _ = base.load(str(path.with_name("plain.npz")), tokenizer=str(TOKENIZER), dtype="float32")
    assert bare.config.resize == "bilinear" and bare.config.text.sliding_window is None


def test_a_model_that_was_a_npz_stays_one(tmp_path):
    model, params = base.load("tiny", dtype="float32")
    base.save_whole(tmp_path / "tiny.whole.npz", params, model, CARD)
    again, _ = base.load(str(tmp_path / "tiny.whole.npz"), dtype="float32")
    assert again.config == model.config and again.base.hash == model.base.hash


def test_its_card_is_that_of_a_roll_without_arrays_on_itself(opened, tmp_path):
    model, params = opened
    path = tmp_path / "x.whole.npz"
    base.save_whole(path, params, model, CARD)
    card = read_card(path)
    assert card.base == Base("x.whole", model.base.hash) and card.answers == CARD.answers
    assert card.recipe == {
        "model": str(path),
        "tokenizer": str(tmp_path / "hf/tokenizer.model"),
        "rank": 4,
        "first_layer": 0,
    }
    again, _ = base.load(card.recipe["model"], card.recipe["tokenizer"], "float32")
    roll = load_roll(path, again.base)
    assert roll.tree == {} and roll.card == card
    with pytest.raises(UserError, match=r"other weights|another one"):
        load_roll(path, Base("x.whole", "cd" * 32))


def test_files_that_do_not_belong_together_are_refused(opened, tmp_path):
    model, params = opened
    path, beside = tmp_path / "x.whole.npz", tmp_path / "x.whole.json"
    base.save_whole(path, params, model, CARD)
    kept = beside.read_text()
    changed = jax.tree.map(lambda leaf: leaf + jnp.ones_like(leaf), params)
    base.save_whole(path, changed, model, CARD)
    beside.write_text(kept)
    with pytest.raises(UserError, match=r"x\.whole\.json belongs to other weights than .*x\.whole\.npz"):
        base.load(str(path))
    beside.unlink()
    for read in (read_card, lambda place: base.load(str(place))):
        with pytest.raises(UserError, match=r"x\.whole\.json is missing.* rename them to x\.npz"):
            read(path)


@pytest.mark.parametrize("entry", ["format", "version", "model_type", "config", "tokenizer", "weights", "card"])
def test_a_damaged_file_beside_it_is_advice(opened, tmp_path, entry):
    model, params = opened
    path, beside = tmp_path / "x.whole.npz", tmp_path / "x.whole.json"
    base.save_whole(path, params, model, CARD)
    good = json.loads(beside.read_text())
    for odd in (None, True, -1, 2**70, 0.5, "x", "\ud83d", [], {}, {"text": []}):
        beside.write_text(json.dumps({**good, entry: odd}))
        for read in (read_card, lambda place: base.load(str(place))):
            try:
                read(path)
            except UserError as error:
                assert str(tmp_path) in str(error)
            else:  # what a listing of cards does not look at, and a place that is taken as it is
                assert read is read_card or entry in ("version", "tokenizer", "card"), odd


def test_a_file_of_a_later_version_asks_for_a_later_rolltune(opened, tmp_path):
    model, params = opened
    path, beside = tmp_path / "x.whole.npz", tmp_path / "x.whole.json"
    base.save_whole(path, params, model, CARD)
    beside.write_text(json.dumps({**json.loads(beside.read_text()), "version": 2}))
    for read in (read_card, lambda place: base.load(str(place))):
        with pytest.raises(UserError, match=r"x\.whole\.json has version 2; this rolltune reads up to 1\. Update"):
            read(path)


@pytest.mark.parametrize("entry", ["resize", "text", "vision", *(f"text/{name}" for name in ("rope", "norm_eps"))])
def test_odd_values_of_what_the_npz_does_not_say_are_advice(opened, tmp_path, entry):
    model, params = opened
    path, beside = tmp_path / "x.whole.npz", tmp_path / "x.whole.json"
    base.save_whole(path, params, model, CARD)
    for odd in (None, True, -1, 10**400, "x", [], {}, {"text": []}, {"kind": "plain"}):
        said = json.loads(beside.read_text())
        *outer, name = entry.split("/")
        (said["config"][outer[0]] if outer else said["config"])[name] = odd
        (tmp_path / "y.whole.json").write_text(json.dumps(said))
        shutil.copy(path, tmp_path / "y.whole.npz")
        with pytest.raises(UserError, match=r"y\.whole"):
            base.load(str(tmp_path / "y.whole.npz"))


def test_what_has_no_place_in_the_layout_is_refused_before_the_work(opened):
    model, _ = opened
    base.check_whole(model, classifier=False)
    with pytest.raises(UserError, match="no place for a head of classes"):
        base.check_whole(model, classifier=True)
    with pytest.raises(UserError, match="Llama is not published as one npz"):
        other = dataclasses.replace(model.family, name="Llama", npz=None)
        base.check_whole(dataclasses.replace(model, family=other), classifier=False)


def test_the_beginning_token_is_the_one_that_config_json_states():
    """Of families whose models each have their own tokenizer."""
    stated = {"bos_token_id": 7}, {"bos_token_id": True}, {"bos_token_id": [7]}, {}, None
    found = [base._stated_ids(Checkpoint(TOKENIZER, {}, config)) for config in stated]
    assert found == [{"bos": 7}, {}, {}, {}, {}]
