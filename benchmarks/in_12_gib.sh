#!/usr/bin/env bash
# Six models on a card of which 12 GiB may be used (another process holds the rest): random weights at real size are
# loaded, trained, scored, written with and saved; beside each a peer at its best setting within the same 12 GiB.
#   PEER=path/to/peer_hf.py  OUT=folder  benchmarks/in_12_gib.sh [ROW ...]
# Rows: paligemma paligemma2 gemma llama llava phi; all without a name. $OUT/weights takes 6 to 21 GB a model, and is
# emptied after each row. Writes $OUT/ours.jsonl and $OUT/peer.jsonl, and prints both.
set -u
unset CDPATH # or cd may go elsewhere
cd "$(dirname "$0")/.." || exit 1
OUT=${OUT:-.}
PYTHON=${PYTHON:-python3}
CAP=${CAP:-12}
export XLA_PYTHON_CLIENT_PREALLOCATE=false XLA_PYTHON_CLIENT_ALLOCATOR=cuda_async PYTHONUNBUFFERED=1

ours() {
  timeout "${SECONDS_EACH:-280}" "$PYTHON" benchmarks/families.py "$@" --cap "$CAP" --folder "$OUT/weights" 2>>"$OUT/ours.log" |
    tee -a "$OUT/ours.jsonl"
  rm -rf "$OUT/weights"
}

peer() {
  if [ -z "${PEER:-}" ]; then return; fi
  (cd "$(dirname "$PEER")" && timeout "${SECONDS_EACH:-280}" "$PYTHON" "$(basename "$PEER")" \
    --mem-cap-gb "$CAP" --out "$OUT/peer.jsonl" "$@" 2>>"$OUT/peer.log" | cut -c1-200)
}

row() {
  case $1 in
    paligemma)
      ours paligemma-3b --batch 2 --text 16 --rolls 4
      ours paligemma-3b --batch 2 --text 128 --quantize nf4-double --quantize-tower nf4-double --remat
      peer --model paligemma-3b --method lora --batch 2 --seq 16 --compile 2 --compile-mode reduce-overhead --warmup 6
      peer --model paligemma-3b --method qlora --batch 2 --remat 1 --compile 1
      ;;
    paligemma2) ours paligemma2-3b --batch 2 --text 128 ;;
    gemma)
      # 1,022 of text: two more mark its beginning and end, and the peer's rows are of 1,024 in all
      ours gemma-2-9b --batch 4 --text 1022 --classes 3 --quantize nf4-double --remat
      ours gemma-2-9b --batch 4 --text 1022 --classes 3 --quantize nf4-float8 --remat
      peer --model gemma2-9b-cls --method qlora --batch 4 --seq 1024 --remat 1 --attn eager --compile 1 --steps 6 --warmup 2
      ;;
    llama)
      ours llama-3.2-11b-vision --batch 1 --text 512 --quantize nf4 --remat
      peer --model llama32-11b-vision --method qlora --batch 1 --remat 1 --steps 6 --warmup 2
      ;;
    llava)
      ours llava-v1.6-mistral-7b --batch 1 --text 128 --quantize nf4-double --remat
      peer --model llava16-mistral-7b --method qlora --batch 1 --remat 1 --compile 1 --steps 6 --warmup 2
      ;;
    phi)
      ours phi-3.5-vision --batch 1 --text 256 --size 1344 1344 --crops 16 --quantize nf4-double --remat
      ours phi-3.5-vision --batch 1 --text 256 --pictures 2 --quantize nf4-double --remat
      ours phi-3.5-vision --batch 1 --text 256 --remat
      peer --model phi35-vision --method lora --batch 1 --remat 1 --compile 1 --steps 6 --warmup 2
      ;;
    *)
      echo "no row $1; there are paligemma paligemma2 gemma llama llava phi" >&2
      exit 2
      ;;
  esac
}

if [ $# -eq 0 ]; then set -- paligemma paligemma2 gemma llama llava phi; fi
for name in "$@"; do row "$name"; done
