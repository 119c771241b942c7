# Definitions are built beside what comes: clients go on appending and never wait
# for it, the applier and the server are killed in the middle, a dump is taken
# there; in the end everything is as the log says.  Which domains mean accounts
# changes in the same way.
use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

my $entries = $ENV{CDP_ENTRIES} // ($ENV{CDP_TORTURE} ? 200_000 : 6_000);
my $rounds = $ENV{CDP_TORTURE} ? 40 : 8;
my $seed = $ENV{CDP_SEED} || int(rand(1 << 30));
srand($seed);
note "seed $seed, CDP_SEED=$seed repeats it";

my $node = PostgreSQL::Test::Cluster->new('backfill');
$node->init;
$node->append_conf(
	'postgresql.conf', qq(
shared_preload_libraries = 'cdp'
restart_after_crash = on
cdp.batch_size = 200
cdp.naptime = '50ms'
cdp.backfill_at_once = 0
cdp.backfill_rate = $entries
checkpoint_timeout = '30s'
client_min_messages = warning
));
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION cdp');

# Traits of accounts have to follow which domains mean one.
$node->safe_psql('postgres', q{SELECT cdp.create_trait('bought', aggregate => 'count', event => 'Bought', entity => 'account'),
	cdp.create_trait('people', aggregate => 'count', entity => 'account', options => '{"over": "members"}')});

# People with devices; some messages come twice, some entries are late.
$node->safe_psql('postgres', qq(
INSERT INTO cdp.events (message_id, event, identifiers, properties, occurred_at)
SELECT 'h' || i - (i % 50 = 0)::int, CASE i % 3 WHEN 0 THEN 'Bought' ELSE 'Viewed' END,
	CASE WHEN i % 11 = 0 THEN ARRAY['user_id:u' || p, 'anonymous_id:d' || p] WHEN i % 13 = 0 THEN ARRAY['user_id:u' || p, 'email:u' || p || chr(64) || 'company' || p % 20 || '.com'] WHEN i % 2 = 0 THEN ARRAY['user_id:u' || p] ELSE ARRAY['anonymous_id:d' || p] END::cdp.identifier[],
	jsonb_build_object('n', i % 100), timestamptz '2026-01-01' + (i::bigint * 7919 % 100000) * interval '1 minute'
FROM (SELECT i, (i::bigint * 7919 / 13 % 700)::int AS p FROM generate_series(1, $entries) i) s));
is($node->safe_psql('postgres', "SELECT cdp.wait_applied('600 s')"), 't', 'history is applied');

my $script = $node->basedir . '/append.sql';
append_to_file(
	$script, q(
\set user random(1, 800)
\set device random(1, 800)
\set n random(1, 100)
SELECT cdp.track('Bought', user_id => 'u' || :user, properties => jsonb_build_object('n', :n));
SELECT cdp.track('Viewed', user_id => 'u' || :user, anonymous_id => 'd' || :device, properties => jsonb_build_object('n', :n));
INSERT INTO cdp.events (message_id, event, identifiers, properties, occurred_at) VALUES ('h' || :user, 'Bought', ARRAY['anonymous_id:d' || :device]::cdp.identifier[], jsonb_build_object('n', :n), '2025-12-31');
\sleep 5 ms
));

# Traits and segments that are made, and made otherwise, one a round.
my @changes = (
	q{SELECT cdp.create_trait('spent', aggregate => 'sum', event => 'Bought', value => $$(properties->>'n')::numeric$$)},
	q{SELECT cdp.create_segment('spenders', $$spent > 300 AND did('Viewed', at_least => 3)$$)},
	q{SELECT cdp.account_by_domain(NOT EXISTS (SELECT FROM cdp.domain_accounts))},
	q{SELECT cdp.alter_trait('spent', filter => $$(properties->>'n')::int > 20$$)},
	q{SELECT cdp.alter_segment('spenders', $$spent > 300 AND did('Bought', at_least => 2, filter => (properties->>'n')::int > 50)$$)},
	q{SELECT cdp.create_trait('days', aggregate => 'streak', event => 'Viewed')},
	q{SELECT cdp.alter_trait('spent', filter => '')},
	q{SELECT cdp.free_mail_domain('company' || d || '.com', NOT EXISTS (SELECT FROM cdp.free_mail_definitions)) FROM generate_series(0, 9) d},
);

my $building = 'SELECT count(*) FROM cdp.backfills';
my ($middle, $waited) = (0, 0);

for my $round (1 .. $rounds)
{
	my ($in, $out, $err) = ('', '', '');
	my $change = $changes[ ($round - 1) % @changes ];
	my $dies = $round % 3 == 0;

	$change =~ s/cdp\.create_(\w+)\((.*)\)$/cdp.create_$1($2, if_exists => 'replace')/s;
	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'cdp applier'")
	  or die "no applier in round $round";

	# a client that has to wait for a lock fails
	local $ENV{PGOPTIONS} = '-c lock_timeout=3s';
	my $clients = IPC::Run::start([ 'pgbench', '-n', '-f', $script, '-c', '4', '-j', '2', '-T', $dies ? 60 : 1,
			'-h', $node->host, '-p', $node->port, 'postgres' ], \$in, \$out, \$err);
	delete $ENV{PGOPTIONS};
	$node->safe_psql('postgres', $change);
	sleep rand(0.7);
	$middle++ if $node->safe_psql('postgres', $building) > 0;
	if ($dies)
	{
		$node->kill9;
		$clients->finish;
		my $until = time + 60;
		until ($node->start(fail_ok => 1))
		{
			die 'the server does not start again' if time > $until;
			sleep 0.2;
			# what it thinks that it found is what we have killed
			$node->{_pid} = undef;
		}
	}
	else
	{
		my $pid = $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'cdp applier'");
		kill 'TERM', $pid if $round % 3 == 1 && $pid ne '';
		$clients->finish;
		$waited++ if $err =~ /lock timeout/;
		note $err if $clients->result(0) != 0;
	}
	note "round $round: $change";
}
ok($middle > 0, "killed in the middle of a back-fill in $middle of $rounds rounds");
is($waited, 0, 'no client has waited for a lock');

# a dump in the middle: nothing moves while the back-fill pauses
$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'cdp applier'");
is($node->safe_psql('postgres', q{SELECT cdp.wait_backfill(timeout => '300 s')}), 't', 'all definitions are whole');
$node->safe_psql('postgres', q{SELECT cdp.alter_trait('spent', filter => $$(properties->>'n')::int > 10$$)});
$node->poll_query_until('postgres', 'SELECT count(*) = 0 OR max(position) > 0 FROM cdp.backfills');
$node->safe_psql('postgres', 'ALTER SYSTEM SET cdp.backfill_rate = -1');
$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
is($node->safe_psql('postgres', "SELECT cdp.wait_applied('300 s')"), 't', 'all entries are applied');
$node->safe_psql('postgres', 'SELECT pg_sleep(0.3)');
is($node->safe_psql('postgres', q{SELECT count(*), max(position) BETWEEN 1 AND 1000000 FROM cdp.backfills}), '1|t', 'a back-fill pauses in the middle');
is($node->safe_psql('postgres', 'SELECT * FROM cdp.verify() LIMIT 5'), '', 'there, all is as the log says');
my $dump = $node->basedir . '/dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, $node->connstr('postgres') ], 'dumped there');
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->command_ok([ 'pg_restore', '-d', $node->connstr('copy'), $dump ], 'restored');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET cdp.backfill_rate');
$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
$node->safe_psql('copy', 'SET cdp.backfill_rate = 0; SELECT cdp.apply()');

my $spent = q{SELECT count(*), sum((p.traits->>'spent')::numeric) FROM cdp.profiles p};
my $same = q{SELECT (SELECT sum(spent) FROM cdp.profile_traits) =
	(SELECT sum((v.properties->>'n')::numeric) FROM cdp.entries n JOIN cdp.events v ON v.id = n.entry AND v.xid = n.xid
	WHERE v.event = 'Bought' AND (v.properties->>'n')::int > 10)};
is($node->safe_psql('postgres', q{SELECT cdp.wait_backfill('spent', '300 s')}), 't', 'it goes on');
for my $db ('postgres', 'copy')
{
	is($node->safe_psql($db, $building), '0', "$db: nothing is left");
	is($node->safe_psql($db, $same), 't', "$db: every entry counts once");
}
is($node->safe_psql('copy', 'SELECT * FROM cdp.verify() LIMIT 5'), '', 'all is as the log says');
is($node->safe_psql('copy', $spent), $node->safe_psql('postgres', $spent), 'both are the same');
is($node->safe_psql('postgres', q{SELECT count(*) - (max(seq) - min(seq) + 1) FROM cdp.changes}), '0', 'changes have no gap');

$node->stop;
done_testing();
