"""Gemma 2 (Gemma Team 2024, arXiv:2408.00118): text alone, as a language model or with a head that tells classes apart.

Soft caps, norms on both sides of attention and MLP, and a window in every other layer. The head is published as
`score.weight`, and has no soft cap. Reference: transformers' gemma2.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from rolltune.adapters import CLASSES
from rolltune.errors import UserError
from rolltune.families import published
from rolltune.models import decoder
from rolltune.models.family import Family
from rolltune.text.templates import BARE_TEXT, EOS, TURN_CHAT
from rolltune.weights import layouts
from rolltune.weights.names import Shape, TensorMap, turn

HEAD = "score.weight"
DEFAULTS = {  # transformers', which the 2B model has
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 256000,
}
CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
WINDOW = 4096
SLIDING, WHOLE = "sliding_attention", "full_attention"


@dataclasses.dataclass(frozen=True)
class Config:
    text: decoder.Config
    classes: int = 0  # outputs of the head that the checkpoint has; 0: it is a language model
    class_names: tuple[str, ...] = ()  # of these outputs, where config.json names them
    dtype: str = "float32"  # of activations


def read_config(entries: Mapping[str, Any] | None, shapes: Mapping[str, Shape], source: str) -> Config:
    """Raises UserError, which names the entry, for what would make it another model."""
    if entries is None:
        raise UserError(f"{source}: Gemma 2 is read from a folder with its config.json, not from one file")
    found = published.sizes(entries, DEFAULTS, tuple(DEFAULTS), source)
    heads, kv_heads = found["num_attention_heads"], found["num_key_value_heads"]
    if heads % kv_heads or found["head_dim"] % 2:
        raise UserError(
            f"{source}: {heads} heads (num_attention_heads) of {found['head_dim']} (head_dim) can't share {kv_heads} "
            f"key heads (num_key_value_heads): expected a divisor, and an even head_dim"
        )
    allowed = {
        "hidden_activation": ("gelu_pytorch_tanh", None),
        "tie_word_embeddings": (True, None),
        "attention_bias": (False, None),
        "attention_dropout": (0, None),
        "use_bidirectional_attention": (False, None),
        "problem_type": ("single_label_classification", None),
    }
    published.allow(entries, allowed, source)
    text = decoder.Config(
        vocab=found["vocab_size"],
        width=found["hidden_size"],
        layers=found["num_hidden_layers"],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=found["head_dim"],
        mlp=found["intermediate_size"],
        post_norms=True,
        attn_softcap=_cap(entries, "attn_logit_softcapping", source),
        final_softcap=_cap(entries, "final_logit_softcapping", source),
        query_scale=published.number(entries, "query_pre_attn_scalar", 256, source) ** -0.5,
        sliding_window=_window(entries, found["num_hidden_layers"], source),
        rope=published.rope(entries, found["head_dim"], source),
        norm_eps=published.number(entries, "rms_norm_eps", 1e-6, source),
    )
    classes = shapes[HEAD][0] if shapes.get(HEAD) else 0
    return Config(text, classes, published.class_names(entries, classes, source))


def _cap(entries: Mapping[str, Any], name: str, source: str) -> float | None:
    """A soft cap; null is none."""
    return None if entries.get(name, 0) is None else published.number(entries, name, CAPS[name], source)


def _window(entries: Mapping[str, Any], layers: int, source: str) -> int | None:
    """The window of the even layers. Raises UserError where other layers have one."""
    window = entries.get("sliding_window", WINDOW)
    published.allow(entries, {"sliding_window_size": (window, None)}, source)  # old files have both
    if window is None or entries.get("layer_types") == [WHOLE] * layers:
        return None
    alternating = [WHOLE if number % 2 else SLIDING for number in range(layers)]
    published.allow(entries, {"layer_types": (alternating, None)}, source)
    return published.sizes(entries, {"sliding_window": WINDOW}, ("sliding_window",), source)["sliding_window"]


def tensors(config: Config, names: Iterable[str] = ()) -> list[TensorMap]:
    table, width = layouts.llama_text(config.text, "model", "lm_head.weight", tied=True), config.text.width
    if config.classes:
        table.append(TensorMap(CLASSES, HEAD, (width, config.classes), turn((config.classes, width), (1, 0))))
    return table


FAMILY = Family(
    name="Gemma 2",
    model_types=("gemma2",),
    config=read_config,
    tensors=tensors,
    class_names=lambda config: config.class_names,
    template=TURN_CHAT,
    classifier=dataclasses.replace(BARE_TEXT, row_end=(EOS,)),
    special_ids={"pad": 0, "eos": 1, "bos": 2},
    tokenizers=("tokenizer.model", "tokenizer.json"),
)
