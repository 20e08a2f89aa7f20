"""What 04 says before and beside its figures: answers that a roll cannot give, rolls that cannot vote."""

from pathlib import Path

import pytest

from rolltune.data.examples import Example, Turn
from rolltune.errors import UserError
from rolltune.jobs.scorer import Saved
from rolltune.jobs.validate import Options, _check_vote, unknown_answers
from rolltune.recipe import Recipe
from rolltune.weights.card import Base, RollCard


def rows(*answers: str) -> list[Example]:
    turns = lambda answer: (Turn("user", "is it?"), Turn("assistant", answer))
    return [Example(str(n), (), turns(answer), f"rows:{n}") for n, answer in enumerate(answers)]


def card(*answers: str) -> RollCard:
    return RollCard(Base("tiny", "ab"), "lora", {}, "", list(answers))


def test_answers_that_a_roll_cannot_give_are_named_and_their_rows_counted():
    assert unknown_answers(card("no", "yes"), rows("yes", "no", "yes")) == ""
    assert unknown_answers(card("no", "yes"), rows("yes", "so", "so")) == "the answer 'so' of 2 rows"
    many = unknown_answers(card("no", "yes"), rows("yes", *"edcba", "a"))
    assert many == "the answer 'a', 'b', 'c' and 2 more of 6 rows"
    assert unknown_answers(card(), rows("anything")) == ""  # it writes its answers


@pytest.mark.parametrize(
    ("tasks", "generate", "message"),
    [
        (("choose",), None, "name two or more with -m"),
        (("choose", "classify"), None, "cannot vote with"),
        (("choose", "choose"), 8, "written answers have no probabilities"),
        (("write", "write"), None, "written answers have no probabilities"),
    ],
)
def test_what_has_no_mean_is_not_put_to_the_vote(tasks, generate, message):
    saved = [Saved(Path(f"{n}.npz"), card(), Recipe(task=task)) for n, task in enumerate(tasks)]
    with pytest.raises(UserError, match=message):
        _check_vote(saved, Options([], generate=generate))
    _check_vote([Saved(Path(f"{n}.npz"), card("a", "b"), Recipe(task="choose")) for n in range(2)], Options([]))
