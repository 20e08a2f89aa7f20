"""`import rolltune` brings nothing along; what it offers is there when it is asked for."""

import json
import subprocess
import sys

import rolltune


def modules(code: str) -> list[str]:
    """The modules that are imported by running this code, beside those that Python begins with."""
    told = "import json, sys; before = set(sys.modules)\n{}\nprint(json.dumps(sorted(set(sys.modules) - before)))"
    done = subprocess.run([sys.executable, "-c", told.format(code)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_nothing_is_imported_before_it_is_asked_for():
    alone = modules("import rolltune")
    assert [name for name in alone if name.startswith("rolltune")] == ["rolltune"] and len(alone) < 20
    listed = modules("import rolltune; dir(rolltune); rolltune.UserError")
    assert "jax" not in listed and "numpy" not in listed and "rolltune.errors" in listed


def test_every_name_is_there_and_others_are_told():
    assert all(getattr(rolltune, name) is not None for name in rolltune.__all__)
    assert set(rolltune.__all__) <= set(dir(rolltune))
    assert not hasattr(rolltune, "lern")
