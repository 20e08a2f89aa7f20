"""Looks through a data set, all splits at once, and says what to put right before training, most urgent first."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rolltune.data.answers import are_classes, spelling_findings
from rolltune.data.examples import Example, Scan
from rolltune.data.files import safe_name, write_jsonl
from rolltune.data.findings import ERROR, KINDS, LEVELS, NOTE, WARNING, Finding, quoted
from rolltune.data.fingerprints import Fingerprint, Key, alike, fingerprints
from rolltune.data.layouts import SPLIT_NAMES, splits_in
from rolltune.data.rows import rebased
from rolltune.data.shapes import bucket_of, buckets
from rolltune.data.sources import scan_source
from rolltune.data.splits import Links, copied_rows, keys_of, text_key
from rolltune.errors import UserError

SMALL_SIDE = 64  # pixels: enlarged to a model's 224 there is little left to see
FEW_ROWS = 5
IMBALANCE = 10
STRETCHED = 4
# Marks of images, boxes and turns in Qwen-VL, InternVL, LLaMA-Factory, ms-swift, Gemma 3 and others.
_FOREIGN = re.compile(
    r"</?(?:bbox|box|quad|ref|ref-object|img|image_placeholder|IMG_CONTEXT|video|audio|ImageHere|image_soft_token|"
    r"start_of_image|end_of_image|start_of_turn|end_of_turn|grounding)>|<image[ _]\d+>|"
    r"<\|(?:vision_start|vision_end|image_pad|video_pad|box_start|box_end|object_ref_start|object_ref_end|im_start|"
    r"im_end|begin_of_text|start_header_id|end_header_id|eot_id|endoftext|user|assistant|end)\|>|\[/?INST\]|\[IMG\]"
)
MOST_ALIKE = 20  # different rows that hang together as copies of copies; more are told as one finding


@dataclass
class Report:
    """What `examine` found. `drop` holds, for each split, the rows that a cleaned file leaves out."""

    scans: dict[str, Scan]
    prints: dict[Key, Fingerprint | UserError] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    lengths: dict[str, list[int]] = field(default_factory=dict)  # tokens, or characters without a tokenizer
    in_tokens: bool = False
    drop: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    @property
    def may_train(self) -> bool:
        return not any(finding.level == ERROR for finding in self.findings)

    def count(self, level: str) -> int:
        return sum(finding.level == level for finding in self.findings)

    def add(
        self, level: str, kind: str, where: str, message: str, advice: str = "", images: Sequence[Path] = ()
    ) -> None:
        self.findings.append(Finding(level, kind, where, message, advice, tuple(images)))

    def rows(self) -> Iterator[tuple[str, int, Example]]:
        for name, scan in self.scans.items():
            for place, example in enumerate(scan.examples):
                yield name, place, example


def sources_of(paths: Sequence[str | Path]) -> dict[str, str | Path]:
    """The splits named on a command line: files and folders as given, a folder of splits as its splits.

    Train comes first whatever the order given, because what a later split holds too is left out of it.
    """
    found: dict[str, str | Path] = {}
    for path in paths:
        inside: Mapping[str, str | Path] = (
            splits_in(path) if not str(path).startswith("tfds:") and Path(path).is_dir() else {}
        )
        for name, place in (inside or {Path(path).stem or str(path): path}).items():
            found[name if name not in found else str(place)] = place
    rank = {name: place for place, name in enumerate(SPLIT_NAMES)}
    return dict(sorted(found.items(), key=lambda item: rank.get(item[0].partition(".")[0], 0)))


def examine(
    sources: Mapping[str, str | Path],
    *,
    pieces: Callable[[str], list[str]] | None = None,
    max_tokens: int | None = None,
    **reading: Any,
) -> Report:
    """Reads and looks at everything; `sources` maps split names to what `read_examples` takes.

    `pieces` cuts a text into a tokenizer's pieces. `reading` goes to the readers (question, names, columns).
    """
    report = Report({name: scan_source(path, **reading) for name, path in sources.items()})
    for scan in report.scans.values():
        report.findings += scan.findings
    keys = dict.fromkeys(key for _, _, example in report.rows() for key in keys_of(example))
    report.prints = fingerprints(keys)
    _unreadable(report)
    _copies(report)
    _groups(report)
    _answers(report)
    _marks(report)
    _lengths(report, pieces, max_tokens)
    _pictures(report)
    order = {kind: place for place, kind in enumerate(KINDS)}
    report.findings.sort(key=lambda finding: (LEVELS.index(finding.level), order[finding.kind]))
    return report


def _unreadable(report: Report) -> None:
    for name, place, example in report.rows():
        for key in keys_of(example):
            error = report.prints[key]
            if isinstance(error, UserError):
                report.add(ERROR, "unreadable image", example.source, str(error), "save it again or leave the row out")
                report.drop[name].add(place)


def _row_key(report: Report, example: Example) -> object:
    """What a row shows: the decoded pixels of its pictures, or its text; None where a picture is unreadable."""
    if not example.images:
        return text_key(example)
    prints = [report.prints[key] for key in keys_of(example)]
    if any(isinstance(one, UserError) for one in prints):
        return None
    return tuple(one.pixels for one in prints if not isinstance(one, UserError))


def _copies(report: Report) -> None:
    """Duplicates and label conflicts within a split, leaks between splits."""
    flat = list(report.rows())
    good = {key: one for key, one in report.prints.items() if isinstance(one, Fingerprint)}
    keys, pairs = list(good), alike(list(good.values()))
    turned = {frozenset((keys[pair.first][0], keys[pair.second][0])) for pair in pairs if pair.turned}
    hangs = Links(len(flat))
    beside: dict[int, set[int]] = defaultdict(set)
    for one, other in copied_rows([example for _, _, example in flat], good, pairs):
        hangs.link(one, other)
        beside[one].add(other)
        beside[other].add(one)
    sets: dict[int, list[int]] = defaultdict(list)
    for place in range(len(flat)):
        sets[hangs.root(place)].append(place)
    for places in sets.values():
        if len(places) > 1:
            shown = {place: _row_key(report, flat[place][2]) for place in places}
            if len(set(shown.values())) > MOST_ALIKE:
                _all_alike(report, [flat[place][2] for place in places])
                beside.update({place: set() for place in places})
            _within(report, flat, shown, beside, turned)
            _between(report, flat, shown, beside)


def _all_alike(report: Report, examples: list[Example]) -> None:
    first = examples[0]
    images = [path for example in examples[:4] for path in example.images[:1]]
    message = f"{len(examples)} rows, this one first, look alike from one to the next"
    advice = "drawings on one background do: then split them with --no-near"
    report.add(WARNING, "near duplicate", first.source, message, advice, images)


def _within(
    report: Report, flat: list, shown: dict[int, object], beside: dict[int, set[int]], turned: set[frozenset[Path]]
) -> None:
    """What each row of a set of copies has before it in its own split."""
    for place in shown:
        name, row, one = flat[place]
        before = [other for other in shown if other < place and flat[other][0] == name]
        same = next((other for other in before if shown[other] == shown[place]), None)
        near = min((other for other in before if other in beside[place]), default=None)
        copied = near if same is None else same
        if copied is None:
            continue
        other = flat[copied][2]
        asked_alike = text_key(one) == text_key(other)
        images = (*one.images[:2], *other.images[:2])
        if asked_alike and one.answer != other.answer:
            what = "the same" if same is not None else "nearly the same"
            level = ERROR if same is not None and _is_classes(report) else WARNING
            answers = f"{quoted(one.answer)} here and {quoted(other.answer)} there"
            message = f"{what} as {other.source}, but the answer is {answers}"
            report.add(level, "label conflict", one.source, message, "keep the right one", images)
        elif same is not None and asked_alike:
            message = f"shows and asks the same as {other.source}"
            report.add(WARNING, "duplicate row", one.source, message, "leave one out", images)
            report.drop[name].add(row)
        elif same is None:
            how = ", turned or mirrored" if frozenset((one.images[0], other.images[0])) in turned else ""
            report.add(WARNING, "near duplicate", one.source, f"looks like {other.source}{how}", images=images)


def _between(report: Report, flat: list, shown: dict[int, object], beside: dict[int, set[int]]) -> None:
    """Rows of one set of copies that lie in several splits; the earlier split is where they are left out."""
    order = list(report.scans)
    for place in shown:
        name, _, example = flat[place]
        earlier = [other for other in shown if order.index(flat[other][0]) < order.index(name)]
        copies = [other for other in earlier if shown[other] == shown[place] or other in beside[place]]
        if not copies:
            continue
        exact = [
            other for other in copies if shown[other] == shown[place] and text_key(flat[other][2]) == text_key(example)
        ]
        other_name, _, other = flat[(exact or copies)[0]]
        images = (*example.images[:2], *other.images[:2])
        advice = f"split again with ./02-shuffle_data.sh, or leave it out of {other_name} with --fix"
        if exact:
            message = f"is the same as {other.source}: what {other_name} holds too tests nothing"
            report.add(ERROR, "leak between splits", example.source, message, advice, images)
        else:
            message = f"looks like {other.source}, which is in {other_name}"
            report.add(WARNING, "near copy in two splits", example.source, message, advice, images)
        for twin in copies:
            report.drop[flat[twin][0]].add(flat[twin][1])


def _groups(report: Report) -> None:
    where: dict[str, dict[str, list[Example]]] = defaultdict(lambda: defaultdict(list))
    for name, _, example in report.rows():
        if example.group is not None:
            where[example.group][name].append(example)
    for group, splits in where.items():
        if len(splits) > 1:
            counts = " and ".join(f"{len(rows)} rows of {name}" for name, rows in splits.items())
            last = list(splits.values())[-1][0]
            images = [rows[0].images[0] for rows in splits.values() if rows[0].images]
            message = f"the group {quoted(group)} lies in several splits: {counts}"
            report.add(
                ERROR, "group in two splits", last.source, message, "split again with ./02-shuffle_data.sh", images
            )


def answers_of(report: Report) -> dict[str, Counter]:
    return {name: Counter(example.answer for example in scan.examples) for name, scan in report.scans.items()}


def _is_classes(report: Report) -> bool:
    return are_classes([example.answer for _, _, example in report.rows()])


def _answers(report: Report) -> None:
    counts = answers_of(report)
    first = next(iter(report.scans))
    report.findings += spelling_findings([example.answer for _, _, example in report.rows()], first)
    for name, counter in counts.items():
        if not counter or not _is_classes(report):
            continue
        for answer, count in sorted(counter.items()):
            if name == first and count < FEW_ROWS and len(counter) > 1:
                report.add(WARNING, "few rows of an answer", name, f"{quoted(answer)} has {count} rows", "add some")
            if name != first and answer not in counts[first]:
                message = f"{quoted(answer)} ({count} rows) is not an answer of {first}: it cannot be learnt"
                report.add(WARNING, "answer not in train", name, message)
        most, top = counter.most_common(1)[0]
        least, bottom = min(counter.items(), key=lambda item: (item[1], item[0]))
        if top >= IMBALANCE * bottom:
            share = f"always saying {quoted(most)} is right {top / sum(counter.values()):.0%} of the time"
            message = f"{quoted(most)} has {top} rows, {quoted(least)} {bottom}: {share}"
            report.add(WARNING, "imbalance", name, message, "add rows, or train balanced or with class weights")


def _marks(report: Report) -> None:
    """Places that another toolkit fills: here they would be learnt as text."""
    where: dict[str, list[str]] = defaultdict(list)
    for _, _, example in report.rows():
        for mark in {mark for turn in example.turns for mark in _FOREIGN.findall(turn.text)}:
            where[mark].append(example.source)
    for mark, sources in sorted(where.items()):
        message = (
            f"{mark} stands in {len(sources)} row{'s' * (len(sources) > 1)}: another toolkit's mark, here only text"
        )
        advice = "take it out; where an image stands between words is written <image>"
        report.add(WARNING, "mark of another toolkit", sources[0], message, advice)


def _lengths(report: Report, pieces: Callable[[str], list[str]] | None, max_tokens: int | None) -> None:
    report.in_tokens = pieces is not None
    scripts: Counter = Counter()
    for name, scan in report.scans.items():
        report.lengths[name] = []
        for place, example in enumerate(scan.examples):
            text = "\n".join(turn.text for turn in example.turns)
            scripts.update(script_of(letter) for letter in text if letter.isalpha())
            cut = pieces(text) if pieces else list(text)
            report.lengths[name].append(len(cut))
            if pieces and max_tokens is not None and len(cut) > max_tokens:
                message = f"{len(cut)} tokens of text, at most {max_tokens} are allowed"
                report.add(ERROR, "over-long row", example.source, message, "shorten it or allow more")
                report.drop[name].add(place)
            broken = _in_bytes(cut) if pieces else 0
            if broken * 10 > len(cut):
                message = f"the tokenizer has no piece for much of the text: {broken} of {len(cut)} tokens are bytes"
                report.add(WARNING, "text broken into bytes", example.source, message, "expect long rows, weak results")
    total = sum(scripts.values())
    if total - scripts["Latin"] > total / 100:
        told = ", ".join(f"{script.capitalize()} {count / total:.0%}" for script, count in scripts.most_common(6))
        report.add(NOTE, "scripts", "all texts", f"letters by script: {told}")


def script_of(letter: str) -> str:
    """The script of a letter, as the first word of its Unicode name."""
    name = unicodedata.name(letter, "unknown").split()[0].split("-")[0]
    return name.capitalize()


def _in_bytes(cut: list[str]) -> int:
    return sum(len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">") for piece in cut)


def token_buckets(report: Report, name: str) -> dict[int, int]:
    """Rows of a split in each bucket of lengths."""
    lengths = report.lengths[name]
    sizes = buckets(lengths) if lengths else ()
    places = Counter(bucket_of(length, sizes) for length in lengths)
    return {size: places[size] for size in sizes}


def _pictures(report: Report) -> None:
    users: dict[Key, Example] = {}
    for _, _, example in report.rows():
        for key in keys_of(example):
            users.setdefault(key, example)
    for key, example in users.items():
        one = report.prints[key]
        if not isinstance(one, Fingerprint):
            continue
        for level, kind, message, advice in _oddities(one):
            report.add(level, kind, example.source, f"{one.path.name}: {message}", advice, (one.path,))


def _oddities(one: Fingerprint) -> Iterator[tuple[str, str, str, str]]:
    size = f"{one.width} x {one.height}"
    ending = one.path.suffix.lower().lstrip(".")
    usual = {"JPEG": "jpg jpeg jfif jpe", "MPO": "jpg jpeg mpo", "PNG": "png apng", "GIF": "gif", "WEBP": "webp"}
    if one.flat:
        yield (
            WARNING,
            "one-coloured image",
            f"nearly one colour all over ({size})",
            "look at it",
        )
    if min(one.width, one.height) < SMALL_SIDE:
        yield WARNING, "small image", f"only {size} pixels", "find a larger one"
    if max(one.width, one.height) > STRETCHED * min(one.width, one.height):
        yield NOTE, "stretched image", f"{size}: made square for the model it is squeezed much", ""
    if one.format in usual and ending not in usual[one.format].split():
        yield NOTE, "wrong file ending", f"is {one.format}, whatever its name says", ""
    if one.orientation != 1:
        yield (
            NOTE,
            "turned by EXIF",
            f"EXIF orientation {one.orientation}: turned upright when opened ({size})",
            "",
        )
    if one.frames > 1:
        yield NOTE, "animation", f"{one.frames} frames; the middle one is used unless the recipe says otherwise", ""
    if one.mode in ("CMYK", "LAB", "F", "I", "1", "YCbCr", "HSV") or one.mode.startswith("I;16"):
        yield NOTE, "unusual pixels", f"mode {one.mode} is converted to 8-bit RGB", ""


def write_cleaned(report: Report, sources: Mapping[str, str | Path]) -> dict[str, tuple[Path, int, int]]:
    """Writes NAME.cleaned.jsonl beside each source; for each split: (file, rows kept, rows in the source left out).

    Left out are rows that cannot be read, exact duplicates, rows too long, and rows of an earlier split
    that a later one holds too. An id that was used already is taken away from the later row.
    """
    written = {}
    for name, scan in report.scans.items():
        source = Path(sources[name])
        source = source.parent / source.name if source.exists() else scan.folder / safe_name(name)
        target = source.with_name(f"{source.stem}.cleaned.jsonl")
        kept, ids = [], set()
        for place, row in enumerate(scan.rows):
            if place in report.drop[name]:
                continue
            if scan.examples[place].id in ids:
                row = {key: value for key, value in row.items() if key != "id"}
            ids.add(scan.examples[place].id)
            kept.append(rebased(row, scan.folder, target.parent))
        write_jsonl(target, kept)
        bad = len({finding.where for finding in scan.findings if finding.kind == "bad row"})
        written[name] = (target, len(kept), len(scan.rows) - len(kept) + bad)
    return written
