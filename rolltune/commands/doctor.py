"""00-doctor.py: what is wrong with a data set, most urgent first."""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rolltune.atomic import write_bytes
from rolltune.commands.common import command_parser
from rolltune.commands.progress import quiet_decoders
from rolltune.data.doctor import examine, sources_of, token_buckets, write_cleaned
from rolltune.data.findings import ERROR, NOTE, WARNING, Finding
from rolltune.errors import UserError, visible
from rolltune.typed import as_typed

EXAMPLES = """examples:
  ./00-doctor.py dataset/set1                        train.jsonl and valid.jsonl of a folder, and leaks between
  ./00-doctor.py dataset/data.jsonl                  one file
  ./00-doctor.py train.jsonl valid.jsonl --fix       also write train.cleaned.jsonl and valid.cleaned.jsonl beside them
  ./00-doctor.py dataset/set1 --html report.html     the whole report with thumbnails and plots
  ./00-doctor.py animals/ --names '{"ragno": "spider"}'   a folder with one sub-folder an answer
  ./00-doctor.py lmsys.csv --tokenizer gemma/tokenizer.model --max-tokens 1024

exit status: 0 training can start, 1 something has to be put right first, 2 the command could not be done.
"""
LINES_OF_A_KIND = 10
STYLES = {ERROR: "bold red", WARNING: "yellow", NOTE: "cyan"}


def parser() -> argparse.ArgumentParser:
    about = "Look through a data set: broken files, duplicates, leaks between splits, imbalance, lengths."
    made = command_parser("00-doctor.py", about, EXAMPLES)
    made.add_argument("data", nargs="+", help="JSONL, JSON, CSV, image folder, folder of splits, or tfds:NAME")
    made.add_argument("--fix", action="store_true", help="write NAME.cleaned.jsonl beside each file (never over it)")
    made.add_argument("--html", type=Path, metavar="FILE", help="write the report as one HTML file")
    made.add_argument("--all", action="store_true", help=f"print every finding, not {LINES_OF_A_KIND} of a kind")
    made.add_argument("--tokenizer", type=Path, metavar="FILE", help="tokenizer.model or tokenizer.json to count with")
    made.add_argument("--max-tokens", type=int, metavar="N", help="rows with more tokens of text are errors")
    made.add_argument("--question", help="what is asked of image folders and tables without a question")
    made.add_argument("--names", metavar="JSON", help="other names of class folders: JSON text, or a file of it")
    made.add_argument("--columns", metavar="A=B,...", help="prefix=question,suffix=label,image=file")
    return made


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    console = Console(highlight=False, soft_wrap=True)
    if options.max_tokens is not None and options.tokenizer is None:
        raise UserError("--max-tokens counts tokens: give the --tokenizer to count with")
    sources = sources_of(options.data)
    pieces = pieces_of(options.tokenizer) if options.tokenizer else None
    reading = {
        "question": options.question,
        "names": _names(options.names) if options.names else None,
        "columns": columns_of(options.columns) if options.columns else None,
    }
    columns = (TextColumn("looking at the images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        with quiet_decoders():
            report = examine(
                sources,
                pieces=pieces,
                max_tokens=options.max_tokens,
                expect=lambda images: progress.update(task, total=images),
                advance=lambda: progress.advance(task),
                **reading,
            )
    for name, scan in report.scans.items():
        console.print(visible(f"{name}: {scan.understood}"), markup=False)
        unit = "tokens" if report.in_tokens else "characters"
        lengths = ", ".join(f"{count} up to {size}" for size, count in token_buckets(report, name).items())
        console.print(f"  {unit} of text: {lengths or 'none'}", markup=False)
    _tell(console, report.findings, options.all)
    if options.html:
        # matplotlib takes half a second to import, which the page alone is worth.
        from rolltune.data.doctor_page import page

        with quiet_decoders():
            write_bytes(options.html, page(report, ", ".join(map(str, options.data))).encode())
        console.print(f"report: {options.html}", markup=False)
    if options.fix:
        for name, (path, kept, left_out) in write_cleaned(report, sources).items():
            console.print(f"{name}: {kept} rows kept, {left_out} left out: {path}", markup=False)
    counts = f"{report.count(ERROR)} errors, {report.count(WARNING)} warnings, {report.count(NOTE)} notes"
    verdict = "training can start" if report.may_train else "put the errors right before training"
    console.print(f"{counts}: {verdict}", style="green" if report.may_train else "bold red")
    return 0 if report.may_train else 1


def _tell(console: Console, findings: list[Finding], everything: bool) -> None:
    by_kind: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        by_kind[finding.level, finding.kind].append(finding)
    for (level, kind), found in by_kind.items():
        console.print(f"{level}: {kind} ({len(found)})", style=STYLES[level])
        shown = found if everything else found[:LINES_OF_A_KIND]
        for finding in shown:
            console.print(visible(as_typed(f"  {finding}")), markup=False)
        if len(found) > len(shown):
            console.print(f"  ... and {len(found) - len(shown)} more (--all, or --html FILE)")


def columns_of(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(ours and theirs for ours, _, theirs in pairs):
        raise UserError(f"--columns {text!r}: expected pairs such as prefix=question,suffix=label")
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}


def _names(text: str) -> dict[str, str]:
    source = text if text.lstrip().startswith("{") else Path(text).read_text() if Path(text).is_file() else None
    if source is None:
        raise UserError(f"--names {text}: neither JSON text nor a file")
    try:
        names = json.loads(source)
    except ValueError as error:
        raise UserError(f"--names {text}: not JSON: {error}") from error
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise UserError('--names: expected an object of texts, such as {"ragno": "spider"}')
    return names


def pieces_of(path: Path) -> Callable[[str], list[str]]:
    """How the tokenizer in a file cuts a text."""
    if not path.is_file():
        raise UserError(f"--tokenizer {path}: there is no such file")
    if path.suffix == ".json":
        try:
            from tokenizers import Tokenizer
        except ModuleNotFoundError as error:
            raise UserError(f"{path} needs the package tokenizers: pip install tokenizers") from error
        made = Tokenizer.from_file(str(path))
        return lambda text: made.encode(text, add_special_tokens=False).tokens
    from sentencepiece import SentencePieceProcessor

    try:
        processor = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise UserError(f"--tokenizer {path}: not a SentencePiece model: {error}") from error
    return lambda text: processor.encode(text, out_type=str)


if __name__ == "__main__":
    sys.exit(main())
