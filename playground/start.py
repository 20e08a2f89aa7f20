"""How every numbered script begins: where rolltune is not installed, with the environment that quickstart made."""

import os
import sys
from pathlib import Path
from typing import NoReturn


def run(command: str, *arguments: str) -> NoReturn:
    """Runs the `rolltune` command with these arguments and those that were typed, and ends with its status."""
    try:
        from rolltune.__main__ import main
    except ModuleNotFoundError:
        # The environment that bin/quickstart.sh made, where there is one and no other was chosen.
        made = Path(__file__).resolve().parents[1] / ".venv"
        python = made / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        if python.exists() and "VIRTUAL_ENV" not in os.environ and Path(sys.prefix) != made:
            os.execv(python, [str(python), *sys.argv])
        sys.exit("error: rolltune is not installed here: run ../bin/quickstart.sh, then source ../.venv/bin/activate")
    sys.exit(main([command, *arguments, *sys.argv[1:]]))
