"""Text that people write is read whatever their editor makes of it; what is written can be read again."""

import hashlib
import json
import os

import pytest

from rolltune.data.files import (
    distinct,
    json_text,
    jsonl_text,
    parse_json,
    read_json,
    read_text,
    relative,
    sha256_of,
    write_jsonl,
)
from rolltune.data.findings import Finding, quoted
from rolltune.data.sources import scan_source
from rolltune.errors import UserError

TEXT = "caf\u00e9 {answers}?\r\nzwei"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_mark_at_the_beginning_says_the_encoding_and_is_no_text(encoding, tmp_path):
    (tmp_path / "prompts.txt").write_bytes(TEXT.encode(encoding))
    assert read_text(tmp_path / "prompts.txt") == TEXT
    (tmp_path / "names.json").write_bytes('{"a": 1}'.encode(encoding))
    assert read_json(tmp_path / "names.json") == {"a": 1}


def test_what_is_no_text_is_named(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes(b"one\ntw\xf6")
    with pytest.raises(UserError, match=r"t\.txt:2: not UTF-8: byte 0xf6"):
        read_text(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"t\.txt: begins like UTF-16"):
        read_text(path)
    with pytest.raises(UserError, match="there is no such file"):
        read_text(tmp_path / "none")
    with pytest.raises(UserError, match="not a plain file: a folder"):
        read_text(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "data.jsonl")
    with pytest.raises(UserError, match=r"data\.jsonl: not a plain file: a pipe"):
        scan_source(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "1" * 10_000, '{"a": tru}'])
def test_json_that_cannot_be_read_is_advice(text):
    with pytest.raises(UserError, match=r"^names: not JSON"):
        parse_json(text, "names")


def test_half_an_emoji_can_be_written_and_read_again(tmp_path):
    row = {"id": "\ud83d", "text": "日本 \U0001f600"}
    write_jsonl(tmp_path / "a.jsonl", [row])
    assert json.loads((tmp_path / "a.jsonl").read_text(encoding="utf-8")) == row
    assert jsonl_text([row]) == '{"id": "\\ud83d", "text": "日本 \U0001f600"}\n' and json_text("\ud83d") == '"\\ud83d"'


def test_no_text_steers_what_it_is_shown_on():
    told = str(Finding("error", "bad row", "a\x1b[2J.jsonl:1", "x\u202ey\x07", "z\u2066\ud800\x9b"))
    assert told == r"a\x1b[2J.jsonl:1: x\u202ey\x07 (z\u2066\ud800\x9b)"
    plain = "日本 👩\u200d🌾 می\u200cخواهم"
    assert str(Finding("error", "bad row", "a", plain)) == f"a: {plain}"


def test_values_are_shown_by_their_beginning():
    assert quoted("a" * 40) == repr("a" * 40)
    assert quoted("a" * 10**6) == repr("a" * 40) + "... (1000000 characters)"
    assert len(quoted(list(range(1000)))) < 50


def test_two_files_never_have_one_name():
    taken: dict[str, str] = {}
    assert distinct("a.png", "x?/a.png", taken) == "a.png" == distinct("a.png", "x?/a.png", taken)
    other = distinct("A.png", "y/A.png", taken)  # the letter case counts nowhere but on some systems
    assert other.startswith("A-") and other.endswith(".png") and len(other) == len("A-12345678.png")
    third = distinct("a.png", "z/a.png", taken)
    assert (
        len({one.casefold() for one in ("a.png", other, third)}) == 3 and distinct("a.png", "z/a.png", taken) == third
    )
    assert distinct("none", "z", taken) == "none" and distinct("none", "w", taken).startswith("none-")


def test_paths_are_relative_to_the_file_that_names_them(tmp_path):
    assert relative(tmp_path / "set/images/a.png", tmp_path / "set") == "images/a.png"
    assert relative(tmp_path / "images/a.png", tmp_path / "set/fold1") == "../../images/a.png"
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
