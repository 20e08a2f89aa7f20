"""The pretraining run itself: step, schedule, accuracy by task, weights."""

import argparse
import dataclasses
import functools
import itertools
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from rolltune.batch import Batch, Source
from rolltune.families import paligemma
from rolltune.families.paligemma_names import npz_rows
from rolltune.models import forward
from rolltune.models.forward import Network
from rolltune.tiny.feed import TEXT, Feed, Pictures, passes
from rolltune.weights import names, npz


def start(config: paligemma.Config, seed: int) -> dict:
    """Random weights, but with positions that say row and column from the first step on.

    Random positions of a usual size drown in the patches' own values, and without them neither the order of
    letters nor any "where" can be learnt.
    """
    params = paligemma.init(config, jax.random.key(seed))
    params["vision"]["position"] = jnp.asarray(grid_positions(config.vision.patches, config.vision.width))
    return params


def grid_positions(patches: int, width: int) -> np.ndarray:
    """Sines and cosines of row and column, float32 [patches, width]: periods from six to a hundred patches or more."""
    side = math.isqrt(patches)
    speed = 20.0 ** -(np.arange(width // 4) / (width // 4))
    line = np.arange(side)[:, None] * speed
    waves = np.concatenate([np.sin(line), np.cos(line)], 1)  # [side, width / 2]
    rows, columns = np.divmod(np.arange(patches), side)
    return 0.5 * np.concatenate([waves[rows], waves[columns]], 1).astype(np.float32)


def batch_of(config: paligemma.Config, text: jax.Array, prompt: jax.Array, length: jax.Array, each: int) -> Batch:
    """What `encode` gives for each question, for N rows [N, TEXT] at once, on the device: `each` of them a picture.

    `predict` holds every text place and `weights` picks those whose next token is of the answer.
    """
    n, patches = text.shape[0], config.vision.patches
    at = jnp.arange(TEXT)[None]
    answer = at >= prompt[:, None]
    inside = at < length[:, None] - 1  # <eos> is predicted, never read
    blocks = jnp.where(answer, at - prompt[:, None] + 1, 0)
    segments = jnp.where(inside, answer.astype(jnp.int32), -1)
    places = jnp.broadcast_to(jnp.arange(patches, patches + TEXT), (n, TEXT))
    targets = jnp.pad(text[:, 1:], ((0, 0), (0, 1)))
    weights = (at >= prompt[:, None] - 1) & inside
    join = lambda tail: jnp.pad(tail, ((0, 0), (patches, 0)))
    image = (jnp.arange(n) // each * patches)[:, None] + jnp.arange(patches)
    nothing = lambda *shape: jnp.zeros((n, *shape), jnp.int32)
    return Batch(
        tokens=join(text),
        positions=jnp.broadcast_to(jnp.arange(patches + TEXT), (n, patches + TEXT)),
        blocks=join(blocks),
        segments=join(segments),
        slots=jnp.concatenate([image, jnp.full((n, TEXT), -1)], 1),
        predict=places,
        targets=targets,
        candidates=jnp.zeros_like(targets),
        weights=weights.astype(jnp.float32),
        label=nothing(),
        valid=jnp.ones(n, bool),
        keys=nothing(0),
        seen=nothing(0, 2),
        tiles=jnp.zeros((n, 0, 1, 1, 3), jnp.uint8),
        aspect=nothing(0),
    )


def answer_logits(config: paligemma.Config, params: dict, pixels: jax.Array, questions: Sequence[jax.Array]):
    """Logits at every text place [B*Q, TEXT, V], and the batch. Each picture goes through the tower once."""
    net = Network(paligemma.FAMILY, config)
    text, prompt, length = (q.astype(jnp.int32).reshape(-1, *q.shape[2:]) for q in questions)
    batch = batch_of(config, text, prompt, length, len(text) // len(pixels))
    rows = forward.feature_rows(net, params, pixels[:, None], jnp.zeros((len(pixels), 1), jnp.int32))
    source = Source(rows.reshape(-1, rows.shape[-1]))
    return forward.logits(net, params, forward.hidden(net, params, batch, source, at=batch.predict)), batch


def altered(key: jax.Array, pixels: jax.Array) -> jax.Array:
    """Another exposure of the same pictures, moved by up to three pixels: a second look is not the same look."""
    n, side = pixels.shape[:2]
    gains, offsets, grain, moves = jax.random.split(key, 4)
    wide = jnp.pad(pixels, ((0, 0), (3, 3), (3, 3), (0, 0)), mode="edge")
    corner = jax.random.randint(moves, (n, 2), 0, 7)
    cut = lambda picture, at: jax.lax.dynamic_slice(picture, (at[0], at[1], 0), (side, side, 3))
    x = jax.vmap(cut)(wide, corner).astype(jnp.float32)
    gain = jax.random.uniform(gains, (n, 1, 1, 3), minval=0.9, maxval=1.1)
    offset = jax.random.uniform(offsets, (n, 1, 1, 1), minval=-12, maxval=12)
    noise = 3 * jax.random.normal(grain, (n, side, side, 1))
    return jnp.clip(x * gain + offset + noise, 0, 255)


def loss(config: paligemma.Config, params: dict, pixels: jax.Array, questions: Sequence[jax.Array]) -> jax.Array:
    """Mean cross-entropy of the answers' tokens."""
    logits, batch = answer_logits(config, params, pixels, questions)
    lost = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
    return jnp.sum(lost * batch.weights) / jnp.sum(batch.weights)


def optimizer(weight_decay: float) -> optax.GradientTransformation:
    """AdamW before its learning rate; only matrices decay."""
    decays = lambda params: jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key in ("kernel", "embedding"), params
    )
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(b1=0.9, b2=0.98),
        optax.add_decayed_weights(weight_decay, mask=decays),
    )


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3))
def step(config, weight_decay, params, state, key, lr, pixels, questions):
    value, slope = jax.value_and_grad(functools.partial(loss, config))(params, altered(key, pixels), questions)
    updates, state = optimizer(weight_decay).update(slope, state, params)
    return optax.apply_updates(params, jax.tree.map(lambda u: -lr * u, updates)), state, value


@functools.partial(jax.jit, static_argnums=0)
def right(config, params, pixels, questions):
    """Whether every token of the answer is the likeliest one, bool [B*Q]: greedy decoding gives that answer."""
    logits, batch = answer_logits(config, params, pixels, questions)
    return jnp.all((jnp.argmax(logits, -1) == batch.targets) | (batch.weights == 0), 1)


def accuracy(
    config: paligemma.Config, params: dict, batches: Iterable[Pictures]
) -> dict[str, tuple[int, float, float]]:
    """By task: how many questions, the share answered exactly, the share that the task's commonest answer would get."""
    hits: dict[str, list[bool]] = defaultdict(list)
    answers: dict[str, Counter[bytes]] = defaultdict(Counter)
    for batch in batches:
        found = np.asarray(right(config, params, batch.pixels, batch[1:4])).reshape(batch.task.shape)
        for place in np.ndindex(batch.task.shape):
            task, start, stop = str(batch.task[place]), batch.prompt[place], batch.length[place]
            hits[task].append(bool(found[place]))
            answers[task][bytes(batch.text[place][start:stop])] += 1
    return {t: (len(h), float(np.mean(h)), answers[t].most_common(1)[0][1] / len(h)) for t, h in sorted(hits.items())}


def save(path: Path, config: paligemma.Config, params: dict) -> None:
    """bfloat16, which the decoder's training activations were too: half the size, the same answers."""
    npz.write_npz(path, names.to_file(jax.device_get(params), npz_rows(config), jnp.bfloat16), "params/")


def show(table: dict[str, tuple[int, float, float]], console: Console) -> None:
    out = Table("task", "questions", "right", "commonest answer", title="held-out pictures")
    for task, (count, share, constant) in table.items():
        out.add_row(task, str(count), f"{share:.3f}", f"{constant:.3f}")
    total = sum(count for count, _, _ in table.values())
    out.add_row("all", str(total), f"{sum(c * s for c, s, _ in table.values()) / total:.3f}", "", style="bold")
    console.print(out)


def run(args: argparse.Namespace, feed: Feed, held_out: int) -> None:
    """Trains until the first limit is reached; measures and saves on the way and at the end."""
    began = time.monotonic()
    console = Console(width=100)
    device = jax.devices()[0]
    config = paligemma.CONFIGS["tiny"]
    training = dataclasses.replace(config, dtype=args.dtype or ("float32" if device.platform == "cpu" else "bfloat16"))
    params = start(config, args.seed)
    if args.start is not None:
        params = names.load_tree(npz.read_npz(args.start), npz_rows(config), jnp.float32, str(args.start))
        params = jax.tree.map(jnp.asarray, params)
    state = optimizer(args.weight_decay).init(params)
    count = sum(x.size for x in jax.tree.leaves(params))
    console.print(f"{count:,} parameters, {training.dtype}, {device.device_kind}, {args.workers} processes drawing")

    batches = iter(feed)
    measured = [
        Pictures(b.pixels, *(f[:, : args.questions] for f in b[1:])) for b in itertools.islice(batches, held_out)
    ]
    keys = jax.random.key(args.seed + 1)
    limit = None if args.minutes is None else args.minutes * 60 - 12  # room to measure and save
    last_measured, waited, value, number, lr = time.monotonic(), 0.0, None, 0, 0.0
    logged = (time.monotonic(), 0)
    stream = passes(batches, args.uses, args.questions)
    while True:
        spent = time.monotonic() - began
        part = max(number / args.steps if args.steps else 0, spent / limit if limit else 0)
        if part >= 1:
            break
        before = time.monotonic()
        batch = next(stream)
        waited += time.monotonic() - before
        lr = args.lr * min(1, (number + 1) / args.warm_up) * (0.5 + 0.5 * math.cos(math.pi * part))
        params, state, value = step(
            training, args.weight_decay, params, state, jax.random.fold_in(keys, number), lr, batch.pixels, batch[1:4]
        )
        number += 1
        if number % 100 == 0 or number in (1, 10, 30):
            value = float(value)
            if not math.isfinite(value):
                raise RuntimeError(f"the loss is {value} at step {number}: lower --lr (now {args.lr}) and start again")
            now = time.monotonic()
            speed = (number - logged[1]) * args.batch / (now - logged[0])
            logged = (now, number)
            print(f"step: {number}   lr: {lr:.5f}   loss: {value:.4f}   {speed:.0f} pictures/s   {now - began:.0f} s   "
                  f"waiting for pictures {waited / (now - began):.0%}", flush=True)  # fmt: skip
        if time.monotonic() - last_measured > args.evaluate_every:
            table = accuracy(training, params, measured[:4])
            print("  ".join(f"{task} {share:.2f}" for task, (_, share, _) in table.items()), flush=True)
            save(args.output, config, params)
            last_measured = time.monotonic()
    save(args.output, config, params)
    show(accuracy(training, params, measured), console)
    print(f"{number} steps of {args.batch} pictures x {args.questions} questions in {time.monotonic() - began:.0f} s: "
          f"{args.output} ({args.output.stat().st_size / 1e6:.1f} MB)", flush=True)  # fmt: skip
