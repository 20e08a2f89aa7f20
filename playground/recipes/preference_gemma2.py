"""Gemma-2-9b-it with a head of three classes tells which answer is better: a, b or tie (the LMSYS arena).

    ./03-do_learn.py -d arena -w arena --config recipes/preference_gemma2.py

LoRA on q, k and v from layer 16 up: the states of the layers below are worked out once. The base is published in
four bits, and stays packed. From the model as Google publishes it:

    ./03-do_learn.py -d arena -w arena --config recipes/preference_gemma2.py --config.quantize=nf4-double \
        --model ../cache/gemma-2-9b-it-bfloat16

Ours: the schedule. docs/recipes/preferences.md
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.model = "../cache/gemma-2-9b-it-nf4"
    config.task = "classify"
    config.answers = ("a", "b", "tie")
    config.metric = "log-loss"
    config.max_tokens = 1024
    config.truncate = "right"

    config.method = "rules"
    config.rules = (("text/layers/attn/(q|k|v)/kernel", "lora"), ("text/classes/kernel", "full"), (".*", "frozen"))
    config.first_layer = 16
    config.rank = 16
    config.alpha = 32.0
    config.dropout = 0.05

    config.optimizer = "adamw8bit"
    config.rate = 2e-4
    config.schedule = "linear"
    config.warmup = 20  # steps
    config.epochs = 1.0
    config.batch = 4
    config.remat = True

    config.fold_by = "id"
    config.save_every = 200
    return config
