"""Turns a Llama-type model's GGUF file into a folder that rolltune loads: config.json, safetensors, tokenizer.json.

    pip install gguf
    python benchmarks/from_gguf.py SmolLM2-135M-Instruct.Q4_1.gguf cache/smollm2-135m

The weights are what the file's quantization left of them, in bfloat16. For models whose own publication
is out of reach.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from rolltune.errors import UserError
from rolltune.weights.hf import write_hf

WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
SPLIT = {  # how a text is cut before its bytes are merged, by the file's name for it
    "smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
}
CONTROL = 3  # a token's type: no text becomes it


def published_name(name: str) -> str:
    """The name that transformers gives a tensor."""
    if name in WHOLE:
        return WHOLE[name]
    _, layer, part, ending = name.split(".")
    return f"model.layers.{layer}.{LAYER[part]}.{ending}"


def halves_apart(matrix: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys [N * H, D] in transformers' order: llama.cpp pairs neighbours for rotary embedding,
    transformers a head's first half with its second."""
    return matrix.reshape(heads, -1, 2, matrix.shape[1]).swapaxes(1, 2).reshape(matrix.shape)


def config_of(entries: dict[str, Any], tied: bool) -> dict[str, Any]:
    own = lambda name: entries[f"llama.{name}"]
    heads, width = own("attention.head_count"), own("embedding_length")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": own("feed_forward_length"),
        "num_hidden_layers": own("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": entries.get("llama.attention.head_count_kv", heads),
        "head_dim": width // heads,
        "vocab_size": len(entries["tokenizer.ggml.tokens"]),
        "max_position_embeddings": own("context_length"),
        "rms_norm_eps": round(own("attention.layer_norm_rms_epsilon"), 9),
        "rope_theta": own("rope.freq_base"),
        "hidden_act": "silu",
        "tie_word_embeddings": tied,
        "bos_token_id": entries["tokenizer.ggml.bos_token_id"],
        "eos_token_id": entries["tokenizer.ggml.eos_token_id"],
        "torch_dtype": "bfloat16",
    }


def write_tokenizer(folder: Path, entries: dict[str, Any]) -> None:
    names, kind = entries["tokenizer.ggml.tokens"], entries["tokenizer.ggml.pre"]
    if kind not in SPLIT:
        raise UserError(f"a tokenizer that cuts texts as {kind!r} does is not known here; known: {', '.join(SPLIT)}")
    merges = [tuple(pair.split(" ")) for pair in entries["tokenizer.ggml.merges"]]
    made = tokenizers.Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(SPLIT[kind])
    made.decoder = decoders.ByteLevel()
    types = entries["tokenizer.ggml.token_type"]
    special = [name for name, type in zip(names, types, strict=True) if type == CONTROL]
    made.add_special_tokens([tokenizers.AddedToken(name, special=True, normalized=False) for name in special])
    made.save(str(folder / "tokenizer.json"))
    roles = {"bos": "bos", "eos": "eos", "pad": "padding"}
    named = {f"{role}_token": names[entries[f"tokenizer.ggml.{word}_token_id"]] for role, word in roles.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps(named, indent=2) + "\n")


def convert(source: Path, folder: Path) -> None:
    """Writes the folder, which must not be there. Raises UserError for what is no Llama."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(source)
    entries = {name: field.contents() for name, field in reader.fields.items()}
    if entries["general.architecture"] != "llama":
        raise UserError(f"{source}: a model of type {entries['general.architecture']!r}; only llama is known here")
    heads = {"attn_q": entries["llama.attention.head_count"], "attn_k": entries["llama.attention.head_count_kv"]}
    tensors = {}
    for tensor in reader.tensors:
        values, part = dequantize(tensor.data, tensor.tensor_type), tensor.name.split(".")[-2]
        values = halves_apart(values, heads[part]) if part in heads else values
        tensors[published_name(tensor.name)] = values.astype(ml_dtypes.bfloat16)
    write_hf(folder, tensors, config_of(entries, tied="lm_head.weight" not in tensors))
    write_tokenizer(folder, entries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="FILE.gguf")
    parser.add_argument("folder", type=Path, help="where the model is written: a new folder")
    args = parser.parse_args()
    if not args.source.is_file():
        parser.error(f"{args.source}: there is no such file")
    try:
        convert(args.source, args.folder)
    except UserError as error:
        parser.error(str(error))
    print(f"{args.folder}: {', '.join(sorted(file.name for file in args.folder.iterdir()))}")


if __name__ == "__main__":
    main()
