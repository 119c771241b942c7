# A consumer that is killed and started again 50 times under load has seen every
# change, in order, once when it leaves out repetitions by their number; one that
# works in the transaction that polls needs to leave out nothing.  Snapshots that
# are taken in between agree with the stream.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $kills = 50;
my $seed = $ENV{CDP_SEED} || int(time) % 100000;
srand($seed);
note "CDP_SEED=$seed";

my $node = PostgreSQL::Test::Cluster->new('listeners');
$node->init;
$node->append_conf(
	'postgresql.conf', qq(
shared_preload_libraries = 'cdp'
cdp.naptime = '100ms'
));
$node->start;
$node->safe_psql(
	'postgres', q(
	CREATE EXTENSION cdp;
	SELECT cdp.create_trait('n', aggregate => 'count');
	SELECT cdp.create_segment('odd', 'n % 2 = 1');
	SELECT cdp.create_segment('many', 'n >= 5');
	SELECT cdp.subscribe('file');
	SELECT cdp.subscribe('effects', '{"segment": "odd"}');
	SELECT cdp.subscribe('jobs', visibility => '1 second');
	CREATE TABLE effects (epoch int, seq bigint, PRIMARY KEY (epoch, seq));
	CREATE TABLE jobs (seq bigint, worker int);
	CREATE TABLE stop (stop boolean);
	CREATE PROCEDURE load_it() LANGUAGE plpgsql AS $$
	BEGIN
		WHILE NOT EXISTS (SELECT FROM stop) LOOP
			INSERT INTO cdp.events (event, identifiers)
			SELECT 'x', ARRAY['user_id:u' || (random() * 60)::int]::cdp.identifier[] FROM generate_series(1, 4);
			COMMIT;
			PERFORM pg_sleep(0.03);
		END LOOP;
	END $$;
));

# ---- consumers: scripts of psql, which writes a line out before it goes on

my $dir = PostgreSQL::Test::Utils::tempdir();

sub script
{
	my ($name, $rounds, $round) = @_;
	open my $fh, '>', "$dir/$name.sql" or die;
	print $fh "LISTEN cdp;\n", $round x $rounds;
	close $fh;
}

my $round = q(
SELECT coalesce(string_agg(seq::text, ' '), '') AS seqs, coalesce(max(seq), 0) AS last, coalesce(max(epoch), 0) AS epoch
	FROM cdp.poll('file', 20) \gset
SELECT 'got ' || :'seqs' || ' end' WHERE :last > 0;
SELECT pg_sleep(0.005);
SELECT cdp.ack('file', :last, epoch => :epoch) WHERE :last > 0;
BEGIN;
WITH p AS (SELECT epoch, seq FROM cdp.poll('effects', 11)), i AS (INSERT INTO effects SELECT * FROM p)
SELECT coalesce(max(seq), 0) AS last FROM p \gset
SELECT cdp.ack('effects', :last) WHERE :last > 0;
COMMIT;
SELECT pg_sleep(0.002);
);
script('consumer', 400, $round);
script('rest', 60, $round);
my $job = q(
WITH p AS (SELECT seq FROM cdp.poll('jobs', 15)), i AS (INSERT INTO jobs SELECT seq, pg_backend_pid() FROM p)
SELECT coalesce(array_agg(seq), '{}') AS seqs FROM p \gset
SELECT cdp.ack('jobs', :'seqs'::bigint[]);
);
script('worker', 1000, $job);
script('last', 40, $job);

sub start
{
	my ($name, $out) = @_;
	my $pid = fork;
	die unless defined $pid;
	return $pid if $pid;
	open STDOUT, '>>', "$dir/$out" or die;
	open STDERR, '>>', "$dir/errors" or die;
	exec('psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', "$dir/$name.sql");
}

my @loaders = map {
	my $pid = fork;
	exec('psql', '-Xq', '-d', $node->connstr('postgres'), '-c', 'CALL load_it()') unless $pid;
	$pid;
} 1 .. 2;

# ---- kill them, again and again

my @workers = map { start('worker', 'workers') } 1 .. 2;
my $snapshots = 0;
for my $i (1 .. $kills)
{
	# in the middle of its work
	my $before = -s "$dir/consumer" || 0;
	my $pid = start('consumer', 'consumer');
	my $until = time + 5;
	sleep 0.002 while (-s "$dir/consumer" || 0) == $before && time < $until;
	sleep rand 0.01;
	kill 'KILL', $pid;
	waitpid $pid, 0;
	if ($i % 10 == 0)
	{
		my $victim = shift @workers;
		kill 'KILL', $victim;
		waitpid $victim, 0;
		push @workers, start('worker', 'workers');
		$snapshots++;
		$node->safe_psql('postgres',
			qq(SELECT cdp.subscribe('snapshot$snapshots', '{"segment": "odd"}', 'snapshot', mode => 'mirror')));
	}
}
$node->safe_psql('postgres', 'INSERT INTO stop VALUES (true)');
waitpid $_, 0 foreach @loaders;
$node->safe_psql('postgres', "SELECT cdp.wait_applied('60 s')");
kill 'KILL', @workers;
waitpid $_, 0 foreach @workers;
foreach my $attempt (1 .. 50)
{
	waitpid start('rest', 'consumer'), 0;
	last if $node->safe_psql('postgres',
		q(SELECT min(behind) + max(behind) FROM cdp.subscription_lag WHERE subscription IN ('file', 'effects'))) eq '0';
}

# ---- what each has seen

my $all = $node->safe_psql('postgres',
	q(SELECT string_agg(seq::text, ' ' ORDER BY epoch, seq) FROM cdp.changes WHERE cause IN ('entry', 'timer')));
my @all = split ' ', $all;
cmp_ok(scalar(@all), '>', $kills, 'there were changes');

my (@seen, $last, $repeated);
$last = $repeated = 0;
foreach my $line (split /\n/, slurp_file("$dir/consumer"))
{
	next unless $line =~ /^got (.*) end$/;
	foreach my $seq (split ' ', $1)
	{
		if ($seq > $last) { push @seen, $seq; $last = $seq; }
		else { $repeated++; }
	}
}
note scalar(@all), " changes, $repeated repeated";
cmp_ok($repeated, '>', 0, 'some came twice');
is("@seen", "@all", "killed $kills times: every change, in order, once without repetitions");
is( $node->safe_psql('postgres', q(SELECT count(*), bool_and(e.seq IS NOT NULL AND c.seq IS NOT NULL)
		FROM effects e FULL JOIN (SELECT * FROM cdp.changes WHERE segment = 'odd' AND cause IN ('entry', 'timer')) c USING (epoch, seq))),
	$node->safe_psql('postgres', q(SELECT count(*), true FROM cdp.changes WHERE segment = 'odd' AND cause IN ('entry', 'timer'))) =~ s/true/t/r,
	'effects in the same transaction are there once');

# the workers that compete: what was taken by one that was killed comes again
sleep 1.1;
foreach my $attempt (1 .. 20)
{
	waitpid start('last', 'workers'), 0;
	last if $node->safe_psql('postgres', q(SELECT behind FROM cdp.subscription_lag WHERE subscription = 'jobs')) eq '0';
	sleep 0.2;
}
is($node->safe_psql('postgres', q(SELECT string_agg(seq::text, ' ' ORDER BY seq) FROM (SELECT DISTINCT seq FROM jobs) j)),
	$all, 'workers that compete have done everything');

# ---- snapshots: members first, then changes; nobody enters twice or leaves unseen

foreach my $i (1 .. $snapshots)
{
	is( $node->safe_psql('postgres', qq(
		WITH p AS MATERIALIZED (SELECT * FROM cdp.poll('snapshot$i', 1000000)),
		o AS (SELECT profile_id, kind, lag(kind, 1, 'segment_exited') OVER (PARTITION BY profile_id ORDER BY epoch, seq) AS before,
			row_number() OVER (PARTITION BY profile_id ORDER BY epoch DESC, seq DESC) AS n FROM p)
		SELECT count(*) FILTER (WHERE kind = before),
			array(SELECT profile_id FROM o WHERE n = 1 AND kind = 'segment_entered' ORDER BY 1)
			= array(SELECT m.profile_id FROM cdp.memberships m WHERE segment = 'odd' ORDER BY 1) FROM o)),
		'0|t', "snapshot $i: no gap, nothing double");
}

is(-s "$dir/errors" ? slurp_file("$dir/errors") : '', '', 'no errors');
unlike(slurp_file($node->logfile), qr/deadlock|ERROR/, 'none in the log either');
$node->stop('fast');
done_testing();
