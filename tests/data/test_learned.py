"""What a roll has learned from is known again by what it shows, in whatever file and under whatever name."""

import pytest

from rolltune.data.examples import Example, Turn
from rolltune.data.learned import learned, learned_text, marks_of


def row(*images, text="is it?", group=None, frames=()) -> Example:
    return Example("1", images, (Turn("user", text), Turn("assistant", "yes")), "made.jsonl:1", group, frames)


def known(first: Example, second: Example) -> bool:
    """Whether who learned from the first row has learned from the second."""
    one, other = marks_of([first, second])
    return learned([other], one)[0]


@pytest.fixture
def pictures(tmp_path):
    """Four files; the last shows what the first does."""
    paths = [tmp_path / f"{name}.png" for name in ("a", "b", "c", "copy")]
    for path, content in zip(paths, (b"a", b"b", b"c", b"a"), strict=True):
        path.write_bytes(content)
    return paths


def test_a_picture_is_known_by_its_content_and_its_frame(pictures):
    a, b, _, copy = pictures
    assert known(row(a, text="is it?"), row(copy, text="was it?")) and not known(row(a), row(b))
    assert known(row(a, frames=(1,)), row(copy, frames=(1,)))
    assert not known(row(a, frames=(1,)), row(a, frames=(2,))) and not known(row(a, frames=(1,)), row(a))


def test_a_row_of_several_pictures_is_known_where_more_than_half_of_them_are(pictures):
    a, b, c, _ = pictures
    assert known(row(a, b), row(a, b, c))
    assert not known(row(a), row(a, b))  # such as one that all rows compare with
    assert not known(row(a), row(a, b, c))


def test_texts_and_groups_are_known_too(pictures):
    a, b, *_ = pictures
    assert known(row(text="Is  it?"), row(text="is it?")) and not known(row(text="is it?"), row(text="was it?"))
    assert known(row(a, group="g"), row(b, group="g")) and not known(row(a, group="g"), row(b, group="h"))
    assert not known(row(text="g"), row(b, group="g"))
    assert learned_text(0, 9) == "" and learned_text(3, 9).startswith("3 of 9 of these were learned from")
