"""PaliGemma's tensors in both published layouts, and its sizes as their shapes tell them. No file is read here.

`sizes` anywhere below is an object with `vision.{image_size, patch, width, layers, heads, mlp}` and
`text.{vocab, width, layers, heads, kv_heads, head_dim, mlp, post_norms}`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from rolltune.errors import UserError
from rolltune.models.attention import Rope
from rolltune.weights.layouts import layer_norm, linear, llama_text, vit_layers
from rolltune.weights.names import Shape, TensorMap, keep, patches, pick, turn

NPZ_BLOCK = "img/Transformer/encoderblock"
NPZ_ATTN = {"q": "query", "k": "key", "v": "value"}


def npz_rows(sizes: Any, stacked_vision: bool = True) -> list[TensorMap]:
    """big_vision's layout, without `params/`. `stacked_vision` False: `encoderblock_{i}`, a tensor a layer."""
    v, t = sizes.vision, sizes.text
    D, N, H, L = v.width, v.heads, v.width // v.heads, v.layers
    side, block = v.image_size // v.patch, NPZ_BLOCK if stacked_vision else f"{NPZ_BLOCK}_{{i}}"
    attn = f"{block}/MultiHeadDotProductAttention_0"

    def layer(path: str, name: str, shape: Shape, *file: int) -> TensorMap:
        return TensorMap(f"vision/layers/{path}", name, shape, keep(*(file or shape)), L)

    rows = [
        TensorMap("vision/patch/kernel", "img/embedding/kernel", (v.patch**2 * 3, D), keep(v.patch, v.patch, 3, D)),
        TensorMap("vision/patch/bias", "img/embedding/bias", (D,), keep(D)),
        TensorMap("vision/position", "img/pos_embedding", (side**2, D), keep(1, side**2, D)),
    ]
    for ours, theirs in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_1")):
        rows += [layer(f"{ours}/{leaf}", f"{block}/{theirs}/{leaf}", (D,)) for leaf in ("scale", "bias")]
    for ours, theirs in NPZ_ATTN.items():
        rows.append(layer(f"attn/{ours}/kernel", f"{attn}/{theirs}/kernel", (D, D), D, N, H))
        rows.append(layer(f"attn/{ours}/bias", f"{attn}/{theirs}/bias", (D,), N, H))
    rows.append(layer("attn/o/kernel", f"{attn}/out/kernel", (D, D), N, H, D))
    rows.append(layer("attn/o/bias", f"{attn}/out/bias", (D,)))
    for ours, theirs, i, o in (("up", "Dense_0", D, v.mlp), ("down", "Dense_1", v.mlp, D)):
        rows.append(layer(f"mlp/{ours}/kernel", f"{block}/MlpBlock_0/{theirs}/kernel", (i, o)))
        rows.append(layer(f"mlp/{ours}/bias", f"{block}/MlpBlock_0/{theirs}/bias", (o,)))
    norm = "img/Transformer/encoder_norm"
    rows += [TensorMap(f"vision/norm/{leaf}", f"{norm}/{leaf}", (D,), keep(D)) for leaf in ("scale", "bias")]
    rows.append(TensorMap("projector/kernel", "img/head/kernel", (D, t.width), keep(D, t.width)))
    rows.append(TensorMap("projector/bias", "img/head/bias", (t.width,), keep(t.width)))
    return rows + _npz_text(t)


def _npz_text(t: Any) -> list[TensorMap]:
    D, N, K, H, F, L = t.width, t.heads, t.kv_heads, t.head_dim, t.mlp, t.layers
    attn, mlp, turned = "llm/layers/attn", "llm/layers/mlp", (1, 0, 2)  # [heads, in, H] -> [in, heads, H]
    embedding = keep(t.vocab, D)
    rows = [TensorMap("text/embed/embedding", "llm/embedder/input_embedding", (t.vocab, D), embedding)]
    if N == K:  # then big_vision stacks all three
        stacked = [("q", "qkv_einsum/w", 3, 0, N), ("k", "qkv_einsum/w", 3, 1, K), ("v", "qkv_einsum/w", 3, 2, K)]
    else:
        rows.append(
            TensorMap("text/layers/attn/q/kernel", f"{attn}/q_einsum/w", (D, N * H), turn((N, D, H), turned), L)
        )
        stacked = [("k", "kv_einsum/w", 2, 0, K), ("v", "kv_einsum/w", 2, 1, K)]
    for name, file, parts, index, heads in stacked:
        form = pick((parts, heads, D, H), index, turned)
        rows.append(TensorMap(f"text/layers/attn/{name}/kernel", f"{attn}/{file}", (D, heads * H), form, L))
    rows.append(TensorMap("text/layers/attn/o/kernel", f"{attn}/attn_vec_einsum/w", (N * H, D), keep(N, H, D), L))
    for index, name in enumerate(("gate", "up")):
        form = pick((2, D, F), index, (0, 1))
        rows.append(TensorMap(f"text/layers/mlp/{name}/kernel", f"{mlp}/gating_einsum", (D, F), form, L))
    rows.append(TensorMap("text/layers/mlp/down/kernel", f"{mlp}/linear", (F, D), keep(F, D), L))
    norms = [("pre_attn_norm", "pre_attention_norm"), ("pre_mlp_norm", "pre_ffw_norm")]
    if t.post_norms:
        norms += [("post_attn_norm", "post_attention_norm"), ("post_mlp_norm", "post_ffw_norm")]
    rows += [TensorMap(f"text/layers/{a}/scale", f"llm/layers/{b}/scale", (D,), keep(D), L) for a, b in norms]
    rows.append(TensorMap("text/norm/scale", "llm/final_norm/scale", (D,), keep(D)))
    return rows


def hf_rows(sizes: Any) -> list[TensorMap]:
    """The names of the published safetensors files; readers bring the other two layouts to these first."""
    v, t = sizes.vision, sizes.text
    D, tower = v.width, "vision_tower.vision_model"
    embed, places = f"{tower}.embeddings", (v.image_size // v.patch) ** 2
    rows = [
        TensorMap(
            "vision/patch/kernel",
            f"{embed}.patch_embedding.weight",
            (v.patch**2 * 3, D),
            patches(D, v.patch, 3),
        ),
        TensorMap("vision/patch/bias", f"{embed}.patch_embedding.bias", (D,), keep(D)),
        TensorMap("vision/position", f"{embed}.position_embedding.weight", (places, D), keep(places, D)),
        *vit_layers(v, "vision/layers", f"{tower}.encoder.layers.{{i}}", v.layers),
        *layer_norm("vision/norm", f"{tower}.post_layernorm", D),
        *linear("projector", "multi_modal_projector.linear", D, t.width, bias=True),
    ]
    return rows + llama_text(t, "language_model.model", "language_model.lm_head.weight", tied=True)


def rows_for(names: Iterable[str], sizes: Any) -> list[TensorMap]:
    """The map for a file with these names (`params/` stripped, Hugging Face names as published)."""
    names = set(names)
    if any(name.startswith(("llm/", "img/")) for name in names):
        return npz_rows(sizes, stacked_vision=not any(name.startswith(f"{NPZ_BLOCK}_0/") for name in names))
    return hf_rows(sizes)


# What no shape says, as published for the two text decoders.
GEMMA = {
    "attn_softcap": None,
    "final_softcap": None,
    "sliding_window": None,
    "rope": Rope(),
    "norm_eps": 1e-6,
}
GEMMA2 = GEMMA | {"attn_softcap": 50.0, "final_softcap": 30.0, "sliding_window": 4096}


def sizes_from_npz(shapes: Mapping[str, Shape], source: str = "the npz") -> dict[str, dict]:
    """Sizes from the shapes in a big_vision npz: `{"vision": {...}, "text": {...}}`.

    PaliGemma 2 is known by its post-norms. Attention's scale is head_dim^-0.5 but in the 28B model, whose decoder of
    width 4608 with 32 heads of 128 uses (4608/32)^-0.5. big_vision never applies the final softcap and knows no
    sliding window: the published values are given, the caller decides.
    """
    stacked = f"{NPZ_BLOCK}/LayerNorm_0/scale" in shapes
    block = NPZ_BLOCK if stacked else f"{NPZ_BLOCK}_0"
    fused = "llm/layers/attn/qkv_einsum/w" in shapes
    needed = {
        "img/embedding/kernel": 4,
        "img/pos_embedding": 3,
        f"{block}/MlpBlock_0/Dense_0/kernel": 3 if stacked else 2,
        f"{block}/MultiHeadDotProductAttention_0/query/kernel": 4 if stacked else 3,
        "llm/embedder/input_embedding": 2,
        "llm/layers/mlp/linear": 3,
        **({"llm/layers/attn/qkv_einsum/w": 5} if fused else {}),
        **({} if fused else {"llm/layers/attn/q_einsum/w": 4, "llm/layers/attn/kv_einsum/w": 5}),
    }
    problems = [f"no {name}" for name in needed if name not in shapes]
    problems += [
        f"{name} has shape {list(shapes[name])}, wanted are {count} axes"
        for name, count in needed.items()
        if name in shapes and len(shapes[name]) != count
    ]
    if problems:
        raise UserError(f"{source} is not a PaliGemma checkpoint in big_vision's layout:\n  " + "\n  ".join(problems))
    patch, _, _, width = shapes["img/embedding/kernel"]
    places = shapes["img/pos_embedding"][1]
    side = round(places**0.5)
    if side * side != places:
        raise UserError(f"{source}: img/pos_embedding has {places} places, which is no square of patches")
    layers = shapes[f"{block}/LayerNorm_0/scale"][0] if stacked else _count(shapes)
    if fused:
        depth, _, heads, text_width, head_dim = shapes["llm/layers/attn/qkv_einsum/w"]
        kv_heads = heads
    else:
        depth, heads, text_width, head_dim = shapes["llm/layers/attn/q_einsum/w"]
        kv_heads = shapes["llm/layers/attn/kv_einsum/w"][2]
    second = "llm/layers/post_ffw_norm/scale" in shapes
    return {
        "vision": {
            "image_size": side * patch,
            "patch": patch,
            "width": width,
            "layers": layers,
            "heads": shapes[f"{block}/MultiHeadDotProductAttention_0/query/kernel"][-2],
            "mlp": shapes[f"{block}/MlpBlock_0/Dense_0/kernel"][-1],
            "norm_eps": 1e-6,
        },
        "text": {
            "vocab": shapes["llm/embedder/input_embedding"][0],
            "width": text_width,
            "layers": depth,
            "heads": heads,
            "kv_heads": kv_heads,
            "head_dim": head_dim,
            "mlp": shapes["llm/layers/mlp/linear"][1],
            "post_norms": second,
            "query_scale": (144 if (second, text_width, heads) == (True, 4608, 32) else head_dim) ** -0.5,
            **(GEMMA2 if second else GEMMA),
        },
    }


def _count(shapes: Mapping[str, Shape]) -> int:
    layer = 0
    while f"{NPZ_BLOCK}_{layer}/LayerNorm_0/scale" in shapes:
        layer += 1
    return layer
