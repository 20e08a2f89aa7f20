"""Phi-3.5-vision tells whether a meme is hateful: LoRA of a high rank, judged by accuracy.

    ./03-do_learn.py -d memes -w memes --config recipes/phi35_hateful_memes.py

Published with it: QLoRA, the frozen vision part (three epochs), and all weights (two).

    ./03-do_learn.py -d memes -w qlora --config recipes/phi35_hateful_memes.py --config.quantize=nf4
    ./03-do_learn.py -d memes -w frozen --config recipes/phi35_hateful_memes.py --config.method=rules \
        --config.rate=1e-4 --config.epochs=3 \
        --config.rules="(('(vision|projector|separators)/.*', 'frozen'), ('.*', 'full'))"
    ./03-do_learn.py -d memes -w full --config recipes/phi35_hateful_memes.py --config.method=full --config.rate=5e-5

docs/recipes/phi35.md
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.model = "../cache/phi-3.5-vision-instruct-bfloat16"
    config.num_crops = 16  # as advised for single pictures
    config.answers = ("no", "yes")
    config.positive = "yes"
    config.metric = "accuracy"
    config.max_tokens = 4096

    config.method = "lora"
    config.rank = 128
    config.alpha = 256.0

    config.optimizer = "adamw"
    config.rate = 2e-4
    config.schedule = "linear"
    config.warmup = 50  # steps
    config.weight_decay = 0.01
    config.epochs = 2.0
    config.batch = 4
    config.accumulate = 16
    config.remat = True

    config.log_every = 10
    return config
