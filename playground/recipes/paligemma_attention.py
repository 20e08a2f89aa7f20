"""PaliGemma-3B as big_vision's demo trains it: the decoder's attention weights themselves, by plain SGD.

The trained weights are float32 and a roll file holds them all (680 MB), so this is for one roll at a time.

    ./03-do_learn.py -d set1 -w attention-set1 --config recipes/paligemma_attention.py
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.model = "../cache/paligemma-3b-pt-224.f16.npz"

    config.method = "attention"
    config.optimizer = "sgd"
    config.rate = 0.03
    config.clip = 0.0
    config.schedule = "cosine"
    config.warmup = 0.1
    config.batch = 2
    config.steps = 256
    config.log_every = 32
    return config
