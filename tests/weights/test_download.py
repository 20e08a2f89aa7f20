"""Everything that goes wrong on the way, tried with files on this machine in the network's place."""

import errno
import hashlib
import http.server
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from rolltune.device import cache_folder
from rolltune.errors import UserError
from rolltune.weights.catalogue import TOKENIZER, Source, find, sources
from rolltune.weights.download import HuggingFace, Kaggle, RemoteFile, Web, clean, credentials, download, sha256

SOURCE = Source("m-224", "bfloat16", "huggingface", "google/m-224", "m-224-bfloat16", 0, "https://licence.example")
CONTENT = {"config.json": b"{}", "model-1.safetensors": b"a" * 1000, "model-2.safetensors": b"b" * 500}


class FakeHub:
    """Serves CONTENT in pieces into the staging folder, as the real ones do; `trouble` may raise in the middle."""

    def __init__(self, content: dict[str, bytes] = CONTENT, trouble: Callable[[str], None] | None = None):
        self.content, self.trouble, self.sent = content, trouble, 0

    def files(self, source: Source) -> list[RemoteFile]:
        return [
            RemoteFile(name, len(data), hashlib.sha256(CONTENT[name]).hexdigest())
            for name, data in self.content.items()
        ]

    def fetch(self, source: Source, file: RemoteFile, staging: Path) -> Path:
        path, data = staging / file.name, self.content[file.name]
        have = path.stat().st_size if path.exists() else 0
        half = max(have, len(data) // 2)
        with open(path, "ab") as out:
            out.write(data[have:half])
            if self.trouble:
                self.sent += half - have
                out.flush()
                self.trouble(file.name)
            out.write(data[half:])
        self.sent += len(data) - (half if self.trouble else have)
        return path


def raising(error: BaseException, at: str = "model-2.safetensors") -> Callable[[str], None]:
    def trouble(name: str) -> None:
        if name == at:
            raise error

    return trouble


class Answer:
    def __init__(self, status: int):
        self.status_code = status


class GatedRepoError(OSError):
    def __init__(self, status: int):
        super().__init__("Access to model is restricted: https://hf.co/x?Signature=abc&token=hf_abcdefghijklmnop")
        self.response = Answer(status)


def test_fetches_checks_records_and_checks_again(tmp_path, capsys):
    hub = FakeHub()
    target = download(SOURCE, hub, tmp_path)
    assert target == tmp_path / "m-224-bfloat16"
    for name, data in CONTENT.items():
        assert (target / name).read_bytes() == data
        assert (target / f"{name}.sha256").read_text() == f"{hashlib.sha256(data).hexdigest()}  {name}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m-224-bfloat16"]
    sent = hub.sent
    download(SOURCE, hub, tmp_path)
    assert hub.sent == sent and "every SHA-256 as recorded" in capsys.readouterr().out
    (target / "model-1.safetensors").write_bytes(b"a" * 999 + b"x")
    with pytest.raises(UserError, match=r"model-1.safetensors: SHA-256 is [0-9a-f]{64}, recorded was(?s:.*)--force"):
        download(SOURCE, hub, tmp_path)
    download(SOURCE, hub, tmp_path, force=True)
    assert sha256(target / "model-1.safetensors") == hashlib.sha256(CONTENT["model-1.safetensors"]).hexdigest()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ConnectionResetError("reset"), TimeoutError("slow")])
def test_an_interrupted_download_goes_on(tmp_path, error):
    first = FakeHub(trouble=raising(error))
    with pytest.raises((UserError, KeyboardInterrupt)) as raised:
        download(SOURCE, first, tmp_path)
    if raised.type is UserError:
        assert "goes on where it stopped" in str(raised.value)
    folder = tmp_path / "m-224-bfloat16"
    assert (folder / "model-1.safetensors").exists()
    assert not (folder / "model-2.safetensors").exists() and not (folder / "config.json").exists()
    second = FakeHub()
    download(SOURCE, second, tmp_path)
    assert second.sent == 250 + 2  # the other half, and the file that comes last
    assert {path.name for path in folder.glob("*") if path.suffix != ".sha256"} == set(CONTENT)
    assert not (tmp_path / ".partial").exists()


def test_a_wrong_checksum_is_thrown_away(tmp_path):
    wrong = {**CONTENT, "model-2.safetensors": b"b" * 499 + b"?"}
    with pytest.raises(
        UserError, match=r"model-2.safetensors from google/m-224 arrived damaged.* expected [0-9a-f]{64}"
    ):
        download(SOURCE, FakeHub(wrong), tmp_path)
    assert not list(tmp_path.rglob("model-2.safetensors"))
    download(SOURCE, FakeHub(), tmp_path)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("hub", ["huggingface", "kaggle"])
def test_a_refusal_is_a_page_of_what_to_do(tmp_path, monkeypatch, status, hub):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnop")
    monkeypatch.setenv("KAGGLE_KEY", "secret-kaggle-key")
    source = replace(SOURCE, hub=hub, file="model-1.safetensors")
    with pytest.raises(UserError) as error:
        download(source, FakeHub(trouble=raising(GatedRepoError(status), "model-1.safetensors")), tmp_path)
    page = str(error.value)
    assert f"status {status}" in page and "https://licence.example" in page and "accept the licence" in page
    assert ("hf auth login" in page) == (hub == "huggingface") and ("kaggle.json" in page) == (hub == "kaggle")
    assert ("$HF_TOKEN" if hub == "huggingface" else "$KAGGLE_KEY") in page
    assert "hf_abc" not in page and "secret" not in page and "Signature" not in page


def test_no_room_is_noticed_before_anything_is_fetched(tmp_path):
    hub, large = FakeHub(), 7_000_000_000
    hub.files = lambda source: [RemoteFile("model.safetensors", large)]
    with pytest.raises(UserError, match=r"needs 7.0 GB more in .* only 6.0 GB are free"):
        download(SOURCE, hub, tmp_path, free=lambda folder: 6_000_000_000)
    assert hub.sent == 0 and not (tmp_path / "m-224-bfloat16").exists()


def test_what_came_already_counts_as_room(tmp_path):
    staged = tmp_path / ".partial/m-224-bfloat16/model-1.safetensors"
    staged.parent.mkdir(parents=True)
    staged.write_bytes(CONTENT["model-1.safetensors"])
    needed = sum(map(len, CONTENT.values())) - 1000 + 500_000_000
    with pytest.raises(UserError, match="needs"):
        download(SOURCE, FakeHub(), tmp_path, free=lambda folder: needed - 1)
    download(SOURCE, FakeHub(), tmp_path, free=lambda folder: needed)


def test_a_disk_that_fills_on_the_way(tmp_path):
    with pytest.raises(UserError, match=r"is full\. What came so far is kept"):
        download(SOURCE, FakeHub(trouble=raising(OSError(errno.ENOSPC, "No space left"))), tmp_path)


def test_absent_package_missing_model_and_our_own_mistakes(tmp_path):
    def failing(error: Exception) -> FakeHub:
        return FakeHub(trouble=raising(error))

    with pytest.raises(UserError, match=r"not installed \(kagglehub\).*\n *pip install 'rolltune\[hub\]'"):
        download(SOURCE, failing(ImportError("no", name="kagglehub")), tmp_path)
    gone = OSError("gone")
    gone.response = Answer(404)
    with pytest.raises(UserError, match="was not found at huggingface"):
        download(SOURCE, failing(gone), tmp_path)
    with pytest.raises(TypeError):
        download(SOURCE, failing(TypeError("a bug")), tmp_path)


def test_messages_carry_no_secrets(monkeypatch):
    monkeypatch.setenv("KAGGLE_KEY", "0123456789abcdef")
    text = clean("get https://x.example/a?X-Goog-Signature=77&y=1 with Bearer abc.def, hf_qwertzuiop, 0123456789abcdef")
    assert text == "get https://x.example/a with Bearer ***, ***, ***"


def test_the_real_errors_of_the_hubs_are_understood(tmp_path):
    """The classes the two libraries really raise, where they are installed."""
    errors = pytest.importorskip("huggingface_hub.errors")
    kaggle = pytest.importorskip("kagglehub.exceptions")
    offline = errors.LocalEntryNotFoundError("Cannot find the file in the cache and the hub can't be reached")
    with pytest.raises(UserError, match="The connection to huggingface failed"):
        download(SOURCE, FakeHub(trouble=raising(offline)), tmp_path)
    with pytest.raises(UserError, match="accept the licence"):
        download(SOURCE, FakeHub(trouble=raising(kaggle.UnauthenticatedError())), tmp_path)
    with pytest.raises(UserError, match="status 403"):
        refused = kaggle.KaggleApiHTTPError("no", response=Answer(403))
        download(SOURCE, FakeHub(trouble=raising(refused)), tmp_path)
    with pytest.raises(UserError, match="arrived damaged"):
        download(SOURCE, FakeHub(trouble=raising(kaggle.DataCorruptionError("md5"))), tmp_path)


def test_kaggle_is_asked_for_one_file_in_a_folder_of_ours(tmp_path, monkeypatch):
    asked = {}

    def model_download(handle: str, path: str) -> str:
        asked.update(handle=handle, path=path, cache=os.environ["KAGGLEHUB_CACHE"])
        file = Path(asked["cache"]) / "models/deep/inside" / path
        file.parent.mkdir(parents=True)
        file.write_bytes(b"abc")
        return str(file)

    monkeypatch.setenv("KAGGLEHUB_CACHE", "elsewhere")
    monkeypatch.setitem(sys.modules, "kagglehub", SimpleNamespace(model_download=model_download))
    target = download(find("paligemma-3b-224", "float16", "kaggle"), Kaggle(), tmp_path, free=lambda folder: 1 << 40)
    assert target == tmp_path / "paligemma-3b-pt-224.f16.npz" and target.read_bytes() == b"abc"
    assert asked["handle"] == "google/paligemma/jax/paligemma-3b-pt-224" and asked["path"] == target.name
    assert asked["cache"] == str(tmp_path / ".partial" / target.name)
    assert sorted(path.name for path in tmp_path.iterdir()) == [target.name, f"{target.name}.sha256"]


def test_hugging_face_files_are_pinned_and_compared(tmp_path, monkeypatch):
    wanted = ("config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors.index.json")
    unwanted = ("README.md", "sub/config.json", "original/x.safetensors", "x.bin", "x.pth", "modeling.py", "other.json")
    data = {"model.safetensors": b"www"} | dict.fromkeys((*wanted, *unwanted), b"{}")
    wrong = hashlib.sha256(b"other").hexdigest()
    lfs = {"model.safetensors": SimpleNamespace(sha256=wrong)}
    revisions = []

    def model_info(self: object, repo: str, revision: str | None, files_metadata: bool) -> SimpleNamespace:
        files = [SimpleNamespace(rfilename=name, size=len(data[name]), lfs=lfs.get(name)) for name in data]
        return SimpleNamespace(siblings=files, sha="c0ffee")

    def hf_hub_download(repo: str, name: str, revision: str, local_dir: Path) -> str:
        revisions.append((repo, name, revision))
        (local_dir / name).write_bytes(data[name])
        return str(local_dir / name)

    module = SimpleNamespace(HfApi=type("HfApi", (), {"model_info": model_info}), hf_hub_download=hf_hub_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    source = find("paligemma-3b-224", "bfloat16", "huggingface")
    with pytest.raises(UserError, match=f"arrived damaged.* expected {wrong}"):
        download(source, HuggingFace(), tmp_path)
    lfs["model.safetensors"].sha256 = hashlib.sha256(b"www").hexdigest()
    target = download(source, HuggingFace(), tmp_path)
    held = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.suffix != ".sha256"}
    assert held == {"model.safetensors", *wanted}
    assert revisions[-1] == ("google/paligemma-3b-pt-224", "config.json", "c0ffee")
    assert {commit for _, _, commit in revisions[1:]} == {"c0ffee"}


class Server(http.server.BaseHTTPRequestHandler):
    data, cut = bytes(range(256)) * 40, 0

    def do_GET(self):
        if self.headers.get("Range") == f"bytes={len(self.data)}-":
            return self.send_error(416)
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.data) - start))
        self.end_headers()
        self.wfile.write(self.data[start : type(self).cut or None])
        type(self).cut = 0

    def log_message(self, *_):
        """Tests print nothing."""


@pytest.fixture
def served():
    """Server.data at an address of this machine, as a source."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    digest = hashlib.sha256(Server.data).hexdigest()
    address = f"http://127.0.0.1:{server.server_port}/x"
    yield replace(TOKENIZER, where=address, size=len(Server.data), sha256=digest)
    server.shutdown()
    server.server_close()


def test_a_public_file_is_resumed(tmp_path, served):
    Server.cut = 5000
    with pytest.raises(UserError, match="goes on where it stopped"):
        download(served, Web(), tmp_path)
    assert [path.stat().st_size for path in tmp_path.rglob("*.model") if path.is_file()] == [5000]
    assert download(served, Web(), tmp_path).read_bytes() == Server.data
    with pytest.raises(UserError, match="arrived damaged"):
        download(replace(served, target="y", file="y", sha256="0" * 64), Web(), tmp_path)


def test_a_part_that_the_server_has_no_rest_for_is_fetched_anew(tmp_path, served):
    staged = tmp_path / ".partial" / served.target / served.file
    staged.parent.mkdir(parents=True)
    staged.write_bytes(b"x" * len(Server.data))
    longer = replace(served, size=len(Server.data) + 1)  # what the catalogue says of a file that has changed since
    assert download(longer, Web(), tmp_path).read_bytes() == Server.data


def test_empty_variables_name_no_place(tmp_path, monkeypatch):
    """An empty one would be the current folder: a kaggle.json or a token that lies there by chance is not yours."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("HF_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("KAGGLE_CONFIG_DIR", "HF_TOKEN_PATH", "HF_HOME", "ROLLTUNE_CACHE"):
        monkeypatch.setenv(name, "")
    for name in ("kaggle.json", "token"):
        (tmp_path / name).write_text("x")
    assert credentials("kaggle") == credentials("huggingface") == []
    assert cache_folder() == tmp_path / "home/.cache/rolltune"


def test_the_catalogue_is_consistent():
    known = list(sources())
    assert len({source.target for source in known}) == len(known)
    half = find("paligemma-3b-224", "bfloat16", "kaggle")
    assert half.file == "paligemma-3b-pt-224.bf16.npz" and half.size == 2 * 2_923_335_408
    assert find("paligemma2-3b-pt-224", "bfloat16", "kaggle").file == "paligemma2-3b-pt-224.b16.npz"
    with pytest.raises(UserError, match=r"(?s)'llama' is no known model. Known are:\n  gemma-2-9b-it\n.*  phi-3"):
        find("llama", "bfloat16", "kaggle")
    with pytest.raises(UserError, match=r"not published as float32 from kaggle. It is there as: bfloat16 from hug"):
        find("paligemma2-3b-pt-224", "float32", "kaggle")
    with pytest.raises(UserError, match=r"not published from kaggle. It is there as: bfloat16 from huggingface.$"):
        find("phi-3.5-vision-instruct", hub="kaggle")


# What the tensors of each model count together, from its config.
COUNTS = {
    "llama-3.2-11b-vision-instruct": 10_670_220_835,
    "phi-3.5-vision-instruct": 4_146_621_440,
    "gemma-2-9b-it": 9_241_705_984,
    "llava-v1.6-mistral-7b": 7_566_747_648,
    "smollm2-135m-instruct": 134_515_008,
}


def test_other_families_come_from_hugging_face_alone():
    for name, count in COUNTS.items():
        found = find(name)
        assert (found.hub, found.size, found.target) == ("huggingface", 2 * count, f"{name}-{found.dtype}")
        assert find(found.where) == find(found.where.upper()) == found and found.where in found.licence
        gated = name.startswith(("llama", "gemma"))
        assert ("to be accepted" in found.terms) == gated
    packed = find("gemma-2-9b-it", "nf4")
    assert packed.where == "unsloth/gemma-2-9b-it-bnb-4bit" and 6.1e9 < packed.size < 6.2e9
    assert find("paligemma-3b-224").dtype == "bfloat16" and find("llava-v1.6-mistral-7b").dtype == "float16"
