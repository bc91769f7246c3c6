#!/bin/sh
# Builds a Debian package: install/deb/build.sh VERSION [OUTPUT [BINARY]]. The binary
# is ./banger if none is named.
#
# The package brings the binary; its scripts let the binary install, upgrade and
# uninstall itself, so that there is one installer.
set -eu
binary=$(realpath "${3:-$(dirname "$0")/../../banger}")
cd "$(dirname "$0")/../.."
version=$(echo "$1" | sed 's/^v//; s/[^A-Za-z0-9.+~]/+/g')
case $version in [0-9]*) ;; *) version=0~$version ;; esac
arch=amd64
out=${2:-banger_${version}_$arch.deb}
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"

install -D -m 755 "$binary" "$tree/usr/lib/banger/banger"
mkdir -p "$tree/usr/bin" "$tree/DEBIAN"
ln -s ../lib/banger/banger "$tree/usr/bin/banger"
install -D -m 644 README.md "$tree/usr/share/doc/banger/README.md"
install -m 644 docs/install.md docs/privileges.md docs/ops.md "$tree/usr/share/doc/banger/"
install -D -m 644 LICENSE "$tree/usr/share/doc/banger/copyright"
for script in postinst prerm postrm; do
	install -m 755 "install/deb/$script" "$tree/DEBIAN/$script"
done
cat >"$tree/DEBIAN/control" <<EOF
Package: banger
Version: $version
Architecture: $arch
Maintainer: banger <banger@localhost>
Section: admin
Priority: optional
Depends: systemd (>= 247)
Recommends: qemu-system-x86
Installed-Size: $(du -sk "$tree/usr" | cut -f 1)
Description: real virtual machines from one command
 Development sandboxes on Firecracker microVMs, on your own Linux host: a fresh,
 hardware-isolated machine in one command, without root for everyday use.
EOF
dpkg-deb --root-owner-group --build "$tree" "$out" >/dev/null
echo "$out"
