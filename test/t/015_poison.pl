# Entries that raise errors, and other faults, while the applier runs: it puts
# entries aside and goes on, waits when it is not an entry's doing, lets what
# comes go on when only history cannot, and says so once.
use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('poison');
$node->init;
$node->append_conf(
	'postgresql.conf', qq(
shared_preload_libraries = 'cdp'
cdp.naptime = '30min'
log_min_messages = info
));
$node->start;
foreach my $db (qw(a b))
{
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, q(
		CREATE EXTENSION cdp;
		SELECT cdp.create_trait('n', aggregate => 'count')));
}

sub append
{
	my ($from, $to) = @_;
	$node->safe_psql('a', qq(
		INSERT INTO cdp.events (message_id, event, identifiers)
		SELECT 'm' || i, 'x', ARRAY['user_id:u' || i]::cdp.identifier[] FROM generate_series($from, $to) i));
}

sub wait_applied
{
	return $node->safe_psql('a', "SELECT cdp.wait_applied('120 s')");
}

sub logged
{
	my ($since, $what) = @_;
	return scalar(grep { /$what/ } split /\n/, slurp_file($node->logfile, $since));
}

# ---- 20 of 3,000 entries violate a constraint that somebody has added

my $log = -s $node->logfile;
$node->safe_psql('a', q(
	ALTER TABLE cdp.identities ADD CONSTRAINT odd CHECK (identifier::text !~ ':u\d*50$')));
append(1, 2000);
is(wait_applied(), 't', 'the stream goes on');
is($node->safe_psql('a', q(
		SELECT count(*), min(reason), min(sqlstate), bool_and(message_id ~ '50$') FROM cdp.rejected)),
	'20|raised an error|23514|t', 'the entries that raise the error are rejected');
is($node->safe_psql('a', 'SELECT count(*) FROM cdp.profiles'), '1980', 'the others are applied');
append(2001, 2010);
is(wait_applied(), 't', 'and what comes later');
is($node->safe_psql('a', 'SELECT count(*) FROM cdp.verify()'), '0', 'verify() finds nothing');
cmp_ok(logged($log, 'ERROR:.*violates check constraint "odd"'), '<=', 2, 'one log line');
ok($node->poll_query_until('a', q(SELECT state = 'idle' AND xact_start IS NULL FROM cdp.stat_worker WHERE type = 'cdp applier')),
	'the applier is idle, without a transaction');
$node->safe_psql('b', "SELECT cdp.track('Seen', user_id => 'u1')");
is($node->safe_psql('b', "SELECT cdp.wait_applied('120 s')"), 't', 'another database goes on');

# ---- crash while they are put aside, and the same entry again after a restart

$node->stop('immediate');
$node->start;
append(2011, 2060);
is(wait_applied(), 't', 'after a crash, too');
is($node->safe_psql('a', 'SELECT count(*) FROM cdp.rejected'), '21', 'each is put aside once');

# ---- the cause goes: they come back

$node->safe_psql('a', 'ALTER TABLE cdp.identities DROP CONSTRAINT odd');
is($node->safe_psql('a', 'SELECT cdp.retry_rejected()'), '21', 'retry_rejected()');
is(wait_applied(), 't', 'wakes the applier');
is($node->safe_psql('a', 'SELECT count(*) FROM cdp.rejected'), '0', 'nothing is rejected any more');
is($node->safe_psql('a', 'SELECT count(*) FROM cdp.profiles'), '2060', 'all are there');
is($node->safe_psql('a', 'SELECT count(*) FROM cdp.verify()'), '0', 'verify() finds nothing');

# ---- it is not an entry's doing: pauses, one line when it starts and one when it ends

$log = -s $node->logfile;
$node->safe_psql('a', q(
	CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $$no cursor$$; END';
	CREATE TRIGGER no BEFORE UPDATE OF cursors ON cdp.applier FOR EACH ROW EXECUTE FUNCTION no()));
append(3001, 3100);
ok($node->poll_query_until('a', 'SELECT errors > 25 FROM cdp.stat_apply'), 'it tries again');
is($node->safe_psql('a', 'SELECT count(*) FROM cdp.isolated'), '0', 'nothing is put aside');
is($node->safe_psql('a', q(SELECT severity, finding FROM cdp.check() WHERE topic = 'apply')),
	'error|the applier fails: no cursor', 'check() says so');
$node->safe_psql('a', 'DROP TRIGGER no ON cdp.applier');
is(wait_applied(), 't', 'it goes on when the cause is gone');
is($node->safe_psql('a', 'SELECT count(*) FROM cdp.profiles'), '2160', 'with all of them');
ok($node->wait_for_log('cdp applier works again', $log), 'recovery is logged');
is(logged($log, 'ERROR:  no cursor'), 1, 'the error was logged once');
is(logged($log, 'cdp applier works again'), 1, 'so was recovery');

# ---- history cannot go on, what comes can

$node->safe_psql('a', q(
	ALTER DATABASE a SET cdp.backfill_at_once = 0;
	CREATE TRIGGER no BEFORE UPDATE OR DELETE ON cdp.backfills FOR EACH STATEMENT EXECUTE FUNCTION no()));
$node->safe_psql('a', q(SELECT cdp.create_trait('latest', aggregate => 'last', value => 'occurred_at')));
ok($node->poll_query_until('a', q(SELECT last_error = 'no cursor' AND last_error_at > now() - interval '10 s' FROM cdp.stat_apply)), 'a back-fill fails');
append(4001, 4020);
ok($node->poll_query_until('a', 'SELECT count(*) = 2180 FROM cdp.profiles'), 'what comes is applied nevertheless');
is($node->safe_psql('a', 'SELECT count(*) FROM cdp.backfills'), '1', 'the back-fill waits');
$node->safe_psql('a', 'DROP TRIGGER no ON cdp.backfills');
is($node->safe_psql('a', "SELECT cdp.wait_backfill('latest', '120 s')"), 't', 'and ends when it can');
is($node->safe_psql('a', 'SELECT count(*) FROM cdp.verify()'), '0', 'verify() finds nothing');

# ---- an erasure cannot go on, what comes can

$node->safe_psql('a', q(
	CREATE TRIGGER no BEFORE INSERT ON cdp.tombstones FOR EACH STATEMENT EXECUTE FUNCTION no()));
$node->safe_psql('a', "SELECT cdp.erase('user_id:u1')");
ok($node->poll_query_until('a', q(SELECT last_error = 'no cursor' AND last_error_at > now() - interval '10 s' FROM cdp.stat_apply)), 'an erasure fails');
append(5001, 5020);
ok($node->poll_query_until('a', 'SELECT count(*) = 2200 FROM cdp.profiles'), 'what comes is applied nevertheless');
$node->safe_psql('a', 'DROP TRIGGER no ON cdp.tombstones');
ok($node->poll_query_until('a', 'SELECT count(*) = 2199 FROM cdp.profiles'), 'and the erasure when it can');
is(wait_applied(), 't', 'all of it');

# ---- somebody else has applied the entry before the worker puts it aside

$node->safe_psql('a', q(
	CREATE FUNCTION no_worker() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF current_setting('application_name') = 'cdp applier' THEN
			PERFORM pg_advisory_xact_lock(1);
			RAISE EXCEPTION 'no worker';
		END IF;
		RETURN NEW;
	END $$;
	CREATE TRIGGER no BEFORE INSERT ON cdp.identities FOR EACH ROW EXECUTE FUNCTION no_worker()));
my ($in, $out) = ('', '');
my $gate = IPC::Run::start(
	[ 'psql', '-XAtq', '-h', $node->host, '-p', $node->port, '-d', 'a' ],
	\$in, \$out, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
$in .= "SELECT pg_advisory_lock(1), 'closed';\n";
IPC::Run::pump $gate until $out =~ /closed/;
append(6001, 6001);
ok($node->poll_query_until('a', q(SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 1 AND NOT granted)),
	'the worker is at an entry');
my $other = IPC::Run::start(
	[ 'psql', '-XAtq', '-h', $node->host, '-p', $node->port, '-d', 'a', '-c', 'SELECT cdp.apply()' ]);
ok($node->poll_query_until('a', q(SELECT count(*) = 1 FROM pg_stat_activity WHERE query = 'SELECT cdp.apply()' AND wait_event_type = 'Lock')),
	'somebody else waits for his turn');
$in .= "\\q\n";
$gate->finish;
ok($other->finish, 'who applies it');
$node->safe_psql('a', 'DROP TRIGGER no ON cdp.identities');
append(6003, 6003);
is(wait_applied(), 't', 'the worker goes on');
is($node->safe_psql('a', 'SELECT count(*) FROM cdp.isolated'), '0', 'it is not put aside');
is($node->safe_psql('a', 'SELECT count(*) FROM cdp.verify()'), '0', 'verify() finds nothing');

$node->stop('fast');
done_testing();
