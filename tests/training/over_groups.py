"""A base that is cut over the cards of a group, on virtual devices: run by test_over_cards.py in a process of four."""

import collections
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_families import FAMILIES, PALIGEMMA, name_of
from small_model import make_example

from rolltune import adapters, optim, quantize, sharding, trees
from rolltune.data.batches import Encoded, Loader, joint_batch, over_cards
from rolltune.data.shapes import shapes_for
from rolltune.evaluation import compiled
from rolltune.evaluation.evaluator import Evaluator
from rolltune.evaluation.tasks import WRITE, Task
from rolltune.inputs import features
from rolltune.models import cut
from rolltune.training import checkpoints, loop, setup
from rolltune.training import rolls as tickets
from rolltune.training.loop import Evaluation, Looks, Run
from rolltune.training.plan import plan_of
from rolltune.training.rolls import Lottery
from rolltune.training.step import StepConfig, compile_step

ANSWERS = ("yes", "no", "Zeb", "a", "bcd", "yes", "no")
LOTTERY = Lottery(0, (0.01, 0.02), (8.0,), (0.1,), rank=2)
LORA = [(r"text/(layers|cross)/(attn|cross|mlp)/.*/kernel", "lora"), (".*", "frozen")]
FULL = [(r"(vision|projector)/.*", "frozen"), (".*", "full")]
TOWER = [(r"vision/.*/kernel", "full"), (r".*attn/.*/kernel", "lora"), (".*", "frozen")]
MESHES = [(2, 1), (4, 1), (2, 2)]  # cards of a group, rolls


def made_on(small, mesh, rules, first=0, listed=False, dtype="float32", packed=()):
    """(network, stacks, base, start, feed) of a family, as `training.setup` makes them on these cards."""
    params = trees.unflatten(trees.flatten(small.params))
    if packed:
        params = quantize.quantize_tree(params, packed)
    flat = trees.flatten(params)
    plan = plan_of(small.model, dict(zip(flat, words(rules, flat), strict=True)), first)
    places = None
    if mesh is not None:
        places = cut.places_for(mesh, dict.fromkeys(flat, "fsdp"), flat)
        split = lambda path, leaf: list(leaf) if listed and trees.stack_of(path, small.model.stacks) else leaf
        put = lambda path, leaf: (
            [places.put(path, one) for one in leaf] if isinstance(leaf, list) else places.put(path, leaf)
        )
        params = trees.unflatten({path: put(path, split(path, leaf)) for path, leaf in flat.items()})
    feed = small.tiles if plan.in_step else features.table(small.model, params, small.pictures, plan.projected)
    start = setup.initial_weights(small.model, params, plan, dtype)
    in_parts = None if places is None else places.paths.intersection(plan.paths("full"))
    base = trees.arrange(params, small.model.stacks, first, listed, plan.paths("full"))
    if mesh is not None:
        sharding.whole_on_each(base, mesh)
    network = dataclasses.replace(small.net, projected=plan.projected, cut=in_parts)
    return network, plan.stacks, base, start, feed


def words(rules, paths):
    return adapters.trainability(rules, list(paths)).values()


def encoded(small, feed):
    rows = [small.row("is it?", answer, shown=[n % 8]) for n, answer in enumerate(ANSWERS)]
    return Encoded(rows, feed, shapes_for([feed.shape(row) for row in rows]), list(ANSWERS))


def a_run(small, mesh, rules, rolls=1, optimizer="adamw", batch=3, dropout=0.0, remat=False, steps=3, **more):
    network, stacks, base, start, feed = made_on(small, mesh, rules, **more)
    network = dataclasses.replace(network, remat=remat)
    matrices = (*stacks, *small.family.tower_stacks)
    config = StepConfig(
        network,
        stacks,
        optim.Schedule("cosine", 6, 1),
        optim.Optimizer(optimizer, 0.5, 0.9 if optimizer == "sgd" else 0.0, matrices, network.cut or frozenset()),
        dropout=dropout,
    )
    data = encoded(small, feed)
    step = compile_step(config, mesh)
    loader = lambda draw: Loader(data, np.arange(7), 2 * batch, draw.seed)
    looks = Looks(steps=steps, log_every=2)
    return Run(LOTTERY, looks, config, start, step, base, loader, 2, rolls, mesh=mesh), data


def go(run, rolls, state=None, losses=None, **more):
    state = state or loop.new_state(run, rolls)
    judge = lambda rolls, some, final: {n: Evaluation(-state.slots[n].draw.roll, False) for n in some}
    log = lambda state, report: losses is not None and losses.append(np.asarray(report.loss))
    loop.train(run, state, judge, log, lambda text: None, **more)
    return state


def near(found, expected, rtol=1e-3, atol=4e-4):
    assert len(found.ended) == len(expected.ended)
    of = lambda state: {one.draw.roll: one for one in state.ended}
    for number, one in of(expected).items():
        other = of(found)[number]
        for (path, a), b in zip(
            jax.tree.leaves_with_path(other.trainable), jax.tree.leaves(one.trainable), strict=True
        ):
            np.testing.assert_allclose(
                a.astype(np.float32), b.astype(np.float32), rtol=rtol, atol=atol, err_msg=str(path)
            )


KINDS = {
    "lora": dict(rules=LORA, dropout=0.3),
    "lora, listed, remat": dict(rules=LORA, listed=True, remat=True),
    "full": dict(rules=FULL),
    "full, listed, remat": dict(rules=FULL, listed=True, remat=True),
    "sgd": dict(rules=FULL, optimizer="sgd"),
    "adafactor": dict(rules=FULL, optimizer="adafactor"),
    "tower": dict(rules=TOWER, dropout=0.3),
    "states of lower layers": dict(rules=LORA, first=1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("cards", "rolls"), MESHES)
def test_a_group_trains_as_one_card(kind, cards, rolls):
    """Three rows a micro-batch on two and four cards: rows are filled up, answers differ in length."""
    if (cards, rolls) == (4, 1) and kind not in ("lora", "full"):
        pytest.skip("two cards and two groups tell")
    mesh = sharding.groups_of(rolls, cards)
    found, expected = [], []
    run, _ = a_run(PALIGEMMA, mesh, rolls=rolls, **KINDS[kind])
    alone, _ = a_run(PALIGEMMA, None, rolls=rolls, **KINDS[kind])
    near(go(run, rolls, losses=found), go(alone, rolls, losses=expected))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
