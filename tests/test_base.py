"""A base model as a run opens it: the built-in one, and files that do not belong together."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from small_families import PALIGEMMA, log_probs

from rolltune import base, device, trees
from rolltune.batch import NOTHING
from rolltune.errors import UserError
from rolltune.families import paligemma
from rolltune.families.paligemma_names import npz_rows
from rolltune.models.forward import Network
from rolltune.quantize import NF4, Int8Rows
from rolltune.training import setup
from rolltune.training.plan import plan_of
from rolltune.weights.names import to_file
from rolltune.weights.npz import write_npz


def test_the_built_in_model_is_whole_and_its_identity_is_that_of_its_weights():
    first, params = base.load("tiny", dtype="float32")
    tiny = paligemma.CONFIGS["tiny"]
    text = dataclasses.replace(tiny.text, query_scale=tiny.text.attn_scale)  # a file's scale is always stated
    assert first.config == dataclasses.replace(tiny, text=text) and first.base.name == "tiny"
    assert first.family is paligemma.FAMILY and first.stacks == {"text/layers": (0, 1, 2, 3)}
    assert first.tokenizer.decode(first.tokenizer.encode("is it lawful?")) == "is it lawful?"
    shapes = jax.eval_shape(lambda key: paligemma.init(first.config, key), jax.random.key(0))
    assert jax.tree.map(lambda x: x.shape, params) == jax.tree.map(lambda x: x.shape, shapes)
    second, half = base.load("tiny", dtype="bfloat16")
    assert second.base == first.base and first.exact and len(first.base.hash) == 64
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(half)} == {"bfloat16"}


@pytest.fixture
def written(tmp_path):
    """`written(name)`: the built-in model saved under another name, one weight changed."""

    def write(name: str, vocab: int = 1024):
        model, params = base.load("tiny", dtype="float32")
        params = jax.tree.map(np.asarray, params)
        params["text"]["norm"]["scale"] = params["text"]["norm"]["scale"] + 1
        text = dict(params["text"], embed={"embedding": params["text"]["embed"]["embedding"][:vocab]})
        sizes = paligemma.Config(model.config.vision, dataclasses.replace(model.config.text, vocab=vocab))
        write_npz(tmp_path / name, to_file(params | {"text": text}, npz_rows(sizes)), prefix="params/")
        return tmp_path / name

    return write


def test_other_weights_are_another_base_and_need_a_tokenizer(written):
    path = written("other.npz")
    with pytest.raises(UserError, match=r"no tokenizer\.model beside the weights; name it with --config\.tokenizer"):
        base.load(str(path))
    other, params = base.load(str(path), tokenizer=str(base.TINY / "tokenizer.model"), dtype="float32")
    assert other.base.name == "other" and other.base.hash != base.load("tiny")[0].base.hash
    (path.parent / "tokenizer.model").write_bytes((base.TINY / "tokenizer.model").read_bytes())
    _, found = base.load(str(path), dtype="float32")
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_a_tokenizer_with_more_pieces_than_rows_is_refused(written):
    with pytest.raises(
        UserError,
        match=r"tokenizer\.model is not the tokenizer of \S*small\.npz \(PaliGemma\): .*1000 rows .*tokenizer 1024 ",
    ):
        base.load(str(written("small.npz", 1000)), tokenizer=str(base.TINY / "tokenizer.model"))


def test_what_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        base.load(str(tmp_path / "nowhere"))
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 not much")
    with pytest.raises(UserError, match=r"broken\.npz"):
        base.load(str(tmp_path / "broken.npz"))
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(UserError, match=r"tokenizer\.model: not a SentencePiece model"):
        base.load("tiny", tokenizer=str(tmp_path / "tokenizer.model"))
    with pytest.raises(UserError, match=r"num_crops: 4, but PaliGemma \(\S+\) has no such number.*Leave it out"):
        base.open_model("tiny", crops=4)


def test_float16_is_of_the_frozen_weights_alone_and_as_near_as_bfloat16(monkeypatch):
    """What a card without bfloat16 gets: weights in half, activations and norms in full."""
    (model, half), (whole, params) = (base.load("tiny", dtype=dtype) for dtype in ("float16", "float32"))
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(half)} == {"float16"} and model.config.dtype == "float32"
    assert model.base == whole.base  # a roll belongs to the same base, in whatever dtype it was trained
    net, batch = Network(model.family, model.config), PALIGEMMA.batch(PALIGEMMA.row("a b", "abcdefgh", shown=[]))
    found, expected = (log_probs(net, trees.arrange(tree, model.stacks), batch, NOTHING) for tree in (half, params))
    assert found.dtype == np.float32 and 0 < np.abs(found - expected).max() < 0.05
    with pytest.raises(UserError, match=r"base.npz: 2 numbers of text/norm/scale are larger than float16 holds"):
        base.halved(np.array([1.0, 1e5, -7e4], np.float32), "text/norm/scale", "base.npz")
    for capability, dtype in (("7.0", "float16"), ("7.5", "float16"), ("8.9", "bfloat16"), ("12.0", "bfloat16")):
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        monkeypatch.setattr(jax, "devices", lambda one=capability: [SimpleNamespace(compute_capability=one)])
        assert device.choose_dtype("auto") == dtype


def test_layers_loaded_in_lists_are_those_of_the_stacks(tmp_path, monkeypatch):
    rules = [("text/layers/mlp/.*", "int8"), (".*", "keep")]
    model, stacked = base.load("tiny", dtype="float32", quantize=rules)
    monkeypatch.setenv("ROLLTUNE_CACHE", str(tmp_path))  # or what the first loading kept would be read
    again, listed = base.load("tiny", dtype="float32", quantize=rules, listed=True)
    assert again.base == model.base and trees.shapes(listed) == trees.shapes(stacked)
    assert isinstance(listed["text"]["layers"]["attn"]["q"]["kernel"], list)
    plan = plan_of(model, {"text/layers/attn/q/kernel": "full"}, first=1)
    started = [setup.initial_weights(model, params, plan).full for params in (stacked, listed)]
    arranged = [trees.arrange(params, model.stacks, 1, listed=True) for params in (stacked, listed)]
    for one, other in (started, arranged):
        assert jax.tree.structure(one) == jax.tree.structure(other)
        assert all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


def test_a_tower_is_quantized_by_rules_and_sees_nearly_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("ROLLTUNE_CACHE", str(tmp_path))
    model, plain = base.load("tiny", dtype="float32")
    rules = [("vision/layers/mlp/down/kernel", "int8"), ("vision/layers/.*/kernel", "nf4-double"), (".*", "keep")]
    made, read = (base.load("tiny", dtype="float32", quantize=rules) for _ in range(2))  # then out of the kept copy
    assert made[0].base == read[0].base == model.base and len(made[0].quantized) == 6 and not model.quantized
    assert all(map(np.array_equal, jax.tree.leaves(made[1]), jax.tree.leaves(read[1])))
    layers = made[1]["vision"]["layers"]
    assert isinstance(layers["attn"]["q"]["kernel"], NF4) and isinstance(layers["mlp"]["down"]["kernel"], Int8Rows)
    tiles = np.random.default_rng(0).standard_normal((2, 1, 112, 112, 3)).astype(np.float32)
    seen = jax.jit(lambda params: model.family.features(model.config, params, tiles, None))
    off = np.abs(seen(made[1]) - seen(plain)).mean()
    assert 0 < off < 0.1 * np.abs(seen(plain)).mean()
