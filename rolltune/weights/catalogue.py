"""The published models that 01-download_models.py knows: what they are called, where they lie, how large they are."""

from collections.abc import Iterator
from dataclasses import dataclass

from rolltune.errors import UserError


@dataclass(frozen=True)
class Source:
    """One form of one model. `target` is its file (or folder, for Hugging Face) below the cache folder.

    `size` in bytes is what is asked of the disk where the hub does not tell sizes beforehand (Kaggle).
    `sha256` is that of a single file whose published digest is known; Hugging Face tells those of its own files.
    """

    name: str
    dtype: str
    hub: str  # kaggle, huggingface or web
    where: str
    target: str
    size: int
    licence: str
    file: str = ""
    revision: str = ""
    sha256: str = ""


TOKENIZER = Source(
    name="paligemma tokenizer",
    dtype="",
    hub="web",
    where="https://storage.googleapis.com/big_vision/paligemma_tokenizer.model",
    target="paligemma_tokenizer.model",
    size=4_264_023,
    licence="https://ai.google.dev/gemma/terms",
    file="paligemma_tokenizer.model",
    sha256="8986bb4f423f07f8c7f70d0dbe3526fb2316056c17bae71b1ea975e77a168fc6",
)
DEFAULT = "paligemma-3b-pt-224"
HUBS = ("kaggle", "huggingface")
# Parameters without the vision tower's table of places, which alone depends on the image's size.
COUNTS = {
    "paligemma-3b": 2_923_040_496,
    "paligemma2-3b": 3_031_800_048,
    "paligemma2-10b": 9_662_114_544,
    "paligemma2-28b": 27_649_897_200,
}
VISION_WIDTH = 1152
VARIANTS = {
    "paligemma-3b": ("pt-224", "pt-448", "pt-896", "mix-224", "mix-448"),
    "paligemma2-3b": ("pt-224", "pt-448", "pt-896"),
    "paligemma2-10b": ("pt-224", "pt-448", "pt-896"),
    "paligemma2-28b": ("pt-224", "pt-448", "pt-896"),
}
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def sources() -> Iterator[Source]:
    for family, variants in VARIANTS.items():
        first = family == "paligemma-3b"
        for variant in variants:
            name, side = f"{family}-{variant}", int(variant.split("-")[1])
            count = COUNTS[family] + (side // 14) ** 2 * VISION_WIDTH
            page = f"https://huggingface.co/google/{name}"
            group = "paligemma" if first else "paligemma-2"
            kaggle_page = f"https://www.kaggle.com/models/google/{group}"
            endings = {"float32": "", "bfloat16": ".bf16", "float16": ".f16"} if first else {"bfloat16": ".b16"}
            for dtype, ending in endings.items():
                file, size = f"{name}{ending}.npz", count * BYTES[dtype]
                handle = f"google/{group}/jax/{name}"
                yield Source(name, dtype, "kaggle", handle, file, size, kaggle_page, file)
            revisions = (
                {"float32": "main", "bfloat16": "bfloat16", "float16": "float16"} if first else {"bfloat16": "main"}
            )
            for dtype, revision in revisions.items():
                target, size = f"{name}-{dtype}", count * BYTES[dtype]
                yield Source(name, dtype, "huggingface", f"google/{name}", target, size, page, revision=revision)


def find(name: str, dtype: str, hub: str) -> Source:
    """The source of that name; a name without "pt" or "mix" means the pretrained model (paligemma-3b-224)."""
    known = list(sources())
    names = {source.name for source in known}
    family, _, side = name.rpartition("-")
    if f"{family}-pt-{side}" in names:
        name = f"{family}-pt-{side}"
    if name not in names:
        raise UserError(
            f"{name!r} is no known model. Known are:\n  " + "\n  ".join(sorted(names)) + "\n"
            "See 01-download_models.py --list; other checkpoints of these families work too once they are on the disk."
        )
    for source in known:
        if (source.name, source.dtype, source.hub) == (name, dtype, hub):
            return source
    there = sorted(f"{source.dtype} from {source.hub}" for source in known if source.name == name)
    raise UserError(f"{name} is not published as {dtype} from {hub}. It is there as: {', '.join(there)}.")
