"""What the commands share."""

import pytest

from rolltune.commands.common import share_memory


@pytest.mark.parametrize("own", ["XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"])
def test_a_share_of_the_card_that_the_person_chose_stays(own):
    fractions = lambda environment: {name: value for name, value in environment.items() if "FRACTION" in name}
    chosen, free = {own: "0.5"}, {"XLA_PYTHON_CLIENT_ALLOCATOR": "bfc"}
    share_memory(chosen)
    share_memory(free)
    assert fractions(chosen) == {own: "0.5"}  # JAX refuses both names together
    assert fractions(free) == {"XLA_CLIENT_MEM_FRACTION": "0.9"} and free["XLA_PYTHON_CLIENT_ALLOCATOR"] == "bfc"
