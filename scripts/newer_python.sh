#!/bin/sh
# Runs the tests with a CPython that is newer than the system's, from a newer suite of
# Debian. That is installed once into a folder of its own outside the tree (1 GB), by
# debootstrap; the tests run there by chroot, with the tree mounted. Nothing else of the
# system is changed: the mounts are seen by this process only and end with it.
# Needs root, debootstrap and unshare (util-linux).
# usage: [ARGS='pytest arguments'] scripts/newer_python.sh VERSION, as in: … 3.14
#
#   NEWER_PYTHON_CACHE   where the folder is kept; ~/.cache/simple-ws
#   NEWER_PYTHON_SUITE   the suite of Debian; sid
#   NEWER_PYTHON_MIRROR  where it comes from; where the system's own packages come from
set -eu

version=$1
tree=$(cd "$(dirname "$0")/.." && pwd)
suite=${NEWER_PYTHON_SUITE:-sid}
root=${NEWER_PYTHON_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/simple-ws}/debian-$suite
packages=ca-certificates,gcc,git,libc6-dev,libssl-dev,make,nodejs,openssl,procps
packages=$packages,redis-server,zlib1g-dev

say() { echo "$@" >&2; }

if [ "$(id -u)" != 0 ] || ! command -v debootstrap >/dev/null; then
    say "this needs root and debootstrap (apt-get install debootstrap)"
    exit 1
fi

# A folder appears under its name only when it is complete.
if [ ! -e "$root" ]; then
    mirror=${NEWER_PYTHON_MIRROR:-$("$tree/scripts/debian_mirror.sh")}
    say "installing Debian $suite into $root, once"
    mkdir -p "$root.new"
    trap 'rm -rf "$root.new"' EXIT
    debootstrap --variant=minbase --include="$packages" "$suite" "$root.new" \
        "$mirror" >&2 </dev/null
    mv "$root.new" "$root"
    trap - EXIT
fi

# What the machine knows of its network and registries.
for file in /etc/resolv.conf /etc/hosts /etc/pip.conf \
    /etc/ssl/certs/ca-certificates.crt; do
    if [ -e "$file" ]; then cp -L "$file" "$root$file"; fi
done

if [ ! -e "$root/usr/bin/python$version" ] || [ ! -e "$root/usr/include/python$version" ]
then
    # At run level 1 no package starts its service.
    chroot "$root" sh -c "export RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive
        apt-get -qq update && apt-get -qq install --no-install-recommends \
        python$version-venv python$version-dev" >&2 </dev/null
fi

# What follows runs in a namespace of mounts of its own. Below /tree everything is as it
# is here, but for another environment: each Python builds an extension of its own name.
export root tree version ARGS="${ARGS-}"
# shellcheck disable=SC2016  # expanded there
exec unshare --mount sh -euc '
    mkdir -p "$root/tree"
    mount --bind /proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/tmp"
    mount --bind "$tree" "$root/tree"
    exec chroot "$root" env -C /tree HOME=/root \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        make --no-print-directory test "PYTHON=python$version" \
        "VENV=.venv-$version" "ARGS=$ARGS"
'
