# pg_dump and restore while a change of which domains mean accounts is on its way
# through history (src/apply/domain_change.c): asked for, half done, one on top of
# another, turned off in the middle, with entries pending.  The restored database is
# as the log says at each step, goes on where the source was, and comes to what the
# source comes to.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('restore_domains');
$node->init;
$node->append_conf('postgresql.conf', q{
fsync = off
cdp.databases = ''
cdp.backfill_at_once = 0
cdp.batch_size = 100
cdp.now = '2026-06-10'
client_min_messages = warning
});
$node->start;
my @to = ('-h', $node->host, '-p', $node->port);
my $dir = $node->basedir;

$node->safe_psql('postgres', 'CREATE DATABASE source');
$node->safe_psql('source', q{
CREATE EXTENSION cdp;
SELECT cdp.create_trait('n', aggregate => 'count');
SELECT cdp.create_trait('logins', aggregate => 'count', event => 'Login', entity => 'account');
SELECT cdp.create_trait('users', aggregate => 'count', entity => 'account', options => '{"over": "members"}');
SELECT cdp.create_segment('busy', 'logins >= 8', entity => 'account');
SELECT cdp.create_segment('busy_people', 'account.logins >= 8');
SELECT cdp.apply();
-- five domains, one of them of free mail; some people have two addresses, some are in a group, too
INSERT INTO cdp.events (message_id, event, identifiers, occurred_at, received_at)
SELECT 'm' || i, CASE WHEN i % 3 = 0 THEN 'View' ELSE 'Login' END,
	ARRAY['user_id:u' || i % 120, 'email:u' || i % 150 || '@' || (ARRAY['acme', 'bolt', 'coil', 'dots', 'gmail'])[1 + i % 5] || '.com']::cdp.identifier[],
	timestamptz '2026-01-01' + i * interval '1 hour', '2026-06-01'
FROM generate_series(1, 600) i;
INSERT INTO cdp.events (message_id, type, identifiers, occurred_at, received_at)
SELECT 'g' || i, 'group', ARRAY['user_id:u' || i, 'group_id:dolt']::cdp.identifier[], '2026-01-05', '2026-06-01'
FROM generate_series(1, 120, 9) i;
DO $$ BEGIN WHILE cdp.apply() > 0 OR EXISTS (SELECT FROM cdp.backfills) LOOP NULL; END LOOP; END $$;
});

# what does not depend on numbers
my $state = q{
SELECT 'account ' || a.identifier || ' ' || a.traits || ' ' || coalesce((SELECT string_agg(m.segment, ' ' ORDER BY m.segment COLLATE "C") FROM cdp.memberships m WHERE m.profile_id = a.account_id), '')
FROM cdp.accounts a
UNION ALL
SELECT 'member ' || m.account || ' ' || m.since || ' ' || p.names || ' ' || (SELECT count(*) FROM cdp.memberships s WHERE s.profile_id = m.profile_id)
FROM cdp.account_members m JOIN (SELECT i.profile_id, string_agg(i.identifier::text, ' ' ORDER BY i.identifier::text COLLATE "C") AS names
	FROM cdp.identities i GROUP BY 1) p USING (profile_id)
ORDER BY 1};
# as the log says, and what is asked of now is what is stored
my $wrong = q{
SELECT v::text FROM cdp.verify() v
UNION ALL SELECT a.identifier || ': ' || a.traits || ' and ' || (cdp.account_at(a.identifier, cdp.clock())->>'traits')
FROM cdp.accounts a WHERE a.traits IS DISTINCT FROM cdp.account_at(a.identifier, cdp.clock())->'traits'
UNION ALL SELECT i.identifier || ': ' || p.now || ' and ' || p.at
FROM cdp.identities i, LATERAL (SELECT cdp.profile(i.identifier)->>'accounts' AS now, cdp.profile_at(i.identifier, cdp.clock())->>'accounts' AS at) p
WHERE i.node_id % 9 = 0 AND p.now IS DISTINCT FROM p.at};
my $under_way = q{SELECT count(*) FROM cdp.backfills WHERE kind = 'domains'};

# addresses seen earlier and later than before, new people, of new domains, too; one merge across
sub more
{
	my ($round) = @_;
	return qq{
	INSERT INTO cdp.events (message_id, event, identifiers, occurred_at, received_at)
	SELECT 'r$round-' || i, 'Login', ARRAY['user_id:' || CASE WHEN i % 4 = 0 THEN 'n$round-' ELSE 'u' END || i,
		'email:u' || i % 150 || '\@' || (ARRAY['acme', 'bolt', 'coil', 'dots', 'gmail', 'new$round'])[1 + i % 6] || '.com']::cdp.identifier[],
		CASE WHEN i % 2 = 0 THEN timestamptz '2025-12-01' ELSE '2026-05-01' END, '2026-06-02'
	FROM generate_series(1, 40) i;
	SELECT cdp.merge('user_id:u${round}1', 'user_id:u${round}2')};
}

# what the change is, and what is done before the dump
my @cases = (
	[ 'asked', 'SELECT cdp.account_by_domain()', '' ],
	[ 'middle', q{SELECT cdp.free_mail_domain('acme.com')}, 'SELECT cdp.apply(10); SELECT cdp.apply(10)' ],
	[ 'pending', q{SELECT cdp.free_mail_domain('gmail.com', false)}, 'SELECT cdp.apply(5); ' . more(3) ],
	[ 'two', q{SELECT cdp.free_mail_domain('coil.com')}, q{SELECT cdp.apply(20); SELECT cdp.free_mail_domain('gmail.com'); SELECT cdp.apply(20)} ],
	[ 'off', 'SELECT cdp.account_by_domain(false)', 'SELECT cdp.apply(100)' ],
	[ 'on_again', 'SELECT cdp.apply(100); SELECT cdp.account_by_domain()', 'SELECT cdp.apply(50)' ]);

my $round = 4;
for my $case (@cases)
{
	my ($name, $change, $steps) = @$case;

	$node->safe_psql('source', $_) for grep { $_ ne '' } $change, $steps;
	# in the middle, a part of those whom the change is about is done
	my $done = $node->safe_psql('source', q{SELECT position > 0 FROM cdp.backfills});
	is($done, $steps eq '' ? 'f' : 't', "$name: " . ($steps eq '' ? 'nothing' : 'a part') . ' is done');
	is($node->safe_psql('source', $under_way), '1', "$name: under way");
	$node->command_ok([ 'pg_dump', @to, '-Fc', '-f', "$dir/$name", 'source' ], "$name: pg_dump");
	$node->safe_psql('postgres', "CREATE DATABASE $name");
	command_ok([ 'pg_restore', @to, '--exit-on-error', '-d', $name, "$dir/$name" ], "$name: pg_restore");
	my $where = q{SELECT position, definition, done FROM cdp.backfills};
	is($node->safe_psql($name, $where), $node->safe_psql('source', $where), "$name: it is where the source is");
	is($node->safe_psql($name, $wrong), '', "$name: it is as the log says")
		unless $name eq 'pending';
	is($node->safe_psql($name, $state), $node->safe_psql('source', $state), "$name: both are the same");

	# there, events come between the steps
	$round++;
	for my $db ('source', $name)
	{
		$node->safe_psql($db, more($round));
		$node->safe_psql($db, 'SELECT cdp.apply(60)');
	}
	is($node->safe_psql($name, $wrong), '', "$name: it is so a step later");
	for my $db ('source', $name)
	{
		# the change goes on in the source, too, but for the one that the next case begins with
		next if $db eq 'source' && $name eq 'off';
		$node->safe_psql($db, 'DO $$ BEGIN WHILE cdp.apply() > 0 OR EXISTS (SELECT FROM cdp.backfills) LOOP NULL; END LOOP; END $$');
		is($node->safe_psql($db, $under_way), '0', "$name: $db is through");
	}
	is($node->safe_psql($name, $wrong), '', "$name: it is so in the end");
	is($node->safe_psql($name, $state), $node->safe_psql('source', $state), "$name: both come to the same")
		unless $name eq 'off';
}
cmp_ok($node->safe_psql('source', q{SELECT count(*) FROM cdp.account_members WHERE account::text ~ '^domain:'}), '>', 40, 'domains mean accounts');

$node->stop;
done_testing();
