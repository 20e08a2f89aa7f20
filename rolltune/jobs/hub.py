"""Exports, put onto the Hugging Face hub. The library finds the person's token by itself: it is never seen here."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rolltune.errors import UserError

NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
TOKEN = re.compile(r"\bhf_\w+")
# The card of a roll has marks of what was learned from, small copies of the pictures among them: they stay here.
KEPT_HERE = ["*.whole.json"]


def check_upload(repo: str, public: bool) -> Any:
    """The library's API object. Raises UserError, before hours of work, where the name can't be one or is not the
    person's, the library or the login is absent, or the model is there for everybody to see and that was not meant."""
    if not NAME.fullmatch(repo):
        raise UserError(f"--upload {repo!r}: expected OWNER/NAME, such as somebody/ads")
    try:
        import huggingface_hub
    except ModuleNotFoundError as missing:
        raise UserError(
            f"--upload needs the package {missing.name!r}: pip install 'rolltune[hub]', or in the repository "
            "pip install -e '.[hub]'"
        ) from missing
    api = huggingface_hub.HfApi()
    try:
        person = api.whoami()
        _check_seen(api, repo, public)
    except Exception as error:
        raise _refusal(repo, error, "Nothing was done yet: log in (hf auth login), then type the same again") from None
    owners = [person.get("name"), *(one.get("name") for one in person.get("orgs", ()))]
    if repo.partition("/")[0] not in owners:
        raise UserError(f"--upload {repo}: the login is of {owners[0]}, who can write to {', '.join(map(str, owners))}")
    if person.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise UserError(f"--upload {repo}: the token may only read: log in (hf auth login) with one that may write")
    return api


def _check_seen(api: Any, repo: str, public: bool) -> None:
    """Raises UserError for a model that is there and public, where that was not asked for."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        private = api.repo_info(repo_id=repo, repo_type="model").private
    except RepositoryNotFoundError:
        return
    if not public and not private:
        raise UserError(
            f"--upload {repo}: it is there already, for everybody to see; nothing was sent. --public says that "
            "this is meant; otherwise take another name"
        )


def _refusal(repo: str, error: Exception, advice: str) -> UserError:
    """What the library or the network raised, of which there are many kinds, without a token that it may show."""
    if isinstance(error, UserError):
        return error
    told = TOKEN.sub("hf_...", str(error)).strip().splitlines() or [""]
    return UserError(f"--upload {repo}: {type(error).__name__}: {told[0][:300]}\n{advice}")


def upload(api: Any, folder: Path, repo: str, public: bool, say: Callable[[str], None]) -> None:
    """The folder as a model of that name; a new one is private unless it is asked to be public.

    Raises UserError for a model that is there and public, unless that was asked for, and for what the hub refuses.
    """
    try:
        api.create_repo(repo_id=repo, private=not public, exist_ok=True, repo_type="model")
        _check_seen(api, repo, public)
        api.upload_folder(folder_path=str(folder), repo_id=repo, repo_type="model", ignore_patterns=KEPT_HERE)
    except Exception as error:
        advice = (
            f"{folder} is complete; log in (hf auth login) with a token that may write there, delete {folder}, and "
            "type the same again"
        )
        # Without what came before: its own text may hold the request that was sent.
        raise _refusal(repo, error, advice) from None
    left = [path.name for pattern in KEPT_HERE for path in folder.glob(pattern)]
    say(f"uploaded: https://huggingface.co/{repo} ({'public' if public else 'private'})"
        + (f"; without {', '.join(left)}, which has marks of the pictures learned from" if left else ""))  # fmt: skip
