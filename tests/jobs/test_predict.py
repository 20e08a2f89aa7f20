"""What is said of all answers together: among others, how many rows some roll of the vote knows already."""

from types import SimpleNamespace

from rolltune.data.examples import Example, Turn
from rolltune.data.learned import marks_of
from rolltune.evaluation.predicted import Predicted
from rolltune.jobs.predict import Answered, _summary


def test_a_row_that_any_of_the_voting_rolls_has_learned_from_is_counted():
    asked = [Example(str(n), (), (Turn("user", f"question {n}"), Turn("assistant", "a")), "here") for n in range(3)]
    saved = [SimpleNamespace(card=SimpleNamespace(metrics={"learned": marks_of([one])[0]})) for one in asked[:2]]
    rows = [Predicted("here", one.id, (), "a", {}, None, {}, ("a",)) for one in asked]
    said = _summary(Answered(rows, asked, []), saved)
    assert said[0].startswith("3 of 3 answers are those given")
    assert said[1].startswith("2 of 3 of these were learned from")
    (told,) = _summary(Answered(rows[:1], asked[:1], []), saved[1:])
    assert told.startswith("1 of 1 answers are those given")
