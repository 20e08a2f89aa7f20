#!/usr/bin/env bash
# Split dataset/data.jsonl into train, valid and test: ./02-shuffle_data.sh --help shows examples.
set -euo pipefail

unset CDPATH # or cd may go elsewhere, and print where it went
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

# The environment that bin/quickstart.sh made, where there is one and no other was chosen.
python="${PYTHON:-}"
if [[ -z "$python" && -z "${VIRTUAL_ENV:-}" ]]; then
  for candidate in "$here/../.venv/bin/python" "$here/../.venv/Scripts/python.exe"; do
    if [[ -x "$candidate" ]]; then
      python="$candidate"
      break
    fi
  done
fi
python="${python:-$(command -v python3 || command -v python || true)}"
if [[ -z "$python" ]]; then
  echo "error: no Python found: run ../bin/quickstart.sh once" >&2
  exit 2
fi
if ! "$python" -c 'import rolltune' 2>/dev/null; then
  echo "error: rolltune is not installed here: run ../bin/quickstart.sh, then source ../.venv/bin/activate" >&2
  exit 2
fi
exec "$python" -m rolltune shuffle --dataset-folder "$here/dataset" "$@"
