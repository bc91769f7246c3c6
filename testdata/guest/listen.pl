# Prints "ready", then every frame that reaches this guest: source MAC and payload,
# with unprintable bytes left out.
#
#   listen.pl SECONDS LAST
#
# It ends once it has heard the word LAST, and fails if that takes so many SECONDS.
use strict;
use Socket;

my ($seconds, $last) = @ARGV;
socket(my $s, 17, SOCK_RAW, 0x0300) or die "socket: $!";    # AF_PACKET, all protocols in network order
$| = 1;
print "ready\n";
my $end = time + $seconds;
while ((my $left = $end - time) > 0) {
    my $set = "";
    vec($set, fileno $s, 1) = 1;
    select $set, undef, undef, $left or last;
    my $from = recv $s, my $frame, 2048, 0;
    next if unpack("x10 C", $from) == 4;                    # own frames, on their way out
    my $mac = join ":", map { sprintf "%02x", $_ } unpack "C6", substr $frame, 6, 6;
    (my $text = substr $frame, 14) =~ s/[^ -~]//g;
    print "$mac $text\n";
    exit if index($text, $last) >= 0;
}
die "did not hear $last within $seconds seconds\n";
