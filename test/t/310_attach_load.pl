# A large table is attached while clients write to it: its rows are logged by the
# worker in steps, the applier and the server are killed in the middle, and in the
# end the entries that count are the rows, each logged once.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use IPC::Run;
use Test::More;
use Time::HiRes qw(sleep);

my $rows = $ENV{CDP_TORTURE} ? 1_000_000 : 12_000;

my $node = PostgreSQL::Test::Cluster->new('load');
$node->init;
$node->append_conf(
	'postgresql.conf', qq(
shared_preload_libraries = 'cdp'
restart_after_crash = on
cdp.batch_size = 500
cdp.naptime = '50ms'
cdp.backfill_at_once = 100
cdp.backfill_rate = -1
client_min_messages = warning
));
$node->start;
$node->safe_psql('postgres', qq(
CREATE EXTENSION cdp;
CREATE TABLE sales (id bigint PRIMARY KEY, who int, amount int, note text);
INSERT INTO sales SELECT g, 1 + g % 700, g % 100, repeat('x', 100) FROM generate_series(1, $rows) g;
ANALYZE sales;
CREATE SEQUENCE ids START 10000000;
));
$node->safe_psql('postgres',
	q{SELECT cdp.attach('sales', '{"event": "Sale", "identifiers": {"user_id": "who"}, "properties": ["id", "amount"]}')});
is($node->safe_psql('postgres', "SELECT status FROM cdp.attachments"), 'being loaded', 'attach leaves the rows to the worker');
is($node->safe_psql('postgres', "SELECT what, phase, done FROM cdp.progress"), 'attachment sales|waiting|0', 'which pauses');

my $script = $node->basedir . '/write.sql';
append_to_file(
	$script, qq(
\\set id random(1, $rows)
\\set n random(1, 100)
UPDATE sales SET amount = :n WHERE id = :id;
INSERT INTO sales SELECT nextval('ids'), 1 + :n, :n;
DELETE FROM sales WHERE id = :id + 1;
\\sleep 5 ms
));

my $done = 'SELECT COALESCE(max(done), -1) FROM cdp.attachment_loads';
$node->append_conf('postgresql.conf', "cdp.backfill_rate = 4000\n");
$node->reload;
$node->safe_psql('postgres', 'SELECT cdp.start_worker()');
for my $round (1 .. 3)
{
	my ($in, $out, $err) = ('', '', '');
	my $before = $node->safe_psql('postgres', $done);
	my $client = IPC::Run::start(
		[ 'pgbench', '-n', '-c', 2, '-T', 2, '-f', $script, $node->connstr('postgres') ],
		\$in, \$out, \$err);

	$node->poll_query_until('postgres', "SELECT COALESCE((SELECT done > $before FROM cdp.attachment_loads), true)")
	  or die 'the load does not go on';
	if ($round == 1)
	{
		my $pid = $node->safe_psql('postgres', 'SELECT cdp.worker_pid()');
		kill 'KILL', $pid if $pid;
		$client->finish;
		$node->poll_query_until('postgres', 'SELECT true');
	}
	elsif ($round == 2)
	{
		cmp_ok($node->safe_psql('postgres', $done), '>', 0, 'the server dies in the middle');
		$node->stop('immediate');
		$client->finish;
		$node->start;
		$node->append_conf('postgresql.conf', "cdp.backfill_rate = 0\n");
		$node->reload;
	}
	else
	{
		$client->finish;
		is($err =~ /ERROR/ ? $err : '', '', 'clients meet no error');
	}
}
is($node->safe_psql('postgres', "SELECT cdp.wait_backfill('sales', '100 s')"), 't', 'the load comes to its end');
is($node->safe_psql('postgres', 'SELECT status FROM cdp.attachments'), 'ok', '... and the status says so');

is( $node->safe_psql('postgres', q{
WITH undone AS (SELECT properties->>'entry' AS entry FROM cdp.events WHERE type = 'undo'),
said AS (SELECT (e.properties->>'id')::bigint AS id, (e.properties->>'amount')::int AS amount FROM cdp.events e
	WHERE e.type = 'track' AND '#' || e.id NOT IN (SELECT u.entry FROM undone u))
SELECT (SELECT count(*) FROM (SELECT id, amount FROM sales EXCEPT ALL SELECT * FROM said) m),
	(SELECT count(*) FROM (SELECT * FROM said EXCEPT ALL SELECT id, amount FROM sales) m)}),
	'0|0', 'the entries that count are the rows');
is($node->safe_psql('postgres', "SELECT logged, retracted, rejected FROM cdp.sync_attachment('sales')"), '0|0|0', 'a comparison finds no difference');
is($node->safe_psql('postgres', "SELECT cdp.wait_applied('100 s')"), 't', 'all of it is applied');
is($node->safe_psql('postgres', 'SELECT * FROM cdp.verify()'), '', 'as the log says');
$node->stop;
done_testing();
