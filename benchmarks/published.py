"""What in the config.json of published models changes numbers: checkpoints of random weights are made by it."""

from typing import Any

LLAMA32_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
CLIP = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "llava-v1.6-mistral-7b": {
        "model_type": "llava_next",
        "vision_config": CLIP,
        "text_config": {
            "model_type": "mistral",
            "vocab_size": 32064,
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "intermediate_size": 14336,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "sliding_window": None,
            "max_position_embeddings": 32768,
        },
    },
    "phi-3.5-vision": {
        "model_type": "phi3_v",
        "vocab_size": 32064,
        "hidden_size": 3072,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "intermediate_size": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "sliding_window": 262144,
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        # The published factors rise from 1.08 to 64.8 and 9: any that do cost the same.
        "rope_scaling": {
            "type": "su",
            "short_factor": [1.0 + n / 6 for n in range(48)],
            "long_factor": [1.0 + n for n in range(48)],
        },
    },
    "llama-3.2-11b-vision": {
        "model_type": "mllama",
        "image_token_index": 128256,
        "text_config": {
            "model_type": "mllama_text_model",
            "vocab_size": 128256,
            "hidden_size": 4096,
            "num_hidden_layers": 40,
            "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38],
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "intermediate_size": 14336,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0,
            "rope_scaling": LLAMA32_ROPE,
        },
        "vision_config": {"image_size": 560, "intermediate_layers_indices": [3, 7, 15, 23, 30]},
    },
    "gemma-2-9b": {
        "model_type": "gemma2",
        "vocab_size": 256000,
        "hidden_size": 3584,
        "num_hidden_layers": 42,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 256,
        "intermediate_size": 14336,
        "query_pre_attn_scalar": 256,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_activation": "gelu_pytorch_tanh",
    },
}  # fmt: skip
# Height and width of a picture that takes as many tokens as it can, of all that a family reads.
PICTURES = {"llava-v1.6-mistral-7b": (672, 672), "phi-3.5-vision": (672, 672), "llama-3.2-11b-vision": (1120, 1120)}
