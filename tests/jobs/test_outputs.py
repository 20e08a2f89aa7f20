"""Where a run leaves what: names that are its own, states on the way that make room for later ones."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from rolltune.errors import UserError
from rolltune.jobs import outputs
from rolltune.jobs.outputs import Outputs, named_roll, named_rolls
from rolltune.weights.whole import ENDING


@pytest.fixture
def out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("checkpoints")
    return Outputs("mine")


def there() -> set[str]:
    return {path.name for path in Path("checkpoints").iterdir()}


def test_the_latest_states_on_the_way_are_kept_and_nothing_else_is_deleted(out):
    steps = [out.at_step(step, roll) for roll in (None, 0, 1) for step in (9, 10, 100, 2)]
    for path in (*steps, out.roll, out.kept(2), Outputs("mine2").at_step(1)):
        path.touch()
    before = there()
    out.drop_steps(2)
    assert before - there() == {"mine.step9.npz", "mine.step2.npz"}  # by number, not by letter
    out.drop_steps(3, roll=1)
    assert before - there() == {"mine.step9.npz", "mine.step2.npz", "mine.roll1.step2.npz"}


def test_a_name_is_free_where_no_file_of_such_a_run_is_there(out):
    out.check_free()
    for path in (Outputs("mine2").roll, Outputs("mine2").kept(2), Path("checkpoints/mine.other.npz")):
        path.touch()
    out.check_free()
    assert out.others == []
    for path in (out.kept(3), out.at_step(4, 1)):
        path.touch()
    assert out.others == [out.kept(3), out.at_step(4, 1)]
    with pytest.raises(UserError, match=r"mine\.rank3\.npz is there already.*and 1 more of that run.*-w mine-v2"):
        out.check_free()
    for name in ("", "../mine", "mine.rank2", "mine.roll1.step3", "mine.whole", "mine.state", ".mine"):
        with pytest.raises(UserError, match="expected a plain name"):
            Outputs(name)


def test_files_have_the_names_that_people_know_and_the_next_one_is_the_first_that_is_free(out):
    names = [out.at_step(4).name, out.at_step(4, 0).name, out.at_step(4, 12).name]
    assert names == ["mine.step4.npz", "mine.roll0.step4.npz", "mine.roll12.step4.npz"]
    assert out.next_name() == "mine-v2" and out.kept(1) == out.roll and out.kept(2).name == "mine.rank2.npz"
    for name in ("mine-v2", "mine-v3"):
        Outputs(name).roll.touch()
    assert out.next_name() == Outputs("mine-v2").next_name() == "mine-v4"
    assert Outputs("mine-v7").next_name() == "mine-v8"


def test_a_roll_is_meant_by_its_name_its_path_or_a_pattern(out):
    for name in ("mine.npz", "mine.rank2.npz", "mine.whole.npz", "a[1].npz", "other.npz"):
        Path("checkpoints", name).touch()
    Path("lone.npz").touch()
    at = lambda *names: [Path("checkpoints", f"{name}.npz") for name in names]
    assert [named_roll("mine"), named_roll("lone.npz")] == [*at("mine"), Path("lone.npz")]
    assert named_roll("gone/away.npz") == Path("gone/away.npz")  # whoever opens it says that it is not there
    with pytest.raises(
        UserError, match=r"nothing: no such roll; in \./checkpoints there are: a\[1\], mine, mine\.rank2"
    ):
        named_roll("nothing")
    Path("other").touch()
    assert named_roll("other") == Path("other")  # a file that lies here comes first
    assert named_rolls(["checkpoints/mi*.npz", "mine", "checkpoints/a[1].npz"]) == at("mine", "mine.rank2", "a[1]")
    assert named_rolls(["checkpoints/mine.whole.npz"]) == at("mine.whole")  # in no pattern, but by its name
    with pytest.raises(UserError, match="no roll has such a name"):
        named_rolls(["checkpoints/x*.npz"])
    exported = Path(f"exports/mine-npz/mine{ENDING}")
    exported.parent.mkdir(parents=True)
    exported.touch()
    assert named_roll("exports/mine-npz") == exported and outputs.names_roll("exports/mine-npz")
    assert not outputs.names_roll("exports") and not outputs.names_roll("checkpoints")


def test_a_disk_without_room_is_told_before_the_work(out, monkeypatch):
    monkeypatch.setattr(outputs.shutil, "disk_usage", lambda path: SimpleNamespace(free=outputs.SPARE + 100))
    out.check_room(100)
    with pytest.raises(UserError, match="make room there first"):
        out.check_room(101)


def test_one_run_of_a_name_goes_on_at_a_time(out):
    with out.held():
        with pytest.raises(UserError, match="-w mine: another run of this name is going on"), Outputs("mine").held():
            pass
        with Outputs("other").held():
            pass
    assert there() == set()
    with pytest.raises(ZeroDivisionError), out.held():
        raise ZeroDivisionError
    with out.held():
        assert there() == {".mine.lock"}
    os.rmdir("checkpoints")
    with out.held():  # in a new folder, too
        assert there() == {".mine.lock"}
    os.rmdir("checkpoints")
    Path("checkpoints").touch()
    with pytest.raises(UserError, match="checkpoints"), out.held():
        pass
