# A large table is being loaded: a step that waits for its lock is in nobody's
# way, and a dump taken between two steps goes on elsewhere where it was.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use IPC::Run;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('between');
$node->init;
$node->append_conf('postgresql.conf', "cdp.backfill_at_once = 100\nclient_min_messages = warning\n");
$node->start;
$node->safe_psql('postgres', q(
CREATE EXTENSION cdp;
CREATE TABLE sales (id bigint PRIMARY KEY, who int, amount int);
INSERT INTO sales SELECT g, 1 + g % 70, g % 100 FROM generate_series(1, 3000) g;
ANALYZE sales;
CREATE TABLE slips (id bigint PRIMARY KEY, who int, amount int, note text);
INSERT INTO slips SELECT g, 1 + g % 70, g % 100, repeat('x', 50) FROM generate_series(1, 3000) g;
ANALYZE slips;
SELECT cdp.create_trait('total', aggregate => 'sum', event => 'Sale', value => '(properties->>''amount'')::int');
SELECT cdp.create_trait('slips', aggregate => 'sum', event => 'Slip', value => '(properties->>''amount'')::int');
SELECT cdp.attach('sales', '{"event": "Sale", "identifiers": {"user_id": "who"}}');
SELECT cdp.attach('slips', '{"event": "Slip", "identifiers": {"user_id": "who"}}', copy => false);
));

# Somebody writes for a long time, a step waits for it, others go on writing.
my $writer = $node->background_psql('postgres');
$writer->query_safe('BEGIN');
$writer->query_safe('UPDATE sales SET amount = amount WHERE id = 3000');
my ($in, $out, $err) = ('', '', '');
my $step = IPC::Run::start(
	[
		'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1',
		'-d', $node->connstr('postgres') . ' application_name=step',
		'-c', "SET lock_timeout = '100s'", '-c', "SELECT logged > 0 FROM cdp.load_attachment('sales', 500)"
	],
	\$in, \$out, \$err);
$node->poll_query_until('postgres',
	q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'step' AND state = 'active' AND query ~ 'load_attachment' AND wait_event IS DISTINCT FROM 'relation'})
  or die 'the step does not begin';
is($node->psql('postgres', "SET statement_timeout = '30s'; INSERT INTO sales VALUES (5000, 1, 1)"), 0, 'a writer does not wait behind a step');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'step' AND state = 'active'"), '1', 'which waits itself');
$writer->query_safe('COMMIT');
$writer->quit;
$step->finish;
is("$out$err", "t\n", 'and has its turn');

# A dump between two steps
$node->safe_psql('postgres', 'SELECT cdp.load_attachments(500)');
my $midway = $node->safe_psql('postgres', 'SELECT count(*) FROM cdp.attachment_loads WHERE done BETWEEN 1 AND 2999');
is($midway, '2', 'both loads are in the middle');
my $dump = $node->basedir . '/dump';
$node->run_log([ 'pg_dump', '-Fc', '-f', $dump, $node->connstr('postgres') ]);
$node->safe_psql('postgres', 'CREATE DATABASE again');
is(system('pg_restore', '--exit-on-error', '-d', $node->connstr('again'), $dump), 0, 'the dump is restored');
is($node->safe_psql('again', 'SELECT count(*) FROM cdp.load_attachments(500, due => true)'), '0', 'nothing is due before the log is activated');
for my $db ('again', 'postgres')
{
	is($node->safe_psql($db, 'SELECT name, status FROM cdp.attachments ORDER BY 1'), "sales|being loaded\nslips|being loaded", "$db: they are still being loaded");
	$node->safe_psql($db, q{
		UPDATE sales SET amount = amount + 1 WHERE id % 100 = 0;
		DELETE FROM slips WHERE id % 100 = 1;
		SELECT cdp.apply();
		DO $$ BEGIN WHILE EXISTS (SELECT FROM cdp.attachment_loads) LOOP PERFORM cdp.load_attachments(500); END LOOP; END $$;
		DO $$ BEGIN WHILE cdp.apply() > 0 LOOP END LOOP; END $$});
	is($node->safe_psql($db, q{SELECT sum((p.traits->>'total')::int), sum((p.traits->>'slips')::int) FROM cdp.profiles p}),
		$node->safe_psql($db, 'SELECT (SELECT sum(amount) FROM sales), (SELECT sum(amount) FROM slips)'), "$db: the entries that count are the rows");
	is($node->safe_psql($db, 'SELECT * FROM cdp.verify()'), '', "$db: as the log says");
	is($node->safe_psql($db, 'SELECT logged, retracted, rejected FROM cdp.sync_attachments()'), "0|0|0\n0|0|0", "$db: a comparison finds no difference");
}
$node->stop;
done_testing();
