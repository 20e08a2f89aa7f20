"""Batches of generated pictures from worker processes, always in the same order.

Nothing here imports JAX, so that a worker starts in a moment and never touches a GPU.
"""

import multiprocessing
import queue
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rolltune.text import tokenizer

from . import tasks
from .asking import SIDE

TEXT = 24  # tokens of <bos> prompt \n answer <eos>; longer questions are left out
HELD_OUT = 1 << 44  # seeds from here on are for measuring only
TOKENIZER = Path(__file__).with_name("tokenizer.model")


class Pictures(NamedTuple):
    """B pictures with Q questions each, encoded."""

    pixels: np.ndarray  # uint8 [B, SIDE, SIDE, 3]
    text: np.ndarray  # int16 [B, Q, TEXT]: <bos> prompt \n answer <eos>, padded
    prompt: np.ndarray  # int16 [B, Q]: tokens before the answer
    length: np.ndarray  # int16 [B, Q]: all tokens, <eos> included
    task: np.ndarray  # str [B, Q]


def draw(seeds: range, questions: int, tokens: tokenizer.Tokenizer) -> Pictures:
    """The pictures of these seeds."""
    count = len(seeds)
    out = Pictures(
        np.zeros((count, SIDE, SIDE, 3), np.uint8),
        np.zeros((count, questions, TEXT), np.int16),
        np.zeros((count, questions), np.int16),
        np.zeros((count, questions), np.int16),
        np.zeros((count, questions), "U16"),
    )
    newline = tokens.encode("\n")
    for row, seed in enumerate(seeds):
        picture = tasks.picture(seed, questions)
        encoded = []
        for question in picture.questions:
            prompt = [tokens.bos, *tokens.encode(question.prompt), *newline]
            ids = [*prompt, *tokens.encode(question.answer), tokens.eos]
            if len(ids) <= TEXT:
                encoded.append((ids, len(prompt), question.task))
        if not encoded:
            raise ValueError(f"the picture of seed {seed} has no question of at most {TEXT} tokens")
        out.pixels[row] = tasks.pixels(picture.image)
        for place in range(questions):
            ids, before, task = encoded[place % len(encoded)]
            out.text[row, place, : len(ids)] = ids
            out.prompt[row, place], out.length[row, place], out.task[row, place] = before, len(ids), task
    return out


def _work(pipe: Connection, worker: int, workers: int, seed: int, size: int, questions: int, held_out: int) -> None:
    """Sends batches worker, worker + workers, ...; the first `held_out` of all are held-out ones."""
    tokens = tokenizer.load(TOKENIZER)
    number = worker
    while True:
        first = HELD_OUT + number * size if number < held_out else (seed << 32) + (number - held_out) * size
        pipe.send(tuple(draw(range(first, first + size), questions, tokens)))
        number += workers


class Feed:
    """Iterates over batches drawn by `workers` processes; batch n is the same however many they are."""

    def __init__(self, workers: int, seed: int, size: int, questions: int, held_out: int, ahead: int = 16):
        spawn = multiprocessing.get_context("spawn")
        self._queues: list[queue.Queue] = []
        self._processes = []
        for worker in range(workers):
            receiver, sender = spawn.Pipe(duplex=False)
            args = (sender, worker, workers, seed, size, questions, held_out)
            process = spawn.Process(target=_work, args=args, daemon=True)
            process.start()
            sender.close()
            waiting: queue.Queue = queue.Queue(ahead)
            threading.Thread(target=self._receive, args=(receiver, waiting), daemon=True).start()
            self._processes.append(process)
            self._queues.append(waiting)

    @staticmethod
    def _receive(pipe: Connection, waiting: queue.Queue) -> None:
        while True:
            try:
                waiting.put(Pictures(*pipe.recv()))
            except (EOFError, OSError):
                waiting.put(None)  # the worker has ended; its own traceback is on stderr
                return

    def __iter__(self) -> Iterator[Pictures]:
        number = 0
        while True:
            batch = self._queues[number % len(self._queues)].get()
            if batch is None:
                raise RuntimeError(f"drawing process {number % len(self._queues)} ended early; see its message above")
            yield batch
            number += 1

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()


def passes(batches: Iterator[Pictures], uses: int, questions: int, apart: int = 5) -> Iterator[Pictures]:
    """Each batch `uses` times, `apart` batches later each time, with the next `questions` of its questions.

    Past the last question it begins with the first again.
    """
    kept: list[Pictures] = []
    for batch in batches:
        kept.append(batch)
        for turn in range(uses):
            if len(kept) > turn * apart:
                old = kept[-1 - turn * apart]
                first = turn * questions % old.text.shape[1]
                part = slice(first, first + questions)
                yield Pictures(old.pixels, *(field[:, part] for field in old[1:]))
        del kept[: -1 - (uses - 1) * apart]
