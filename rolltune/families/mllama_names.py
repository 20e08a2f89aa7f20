"""Llama 3.2 Vision's tensors as Hugging Face publishes them. Layers of the decoder are numbered through: those with
self-attention (`text/layers`) and those with cross-attention (`text/cross`) lie between each other in the file."""

import dataclasses
from typing import Any

from rolltune.data.tiles import CANVAS_TILES, GRIDS
from rolltune.families import mllama_vision
from rolltune.weights import layouts
from rolltune.weights.names import Shape, TensorMap, keep, patches

EXTRA_ROWS = 8  # of the embedding beyond the words of the head, the image token's among them: none is ever a label
CROSS = "text/cross"


def hf_rows(sizes: Any) -> list[TensorMap]:
    """The published names, to which the reader brings those that transformers 5 writes.

    `sizes` has `vision` (mllama_vision.Config), `text.{vocab, width, heads, kv_heads, head_dim, mlp}` and
    `stacks`, the numbers of the decoder's layers by stack.
    """
    t, file = sizes.text, "language_model.model"
    rows = _vision(sizes.vision)
    rows += layouts.linear("projector", "multi_modal_projector", sizes.vision.features, t.width, bias=True)
    rows.append(_plain("text/embed/embedding", f"{file}.embed_tokens.weight", (t.vocab, t.width)))
    for stack, numbers in sizes.stacks.items():
        layers = _layers(t, stack, f"{file}.layers.{{i}}", len(numbers))
        rows += [dataclasses.replace(row, numbers=numbers) for row in layers]
    rows.append(layouts.rms_norm("text/norm", f"{file}.norm", t.width))
    return rows + layouts.linear("text/head", "language_model.lm_head", t.width, t.vocab - EXTRA_ROWS)


def _plain(path: str, name: str, shape: Shape, layers: int = 0, file: Shape = ()) -> TensorMap:
    return TensorMap(path, name, shape, keep(*(file or shape)), layers)


def _layers(t: Any, stack: str, file: str, layers: int) -> list[TensorMap]:
    D, queries, keys = t.width, t.heads * t.head_dim, t.kv_heads * t.head_dim
    ours, theirs = ("cross", "cross_attn") if stack == CROSS else ("attn", "self_attn")
    rows = [
        layouts.rms_norm(f"{stack}/pre_attn_norm", f"{file}.input_layernorm", D, layers),
        layouts.rms_norm(f"{stack}/pre_mlp_norm", f"{file}.post_attention_layernorm", D, layers),
    ]
    for name, i, o in (("q", D, queries), ("k", D, keys), ("v", D, keys), ("o", queries, D)):
        rows += layouts.linear(f"{stack}/{ours}/{name}", f"{file}.{theirs}.{name}_proj", i, o, layers)
    for name, i, o in (("gate", D, t.mlp), ("up", D, t.mlp), ("down", t.mlp, D)):
        rows += layouts.linear(f"{stack}/mlp/{name}", f"{file}.mlp.{name}_proj", i, o, layers)
    if stack == CROSS:
        for name in ("q_norm", "k_norm"):
            rows.append(layouts.rms_norm(f"{stack}/cross/{name}", f"{file}.cross_attn.{name}", t.head_dim, layers))
        for name in ("attn", "mlp"):
            rows.append(_plain(f"{stack}/gate_{name}", f"{file}.cross_attn_{name}_gate", (1,), layers))
    return rows


def _vision(v: mllama_vision.Config) -> list[TensorMap]:
    D, P, ids, file = v.width, v.patches, len(GRIDS) + 1, "vision_model"
    kernel, position = f"{file}.patch_embedding.weight", f"{file}.gated_positional_embedding"
    tiles, wide = (ids, CANVAS_TILES, P, D), (ids, CANVAS_TILES * P * D)
    rows = [
        TensorMap("vision/patch/kernel", kernel, (v.patch**2 * 3, D), patches(D, v.patch, 3)),
        _plain("vision/class", f"{file}.class_embedding", (D,)),
        _plain("vision/position/embedding", f"{position}.embedding", (P, D)),
        _plain("vision/position/gate", f"{position}.gate", (1,)),
        _plain("vision/position/tiles", f"{position}.tile_embedding.weight", tiles, file=wide),
    ]
    for name in ("pre_tile", "post_tile"):
        place, tiles, wide = f"{file}.{name}_positional_embedding", (ids, CANVAS_TILES, D), (ids, CANVAS_TILES * D)
        rows.append(_plain(f"vision/{name}/embedding", f"{place}.embedding.weight", tiles, file=wide))
        rows.append(_plain(f"vision/{name}/gate", f"{place}.gate", (1,)))
    for ours, theirs in (("pre_norm", "layernorm_pre"), ("norm", "layernorm_post")):
        rows += layouts.layer_norm(f"vision/{ours}", f"{file}.{theirs}", D)
    rows += _vision_layers(v, "vision/layers", f"{file}.transformer.layers.{{i}}", v.layers)
    layer = f"{file}.global_transformer.layers.{{i}}"
    rows += _vision_layers(v, "vision/global_layers", layer, v.global_layers)
    for ours, theirs in (("gate_attn", "gate_attn"), ("gate_mlp", "gate_ffn")):
        rows.append(_plain(f"vision/global_layers/{ours}", f"{layer}.{theirs}", (1,), v.global_layers))
    return rows


def _vision_layers(v: mllama_vision.Config, stack: str, file: str, layers: int) -> list[TensorMap]:
    rows = layouts.layer_norm(f"{stack}/norm1", f"{file}.input_layernorm", v.width, layers)
    rows += layouts.layer_norm(f"{stack}/norm2", f"{file}.post_attention_layernorm", v.width, layers)
    for name in "qkvo":
        rows += layouts.linear(f"{stack}/attn/{name}", f"{file}.self_attn.{name}_proj", v.width, v.width, layers)
    rows += layouts.linear(f"{stack}/mlp/up", f"{file}.mlp.fc1", v.width, v.mlp, layers, bias=True)
    return rows + layouts.linear(f"{stack}/mlp/down", f"{file}.mlp.fc2", v.mlp, v.width, layers, bias=True)
