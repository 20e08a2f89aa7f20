"""Which choice is proposed, what is refused and how; what a person can type wrong."""

import dataclasses
import json
import re
import shutil
from types import SimpleNamespace

import jax
import pytest
from small_families import PHI

from rolltune import quantize
from rolltune.__main__ import main
from rolltune.commands import plan_memory as command
from rolltune.data.tiles import hd_slots
from rolltune.errors import UserError
from rolltune.free_memory import CONTEXT
from rolltune.jobs import learn
from rolltune.jobs import plan_memory as planning
from rolltune.jobs.plan_choices import MOST_TRIED, Choice, difference, flags_of, picture_size, whole_number
from rolltune.jobs.plan_memory import (
    Options,
    Place,
    Planned,
    Rows,
    find_place,
    most_that_fit,
    refusal,
    room_of,
    verdict,
)
from rolltune.memory import Need
from rolltune.recipe import Recipe
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


def test_more_cards_are_one_of_the_two_changes_where_they_help():
    own = planned(OWN, 20)
    others = [planned(one, size) for one, size in zip(planning.changes(OWN, OPENED), (9, 8, 7, 6), strict=False)]
    two, four, eight = planning.more_cards(OWN)
    assert [one.cards for one in (two, four, eight)] == [2, 4, 8] and two.recipe.sharding == "fsdp"
    lines = refusal(own, [*others, planned(four, 11)], 10 * GIB)
    assert len(lines) == 3 and lines[2] == (
        "  on 4 such cards that share the base (--cards 4 --config.sharding=fsdp): 11.00 GiB, not enough alone"
    )
    assert len(refusal(own, [planned(four, 21), *others], 10 * GIB)) == 3  # and that alone does not help
    tried = []
    sizes = {2: 15, 4: 9, 8: 5}
    possible = lambda one: tried.append(one.cards) or planned(one, sizes[one.cards])
    (found,) = planning.on_more_cards(OWN, 10 * GIB, possible)
    assert found.choice.cards == 4 and tried == [2, 4]
    assert planning.on_more_cards(OWN, GIB, lambda one: None) == []


def test_rolls_are_over_cards_or_over_groups_of_them():
    own = lambda word, size=0: Choice("", Recipe(sharding=word, sharding_group=size), 6, cards=4)
    laid = lambda one: (one.group, one.groups, one.each)
    assert laid(own("rolls")) == (1, 4, 2) and laid(own("auto")) == (1, 4, 2)
    assert laid(own("fsdp")) == (4, 1, 6) and laid(own("replicate", 2)) == (2, 2, 3)
    assert laid(dataclasses.replace(own("fsdp"), cards=1)) == (1, 1, 6)
    words = {one.words: one for one in planning.changes(own("fsdp"), OPENED)}
    assert words["whole base on each card"].recipe.sharding == "rolls"
    assert words["cut over groups of 2 cards"].groups == 2
    cut = next(one for one in planning.changes(own("rolls"), OPENED) if one.words == "cut over 4 cards")
    assert flags_of(cut, own("rolls")) == "--config.sharding=fsdp"
    size = lambda one: planned(one, 2 + 2 * one.each)
    assert most_that_fit(size(own("replicate", 2)), 11 * GIB, size) == 8  # four on each group


def test_what_cannot_be_changed_is_not_proposed():
    plain = Choice("", Recipe(batch=1, remat=True, evaluate_batch=1, method="attention"), 1)
    assert planning.changes(plain, OPENED) == []
    matrix = jax.ShapeDtypeStruct((2, 64, 32), "float32")
    for word in ("nf4", "int8"):  # a file whose own matrices are in few bits is not packed again
        few = SimpleNamespace(shapes=lambda word=word: {"a/kernel": quantize.quantized_shapes(matrix, word)})
        assert not any(one.recipe.quantize for one in planning.changes(OWN, few))
    assert any(one.recipe.quantize for one in planning.changes(OWN, OPENED))
    quantized = dataclasses.replace(OWN, recipe=Recipe(quantize="int8"))
    assert not any(one.recipe.quantize == "nf4" for one in planning.changes(quantized, OPENED))
    several = dataclasses.replace(plain, rolls=3)
    assert [flags_of(one, several) for one in planning.changes(several, OPENED)] == ["--rolls 1"]


def test_room_is_what_the_desktop_and_cuda_leave():
    place = Place("a card", False, True, 12 * GIB)
    assert room_of(Options(desktop=GIB), place) == 11 * GIB - round(CONTEXT)
    assert room_of(Options(budget=8 * GIB), place) == 8 * GIB - round(CONTEXT)
    assert room_of(Options(), Place("this CPU")) is None
    described = Place("a card, by the CPU's compiler", has=12 * GIB)
    assert room_of(Options(card="h100"), described) == 12 * GIB - round(CONTEXT)
    assert room_of(Options(budget=GIB), Place("this CPU")) == GIB  # which has no CUDA
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


def test_of_equally_fast_choices_the_one_with_most_rolls_is_proposed():
    made = [planned(dataclasses.replace(OWN, words=f"{rolls} rolls", rolls=rolls), 2 * rolls) for rolls in (1, 4, 2, 8)]
    said: list[str] = []
    asked: list[int] = []
    assert verdict(made, 9 * GIB, lambda one: asked.append(one.choice.rolls) or 4, said.append) == 0
    assert any(line.startswith("take: 4 rolls, which needs 8.00 GiB") for line in said) and asked == [4]


def test_a_card_is_planned_for_in_bfloat16_and_parts_are_named(capsys, monkeypatch):
    seen = []
    needs = [Need("loading", weights=3 * GIB), Need("training step", activations=GIB, temporary=4 * GIB)]
    monkeypatch.setattr(planning, "needs_of", lambda made, *rest: seen.append(made.recipe.dtype) or needs)
    monkeypatch.setattr(planning.gpus, "compiler_here", lambda: False)
    asked = Options(stated=Stated(16, 4, rows=3), card="h100")
    said: list[str] = []
    assert planning.plan_memory(asked, Recipe(), said.append) == 0 and set(seen) == {"bfloat16"}
    assert any("most at a time: 5.00 GiB, in: training step; CUDA itself takes about" in text for text in said)
    shown = capsys.readouterr().out
    assert re.search(r"training step +1\.00 +4\.00 +5\.00", shown) and re.search(r"loading +3\.00 +3\.00", shown)
    assert "GiB, 1 roll\n" in re.sub(" +\n", "\n", shown)
    seen.clear()
    assert planning.plan_memory(asked, Recipe(dtype="float32"), said.append) == 0 and set(seen) == {"float32"}


def test_what_is_changed_is_what_has_to_be_typed():
    own = Choice("own", Recipe(batch=4, accumulate=2), 2, stated=Stated(64, 8))
    recipe = lambda **changed: dataclasses.replace(own, recipe=dataclasses.replace(own.recipe, **changed))
    assert difference(own, own) == {} and flags_of(own, own) == "nothing to change"
    assert difference(recipe(batch=1, accumulate=8), own) == {"batch": 1}  # one change: the same rows, in pieces
    assert difference(recipe(batch=2, accumulate=2), own) == {"batch": 2}
    assert difference(recipe(batch=1, accumulate=2, rank=4), own) == {"batch": 1, "rank": 4}
    assert difference(recipe(accumulate=4), own) == {"accumulate": 4}
    assert flags_of(recipe(batch=2), own) == "--config.batch=2"
    other = dataclasses.replace(own, rolls=3, stated=Stated(32, 8), model={"layers": 5})
    assert flags_of(other, own) == "--rolls 3 rows as stated there layers = 5 in the model's own files"
    every = planning.tried(own, {"rank": tuple(map(str, range(1, MOST_TRIED + 1)))})
    assert [one.recipe.rank for one in every] == list(range(1, MOST_TRIED + 1))
    with pytest.raises(UserError, match="65 combinations"):
        planning.tried(own, {"rank": tuple(map(str, range(1, MOST_TRIED + 2)))})
    (given,) = planning.tried(own, {"model.layers": ("5",)})
    assert given.model == {"layers": 5} and given.recipe == own.recipe
    costly, plain = planning.tried(own, {"remat": ("True", "False")})
    assert costly.effort > plain.effort


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "", "x", "²"])
def test_a_number_from_one_on_is_asked_for(text):
    assert whole_number("1", "--rolls") == 1
    with pytest.raises(UserError, match="--rolls"):
        whole_number(text, "--rolls")


@pytest.mark.parametrize("text", ["0x5", "5x0", "5", "5x5x5", "ax5", "65537x5"])
def test_a_picture_has_two_sides(text):
    assert picture_size("65536x5", "--picture") == (5, 65536) and picture_size("6X4", "--picture") == (4, 6)
    with pytest.raises(UserError, match="expected WIDTHxHEIGHT"):
        picture_size(text, "--picture")


def test_float8_is_offered_where_a_card_multiplies_in_it_and_taken_where_nothing_else_fits(monkeypatch):
    monkeypatch.setattr(planning.gpus, "compiler_here", lambda: False)
    assert [find_place(Options(card=name)).float8 for name in ("h100", "rtx4070", "a100", "rtx3060")] == [1, 1, 0, 0]
    device = SimpleNamespace(platform="gpu", device_kind="Some card", compute_capability="8.9")
    monkeypatch.setattr(planning.jax, "devices", lambda: [device])
    assert find_place(Options()).float8
    assert not any(one.words.startswith("float8") for one in planning.changes(OWN, OPENED))
    sizes = {"float8": 7, "four bits": 6, "remat": 9}
    done = [planned(OWN, 20), *(planned(one, sizes.get(one.words, 99)) for one in planning.changes(OWN, OPENED, True))]
    taken = {}
    for room in (9, 8, 6):
        said: list[str] = []
        verdict(done, room * GIB, lambda one: 1, said.append)
        taken[room] = next(line for line in said if line.startswith("take: "))
    assert [taken[room].split(",")[0] for room in (9, 8, 6)] == ["take: remat", "take: float8", "take: four bits"]
    assert "--config.quantize=float8" in taken[8]
    lines = refusal(done[0], done[1:], 10 * GIB)  # two words for one entry are one change
    assert lines[1:] == ["  --config.quantize=nf4: 6.00 GiB, fits", "  --config.remat=True: 9.00 GiB, fits"]


def test_float8_is_of_four_bits_where_the_file_has_them_and_of_shared_bases_too():
    matrix = jax.ShapeDtypeStruct((2, 64, 32), "float32")
    nf4 = quantize.quantized_shapes(matrix, "nf4")
    few = lambda **more: SimpleNamespace(shapes=lambda: {"text/layers/a/kernel": nf4, "vision/kernel": matrix} | more)
    words = lambda own, opened, float8=True: {
        one.words: one.recipe.quantize for one in planning.changes(own, opened, float8) if one.recipe.quantize
    }
    assert words(OWN, few()) == {"float8": "nf4-float8", "float8, remat": "nf4-float8"}
    assert not words(OWN, few(), float8=False)
    assert not words(OWN, few(**{"text/layers/b/kernel": matrix}))  # it would be packed as well
    shared = dataclasses.replace(OWN, recipe=Recipe(sharding="fsdp"), cards=2)
    assert words(shared, few())["float8, whole base on each card"] == "nf4-float8"
    assert words(shared, OPENED)["float8, whole base on each card"] == "float8"
    whole = next(one for one in planning.changes(shared, OPENED, True) if one.words.startswith("float8, whole"))
    assert whole.recipe.sharding == "rolls" and not whole.shares


def test_as_many_rolls_as_fit_are_counted_from_those_that_were_planned():
    """3 GiB for all, and 2 for each roll."""
    made = lambda choice: planned(choice, 3 + 2 * choice.rolls)
    for rolls in (1, 2):
        own = dataclasses.replace(OWN, rolls=rolls)
        found = {room: most_that_fit(made(own), room * GIB, made) for room in (7, 8, 12, 13)}
        assert found == {7: 2, 8: 2, 12: 4, 13: 5}


def test_a_card_is_planned_for_by_what_it_has(monkeypatch):
    monkeypatch.setattr(planning.gpus, "compiler_here", lambda: False)
    place = find_place(Options(card="h100"))
    assert place.has == round(planning.gpus.find("h100").gib * GIB) and not place.gpu and place.first is None
    assert "by this CPU's compiler" in place.words
    assert find_place(Options()).has is None and "name a graphics card with --card" in find_place(Options()).words
    device = type("Device", (), {"platform": "gpu", "device_kind": "Some card"})()
    monkeypatch.setattr(planning.jax, "devices", lambda: [device])
    monkeypatch.setattr(planning, "free_bytes", lambda: 10 * GIB)
    here = find_place(Options())
    assert here.gpu and here.has == 10 * GIB + round(CONTEXT)  # which `room_of` takes off again
    assert room_of(Options(desktop=0), here) == 10 * GIB


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
        (["--cards", "0"], "--cards '0'"),
        (["--cards", "99"], "--cards 99: there .* here; --card NAME"),
        (["--try", "remat"], "write NAME=VALUE"),
        (["--try", "rematt=True"], "no such entry"),
        (["--try", "quantize=nf5"], "quantize.*nf4"),
        (["--try", "model.crops=4"], "model.crops.*has no such number"),
        (["--try", "model.dtype=4"], "model.dtype.*has no such number"),
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
def few(drawn_ads, tmp_path):
    """Eight of the sample ads."""
    shutil.copytree(drawn_ads, tmp_path, dirs_exist_ok=True)
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
        learn.prepare(recipe, data, learn.Asked(1, slots=1))
    said: list[str] = []
    opened = setup.open_model(recipe)
    made = outline(opened, recipe, data, setup.encode(opened.model, recipe, data))
    planning.check_room(made, 1, round(2.1 * GIB), said.append)
    planning.check_room(made, 1, 4 * GIB, said.append)
    assert "may just fit" in said[0] and "4.00 GiB are free" in said[1]


def test_choices_are_listed_the_fastest_first_with_what_each_needs(capsys):
    made = [
        planned(dataclasses.replace(OWN, words=words, rolls=rolls, effort=effort), size)
        for words, rolls, effort, size in (("slow", 1, (2, 0), 2), ("own", 4, (0,), 12), ("one", 1, (0,), 8))
    ]
    listed = planning.choices_table(made, 8 * GIB)
    cells = list(zip(*(column.cells for column in listed.columns), strict=True))
    assert cells == [
        ("own", "4", "12.00", "training step", "no"),
        ("one", "1", "8.00", "training step", "yes"),
        ("slow", "1", "2.00", "training step", "yes"),
    ]
    assert {row[-1] for row in zip(*(c.cells for c in planning.choices_table(made, None).columns), strict=True)} == {""}


def test_a_choice_that_cannot_be_is_left_out_and_said(capsys, monkeypatch):
    needs = lambda made, *rest: [Need("training step", weights=GIB * made.recipe.rank)]
    monkeypatch.setattr(planning, "needs_of", needs)
    said: list[str] = []
    asked = Options(stated=Stated(16, 4, rows=3), tries={"quantize": ("nf4", ""), "rank": ("2",)}, budget=3 * GIB)
    assert planning.plan_memory(asked, Recipe(rank=9), said.append) == 0
    shown = "".join(capsys.readouterr())
    assert "left out: what to quantize" in " ".join(shown.split())  # the built-in model has odd sides
    assert any("take: quantize=none, rank=2, which needs 2.00 GiB: --config.rank=2" in text for text in said)
    assert any(text.startswith("the recipe as it is cannot fit") for text in said)
    assert any("room for arrays: 3.00 GiB of 3.00 GiB" in text for text in said)
