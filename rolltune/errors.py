"""The one exception for what a person can put right: its message is all they see. And how it is shown."""

import html
import re

# Characters that turn the direction of writing: with them a terminal shows another text than the one that is there.
_TURNING = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_ODD = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f-\x9f{_TURNING}\ud800-\udfff]")


class UserError(Exception):
    """Names the file, the line and the value, what was expected, and what to do. Shown without a traceback."""


def visible(text: str) -> str:
    r"""`text` as a terminal may get it: escapes, turned writing and halves of characters are written out (\x1b).

    Names and values come from files of strangers; a terminal obeys what it is sent. Line ends and tabs stay.
    """
    return _ODD.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def as_html(text: str) -> str:
    """`visible` text as a page may hold it: a browser obeys the marks that turn writing, too."""
    return html.escape(visible(text))
