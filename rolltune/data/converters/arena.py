"""The LMSYS arena's table to JSONL, in the words that its classifiers are trained with: which answer is better?"""

from pathlib import Path

from rolltune.data.converters.output import Output
from rolltune.data.image_paths import RowProblem
from rolltune.data.tables import ARENA_COLUMNS, arena_comparison, table_rows
from rolltune.errors import UserError

TITLES = ("<prompt>: ", "<response_a>: ", "<response_b>: ")


def convert_arena(source: Path, out: Path) -> Output:
    """train.csv of the arena: out/data.jsonl with the answers a, b and tie.

    Each conversation is one text, its rounds joined by a space. "id" is the row's place, counted from 0, since the
    published fold is place % 5 = 0; the table's own id is kept as "arena_id". Raises UserError, which tells everything.
    """
    output = Output(out, source)
    lines = table_rows(source)
    header = next(lines)[1]
    if lacking := [column for column in ARENA_COLUMNS if column not in header]:
        raise UserError(f"{source}: the table has no column {', '.join(lacking)}; the arena's train.csv has them")
    rows = []
    for place, (line, cells) in enumerate(lines):
        where = f"{source.name}:{line}"
        if len(cells) != len(header):
            output.problem(
                where, f"{len(cells)} cells where the header has {len(header)}: is a quote or comma missing?"
            )
            continue
        named = dict(zip(header, cells, strict=True))
        try:
            conversations, winner = arena_comparison(named)
        except RowProblem as problem:
            output.problem(where, str(problem))
            continue
        said = [title + " ".join(texts) for title, texts in zip(TITLES, conversations, strict=True)]
        kept = {"arena_id": named["id"]} if named.get("id") else {}
        rows.append({"prefix": "\n\n".join(said), "suffix": winner, "id": place, **kept})
    output.finish(rows)
    return output
