"""What a family says of pictures, made up."""

import numpy as np

from rolltune.text.encode import Picture


def picture(rows: int, key: object = "a.png", learned: int = 0) -> Picture:
    """A picture whose rows stand in the text, one after the other."""
    return Picture(key, np.arange(learned, learned + rows, dtype=np.int32), np.zeros(0, np.int32), rows)


def crossing(rows: int, key: object = "a.png") -> Picture:
    """A picture that stands in the text as one token of its own and that cross layers see."""
    return Picture(key, np.array([-1], np.int32), np.arange(rows, dtype=np.int32), rows)
