#!/bin/sh
# Say in one line what is missing before anything is installed. Usage: tools/check-setup.sh PYTHON
python=$1

fail() {
    echo "rankserver: $1" >&2
    exit 1
}

command -v "$python" >/dev/null 2>&1 || fail "needs Python 3.10 or newer; '$python' was not found (on Debian: apt install python3)"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
    fail "needs Python 3.10 or newer; '$python' is $("$python" -V 2>&1). Name another with: make PYTHON=python3.12 ..."
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "needs Python's venv module (on Debian: apt install python3-venv)"
compiler=${CC:-cc}
command -v "${compiler%% *}" >/dev/null 2>&1 ||
    fail "needs a C compiler; '$compiler' was not found (on Debian: apt install build-essential)"
header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
test -f "$header" || fail "needs Python's C headers; $header was not found (on Debian: apt install python3-dev)"
