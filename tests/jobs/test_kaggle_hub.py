"""Exports onto Kaggle, by the library's own code, against a server of this machine that answers as Kaggle does."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rolltune.__main__ import main
from rolltune.errors import UserError
from rolltune.jobs.kaggle_hub import check_kaggle, check_login, upload_kaggle

KEY = "0123456789abcdef0123456789abcdef"


class Kaggle:
    """What it was asked, and what it knows of models: None there is none, else whether it is private."""

    def __init__(self):
        self.private: bool | None = None
        self.status = 200
        self.calls: list[tuple[str, dict]] = []
        self.blobs: list[bytes] = []
        self.authorized: set[str | None] = set()

    def answer(self, name: str, asked: dict) -> tuple[int, dict]:
        self.calls.append((name, asked))
        if self.status != 200:
            return self.status, {"code": self.status, "message": f"no entry with {KEY}"}
        if name == "Hello":
            return 200, {"userName": "somebody"}
        if name == "GetModel":
            if self.private is None:
                return 404, {"code": 404, "message": "not found"}
            return 200, {"isPrivate": self.private}
        if name == "CreateModel":
            self.private = asked["isPrivate"]
        if name == "StartBlobUpload":
            return 200, {"token": asked["name"], "createUrl": f"{self.place}/blob"}
        return 200, {}


@pytest.fixture
def kaggle(monkeypatch, tmp_path):
    kaggle_env = pytest.importorskip("kagglesdk.kaggle_env")
    known = Kaggle()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            known.authorized.add(self.headers["Authorization"])
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.reply(*known.answer(self.path.rpartition("/")[2], asked))

        def do_PUT(self):
            known.blobs.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.reply(200, {})

        def reply(self, status, told):
            body = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_): ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    known.place = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, known.place)
    for name, value in {
        "KAGGLE_API_ENVIRONMENT": "LOCALHOST", "NO_PROXY": "127.0.0.1", "HOME": str(tmp_path / "home"),
        "KAGGLE_USERNAME": "somebody", "KAGGLE_KEY": KEY,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("KAGGLE_API_TOKEN", raising=False)
    yield known
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "best-set1-peft"
    made.mkdir()
    (made / "README.md").write_text("a page")
    (made / "adapter_model.safetensors").write_bytes(b"weights")
    (made / "best.whole.json").write_text("marks of pictures")
    return made


def names(kaggle):
    return [name for name, _ in kaggle.calls]


def test_a_new_model_is_private_with_its_licence_and_without_the_marks(kaggle, folder, capsys):
    target = check_kaggle("somebody/ads", "peft", "Best_set1 peft", " Apache 2.0")
    assert target.handle == "somebody/ads/pyTorch/best-set1-peft"
    said = []
    upload_kaggle(target, folder, False, said.append)
    asked = dict(kaggle.calls)
    assert asked["CreateModel"]["isPrivate"] is True and asked["CreateModel"]["slug"] == "ads"
    body = asked["CreateModelInstance"]["body"]
    assert (body["instanceSlug"], body["licenseName"]) == ("best-set1-peft", "Apache 2.0")
    assert sorted(file["token"] for file in body["files"]) == ["README.md", "adapter_model.safetensors"]
    assert sorted(kaggle.blobs) == [b"a page", b"weights"]
    assert "private, licence Apache 2.0" in said[0] and "without best.whole.json" in said[0]
    whose = "Basic " + base64.b64encode(f"somebody:{KEY}".encode()).decode()
    assert kaggle.authorized == {whose} and KEY not in "".join((*said, *capsys.readouterr()))


def test_a_public_model_gets_nothing_unless_that_is_meant(kaggle, folder):
    kaggle.private = False
    target = check_kaggle("somebody/ads/mine", "hf", "x", "Gemma")
    with pytest.raises(UserError, match="nothing was sent"):
        upload_kaggle(target, folder, False, print)
    assert names(kaggle) == ["GetModel"] and not kaggle.blobs
    said = []
    upload_kaggle(target, folder, True, said.append)
    assert dict(kaggle.calls)["CreateModelInstance"]["body"]["instanceSlug"] == "mine" and "CreateModel" not in names(
        kaggle
    )
    assert "(public, licence Gemma)" in said[0] and len(said) == 1
    kaggle.private = None
    upload_kaggle(target, folder, True, said.append)
    assert dict(kaggle.calls)["CreateModel"]["isPrivate"] is True and "makes it public" in said[-1]


def test_no_key_is_shown_where_kaggle_refuses(kaggle, folder, tmp_path):
    kaggle.status = 401
    with pytest.raises(UserError) as error:
        upload_kaggle(check_kaggle("somebody/ads", "npz", "x", "Gemma"), folder, False, print)
    assert KEY not in str(error.value) and "kaggle.json" in str(error.value) and not kaggle.blobs
    assert not [one for one in tmp_path.rglob("*") if one.is_file() and KEY.encode() in one.read_bytes()]


def test_login_and_name_are_tried_before_any_work(kaggle, tmp_path, monkeypatch, capsys):
    target = check_kaggle("somebody/ads", "npz", "x", "Gemma")
    check_login(target, False)
    assert names(kaggle) == ["Hello", "GetModel"] and not kaggle.blobs
    kaggle.private = False
    with pytest.raises(UserError, match="nothing was sent"):
        check_login(target, False)
    check_login(target, True)
    kaggle.status = 401
    with pytest.raises(UserError) as error:
        check_login(target, False)
    assert KEY not in str(error.value) and "Nothing was done yet: put kaggle.json" in str(error.value)
    monkeypatch.delenv("KAGGLE_KEY")
    calls = len(kaggle.calls)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.npz").touch()  # not even opened
    asked = ["--upload", "somebody/ads", "--hub", "kaggle", "--licence", "Gemma"]
    assert main(["export", "-m", "x.npz", *asked]) == 2
    assert "Nothing was done yet" in capsys.readouterr().err and len(kaggle.calls) == calls


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--hub", "kaggle"], "state the licence"),
        (["--hub", "kaggle", "--licence", "Gemma", "--upload", "Somebody Else/x"], "expected OWNER/MODEL"),
        (["--licence", "Gemma"], "--licence is of what goes to Kaggle"),
    ],
)
def test_what_is_missing_is_said_before_any_work(tmp_path, monkeypatch, capsys, flags, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.npz").touch()
    try:
        status = main(["export", "-m", "x.npz", "--upload", "somebody/ads", *flags])
    except SystemExit as end:
        status = end.code
    assert status == 2 and said in capsys.readouterr().err
