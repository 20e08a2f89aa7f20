"""Makes bitsandbytes.npz: what that library gives for the weight of tests/test_quantize.py. Needs it, and torch.

PYTHONPATH=tests python tests/vectors/make_bitsandbytes.py
"""

from pathlib import Path

import bitsandbytes.functional as theirs
import numpy as np
import torch
from test_quantize import digest, weight

FILE = Path(__file__).parent / "bitsandbytes.npz"


def nearest(values: torch.Tensor, code: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """8-bit codes by blocks of 256, as its GPU kernels and its plain torch code choose them: the nearest step.

    Its CPU library looks steps up in a coarse table, and is off by one for a few in a hundred.
    """
    blocks = torch.nn.functional.pad(values, (0, -len(values) % 256)).reshape(-1, 256)
    absmax = blocks.abs().max(-1).values
    scaled = torch.clamp(blocks * (1 / absmax[:, None]), -1, 1)
    codes = torch.bucketize(scaled, (code[:-1] + code[1:]) / 2).to(torch.uint8)
    return codes.reshape(-1)[: len(values)].numpy(), absmax.numpy()


def main() -> None:
    tensor = torch.tensor(weight())
    packed, state = theirs.quantize_4bit(tensor, compress_statistics=False, quant_type="nf4")
    dynamic, offset = theirs.create_dynamic_map(), state.absmax.mean()
    codes, nested = nearest(state.absmax - offset, dynamic)
    made = {
        "code": state.code.numpy(), "dynamic": dynamic.numpy(), "packed": packed.numpy().reshape(100, 96),
        "absmax": state.absmax.numpy(), "offset": offset.numpy(), "nested_codes": codes, "nested_absmax": nested,
    }  # fmt: skip
    second = theirs.QuantState(absmax=torch.tensor(nested), code=dynamic, blocksize=256, dtype=torch.float32)
    double = theirs.QuantState(
        absmax=torch.tensor(codes), shape=tensor.shape, code=state.code, blocksize=64, quant_type="nf4",
        dtype=torch.float32, offset=offset, state2=second,
    )  # fmt: skip
    for name, own in (("plain", state), ("double", double)):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            own.dtype = dtype
            decoded = theirs.dequantize_4bit(packed, own)
            made[f"decoded_{name}_{str(dtype).removeprefix('torch.')}"] = np.array(
                digest(decoded.view(torch.uint8).numpy())
            )
    rows, scales, _ = theirs.int8_vectorwise_quant(tensor)
    np.savez_compressed(FILE, **made, int8=np.array(digest(rows.numpy())), int8_scales=scales.numpy())


if __name__ == "__main__":
    main()
