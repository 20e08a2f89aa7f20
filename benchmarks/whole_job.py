"""Times the whole job at real size: load, compile, train, evaluate before and after, rank, save, report.

    python benchmarks/whole_job.py --folder /tmp/job                       # eight rolls, cold and then warm
    python benchmarks/whole_job.py --folder /tmp/job --rolls 1 --cap 12    # one roll, the device capped at 12 GiB
    python benchmarks/whole_job.py --folder /tmp/job --peer path/to/peer_hf.py

Ours is the command a person types, started anew, on the 96 sample ads and a file of random weights (5.8 GB, written
once). The peer (transformers + PEFT, the whole model compiled with CUDA graphs, its best setting) does its runs one
after the other in one process, which compiles once; its weights are made on the device and its rows are random, so
that neither loading nor decoding is counted.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from capped import hold_all_but

ROOT = Path(__file__).resolve().parents[1]
ROWS, STEPS, ANSWERS = 96, 256, 2
COMPILING = 3  # the peer's steps that are no measure: the first compiles, the second warms up, the third records


def prepare(folder: Path) -> None:
    """The files of the job: weights, tokenizer, a shuffled data set."""
    if (folder / "dataset/set1/train.jsonl").exists():
        return
    from load_memory import TEXT, random_file

    folder.mkdir(parents=True, exist_ok=True)
    random_file(folder / "random.npz", "bfloat16", None)
    write_tokenizer(folder / "tokenizer.model", TEXT["vocab"])
    for command in (["sample-ads", "dataset"], ["shuffle", "-v", "10", "-n", "set1", "--seed", "1"]):
        subprocess.run([sys.executable, "-m", "rolltune", *command], cwd=folder, env=environment(), check=True)


def write_tokenizer(path: Path, size: int) -> None:
    """The built-in model's tokenizer with pieces that no text has, up to the size of the real one."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString((ROOT / "rolltune/tiny/tokenizer.model").read_bytes())
    for number in range(len(model.pieces), size):
        model.pieces.add(piece=f"<unused{number}>", score=-float(number), type=model.SentencePiece.UNUSED)
    model.trainer_spec.vocab_size = size
    path.write_bytes(model.SerializeToString())


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def ours(folder: Path, rolls: str, steps: int, cap: float | None, extra: list[str]) -> dict:
    """One run of the command."""
    name = f"job-{rolls}-{len(list(folder.glob('checkpoints/*.npz')))}"
    settings = {"model": "random.npz", "rank": 16, "alpha": 32.0, "steps": steps, "batch": 2, "log_every": 32}
    command = [sys.executable, "-m", "rolltune", "learn", "-d", "dataset/set1", "-w", name, "--rolls", rolls]
    command += [f"--config.{key}={value}" for key, value in settings.items()]
    # Each roll runs once and to its end, as the peer's do: on random weights many are no better than guessing.
    command += ["--config.rate_range=(5e-5,5e-4)", "--config.redraws=0", "--config.stall=0.0"]
    variables = environment() | {"ROLLTUNE_CACHE": str(folder / "cache")}
    with (folder / f"{name}.log").open("w") as log, contextlib.ExitStack() as after:
        if cap:
            other = hold_all_but(cap, environment())
            after.callback(other.wait)  # its memory must be back before the next one asks what is free
            after.callback(other.kill)
        began = time.perf_counter()
        process = subprocess.Popen(
            command + extra, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for line in process.stdout:
            log.write(f"{time.perf_counter() - began:7.2f} {line}")
        seconds = time.perf_counter() - began
    printed = (folder / f"{name}.log").read_text()
    found = {"who": "ours", "rolls": rolls, "steps": steps, "cap_gib": cap, "status": process.wait()}
    found["seconds"] = round(seconds, 1)
    # By the clock between the first and the last logged step: what a run trains, its looks and logs included.
    logged = re.findall(r"^ *([\d.]+) (?:roll: 0 +)?step: (\d+)/", printed, re.MULTILINE)
    if len(logged) > 1:
        (first, done), (last, every) = (tuple(map(float, logged[place])) for place in (0, -1))
        found["step_ms"] = round(1e3 * (last - first) / (every - done), 2)
    for fact in ("first step after", "waiting for data", "peak GiB"):
        match = re.search(rf"{fact}: ([\d.]+)", printed)
        found[fact.replace(" ", "_")] = float(match[1]) if match else None
    return found


def peer(script: Path, runs: int, steps: int) -> dict:
    """`runs` runs in this process; eight take what these do, importing, building and compiling once."""
    began = time.perf_counter()
    spec = importlib.util.spec_from_file_location("peer_hf", script)
    hf = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(script.parent))
    spec.loader.exec_module(hf)
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    settings = ["--model=paligemma-3b", "--method=lora", "--batch=2", "--seq=16", "--compile=2"]
    args = hf.parser().parse_args([*settings, "--compile-mode=reduce-overhead"])
    args.seed = 0
    m = hf.shapes.MODELS[args.model]
    model, params = hf.choose_trainable(hf.build(args, m), args)
    model.train()
    config = model.get_base_model().config
    model = torch.compile(model, dynamic=False, mode=args.compile_mode)
    batches = [hf.make_batch(args, m, config) for _ in range(16)]
    args.batch = 16  # eight rows with two answers each
    scored = [hf.make_batch(args, m, config) for _ in range(ROWS * ANSWERS // 16)]
    first = [p.detach().clone() for p in params]
    torch.cuda.synchronize()
    built = time.perf_counter() - began

    def evaluate() -> float:
        begin = time.perf_counter()
        model.eval()
        # Eager, since the model would be compiled anew for this shape.
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16), torch.compiler.set_stance("force_eager"):
            for inputs, targets, _ in scored:
                logits = model(**inputs).logits.float()
                torch.log_softmax(logits, -1).gather(-1, targets[..., None]).cpu()
        model.train()
        return time.perf_counter() - begin

    evaluate()
    before = evaluate()
    trained, after, compiled = [], [], 0.0
    for _ in range(runs):
        for p, start in zip(params, first, strict=True):
            p.data.copy_(start)
        optimizer = torch.optim.AdamW(params, lr=1e-4, weight_decay=0.0, fused=True)
        begin = time.perf_counter()
        for step in range(steps):
            inputs, targets, _ = batches[step % len(batches)]
            with torch.autocast("cuda", torch.bfloat16):
                loss = hf.cross_entropy(model(**inputs).logits, targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if step == COMPILING - 1 and not compiled:
                torch.cuda.synchronize()
                compiled = time.perf_counter() - begin
                begin = time.perf_counter()
        torch.cuda.synchronize()
        trained.append(time.perf_counter() - begin)
        after.append(evaluate())
    once, each = built + compiled + before, statistics.median(trained) + statistics.median(after)
    found = {"who": "peer", "built_s": built, "first_step_s": compiled, "before_s": before}
    found |= {"steps_s": statistics.median(trained), "after_s": statistics.median(after), "eight_s": once + 8 * each}
    return {name: round(value, 2) if isinstance(value, float) else value for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where weights, data and results go")
    parser.add_argument("--rolls", default="8", help="how many, or auto (%(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--cap", type=float, help="GiB of device memory that may be used")
    parser.add_argument("--times", type=int, default=2, help="how often ours is run: the first compiles (%(default)s)")
    parser.add_argument("--peer", type=Path, help="the peer's script")
    parser.add_argument("--peer-runs", type=int, default=2, help="runs of the peer that are timed (%(default)s)")
    args, extra = parser.parse_known_args()
    prepare(args.folder)
    results = []
    for _ in range(args.times):
        results.append(ours(args.folder.resolve(), args.rolls, args.steps, args.cap, extra))
        print(json.dumps(results[-1]), flush=True)
    if args.peer:
        found = peer(args.peer.resolve(), args.peer_runs, args.steps)
        ratio = {"ratio": round(found["eight_s"] / results[-1]["seconds"], 2)} if results else {}
        print(json.dumps(found | ratio), flush=True)


if __name__ == "__main__":
    main()
