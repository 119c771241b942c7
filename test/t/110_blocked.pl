# Very many identifiers that all come with one value which is blocked: nobody is
# merged with anybody, and applying them takes as long as without that value.
#
#   CDP_BLOCKED=10000   identifiers; 1,000,000 under torture
#   CDP_MAX_RATIO=1.5   under torture, how much longer it may take
use strict;
use warnings;
use POSIX ();
use Time::HiRes qw(time);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $n = $ENV{CDP_BLOCKED} // ($ENV{CDP_TORTURE} ? 1_000_000 : 10_000);
# no verdict of `make test' depends on how fast the machine is
my $max_ratio = $ENV{CDP_MAX_RATIO} // ($ENV{CDP_TORTURE} ? 1.5 : undef);

my $node = PostgreSQL::Test::Cluster->new('blocked');
$node->init;
$node->append_conf('postgresql.conf', q{
fsync = off
synchronous_commit = off
autovacuum = off
max_wal_size = 4GB
jit = off
cdp.databases = ''
});
$node->start;

# what stands beside the identifier of its own that each entry has
my @variants = (
	[ 'nothing', q{NULL} ],
	[ 'a word that is always blocked', q{'user_id:null'} ],
	[ 'a value that its kind blocks', q{'email:everybody@example.com'} ],
	[ 'a value that a pattern blocks', q{'device_id:dead-beef'} ]);
my %seconds;

sub load_and_apply
{
	my ($db, $n, $beside) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, qq{
		CREATE EXTENSION cdp;
		SELECT cdp.alter_identifier_kind('email', blocked => ARRAY['everybody\@example.com']);
		SELECT cdp.alter_identifier_kind('device_id', blocked => ARRAY['^dead']);
		INSERT INTO cdp.events (source, message_id, type, event, identifiers, occurred_at)
		SELECT 'web', 'm' || i, 'track', 'Viewed', array_remove(ARRAY[$beside, 'anonymous_id:a' || i], NULL)::cdp.identifier[],
			timestamptz '2026-01-01' + i * interval '10 ms'
		FROM generate_series(1, $n) i;
		VACUUM ANALYZE cdp.events;
	});
	# processor time of the backend, where the system tells it: other programs
	# do not count then
	my $cpu = -r '/proc/self/stat' ? q{SELECT split_part(s, ' ', 14)::int + split_part(s, ' ', 15)::int FROM pg_read_file('/proc/self/stat') s;} : '';
	my $start = time();
	my @ticks = split /\n/, $node->safe_psql($db, "$cpu SET client_min_messages = error; SELECT 'applied' FROM cdp.apply(); $cpu");
	my $ticks_per_second = $cpu ne '' ? (POSIX::sysconf(&POSIX::_SC_CLK_TCK) || 100) : 1;
	return $cpu ne '' ? ($ticks[2] - $ticks[0]) / $ticks_per_second : time() - $start;
}

for my $i (0 .. $#variants)
{
	my ($what, $beside) = @{ $variants[$i] };
	my $db = "blocked$i";
	$seconds{$what} = load_and_apply($db, $n, $beside);
	is( $node->safe_psql($db, q{SELECT count(*), count(DISTINCT profile_id), count(DISTINCT cdp.kind(identifier)) FROM cdp.identities}),
		"$n|$n|1", "$n profiles beside $what");
	is($node->safe_psql($db, q{SELECT count(*) FROM cdp.links}), '0', 'no link');
	is($node->safe_psql($db, q{SELECT count(*) FROM cdp.rejected}), '0', 'nothing rejected');
	is($node->safe_psql($db, q{SELECT count(*) FROM cdp.verify()}), '0', 'as recomputed') if $n <= 50_000;
	my $ratio = $seconds{$what} / $seconds{nothing};
	note sprintf('%s: %.2f s, %.0f entries/s, %.2f times as long as beside nothing', $what, $seconds{$what}, $n / $seconds{$what}, $ratio);
	cmp_ok($ratio, '<=', $max_ratio, "no slowdown beside $what") if defined $max_ratio;
	$node->safe_psql('postgres', "DROP DATABASE $db");
}

# a value that nothing blocks joins them, as far as the guards let it
load_and_apply('joined', 500, q{'email:nobody@example.com'});
is($node->safe_psql('joined', q{SELECT count(DISTINCT profile_id) FROM cdp.identities}), '1', 'otherwise they are one');

$node->stop;
done_testing();
