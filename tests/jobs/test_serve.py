"""The page: what is dropped on it is answered or told, never a fault; and it answers nobody else."""

import asyncio
import io
import json
import struct
import zlib
from types import SimpleNamespace

import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from rolltune.errors import UserError
from rolltune.evaluation.predicted import Predicted
from rolltune.jobs import serve
from rolltune.jobs.predict import Answered

HOST = "127.0.0.1:8707"


class Stub:
    """Answers yes to all that is readable."""

    cards = (SimpleNamespace(prompt="Is it?"),)

    def answer(self, asked):
        line = lambda one: Predicted(one.source, one.id, (), "yes", {"no": 0.25, "yes": 0.75}, False, {}, ())
        return Answered([line(one) for one in asked.examples], asked.examples, asked.problems)


def call(path="/", method="GET", body=b"", app=None, **headers):
    """(status, headers, body) of a request to the application."""
    sent = []
    given = {"host": HOST, "content_length": str(len(body))} | headers
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "scheme": "http", "http_version": "1.1", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8707),
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in given.items() if v],
    }  # fmt: skip

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    asyncio.run((app or serve.application(Stub(), "best"))(scope, receive, send))
    kept = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], kept, b"".join(part.get("body", b"") for part in sent[1:]).decode()


def drop(files, **more):
    parts = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="' + name.encode()
        + b'"\r\nContent-Type: image/png\r\n\r\n' + data + b"\r\n" for name, data in files
    )  # fmt: skip
    form = {"content_type": "multipart/form-data; boundary=b", "origin": f"http://{HOST}"}
    status, _, text = call("/answers", "POST", parts + b"--b--\r\n", **(form | more))
    return status, json.loads(text)


def picture(kind="PNG", **more):
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(out, kind, **more)
    return out.getvalue()


def bomb():
    part = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = part(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + part(b"IDAT", zlib.compress(bytes(1000))) + part(b"IEND", b"")


def test_a_bomb_a_text_and_nothing_are_told_and_the_rest_is_answered():
    others = [Image.new("RGB", (8, 8), "blue")] * 3
    files = {
        "<b>ok</b>.png": picture(), "a.gif": picture("GIF", save_all=True, append_images=others), "bomb.png": bomb(),
        "notes.txt": b"hello", "cut.png": picture()[:40], "empty.png": b"", "../../etc/x\u202egnp.exe": picture(),
    }  # fmt: skip
    status, told = drop(files.items())
    assert status == 200 and [one["name"] for one in told][:6] == list(files)[:6]
    answered = [one["name"] for one in told if "rows" in one]
    assert answered == ["<b>ok</b>.png", "a.gif", "../../etc/x\\u202egnp.exe"]
    errors = {one["name"]: one["error"] for one in told if "error" in one}
    assert "bomb" in errors["bomb.png"] and "no known image format" in errors["notes.txt"]
    assert "empty" in errors["empty.png"] and not any("/" in text for text in errors.values())  # no folder of ours
    assert told[0]["rows"][0]["probabilities"] == {"no": 0.25, "yes": 0.75}


def test_too_much_at_once_and_half_a_request_are_refused_in_words():
    assert drop([(f"{n}.png", b"x") for n in range(serve.MOST_FILES + 1)])[0] == 400
    status, told = drop([("a.png", b"x")], content_length=str(serve.MOST_BYTES + 1))
    assert status == 413 and "MiB" in told["error"]
    assert drop([("a.png", b"x")], content_length="")[0] == 411
    assert drop([]) == (400, {"error": "no picture was sent"})
    assert call("/answers", "POST", b"junk", content_type="multipart/form-data; boundary=b")[0] == 400


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8707", "127.0.0.1.evil.example", "", "a b"])
def test_a_name_that_a_stranger_made_mean_this_machine_gets_nothing(host):
    for path in ("/", "/about", "/answers"):
        status, _, text = call(path, host=host)
        assert status == 421 and "roll" not in text


def test_another_page_cannot_ask():
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1:8707"):
        assert drop([("a.png", picture())], origin=origin)[0] == 403


@pytest.mark.parametrize("host", ["localhost:8707", "127.0.0.1", "[::1]:8707", "192.168.0.7:8707"])
def test_the_page_holds_itself_to_its_own_files(host):
    status, headers, page = call(host=host)
    rules = headers["content-security-policy"]
    assert status == 200 and "default-src 'none'" in rules and "unsafe" not in rules and "http" not in rules
    text = page + call("/page.css")[2] + call("/page.js")[2]
    own = text.replace("<!doctype", "").replace("http://www.w3.org/2000/svg", "")  # a name, which nobody fetches
    assert "//" not in own and "innerHTML" not in text and "<style" not in text
    assert " on" not in page and "style=" not in page  # no handlers or styles inline, which the rules would block


def test_a_port_that_is_taken_is_advice():
    with serve.listen("127.0.0.1", 0) as taken, pytest.raises(UserError, match="name another port"):
        serve.listen("127.0.0.1", taken.getsockname()[1])
