"""NF4 and int8 beside bitsandbytes: itself where it is installed, and what it gave where it is not."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from rolltune import quantize
from rolltune.errors import UserError
from rolltune.models import layers as nn
from rolltune.models.layers import LoRA
from rolltune.quantize import NF4, DoubleScales, Int8Rows, decode, encode_int8, encode_nf4, quantize_tree

STORED = Path(__file__).parent / "vectors" / "bitsandbytes.npz"
NAMES = {np.float32: "float32", ml_dtypes.bfloat16: "bfloat16", np.float16: "float16"}


def weight() -> np.ndarray:
    """float32 [100, 192] out of integers, the same everywhere; with a row and a block of zeros, and all midpoints."""
    n = np.arange(100 * 192).reshape(100, 192)
    spread = (n * n * 7919 + n * 104729) % 2003 - 1001
    made = (spread * (1 + n % 11) * (1 + n // 192 % 7) / 2**16).astype(np.float32)
    made[3], made[5, 64:128] = 0, 0
    made[7, 64:79], made[7, 79], made[7, 80:128] = (quantize.CODE[:-1] + quantize.CODE[1:]) / 2, 1, 0
    return made


def digest(array: np.ndarray) -> list[int]:
    """Of all bytes and their places."""
    parts = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint16).astype(np.int64)
    return [int(parts.sum()), int((parts * np.arange(1, parts.size + 1)).sum())]


@pytest.fixture(scope="module")
def stored():
    with np.load(STORED) as file:
        return dict(file)


@pytest.fixture(params=["NumPy", "JAX", "compiled"])
def run(request):
    """A function of arrays, and how it is run."""
    arrays = lambda tree: jax.tree.map(np.asarray, tree)
    if request.param == "NumPy":
        return lambda f, *args: f(*args)
    compiled = jax.jit if request.param == "compiled" else lambda f: f
    return lambda f, *args: arrays(compiled(f)(*jax.tree.map(jnp.asarray, args)))


def test_the_codes_are_bitsandbytes_own(stored):
    np.testing.assert_array_equal(quantize.CODE, stored["code"])
    np.testing.assert_array_equal(quantize.DYNAMIC, stored["dynamic"])


def test_nf4_and_its_double_scales_equal_bitsandbytes_bit_for_bit(stored, run):
    plain = run(lambda w: encode_nf4(w, double=False), weight())
    np.testing.assert_array_equal(plain.packed, stored["packed"])
    np.testing.assert_array_equal(plain.scales.reshape(-1), stored["absmax"])
    double = run(encode_nf4, weight())
    np.testing.assert_array_equal(double.packed, stored["packed"])
    np.testing.assert_allclose(double.scales.offset, stored["offset"], rtol=1e-6)  # a sum, in whatever order
    np.testing.assert_array_equal(double.scales.codes, stored["nested_codes"])
    np.testing.assert_allclose(double.scales.absmax, stored["nested_absmax"], rtol=1e-6)


@pytest.mark.parametrize("dtype", NAMES, ids=NAMES.values())
def test_decoded_nf4_equals_bitsandbytes_bit_for_bit(stored, run, dtype):
    scales = DoubleScales(stored["nested_codes"], stored["dynamic"], stored["nested_absmax"], stored["offset"])
    for name, own in (("plain", stored["absmax"].reshape(100, 3)), ("double", scales)):
        found = run(lambda w: decode(w, dtype), NF4(stored["packed"], own))
        assert digest(found) == stored[f"decoded_{name}_{NAMES[dtype]}"].tolist()


def test_int8_equals_bitsandbytes_bit_for_bit(stored, run):
    found = run(encode_int8, weight())
    assert digest(found.values) == stored["int8"].tolist()
    np.testing.assert_array_equal(found.scales, stored["int8_scales"])
    decoded = run(lambda w: decode(w, np.float32), found)
    np.testing.assert_array_equal(decoded, (found.values * found.scales[:, None]) * np.float32(1 / 127))


def test_stacks_are_quantized_as_their_layers_are():
    stack = np.stack([weight(), weight()[::-1] * 3])
    for encode in quantize.KINDS.values():
        both = encode(stack)
        assert both.shape == (2, 192, 100)
        for layer, own in enumerate(both):
            alone = encode(stack[layer])
            assert jax.tree.all(jax.tree.map(np.array_equal, own, alone))
            np.testing.assert_array_equal(decode(both, np.float32)[layer], decode(alone, np.float32))


def test_live_beside_bitsandbytes():
    torch = pytest.importorskip("torch", reason="torch is not installed: CONTRIBUTING.md says how")
    theirs = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed").functional
    draw = np.random.default_rng()
    seed = int(draw.integers(1 << 16))
    print("seed", seed)  # shown where the test fails
    values = np.random.default_rng(seed).standard_normal((200, 256), np.float32) * np.float32(0.05)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        tensor = torch.tensor(values).to(dtype)
        ours = encode_nf4(tensor.float().numpy())
        packed, state = theirs.quantize_4bit(tensor, compress_statistics=True, quant_type="nf4")
        np.testing.assert_array_equal(ours.packed.reshape(-1), packed.numpy().reshape(-1))
        # Its CPU library looks the nearest step up in a coarse table; its GPU and its plain code take the nearest.
        off = np.abs(ours.scales.codes.astype(int) - state.absmax.numpy().astype(int))
        assert off.max() <= 1 and (off > 0).mean() < 0.02
        scales = DoubleScales(*(each.numpy() for each in (state.absmax, state.state2.code, state.state2.absmax)),
                              state.offset.numpy())  # fmt: skip
        found = decode(NF4(ours.packed, scales), np.float32)
        expected = theirs.dequantize_4bit(packed, state).float().numpy()
        rounded = torch.tensor(found).to(dtype).float().numpy()
        np.testing.assert_array_equal(rounded, expected)
    rows, scales, _ = theirs.int8_vectorwise_quant(torch.tensor(values))
    np.testing.assert_array_equal(encode_int8(values).values, rows.numpy())
    np.testing.assert_array_equal(encode_int8(values).scales, scales.numpy())


@pytest.fixture(params=["nf4", "nf4-double", "int8"])
def matrix(request):
    """(quantized [in, out] of 192 and 100, what it stands for)."""
    made = jax.tree.map(jnp.asarray, quantize.KINDS[request.param](weight()))
    return made, decode(made, jnp.float32).T


def test_products_and_their_gradients_are_those_of_the_decoded_matrix(matrix):
    packed, plain = matrix
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.standard_normal((2, 5, 192)), jnp.float32)
    a, b = (jnp.asarray(draw.standard_normal(shape), jnp.float32) for shape in ((192, 4), (4, 100)))

    def loss(x, a, b, base):
        return jnp.sum(jnp.sin(nn.product(x, LoRA(base, a, b)) + nn.product(x, base)))

    for base in (packed, plain):
        assert nn.product(x, base).shape == (2, 5, 100)
    found = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(x, a, b, packed)
    expected = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(x, a, b, plain)
    jax.tree.map(lambda f, e: np.testing.assert_allclose(f, e, rtol=2e-4, atol=2e-3), found, expected)


def test_nothing_decoded_is_kept_for_the_way_back(matrix):
    packed, _ = matrix
    x = jnp.ones((7, 192), jnp.float32)
    _, pull = jax.vjp(lambda x: nn.product(jnp.tanh(x), packed), x)
    kept = [leaf for leaf in jax.tree.leaves(pull) if hasattr(leaf, "dtype")]
    assert kept and all(leaf.size < 192 * 100 for leaf in kept if jnp.issubdtype(leaf.dtype, jnp.floating))
    text = jax.jit(jax.grad(lambda x: jnp.sum(jnp.tanh(nn.product(jnp.tanh(x), packed))))).lower(x).as_text()
    assert len(re.findall(r"stablehlo\.optimization_barrier", text)) == 2  # one each way: nothing is shared


def test_rolls_decode_once(matrix):
    packed, plain = matrix
    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, 7, 192)), jnp.float32)
    value = jax.vmap(jax.value_and_grad(lambda x, w: jnp.sum(jnp.tanh(nn.product(x, w)))), (0, None))
    np.testing.assert_allclose(value(x, packed)[1], value(x, plain)[1], rtol=1e-4, atol=1e-4)
    shapes = [tuple(var.aval.shape) for var in variables(jax.make_jaxpr(value)(x, packed).jaxpr)]
    assert (100, 192) in shapes  # decoded, and never for each of the six
    assert not [shape for shape in shapes if shape[:1] == (6,) and np.prod(shape) >= 6 * 192 * 100]


def variables(jaxpr):
    """Everything that is made in a program, and in those inside it."""
    for equation in jaxpr.eqns:
        yield from equation.outvars
        for inner in jaxprs_in_params(equation.params):
            yield from variables(inner)


def test_a_tree_is_quantized_by_rules():
    draw = np.random.default_rng(0)
    made = lambda *shape: jnp.asarray(draw.standard_normal(shape), jnp.bfloat16)
    tree = lambda: {
        "text": {
            "embed": {"embedding": made(10, 64)},
            "layers": {"attn": {"q": {"kernel": made(3, 64, 32)}}, "mlp": {"up": {"kernel": made(3, 64, 8)}}},
        }
    }
    params = tree()
    q = params["text"]["layers"]["attn"]["q"]["kernel"]
    found = quantize_tree(params, [(r".*/attn/.*", "nf4-double"), (r".*/mlp/.*", "int8"), (r".*", "keep")])
    assert not params  # leaf after leaf went over
    layers = found["text"]["layers"]
    assert isinstance(layers["attn"]["q"]["kernel"], NF4) and isinstance(layers["mlp"]["up"]["kernel"], Int8Rows)
    assert layers["attn"]["q"]["kernel"].shape == q.shape and found["text"]["embed"]["embedding"].dtype == jnp.bfloat16
    off = jnp.swapaxes(decode(layers["attn"]["q"]["kernel"], jnp.float32), 1, 2) - q
    assert 0 < jnp.abs(off).mean() < 0.1
    for rules, message in (
        ([(r".*", "nf4")], r"only matrices.*not 'text/embed/embedding'"),
        ([(r".*kernel", "fp4"), (r".*", "keep")], "'fp4'; expected nf4, nf4-double, nf4-float8, int8, float8 or keep"),
        ([(r"vision/.*", "nf4"), (r".*", "keep")], "matches no parameter"),
    ):
        with pytest.raises(UserError, match=message):
            quantize_tree(tree(), rules)
    with pytest.raises(UserError, match="96 inputs, which are no whole blocks of 64"):
        quantize_tree({"text": {"q": {"kernel": made(96, 4)}}}, [(r".*", "nf4")])


@pytest.mark.parametrize("count", [256, 300, 40])
def test_scales_that_hardly_differ_are_kept_apart_whatever_fills_their_last_block(count):
    """What is kept in eight bits is the distance from the mean: the fill must not be the farthest of all."""
    scales = (10 + 0.01 * np.random.default_rng(0).uniform(-1, 1, count)).astype(np.float32)
    found = quantize.encode_scales(scales)
    assert found.codes.shape == (count,) and np.abs(found.absmax).max() < 0.02
    np.testing.assert_allclose(quantize.decode_scales(found), scales, atol=2e-4)
