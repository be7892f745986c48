#!/bin/sh
# Run the tests twice, with the extension and in pure Python, and say last what became of
# each half. What is the same in both is run in one of them (`tests/conftest.py`). Without arguments both run at the same time, and what the second prints comes
# when the first has ended.
# usage: scripts/run_tests.sh PYTHON EXTENSION [pytest arguments]
set -u

python=$1
extension=$2
shift 2

with_extension() {
    echo "== tests with the extension"
    SIMPLE_WS_EXTENSION=1 EXPECT_EXTENSION=1 ONE_BACKEND_HALF=${done:+extension} \
        "$python" -m pytest "$@"
}

in_pure_python() {
    echo "== tests in pure Python"
    SIMPLE_WS_EXTENSION=0 ONE_BACKEND_HALF=${done:+python} "$python" -m pytest "$@"
}

# Where Python may not write bytecode, as in containers, each of the hundreds of processes
# that the tests start would compile the whole package. These find it in the environment.
if [ -n "${PYTHONDONTWRITEBYTECODE-}" ]; then
    unset PYTHONDONTWRITEBYTECODE
    export PYTHONPYCACHEPREFIX="${PYTHONPYCACHEPREFIX-${python%/bin/*}/pycache}"
fi

done=
failed=0
if [ "${SIMPLE_WS_EXTENSION-}" = 0 ]; then
    first="left out (SIMPLE_WS_EXTENSION=0)"
elif [ -e "$extension" ]; then
    done=1
elif [ "${SIMPLE_WS_EXTENSION-}" = 1 ]; then
    first="FAILED: SIMPLE_WS_EXTENSION=1, but the extension is not built"
    failed=1
else
    first="NO TESTS: it could not be built. Install a C compiler and the headers"
    first="$first of Python and zlib, then: make clean test"
fi

if [ -n "$done" ] && [ $# = 0 ]; then
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    in_pure_python >"$log" 2>&1 &
    other=$!
    with_extension && first=passed || first=FAILED
    wait "$other" && second=passed || second=FAILED
    cat "$log"
else
    if [ -n "$done" ]; then with_extension "$@" && first=passed || first=FAILED; fi
    in_pure_python "$@" && second=passed || second=FAILED
fi

echo "== with the extension: $first"
echo "== in pure Python: $second"
case $first$second in *FAILED*) failed=1 ;; esac
exit "$failed"
