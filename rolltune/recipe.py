"""A recipe: everything that decides what a training does, in one frozen record that is saved with the roll."""

import ast
import dataclasses
import math
import runpy
import traceback
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from rolltune import adapters, optim
from rolltune.errors import UserError
from rolltune.evaluation.tasks import AUTO, KINDS

EXAMPLES = Path(__file__).parent / "recipes"  # a link to those of playground/; a wheel holds them as files


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
    positive: str = ""  # the answer that counts as positive; empty: yes, true, or the rarer one
    frames: str = "middle"  # of animated images: first, middle, last, most-different, n:4, grid, expand, skip
    # how
    method: str = "lora"  # lora, attention, full, or "rules"
    rules: tuple[tuple[str, str], ...] = ()  # for "rules": (path regex, frozen | lora | full), the first match wins
    rank: int = 8
    alpha: float = 8.0
    rslora: bool = False  # scale by alpha / sqrt(rank) instead of alpha / rank
    dropout: float = 0.0
    first_layer: int = 0  # decoder layers below it are left alone, and their states kept
    optimizer: str = "adamw"  # adamw or sgd
    rate: float = 3e-3  # the peak learning rate
    schedule: str = "cosine"  # cosine, linear or constant
    warmup: float = 0.1  # share of the steps
    clip: float = 1.0  # of the gradient's norm; 0: none
    weight_decay: float = 0.0
    batch: int = 2
    accumulate: int = 1
    steps: int = 512
    average: str = "example"  # of the loss: over examples (big_vision) or over all "token"s (transformers)
    balance: str = "none"  # "sample": every answer as often; "weight": every answer's rows weigh the same
    seed: int = 0
    dtype: str = "auto"  # of the frozen base and the activations: bfloat16 on a GPU, float32 elsewhere
    remat: bool = False  # work activations out again instead of keeping them: half the memory, a third slower
    max_tokens: int = 2048  # a longer row is an error
    truncate: str = ""  # "right": a classifier's longer text is cut on its right instead, and it is said
    table_gib: float = 2.0  # what is frozen and worked out stays on the device up to this size, more lies on the disk
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
    # What ranks the rolls. Choices: f-measure (where it is empty), precision, recall, accuracy, log-loss; written
    # answers: log-loss (where it is empty), exact-match, anls.
    metric: str = ""
    log_every: int = 32
    evaluate_batch: int = 8

    @property
    def trainability(self) -> list[tuple[str, str]]:
        """The method as rules over parameter paths."""
        if self.method == "rules":
            return [(path, value) for path, value in self.rules]
        return adapters.METHODS[self.method]

    @property
    def scale(self) -> float:
        return adapters.rank_scale(self.alpha, self.rank, self.rslora)


def load(path: str | Path | None, overrides: Sequence[str] = (), **given: Any) -> Recipe:
    """The recipe of a file with `get_config()`, changed by `given` and by `--config.name=value` texts.

    Raises UserError for a file that gives no ConfigDict, an unknown name or a value of the wrong kind.
    """
    values = {} if path is None else _from_file(Path(path))
    where = {name: f"{path}: {name}" for name in values}
    for text in overrides:
        name, equals, value = text.removeprefix("--config.").partition("=")
        if not equals:
            raise UserError(f"{text!r}: write --config.name=value, for example --config.steps=512")
        values[name], where[name] = _literal(value), f"--config.{name}"
    for name, value in given.items():
        if value is not None:
            values[name], where[name] = value, name
    kinds = typing.get_type_hints(Recipe)
    if unknown := sorted(set(values) - set(kinds)):
        raise UserError(f"{where[unknown[0]]}: a recipe has no such entry; there are: {', '.join(kinds)}")
    recipe = Recipe(**{name: _as(kinds[name], value, where[name]) for name, value in values.items()})
    _check(recipe)
    return recipe


def stated(path: str | Path | None, overrides: Sequence[str] = (), **given: Any) -> frozenset[str]:
    """The names of the entries that a person gave, in a file or as flags, whatever their values."""
    names = set() if path is None else set(_from_file(Path(path)))
    names |= {text.removeprefix("--config.").partition("=")[0] for text in overrides}
    return frozenset(names | {name for name, value in given.items() if value is not None})


def from_card(values: dict[str, Any]) -> Recipe:
    """The recipe that a roll file holds; entries that later versions dropped are left out."""
    kinds = typing.get_type_hints(Recipe)
    return Recipe(**{name: _as(kinds[name], value, name) for name, value in values.items() if name in kinds})


def find(path: Path) -> Path:
    """The file that `path` names: one that is there, or else recipes/NAME.py of those that come with rolltune."""
    if path.is_file():
        return path
    if path.parent == Path("recipes") and (EXAMPLES / path.name).is_file():
        return EXAMPLES / path.name
    known = ", ".join(f"recipes/{file.name}" for file in sorted(EXAMPLES.glob("*.py")))
    raise UserError(f"{path}: no such recipe; those that come with rolltune: {known or 'none'}")


def _from_file(path: Path) -> dict[str, Any]:
    path = find(path)
    try:
        found = runpy.run_path(str(path))
        config = found["get_config"]() if callable(found.get("get_config")) else None
    except Exception as error:  # whatever the person's file raises, they need its name and line, not ours
        own = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) and error.filename == str(path) else (own or [None])[-1]
        what = error.msg if isinstance(error, SyntaxError) else error
        raise UserError(f"{path}{f':{line}' if line else ''}: {type(error).__name__}: {what}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: expected a function get_config() that returns an ml_collections.ConfigDict")
    return config.to_dict()


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(text.lower(), text)


def _as(kind: Any, value: Any, where: str) -> Any:
    """`value` as the field's kind: an int may stand for a float, a list or a lone value for a tuple."""
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        values = value if isinstance(value, list | tuple) else (value,)
        return tuple(_as(inner, one, where) for one in values)
    wanted = {float: int | float, str: str, int: int, bool: bool}[kind]
    right = isinstance(value, wanted) and (kind is bool or not isinstance(value, bool))
    if not right:
        name = kind.__name__ if not isinstance(wanted, types.UnionType) else "number"
        raise UserError(f"{where}: {value!r} is not a {name}")
    return kind(value)


def _check(r: Recipe) -> None:
    """Raises UserError for values that no training can have."""
    from rolltune.evaluation.figures import names  # brings scikit-learn, which `--help` must not wait for

    def need(right: bool, name: str, expected: str) -> None:
        if not right:
            raise UserError(f"{name}: {getattr(r, name)!r}; expected {expected}")

    need(r.method in (*adapters.METHODS, "rules"), "method", f"one of {', '.join(adapters.METHODS)}, rules")
    pairs = bool(r.rules) and all(len(rule) == 2 for rule in r.rules)
    need(pairs or (r.method != "rules" and not r.rules), "rules", "a list of (path regex, frozen | lora | full)")
    optim.transform(r.optimizer, None)
    optim.Schedule(r.schedule, 1, 0)
    metrics = names(AUTO)
    need(r.metric in ("", *metrics), "metric", f"one of {', '.join(metrics)}")
    need(r.task in (*KINDS, AUTO), "task", f"{', '.join(KINDS)} or {AUTO}")
    need(r.truncate in ("", "right"), "truncate", "right, or nothing")
    need(r.average in ("example", "token"), "average", "example or token")
    need(r.balance in ("none", "sample", "weight"), "balance", "none, sample or weight")
    need(r.fold_by in ("auto", "id"), "fold_by", "auto or id")
    need(r.dtype in ("auto", "float32", "bfloat16"), "dtype", "auto, float32 or bfloat16")
    for name in ("rank", "batch", "accumulate", "steps", "log_every", "evaluate_batch", "max_tokens", "answer_tokens"):
        need(getattr(r, name) >= 1, name, "a number from 1")
    for name in ("seed", "first_layer", "redraws", "draws", "clip", "weight_decay", "table_gib"):
        need(getattr(r, name) >= 0, name, "a number from 0")
    for name in ("rate", "alpha", "explosion_factor"):
        need(0 < getattr(r, name) < math.inf, name, "a number above 0")
    for name in ("rates", "alphas"):
        need(all(0 < value < math.inf for value in getattr(r, name)), name, "numbers above 0")
    need(all(0 <= value < math.inf for value in r.weight_decays), "weight_decays", "numbers from 0")
    need(len(r.rate_range) in (0, 2), "rate_range", "two numbers, low and high")
    need(not r.rate_range or 0 < r.rate_range[0] <= r.rate_range[1] < math.inf, "rate_range", "0 < low <= high")
    need(0 <= r.stall <= 1, "stall", "a share of the steps from 0 to 1")
    need(0 <= r.dropout < 1, "dropout", "a share from 0, below 1")
    need(0 <= r.warmup < 1, "warmup", "a share of the steps from 0, below 1")
    need(0 < r.redraw_factor <= 1, "redraw_factor", "a factor above 0, at most 1")
    need(list(r.rungs) == sorted(set(r.rungs)) and all(0 < x < 1 for x in r.rungs), "rungs", "rising shares in 0..1")
    need(0 < r.keep_share < 1, "keep_share", "a share between 0 and 1")
