# shellcheck shell=bash
# Shared by the helpers in this folder, which source it: messages, the repository's place, Windows, Python.

# With CDPATH set, cd may go to another folder of that name, and prints where it went into what is captured here.
unset CDPATH
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s\n' "$*" >&2; }

fail() {
  local line
  say "error: $1"
  shift
  for line in "$@"; do say "  $line"; done
  exit 1
}

# Git Bash, MSYS2 and Cygwin: bash on Windows, whose programs want Windows paths.
on_windows() {
  case "$(uname -s)" in
    MINGW* | MSYS* | CYGWIN*) return 0 ;;
    *) return 1 ;;
  esac
}

# split_words NAME TEXT: TEXT split at spaces and ends of lines into the array NAME.
split_words() { IFS=$' \t\n' read -r -d '' -a "$1" < <(printf '%s\0' "$2"); }

# The help of a script is the comment at its top, from the second line to the first that is not a comment.
print_help() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$1"; }

# playground/checkpoints is how the numbered scripts reach checkpoints/: a link, or a plain folder where Windows
# does not let everybody make links.
make_playground() {
  mkdir -p "$ROOT/playground/dataset" "$ROOT/cache" "$ROOT/checkpoints"
  if [ ! -e "$ROOT/playground/checkpoints" ]; then
    if on_windows; then
      mkdir "$ROOT/playground/checkpoints"
    else
      ln -sfn ../checkpoints "$ROOT/playground/checkpoints"
    fi
  fi
}

supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; }

# Prints the first Python from 3.11 to 3.13, newest first; ROLLTUNE_PYTHON names one instead.
find_python() {
  local name found=""
  if [ -n "${ROLLTUNE_PYTHON:-}" ]; then
    supported "$ROLLTUNE_PYTHON" || fail "ROLLTUNE_PYTHON=$ROLLTUNE_PYTHON is not a Python from 3.11 to 3.13"
    printf '%s\n' "$ROLLTUNE_PYTHON"
    return
  fi
  for name in python3.13 python3.12 python3.11 python3 python; do
    if supported "$name"; then
      printf '%s\n' "$name"
      return
    fi
    if [ -z "$found" ]; then
      found=$("$name" -c 'import sys; print(sys.executable, "is", sys.version.split()[0])' 2>/dev/null) || found=""
    fi
  done
  if [ -n "$found" ]; then
    fail "this needs Python 3.11, 3.12 or 3.13; $found" \
      "Install one beside it (Debian, Ubuntu: sudo apt install python3.11 python3.11-venv) and run this again;" \
      "or work in the container, which brings its own: ./bin/docker-build.sh"
  fi
  fail "there is no Python on this machine's PATH; this needs 3.11, 3.12 or 3.13" \
    "Debian, Ubuntu: sudo apt install python3 python3-venv    Fedora: sudo dnf install python3    Windows: python.org" \
    "or work in the container, which brings its own: ./bin/docker-build.sh"
}

# The Python inside a virtual environment, which Windows keeps in another folder.
venv_python() {
  if [ -x "$1/Scripts/python.exe" ]; then
    printf '%s\n' "$1/Scripts/python.exe"
  else
    printf '%s\n' "$1/bin/python"
  fi
}

# install_locked LOCK: the virtual environment (.venv, or ROLLTUNE_VENV) with exactly what LOCK pins and rolltune itself,
# editable. Does nothing, and needs no network, when that is how it already is. Sets VENV and PYTHON.
install_locked() {
  local lock=$1 python state log
  VENV=${ROLLTUNE_VENV:-$ROOT/.venv}
  case "$VENV" in
    /* | [A-Za-z]:*) ;;
    *) VENV=$PWD/$VENV ;; # it is put on PATH, and the scripts go to other folders
  esac
  PYTHON=$(venv_python "$VENV")
  state=$(printf '%s\n' "$ROOT" && cat "$lock" "$ROOT/pyproject.toml")
  if supported "$PYTHON" && [ -f "$VENV/rolltune-installed" ] && [ "$state" = "$(cat "$VENV/rolltune-installed")" ]; then
    return
  fi
  # One without pip is what a first try leaves where python3-venv is missing.
  if ! supported "$PYTHON" || ! "$PYTHON" -c 'import pip' >/dev/null 2>&1; then
    python=$(find_python) || exit 1
    if [ "$VENV" != "${VENV//:/}" ] && ! on_windows; then
      fail "Python makes no virtual environment below a folder with a colon in its name: $VENV" \
        "Keep it elsewhere, now and later: export ROLLTUNE_VENV=\$HOME/rolltune-venv"
    fi
    say "making a virtual environment in $VENV with $("$python" --version)"
    "$python" -m venv --clear "$VENV" || fail "could not make a virtual environment in $VENV" \
      "Debian and Ubuntu keep that part of Python apart: sudo apt install python3-venv"
    PYTHON=$(venv_python "$VENV")
  fi
  rm -f "$VENV/rolltune-installed"
  say "installing what ${lock#"$ROOT/"} pins (once; a minute or two)"
  log=$VENV/install.log
  # The lock is complete, so pip is to resolve nothing: for an extra (coverage[toml]) it would ask for the newest
  # version beside the pinned one. No build isolation: setuptools is pinned too, and nothing comes from outside the lock.
  if ! "$PYTHON" -m pip install --disable-pip-version-check --no-deps --require-hashes -r "$lock" >"$log" 2>&1 ||
    ! "$PYTHON" -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e "$ROOT" >>"$log" 2>&1; then
    tail -n 15 "$log" >&2
    if grep -qiE 'connection|resolve|timed? ?out|unreachable|No matching distribution' "$log"; then
      fail "pip could not fetch the packages: is there a network?" \
        "Behind a proxy set HTTPS_PROXY; with a company's own certificate authority set PIP_CERT to its file." \
        "The whole log is in $log; run this again to go on, what is installed stays."
    fi
    fail "pip could not install the packages; the whole log is in $log"
  fi
  printf '%s\n' "$state" >"$VENV/rolltune-installed"
}
