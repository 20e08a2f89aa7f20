"""Rolls that answer together: the mean of probabilities, and the greedy choice of a few."""

from dataclasses import replace

import numpy as np
import pytest

from rolltune.evaluation.leaderboard import Entry, Status, rank, table, to_json, with_test, with_votes
from rolltune.evaluation.metrics import Prediction, Threshold, measure
from rolltune.evaluation.report_tables import leaderboard_table
from rolltune.evaluation.votes import best_few, mean_of

ALIVE = Status()
RIGHT = [0, 0, 0, 0, 1, 1, 1, 1]


def roll(chances, label=RIGHT) -> Prediction:
    """`chances`: the probability of "yes" (answer 0) for each row."""
    probs = np.stack([np.asarray(chances, float), 1 - np.asarray(chances, float)], axis=1)
    return Prediction(tuple(f"row{n}" for n in range(len(label))), ("yes", "no"), np.array(label), np.log(probs))


# Each errs on two rows of its own: one that any other puts right, one for which it takes two. BAD is surely wrong.
FIRST = roll([0.8, 0.8, 0.8, 0.1, 0.1, 0.1, 0.1, 0.6])
SECOND = roll([0.8, 0.8, 0.1, 0.8, 0.1, 0.1, 0.6, 0.1])
THIRD = roll([0.8, 0.1, 0.8, 0.8, 0.1, 0.6, 0.1, 0.1])
BAD = roll([0.01, 0.01, 0.01, 0.01, 0.3, 0.3, 0.3, 0.3])


def test_the_vote_is_the_mean_of_probabilities_and_one_roll_stays_as_it_is_to_the_bit():
    vote = mean_of([FIRST, SECOND])
    np.testing.assert_allclose(np.exp(vote.log_probs[:, 0])[[3, 7]], [0.45, 0.35])
    assert vote.correct.tolist() == [True, True, False, False, True, True, True, True]
    single = FIRST._replace(log_probs=FIRST.log_probs.astype(np.float32))
    assert (mean_of([single]).log_probs == single.log_probs).all()
    hopeless = roll([0.5] * 8)._replace(log_probs=np.full((8, 2), [-2000.0, 0.0]))
    assert np.isfinite(mean_of([hopeless, hopeless]).log_probs).all()  # no probability of 0 out of a small one
    with pytest.raises(ValueError, match="other rows or answers"):
        mean_of([FIRST, SECOND.at([1, 0, 2, 3, 4, 5, 6, 7])])


def test_a_vote_decides_by_the_mean_of_the_thresholds():
    strict = FIRST._replace(threshold=Threshold("yes", 0.9))
    assert mean_of([FIRST, SECOND]).threshold is None
    assert mean_of([strict, SECOND]).threshold == Threshold("yes", pytest.approx(0.7))  # one without counts as 0.5


def test_the_best_few_leave_out_who_does_harm():
    ranked = [FIRST, SECOND, BAD, THIRD]
    few = best_few(ranked)
    assert few[0] == 0 and set(few) == {0, 1, 3}
    assert measure(mean_of(ranked), "yes").accuracy != 1.0
    assert best_few([FIRST, BAD]) == [0]


def entry(number, prediction, status=ALIVE) -> Entry:
    return Entry(number, 40 + number, 0.01, status, None, measure(prediction, "yes"), prediction)


def test_the_board_shows_votes_without_a_rank_and_says_which_was_chosen_there():
    entries = [entry(n, one) for n, one in enumerate([FIRST, SECOND, THIRD, BAD])]
    entries.append(entry(4, BAD, Status("stopped", 3, "lost")))  # one that lost has no vote
    board = with_votes(rank(entries, "accuracy"), {})
    every, few = board.votes
    assert every.rolls[0] == board.chosen.roll and set(every.rolls) == {0, 1, 2, 3} and not every.selected
    assert set(few.rolls) == {0, 1, 2} and few.selected and few.ranked_on.accuracy == 1.0 and few.test is None
    assert any("flatters them: they were chosen by it" in note for note in board.notes)
    all_of, best_of = board.notes[-2:]
    assert all_of.startswith("all rolls together have accuracy ") and "flatters" not in all_of
    named = f"{', '.join(map(str, few.rolls[:-1]))} and {few.rolls[-1]}"
    assert best_of.startswith(
        f"rolls {named} together, chosen on the pictures that rank, have accuracy 1.0 (95 %: 0.68"
    )
    assert board.ranked == 4 and [one["rank"] for one in to_json(board)["rolls"]] == [1, 2, 3, 4, None]
    assert [one["chosen_on_valid"] for one in to_json(board)["votes"]] == [False, True]
    assert "vote, chosen here" in leaderboard_table(board) and table(board).row_count == 7
    cells = list(zip(*(column.cells for column in table(board).columns), strict=True))
    assert [row[0] for row in cells] == ["1", "2", "3", "4", "", "", ""]
    assert cells[6][1:7] == (few.title, "", "", "", "1.0", "0.68-1.00") and cells[6][-1] == "vote, chosen here"
    assert cells[5][-1] == "vote" and cells[5][5] == str(every.ranked_on.accuracy)
    kept = board.keep("vote")
    assert {one.roll for one in kept.values()} == {0, 1, 2} and 1 in kept


def test_votes_are_judged_on_the_untouched_split():
    """There the best few are worse than the best alone, and the note says it."""
    entries = [entry(n, one) for n, one in enumerate([FIRST, SECOND, THIRD])]
    alone, others = roll([0.6] * 4 + [0.4] * 4), roll([0.1] * 2 + [0.9] * 2 + [0.1] * 4)
    board = rank(entries, "accuracy")
    tests = {one.roll: others for one in board.entries} | {board.chosen.roll: alone}
    board = with_votes(with_test(board, alone), tests)
    assert [vote.test.accuracy for vote in board.votes] == [0.75, 0.75] and board.chosen.test.accuracy == 1.0
    note = board.notes[-1]
    assert "on the untouched split" in note and "right where it is wrong 0 times, the reverse 2 times" in note


def test_there_is_no_vote_over_folds():
    other = SECOND._replace(ids=tuple("abcdefgh"))
    board = with_votes(rank([entry(0, FIRST), entry(1, other)]), {})
    assert board.votes == () and [one.roll for one in board.keep("vote").values()] == [board.chosen.roll]


def test_a_vote_chosen_on_training_rows_says_so():
    rolls = [
        replace(entry(n, one), valid=None, train=entry(n, one).valid) for n, one in enumerate([FIRST, SECOND, THIRD])
    ]
    every, few = to_json(with_votes(rank(rolls, "accuracy"), {}))["votes"]
    assert (every["chosen_on_train"], few["chosen_on_train"]) == (False, True) and "chosen_on_valid" not in every
    assert few["train"]["accuracy"] == 1.0 and few["test"] is None
