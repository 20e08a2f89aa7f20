"""Whatever stands in a file of rows, it is read or told with its place: no other exception, and no endless message."""

import copy
import json
import random

import pytest
from PIL import Image

from rolltune.data.files import jsonl_text
from rolltune.data.rows import rebased
from rolltune.data.sources import scan_source
from rolltune.errors import UserError

TURNS = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "image_url", "image_url": {"url": "a.png"}}]},
    {"role": "assistant", "content": "a"},
]
ROWS = [
    {"prefix": "q", "suffix": "a", "image": "a.png", "id": 1, "group": "g", "answers": ["a"], "more": {"x": ["a.png"]}},
    {"prefix": "q", "suffix": "a", "images": ["a.png", "a.png"], "objects": {}},
    {"conversations": [{"images": ["a.png"], "user": "<|image_1|>q", "assistant": "a"}], "system": "s"},
    {"conversations": [{"from": "human", "value": "<image>q", "image": "a.png"}, {"from": "gpt", "value": "a"}]},
    {"messages": TURNS},
    {"prompt": TURNS[:2], "completion": TURNS[2:]},
    {"instruction": "q", "input": "i", "output": "a", "history": [["q", "a"]], "img": "a.png"},
]
ODD = [None, 5, 1e400, True, "", "\ud83d", "\0", "x" * 10**5, [], {}, [[]], [None], {"a": 1}, "a.png", "\x1b\u202e", -1]
ODD += [["a.png"], {"url": 5}, {"type": "text"}, "../x", "/" * 5000, "a.png/b"]


def places(value, path=()):
    yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*path, key))


def changed(row, path, value):
    row = copy.deepcopy(row)
    inside = row
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return row


def look(path, answered=True):
    try:
        scan = scan_source(path, answered=answered)
    except UserError as error:
        assert path.name in str(error) and len(str(error)) < 800
        return None
    assert all(len(str(finding)) < 800 and "\x1b" not in str(finding) for finding in scan.findings)
    jsonl_text(rebased(row, path.parent, path.parent.parent) for row in scan.rows).encode()
    return scan


@pytest.mark.parametrize("answered", [True, False])  # False: rows may lack their answers
def test_every_value_may_be_anything(tmp_path, answered):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    rows = [changed(row, path, odd) for row in ROWS for path in places(row) if path for odd in ODD]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text)
    scan = look(tmp_path / "rows.jsonl", answered)
    assert len(rows) > 1000 and len(scan.examples) + len({one.where for one in scan.findings}) >= len(rows)
    assert len(scan.examples) > 100


def test_rows_that_move_to_another_folder_show_the_same_pictures(tmp_path):
    below = tmp_path / "below"
    below.mkdir()
    Image.new("L", (4, 4)).save(below / "a.png")
    (below / "rows.jsonl").write_text(jsonl_text(ROWS))
    before = look(below / "rows.jsonl")
    (tmp_path / "rows.jsonl").write_text(jsonl_text(rebased(row, below, tmp_path) for row in before.rows))
    after = look(tmp_path / "rows.jsonl")
    same = lambda one: (one.turns, [path.resolve() for path in one.images], one.group, one.accepted)
    assert len(before.examples) == len(ROWS) and not after.findings
    assert list(map(same, after.examples)) == list(map(same, before.examples))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.tsv"])
def test_every_byte_may_be_any(name, tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    rng = random.Random(name)
    table = 'id,prefix,suffix,images,x\n1,q,a,"[""a.png""]",a.png\n2,"q\nr",b,a.png,\n'
    table = table.replace(",", "\t") if name.endswith("tsv") else table
    odd = (b'"', b"\\ud800", b"{", b"[", b"\xff", b"\0", b",")
    whole = {"rows.jsonl": jsonl_text(ROWS), "rows.json": json.dumps(ROWS)}.get(name, table).encode()
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(data))
            data[place : place + rng.choice((0, 1, 1, 5))] = rng.choice(odd)
        (tmp_path / name).write_bytes(bytes(data) if rng.random() < 0.9 else bytes(data[: rng.randrange(len(data))]))
        look(tmp_path / name)


MANIFESTS = ["", "{", "[" * 100_000, "5", "{}"]
MANIFESTS += [f'{{"image_root": {value}}}' for value in ("5", "null", '"\\u0000"')]


def test_a_damaged_manifest_is_told(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"prefix": "q", "suffix": "a"}\n')
    for text in MANIFESTS:
        (tmp_path / "split.json").write_text(text)
        with pytest.raises(UserError, match=r"split\.json: not a manifest of a split"):
            scan_source(tmp_path / "train.jsonl")
