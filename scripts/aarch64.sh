#!/bin/sh
# Runs tests on Linux for aarch64, by emulation: a Debian for it is unpacked once into a
# folder outside the tree (200 MB), and qemu runs its Python. The extension is the one
# that `make cross` compiles; it must be for the Python of that Debian.
#
# Nothing is installed by the emulated system, which would take half an hour: its packages
# are only unpacked. Needs root, debootstrap and qemu-user-static.
# usage: scripts/aarch64.sh PYTHON [pytest arguments]
#
#   AARCH64_CACHE   where it is kept; ~/.cache/simple-ws
#   AARCH64_SUITE   the suite of Debian; the system's own
#   AARCH64_MIRROR  where it comes from; where the system's own packages come from
set -eu

python=$1
shift
tree=$(cd "$(dirname "$0")/.." && pwd)
suite=${AARCH64_SUITE:-$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)}
root=${AARCH64_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/simple-ws}/aarch64-$suite
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
interpreter=/usr/bin/qemu-aarch64-static
handler=/proc/sys/fs/binfmt_misc/qemu-aarch64

say() { echo "$@" >&2; }

if [ "$(id -u)" != 0 ] || ! command -v debootstrap >/dev/null || [ ! -x $interpreter ]
then
    say "this needs root, debootstrap and qemu-user-static (apt-get install …)"
    exit 1
fi

# A folder appears under its name only when it is complete.
if [ ! -e "$root" ]; then
    mirror=${AARCH64_MIRROR:-$("$tree/scripts/debian_mirror.sh")}
    say "unpacking Debian $suite for aarch64 into $root, once"
    mkdir -p "$root.new"
    trap 'rm -rf "$root.new"' EXIT
    debootstrap --foreign --arch=arm64 --variant=minbase \
        --include=python3,zlib1g,openssl,ca-certificates,netbase \
        "$suite" "$root.new" "$mirror" >"$root.log" 2>&1 </dev/null
    for package in "$root.new"/var/cache/apt/archives/*.deb; do
        dpkg-deb -x "$package" "$root.new"
    done
    "$python" -m pip install -q --disable-pip-version-check --target "$root.new/packages" \
        --platform manylinux_2_28_aarch64 --platform manylinux2014_aarch64 \
        --python-version "$version" --only-binary=:all: pytest pytest-timeout hypothesis
    mv "$root.new" "$root"
    trap - EXIT
fi

if [ ! -e "$root/usr/bin/python$version" ]; then
    say "Debian $suite has no Python $version: choose AARCH64_SUITE, or PYTHON="
    exit 1
fi

# No package has it.
cp -L /etc/hosts "$root/etc/hosts"

# The kernel starts qemu for programs of the other kind. It is told so for the time of the
# tests, unless the system does it anyway.
if [ ! -e "$handler" ]; then
    [ -e /proc/sys/fs/binfmt_misc/register ] ||
        mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
    magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
    mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
    # F: it is opened now, and so found by programs that see another root.
    printf ':qemu-aarch64:M::%s:%s:%s:F' "$magic" "$mask" "$interpreter" \
        >/proc/sys/fs/binfmt_misc/register
    trap 'echo -1 >"$handler"' EXIT
fi

# As it is installed elsewhere: with this extension and no other.
copy=$tree/build/aarch64
rm -rf "$copy"
mkdir -p "$copy"
(cd "$tree" && cp -R simple_ws tests docs README.md pyproject.toml "$copy")
rm -f "$copy"/simple_ws/*.so
cp "$tree"/build/cross/manylinux-aarch64/simple_ws/_speedups.*.so "$copy/simple_ws"

[ $# != 0 ] || set -- tests/speedups/test_core.py tests/loop/test_listener.py \
    tests/loop/test_reactor.py tests/loop/test_timers.py tests/test_text.py \
    tests/connection/test_backpressure.py tests/test_deflate.py

# What follows runs in a namespace of mounts of its own.
export root copy
# shellcheck disable=SC2016  # expanded there
unshare --mount sh -euc '
    mkdir -p "$root/tree"
    mount --bind /proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/tmp"
    mount --bind "$copy" "$root/tree"
    exec chroot "$root" env -C /tree HOME=/root PATH=/usr/bin:/bin \
        PYTHONPATH=/packages SIMPLE_WS_EXTENSION=1 EXPECT_EXTENSION=1 \
        python3 -m pytest -q --timeout 600 -k "not fallback" "$@"
' sh "$@"
