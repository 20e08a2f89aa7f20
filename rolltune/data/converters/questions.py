"""Published question sets of one file each: DocVQA and the hateful memes."""

from pathlib import Path

from rolltune.data.answers import is_blank
from rolltune.data.converters.output import Output, json_lines
from rolltune.data.files import read_json
from rolltune.data.findings import quoted
from rolltune.data.image_paths import RowProblem, find_image, image_roots
from rolltune.errors import UserError

MEME = 'Is this meme hateful? Its text reads: "{text}" Answer yes or no.'
MEME_UNREAD = "Is this meme hateful? Answer yes or no."


def convert_docvqa(source: Path, out: Path, *, images: Path | None = None, split: str = "") -> Output:
    """train_v1.0.json and its like: out/data.jsonl with "answers", all that count as right (ANLS takes the best).

    The first answer is the one learnt. Questions about one document are one group.
    """
    data = read_json(source)
    entries = data.get("data") if isinstance(data, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f'{source}: expected DocVQA\'s {{"data": [...]}}, a list of objects')
    output = Output(out, source, split)
    root = images or source.parent
    rows = []
    for number, entry in enumerate(entries):
        where = f"{source.name}, data[{number}]"
        answers = entry.get("answers") or []
        if not isinstance(entry.get("question"), str):
            output.problem(where, "has no question")
            continue
        if not isinstance(answers, list) or any(not isinstance(one, str) or is_blank(one) for one in answers):
            output.problem(where, "the answers are not a list of texts that are not empty")
            continue
        if not answers:
            output.problem(where, "has no answers: test sets are published without, and cannot be learnt from")
            continue
        path = _found(output, where, entry.get("image"), root)
        if path is None:
            continue
        document = entry.get("ucsf_document_id") or entry.get("docId") or path.stem
        row = {"prefix": entry["question"], "suffix": answers[0], "image": output.copy(path, path.name)}
        rows.append({**row, "answers": answers, "id": str(entry.get("questionId", number)), "group": str(document)})
    output.finish(rows)
    return output


def convert_memes(source: Path, out: Path, *, images: Path | None = None, text: bool = True, split: str = "") -> Output:
    """train.jsonl and its like ({"id", "img", "label", "text"}): out/data.jsonl with yes and no.

    With `text` the question holds the meme's words, which a small model reads badly off the picture.
    """
    output = Output(out, source, split)
    root = images or source.parent
    rows = []
    for line, entry in json_lines(source):
        where = f"{source.name}:{line}"
        if entry.get("label") not in (0, 1):
            output.problem(where, f"the label is {quoted(entry.get('label'))}, expected 0 or 1 (test sets are without)")
            continue
        path = _found(output, where, entry.get("img"), root)
        if path is not None:
            question = MEME.format(text=entry.get("text", "")) if text else MEME_UNREAD
            answer = "yes" if entry["label"] else "no"
            image = output.copy(path, path.name)
            rows.append({"prefix": question, "suffix": answer, "image": image, "id": str(entry.get("id", line))})
    output.finish(rows)
    return output


def _found(output: Output, where: str, value: object, root: Path) -> Path | None:
    try:
        return find_image(value, root, image_roots(root))
    except RowProblem as problem:
        output.problem(where, str(problem))
        return None
