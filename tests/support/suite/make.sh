# Makes the tree of a newer Debian suite that has its containerd and Docker, and what else is named.
#
#   make.sh SUITE TARGET DEBIAN_MIRROR [PACKAGE,…]
set -eu
suite=$1 target=$2 mirror=$3 more=${4:+,$4}
# A debootstrap older than the suite does not know it by name; all suites since sid's script are made the same way.
script=/usr/share/debootstrap/scripts/$suite
[ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid
debootstrap --variant=minbase \
  --include="containerd,docker.io,docker-cli,docker-buildx,runc,ca-certificates$more" \
  "$suite" "$target" "$mirror" "$script"
cd "$target"
rm -rf var/cache/apt var/lib/apt/lists var/cache/debconf usr/share/doc usr/share/man usr/share/locale var/log/*
mkdir -p var/cache/apt/archives/partial var/lib/apt/lists/partial
