"""PaliGemma-3B on about a hundred labelled pictures and a 12 GB card: LoRA on every decoder matrix.

./03-do_learn.py -d set1 -w best-set1 --config recipes/paligemma_ads.py --rolls 4
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.model = "../cache/paligemma-3b-pt-224.bf16.npz"

    config.method = "lora"
    config.rank = 16
    config.alpha = 32.0

    # The lottery: every roll draws its own rate.
    config.optimizer = "adamw"
    config.rate_range = (5e-5, 5e-4)
    config.batch = 2
    config.steps = 256
    config.log_every = 32
    return config
