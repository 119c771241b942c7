# What can come between the launcher and its appliers: databases that take no
# connections, transactions that are rolled back, versions that differ, no slot
# that is free, appliers and a launcher that are killed, shutdown at work.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

# Longer than anything takes, and much shorter than cdp.naptime.
my $patience = 60;

my $node = PostgreSQL::Test::Cluster->new('launcher');
$node->init;
$node->append_conf(
	'postgresql.conf', qq(
shared_preload_libraries = 'cdp'
max_worker_processes = 4
cdp.naptime = '30min'
log_min_messages = info
));
$node->start;

my $applier = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'cdp applier' AND datname =";

sub new_pid
{
	my ($db, $not) = @_;
	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM ($applier '$db' AND pid <> " . ($not || 0) . ") a")
	  or die "no applier in $db";
	return $node->safe_psql('postgres', "$applier '$db'");
}

sub gone
{
	my ($db) = @_;
	return $node->poll_query_until('postgres', "SELECT count(*) = 0 FROM ($applier '$db') a");
}

sub append
{
	my ($db, $n) = @_;
	$node->safe_psql($db,
		"INSERT INTO cdp.events (event, identifiers) SELECT 'Seen', ARRAY['user_id:' || i]::cdp.identifier[]"
		  . " FROM generate_series(1, $n) i");
}

sub works
{
	my ($db, $what) = @_;
	append($db, 1);
	return is($node->safe_psql($db, "SELECT cdp.wait_applied('$patience s')"), 't', $what);
}

sub logged
{
	my ($since, $what) = @_;
	return scalar(grep { /$what/ } split /\n/, slurp_file($node->logfile, $since));
}

# ---- transactions that are rolled back

$node->safe_psql('postgres', 'CREATE DATABASE a');
$node->safe_psql('a', 'CREATE EXTENSION cdp');
my $pid = new_pid('a');
$node->safe_psql('a', 'BEGIN; DROP EXTENSION cdp; ROLLBACK');
works('a', 'DROP EXTENSION that is rolled back changes nothing');
is(new_pid('a'), $pid, 'not even the process');

# ---- the extension is not the library's: one line, and nothing is applied

my $log = -s $node->logfile;
$node->safe_psql('a', "BEGIN; UPDATE pg_extension SET extversion = '0.9' WHERE extname = 'cdp'; ROLLBACK");
works('a', 'an update that is rolled back changes nothing');
$node->safe_psql('a', "UPDATE pg_extension SET extversion = '0.9' WHERE extname = 'cdp'");
append('a', 1) foreach 1 .. 3;
$node->wait_for_log(qr/cdp applier waits: the library has version/, $log);
is($node->safe_psql('a', 'SELECT lag_entries FROM cdp.stat_apply'), '3', 'another version of the extension: nothing is applied');
is(logged($log, 'cdp applier waits'), 1, 'one line in the log');
is($node->safe_psql('a', q(SELECT severity FROM cdp.check() WHERE topic = 'version')), 'error', 'check() says so');
$node->safe_psql('a', q(UPDATE pg_extension SET extversion = cdp.version() WHERE extname = 'cdp'));
works('a', 'when it is the library\'s again it is applied');
is($node->safe_psql('a', 'SELECT entries, lag_entries FROM cdp.stat_apply'), '6|0', 'all of it, once');

# ---- limits of connections are not for appliers

$node->safe_psql('postgres', 'ALTER DATABASE a CONNECTION LIMIT 0');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
$pid = new_pid('a', $pid);
works('a', 'a database whose limit of connections is 0 has an applier');

# ---- one that dies again and again comes back after longer and longer pauses

my $start = time;
for (1 .. 2)
{
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	$pid = new_pid('a', $pid);
}
cmp_ok(time - $start, '>', 0.75 * (2 + 4), 'an applier that dies again and again is started after pauses');

# ---- no slot: of four, one is the launcher's and one core's

$log = -s $node->logfile;
foreach my $db (qw(b c))
{
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, 'CREATE EXTENSION cdp');
}
new_pid('b');
$node->wait_for_log(qr/no background worker slot is free/, $log);
append('c', 1) foreach 1 .. 3;
is($node->safe_psql('c', 'SELECT cdp.worker_pid() IS NULL'), 't', 'no slot is free, no applier starts');
is(logged($log, 'no background worker slot is free'), 1, 'one line in the log');
works('a', 'others go on');
$node->safe_psql('postgres', 'DROP DATABASE b');
new_pid('c');
works('c', 'a slot that becomes free is taken');

# ---- the launcher is killed: another adopts what runs

my $launcher = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'cdp launcher'";
my $old = $node->safe_psql('postgres', $launcher);
$pid = new_pid('a');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($old)");
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM ($launcher AND pid <> $old) l"), 'a launcher that was terminated comes back');
is(new_pid('a'), $pid, 'the applier has not noticed');
works('a', 'and works');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
isnt(new_pid('a', $pid), $pid, 'the new launcher looks after it');

# ---- databases that take no connections, and none at all

$node->safe_psql('postgres', 'ALTER DATABASE c ALLOW_CONNECTIONS false');
$node->restart;
new_pid('a');
sleep 0.5;
is($node->safe_psql('postgres', "SELECT count(*) FROM ($applier 'c') a"), '0', 'none where connections are not allowed');
$node->safe_psql('postgres', "ALTER SYSTEM SET cdp.databases = ''");
$node->reload;
ok(gone('a'), 'cdp.databases names none: none runs');
my (undef, undef, $err) = $node->psql('a', 'SELECT cdp.wait_applied()');
append('a', 3);
is($node->safe_psql('a', 'SELECT cdp.apply()'), '3', 'then it is applied by hand');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET cdp.databases');
$node->reload;
new_pid('a');

# ---- shutdown at work

append('a', 60000);
$start = time;
$node->stop('fast');
cmp_ok(time - $start, '<', $patience, 'fast shutdown while the applier is busy');
$node->start;
is($node->safe_psql('a', "SELECT cdp.wait_applied('300 s')"), 't', 'the rest is applied afterwards');
is( $node->safe_psql('a', 'SELECT entries = (SELECT count(*) FROM cdp.events) FROM cdp.stat_apply'), 't', 'each entry once');
is(logged(0, 'PANIC|TRAP|deadlock'), 0, 'nothing bad in the log');
$node->stop('fast');
done_testing();
