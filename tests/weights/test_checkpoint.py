"""Files that are not what they seem are named, and reading stays within its memory."""

import io
import json
import shutil
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
from paligemma_files import open_npz

from rolltune.errors import UserError
from rolltune.weights import names
from rolltune.weights.checkpoint import open_checkpoint
from rolltune.weights.hf import module_name, published_names, read_hf, write_hf
from rolltune.weights.names import TensorMap, flatten, keep, load_tree, pick, stream, turn
from rolltune.weights.npz import read_npz, write_npz


def test_every_form_is_found(oracle, tmp_path):
    npz, folder = oracle("paligemma1/bv_f32.npz"), oracle("paligemma1/hf_published")
    shutil.copy(npz, tmp_path / "paligemma-3b.bf16.npz")
    opened = open_checkpoint(tmp_path)  # a folder with one npz is that npz
    assert opened.name == "paligemma-3b.bf16" and opened.config is None
    assert opened.shapes["img/head/kernel"] == (32, 48)
    for path in (folder, folder / "model.safetensors"):
        opened = open_checkpoint(path)
        assert opened.config["model_type"] == "paligemma" and opened.name == "hf_published"
    shutil.copy(npz, tmp_path / "other.npz")
    with pytest.raises(UserError, match=r"several models: name one of other.npz, paligemma-3b.bf16.npz"):
        open_checkpoint(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        open_checkpoint(tmp_path / "none")


@pytest.mark.parametrize("keep_bytes", [0, 100, 300_000, 551_000])
def test_cut_off_npz(oracle, tmp_path, keep_bytes):
    (tmp_path / "cut.npz").write_bytes(oracle("paligemma1/bv_f32.npz").read_bytes()[:keep_bytes])
    with pytest.raises(UserError, match=r"cut.npz is no readable npz"):
        read_npz(tmp_path / "cut.npz")


def test_npz_that_holds_other_things(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.array([{}], dtype=object), b=np.arange(3), c=np.ones(2, np.float32))
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(UserError) as error:
        read_npz(tmp_path / "x.npz")
    text = str(error.value)
    assert "a: Python objects (pickle), which are never loaded" in text
    assert "b: dtype int64" in text and "readme.txt: not an array" in text and "c:" not in text


@pytest.mark.parametrize("values", [3, 7])
@pytest.mark.parametrize("compressed", [False, True])
def test_an_array_shorter_or_longer_than_its_header_says_is_named(tmp_path, values, compressed):
    """Read by its header, the next member's bytes would be taken for weights."""
    whole = io.BytesIO()
    np.save(whole, np.ones(5, np.float32))
    header = whole.getvalue()[: -5 * 4]
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(tmp_path / "x.npz", "w", kind) as archive:
        archive.writestr("good.npy", whole.getvalue())
        archive.writestr("bad.npy", header + np.ones(values, np.float32).tobytes())
    with pytest.raises(UserError, match=rf"bad: {values * 4} bytes, expected 20 for shape \[5\]") as error:
        read_npz(tmp_path / "x.npz")
    assert "good" not in str(error.value)


def test_damaged_compressed_member(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", a=np.random.default_rng(0).standard_normal(50_000).astype("f4"))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[100_000] ^= 0xFF
    (tmp_path / "x.npz").write_bytes(content)
    tensor = read_npz(tmp_path / "x.npz")["a"]
    with pytest.raises(UserError, match=r"a\.npy is damaged"):
        tensor.read(0, 50_000)


def test_cut_off_safetensors_and_shards(oracle, tmp_path):
    folder = oracle("paligemma1/hf_published")
    (tmp_path / "cut.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-5])
    with pytest.raises(UserError, match="no readable safetensors"):
        read_hf(tmp_path / "cut.safetensors")
    (tmp_path / "lfs.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(UserError, match="Git LFS pointer"):
        read_hf(tmp_path / "lfs.safetensors")
    with pytest.raises(UserError, match="several safetensors files"):
        read_hf(tmp_path)
    arrays = {f"w{i}": np.full(10, i, np.float32) for i in range(3)}
    write_hf(tmp_path / "model", arrays, {"model_type": "x"}, shard=40)
    assert {name: tensor.read(0, 1)[0] for name, tensor in read_hf(tmp_path / "model").items()} == dict(
        zip(arrays, range(3), strict=True)
    )
    (tmp_path / "model/model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match=r"lacks model-00002-of-00003.safetensors: the download was not finished"):
        read_hf(tmp_path / "model")
    index = tmp_path / "model/model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w0": "../../etc/x"}}))
    with pytest.raises(UserError, match="expected a weight_map"):
        read_hf(tmp_path / "model")
    index.write_text("{\n oops")
    with pytest.raises(UserError, match=r"index.json:2: not JSON"):
        read_hf(tmp_path / "model")
    with pytest.raises(UserError, match="not an empty folder"):
        write_hf(tmp_path / "model", arrays, {})


def test_pickled_weights_are_not_loaded(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=r"pytorch_model.bin are pickles, which are never loaded"):
        read_hf(tmp_path)


@pytest.mark.parametrize("compressed", [False, True])
def test_loading_needs_the_tree_and_one_layer(tmp_path, monkeypatch, compressed):
    """40 MB in float32 become 20 MB of bfloat16, with less than a tenth more on the way."""
    table = [
        TensorMap("embed", "embed", (20_000, 100), keep(20_000, 100)),
        TensorMap("gate", "both", (200, 500), pick((2, 200, 500), 0, (0, 1)), 20),
        TensorMap("up", "both", (200, 500), pick((2, 200, 500), 1, (0, 1)), 20),
        TensorMap("q", "q", (200, 500), turn((500, 200), (1, 0)), 40),
    ]
    rng = np.random.default_rng(0)
    shapes = {name: shape for row in table for name, shape in row.in_file().items()}
    arrays = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    (np.savez_compressed if compressed else np.savez)(tmp_path / "x.npz", **arrays)
    lazy = read_npz(tmp_path / "x.npz")
    monkeypatch.setattr(names, "CHUNK", 100_000)  # parts as small beside this file as the real ones beside theirs
    tracemalloc.start()
    tree = load_tree(lazy, table, dtype=ml_dtypes.bfloat16)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = sum(array.nbytes for array in tree.values())
    assert peak < 1.1 * size, f"{peak / size:.2f} times the tree"
    np.testing.assert_array_equal(tree["up"], arrays["both"][:, 1].astype(ml_dtypes.bfloat16))
    np.testing.assert_array_equal(tree["q"], arrays["q"].transpose(0, 2, 1).astype(ml_dtypes.bfloat16))
    np.testing.assert_array_equal(tree["embed"], arrays["embed"].astype(ml_dtypes.bfloat16))


def test_streaming_gives_one_tensor_at_a_time(oracle):
    lazy, rows, _ = open_npz(oracle("paligemma1/bv_f32.npz"))
    given = stream(lazy, rows)
    path, array = next(given)
    assert path == rows[0].path and array.shape == rows[0].ours
    assert [path, *(path for path, _ in given)] == [row.path for row in rows]
    assert list(flatten(load_tree(lazy, rows))) == [row.path for row in rows]


def test_bfloat16_is_written_as_big_vision_does(tmp_path):
    value = np.arange(6, dtype=np.float32).reshape(2, 3).astype(ml_dtypes.bfloat16)
    write_npz(tmp_path / "x.npz", {"a/b": value, "c": np.float32(3)}, prefix="params/")
    plain = np.load(tmp_path / "x.npz")
    assert plain["params/a/b"].dtype.str == "|V2" and plain["params/c"].shape == ()
    np.testing.assert_array_equal(plain["params/a/b"].view(ml_dtypes.bfloat16), value)
    assert read_npz(tmp_path / "x.npz")["a/b"].dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("fortran", [False, True])
def test_any_part_of_a_tensor_is_read_in_any_order(tmp_path, compressed, fortran):
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "x.npz", a=np.asfortranarray(values) if fortran else values, b=np.zeros(1, np.float32))
    tensor = read_npz(tmp_path / "x.npz")["a"]
    assert tuple(tensor.shape) == (4, 6) and tensor.dtype == np.float32
    for start, stop in ((0, 24), (5, 9), (9, 24), (0, 1), (23, 24), (0, 24)):
        np.testing.assert_array_equal(tensor.read(start, stop), np.arange(start, stop, dtype=np.float32))
        out = np.zeros(stop - start, np.float32)
        assert tensor.read(start, stop, out) is out
        np.testing.assert_array_equal(out, np.arange(start, stop, dtype=np.float32))


NAMES = (
    "language_model.model.layers.0.mlp.up_proj.weight",
    "language_model.model.embed_tokens.weight",
    "language_model.lm_head.weight",
    "vision_tower.vision_model.encoder.layers.3.layer_norm1.bias",
    "multi_modal_projector.linear.weight",
    "vision_model.global_transformer.layers.1.gate_attn",
    "image_newline",
)


def test_names_of_today_and_published_ones_are_each_other_s_inverse():
    today = [module_name(name) for name in NAMES]
    assert today[0] == "model.language_model.layers.0.mlp.up_proj.weight" and today[2] == "lm_head.weight"
    assert today[3] == "model.vision_tower.encoder.layers.3.layer_norm1.bias"
    assert published_names(today) == dict(zip(today, NAMES, strict=True))
    assert published_names(NAMES) == {name: name for name in NAMES}
    text = ["model.layers.0.mlp.up_proj.weight", "lm_head.weight"]
    assert published_names(text) == {name: name for name in text} and [module_name(name) for name in text] == text


def test_shards_are_those_of_the_index_or_the_one_file(tmp_path):
    tensors = {f"{name}.weight": np.full((2, 3), n, np.float32) for n, name in enumerate("abcd")}
    write_hf(tmp_path / "one", tensors, {})
    assert [path.name for path in sorted((tmp_path / "one").iterdir())] == ["config.json", "model.safetensors"]
    write_hf(tmp_path / "two", tensors, {}, shard=48)  # two of 24 bytes fit exactly
    assert sorted(path.name for path in (tmp_path / "two").glob("*.safetensors")) == [
        f"model-0000{n}-of-00002.safetensors" for n in (1, 2)
    ]
    for folder in ("one", "two"):
        found = read_hf(tmp_path / folder)
        assert {name: found[name].read(0, 6).tolist() for name in found} == {
            name: [float(n)] * 6 for n, name in enumerate(tensors)
        }
    index = tmp_path / "two/model.safetensors.index.json"
    assert json.loads(index.read_text())["metadata"] == {"total_size": 96}
    index.unlink()
    with pytest.raises(UserError, match="holds several safetensors files and no"):
        read_hf(tmp_path / "two")
    shutil.copy(tmp_path / "one/model.safetensors", tmp_path / "two")
    assert set(read_hf(tmp_path / "two")) == set(tensors)  # the whole one goes before its shards


def test_a_file_that_is_cut_off_or_deleted_after_it_was_opened_is_told(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.zeros(1000, np.float32), b=np.zeros(4, np.float32))
    tensors = read_npz(path)
    path.write_bytes(path.read_bytes()[:2000])
    assert not tensors["a"].read(0, 100).any()
    with pytest.raises(UserError, match=r"x\.npz ends too early: it was cut off"):
        tensors["a"].read(0, 1000)
    path.unlink()
    with pytest.raises(UserError, match=r"x\.npz can't be read any more"):
        tensors["b"].read(0, 4)
