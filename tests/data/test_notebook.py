"""The notebook's cells run, in order, on a data set; Jupyter itself is not needed."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

from PIL import Image

NOTEBOOK = Path(__file__).parents[2] / "playground" / "explore-data.ipynb"


def test_cells_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROLLTUNE_CACHE", str(tmp_path / "cache"))
    Image.effect_noise((80, 70), 50).save(tmp_path / "a.png")
    rows = [{"prefix": "q", "suffix": answer, "image": "a.png"} for answer in ("yes", "no")]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = []
    display = ModuleType("IPython.display")
    display.display, display.Image = shown.append, lambda data: data
    # matplotlib asks an imported IPython for its version and shell.
    package = SimpleNamespace(display=display, version_info=(9, 0), get_ipython=lambda: None)
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    space: dict = {}
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    for cell in cells:
        assert not cell["outputs"]
        code = "".join(cell["source"]).replace('Path("dataset/set1")', f"Path({str(tmp_path / 'data.jsonl')!r})")
        code = code.replace('"steps": 64, "log_every": 32', '"steps": 2, "log_every": 2, "warmup": 0')
        exec(compile(code, NOTEBOOK.name, "exec"), space)
    assert not space["report"].may_train  # one picture with two answers
    assert [row.answer in ("yes", "no") for row in space["answers"]] == [True, True]
    assert len(shown) == 3 + 2 + 2  # three plots, two rows' pictures, the two of the conflict
    # IPython knows how to draw a PNG and Pillow's pictures; of a bare figure it prints "<Figure size ...>".
    assert all(picture.startswith(b"\x89PNG") for picture in shown[:3])
    assert all(isinstance(picture, Image.Image) for picture in shown[3:])
