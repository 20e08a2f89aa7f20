import jax
import pytest


@pytest.fixture(autouse=True)
def precise():
    """Float32 products in full, on machines whose default is less."""
    with jax.default_matmul_precision("highest"):
        yield
