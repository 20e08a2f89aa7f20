"""Fine-tune on a split, evaluate before and after, save the roll (or the best of many) and a report."""

import argparse
import dataclasses
import math
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rolltune import atomic
from rolltune import recipe as recipes
from rolltune.commands.common import EPILOG, add_recipe_flags, find_dataset, set_up_jax, shown, split_overrides
from rolltune.errors import UserError

EXAMPLES = """examples:
  ./03-do_learn.py -d set1 -w trained-set1               train on dataset/set1, save checkpoints/trained-set1.npz
  ./03-do_learn.py -d set2 -w trained-set2 -2            go on with the latest roll at a tenth of the rate
  ./03-do_learn.py -d set1 -w best-set1 --rolls 8        eight rolls at once, a leaderboard, the best is kept
  ./03-do_learn.py -d set1 -w folds --folds 5            a score for every picture by a roll that never saw it
  ./03-do_learn.py -d set1 -w trained-set1 --resume      go on after Ctrl-C
  ./03-do_learn.py -d set1 -w big --config recipes/paligemma_ads.py --config.steps=512

Exit status: 0 saved, 2 something to put right, 3 every roll diverged (nothing saved), 130 interrupted (resumable).
"""
DIVERGED, INTERRUPTED = 3, 130


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="03-do_learn.py", description=__doc__, epilog=EXAMPLES, formatter_class=EPILOG)
    p.add_argument("-d", "--dataset", required=True, help="a set in ./dataset made by 02, a folder, or a JSONL")
    p.add_argument("-w", "--write", required=True, metavar="NAME", help="the name to save under, in ./checkpoints")
    p.add_argument(
        "-2", "--second", nargs="?", const="", metavar="ROLL",
        help="go on with a saved roll (the one named like -w, or the latest) at a tenth of the rate",
    )  # fmt: skip
    p.add_argument("--rolls", default="1", help='how many to train at once, or "auto" for what fits the memory')
    p.add_argument("--folds", type=int, help="the rolls are the folds of all rows (recipe: fold_by)")
    p.add_argument("--repeat", type=int, default=1, help="so many rounds of folds or rolls, and their seeds' spread")
    p.add_argument("--keep", default="best", help="best, all, or how many of the ranking to save")
    p.add_argument("--metric", help="what ranks the rolls: f-measure, precision, recall, accuracy, log-loss")
    p.add_argument("--positive", help="the answer that counts as positive")
    p.add_argument("--seed", type=int, help="of the first roll; the next ones count up")
    p.add_argument("--resume", action="store_true", help="go on with an interrupted run of the same name")
    p.add_argument("--whole", action="store_true", help="also save the whole model, as big_vision's npz")
    p.add_argument("--tensorboard", action="store_true", help="also write event files for TensorBoard")
    p.add_argument("--wandb", metavar="PROJECT", help="also log to Weights & Biases (offline unless WANDB_MODE=online)")
    add_recipe_flags(p)
    return p


def main(argv: list[str] | None = None) -> int:
    began = time.perf_counter()
    asked = sys.argv[1:] if argv is None else argv
    args, rest = parser().parse_known_args(asked)
    overrides = split_overrides(rest, parser())
    given = {name: getattr(args, name) for name in ("model", "metric", "positive", "seed")}
    recipe = recipes.load(args.config, overrides, **given)
    set_up_jax()
    return learn(args, recipe, " ".join(["./03-do_learn.py", *asked]), began)


def learn(args: argparse.Namespace, recipe: recipes.Recipe, command: str, began: float) -> int:
    from rolltune.evaluation.leaderboard import keep_count
    from rolltune.training import checkpoints, session
    from rolltune.training.loop import new_state, train

    say = lambda text: print(text, flush=True)
    out = Outputs(args.write)
    if not args.resume and checkpoints.exists(out.state):
        raise UserError(f"{out.state}: an interrupted run is there; go on with --resume, or delete the folder")
    if args.resume and not checkpoints.exists(out.state):
        raise UserError(f"{out.state}: no interrupted run is there to go on with; start without --resume")
    slots = _slots(args)
    keep_count(args.keep)  # a mistake is to be said before the work, not after
    continued, passes, recipe = _second_pass(args, recipe, say)
    data = session.read_data(find_dataset(args.dataset), recipe, say)
    folds = _folds(args, recipe, data, say)
    draws = lambda slots: max(slots, recipe.draws) * args.repeat
    for path in (out.roll, out.report):
        atomic.check_folder(path.parent)
    ready = session.prepare(recipe, data, draws(slots), folds=folds, fold_count=args.folds, continued=continued)
    if args.rolls == "auto":
        slots = _fit_rolls(ready, say)
        ready = dataclasses.replace(ready, run=dataclasses.replace(ready.run, draws=draws(slots)))
    state = new_state(ready.run, slots)
    before = ready.score_rolls(state.rolls)[0]  # all alike as yet; later scores reuse the program
    _print_results(data, ready, before, passes - 1, say)
    say(data.positive.reason)
    if args.resume:
        state = checkpoints.load(out.state, recipe, state, lambda kept: kept and _unpack(kept, before))
        say(f"going on from step {state.step}")
    judging = ready.judge(recipe.metric, folds)
    ready_after = time.perf_counter() - began
    with Log(out, args, recipe, state, fresh_log=not args.resume) as log, Interrupts(log.say) as interrupts:

        def judge(rolls: Any, slots: Sequence[int], final: bool) -> Any:
            verdicts = judging(rolls, slots, final, [slot.draw for slot in state.slots])
            log.judged(state, verdicts, final)
            return verdicts

        finished, spent = train(
            ready.run, state, judge, log.step, log.say, interrupts.asked,
            lambda now: checkpoints.save(out.state, now, recipe, lambda kept: kept and _pack(kept)),
        )  # fmt: skip
    if not finished:
        say(f"stopped at step {state.step}; go on with the same command and --resume")
        return INTERRUPTED
    from rolltune.jobs.conclude import conclude

    facts = {
        "seconds": round(time.perf_counter() - began, 1),
        "first step after": f"{ready_after + spent.first_step:.1f} s",
        "waiting for data": f"{spent.waiting:.1%}",
    } | _device_facts()
    say("  ".join(f"{name}: {value}" for name, value in facts.items()))
    status = conclude(args, ready, state, before, passes, folds, log.curves, facts, command, out, say)
    if status == 0:
        checkpoints.remove(out.state)
    return status


class Outputs:
    """Where a run of this name leaves what: ./checkpoints for rolls, ./reports for what people read."""

    def __init__(self, name: str):
        if not name or Path(name).name != name or name.startswith("."):
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


class Log:
    """The logged steps: shown, written to metrics.jsonl, and kept for the report's curves."""

    def __init__(self, out: Outputs, args: Any, recipe: recipes.Recipe, state: Any, fresh_log: bool):
        from rolltune import tracking

        out.metrics.parent.mkdir(parents=True, exist_ok=True)
        sinks: list[Any] = [tracking.MetricsFile(out.metrics, None if fresh_log else state.step)]
        if args.tensorboard:
            sinks.append(tracking.TensorBoard(out.tensorboard))
        if args.wandb:
            sinks.append(tracking.WeightsAndBiases(out.wandb, args.wandb, args.write, dataclasses.asdict(recipe)))
        self._opened = tracking.open_sinks(sinks)
        numbers = [slot.draw.roll for slot in state.slots if slot.draw is not None]
        self._live = tracking.LiveRolls(recipe.steps, numbers, several=state.width > 1)
        self._recipe = recipe
        self.curves: dict[int, tuple[list[int], list[float]]] = {}
        self._figures: dict[int, float] = {}  # of the latest evaluation, higher is better
        self.say = self._live.say

    def __enter__(self) -> "Log":
        self._sinks = self._opened.__enter__()
        self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._live.__exit__(*error)
        self._opened.__exit__(*error)

    def step(self, state: Any, report: Any) -> None:
        import numpy as np

        from rolltune.tracking import by_roll
        from rolltune.training.step import ALIVE, REASONS

        losses, rates = np.asarray(report.loss), np.asarray(report.rate)
        states = np.asarray(state.rolls.state)
        here = [n for n, slot in enumerate(state.slots) if slot.draw is not None]
        numbers = [state.slots[n].draw.roll for n in here]
        self._live.rolls = numbers
        words = ["alive" if states[n] == ALIVE else REASONS[states[n]] for n in here]
        steps = [state.slots[n].step for n in here]
        self._live.show(max(steps), losses[here], rates[here], words, steps)
        figures = by_roll(numbers, state.width > 1, loss=losses[here], lr=rates[here], step=[float(s) for s in steps])
        self._sinks.log(state.step, figures)
        for n, number in zip(here, numbers, strict=True):
            own, curve = self.curves.setdefault(number, ([], []))
            own.append(state.slots[n].step)
            curve.append(float(losses[n]))

    def judged(self, state: Any, verdicts: Any, final: bool) -> None:
        """Rolls in these slots were evaluated: their figures are logged and, where others go on, ranked."""
        from rolltune.evaluation.metrics import rounded
        from rolltune.tracking import by_roll

        if state.width == 1:
            return
        going = {n: slot.draw.roll for n, slot in enumerate(state.slots) if slot.draw is not None}
        new = {going[n]: verdict.figure for n, verdict in verdicts.items() if verdict.figure > -math.inf}
        collapsed = {going[n] for n, verdict in verdicts.items() if verdict.collapsed}
        self._figures |= new
        metric = self._recipe.metric
        plain = lambda figure: abs(figure) if metric == "log-loss" else figure
        if new:
            self._sinks.log(state.step, by_roll(list(new), True, **{metric: list(map(plain, new.values()))}))
        alive = ({one.draw.roll for one in state.ended if not one.reason} | set(going.values())) - collapsed
        best_first = sorted(self._figures, key=lambda roll: -self._figures[roll])
        standing = [(roll, rounded(plain(self._figures[roll]))) for roll in best_first if roll in alive]
        if standing and not (final and len(verdicts) == len(going)):  # the leaderboard comes at the end
            self._live.rank(metric, standing)


class Interrupts:
    """Ctrl-C and SIGTERM ask the loop to stop after its step; a second Ctrl-C ends the program at once."""

    def __init__(self, say: Any):
        self._asked, self._say = threading.Event(), say

    def __enter__(self) -> "Interrupts":
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {n: signal.signal(n, self._ask) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if self._asked.is_set():
            raise KeyboardInterrupt
        self._asked.set()
        self._say("finishing this step and saving ... (again to quit at once)")

    def asked(self) -> bool:
        return self._asked.is_set()


def _second_pass(args: Any, recipe: recipes.Recipe, say: Any) -> tuple[dict[str, Any] | None, int, recipes.Recipe]:
    """(what to go on with, which pass this is, the recipe at a tenth of the rate)."""
    if args.second is None:
        return None, 1, recipe
    from rolltune.weights.names import flatten
    from rolltune.weights.roll_file import load_roll

    path = _roll_to_continue(args.second, args.write)
    roll = load_roll(path)
    old = recipes.from_card(roll.card.recipe)
    say(f"going on with {shown(path)} at a tenth of its rate: {old.rate / 10:.4g}")
    passes = int(roll.card.metrics.get("passes", 1)) + 1
    keep = ("method", "rules", "rank", "alpha", "rslora", "first_layer", "prompt", "model", "tokenizer", "answers")
    same = {name: getattr(old, name) for name in keep}
    # What differs by roll would take the place of what the saved one had.
    recipe = dataclasses.replace(recipe, **same, rate=old.rate / 10, rates=(), rate_range=(), alphas=())
    return nested_lora(flatten(roll.tree)), passes, recipe


def _roll_to_continue(named: str, write: str) -> Path:
    if named:
        return Path(named)
    same = Path("checkpoints") / f"{write}.npz"
    rolls = sorted(
        (path for path in Path("checkpoints").glob("*.npz") if not path.name.endswith(".whole.npz")),
        key=lambda path: path.stat().st_mtime,
    )
    if not same.is_file() and not rolls:
        raise UserError("-2: there is no roll in ./checkpoints to go on with; train one first, without -2")
    return same if same.is_file() else rolls[-1]


def nested_lora(flat: dict[str, Any]) -> dict[str, Any]:
    """{"p/a": x, "p/b": y, "q": z} -> {"p": {"a": x, "b": y}, "q": z}."""
    nested: dict[str, Any] = {}
    for path, leaf in flat.items():
        parent, _, last = path.rpartition("/")
        if last in ("a", "b") and parent.endswith("/kernel"):
            nested.setdefault(parent, {})[last] = leaf
        else:
            nested[path] = leaf
    return nested


def _folds(args: Any, recipe: recipes.Recipe, data: Any, say: Any) -> list[int] | None:
    if args.folds is None:
        return None
    if args.rolls != "1":
        raise UserError("--folds makes the rolls the folds: leave --rolls away")
    from rolltune.data.splits import cluster_rows, fold_by_id, fold_rows

    examples = [data.examples[place] for place in data.seen]
    clusters = cluster_rows(examples)
    if recipe.fold_by == "auto":
        return fold_rows([one.answer for one in examples], clusters, args.folds, recipe.seed)
    ids = [data.id_in_file(place) for place in data.seen]
    folds = fold_by_id(ids, [one.source for one in examples], args.folds)
    torn = len(set(zip(clusters, folds, strict=True))) - len(set(clusters))
    if torn:
        say(f"groups of rows are torn apart by id % {args.folds}: a roll is judged on what it nearly saw")
    return folds


def _slots(args: Any) -> int:
    if args.repeat < 1:
        raise UserError(f"--repeat {args.repeat}: expected a number from 1")
    if args.repeat > 1 and args.folds is None and args.rolls == "1":
        raise UserError(
            f"--repeat {args.repeat} repeats --folds or --rolls; --rolls {args.repeat} trains as many seeds"
        )
    if args.folds is not None:
        return args.folds
    if args.rolls == "auto":
        return 1
    if not args.rolls.isdecimal() or int(args.rolls) < 1:
        raise UserError(f"--rolls {args.rolls!r}: expected a number from 1, or auto")
    return int(args.rolls)


def _fit_rolls(ready: Any, say: Any) -> int:
    from rolltune.memory import fit_rolls

    count, text = fit_rolls(ready.run)
    say(text)
    return count


def _device_facts() -> dict[str, Any]:
    import jax

    device = jax.devices()[0]
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
    facts = {"peak GiB": round(peak / 2**30, 2)} if peak else {}
    return facts | {"device": device.device_kind, "jax": jax.__version__}


def _print_results(data: Any, ready: Any, prediction: Any, passes: int, say: Any) -> None:
    from rolltune.evaluation.metrics import block, frequencies, stage

    for split, file in data.files.items():
        if split == "test":  # it stays unseen until a roll is chosen
            continue
        measured = ready.measure(prediction, data.spans[split])
        say(block(f"{shown(file)} {stage(passes)}", measured))
        say(f"  {frequencies(measured)}")
    if "valid" in data.files:
        say(block(f"{shown(data.files['train'].parent)} (all) {stage(passes)}", ready.measure(prediction, data.seen)))


def _pack(prediction: Any) -> Sequence[Sequence[float]]:
    return [[float(value) for value in row] for row in prediction.log_probs]


def _unpack(kept: Sequence[Sequence[float]], like: Any) -> Any:
    import numpy as np

    return like._replace(log_probs=np.asarray(kept, np.float32))
