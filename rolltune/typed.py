"""What a person types to call a command from where they are: a numbered script of playground/, or `rolltune NAME`.

Texts name the numbered scripts, which are what most people have in their fingers. Where these do not lie in the current
folder (an installed wheel, a folder of one's own) they would be advice that cannot be followed.
"""

import re
from pathlib import Path

SCRIPTS = {
    "doctor": "00-doctor.py",
    "download": "01-download_models.py",
    "shuffle": "02-shuffle_data.sh",
    "learn": "03-do_learn.py",
    "validate": "04-validate.py",
    "search-prompt": "05-search_prompt.py",
    "convert": "06-convert_data.py",
    "predict": "07-predict.py",
    "export": "08-export.py",
    "plan-memory": "09-plan_memory.py",
    "compare": "10-compare_runs.py",
}


def as_typed(text: str, folder: Path = Path()) -> str:
    """`text` with each numbered script that is not in `folder` spelled `rolltune NAME`; paths to one are left alone."""
    for name, script in SCRIPTS.items():
        if not (folder / script).is_file():
            text = re.sub(rf"(?<![\w./-])(?:\./)?{re.escape(script)}\b", f"rolltune {name}", text)
    return text
