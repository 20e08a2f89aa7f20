"""Damaged, crafted and foreign files of weights: advice that names the file, never a traceback."""

import dataclasses
import io
import json
import random
import struct
import zipfile

import numpy as np
import pytest

from rolltune.errors import UserError
from rolltune.weights.checkpoint import open_checkpoint
from rolltune.weights.hf import INDEX, read_hf, read_json, write_hf
from rolltune.weights.names import flatten
from rolltune.weights.npz import META, read_npz
from rolltune.weights.roll_file import Base, RollCard, check_arrays, load_roll, nested_lora, read_card, save_roll

CARD = RollCard(Base("tiny", "ab" * 32), "lora", {"rank": 4}, "ok?", ["yes", "no"], {"passes": 1}, 7)
Q = "text/layers/attn/q/kernel"
TREE = {"text": {"layers": {"attn": {"q": {"kernel": {"a": np.ones((2, 6, 4), "f4"), "b": np.ones((2, 4, 8), "f4")}}}}}}


def npy(header: bytes, body: bytes = b"") -> bytes:
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def zipped(path, members: dict[str, bytes], flags: int = 0) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    if flags:
        raw = bytearray(path.read_bytes())
        for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            place = raw.find(mark)
            while place >= 0:
                raw[place + at] |= flags
                place = raw.find(mark, place + 4)
        path.write_bytes(raw)


HEADERS = {
    "cut": b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, ",
    "string left open": b"{'descr': '<f4, 'fortran_order': False, 'shape': (2,), }",
    "dedent": b"if 1:\n  2\n 3",
    "deep": b"(" * 500,
    "negative": b"{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -1), }",
    "past all memory": b"{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 9), }",
    "odd dtype": b"{'descr': [('a', '<f4', -1)], 'fortran_order': False, 'shape': (2,), }",
    "a number": b"5",
    "null": b"{'descr': None, 'fortran_order': None, 'shape': None, }",
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_damaged_array_header_is_advice(tmp_path, name):
    path = tmp_path / "x.npz"
    zipped(path, {"w.npy": npy(HEADERS[name], bytes(8)), f"{META}x.npy": npy(HEADERS[name], bytes(8))})
    with pytest.raises(UserError, match=r"x\.npz"):
        read_npz(path)
    zipped(path, {f"{META}.npy": npy(HEADERS[name], bytes(8))})
    with pytest.raises(UserError, match=r"x\.npz is (damaged|no roll)"):
        load_roll(path)


def test_members_that_are_encrypted_or_packed_in_an_unknown_way_are_advice(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.ones(2, np.float32))
    for flags in (1, 1 << 5, 1 << 6):
        zipped(tmp_path / "x.npz", {"w.npy": buffer.getvalue()}, flags)
        with pytest.raises(UserError, match=r"x\.npz is no readable npz \(.*\): damaged"):
            read_npz(tmp_path / "x.npz")
        zipped(tmp_path / "x.npz", {f"{META}.npy": buffer.getvalue()}, flags)
        with pytest.raises(UserError, match=r"x\.npz is damaged"):
            read_card(tmp_path / "x.npz")


def with_card(path, values: object) -> None:
    """The roll with another card in the place of its own; text is taken as it is."""
    text = values if isinstance(values, bytes) else json.dumps(values).encode()
    np.savez(path, **{META: np.frombuffer(text, np.uint8)}, **flatten(TREE))


def card_values() -> dict:
    listed = {name: ["float32", list(array.shape)] for name, array in flatten(TREE).items()}
    return {**dataclasses.asdict(CARD), "arrays": listed}


ODD = (None, True, -1, 2**70, 0.5, "", "\ud83d", [], [[]], {}, {"a": {"b": []}}, ["x", 1], "x" * 100_000)
FREE = {"recipe": dict, "metrics": dict, "seed": int, "version": int, "prompt": str, "method": str}


@pytest.mark.parametrize(
    "entry", [*card_values(), "base/name", "base/hash", "metrics/passes", "metrics/files", "arrays/a"]
)
def test_a_card_of_odd_values_is_advice_or_the_card(tmp_path, entry):
    *outer, name = entry.split("/")
    for odd in ODD:
        values = card_values()
        (values[outer[0]] if outer else values)[name] = odd
        with_card(tmp_path / "r.npz", values)
        try:
            card = load_roll(tmp_path / "r.npz").card
        except UserError as error:
            assert str(error).startswith(str(tmp_path / "r.npz")) and len(str(error)) < 1000
        else:
            assert dataclasses.asdict(card) == {key: value for key, value in values.items() if key != "arrays"}
            assert type(card.base.name) is type(card.base.hash) is str
            for key, kind in FREE.items():
                assert type(getattr(card, key)) is kind


def test_a_card_that_is_no_card_is_advice(tmp_path):
    for text in (b"[" * 100_000, b"9" * 5000, b"\xff\xfe", b"", b"[]", b'{"version": 1}', b'{"version": true}'):
        with_card(tmp_path / "r.npz", text)
        with pytest.raises(UserError, match=r"r\.npz"):
            read_card(tmp_path / "r.npz")


def test_half_a_character_in_a_card_comes_back(tmp_path):
    card = dataclasses.replace(CARD, prompt="cut \ud83d", answers=["はい", "\ude00"])
    save_roll(tmp_path / "r.npz", TREE, card)
    assert read_card(tmp_path / "r.npz") == card


SHAPES = {Q: (3, 6, 8), "text/norm/scale": (6,), "text/classes/kernel": (6, 2)}
STACKS = {"text/layers": (0, 1, 2)}


def test_arrays_that_do_not_fit_the_model_are_named_all_at_once():
    good = nested_lora(flatten(TREE)) | {"text/norm/scale": np.ones(6), "text/classes/kernel": np.ones((6, 2))}
    check_arrays("r.npz", good, SHAPES, STACKS, 1, 4)
    bad = {
        Q: {"a": np.ones((2, 6, 4)), "b": np.ones((2, 4, 9))},
        "text/norm/scale": np.ones(5),
        "text/classes/kernel": {"a": np.ones((6, 4))},
        "text/layers/attn/z/kernel": np.ones(1),
    }
    with pytest.raises(UserError) as refused:
        check_arrays("r.npz", bad, SHAPES, STACKS, 1, 4)
    assert str(refused.value).splitlines() == [
        "r.npz does not fit the model:",
        "  text/classes/kernel: an adapter with a only, expected a and b",
        f"  {Q}: b [2, 4, 9], expected [2, 4, 8] (rank 4)",
        "  text/layers/attn/z/kernel: the model has no such parameter",
        "  text/norm/scale: [5], the model has [6]",
        "  Give the model that it was trained on.",
    ]
    for first_layer, rank, message in (
        (0, 4, r"a \[2, 6, 4\], expected \[3, 6, 4\]"),
        (1, 2, r"a \[2, 6, 4\], expected \[2, 6, 2\] and b \[2, 4, 8\]"),
        (3, 4, "below"),
    ):
        with pytest.raises(UserError, match=message):
            check_arrays("r.npz", nested_lora(flatten(TREE)), SHAPES, STACKS, first_layer, rank)


def test_an_index_of_odd_types_is_advice(tmp_path):
    for odd in (*ODD, {"a": ["x"]}, {"a": {}}, {"a": "../x"}, {"a": ".."}, {"a": "\0"}, {"a": 1, "b": "x"}):
        (tmp_path / INDEX).write_text(json.dumps({"weight_map": odd}))
        with pytest.raises(UserError, match=r"index\.json: expected a weight_map|lacks "):
            read_hf(tmp_path)
    for text in ("[" * 100_000, "9" * 5000, '{"a": ', "[]", "\x00"):
        (tmp_path / INDEX).write_text(text)
        with pytest.raises(UserError, match=r"index\.json"):
            read_hf(tmp_path)
    with pytest.raises(UserError, match="can't be read: Is a directory"):
        read_json(tmp_path)


def test_paths_that_no_file_can_have_are_advice():
    for path in ("x" * 5000, "a\0b", "/proc/self/mem/x.npz"):
        with pytest.raises(UserError):
            open_checkpoint(path)


def base_files(folder) -> None:
    """One small base in each form that is read."""
    arrays = {"llm/w": np.arange(6, dtype=np.float32).reshape(2, 3), "img/b": np.ones(2, np.float16)}
    np.savez(folder / "stored.npz", **arrays)
    np.savez_compressed(folder / "packed.npz", **arrays)
    write_hf(folder / "hf", arrays, {"model_type": "paligemma"}, shard=8)


@pytest.mark.parametrize(
    "name", ["stored.npz", "packed.npz", "hf/config.json", f"hf/{INDEX}", "hf/model-00001-of-00002.safetensors"]
)
def test_any_damaged_byte_of_a_base_is_advice_or_a_base(tmp_path, name):
    """A base's own values are not checked here: their digest is what tells a changed one apart."""
    base_files(tmp_path)
    path, draw = tmp_path / name, random.Random(5)
    good = path.read_bytes()
    for number in range(300):
        bad = bytearray(good)
        at = draw.randrange(len(bad))
        if number % 4 == 0:
            del bad[at:]
        elif number % 4 == 1:
            bad[at : at + draw.randrange(1, 9)] = draw.randbytes(4)
        else:
            bad[at] = draw.randrange(256)
        path.write_bytes(bad)
        try:
            opened = open_checkpoint(path.parent if name.startswith("hf/") else path)
            for tensor in opened.tensors.values():
                tensor.read(0, int(np.prod(tensor.shape)))
        except UserError as error:
            assert str(tmp_path) in str(error)
