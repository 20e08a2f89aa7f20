"""Checkpoints that others saved in bitsandbytes' four bits: packed bytes, their scales, and a word in JSON beside them.

`X.weight` is NF4's bytes; `X.weight.absmax` are the scales of its blocks, in eight bits where they were quantized, too,
with `.nested_absmax` and `.nested_quant_map`; `.quant_map` is the code; `.quant_state.bitsandbytes__nf4` is JSON.
Reference: bitsandbytes/functional.py, QuantState.as_dict.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rolltune import quantize
from rolltune.errors import UserError
from rolltune.quantize import NF4, SCALE_BLOCK, DoubleScales
from rolltune.weights.files import StoredTensor
from rolltune.weights.names import DTYPES, Lazy, Shape, TensorMap, check, read

STATE = ".quant_state.bitsandbytes__"
PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
BYTES, FLOAT = np.dtype(np.uint8), np.dtype(np.float32)


@dataclasses.dataclass(frozen=True)
class PackedTensor:
    """A matrix [out, in] in four bits. `read` dequantizes what is asked for; `packed` gives it as it lies in the file.

    Blocks run over the elements in row-major order: where `in` is no multiple of `block`, one may span two rows.
    """

    bytes: StoredTensor  # two values each, the first in the high half
    shape: Shape
    dtype: np.dtype  # that it had before, and to which bitsandbytes rounds what it dequantizes
    block: int
    absmax: StoredTensor  # float32, or uint8 where there is `nested`
    nested: tuple[StoredTensor, StoredTensor, float] | None  # largest magnitudes, code and offset

    def scales(self) -> Any:
        """float32 [blocks], or DoubleScales of them."""
        found = _whole(self.absmax)
        if self.nested is None:
            return found
        largest, code, offset = self.nested
        return DoubleScales(found, _whole(code), _whole(largest), np.asarray(offset, np.float32))

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        first, last = start // self.block, -(-stop // self.block)
        end = min(last * self.block, math.prod(self.shape))
        raw = self.bytes.read(first * self.block // 2, -(-end // 2))
        fill = (last - first) * self.block // 2 - raw.size  # of the last block, where it is cut off
        scales = quantize.decode_scales(self.scales())[first:last, None]
        blocks = NF4(np.pad(raw, (0, fill)).reshape(last - first, -1), scales, self.block)
        part = quantize.decode(blocks, self.dtype).reshape(-1)[start - first * self.block : stop - first * self.block]
        if out is None:
            return part
        out[...] = part
        return out

    def packed(self) -> NF4:
        """NumPy arrays, [out, in / 2] and scales: nothing is dequantized. Only where no block spans two rows."""
        (o, i), scales = self.shape, self.scales()
        if not isinstance(scales, DoubleScales):
            scales = scales.reshape(o, i // self.block)
        return NF4(_whole(self.bytes).reshape(o, i // 2), scales, self.block)


def _whole(tensor: StoredTensor) -> np.ndarray:
    return tensor.read(0, math.prod(tensor.shape)).reshape(tensor.shape)


def packed(lazy: Mapping[str, Lazy], row: TensorMap) -> NF4 | None:
    """Our matrix as the file has it packed, with its layers on axis 0; None where the file or the map has it otherwise.

    What is returned is what a product takes, in NumPy arrays: no value of it was dequantized.
    """
    taken = [part.packed() for part in _packed_parts(lazy, row)]
    if not taken or len({jax.tree.structure(one) for one in taken}) > 1:
        return None  # layers of several kinds
    return jax.tree.map(lambda *leaves: np.stack(leaves), *taken) if row.layers else taken[0]


def _packed_parts(lazy: Mapping[str, Lazy], row: TensorMap) -> list[PackedTensor]:
    """The file's tensors in four bits that make up ours, a layer each; none where file or map has it otherwise."""
    layout = row.layout
    turned = len(layout.file) == 2 and layout.order == (1, 0) and layout.part == layout.file == row.shape[::-1]
    if not turned or not (row.split or not row.layers):
        return []
    parts = [lazy.get(row.name(layer)) for layer in range(max(row.layers, 1))]
    found = [part for part in parts if isinstance(part, PackedTensor) and row.shape[0] % part.block == 0]
    return found if len(found) == len(parts) else []


def is_packed(lazy: Mapping[str, Lazy], row: TensorMap) -> bool:
    """Whether the file has our matrix in four bits: then it stays as it is."""
    return bool(_packed_parts(lazy, row))


def packed_shapes(lazy: Mapping[str, Lazy], row: TensorMap) -> NF4 | None:
    """The shapes of what `packed` gives. One layer is read for it: how long its scales are stands with them."""
    parts = _packed_parts(lazy, row)
    if not parts:
        return None
    lead = (row.layers,) if row.layers else ()
    one = parts[0].packed()
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*lead, *np.shape(leaf)), leaf.dtype), one)


def stream_packed(
    lazy: Mapping[str, Lazy], table: Sequence[TensorMap], dtype: Any = None, source: str = "the file"
) -> Iterator[tuple[str, np.ndarray | NF4]]:
    """As `names.stream`, but matrices that the file has in four bits stay packed."""
    check({name: tensor.shape for name, tensor in lazy.items()}, table, source)
    for row in table:
        own = packed(lazy, row)
        yield row.path, read(lazy, row, dtype, source) if own is None else own


def joined(tensors: Mapping[str, StoredTensor], source: str) -> dict[str, StoredTensor | PackedTensor]:
    """The tensors with those that make up one in four bits put together. All that is odd comes in one UserError."""
    used: set[str] = set()
    found: dict[str, PackedTensor] = {}
    problems: list[str] = []
    for state in [name for name in tensors if STATE in name]:
        weight = state.partition(STATE)[0]
        used |= {weight, state, *(f"{weight}.{part}" for part in PARTS)}
        try:
            found[weight] = _joined(weight, tensors, state)
        except ValueError as error:
            problems.append(f"{weight}: {error}")
    left = {name: tensor for name, tensor in tensors.items() if name not in used}
    problems += [
        f"{name}: uint8 without a {STATE.strip('.')}nf4 that says of what"
        for name, tensor in left.items()
        if tensor.dtype == BYTES
    ]
    if problems:
        raise UserError(
            f"{source} is no model in bitsandbytes' NF4 that can be read:\n  "
            + "\n  ".join(problems)
            + "\n  Take the model in bfloat16 instead, or one that was saved in NF4."
        )
    return left | found


def _joined(weight: str, tensors: Mapping[str, StoredTensor], state: str) -> PackedTensor:
    """Raises ValueError, which says what is odd."""
    kind = state.rpartition("__")[2]
    if kind != "nf4":
        raise ValueError(f"quantized as {kind}; only nf4 is known here")
    try:
        said = json.loads(_whole(tensors[state]).tobytes())
        shape, block, dtype = tuple(said["shape"]), said["blocksize"], DTYPES[said["dtype"]]
        nested = (said["nested_blocksize"], float(said["nested_offset"])) if "nested_offset" in said else None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"its quant_state is no JSON with shape, blocksize and dtype ({error!r})") from error
    if len(shape) != 2 or not all(isinstance(n, int) and n > 0 for n in (*shape, block)) or block % 2:
        raise ValueError(f"shape {list(shape)} and blocksize {block} are not a matrix's")
    count = math.prod(shape)
    blocks = -(-count // block)

    def part(name: str, size: int, dtype: np.dtype) -> StoredTensor:
        found = tensors.get(f"{weight}.{name}")
        if found is None:
            raise ValueError(f"no {name} beside it")
        if math.prod(found.shape) != size or found.dtype != dtype:
            raise ValueError(f"{name} is {found.dtype} {list(found.shape)}, expected {size} of {dtype}")
        return dataclasses.replace(found, shape=(size,))

    if weight not in tensors:
        raise ValueError("its bytes are not in the file")
    stored = tensors[weight]
    held = math.prod(stored.shape) * stored.dtype.itemsize
    if held != -(-count // 2):
        raise ValueError(f"{held} bytes hold {2 * held} values, and its shape is {list(shape)}")
    if not np.array_equal(_whole(part("quant_map", 16, FLOAT)), quantize.CODE):
        raise ValueError("its quant_map is not NF4's")
    scales = None
    if nested is not None:
        size, offset = nested
        if size != SCALE_BLOCK:
            raise ValueError(f"nested_blocksize is {size!r}, expected {SCALE_BLOCK}")
        largest = part("nested_absmax", -(-blocks // SCALE_BLOCK), FLOAT)
        scales = largest, part("nested_quant_map", 256, FLOAT), offset
    return PackedTensor(
        bytes=dataclasses.replace(stored, shape=(held,), dtype=BYTES),  # some are stored as if they were bfloat16
        shape=shape,
        dtype=dtype,
        block=block,
        absmax=part("absmax", blocks, FLOAT if scales is None else BYTES),
        nested=scales,
    )
