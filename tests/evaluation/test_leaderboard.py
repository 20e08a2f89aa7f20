import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from made_predictions import counted, texts
from rich.console import Console

from rolltune.errors import UserError
from rolltune.evaluation.figures import measured
from rolltune.evaluation.leaderboard import Entry, Status, rank, table, to_json, with_test, write
from rolltune.evaluation.metrics import measure
from rolltune.evaluation.report_tables import leaderboard_table
from rolltune.evaluation.statistics import interval

ALIVE = Status()


def entry(roll, tp, tn, fp, fn, sure=0.9, status=ALIVE, **more) -> Entry:
    valid = counted(tp, tn, fp, fn, sure)
    train = measure(counted(40, 46, 0, 0), "yes")
    return Entry(roll, 100 + roll, 0.03, status, train, measure(valid, "yes"), valid, **more)


def order(board):
    return [entry.roll for entry in board.entries]


def shown(board, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table(board))
    return console.export_text()


def test_each_metric_ranks_its_own_way():
    # F: 0.8, 0.75, 0.857; precision: 1, 0.6, 0.75; recall: 2/3, 1, 1; accuracy: 0.9, 0.8, 0.9
    rolls = [entry(0, 2, 7, 0, 1, 0.6), entry(1, 3, 5, 2, 0, 0.7), entry(2, 3, 6, 1, 0, 0.99)]
    assert order(rank(rolls)) == [2, 0, 1]
    assert order(rank(rolls, "precision")) == [0, 2, 1]
    assert order(rank(rolls, "recall")) == [2, 1, 0]  # level at 1.0; 0.47 nats against 0.53
    assert order(rank(rolls, "accuracy"))[0] == 2
    losses = {roll.roll: roll.valid.log_loss for roll in rolls}
    assert order(rank(rolls, "log-loss")) == sorted(losses, key=losses.get)
    with pytest.raises(UserError, match="no metric is called 'f2'"):
        rank(rolls, "f2")


def test_ties_go_to_the_lower_log_loss_and_the_notes_say_so():
    board = rank([entry(0, 3, 5, 1, 1, 0.6), entry(1, 3, 5, 1, 1, 0.8)])
    assert order(board) == [1, 0]
    assert any("rolls 1 and 0 are level in f-measure; ranked by the lower log-loss" in note for note in board.notes)
    same = rank([entry(5, 3, 5, 1, 1), entry(2, 3, 5, 1, 1)])
    assert order(same) == [2, 5]
    assert any("ranked by the lower number, their log-loss being equal too" in note for note in same.notes)


def test_settings_that_differ_have_a_column_each_and_the_rates_are_short():
    own = [{"alpha": 16.0, "weight_decay": 0.015625}, {"fold": 3}]
    rolls = [
        replace(entry(n, 3, 5 - n, 1, 1), settings=settings, learning_rate=0.0123456) for n, settings in enumerate(own)
    ]
    board = rank(rolls)
    text = shown(board, 140)
    assert all(word in text for word in ("alpha", "decay", "fold", "0.0156", "0.0123")) and "weight_decay" not in text
    said = to_json(board)
    assert [roll["settings"] for roll in said["rolls"]] == own and [roll["rank"] for roll in said["rolls"]] == [1, 2]
    assert said["chosen"] == 0 and said["ranked_on"] == "valid" and said["rolls"][0]["seed"] == 100
    died = rank([*rolls, Entry(7, 107, 0.5, Status("died", 41, "why"))])
    assert to_json(died)["ends"] == ["roll 7 died at step 41: why"] and to_json(died)["notes"] == list(died.notes)
    last = to_json(died)["rolls"][-1]
    assert (last["rank"], last["state"], last["step"], last["reason"], last["valid"]) == (None, "died", 41, "why", None)


def test_each_row_of_the_report_s_table_is_its_roll_s():
    """A place, the best one's stress and an interval for those that are ranked; the others stand back."""
    own = {"alpha": 16.0, "fold": 3}
    board = rank([
        replace(entry(4, 3, 4, 1, 2), settings={"alpha": 0.1234}),
        entry(7, 4, 5, 1, 0, settings=own),
        entry(9, 1, 5, 0, 4, status=Status("stopped", 32, "behind")),
        Entry(5, 105, 0.5, Status("died", 41, "why")),
    ])  # fmt: skip
    page = leaderboard_table(board)
    heads, *rows = re.findall(r"<tr.*?</tr>", page)
    texts = lambda row: [re.sub("<.*?>", "", cell).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
    assert texts(heads)[:9] == ["", "roll", "seed", "rate", "alpha", "fold", "on train", "F-measure", "95 % interval"]
    assert [texts(row)[:8] + texts(row)[-1:] for row in rows] == [
        ["1", "7", "107", "0.03", "16", "3", "1.0", "0.8889", "alive"],
        ["2", "4", "104", "0.03", "0.123", "", "1.0", "0.6667", "alive"],
        ["", "5", "105", "0.5", "", "", "", "", "died at 41"],
        ["", "9", "109", "0.03", "", "", "1.0", "0.3333", "stopped at 32"],
    ]
    assert [re.match('<tr class="(.*?)">', row)[1] for row in rows] == ["best", "", "out", "out"]
    assert [row.count('class="range"') for row in rows] == [1, 1, 0, 1]  # of the metric that ranks alone
    assert texts(rows[0])[8] == str(interval(board.chosen.valid, "f-measure"))


def test_an_undefined_figure_ranks_below_every_defined_one():
    board = rank([entry(0, 0, 5, 0, 5), entry(1, 1, 1, 4, 4)], "precision")
    assert order(board) == [1, 0]
    assert any("roll 0 gives every picture the same answer" in note for note in board.notes)
    both = rank([entry(0, 0, 5, 0, 5), entry(1, 0, 5, 0, 5)], "precision")
    assert any("precision is undefined for every roll (no picture was predicted yes)" in note for note in both.notes)
    none = rank([entry(0, 0, 5, 0, 0), entry(1, 0, 5, 0, 0)], "f-measure")
    assert any("f-measure is undefined for every roll (no picture has the answer yes or" in note for note in none.notes)


def test_only_rolls_that_ran_to_the_end_can_be_chosen():
    died = Entry(0, 7, 0.3, Status("redrawn", 41, "loss is not a number"))
    stopped = entry(1, 5, 5, 0, 0, status=Status("stopped", 64, "rung 1"))
    board = rank([died, stopped, entry(2, 4, 4, 1, 1), entry(3, 3, 5, 1, 1)])
    assert board.chosen.roll == 2 and board.ranked == 2
    assert order(board) == [2, 3, 0, 1]
    assert "roll 0 died at step 41: loss is not a number; drawn again" in board.ends
    assert any("the best of 3 cannot be told from the second" in note for note in board.notes)  # the stopped one counts
    assert any("choosing the best of 3 on 10 pictures" in note for note in board.notes)
    nothing = rank([died])
    assert nothing.chosen is None
    assert any("no roll ran to the end" in note for note in nothing.notes)


def test_rolls_scored_on_different_rows_are_not_tested_against_each_other():
    other = entry(1, 3, 5, 1, 1)
    fold = counted(3, 5, 1, 1)._replace(ids=tuple("abcdefghij"))
    notes = rank([entry(0, 4, 5, 1, 0), replace(other, prediction=fold)]).notes
    assert any("scored on different pictures" in note for note in notes)
    assert not any("McNemar" in note or "choosing" in note for note in notes)


def test_what_keep_saves():
    board = rank([entry(i, 4, 4, 1, 1) for i in range(3)] + [entry(9, 5, 5, 0, 0, status=Status("died", 3, "NaN"))])
    saved = lambda how_many: {rank: entry.roll for rank, entry in board.keep(how_many).items()}
    assert saved("best") == {1: 0}
    assert saved("2") == {1: 0, 2: 1}
    assert saved("all") == saved("50") == {1: 0, 2: 1, 3: 2}
    for wrong in ("0", "-1", "some"):
        with pytest.raises(UserError, match="best, all, vote or a number"):
            board.keep(wrong)


def test_without_validation_rows_it_ranks_on_training_and_says_so():
    first = measure(counted(40, 40, 3, 3), "yes")
    second = measure(counted(42, 42, 1, 1), "yes")
    board = rank([Entry(0, 1, 0.1, train=first), Entry(1, 2, 0.1, train=second)])
    assert (board.split, order(board)) == ("train", [1, 0])
    assert any("says nothing about new pictures" in note for note in board.notes)


def test_no_better_than_always_the_same_answer_is_said():
    board = rank([entry(0, 0, 7, 0, 3)])
    assert any("no more often (0.7) than always giving the most frequent answer (0.7)" in note for note in board.notes)


def test_the_untouched_split_scores_the_chosen_only():
    board = with_test(rank([entry(0, 5, 5, 0, 0), entry(1, 3, 5, 1, 1)]), counted(6, 8, 2, 4))
    assert board.chosen.test.accuracy == 0.7
    assert board.entries[1].test is None
    assert not any("-t N" in note for note in board.notes)  # it was done
    assert any(
        "on the untouched split (20 pictures) roll 0 has f-measure 0.6667 (95 %:" in note and "against 1.0" in note
        for note in board.notes
    )


def test_the_table_fits_eighty_columns_uncut():
    own = {"alpha": 16.0, "weight_decay": 0.125}
    board = rank([entry(i, 3, 5, 1, 1, settings=own) for i in range(2)], "precision")
    text = shown(board)
    assert "…" not in text
    parts = ("rolls by precision, validation pictures", "100", "0.03", "0.75", "0.30-0.95", "0.8", "alive")
    for part in (*parts, "alpha", " 16 ", "decay", "0.125"):
        assert part in text


def test_each_cell_of_the_table_is_its_roll_s():
    own = {"alpha": 16.0, "weight_decay": 0.125}
    rolls = [entry(n, 3, 5 - n, 1, 1 + n, settings=own) for n in range(2)]
    stopped = replace(entry(3, 4, 5, 0, 1), status=Status("stopped", 0, "lost"), train=None, learning_rate=0.5)
    made = table(rank([*rolls, stopped, Entry(7, 107, 0.12345, Status("died", 41, "why"))], "precision"))
    heads = ["", "roll", "seed", "rate", "alpha", "decay", "train", "precision", "95 %", "accuracy", "log-loss"]
    assert [column.header for column in made.columns] == [*heads, "state"]
    losses = [f"{one.valid.log_loss:.4f}" for one in (*rolls, stopped)]
    assert list(zip(*(column.cells for column in made.columns), strict=True)) == [
        ("1", "0", "100", "0.03", "16", "0.125", "1.0", "0.75", "0.30-0.95", "0.8", losses[0], "alive"),
        ("2", "1", "101", "0.03", "16", "0.125", "1.0", "0.75", "0.30-0.95", "0.7", losses[1], "alive"),
        ("", "3", "103", "0.5", "", "", "", "1.0", "0.51-1.00", "0.9", losses[2], "stopped 0"),
        ("", "7", "107", "0.123", "", "", "", "", "", "", "", "died 41"),
    ]
    assert [row.style for row in made.rows] == ["bold", None, "dim", "dim"]


def test_the_json_holds_figures_intervals_and_reasons(tmp_path):
    board = rank([Entry(0, 7, 0.3, Status("died", 41, "NaN")), entry(1, 0, 5, 0, 5)], "precision")
    write(tmp_path / "leaderboard.json", board)
    read = json.loads((tmp_path / "leaderboard.json").read_text())
    assert (read["metric"], read["chosen"]) == ("precision", 1)
    best, dead = read["rolls"]
    assert (best["rank"], best["valid"]["precision"], best["valid"]["accuracy"]) == (1, None, 0.5)
    assert best["valid"]["undefined"] == {"precision": "no picture was predicted yes"}
    assert best["valid"]["interval_95"]["accuracy"]["low"] == pytest.approx(0.2366, abs=1e-4)
    assert (dead["rank"], dead["state"], dead["step"], dead["reason"], dead["valid"]) == (None, "died", 41, "NaN", None)


RIGHT = [("a",), ("b",), ("c", "d"), ("e",)]


def wrote(roll, given, losses, **more) -> Entry:
    written = texts(given, RIGHT, losses)
    return Entry(roll, 100 + roll, 0.03, ALIVE, measured(written), measured(written), written, **more)


def test_written_answers_are_ranked_by_each_of_their_metrics():
    near = wrote(0, ["ax", "bx", "cx", "ex"], [1, 1, 1, 1.5])  # half alike each, none equal
    sure = wrote(1, ["q", "q", "q", "q"], [0.1, 0.2, 0.1, 0.1])
    equal = wrote(2, ["a", "q", "d", "q"], [3, 3, 3, 2])
    mute = wrote(3, None, [0.1, 0.1, 0.1, 0.1])
    board = rank([near, sure, equal], "log-loss")
    assert order(board) == [1, 0, 2]
    for note in (
        "roll 1 gives every picture the same answer",
        "the best is right no more often (0.0) than always giving the most frequent answer (0.25)",
        "the best of 3 cannot be told from the second (their log-loss differs by 1.0 on 4 rows",
    ):
        assert any(note in one for one in board.notes), note
    assert not any("flatters" in note or "cannot choose" in note for note in board.notes)  # far apart: no luck in it
    assert order(rank([near, sure, equal, mute], "exact-match")) == [2, 1, 0, 3]
    board = rank([near, sure, equal, mute], "anls")
    assert order(board) == [0, 2, 1, 3]  # level in ANLS, lower log-loss first
    with pytest.raises(UserError, match="no metric is called 'f-measure'; there are: log-loss, exact-match, anls"):
        rank([near], "f-measure")


def test_choosing_written_answers_by_exact_match_is_warned_of_as_any_share_is():
    notes = rank([wrote(n, ["a", "b", "q", "q"], [1, 1, 1, n + 1]) for n in range(3)], "exact-match").notes
    assert any(
        "choosing the best of 3 on 4 pictures flatters it" in note and "(exact match 0.5)" in note for note in notes
    )


def test_choosing_written_answers_that_differ_by_luck_is_warned_of():
    losses = np.random.default_rng(0).exponential(size=(8, 4))
    entries = [wrote(n, ["a", "b", "q", "q"], own) for n, own in enumerate(losses)]
    board = rank(entries, "log-loss")
    assert any("choosing the best of 8 on 4 rows flatters its log-loss by about 0." in note for note in board.notes)
    assert any("-t N" in note for note in board.notes)
    assert not any("-t N" in note for note in with_test(board, entries[0].prediction).notes)


def test_table_test_split_and_json_of_written_answers():
    own = {"alpha": 16.0}
    board = rank([wrote(n, ["a", "b", "q", "q"], [1.25, 1, 1, n], settings=own) for n in range(2)], "log-loss")
    board = with_test(board, texts(["a", "x"], [("a",), ("b",)], [1.0, 3.0]))
    assert board.chosen.test.exact == 0.5
    assert "on the untouched split (2 pictures) roll 0 has log-loss 2.0" in board.notes[0]
    for metric in ("log-loss", "exact-match", "anls"):
        text = shown(replace(board, metric=metric))
        assert "…" not in text
        for part in ("log-loss", "exact-match", "anls", "0.8125", "0.5", "alive"):
            assert part in text
    valid = to_json(board)["rolls"][0]["valid"]
    assert (valid["log-loss"], valid["exact-match"], valid["anls"], valid["different-texts"]) == (0.8125, 0.5, 0.5, 3)
    assert valid["interval_95"].keys() == {"log-loss", "exact-match", "anls"}
    json.dumps(to_json(board))
