"""Cards that can be planned for without being there."""

from rolltune.gpus import CARDS

SOLD = {"h100": 80, "h200": 141, "a100": 40, "rtx4090": 24, "rtx4070": 12, "rtx3060": 12, "t4": 16, "v100": 16}


def test_a_card_has_what_is_sold_less_what_its_driver_keeps():
    assert {name for name, card in CARDS.items() if 0.93 * SOLD[name] < card.gib <= SOLD[name]} == SOLD.keys()


def test_what_has_no_bfloat16_computes_in_float16():
    assert {name for name, card in CARDS.items() if card.dtype == "float16"} == {"t4", "v100"}
