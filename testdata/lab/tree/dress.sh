# Makes a host of the packages that lie in $1: with a kernel's modules, which lie
# in $1/kernel, with users, and without what a host in a lab has no use for.
root=$1
cd "$root"

mv kernel/boot/vmlinuz-* boot/
mkdir -p usr/lib/modules
mv kernel/lib/modules/* usr/lib/modules/
rm -rf kernel
chroot "$root" depmod "$(ls usr/lib/modules)"

# alice will own banger; mallory has no business with it. Neither is in any
# group, and there is no sudo.
chroot "$root" useradd --create-home --uid 1000 --shell /bin/bash alice
chroot "$root" useradd --create-home --uid 1001 --shell /bin/bash mallory
chmod 0700 home/alice home/mallory

echo lab >etc/hostname
echo '127.0.0.1 localhost lab' >etc/hosts
: >etc/machine-id
ln -sf ../run/systemd/resolve/stub-resolv.conf etc/resolv.conf
ln -sf /lib/systemd/system/multi-user.target etc/systemd/system/default.target

for unit in getty@.service serial-getty@.service console-getty.service getty-static.service getty.target \
	apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer e2scrub_reap.service \
	systemd-tmpfiles-clean.timer systemd-timesyncd.service systemd-networkd.service systemd-networkd.socket; do
	ln -sf /dev/null "etc/systemd/system/$unit"
done

mkdir -p usr/local/lib/lab srv/lab
for file in banger linux-image-cloud.deb debian.tar debian-systemd.tar; do
	ln -s "/srv/lab/$file" "root/$file"
done
cat >etc/systemd/system/lab-agent.service <<'END'
[Unit]
Description=Runs what the lab asks for
After=network.target lab-network.service
StartLimitIntervalSec=0

[Service]
ExecStart=/run/lab/agent /run/lab/port
Restart=always
RestartSec=100ms
KillMode=mixed

[Install]
WantedBy=multi-user.target
END
cat >etc/systemd/system/lab-network.service <<'END'
[Unit]
Description=The uplink, and a server beyond it
Wants=network.target
Before=network.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -e /usr/local/lib/lab/network

[Install]
WantedBy=multi-user.target
END
cat >usr/local/lib/lab/network <<'END'
ip netns add server
ip link add uplink type veth peer name eth0 netns server
ip -n server link set lo up
ip -n server addr add 198.51.100.2/24 dev eth0
ip -n server addr add 192.168.77.2/24 dev eth0
ip -n server link set eth0 up
ip addr add 198.51.100.1/24 dev uplink
ip addr add 192.168.77.1/24 dev uplink
ip link set uplink up
ip route add default via 198.51.100.2
END
chroot "$root" systemctl enable --quiet lab-agent.service lab-network.service systemd-resolved.service
