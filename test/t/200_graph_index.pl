# identity_graph indexes through replay, crashes, promotion and recovery to
# points between the records of a split.
use strict;
use warnings;

use Cwd qw(abs_path);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $cycles = $ENV{CDP_TORTURE} ? 40 : 3;
my $points = $ENV{CDP_TORTURE} ? 40 : 6;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf(
	'postgresql.conf', qq(
wal_consistency_checking = 'Generic'
wal_keep_size = '1GB'
autovacuum = off
checkpoint_timeout = '1h'
));
$primary->start;
$primary->safe_psql(
	'postgres', q(
	CREATE EXTENSION cdp;
	CREATE TABLE e (a bigint, b bigint);
	CREATE INDEX e_graph ON e USING identity_graph (a, b);
	CREATE UNLOGGED TABLE u (a bigint, b bigint);
	CREATE INDEX u_graph ON u USING identity_graph (a, b);
	INSERT INTO u SELECT i, i + 1 FROM generate_series(1, 1000) i;
	CREATE FUNCTION grow(seed int, n int, nodes int) RETURNS void LANGUAGE sql AS $$
		INSERT INTO e SELECT hashint8extended(i, seed) & (nodes - 1), hashint8extended(i, seed + 1) & (nodes - 1)
		FROM generate_series(1, n) i $$;
));
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

# All rows by index and by a sequential scan, as one value each.
my $by_index = q(SET enable_seqscan = off;
	SELECT count(*), sum(hashint8extended(a, x)) + sum(hashint8extended(b, x)) FROM generate_series(-10, 4096) x,
	LATERAL (SELECT a, b FROM e WHERE a = x OR b = x OFFSET 0) e);
my $by_table = q(SELECT count(*), sum(hashint8extended(a, x)) + sum(hashint8extended(b, x)) FROM (
	SELECT a, b, a AS x FROM e WHERE a BETWEEN -10 AND 4096 UNION ALL
	SELECT a, b, b FROM e WHERE b BETWEEN -10 AND 4096 AND b <> a) e);

sub same
{
	my ($node, $what) = @_;
	my $index = $node->safe_psql('postgres', $by_index);
	is($index, $node->safe_psql('postgres', $by_table), "$what: index and table agree");
	is($node->safe_psql('postgres', q(SELECT count(*) FROM cdp.graph_index_findings('e_graph', true))),
		0, "$what: the index is sound");
	return $index;
}

for my $cycle (1 .. $cycles)
{
	# growth, a hub, dead rows, reuse
	$primary->safe_psql(
		'postgres', qq(
		SELECT grow($cycle, 6000, 4096);
		INSERT INTO e SELECT 5, i FROM generate_series(1, 900) i;
		DELETE FROM e WHERE (a + b) % 5 = $cycle % 5 OR (a = 5 AND $cycle % 2 = 0);
		VACUUM e;
		SELECT grow(100 + $cycle, 500, 4096);));
	$primary->wait_for_catchup($standby);
	my $there = same($standby, "cycle $cycle, standby");
	is($there, $primary->safe_psql('postgres', $by_index), "cycle $cycle: standby and primary agree");
	if ($cycle % 2)
	{
		$primary->stop('immediate');
		$primary->start;
		same($primary, "cycle $cycle, after a crash");
		is( $primary->safe_psql('postgres', q(SET enable_seqscan = off; SELECT count(*) FROM u WHERE a = 5 OR b = 5)),
			0, 'an unlogged index is empty after a crash');
		$primary->safe_psql('postgres', q(INSERT INTO u SELECT i, i + 1 FROM generate_series(1, 1000) i));
		is( $primary->safe_psql('postgres', q(SET enable_seqscan = off; SELECT count(*) FROM u WHERE a = 5 OR b = 5)),
			2, 'and works');
	}
	$primary->safe_psql('postgres', 'CHECKPOINT') if $cycle % 3 == 0;
}
unlike(slurp_file($standby->logfile), qr/inconsistent page found/, 'replay makes the same pages');

# ---- every record of splits leaves a legal state

SKIP:
{
	skip 'no pg_walinspect or pageinspect', 1
	  if $primary->safe_psql('postgres', q(SELECT count(*) FROM pg_available_extensions WHERE name IN ('pg_walinspect', 'pageinspect'))) < 2;

	$primary->safe_psql('postgres', 'CREATE EXTENSION IF NOT EXISTS pg_walinspect; CREATE EXTENSION IF NOT EXISTS pageinspect');
	$primary->backup('before');
	my $from = $primary->lsn('insert');
	$primary->safe_psql('postgres', 'SELECT grow(1000, 6000, 4096)');
	my $to = $primary->lsn('flush');
	$primary->safe_psql('postgres', 'SELECT pg_switch_wal()');
	$primary->safe_psql('postgres', 'INSERT INTO e VALUES (1, 2)');
	$primary->safe_psql('postgres', 'SELECT pg_switch_wal()');

	# A split's first record, and nothing else, has meta page, directory and two
	# primary pages; one or more records that move entries and one that takes
	# the marks away follow.  So the end of the first and of the second of them
	# lie inside the split, the others may.
	my $number = $primary->safe_psql('postgres', q(SELECT pg_relation_filenode('e_graph')));
	my @records = map { [ split /\|/ ] } split /\n/, $primary->safe_psql(
		'postgres', qq(
		SELECT end_lsn, (block_ref ~ 'blkref #0: rel [0-9/]+ fork main blk 0 .*blkref #3')::int
		FROM pg_get_wal_records_info('$from', '$to')
		WHERE resource_manager = 'Generic' AND block_ref ~ 'rel [0-9]+/[0-9]+/$number ' ORDER BY start_lsn));
	my @first = grep { $records[$_][1] } 0 .. $#records - 2;
	cmp_ok(scalar(@first), '>', $points / 3, 'there were splits');
	my $wal = abs_path($primary->data_dir) . '/pg_wal';
	for my $n (1 .. $points)
	{
		# three next to each other for every split that is looked at
		my $after = ($n - 1) % 3;
		my $lsn = $records[ $first[ int(($n - 1) / 3) * int(@first / ($points / 3 + 1)) ] + $after ][0];
		my $node = PostgreSQL::Test::Cluster->new("point$n");
		$node->init_from_backup($primary, 'before');
		$node->set_recovery_mode;
		$node->append_conf(
			'postgresql.conf', qq(
restore_command = 'cp "$wal/%f" "%p"'
recovery_target_lsn = '$lsn'
recovery_target_action = 'pause'
recovery_target_inclusive = off
wal_consistency_checking = ''
));
		$node->start;
		$node->poll_query_until('postgres', q(SELECT pg_get_wal_replay_pause_state() = 'paused'))
		  or die "recovery does not pause at $lsn";
		# the flags of a page are four bytes before its end, 0x180 are the marks
		is( $node->safe_psql('postgres', q(SELECT count(*) FROM generate_series(0, pg_relation_size('e_graph') / 8192 - 1) b, get_raw_page('e_graph', b::int) p
				WHERE ((get_byte(p, 8189) << 8 | get_byte(p, 8188)) & 384) <> 0)),
			2, "$lsn is between the records of a split") if $after < 2;
		same($node, "recovered to $lsn");

		$node->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
		$node->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'no promotion';
		$node->safe_psql('postgres', 'SELECT grow(2000, 3000, 4096); DELETE FROM e WHERE a % 7 = 0; VACUUM e');
		same($node, "then written to");
		$node->stop('immediate');
		$node->clean_node;
	}
}

# ---- promotion

$primary->wait_for_catchup($standby);
$primary->stop('fast');
$standby->promote;
same($standby, 'promoted');
is($standby->safe_psql('postgres', q(SET enable_seqscan = off; SELECT count(*) FROM u WHERE a = 5 OR b = 5)),
	0, 'an unlogged index of a standby is empty');
$standby->safe_psql('postgres', 'SELECT grow(3000, 5000, 4096); DELETE FROM e WHERE a % 2 = 0; VACUUM e; INSERT INTO u VALUES (5, 6)');
same($standby, 'promoted and written to');
$standby->stop('fast');

done_testing();
