#!/bin/sh
# Unpacks the upstream source of a package of Debian, or of a system derived from it, into
# a folder, which must not exist. The first of the packages that can be had is taken, from
# the first suite that has one. Needs dpkg-dev (apt-get source) and xz-utils or bzip2.
#
# The system's own sources of packages stay as they are: a list of our own names the same
# mirror, with these suites.
# usage: scripts/debian_source.sh FOLDER 'SUITE…' PACKAGE…
set -eu

scripts=$(cd "$(dirname "$0")" && pwd)
folder=$1
suites=$2
shift 2

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

say() { echo "$@" >&2; }

# own_apt SUITE: an apt configuration that knows the source packages of a suite.
own_apt() {
    mirror=$("$scripts/debian_mirror.sh")
    keyring=/usr/share/keyrings/$(sed -n 's/^ID=//p' /etc/os-release)-archive-keyring.gpg
    rm -rf "$work/apt"
    mkdir -p "$work/apt/state/lists/partial" "$work/apt/cache/archives/partial"
    touch "$work/apt/status"
    echo "deb-src [signed-by=$keyring] $mirror $1 main" >"$work/apt/sources"
    cat >"$work/apt/conf" <<END
Dir::State "$work/apt/state";
Dir::State::status "$work/apt/status";
Dir::Cache "$work/apt/cache";
Dir::Etc::SourceList "$work/apt/sources";
Dir::Etc::SourceParts "/dev/null";
APT::Sandbox::User "root";
END
    APT_CONFIG=$work/apt/conf apt-get -qq update >&2
}

for suite in $suites; do
    own_apt "$suite" || continue
    for package in "$@"; do
        say "looking for $package in $suite"
        if (cd "$work" && APT_CONFIG=$work/apt/conf apt-get -qq source \
            --download-only "$package") >"$work/log" 2>&1; then
            mkdir "$folder"
            tar -xf "$work"/"$package"_*.orig.tar.* --strip-components=1 -C "$folder"
            exit
        fi
    done
done
if [ -e "$work/log" ]; then cat "$work/log" >&2; fi
say "no source package can be had from here of: $*"
exit 1
