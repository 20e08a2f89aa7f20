# shellcheck shell=bash
# Shared by docker-build.sh and docker-run.sh, after common.sh: the engine, paths as it wants them, the GPU.

DOCKER=${ROLLTUNE_DOCKER:-docker}
# shellcheck disable=SC2034  # read by the scripts that source this
IMAGE=${ROLLTUNE_IMAGE:-rolltune:latest}

# MSYS rewrites arguments that look like paths, those inside the container too: none of it, host_path does the rest.
export MSYS_NO_PATHCONV=1 MSYS2_ARG_CONV_EXCL='*'

# A path of this machine as the docker program wants it: C:/... on Windows.
host_path() {
  if on_windows; then cygpath -m "$1"; else printf '%s\n' "$1"; fi
}

gpu_present() {
  local tool
  for tool in nvidia-smi nvidia-smi.exe; do
    if "$tool" -L 2>/dev/null | grep -q '^GPU '; then return 0; fi
  done
  return 1
}

# One argument a line, quoted for a shell; for people who must translate it to PowerShell or another engine.
print_command() {
  local word line="" separator=""
  for word in "$@"; do
    line+=$separator$(printf %q "$word")
    separator=$' \\\n  '
  done
  printf '%s\n' "$line"
}

need_engine() {
  local version major minor
  command -v "$DOCKER" >/dev/null || fail "there is no '$DOCKER' program on this machine" \
    "Linux: install Docker Engine; Windows and macOS: Docker Desktop. Without a container: ./bin/quickstart.sh"
  if ! version=$("$DOCKER" version --format '{{.Server.Version}}' 2>&1); then
    say "$version"
    fail "the Docker engine does not answer" \
      "Linux: sudo systemctl start docker; if it says permission denied: sudo usermod -aG docker \$USER, log in again" \
      "Windows and macOS: start Docker Desktop and wait until it says that it is running"
  fi
  version=${version##*$'\n'}
  IFS=.- read -r major minor _ <<<"${version}.0"
  case "$major$minor" in
    *[!0-9]* | "") return ;; # a version that is not a number is somebody's own build: let it try
  esac
  if [ "$((10#$major * 100 + 10#$minor))" -lt 2010 ]; then
    fail "the Docker engine is version $version; this needs 20.10 or newer: update Docker"
  fi
}
