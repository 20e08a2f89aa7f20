"""What is found wrong, or worth knowing, in a data set: gathered first, told all at once."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rolltune.errors import UserError, visible

ERROR, WARNING, NOTE = "error", "warning", "note"
LEVELS = (ERROR, WARNING, NOTE)  # in the order in which they should be put right
# Likewise, within one level.
KINDS = (
    "bad row",
    "no answer",
    "name map",
    "empty class",
    "empty set",
    "unreadable image",
    "duplicate id",
    "over-long row",
    "leak between splits",
    "group in two splits",
    "label conflict",
    "near copy in two splits",
    "duplicate row",
    "near duplicate",
    "answer not in train",
    "answer spelled two ways",
    "mark of another toolkit",
    "few rows of an answer",
    "imbalance",
    "one-coloured image",
    "small image",
    "stretched image",
    "text broken into bytes",
    "wrong file ending",
    "turned by EXIF",
    "animation",
    "unusual pixels",
    "scripts",
    "left out",
)
SHOWN = 40  # characters of a value in a message
TOLD_AT_ONCE = 1000  # a message longer than that is no longer read; the rest is counted


def quoted(value: object, most: int = SHOWN) -> str:
    """A value out of the data for a message, in quotes: its beginning where it is long (a picture as base64)."""
    if isinstance(value, str) and len(value) > most:
        return f"{value[:most]!r}... ({len(value)} characters)"
    text = repr(value)
    return text if isinstance(value, str) or len(text) <= most else f"{text[:most]}..."


@dataclass(frozen=True)
class Finding:
    """One thing found. `where` is "set1/train.jsonl:17" or a file; `advice` is what to do about it."""

    level: str
    kind: str
    where: str
    message: str
    advice: str = ""
    images: tuple[Path, ...] = ()

    def __str__(self) -> str:
        return visible(f"{self.where}: {self.message}" + (f" ({self.advice})" if self.advice else ""))


def raise_errors(findings: Iterable[Finding], what: str) -> None:
    """Raises one UserError that lists every finding of level "error"; returns where there is none."""
    errors = [finding for finding in findings if finding.level == ERROR]
    if not errors:
        return
    lines = [f"  {finding}" for finding in errors[:TOLD_AT_ONCE]]
    if len(errors) > TOLD_AT_ONCE:
        lines.append(f"  ... and {len(errors) - TOLD_AT_ONCE} more")
    count = f"{len(errors)} problem{'s' if len(errors) > 1 else ''}"
    raise UserError(f"{visible(what)}: {count} to put right first\n" + "\n".join(lines))
