"""What the tests of causal families share: batches as transformers is given them, and all that comes of one."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rolltune.batch import NOTHING, Batch
from rolltune.models import decoder, forward, generate, vision
from rolltune.models.forward import Network
from rolltune.weights.names import TensorMap, to_file

close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)


def in_0_to_255(normalized: np.ndarray) -> np.ndarray:
    """Pixels [..., 3, h, w] as CLIP's processor gives them, as they were before: [..., h, w, 3]."""
    return (np.moveaxis(normalized, -3, -1) * np.float32(vision.CLIP_STD) + np.float32(vision.CLIP_MEAN)) * 255


def tiles_of(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Each row's tiles [n, h, w, 3], padded with black ones to as many as the longest row's."""
    out = np.zeros((len(pictures), max(map(len, pictures)), *pictures[0].shape[1:]), np.float32)
    for row, tiles in zip(out, pictures, strict=True):
        row[: len(tiles)] = tiles
    return out


def batch_of(ids: Any, seen: Any, labels: Any, slots: Sequence[Any] = (), tiles: np.ndarray | None = None) -> Batch:
    """Rows of one text each, `labels` [B, T] where >= 0; a row's `slots` go where its ids are below 0."""
    ids, seen, labels = (np.asarray(values) for values in (ids, seen, labels))
    b, t = ids.shape
    placed = np.full((b, t), -1, np.int32)
    for row, own in enumerate(slots):
        placed[row, ids[row] < 0] = own
    positions = np.tile(np.arange(t, dtype=np.int32), (b, 1))
    return Batch(
        tokens=np.maximum(ids, 0).astype(np.int32),
        positions=positions,
        blocks=positions,
        segments=np.where(seen == 1, 0, -1).astype(np.int32),
        slots=placed,
        predict=positions[:, :-1],
        targets=np.maximum(labels[:, 1:], 0).astype(np.int32),
        candidates=np.zeros((b, t - 1), np.int32),
        weights=(labels[:, 1:] >= 0).astype(np.float32),
        label=np.zeros(b, np.int32),
        valid=np.ones(b, bool),
        keys=np.zeros((b, 0), np.int32),
        seen=np.zeros((b, t, 2), np.int32),
        tiles=np.zeros((b, 0, 1, 1, 3), np.float32) if tiles is None else tiles,
        aspect=np.zeros((b, 0), np.int32),
    )


def prompts(batch: Batch, lengths: Any) -> Batch:
    """The first so many tokens of each row."""
    kept = np.arange(batch.tokens.shape[1]) < np.asarray(lengths)[:, None]
    return batch._replace(segments=np.where(kept, 0, -1).astype(np.int32))


def everything(net: Network, params: dict, batch: Batch) -> tuple[np.ndarray, float, dict]:
    """(logits, mean loss of the targets, its gradients), as transformers averages."""

    def loss(params):
        states = forward.hidden(net, params, batch, NOTHING)
        at = decoder.places(states, batch.predict)
        found = decoder.target_log_probs(net.text, params["text"], at, batch.targets)
        mean = -jnp.sum(found * batch.weights) / jnp.sum(batch.weights)
        return mean, forward.logits(net, params, states)

    (mean, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return np.asarray(logits), float(mean), gradients


def answers(net: Network, params: dict, batch: Batch, steps: int, stops: Sequence[int] = (-1,)) -> np.ndarray:
    run = jax.jit(lambda params, batch: generate.generate(net, params, batch, NOTHING, steps, stops))
    return np.asarray(run(params, batch))


def in_file_names(tree: dict, table: list[TensorMap]) -> dict[str, np.ndarray]:
    """A tree of gradients in the names and shapes of a file."""
    pieces = to_file(jax.tree.map(np.asarray, tree), table)
    return {name: np.concatenate(list(one.chunks())).reshape(one.shape) for name, one in pieces.items()}


def check_gradients(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Relative to each tensor's largest: some are tiny, and those of key biases zero but for rounding."""
    assert expected
    for name, gradient in expected.items():
        slack = 1e-4 * np.abs(gradient).max() + 1e-8
        np.testing.assert_allclose(found[name], gradient, rtol=0, atol=slack, err_msg=name)
