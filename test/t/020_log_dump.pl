# The log through dump and restore: partitions of all ages, numbering, and
# entries that were pending; then new entries beside the loaded ones.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;

$node->safe_psql(
	'postgres', q(
	CREATE EXTENSION cdp;
	SELECT cdp.create_trait('n', aggregate => 'count');
	-- before there are partitions, into one, and into one of the future
	SELECT cdp.track('x', user_id => 'a', message_id => 'm1');
	SET cdp.now = '2000-01-15';
	SELECT cdp.make_partitions('0');
	INSERT INTO cdp.events (event, identifiers, message_id) VALUES ('x', '{user_id:a}', 'm2');
	RESET cdp.now;
	SELECT cdp.make_partitions('14 months');
	SELECT cdp.apply();
	-- pending at the time of the dump; m1 once more
	SELECT cdp.track('x', user_id => 'a', message_id => 'm1');
	SELECT cdp.track('x', user_id => 'a', message_id => 'm3');
	SELECT cdp.track('x', user_id => 'b');
));

my $log = q(SELECT count(*), md5(string_agg(e::text, '|' ORDER BY id)) FROM cdp.events e);
my $partitions = q(SELECT string_agg(format('%s %s %s', c.oid::regclass,
		pg_get_expr(c.relpartbound, c.oid),
		(SELECT count(*) FROM pg_index i WHERE i.indrelid = c.oid AND indisvalid)), E'\n' ORDER BY c.relname)
	FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'cdp.events'::regclass);
my $definition = q(SELECT string_agg(format('%s.%s %s %s', attrelid::regclass, attname, attstattarget, attnotnull), E'\n'
		ORDER BY attrelid::regclass::text, attnum) FROM pg_attribute
	WHERE attrelid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'cdp.events'::regclass) AND attnum > 0);
my $next = q(SELECT last_value FROM cdp.events_id_seq);
my %before = map { $_ => $node->safe_psql('postgres', $_) } ($log, $partitions, $definition, $next);
like($before{$partitions}, qr/events_y2000m01.* 2$/m, 'a partition of the past');

my $dump = $node->backup_dir . '/log';
mkdir $node->backup_dir;
$node->command_ok([ 'pg_dump', '-f', "$dump.sql", $node->connstr('postgres') ], 'plain dump');
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dump.dump", $node->connstr('postgres') ], 'custom dump');

foreach my $format ('plain', 'custom', 'parallel')
{
	$node->safe_psql('postgres', "CREATE DATABASE $format");
	my $to = $node->connstr($format);
	if ($format eq 'plain')
	{
		$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $to, '-f', "$dump.sql" ],
			"$format restore");
	}
	else
	{
		$node->command_ok(
			[ 'pg_restore', '-e', '-d', $to, ($format eq 'parallel' ? ('-j', '2') : ()), "$dump.dump" ],
			"$format restore");
	}
	is($node->safe_psql($format, $log), $before{$log}, "$format: the log is the same");
	is($node->safe_psql($format, $partitions), $before{$partitions}, "$format: so are its partitions");
	is($node->safe_psql($format, $definition), $before{$definition}, "$format: and their columns");
	is($node->safe_psql($format, $next), $before{$next}, "$format: numbering goes on");
	isnt(
		$node->safe_psql($format, 'SELECT id FROM cdp.incarnation'),
		$node->safe_psql('postgres', 'SELECT id FROM cdp.incarnation'),
		"$format: another incarnation");

	# new entries before anything has been applied, through the parent
	$node->safe_psql($format, q(
		SELECT cdp.track('x', user_id => 'a', message_id => 'm3');
		INSERT INTO cdp.events (event, identifiers) VALUES ('x', '{user_id:b}');
	));
	is( $node->safe_psql(
			$format, q(SELECT count(*) FROM cdp.events e JOIN cdp.incarnation i ON e.incarnation = i.id)),
		2,
		"$format: new entries belong to it");
	$node->safe_psql($format, 'SELECT cdp.apply()');
	is( $node->safe_psql(
			$format,
			q(SELECT cdp.profile('user_id:a')->'traits'->>'n', cdp.profile('user_id:b')->'traits'->>'n')),
		'3|2',
		"$format: pending and new entries count once");
	is($node->safe_psql($format, 'SELECT count(*) FROM cdp.verify()'), 0, "$format: verified");
	is($node->safe_psql($format, q(SELECT cdp.make_partitions('15 months'))),
		1, "$format: partitions are made on");
}

# nothing of it is left behind (CASCADE is for the view of traits, which is no
# member of the extension)
$node->safe_psql('custom', 'DROP EXTENSION cdp CASCADE');
is( $node->safe_psql('custom', q(SELECT count(*) FROM pg_class WHERE relname LIKE 'events%')),
	0, 'the extension takes its partitions with it');

$node->stop;
done_testing();
