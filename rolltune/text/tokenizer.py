"""One small interface over tokenizer files: ids of a text and back, and the special ids."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import sentencepiece
import tokenizers

from rolltune.errors import UserError

ROW_PADDING = 64  # embeddings are padded to multiples of it: so many rows more than tokens are no sign of another model
# Of tokenizer.json, which does not say which of its tokens play these parts: asked for in this order where none of the
# files beside it does.
KNOWN_NAMES = {
    "bos": ("<s>", "<bos>", "<|begin_of_text|>", "<|im_start|>"),
    "eos": ("</s>", "<eos>", "<|end_of_text|>", "<|im_end|>", "<|endoftext|>"),
    "pad": ("<pad>", "<|finetune_right_pad_id|>", "<|endoftext|>", "<|im_end|>"),
}
NAMING_FILES = ("tokenizer_config.json", "special_tokens_map.json")


class Tokenizer(Protocol):
    """Text to ids and back. `bos`, `eos` and `pad` are -1 where the file has no such token."""

    path: Path
    bos: int
    eos: int
    pad: int
    size: int  # ids are below it

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone: no bos, no eos."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids before the first eos, without special tokens."""

    def special(self, name: str) -> int:
        """The id of a token by its name. Raises UserError where there is none."""


class SentencePiece:
    """A SentencePiece model (Gemma, PaliGemma, Mistral, the built-in tiny model).

    `added` are tokens that the model was given beside its tokenizer's: ids by name. They have no text.
    """

    def __init__(self, path: Path, added: Mapping[str, int] | None = None):
        self.path = path
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.Load(str(path))
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"{path}: not a SentencePiece model that can be read{_kind_of(path)} ({error})") from error
        self._added = dict(added or {})
        self._pieces = self._model.GetPieceSize()
        self.size = max([self._pieces, *(number + 1 for number in self._added.values())])
        self.bos, self.eos = self._model.bos_id(), self._model.eos_id()
        self.pad = self._added.get("<pad>", self._model.pad_id())

    def encode(self, text: str) -> list[int]:
        return self._model.EncodeAsIds(text)

    def decode(self, ids: Sequence[int]) -> str:
        # A model can say what no piece stands for: rows of its embedding beyond the tokenizer's.
        return self._model.DecodeIds([i for i in _before(self.eos, ids) if i < self._pieces])

    def special(self, name: str) -> int:
        if name in self._added:
            return self._added[name]
        found = self._model.PieceToId(name)
        if self._model.IdToPiece(found) != name:  # of what it does not know it gives the unknown piece's
            raise _lacks(self.path, name)
        return found


class HuggingFace:
    """A tokenizer.json of Hugging Face (Llama 3, Phi, and the models of before in another form).

    Names of special tokens in a text are text, as those of control symbols in a SentencePiece model are: data can't end
    an answer or speak for another. Other added tokens, such as "<loc0123>", are found in it.
    """

    def __init__(self, path: Path, added: Mapping[str, int] | None = None):
        self.path = path
        try:
            self._model = tokenizers.Tokenizer.from_file(str(path))
            self._model.encode("a \ue000")  # some files can be opened, and fail at the first word they don't know
        except Exception as error:  # the library raises no kind of its own
            raise UserError(f"{path}: not a tokenizer.json that can be read{_kind_of(path)} ({error})") from error
        # What was set when the file was written is no business of ours: rows are never cut or padded here.
        self._model.no_truncation()
        self._model.no_padding()
        self._model.encode_special_tokens = True
        listed = self._model.get_added_tokens_decoder()
        self._added = dict(added or {})
        ids = [*listed, *self._added.values()]
        self.size = max([self._model.get_vocab_size(with_added_tokens=False), *(number + 1 for number in ids)])
        stated = _stated_names(path.parent)
        self.bos, self.eos, self.pad = (self._first(stated.get(role), role) for role in KNOWN_NAMES)

    def _first(self, stated: str | None, role: str) -> int:
        names = (stated, *KNOWN_NAMES[role]) if stated else KNOWN_NAMES[role]
        found = [self._model.token_to_id(name) for name in names]
        return next((number for number in found if number is not None), -1)

    def encode(self, text: str) -> list[int]:
        return self._model.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._model.decode(_before(self.eos, ids), skip_special_tokens=True)

    def special(self, name: str) -> int:
        found = self._added.get(name, self._model.token_to_id(name))
        if found is None:
            raise _lacks(self.path, name)
        return found


class Remembering:
    """A tokenizer that keeps the ids of every text it was asked for: answers come again in every row, questions once to
    be trained on and once to be scored."""

    def __init__(self, tokenizer: Tokenizer):
        self.bos, self.eos, self.pad, self.size = tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.size
        self.path, self.decode, self.special = tokenizer.path, tokenizer.decode, tokenizer.special
        self._encode = tokenizer.encode
        self._known: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        known = self._known.get(text)
        if known is None:
            known = self._known[text] = self._encode(text)
        return known


def load(path: str | Path, added: Mapping[str, int] | None = None) -> Tokenizer:
    """Opens a tokenizer file: tokenizer.json (Hugging Face) by its ending, else a SentencePiece model.

    `added` are ids by name of tokens that the file does not hold. Raises UserError where it is missing, damaged or of
    a kind not known.
    """
    path = Path(path)
    try:
        is_folder = path.is_dir()
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise UserError(f"{str(path)[:200]}: {error.strerror}; correct the tokenizer's path") from error
    if is_folder:
        held = [name for name in ("tokenizer.model", "tokenizer.json") if (path / name).is_file()]
        advice = f"name the file: {path / held[0]}" if held else "and no tokenizer.model or tokenizer.json is in it"
        raise UserError(f"{path}: a tokenizer is a file, this is a folder; {advice}")
    if not path.is_file():
        raise UserError(f"{path}: no tokenizer file there; ./01-download_models.py fetches it with the weights")
    return HuggingFace(path, added) if path.suffix == ".json" else SentencePiece(path, added)


def id_of(tokenizer: Tokenizer, name: str) -> int:
    """The id of a special token; "bos", "eos" and "pad" are the tokenizer's own. Raises UserError for none."""
    if name not in KNOWN_NAMES:
        return tokenizer.special(name)
    own = {"bos": tokenizer.bos, "eos": tokenizer.eos, "pad": tokenizer.pad}[name]
    if own < 0:
        raise _lacks(tokenizer.path, name)
    return own


def check(tokenizer: Tokenizer, vocab: int, specials: Mapping[str, int], source: str | Path) -> None:
    """Refuses a tokenizer of another model: its ids would be valid, and every one of them wrong.

    `vocab` is the number of rows of the embedding, `specials` the model's ids by name ("bos", "eos" and "pad" too),
    `source` names the weights. Raises UserError with all differences.
    """
    problems = []
    if not 0 <= vocab - tokenizer.size <= ROW_PADDING:
        least = max(vocab - ROW_PADDING, 1)
        problems.append(
            f"the model has {vocab} rows of embedding, the tokenizer {tokenizer.size} tokens "
            f"(expected {least} to {vocab})"
        )
    for name, wanted in specials.items():
        try:
            found = id_of(tokenizer, name)
        except UserError:
            problems.append(f"the model's token {name} ({wanted}) is not in the tokenizer")
            continue
        if found != wanted:
            problems.append(f"{name} is {wanted} for the model, {found} for the tokenizer")
    if problems:
        raise UserError(
            f"{tokenizer.path} is not the tokenizer of {source}: {'; '.join(problems)}. Take the tokenizer file that "
            "was published with the weights"
        )


def _before(eos: int, ids: Sequence[int]) -> list[int]:
    ids = [int(i) for i in ids]
    return ids[: ids.index(eos)] if eos in ids else ids


def _lacks(path: Path, name: str) -> UserError:
    return UserError(
        f"{path}: has no token {name}, which the model's text format needs: take the tokenizer file that was published "
        "with the weights"
    )


def _stated_names(folder: Path) -> dict[str, str]:
    """Which tokens are bos, eos and pad by the files that stand beside tokenizer.json."""
    names: dict[str, str] = {}
    for file in (folder / name for name in NAMING_FILES):
        if not file.is_file():
            continue
        try:
            held = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file}: not JSON ({error}); fetch it again") from error
        except OSError as error:
            raise UserError(f"{file}: can't be read ({error.strerror}); look whose it is") from error
        for role in KNOWN_NAMES:
            token = held.get(f"{role}_token") if isinstance(held, dict) else None
            text = token.get("content") if isinstance(token, dict) else token
            if isinstance(text, str):
                names.setdefault(role, text)
    return names


def _kind_of(path: Path) -> str:
    """What a file that is no tokenizer seems to be, and what to do: ": ..." or nothing."""
    with path.open("rb") as file:
        begin = file.read(64)
    if not begin:
        return ": it is empty; fetch it again"
    if begin.startswith(b"version https://git-lfs"):
        return ": it is a Git LFS pointer, not the file itself; fetch it again (git lfs pull)"
    if path.suffix == ".json":
        return (
            ": tokenizer.json is the file wanted"
            if path.name != "tokenizer.json"
            else ": it may be cut; fetch it again"
        )
    if begin.startswith(b"IQ== 0"):
        return ": it is Meta's list of ranks; give the tokenizer.json that is published beside it"
    if begin.lstrip().startswith(b"{"):
        return ": it holds JSON; a tokenizer.json must be called so"
    return ""
