"""LLaVA-1.6-Mistral-7B names ten animals: LoRA on the decoder, with the published rate and batch.

    ./03-do_learn.py -d animals -w animals --config recipes/animals_llava.py

The published rate may be low for LoRA. Eight rolls, each with its own, tell:

    ./03-do_learn.py -d animals -w rates --config recipes/animals_llava.py --rolls 8 --config.rate_range="(2e-5, 5e-4)"

docs/recipes/animals.md
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.model = "../cache/llava-v1.6-mistral-7b-float16"
    config.metric = "accuracy"
    config.max_tokens = 4096  # a picture takes up to 2,928

    config.method = "lora"
    config.rank = 16
    config.alpha = 32.0

    config.optimizer = "adamw8bit"
    config.rate = 2e-5
    config.schedule = "cosine"
    config.warmup = 0.03  # share of the steps
    config.weight_decay = 0.01
    config.epochs = 1.0
    config.batch = 4
    config.accumulate = 16  # there, 4 on each of 4 cards
    config.remat = True

    config.log_every = 10
    config.evaluate_batch = 8
    config.save_every = 100
    config.keep_last = 5
    return config
