#!/bin/sh
# Run tests of an extension without system calls of its own, as it is on Windows: every
# socket is used by its methods, selectors take the place of epoll. Built from a copy of
# the tree, so that this extension is not left where others import it.
# usage: scripts/socket_methods.sh PYTHON [pytest arguments]
set -eu

python=$1
shift
cd "$(dirname "$0")/.."
rm -rf build/methods
mkdir -p build/methods
cp -R simple_ws tests docs README.md setup.py pyproject.toml build/methods/
cd build/methods
rm -f simple_ws/*.so simple_ws/_speedups.c

CPPFLAGS=-DSOCKET_CALLS_OFF SIMPLE_WS_EXTENSION=1 \
    "$python" setup.py --quiet build_ext --inplace

# `-D`: what a library that is loaded takes from others.
if nm -D --undefined-only simple_ws/_speedups*.so |
    grep -E ' (accept4?|epoll_.*|ioctl|readv|recv|send|sendmsg|shutdown|close)(@|$)'
then
    echo "the extension still has these system calls" >&2
    exit 1
fi

[ $# != 0 ] || set -- tests/connection tests/loop tests/server tests/protocol \
    tests/speedups/test_core.py tests/speedups/test_system_calls.py
SIMPLE_WS_EXTENSION=1 EXPECT_EXTENSION=1 "$python" -m pytest -q -k "not fallback" "$@"
