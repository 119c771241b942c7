# identity_graph indexes on standbys: in a tablespace, behind a standby, while a
# long scan of a standby keeps VACUUM waiting or does not, after promotion, and
# after pg_rewind; with checksums.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1, extra => ['--data-checksums']);
$primary->append_conf(
	'postgresql.conf', qq(
allow_in_place_tablespaces = on
wal_consistency_checking = 'Generic'
wal_keep_size = '1GB'
autovacuum = off
checkpoint_timeout = '1h'
wal_receiver_status_interval = 1
max_standby_streaming_delay = -1
));
$primary->start;
$primary->safe_psql('postgres', q(CREATE TABLESPACE elsewhere LOCATION ''));
$primary->safe_psql(
	'postgres', q(
	CREATE EXTENSION cdp;
	CREATE TABLE e (a bigint, b bigint);
	CREATE INDEX e_graph ON e USING identity_graph (a, b) TABLESPACE elsewhere;
	CREATE FUNCTION grow(seed int, n int, nodes int) RETURNS void LANGUAGE sql AS $$
		INSERT INTO e SELECT hashint8extended(i, seed) & (nodes - 1), hashint8extended(i, seed + 1) & (nodes - 1)
		FROM generate_series(1, n) i $$;
	SELECT grow(1, 3000, 1024);
));
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', 'hot_standby_feedback = on');
$standby->start;
$standby->backup('base');
my $cascade = PostgreSQL::Test::Cluster->new('cascade');
$cascade->init_from_backup($standby, 'base', has_streaming => 1);
$cascade->start;

# All rows by index and by a sequential scan, as one value each.
my $by_index = q(SET enable_seqscan = off;
	SELECT count(*), sum(hashint8extended(a, x)) + sum(hashint8extended(b, x)) FROM generate_series(-1, 1024) x,
	LATERAL (SELECT a, b FROM e WHERE a = x OR b = x OFFSET 0) e);
my $by_table = q(SELECT count(*), sum(hashint8extended(a, x)) + sum(hashint8extended(b, x)) FROM (
	SELECT a, b, a AS x FROM e WHERE a BETWEEN -1 AND 1024 UNION ALL
	SELECT a, b, b FROM e WHERE b BETWEEN -1 AND 1024 AND b <> a) e);

sub same
{
	my ($node, $what) = @_;
	is($node->safe_psql('postgres', $by_index), $node->safe_psql('postgres', $by_table),
		"$what: index and table agree");
	is($node->safe_psql('postgres', q(SELECT count(*) FROM cdp.graph_index_findings('e_graph', true))),
		0, "$what: the index is sound");
	return;
}

sub catch_up
{
	$primary->wait_for_catchup($standby);
	$standby->wait_for_catchup($cascade, 'replay', $standby->lsn('replay'));
	return;
}

# ---- a tablespace, and out of it

is($primary->safe_psql('postgres', q(SELECT count(*) FROM pg_class c JOIN pg_tablespace t ON t.oid = c.reltablespace
		WHERE c.relname = 'e_graph' AND t.spcname = 'elsewhere' AND pg_relation_filepath(c.oid) LIKE 'pg_tblspc/%')),
	1, 'the index is in the tablespace');
$primary->safe_psql('postgres', 'SELECT grow(10, 4000, 1024); DELETE FROM e WHERE a % 3 = 0; VACUUM e');
catch_up();
same($_, $_->name . ', in a tablespace') foreach $primary, $standby, $cascade;
$primary->safe_psql('postgres', 'ALTER INDEX e_graph SET TABLESPACE pg_default');
$primary->safe_psql('postgres', 'DROP TABLESPACE elsewhere');
$primary->safe_psql('postgres', 'SELECT grow(20, 1000, 1024)');
catch_up();
same($_, $_->name . ', out of it') foreach $primary, $standby, $cascade;

# ---- a long transaction on the standby while the primary vacuums

sub long_scan
{
	my ($feedback) = @_;
	my $what = "hot_standby_feedback $feedback";

	$standby->safe_psql('postgres', "ALTER SYSTEM SET hot_standby_feedback = $feedback");
	$standby->reload;
	my $session = $standby->background_psql('postgres');
	my $ask = sub { return $session->query_safe("$_[0];") };
	$ask->('BEGIN ISOLATION LEVEL REPEATABLE READ');
	my $before = $ask->($by_index);
	like($before, qr/^\d+\|-?\d+$/, "$what: the scan finds rows");
	is($before, $ask->($by_table), "$what: as many as there are");
	if ($feedback eq 'on')
	{
		$primary->poll_query_until('postgres', 'SELECT bool_or(backend_xmin IS NOT NULL) FROM pg_stat_replication') or die 'no feedback';
	}
	else
	{
		$primary->poll_query_until('postgres', 'SELECT bool_and(backend_xmin IS NULL) FROM pg_stat_replication') or die 'still feedback';
	}

	# all that the scan saw goes, and its places are taken
	$primary->safe_psql('postgres', 'DELETE FROM e; VACUUM e; SELECT grow(30, 9000, 512); VACUUM e');
	if ($feedback eq 'on')
	{
		$primary->wait_for_catchup($standby);
	}
	else
	{
		$standby->poll_query_until('postgres', q(SELECT count(*) > 0 FROM pg_stat_activity
			WHERE backend_type = 'startup' AND wait_event LIKE 'RecoveryConflict%')) or die 'replay does not wait';
	}
	is($ask->($by_index), $before, "$what: the same transaction finds the same by index");
	is($ask->($by_table), $before, "$what: and without it");
	$ask->('COMMIT');
	$session->quit;
	catch_up();
	same($_, "$what, then " . $_->name) foreach $primary, $standby, $cascade;
	return;
}
long_scan('on');
$primary->safe_psql('postgres', 'VACUUM e');
long_scan('off');

# ---- promotion; the old primary goes on alone for a while and is rewound

$primary->safe_psql('postgres', 'CHECKPOINT');
catch_up();
$standby->promote;
$standby->safe_psql('postgres', 'SELECT grow(40, 6000, 1024); DELETE FROM e WHERE b % 3 = 0; VACUUM e; SELECT grow(41, 500, 1024); CHECKPOINT');
same($standby, 'promoted');
$standby->wait_for_catchup($cascade, 'replay', $standby->lsn('insert'));
same($cascade, 'behind the promoted one');
$primary->safe_psql('postgres', 'SELECT grow(50, 8000, 2048); DELETE FROM e WHERE a % 2 = 0; VACUUM e');
$primary->stop('fast');

my $conf = slurp_file($primary->data_dir . '/postgresql.conf');
command_ok(
	[   'pg_rewind', '--no-sync', '--write-recovery-conf', '--target-pgdata', $primary->data_dir,
		'--source-server', $standby->connstr('postgres') ],
	'pg_rewind');
open my $fh, '>', $primary->data_dir . '/postgresql.conf' or die $!;
print $fh $conf;
close $fh;
$primary->start;
$standby->safe_psql('postgres', 'SELECT grow(60, 2000, 1024)');
$primary->poll_query_until('postgres', sprintf(q(SELECT pg_last_wal_replay_lsn() >= '%s'), $standby->lsn('insert')))
  or die 'the rewound primary does not follow';
is($primary->safe_psql('postgres', $by_index), $standby->safe_psql('postgres', $by_index), 'the rewound primary has what the new one has');
same($primary, 'rewound');

# ---- checksums

foreach my $node ($cascade, $primary, $standby)
{
	unlike(slurp_file($node->logfile), qr/inconsistent page found|terminated by signal|PANIC/, $node->name . ': replay makes the same pages');
	$node->stop('fast');
	command_ok([ 'pg_checksums', '--check', '-D', $node->data_dir ], $node->name . ': checksums');
}
done_testing();
