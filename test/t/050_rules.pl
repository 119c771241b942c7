# The rules of identity are changed on live data: clients go on appending, the
# applier and the server are killed in the middle, and in the end everything is
# as the log says under the new rules.
use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

my $rounds = $ENV{CDP_TORTURE} ? 30 : 4;
my $entries = $ENV{CDP_TORTURE} ? 100_000 : 12_000;

my $node = PostgreSQL::Test::Cluster->new('rules');
$node->init;
$node->append_conf(
	'postgresql.conf', qq(
shared_preload_libraries = 'cdp'
restart_after_crash = on
cdp.batch_size = 200
cdp.naptime = '100ms'
cdp.replay_at_commit = 0
checkpoint_timeout = '30s'
));
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION cdp');
$node->safe_psql(
	'postgres', q(
	SELECT cdp.create_trait('ticks', aggregate => 'count', event => 'Tick');
	SELECT cdp.create_segment('busy', 'ticks >= 20');
));

# People with devices, addresses in two spellings, and badges and customer
# numbers that nobody has registered; some devices are shared, some messages
# come twice.
my $history = qq(
INSERT INTO cdp.events (message_id, event, identifiers, occurred_at)
SELECT 'h' || i - (i % 50 = 0)::int, 'Tick', ARRAY[
	CASE i % 4 WHEN 0 THEN 'user_id:u' || p WHEN 1 THEN 'anonymous_id:d' || p
		WHEN 2 THEN 'badge:B' || p ELSE 'email:P' || p || '\@Example.com' END,
	CASE i % 3 WHEN 0 THEN 'anonymous_id:d' || CASE WHEN i % 61 = 0 THEN p / 5 ELSE p END
		WHEN 1 THEN 'crm:' || chr(65 + i % 2 * 32) || p ELSE 'email:p' || p || '\@example.com' END
	]::cdp.identifier[], timestamptz '2026-01-01' + i * interval '1 minute'
FROM (SELECT i, (i::bigint * 7919 / 13 % 1000)::int AS p FROM generate_series(1, $entries) i) s);
$node->safe_psql('postgres', $history);
is($node->safe_psql('postgres', "SELECT cdp.wait_applied('600 s')"), 't', 'history is applied');

my $script = $node->basedir . '/append.sql';
append_to_file(
	$script, q(
\set user random(1, 999)
\set device :user + 1000 * (random(1, 50) / 50)
SELECT cdp.track('Tick', user_id => 'u' || :user, anonymous_id => 'd' || :device);
INSERT INTO cdp.events (message_id, event, identifiers, occurred_at) VALUES ('h' || :user, 'Tick', ARRAY['badge:b' || :user, 'user_id:u' || :user]::cdp.identifier[], '2025-12-31');
\sleep 5 ms
));
my @changes = (
	q{SELECT cdp.create_identifier_kind('badge', normaliser => 'lower')},
	q{SELECT cdp.alter_identifier_kind('user_id', max_per_profile => 3)},
	q{BEGIN; SELECT cdp.create_identifier_kind('crm', normaliser => 'lower', max_per_profile => 2); SELECT cdp.alter_identifier_kind('email', priority => 90); COMMIT},
	q{SELECT cdp.alter_identifier_kind('badge', blocked => ARRAY['^b1'])},
	q{SELECT cdp.alter_identifier_kind('anonymous_id', links => false)},
	q{SELECT cdp.drop_identifier_kind('crm')},
	q{SELECT cdp.alter_identifier_kind('anonymous_id', links => true)});

my $worker = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'cdp applier'";
my $dead = 0;
my $midway = 0;
my $two = 0;

for my $round (1 .. $rounds)
{
	my ($in, $out, $err) = ('', '', '');
	my @pgbench = ('pgbench', '-n', '-f', $script, '-c', '2', '-T', '60',
		'-h', $node->host, '-p', $node->port, 'postgres');

	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM ($worker AND pid <> $dead) w")
	  or die "no applier in round $round";
	my $clients = IPC::Run::start(\@pgbench, \$in, \$out, \$err);
	sleep 0.2;
	$node->safe_psql('postgres', $changes[ ($round - 1) % @changes ]);
	$node->poll_query_until('postgres', 'SELECT count(*) = 0 OR bool_or(done > 0) FROM cdp.progress');

	my $state = $node->safe_psql('postgres', 'SELECT phase, done, total FROM cdp.progress');
	$midway++ if $state ne '';
	$two++ if $node->safe_psql('postgres', 'SELECT count(*) > 1 FROM cdp.rule_changes') eq 't';
	note "round $round: $state";
	($dead) = $node->safe_psql('postgres', $worker) =~ /^(\d+)/;
	if ($round % 2)
	{
		kill 'KILL', $dead if $dead;
		$clients->finish;
	}
	else
	{
		$node->kill9;
		$clients->finish;
		my $until = time + 60;
		until ($node->start(fail_ok => 1))
		{
			die 'no restart' if time > $until;
			sleep 0.2;
			$node->{_pid} = undef;
		}
	}
	$dead ||= 0;

	# every other change meets one that is not through yet
	if ($round % 2 == 0 || $round == $rounds)
	{
		$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM ($worker AND pid <> $dead) w") or die 'no applier';
		is($node->safe_psql('postgres', "SELECT cdp.wait_applied('600 s')"), 't', "round $round: everything is applied");
		is($node->safe_psql('postgres', 'SELECT * FROM cdp.progress'), '', "round $round: no change is under way");
		is($node->safe_psql('postgres', 'SELECT * FROM cdp.verify() LIMIT 10'), '', "round $round: verify() finds no difference");
	}
}
cmp_ok($midway, '>', 0, "$midway of $rounds kills were in the middle of a change");
is($node->safe_psql('postgres', 'SELECT entries = (SELECT count(*) FROM cdp.events) FROM cdp.stat_apply'), 't', 'every entry was counted once');
is($node->safe_psql('postgres', 'SELECT count(*) FROM cdp.rule_changes'), '0', 'nothing is left of the changes');
is($node->safe_psql('postgres', 'SELECT count(*) FROM cdp.rule_cursors'), '0', 'nor of their cursors');

# The change of rules that is asked for in a transaction which is rolled back
# leaves the applier alone.
$node->safe_psql('postgres', q(BEGIN; SELECT cdp.alter_identifier_kind('user_id', max_per_profile => 1); SELECT cdp.track('Tick', user_id => 'x'); ROLLBACK));
is($node->safe_psql('postgres', 'SELECT count(*) FROM cdp.rule_changes'), '0', 'rolled back');

# While a transaction with a change is open, entries are applied.
my $open = $node->background_psql('postgres');
$open->query_safe('BEGIN');
$open->query_safe(q{SELECT cdp.alter_identifier_kind('user_id', max_per_profile => 1)});
$node->safe_psql('postgres', q(SELECT cdp.track('Tick', user_id => 'while-open')));
is($node->safe_psql('postgres', "SELECT cdp.wait_applied('60 s')"), 't', 'entries are applied beside an open change');
isnt($node->safe_psql('postgres', "SELECT cdp.resolve('user_id:while-open')"), '', 'and are there');
cmp_ok($open->query_safe('SELECT count(*) FROM cdp.preview_identity()'), '>', 0, 'its preview shows something');
$open->query_safe('ROLLBACK');
$open->quit;
is($node->safe_psql('postgres', 'SELECT * FROM cdp.verify() LIMIT 10'), '', 'verify() finds no difference after that');
$node->stop('fast');

done_testing();
