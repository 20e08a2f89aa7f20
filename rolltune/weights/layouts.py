"""The parts of published layouts that several families share, as name maps: a decoder with Llama's names, CLIP's tower.

A file's matrices are torch's, [out, in]; ours are [in, out].
"""

from typing import Any

from rolltune.weights.names import TensorMap, keep, patches, turn


def linear(path: str, name: str, i: int, o: int, layers: int = 0, bias: bool = False) -> list[TensorMap]:
    made = [TensorMap(f"{path}/kernel", f"{name}.weight", (i, o), turn((o, i), (1, 0)), layers)]
    return [*made, TensorMap(f"{path}/bias", f"{name}.bias", (o,), keep(o), layers)] if bias else made


def layer_norm(path: str, name: str, width: int, layers: int = 0) -> list[TensorMap]:
    pairs = (("scale", "weight"), ("bias", "bias"))
    return [TensorMap(f"{path}/{a}", f"{name}.{b}", (width,), keep(width), layers) for a, b in pairs]


def rms_norm(path: str, name: str, width: int, layers: int = 0) -> TensorMap:
    return TensorMap(f"{path}/scale", f"{name}.weight", (width,), keep(width), layers)


def llama_text(text: Any, model: str, head: str, tied: bool = False, fused: bool = False) -> list[TensorMap]:
    """A decoder with Llama's names, which Gemma has too: `model` stands before them, `head` is the output matrix's own.

    `text` has `vocab`, `width`, `layers`, `heads`, `kv_heads`, `head_dim`, `mlp` and `post_norms`. A `tied` head is the
    embedding itself: some files carry it a second time. `fused` is Phi-3's: queries, keys and values in one matrix,
    gate and up in another. They stay together in ours, so that adapters of that shape go out and come back.
    """
    D, V, L = text.width, text.vocab, text.layers
    q, kv = text.heads * text.head_dim, text.kv_heads * text.head_dim
    layer = f"{model}.layers.{{i}}"
    embedding = TensorMap(
        "text/embed/embedding", f"{model}.embed_tokens.weight", (V, D), keep(V, D), tied=head if tied else ""
    )
    if fused:
        attn = [("qkv", "qkv_proj", D, q + 2 * kv), ("o", "o_proj", q, D)]
        mlp = [("gate_up", "gate_up_proj", D, 2 * text.mlp), ("down", "down_proj", text.mlp, D)]
    else:
        attn = [("q", "q_proj", D, q), ("k", "k_proj", D, kv), ("v", "v_proj", D, kv), ("o", "o_proj", q, D)]
        mlp = [("gate", "gate_proj", D, text.mlp), ("up", "up_proj", D, text.mlp), ("down", "down_proj", text.mlp, D)]
    rows = [embedding]
    for ours, theirs, i, o in attn:
        rows += linear(f"text/layers/attn/{ours}", f"{layer}.self_attn.{theirs}", i, o, L)
    for ours, theirs, i, o in mlp:
        rows += linear(f"text/layers/mlp/{ours}", f"{layer}.mlp.{theirs}", i, o, L)
    # The same published name plays two roles: after the attention in Gemma 2, before the MLP in all others.
    norms = {"pre_attn_norm": "input_layernorm", "pre_mlp_norm": "post_attention_layernorm"}
    if text.post_norms:
        norms["pre_mlp_norm"] = "pre_feedforward_layernorm"
        norms |= {"post_attn_norm": "post_attention_layernorm", "post_mlp_norm": "post_feedforward_layernorm"}
    rows += [rms_norm(f"text/layers/{ours}", f"{layer}.{theirs}", D, L) for ours, theirs in norms.items()]
    rows.append(rms_norm("text/norm", f"{model}.norm", D))
    if not tied:
        rows.append(TensorMap("text/head/kernel", head, (D, V), turn((V, D), (1, 0))))
    return rows


def clip_tower(tower: Any, name: str) -> list[TensorMap]:
    """CLIP's vision model (a `vision.Config`), `name` before its names.

    The last layer and the norm after it are in every file but read by no vision-language model: they stand apart under
    `vision/unused`, so that what is written again is whole.
    """
    D, places, last = tower.width, 1 + tower.patches, tower.layers - 1
    embeddings = f"{name}.embeddings"
    kernel, position = f"{embeddings}.patch_embedding.weight", f"{embeddings}.position_embedding.weight"
    return [
        TensorMap("vision/patch/kernel", kernel, (tower.patch**2 * 3, D), patches(D, tower.patch, 3)),
        TensorMap("vision/class", f"{embeddings}.class_embedding", (D,), keep(D)),
        TensorMap("vision/position", position, (places, D), keep(places, D)),
        *layer_norm("vision/pre_norm", f"{name}.pre_layrnorm", D),  # the published spelling
        *vit_layers(tower, "vision/layers", f"{name}.encoder.layers.{{i}}", last),
        *vit_layers(tower, "vision/unused/layer", f"{name}.encoder.layers.{last}", 0),
        *layer_norm("vision/unused/norm", f"{name}.post_layernorm", D),
    ]


def vit_layers(tower: Any, path: str, name: str, layers: int) -> list[TensorMap]:
    """A tower's layers as CLIP and SigLIP name them: `layers` stacked ones, with "{i}" in the name, or one for 0."""
    D = tower.width
    rows = layer_norm(f"{path}/norm1", f"{name}.layer_norm1", D, layers)
    rows += layer_norm(f"{path}/norm2", f"{name}.layer_norm2", D, layers)
    for ours, theirs in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("o", "out_proj")):
        rows += linear(f"{path}/attn/{ours}", f"{name}.self_attn.{theirs}", D, D, layers, True)
    rows += linear(f"{path}/mlp/up", f"{name}.mlp.fc1", D, tower.mlp, layers, True)
    return rows + linear(f"{path}/mlp/down", f"{name}.mlp.fc2", tower.mlp, D, layers, True)
