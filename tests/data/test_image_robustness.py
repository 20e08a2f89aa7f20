"""Damaged files are opened or refused by name: no other exception, no crash, no hang, no memory run away with."""

import importlib.util
import sys
from pathlib import Path

import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "image_robustness.py"


@pytest.fixture
def benchmark():
    spec = importlib.util.spec_from_file_location("image_robustness", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory of a process is read from /proc")
def test_mutations_of_every_format(benchmark, tmp_path):
    frames = [Image.effect_noise((24, 16), 40 + step).convert("RGB") for step in range(4)]
    files = []
    for name in ("a.png", "b.jpg", "c.gif", "d.webp", "e.tif", "f.bmp", "g.jp2", "h.ico"):
        animated = {"save_all": True, "append_images": frames[1:]} if name in ("c.gif", "d.webp") else {}
        frames[0].save(tmp_path / name, **animated)
        files.append(tmp_path / name)
    (tmp_path / "damaged").mkdir()
    paths = benchmark.mutations(files, 150, tmp_path / "damaged", seed=3)
    results = benchmark.measured(files + paths)
    assert [path for _, path, *_ in results] == files + paths
    assert {outcome for outcome, *_ in results[: len(files)]} == {"opened"}
    assert {outcome for outcome, *_ in results} == {"opened", "refused"}
    # A damaged header can claim any size up to the limit of 64 million pixels, which takes about a gigabyte.
    assert max(memory for *_, memory in results) < 1100 * 1024
    assert max(seconds for *_, seconds, _ in results) < 10


def test_a_worker_that_dies_is_noticed(benchmark, tmp_path, monkeypatch):
    paths = [tmp_path / name for name in ("a", "b", "c")]
    monkeypatch.setattr(benchmark, "look", lambda path: sys.exit(3) if path.name == "b" else "opened")
    results = benchmark.measured(paths)
    assert [(outcome, path.name) for outcome, path, *_ in results] == [
        ("opened", "a"),
        ("crashed", "b"),
        ("opened", "c"),
    ]
