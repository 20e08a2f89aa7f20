"""What the library's functions are called by in the tests: with arrays as their annotations say, shapes included."""

from collections.abc import Callable
from typing import Any, get_args

import jax
import jaxtyping
import numpy as np
from beartype import beartype

# Not text, whose speed is tested; not families and data.tiles, which tests also hand NumPy's arrays of other integers.
ROOMS = ("models", "training", "evaluation", "inputs", "adapters", "optim", "quantize", "trees")


def install() -> None:
    """For every import of these rooms from now on."""
    jaxtyping.install_import_hook([f"rolltune.{room}" for room in ROOMS], "checked.arrays")


def arrays(function: Callable) -> Callable:
    """Checks the arrays among what goes in and comes out. The rest is the type checker's: tests hand over stand-ins,
    as JAX does for the leaves of a tree that it builds again."""
    named = {name: either(hint) for name, hint in function.__annotations__.items() if of_arrays(hint)}
    if not named or function.__name__ == "__init__":
        return function
    function.__annotations__ = named
    return beartype(function)


def of_arrays(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, jax.Array | np.ndarray | jaxtyping.AbstractArray):
        return True
    return any(of_arrays(part) for part in get_args(hint))


def either(hint: Any) -> Any:
    """Outside of jit a NumPy array serves wherever a JAX array does: kind and shape are what is checked."""
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray) and hint.array_type is jax.Array:
        return hint | hint.dtype[np.ndarray, hint.dim_str]
    return hint
