"""Greedy answers with cached keys and values are those of running the whole text again for each token."""

import dataclasses
import random

import jax
import numpy as np
import pytest
from small_families import FAMILIES, name_of

from rolltune import trees
from rolltune.batch import NOTHING
from rolltune.models import forward, generate

STEPS = 5
PROMPTS = (("a b", [1]), ("abcdef", [2]), ("no picture", []))


@pytest.fixture(scope="module", params=FAMILIES, ids=name_of)
def small(request):
    """The family with weights so large that an answer does not say the prompt's last token again and again."""

    def make_params():
        flat = trees.flatten(request.param.params)
        loud = lambda path: trees.stack_of(path, request.param.model.stacks) and path.endswith("/kernel")
        return trees.unflatten({path: 3 * leaf if loud(path) else leaf for path, leaf in flat.items()})

    return dataclasses.replace(request.param, make_params=make_params)


@pytest.fixture(scope="module")
def recomputed(small):
    """The answer to each prompt by its row alone, all of it run again for each token."""
    logits = jax.jit(lambda params, batch: forward.logits(
        small.net, params, forward.hidden(small.net, params, batch, NOTHING, at=batch.predict)
    ))  # fmt: skip
    found = []
    for prompt, shown in PROMPTS:
        row, said = small.row(prompt, shown=shown), []
        for _ in range(STEPS):
            now = going_on(small, row, said)
            room = small.room(24, 1, pictures=max(1, len(shown)))
            said.append(int(np.argmax(logits(small.ready, small.batch(now, room=room))[0, 0])))
        found.append(said)
    return found


def going_on(small, row, said):
    """The row with these tokens after its prompt; what is asked for is the token after them."""
    count, start = len(said), len(row.tokens)
    positions = np.arange(start, start + count)
    after = {
        "tokens": said,
        "positions": positions,
        "blocks": positions - start + 1 if small.family.template.prefix_lm else positions,
        "segments": np.ones(count),
        "slots": np.full(count, -1),
    }
    longer = {name: np.concatenate([getattr(row, name), own]).astype(np.int32) for name, own in after.items()}
    seen = np.concatenate([row.seen, np.repeat(row.seen[-1:], count, 0)])
    asked = {"predict": np.array([start + count - 1]), "targets": np.zeros(1, int), "candidates": np.zeros(1, int)}
    return row._replace(**longer, **asked, seen=seen)


@pytest.fixture(scope="module")
def written(small):
    """`written(first, listed, stops)`: the answers to all prompts in one batch, layers arranged so."""
    batch = small.batch(*[small.row(prompt, shown=shown) for prompt, shown in PROMPTS], size=4)

    def write(first=0, listed=False, stops=(-1,), feed=None):
        params = trees.unflatten(trees.flatten(small.params))
        params = trees.arrange(params, small.model.stacks, first, listed)
        run = jax.jit(lambda params, batch: generate.generate(small.net, params, batch, NOTHING, STEPS, stops))
        return np.asarray(run(params, batch))

    return write


@pytest.mark.parametrize(("first", "listed"), [(0, False), (1, True)])  # an odd one: windows alternate
def test_decoding_with_a_cache_equals_decoding_without(written, recomputed, first, listed):
    found = written(first, listed)
    assert found[:3].tolist() == recomputed and found[3].tolist() == recomputed[2]
    assert len({token for said in recomputed for token in said}) > 5 and len({said[-1] for said in recomputed}) == 3


def test_an_answer_ends_at_the_first_of_its_stops(written, recomputed):
    stops = (63, recomputed[0][2], recomputed[1][3])
    for said, found in zip(recomputed, written(stops=stops), strict=False):
        end = next((place for place, token in enumerate(said) if token in stops), STEPS)
        assert found.tolist() == said[:end] + [63] * (STEPS - end)


def test_what_is_drawn_follows_the_probabilities_within_the_nucleus():
    shares = np.array([0.5, 0.25, 0.15, 0.1])
    logits = np.tile(np.log(shares), (8000, 1)).astype(np.float32)[:, [2, 0, 3, 1]]
    keys = jax.random.split(jax.random.PRNGKey(random.randrange(2**31)), len(logits))

    def counted(**said):
        ids = np.asarray(generate.drawn(generate.Sampling(**said), logits, keys))
        return np.bincount(ids, minlength=4)[[1, 3, 0, 2]] / len(ids)

    np.testing.assert_allclose(counted(), shares, atol=0.03)
    np.testing.assert_allclose(counted(temperature=0.5), shares**2 / (shares**2).sum(), atol=0.03)
    np.testing.assert_allclose(counted(top_p=0.74), [2 / 3, 1 / 3, 0, 0], atol=0.03)  # the one that crosses it is in
    assert counted(top_p=0.5).tolist() == [1, 0, 0, 0]


def test_what_is_drawn_for_a_row_is_its_own(small):
    sampling, count = generate.Sampling(temperature=2.0, seed=3), len(PROMPTS)
    run = jax.jit(
        lambda params, batch, numbers: generate.generate(
            small.net, params, batch, NOTHING, STEPS, (-1,), None, sampling, numbers
        )
    )
    rows = [small.row(prompt, shown=shown) for prompt, shown in PROMPTS]
    numbers = np.array([7, 2**31 + 5, 9, 0], np.uint32)
    said = lambda order: np.asarray(
        run(small.params, small.batch(*[rows[n] for n in order], size=4), numbers[[*order, *[3] * (4 - len(order))]])
    )
    found = said(range(count))
    assert said([2, 0])[:2].tolist() == found[[2, 0]].tolist()
    alike = small.batch(*[rows[0]] * 3, size=4)
    assert len({tuple(own) for own in np.asarray(run(small.params, alike, numbers)).tolist()[:3]}) == 3
