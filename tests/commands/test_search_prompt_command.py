"""05-search_prompt: which prompts are tried."""

from rolltune.commands.search_prompt import read_prompts


def test_prompts_come_once_and_the_rows_own_is_always_tried(tmp_path):
    (tmp_path / "prompts.txt").write_text("b\n\n a \n")
    assert read_prompts(["a", "c"], tmp_path / "prompts.txt") == ["", "a", "c", "b"]
