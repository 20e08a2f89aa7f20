"""Saved rolls on new pictures: their answers, with the probability of each allowed one."""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from rolltune.data.asked import Asked, picture_row, read_asked
from rolltune.data.examples import STAND_IN, Example, Turn
from rolltune.data.findings import ERROR, Finding
from rolltune.data.images import apply_frame_policy, open_image, upright_rgb
from rolltune.data.learned import learned, learned_text, marks_of
from rolltune.data.sets import shown
from rolltune.errors import UserError
from rolltune.evaluation import predicted
from rolltune.evaluation.figures import Scored
from rolltune.evaluation.predicted import NEAR, Predicted
from rolltune.evaluation.statistics import wilson
from rolltune.evaluation.tasks import CLASSIFY, WRITE
from rolltune.jobs import laying
from rolltune.jobs.adopted import FOREIGN, Asking, is_foreign, read_rolls
from rolltune.jobs.cards import decided_by
from rolltune.jobs.idle import idle_question
from rolltune.jobs.outputs import named_rolls
from rolltune.jobs.scorer import Saved, Scorer, bench_of, check_alike, check_length, read_saved, writes_answers
from rolltune.models.generate import Sampling
from rolltune.tracking import print_table
from rolltune.weights.roll_file import RollFile, load_roll

Picture = str | Path | Image.Image | np.ndarray  # a file, a Pillow image, or uint8 [h, w], [h, w, 3] or [h, w, 4]
Say = Callable[[str], None]
SOME_UNREAD = 1  # exit status


@dataclasses.dataclass(frozen=True)
class Options:
    """What is asked beside the rolls and the data. The flags of 07-predict.py."""

    output: Path | None = None  # .jsonl or .csv, instead of the table
    near: float | None = None  # how near to a threshold is told; None: NEAR
    generate: int | None = None  # write answers of up to so many tokens instead of choosing
    sampling: Sampling | None = None  # of what is written: drawn, not the likeliest
    model: str | None = None  # the base, where it is not where the rolls were trained
    reading: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # columns, question, names of the data
    laying: tuple[str, ...] = ()  # how the base lies on the cards, as typed (--config.sharding=fsdp); else as trained
    answers: tuple[str, ...] = ()  # the allowed ones of what was made elsewhere, which does not say them

    @property
    def asking(self) -> Asking:
        return Asking(self.model, self.answers, self.generate is not None)


class Predictor:
    """One roll on its base, or several that answer together. Make one with `load`.

    `arrays` are those of rolls that are no files of ours (see `adopted`).
    """

    def __init__(
        self,
        saved: Sequence[Saved],
        options: Options = Options(),
        arrays: Mapping[Path, RollFile] = MappingProxyType({}),
    ):
        first = _alike(saved, options).lying_as(laying.typed(options.laying))
        self.cards, self.options = [one.card for one in saved], options
        bench = bench_of(first, options.model, writes_answers(first, options.generate))
        self._bench = bench
        rolls = [arrays.get(one.path) or load_roll(one.path, bench.model.base) for one in saved]
        self._scorers = [Scorer(bench, one.path, roll, one.recipe) for one, roll in zip(saved, rolls, strict=True)]

    @property
    def answers(self) -> tuple[str, ...]:
        """The allowed answers, in the order of the probabilities; none where answers are written."""
        return self._scorers[0].task.answers

    def predict(self, images: Picture | Sequence[Picture | Sequence[Picture]], question: str = "") -> list[Predicted]:
        """An answer for each image, or for each group of images that are shown together.

        `images`: paths, Pillow images, or arrays uint8 [h, w, 3] (RGB), [h, w] (grey) or [h, w, 4] (RGBA); one or many.
        `question` is asked where the roll has none of its own. Of an animation the roll's frame policy takes frames.

        Raises UserError for an image that cannot be read, for no image, or where nobody says what is asked.
        """
        groups: list[Any] = [images] if isinstance(images, Picture) else list(images)
        with tempfile.TemporaryDirectory(prefix="rolltune-") as folder:
            examples = [self._example(group, number, Path(folder), question) for number, group in enumerate(groups)]
            made = self.answer(Asked(examples, []))
            if made.problems:
                raise UserError("\n".join(map(str, made.problems)))
            return made.rows

    def answer(self, asked: Asked) -> "Answered":
        """The answers to rows; what keeps some from one are the problems of `asked`, and those of their frames."""
        rows, problems = _framed(asked, self._scorers[0].recipe.frames)
        for example in rows:
            if not example.prompt and any(not card.prompt for card in self.cards):
                raise UserError(
                    f"{example.source}: it asks nothing, and the roll was trained on rows with questions of their own: "
                    'say what is asked, with --question "..." (question= in Python)'
                )
        scorable = [_with_answer(example, self.answers) for example in rows]
        try:
            scored = [self._scored(scorer, scorable) for scorer in self._scorers] if rows else []
        finally:
            self._bench.forget()
        answers = () if self.options.generate is not None else self.answers
        near = NEAR if self.options.near is None else self.options.near
        found = predicted.predicted(rows, scored, answers, near) if rows else []
        return Answered(found, rows, problems)

    def _scored(self, scorer: Scorer, examples: list[Example]) -> Scored:
        return scorer.predict(examples, self.options.generate, self.options.sampling)

    def _example(self, group: Any, number: int, folder: Path, question: str) -> Example:
        shown_together: list[Any] = list(group) if isinstance(group, list | tuple) else [group]
        if not shown_together:
            raise UserError(f"image {number}: an empty list of pictures")
        paths = [_path_of(one, f"image {number}", folder / f"{number}-{n}.png") for n, one in enumerate(shown_together)]
        source = shown_together[0] if isinstance(shown_together[0], str | Path) else f"image {number}"
        return dataclasses.replace(picture_row(paths[0], Path(source).as_posix(), question), images=tuple(paths))


@dataclasses.dataclass(frozen=True)
class Answered:
    """`rows[k]` is about `examples[k]`; each problem names a file, or a row, that has no answer."""

    rows: list[Predicted]
    examples: list[Example]
    problems: list[Finding]


def load(
    rolls: str | Path | Sequence[str | Path],
    model: str | None = None,
    generate: int | None = None,
    sampling: Sampling | None = None,
    answers: Sequence[str] = (),
) -> Predictor:
    """A roll, ready to answer: `load("best.npz").predict("new.jpg")`; several of one base vote.

    `rolls`: files, names in ./checkpoints, or patterns. `model` is the base, where it is not where the rolls were
    trained. With `generate` answers of up to so many tokens are written instead of chosen; with `sampling` what is
    written is drawn: the same seed draws the same for a picture. A folder of the PEFT library, or a model that was
    fine-tuned whole elsewhere, is taken, too: it chooses from `answers`.

    Raises UserError for rolls that are missing or damaged, or do not belong together.
    """
    named = [rolls] if isinstance(rolls, str | Path) else rolls
    options = Options(model=model, generate=generate, sampling=sampling, answers=tuple(answers))
    saved, arrays = read_rolls(named_rolls([str(one) for one in named]), options.asking, ())
    return Predictor(saved, options, arrays)


def predict(rolls: Sequence[Path], data: Sequence[str], options: Options, say: Say) -> int:
    """The exit status: 0, or 1 where a file has no answer. All files are looked at before a model is loaded."""
    if options.output:
        predicted.check_file(options.output)
    own = [read_saved(path) for path in rolls if not is_foreign(path)]
    if own:
        _alike(own, options)
    asked = read_asked(data, own[0].card.answers if own else options.answers, **options.reading)
    for problem in asked.problems:
        say(f"no answer: {problem}")
    if not asked.examples:
        raise UserError("there is no row that can be answered")
    saved, arrays = read_rolls(rolls, options.asking, asked.examples)
    for text in idle_question(options.reading, [one.card for one in saved]):
        say(text)
    made = Predictor(saved, options, arrays).answer(asked)
    for problem in made.problems[len(asked.problems) :]:
        say(f"no answer: {problem}")
    if options.output:
        predicted.write(options.output, made.rows)
        say(f"written: {shown(options.output)} ({len(made.rows)} rows)")
    else:
        print_table(predicted.table(made.rows))
    foreign = [f"{shown(path)}: {FOREIGN}" for path in arrays]
    for text in [*decided_text(saved), *_summary(made, saved), *foreign]:
        say(text)
    return SOME_UNREAD if made.problems else 0


def decided_text(saved: Sequence[Saved]) -> list[str]:
    """How rolls with a threshold or a temperature decide, a line each; several of them decide by the mean."""
    told = [(one, decided_by(one.card, shown(one.path))) for one in saved]
    lines = [f"{shown(one.path)}: {decision.text}" for one, decision in told if decision.changes]
    if len(saved) > 1 and any(decision.threshold for _, decision in told):
        lines.append("together they decide by the mean of their thresholds (0.5 where a roll has none)")
    return lines


def _summary(made: Answered, saved: Sequence[Saved]) -> list[str]:
    judged = [row.correct for row in made.rows if row.correct is not None]
    said = [f"{sum(row.near or False for row in made.rows)} of {len(made.rows)} rows are near the threshold"]
    if not made.rows or made.rows[0].near is None:
        said = []
    if judged:
        right = f"{sum(judged)} of {len(judged)} answers are those given"
        said.append(f"{right} (95 %: {wilson(sum(judged), len(judged))})")
    known = {mark for one in saved for mark in one.card.metrics.get("learned", ())}
    said.append(learned_text(sum(learned(marks_of(made.examples), known)), len(made.rows)))
    if made.problems:
        said.append(f"not answered: {len(made.problems)}, see above")
    return [text for text in said if text]


def _alike(saved: Sequence[Saved], options: Options) -> Saved:
    """The first roll. Raises UserError where the others are of another kind, or do not answer the same question."""
    first = saved[0]
    check_length(options.generate)
    if options.generate is not None and first.recipe.task == CLASSIFY:
        raise UserError("a classifier tells its classes apart and writes no words: leave --generate away")
    if options.sampling and options.generate is None and first.recipe.task != WRITE:
        raise UserError(
            "--sample is of written answers, and this roll chooses: add --generate N, or leave --sample away"
        )
    if options.near is not None and (options.generate is not None or first.recipe.task == WRITE):
        raise UserError(f"--near {options.near:g}: what is written has no probability to be near one; leave it away")
    check_alike(saved, options.model)
    return first


def _framed(asked: Asked, policy: str) -> tuple[list[Example], list[Finding]]:
    """The rows with their frames chosen, each for itself: one broken animation keeps no other row from its answer."""
    rows, problems = [], list(asked.problems)
    for example in asked.examples:
        try:
            rows += apply_frame_policy([example], policy)
        except UserError as error:
            problems.append(Finding(ERROR, "unreadable image", example.source, str(error)))
    return rows, problems


def _with_answer(example: Example, answers: Sequence[str]) -> Example:
    """A row that only asks, with an answer that the scores know: none of them depends on which."""
    if example.answered:
        return example
    return dataclasses.replace(example, turns=(*example.turns[:-1], Turn("assistant", (*answers, STAND_IN)[0])))


def _path_of(image: Picture, name: str, place: Path) -> Path:
    """A file of the picture: its own, or a lossless one at `place`. Each was decoded once before anything is scored."""
    if isinstance(image, str | Path):
        open_image(image)
        return Path(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
            raise UserError(
                f"{name}: an array {image.dtype} {list(image.shape)}; expected uint8 [h, w, 3] (RGB), [h, w] (grey) or "
                "[h, w, 4] (RGBA)"
            )
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise UserError(f"{name}: a {type(image).__name__}; expected a path, a Pillow image or an array")
    upright_rgb(image).save(place, compress_level=1)
    open_image(place)
    return place
