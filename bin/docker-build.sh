#!/usr/bin/env bash
# Build the container image.
#
#   ./bin/docker-build.sh             for NVIDIA GPUs, driver 525 or newer (6.3 GB on disk)
#   ./bin/docker-build.sh cuda13      for NVIDIA GPUs, driver 580 or newer (5.2 GB)
#   ./bin/docker-build.sh cpu         without GPU (1.1 GB)
#
#   --big-vision     add big_vision, the reference implementation, for its parity test
#   --dry-run        print the docker command instead of running it
#   -h, --help       this text
#   ROLLTUNE_IMAGE              the name to give it instead of rolltune:latest
#   ROLLTUNE_BASE_IMAGE         the image to start from instead of python:3.13-slim
#   ROLLTUNE_CA_BUNDLE          a file of certificate authorities to trust while packages are fetched (company
#                               proxies); it is not kept in the image
#   ROLLTUNE_DOCKER             the docker program, if not docker
#   ROLLTUNE_DOCKER_BUILD_ARGS  more arguments for docker build, split at spaces and lines
set -euo pipefail
# shellcheck source=bin/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=bin/docker-common.sh
. "$ROOT/bin/docker-common.sh"

accelerator=cuda12
big_vision=no
dry_run=no
for argument in "$@"; do
  case "$argument" in
    cpu | cuda12 | cuda13) accelerator=$argument ;;
    --big-vision) big_vision=yes ;;
    --dry-run) dry_run=yes ;;
    -h | --help) print_help "${BASH_SOURCE[0]}" && exit ;;
    *) fail "unknown argument: $argument (expected cpu, cuda12, cuda13 or a flag of --help)" ;;
  esac
done

extra=()
split_words extra "${ROLLTUNE_DOCKER_BUILD_ARGS:-}"
command=("$DOCKER" build --tag "$IMAGE" --build-arg "ACCELERATOR=$accelerator" --build-arg "BIG_VISION=$big_vision")
if [ -n "${ROLLTUNE_BASE_IMAGE:-}" ]; then command+=(--build-arg "BASE_IMAGE=$ROLLTUNE_BASE_IMAGE"); fi
if [ -n "${ROLLTUNE_CA_BUNDLE:-}" ]; then
  [ -f "$ROLLTUNE_CA_BUNDLE" ] || fail "ROLLTUNE_CA_BUNDLE=$ROLLTUNE_CA_BUNDLE is not a file"
  command+=(--secret "id=ca_bundle,src=$(host_path "$ROLLTUNE_CA_BUNDLE")")
fi
command+=(${extra[@]+"${extra[@]}"} "$(host_path "$ROOT")")

export DOCKER_BUILDKIT=1
if [ "$dry_run" = yes ]; then
  print_command DOCKER_BUILDKIT=1 "${command[@]}"
  exit 0
fi
need_engine
if [ "$accelerator" != cpu ] && ! gpu_present; then
  say "note: no NVIDIA GPU on this machine; ./bin/docker-build.sh cpu makes an image of a fifth of the size"
fi
"${command[@]}" || fail "docker could not build the image; its messages are above" \
  "'BuildKit is enabled but the buildx component is missing': install the docker-buildx-plugin package" \
  "certificate errors: name your company's certificate authorities in ROLLTUNE_CA_BUNDLE"
say "built $IMAGE ($accelerator); next: ./bin/docker-run.sh"
