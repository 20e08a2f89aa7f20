"""Path rules: the first that matches wins, and a rule or a path left over is a mistake."""

import pytest

from rolltune import rules
from rolltune.errors import UserError

PATHS = ["text/layers/attn/q/kernel", "text/layers/attn/o/kernel", "text/norm/scale"]


def test_the_first_match_of_the_whole_path_wins():
    found = rules.match([(r".*/q/kernel", 1), (r"text/layers/.*", 2), (r".*", 3)], PATHS, "rates")
    assert found == dict(zip(PATHS, (1, 2, 3), strict=True))


def test_a_rule_that_an_earlier_one_covers_is_no_mistake():
    assert set(rules.match([(r".*", 1), (r"text/norm/.*", 2)], PATHS, "rates").values()) == {1}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([(r"attn/q", 1), (r".*", 2)], r"rates: the rule 'attn/q' -> 1 matches no parameter.*text/layers/attn/o"),
        ([(r"text/layers/.*", 1)], r"rates: no rule matches 'text/norm/scale'; add a last rule"),
    ],
)
def test_what_is_left_over_is_named(given, message):
    with pytest.raises(UserError, match=message):
        rules.match(given, PATHS, "rates")


def test_a_broken_pattern_is_named_with_its_place():
    with pytest.raises(UserError, match=r"rates: the rule 'text/\(q\|o' is no regular expression: missing \), .* 5\."):
        rules.match([("text/(q|o", 1), (".*", 2)], PATHS, "rates")
