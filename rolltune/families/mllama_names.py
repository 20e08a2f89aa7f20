"""Llama 3.2 Vision's tensors as Hugging Face publishes them. Layers of the decoder are numbered through: those with
self-attention (`text/layers`) and those with cross-attention (`text/cross`) lie between each other in the file."""

from collections.abc import Iterable
from typing import Any

from rolltune.data.tiles import CANVAS_TILES, CANVASES
from rolltune.families import mllama_vision
from rolltune.weights.names import Shape, TensorMap, keep, patches, turn

EXTRA_ROWS = 8  # of the embedding beyond the head's, the image token's among them: no label is one of them


def hf_rows(sizes: Any) -> list[TensorMap]:
    """The names of the published safetensors files; readers bring the other two layouts to these first.

    `sizes` has `vision` (mllama_vision.Config), `text.{vocab, width, heads, kv_heads, head_dim, mlp}` and
    `stacks`, the numbers of the decoder's layers by stack.
    """
    return [*_vision(sizes.vision), *_projector(sizes), *_text(sizes)]


def rows_for(names: Iterable[str], sizes: Any) -> list[TensorMap]:
    """The map for a file with these names, as published: there is one layout."""
    return hf_rows(sizes)


def _plain(path: str, name: str, *shape: int, layers: int = 0, file: Shape = ()) -> TensorMap:
    return TensorMap(path, name, shape, keep(*(file or shape)), layers)


def _linear(path: str, name: str, i: int, o: int, numbers: Iterable[int] = (), bias: bool = False) -> list[TensorMap]:
    numbers = tuple(numbers)
    rows = [TensorMap(f"{path}/kernel", f"{name}.weight", (i, o), turn((o, i), (1, 0)), len(numbers), numbers=numbers)]
    if bias:
        rows.append(TensorMap(f"{path}/bias", f"{name}.bias", (o,), keep(o), len(numbers), numbers=numbers))
    return rows


def _vision(v: mllama_vision.Config) -> list[TensorMap]:
    D, P, ids = v.width, v.patches, len(CANVASES) + 1
    file = "vision_model"
    position = f"{file}.gated_positional_embedding"
    rows = [
        TensorMap("vision/patch/kernel", f"{file}.patch_embedding.weight", (v.patch**2 * 3, D), patches(D, v.patch, 3)),
        _plain("vision/class", f"{file}.class_embedding", D),
        _plain("vision/position/embedding", f"{position}.embedding", P, D),
        _plain("vision/position/gate", f"{position}.gate", 1),
        _plain(
            "vision/position/tiles",
            f"{position}.tile_embedding.weight",
            *(ids, CANVAS_TILES, P, D),
            file=(ids, CANVAS_TILES * P * D),
        ),
    ]
    for name in ("pre_tile", "post_tile"):
        there = f"{file}.{name}_positional_embedding"
        wide = (ids, CANVAS_TILES * D)
        rows.append(_plain(f"vision/{name}/embedding", f"{there}.embedding.weight", ids, CANVAS_TILES, D, file=wide))
        rows.append(_plain(f"vision/{name}/gate", f"{there}.gate", 1))
    pairs = (("scale", "weight"), ("bias", "bias"))
    for ours, theirs in (("norm_pre", "layernorm_pre"), ("norm_post", "layernorm_post")):
        rows += [_plain(f"vision/{ours}/{a}", f"{file}.{theirs}.{b}", D) for a, b in pairs]
    for stack, module, count in (
        ("vision/layers", "transformer", v.layers),
        ("vision/global_layers", "global_transformer", v.global_layers),
    ):
        layer = f"{file}.{module}.layers.{{i}}"
        for ours, theirs in (("norm1", "input_layernorm"), ("norm2", "post_attention_layernorm")):
            rows += [_plain(f"{stack}/{ours}/{a}", f"{layer}.{theirs}.{b}", D, layers=count) for a, b in pairs]
        for name in "qkvo":
            rows += _linear(f"{stack}/attn/{name}", f"{layer}.self_attn.{name}_proj", D, D, range(count))
        rows += _linear(f"{stack}/mlp/up", f"{layer}.mlp.fc1", D, v.mlp, range(count), bias=True)
        rows += _linear(f"{stack}/mlp/down", f"{layer}.mlp.fc2", v.mlp, D, range(count), bias=True)
    for ours, theirs in (("gate_attn", "gate_attn"), ("gate_mlp", "gate_ffn")):
        name = f"{file}.global_transformer.layers.{{i}}.{theirs}"
        rows.append(_plain(f"vision/global_layers/{ours}", name, 1, layers=v.global_layers))
    return rows


def _projector(sizes: Any) -> list[TensorMap]:
    return _linear("projector", "multi_modal_projector", sizes.vision.features, sizes.text.width, bias=True)


def _text(sizes: Any) -> list[TensorMap]:
    t = sizes.text
    D, queries, keys = t.width, t.heads * t.head_dim, t.kv_heads * t.head_dim
    file = "language_model.model"
    layer = f"{file}.layers.{{i}}"
    rows = [_plain("text/embed/embedding", f"{file}.embed_tokens.weight", t.vocab + EXTRA_ROWS, D)]
    for stack, numbers in sizes.stacks.items():
        ours, theirs = ("cross", "cross_attn") if stack == "text/cross" else ("attn", "self_attn")
        norm = lambda path, name, width, stack=stack, numbers=numbers: TensorMap(
            f"{stack}/{path}/scale", f"{layer}.{name}.weight", (width,), keep(width), len(numbers), numbers=numbers
        )
        for name, i, o in (("q", D, queries), ("k", D, keys), ("v", D, keys), ("o", queries, D)):
            rows += _linear(f"{stack}/{ours}/{name}", f"{layer}.{theirs}.{name}_proj", i, o, numbers)
        for name, i, o in (("gate", D, t.mlp), ("up", D, t.mlp), ("down", t.mlp, D)):
            rows += _linear(f"{stack}/mlp/{name}", f"{layer}.mlp.{name}_proj", i, o, numbers)
        rows.append(norm("pre_attn_norm", "input_layernorm", D))
        rows.append(norm("pre_mlp_norm", "post_attention_layernorm", D))
        if stack == "text/cross":
            rows += [norm(f"cross/{name}_norm", f"cross_attn.{name}_norm", t.head_dim) for name in "qk"]
            rows += [
                TensorMap(f"{stack}/{a}", f"{layer}.{b}", (1,), keep(1), len(numbers), numbers=numbers)
                for a, b in (("gate_attn", "cross_attn_attn_gate"), ("gate_mlp", "cross_attn_mlp_gate"))
            ]
    rows.append(_plain("text/norm/scale", f"{file}.norm.weight", D))
    rows += _linear("text/head", "language_model.lm_head", D, t.vocab)
    return rows
