"""Every published form of the same weights gives one tree, and that tree gives the published forms back."""

import dataclasses

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from paligemma_files import open_hf, open_npz, sizes_of
from safetensors import safe_open

from rolltune.errors import UserError
from rolltune.families import paligemma_config
from rolltune.families import paligemma_names as names
from rolltune.weights.hf import published_names, read_hf, write_hf
from rolltune.weights.names import check_map, collapse, flatten, keep, load_tree, nest, pick, stream, to_file
from rolltune.weights.npz import read_npz, write_npz

FAMILIES = ["paligemma1", "paligemma2"]
BF16 = ml_dtypes.bfloat16


def same(a: dict, b: dict, vocab: int | None = None) -> None:
    a, b = flatten(a), flatten(b)
    assert a.keys() == b.keys()
    for path in a:
        rows = slice(vocab) if path == "text/embed/embedding" else slice(None)
        assert a[path].dtype == b[path].dtype, path
        np.testing.assert_array_equal(a[path][rows], b[path][rows], err_msg=path)


@pytest.mark.parametrize("family", FAMILIES)
def test_npz_and_published_names_give_the_same_tree(oracle, family):
    lazy, rows, sizes = open_npz(oracle(f"{family}/bv_f32.npz"))
    theirs, their_rows, their_sizes = open_hf(oracle(f"{family}/hf_published"))
    tree, other = load_tree(lazy, rows), load_tree(theirs, their_rows)
    same(tree, other, vocab=sizes.text.vocab)
    assert (sizes.text.vocab, their_sizes.text.vocab) == (288, 320)
    assert sizes.vision == their_sizes.vision
    assert sizes.text.post_norms == (family == "paligemma2")
    assert tree["text"]["layers"]["attn"]["k"]["kernel"].shape == (4, 48, 16 * sizes.text.kv_heads)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_map_means_what_the_model_does(oracle, family):
    """Against the formula of each tensor's use, so that a map wrong in the same way twice would show."""
    raw = np.load(oracle(f"{family}/bv_f32.npz"))
    lazy, rows, _ = open_npz(oracle(f"{family}/bv_f32.npz"))
    tree = load_tree(lazy, rows)
    text, vision = tree["text"]["layers"], tree["vision"]
    x = np.random.default_rng(0).standard_normal((5, 48)).astype(np.float32)
    attn = "params/llm/layers/attn"
    q = np.einsum("td,ndh->tnh", x, raw[f"{attn}/q_einsum/w"][1]).reshape(5, -1)
    k, v = np.einsum("td,ckdh->ctkh", x, raw[f"{attn}/kv_einsum/w"][1]).reshape(2, 5, -1)
    np.testing.assert_allclose(x @ text["attn"]["q"]["kernel"][1], q, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(x @ text["attn"]["k"]["kernel"][1], k, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(x @ text["attn"]["v"]["kernel"][1], v, rtol=1e-5, atol=1e-6)
    o = np.einsum("tnh,nhd->td", q.reshape(5, 4, 16), raw[f"{attn}/attn_vec_einsum/w"][1])
    np.testing.assert_allclose(q @ text["attn"]["o"]["kernel"][1], o, rtol=1e-5, atol=1e-6)
    gate = raw["params/llm/layers/mlp/gating_einsum"][2, 0]
    np.testing.assert_array_equal(text["mlp"]["gate"]["kernel"][2], gate)
    pixels = np.random.default_rng(1).standard_normal((14, 14, 3)).astype(np.float32)
    patch = np.einsum("rck,rckd->d", pixels, raw["params/img/embedding/kernel"])
    np.testing.assert_allclose(pixels.reshape(-1) @ vision["patch"]["kernel"], patch, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", [*FAMILIES, "paligemma2_sliding"])
@pytest.mark.parametrize("layout", ["hf", "hf_internal"])
def test_newer_names_give_the_same_tree(shared, family, layout):
    folder = shared(f"oracle/{family}")
    same(load_tree(*open_hf(folder / "hf_published")[:2]), load_tree(*open_hf(folder / layout)[:2]))


@pytest.mark.parametrize(
    "renames",
    [
        {"vision_tower.vision_model.": "vision_tower."},
        {
            "language_model.model.": "model.language_model.",
            "vision_tower.vision_model.": "model.vision_tower.",
            "multi_modal_projector.": "model.multi_modal_projector.",
        },
    ],
)
def test_newer_names_are_brought_to_the_published_ones(oracle, renames):
    """The two later layouts spelled out, so that this runs where the reference folder is absent."""
    names_there = list(read_hf(oracle("paligemma2/hf_published")))
    later = {}
    for name in names_there:
        old = next((old for old in renames if name.startswith(old)), "")
        later[renames.get(old, "") + name.removeprefix(old)] = name
    assert len(later) == len(names_there) and set(later) != set(names_there)
    assert published_names(later) == later
    assert published_names([*later, "lm_head.weight"])["lm_head.weight"] == "language_model.lm_head.weight"
    text_only = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "score.weight", "lm_head.weight"]
    assert list(published_names(text_only).values()) == text_only


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_sixteen_bit_files(shared, family, kind):
    folder, wanted = shared(f"oracle/{family}"), {"f16": np.float16, "bf16": BF16}[kind]
    tree = load_tree(*open_npz(folder / f"bv_{kind}.npz")[:2])
    same(tree, load_tree(*open_npz(folder / "bv_f32.npz")[:2], dtype=wanted))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefix", ["", "params/"])
def test_npz_gives_its_bytes_back(oracle, tmp_path, family, prefix):
    source = oracle(f"{family}/bv_f32.npz")
    lazy, rows, _ = open_npz(source)
    write_npz(tmp_path / "out.npz", to_file(load_tree(lazy, rows), rows), prefix)
    before, after = np.load(source), np.load(tmp_path / "out.npz")
    assert {f"{prefix}{name.removeprefix('params/')}" for name in before.files} == set(after.files)
    for name in before.files:
        other = after[f"{prefix}{name.removeprefix('params/')}"]
        assert (before[name].dtype, before[name].shape) == (other.dtype, other.shape), name
        assert before[name].tobytes() == other.tobytes(), name


def test_device_arrays_are_written_too(oracle, tmp_path):
    lazy, rows, _ = open_npz(oracle("paligemma2/bv_f32.npz"))
    tree = load_tree(lazy, rows, dtype=BF16)
    on_device = nest((path, jnp.asarray(array)) for path, array in flatten(tree).items())
    write_npz(tmp_path / "out.npz", to_file(on_device, rows))
    same(load_tree(*open_npz(tmp_path / "out.npz")[:2]), tree)
    write_npz(tmp_path / "wide.npz", to_file(on_device, rows, dtype=np.float32))
    same(load_tree(*open_npz(tmp_path / "wide.npz")[:2], dtype=BF16), tree)


@pytest.mark.parametrize("family", FAMILIES)
def test_hf_gives_its_bytes_back_in_shards(oracle, tmp_path, family):
    folder = oracle(f"{family}/hf_published")
    lazy, rows, sizes = open_hf(folder)
    write_hf(tmp_path / "out", to_file(load_tree(lazy, rows), rows), paligemma_config.hf_config(sizes), shard=100_000)
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(shards) > 3 and all(shard.stat().st_size < 120_000 for shard in shards)
    whole = (folder / "model.safetensors").stat().st_size
    assert len(shards) < 2 + 2 * whole / 100_000  # two neighbours are always more than one may hold
    with safe_open(folder / "model.safetensors", "numpy") as before:
        after = {}
        for shard in shards:
            with safe_open(shard, "numpy") as file:  # the library itself reads what we wrote
                assert file.metadata() == {"format": "pt"}
                after |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        assert set(before.keys()) == set(after)
        for name in after:
            assert before.get_tensor(name).tobytes() == after[name].tobytes(), name
    same(load_tree(*open_hf(tmp_path / "out")[:2]), load_tree(lazy, rows))
    again = open_hf(tmp_path / "out")[2]
    assert (again.vision, again.text) == (sizes.vision, sizes.text)


def test_unstacked_vision_and_compressed_and_column_major(oracle, tmp_path):
    """The same weights as other people's tools may have written them."""
    source = np.load(oracle("paligemma1/bv_f32.npz"))
    loose = {}
    for name in source.files:
        array = source[name]
        if "/encoderblock/" in name:
            loose |= {name.replace("encoderblock", f"encoderblock_{i}"): array[i] for i in range(3)}
        else:
            loose[name] = np.asfortranarray(array) if array.ndim > 1 else array
    np.savez_compressed(tmp_path / "loose.npz", **loose)
    np.savez(tmp_path / "columns.npz", **{name: np.asfortranarray(source[name]) for name in source.files})
    np.savez_compressed(tmp_path / "small.npz", **{name: source[name] for name in source.files})
    wanted = load_tree(*open_npz(oracle("paligemma1/bv_f32.npz"))[:2])
    for name in ("loose", "columns", "small"):
        same(load_tree(*open_npz(tmp_path / f"{name}.npz")[:2]), wanted)


def test_as_many_kv_heads_as_heads_is_one_einsum(oracle, tmp_path):
    """big_vision stacks q, k and v when their heads are as many."""
    numbers = names.sizes_from_npz({name: t.shape for name, t in read_npz(oracle("paligemma1/bv_f32.npz")).items()})
    numbers["text"]["kv_heads"] = numbers["text"]["heads"]
    rows = names.npz_rows(sizes_of(numbers))
    rng = np.random.default_rng(0)
    tree = nest((row.path, rng.standard_normal(row.ours).astype(np.float32)) for row in rows)
    write_npz(tmp_path / "fused.npz", to_file(tree, rows))
    fused = np.load(tmp_path / "fused.npz")["llm/layers/attn/qkv_einsum/w"]
    assert fused.shape == (4, 3, 4, 48, 16)
    v = tree["text"]["layers"]["attn"]["v"]["kernel"][3].reshape(48, 4, 16)
    np.testing.assert_array_equal(fused[3, 2], v.transpose(1, 0, 2))
    lazy, again, sizes = open_npz(tmp_path / "fused.npz")
    assert sizes.text.kv_heads == 4
    same(load_tree(lazy, again), tree)


def test_every_wrong_name_is_named_at_once(oracle):
    lazy, rows, _ = open_hf(oracle("paligemma1/hf_published"))
    lazy["language_model.model.layers.9.extra.weight"] = lazy.pop("multi_modal_projector.linear.bias")
    for i in range(4):
        lazy.pop(f"language_model.model.layers.{i}.mlp.up_proj.weight")
    norm = "language_model.model.norm.weight"
    lazy[norm] = lazy["vision_tower.vision_model.post_layernorm.weight"]
    with pytest.raises(UserError) as error:
        list(stream(lazy, rows, source="model.safetensors"))
    text = str(error.value)
    assert "missing (2):" in text and "multi_modal_projector.linear.bias" in text
    assert "language_model.model.layers.{0..3}.mlp.up_proj.weight" in text
    assert "language_model.model.layers.9.extra.weight" in text
    assert f"{norm}: the file has [32], the model wants [48]" in text and "model.safetensors does not" in text


def test_a_tree_that_is_not_its_map_s_is_not_written(oracle):
    lazy, rows, _ = open_npz(oracle("paligemma1/bv_f32.npz"))
    flat = flatten(load_tree(lazy, rows))
    path = "vision/norm/scale"
    for said, wrong in (
        (f"missing {path}$", {name: leaf for name, leaf in flat.items() if name != path}),
        ("unknown vision/norm/gain$", flat | {"vision/norm/gain": flat[path]}),
        (f"mis-shaped {path}$", flat | {path: flat[path][:-1]}),
    ):
        with pytest.raises(ValueError, match=f"the tree does not match its map: {said}"):
            to_file(nest(wrong.items()), rows)


def test_tied_head_present_absent_or_untied(oracle, tmp_path):
    folder = oracle("paligemma1/hf_published")
    lazy, rows, sizes = open_hf(folder)
    tensors = to_file(load_tree(lazy, rows), rows)
    embedding = tensors["language_model.model.embed_tokens.weight"]
    config = paligemma_config.hf_config(sizes)
    write_hf(tmp_path / "with", {**tensors, "lm_head.weight": embedding}, config)
    same(load_tree(*open_hf(tmp_path / "with")[:2]), load_tree(lazy, rows))
    other = np.concatenate(list(embedding.chunks())).reshape(embedding.shape)
    other[-1, -1] += 1
    write_hf(tmp_path / "untied", {**tensors, "lm_head.weight": other}, config)
    with pytest.raises(UserError, match="fine-tuned untied"):
        load_tree(*open_hf(tmp_path / "untied")[:2])


def test_maps_that_cannot_be_inverted_are_refused():
    row = names.TensorMap("a", "kv", (3,), pick((2, 3), 0, (0,)))
    with pytest.raises(ValueError, match="leave a gap"):
        check_map([row])
    with pytest.raises(ValueError, match="overlap"):
        check_map([row, names.TensorMap("b", "kv", (3,), pick((2, 3), 0, (0,)))])
    with pytest.raises(ValueError, match="more than once"):
        check_map([names.TensorMap("a", "x", (3,), keep(3)), names.TensorMap("a", "y", (3,), keep(3))])


def test_layers_of_two_kinds_share_the_numbers_of_a_file(tmp_path):
    rows = [
        names.TensorMap("own/up", "layers.{i}.up", (2,), keep(2), 3, numbers=(0, 2, 3)),
        names.TensorMap("cross/up", "layers.{i}.up", (2,), keep(2), 1, numbers=(1,)),
    ]
    own, cross = np.arange(6, dtype=np.float32).reshape(3, 2), np.array([[8, 9]], np.float32)
    tree = {"own": {"up": own}, "cross": {"up": cross}}
    written = {name: np.concatenate(list(pieces.chunks())).tolist() for name, pieces in to_file(tree, rows).items()}
    assert written == {"layers.0.up": [0, 1], "layers.1.up": [8, 9], "layers.2.up": [2, 3], "layers.3.up": [4, 5]}
    write_hf(folder := tmp_path / "out", to_file(tree, rows), {})
    same(load_tree(read_hf(folder), rows), tree)
    twice = dataclasses.replace(rows[1], numbers=(2,))
    with pytest.raises(ValueError, match=r"with other numbers use layers\.2\.up"):
        check_map([rows[0], twice])
    with pytest.raises(ValueError, match=r"3 layers of .* have numbers \(1, 2\)"):
        check_map([dataclasses.replace(rows[0], numbers=(1, 2))])


def test_collapse_leaves_nothing_out():
    listed = ["a.0.x", "a.1.x", "a.2.x", "b.1.x", "c", "d.1.x", "d.5.x"]
    assert collapse(listed) == ["a.{0..2}.x", "b.1.x", "c", "d.{1,5}.x"]


def test_published_config_with_defaults_left_out():
    """The config.json of the published PaliGemma names neither head_dim nor image_size."""
    text = {"model_type": "gemma", "hidden_size": 2048, "intermediate_size": 16384, "num_attention_heads": 8}
    text |= {"num_hidden_layers": 18, "num_key_value_heads": 1, "vocab_size": 257216, "num_image_tokens": 1024}
    vision = {"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16, "num_hidden_layers": 27}
    config = {"model_type": "paligemma", "text_config": text, "vision_config": vision}
    numbers = paligemma_config.sizes_from_hf(config)
    assert (numbers["vision"]["image_size"], numbers["text"]["head_dim"]) == (448, 256)
    assert numbers["text"]["query_scale"] == 1 / 16 and numbers["text"]["attn_softcap"] is None
    text |= {"model_type": "gemma2", "query_pre_attn_scalar": 144, "head_dim": 128}
    numbers = paligemma_config.sizes_from_hf(config)
    assert numbers["text"]["query_scale"] == 144**-0.5
    assert (numbers["text"]["attn_softcap"], numbers["text"]["final_softcap"]) == (50.0, 30.0)
    with pytest.raises(UserError, match="vocab_size is None"):
        paligemma_config.sizes_from_hf({**config, "text_config": {**text, "vocab_size": None}})
    with pytest.raises(UserError, match="model_type is 'llava'"):
        paligemma_config.sizes_from_hf({**config, "model_type": "llava"})
