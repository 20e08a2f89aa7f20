"""Phi-3.5-vision answers questions about scanned pages (DocVQA): LoRA, judged by ANLS.

    ./03-do_learn.py -d docvqa -w docvqa --config recipes/phi35_docvqa.py

Published with it, of the same two epochs: QLoRA, the frozen vision part, and all weights.

    ./03-do_learn.py -d docvqa -w qlora --config recipes/phi35_docvqa.py --config.quantize=nf4
    ./03-do_learn.py -d docvqa -w frozen --config recipes/phi35_docvqa.py --config.method=rules --config.rate=1e-4 \
        --config.rules="(('(vision|projector|separators)/.*', 'frozen'), ('.*', 'full'))"
    ./03-do_learn.py -d docvqa -w full --config recipes/phi35_docvqa.py --config.method=full --config.rate=5e-6

docs/recipes/phi35.md says what these forms take.
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.model = "../cache/phi-3.5-vision-instruct-bfloat16"
    config.num_crops = 16  # as advised for single pages
    config.task = "write"
    config.metric = "anls"
    config.max_tokens = 4096  # a page of 16 crops takes up to 2,653

    config.method = "lora"
    config.rank = 32
    config.alpha = 16.0

    config.optimizer = "adamw"
    config.rate = 2e-4
    config.schedule = "linear"
    config.warmup = 50  # steps
    config.weight_decay = 0.01
    config.epochs = 2.0
    config.batch = 1
    config.accumulate = 64
    config.remat = True

    config.log_every = 10
    config.evaluate_batch = 2
    return config
