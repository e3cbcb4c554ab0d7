#!/bin/sh
# Makes .venv ready: `install.sh run` for the program, `install.sh test` for its tests too; `install.sh numpy1` makes
# .venv-numpy1 beside it, with an older numpy in front of all that is in .venv.
# PYTHON names the interpreter to use; TORCH_INDEX the package index with PyTorch's CPU builds (empty: none).
set -eu
purpose=${1:?usage: requirements/install.sh run|test|numpy1}
cd "$(dirname "$0")/.."
export PIP_USER=0
TORCH_INDEX=${TORCH_INDEX-https://download.pytorch.org/whl/cpu}
python=.venv/bin/python
# Present while packages are being written; found at the start, it means that an installation was cut short.
unfinished=.venv/.unfinished

say() { printf '%s\n' "$*" >&2; }

# A stamp names the folder and what was installed, so that a moved tree or a changed pin is noticed.
stamp() { pwd -P; cat "$@" | cksum; }

stamp_for() {
    case $1 in
        run) stamp requirements/run.txt pyproject.toml ;;
        test) stamp requirements/run.txt requirements/test.txt ;;
        numpy1) stamp requirements/numpy1.txt requirements/run.txt requirements/test.txt ;;
        *) say "requirements/install.sh: '$1' is neither run, test nor numpy1."; exit 2 ;;
    esac
}

is_ready() { [ "$(cat ".venv/.ready-$1" 2>/dev/null)" = "$(stamp_for "$1")" ]; }

is_supported() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }

has_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        set -- "$PYTHON"
    else
        set -- python3.12 python3.11 python3.10 python3 python
    fi
    without_venv=
    for candidate in "$@"; do
        is_supported "$candidate" || continue
        if has_venv "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
        without_venv=$candidate
    done
    if [ -n "$without_venv" ]; then
        version=$("$without_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        say "Python $version ($without_venv) lacks the venv module."
        say "Install it (Debian, Ubuntu: sudo apt install python$version-venv) and run make again."
    else
        say "No usable Python 3.10, 3.11 or 3.12 was found (tried: $*)."
        say "Install one (Debian, Ubuntu: sudo apt install python3 python3-venv; Fedora: sudo dnf install python3.12;" \
            "macOS: brew install python@3.12), or name one: make demo PYTHON=/path/to/python3.12"
    fi
    exit 1
}

answers() {
    "$python" -c 'import signal, sys, urllib.request
signal.alarm(10)
urllib.request.urlopen(sys.argv[1], timeout=5)' "$1" 2>/dev/null
}

# Only on Linux does the public package index serve PyTorch with several GB of CUDA libraries.
torch_index_options() {
    [ "$(uname -s)" = Linux ] && [ -n "$TORCH_INDEX" ] || return 0
    case $TORCH_INDEX in
        http*)
            if ! answers "${TORCH_INDEX%/}/torch/"; then
                say "$TORCH_INDEX does not answer, so PyTorch comes from where pip is set up to look."
                say "That may be PyTorch for NVIDIA GPUs, several GB: to avoid it, stop and name a mirror," \
                    "make demo TORCH_INDEX=URL"
                return 0
            fi ;;
    esac
    printf '%s\n' "--extra-index-url=$TORCH_INDEX"
}

# An installation that fails by itself leaves a sound .venv behind; one that is killed leaves the mark. Of what pip
# says only warnings and errors are shown: a user of the program need not know every package.
pip_install() {
    : > "$unfinished"
    status=0
    "$python" -m pip install --quiet --disable-pip-version-check "$@" || status=$?
    [ "$status" -gt 1 ] || rm -f "$unfinished"
    [ "$status" -eq 0 ] || { say "pip could not install what requirements/ lists (its message is above)."; exit 1; }
}

prepare_venv() {
    [ ! -e "$unfinished" ] && "$python" -m pip --version >/dev/null 2>&1 && return
    interpreter=$(find_python)
    say "Creating .venv with $("$interpreter" --version 2>&1) ..."
    "$interpreter" -m venv --clear .venv
}

install_run() {
    prepare_venv
    rm -f .venv/.ready-*
    say "Installing PyTorch and what else the program needs (once; a few hundred MB, some minutes) ..."
    option=$(torch_index_options)
    pip_install ${option:+"$option"} -r requirements/run.txt
    say "Installing DDSPSegmentation itself ..."
    pip_install --no-build-isolation --no-deps --editable .
    stamp_for run > .venv/.ready-run
}

install_test() {
    rm -f .venv/.ready-test .venv/.ready-numpy1
    say "Installing what the tests need ..."
    pip_install -r requirements/test.txt -c requirements/run.txt
    stamp_for test > .venv/.ready-test
}

packages_of() { "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

# Nothing but numpy is fetched a second time: the rest is found through a .pth file.
install_numpy1() {
    say "Installing numpy 1.26 beside it, for the tests that Slicer 5.8 would run ..."
    rm -f .venv/.ready-numpy1
    "$python" -m venv --clear .venv-numpy1
    .venv-numpy1/bin/python -m pip install --disable-pip-version-check --quiet --no-deps -r requirements/numpy1.txt
    packages_of "$python" > "$(packages_of .venv-numpy1/bin/python)/everything-else.pth"
    stamp_for numpy1 > .venv/.ready-numpy1
}

wanted=$(stamp_for "$purpose")
if [ -e "$unfinished" ] || ! is_ready run || ! "$python" -c '' 2>/dev/null; then
    install_run
fi
if [ "$purpose" != run ] && ! is_ready test; then
    install_test
fi
if [ "$purpose" = numpy1 ] && { ! is_ready numpy1 || ! .venv-numpy1/bin/python -c '' 2>/dev/null; }; then
    install_numpy1
fi
