#!/bin/sh
# Builds a CPython without the GIL (PEP 703) from the source package of the system, once,
# and prints the path of its interpreter. Needs Debian or a system derived from it, with
# xz-utils, dpkg-dev, a compiler and the headers of what CPython is built against
# (apt-get build-dep python3).
#
# The system's own sources of packages stay as they are: a list of our own names the same
# mirror, with the suites below. The newest package that can be had is taken.
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

# own_apt SUITE: an apt configuration that knows the source packages of a suite.
own_apt() {
    mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' |
        sed -n '/security/!{p;q}')
    keyring=/usr/share/keyrings/$(sed -n 's/^ID=//p' /etc/os-release)-archive-keyring.gpg
    rm -rf "$work/apt"
    mkdir -p "$work/apt/state/lists/partial" "$work/apt/cache/archives/partial"
    touch "$work/apt/status"
    echo "deb-src [signed-by=$keyring] $mirror $1 main" >"$work/apt/sources"
    cat >"$work/apt/conf" <<EOF
Dir::State "$work/apt/state";
Dir::State::status "$work/apt/status";
Dir::Cache "$work/apt/cache";
Dir::Etc::SourceList "$work/apt/sources";
Dir::Etc::SourceParts "/dev/null";
APT::Sandbox::User "root";
EOF
    APT_CONFIG=$work/apt/conf apt-get -qq update >&2
}

# fetch: unpack the first package that can be had into $work/source.
fetch() {
    for suite in $suites; do
        own_apt "$suite" || continue
        for package in $packages; do
            say "looking for $package in $suite"
            if (cd "$work" && APT_CONFIG=$work/apt/conf apt-get -qq source \
                --download-only "$package") >"$work/log" 2>&1; then
                mkdir "$work/source"
                tar -xf "$work"/"$package"_*.orig.tar.* --strip-components=1 \
                    -C "$work/source"
                return
            fi
        done
    done
    cat "$work/log" >&2
    say "no source package of CPython can be had from here"
    exit 1
}

fetch
say "building it, which takes some minutes; the log is $cache/$name.log"
cd "$work/source"
# shellcheck disable=SC2086  # flags are words
{
    ./configure --quiet --disable-gil --prefix="$prefix" $flags
    make --silent -j "$(nproc)"
    make --silent install
} >"$cache/$name.log" 2>&1 </dev/null
echo "$prefix/bin/python3"
