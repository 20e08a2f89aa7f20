"""Every weight may be trained, not a part alone: then nothing of the decoder is left in the frozen tree."""

import jax.numpy as jnp
import pytest

from rolltune import adapters, trees


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("frozen", [(), ("vision/patch/kernel",)])
def test_a_decoder_that_is_trained_as_a_whole_comes_back_whole(listed, frozen):
    paths = ("text/layers/attn/q/kernel", "text/layers/norm/scale", "text/norm/scale", "vision/patch/kernel")
    flat = {path: jnp.full((2, 3) if "layers" in path else (3,), number) for number, path in enumerate(paths)}
    stacks = {"text/layers": (0, 1)}
    trained = {path: leaf + 10.0 for path, leaf in flat.items() if path not in frozen}
    base = trees.arrange(trees.unflatten(dict(flat)), stacks, listed=listed, without=trained)
    found = adapters.combine(base, trained, stacks)
    layers = found["text"]["layers"]
    assert isinstance(layers, list) == listed
    kernels = [layer["attn"]["q"]["kernel"] for layer in layers] if listed else layers["attn"]["q"]["kernel"]
    assert [float(kernel[0]) for kernel in kernels] == [10.0, 10.0] and float(found["text"]["norm"]["scale"][0]) == 12.0
    assert float(found["vision"]["patch"]["kernel"][0]) == (3.0 if frozen else 13.0)
