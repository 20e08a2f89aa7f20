"""Entries of config.json that several families have: of Llama's decoder and its relatives, and of CLIP's tower.

What a file leaves out has transformers' default. An entry that changes numbers is read, or its value refused.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rolltune.errors import UserError
from rolltune.models import decoder, vision
from rolltune.models.attention import Rope

Entries = Mapping[str, Any]

LLAMA = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32000}
MAX, ORIGINAL_MAX = "max_position_embeddings", "original_max_position_embeddings"
TEXT: dict[str, dict[str, Any]] = {  # transformers' defaults, by model_type
    "llama": {**LLAMA, "intermediate_size": 11008, "rms_norm_eps": 1e-6},
    "mistral": {
        **LLAMA,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-6,
        "sliding_window": 4096,
        MAX: 131072,
    },
    "phi3_v": {},
    "mllama_text_model": {
        **LLAMA,
        "vocab_size": 128256,
        "num_hidden_layers": 40,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
    },
}
CLIP_NAMES = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size"),
)
CLIP_BASE = dict(zip(CLIP_NAMES, (768, 3072, 12, 12, 224, 32), strict=True))  # transformers' defaults
CLIP_LARGE = dict(zip(CLIP_NAMES, (1024, 4096, 24, 16, 336, 14), strict=True))  # ViT-L/14-336
ROPE = {  # the entries that each kind has, beside theta and its name: any other would change it unseen
    "plain": set(),
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", ORIGINAL_MAX},
    "su": {"short_factor", "long_factor", ORIGINAL_MAX},
}


def part(entries: Entries, name: str, source: str) -> Entries:
    """The object under that name; empty where there is none. Raises UserError for what is no object."""
    value = entries.get(name)
    if value is not None and not isinstance(value, Mapping):
        raise UserError(f"{source}: {name} is {value!r:.60}, expected an object")
    return value or {}


def allow(entries: Entries, allowed: Mapping[str, Sequence[Any]], source: str) -> None:
    """That each of these entries, if it is there, has one of its values; else a UserError names all that have not."""
    problems = [
        f"{name} is {entries[name]!r:.200}, and only {' or '.join(map(repr, values))} is known here"
        for name, values in allowed.items()
        if name in entries and entries[name] not in values
    ]
    if problems:
        raise UserError(
            f"{source}:\n  " + "\n  ".join(problems) + "\n  Another value means another model: use one that has these."
        )


def class_names(entries: Entries, classes: int, source: str) -> tuple[str, ...]:
    """What `id2label` calls the outputs of a head; empty where it is left out, or has the library's numbers for names.

    Raises UserError where it does not name each output once.
    """
    labels = part(entries, "id2label", source)
    numbered = {str(n): f"LABEL_{n}" for n in range(len(labels))}
    if not classes or not labels or dict(labels) == numbered:
        return ()
    names = [labels.get(str(n)) for n in range(classes)]
    texts = [name.strip() for name in names if isinstance(name, str)]
    if len(labels) != classes or len(set(texts) - {""}) != classes:
        raise UserError(
            f"{source}: id2label is {dict(labels)!r:.200}, and the head has {classes} outputs: expected a name for "
            f"each of 0 to {classes - 1}, no two the same"
        )
    return tuple(texts)


def sizes(entries: Entries, defaults: Entries, names: Sequence[str], source: str) -> dict[str, int]:
    """Positive integers by name, none larger than any model's."""
    found = {name: entries.get(name, defaults.get(name)) for name in names}
    if problems := [
        f"{name} is {value!r:.60}, expected a positive integer"
        for name, value in found.items()
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _largest(name)
    ]:
        raise UserError(f"{source}:\n  " + "\n  ".join(problems))
    return found


def _largest(name: str) -> int:
    """What a size is at most: a slip or a damaged file must not fill the memory with names of layers."""
    return 1024 if name.endswith("_layers") else 2**24


def number(entries: Entries, name: str, default: float | None, source: str) -> float:
    value = entries.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e300:
        raise UserError(f"{source}: {name} is {value!r:.60}, expected a positive number")
    return float(value)


def llama_text(entries: Entries, kind: str, source: str) -> decoder.Config:
    """The decoder of a model_type in TEXT."""
    defaults = TEXT[kind]
    needed = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    found = sizes(entries, defaults, needed, source)
    width, heads = found["hidden_size"], found["num_attention_heads"]
    own = {"num_key_value_heads": defaults.get("num_key_value_heads", heads), "head_dim": width // heads}
    given = {name: entries[name] for name in own if entries.get(name) is not None}
    found |= sizes(given, own, tuple(own), source)
    kv_heads, head_dim = found["num_key_value_heads"], found["head_dim"]
    if heads % kv_heads or head_dim % 2:
        raise UserError(
            f"{source}: {heads} heads (num_attention_heads) of {head_dim} (head_dim) can't share {kv_heads} key heads "
            f"(num_key_value_heads): expected a divisor, and an even head_dim"
        )
    allowed = {
        "hidden_act": ("silu",),
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
        "attention_dropout": (0, None),
        "embd_pdrop": (0, None),
        "resid_pdrop": (0, None),
        "pretraining_tp": (1, None),
    }
    allow(entries, allowed, source)
    window = _window({**defaults, **entries}, kind, source)
    return decoder.Config(
        vocab=found["vocab_size"],
        width=width,
        layers=found["num_hidden_layers"],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        mlp=found["intermediate_size"],
        norm="llama",
        act="silu",
        scaled_embedding=False,
        norm_eps=number(entries, "rms_norm_eps", defaults.get("rms_norm_eps"), source),
        sliding_window=window,
        all_slide=window is not None,
        rope=rope(entries, head_dim, source),
    )


def _window(entries: Entries, kind: str, source: str) -> int | None:
    """How far back all layers see; None: as far as there is text. Raises UserError for a window of a model whose kind
    has none: the published code of Phi-3 leaves it to the attention that is installed."""
    window, longest = (entries.get(name) for name in ("sliding_window", MAX))
    if window is None or (isinstance(longest, int) and isinstance(window, int) and window >= longest):
        return None
    if kind != "mistral":
        raise UserError(
            f"{source}: sliding_window is {window!r}, shorter than {MAX} ({longest!r}): only models whose layers all "
            f"see the whole text are known of this kind. Set it to null if your texts stay shorter than the window."
        )
    return sizes(entries, {}, ("sliding_window",), source)["sliding_window"]


def rope(entries: Entries, head_dim: int, source: str) -> Rope:
    """Rotary embedding: `rope_theta` and `rope_scaling` as published, or both in `rope_parameters` (transformers 5)."""
    nested = part(entries, "rope_parameters", source)
    scaling = {**part(entries, "rope_scaling", source), **nested}
    theta = number({**entries, **nested}, "rope_theta", 10000.0, source)
    named = scaling.get("rope_type", scaling.get("type")) or "default"
    kind = {"default": "plain", "llama3": "llama3", "su": "su", "longrope": "su"}.get(str(named))
    if kind is None:
        raise UserError(f"{source}: rope_scaling is of type {named!r}; known are default, llama3, su and longrope")
    for each in (entries, scaling):
        allow(each, {"partial_rotary_factor": (1, None)}, source)
    if unknown := sorted(scaling.keys() - ROPE[kind] - {"rope_theta", "rope_type", "type", "partial_rotary_factor"}):
        raise UserError(f"{source}: rope_scaling of type {named!r} has {', '.join(unknown)}, which are not known here")
    where = f"{source}: rope_scaling"
    if kind == "plain":
        return Rope(theta)
    if kind == "llama3":
        original = sizes(scaling, {}, (ORIGINAL_MAX,), where)[ORIGINAL_MAX]
        names = ("factor", "low_freq_factor", "high_freq_factor")
        factor, low, high = (number(scaling, name, None, where) for name in names)
        return Rope(theta, kind, original, factor, low, high)
    both = sizes({**entries, **scaling}, {}, (ORIGINAL_MAX, MAX), source)
    factors = []
    for name in ("short_factor", "long_factor"):
        values = scaling.get(name)
        if not isinstance(values, list) or len(values) != head_dim // 2:
            raise UserError(f"{where}: {name} is {values!r}, expected a list of {head_dim // 2} numbers")
        factors.append(tuple(number({name: value}, name, None, where) for value in values))
    stretch = both[MAX] / both[ORIGINAL_MAX]
    amplitude = math.sqrt(1 + math.log(stretch) / math.log(both[ORIGINAL_MAX])) if stretch > 1 else 1.0
    return Rope(theta, kind, both[ORIGINAL_MAX], short=factors[0], long=factors[1], amplitude=amplitude)


def saved_rope(saved: Entries, source: str) -> Rope:
    """A Rope that was written as an object. Raises UserError for a value that none has."""
    kind = str(saved.get("kind"))
    if kind not in ROPE:
        raise UserError(f"{source}: rope is of kind {kind:.60}, expected one of {', '.join(ROPE)}")
    factors = {name: saved.get(name) for name in ("short", "long")}
    if not all(isinstance(values, list) for values in factors.values()):
        raise UserError(f"{source}: short and long of rope are {factors!r:.60}, expected lists")
    each = lambda name: tuple(number({name: value}, name, None, source) for value in factors[name] or ())
    one = lambda name: number(saved, name, None, source)
    return Rope(
        theta=one("theta"),
        kind=kind,
        original_max=sizes(saved, {}, ("original_max",), source)["original_max"],
        factor=one("factor"),
        low=one("low"),
        high=one("high"),
        short=each("short"),
        long=each("long"),
        amplitude=one("amplitude"),
    )


def clip_tower(entries: Entries, defaults: Entries, source: str) -> vision.Config:
    """CLIP's vision model, `defaults` being CLIP_BASE or CLIP_LARGE."""
    found = sizes(entries, defaults, CLIP_NAMES, source)
    allowed = {
        "model_type": ("clip_vision_model",),
        "hidden_act": ("quick_gelu",),
        "num_channels": (3,),
        "attention_dropout": (0, None),
    }
    allow(entries, allowed, source)
    if found["num_hidden_layers"] < 2:
        raise UserError(f"{source}: num_hidden_layers is {found['num_hidden_layers']}, expected two or more")
    return vision.Config(
        image_size=found["image_size"],
        patch=found["patch_size"],
        width=found["hidden_size"],
        layers=found["num_hidden_layers"],
        heads=found["num_attention_heads"],
        mlp=found["intermediate_size"],
        norm_eps=number(entries, "layer_norm_eps", 1e-5, source),
    )


def clip_pictures(entries: Entries, source: str) -> None:
    """That a preprocessor_config.json brings pixels to CLIP's range, as all that is read here does."""
    allowed = {
        "image_mean": (list(vision.CLIP_MEAN),),
        "image_std": (list(vision.CLIP_STD),),
        "do_convert_rgb": (True, None),
        "do_normalize": (True,),
        "do_rescale": (True,),
        "rescale_factor": (1 / 255,),
        "resample": (3,),  # bicubic
    }
    allow(entries, allowed, source)
