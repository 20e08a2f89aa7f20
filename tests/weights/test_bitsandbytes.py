"""Checkpoints in bitsandbytes' four bits: read as what they stand for, and taken as they are packed."""

import json
import re
from types import SimpleNamespace

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from small_model import Letters

from rolltune import base, memory, trees
from rolltune.errors import UserError
from rolltune.families import gemma2
from rolltune.quantize import DECODER, NF4, DoubleScales, decode, encode_nf4
from rolltune.weights import bitsandbytes, layouts
from rolltune.weights.bitsandbytes import PackedTensor
from rolltune.weights.hf import read_hf, write_hf
from rolltune.weights.merged import Change, MergedTensor, compare
from rolltune.weights.names import flatten, load_tree, nest, to_file

ENTRIES = dict(
    model_type="gemma2", hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    intermediate_size=128, sliding_window=8, vocab_size=96,
)  # fmt: skip
CONFIG = gemma2.FAMILY.config(ENTRIES, {}, "config.json")
TABLE = gemma2.tensors(CONFIG)


def as_stored(name: str, matrix: NF4, dtype: str = "bfloat16") -> dict[str, np.ndarray]:
    """The tensors that bitsandbytes writes of a matrix."""
    said = {"quant_type": "nf4", "blocksize": 64, "dtype": dtype, "shape": list(matrix.shape[::-1])}
    made = {name: np.asarray(matrix.packed).reshape(-1, 1)}
    if isinstance(scales := matrix.scales, DoubleScales):
        said |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": float(scales.offset)}
        made |= {f"{name}.absmax": scales.codes, f"{name}.nested_absmax": scales.absmax}
        made |= {f"{name}.nested_quant_map": np.array(scales.code)}
    else:
        made |= {f"{name}.absmax": scales.reshape(-1)}
    state = np.frombuffer(json.dumps(said).encode(), np.uint8)
    return made | {f"{name}.quant_map": bitsandbytes.quantize.CODE, f"{name}.quant_state.bitsandbytes__nf4": state}


@pytest.fixture
def tensors():
    """The decoder's matrices in four bits, the others in bfloat16."""
    draw, made = np.random.default_rng(0), {}
    for row in TABLE:
        for name, shape in row.in_file().items():
            values = draw.standard_normal(shape, np.float32)
            if name.endswith("_proj.weight"):
                made |= as_stored(name, encode_nf4(values, double="mlp" not in name))
            else:
                made[name] = values.astype(ml_dtypes.bfloat16)
    return made


def is_packed(leaf) -> bool:
    return isinstance(leaf, NF4)


def write(folder, tensors, shard=30_000):
    """In shards, so that a matrix and its scales may lie in two files."""
    write_hf(folder, tensors, ENTRIES, shard)
    return folder


def test_of_a_file_in_four_bits_a_word_says_how_it_is_multiplied_and_another_is_said_to_count_for_nothing(
    tmp_path, tensors, monkeypatch
):
    tokenizer = Letters("<start_of_turn>", "<end_of_turn>")
    monkeypatch.setattr(base.text, "load", lambda path: tokenizer)
    monkeypatch.setattr(base.text, "check", lambda *given: None)
    monkeypatch.setenv("ROLLTUNE_CACHE", str(tmp_path / "cache"))
    said: list[str] = []
    monkeypatch.setattr(base, "note", said.append)
    folder = write(tmp_path / "made", tensors)
    for word in ("nf4-float8", "nf4-float8", "nf4", "int8"):  # the second time out of the cache
        opened = base.open_model(str(folder), "letters", "float32", [(DECODER, word), (".*", "keep")])
        assert memory.encoding_of(SimpleNamespace(opened=opened)) is None  # nothing is packed that was not
        _, params = base.load_opened(opened)
        found = [leaf for leaf in jax.tree.leaves(params, is_leaf=is_packed) if is_packed(leaf)]
        assert len(found) == 7 and {leaf.float8 for leaf in found} == {word == "nf4-float8"}
        assert jax.tree.structure(trees.unflatten(opened.shapes())) == jax.tree.structure(params)
    assert len(said) == 1 and said[0].startswith("int8 counts for nothing where")


def test_a_model_in_four_bits_loads_as_what_it_stands_for(tmp_path, tensors):
    folder = write(tmp_path / "made", tensors)
    assert len(list(folder.glob("*.safetensors"))) > 3
    lazy = read_hf(folder)
    found = flatten(load_tree(lazy, TABLE, np.float32, "the model"))  # every name and shape fits the map
    kept = dict(bitsandbytes.stream_packed(lazy, TABLE, np.float32))
    assert kept.keys() == found.keys() and sum(isinstance(leaf, NF4) for leaf in kept.values()) == 7
    for row in TABLE:
        for layer in range(max(row.layers, 1)):
            name, ours = row.name(layer), found[row.path][layer] if row.layers else found[row.path]
            if not isinstance(lazy[name], PackedTensor):
                np.testing.assert_array_equal(ours, tensors[name].astype(np.float32).reshape(ours.shape))
                np.testing.assert_array_equal(kept[row.path], found[row.path])
                continue
            packed = kept[row.path]
            assert packed.shape == row.ours and packed.packed.dtype == np.uint8
            assert isinstance(packed.scales, DoubleScales) == ("mlp" not in name)
            one = packed.take(layer)
            np.testing.assert_array_equal(one.packed.reshape(-1, 1), tensors[name])
            np.testing.assert_array_equal(decode(one, ml_dtypes.bfloat16).T.astype(np.float32), ours)


def test_scales_that_are_stored_as_columns_mean_the_same(tmp_path, tensors):
    columns = {
        name: array.reshape(-1, 1) if name.endswith(("absmax", "quant_map")) else array
        for name, array in tensors.items()
    }
    plain, other = (read_hf(write(tmp_path / name, some)) for name, some in (("plain", tensors), ("columns", columns)))
    for name in plain:
        if isinstance(plain[name], PackedTensor):
            size = int(np.prod(plain[name].shape))
            np.testing.assert_array_equal(other[name].read(0, size), plain[name].read(0, size))
            jax.tree.map(np.testing.assert_array_equal, other[name].packed(), plain[name].packed())
            o, i = plain[name].shape
            if "mlp" in name:  # whose scales are not quantized themselves: a row's blocks stand beside each other
                assert plain[name].packed().scales.shape == (o, i // 64)


@pytest.mark.parametrize("width", [96, 95])  # 95: the last byte holds one value
def test_any_range_can_be_read_and_blocks_may_span_rows(tmp_path, width):
    count = 7 * width
    values = np.random.default_rng(0).standard_normal((1, count), np.float32)
    values = np.pad(values, ((0, 0), (0, -values.size % 64)))
    matrix = encode_nf4(values, double=False)
    expected = decode(matrix, np.float32).reshape(-1)[:count]
    stored = as_stored("x.weight", matrix, "float32")
    said = json.loads(stored["x.weight.quant_state.bitsandbytes__nf4"].tobytes()) | {"shape": [7, width]}
    stored["x.weight.quant_state.bitsandbytes__nf4"] = np.frombuffer(json.dumps(said).encode(), np.uint8)
    stored["x.weight"] = stored["x.weight"].reshape(-1)[: -(-count // 2)]
    if count % 2 == 0:
        stored["x.weight"] = stored["x.weight"].view(ml_dtypes.bfloat16)  # as other kinds of storage
    write_hf(tmp_path / "made", stored, {})
    lazy = read_hf(str(tmp_path / "made"))
    tensor = lazy["x.weight"]
    assert tensor.shape == (7, width)
    assert bitsandbytes.packed(lazy, layouts.linear("x", "x", width, 7)[0]) is None  # a product wants whole rows
    for start, stop in ((0, count), (0, 1), (63, 65), (101, 333), (640, count), (count - 1, count), (5, 5)):
        np.testing.assert_array_equal(tensor.read(start, stop), expected[start:stop], err_msg=f"{start} {stop}")
        into = np.empty(stop - start, np.float32)
        assert tensor.read(start, stop, into) is into and np.array_equal(into, expected[start:stop])


def changed(name, change):
    """The tensors with one of them changed, or without it for None."""

    def apply(tensors):
        tensor = tensors.pop(name)
        return tensors | ({} if (new := change(tensor)) is None else {name: new})

    return apply


def stated(**values):
    def change(tensor):
        said = json.loads(tensor.tobytes()) | values
        return np.frombuffer(json.dumps({k: v for k, v in said.items() if v is not None}).encode(), np.uint8)

    return changed(f"{Q}.quant_state.bitsandbytes__nf4", change)


Q = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (changed(f"{Q}.absmax", lambda x: None), "no absmax beside it"),
        (changed(f"{Q}.nested_quant_map", lambda x: None), "no nested_quant_map beside it"),
        (changed(f"{Q}.absmax", lambda x: x[:-1].copy()), r"absmax is uint8 \[63\], expected 64"),
        (changed(f"{Q}.quant_map", lambda x: x[::-1].copy()), "quant_map is not NF4's"),
        (changed(Q, lambda x: x[:-3].copy()), "2045 bytes hold 4090 values"),
        (changed(Q, lambda x: None), "its bytes are not in the file"),
        (stated(shape=[64]), r"shape \[64\]"),
        (stated(nested_blocksize=128), "nested_blocksize is 128"),
        (stated(dtype="float64"), "quant_state is no JSON with.*float64"),
        (changed(f"{Q}.quant_state.bitsandbytes__nf4", lambda x: x[:-9].copy()), "quant_state is no JSON"),
        (changed(f"{Q}.quant_state.bitsandbytes__nf4", lambda x: None), "uint8 without a quant_state"),
        (
            lambda tensors: {name.replace("__nf4", "__fp4") if Q in name else name: x for name, x in tensors.items()},
            "quantized as fp4",
        ),
    ],
)
def test_what_is_odd_is_named(tmp_path, tensors, spoil, message):
    folder = write(tmp_path / "made", spoil(tensors))
    with pytest.raises(UserError, match=rf"(?s){re.escape(str(folder))}.*{Q}.*{message}"):
        read_hf(folder)


def test_live_files_of_bitsandbytes(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed: CONTRIBUTING.md says how")
    theirs = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed").functional
    expected, made = {}, {}
    for number, dtype in enumerate((torch.bfloat16, torch.float16, torch.float32)):
        for double in (False, True):
            name = f"layers.{number}.{'double' if double else 'plain'}.weight"
            values = torch.randn(96, 128).to(dtype)
            packed, state = theirs.quantize_4bit(values, compress_statistics=double, quant_type="nf4")
            made |= {name: packed} | {f"{name}.{part}": x for part, x in state.as_dict(packed=True).items()}
            expected[name] = theirs.dequantize_4bit(packed, state).float().numpy()
    save_file({name: tensor.numpy() for name, tensor in made.items()}, tmp_path / "model.safetensors")
    lazy = read_hf(tmp_path)
    assert lazy.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(lazy[name].read(0, values.size).astype(np.float32), values.reshape(-1))
        packed = jax.tree.map(np.asarray, lazy[name].packed())
        np.testing.assert_array_equal(decode(packed, lazy[name].dtype).astype(np.float32), values)


def test_a_roll_is_merged_into_what_the_bits_stand_for(tmp_path, tensors):
    lazy = read_hf(write(tmp_path / "made", tensors))
    draw = np.random.default_rng(1)
    pair = {side: draw.standard_normal(shape, np.float32) for side, shape in (("a", (2, 64, 2)), ("b", (2, 2, 128)))}
    path = "text/layers/mlp/up/kernel"
    made = {row.path: MergedTensor(lazy, row, Change(pair, 0.5, 1) if row.path == path else None) for row in TABLE}
    write_hf(tmp_path / "merged", to_file(nest(made.items()), TABLE), {})
    again, old = (flatten(load_tree(one, TABLE, np.float32)) for one in (read_hf(tmp_path / "merged"), lazy))
    assert not any(isinstance(one, PackedTensor) for one in read_hf(tmp_path / "merged").values())
    np.testing.assert_allclose(again[path][1:], old[path][1:] + 0.5 * pair["a"] @ pair["b"], rtol=2**-8)
    np.testing.assert_array_equal(again[path][0], old[path][0])
    difference = compare(read_hf(tmp_path / "merged"), TABLE, made)
    assert difference.path == path and 0 < difference.largest < 0.1 and difference.share <= 1
    made[path] = MergedTensor(lazy, made[path].row)
    with pytest.raises(UserError, match="of layer 1 was read back"):
        compare(read_hf(tmp_path / "merged"), TABLE, made)
