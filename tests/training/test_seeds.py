"""Seeds count up from the recipe's, and go round where a random key's 32 bits end."""

from rolltune.recipe import SEEDS
from rolltune.training.rolls import Lottery


def test_the_last_seed_is_followed_by_the_first():
    lottery = Lottery(SEEDS - 2, (0.1,), (8.0,), (0.0,), 4)
    assert [lottery.draw(roll).seed for roll in range(4)] == [SEEDS - 2, SEEDS - 1, 0, 1]
