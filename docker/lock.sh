#!/usr/bin/env bash
# Write the lock files again after a change of pyproject.toml or docker/constraints.txt (maintainers; needs uv).
#
#   ./docker/lock.sh             keeps the versions that still satisfy the ranges
#   ./docker/lock.sh --upgrade   takes the newest
#
# One lock serves Python 3.11 to 3.13 on Linux, macOS and Windows. The test lock is resolved first and the others
# are held to it, so that what is tested is what is shipped.
set -euo pipefail
unset CDPATH # or cd may go elsewhere
cd "$(dirname "${BASH_SOURCE[0]}")/.."

compile() {
  local out=docker/requirements-$1.txt
  shift
  uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
    --no-annotate --no-emit-index-url --custom-compile-command ./docker/lock.sh \
    --constraint docker/constraints.txt "$@" pyproject.toml docker/build-requirements.in --output-file "$out"
}

compile test --extra hub --extra serve --extra test --extra lint --extra parity "$@"
for accelerator in cuda13 cuda12; do
  compile "$accelerator" --extra hub --extra serve --extra "$accelerator" --constraint docker/requirements-test.txt "$@"
done
compile cpu --extra hub --extra serve --constraint docker/requirements-test.txt "$@"
uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes --no-annotate \
  --no-emit-index-url --custom-compile-command ./docker/lock.sh --constraint docker/requirements-test.txt "$@" \
  docker/big-vision.in --output-file docker/requirements-big-vision.txt
