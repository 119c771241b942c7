# pg_dump and restore of a database with everything in it and entries pending,
# into a cluster where appliers run: same profiles, traits and memberships under
# the same ids; pending entries applied once; entries that arrive before them
# neither lost nor confused; loaded rows left alone until then.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $node = PostgreSQL::Test::Cluster->new('restore');
$node->init;
$node->append_conf(
	'postgresql.conf', qq(
shared_preload_libraries = 'cdp'
max_worker_processes = 16
cdp.naptime = '100ms'
cdp.sync_interval = '1s'
));
$node->start;

# ---- a database with everything in it

$node->safe_psql('postgres', 'CREATE DATABASE source');
$node->safe_psql('source', 'CREATE EXTENSION cdp');
$node->safe_psql(
	'source', q(
	SELECT cdp.create_identifier_kind('crm', priority => 5, max_per_profile => 2);
	SELECT cdp.create_trait('plan', type => 'text');
	SELECT cdp.create_trait('orders', aggregate => 'count', event => 'Ordered');
	SELECT cdp.create_trait('ltv', aggregate => 'sum', event => 'Ordered', value => $$(properties->>'revenue')::numeric$$);
	SELECT cdp.create_trait('recent', aggregate => 'count', event => 'Ordered', within => '30 days');
	SELECT cdp.create_segment('buyers', 'orders >= 1');
	SELECT cdp.create_segment('fresh', $$recent >= 2 AND plan = 'pro'$$);
	SELECT cdp.tracking_plan('Ordered', '{"properties": {"revenue": {"maximum": 390}}}', 'quarantine');
	SELECT cdp.tracking_plan(NULL, '{"properties": {"plan": {"enum": ["pro"]}}}', 'drop-property', 'identify');
	SELECT cdp.subscribe('mail');
	CREATE VIEW public.report AS SELECT profile_id, ltv, plan FROM cdp.profile_traits WHERE orders > 0;
	CREATE TABLE public.shop (id int);
	CREATE TABLE public.sold (id int PRIMARY KEY, who text, total int, at timestamptz);
	INSERT INTO public.sold VALUES (1, 'u1', 10, '2026-11-02'), (2, 'u2', 20, '2026-11-02');
	CREATE VIEW public.seen AS SELECT id, who, at FROM public.sold;
	SELECT cdp.attach('public.sold', '{"event": "Ordered", "identifiers": {"user_id": "who"}, "time": "at", "properties": {"revenue": "total"}}');
	SELECT cdp.attach('public.seen', '{"event": "Seen", "identifiers": {"user_id": "who"}, "time": "at", "key": "id", "properties": {}}');
));

sub live
{
	my ($from, $to) = @_;
	return qq(
	INSERT INTO cdp.events (type, event, identifiers, properties, occurred_at)
	SELECT 'track', 'Ordered', ARRAY['user_id:u' || (i % 50), 'anonymous_id:d' || i % 80]::cdp.identifier[],
		jsonb_build_object('revenue', i), timestamptz '2026-11-01 00:00+00' + i * interval '1 minute'
	FROM generate_series($from, $to) i;
	INSERT INTO cdp.events (type, identifiers, properties, occurred_at)
	SELECT 'identify', ARRAY['user_id:u' || i % 50]::cdp.identifier[],
		jsonb_build_object('plan', CASE WHEN i % 3 = 0 THEN 'pro' ELSE 'free' END),
		timestamptz '2026-11-01 00:00+00' + i * interval '1 minute'
	FROM generate_series($from, $to) i WHERE i % 4 = 0;
	SELECT cdp.track('Ordered', user_id => 'dup', message_id => 'm', properties => '{"revenue": $to}', occurred_at => '2026-11-01');
	SELECT cdp.track('Ordered', user_id => 'dup', message_id => 'm$from', properties => '{"revenue": 1}', occurred_at => '2026-11-01');
	SELECT cdp.track('Ordered', user_id => 'dup', message_id => 'm$from', properties => '{"revenue": 1}', occurred_at => '2026-11-01');
	);
}
$node->safe_psql('source', live(1, 400));
$node->safe_psql('source', q(SELECT cdp.merge('user_id:u1', 'user_id:other', 'same person')));
$node->safe_psql('source', q(SELECT cdp.split('anonymous_id:d3', 'user_id:u3', 'another person')));
is($node->safe_psql('source', "SELECT cdp.wait_applied('300 s')"), 't', 'the source is applied');
$node->safe_psql('source', q(SELECT cdp.ack('mail', 10)));
$node->safe_psql('source', q(SELECT cdp.release('#' || entry) FROM (SELECT entry FROM cdp.rejected WHERE held ORDER BY entry LIMIT 3) r));
is($node->safe_psql('source', "SELECT cdp.wait_applied('300 s')"), 't', 'and what was released');

# pending: appended while no applier runs
$node->safe_psql('source', 'SELECT cdp.stop_worker()');
$node->safe_psql('source', live(401, 600));
$node->safe_psql('source', q(SELECT cdp.track('Ordered', user_id => 'pending', properties => '{"revenue": 7}')));
my $pending = $node->safe_psql('source', 'SELECT lag_entries FROM cdp.status()');
cmp_ok($pending, '>', 200, "$pending entries are pending");

# What the stations have derived. Without ids of rows, with ids of profiles.
my %answers = (
	identities => "SELECT identifier::text, node_id, profile_id, first_seen, last_seen FROM cdp.identities ORDER BY node_id",
	profiles => "SELECT profile_id, cdp.profile(profile_id) - 'segments' FROM (SELECT DISTINCT profile_id FROM cdp.identities) p ORDER BY 1",
	memberships => 'SELECT segment, profile_id FROM cdp.memberships ORDER BY 1, 2',
	report => 'SELECT * FROM public.report ORDER BY 1',
	definitions => 'SELECT name, predicate, channel FROM cdp.segments ORDER BY 1',
	attached => 'SELECT attachment, key, hash, entry FROM cdp.attached_rows ORDER BY 1, 2',
	held => 'SELECT entry, reason, detail FROM cdp.rejected ORDER BY 1',
	plans => 'SELECT * FROM cdp.stat_plans ORDER BY 1, 2, 3',
	kinds => "SELECT kind, priority, max_per_profile FROM cdp.identifier_kinds ORDER BY 1");

sub create
{
	my ($db) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	return $db;
}

sub answers
{
	my ($db) = @_;
	return join("\n", map { "-- $_\n" . $node->safe_psql($db, $answers{$_}) } sort keys %answers);
}
my $before = answers('source');

# ---- dump both ways, restore

my $dir = $node->basedir;
my @to = ('-h', $node->host, '-p', $node->port);
$node->command_ok([ 'pg_dump', @to, '-Fc', '-f', "$dir/custom", 'source' ], 'pg_dump -Fc');
$node->command_ok([ 'pg_dump', @to, '-f', "$dir/plain.sql", 'source' ], 'pg_dump');
$node->safe_psql('postgres', "CREATE DATABASE $_") for qw(custom plain started applied);
command_ok([ 'pg_restore', @to, '--exit-on-error', '-d', $_, "$dir/custom" ], "pg_restore into $_")
  for qw(custom started applied);
$node->command_ok([ 'psql', @to, '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', 'plain', '-f', "$dir/plain.sql" ], 'psql');

for my $db (qw(custom plain started applied))
{
	ok($node->poll_query_until('postgres',
			"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'cdp applier' AND datname = '$db'"),
		"an applier runs in $db");
}
sleep 1;
for my $db (qw(custom plain))
{
	is(answers($db), $before, "$db: the answers are those of the source, nothing is applied yet");
	is($node->safe_psql($db, 'SELECT incarnation_active, lag_entries FROM cdp.status()'), "f|$pending",
		"$db: the log waits to be activated")
	  or diag $node->safe_psql($db, 'TABLE cdp.cursors');
	my (undef, undef, $err) = $node->psql($db, 'SELECT cdp.wait_applied()');
	like($err, qr/before this copy of the log is activated/, "$db: wait_applied() says so");
}

# ---- the first new entries arrive, then the source goes on alike

my $new = q(
	SELECT cdp.track('Ordered', user_id => 'u1', properties => '{"revenue": 1000}', occurred_at => '2026-11-15');
	SELECT cdp.track('Ordered', user_id => 'new', anonymous_id => 'd5', properties => '{"revenue": 1}', occurred_at => '2026-11-15');
	SELECT cdp.identify(user_id => 'pending', traits => '{"plan": "pro"}', occurred_at => '2026-11-15');
);
$node->safe_psql('source', "$new SELECT cdp.apply()");
$node->safe_psql('source', 'SELECT cdp.apply()');
my $after = answers('source');
isnt($after, $before, 'the source has gone on');

for my $db (qw(custom plain))
{
	my $acked = $node->safe_psql($db, "SELECT acked_seq FROM cdp.subscriptions WHERE name = 'mail'");

	$node->safe_psql($db, $new);
	is($node->safe_psql($db, "SELECT cdp.wait_applied('300 s')"), 't', "$db: the first new entry activates the log");
	is(answers($db), $after, "$db: pending and new entries are applied once");
	is($node->safe_psql($db, 'SELECT count(*) FROM cdp.verify()'), '0', "$db: verify() finds no difference");
	is($node->safe_psql($db, 'SELECT count(*) = max(seq) - min(seq) + 1 AND count(DISTINCT epoch) = 2 FROM cdp.changes'),
		't', "$db: changes go on without gaps in a new epoch");
	is($node->safe_psql($db, "SELECT min(seq) > $acked AND count(*) > 0 FROM cdp.poll('mail', 100000)"),
		't', "$db: the subscriber goes on where it was");
	is($node->safe_psql($db, 'SELECT lag_entries, incarnation_active FROM cdp.status()'), '0|t', "$db: nothing is left");
	is($node->safe_psql($db, 'SELECT entries FROM cdp.stat_apply'),
		$node->safe_psql($db, 'SELECT (SELECT count(*) FROM cdp.events) + (SELECT count(*) FROM cdp.plan_releases)'),
		"$db: every entry was read once, and once more when it was released");
}

# ---- attached tables: no row is logged twice, and a change retracts what was restored

for my $db (qw(custom plain))
{
	my $rows = 'SELECT count(*), sum((properties->>\'revenue\')::int) FROM cdp.attached_rows r JOIN cdp.events e ON e.id = r.entry';

	is($node->safe_psql($db, "SELECT string_agg(status, ' ') FROM cdp.attachments"), 'ok ok', "$db: attachments are there");
	is($node->safe_psql($db, "SELECT a.*, b.* FROM cdp.sync_attachment('sold') a, cdp.sync_attachment('seen') b"),
		'0|0|0|0|0|0', "$db: attached rows are those of the log");
	is($node->safe_psql($db, $rows), '4|30', "$db: as before");
	my $ltv = "SELECT cdp.profile('user_id:u2')->'traits'->>'ltv'";
	my $was = $node->safe_psql($db, $ltv);
	$node->safe_psql($db, 'UPDATE public.sold SET total = total + 5 WHERE id = 2; DELETE FROM public.sold WHERE id = 1');
	is($node->safe_psql($db, "SELECT cdp.wait_applied('300 s')"), 't', "$db: rows are changed");
	is($node->safe_psql($db, $ltv), $was + 5, "$db: of the row only what it says now counts");
	is($node->safe_psql($db, "SELECT logged, retracted FROM cdp.sync_attachment('sold')"), '0|0', "$db: nothing is left to compare");
	is($node->safe_psql($db, 'SELECT count(*) FROM cdp.verify()'), '0', "$db: verify() agrees");
}

# ---- amid a restore, with definitions and the log's knowledge of rows but not the rows

$node->safe_psql('postgres', 'CREATE DATABASE amid');
command_ok([ 'pg_restore', @to, '--exit-on-error', '-d', 'amid', '--section=pre-data', "$dir/custom" ], 'structure');
command_ok([ 'pg_restore', @to, '--exit-on-error', '-d', 'amid', '-a', '-n', 'cdp', "$dir/custom" ], 'data of the extension');
is($node->safe_psql('amid', 'SELECT count(*) FROM cdp.attached_rows'), '4', 'rows are known that are not there');
is($node->safe_psql('amid', 'SELECT count(*) FROM cdp.sync_attachments(due => true)'), '0', 'no attachment is due');
sleep 2;
is($node->safe_psql('amid', 'SELECT count(*) FROM cdp.attached_rows'), '4', 'the worker leaves them alone');
is($node->safe_psql('amid', 'SELECT count(*) FROM pg_trigger WHERE tgfoid = \'cdp.capture\'::regproc'), '0', 'and makes no triggers');

# ---- nothing is applied before all of it is there, tombstones above all

my ($toc) = run_command([ 'pg_restore', '-l', "$dir/custom" ]);
my @data = grep { /TABLE DATA cdp / } split /\n/, $toc;
like($data[-1], qr/ written /, 'the mark of a whole restore is the last table of the extension');
append_to_file("$dir/first", join("\n", map { /TABLE DATA cdp written / ? ";$_" : $_ } split /\n/, $toc) . "\n");
append_to_file("$dir/rest", $data[-1] . "\n");
$node->safe_psql('postgres', 'CREATE DATABASE unfinished');
command_ok([ 'pg_restore', @to, '--exit-on-error', '-L', "$dir/first", '-d', 'unfinished', "$dir/custom" ], 'pg_restore of all but the end');
$node->safe_psql('unfinished', q(SELECT cdp.track('Ordered', user_id => 'u1')));
my ($code, undef, $said) = $node->psql('unfinished', 'SELECT cdp.apply()');
like($said, qr/the restore of this database is not finished/, 'apply() refuses');
sleep 1;
is($node->safe_psql('unfinished', 'SELECT incarnation_active FROM cdp.status()'), 'f', 'and the worker waits');
is($node->safe_psql('unfinished', "SELECT count(*) FROM cdp.check() WHERE topic = 'restore'"), '1', 'check() says so');
command_ok([ 'pg_restore', @to, '--exit-on-error', '-L', "$dir/rest", '-d', 'unfinished', "$dir/custom" ], 'the end');
is($node->safe_psql('unfinished', "SELECT cdp.wait_applied('300 s')"), 't', 'then it is applied');
is($node->safe_psql('unfinished', 'SELECT cdp.finish_restore()'), 'f', 'and there is nothing to say');
$node->safe_psql('postgres', 'CREATE DATABASE parts');
command_ok([ 'pg_restore', @to, '--exit-on-error', '-L', "$dir/first", '-d', 'parts', "$dir/custom" ], 'parts of a dump');
is($node->safe_psql('parts', 'SELECT cdp.finish_restore()'), 't', 'are all that will come');
cmp_ok($node->safe_psql('parts', 'SELECT cdp.apply()'), '>', 0, 'apply() takes that for an answer');
command_ok([ 'pg_restore', @to, '--exit-on-error', '-j', '4', '-d', $_, "$dir/custom" ], "pg_restore in parallel into $_") for create('parallel');
is($node->safe_psql('parallel', 'SELECT cdp.restore_pending(), cdp.apply() > 0'), 'f|t', 'is whole');

# ---- activated by hand

$node->safe_psql('started', 'SELECT cdp.start_worker()');
is($node->safe_psql('started', "SELECT cdp.wait_applied('300 s')"), 't', 'start_worker() activates the log');
cmp_ok($node->safe_psql('applied', 'SELECT cdp.apply()'), '>=', 0, 'so does apply()');
is($node->safe_psql('applied', "SELECT cdp.wait_applied('300 s')"), 't', 'the rest is the applier\'s');
is(answers('started'), answers('applied'), 'with the same result');
is($node->safe_psql('started', 'SELECT count(*) FROM cdp.verify()'), '0', 'that verify() agrees with');
is($node->safe_psql('started', "SELECT ltv FROM public.report r WHERE profile_id = cdp.resolve('user_id:pending')"),
	'7', 'and the view of the user shows');
$node->safe_psql('started', $new);
is($node->safe_psql('started', "SELECT cdp.wait_applied('300 s')"), 't', 'new entries afterwards');
is(answers('started'), $after, 'come to the same');

# ---- dump and restore once more

$node->command_ok([ 'pg_dump', @to, '-Fc', '-f', "$dir/again", 'custom' ], 'pg_dump of a restored database');
$node->safe_psql('postgres', 'CREATE DATABASE again');
command_ok([ 'pg_restore', @to, '--exit-on-error', '-d', 'again', "$dir/again" ], 'pg_restore');
$node->safe_psql('again', $new =~ s/1000/2000/r);
is($node->safe_psql('again', "SELECT cdp.wait_applied('300 s')"), 't', 'is applied');
is($node->safe_psql('again', 'SELECT count(*) FROM cdp.verify()'), '0', 'and verified');

$node->stop('fast');
done_testing();
