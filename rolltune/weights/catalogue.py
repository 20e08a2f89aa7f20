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
    licence: str  # the page that shows it
    file: str = ""
    revision: str = ""
    sha256: str = ""
    terms: str = "Gemma terms, to be accepted"  # the licence in a few words
    recipe: str = "recipes/paligemma_ads.py"  # of rolltune, that was made for it; empty: none


GEMMA, LLAMA = "Gemma terms, to be accepted", "Llama 3.2 Community License, to be accepted"


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
DTYPES = (*BYTES, "nf4")
# Of bitsandbytes' four bits: the matrices of the layers, with a byte for 64 values and a float for 256 of these bytes.
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
GEMMA2_9B, GEMMA2_9B_MATRICES = 9_241_705_984, 8_323_596_288


def sources() -> Iterator[Source]:
    yield from paligemma()
    yield from others()


def others() -> Iterator[Source]:
    """Models that Hugging Face alone has, a repository each."""
    packed = 2 * (GEMMA2_9B - GEMMA2_9B_MATRICES) + round(NF4_BYTES * GEMMA2_9B_MATRICES)
    preferences = "recipes/preference_gemma2.py"
    for where, dtype, size, terms, recipe in (
        (
            "meta-llama/Llama-3.2-11B-Vision-Instruct",
            "bfloat16",
            2 * 10_670_220_835,
            LLAMA,
            "recipes/plantdoc_llama.py",
        ),
        ("microsoft/Phi-3.5-vision-instruct", "bfloat16", 2 * 4_146_621_440, "MIT", "recipes/phi35_docvqa.py"),
        ("google/gemma-2-9b-it", "bfloat16", 2 * GEMMA2_9B, GEMMA, preferences),
        ("unsloth/gemma-2-9b-it-bnb-4bit", "nf4", packed, "Gemma terms", preferences),
        ("llava-hf/llava-v1.6-mistral-7b-hf", "float16", 2 * 7_566_747_648, "Apache-2.0", "recipes/animals_llava.py"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "bfloat16", 2 * 134_515_008, "Apache-2.0", ""),
    ):
        name = where.partition("/")[2].lower().removesuffix("-hf").removesuffix("-bnb-4bit")
        page = f"https://huggingface.co/{where}"
        yield Source(name, dtype, "huggingface", where, f"{name}-{dtype}", size, page, terms=terms, recipe=recipe)


def paligemma() -> Iterator[Source]:
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


def find(name: str, dtype: str = "", hub: str = "") -> Source:
    """The source of that name: without a dtype in bfloat16 or what there is, without a hub from the first that has it.

    A name may be that of the repository, in any letter case; one without "pt" or "mix" means the pretrained model
    (paligemma-3b-224). Raises UserError with what there is.
    """
    known = list(sources())
    names = {source.name for source in known}
    asked = name.lower()
    asked = next((source.name for source in known if source.where.lower() == asked), asked)
    family, _, side = asked.rpartition("-")
    if f"{family}-pt-{side}" in names:
        asked = f"{family}-pt-{side}"
    if asked not in names:
        raise UserError(
            f"{name!r} is no known model. Known are:\n  " + "\n  ".join(sorted(names)) + "\n"
            "See 01-download_models.py --list; other checkpoints of these families work too once they are on the disk."
        )
    forms = [source for source in known if source.name == asked]
    fitting = [source for source in forms if dtype in ("", source.dtype) and hub in ("", source.hub)]
    if not fitting:
        there = ", ".join(sorted(f"{source.dtype} from {source.hub}" for source in forms))
        wanted = " ".join([*(["as", dtype] if dtype else []), *(["from", hub] if hub else [])])
        raise UserError(f"{asked} is not published {wanted}. It is there as: {there}.")
    return min(fitting, key=lambda source: source.dtype != "bfloat16")
