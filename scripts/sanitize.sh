#!/bin/sh
# Run the tests of what is written in C under ASAN and UBSAN, on a copy of the tree, so
# that no sanitized extension is left where others import it.
# usage: scripts/sanitize.sh PYTHON [pytest arguments]
set -eu

python=$1
shift
cd "$(dirname "$0")/.."
rm -rf .sanitizer
mkdir .sanitizer
cp -R simple_ws tests setup.py pyproject.toml .sanitizer/
cd .sanitizer
rm -f simple_ws/*.so simple_ws/_speedups.c

flags="-fsanitize=address,undefined -fno-sanitize-recover=undefined"
CFLAGS="$flags -fno-omit-frame-pointer" LDFLAGS="$flags" \
    SIMPLE_WS_DEBUG=1 SIMPLE_WS_EXTENSION=1 \
    "$python" setup.py --quiet build_ext --inplace

# PYTHONMALLOC: pymalloc's arenas would hide reads behind the end of an object.
# detect_leaks: CPython itself leaves memory at exit.
export PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
export SIMPLE_WS_EXTENSION=1
preload="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"

LD_PRELOAD="$preload" "$python" -c '
import os, simple_ws._speedups as speedups
here = os.path.dirname(os.path.abspath(speedups.__file__))
assert here == os.path.join(os.getcwd(), "simple_ws"), here
'
set -- "$@" tests/speedups/test_codecs.py
for file in speedups/test_core speedups/test_json protocol/test_websocket connection/test_backpressure \
    speedups/test_shared_frames speedups/test_system_calls connection/test_client speedups/test_same_verdict \
    connection/test_heartbeat loop/test_timers loop/test_listener loop/test_reactor \
    loop/test_tls loop/test_tls_classes \
    whole/test_tls_records whole/test_interrupts whole/test_reentrance; do
    file=tests/$file.py
    [ ! -e "$file" ] || set -- "$@" "$file"
done
# A fault of memory ends the process here, with a report and a status other than zero.
LD_PRELOAD="$preload" "$python" -m pytest -q -k "not fallback" "$@"
