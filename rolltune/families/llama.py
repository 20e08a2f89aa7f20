"""Llama (Touvron et al. 2023, arXiv:2307.09288; Grattafiori et al. 2024, arXiv:2407.21783) and Mistral: text alone.

Whatever has their names and operations loads, with its own head or a tied one. Reference: transformers.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from rolltune.errors import UserError
from rolltune.families import published
from rolltune.models import decoder
from rolltune.models.family import Family
from rolltune.text.templates import CHATML, HEADER_CHAT, INST_CHAT, Template
from rolltune.weights import layouts
from rolltune.weights.names import Shape, TensorMap


@dataclasses.dataclass(frozen=True)
class Config:
    text: decoder.Config
    tied: bool = False  # the head is the embedding
    dtype: str = "float32"  # of activations


def read_config(entries: Mapping[str, Any] | None, shapes: Mapping[str, Shape], source: str) -> Config:
    """Raises UserError, which names the entry, for what would make it another model."""
    if entries is None:
        raise UserError(f"{source}: Llama is read from a folder with its config.json, not from one file")
    tied = entries.get("tie_word_embeddings") or False
    return Config(published.llama_text(entries, entries["model_type"], source), tied)


def tensors(config: Config, names: Iterable[str] = ()) -> list[TensorMap]:
    return layouts.llama_text(config.text, "model", "lm_head.weight", config.tied)


FAMILY = Family(
    name="Llama",
    model_types=("llama",),
    config=read_config,
    tensors=tensors,
    template=HEADER_CHAT,
    classifier=Template(plain=True),
    special_ids={},  # each generation has its own
    tokenizers=("tokenizer.json", "tokenizer.model"),
    other_templates=(CHATML,),
)
MISTRAL = dataclasses.replace(FAMILY, name="Mistral", model_types=("mistral",), template=INST_CHAT, other_templates=())
