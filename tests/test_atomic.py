import errno
import os
import signal
import subprocess
import sys

import pytest

from rolltune import atomic
from rolltune.errors import UserError


def test_an_error_leaves_the_earlier_file_and_nothing_else(tmp_path):
    path = tmp_path / "roll.npz"
    atomic.write_bytes(path, b"first")
    with pytest.raises(KeyError), atomic.aside(path) as file:
        file.write(b"half")
        raise KeyError
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["roll.npz"]
    atomic.write_bytes(path, b"second")
    assert path.read_bytes() == b"second"
    assert os.listdir(tmp_path) == ["roll.npz"]


@pytest.mark.parametrize("aside", [atomic.aside, atomic.folder_aside])
def test_an_error_leaves_no_folder_that_was_made_for_it(aside, tmp_path):
    (tmp_path / "there").mkdir()
    for place in ("new/deep/x", "there/new/x", "there/x"):
        with pytest.raises(KeyError), aside(tmp_path / place):
            raise KeyError
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]
    with pytest.raises(KeyError), aside(tmp_path / "new/x"):
        (tmp_path / "new/somebody's").touch()
        raise KeyError
    assert os.listdir(tmp_path / "new") == ["somebody's"]


def test_a_kill_while_writing_leaves_the_earlier_file_and_no_npz_beside_it(tmp_path):
    path = tmp_path / "roll.npz"
    path.write_bytes(b"first")
    script = (
        "import os, signal, sys; from rolltune import atomic\n"
        "with atomic.aside(sys.argv[1]) as file:\n"
        "    file.write(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"first"
    assert list(tmp_path.glob("*.npz")) == [path]  # Path.glob would also find a hidden half-written .npz


def test_a_folder_that_takes_nothing_is_said_before_there_is_something_to_write(tmp_path):
    atomic.check_folder(tmp_path / "new" / "checkpoints")
    assert list((tmp_path / "new").rglob("*")) == [tmp_path / "new" / "checkpoints"]
    (tmp_path / "reports").write_text("a file of that name")
    with pytest.raises(UserError, match=r"reports: nothing can be written there \(File exists\); move away"):
        atomic.check_folder(tmp_path / "reports")


def test_a_result_takes_the_place_of_its_kind_alone_and_that_is_said_before_the_work(tmp_path):
    own, other, empty = tmp_path / "own.csv", tmp_path / "other.csv", tmp_path / "empty.csv"
    own.write_text("rank,run\n1,a\n")
    other.write_text("label,image\n")
    empty.touch()
    for path in (own, empty, tmp_path / "new" / "deep" / "x.csv"):
        atomic.check_result(path, "rank,")
    for path, said in (
        (other, "holds something else: choose another name"),
        (tmp_path, "a folder of that name is in the way"),
        (other / "x.csv", "a part of the path is a file"),
        (other / "deep" / "x.csv", "a part of the path is a file"),
    ):
        with pytest.raises(UserError, match=said):
            atomic.check_result(path, "rank,")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.csv", "other.csv", "own.csv"]
    with pytest.raises(UserError, match="a part of the path is a file"):
        atomic.write_text(other / "x.csv", "")


def test_a_link_stays_a_link_and_folders_are_made(tmp_path):
    target = tmp_path / "deep" / "real.json"
    atomic.write_json(target, {"a": 1})
    (tmp_path / "link.json").symlink_to(target)
    atomic.write_json(tmp_path / "link.json", {"a": 2})
    assert (tmp_path / "link.json").is_symlink()
    assert '"a": 2' in target.read_text()


def test_a_saved_file_is_as_readable_as_any_other(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    atomic.write_bytes(tmp_path / "saved", b"")
    assert (tmp_path / "saved").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_full_disk_is_advice_and_still_an_error_of_the_system(tmp_path, monkeypatch):
    """Who waits for an OSError, to say where the work is kept, gets it; who doesn't shows the advice."""

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "roll.npz"
    atomic.write_bytes(path, b"first")
    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(UserError, match=r"could not write \S*roll\.npz: the disk is full: free .* Nothing was changed"):
        atomic.write_bytes(path, b"second")
    with pytest.raises(OSError) as found:
        atomic.write_bytes(path, b"second")
    assert (found.value.errno, found.value.filename) == (errno.ENOSPC, str(path))
    with pytest.raises(UserError, match="the disk is full"), atomic.folder_aside(tmp_path / "new") as folder:
        (folder / "a").write_bytes(b"a")
    assert path.read_bytes() == b"first" and os.listdir(tmp_path) == ["roll.npz"]


def test_a_folder_is_there_whole_or_not_at_all_and_takes_a_full_ones_place_only_if_told(tmp_path):
    made = tmp_path / "set"
    with pytest.raises(KeyError), atomic.folder_aside(made) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_bytes(b"half")
        raise KeyError
    assert os.listdir(tmp_path) == []
    made.mkdir()  # an empty one may be there
    with atomic.folder_aside(made) as folder:
        (folder / "a").write_bytes(b"first")
    with pytest.raises(UserError, match="set exists and is not an empty folder"), atomic.folder_aside(made):
        pass
    with pytest.raises(KeyError), atomic.folder_aside(made, replace=True) as folder:
        raise KeyError
    assert (made / "a").read_bytes() == b"first"
    with atomic.folder_aside(made, replace=True) as folder:
        (folder / "b").write_bytes(b"second")
    assert os.listdir(made) == ["b"] and os.listdir(tmp_path) == ["set"]
