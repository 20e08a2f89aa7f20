"""05-search_prompt: which prompts are tried."""

import pytest

from rolltune.commands.search_prompt import read_prompts


def test_prompts_come_once_and_the_rows_own_is_always_tried(tmp_path):
    (tmp_path / "prompts.txt").write_text("b\n\n a \n")
    assert read_prompts(["a", "c"], tmp_path / "prompts.txt") == ["", "a", "c", "b"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_the_first_prompt_keeps_no_byte_order_mark(tmp_path, encoding):
    (tmp_path / "prompts.txt").write_text("Is this legal?\r\nné\r\n", encoding=encoding)
    assert read_prompts([], tmp_path / "prompts.txt") == ["", "Is this legal?", "né"]
