"""Prints what was measured, ours beside the peer's: ratios.py OURS.jsonl [PEER.jsonl]"""

import json
import sys
from pathlib import Path


def read(path: str) -> list[dict]:
    file = Path(path)
    return [json.loads(line) for line in file.read_text().splitlines() if line] if file.exists() else []


def main() -> None:
    ours = read(sys.argv[1])
    peers: dict[tuple, dict] = {}
    for row in read(sys.argv[2]) if len(sys.argv) > 2 else []:  # the peer's best setting is the peer
        key = (row["method"], row["batch"], row.get("tag") or "")
        if row.get("samples_s", 0) > peers.get(key, {}).get("samples_s", 0):
            peers[key] = row
    single = next((row for row in ours if row["tag"] == "single"), None)
    print(f"{'setting':44}{'samples/s':>10}{'step ms':>9}{'peak GiB':>9}{'compile s':>10}{'peer':>9}{'ratio':>7}")
    for row in ours:
        name = f"{row['method']} b{row['batch']}" + (f" x {row['rolls']} rolls" if row["rolls"] > 1 else "")
        name += f", {row['text']} text tokens" + (", cached" if row["cached"] else "")
        name += f", from layer {row['first_layer']}" if row["first_layer"] else ""
        name += f", {row['quantize']}" if row["quantize"] else ""
        name += f" [{row['tag']}]" if row["tag"] else ""
        method = {"attention": "attn"}.get(row["method"], row["method"])
        peer = peers.get((method, row["batch"], "short" if row["text"] == 16 else "")) or {}
        rate = peer.get("samples_s")
        beside = f"{rate:9.1f}{row['samples_s'] / rate:7.2f}" if rate else f"{'-':>9}{'-':>7}"
        print(
            f"{name:44}{row['samples_s']:10.1f}{row['step_ms']:9.2f}{row['peak_gib']:9.2f}{row['compile_s']:10.1f}{beside}"
        )
        if single is not None and row["rolls"] > 1:
            print(f"{'':4}against our single run: {row['samples_s'] / single['samples_s']:.2f}")


if __name__ == "__main__":
    main()
