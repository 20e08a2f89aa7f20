"""Where a run leaves what, and what its name may be."""

from pathlib import Path

from rolltune.data.files import safe_name
from rolltune.errors import UserError


class Outputs:
    """Where a run of this name leaves what: ./checkpoints for rolls, ./reports for what people read."""

    def __init__(self, name: str):
        if not name or safe_name(name) != name or name.startswith("."):
            raise UserError(f"-w {name!r}: expected a plain name, such as trained-set1")
        self.name = name
        self.roll = Path("checkpoints") / f"{name}.npz"
        self.whole = Path("checkpoints") / f"{name}.whole.npz"
        self.state = Path("checkpoints") / f"{name}.state"
        reports = Path("reports")
        self.report, self.board = reports / f"{name}.html", reports / f"{name}.leaderboard.json"
        self.metrics, self.folds = reports / f"{name}.metrics.jsonl", reports / f"{name}.out-of-fold.jsonl"
        self.tensorboard, self.wandb = reports / f"{name}.tensorboard", reports / f"{name}.wandb"

    def kept(self, rank: int) -> Path:
        """The roll of this rank: the best has the bare name."""
        return self.roll if rank == 1 else self.roll.with_name(f"{self.name}-{rank}.npz")
