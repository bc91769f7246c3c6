#!/bin/sh
# Makes what the tests and the quickstart boot, from Debian packages only: two
# kernel packages and three root file systems. Sources and keys are those of the
# machine's own apt configuration.
#
#   testdata/assets.sh [NAME...]
#
#   linux-image-cloud.deb     Debian's kernel for virtual machines
#   linux-image-generic.deb   Debian's kernel for everything
#   debian.tar                the smallest Debian: no init, no network tools
#   debian-systemd.tar        the same with systemd, sshd, rsync and iproute2
#   debian-sysvinit.tar       the same with sysvinit
#   lab.tar                   the host that testdata/lab starts
#
# Without NAME all but the last are made. What is there already is kept. Results lie in
# $BANGER_TEST_CACHE, by default ~/.cache/banger-test.
set -eu
umask 022

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
cache=${BANGER_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/banger-test}
mkdir -p "$cache"
work=$(mktemp -d "$cache/.making.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

# targets prints one line for each Debian package index that apt is set up
# with, in the format given. Indexes of other origins are left out.
targets() {
	apt-get indextargets --format "$1" 'Created-By: Packages' 'Origin: Debian'
}

# update fetches apt's indexes where the machine has none.
update() {
	if [ -z "$(targets '$(RELEASE)')" ]; then
		sudo='' && [ "$(id -u)" = 0 ] || sudo=sudo
		$sudo apt-get update -qq
	fi
}

# kernel FILE METAPACKAGE downloads the kernel that METAPACKAGE stands for.
kernel() {
	package=$(apt-cache depends --no-recommends --no-suggests "$2" |
		sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1)
	[ -n "$package" ] || { echo "assets: $2: no such package in apt's indexes" >&2; exit 1; }
	(cd "$work" && apt-get -qq -o APT::Sandbox::User="$(id -un)" download "$package")
	mv "$work/$package"_*.deb "$cache/$1"
}

# rootfs FILE [PACKAGE...] makes a root file system of the essential packages,
# apt and the packages given, for Debian's release that the machine runs.
rootfs() {
	file=$1
	shift
	packages=$(IFS=,; echo "$*")
	mode=unshare && [ "$(id -u)" != 0 ] || mode=root
	targets 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' | sort -u >"$work/sources.list"
	apt-config dump | grep -E '^Acquire::(https?|Check|Retries)' >"$work/apt.conf" || true
	TMPDIR=$work mmdebstrap --quiet --mode=$mode --variant=minbase --format=tar \
		--keyring="$keyring" --aptopt="$work/apt.conf" \
		--aptopt='APT::Install-Recommends "false"' --aptopt='APT::Sandbox::User "root"' \
		--dpkgopt=force-unsafe-io ${packages:+--include="$packages"} \
		--customize-hook='rm -rf "$1"/usr/share/doc/* "$1"/usr/share/man/* "$1"/usr/share/locale/* "$1"/var/cache/apt/*.bin' \
		"$(. /etc/os-release && echo "$VERSION_CODENAME")" "$work/$file" "$work/sources.list"
	mv "$work/$file" "$cache/$file"
}

# make FILE COMMAND... runs COMMAND FILE... unless FILE is there, made by the same.
make() {
	file=$1 command=$2 by="$*"
	shift 2
	if [ -s "$cache/$file" ] && [ "$(cat "$cache/.$file.by" 2>/dev/null)" = "$by" ]; then
		echo "assets: $file: kept"
		return
	fi
	began=$(date +%s)
	update
	$command "$file" "$@"
	echo "$by" >"$cache/.$file.by"
	echo "assets: $file: made in $(($(date +%s) - began)) s, $(($(stat -c %s "$cache/$file") >> 20)) MiB"
}

[ $# -gt 0 ] || set -- linux-image-cloud.deb linux-image-generic.deb debian.tar debian-systemd.tar debian-sysvinit.tar
echo "assets: in $cache"
for name; do
	case $name in
	linux-image-cloud.deb) make "$name" kernel linux-image-cloud-amd64 ;;
	linux-image-generic.deb) make "$name" kernel linux-image-amd64 ;;
	debian.tar) make "$name" rootfs ;;
	debian-systemd.tar) make "$name" rootfs systemd systemd-sysv dbus openssh-server rsync iproute2 ;;
	debian-sysvinit.tar) make "$name" rootfs sysvinit-core ;;
	lab.tar) make "$name" rootfs systemd systemd-sysv systemd-resolved libnss-systemd dbus udev dmsetup lvm2 kmod \
		iproute2 iputils-ping nftables iptables ufw e2fsprogs xfsprogs btrfs-progs procps strace socat openssh-client rsync qemu-system-x86 ;;
	*) echo "assets: $name: not one of these" >&2; exit 2 ;;
	esac
done
