"""Models whose cache is a folder of the test's own, and rows with the pictures of files."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from small_families import FAMILIES, name_of
from small_model import make_example


@pytest.fixture(params=FAMILIES, ids=name_of)
def small(request, tmp_path, monkeypatch):
    monkeypatch.setenv("ROLLTUNE_CACHE", str(tmp_path / "cache"))
    return request.param


@pytest.fixture
def examples(tmp_path):
    """Rows: of one picture, two, none, of a picture with other bytes, of an animation's second and first frame."""
    noise = np.random.default_rng(0).integers(0, 256, (4, 20, 30, 3)).astype(np.uint8)
    pictures = [Image.fromarray(values) for values in noise]
    pictures[0].save(tmp_path / "a.png")
    pictures[1].save(tmp_path / "b.png")
    pictures[2].save(tmp_path / "c.gif", save_all=True, append_images=pictures[3:])
    a, b, c = (tmp_path / name for name in ("a.png", "b.png", "c.gif"))
    made = [((a,), ()), ((a, b), ()), ((), ()), ((b,), ()), ((c,), (1,)), ((c,), (0,))]
    return [
        dataclasses.replace(make_example(n), images=images, frames=frames) for n, (images, frames) in enumerate(made)
    ]


@pytest.fixture
def kept_files(tmp_path):
    """`kept_files("features")`: the files of that kind in the cache."""

    def files(kind):
        return sorted(
            file for file in (tmp_path / "cache" / kind).rglob("*") if file.is_file() and file.suffix != ".json"
        )

    return files
