# kill -9 of the applier and of the server while clients append and batches are
# applied: nothing is lost, nothing counts twice, changes have no gaps.
use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

my $rounds = $ENV{CDP_TORTURE} ? 100 : 20;
my $seed = $ENV{CDP_SEED} || int(rand(1 << 30));
srand($seed);
note "seed $seed, CDP_SEED=$seed repeats it";

my $node = PostgreSQL::Test::Cluster->new('crash');
$node->init;
$node->append_conf(
	'postgresql.conf', qq(
shared_preload_libraries = 'cdp'
restart_after_crash = on
cdp.batch_size = 100
cdp.naptime = '100ms'
checkpoint_timeout = '30s'
));
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION cdp');
$node->safe_psql(
	'postgres', q(
	SELECT cdp.create_trait('ticks', aggregate => 'count', event => 'Tick');
	SELECT cdp.create_trait('total', aggregate => 'sum', event => 'Tick', value => $$(properties->>'n')::numeric$$);
	SELECT cdp.create_segment('busy', 'ticks >= 40');
));

# Users 1 to 100, half of the entries by their device.
my $script = $node->basedir . '/append.sql';
append_to_file(
	$script, q(
\set user random(1, 100)
\set n random(1, 10)
SELECT cdp.track('Tick', user_id => :user, anonymous_id => CASE WHEN :n > 5 THEN 'd' || :user END, properties => jsonb_build_object('n', :n));
\set device random(1, 100)
BEGIN;
SELECT cdp.track('Tick', anonymous_id => 'd' || :device, properties => jsonb_build_object('n', :n));
SELECT cdp.track('Tick', user_id => :device, message_id => 'm' || :device, occurred_at => '2026-01-01', properties => jsonb_build_object('n', :n));
COMMIT;
));
my $bulk = q(INSERT INTO cdp.events (event, identifiers, properties)
	SELECT 'Tick', ARRAY['user_id:' || (i % 100 + 1)]::cdp.identifier[], jsonb_build_object('n', i % 7)
	FROM generate_series(1, 1500) i);

# However little the clients get done: each device belongs to its user.
$node->safe_psql('postgres',
	q(SELECT cdp.track('Tick', user_id => i::text, anonymous_id => 'd' || i, properties => '{"n": 1}') FROM generate_series(1, 100) i));

my $worker = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'cdp applier'";
my $busy = 0;
my $acknowledged = 100;
my $dead = 0;

for my $round (1 .. $rounds)
{
	my ($in, $out, $err) = ('', '', '');
	my @pgbench = ('pgbench', '-n', '-f', $script, '-c', '2', '-j', '2', '-T', '60',
		'-h', $node->host, '-p', $node->port, 'postgres');

	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM ($worker AND pid <> $dead) w")
	  or die "no applier in round $round";
	my $clients = IPC::Run::start(\@pgbench, \$in, \$out, \$err);
	$node->safe_psql('postgres', $bulk);
	$acknowledged += 1500;
	sleep 0.05 + rand(0.4);

	my $state = $node->safe_psql('postgres', "SELECT pid, state FROM pg_stat_activity WHERE backend_type = 'cdp applier'");
	$busy++ if $state =~ /active/;
	($dead) = $state =~ /^(\d+)/;
	if ($round % 2)
	{
		kill 'KILL', $dead;
		$clients->finish;
	}
	else
	{
		$node->kill9;
		$clients->finish;

		# its children need a moment to notice
		my $until = time + 60;
		until ($node->start(fail_ok => 1))
		{
			die 'no restart' if time > $until;
			sleep 0.2;

			# what it thinks that it found is what we have killed
			$node->{_pid} = undef;
		}
	}
}
cmp_ok($busy, '>', 0, "the applier was at work in $busy of $rounds kills");

$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM ($worker AND pid <> $dead) w")
  or die 'no applier in the end';
is($node->safe_psql('postgres', "SELECT cdp.wait_applied('600 s')"), 't', 'everything is applied');
my $entries = $node->safe_psql('postgres', 'SELECT count(*) FROM cdp.events');
cmp_ok($entries, '>=', $acknowledged, "nothing that was acknowledged is lost ($entries entries)");
is($node->safe_psql('postgres', 'SELECT entries FROM cdp.stat_apply'), $entries, 'every entry was read once');

# Plain SQL over the log: a user and the user's device are one person; of
# entries with one message id one counts.
is( $node->safe_psql(
		'postgres', q(
	WITH e AS (
		SELECT DISTINCT ON (source, coalesce(message_id, '#' || id))
			regexp_replace(identifiers[1]::text, '^(user_id:|anonymous_id:d)', '') AS person, properties, id
		FROM cdp.events
		ORDER BY source, coalesce(message_id, '#' || id), occurred_at,
			md5(ROW(type, event, identifiers, properties, context)::text)),
	plain AS (SELECT person, count(*) AS ticks, sum((properties ->> 'n')::numeric) AS total FROM e GROUP BY person),
	found AS (
		SELECT p.person, (t ->> 'ticks')::bigint AS ticks, (t ->> 'total')::numeric AS total
		FROM plain p, LATERAL (SELECT cdp.profile(cdp.identifier('user_id', p.person)) -> 'traits' AS t) x)
	SELECT count(*) FROM ((TABLE plain EXCEPT TABLE found) UNION ALL (TABLE found EXCEPT TABLE plain)) d)),
	'0', 'counts and sums per person equal plain SQL over the log');
is($node->safe_psql('postgres', 'SELECT count(*) = max(seq) - min(seq) + 1 AND count(*) = count(DISTINCT seq) AND min(seq) = 1 FROM cdp.changes'),
	't', 'changes have no gaps and no doubles');
is( $node->safe_psql(
		'postgres', q(
	SELECT count(*) FROM (
		SELECT profile_id, sum(CASE kind WHEN 'segment_entered' THEN 1 ELSE -1 END) AS n
		FROM cdp.changes WHERE kind IN ('segment_entered', 'segment_exited') GROUP BY profile_id) c
	FULL JOIN cdp.memberships m ON m.profile_id = c.profile_id
	WHERE c.n IS DISTINCT FROM 1 AND (c.n IS DISTINCT FROM 0 OR m.profile_id IS NOT NULL))),
	'0', 'the changes add up to the memberships');
is($node->safe_psql('postgres', 'SELECT count(*) FROM cdp.verify()'), '0', 'verify() finds no difference');
$node->stop('fast');

done_testing();
