"""Tokenizer files: what they say of texts, and what is refused."""

import json
import shutil

import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rolltune import base
from rolltune.errors import UserError
from rolltune.families import catalogue
from rolltune.text import tokenizer
from rolltune.tiny.feed import TOKENIZER

TINY = tokenizer.load(TOKENIZER)
NAMES = ["paligemma", "gemma", "mistral", "llama3", "phi3"]


@pytest.mark.parametrize("name", NAMES)
def test_any_text_comes_back(published, name):
    known = published(name)

    @given(st.text("abZ09 \n\t?é漢😀ß‮", max_size=20))
    def back(text):
        ids = known.encode(text)
        assert known.decode([*ids, known.eos, 5]) == text and all(0 <= i < known.size for i in ids)
        assert not {known.bos, known.eos, known.pad} & set(ids)

    back()


@pytest.mark.parametrize(
    ("name", "ids", "size"),
    [
        ("paligemma", (2, 1, 0), 257152),
        ("gemma", (2, 1, 0), 256000),
        ("mistral", (1, 2, 32001), 32002),
        ("llama3", (128000, 128001, 128004), 128257),
        ("phi3", (1, 32000, 32000), 32045),
    ],
)
def test_special_ids(published, name, ids, size):
    known = published(name)
    assert ((known.bos, known.eos, known.pad), known.size) == (ids, size)
    with pytest.raises(UserError, match=r"has no token <\|nothing\|>"):
        known.special("<|nothing|>")


def test_both_forms_of_one_tokenizer_give_the_same(shared, published):
    other = tokenizer.load(shared("tokenizers/gemma/tokenizer.json"))
    ours = published("gemma")
    assert (other.bos, other.eos, other.pad, other.size) == (ours.bos, ours.eos, ours.pad, ours.size)
    for text in ("A cat.", " two  spaces\n\n\n", "😀 漢字 é", "x<b>bold</b>", ""):
        assert other.encode(text) == ours.encode(text), text
    assert other.special("<start_of_turn>") == ours.special("<start_of_turn>") == 106


def test_a_text_can_not_speak_as_a_special_token(published):
    for name, text in (("llama3", "<|eot_id|>"), ("phi3", "<|end|>"), ("mistral", "</s>"), ("gemma", "<eos>")):
        known = published(name)
        assert known.special(text) not in known.encode(f"a {text} b")
        assert known.decode(known.encode(f"a {text} b")) == f"a {text} b"
    places = published("paligemma").encode("<loc0123><seg001>")
    assert places == [256123, 257025]


def test_ids_beyond_the_pieces_have_no_text(published):
    assert published("mistral").decode([330, 5255, 32000, 32063]) == "A cat"
    assert published("phi3").decode([319, 6635, 32063]) == "A cat"
    assert published("mistral").special("<image>") == 32000


def test_what_a_file_was_written_with_does_not_cut_rows(shared, tmp_path):
    held = json.loads(shared("tokenizers/phi3_vision/tokenizer.json").read_text())
    held["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(held))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "<unk>"}}))
    known = tokenizer.load(tmp_path / "tokenizer.json")
    assert len(known.encode("one two three")) == 3 and known.pad == 0
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer_config\.json: not JSON"):
        tokenizer.load(tmp_path / "tokenizer.json")


def test_files_that_are_no_tokenizer_say_what_they_are(tmp_path):
    cases = {
        "empty/tokenizer.model": (b"", "it is empty"),
        "pointer/tokenizer.model": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        "ranks/tokenizer.model": (b"IQ== 0\nIg== 1\n", r"give the tokenizer\.json"),
        "json/tokenizer.model": (b'{"version": "1.0"}', "it holds JSON"),
        "cut/tokenizer.model": (TOKENIZER.read_bytes()[:1000], "not a SentencePiece model"),
        "cut/tokenizer.json": (b'{"version": "1.0", "mod', "it may be cut"),
        # It can be opened, and fails at the first word that it does not know.
        "lacking/tokenizer.json": (
            b'{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "?"}}',
            "not a tokenizer.json .*UNK",
        ),
        "other/tokenizer_config.json": (b"{}", r"tokenizer\.json is the file wanted"),
    }
    for name, (content, expected) in cases.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        with pytest.raises(UserError, match=expected) as found:
            tokenizer.load(path)
        assert str(path) in str(found.value)
    with pytest.raises(UserError, match="no tokenizer file there"):
        tokenizer.load(tmp_path / "nothing.model")
    with pytest.raises(UserError, match="this is a folder; and no tokenizer"):
        tokenizer.load(tmp_path)
    with pytest.raises(UserError, match=r"name the file: .*cut/tokenizer\.model"):
        tokenizer.load(tmp_path / "cut")
    shutil.copy(TOKENIZER, tmp_path / "spiece.model")
    assert tokenizer.load(tmp_path / "spiece.model").encode("yes") == TINY.encode("yes")


def test_a_tokenizer_of_another_model_is_refused():
    specials = {"bos": TINY.bos, "eos": TINY.eos}
    for rows in (TINY.size, TINY.size + 64):
        tokenizer.check(TINY, rows, specials, "weights.npz")
    for rows in (TINY.size - 1, TINY.size + 65, 257152):
        with pytest.raises(
            UserError, match=rf"weights\.npz: the model has {rows} rows of embedding, the tokenizer 1024"
        ):
            tokenizer.check(TINY, rows, specials, "weights.npz")
    with pytest.raises(UserError) as found:
        tokenizer.check(TINY, TINY.size, {"bos": 77, "<|user|>": 32010}, "weights.npz")
    message = str(found.value)
    assert str(TOKENIZER) in message and f"bos is 77 for the model, {TINY.bos} for the tokenizer" in message
    assert "<|user|> (32010) is not in the tokenizer" in message


FAMILY_OF = {"paligemma": "PaliGemma", "mistral": "LLaVA-NeXT", "llama3": "mllama", "phi3": "Phi-3-vision"}
ROWS = {"paligemma": 257216, "mistral": 32064, "llama3": 128264, "phi3": 32064}


@pytest.mark.parametrize("model", FAMILY_OF)
def test_each_family_takes_its_own_tokenizer_and_no_other(published, model):
    family = next(one for one in catalogue.FAMILIES if one.name == FAMILY_OF[model])
    tokenizer.check(published(model), ROWS[model], family.special_ids, "weights")
    for other in {*NAMES, "tiny"} - {model}:
        known = TINY if other == "tiny" else published(other)
        with pytest.raises(
            UserError, match=r"is not the tokenizer of weights: (the model has|\w+ is|the model's token)"
        ):
            tokenizer.check(known, ROWS[model], family.special_ids, "weights")


@pytest.mark.parametrize("name", NAMES)
def test_the_tiny_model_refuses_the_tokenizers_of_others(published, name):
    with pytest.raises(
        UserError, match=r"of .*paligemma-tiny\.npz \(PaliGemma\): the model has 1024 rows of embedding, the"
    ):
        base.load("tiny", str(published(name).path), "float32")


def test_a_tokenizer_of_fewer_pieces_is_refused(tmp_path):
    """Its ids would all be valid, and every one of them wrong."""
    trainer = sentencepiece.SentencePieceTrainer
    lines = iter(["is it ok? yes no maybe", "what is in the picture"] * 50)
    settings = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "minloglevel": 9, "hard_vocab_limit": False}
    with (tmp_path / "small.model").open("wb") as file:
        trainer.train(sentence_iterator=lines, model_writer=file, vocab_size=60, **settings)
    with pytest.raises(UserError, match=r"1024 rows of embedding, the tokenizer \d\d tokens \(expected 960 to 1024\)"):
        base.load("tiny", str(tmp_path / "small.model"), "float32")


@given(st.integers(0, 10**6), st.integers(0, 255), st.booleans())
@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_advice_or_a_tokenizer(tmp_path, at, byte, cut):
    good = TOKENIZER.read_bytes()
    at %= len(good)
    (tmp_path / "bad.model").write_bytes(good[:at] if cut else good[:at] + bytes([byte]) + good[at + 1 :])
    held = (
        b'{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}, "added_tokens": []}'
    )
    at %= len(held)
    (tmp_path / "bad.json").write_bytes(held[:at] if cut else held[:at] + bytes([byte]) + held[at + 1 :])
    for name in ("bad.model", "bad.json"):
        try:
            known = tokenizer.load(tmp_path / name)
        except UserError as error:
            assert name in str(error)
        else:
            assert all(0 <= number < known.size for number in known.encode("is it ok?"))


def test_files_beside_it_that_can_not_be_read_are_advice(shared, tmp_path):
    shutil.copy(shared("tokenizers/phi3_vision/tokenizer.json"), tmp_path)
    for text in ("[" * 100_000, "9" * 5000, "\x00", "[]", '{"bos_token": []}', '{"bos_token": {"content": 5}}'):
        (tmp_path / "tokenizer_config.json").write_text(text)
        try:
            assert tokenizer.load(tmp_path / "tokenizer.json").bos == 1
        except UserError as error:
            assert "tokenizer_config.json: not JSON" in str(error)
    with pytest.raises(UserError, match="File name too long; correct the tokenizer's path"):
        tokenizer.load("x" * 5000)
