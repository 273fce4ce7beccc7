#!/bin/sh
# Make or refresh .venv. Called by the Makefile: .ci/setup.sh PYTHON EXTRAS
set -eu
python=$1
extras=$2
here=$(pwd)
installed=.venv/.installed

fail() {
    echo "error: $1" >&2
    echo "Name another interpreter: make PYTHON=python3.12" >&2
    exit 2
}

command -v "$python" >/dev/null 2>&1 || fail "$python is not installed."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or later is needed, $python is $("$python" --version)."

# Two makes at once: the second waits, then finds the work done. (No flock on macOS: no waiting.)
if command -v flock >/dev/null 2>&1; then
    exec 9>.venv.lock
    flock 9
fi
if [ -f "$installed" ] && [ "$(cat "$installed")" = "$here" ] && [ "$installed" -nt pyproject.toml ]; then
    exit 0
fi

echo "Setting up .venv with [$extras] (about two minutes, once) ..."
# An environment holds absolute paths, so one that was moved is made anew.
if [ -f "$installed" ] && [ "$(cat "$installed")" != "$here" ]; then
    "$python" -m venv --clear .venv
elif ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    "$python" -m venv --clear .venv
fi
# -qq drops pip's notes on every package; errors are still printed.
.venv/bin/python -m pip --disable-pip-version-check install -qq --editable ".[$extras]" \
    --constraint .ci/constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"}
printf '%s' "$here" >"$installed"
