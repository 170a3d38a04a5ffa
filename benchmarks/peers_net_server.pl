# Perl's Net::Server with the handlers of handlers.py.
#
#     perl peers_net_server.pl Fork|PreForkSimple|PreFork peer|server [OPTION VALUE]...
#
# The options are Net::Server's own; its defaults stand where none is given.

use strict;
use warnings;

my ($kind, $shape, @options) = @ARGV;
@ARGV = ();

package Echo;

require "Net/Server/$kind.pm";
our @ISA = ("Net::Server::$kind");

sub process_request {
    my ($self, $client) = @_;
    while (sysread $client, my $data, 65536) {
        for (my $sent = 0; $sent < length $data;) {
            $sent += syswrite $client, $data, length($data) - $sent, $sent or return;
        }
        return if $shape eq "server";
    }
}

sub pre_loop_hook {
    my ($self) = @_;
    print STDERR "listening on tcp://127.0.0.1:", $self->{server}{sock}[0]->sockport, "\n";
}

# Collects the children that a stop has ended, so that the CPU they used is known.
sub close_children {
    my ($self) = @_;
    $self->SUPER::close_children;
    1 while waitpid(-1, 0) > 0;
}

Echo->run(host => "127.0.0.1", port => 0, ipv => 4, listen => 2048, log_level => 1, @options);
