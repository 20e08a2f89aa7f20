"""Phi-3.5-vision tells whether a sentence is true of two photos (NLVR2): all weights but those of the vision part.

    ./03-do_learn.py -d nlvr2 -w nlvr2 --config recipes/phi35_nlvr2.py

Published with it: all weights, three epochs. LoRA takes less of a card; nothing was published of it here.

    ./03-do_learn.py -d nlvr2 -w full --config recipes/phi35_nlvr2.py --config.method=full --config.rules="()" \
        --config.rate=1e-5 --config.epochs=3
    ./03-do_learn.py -d nlvr2 -w lora --config recipes/phi35_nlvr2.py --config.method=lora --config.rules="()" \
        --config.rate=2e-4 --config.rank=32 --config.alpha=16

docs/recipes/phi35.md
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.model = "../cache/phi-3.5-vision-instruct-bfloat16"
    config.num_crops = 4  # as advised for several pictures
    config.answers = ("false", "true")
    config.positive = "true"
    config.metric = "accuracy"

    config.method = "rules"
    config.rules = (("(vision|projector|separators)/.*", "frozen"), (".*", "full"))

    config.optimizer = "adamw"
    config.rate = 2e-5
    config.schedule = "linear"
    config.warmup = 50  # steps
    config.weight_decay = 0.01
    config.epochs = 2.0
    config.batch = 2
    config.accumulate = 32
    config.remat = True

    config.log_every = 10
    return config
