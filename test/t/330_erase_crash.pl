# kill -9 of the applier and of the server in the middle of each step of an
# erasure: it goes on where it was, and does everything once.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

my $own = 6000;
my $others = 9000;

my $node = PostgreSQL::Test::Cluster->new('erase_crash');
$node->init;
$node->append_conf(
	'postgresql.conf', qq(
shared_preload_libraries = 'cdp'
restart_after_crash = on
max_prepared_transactions = 5
cdp.naptime = '100ms'
));
$node->start;
sub sql { return $node->safe_psql('postgres', $_[0]) }

sql('CREATE EXTENSION cdp');
sql(q(
	SELECT cdp.create_trait('ticks', aggregate => 'count', event => 'Tick');
	SELECT cdp.create_trait('account_ticks', aggregate => 'count', event => 'Tick', entity => 'account');
	SELECT cdp.create_segment('busy', 'ticks >= 40');
	SELECT cdp.subscribe('crm', mode => 'mirror');
));

# Paula's entries, more than are deleted at a time, then those of others, more
# than are searched at a time; the last of these quotes her.
sql(qq(
	INSERT INTO cdp.events (message_id, event, identifiers, properties)
	SELECT 'own ' || i, 'Tick', '{user_id:paula-4711,email:paula\@example.com,group_id:acme}', '{"n": 1}' FROM generate_series(1, $own) i;
	INSERT INTO cdp.events (message_id, event, identifiers, properties)
	SELECT 'other ' || i, 'Tick', ARRAY['user_id:user-' || i % 500, 'group_id:acme']::cdp.identifier[], jsonb_build_object('n', i, 'text', repeat('quite some text ', 112))
	FROM generate_series(1, $others) i;
	INSERT INTO cdp.events (message_id, event, identifiers, properties)
	VALUES ('quote', 'Tick', '{user_id:user-1,group_id:acme}', '{"friend": "paula\@example.com", "n": 1}');
));
is(sql("SELECT cdp.wait_applied('100 s')"), 't', 'everything is applied');

# What each step must have, and prepared transactions keep from it, crash or not.
my %locks = (
	taken => q(SELECT FROM cdp.identities WHERE identifier::text = 'user_id:paula-4711' FOR UPDATE),
	removing => qq(SELECT FROM cdp.events WHERE message_id = 'own $own' FOR UPDATE),
	sweeping => q(SELECT FROM cdp.events WHERE message_id = 'quote' FOR UPDATE));
sql("BEGIN; $locks{$_}; PREPARE TRANSACTION '$_'") for keys %locks;
sql(q(SELECT cdp.erase('email:paula@example.com', reason => 'a letter')));

my $blocked = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'cdp applier' AND wait_event_type = 'Lock'";
for my $state (qw(taken removing sweeping))
{
	for my $what (qw(applier server))
	{
		my $dead;
		ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM ($blocked) b, cdp.erasures e WHERE e.state = '$state'"), "the applier is in step $state");
		if ($what eq 'applier')
		{
			$dead = sql($blocked);
			kill 'KILL', $dead;

			# until the server has noticed, and is there again
			$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $dead");
		}
		else
		{
			$node->kill9;

			# its children need a moment to notice
			my $until = time + 60;
			until ($node->start(fail_ok => 1))
			{
				die 'no restart' if time > $until;
				sleep 0.2;

				# what it thinks that it found is what we have killed
				$node->{_pid} = undef;
			}
		}
	}
	ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM ($blocked) b"), "the applier is in step $state again");

	# what is done so far is done in part
	if ($state eq 'taken')
	{
		is(sql(q(SELECT cdp.resolve('user_id:paula-4711') IS NOT NULL AND (SELECT count(*) = 0 FROM cdp.tombstones))), 't', 'she is there, as a whole');
	}
	elsif ($state eq 'removing')
	{
		is(sql(q(SELECT cdp.resolve('user_id:paula-4711') IS NULL AND (SELECT count(*) = 2 FROM cdp.tombstones))), 't', 'she is not known any more');
		is(sql(qq(SELECT count(*) BETWEEN 1 AND $own - 1 FROM cdp.events WHERE message_id LIKE 'own %')), 't', 'some of her entries are left');
	}
	else
	{
		is(sql(q(SELECT count(*) FROM cdp.events WHERE message_id LIKE 'own %')), '0', 'none of her entries is left');
		is(sql('SELECT position > 0 FROM cdp.erasures'), 't', 'some of the log has been searched');
	}
	sql("ROLLBACK PREPARED '$state'");
}
ok($node->poll_query_until('postgres', q(SELECT state = 'done' FROM cdp.erasures)), 'it is done in the end');

# once, and as if nothing had happened
is(sql('SELECT count(*) FROM cdp.erasures'), '1', 'one erasure');
is(sql(q(SELECT count(*) FROM cdp.changes WHERE kind = 'erased')), '1', 'one change tells it');
is(sql(qq(SELECT removed \@> '{"identifiers": 2, "log entries deleted": $own, "log entries changed": 1}' FROM cdp.erasures)), 't', 'the manifest counts each row once');
is(sql(q(SELECT count(*) FROM cdp.audit WHERE action = 'erase')), '1', 'it is noted once');
is(sql('SELECT count(*) FROM cdp.erasure_identifiers') . sql('SELECT count(*) FROM cdp.erasure_entries'), '00', 'no work is left');
is(sql(q(SELECT properties FROM cdp.events WHERE message_id = 'quote')), '{"n": 1}', 'nobody quotes her');
is(sql(q(SELECT cdp.account('group_id:acme') -> 'traits' ->> 'account_ticks')), $others + 1, 'her account has the entries of others');
is(sql('SELECT count(*) = max(seq) - min(seq) + 1 AND min(seq) = 1 FROM cdp.changes'), 't', 'changes have no gaps');
is(sql('SELECT count(*) FROM cdp.verify()'), '0', 'verify() finds no difference');

# the proof
sql(q(SELECT cdp.ack('crm', max(seq)) FROM cdp.changes));
sql('VACUUM');
sql('SELECT cdp.erasure_clean()');
sql('REINDEX SCHEMA cdp');
is(sql(q(SELECT * FROM cdp.erasure_proof(1, '{user_id:paula-4711,email:paula@example.com}'))), '', 'she is nowhere');
$node->stop('fast');

done_testing();
