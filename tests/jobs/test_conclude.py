"""What is written of a roll: the recipe that trains it alone, all that it has learned from, how it ended."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from small_model import make_example

from rolltune.errors import UserError
from rolltune.evaluation.decision import Decision
from rolltune.evaluation.metrics import Positive, Prediction, Threshold, measure
from rolltune.evaluation.tasks import CHOOSE, Task
from rolltune.jobs import conclude as concluding
from rolltune.jobs.cards import decided_by
from rolltune.jobs.conclude import (
    DIVERGED,
    Finished,
    Passes,
    _decided,
    _entry,
    _with_decision,
    card_of,
    conclude,
    own_recipe,
    print_results,
    trained_marks,
    with_decision,
    with_known,
)
from rolltune.jobs.outputs import Outputs
from rolltune.recipe import Recipe
from rolltune.training.dataset import Data
from rolltune.training.loop import COLLAPSED, STALLED, FinishedRoll
from rolltune.training.rolls import Draw
from rolltune.training.step import REASONS, STOPPED
from rolltune.weights.roll_file import Base, load_roll

DATA = Data(
    [make_example(n, answer=("no", "yes")[n % 2]) for n in range(6)],
    {"train": range(0, 2), "valid": range(2, 4), "test": range(4, 6)},
    {},
    Task(CHOOSE, ("no", "yes")),
    Positive("yes", ""),
    [frozenset({f"p{n}", "shared"}) for n in range(6)],
)
DRAW = Draw(3, 45, 0.02, 16.0, 0.5, fold=1)
BASE = Base("tiny", "ab")


def test_the_recipe_of_a_roll_trains_this_one_alone():
    several = Recipe(seed=42, rates=(0.01, 0.02), alphas=(8.0, 16.0), weight_decays=(0.0, 0.5), rate_range=(0.1, 0.2))
    single = own_recipe(several, DRAW)
    assert (single.seed, single.rate, single.alpha, single.weight_decay) == (45, 0.02, 16.0, 0.5)
    assert (single.rates, single.alphas, single.weight_decays, single.rate_range) == ((), (), (), ())


def test_a_roll_has_learned_from_its_training_rows_or_from_all_folds_but_its_own():
    assert trained_marks(DATA, DRAW, None) == {"p0", "p1", "shared"}
    assert trained_marks(DATA, DRAW, [0, 1, 2, 1]) == {"p0", "p2", "shared"}  # the test split takes no part


def test_a_card_has_what_all_passes_have_learned_from():
    card = card_of(Recipe(), BASE, DATA, DRAW, Passes(2, frozenset({"p9", "p1"})))
    assert card.metrics["learned"] == ["p0", "p1", "p9", "shared"] and card.metrics["passes"] == 2
    assert (card.base, card.seed, card.answers, card.prompt) == (BASE, 45, ["no", "yes"], "is it?")
    assert card_of(Recipe(prompt="so?"), BASE, DATA, DRAW, Passes(1)).prompt == "so?"
    other = [dataclasses.replace(one, turns=make_example(0, "or so?").turns) for one in DATA.examples[:1]]
    mixed = dataclasses.replace(DATA, examples=[*other, *DATA.examples[1:]])
    assert card_of(Recipe(), BASE, mixed, DRAW, Passes(1)).prompt == ""  # each row has its own


def test_a_card_counts_the_judging_rows_that_any_pass_has_learned_from():
    data = dataclasses.replace(DATA, marks=[frozenset({f"p{n}"}) for n in (0, 1, 2, 1, 4, 9)])
    figures = measure(Prediction((), ("no", "yes"), np.zeros(0, int), np.zeros((0, 2))), "yes")
    passes = Passes(2, frozenset({"p9"}))  # an earlier one learned from what is the last test row here
    entry = dataclasses.replace(
        _entry(Recipe(), data, FinishedRoll(DRAW, 7, "", False, None), None), valid=figures, test=figures
    )
    known = lambda entry, folds: with_known(
        card_of(Recipe(), BASE, data, DRAW, dataclasses.replace(passes, folds=folds), entry), data, DRAW, folds
    ).metrics["known"]
    assert known(entry, None) == {"valid": 1, "test": 1}
    assert known(dataclasses.replace(entry, test=None), None) == {"valid": 1}  # of lower ranks it judges none
    assert known(entry, [0, 1, 0, 1]) == {"valid": 0, "test": 1}  # fold 1 holds out rows 1 and 3, which are copies


@pytest.mark.parametrize(
    ("reason", "redrawn", "state"),
    [
        ("", False, "alive"),
        (REASONS[STOPPED], False, "stopped"),
        (COLLAPSED, True, "redrawn"),
        (COLLAPSED, False, "died"),
    ],
)
def test_the_board_says_how_a_roll_ended(reason, redrawn, state):
    entry = _entry(Recipe(), DATA, FinishedRoll(dataclasses.replace(DRAW, attempt=2), 7, reason, redrawn, None), None)
    assert entry.status.state == state and entry.status.step == (None if state == "alive" else 7)
    assert (entry.roll, entry.seed, entry.learning_rate, entry.attempt) == (3, 45, 0.02, 2)


def test_a_roll_s_threshold_is_chosen_on_its_validation_rows_alone_and_kept_beside_the_plain_figures():
    chance = np.array([0.9, 0.1, 0.2, 0.4, 0.1, 0.35])  # of "yes"; rows 1, 3 and 5 are "yes", 2 and 3 are validation
    label = np.array([0, 1, 0, 1, 0, 1])
    ids = tuple(one.id for one in DATA.examples)
    judged = Prediction(ids, ("no", "yes"), label, np.log(np.stack([1 - chance, chance], 1)))
    one = FinishedRoll(DRAW, 7, "", False, None, judged=judged)
    recipe = Recipe(metric="f-measure", threshold="metric")
    made = _decided(recipe, DATA, one)
    assert made.threshold == ("yes", pytest.approx(0.3)) and "2 validation rows, 1 of them" in made.text
    assert not _decided(Recipe(metric="f-measure"), DATA, one).text
    decided = _with_decision(one, made)
    entry = dataclasses.replace(_entry(recipe, DATA, decided, None), test=measure(decided.judged.at([4, 5]), "yes"))
    card = with_decision(card_of(recipe, BASE, DATA, DRAW, Passes(1), entry), made, DATA, decided)
    assert (card.metrics["test"]["recall"], card.metrics["undecided"]["test"]["recall"]) == (1.0, 0.0)
    bare = card_of(recipe, BASE, DATA, DRAW, Passes(1))
    assert with_decision(bare, Decision(), DATA, one) is bare  # where nothing was asked for
    assert decided_by(card, "x") == made and card.metrics["test"]["threshold"] == made.threshold.at
    broken = dataclasses.replace(card, metrics={**card.metrics, "decision": {"temperature": -1}})
    with pytest.raises(UserError, match=r"x: decision\.temperature is -1"):
        decided_by(broken, "x")


FILED = dataclasses.replace(DATA, files={split: Path(f"set/{split}.jsonl") for split in DATA.spans})


def right_on(*places, sure=0.9) -> Prediction:
    """Of all six rows, right on these and on no others."""
    label = np.arange(6) % 2
    chosen = np.where(np.isin(np.arange(6), places), label, 1 - label)
    chances = np.where(np.arange(2) == chosen[:, None], sure, 1 - sure)
    return Prediction(tuple(one.id for one in DATA.examples), ("no", "yes"), label, np.log(chances))


def printed(data, **asked) -> dict[str, str]:
    """What is printed, by the titles of the blocks."""
    said: list[str] = []
    print_results(data, right_on(0, 2, 3), 1, said.append, **asked)
    return {part.split("\n")[0]: part for part in "\n".join(said).split("Result: ")[1:]}


def test_a_block_is_printed_for_each_split_that_may_be_seen():
    train, valid, test = (f"./set/{split}.jsonl (1st trained)" for split in DATA.spans)
    mixed = "./set (all) (1st trained): train and valid mixed, test left out"
    found = printed(FILED)
    assert list(found) == [train, valid, mixed]
    shares = {title: next(line for line in text.split("\n") if "accuracy" in line) for title, text in found.items()}
    assert {title: float(line.split()[-1]) for title, line in shares.items()} == {train: 0.5, valid: 1.0, mixed: 0.75}
    assert list(printed(FILED, tested=True)) == [train, valid, test, mixed]
    assert list(printed(FILED, folds=[0, 1, 0, 1], tested=True)) == [test]  # a fold's roll has seen most of the others
    alone = dataclasses.replace(FILED, spans={"train": range(6)}, files={"train": Path("set/train.jsonl")})
    assert list(printed(alone)) == [train]
    assert not any("learned from" in text for text in found.values())
    known = printed(FILED, learned_from={"p0", "p3", "p4"}, tested=True)
    assert ["of these were learned from" in known[title] for title in (train, valid, test)] == [False, True, True]
    assert "1 of 2 of these were learned from" in known[valid]
    decided = printed(FILED, decision=Decision(1.0, Threshold("yes", 0.3)))
    assert "by the likeliest answer" in decided[valid]


def ended(roll: int, judged, reason: str = "", trained: bool = True, **draw) -> FinishedRoll:
    tree = {"text/norm/scale": np.full(2, roll, np.float32)} if trained else None
    return FinishedRoll(Draw(roll, roll, 0.02, 16.0, 0.5, **draw), 8, reason, False, tree, judged)


@pytest.fixture
def concluded(tmp_path, monkeypatch):
    """`concluded(rolls, keep="2")`: (the exit status, what was said, what the report is made of)."""
    monkeypatch.chdir(tmp_path)
    reported: list = []
    monkeypatch.setattr(concluding, "_report", lambda *given: reported.append(given))

    passes = Passes(2, frozenset({"p9"}))

    def run(rolls, data=FILED, **asked):
        options = dict(folds=None, repeat=1, keep="best", whole=False, origin=None) | asked
        out, said = Outputs("mine"), []
        out.stale = [Path("checkpoints/stale.npz")]
        made = Finished(rolls, None, passes, {}, {})
        recipe = Recipe(metric="accuracy", rate=0.04)
        model = SimpleNamespace(base=BASE)
        return conclude(SimpleNamespace(**options), recipe, model, data, made, out, said.append), said, reported

    return run


def test_the_best_by_its_validation_rows_is_saved_with_its_own_figures(concluded):
    Path("checkpoints").mkdir()
    Path("checkpoints/stale.npz").touch()
    rolls = [ended(0, right_on(0, 1, 2)), ended(1, right_on(2, 3, 5)), ended(2, right_on(0, 1, 4))]
    status, said, (_report,) = concluded(rolls, keep="2")
    assert status == 0 and {path.name for path in Path("checkpoints").iterdir()} == {"mine.npz", "mine.rank2.npz"}
    best, second = (load_roll(f"checkpoints/{name}.npz") for name in ("mine", "mine.rank2"))
    assert best.tree["text"]["norm"]["scale"].tolist() == [1, 1] and best.card.seed == 1
    assert second.tree["text"]["norm"]["scale"].tolist() == [0, 0] and second.card.seed == 0
    figures = {split: (best.card.metrics[split] or {}).get("accuracy") for split in ("train", "valid", "test")}
    assert figures == {"train": 0.0, "valid": 1.0, "test": 0.5}
    assert second.card.metrics["test"] is None  # the untouched split is looked at once
    assert best.card.metrics["passes"] == 2 and best.card.metrics["learned"] == ["p0", "p1", "p9", "shared"]
    assert Path("reports/mine.leaderboard.json").is_file()
    assert any("./set/test.jsonl (2nd trained)" in text for text in said)


def test_one_roll_has_no_leaderboard_and_several_seeds_have_their_spread(concluded):
    assert concluded([ended(0, right_on(0, 1, 2))])[0] == 0 and not Path("reports/mine.leaderboard.json").exists()
    _, said, _ = concluded([ended(0, right_on(2)), ended(1, right_on(2, 3))], repeat=2)
    assert any("over the seeds of 2 of the 2 rolls" in text for text in said)


def test_rolls_that_collapsed_are_kept_where_no_other_ran_to_its_end(concluded):
    rolls = [ended(0, right_on(0, 2, 4), COLLAPSED), ended(1, right_on(1, 2, 3), COLLAPSED)]
    assert concluded([*rolls, ended(2, None, REASONS[1], trained=False)])[0] == 0
    assert load_roll("checkpoints/mine.npz").card.seed == 1
    assert concluded([*rolls, ended(3, right_on(0, 2))])[0] == 0
    assert load_roll("checkpoints/mine.npz").card.seed == 3  # a roll that tells answers apart goes before them


@pytest.mark.parametrize(
    ("reason", "advice"), [(REASONS[1], "Try a lower rate, for example --config.rate=0.01"), (STALLED, "stall=0")]
)
def test_where_all_rolls_diverged_nothing_is_saved_and_it_is_said_why(concluded, reason, advice):
    rolls = [ended(0, None, REASONS[1], trained=False), ended(1, None, reason, trained=False)]
    status, said, reported = concluded(rolls)
    assert status == DIVERGED and not Path("checkpoints").exists() and not reported
    assert said[-1].startswith("nothing was saved: all 2 rolls ended early; the last, roll 1, at step 8: " + reason)
    assert advice in said[-1]


def test_a_fold_s_roll_is_measured_on_the_rows_that_it_did_not_train_on():
    fold = dataclasses.replace(DRAW, fold=1)
    one = FinishedRoll(fold, 7, "", False, None, right_on(0, 1, 2))
    entry = _entry(Recipe(alphas=(8.0, 16.0)), DATA, one, [0, 1, 1, 0])
    assert (entry.train.n, entry.train.accuracy, entry.valid.n, entry.valid.accuracy) == (2, 0.5, 2, 1.0)
    assert entry.prediction.ids == tuple(DATA.examples[place].id for place in (1, 2))
    assert entry.settings == {"fold": 1, "alpha": 16.0}
    plain = _entry(Recipe(weight_decays=(0.0, 0.5)), DATA, dataclasses.replace(one, draw=Draw(0, 0, 1, 8, 0.5)), None)
    assert (plain.train.accuracy, plain.valid.accuracy, plain.settings) == (1.0, 0.5, {"weight_decay": 0.5})
    alone = dataclasses.replace(DATA, spans={"train": range(6)})
    assert _entry(Recipe(), alone, one, None).valid is None


def test_the_report_is_of_the_chosen_roll_on_the_rows_that_say_most(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reported: list = []
    monkeypatch.setattr(concluding, "write_report", lambda path, summary, opening: reported.append((path, summary)))
    asked = SimpleNamespace(folds=None, repeat=1, keep="best", whole=False, origin=None, command="03 -d set")
    model = SimpleNamespace(base=BASE)

    def run(data, rolls, **recipe):
        curves = {1: ([4, 8], [0.5, 0.25]), 0: ([4], [0.75])}
        made = Finished(rolls, right_on(0), Passes(1, frozenset({"p4"})), curves, {"device": "x"})
        assert conclude(asked, Recipe(metric="accuracy", **recipe), model, data, made, Outputs("mine"), print) == 0
        return reported.pop()

    rolls = [ended(0, right_on(0)), ended(1, right_on(2, 3, 5)), ended(2, right_on(1), REASONS[1])]
    seen = dataclasses.replace(FILED, marks=[frozenset({f"p{n}"}) for n in range(6)])
    path, told = run(seen, rolls, prompt="so?")
    assert path == Path("reports/mine.html") and (told.title, told.stage) == ("mine", "(1st trained)")
    assert (told.prompt, told.command, told.roll_file, told.facts) == (
        "so?",
        "03 -d set",
        "./checkpoints/mine.npz",
        {"device": "x"},
    )
    assert [(one.role, one.before.accuracy, one.after.accuracy, one.learned) for one in told.splits] == [
        ("train", 0.5, 0.0, 2), ("valid", 0.0, 1.0, 0), ("test", 0.0, 0.5, 1),
    ]  # fmt: skip
    assert [one.name for one in told.splits] == [f"./set/{split}.jsonl" for split in ("train", "valid", "test")]
    assert [(one.roll, list(one.steps), one.state) for one in told.curves] == [(0, [4], "alive"), (1, [4, 8], "alive")]
    assert told.leaderboard.chosen.roll == 1 and told.scored_split == "./set/test.jsonl"
    assert told.scored.ids == tuple(one.id for one in DATA.of("test")) and told.base == {"name": "tiny", "hash": "ab"}
    assert [(one.split, one.prompt, one.is_wrong) for one in told.pictures] == [
        ("test", "so?", True),
        ("test", "so?", False),
    ]
    two = dataclasses.replace(FILED, spans={"train": range(4), "valid": range(4, 6)})
    _, told = run(dataclasses.replace(two, files={s: FILED.files[s] for s in ("train", "valid")}), rolls[:1])
    assert told.leaderboard is None and told.scored_split == "./set/valid.jsonl" and told.prompt == "is it?"
    assert told.pictures and {one.prompt for one in told.pictures} == {"is it?"}  # the rows' own
    assert (told.answers, told.positive, told.recipe["metric"]) == (("no", "yes"), "", "accuracy")
    assert told.warnings and not told.doubtful and not told.decision.text
    one = dataclasses.replace(two, spans={"train": range(6)}, files={"train": FILED.files["train"]})
    assert run(one, rolls[:1])[1].scored_split == "./set/train.jsonl"
