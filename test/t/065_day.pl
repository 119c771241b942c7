# A day of a steady stream, with the clock moved: tables and indexes that are
# updated stay near the size of what they hold, autovacuum keeps up, the
# applier's memory stays flat, and it is idle without a transaction.
#
# make torture runs all of 24 hours at 200 events a second; CDP_DAY_EVENTS sets
# how many events the day has, CDP_DAY_STEPS into how many steps it is cut.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $events = $ENV{CDP_DAY_EVENTS} // ($ENV{CDP_TORTURE} ? 24 * 3600 * 200 : 12_000);
my $steps = $ENV{CDP_DAY_STEPS} // ($ENV{CDP_TORTURE} ? 288 : 24);
my $each = int($events / $steps);
my $users = int($events / 40) + 10;
note "$events events in $steps steps, $users people";

my $node = PostgreSQL::Test::Cluster->new('day');
$node->init;
# A day passes in minutes, so autovacuum has minutes for what it has a day for:
# it looks every second, and does not sleep.
$node->append_conf(
	'postgresql.conf', qq(
shared_preload_libraries = 'cdp'
cdp.naptime = '1s'
autovacuum_naptime = '1s'
autovacuum_vacuum_cost_delay = 0
cdp.now = '2026-03-01 00:00Z'
max_wal_size = '4GB'
));
$node->start;
$node->safe_psql(
	'postgres', q(
	CREATE EXTENSION cdp;
	SELECT cdp.create_trait('visits', aggregate => 'count');
	SELECT cdp.create_trait('spent', aggregate => 'sum', event => 'Bought', value => $$(properties->>'amount')::numeric$$);
	SELECT cdp.create_trait('latest', aggregate => 'last', value => $$properties->>'page'$$);
	SELECT cdp.create_trait('hour', aggregate => 'count', within => '1 hour');
	SELECT cdp.create_segment('active', $$did('Viewed', within => '2 hours')$$);
	SELECT cdp.create_segment('buyers', $$spent > 100 AND did('Bought', within => '6 hours')$$);
	SELECT cdp.create_segment('busy', 'hour >= 3');
	SELECT cdp.subscribe('mail');
));

sub applier_pid
{
	$node->poll_query_until('postgres', 'SELECT cdp.worker_pid() IS NOT NULL') or die;
	return $node->safe_psql('postgres', 'SELECT cdp.worker_pid()');
}

# What the applier has allocated, in bytes.
sub memory
{
	my $pid = applier_pid();
	my $log = -s $node->logfile;
	$node->safe_psql('postgres', "SELECT pg_log_backend_memory_contexts($pid)");
	# it answers when it is woken
	$node->safe_psql('postgres', q(SELECT cdp.wait_applied('60 s')));
	$node->wait_for_log(qr/Grand total: \d+ bytes/, $log);
	my ($bytes) = slurp_file($node->logfile, $log) =~ /Grand total: (\d+) bytes/;
	return $bytes;
}

# A step takes seconds instead of minutes: give autovacuum the turns that it
# would have had, until no table has more dead rows than it puts up with.
sub let_autovacuum_run
{
	return $node->poll_query_until('postgres', q(
		SELECT coalesce(bool_and(s.n_dead_tup <= coalesce(o.threshold, 50) + coalesce(o.scale, 0.2) * greatest(c.reltuples, 0)), true)
		FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid,
			LATERAL (SELECT max(option_value) FILTER (WHERE option_name = 'autovacuum_vacuum_threshold')::float8 AS threshold,
				max(option_value) FILTER (WHERE option_name = 'autovacuum_vacuum_scale_factor')::float8 AS scale
				FROM pg_options_to_table(c.reloptions)) o
		WHERE s.schemaname = 'cdp'));
}

sub sizes
{
	my %sizes;
	foreach my $row (split /\n/, $node->safe_psql(
			'postgres', q(
		SELECT c.oid::regclass, pg_total_relation_size(c.oid) FROM pg_class c
		WHERE c.relkind = 'r' AND c.relname IN ('identities', 'links', 'timers', 'segment_members', 'applier', 'cursors',
			'subscriptions', 'segment_evaluations', 'window_items', 'entry_pieces') AND c.relnamespace = 'cdp'::regnamespace)))
	{
		my ($table, $size) = split /\|/, $row;
		$sizes{$table} = $size;
	}
	return \%sizes;
}

my ($early, $late, $busy, $behind) = (0, 0, 0, 0);
my ($appending, $applying, $vacuuming) = (0, 0, 0);
my $start = time;
for my $step (1 .. $steps)
{
	my $now = sprintf("timestamptz '2026-03-01 00:00Z' + interval '24 hours' * (%d / %d::float8)", $step, $steps);
	my $clock = $node->safe_psql('postgres', "SELECT $now");
	$node->safe_psql('postgres', "ALTER SYSTEM SET cdp.now = '$clock'");
	$node->reload;
	my $from = time;
	# some are new, most have been here before; a tenth bring two identifiers together
	$node->safe_psql(
		'postgres', qq(
		SELECT setseed(0.$step);
		INSERT INTO cdp.events (event, identifiers, properties, occurred_at, received_at)
		SELECT CASE WHEN r < 0.1 THEN 'Bought' ELSE 'Viewed' END,
			CASE WHEN r BETWEEN 0.5 AND 0.6 THEN ARRAY['user_id:u' || u, 'anonymous_id:a' || u] WHEN r < 0.5 THEN ARRAY['anonymous_id:a' || u] ELSE ARRAY['user_id:u' || u] END::cdp.identifier[],
			jsonb_build_object('amount', (r * 500)::int, 'page', 'p' || (r * 100)::int), $now - r * interval '1 minute', $now
		FROM (SELECT random() AS r, (random() * random() * $users)::int AS u FROM generate_series(1, $each)) s));
	$appending += time - $from;
	$from = time;
	my $applied = $node->safe_psql('postgres', "SELECT cdp.wait_applied('600 s')");
	is($applied, 't', "step $step") if $step % 24 == 0 || $applied ne 't';
	$applying += time - $from;
	$node->safe_psql('postgres', q(SELECT cdp.ack('mail', max(seq)) FROM cdp.changes HAVING count(*) > 0));
	$early = memory() if $step == int($steps / 4);
	$busy++ unless $node->poll_query_until('postgres',
		"SELECT xact_start IS NULL AND backend_xmin IS NULL AND state = 'idle' FROM pg_stat_activity WHERE backend_type = 'cdp applier'");
	next if $events < 100_000;
	$from = time;
	$behind++ unless let_autovacuum_run();
	$vacuuming += time - $from;
}
$late = memory();
note sprintf('%d s: appending %d, applying %d, waiting for autovacuum %d', time - $start, $appending, $applying, $vacuuming);

is($busy, 0, 'idle after every step, without transaction and snapshot');
note "memory of the applier: $early after a quarter of the day, $late at its end";
cmp_ok($late, '<', 1.5 * $early + 8 * 1024 * 1024, 'its memory is flat');
is( $node->safe_psql('postgres', 'SELECT entries FROM cdp.stat_apply'), $each * $steps, 'everything is applied');
is($node->safe_psql('postgres', q(SELECT count(*) FROM cdp.check() WHERE severity = 'error')), '0', 'check() finds no error');

is($behind, 0, 'autovacuum keeps up after every step');
ok(let_autovacuum_run(), 'and at the end');
my $before = sizes();
$node->safe_psql('postgres', join(';', map { "VACUUM FULL $_" } keys %$before));
my $after = sizes();
foreach my $table (sort keys %$before)
{
	note sprintf('%-24s %10d bytes, %10d when written anew', $table, $before->{$table}, $after->{$table});
	# fillfactors below 100, and pages that a batch needs before the dead rows of
	# the one before it are away
	cmp_ok($before->{$table}, '<', 2.5 * $after->{$table} + 1024 * 1024, "$table is not bloated");
}
$node->stop('fast');
done_testing();
