"""rolltune: fine-tune vision-language models on your own labelled images, many rolls at once.

    import rolltune

    data = rolltune.read("dataset/set1")                         # rows, checked: data.examples["train"]
    learned = rolltune.learn({"steps": 256}, data, "best-set1", rolls="8")
    roll = rolltune.load("best-set1")                            # checkpoints/best-set1.npz
    for row in roll.predict(["a.jpg", "b.png"]):
        print(row.answer, row.probabilities)                     # yes {'no': 0.03, 'yes': 0.97}
    cells = rolltune.validate("checkpoints/*-set1.npz", data)    # cells[0].metrics.figure("accuracy")

What a person can put right is a `rolltune.UserError`. Nothing is imported before it is asked for: JAX takes seconds.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rolltune.errors import UserError
    from rolltune.jobs.api import learn, read, validate
    from rolltune.jobs.predict import load
    from rolltune.models.generate import Sampling
    from rolltune.recipe import Recipe

    __version__: str

__all__ = ["Recipe", "Sampling", "UserError", "__version__", "learn", "load", "read", "validate"]

_PLACES = {
    "Recipe": "rolltune.recipe",
    "Sampling": "rolltune.models.generate",
    "UserError": "rolltune.errors",
    "learn": "rolltune.jobs.api",
    "load": "rolltune.jobs.predict",
    "read": "rolltune.jobs.api",
    "validate": "rolltune.jobs.api",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _PLACES:
        raise AttributeError(f"module 'rolltune' has no attribute {name!r}")
    if _PLACES[name].startswith("rolltune.jobs."):  # as the commands do: before JAX is imported
        importlib.import_module("rolltune.device").set_up_jax()
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("rolltune")
    except PackageNotFoundError:  # run from a checkout that nobody installed
        return "0 (not installed)"
