"""What Python code calls as `rolltune.read`, `rolltune.learn` and `rolltune.validate`: the jobs of the commands."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rolltune import recipe as recipes
from rolltune.data.sets import find_dataset
from rolltune.evaluation.cross_table import Cell
from rolltune.jobs import learn as learning
from rolltune.jobs import validate as validating
from rolltune.jobs.interrupts import Interrupts
from rolltune.jobs.outputs import Outputs, named_rolls
from rolltune.recipe import Recipe
from rolltune.training.dataset import Splits, read_splits
from rolltune.weights.roll_file import read_card

Say = Callable[[str], None]


def quiet(text: str) -> None:
    """Says nothing."""


def read(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    question: str | None = None,
    names: Mapping[str, str] | None = None,
    say: Say = quiet,
) -> Splits:
    """The rows of a data set: `read("dataset/set1").examples["train"]` is a list of `Example`.

    `path` is a folder with splits, the name of a set in ./dataset, or one file, which is then all "train". `columns`
    says which column is the prefix, suffix or image, `question` is asked where rows ask nothing, `names` gives class
    folders other names. Every picture is opened once.

    Raises UserError with everything that is wrong with a file, line by line.
    """
    return read_splits(find_dataset(str(path)), say, {"columns": columns, "question": question, "names": names})


@dataclasses.dataclass(frozen=True)
class Learned:
    """What a training left. `roll` is None where every roll diverged (status 3) or it was interrupted (130)."""

    status: int
    roll: Path | None  # the best
    report: Path
    metrics: Mapping[str, Any]  # of the best roll on each split, as its card has them: metrics["valid"]["accuracy"]


def learn(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    data: Splits | str | Path,
    name: str,
    say: Say = print,
    **asked: Any,
) -> Learned:
    """Fine-tunes by a recipe on a data set; saves checkpoints/NAME.npz and reports/NAME.html, as 03-do_learn does.

    `recipe` is a Recipe, the entries that differ from its defaults ({"steps": 64}), or a recipe file. `data` is what
    `read` gives or takes. `asked` are the flags of 03: rolls="8", folds=5, keep="all", second="trained-set1",
    overwrite=True, ... (fields of `rolltune.jobs.learn.Options`). Ctrl-C saves the state; resume=True goes on with it.

    Raises UserError for whatever a person can put right, a name that is taken among it.
    """
    if isinstance(recipe, Recipe):
        recipes.check(recipe)
        made, stated = recipe, changed(recipe)
    else:
        path, given = (None, dict(recipe)) if isinstance(recipe, Mapping) else (recipe, {})
        made, stated = recipes.load(path, **given), recipes.stated(path, **given)
    found = data if isinstance(data, Splits) else read(data, say=say)
    options = learning.Options(found, name, stated=stated, **({"reading": found.reading} | asked))
    with Interrupts(say) as interrupts:
        status = learning.learn(options, made, interrupts)
    out = Outputs(name)
    roll = out.roll if status == 0 else None
    return Learned(status, roll, out.report, {} if roll is None else read_card(roll).metrics)


def changed(recipe: Recipe) -> frozenset[str]:
    """The entries of a recipe that are not the default's: what a second pass takes for stated."""
    default = Recipe()
    every = (field.name for field in dataclasses.fields(Recipe))
    names = {name for name in every if getattr(recipe, name) != getattr(default, name)}
    return frozenset(names | ({"epochs"} if "steps" in names else set()))  # steps that are given turn epochs off


def validate(
    rolls: str | Path | Sequence[str | Path],
    data: Splits | str | Path | Sequence[str | Path],
    say: Say = quiet,
    **asked: Any,
) -> list[Cell]:
    """The figures of each roll on each file, in the order of the rolls: `cell.metrics.figure("accuracy")` is one.

    `rolls` are files, names in ./checkpoints, or patterns; `data` what `read` gives, or files of rows with answers.
    `asked` are the flags of 04: generate=32, model=..., predictions=Path("rows.jsonl"), ... (fields of
    `rolltune.jobs.validate.Options`). A cell's `trained_on` says that the roll learned from some of these rows.

    Raises UserError for what is missing, damaged or cannot be read.
    """
    listed = lambda named: [named] if isinstance(named, str | Path) else list(named)
    paths = named_rolls([str(one) for one in listed(rolls)])
    if isinstance(data, Splits):
        files, asked = list(data.files.values()), {"reading": data.reading} | asked
    else:
        files = [Path(one) for one in listed(data)]
    return validating.score(validating.Options(files, **asked), paths, say)
