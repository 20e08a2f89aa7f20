"""Pretrains the built-in tiny PaliGemma on generated pictures and writes its weights in big_vision's npz layout.

    python -m rolltune.tiny.pretrain --minutes 4 --output paligemma-tiny.npz             # on a GPU and 16 cores
    python -m rolltune.tiny.pretrain --steps 60 --batch 8 --held-out 64 --output try.npz  # a look on a CPU

With --steps alone the result follows from the seed; with --minutes the speed of the machine decides how many
steps there are.
"""

import argparse
import os
import sys
from pathlib import Path


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m rolltune.tiny.pretrain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, help="the npz to write")
    add("--minutes", type=float, default=None, help="stop after this long, everything included")
    add("--steps", type=int, default=None, help="stop after so many steps (whichever limit comes first)")
    add("--batch", type=int, default=256, help="pictures a step (%(default)s)")
    add("--questions", type=int, default=4, help="questions on each picture and step (%(default)s)")
    add("--uses", type=int, default=6, help="steps that see a picture (%(default)s)")
    add("--asked", type=int, default=4, help="of these, steps with other questions (%(default)s)")
    add("--lr", type=float, default=2e-3, help="peak learning rate (%(default)s)")
    add("--warm-up", type=int, default=300, help="steps of linear warm-up (%(default)s)")
    add("--weight-decay", type=float, default=0.05, help="of matrices, not of norms and biases (%(default)s)")
    add("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="drawing processes (%(default)s here)")
    add("--dtype", default=None, choices=("float32", "bfloat16"), help="of activations (bfloat16 on a GPU)")
    add("--seed", type=int, default=0)
    add("--from", dest="start", type=Path, default=None, help="go on from these weights instead of random ones")
    add("--held-out", type=int, default=1024, help="pictures to measure on (%(default)s)")
    add("--evaluate-every", type=float, default=90, help="seconds between measurements (%(default)s)")
    args = parser.parse_args(argv)
    if args.minutes is None and args.steps is None:
        parser.error("give --minutes or --steps: without one it would not end")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    from rolltune.tiny.feed import Feed

    held_out = max(1, args.held_out // args.batch)
    feed = Feed(args.workers, args.seed + 1, args.batch, args.questions * min(args.asked, args.uses), held_out)
    try:  # the workers draw while JAX is still being imported and compiles
        from rolltune.tiny import pretraining

        pretraining.run(args, feed, held_out)
    finally:
        feed.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
