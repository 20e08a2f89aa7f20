"""Phi-3.5-vision tells what is done in a video, of eight frames a row (UCF-101, ten classes): LoRA.

    ./03-do_learn.py -d ucf101 -w ucf101 --config recipes/phi35_ucf101.py

The settings are the defaults of the published script; no figure was published with them. docs/recipes/phi35.md
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.model = "../cache/phi-3.5-vision-instruct-bfloat16"
    config.num_crops = 4  # as advised for several frames
    config.metric = "accuracy"
    config.max_tokens = 8192  # eight frames of four crops are 6,056, and more than 4,096 take the long rotary factors

    config.method = "lora"
    config.rank = 64
    config.alpha = 128.0

    config.optimizer = "adamw"
    config.rate = 4e-5
    config.schedule = "linear"
    config.warmup = 0.1  # ours: the script has 50 steps, more than the 19 of an epoch of 300 rows
    config.weight_decay = 0.01
    config.epochs = 1.0
    config.batch = 1
    config.accumulate = 16
    config.remat = True

    config.log_every = 10
    config.evaluate_batch = 1
    return config
