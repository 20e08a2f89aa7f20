"""Optimizers and schedules. The rate stays outside: each roll has its own, so it is an argument of the step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from rolltune.errors import UserError

OPTIMIZERS = {"sgd": optax.identity, "adamw": optax.scale_by_adam}
SCHEDULES = ("cosine", "linear", "constant")


def transform(name: str, clip: float | None) -> optax.GradientTransformation:
    """Gradient -> direction: `sgd` is the gradient itself, `adamw` Adam's (arXiv:1412.6980; decay is added apart)."""
    if name not in OPTIMIZERS:
        raise UserError(f"optimizer: {name!r} is not known; expected one of {', '.join(OPTIMIZERS)}")
    return optax.chain(optax.clip_by_global_norm(clip) if clip else optax.identity(), OPTIMIZERS[name]())


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A factor of the peak rate at step 1..steps: linear warm-up, then `cosine`, `linear` or `constant`.

    The rate falls to zero one step after the last, as in big_vision's demo (its total_steps is TRAIN_STEPS + 1), so no
    update is wasted on a rate of zero. `warmup` below 1 is a share of these steps + 1, rounded as big_vision does
    (never to zero unless it is zero); from 1, a number of steps.
    """

    kind: str
    steps: int
    warmup: float

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise UserError(f"schedule: {self.kind!r} is not known; expected cosine, linear or constant")

    @property
    def warmup_steps(self) -> int:
        if self.warmup >= 1:
            return int(self.warmup)
        return max(1, round(self.warmup * (self.steps + 1))) if self.warmup else 0

    def __call__(self, step: Int[Array, ""] | int) -> Float[Array, ""]:
        step = jnp.asarray(step, jnp.float32)
        warmup = self.warmup_steps
        done = jnp.clip((step - warmup) / max(self.steps + 1 - warmup, 1), 0, 1)
        shape = {"cosine": 0.5 * (1 + jnp.cos(jnp.pi * done)), "linear": 1 - done, "constant": jnp.ones_like(done)}
        return shape[self.kind] * jnp.minimum(1, step / max(warmup, 1))


def decays(trainable: Any) -> Any:
    """1 for the leaves that weight decay is for (matrices), 0 for norms and biases."""
    return jax.tree.map_with_path(lambda path, x: float(_is_matrix(path)), trainable)


def _is_matrix(path: tuple) -> bool:
    names = [str(getattr(part, "key", part)) for part in path]
    return names[-1] in ("a", "b") or names[-1].endswith(("kernel", "embedding"))
