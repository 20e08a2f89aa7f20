#!/usr/bin/env bash
# Times our step and, where a peer's script is given, the peer's, on one GPU in one run.
#   PEER=path/to/peer_hf.py  OUT=folder  benchmarks/suite.sh
# Writes $OUT/ours.jsonl and $OUT/peer.jsonl, prints the ratios, and times the whole job last: eight rolls against eight
# runs of the peer, and four rolls with all but 12 GiB of the card taken.
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
ours --batch 2 --method attention --steps 30
ours --batch 16 --steps 9
ours --batch 64 --steps 4

if [ -n "${PEER:-}" ]; then
  cat >"$OUT/settings" <<'SETTINGS'
--model paligemma-3b --method lora --batch 2 --compile 1 --steps 20
--model paligemma-3b --method lora --batch 2 --seq 16 --compile 1 --steps 20 --tag short
--model paligemma-3b --method attn --batch 2 --compile 1 --steps 20
--model paligemma-3b --method lora --batch 16 --compile 1 --steps 10 --warmup 3
--model paligemma-3b --method lora --batch 64 --compile 1 --steps 5 --warmup 2
SETTINGS
  (cd "$(dirname "$PEER")" && timeout "${PEER_SECONDS:-240}" "$PYTHON" "$(basename "$PEER")" \
    --suite "$OUT/settings" --out "$OUT/peer.jsonl" 2>>"$OUT/peer.log" | cut -c1-120)
fi

"$PYTHON" benchmarks/ratios.py "$OUT/ours.jsonl" "$OUT/peer.jsonl"

job() { timeout 300 "$PYTHON" benchmarks/whole_job.py --folder "${JOB:-$OUT/job}" "$@" 2>>"$OUT/ours.log" | tee -a "$OUT/job.jsonl"; }
job ${PEER:+--peer "$PEER"}
job --rolls 4 --times 1 --cap 12
