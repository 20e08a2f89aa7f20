"""Rolls over a frozen Gemma 2 in few bits: as over the same values in float32, decoded once for all rolls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from causal import batch_of
from jax.extend.core import jaxprs_in_params

from rolltune import optim, trees
from rolltune.batch import NOTHING
from rolltune.families import gemma2
from rolltune.models.forward import Network
from rolltune.quantize import Quantized, decode, quantize_tree
from rolltune.recipe import Recipe
from rolltune.training import setup
from rolltune.training.rolls import Draw, InitialWeights, begin
from rolltune.training.step import StepConfig, gradient
from rolltune.weights.names import nest

FAMILY = gemma2.FAMILY
CONFIG = FAMILY.config(
    dict(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
         intermediate_size=128, sliding_window=8, vocab_size=96),
    {}, "config.json",
)  # fmt: skip
ROLLS, FIRST = 5, 1
RULES = [(r".*/attn/[qk]/kernel", "nf4-double"), (r".*/mlp/down/kernel", "int8"), (r".*/kernel", "nf4"), (".*", "keep")]


def quantized():
    draw = np.random.default_rng(0)
    random = lambda row: jnp.asarray(draw.standard_normal(row.ours) * row.shape[0] ** -0.5, jnp.float32)
    return quantize_tree(nest((row.path, random(row)) for row in gemma2.tensors(CONFIG)), RULES)


def decoded(tree):
    plain = lambda leaf: jnp.swapaxes(decode(leaf, jnp.float32), -1, -2) if isinstance(leaf, Quantized) else leaf
    return jax.tree.map(plain, tree, is_leaf=lambda leaf: isinstance(leaf, Quantized))


def variables(jaxpr):
    """All that is made in a program and in those inside it."""
    for equation in jaxpr.eqns:
        yield from (var.aval for var in equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            yield from variables(inner)


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("remat", [True, False])
def test_rolls_learn_as_over_the_decoded_values_which_are_made_once(listed, remat):
    tree, stacks = quantized(), FAMILY.stacks(CONFIG)
    shapes = trees.shapes(tree)
    paths = [path for path in shapes if path.startswith("text/layers/") and path.endswith("/kernel")]
    start = InitialWeights({path: (CONFIG.text.layers - FIRST, *shapes[path][1:]) for path in paths}, {})
    network = Network(FAMILY, CONFIG, remat=remat)
    config = StepConfig(
        network, trees.above(stacks, FIRST), optim.Schedule("constant", 9, 0), optim.Optimizer("sgd", None)
    )
    lottery = setup.lottery(Recipe(rank=2))
    rolls = begin(lottery, config, start, [Draw(n, n, 1.0, 4.0, 0.0) for n in range(ROLLS)])
    noise = lambda leaf: leaf + 0.05 * jax.random.normal(jax.random.key(leaf.size), leaf.shape)
    rolls = rolls._replace(trainable=jax.tree.map(noise, rolls.trainable))
    ids = np.random.default_rng(1).integers(3, 96, (2, 12))
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None, None].repeat(ROLLS, 0),
                         batch_of(ids, np.ones_like(ids), ids))  # fmt: skip

    run = jax.vmap(lambda base, roll, batch: gradient(config, base, NOTHING, roll, batch), (None, 0, 0))
    bases = [trees.arrange(one, stacks, FIRST, listed) for one in (decoded(tree), tree)]
    (loss, expected), (other, found) = (jax.jit(run)(base, rolls, batch) for base in bases)
    np.testing.assert_allclose(other, loss, rtol=1e-5)
    slack = lambda leaf: dict(rtol=1e-3, atol=1e-4 * float(jnp.abs(leaf).max()))
    jax.tree.map(lambda f, e: np.testing.assert_allclose(f, e, **slack(e)), found, expected)

    made = list(variables(jax.make_jaxpr(run)(bases[1], rolls, batch).jaxpr))
    up = (128, 64)  # [out, in] of gate and up; of the rolls' own values none is as large
    assert sum(one.shape == up and one.dtype == jnp.float32 for one in made) > 0
    assert not [one.shape for one in made if one.shape[:1] == (ROLLS,) and one.shape[-2:] in (up, up[::-1])]
