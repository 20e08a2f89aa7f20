"""What one labelled row is, whatever file it came from."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation. `role` is "user" or "assistant"."""

    role: str
    text: str


@dataclass(frozen=True)
class Example:
    """One labelled row.

    `turns` alternates user, assistant, ... and ends with the assistant's answer, which is what is
    trained and scored. A prefix/suffix row is two turns. `images` are paths that were checked to lie
    inside the data folder, in the order the prompt means them. `source` names the row in messages
    ("set1/train.jsonl:17"), `group` what must not be split apart (a video, an original picture).
    `frames` picks frames of animated images: one index an image, None where the policy decides.
    """

    id: str
    images: tuple[Path, ...]
    turns: tuple[Turn, ...]
    source: str
    group: str | None = None
    frames: tuple[int | None, ...] = ()

    @property
    def prompt(self) -> str:
        """The text of the last user turn (all there is of the prompt in a one-turn row)."""
        return self.turns[-2].text

    @property
    def answer(self) -> str:
        return self.turns[-1].text
