# Insertion, deletion, VACUUM, REINDEX CONCURRENTLY and scans of an
# identity_graph index at the same time, with checks; growth from little to
# much (torture).
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seconds = $ENV{CDP_TORTURE} ? 120 : 8;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf(
	'postgresql.conf', qq(
autovacuum_naptime = 1
shared_buffers = '2MB'
fsync = off
));
$node->start;
$node->safe_psql(
	'postgres', q(
	CREATE EXTENSION cdp;
	CREATE TABLE e (a bigint, b bigint);
	CREATE INDEX e_graph ON e USING identity_graph (a, b);
	CREATE INDEX e_a ON e (a);
	CREATE INDEX e_b ON e (b);
	CREATE TABLE wrong (x bigint, graph bigint, btrees bigint);
	-- the same rows by the graph index as by btrees, in one snapshot
	CREATE FUNCTION compare(x bigint) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		snapshot text;
		graph bigint;
		btrees bigint;
	BEGIN
		SELECT count(*) INTO graph FROM e WHERE (a = x OR b = x) AND xmin::text <> '';
		SELECT (SELECT count(*) FROM e WHERE a + 0 = x OR b + 0 = x) INTO btrees;
		IF graph <> btrees THEN
			INSERT INTO wrong VALUES (x, graph, btrees);
		END IF;
	END $$;
));

$node->pgbench(
	"-n -c 6 -j 2 -T $seconds",
	0,
	[qr/actually processed/],
	[qr/^$/],
	'stress',
	{
		'insert@60' => q(
			\set n random(1, 2000)
			\set m random_zipfian(1, 2000, 1.2)
			INSERT INTO e SELECT :n, :m + i FROM generate_series(1, 5) i;),
		'delete@20' => q(
			\set n random(1, 2000)
			DELETE FROM e WHERE a = :n;),
		'rollback@5' => q(
			\set n random(1, 2000)
			BEGIN;
			INSERT INTO e SELECT :n, i FROM generate_series(1, 50) i;
			ROLLBACK;),
		'scan@20' => q(
			\set n random(1, 2000)
			BEGIN ISOLATION LEVEL REPEATABLE READ;
			SET LOCAL enable_seqscan = off;
			SELECT compare(:n);
			COMMIT;),
		'vacuum@1' => q(
			SELECT pg_try_advisory_lock(1)::int AS got \gset
			\if :got
			VACUUM e;
			SELECT cdp.graph_index_check('e_graph', true);
			SELECT pg_advisory_unlock(1);
			\endif),
		'reindex@1' => q(
			SELECT pg_try_advisory_lock(1)::int AS got \gset
			\if :got
			REINDEX INDEX CONCURRENTLY e_graph;
			SELECT pg_advisory_unlock(1);
			\endif)
	});
is($node->safe_psql('postgres', 'SELECT * FROM wrong'), '', 'scans by index saw what there was');
is($node->safe_psql('postgres', q(SELECT cdp.graph_index_check('e_graph', true))), '', 'the index is sound');
is($node->safe_psql('postgres', 'VACUUM e') . $node->safe_psql('postgres', q(SELECT cdp.graph_index_check('e_graph', true))),
	'', 'and after VACUUM');
is($node->safe_psql('postgres', q(SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres')), 0, 'no deadlocks');

# an index that grows while it is verified is not damaged
$node->safe_psql('postgres', q(
	CREATE TABLE growing (a bigint, b bigint);
	INSERT INTO growing SELECT i, i + 1 FROM generate_series(1, 20000) i;
	CREATE INDEX growing_graph ON growing USING identity_graph (a, b)));
my $growth = IPC::Run::start(
	[ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c',
		'INSERT INTO growing SELECT i, i + 7 FROM generate_series(100000, 250000) i' ]);
my ($checks, $findings) = (0, '');
do
{
	$findings .= $node->safe_psql('postgres', q(SELECT finding FROM cdp.graph_index_findings('growing_graph', true) LIMIT 3));
	$checks++;
} while ($findings eq '' && $growth->pumpable && $node->safe_psql('postgres',
		q(SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'INSERT INTO growing%' AND state = 'active')));
is($findings, '', "$checks checks of an index that grows find nothing");
ok($growth->finish, 'it has grown');
unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC|XX00/, 'no crash');

# an index that has grown from almost nothing is sound and not much larger than
# one that is built; more of it in torture
my $edges = $ENV{CDP_TORTURE} ? 5000000 : 300000;
$node->append_conf('postgresql.conf', "shared_buffers = '256MB'\nmax_wal_size = '4GB'");
$node->restart;
$node->safe_psql('postgres', qq(
	CREATE TABLE g (a bigint, b bigint);
	INSERT INTO g SELECT random() * 2000, random() * 2000 FROM generate_series(1, 1000);
	CREATE INDEX g_graph ON g USING identity_graph (a, b);
	INSERT INTO g SELECT random() * $edges * 0.8, random() * $edges * 0.8 FROM generate_series(1, $edges)));
is($node->safe_psql('postgres', q(SELECT cdp.graph_index_check('g_graph', true))), '', 'sound after growth');
cmp_ok($node->safe_psql('postgres', q(SELECT pg_relation_size('g_graph') / count(*) FROM g)), '<=', 80, 'bytes an edge after growth');
$node->safe_psql('postgres', 'REINDEX INDEX g_graph');
cmp_ok($node->safe_psql('postgres', q(SELECT pg_relation_size('g_graph') / count(*) FROM g)), '<=', 60, 'bytes an edge after a build');
done_testing();
