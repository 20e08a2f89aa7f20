"""Programs of all shapes that a training calls are traced and compiled ahead of it, once, and train the same."""

import functools
import json
import logging
import re
import time
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from rolltune.jobs import learn as learning
from rolltune.jobs.interrupts import Interrupts
from rolltune.recipe import Recipe
from rolltune.training import rolls as tickets
from rolltune.weights.names import flatten
from rolltune.weights.roll_file import load_roll

RECIPE = Recipe(task="write", answer_tokens=2, steps=8, log_every=8, rank=2, batch=1, rate=1e-3, evaluate_batch=2)


@pytest.fixture
def train(tmp_path, monkeypatch, caplog):
    """`train(name, free)`: (what it trained, [whether the main thread asked the compiler's cache, for which program,
    whether that was there]) on eight rows, short ones and long ones, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prefix": "Is it so? " * (1 + 9 * (n % 2)), "suffix": ("yes", "no")[n // 2 % 2]} for n in range(8)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in settings]

    def use_cache(*values):
        for name, value in zip(settings, values, strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()

    def run(name, free):
        use_cache(str(tmp_path / f"{name}-programs"), 0.0)
        monkeypatch.setattr(learning, "free_bytes", lambda: free)
        caplog.clear()
        with caplog.at_level(logging.DEBUG, "jax._src.compiler"):
            assert learning.learn(learning.Options("rows.jsonl", name), RECIPE, Interrupts(lambda text: None)) == 0
        told = [(one, re.search(r"(hit|MISS) for .* with key '(.+)'", one.getMessage())) for one in caplog.records]
        asked = [(one.threadName == "MainThread", match[2], match[1] == "hit") for one, match in told if match]
        return flatten(load_roll(Path(f"checkpoints/{name}.npz")).tree), asked

    yield run
    use_cache(*before)


def test_no_program_of_rolls_is_compiled_where_it_is_called(train, monkeypatch):
    unchecked = learning.unchecked
    late = lambda job: (time.sleep(0.5), job())  # a card's programs take longer than all else here
    jobs = lambda *given: ((part, functools.partial(late, job)) for part, job in unchecked(*given))
    monkeypatch.setattr(learning, "unchecked", jobs)
    trained, asked = train("ahead", 1 << 40)
    compiled = {key for here, key, found in asked if not here and not found}
    assert len(compiled) == 1 + 3 * 2  # fresh rolls; evaluation, answers and step, each in both shapes
    assert not compiled & {key for here, key, _ in asked if here}  # neither compiled again nor read from the cache
    tickets._beginning.cache_clear()  # it is kept from run to run
    alone, asked = train("alone", None)
    assert all(here for here, _, _ in asked)  # nothing is known to compile for, where no free memory is
    named = lambda keys: Counter(key.rpartition("-")[0] for key in keys)
    programs = named(compiled)  # as many are asked for now: what was compiled ahead is what was called
    assert {name: count for name, count in named(key for _, key, _ in asked).items() if name in programs} == programs
    assert trained.keys() == alone.keys()
    for path, leaf in trained.items():
        np.testing.assert_array_equal(leaf, alone[path], path)
