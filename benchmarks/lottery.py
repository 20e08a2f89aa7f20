"""Draws what searches with the same data and different seeds found: docs/lottery.png, from their leaderboards.

    ./02-shuffle_data.sh dataset/hotdog/data.jsonl -v 95 -t 140 -n hot --seed 1
    for seed in 0 100 200 300 400; do
      search="--rolls 8 --seed $seed --metric accuracy --config.steps=384 --config.rate_range=(3e-4,3e-2)"
      ./03-do_learn.py -d hot -w plain$seed $search
      ./03-do_learn.py -d hot -w halving$seed $search --config.rungs='(0.25,0.5)' --config.draws=16
    done
    python ../benchmarks/lottery.py --plain reports/plain*.leaderboard.json \\
        --halving reports/halving*.leaderboard.json --output ../docs/lottery.png

Also prints the figures that docs/lottery.md tells.
"""

import argparse
import json
import statistics
from pathlib import Path

from matplotlib.figure import Figure
from scipy.stats import t as student

ENDED = ("died", "redrawn")
COLOURS = {"plain": "#0f766e", "halving": "#b45309"}


def accuracy(roll: dict, split: str) -> float:
    return roll[split]["accuracy"]


def summary(boards: list[dict], steps: int) -> tuple[float, float, float, int]:
    """(best on valid, the same on the untouched split, steps of all rolls: means over searches; rolls that died)."""
    chosen = [board["rolls"][0] for board in boards]
    spent = [sum(roll["step"] or steps for roll in board["rolls"]) for board in boards]
    died = sum(roll["state"] in ENDED for board in boards for roll in board["rolls"])
    valid, test = ([accuracy(roll, split) for roll in chosen] for split in ("valid", "test"))
    return statistics.mean(valid), statistics.mean(test), statistics.mean(spent), died


def votes(board: dict, figure: str) -> dict[str, float]:
    """A figure on the untouched split: of the best roll alone, of all together, of the best few together."""
    alone = board["rolls"][0]["test"][figure]
    told = {"best few" if vote["chosen_on_valid"] else "all": vote["test"][figure] for vote in board["votes"]}
    return {"best": alone, "best few": alone} | told  # where nobody makes the best better it votes alone


def compared(found: list[dict[str, float]], name: str) -> str:
    """The mean, and the mean difference to the best roll alone over searches with its 95 % interval by Student's t."""
    differences = [one[name] - one["best"] for one in found]
    half = float("nan")
    if len(found) > 1:
        half = student.ppf(0.975, len(found) - 1) * statistics.stdev(differences) / len(found) ** 0.5
    mean, more = statistics.mean(one[name] for one in found), sum(one > 0 for one in differences)
    less = sum(one < 0 for one in differences)
    return (
        f"{mean:.3f}, {statistics.mean(differences):+.3f} ± {half:.3f} (more in {more}, less in {less} of {len(found)})"
    )


def draw(searches: dict[str, list[dict]], path: Path) -> None:
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    rates, held = figure.subplots(1, 2)
    for board in searches["plain"]:
        for roll in board["rolls"]:
            if roll["valid"] is not None:
                dead = roll["state"] in ENDED
                style = {"marker": "x", "color": "#9ca3af"} if dead else {"marker": "o", "color": COLOURS["plain"]}
                rates.scatter(roll["learning_rate"], accuracy(roll, "valid"), s=28, alpha=0.8, **style)
    majority = searches["plain"][0]["rolls"][0]["valid"]["majority-rate"]
    for axes in (rates, held):
        axes.axhline(majority, color="#9ca3af", linewidth=1, linestyle=":")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(0.54, 0.80)
    rates.set(xscale="log", xlabel="peak learning rate", ylabel="accuracy on the pictures that choose")
    rates.set_title("every roll of five searches (x: one answer for all)", loc="left", fontsize=11)
    for shift, (name, boards) in zip((-0.08, 0.08), searches.items(), strict=True):
        for number, board in enumerate(boards, 1):
            best = board["rolls"][0]
            ends = accuracy(best, "valid"), accuracy(best, "test")
            held.plot([number + shift] * 2, ends, color=COLOURS[name], linewidth=1)
            held.scatter(number + shift, ends[0], s=34, facecolors="white", edgecolors=COLOURS[name], zorder=3)
            first = name if number == 1 else None
            held.scatter(number + shift, ends[1], s=34, color=COLOURS[name], zorder=3, label=first)
    held.set(xlabel="search", xticks=range(1, 1 + len(searches["plain"])))
    held.set_title("the best of each: when chosen (hollow), untouched (full)", loc="left", fontsize=11)
    held.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plain", nargs="+", type=Path, required=True, help="leaderboards of searches")
    parser.add_argument(
        "--halving", nargs="+", type=Path, default=[], help="of the same seeds, with rungs: drawn beside"
    )
    parser.add_argument("--steps", type=int, default=384, help="of a roll that ran to the end (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("lottery.png"))
    args = parser.parse_args()
    read = lambda paths: [json.loads(path.read_text()) for path in paths]
    searches = {"plain": read(args.plain), "halving": read(args.halving)}
    for name, boards in searches.items():
        if not boards:
            continue
        valid, test, steps, died = summary(boards, args.steps)
        print(
            f"{name:8} best on valid {valid:.3f}, untouched {test:.3f}; {steps:.0f} steps a search, {died} rolls died"
        )
        for figure in ("accuracy", "log-loss"):
            if told := [votes(board, figure) for board in boards if len(board.get("votes", ())) > 0]:
                alone = statistics.mean(one["best"] for one in told)
                print(f"{name:8} untouched {figure}: best alone {alone:.3f}")
                for who in ("all", "best few"):
                    print(f"{name:8} {who} voting: {compared(told, who)}")
    if args.halving:
        draw(searches, args.output)


if __name__ == "__main__":
    main()
