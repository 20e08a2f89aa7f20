"""What one labelled row is, whatever file it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rolltune.data.findings import SHOWN, Finding
from rolltune.errors import visible

GROUP_KEYS = ("group", "video")  # of a JSONL row, first one present; rows of one group stay in one split
QUESTION = "What is in this picture?"  # asked of image folders where no other is given
STAND_IN = "?"  # in the place of the answer of a row that only asks


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation. `role` is "system", "user" or "assistant".

    Image marks of LLaVA and Phi rows that stand at the beginning of the user's first turn are taken out:
    images come before the text. A mark anywhere else is kept as "<image>", the k-th one for the
    k-th image, for families that put images between words.
    """

    role: str
    text: str


@dataclass(frozen=True)
class Example:
    """One labelled row.

    `turns` may begin with one of the system; then it alternates user, assistant, ... and ends with the assistant's
    answer, which is what is trained and scored. A prefix/suffix row is two turns. `images` are paths that were
    checked to lie inside the data folder, in the order the prompt means them. `source` names the row in messages
    ("set1/train.jsonl:17"), `group` what must not be split apart (a video, an original picture).
    `frames` picks frames of animated images: one index an image, None where the policy decides, -n
    for a contact sheet of n frames. `accepted` holds every answer that counts as right where there
    are several (DocVQA); it is empty where only `answer` does. `answered` is False where the row only asks: its answer
    is STAND_IN then.
    """

    id: str
    images: tuple[Path, ...]
    turns: tuple[Turn, ...]
    source: str
    group: str | None = None
    frames: tuple[int | None, ...] = ()
    accepted: tuple[str, ...] = ()
    answered: bool = True

    @property
    def prompt(self) -> str:
        """The text of the last user turn (all there is of the prompt in a one-turn row)."""
        return self.turns[-2].text

    @property
    def answer(self) -> str:
        return self.turns[-1].text


@dataclass
class Scan:
    """What a reader made of a source: `rows[k]` is the JSONL row of `examples[k]`, image paths relative to `folder`."""

    kind: str
    folder: Path
    examples: list[Example] = field(default_factory=list)
    rows: list[dict] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    note: str = ""

    @property
    def understood(self) -> str:
        """One line: what the source is and what is in it."""
        if not self.examples:
            return f"{self.kind}: no row that can be read"
        images = {path for example in self.examples for path in example.images}
        answers = {example.answer for example in self.examples}
        parts = [f"{len(self.examples)} rows", f"{len(images)} images" if images else "text only"]
        few = len(answers) <= max(2, len(self.examples) // 2)
        some = [answer if len(answer) <= SHOWN else f"{answer[:SHOWN]}..." for answer in sorted(answers)[:6]]
        shown = ", ".join(some) + (", ..." if len(answers) > 6 else "")
        parts.append(f"{len(answers)} answers ({shown})" if few else f"{len(answers)} different answers")
        groups = {example.group for example in self.examples if example.group is not None}
        if groups:
            parts.append(f"{len(groups)} groups")
        if self.note:
            parts.append(self.note)
        return visible(f"{self.kind}: " + ", ".join(parts))
