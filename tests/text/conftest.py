"""The published tokenizers, opened once."""

import functools

import pytest

from rolltune.text import tokenizer
from rolltune.text.tokenizer import Tokenizer

FILES = {
    "paligemma": "paligemma_derived/tokenizer.model",
    "gemma": "gemma/tokenizer.model",
    "mistral": "mistral/tokenizer.model.v1",
    "llama3": "mllama_derived/tokenizer.json",
    "phi3": "phi3_vision/tokenizer.json",
}
ADDED = {"mistral": {"<image>": 32000, "<pad>": 32001}}


@functools.cache
def opened(path, name: str) -> Tokenizer:
    return tokenizer.load(path, ADDED.get(name))


@pytest.fixture
def published(shared):
    """`published("gemma")`: a published tokenizer."""
    return lambda name: opened(shared(f"tokenizers/{FILES[name]}"), name)
