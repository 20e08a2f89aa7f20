"""What 06 says when it is done: how much it wrote, what a person must know, and what to do next."""

from types import SimpleNamespace

import pytest

from rolltune.commands import convert
from rolltune.errors import UserError


@pytest.mark.parametrize(
    ("kind", "written", "said"),
    [
        ("folder", 3, ["note: one left out", "2 pictures, 3 files written: a b", "next: rolltune doctor 'a b'"]),
        ("coco", 0, ["note: one left out", "2 pictures, nothing had changed: a b", "next: rolltune doctor 'a b'"]),
        ("to-coco", 1, ["note: one left out", "2 pictures, 1 files written: a b"]),  # no data set: nothing to examine
    ],
)
def test_what_was_written_is_said_and_a_data_set_is_examined_next(tmp_path, monkeypatch, capsys, kind, written, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "from").mkdir()
    output = SimpleNamespace(notes=["one left out"], written=written, pictures=2)
    monkeypatch.setattr(convert, "_convert", lambda options: output)
    assert convert.main([kind, "from", "a b"]) == 0
    assert "".join(capsys.readouterr()).splitlines() == said
    with pytest.raises(UserError, match="gone: there is no such file or folder"):
        convert.main([kind, "gone", "a b"])
