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


def check_upload(repo: str) -> Any:
    """The library's API object. Raises UserError where the name can't be one, or the library is absent: before work."""
    if not NAME.fullmatch(repo):
        raise UserError(f"--upload {repo!r}: expected OWNER/NAME, such as somebody/ads")
    try:
        import huggingface_hub
    except ModuleNotFoundError as missing:
        raise UserError(
            f"--upload needs the package {missing.name!r}: pip install 'rolltune[hub]', or in the repository "
            "pip install -e '.[hub]'"
        ) from missing
    return huggingface_hub.HfApi()


def upload(api: Any, folder: Path, repo: str, public: bool, say: Callable[[str], None]) -> None:
    """The folder as a model of that name; a new one is private unless it is asked to be public.

    Raises UserError for a model that is there and public, unless that was asked for, and for what the hub refuses.
    """
    try:
        api.create_repo(repo_id=repo, private=not public, exist_ok=True, repo_type="model")
        if not public and not api.repo_info(repo_id=repo, repo_type="model").private:
            raise UserError(
                f"--upload {repo}: it is there already, for everybody to see; nothing was sent. --public says that "
                "this is meant; otherwise take another name"
            )
        api.upload_folder(folder_path=str(folder), repo_id=repo, repo_type="model", ignore_patterns=KEPT_HERE)
    except UserError:
        raise
    except Exception as error:  # of the library's many, and of the network's: the person is told which
        told = TOKEN.sub("hf_...", str(error)).strip().splitlines() or [""]
        # Without what came before: its own text may hold the request that was sent.
        raise UserError(
            f"--upload {repo}: {type(error).__name__}: {told[0][:300]}\n{folder} is complete; log in (hf auth login) "
            f"with a token that may write there, delete {folder}, and type the same again"
        ) from None
    left = [path.name for pattern in KEPT_HERE for path in folder.glob(pattern)]
    say(f"uploaded: https://huggingface.co/{repo} ({'public' if public else 'private'})"
        + (f"; without {', '.join(left)}, which has marks of the pictures learned from" if left else ""))  # fmt: skip
