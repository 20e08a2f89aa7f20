"""PaliGemma's sizes as a config.json states them, both ways, and what a whole model's npz leaves unsaid."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from rolltune.errors import UserError
from rolltune.families import published
from rolltune.models.attention import Rope

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
