"""Llama-3.2-11B-Vision-Instruct tells 27 kinds of leaves apart (PlantDoc): LoRA on the decoder.

    ./03-do_learn.py -d plantdoc -w plantdoc --config recipes/plantdoc_llama.py

Classes are uneven; each can be drawn as often as the others, or weigh the same:

    ./03-do_learn.py -d plantdoc -w even --config recipes/plantdoc_llama.py --config.balance=weight

Published: four bits, batch 16, 5 epochs, warm-up, weight decay, seed. Rank, alpha and rate are ours.
docs/recipes/plantdoc.md
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.model = "../cache/llama-3.2-11b-vision-instruct-bfloat16"
    config.metric = "accuracy"

    config.method = "lora"
    config.rank = 16
    config.alpha = 32.0
    config.quantize = "nf4"

    config.optimizer = "adamw"
    config.rate = 2e-4
    config.weight_decay = 0.01
    config.warmup = 500  # steps: of 568, with the 1,818 training pictures of 2,598
    config.epochs = 5.0
    config.batch = 2
    config.accumulate = 8
    config.seed = 2025
    config.remat = True

    config.log_every = 10
    config.evaluate_every = 100
    config.keep_best = True
    return config
