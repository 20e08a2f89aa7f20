"""How many rolls fit: from the compiled step, never more than the free memory holds."""

import json
import types

import jax
import pytest

from rolltune import memory
from rolltune.jobs.learn import prepare
from rolltune.recipe import Recipe
from rolltune.tiny.ads import write_sample_ads
from rolltune.training.dataset import Wanted, read_data


def test_rolls_fill_the_free_memory_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setenv("ROLLTUNE_CACHE", str(tmp_path / "cache"))
    write_sample_ads(tmp_path, seed=0)
    rows = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()]
    few = [row for row in rows if row["suffix"] == "yes"][:2] + [row for row in rows if row["suffix"] == "no"][:2]
    (tmp_path / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in few))
    recipe = Recipe()
    data = read_data({"train": tmp_path / "few.jsonl"}, Wanted("auto"), lambda text: None)
    run = prepare(recipe, data, 1).run
    one, two = memory.step_bytes(run, 1), memory.step_bytes(run, 2)
    assert one < two < 3 * one
    room = (one + 4.5 * (two - one)) / memory.HEADROOM
    monkeypatch.setattr(memory, "free_bytes", lambda: room)
    assert memory.fit_rolls(run)[0] == 5
    monkeypatch.setattr(memory, "free_bytes", lambda: one // 2)
    assert memory.fit_rolls(run)[0] == 1  # one is always tried: the device's own message is clearer than ours


GIB = 2**30


@pytest.mark.parametrize(
    "stats, on_card, free",
    [
        (None, 8 * GIB, None),  # a CPU
        ({"bytes_limit": 10 * GIB, "bytes_in_use": 4 * GIB}, 8 * GIB, 6 * GIB),
        ({"bytes_limit": 0, "bytes_in_use": 4 * GIB}, 3 * GIB, 3 * GIB),  # CUDA's own
        ({"bytes_limit": 0, "bytes_in_use": 4 * GIB}, None, None),
    ],
)
def test_what_is_free_by_each_allocator(monkeypatch, stats, on_card, free):
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(memory_stats=lambda: stats)])
    monkeypatch.setattr(memory, "free_on_card", lambda: on_card)
    assert memory.free_bytes() == free


def test_the_driver_is_asked_for_the_fullest_card(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf '9000\\n[N/A]\\n8000\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert memory.free_on_card() == 8000 << 20
    program.write_text("#!/bin/sh\nexit 9\n")
    assert memory.free_on_card() is None


@pytest.mark.skipif(memory.free_bytes() is not None, reason="this device says how much memory it has")
def test_a_device_that_does_not_say_gets_four():
    assert memory.fit_rolls(None)[0] == 4
