#!/usr/bin/env bash
# Times our step and, where a peer's script is given, the peer's, on one GPU in one run.
#   PEER=path/to/peer_hf.py  OUT=folder  benchmarks/suite.sh
#   BIG_VISION=path/to/big_vision: its own demo beside ours, too (BIG_VISION=installed where it can be imported)
# Writes $OUT/ours.jsonl and $OUT/peer.jsonl, prints the ratios, and times the whole job last: eight rolls against eight
# runs of the peer, in float8, too, and four rolls with all but 12 GiB of the card taken.
set -u
unset CDPATH # or cd may go elsewhere
cd "$(dirname "$0")/.." || exit 1
OUT=${OUT:-.}
PYTHON=${PYTHON:-python3}
export XLA_PYTHON_CLIENT_PREALLOCATE=false PYTHONUNBUFFERED=1

ours() { timeout 100 "$PYTHON" benchmarks/step_speed.py "$@" 2>>"$OUT/ours.log" | tee -a "$OUT/ours.jsonl" | cut -c1-160; }
short=(--batch 2 --text 16 --answer 2 --cached)
ours --batch 2 --steps 30
ours "${short[@]}" --steps 30 --tag single
ours "${short[@]}" --rolls 8 --steps 15
ours "${short[@]}" --rolls 8 --first-layer 9 --steps 15
ours --batch 2 --quantize float8 --steps 30
ours "${short[@]}" --rolls 8 --quantize float8 --steps 15
ours --batch 2 --method attention --steps 30
ours --batch 8 --method attention --steps 15
ours "${short[@]}" --method attention --steps 30
ours "${short[@]}" --method attention --rolls 4 --steps 15
ours --batch 8 --text 16 --answer 2 --cached --method attention --steps 15
ours --batch 16 --steps 9
ours --batch 64 --steps 4
ours --batch 64 --quantize float8 --steps 4

if [ -n "${PEER:-}" ]; then
  cat >"$OUT/settings" <<'SETTINGS'
--model paligemma-3b --method lora --batch 2 --seq 16 --compile 1 --steps 20 --tag short
--model paligemma-3b --method lora --batch 2 --compile 1 --steps 20
--model paligemma-3b --method attn --batch 2 --compile 1 --steps 20
--model paligemma-3b --method lora --batch 16 --compile 1 --steps 10 --warmup 3
--model paligemma-3b --method lora --batch 64 --compile 1 --steps 5 --warmup 2
--model paligemma-3b --method lora --batch 2 --seq 16 --compile 2 --compile-mode reduce-overhead --steps 20 --warmup 6 --tag short
--model paligemma-3b --method lora --batch 2 --compile 2 --compile-mode reduce-overhead --steps 20 --warmup 6
--model paligemma-3b --method attn --batch 2 --compile 2 --compile-mode reduce-overhead --steps 20 --warmup 6
--model paligemma-3b --method lora --batch 16 --compile 2 --compile-mode reduce-overhead --steps 10 --warmup 6
--model paligemma-3b --method lora --batch 64 --compile 2 --compile-mode reduce-overhead --steps 5 --warmup 6
SETTINGS
  # The peer's best setting is the peer: compiled layers, which wait for their host, and the whole model with CUDA graphs,
  # which takes up to two minutes to compile. Where both ran the faster one counts.
  (cd "$(dirname "$PEER")" && timeout "${PEER_SECONDS:-900}" "$PYTHON" "$(basename "$PEER")" \
    --suite "$OUT/settings" --out "$OUT/peer.jsonl" 2>>"$OUT/peer.log" | cut -c1-120)
fi

"$PYTHON" benchmarks/ratios.py "$OUT/ours.jsonl" "$OUT/peer.jsonl"

demo() {
  local where=()
  if [ "$BIG_VISION" != installed ]; then where=(--big-vision "$BIG_VISION"); fi
  timeout 100 "$PYTHON" benchmarks/big_vision_demo.py "${where[@]}" --ours "$OUT/ours.jsonl" "$@" | tee -a "$OUT/demo.jsonl"
}
if [ -n "${BIG_VISION:-}" ]; then
  demo --batch 2
  demo --batch 8 --steps 15
  demo --batch 2 --text 16
  demo --batch 8 --text 16 --steps 15
fi

job() { timeout 600 "$PYTHON" benchmarks/whole_job.py --folder "${JOB:-$OUT/job}" "$@" 2>>"$OUT/ours.log" | tee -a "$OUT/job.jsonl"; }
job ${PEER:+--peer "$PEER"}
job --times 1 --config.quantize=float8 # its first start: it is packed, and compiled
job --times 1 --config.quantize=float8
job --rolls 4 --times 1 --cap 12
