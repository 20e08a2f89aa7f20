"""That the tests run the library with its annotations of arrays checked."""

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from rolltune.models import attention


def test_a_shape_that_would_broadcast_and_a_number_of_another_kind_are_refused():
    x, mask = jnp.ones((2, 3, 1, 4)), jnp.ones((2, 3, 3), bool)
    attend = jax.jit(lambda mask: attention.attend(x, x, x, mask, 1.0))
    assert attend(mask).shape == x.shape
    with pytest.raises(TypeCheckError, match="mask"):
        attend(mask[:1])
    with pytest.raises(TypeCheckError, match="mask"):
        attend(mask.astype(jnp.float32))
