"""Exports, put onto Kaggle as a model. The library finds the person's key by itself: it is never seen here."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from rolltune.errors import UserError
from rolltune.jobs.hub import KEPT_HERE
from rolltune.weights.download import clean

SLUG = r"[a-z0-9][a-z0-9-]{0,62}"
NAME = re.compile(rf"[\w-]{{1,62}}/{SLUG}(/{SLUG})?", re.ASCII)
KEY = re.compile(r"\b[0-9a-f]{32}\b")
KEY_FILE = "put kaggle.json of https://www.kaggle.com/settings at ~/.kaggle/kaggle.json"
FRAMEWORKS = {"peft": "pyTorch", "hf": "transformers", "npz": "jax"}  # what Kaggle calls each form of an export


@dataclass(frozen=True)
class KaggleModel:
    """Where an export goes: a model has variations, each of one framework, and these have versions."""

    owner: str
    model: str
    framework: str
    variation: str
    licence: str

    @property
    def handle(self) -> str:
        return f"{self.owner}/{self.model}/{self.framework}/{self.variation}"


def check_kaggle(name: str, form: str, variation: str, licence: str) -> KaggleModel:
    """Where OWNER/MODEL or OWNER/MODEL/VARIATION is; without a variation it is called after the export's folder.

    Raises UserError where the name can't be one, no licence is stated, or the library is absent: before any work.
    """
    if not NAME.fullmatch(name):
        raise UserError(
            f"--upload {name!r}: expected OWNER/MODEL or OWNER/MODEL/VARIATION in small letters, digits and hyphens, "
            "such as somebody/ads/best-set1"
        )
    if not licence.strip():
        raise UserError(
            '--hub kaggle: state the licence, such as --licence "Apache 2.0" or --licence Gemma, as Kaggle calls it; '
            "that of the base model holds for what is made from it (01-download_models.py --list)"
        )
    try:
        import kagglehub  # noqa: F401
    except ModuleNotFoundError as missing:
        raise UserError(
            f"--hub kaggle needs the package {missing.name!r}: pip install 'rolltune[hub]', or in the repository "
            "pip install -e '.[hub]'"
        ) from missing
    owner, model, *own = name.split("/")
    slug = re.sub(r"[^a-z0-9]+", "-", variation.lower()).strip("-")[:63] or "roll"
    return KaggleModel(owner, model, FRAMEWORKS[form], own[0] if own else slug, licence.strip())


def check_login(target: KaggleModel, public: bool) -> None:
    """Raises UserError, before hours of work, where Kaggle knows no login, or has the model for everybody to see."""
    import kagglehub

    try:
        kagglehub.whoami(verbose=False)
        _seen(target, public)
    except Exception as error:
        advice = f"Nothing was done yet: {KEY_FILE}, then type the same again"
        raise _refusal(target, error, advice) from None


def upload_kaggle(target: KaggleModel, folder: Path, public: bool, say: Callable[[str], None]) -> None:
    """The folder as a version of that model; a new model is private, and stays so until its page says otherwise.

    Raises UserError for a model that is there and public, unless that was asked for, and for what Kaggle refuses.
    """
    import kagglehub

    try:
        private = _seen(target, public)
        kagglehub.model_upload(target.handle, str(folder), target.licence, ignore_patterns=KEPT_HERE)
    except Exception as error:
        advice = f"{folder} is complete; {KEY_FILE}, delete {folder}, and type the same again"
        raise _refusal(target, error, advice) from None
    left = [path.name for pattern in KEPT_HERE for path in folder.glob(pattern)]
    seen = "public" if private is False else "private"
    say(f"uploaded: https://www.kaggle.com/models/{target.handle} ({seen}, licence {target.licence})"
        + (f"; without {', '.join(left)}, which has marks of the pictures learned from" if left else ""))  # fmt: skip
    if public and private is not False:
        say("its page on Kaggle makes it public: the library can't")


def _refusal(target: KaggleModel, error: Exception, advice: str) -> UserError:
    """What the library or the network raised, of which there are many kinds, without a key that it may show."""
    if isinstance(error, UserError):
        return error
    told = KEY.sub("***", clean(" ".join(str(error).split())))
    return UserError(f"--upload {target.owner}/{target.model}: {type(error).__name__}: {told}\n{advice}")


def _seen(target: KaggleModel, public: bool) -> bool | None:
    """As `_is_private`. Raises UserError for a model that is there and public, where that was not asked for."""
    private = _is_private(target)
    if private is False and not public:
        raise UserError(
            f"--upload {target.owner}/{target.model}: it is there already, for everybody to see; nothing was sent. "
            "--public says that this is meant; otherwise take another name"
        )
    return private


def _is_private(target: KaggleModel) -> bool | None:
    """Whether the model is private; None where there is none that this account may see."""
    from kagglehub.clients import build_kaggle_client
    from kagglesdk.models.types.model_api_service import ApiGetModelRequest
    from requests import HTTPError

    asked = ApiGetModelRequest()
    asked.owner_slug, asked.model_slug = target.owner, target.model
    try:
        with build_kaggle_client() as client:
            return bool(client.models.model_api_client.get_model(asked).is_private)
    except HTTPError as error:
        status: Any = getattr(error.response, "status_code", None)
        if status in (HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN):  # what the library takes for one that is to be made
            return None
        raise
