"""Which choice is proposed, what is refused and how; what a person can type wrong."""

import dataclasses
import json
import re

import pytest
from small_families import PHI

from rolltune import memory
from rolltune.__main__ import main
from rolltune.commands import plan_memory as command
from rolltune.data.tiles import hd_slots
from rolltune.errors import UserError
from rolltune.jobs import learn
from rolltune.jobs import plan_memory as planning
from rolltune.jobs.plan_choices import Choice, flags_of
from rolltune.jobs.plan_memory import Options, Place, Planned, Rows, refusal, room_of, verdict
from rolltune.memory import Need
from rolltune.recipe import Recipe
from rolltune.tiny.ads import write_sample_ads
from rolltune.training import setup
from rolltune.training.dataset import Wanted, read_data
from rolltune.training.outline import Stated, outline

GIB = 2**30
OWN = Choice("the recipe as it is", Recipe(batch=4, accumulate=2), 4)
OPENED = setup.open_model(Recipe())


def planned(choice: Choice, size: float) -> Planned:
    return Planned(choice, [Need("loading", weights=GIB), Need("training step", weights=round(size * GIB))])


def all_planned(**sizes: float) -> list[Planned]:
    """The recipe's own choice and its changes, by their words with _ for blanks; 99 GiB where nothing is said."""
    size = lambda choice: sizes.get(choice.words.replace(" ", "_").replace(",", ""), 99)
    return [planned(one, size(one)) for one in (OWN, *planning.changes(OWN, OPENED))]


def test_the_fastest_that_fits_is_proposed():
    said: list[str] = []
    done = all_planned(remat=9, remat_row_by_row=5, row_by_row=11, four_bits=8)
    assert verdict(done, 12 * GIB, lambda one: 7, said.append) == 0
    assert "take: row by row, which needs 11.00 GiB: --config.batch=1 --config.accumulate=8" in said
    assert said[-1] == "up to 7 rolls at once fit with it"
    said.clear()
    assert verdict(all_planned(the_recipe_as_it_is=12, remat=1), 12 * GIB, lambda one: 4, said.append) == 0
    assert not any("cannot fit" in line for line in said) and "nothing to change" in said[-2]
    assert verdict(done, 4 * GIB, lambda one: 0, said.append) == 1 and said[-1].startswith("none of these fits")


def test_a_run_that_cannot_fit_hears_the_two_changes_that_help_most():
    sizes = {"the_recipe_as_it_is": 20, "remat": 9, "row_by_row": 11, "four_bits_remat": 2, "four_bits": 14}
    own, *others = all_planned(**sizes, one_roll=15)
    lines = refusal(own, others, 10 * GIB)
    assert "training step needs 20.00 GiB, and there is room for 10.00 GiB" in lines[0]
    assert lines[1:] == [
        "  --config.remat=True: 9.00 GiB, fits",
        "  --config.batch=1 --config.accumulate=8: 11.00 GiB, not enough alone",
    ]
    assert "no change" in refusal(own, [planned(one.choice, 21) for one in others], GIB)[1]


def test_what_cannot_be_changed_is_not_proposed():
    plain = Choice("", Recipe(batch=1, remat=True, evaluate_batch=1, method="attention"), 1)
    assert planning.changes(plain, OPENED) == []
    several = dataclasses.replace(plain, rolls=3)
    assert [flags_of(one, several) for one in planning.changes(several, OPENED)] == ["--rolls 1"]


def test_room_is_what_the_desktop_and_cuda_leave():
    place = Place("a card", None, True, 12 * GIB)
    assert room_of(Options(desktop=GIB), place) == 11 * GIB - round(memory.CONTEXT)
    assert room_of(Options(budget=8 * GIB), place) == 8 * GIB - round(memory.CONTEXT)
    assert room_of(Options(), Place("this CPU")) is None
    with pytest.raises(UserError, match="leave nothing"):
        room_of(Options(budget=GIB, desktop=GIB), place)


def test_choices_can_be_stated():
    own = Choice("own", Recipe(batch=2), 1, stated=Stated(64, 8, ((28, 28),)))
    found = planning.tried(own, {"quantize": ("", "nf4"), "tokens": ("64", "128"), "rolls": ("2",)})
    assert [(one.recipe.quantize, one.stated.tokens, one.rolls) for one in found] == [
        ("", 64, 2), ("", 128, 2), ("nf4", 64, 2), ("nf4", 128, 2),
    ]  # fmt: skip
    assert found[0].recipe.batch == 2 and found[2].effort > found[1].effort
    (wide,) = planning.tried(own, {"picture": ("640x480",)})
    assert wide.stated.pictures == ((480, 640),)


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--budget", "0"], "--budget '0': expected a size"),
        (["--budget", "-3"], "expected one argument|--budget"),
        (["--budget=-3"], "--budget '-3': expected a size"),
        (["--budget", "12 apples"], "--budget '12 apples'"),
        (["--budget", "1GiB", "--desktop", "2GiB"], "leave nothing"),
        (["--card", "voodoo"], "--card 'voodoo': expected one of h100"),
        (["--picture", "big"], "--picture 'big': expected WIDTHxHEIGHT"),
        (["--tokens", "8", "--answer", "8"], "fewer than the 8"),
        (["--tokens", "x"], "--tokens 'x': expected a number"),
        (["-d", "set1", "--tokens", "8"], "leave one of them away"),
        (["--rolls", "0"], "--rolls '0'"),
        (["--try", "remat"], "write NAME=VALUE"),
        (["--try", "rematt=True"], "no such entry"),
        (["--try", "quantize=nf5"], "quantize.*nf4"),
        (["--try", "model.crops=4"], "model.crops.*has no such number"),
        (["--config.quantize=nf5"], "quantize.*nf4"),
        (["--config.method=rules", "--config.rules=[('nothing', 'lora'), ('.*', 'frozen')]"], "nothing"),
    ],
)
def test_what_is_typed_wrong_is_said(flags, words, capsys, monkeypatch):
    monkeypatch.setattr(planning, "needs_of", lambda *args: [Need("training step", weights=GIB)])
    try:
        status = main(["plan-memory", *flags])
    except SystemExit as ended:  # argparse's own
        status = ended.code
    shown = capsys.readouterr()
    assert status in (1, 2) or "left out" in shown.err
    assert re.search(words, " ".join((shown.err + shown.out).split())), shown.err


def test_rows_are_as_long_as_the_recipe_s_crops_make_them(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(PHI | {"model_type": "phi3_v"}))
    rows, stated = Rows(Options(), print), Stated(8, 2, ((200, 200),))

    def length(crops: int) -> int:
        recipe = Recipe(model=str(tmp_path), dtype="float32", num_crops=crops)
        made = rows.outline(Choice("", recipe, 1, stated=stated))
        places = hd_slots((200, 200), crops or 4, 28, 1)
        assert len(made.inputs.training[0].tokens) == 8 + len(places)
        return len(places)

    assert length(0) == length(4) < length(16)


def test_a_plan_is_printed(capsys, monkeypatch):
    size = lambda made, rolls: GIB * rolls * made.recipe.rank + made.data.spans["train"].stop
    needs = lambda made, rolls, *_: [Need("training step", weights=3 * GIB, trained=size(made, rolls))]
    monkeypatch.setattr(planning, "needs_of", needs)
    monkeypatch.setenv("COLUMNS", "80")
    flags = ["--tokens", "24", "--answer", "4", "--picture", "64x48", "--rows", "3", "--try", "rank=2,16"]
    assert command.main([*flags, "--budget", "10GiB"]) == 0
    said = capsys.readouterr().out
    assert "planned for: this CPU" in said and "training step    3.00" in said and "rank=16" in said
    assert "take: rank=2, which needs 5.00 GiB: --config.rank=2" in said
    assert said.endswith("up to 3 rolls at once fit with it\n")
    assert command.main([*flags, "--budget", "4GiB"]) == 1


@pytest.fixture
def few(tmp_path):
    """Eight of the sample ads."""
    write_sample_ads(tmp_path, seed=0)
    rows = (tmp_path / "data.jsonl").read_text().splitlines()[:8]
    (tmp_path / "few.jsonl").write_text("\n".join(rows) + "\n")
    return tmp_path / "few.jsonl"


def test_rows_are_encoded_anew_for_a_choice_that_reads_them_otherwise(few):
    rows = Rows(Options(dataset=str(few)), lambda text: None)
    made = lambda **changed: rows.outline(Choice("", Recipe(**changed), 1))
    length = lambda one: max(len(row.tokens) for row in one.inputs.training)
    plain = made()
    assert made(rank=2, batch=1).inputs is plain.inputs
    assert length(made(prompt="is it one of these?" * 3)) > length(plain)
    assert made(augment=("crop",), views=3).inputs.views == 3 and made(augment=("crop",), views=2).inputs.views == 2
    assert made(task="write").data.task.kind == "write" and plain.data.task.kind != "write"
    with pytest.raises(UserError, match="max_tokens"):
        made(max_tokens=4)


def test_a_training_that_cannot_fit_is_refused_before_the_weights_come(few, monkeypatch):
    recipe = Recipe(batch=2, evaluate_batch=1)
    data = read_data({"train": few}, Wanted("auto"), lambda text: None)
    size = lambda made, slots, **_: [
        Need("training step", weights=GIB * made.recipe.batch * (1 - bool(made.recipe.remat) / 4))
    ]
    monkeypatch.setattr(planning, "needs_of", size)
    monkeypatch.setattr(learn, "load_opened", lambda opened: pytest.fail("the weights were read"))
    monkeypatch.setattr(learn, "free_bytes", lambda: GIB)
    with pytest.raises(UserError, match=r"room for 1.00 GiB\n.*batch=1 --config.accumulate=2: 1.00 GiB, fits\n.*remat"):
        learn.prepare(recipe, data, 1, slots=1)
    said: list[str] = []
    opened = setup.open_model(recipe)
    made = outline(opened, recipe, data, setup.encode(opened.model, recipe, data))
    planning.check_room(made, 1, round(2.1 * GIB), said.append)
    planning.check_room(made, 1, 4 * GIB, said.append)
    assert "may just fit" in said[0] and "4.00 GiB are free" in said[1]
