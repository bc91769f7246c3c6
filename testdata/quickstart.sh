#!/bin/sh
# From a bare Debian machine with nothing but Go to a command that has run in a
# real VM. Says what it does and how long each step took. Needs root or sudo,
# and about 2 GiB of disk.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin
sudo='' && [ "$(id -u)" = 0 ] || sudo=sudo
cache=${BANGER_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/banger-test}

# step TITLE COMMAND... runs COMMAND and says how long it took.
step() {
	title=$1
	shift
	echo "==> $title"
	echo "    $*"
	began=$(date +%s%N)
	"$@" || { echo "quickstart: $title: failed" >&2; exit 1; }
	took=$((($(date +%s%N) - began) / 1000000))
	echo "    took $((took / 1000)).$(printf %03d $((took % 1000))) s"
}

# need FILE PACKAGE adds PACKAGE to what is to be installed, unless FILE is there.
missing=
need() {
	[ -e "$1" ] || missing="$missing $2"
}

apt_install() {
	$sudo apt-get update -qq
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
		-o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-unsafe-io "$@" >/dev/null
}

command -v go >/dev/null || { echo 'quickstart: no Go: install it to /usr/local/go or put it in PATH' >&2; exit 1; }
need /usr/bin/qemu-system-x86_64 qemu-system-x86
need /usr/bin/mmdebstrap mmdebstrap
need /usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring
need /etc/ssl/certs/ca-certificates.crt ca-certificates

started=$(date +%s)
[ -z "$missing" ] || step 'install what this machine lacks' apt_install $missing
export CGO_ENABLED=0
step 'build what runs in guests' go generate ./personas/guest/binary
step 'build banger' go build -tags embedguest -trimpath -buildvcs=false -o banger .
step 'get a kernel and make a root file system, from Debian packages' testdata/assets.sh linux-image-cloud.deb debian.tar
step 'import the kernel' $sudo ./banger kernel import --name debian "$cache/linux-image-cloud.deb"
step 'import the root file system' $sudo ./banger image import --name debian "$cache/debian.tar"
step 'boot a VM, run a command in it, delete it' \
	$sudo ./banger vm run --rm --kernel debian --image debian -- sh -c 'cat /etc/os-release; uname -a'
echo "==> done in $(($(date +%s) - started)) s; \`${sudo:+$sudo }./banger vm run\` opens a shell in another VM"
