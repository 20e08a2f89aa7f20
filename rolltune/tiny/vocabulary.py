"""Trains the tiny model's tokenizer on the text of its own tasks: `python -m rolltune.tiny.vocabulary FILE`."""

import argparse
import io
import sys
from pathlib import Path

import sentencepiece

from rolltune import atomic

from . import tasks
from .words import PRAISE, WORDS

SIZE = 1024


def corpus(pictures: int = 4000) -> list[str]:
    """Prompts and answers of the first pictures, and every word that may be printed, in three cases."""
    lines = [
        text for seed in range(pictures) for q in tasks.picture(seed, 4).questions for text in (q.prompt, q.answer)
    ]
    words = [form for word in WORDS + PRAISE for form in (word, word.upper(), word.capitalize())]
    alphabet = [chr(code) for code in range(33, 127)]
    return lines + words + alphabet * 3


def train(pictures: int = 4000) -> bytes:
    """A SentencePiece model like Gemma's: BPE with bytes to fall back on, nothing normalised, no dummy prefix."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus(pictures)),
        model_writer=model,
        model_type="bpe",
        vocab_size=SIZE,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_digits=True,
        character_coverage=1.0,
        user_defined_symbols=["\n"],
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rolltune.tiny.vocabulary", description=__doc__)
    parser.add_argument("file", type=Path, help="where to write the SentencePiece model, such as tokenizer.model")
    parser.add_argument("--pictures", type=int, default=4000, help="pictures whose text is the corpus (%(default)s)")
    args = parser.parse_args(argv)
    model = train(args.pictures)
    atomic.write_bytes(args.file, model)
    return 0


if __name__ == "__main__":
    sys.exit(main())
