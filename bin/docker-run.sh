#!/usr/bin/env bash
# Work in the container: a shell in playground/, or any command there.
#
#   ./bin/docker-run.sh                                   a shell
#   ./bin/docker-run.sh ./03-do_learn.py -d set1 -w one   a command; its exit status is returned
#   ./bin/docker-run.sh --dry-run                         print the docker command, to change or translate
#
# playground/, cache/ and checkpoints/ of this repository are mounted, so everything you make stays on this machine,
# and is yours: the container runs as you. Kaggle and Hugging Face credentials are mounted read-only if you have any.
# The GPU is passed on if nvidia-smi lists one.
#
#   --cpu, --gpu     don't pass the GPU on; pass it on without looking
#   --dry-run        print the docker command instead of running it
#   -h, --help       this text
#   ROLLTUNE_IMAGE            the image instead of rolltune:latest
#   ROLLTUNE_PLAYGROUND, ROLLTUNE_CACHE, ROLLTUNE_CHECKPOINTS   folders instead of the repository's
#   ROLLTUNE_DOCKER           the docker program, if not docker
#   ROLLTUNE_DOCKER_RUN_ARGS  more arguments for docker run, split at spaces and lines
# Passed on if set: HF_TOKEN KAGGLE_USERNAME KAGGLE_KEY KAGGLE_API_TOKEN WANDB_API_KEY XLA_PYTHON_CLIENT_PREALLOCATE
# XLA_CLIENT_MEM_FRACTION XLA_PYTHON_CLIENT_MEM_FRACTION XLA_PYTHON_CLIENT_ALLOCATOR XLA_FLAGS JAX_PLATFORMS
# ROLLTUNE_QUIET NO_COLOR HTTPS_PROXY
set -euo pipefail
# shellcheck source=bin/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=bin/docker-common.sh
. "$ROOT/bin/docker-common.sh"

gpu=look
dry_run=no
while [ $# -gt 0 ]; do
  case "$1" in
    --cpu) gpu=no ;;
    --gpu) gpu=yes ;;
    --dry-run) dry_run=yes ;;
    -h | --help) print_help "${BASH_SOURCE[0]}" && exit ;;
    --) shift && break ;;
    -*) fail "unknown flag: $1 (./bin/docker-run.sh --help; a command that starts with a dash goes after --)" ;;
    *) break ;;
  esac
  shift
done

# mount HOST CONTAINER [MODE]: a bind mount. --mount, as -v cannot carry a colon; its fields are comma-separated
# values, so the quotes keep commas, and a quote inside is doubled.
mount() {
  local source
  source=$(host_path "$1")
  command+=(--mount "type=bind,\"source=${source//\"/\"\"}\",target=$2${3:+,$3}")
}

# A folder to mount, made by the caller now: the engine would make it as root, or refuse.
folder() {
  mkdir -p "$1" || fail "the folder $1 cannot be made"
  (cd "$1" && pwd)
}

make_playground
playground=$(folder "${ROLLTUNE_PLAYGROUND:-$ROOT/playground}")
cache=$(folder "${ROLLTUNE_CACHE:-$ROOT/cache}")
checkpoints=$(folder "${ROLLTUNE_CHECKPOINTS:-$ROOT/checkpoints}")
[ -e "$playground/checkpoints" ] || [ -L "$playground/checkpoints" ] || mkdir "$playground/checkpoints"

if [ "$dry_run" = no ]; then need_engine; fi

command=("$DOCKER" run --rm --init --interactive --shm-size 1g)
if [ -t 0 ] && [ -t 1 ]; then
  command+=(--tty)
  if on_windows && command -v winpty >/dev/null; then command=(winpty "${command[@]}"); fi
fi
if ! on_windows; then
  # Rootless engines make the container's root the caller; elsewhere the caller's own number keeps files theirs.
  if [ "$dry_run" = no ] && "$DOCKER" info --format '{{.SecurityOptions}}' 2>/dev/null | grep -q rootless; then
    command+=(--user 0:0)
  else
    command+=(--user "$(id -u):$(id -g)")
  fi
fi
if [ "$gpu" = yes ] || { [ "$gpu" = look ] && gpu_present; }; then command+=(--gpus all); fi
mount "$playground" /rolltune/playground
mount "$cache" /rolltune/cache
mount "$checkpoints" /rolltune/playground/checkpoints
home=${HOME:-/nonexistent} # a service may have none
if [ -d "$home/.kaggle" ]; then mount "$home/.kaggle" /home/rolltune/.kaggle readonly; fi
token=${HF_TOKEN_PATH:-${HF_HOME:-$home/.cache/huggingface}/token}
if [ -f "$token" ]; then
  mount "$token" /home/rolltune/huggingface-token readonly
  command+=(--env HF_TOKEN_PATH=/home/rolltune/huggingface-token)
fi
# Names only: docker takes the values from this environment, so that --dry-run and a list of processes show none.
for name in HF_TOKEN KAGGLE_USERNAME KAGGLE_KEY KAGGLE_API_TOKEN WANDB_API_KEY XLA_PYTHON_CLIENT_PREALLOCATE \
  XLA_CLIENT_MEM_FRACTION XLA_PYTHON_CLIENT_MEM_FRACTION XLA_PYTHON_CLIENT_ALLOCATOR XLA_FLAGS JAX_PLATFORMS \
  ROLLTUNE_QUIET NO_COLOR HTTPS_PROXY; do
  if [ -n "${!name:-}" ]; then command+=(--env "$name"); fi
done
extra=()
split_words extra "${ROLLTUNE_DOCKER_RUN_ARGS:-}"
command+=(${extra[@]+"${extra[@]}"} "$IMAGE" "$@")

if [ "$dry_run" = yes ]; then
  print_command "${command[@]}"
  exit 0
fi
if ! "$DOCKER" image inspect "$IMAGE" >/dev/null 2>&1; then
  accelerator=cuda12
  if [ "$gpu" = no ] || { [ "$gpu" = look ] && ! gpu_present; }; then accelerator=cpu; fi
  say "there is no image $IMAGE yet"
  answer=no
  if [ -t 0 ]; then read -r -p "Build it now, for $accelerator? [y/N] " answer || answer=no; fi
  case "$answer" in
    y* | Y*) "$ROOT/bin/docker-build.sh" "$accelerator" ;;
    *) fail "build it first: ./bin/docker-build.sh (or ./bin/docker-build.sh cpu without a GPU)" ;;
  esac
fi
exec "${command[@]}"
