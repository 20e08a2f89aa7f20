"""What all hosts of a run must have alike: checked before anything is loaded; and how they judge alike."""

from collections.abc import Mapping
from typing import Any

from rolltune import atomic
from rolltune.data.files import sha256_of
from rolltune.data.sets import shown
from rolltune.errors import UserError
from rolltune.hosts import Hosts
from rolltune.jobs.outputs import Outputs
from rolltune.jobs.second_pass import Earlier
from rolltune.training.loop import Evaluation

FLAGS = ("name", "rolls", "folds", "repeat", "keep", "resume", "whole")
SAME_COMMAND = "start the same command on all hosts, with the same recipe and files"
SAME_WEIGHTS = "copy the same weights to all hosts"


def check_alike(hosts: Hosts, asked: Any, settings: Mapping[str, Any], earlier: Earlier | None, out: Outputs) -> None:
    """Raises UserError, on all hosts, where one was started otherwise, reads other files, or saves elsewhere.

    `settings` are the recipe's entries, and the splits' files with what all of their rows show and say.
    """
    if hosts.place.hosts == 1:
        return
    flags = {f"the flag --{name}": getattr(asked, name) for name in FLAGS}
    before = {"the roll to go on from": sha256_of(earlier.path)[:12] if earlier else None}
    hosts.check(flags | dict(settings) | before, SAME_COMMAND)
    check_folder(hosts, out)


def check_folder(hosts: Hosts, out: Outputs) -> None:
    """Raises UserError where the hosts' checkpoints/ are several folders: each would save a part of the state in its
    own."""
    mark = out.state.with_suffix(".hosts")
    if hosts.writes:
        atomic.write_text(mark, "")
    hosts.first(True)  # it is there
    seen = hosts.gather(mark.exists())
    if hosts.writes:
        mark.unlink()
    if not all(seen):
        raise UserError(
            f"host {seen.index(False)} has another {shown(mark.parent)} than host 0: the run's state is saved by all "
            "hosts together. Mount one folder there on all of them"
        )


def agreed(hosts: Hosts, verdicts: dict[int, Evaluation]) -> dict[int, Evaluation]:
    """The evaluations with the figures that host 0 has: of scores that are the same on all, processors of other kinds
    make figures that differ in their last bit, and a roll would stop on one host and go on on another."""
    figures = hosts.first({str(slot): [float(one.figure), one.collapsed] for slot, one in verdicts.items()})
    alike = lambda slot, one: Evaluation(figures[str(slot)][0], bool(figures[str(slot)][1]), one.detail, one.figures)
    return {slot: alike(slot, one) for slot, one in verdicts.items()}
