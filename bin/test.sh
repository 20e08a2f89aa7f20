#!/usr/bin/env bash
# Run the tests.
#
#   ./bin/test.sh                          all of them
#   ./bin/test.sh tests/data -k shuffle    arguments go to pytest
#   ./bin/test.sh --install-only           only install
#
# Uses the virtual environment of ./bin/quickstart.sh (.venv, or ROLLTUNE_VENV) and installs there what
# docker/requirements-test.txt pins. Tests that need what this machine lacks (torch, a Docker engine,
# the folder of real data) are skipped and say so; with CI=true the container's tests fail instead.
set -euo pipefail
# shellcheck source=bin/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case "${1:-}" in
  -h | --help) print_help "${BASH_SOURCE[0]}" && exit ;;
esac

install_locked "$ROOT/docker/requirements-test.txt"
if [ "${1:-}" = --install-only ]; then exit; fi
cd "$ROOT"
exec "$PYTHON" -m pytest "$@"
