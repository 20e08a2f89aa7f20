"""PaliGemma's tensors in both published layouts, and its sizes as their shapes tell them. No file is read here.

`sizes` anywhere below is an object with `vision.{image_size, patch, width, layers, heads, mlp}` and
`text.{vocab, width, layers, heads, kv_heads, head_dim, mlp, post_norms}`.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from rolltune.errors import UserError
from rolltune.families import published
from rolltune.models.layers import Rope
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


VISION = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size")
TEXT = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
TANH = "gelu_pytorch_tanh"
PREPARED = {  # of preprocessor_config.json: pixels in -1..1, resized by a bicubic filter
    "image_mean": ([0.5] * 3,),
    "image_std": ([0.5] * 3,),
    "do_convert_rgb": (True, None),
    "do_normalize": (True,),
    "do_rescale": (True,),
    "do_resize": (True,),
    "rescale_factor": (1 / 255,),
    "resample": (3,),
}


def sizes_from_hf(config: Mapping[str, Any], source: str = "config.json") -> dict[str, dict]:
    """Sizes from a Hugging Face config.json, with that library's defaults for what the published files leave out.

    An entry that changes the numbers is read, or its value refused.
    """
    text, vision = (published.part(config, name, source) for name in ("text_config", "vision_config"))
    kind, family = config.get("model_type"), text.get("model_type")
    if kind != "paligemma" or family not in ("gemma", "gemma2"):
        raise UserError(
            f"{source}: model_type is {kind!r:.60} with text_config.model_type {family!r:.60}; expected 'paligemma' "
            "with 'gemma' (PaliGemma) or 'gemma2' (PaliGemma 2)"
        )
    made = {"vision": _hf_vision(vision, text, source), "text": _hf_text(text, f"{source}: text_config")}
    prepared, size = published.part(config, "preprocessor_config", source), made["vision"]["image_size"]
    square = ({"height": size, "width": size}, None)
    published.allow(prepared, PREPARED | {"size": square}, f"{source}: preprocessor_config")
    return made


def _hf_vision(vision: Mapping[str, Any], text: Mapping[str, Any], source: str) -> dict[str, Any]:
    where = f"{source}: vision_config"
    known = published.sizes(vision, {"patch_size": 14}, VISION, where)
    image = {"image_size": vision.get("image_size")}
    if image["image_size"] is None:  # the published files say how many places it has, and no more
        places = vision.get("num_image_tokens") or text.get("num_image_tokens") or (224 // known["patch_size"]) ** 2
        count = published.sizes({"num_image_tokens": places}, {}, ("num_image_tokens",), where)["num_image_tokens"]
        image["image_size"] = math.isqrt(count) * known["patch_size"]
    allowed = {"hidden_act": (TANH, None), "attention_dropout": (0, None), "num_channels": (3, None)}
    published.allow(vision, allowed, where)
    if known["hidden_size"] % known["num_attention_heads"]:
        raise UserError(
            f"{where}: hidden_size {known['hidden_size']} can't be shared by {known['num_attention_heads']} heads "
            "(num_attention_heads)"
        )
    return {
        "image_size": published.sizes(image, {}, ("image_size",), where)["image_size"],
        "patch": known["patch_size"],
        "width": known["hidden_size"],
        "layers": known["num_hidden_layers"],
        "heads": known["num_attention_heads"],
        "mlp": known["intermediate_size"],
        "norm_eps": published.number(vision, "layer_norm_eps", 1e-6, where),
    }


def _hf_text(text: Mapping[str, Any], where: str) -> dict[str, Any]:
    second = text["model_type"] == "gemma2"
    known = published.sizes(text, {}, (*TEXT, "vocab_size"), where)
    given = {name: value for name, value in text.items() if value is not None}
    head_dim = published.sizes(given, {"head_dim": 256}, ("head_dim",), where)["head_dim"]
    heads, kv_heads, layers = known["num_attention_heads"], known["num_key_value_heads"], known["num_hidden_layers"]
    if heads % kv_heads or head_dim % 2:
        raise UserError(
            f"{where}: {heads} heads (num_attention_heads) of {head_dim} (head_dim) can't share {kv_heads} key heads "
            "(num_key_value_heads): expected a divisor, and an even head_dim"
        )
    allowed = {
        # Gemma's first files say gelu, and transformers takes the approximation for it.
        "hidden_act": (TANH, None) if second else (TANH, "gelu", None),
        "hidden_activation": (TANH, None),
        "attention_bias": (False, None),
        "attention_dropout": (0, None),
        "use_bidirectional_attention": (True, None),
    }
    published.allow(text, allowed, where)
    every, in_turn = ["full_attention"] * layers, ["sliding_attention", "full_attention"] * layers
    patterns = [every, in_turn[:layers], None] if second else [every, None]
    published.allow(text, {"layer_types": patterns}, where)

    def optional(name: str) -> float | None:
        default = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window": 4096}[name]
        if not second or text.get(name, default) is None:
            return None
        return published.number(text, name, default, where)

    window = None
    if optional("sliding_window") is not None and text.get("layer_types") != every:
        window = published.sizes(text, {"sliding_window": 4096}, ("sliding_window",), where)["sliding_window"]
    scale = published.number(text, "query_pre_attn_scalar", 256, where) if second else head_dim
    return {
        "vocab": known["vocab_size"],
        "width": known["hidden_size"],
        "layers": layers,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "mlp": known["intermediate_size"],
        "post_norms": second,
        "query_scale": scale**-0.5,
        "attn_softcap": optional("attn_logit_softcapping"),
        "final_softcap": optional("final_logit_softcapping"),
        "sliding_window": window,
        "rope": published.rope(text, head_dim, where),
        "norm_eps": published.number(text, "rms_norm_eps", 1e-6, where),
    }


def unsaid(config: Any) -> dict[str, Any]:
    """What big_vision's npz doesn't say of a model: `with_unsaid` takes it back."""
    text = {name: getattr(config.text, name) for name in UNSAID if name != "rope"}
    return {
        "resize": config.resize,
        "vision": {"norm_eps": config.vision.norm_eps},
        "text": text | {"rope": dataclasses.asdict(config.text.rope)},
    }


UNSAID = ("attn_softcap", "final_softcap", "query_scale", "sliding_window", "norm_eps", "rope")
RESIZES = ("bilinear", "bilinear_float", "bicubic")


def with_unsaid(sizes: dict[str, dict], said: Mapping[str, Any], source: str) -> tuple[dict[str, dict], str]:
    """(sizes of a npz with what is kept beside it, the resizing). Raises UserError for what is none of it."""
    text, vision = (published.part(said, name, source) for name in ("text", "vision"))
    rope, resize = published.part(text, "rope", source), said.get("resize")
    if resize not in RESIZES:
        raise UserError(f"{source}: resize is {resize!r}, expected one of {', '.join(RESIZES)}")
    numbers: dict[str, Any] = {
        name: None if text.get(name) is None and name in UNSAID[:2] else published.number(text, name, None, source)
        for name in ("attn_softcap", "final_softcap", "query_scale", "norm_eps")
    }
    window = text.get("sliding_window")
    numbers["sliding_window"] = (
        None if window is None else published.sizes(text, {}, ("sliding_window",), source)["sliding_window"]
    )
    if set(rope) != {entry.name for entry in dataclasses.fields(Rope)}:
        raise UserError(f"{source}: rope has {', '.join(map(str, rope))}, which is not what this rolltune writes")
    numbers["rope"] = published.saved_rope(rope, source)
    eps = {"norm_eps": published.number(vision, "norm_eps", None, source)}
    return {"vision": sizes["vision"] | eps, "text": sizes["text"] | numbers}, str(resize)


def hf_config(sizes: Any, dtype: str = "float32", image_token: int = 257152) -> dict[str, Any]:
    """The config.json that goes with `hf_rows`, so that transformers loads what we write.

    Raises UserError for a rotary embedding that no published PaliGemma has: its scaling would be lost.
    """
    v, t = sizes.vision, sizes.text
    if t.rope.kind != "plain":
        raise UserError(
            f"a PaliGemma with a rotary embedding of kind {t.rope.kind!r} can't be written for transformers"
        )
    places = (v.image_size // v.patch) ** 2
    text = {
        "model_type": "gemma2" if t.post_norms else "gemma",
        "hidden_size": t.width,
        "intermediate_size": t.mlp,
        "num_hidden_layers": t.layers,
        "num_attention_heads": t.heads,
        "num_key_value_heads": t.kv_heads,
        "head_dim": t.head_dim,
        "vocab_size": t.vocab,
        "num_image_tokens": places,
        "hidden_activation": TANH,
        "rms_norm_eps": t.norm_eps,
        "rope_theta": t.rope.theta,
        "tie_word_embeddings": True,
    }
    if t.post_norms:
        text |= {
            "attn_logit_softcapping": t.attn_softcap,
            "final_logit_softcapping": t.final_softcap,
            "sliding_window": t.sliding_window or 4096,
            "query_pre_attn_scalar": round(t.query_scale**-2),
        }
        if not t.sliding_window:
            text["layer_types"] = ["full_attention"] * t.layers
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": v.width,
        "intermediate_size": v.mlp,
        "num_hidden_layers": v.layers,
        "num_attention_heads": v.heads,
        "image_size": v.image_size,
        "patch_size": v.patch,
        "num_image_tokens": places,
        "projection_dim": t.width,
        "layer_norm_eps": v.norm_eps,
        "vision_use_head": False,
    }
    return {
        "architectures": ["PaliGemmaForConditionalGeneration"],
        "model_type": "paligemma",
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "hidden_size": t.width,
        "projection_dim": t.width,
        "image_token_index": image_token,
        "tie_word_embeddings": True,
        "torch_dtype": dtype,
        "text_config": text,
        "vision_config": vision,
    }
