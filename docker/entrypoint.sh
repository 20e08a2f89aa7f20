#!/usr/bin/env bash
# Says on stderr whether JAX will find a GPU, and what to do when not; then becomes the command it was given.
# ROLLTUNE_QUIET=1 leaves out the report. Where there is no GPU at all JAX is told so, or it would show a traceback.
set -uo pipefail

say() { printf 'rolltune: %s\n' "$*" >&2; }

on_wsl() { grep -qi microsoft "${ROLLTUNE_PROC_VERSION:-/proc/version}" 2>/dev/null; }

# older 524.99 525 -> yes
older() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a + 0 < b + 0) }'; }

gpu_listed() { nvidia-smi -L 2>/dev/null | grep -q '^GPU '; }

# nvidia-smi may be missing where the card is not: the devices of Linux and of WSL2 are what JAX needs.
gpu_possible() {
  local devices=${ROLLTUNE_DEVICES:-/dev}
  gpu_listed || compgen -G "$devices/nvidia[0-9]*" >/dev/null || [ -e "$devices/dxg" ]
}

# list_gpus FIELD...: what nvidia-smi says of each card, a line each.
list_gpus() {
  local IFS=,
  nvidia-smi --query-gpu="$*" --format=csv,noheader 2>/dev/null
}

report() {
  local driver_needed=525 capability_needed=5.2 cards name memory driver capability problem=no
  if [ "${ROLLTUNE_ACCELERATOR:-cpu}" = cpu ]; then
    say "this image computes on the CPU"
    return
  fi
  if [ "$ROLLTUNE_ACCELERATOR" = cuda13 ]; then driver_needed=580 capability_needed=7.5; fi
  if ! gpu_listed; then
    say "no GPU can be seen in this container: JAX will compute on the CPU, slowly"
    say "  with a plain docker run, add --gpus all (bin/docker-run.sh does so when nvidia-smi -L lists a card)"
    say "  on Linux the host needs the NVIDIA driver and nvidia-container-toolkit"
    if on_wsl; then
      say "  on WSL2 the driver is Windows' own: update it there, install none inside WSL,"
      say "  and check Docker Desktop: Settings, Resources, WSL integration"
    fi
    return
  fi
  # Drivers before 510 do not know compute_cap and answer nothing else either.
  cards=$(list_gpus name memory.total driver_version compute_cap) ||
    cards=$(list_gpus name memory.total driver_version)
  while IFS=, read -r name memory driver capability; do
    name=${name# } memory=${memory# } driver=${driver# } capability=${capability# }
    say "GPU $name, $memory, driver $driver"
    if older "$driver" "$driver_needed"; then
      say "  this driver is too old for $ROLLTUNE_ACCELERATOR, which needs $driver_needed or newer: update the driver"
      if [ "$ROLLTUNE_ACCELERATOR" = cuda13 ]; then say "  or build for older drivers: bin/docker-build.sh cuda12"; fi
      problem=yes
    fi
    if [ -n "$capability" ] && older "$capability" "$capability_needed"; then
      say "  this card (compute capability $capability) is too old for $ROLLTUNE_ACCELERATOR, which needs" \
        "$capability_needed: use bin/docker-build.sh cpu"
      problem=yes
    fi
  done <<<"$cards"
  if on_wsl; then
    say "WSL2: Windows moves GPU memory to RAM without an error when it runs short, and training gets ten times slower"
    if [ "${XLA_PYTHON_CLIENT_ALLOCATOR:-cuda_async}" != cuda_async ]; then
      say "  if allocations fail although memory is free, take XLA_PYTHON_CLIENT_ALLOCATOR=cuda_async again"
    fi
  fi
  if [ "$problem" = yes ]; then say "JAX will probably compute on the CPU"; fi
}

if [ -z "${ROLLTUNE_QUIET:-}" ]; then report; fi
if ! gpu_possible; then export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"; fi
exec "$@"
