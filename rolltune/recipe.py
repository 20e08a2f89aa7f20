"""A recipe: everything that decides what a training does, in one frozen record that is saved with the roll."""

import ast
import dataclasses
import math
import reprlib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rolltune import adapters, optim, quantize, recipe_file, rules, sharding
from rolltune.data.views import WORDS
from rolltune.errors import UserError
from rolltune.evaluation.tasks import AUTO, KINDS


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Defaults serve about a hundred images; rank and rate are the tiny model's, larger ones have their recipes."""

    # what
    model: str = "tiny"  # "tiny", or a path: .npz, .safetensors or a Hugging Face folder
    tokenizer: str = ""  # empty: tokenizer.model beside the weights
    prompt: str = ""  # empty: each row's own; otherwise it takes the place of every row's
    answers: tuple[str, ...] = ()  # the allowed answers; empty: those seen in the data
    task: str = "auto"  # choose among few answers, write open ones, classify by a head; auto looks at the data
    answer_tokens: int = 64  # of written answers, at most
    length_normalized: bool = False  # allowed answers are scored by the mean of their tokens, not as a whole
    positive: str = ""  # the answer that counts as positive; empty: yes, true, or the rarer one
    frames: str = "middle"  # of animated images: first, middle, last, most-different, n:4, grid, expand, skip
    num_crops: int = 0  # tiles that a picture may be cut into, where the model has such a number; 0: as its files say
    # how
    method: str = "lora"  # lora, attention, full, or "rules"
    rules: tuple[tuple[str, str], ...] = ()  # for "rules": (path regex, frozen | lora | full), the first match wins
    rank: int = 8
    alpha: float = 8.0
    rslora: bool = False  # scale by alpha / sqrt(rank) instead of alpha / rank
    quantize: str = ""  # the frozen decoder layers: a word of quantize.KINDS, or "rules"; empty: as the file has them
    quantize_rules: tuple[tuple[str, str], ...] = ()  # for "rules": (path regex, a word of quantize.KINDS, or keep)
    # Over several cards: rolls alone (rolls), each card with the whole base; the base cut over a group of cards (fsdp),
    # or whole on each (replicate), where a group has the rows of each batch between it; auto: rolls, or fsdp where the
    # base does not fit a card. Or "rules".
    sharding: str = "auto"
    sharding_rules: tuple[tuple[str, str], ...] = ()  # for "rules": (path regex, replicate | fsdp | rolls)
    sharding_group: int = 0  # cards of a group; 0: all
    dropout: float = 0.0
    first_layer: int = 0  # decoder layers below it are left alone, and their states kept
    optimizer: str = "adamw"  # adamw, adamw8bit (its states in 8 bits), adafactor or sgd
    momentum: float = 0.0  # of sgd
    trained_dtype: str = "float32"  # of weights trained themselves: float32, or bfloat16 with stochastic rounding
    rate: float = 3e-3  # the peak learning rate
    schedule: str = "cosine"  # cosine, linear or constant
    warmup: float = 0.1  # below 1 a share of the steps, from 1 a number of steps
    clip: float = 1.0  # of the gradient's norm; 0: none
    weight_decay: float = 0.0
    batch: int = 2
    accumulate: int = 1
    steps: int = 512
    epochs: float = 0.0  # passes over the training rows, in the place of `steps`; 0: `steps` counts
    average: str = "example"  # of the loss: over examples (big_vision) or over all "token"s (transformers)
    balance: str = "none"  # "sample": every answer as often; "weight": every answer's rows weigh the same
    seed: int = 0
    # Of the frozen base and the activations: bfloat16 on a GPU, float32 elsewhere; float16, which is what a GPU without
    # bfloat16 (V100, T4) gets, is of the base alone, under float32 activations.
    dtype: str = "auto"
    # Activations are worked out again instead of kept: "layer" (True) all but each layer's input, half the memory, a
    # third slower; "attention" those of the MLPs alone; "none" (False) nothing.
    remat: bool | str = False
    max_tokens: int = 2048  # a longer row is an error
    truncate: str = ""  # "right": a classifier's longer text is cut on its right instead, and it is said
    # Training pictures come changed, too: crop, flip (not where there is text, or left and right matter), colour.
    augment: tuple[str, ...] = ()
    views: int = 4  # with `augment`: of each picture, itself among them; as many times the table of features
    table_gib: float = 2.0  # what is frozen and worked out stays on the device up to this size, more lies on the disk
    # what is kept on the way
    save_every: int = 0  # steps between a roll's own intermediate states; 0: none are kept
    keep_last: int = 0  # of these states, only the latest so many; 0: all
    evaluate_every: int = 0  # steps between evaluations of a roll on its way; 0: at its rungs and its end only
    keep_best: bool = False  # of a roll's evaluated states, the best one is saved instead of the last
    # rolls
    rates: tuple[float, ...] = ()  # one a roll, in turn; empty: `rate`, or drawn from `rate_range`
    rate_range: tuple[float, ...] = ()  # (low, high): each roll's rate is drawn log-uniformly
    alphas: tuple[float, ...] = ()  # one a roll, in turn; empty: `alpha`
    weight_decays: tuple[float, ...] = ()  # one a roll, in turn; empty: `weight_decay`
    redraws: int = 8  # of several rolls, those that diverge are drawn again, at most this often in all
    redraw_factor: float = 0.5  # of the rate, each time a slot is drawn again
    explosion_factor: float = 3.0  # a roll dies where its running loss is over factor * max(lowest, 1) + margin
    explosion_margin: float = 2.0
    stall: float = 0.5  # share of the steps for which a roll may be no better than guessing; 0: for ever
    rungs: tuple[float, ...] = ()  # shares of the steps at which losers stop, e.g. (0.25, 0.5); empty: none
    keep_share: float = 0.5  # of the rolls that reached a rung, those that go on
    draws: int = 0  # rolls in all when rungs free slots; 0: as many as slots
    fold_by: str = "auto"  # of --folds: "auto" spreads answers and keeps groups whole, "id" is id % folds
    # What ranks the rolls. Choices: f-measure (where it is empty), precision, recall, accuracy, log-loss,
    # balanced-accuracy, macro-f; written answers: log-loss (where it is empty), exact-match, anls, vqa-accuracy,
    # and of boxes iou, box-accuracy, map, map-50.
    metric: str = ""
    # Chosen on the validation rows, and saved with the roll: from which probability on the positive of two answers is
    # given, best for the metric, or with a stated precision: none, metric, precision=0.95.
    threshold: str = "none"
    temperature: str = "none"  # "valid": probabilities are brought nearer to the shares that come true; or none
    log_every: int = 32
    evaluate_batch: int = 8

    @property
    def trainability(self) -> list[tuple[str, str]]:
        """The method as rules over parameter paths."""
        if self.method == "rules":
            return [(path, value) for path, value in self.rules]
        return adapters.METHODS[self.method]

    @property
    def packing(self) -> list[tuple[str, str]]:
        """What is quantized, as rules over parameter paths; none where the file's own form is kept."""
        if self.quantize == "rules":
            return [(path, word) for path, word in self.quantize_rules]
        return [(quantize.DECODER, self.quantize), (".*", quantize.KEEP)] if self.quantize else []

    @property
    def laying(self) -> list[tuple[str, str]]:
        """How the base lies on several cards, as rules over parameter paths; "auto" is no word of theirs."""
        if self.sharding == "rules":
            return [(path, word) for path, word in self.sharding_rules]
        return [(".*", self.sharding)]

    @property
    def scale(self) -> float:
        return adapters.rank_scale(self.alpha, self.rank, self.rslora)


def load(path: str | Path | None, overrides: Sequence[str] = (), **given: Any) -> Recipe:
    """The recipe of a file with `get_config()`, changed by `given` and by `--config.name=value` texts.

    `epochs` count before `steps` of the same place; `steps` that are typed count before a file's epochs. Raises
    UserError for a file that gives no ConfigDict, an unknown name or a value of the wrong kind.
    """
    values = {} if path is None else recipe_file.values_of(Path(path))
    where = {name: recipe_file.place_in(Path(path), name) for name in values} if path is not None else {}
    typed: dict[str, Any] = {}
    for text in overrides:
        name, equals, value = text.removeprefix("--config.").partition("=")
        if not equals:
            raise UserError(f"{text!r}: write --config.name=value, for example --config.steps=512")
        typed[name], where[name] = _literal(value), f"--config.{name}"
    for name, value in given.items():
        if value is not None:
            typed[name], where[name] = value, name
    if "steps" in typed and "epochs" not in typed:
        typed["epochs"] = 0.0
    return _made({**values, **typed}, lambda name: where.get(name, name))


def stated(path: str | Path | None, overrides: Sequence[str] = (), **given: Any) -> frozenset[str]:
    """The names of the entries that a person gave, in a file or as flags, whatever their values."""
    names = set() if path is None else set(recipe_file.values_of(Path(path)))
    names |= {text.removeprefix("--config.").partition("=")[0] for text in overrides}
    names |= {name for name, value in given.items() if value is not None}
    return frozenset(names | ({"epochs"} if "steps" in names else set()))  # steps that are given turn epochs off


def from_card(values: Mapping[str, Any], source: str = "the roll's recipe") -> Recipe:
    """The recipe that a roll file holds, checked as `load` checks one; what later versions dropped is left out.

    `source` names the file. Raises UserError for what is no recipe, or holds a value that none can have.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{source}: {_shown(values)} is no recipe: the file was damaged, or written by another program")
    known = {entry.name for entry in dataclasses.fields(Recipe)}
    kept = {name: value for name, value in values.items() if name in known}
    return _made(kept, lambda name: f"{source}: {name}")


def with_steps(recipe: Recipe, rows: int) -> Recipe:
    """The recipe with the number of steps that its `epochs` mean for so many training rows; without epochs, itself.

    An epoch is rows / (batch * accumulate) steps. Raises UserError where that leaves no step, or too many.
    """
    if not recipe.epochs:
        return recipe
    at_once = recipe.batch * recipe.accumulate
    steps = recipe.epochs * rows / at_once
    if not 0.5 < steps <= MOST_STEPS:
        raise UserError(
            f"epochs: {recipe.epochs:g} of {rows} rows, {at_once} at a time, are {steps:g} steps; "
            f"expected 1 to {MOST_STEPS}"
        )
    made = dataclasses.replace(recipe, steps=round(steps))
    check(dataclasses.replace(made, epochs=0.0))
    return made


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return {"true": True, "false": False}.get(text.lower(), text)


def _shown(value: Any) -> str:
    """A value for a message, however long or deep it is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 60
    short.maxlevel = 2
    try:
        return short.repr(value)
    except ValueError:  # a number with more digits than Python writes out
        return f"a {type(value).__name__} too long to show"


def _made(values: Mapping[str, Any], where: Callable[[str], str]) -> Recipe:
    """The recipe of these values, checked; `where` says of an entry where its value comes from."""
    kinds = typing.get_type_hints(Recipe)
    if unknown := sorted(set(values) - set(kinds)):
        raise UserError(f"{where(unknown[0])}: a recipe has no such entry; there are: {', '.join(kinds)}")
    read = {name: _as(kinds[name], value, where(name)) for name, value in values.items()}
    # Outer white space is no part of a question or an answer, in data and here.
    if "prompt" in read:
        read["prompt"] = read["prompt"].strip()
    if "answers" in read:
        read["answers"] = tuple(answer.strip() for answer in read["answers"])
    if "remat" in read:
        read["remat"] = REMAT.get(read["remat"], read["remat"])
    recipe = Recipe(**read)
    check(recipe, where)
    return recipe


def _as(kind: Any, value: Any, where: str) -> Any:
    """`value` as the field's kind: an int may stand for a float, a list or a lone value for a tuple."""
    if kind == bool | str:  # whether at all, or a word
        kind = bool if isinstance(value, bool) else str
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        values = value if isinstance(value, list | tuple) else (value,)
        return tuple(_as(inner, one, where) for one in values)
    wanted = {float: int | float, str: str, int: int, bool: bool}[kind]
    right = isinstance(value, wanted) and (kind is bool or not isinstance(value, bool))
    if not right:
        name = kind.__name__ if not isinstance(wanted, types.UnionType) else "number"
        raise UserError(f"{where}: {_shown(value)} is not a {name}")
    if kind is str and (broken := unwritable(value)):
        raise UserError(f"{where}: {_shown(value)} holds {broken}: type the text anew")
    try:
        return kind(value)
    except OverflowError as error:
        raise UserError(f"{where}: {_shown(value)} is too large a number") from error


def unwritable(text: str) -> str:
    """What keeps a text from being written into a file, or a path from being one; empty: nothing."""
    if "\0" in text:
        return "a zero character"
    return "half a character (a lone surrogate)" if any("\ud800" <= sign <= "\udfff" for sign in text) else ""


REMAT = {"none": False, "layer": True}  # words for what was a switch first
MOST_STEPS = 1_000_000_000
SEEDS = 2**32  # a random key is made of 32 bits
RANGES = {  # of whole numbers: from, to. What lies beyond is a slip of the finger, and would end in another's error.
    **dict.fromkeys(("rank", "batch", "accumulate", "evaluate_batch", "answer_tokens"), (1, 65_536)),
    **dict.fromkeys(("steps", "log_every"), (1, MOST_STEPS)),
    **dict.fromkeys(("save_every", "keep_last", "evaluate_every"), (0, MOST_STEPS)),
    **dict.fromkeys(("first_layer", "redraws", "draws", "sharding_group"), (0, 65_536)),
    "max_tokens": (1, 2**24),
    "views": (2, 1024),
    "num_crops": (0, 256),
    "seed": (0, SEEDS - 1),
}


def check(r: Recipe, where: Callable[[str], str] = str) -> None:
    """Raises UserError for values that no training can have; `where` says of an entry what to call it."""
    # They bring scikit-learn and Pillow, which `--help` must not wait for.
    from rolltune.data.images import parse_policy
    from rolltune.evaluation import decision
    from rolltune.evaluation.figures import names

    def need(right: bool, name: str, expected: str) -> None:
        if not right:
            raise UserError(f"{where(name)}: {_shown(getattr(r, name))}; expected {expected}")

    need(bool(r.model), "model", '"tiny", or where the weights are')
    need(r.method in (*adapters.METHODS, "rules"), "method", f"one of {', '.join(adapters.METHODS)}, rules")
    pairs = bool(r.rules) and all(len(rule) == 2 for rule in r.rules)
    need(pairs or (r.method != "rules" and not r.rules), "rules", "a list of (path regex, frozen | lora | full)")
    for pattern, word in r.rules:
        need(word in ("frozen", "lora", "full"), "rules", f"frozen, lora or full after {_shown(pattern)}")
        rules.compiled(pattern, where("rules"))
    need(r.method == "rules" or not r.rules, "rules", 'none, or method "rules", which reads them')
    need(r.quantize in ("", *quantize.KINDS, "rules"), "quantize", f"{', '.join(quantize.KINDS)}, rules or nothing")
    given, kinds = bool(r.quantize_rules), (*quantize.KINDS, quantize.KEEP)
    need(given == (r.quantize == "rules"), "quantize_rules", f"a list of (path regex, {' | '.join(kinds)})")
    for rule in r.quantize_rules:
        need(len(rule) == 2 and rule[1] in kinds, "quantize_rules", f"(path regex, {' | '.join(kinds)}) each")
        rules.compiled(rule[0], where("quantize_rules"))
    need(r.sharding in ("auto", *sharding.WORDS, "rules"), "sharding", f"auto, {', '.join(sharding.WORDS)} or rules")
    pair = f"(path regex, {' | '.join(sharding.WORDS)})"
    need(bool(r.sharding_rules) == (r.sharding == "rules"), "sharding_rules", f'a list of {pair} with "rules"')
    for rule in r.sharding_rules:
        need(len(rule) == 2 and rule[1] in sharding.WORDS, "sharding_rules", f"{pair} each")
        rules.compiled(rule[0], where("sharding_rules"))
    need(r.optimizer in optim.OPTIMIZERS, "optimizer", f"one of {', '.join(optim.OPTIMIZERS)}")
    need(0 <= r.momentum < 1, "momentum", "a share from 0, below 1")
    need(not r.momentum or r.optimizer == "sgd", "momentum", f"0: it is sgd's, and the optimizer is {r.optimizer}")
    need(r.trained_dtype in ("float32", "bfloat16"), "trained_dtype", "float32 or bfloat16")
    need(r.schedule in optim.SCHEDULES, "schedule", f"one of {', '.join(optim.SCHEDULES)}")
    metrics = names(AUTO)
    need(r.metric in ("", *metrics), "metric", f"one of {', '.join(metrics)}")
    try:
        decision.stated_precision(r.threshold)
    except ValueError:
        need(False, "threshold", f"{decision.NONE}, {decision.METRIC}, or {decision.PRECISION}=0.95")
    need(r.temperature in (decision.NONE, decision.VALID), "temperature", f"{decision.NONE} or {decision.VALID}")
    try:
        parse_policy(r.frames)
    except UserError as error:
        raise UserError(f"{where('frames')}: {error}") from error
    need(r.task in (*KINDS, AUTO), "task", f"{', '.join(KINDS)} or {AUTO}")
    need(r.truncate in ("", "right"), "truncate", "right, or nothing")
    need(r.average in ("example", "token"), "average", "example or token")
    words = set(r.augment)
    several = f"some of {', '.join(WORDS)}, each once, as a list: \"('crop','colour')\""
    need(words <= set(WORDS) and len(words) == len(r.augment), "augment", several)
    need(r.augment != ("flip",) or r.views == 2, "views", "2: flip alone makes one other view, the mirrored one")
    need(r.balance in ("none", "sample", "weight"), "balance", "none, sample or weight")
    need(r.fold_by in ("auto", "id"), "fold_by", "auto or id")
    need(r.remat in (False, True, "attention"), "remat", "layer (or True), attention, none (or False)")
    need(r.dtype in ("auto", "float32", "bfloat16", "float16"), "dtype", "auto, float32, bfloat16 or float16")
    need(all(r.answers) and len(set(r.answers)) == len(r.answers), "answers", "different texts, none of them empty")
    for name, (low, high) in RANGES.items():
        need(low <= getattr(r, name) <= high, name, f"a number from {low} to {high}")
    for name in ("clip", "weight_decay", "table_gib", "epochs", "explosion_margin"):
        need(0 <= getattr(r, name) < math.inf, name, "a number from 0")
    for name in ("rate", "alpha", "explosion_factor"):
        need(0 < getattr(r, name) < math.inf, name, "a number above 0")
    for name in ("rates", "alphas"):
        need(all(0 < value < math.inf for value in getattr(r, name)), name, "numbers above 0")
    need(all(0 <= value < math.inf for value in r.weight_decays), "weight_decays", "numbers from 0")
    need(len(r.rate_range) in (0, 2), "rate_range", "two numbers, low and high")
    need(not r.rate_range or 0 < r.rate_range[0] <= r.rate_range[1] < math.inf, "rate_range", "0 < low <= high")
    need(0 <= r.stall <= 1, "stall", "a share of the steps from 0 to 1")
    need(0 <= r.dropout < 1, "dropout", "a share from 0, below 1")
    whole_number = r.warmup >= 1 and r.warmup == r.warmup // 1
    need(
        0 <= r.warmup < 1 or whole_number, "warmup", "a share of the steps from 0, below 1, or a whole number of steps"
    )
    need(r.epochs > 0 or r.warmup < max(r.steps, 2), "warmup", f"less than the {r.steps} steps of the training")
    need(0 < r.redraw_factor <= 1, "redraw_factor", "a factor above 0, at most 1")
    need(list(r.rungs) == sorted(set(r.rungs)) and all(0 < x < 1 for x in r.rungs), "rungs", "rising shares in 0..1")
    need(0 < r.keep_share <= 1, "keep_share", "a share above 0, at most 1")
