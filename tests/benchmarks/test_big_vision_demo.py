"""The benchmark of big_vision's demo: whom it sets beside whom, and, where big_vision can be imported, that it runs."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "big_vision_demo.py"


@pytest.fixture(scope="module")
def demo():
    spec = importlib.util.spec_from_file_location("big_vision_demo", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_only_what_did_the_same_is_set_beside_it(demo):
    theirs = {"model": "paligemma-3b-224", "batch": 2, "text": 16, "device": "a card", "samples_s": 36.6}
    same = theirs | {"method": "attention", "accumulate": 1, "rolls": 1, "first_layer": 0, "cached": True}
    same |= {"samples_s": 152.2, "peak_gib": 6.3}
    others = [{"method": "lora"}, {"batch": 8}, {"text": 128}, {"device": "another"}, {"first_layer": 9}]
    others += [{"accumulate": 4}, {"model": "tiny"}]
    rows = [same, *(same | other for other in others), same | {"rolls": 4, "samples_s": 197.0, "peak_gib": 11.4}]
    assert demo.ratios(theirs, rows) == [
        "  ours, one roll, features cached: 152.2 samples/s, 6.3 GiB: 4.2 times the demo's 36.6",
        "  ours, 4 rolls, features cached: 197.0 samples/s, 11.4 GiB: 5.4 times the demo's 36.6",
    ]


def test_the_record_of_step_speed_can_be_read(demo, tmp_path):
    """The fields are those that step_speed.py prints: its flags and figures."""
    flags = ["--model=tiny", "--method=attention", "--batch=2", "--text=16", "--answer=2", "--steps=1"]
    printed = subprocess.run(
        [sys.executable, SCRIPT.with_name("step_speed.py"), *flags], capture_output=True, text=True, check=True
    ).stdout
    theirs = {"model": "tiny", "batch": 2, "text": 16, "device": json.loads(printed)["device"], "samples_s": 1.0}
    assert len(demo.ratios(theirs, [json.loads(printed)])) == 1


def test_the_demo_runs_and_learns(demo, monkeypatch):
    pytest.importorskip("big_vision", reason="big_vision is not installed: ./bin/docker-build.sh --big-vision has it")
    paligemma, gemma = demo.find_big_vision(None)
    monkeypatch.setattr(gemma, "get_config", gemma.get_config)  # the tiny model's sizes replace it
    model, side, vocabulary = demo.build(paligemma, gemma, "tiny", "float16")
    batch = demo.random_batch(2, 16, side, vocabulary)
    params, trained = demo.random_params(model, batch, "float16")
    before = {str(path): leaf.copy() for path, leaf in demo.jax.tree_util.tree_leaves_with_path(params)}
    params, _ = demo.make_step(model, trained)(params, batch, 0.03)
    for path, leaf in demo.jax.tree_util.tree_leaves_with_path(params):
        attention = "['llm']['layers']['attn']" in str(demo.jax.tree_util.keystr(path))
        assert leaf.dtype == ("float32" if attention else "float16")
        assert bool((leaf == before[str(path)]).all()) != attention, path
