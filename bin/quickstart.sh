#!/usr/bin/env bash
# From a fresh clone to a trained model: no GPU, no account.
#
#   ./bin/quickstart.sh
#
# Makes a virtual environment in .venv, installs what docker/requirements-cpu.txt pins, draws 96 sample
# advertisements into playground/dataset, and runs there what you would run on your own images:
#
#   ./02-shuffle_data.sh -v 10 -n set1
#   ./03-do_learn.py -d set1 -w trained-set1
#   ./04-validate.py -m './checkpoints/*.npz' dataset/set1/train.jsonl dataset/set1/valid.jsonl
#
# It can be run again, from any folder; what is installed is not installed twice, and a
# playground/dataset/data.jsonl that is already there is used as it is.
#
#   --install-only     stop after installing
#   --with WHAT        cpu, or cuda12 (NVIDIA driver 525 or newer) or cuda13 (580 or newer) to use a GPU
#   -h, --help         this text
#   ROLLTUNE_PYTHON    the Python to use (3.11 to 3.13) instead of the newest that is found
#   ROLLTUNE_VENV      where the virtual environment is kept instead of .venv
set -euo pipefail
# shellcheck source=bin/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

install_only=no
accelerator=cpu
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) print_help "${BASH_SOURCE[0]}" && exit ;;
    --install-only) install_only=yes ;;
    --with)
      accelerator=${2:-}
      case "$accelerator" in
        cpu | cuda12 | cuda13) shift ;;
        *) fail "--with takes cpu, cuda12 or cuda13, not '$accelerator'" ;;
      esac
      ;;
    *) fail "unknown argument: $1" "./bin/quickstart.sh --help shows what there is" ;;
  esac
  shift
done

if [ "$accelerator" != cpu ] && [ "$(uname -s)" != Linux ]; then
  fail "JAX computes on an NVIDIA GPU under Linux only, and this is $(uname -s)" \
    "On Windows work in the container (./bin/docker-build.sh), or run this inside WSL2; here: --with cpu"
fi

# Shows a command as one would type it, and runs it.
run() {
  local word line=""
  for word in "$@"; do
    case "$word" in
      *[*\ ]*) line+=" '$word'" ;;
      *) line+=" $word" ;;
    esac
  done
  printf '\n$%s\n' "$line"
  "$@"
}

start=$SECONDS
install_locked "$ROOT/docker/requirements-$accelerator.txt"
say "installed in $VENV ($((SECONDS - start)) s)"
[ "$install_only" = no ] || exit 0

make_playground
export VIRTUAL_ENV=$VENV PATH="${PYTHON%/*}:$PATH"
cd "$ROOT/playground"
if [ -e dataset/data.jsonl ]; then
  say "playground/dataset/data.jsonl is there already: working on it"
else
  run python -m rolltune sample-ads dataset
fi
start=$SECONDS
run ./02-shuffle_data.sh -v 20 -n set1 --seed 1 --force
run ./03-do_learn.py -d set1 -w trained-set1
run ./04-validate.py -m './checkpoints/*.npz' dataset/set1/train.jsonl dataset/set1/valid.jsonl

say "
Done in $((SECONDS - start)) s."
for kind in 'roll:checkpoints/trained-set1.npz' 'report:checkpoints/*.html' 'report:reports/*.html'; do
  for path in ${kind#*:}; do
    [ ! -e "$path" ] || say "  the ${kind%%:*}: $ROOT/playground/$path"
  done
done
say "
Next, with your own images: put them and a data.jsonl into playground/dataset, then
  source $(printf %q "${PYTHON%/*}/activate")
  cd $(printf %q "$ROOT/playground")
  ./02-shuffle_data.sh -v 10 -n set2"
