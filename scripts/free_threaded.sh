#!/bin/sh
# Builds a CPython without the GIL (PEP 703) from the source package of the system, once,
# and prints the path of its interpreter. Needs Debian or a system derived from it, with
# xz-utils, dpkg-dev, a compiler and the headers of what CPython is built against
# (apt-get build-dep python3).
#
#   FREE_THREADED_CACHE     where it is built and kept; ~/.cache/simple-ws
#   FREE_THREADED_SUITES    suites of the distribution to look in, the first one first
#   FREE_THREADED_PACKAGES  source packages to look for, the first one first
#   FREE_THREADED_FLAGS     more for ./configure, such as --with-thread-sanitizer
set -eu

cache=${FREE_THREADED_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/simple-ws}
suites=${FREE_THREADED_SUITES:-sid testing stable}
packages=${FREE_THREADED_PACKAGES:-python3.14 python3.15 python3.13}
flags=${FREE_THREADED_FLAGS:-}
name=free-threaded$(printf '%s' "$flags" | tr -c 'a-zA-Z0-9\n' -)
prefix=$cache/$name

say() { echo "$@" >&2; }

if [ -x "$prefix/bin/python3" ]; then
    echo "$prefix/bin/python3"
    exit
fi

mkdir -p "$cache"
work=$(mktemp -d "$cache/building.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

# shellcheck disable=SC2086  # suites and packages are words
"$(dirname "$0")/debian_source.sh" "$work/source" "$suites" $packages
say "building it, which takes some minutes; the log is $cache/$name.log"
cd "$work/source"
# shellcheck disable=SC2086  # flags are words
{
    ./configure --quiet --disable-gil --prefix="$prefix" $flags
    make --silent -j "$(nproc)"
    make --silent install
} >"$cache/$name.log" 2>&1 </dev/null
echo "$prefix/bin/python3"
