#!/bin/sh
# Run the tests of what several threads use under TSAN, on a CPython without the GIL that
# is built with it, once (20 minutes). What else they need is taken from the environment
# of `make freethreaded`, whose Python has the same version.
# usage: scripts/tsan.sh ENVIRONMENT [pytest arguments]
set -eu

environment=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/.."
python=$(FREE_THREADED_FLAGS=--with-thread-sanitizer scripts/free_threaded.sh)
if [ "$("$python" -V)" != "$("$environment/bin/python" -V)" ]; then
    echo "$python is of another version than $environment: remove the older one" >&2
    exit 1
fi
rm -rf .tsan
mkdir .tsan
cp -R simple_ws tests scripts setup.py pyproject.toml README.md LICENSE .tsan/
cd .tsan
rm -f simple_ws/*.so simple_ws/_speedups.c

CFLAGS=-fsanitize=thread LDFLAGS=-fsanitize=thread SIMPLE_WS_DEBUG=1 \
    SIMPLE_WS_EXTENSION=1 "$environment/bin/python" -m pip --quiet \
    --disable-pip-version-check install --no-deps --target installed .
rm -r simple_ws

packages=$("$environment/bin/python" -c '
import sysconfig; print(sysconfig.get_path("purelib"))')
export PYTHONPATH="$PWD/installed:$packages" PYTHON_GIL=0 SIMPLE_WS_EXTENSION=1
export TEST_DEADLINE=100 # all is 15 times as slow
unset PYTHONDONTWRITEBYTECODE
# A race that was seen ends the run with a report, and with status 66.
export TSAN_OPTIONS="suppressions=$PWD/scripts/tsan.supp history_size=4"
"$python" -c '
import os, simple_ws._speedups as speedups
here = os.path.dirname(os.path.abspath(speedups.__file__))
assert here == os.path.join(os.getcwd(), "installed", "simple_ws"), here
'
if [ $# = 0 ]; then
    set -- tests/whole/test_free_threading.py tests/server/test_thread_workers.py
fi
exec "$python" -m pytest -q --timeout 600 "$@"
