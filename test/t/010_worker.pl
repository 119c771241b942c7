# The background workers of a preloaded library: the launcher serves every
# database that has the extension, appliers are woken by commits, sleep
# without a transaction, leave when they are in the way, and come back.
use strict;
use warnings;

use IPC::Run qw(pump);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

my $node = PostgreSQL::Test::Cluster->new('preloaded');
$node->init(allows_streaming => 1);
$node->append_conf(
	'postgresql.conf', qq(
shared_preload_libraries = 'cdp'
max_prepared_transactions = 4
max_worker_processes = 12
cdp.naptime = '30min'
log_min_messages = info
));
$node->start;

my $applier =
  "SELECT pid FROM pg_stat_activity WHERE backend_type = 'cdp applier' AND datname =";

sub pid_of
{
	my ($db) = @_;
	return $node->safe_psql('postgres', "$applier '$db'");
}

# Wait for an applier, other than the one given; its process id.
sub new_pid
{
	my ($db, $not) = @_;
	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM ($applier '$db' AND pid <> " . ($not || 0) . ") a")
	  or die "no applier in $db";
	return pid_of($db);
}

sub gone
{
	my ($db) = @_;
	return $node->poll_query_until('postgres', "SELECT count(*) = 0 FROM ($applier '$db') a");
}

# Longer than anything takes on a machine that has much else to do, and much
# shorter than cdp.naptime, which it takes when nobody is woken.
my $patience = 120;

# How long something takes, in seconds.
sub seconds
{
	my ($what) = @_;
	my $start = time;
	$what->();
	return time - $start;
}

sub track
{
	my ($db, $user) = @_;
	$node->safe_psql($db, "SELECT cdp.track('Seen', user_id => '$user')");
}

sub applied
{
	my ($db) = @_;
	return $node->safe_psql($db, "SELECT coalesce(max(entries), 0) FROM cdp.stat_apply");
}

# ---- where appliers run

$node->safe_psql('postgres', "CREATE DATABASE $_") for qw(a b plain);
$node->safe_psql('postgres', 'CREATE DATABASE t IS_TEMPLATE true');
$node->safe_psql($_, 'CREATE EXTENSION cdp') for qw(a b t);
my $pid_a = new_pid('a');
my $pid_b = new_pid('b');
ok($pid_a && $pid_b && $pid_a != $pid_b, 'each database with the extension has an applier');
sleep 0.5;
is($node->safe_psql('postgres',
		"SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_stat_activity"
		  . " WHERE backend_type = 'cdp applier'"),
	'a b', 'databases without the extension and templates have none');
is($node->safe_psql('a', 'SELECT count(*) FROM cdp.stat_worker'), '2', 'stat_worker shows launcher and applier');

# ---- woken by commits; two databases do not see each other

cmp_ok(seconds(sub { track('a', 'u1'); $node->safe_psql('a', "SELECT cdp.wait_applied('300 s')") }),
	'<', $patience, 'an entry is applied at once though naptime is half an hour');
is(applied('a'), '1', 'the entry was applied');
is(applied('b'), '0', 'and in its own database only');
is($node->safe_psql('a', "SELECT count(*) FROM cdp.identities WHERE identifier::text = 'user_id:u1'"),
	'1', 'it made a profile');

# Woken by the commit itself, not by wait_applied().
track('a', 'u2');
ok($node->poll_query_until('a', 'SELECT entries = 2 FROM cdp.stat_apply'), 'the commit woke the applier');

$node->safe_psql('a', "BEGIN; SELECT cdp.track('Seen', user_id => 'u3'); ROLLBACK");
$node->safe_psql('a', "BEGIN; SELECT cdp.track('Seen', user_id => 'u4'); PREPARE TRANSACTION 'p'");
sleep 0.3;
is(applied('a'), '2', 'nothing of a rollback or of a prepared transaction');
$node->safe_psql('a', "COMMIT PREPARED 'p'");
is($node->safe_psql('a', "SELECT cdp.wait_applied('$patience s')"), 't', 'wait_applied() waits for a prepared transaction');
is(applied('a'), '3', 'that was applied after COMMIT PREPARED');

my ($rc, $out, $err) = $node->psql('a', "BEGIN; SELECT cdp.track('Seen', user_id => 'u5'); SELECT cdp.wait_applied()");
like($err, qr/cannot wait for entries in a transaction that has written/, 'wait_applied() refuses to wait for itself');
($rc, $out, $err) = $node->psql('a', 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT cdp.wait_applied()');
like($err, qr/needs isolation level READ COMMITTED/, 'wait_applied() needs new snapshots');

# ---- idle

ok( $node->poll_query_until('postgres',
		"SELECT count(*), count(xact_start), count(backend_xmin), min(state), min(application_name)"
		  . " FROM pg_stat_activity WHERE backend_type = 'cdp applier'",
		'2|0|0|idle|cdp applier'), 'idle appliers have no transaction and no snapshot');
ok( $node->poll_query_until('postgres',
		"SELECT count(*), count(xact_start), count(backend_xmin) FROM pg_stat_activity"
		  . " WHERE backend_type = 'cdp launcher'",
		'1|0|0'), 'nor has the launcher');

# ---- settings by SIGHUP: COMMIT PREPARED wakes nobody, so naptime decides

$node->safe_psql('postgres', "ALTER SYSTEM SET cdp.naptime = '100ms'");
$node->reload;
$node->safe_psql('a', "BEGIN; SELECT cdp.track('Seen', user_id => 'u6'); PREPARE TRANSACTION 'p'");
$node->safe_psql('a', "COMMIT PREPARED 'p'");
ok($node->poll_query_until('a', 'SELECT entries = 4 FROM cdp.stat_apply'), 'SIGHUP changes naptime');

# ---- signals

$pid_a = pid_of('a');
$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid_a)");
sleep 0.3;
is(pid_of('a'), $pid_a, 'a cancel does not end an idle applier');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid_a)");
isnt(new_pid('a', $pid_a), $pid_a, 'a terminated applier comes back');
track('a', 'u7');
ok($node->poll_query_until('a', 'SELECT entries = 5 FROM cdp.stat_apply'), 'and works');

# ---- timeout: a definition is being changed all the while

my ($in, $chatter) = ('', '');
my $locker = IPC::Run::start(
	[ 'psql', '-XAtq', '-h', $node->host, '-p', $node->port, '-d', 'a' ],
	\$in, \$chatter, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
$in .= "BEGIN; SELECT cdp.lock_applier(); SELECT 'locked';\n";
pump $locker until $chatter =~ /locked/;
track('a', 'u8');
is($node->safe_psql('a', "SELECT cdp.wait_applied('300 ms')"), 'f', 'wait_applied() gives up after its timeout');
$in .= "COMMIT;\n\\q\n";
$locker->finish;
is($node->safe_psql('a', "SELECT cdp.wait_applied('$patience s')"), 't', 'and succeeds later');

# ---- stop and start

is($node->safe_psql('a', 'SELECT cdp.stop_worker()'), 't', 'stop_worker()');
track('a', 'u9');
sleep 1.5;
is(pid_of('a'), '', 'a stopped applier stays away');
is($node->safe_psql('a', 'SELECT worker_running, lag_entries FROM cdp.status()'), 'f|1', 'status() says so');
($rc, $out, $err) = $node->psql('a', 'SELECT cdp.wait_applied()');
like($err, qr/no applier runs.*start_worker/s, 'wait_applied() does not wait for it');
ok($node->safe_psql('a', 'SELECT cdp.start_worker()') > 0, 'start_worker()');
is($node->safe_psql('a', "SELECT cdp.wait_applied('$patience s')"), 't', 'what was pending is applied');
is($node->safe_psql('a', 'SELECT worker_running, lag_entries, entries_applied FROM cdp.status()'), 't|0|7', 'status() says so');
is($node->safe_psql('a', 'SELECT cdp.start_worker()'), pid_of('a'), 'start_worker() starts no second one');

# ---- errors: logged once, the applier stays, and recovers

my $log = -s $node->logfile;
$node->safe_psql('a', 'ALTER TABLE cdp.identities RENAME TO hidden');
track('a', 'u10');
ok($node->poll_query_until('a', 'SELECT errors > 1 FROM cdp.stat_apply'), 'errors are counted');
like($node->safe_psql('a', 'SELECT last_error FROM cdp.stat_apply'), qr/identities/, 'the last one is kept');
track('a', "v$_") for 1 .. 5;
sleep 1;
$node->safe_psql('a', 'ALTER TABLE cdp.hidden RENAME TO identities');
is($node->safe_psql('a', "SELECT cdp.wait_applied('300 s')"), 't', 'the applier goes on when the cause is gone');
my @errors = grep { /ERROR:.*identities/ } split /\n/, slurp_file($node->logfile, $log);
cmp_ok(scalar(@errors), '<=', 2, 'the error was logged once, not at every attempt');
ok($node->log_contains('cdp applier works again', $log), 'so was the recovery');

# ---- DROP and CREATE EXTENSION

cmp_ok(seconds(sub { $node->safe_psql('b', 'DROP EXTENSION cdp') }), '<', $patience, 'DROP EXTENSION does not wait');
ok(gone('b'), 'the applier leaves');
$node->safe_psql('b', 'BEGIN; CREATE EXTENSION cdp; ROLLBACK');
sleep 0.5;
is(pid_of('b'), '', 'CREATE EXTENSION that is rolled back starts none');
$node->safe_psql('b', 'CREATE EXTENSION cdp');
$pid_b = new_pid('b');
track('b', 'u1');
is($node->safe_psql('b', "SELECT cdp.wait_applied('$patience s')"), 't', 'the extension that was created again works');
is(applied('b'), '1', 'from the beginning');
$node->safe_psql('postgres', 'CREATE DATABASE f');
$node->safe_psql('f', 'CREATE EXTENSION cdp');
new_pid('f');
$node->safe_psql('f',
	"INSERT INTO cdp.events (event, identifiers) SELECT 'Seen', ARRAY['user_id:' || i]::cdp.identifier[]"
	  . ' FROM generate_series(1, 50000) i');
cmp_ok(seconds(sub { $node->safe_psql('f', 'DROP EXTENSION cdp') }), '<', $patience, 'DROP EXTENSION while the applier is busy');
ok(gone('f'), 'the applier leaves');

# ---- commands that need a database without connections

cmp_ok(seconds(sub { $node->safe_psql('postgres', 'CREATE DATABASE c TEMPLATE b') }),
	'<', $patience, 'CREATE DATABASE TEMPLATE');
ok(new_pid('b', $pid_b), 'the applier of the template comes back');
ok(new_pid('c'), 'the copy gets one');
is(applied('c'), '1', 'the copy knows what was applied');
track('c', 'u2');
is($node->safe_psql('c', "SELECT cdp.wait_applied('$patience s')"), 't', 'the copy is applied');
is(applied('c') . applied('b'), '21', 'apart from its template');
$node->safe_psql('postgres', 'ALTER DATABASE c RENAME TO d');
ok(new_pid('d'), 'ALTER DATABASE RENAME');
cmp_ok(seconds(sub { $node->safe_psql('postgres', 'DROP DATABASE d') }), '<', $patience, 'DROP DATABASE, applier idle');

$node->safe_psql('postgres', 'CREATE DATABASE e TEMPLATE b');
new_pid('e');
$node->safe_psql('e',
	"INSERT INTO cdp.events (event, identifiers) SELECT 'Seen', ARRAY['user_id:' || i]::cdp.identifier[]"
	  . ' FROM generate_series(1, 100000) i');
cmp_ok(seconds(sub { $node->safe_psql('postgres', 'DROP DATABASE e') }), '<', $patience, 'DROP DATABASE, applier busy');
$node->safe_psql('postgres', 'CREATE DATABASE e TEMPLATE b');
new_pid('e');
cmp_ok(seconds(sub { $node->safe_psql('postgres', 'DROP DATABASE e WITH (FORCE)') }), '<', $patience, 'DROP DATABASE FORCE');
sleep 1.5;
ok(!$node->log_contains('database with OID', $log), 'nobody tries to connect to a dropped database');

# ---- cdp.databases

$node->safe_psql('postgres', "ALTER SYSTEM SET cdp.databases = 'a, nosuch'");
$node->reload;
ok(gone('b'), 'the applier of a database that is no longer named leaves');
track('b', 'u3');
sleep 0.5;
is(pid_of('b'), '', 'and is not started by entries');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET cdp.databases');
$node->reload;
new_pid('b');
is($node->safe_psql('b', "SELECT cdp.wait_applied('$patience s')"), 't', 'it comes back when it is named again');

# ---- shutdown while a commit waits for a standby that does not exist

$node->safe_psql('postgres', "ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
$node->reload;
sleep 0.3;
$node->safe_psql('a', "SET synchronous_commit = local; SELECT cdp.track('Seen', user_id => 'u10')");
sleep 0.3;
cmp_ok(seconds(sub { $node->stop('fast') }), '<', $patience, 'fast shutdown');
$node->append_conf('postgresql.auto.conf', "synchronous_standby_names = ''");

# ---- a standby has none until it is promoted

$node->append_conf('postgresql.conf', 'cdp.databases = a');
$node->start;
new_pid('a');
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
sleep 1;
is($standby->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'cdp %'"),
	'0', 'no worker on a standby');
(undef, undef, $err) = $standby->psql('a', 'SELECT cdp.start_worker()');
like($err, qr/during recovery/, 'nor can one be started there');
(undef, undef, $err) = $standby->psql('a', q{SELECT cdp.preview_segment($$did('Never asked before')$$)});
like($err, qr/asks what no segment asks yet.*HINT:.*primary/s, 'a preview that would have to fold history says so');
$node->stop('fast');
$standby->promote;
ok($standby->poll_query_until('postgres', "SELECT count(*) = 1 FROM ($applier 'a') a"), 'a promoted standby has an applier');
$standby->safe_psql('a', "SELECT cdp.track('Seen', user_id => 'u11')");
is($standby->safe_psql('a', "SELECT cdp.wait_applied('$patience s')"), 't', 'that applies');
$standby->stop('fast');

# ---- without preloading

my $late = PostgreSQL::Test::Cluster->new('not_preloaded');
$late->init;
$late->append_conf('postgresql.conf', "restart_after_crash = on\nmax_worker_processes = 3\ncdp.naptime = '30min'");
$late->start;
$late->safe_psql('postgres', 'CREATE DATABASE a');
($rc, $out, $err) = $late->psql('a', 'CREATE EXTENSION cdp');
like($err, qr/NOTICE:  cdp: no applier runs.*start_worker/, 'CREATE EXTENSION tells how to start one');
$late->safe_psql('a', "SELECT cdp.track('Seen', user_id => 'u1')");
($rc, $out, $err) = $late->psql('a', 'SELECT cdp.wait_applied()');
like($err, qr/no applier runs in this database.*HINT:  Run SELECT cdp.apply\(\)/s, 'wait_applied() does not wait for nobody');
my $pid = $late->safe_psql('a', 'SELECT cdp.start_worker()');
is($late->safe_psql('a', "SELECT cdp.wait_applied('$patience s')"), 't', 'start_worker() starts one');
$late->safe_psql('a', "SELECT cdp.track('Seen', user_id => 'u2')");
ok($late->poll_query_until('a', 'SELECT entries = 2 FROM cdp.stat_apply'), 'that commits wake');
is($late->safe_psql('a', 'SELECT cdp.start_worker()'), $pid, 'there is one only');

$late->safe_psql('postgres', 'CREATE DATABASE b');
$late->safe_psql('b', 'CREATE EXTENSION cdp');
$late->safe_psql('b', 'SELECT cdp.start_worker()');
$late->safe_psql('postgres', 'CREATE DATABASE c');
$late->safe_psql('c', 'CREATE EXTENSION cdp');
($rc, $out, $err) = $late->psql('c', 'SELECT cdp.start_worker()');
like($err, qr/no background worker slot is free.*max_worker_processes/s, 'max_worker_processes is exhausted');
is($late->safe_psql('b', 'SELECT cdp.stop_worker()'), 't', 'stop_worker()');
ok($late->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'cdp applier'"),
	'stops one');
$late->safe_psql('postgres', 'DROP DATABASE b');

# The postmaster restarts it after a crash, but not in a dropped database.
my $postmaster = slurp_file($late->data_dir . '/postmaster.pid');
kill 'KILL', $pid;
ok($late->poll_query_until('postgres', "SELECT count(*) = 1 FROM ($applier 'a' AND pid <> $pid) a"),
	'it survives a crash');
$late->safe_psql('postgres', 'DROP DATABASE a WITH (FORCE)');
sleep 6;
ok($late->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'cdp applier'"),
	'but not a dropped database');
ok(!$late->log_contains('database with OID'), 'which nobody tries to connect to');
$late->stop('fast');

done_testing();
