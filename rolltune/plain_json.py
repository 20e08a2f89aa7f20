"""JSON that every reader accepts: Python's own writes NaN and Infinity, which are not JSON."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np


def plain(value: object) -> object:
    """Dataclasses, named tuples, NumPy numbers and arrays, and paths as what JSON has.

    A number that is not finite becomes the string "NaN", "Infinity" or "-Infinity", because where a
    run went wrong is what its log is read for, and `null` would hide which of the three it was.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "__array__"):  # a JAX array
        return plain(np.asarray(value))
    raise TypeError(f"cannot be written as JSON: {type(value).__name__}")


def dumps(value: object, indent: int | None = None) -> str:
    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False, indent=indent)
