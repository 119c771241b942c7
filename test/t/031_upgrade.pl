# pg_upgrade with the library preloaded on both sides: no worker runs while it
# does; afterwards the applier goes on where it was, with the same incarnation
# of the log, for transaction ids stay what they are.
use strict;
use warnings;

use Cwd qw(abs_path getcwd);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $conf = qq(
shared_preload_libraries = 'cdp'
cdp.naptime = '30min'
log_min_messages = info
);
my $old = PostgreSQL::Test::Cluster->new('old');
$old->init;
$old->append_conf('postgresql.conf', $conf);
$old->start;
$old->safe_psql('postgres', q(
	CREATE EXTENSION cdp;
	SELECT cdp.create_trait('n', aggregate => 'count');
	SELECT cdp.create_segment('many', 'n >= 3');
	SELECT cdp.subscribe('mail');
	INSERT INTO cdp.events (event, identifiers, message_id)
	SELECT 'x', ARRAY['user_id:u' || i % 50, 'email:e' || i % 20 || '@x.org']::cdp.identifier[], 'm' || i FROM generate_series(1, 500) i));
is($old->safe_psql('postgres', "SELECT cdp.wait_applied('120 s')"), 't', 'applied');
my $incarnation = $old->safe_psql('postgres', 'SELECT id FROM cdp.incarnation');

# some are pending
$old->safe_psql('postgres', 'SELECT cdp.stop_worker()');
$old->safe_psql('postgres', q(
	INSERT INTO cdp.events (event, identifiers, message_id)
	SELECT 'x', ARRAY['user_id:u' || i % 60]::cdp.identifier[], 'n' || i FROM generate_series(1, 100) i));
$old->stop;

# ---- binary upgrade mode has no worker

my $log = -s $old->logfile;
system_or_bail('pg_ctl', '-w', '-D', $old->data_dir, '-l', $old->logfile, '-o', '-b', 'start');
is($old->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'cdp %'"),
	'0', 'no worker in binary upgrade mode');
system_or_bail('pg_ctl', '-w', '-D', $old->data_dir, 'stop');
unlike(slurp_file($old->logfile, $log), qr/cdp (launcher|applier)/, 'nor has one started');

# ---- pg_upgrade

my $bin = $old->config_data('--bindir');
my $here = getcwd();
foreach my $mode ($ENV{CDP_TORTURE} ? ('copy', 'link') : 'copy')
{
	my $new = PostgreSQL::Test::Cluster->new("new_$mode");
	$new->init;
	my ($from, $to) = map { abs_path($_->data_dir) } $old, $new;
	chdir PostgreSQL::Test::Utils::tempdir() or die;
	command_ok(
		[ 'pg_upgrade', '--no-sync', $mode eq 'link' ? '--link' : (), '-b', $bin, '-B', $bin, '-d', $from, '-D', $to,
			'-s', $new->host, '-p', $old->port, '-P', $new->port ],
		"pg_upgrade, $mode");
	chdir $here or die;
	$new->append_conf('postgresql.conf', $conf);
	$new->start;
	unlike(slurp_file($new->logfile), qr/cdp (launcher|applier) .*(FATAL|ERROR)/, 'no worker has failed meanwhile');
	is($new->safe_psql('postgres', "SELECT cdp.wait_applied('120 s')"), 't', 'the applier goes on');
	is($new->safe_psql('postgres', 'SELECT entries, duplicates FROM cdp.stat_apply'), '600|0', 'with what was pending, once');
	is($new->safe_psql('postgres', 'SELECT count(*) FROM cdp.verify()'), '0', 'verify() finds nothing');
	is($new->safe_psql('postgres', 'SELECT id FROM cdp.incarnation'), $incarnation, 'the log is the same one');
	$new->safe_psql('postgres', q(SELECT cdp.merge('user_id:u1', 'user_id:u2')));
	is($new->safe_psql('postgres', "SELECT cdp.wait_applied('120 s')"), 't', 'a merge afterwards');
	is( $new->safe_psql('postgres', q(SELECT cdp.resolve('user_id:u1') = cdp.resolve('user_id:u2') AND NOT EXISTS (SELECT FROM cdp.verify()))),
		't', 'is done');
	is( $new->safe_psql('postgres', q(SELECT count(*) > 20 AND count(*) = max(seq) AND count(*) = count(DISTINCT seq) AND bool_or(cause = 'merge') FROM cdp.changes)),
		't', 'the numbers of changes go on');
	$new->stop;
}
done_testing();
