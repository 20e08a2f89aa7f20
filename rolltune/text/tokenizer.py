"""One small interface over tokenizer files: ids of a text and back, and the special ids."""

from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from rolltune.errors import UserError


class SentencePiece:
    """A SentencePiece model (Gemma, PaliGemma, the built-in tiny model)."""

    def __init__(self, path: Path):
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.Load(str(path))
        except (OSError, RuntimeError) as error:
            raise UserError(f"{path}: not a SentencePiece model that can be read ({error})") from error
        self.bos, self.eos, self.pad = self._model.bos_id(), self._model.eos_id(), self._model.pad_id()
        self.size = self._model.GetPieceSize()

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone: no bos, no eos."""
        return self._model.EncodeAsIds(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids before the first eos."""
        ids = [int(i) for i in ids]
        return self._model.DecodeIds(ids[: ids.index(self.eos)] if self.eos in ids else ids)


def load(path: str | Path) -> SentencePiece:
    """Opens a tokenizer file. Raises UserError where it is missing or of a kind not known."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no tokenizer file there; ./01-download_models.py fetches it with the weights")
    if path.suffix == ".json":
        raise UserError(f"{path}: PaliGemma's tokenizer is tokenizer.model (SentencePiece), not tokenizer.json")
    return SentencePiece(path)
