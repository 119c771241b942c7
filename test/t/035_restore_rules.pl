# pg_dump and restore while a change of the rules of identity is on its way
# through history: asked for, half read, half judged, one on top of another.
# The restored database works it off and comes to what the source comes to; undo
# and detach of what came before the dump work there, too.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('restore_rules');
$node->init;
$node->append_conf('postgresql.conf', q{
fsync = off
cdp.databases = ''
cdp.replay_at_commit = 0
cdp.batch_size = 100
});
$node->start;
my @to = ('-h', $node->host, '-p', $node->port);
my $dir = $node->basedir;

$node->safe_psql('postgres', 'CREATE DATABASE source');
$node->safe_psql('source', q{
SET client_min_messages = warning;
CREATE EXTENSION cdp;
SELECT cdp.create_trait('n', aggregate => 'count');
SELECT cdp.create_segment('some', 'n >= 3');
INSERT INTO cdp.events (message_id, event, identifiers, occurred_at, received_at)
SELECT 'm' || i, 'V', ARRAY['user_id:' || CASE WHEN i % 7 = 0 THEN 'U' ELSE 'u' END || i % 60, 'anonymous_id:d' || i % 90,
	'crm:' || chr(65 + i % 2 * 32) || i % 40]::cdp.identifier[], timestamptz '2026-01-01' + i * interval '1 hour', '2026-06-01'
FROM generate_series(1, 600) i;
SELECT cdp.apply();
});

my $state = q{
SELECT md5(string_agg(p::text, E'\n' ORDER BY p::text COLLATE "C")) FROM (SELECT string_agg(identifier::text, ' ' ORDER BY identifier::text COLLATE "C"), min(first_seen), max(last_seen), min(cdp.profile(profile_id)->>'traits')
FROM cdp.identities GROUP BY profile_id) p};
my $more = q{
SET cdp.now = '2026-06-10';
INSERT INTO cdp.events (message_id, event, identifiers, occurred_at, received_at)
SELECT 'n' || i, 'V', ARRAY['user_id:u' || i % 60, 'anonymous_id:d' || i % 77]::cdp.identifier[], timestamptz '2026-01-02' + i * interval '1 hour', '2026-06-02'
FROM generate_series(1, 50) i;
SELECT cdp.undo('m5', 'sql'), cdp.undo('m14', 'sql');
SELECT cdp.detach('anonymous_id:d8', 'sold');
SELECT cdp.apply();
};

# what the change is, and how many steps of it are done before the dump
my @cases = (
	[ 'asked', q{SELECT cdp.create_identifier_kind('crm', normaliser => 'lower', max_per_profile => 2)}, '' ],
	[ 'reading', q{SELECT cdp.alter_identifier_kind('user_id', normaliser => 'lower')}, 'SELECT cdp.apply(100); SELECT cdp.apply(100)' ],
	[ 'judging', q{SELECT cdp.alter_identifier_kind('anonymous_id', max_per_profile => 1, policy => 'quarantine')}, 'SELECT cdp.apply(20); SELECT cdp.apply(20)' ],
	[ 'two', q{SELECT cdp.alter_identifier_kind('crm', links => false)}, q{SELECT cdp.apply(100); SELECT cdp.alter_identifier_kind('user_id', max_per_profile => 3); SELECT cdp.apply(100)} ],
	[ 'guards', q{SELECT cdp.rejudge()}, 'SELECT cdp.apply(10)' ]);

for my $case (@cases)
{
	my ($name, $change, $steps) = @$case;

	$node->safe_psql('source', "SET cdp.max_profile_identifiers = 12; $change") if $name ne 'guards';
	if ($name eq 'guards')
	{
		$node->safe_psql('postgres', 'ALTER DATABASE source SET cdp.max_profile_identifiers = 12');
		$node->safe_psql('source', $change);
	}
	$node->safe_psql('source', $steps) if $steps ne '';
	cmp_ok($node->safe_psql('source', 'SELECT count(*) FROM cdp.rule_changes'), '>', 0, "$name: under way");
	$node->command_ok([ 'pg_dump', @to, '-Fc', '-f', "$dir/$name", 'source' ], "$name: pg_dump");
	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->safe_psql('postgres', "ALTER DATABASE $name SET cdp.max_profile_identifiers = 12") if $name eq 'guards';
	command_ok([ 'pg_restore', @to, '--exit-on-error', '-d', $name, "$dir/$name" ], "$name: pg_restore");
	is($node->safe_psql($name, 'SELECT count(*) > 0 FROM cdp.rule_changes'), 't', "$name: is under way there");

	for my $db ('source', $name)
	{
		$node->safe_psql($db, $more);
		$node->safe_psql($db, 'SELECT cdp.apply()');
		is($node->safe_psql($db, 'SELECT count(*) FROM cdp.rule_changes'), '0', "$name: $db is through");
	}
	is($node->safe_psql($name, 'SELECT * FROM cdp.verify()'), '', "$name: it is as the log says");
	is($node->safe_psql($name, $state), $node->safe_psql('source', $state), "$name: both are the same");
}

$node->stop;
done_testing();
