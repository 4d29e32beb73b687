#!/bin/sh
# Run the C core's tests and some of the simulation, or other tests, under AddressSanitizer and
# UndefinedBehaviorSanitizer.
#
#   tests/sanitize.sh [TEST...]     $PYTHON is the interpreter of an environment with the tests' requirements
#
# Processes that a test starts, such as the server in tests/functional, also run under the sanitizers. Their
# reports are files build/sanitize/report.*, and count as errors.
#
# The script works on a copy in build/sanitize, so that the installed core stays unchanged. On a finding, it
# prints the sanitizer's report, and its exit code is not 0.
set -eu

python=${PYTHON:-python3}
seeds=0
[ $# -gt 0 ] || { set -- tests/core tests/unit/server/test_channel.py; seeds=${SEEDS:-300}; }
compiler=${CC:-cc}
root=$(cd "$(dirname "$0")/.." && pwd)
build=$root/build/sanitize

python=$(command -v "$python") || { echo "sanitize: there is no $python" >&2; exit 1; }
case $python in /*) ;; *) python=$PWD/$python ;; esac
asan=$($compiler -print-file-name=libasan.so)
case $asan in /*) ;; *) echo "sanitize: $compiler has no libasan.so; install it, or set CC to gcc" >&2; exit 1 ;; esac

cd "$root"
strict="-std=c99 -pedantic -Wall -Wextra -Wconversion -Werror"
for source in rankserver/_*.c; do
    # shellcheck disable=SC2086 # $strict is several words
    [ "$source" = rankserver/_clist_cffi.c ] || $compiler $strict -O1 -c "$source" -o /dev/null
done

rm -rf "$build"
mkdir -p "$build"
cp -R rankserver client benchmarks simulate tests build_ext.py "$build"
cd "$build"
rm -f rankserver/*.so

# The flags come last, so they override those of the build: Python's include -fwrapv, which would hide
# overflows. The compiler itself is not sanitized.
flags="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -fno-wrapv -g -O1"
cat > compiler <<EOF
#!/bin/sh
unset LD_PRELOAD
exec $compiler "\$@" $flags
EOF
chmod +x compiler
export CC="$build/compiler" LDSHARED="$build/compiler -shared"
"$python" -c "import build_ext; build_ext.ffibuilder.compile()"
# pytest needs this file. It is copied after the build, because setuptools would look for files that it names.
cp "$root/pyproject.toml" .

# Reports go to descriptor 2, which pytest must not capture. Python frees little memory when it exits, so leaks
# are left to core/test_clist_fault.py.
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc
export LD_PRELOAD="$asan"
"$python" -m pytest -p no:cacheprovider --capture=sys tests/core/sanitized.py
[ "$seeds" -eq 0 ] || "$python" -m simulate --seeds "$seeds"
# Keep the quarantine of freed memory small, because some tests check how much memory a server has.
ASAN_OPTIONS=$ASAN_OPTIONS:quarantine_size_mb=1:thread_local_quarantine_size_kb=64
export TEST_SLOWNESS=3
# shellcheck disable=SC2048,SC2086 # the arguments are patterns
ASAN_OPTIONS=$ASAN_OPTIONS:log_path=$build/report UBSAN_OPTIONS=$UBSAN_OPTIONS:log_path=$build/report \
    "$python" -m pytest -p no:cacheprovider --capture=sys --timeout 300 $* || failed=1
for report in report.*; do
    [ ! -e "$report" ] || { cat "$report"; failed=1; }
done
exit ${failed:-0}
