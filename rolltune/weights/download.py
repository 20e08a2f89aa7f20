"""Fetching published weights: room on the disk first, resumable, each file's SHA-256 recorded and checked again.

What talks to the network is behind `Hub`, two small methods, so that all that can go wrong can be tried without one.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rolltune.errors import UserError
from rolltune.weights.catalogue import Source

MARGIN = 500_000_000  # bytes to leave free on the disk
RANGE_REFUSED = 416  # the answer to a range that begins at the end of the file or after it
RECORD = ".sha256"  # beside each file, in the form that `sha256sum --check` reads


@dataclass(frozen=True)
class RemoteFile:
    name: str
    size: int
    sha256: str = ""  # empty where the hub does not tell
    revision: str = ""


class Hub(Protocol):
    def files(self, source: Source) -> list[RemoteFile]:
        """What the source consists of."""

    def fetch(self, source: Source, file: RemoteFile, staging: Path) -> Path:
        """Brings one file below `staging`, going on where an earlier call stopped; returns where it lies."""


class Kaggle:
    """kagglehub resumes a file in its own cache folder and checks the MD5 that the server tells."""

    def files(self, source: Source) -> list[RemoteFile]:
        return [RemoteFile(source.file, source.size, source.sha256)]

    def fetch(self, source: Source, file: RemoteFile, staging: Path) -> Path:
        import kagglehub

        os.environ["KAGGLEHUB_CACHE"] = str(staging)
        return Path(kagglehub.model_download(source.where, path=file.name))


class HuggingFace:
    """huggingface_hub resumes each file; the SHA-256 of every large one is published and compared here."""

    # By name: repositories hold program code, pickled weights and other forms of the same model, too.
    WANTED = frozenset(
        (
            *("config.json", "preprocessor_config.json", "model.safetensors.index.json"),
            *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"),
            "added_tokens.json",
        )
    )

    def files(self, source: Source) -> list[RemoteFile]:
        from huggingface_hub import HfApi

        info = HfApi().model_info(source.where, revision=source.revision or None, files_metadata=True)
        return [
            RemoteFile(file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs else "", info.sha or "")
            for file in info.siblings or []
            if file.rfilename in self.WANTED or (file.rfilename.endswith(".safetensors") and "/" not in file.rfilename)
        ]

    def fetch(self, source: Source, file: RemoteFile, staging: Path) -> Path:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(source.where, file.name, revision=file.revision or None, local_dir=staging))


class Web:
    """A public file at an address, resumed where the server knows ranges."""

    def files(self, source: Source) -> list[RemoteFile]:
        return [RemoteFile(source.file, source.size, source.sha256)]

    def fetch(self, source: Source, file: RemoteFile, staging: Path) -> Path:
        path = staging / file.name
        have = path.stat().st_size if path.exists() else 0
        if have and have == file.size:
            return path
        if have > file.size:
            have = 0
        request = urllib.request.Request(source.where, headers={"Range": f"bytes={have}-"} if have else {})
        try:
            opened = urllib.request.urlopen(request, timeout=60)
        except urllib.error.HTTPError as error:
            if error.code != RANGE_REFUSED or not have:
                raise
            # What came earlier is as long as the file there, or longer: of another version, or never its beginning.
            have = 0
            opened = urllib.request.urlopen(source.where, timeout=60)
        with opened as answer:
            with open(path, "ab" if answer.status == 206 else "wb") as out:
                shutil.copyfileobj(answer, out, 1 << 20)
            length = answer.headers.get("Content-Length")
        if length is not None and path.stat().st_size != int(length) + (have if answer.status == 206 else 0):
            raise ConnectionError("the connection ended before the file did")
        return path


HUBS: dict[str, Callable[[], Hub]] = {"kaggle": Kaggle, "huggingface": HuggingFace, "web": Web}


def download(
    source: Source,
    hub: Hub,
    cache: Path,
    say: Callable[[str], None] = print,
    free: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    force: bool = False,
) -> Path:
    """Brings one model into the cache folder and returns its path. What is there and whole is not fetched again."""
    target = cache / source.target
    staging = cache / ".partial" / source.target
    with explained(source, cache):
        cache.mkdir(parents=True, exist_ok=True)
        if not force and (there := recorded(target)):
            say(f"{target}: already here, checking {len(there)} file{'s' * (len(there) > 1)} ...")
            check_recorded(there)
            if source.hub != "huggingface" or (target / "config.json").exists():
                say(f"{target}: complete, every SHA-256 as recorded")
                return target
        files = hub.files(source)
        if not files:
            raise UserError(
                f"{source.where} at {source.hub} holds no weights that rolltune reads. Nothing was fetched."
            )
        folder = target if source.hub == "huggingface" else cache
        missing = [file for file in files if force or not recorded(folder / file.name)]
        need = sum(file.size for file in missing) - sum(f.stat().st_size for f in staging.rglob("*") if f.is_file())
        room = free(cache)
        if need + MARGIN > room:
            raise UserError(
                f"{source.name} ({source.dtype or source.file}) needs {gigabytes(need)} more in {cache} and "
                f"{gigabytes(MARGIN)} to spare, but only {gigabytes(room)} are free. Free some space, take another "
                f"folder (ROLLTUNE_CACHE=/path or --cache /path), or a smaller form (--dtype bfloat16). Nothing was "
                f"fetched."
            )
        staging.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        # config.json last: a folder that has one is complete.
        for number, file in enumerate(sorted(missing, key=lambda file: file.name == "config.json"), 1):
            say(f"{source.name}: {file.name} ({number} of {len(missing)}, {gigabytes(file.size)})")
            fetched = hub.fetch(source, file, staging)
            settle(fetched, folder / file.name, file, source)
        shutil.rmtree(staging)
        with contextlib.suppress(OSError):  # another download may have its folder there
            staging.parent.rmdir()
    say(f"{target}: complete")
    return target


def settle(fetched: Path, final: Path, file: RemoteFile, source: Source) -> None:
    """A fetched file to its place, once its digest is what the publisher says, with its record beside it."""
    found = sha256(fetched)
    if file.sha256 and found != file.sha256:
        fetched.unlink()
        raise UserError(
            f"{file.name} from {source.where} arrived damaged: its SHA-256 is {found}, expected {file.sha256}. It was "
            f"thrown away. Run the same command again; if it happens twice, the network or the disk is at fault."
        )
    record = final.with_name(final.name + RECORD)
    record.unlink(missing_ok=True)
    os.replace(fetched, final)
    # The record comes after the file: a file without one is fetched again, a record without its file would lie.
    aside = record.with_name(f".{record.name}.part")
    aside.write_text(f"{found}  {final.name}\n", encoding="utf-8")
    os.replace(aside, record)


def recorded(target: Path) -> list[Path]:
    """The files of a target (a file, or a folder of files) that lie there with a record."""
    files = [target] if target.is_file() else sorted(target.glob("*")) if target.is_dir() else []
    return [file for file in files if file.suffix != RECORD and file.with_name(file.name + RECORD).exists()]


def check_recorded(files: list[Path]) -> None:
    changed = []
    for file in files:
        wanted = file.with_name(file.name + RECORD).read_text(encoding="utf-8").split()[:1]
        found = sha256(file)
        if wanted != [found]:
            changed.append(f"{file}: SHA-256 is {found}, recorded was {(wanted or ['nothing'])[0]}")
    if changed:
        raise UserError(
            "Files changed since they were downloaded (a damaged disk, or another program):\n  "
            + "\n  ".join(changed)
            + "\nFetch them again with --force."
        )


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 5e7 else f"{max(size, 0) / 1e6:.1f} MB"


@contextlib.contextmanager
def explained(source: Source, cache: Path) -> Iterator[None]:
    """Turns what the hubs' libraries raise into a page of what to do. Their texts may carry signed addresses and
    tokens, so they are shown only after those were taken out."""
    try:
        yield
    except (UserError, TypeError, AttributeError, NameError, AssertionError):
        raise  # a mistake in a program is shown as one
    except ImportError as error:
        raise UserError(
            f"{source.hub} needs a package that is not installed ({error.name}). Install it with\n"
            f"    pip install 'rolltune[hub]'"
        ) from error
    except Exception as error:
        raise UserError(explain(error, source, cache)) from error


REFUSED = {"UnauthenticatedError", "CredentialError", "GatedRepoError", "LocalTokenNotFoundError"}
ABSENT = {"RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError"}
NETWORK = re.compile(r"Connect|Timeout|Network|Chunked|IncompleteRead|Protocol|URLError|LocalEntryNotFound|Offline")


def explain(error: BaseException, source: Source, cache: Path) -> str:
    chain = list(_chain(error))
    names = {kind.__name__ for link in chain for kind in type(link).__mro__}
    status = next((code for link in chain if (code := _status(link))), None)
    number = next((link.errno for link in chain if isinstance(link, OSError) and link.errno), None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"The disk of {cache} is full. What came so far is kept: free some space (or set ROLLTUNE_CACHE to another "
            f"folder) and run the same command again, it goes on where it stopped."
        )
    if number in (errno.EACCES, errno.EPERM, errno.EROFS) and status is None:
        return f"{cache} can't be written to. Set ROLLTUNE_CACHE (or --cache) to a folder that is yours."
    if status in (401, 403) or names & REFUSED or "Invalid Kaggle credentials" in str(error):
        return refused(source, status)
    if (status == 404 or names & ABSENT) and "LocalEntryNotFoundError" not in names:
        return (
            f"{source.where} {source.file or source.revision} was not found at {source.hub}: it was moved or renamed, "
            f"or your account may not see it. Look at {source.licence}."
        )
    what = f"{type(error).__name__}{f', status {status}' if status else ''}: {clean(str(error))}"
    if (status or 0) >= 429 or any(NETWORK.search(name) for name in names):
        return (
            f"The connection to {source.hub} failed ({what}).\n"
            f"Run the same command again: it goes on where it stopped. Without a network, see `--list` for the files "
            f"and where to put them."
        )
    if "DataCorruptionError" in names:
        return f"{source.file} arrived damaged and was thrown away. Run the same command again."
    return (
        f"{source.hub} could not deliver {source.where} ({what}).\nRun the same command again, or try the other --from."
    )


def refused(source: Source, status: int | None) -> str:
    """The page for a person whom the hub does not let in."""
    why = f"{source.hub} refused {source.where}" + (f" (status {status})" if status else "")
    if source.hub == "kaggle":
        steps = [
            "Make an account at https://www.kaggle.com (free).",
            f"Open {source.licence} while signed in and accept the licence (once an account).",
            "At https://www.kaggle.com/settings, section API, press 'Create New Token'. Put the kaggle.json it gives "
            "you at ~/.kaggle/kaggle.json and keep it to yourself (chmod 600 ~/.kaggle/kaggle.json), or set "
            "KAGGLE_USERNAME and KAGGLE_KEY (or KAGGLE_API_TOKEN) in the environment.",
        ]
    elif source.hub == "huggingface":
        steps = [
            "Make an account at https://huggingface.co (free).",
            f"Open {source.licence} while signed in and accept the licence (once a model; it holds at once).",
            "At https://huggingface.co/settings/tokens make a token that may read (a fine-grained one also needs 'read "
            "access to public gated repositories'). Then run `hf auth login`, or set HF_TOKEN in the environment.",
        ]
    else:
        steps = [f"Open {source.where} in a browser to see why, and put the file into the cache folder by hand."]
    lines = [f"{why}: the licence must be accepted, and your credentials be known here.", ""]
    lines += [f"  {number}. {step}" for number, step in enumerate(steps, 1)]
    lines += ["", f"  Credentials found here: {', '.join(credentials(source.hub)) or 'none'}"]
    lines += ["  In the container, docker-run.sh passes these files and variables on by itself.", ""]
    return "\n".join(
        [*lines, "Then run the same command again. No account at hand? The built-in tiny model needs none."]
    )


def credentials(hub: str) -> list[str]:
    """Where credentials lie, never what they are."""
    home = Path.home()
    places = {
        "kaggle": (
            ["KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN"],
            [
                Path(os.environ.get("KAGGLE_CONFIG_DIR") or home / ".kaggle") / "kaggle.json",
                home / ".kaggle/access_token",
            ],
        ),
        "huggingface": (
            ["HF_TOKEN"],
            [
                Path(
                    os.environ.get("HF_TOKEN_PATH")
                    or Path(os.environ.get("HF_HOME") or home / ".cache/huggingface") / "token"
                )
            ],
        ),
    }
    variables, files = places.get(hub, ([], []))
    return [f"${name}" for name in variables if os.environ.get(name)] + [str(file) for file in files if file.exists()]


def clean(text: str) -> str:
    """Without the query of addresses (signatures), tokens and values of credential variables; cut at 300 letters."""
    for name in ("KAGGLE_KEY", "KAGGLE_API_TOKEN", "HF_TOKEN"):
        if value := os.environ.get(name):
            text = text.replace(value, "***")
    text = re.sub(r"(https?://[^\s?\"']+)\?[^\s\"']*", r"\1", text)
    text = re.sub(r"\b(hf_|KGAT_)\w+", "***", text)
    text = re.sub(r"(?i)(bearer|basic)\s+[\w.~+/=-]+", r"\1 ***", text)
    return text[:300]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    for holder, name in ((getattr(error, "response", None), "status_code"), (error, "code"), (error, "error_code")):
        if isinstance(value := getattr(holder, name, None), int):
            return value
    return None
