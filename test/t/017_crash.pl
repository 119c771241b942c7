# Entries that do not raise an error but end the applier's process, and with it
# everybody's: they are found one at a time, put aside, and the stream goes on.
# So are profiles whose time has come, and steps of history.  Who is ended because
# somebody else has crashed is not suspected, and who is killed not so soon.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = PostgreSQL::Test::Cluster->new('crash');
$node->init(allows_streaming => 1);
$node->append_conf(
	'postgresql.conf', qq(
shared_preload_libraries = 'cdp'
cdp.naptime = '30min'
restart_after_crash = on
fsync = off
));
$node->start;

# Triggers that end whoever runs them: by a fault (the number is no address), or killed.
$node->safe_psql(
	'postgres', q(
	CREATE EXTENSION cdp;
	SELECT cdp.create_trait('n', aggregate => 'count');
	CREATE FUNCTION no_address(bigint) RETURNS cstring LANGUAGE internal STRICT AS 'textout';
	CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF current_setting('application_name') = 'cdp applier' THEN
			PERFORM public.no_address(8);
		END IF;
		RETURN NEW;
	END $$;
	CREATE FUNCTION killed() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF current_setting('application_name') = 'cdp applier' THEN
			EXECUTE format('COPY (SELECT 1) TO PROGRAM %L', 'kill -9 ' || pg_backend_pid());
		END IF;
		RETURN NEW;
	END $$;
	CREATE TRIGGER fault BEFORE INSERT ON cdp.identities FOR EACH ROW
		WHEN (NEW.identifier::text LIKE '%:poison%') EXECUTE FUNCTION fault();
));

# Whom the commit wakes may crash before the answer has come, and the server may
# be about to start again.
sub say_it
{
	my ($sql) = @_;
	my $stderr = '';
	for my $try (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my $code = $node->psql('postgres', $sql, stderr => \$stderr);
		return if $code == 0 || $stderr =~ /server closed the connection|terminating connection/;
		die "psql: $code: $stderr" if $stderr !~ /connection to server .* failed/;
		usleep(100_000);
	}
	die "the server does not come back: $stderr";
}

sub append
{
	my ($from, $to, $poison) = @_;
	return say_it(qq(
		INSERT INTO cdp.events (message_id, event, identifiers)
		SELECT 'm' || i, 'x', ARRAY['user_id:' || CASE WHEN i IN ($poison) THEN 'poison' ELSE 'u' END || i]::cdp.identifier[]
		FROM generate_series($from, $to) i));
}

sub crashes
{
	my ($since) = @_;
	return scalar(grep { /background worker "cdp applier.*" \(PID \d+\) was terminated by signal 11/ } split /\n/, slurp_file($node->logfile, $since));
}

sub applied
{
	my ($what) = @_;
	return ok($node->poll_query_until('postgres', "SELECT cdp.wait_applied('5 s')"), $what);
}

# ---- one of 300 entries

my $log = -s $node->logfile;
append(1, 300, '200');
applied('the stream goes on');
is($node->safe_psql('postgres', 'SELECT message_id, reason, sqlstate, detail FROM cdp.rejected'),
	'm200|crashed the applier|57P02|the applier crashed when it applied this entry alone, 2 times', 'the entry is rejected');
is($node->safe_psql('postgres', 'SELECT count(*), sum((cdp.profile(profile_id)->$$traits$$->$$n$$)::int) FROM cdp.profiles'), '299|299', 'the others count once');
is(crashes($log), 3, 'after three crashes: in a batch, and twice alone');
is( $node->safe_psql('postgres', q(SELECT object, regexp_replace(finding, ', the last.*', '') FROM cdp.check() WHERE topic = 'isolated')),
	'57P02|entries put aside because they crashed the applier: 1', 'check() tells');
is($node->safe_psql('postgres', 'SELECT count(*) FROM cdp.verify()'), '0', 'verify() finds nothing');
ok($node->wait_for_log('cdp applier works again', $log), 'it is logged that the applier works again');

# ---- alone, and the next ones after a restart

$log = -s $node->logfile;
append(301, 301, '301');
applied('an entry that comes alone');
is(crashes($log), 2, 'crashes it twice');
$node->restart;
append(302, 320, '0');
applied('what comes after a restart is applied');
is($node->safe_psql('postgres', 'SELECT count(*) FROM cdp.profiles'), '318', 'all of it');

# ---- the cause goes

$node->safe_psql('postgres', 'DROP TRIGGER fault ON cdp.identities');
is($node->safe_psql('postgres', 'SELECT cdp.retry_rejected()'), '2', 'retry_rejected()');
applied('they come back');
is($node->safe_psql('postgres', 'SELECT count(*), (SELECT count(*) FROM cdp.rejected) FROM cdp.profiles'), '320|0', 'and count');
is($node->safe_psql('postgres', 'SELECT count(*) FROM cdp.verify()'), '0', 'verify() finds nothing');

# ---- others crash while it is in the middle of an entry, alone: not its doing

$node->safe_psql('postgres', q(
	CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM pg_sleep(60) FROM pg_class WHERE relname = 'closed';
		RETURN NEW;
	END $$;
	CREATE TRIGGER gate BEFORE INSERT ON cdp.identities FOR EACH ROW EXECUTE FUNCTION gate();
	CREATE TABLE closed ()));
append(321, 321, '0');

# a copy of this server has not crashed
$node->poll_query_until('postgres', q(SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'cdp applier' AND wait_event = 'PgSleep'));
my $note = 'cdp_applier.' . $node->safe_psql('postgres', "SELECT oid FROM pg_database WHERE datname = 'postgres'");
is(scalar(() = glob $node->data_dir . "/*/$note"), 1, 'the applier has noted what it is about to do');
$node->backup('busy');
is(scalar(() = glob $node->backup_dir . "/busy/*/$note"), 0, 'a base backup does not contain it');

for my $i (1 .. 3)
{
	ok($node->poll_query_until('postgres', q(SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'cdp applier' AND wait_event = 'PgSleep')),
		"the applier is at an entry, $i");
	$node->stop('immediate');
	$node->start;
}
$node->safe_psql('postgres', 'DROP TABLE closed');
$node->restart;
applied('it is applied');
is($node->safe_psql('postgres', 'SELECT count(*), (SELECT count(*) FROM cdp.isolated) FROM cdp.profiles'), '321|0', 'and not put aside');

# ---- killed by somebody, three times with the same entry alone: it is tried again

$log = -s $node->logfile;
$node->safe_psql('postgres', q(
	CREATE TRIGGER killed BEFORE INSERT ON cdp.identities FOR EACH ROW
		WHEN (NEW.identifier::text LIKE '%:u322') EXECUTE FUNCTION killed()));
append(322, 322, '0');
for my $i (1 .. 3)
{
	ok($node->wait_for_log(qr/cdp applier starts after a crash: the applier was killed when it applied entry \d+ alone/, $log), "killed, $i");
	$log = -s $node->logfile;
}
$node->poll_query_until('postgres', 'DROP TRIGGER IF EXISTS killed ON cdp.identities; SELECT true', "DROP TRIGGER\nt")
	or die 'the server is gone';
applied('it is applied in the end');
is($node->safe_psql('postgres', 'SELECT count(*), (SELECT count(*) FROM cdp.isolated) FROM cdp.profiles'), '322|0', 'and was never put aside');

# ---- a profile whose time comes, and a step of history

sub set_clock
{
	my ($at) = @_;
	$node->safe_psql('postgres', "ALTER SYSTEM SET cdp.now = '$at'");
	$node->reload;
	$node->poll_query_until('postgres', "SELECT cdp.clock() = '$at'") or die 'the clock does not change';
	return;
}

set_clock('2100-01-01 12:00+00');
$node->safe_psql('postgres', q(
	DROP TRIGGER gate ON cdp.identities;
	SELECT cdp.create_trait('recent', aggregate => 'count', within => '1 hour');
	INSERT INTO cdp.events (event, identifiers, occurred_at)
	SELECT 'x', ARRAY['user_id:w' || i]::cdp.identifier[], cdp.clock() + i * interval '1 s' FROM generate_series(1, 10) i));
applied('ten profiles with a window');
$log = -s $node->logfile;
$node->safe_psql('postgres', q(
	CREATE TRIGGER fault BEFORE UPDATE ON cdp.identities FOR EACH ROW
		WHEN (NEW.identifier::text LIKE '%:w1') EXECUTE FUNCTION fault()));
set_clock('2100-01-01 14:00+00');
ok($node->poll_query_until('postgres', q(SELECT count(*) = 1 FROM cdp.timers WHERE at < '2100-01-01 14:00+00')),
	'when it ends, all but one are looked at');
append(401, 410, '0');
applied('what comes is applied');
is(crashes($log), 3, 'the profile rests');
$node->safe_psql('postgres', 'DROP TRIGGER fault ON cdp.identities');

$log = -s $node->logfile;
say_it(q(
	CREATE TRIGGER fault BEFORE UPDATE OR DELETE ON cdp.backfills FOR EACH ROW EXECUTE FUNCTION fault();
	SET cdp.backfill_at_once = 0;
	SELECT cdp.create_trait('latest', aggregate => 'last', value => 'occurred_at')));
# The first crash may have been anybody's doing: the step is tried again at once.
ok($node->wait_for_log(qr/crashed in a step of history.*crashed in a step of history/s, $log),
	'a back-fill crashes twice');
ok( $node->poll_query_until('postgres', q(
	SELECT count(*) = 1 FROM cdp.stat_worker WHERE type = 'cdp applier' AND state = 'idle')), 'the applier is there');
append(411, 420, '0');
applied('what comes is applied nevertheless');
is(crashes($log), 2, 'it waits before it tries again');

# ---- what is remembered is nothing to another extension

$node->safe_psql('postgres', 'DROP EXTENSION cdp CASCADE; CREATE EXTENSION cdp');
$node->restart;
append(1, 1, '0');
applied('another extension');
$node->stop('fast');
is(scalar(() = glob $node->data_dir . "/*/$note"), 0, 'has not crashed');
done_testing();
