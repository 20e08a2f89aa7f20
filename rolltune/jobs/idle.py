"""What a person asked for that counts for nothing in this run: entries of the recipe, and flags beside them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from rolltune.evaluation.tasks import CHOOSE, CLASSIFY, WRITE
from rolltune.recipe import Recipe
from rolltune.weights.card import RollCard

IN_TURN = ("rates", "alphas", "weight_decays")  # one a roll


@dataclass(frozen=True)
class Drawn:
    """How many rolls there will be; 0 where that is found out later."""

    slots: int  # at once
    rolls: int  # in all, those apart that are drawn again


def idle(recipe: Recipe, stated: Collection[str], task: str, drawn: Drawn) -> list[str]:
    """A line each for what was stated, is not the default, and counts for nothing; `task` is the kind that was decided.

    What a value is for may not come up (a limit that no row reaches, a policy for pictures that no row has, or for
    folds that nobody asked for): that is no slip of the person's, and is not said.
    """
    defaults = {field.name: field.default for field in fields(Recipe)}
    given = [name for name in defaults if name in stated and getattr(recipe, name) != defaults[name]]
    reasons = _reasons(recipe, task, drawn)
    return [f"{name} counts for nothing: {reasons[name]}" for name in given if reasons.get(name)]


def _reasons(r: Recipe, task: str, drawn: Drawn) -> dict[str, str]:
    """name -> why it counts for nothing; empty where it counts."""
    words = {word for _, word in r.trainability}
    adapters = "" if "lora" in words else f"no adapter is trained (method {r.method})"
    whole = "" if "full" in words or task == CLASSIFY else f"adapters alone are trained (method {r.method})"
    several = "" if drawn.slots != 1 else "one roll is trained at a time"
    on_the_way = r.rungs or 0 < r.evaluate_every < r.steps
    few = lambda name: "" if not drawn.rolls else _few(len(getattr(r, name)), drawn.rolls)
    return {
        "length_normalized": "" if task == CHOOSE else f"no allowed answers are scored (task {task})",
        "answer_tokens": "" if task == WRITE else f"nothing is written (task {task})",
        "answers": "" if task != WRITE else "any answer can be written (task write)",
        "positive": "" if task != WRITE else "written answers have no positive one (task write)",
        "truncate": "" if task == CLASSIFY else f"only a classifier's text is cut (task {task})",
        **dict.fromkeys(("rank", "alpha", "rslora", "dropout"), adapters),
        "trained_dtype": whole,
        "steps": "epochs are given" if r.epochs else "",
        "rate": "rates are given" if r.rates else "each roll draws its own of rate_range" if r.rate_range else "",
        "rate_range": "rates are given" if r.rates else "",
        "weight_decay": "weight_decays are given" if r.weight_decays else "",
        **{name: few(name) for name in IN_TURN},
        **({"alpha": "alphas are given"} if r.alphas else {}),
        **({"alphas": adapters} if adapters else {}),
        "views": "" if r.augment else "pictures are shown as they are (augment)",
        "save_every": _late(r.save_every, r.steps),
        "keep_last": "" if 0 < r.save_every < r.steps else "no states are kept on the way (save_every)",
        "evaluate_every": _late(r.evaluate_every, r.steps),
        "keep_best": "" if on_the_way else "nothing is evaluated on the way (evaluate_every, rungs)",
        "keep_share": several if r.rungs else "there are no rungs",
        "redraws": several,
        "redraw_factor": several or ("" if r.redraws else "no roll is drawn again (redraws)"),
        "draws": f"{drawn.slots} rolls are trained at once" if 0 < r.draws <= drawn.slots else "",
    }


def _late(every: int, steps: int) -> str:
    return "" if every < steps else f"the training has {steps} steps"


def _few(values: int, rolls: int) -> str:
    if values <= rolls:
        return ""
    only = "one roll is trained" if rolls == 1 else f"{rolls} rolls are trained"
    return f"{only}, and so the last {values - rolls} of its {values} values"


def idle_flags(options: Any, recipe: Recipe, drawn: Drawn, state_steps: int) -> list[str]:
    """The same for flags of a training. `state_steps` are those between two savings of its state; 0: by time."""
    found = []
    if options.resume and options.overwrite:
        found.append(
            "--overwrite replaces an earlier run's rolls; the interrupted run is gone on with: without --resume it "
            "would be replaced, too"
        )
    if options.keep != "best" and drawn.rolls == 1:
        found.append(f"--keep {options.keep} counts for nothing: one roll is trained, and is kept")
    if state_steps >= recipe.steps and options.state_every.isdecimal():
        steps = f"the training has {recipe.steps} steps, and is saved at its end"
        found.append(f"--state-every {options.state_every} counts for nothing: {steps}")
    if recipe.prompt and options.reading.get("question") and options.origin is None:  # of a card, nobody typed it
        found.append("--question counts for nothing: the prompt takes the place of what rows ask")
    return found


def idle_question(reading: Mapping[str, Any], cards: Sequence[RollCard]) -> list[str]:
    """The same for --question beside saved rolls: what a roll was trained to be asked is asked."""
    if not reading.get("question") or not all(card.prompt for card in cards):
        return []
    return [f"--question counts for nothing: {cards[0].prompt!r} is asked, as the roll was trained"]
