"""Bases that are cut over the cards of two hosts: `over_hosts.py FOLDER`, as each of them, leaves what came of them in
the folder. Run by test_over_hosts.py."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import over_groups
from over_groups import FULL, LORA, go
from small_families import PALIGEMMA

from rolltune import optim, sharding, trees
from rolltune.hosts import joined, launched
from rolltune.models import cut
from rolltune.training import checkpoints, loop
from rolltune.training.rolls import Lottery
from rolltune.training.saves import Saves

ONE_GROUP = 4, 1  # cards, rolls
SAVED = "full"  # the case that is saved after two of its three steps, and gone on with
CASES = {  # name -> cards of a group, rolls, how they are trained
    "lora": (*ONE_GROUP, dict(rules=LORA, dropout=0.3, on_disk=True)),
    SAVED: (*ONE_GROUP, dict(rules=FULL, optimizer="adamw8bit")),
    "two": (2, 2, dict(rules=FULL)),  # of which one dies, and is drawn again
}
DYING = Lottery(0, (0.01, 1e30), (8.0,), (0.1,), rank=2, redraw_factor=1e-32)


def run_of(name: str, mesh: Any) -> Any:
    """A case's run on these cards. Matrices of so few numbers have eight-bit states, too."""
    optim.SMALL = cut.SMALL = 256
    sharding.AT_ONCE = 4096  # bytes: rolls come to the hosts in several parts
    _, rolls, how = CASES[name]
    run = over_groups.a_run(PALIGEMMA, mesh, rolls=rolls, **how)[0]
    return dataclasses.replace(run, lottery=DYING) if rolls > 1 else run


def judged(rolls: Any) -> Any:
    return rolls


def trained(state: loop.State) -> dict[str, np.ndarray]:
    return trees.flatten({str(one.draw.roll): one.trainable for one in state.ended if not one.reason})


def main(folder: Path) -> None:
    with joined(launched(os.environ)) as hosts:
        for name, (cards, rolls, _) in CASES.items():
            mesh, losses = sharding.groups_of(rolls, cards), []
            run = run_of(name, mesh)
            state = loop.new_state(run, rolls)
            if name == SAVED:
                with Saves(folder / SAVED, {}, judged, hosts=hosts) as saves:
                    go(run, rolls, state, losses, stop=lambda state=state: state.step >= 2, save=saves.keep_now)
                state = checkpoints.load(folder / SAVED, {}, loop.new_state(run, rolls), judged)
            go(run, rolls, state, losses)
            if hosts.writes:
                np.savez(folder / f"{name}.npz", losses=losses, **trained(state))
        found = over_groups.judged(sharding.groups_of(2, 4), 2)
        if hosts.writes:
            np.savez(folder / "judged.npz", scores=[one.log_probs for one in found], texts=[one.texts for one in found])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
