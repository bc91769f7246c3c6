# Sends Ethernet frames as a guest that has been taken over would, once each:
#
#   frame.pl SERVER-ADDRESS PORT GATEWAY-MAC PEER-ADDRESS PEER-MAC
#
# Each carries a word that says what is false about it. "honest" is true, and so is "last".
use strict;
use Socket;

my ($server, $port, $gateway_mac, $peer, $peer_mac) = @ARGV;
my $index = read_line("/sys/class/net/eth0/ifindex");
my $mac = mac(read_line("/sys/class/net/eth0/address"));
my ($own) = map { /\b(\d+\.\d+\.\d+\.\d+)$/ && $1 !~ /^127/ ? $1 : () } own_addresses();

socket(my $s, 17, SOCK_RAW, 0) or die "socket: $!";    # AF_PACKET

send_frame(mac($gateway_mac), $mac, 0x0800, udp($own, $server, "honest"));
send_frame(mac($gateway_mac), $mac, 0x0800, udp($peer, $server, "spoofed-ip"));
send_frame(mac($gateway_mac), $mac, 0x0800, udp("203.0.113.9", $server, "spoofed-foreign-ip"));
send_frame(mac($gateway_mac), mac($peer_mac), 0x0800, udp($own, $server, "spoofed-mac"));
send_frame(mac($gateway_mac), $mac, 0x8100, pack("nn", 7, 0x0800) . udp($own, $server, "vlan"));
send_frame(mac($gateway_mac), $mac, 0x86dd, "\x60" . "\0" x 39 . "ipv6");
send_frame(mac($peer_mac), $mac, 0x0800, udp($own, $peer, "to-peer"));
send_frame(mac($gateway_mac), $mac, 0x0800, udp($own, $peer, "to-peer-by-gateway"));
send_frame("\xff" x 6, $mac, 0x0800, udp($own, "255.255.255.255", "to-all"));
# An ARP reply to everyone: the peer's address is at my MAC.
send_frame("\xff" x 6, $mac, 0x0806, arp($mac, $peer, "\xff" x 6, $peer));
# And one from a MAC that is not mine.
send_frame("\xff" x 6, mac("06:00:de:ad:be:ef"), 0x0806, arp(mac("06:00:de:ad:be:ef"), $own, "\xff" x 6, $own));
send_frame(mac($gateway_mac), $mac, 0x0800, udp($own, $server, "last"));

sub read_line { open my $f, "<", $_[0] or die "$_[0]: $!"; chomp(my $l = <$f>); $l }
sub mac { pack "H12", $_[0] =~ s/://gr }

sub own_addresses {
    open my $f, "<", "/proc/net/fib_trie" or die $!;
    my ($last, @found);
    while (<$f>) {
        $last = $1 if /\|-- (\S+)/;
        push @found, $last if m{/32 host LOCAL};
    }
    @found;
}

sub send_frame {
    my ($to, $from, $type, $payload) = @_;
    my $frame = $to . $from . pack("n", $type) . $payload;
    my $address = pack "SnlSCCa8", 17, $type, $index, 0, 0, 6, $to;
    send($s, $frame, 0, $address) or die "send: $!";
}

sub udp {
    my ($from, $to, $word) = @_;
    my $data = pack("nnnn", 4321, $port, 8 + length $word, 0) . $word;    # no checksum
    my $head = pack "CCnnnCCna4a4", 0x45, 0, 20 + length $data, 1, 0, 64, 17, 0, inet_aton($from), inet_aton($to);
    my $sum = 0;
    $sum += $_ for unpack "n*", $head;
    $sum = ($sum & 0xffff) + ($sum >> 16) while $sum >> 16;
    substr($head, 10, 2) = pack "n", ~$sum & 0xffff;
    $head . $data;
}

sub arp {
    my ($from_mac, $from, $to_mac, $to) = @_;
    pack "nnCCna6a4a6a4", 1, 0x0800, 6, 4, 2, $from_mac, inet_aton($from), $to_mac, inet_aton($to);
}
