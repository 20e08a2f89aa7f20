"""00-doctor.py: what is wrong with a data set, or without one with the GPU, most urgent first."""

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from rolltune.atomic import write_bytes
from rolltune.commands.common import command_parser, written_as
from rolltune.commands.reading import add_reading_flags, reading_of
from rolltune.commands.terminal import quiet_decoders, tell, terminal
from rolltune.data.doctor import examine, sources_of, token_buckets, write_cleaned
from rolltune.data.findings import ERROR, NOTE, WARNING, Finding
from rolltune.errors import UserError

EXAMPLES = """examples:
  ./00-doctor.py                                     no data: the GPU, its driver, JAX, its memory, the cache folders
  ./00-doctor.py dataset/set1                        train.jsonl and valid.jsonl of a folder, and leaks between
  ./00-doctor.py dataset/data.jsonl                  one file
  ./00-doctor.py train.jsonl valid.jsonl --fix       also write train.cleaned.jsonl and valid.cleaned.jsonl beside them
  ./00-doctor.py dataset/set1 --html report.html     the whole report with thumbnails and plots
  ./00-doctor.py animals/ --names '{"ragno": "spider"}'   a folder with one sub-folder an answer
  ./00-doctor.py lmsys.csv --tokenizer gemma/tokenizer.model --max-tokens 1024

exit status: 0 training can start, 1 something has to be put right first (no GPU, too), 2 the command could not be done.
"""
LINES_OF_A_KIND = 10
STYLES = {ERROR: "bold red", WARNING: "yellow", NOTE: "cyan"}


def parser() -> argparse.ArgumentParser:
    about = "Look through a data set: broken files, duplicates, leaks, imbalance, lengths. Without one, at the GPU."
    made = command_parser("00-doctor.py", about, EXAMPLES)
    made.add_argument("data", nargs="*", help="JSONL, JSON, CSV, image folder, folder of splits, or tfds:NAME")
    made.add_argument("--fix", action="store_true", help="write NAME.cleaned.jsonl beside each file (never over it)")
    made.add_argument("--html", type=Path, metavar="FILE", help="write the report as one HTML file")
    made.add_argument("--all", action="store_true", help=f"print every finding, not {LINES_OF_A_KIND} of a kind")
    made.add_argument("--tokenizer", type=Path, metavar="FILE", help="tokenizer.model or tokenizer.json to count with")
    made.add_argument("--max-tokens", type=int, metavar="N", help="rows with more tokens of text are errors")
    add_reading_flags(made)
    return made


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    written_as(options.html, "--html", ".html")
    console = terminal()
    if not options.data:
        return look_at_gpu(options, console)
    if options.max_tokens is not None and options.tokenizer is None:
        raise UserError("--max-tokens counts tokens: give the --tokenizer to count with")
    sources = sources_of(options.data)
    pieces = pieces_of(options.tokenizer) if options.tokenizer else None
    with quiet_decoders():
        report = examine(sources, pieces=pieces, max_tokens=options.max_tokens, **reading_of(options))
    for name, scan in report.scans.items():
        tell(console, f"{name}: {scan.understood}")
        if scan.examples:
            unit = "tokens" if report.in_tokens else "characters"
            lengths = ", ".join(f"{count} up to {size}" for size, count in token_buckets(report, name).items())
            tell(console, f"  {unit} of text: {lengths}")
    _tell(console, report.findings, options.all)
    if options.html:
        # matplotlib takes half a second to import, which the page alone is worth.
        from rolltune.data.doctor_page import page

        with quiet_decoders():
            write_bytes(options.html, page(report, ", ".join(map(str, options.data))).encode())
        tell(console, f"report: {options.html}")
    if options.fix:
        for name, (path, kept, left_out) in write_cleaned(report, sources).items():
            tell(console, f"{name}: {kept} rows kept, {left_out} left out: {path}")
    counts = f"{report.count(ERROR)} errors, {report.count(WARNING)} warnings, {report.count(NOTE)} notes"
    verdict = "training can start" if report.may_train else "put the errors right before training"
    tell(console, f"{counts}: {verdict}", style="green" if report.may_train else "bold red")
    return 0 if report.may_train else 1


def look_at_gpu(options: argparse.Namespace, console: Console) -> int:
    """Without data: what stands between this machine's GPU and a training."""
    for flag in ("fix", "html", "tokenizer", "max_tokens"):
        if getattr(options, flag):
            raise UserError(f"--{flag.replace('_', '-')} is for data: name a file or a folder, such as dataset/set1")
    from rolltune.device import share_memory
    from rolltune.jobs import gpu_doctor

    facts = gpu_doctor.gather(share_memory)
    for line in gpu_doctor.told(facts):
        tell(console, line)
    found = gpu_doctor.findings(facts)
    _tell(console, found, options.all)
    ready = not any(one.level == ERROR for one in found)
    verdict = "the GPU is ready" if ready else "put the errors right before training"
    tell(console, verdict, style="green" if ready else "bold red")
    return 0 if ready else 1


def _tell(console: Console, findings: list[Finding], everything: bool) -> None:
    by_kind: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        by_kind[finding.level, finding.kind].append(finding)
    for (level, kind), found in by_kind.items():
        tell(console, f"{level}: {kind} ({len(found)})", style=STYLES[level])
        shown = found if everything else found[:LINES_OF_A_KIND]
        for finding in shown:
            tell(console, f"  {finding}")
        if len(found) > len(shown):
            tell(console, f"  ... and {len(found) - len(shown)} more (--all, or --html FILE)")


def pieces_of(path: Path) -> Callable[[str], list[str]]:
    """How the tokenizer in a file cuts a text."""
    if not path.is_file():
        raise UserError(f"--tokenizer {path}: there is no such file")
    if path.suffix == ".json":
        try:
            from tokenizers import Tokenizer
        except ModuleNotFoundError as error:
            raise UserError(f"{path} needs the package tokenizers: pip install tokenizers") from error
        try:
            made = Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises Exception itself
            raise UserError(f"--tokenizer {path}: not a tokenizer.json: {error}") from error
        return lambda text: made.encode(text, add_special_tokens=False).tokens
    from sentencepiece import SentencePieceProcessor

    try:
        processor = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise UserError(f"--tokenizer {path}: not a SentencePiece model: {error}") from error
    return lambda text: processor.encode(text, out_type=str)


if __name__ == "__main__":
    sys.exit(main())
