"""TensorFlow Datasets by name, through its random-access data source (no TensorFlow needed to read)."""

import hashlib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rolltune.atomic import write_bytes
from rolltune.data.answers import is_blank
from rolltune.data.examples import QUESTION, Example, Scan, Turn
from rolltune.data.files import safe_name
from rolltune.data.findings import ERROR, Finding
from rolltune.errors import UserError

_ANSWERS = ("label", "answer", "answers", "caption", "captions", "text")
_QUESTIONS = ("question", "question_text", "prompt")


def scan_tfds(
    address: str,
    *,
    question: str | None = None,
    names: Mapping[str, str] | None = None,
    columns: Mapping[str, str] | None = None,
    cache: Path | None = None,
) -> Scan:
    """Rows of "tfds:NAME" or "tfds:NAME:SPLIT" (train by default, slices such as train[:100] too).

    The features that are image, question and answer are known by their names, or given in `columns`
    as {"image": ..., "prefix": ..., "suffix": ...}. Pictures are kept as PNG files, named by their
    pixels, under `cache` (~/.cache/rolltune/tfds by default), so that a second reading writes none.
    """
    match = re.fullmatch(r"tfds:([^:]+)(?::(.+))?", address)
    if match is None:
        raise UserError(f"{address!r}: expected tfds:NAME or tfds:NAME:SPLIT, for example tfds:beans:train")
    name, split = match[1], match[2] or "train"
    try:
        import tensorflow_datasets
    except ModuleNotFoundError as error:
        raise UserError(
            f"{address} needs the package {error.name!r}: pip install 'rolltune[tfds]' (it is not in the base install)"
        ) from error
    try:
        builder = tensorflow_datasets.builder(name)
        source = builder.as_data_source(split=split)
    except Exception as error:  # tfds raises its own kinds, ValueError and NotImplementedError
        reason = (str(error) or repr(error)).splitlines()[0]
        raise UserError(
            f"{address}: TFDS cannot open it: {reason} A set is prepared once with "
            f"tensorflow_datasets.data_source({name!r}), which downloads it in the array_record format"
        ) from error
    features = builder.info.features
    chosen = _chosen(address, features, columns or {}, question)
    folder = (cache or Path.home() / ".cache" / "rolltune" / "tfds") / safe_name(name)
    note = ", ".join(f"{ours} from {key}" for ours, key in chosen.items())
    scan = Scan(f"TFDS {name}, split {split}", folder, note=note)
    for index in range(len(source)):
        where = f"{address}[{index}]"
        row = source[index]
        found = _answers(row[chosen["suffix"]], features[chosen["suffix"]], names or {})
        answers = [answer.strip() for answer in found]  # as in every source, see rows
        asked = (_text(row[chosen["prefix"]]) if "prefix" in chosen else question or QUESTION).strip()
        if not answers or is_blank(answers[0]):
            scan.findings.append(Finding(ERROR, "bad row", where, f"the answer {chosen['suffix']!r} is empty"))
            continue
        images = (_kept(row[chosen["image"]], folder),) if "image" in chosen else ()
        turns = (Turn("user", asked), Turn("assistant", answers[0]))
        accepted = tuple(answers) if len(answers) > 1 else ()
        scan.examples.append(Example(f"{name}/{split}/{index}", images, turns, where, accepted=accepted))
        extra: dict[str, object] = {"image": images[0].name} if images else {}
        extra |= {"answers": list(accepted)} if accepted else {}
        scan.rows.append({"prefix": asked, "suffix": answers[0], **extra, "id": f"{name}/{split}/{index}"})
    if not scan.examples and not scan.findings:
        scan.findings.append(Finding(ERROR, "empty set", address, "there are no rows in it"))
    return scan


def _chosen(address: str, features: Mapping, columns: Mapping[str, str], question: str | None) -> dict[str, str]:
    chosen = {}
    for ours, known in (("image", ("image",)), ("prefix", () if question else _QUESTIONS), ("suffix", _ANSWERS)):
        key = columns.get(ours) or next((key for key in known if key in features), None)
        if key is not None and key not in features:
            raise UserError(f"{address} has no feature {key!r}; it has {', '.join(features)}")
        if key is not None:
            chosen[ours] = key
    if "suffix" not in chosen:
        raise UserError(
            f"{address}: which feature is the answer? It has {', '.join(features)}: name it as the column suffix"
        )
    return chosen


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _answers(value: Any, feature: Any, names: Mapping[str, str]) -> list[str]:
    if hasattr(feature, "int2str"):
        label = feature.int2str(int(value))
        return [names.get(label, label.replace("_", " "))]
    if isinstance(value, list | tuple | np.ndarray) and np.ndim(value) == 1:
        return [_text(item) for item in value]
    return [_text(value.item() if isinstance(value, np.ndarray) else value)]


def _kept(pixels: np.ndarray, folder: Path) -> Path:
    """The picture as a PNG file under a name made from its pixels."""
    pixels = np.asarray(pixels)
    array = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
    digest = hashlib.sha256(repr(array.shape).encode() + array.tobytes()).hexdigest()[:32]
    path = folder / f"{digest}.png"
    if not path.exists():
        data = io.BytesIO()
        Image.fromarray(array).save(data, "PNG", compress_level=1)
        write_bytes(path, data.getvalue())
    return path.resolve()
