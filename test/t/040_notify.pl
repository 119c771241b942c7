# NOTIFY from the applier: a JSON object per batch and channel, after the commit
# of what it tells, and never from the transaction that appends.
use strict;
use warnings;

use IPC::Run qw(pump);
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $node = PostgreSQL::Test::Cluster->new('notify');
$node->init;
$node->append_conf(
	'postgresql.conf', qq(
shared_preload_libraries = 'cdp'
max_prepared_transactions = 2
wal_level = logical
cdp.naptime = '100ms'
));
$node->start;
my $long = 's' x 51;
$node->safe_psql('postgres', 'CREATE EXTENSION cdp');
$node->safe_psql(
	'postgres', qq(
	SELECT cdp.create_trait('orders', aggregate => 'count', event => 'Ordered');
	SELECT cdp.create_segment('buyers', 'orders >= 1');
	SELECT cdp.create_segment('$long', 'orders >= 2');
));
my $channel = $node->safe_psql('postgres', "SELECT channel FROM cdp.segments WHERE name = '$long'");
cmp_ok(length($channel), '<=', 63, 'a channel has at most 63 bytes');

# A listener, and what it has received since it was asked last; if told to wait,
# until there is something.  psql prints notifications after the result of the
# command, so it gets a second one.
my ($in, $out) = ('', '');
my $timer = IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default);
my $listener = IPC::Run::start(
	[ 'psql', '-XAtq', '-h', $node->host, '-p', $node->port, '-d', 'postgres' ],
	\$in, \$out, $timer);
my $asked = 0;

sub received
{
	my ($wait) = @_;
	my %got;

	$timer->start;
	do
	{
		$asked++;
		$in .= "SELECT 'asking';\nSELECT 'asked $asked';\n";
		pump $listener until $out =~ /asked $asked\n/;
		while ($out =~ /Asynchronous notification "([^"]*)" with payload "(.*)" received/g)
		{
			push @{ $got{$1} }, $2;
		}
		$out = '';
		sleep 0.1 if $wait && !%got;
	} while ($wait && !%got);
	return \%got;
}

$in .= "LISTEN cdp; LISTEN cdp_segment_buyers; LISTEN \"$channel\";\n";
received();

sub order
{
	my ($user) = @_;
	$node->safe_psql('postgres', "SELECT cdp.track('Ordered', user_id => '$user')");
	$node->safe_psql('postgres', "SELECT cdp.wait_applied('120 s')");
}

# ---- one change

order('u1');
my $got = received('wait');
is(scalar(@{ $got->{cdp} || [] }), 1, 'one message on channel cdp');
is(scalar(@{ $got->{cdp_segment_buyers} || [] }), 1, 'one on the channel of the segment');
my $message = decode_json($got->{cdp_segment_buyers}[0] || '{}');
is_deeply([ sort keys %$message ], [qw(at epoch kind profile_id segment seq v)], 'with these keys');
is($message->{kind} . ' ' . $message->{segment}, 'segment_entered buyers', 'it says what happened');
is( $node->safe_psql(
		'postgres', "SELECT kind, segment, profile_id, cause FROM cdp.changes WHERE (epoch, seq) = ($message->{epoch}, $message->{seq})"),
	"segment_entered|buyers|$message->{profile_id}|entry", 'and where to read about it');
like($message->{at}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d/, 'its time is ISO 8601');

# ---- nothing without a change, nor from a rollback

order('u1');
$got = received('wait');
is_deeply([ sort keys %$got ], [ sort('cdp', $channel) ], 'a second order concerns another segment');
order('u1');
$node->safe_psql('postgres', "BEGIN; SELECT cdp.track('Ordered', user_id => 'u0'); ROLLBACK");
$node->safe_psql('postgres', 'SELECT pg_sleep(0.3)');
is_deeply(received(), {}, 'no change, no message');

# ---- many changes in one batch: one message, a range

$node->safe_psql('postgres',
	"INSERT INTO cdp.events (event, identifiers) SELECT 'Ordered', ARRAY['user_id:v' || i]::cdp.identifier[]"
	  . ' FROM generate_series(1, 3000) i');
$node->safe_psql('postgres', "SELECT cdp.wait_applied('120 s')");
$got = received('wait');
is(scalar(@{ $got->{cdp_segment_buyers} || [] }), 1, 'one message for 3,000 changes');
$message = decode_json($got->{cdp_segment_buyers}[0] || '{}');
is_deeply([ sort keys %$message ], [qw(epoch from n to v)], 'that gives a range');
is($message->{n}, 3000, 'and their number');
is( $node->safe_psql(
		'postgres', "SELECT count(*) FROM cdp.changes WHERE epoch = $message->{epoch} AND seq BETWEEN $message->{from} AND $message->{to}"
		  . " AND segment = 'buyers'"),
	'3000', 'which is right');

# ---- a range is that of its channel, not of the batch

$node->safe_psql('postgres',
	"INSERT INTO cdp.events (event, identifiers) SELECT 'Ordered', ARRAY['user_id:twice' || i % 2]::cdp.identifier[]"
	  . ' FROM generate_series(1, 4) i');
$node->safe_psql('postgres', "SELECT cdp.wait_applied('120 s')");
$got = received('wait');
$message = decode_json($got->{$channel}[0] || '{}');
is( $node->safe_psql('postgres',
		"SELECT min(seq) || ' ' || max(seq) || ' ' || count(*) FROM cdp.changes WHERE epoch = $message->{epoch} AND segment = '$long'"
		  . " AND seq > (SELECT max(seq) - 4 FROM cdp.changes WHERE epoch = $message->{epoch})"),
	"$message->{from} $message->{to} $message->{n}", 'of a segment that others entered before');
is($message->{n}, 2, 'two have entered it');

# ---- the appending transaction notifies nobody, so it can be prepared

$node->safe_psql('postgres', "BEGIN; SELECT cdp.track('Ordered', user_id => 'u2'); PREPARE TRANSACTION 'p'");
$node->safe_psql('postgres', 'SELECT pg_sleep(0.3)');
is_deeply(received(), {}, 'nothing of a prepared transaction');
$node->safe_psql('postgres', "COMMIT PREPARED 'p'");
$node->safe_psql('postgres', "SELECT cdp.wait_applied('120 s')");
is(scalar(@{ received('wait')->{cdp} || [] }), 1, 'until it is committed');

# ---- what a listener has missed is in cdp.changes

$node->safe_psql('postgres', "SELECT cdp.subscribe('mail', '{\"segment\": \"buyers\"}')");
$in .= "UNLISTEN *;\n";
received();
order("w$_") for 1 .. 3;
is_deeply(received(), {}, 'a listener that does not listen hears nothing');
is($node->safe_psql('postgres', "SELECT count(*), max(seq) - min(seq), min(cause) FROM cdp.poll('mail')"),
	'3|2|entry', 'poll() gives it what it has missed');

# ---- every message is a JSON object, whatever the time zone and date style

$in .= "LISTEN cdp;\n";
received();
$node->safe_psql('postgres', "ALTER DATABASE postgres SET datestyle = 'SQL, DMY'; ALTER DATABASE postgres SET timezone = 'Asia/Kolkata'");
$node->safe_psql('postgres', "SELECT cdp.stop_worker(); SELECT cdp.track('Ordered', user_id => 'tz'); SELECT cdp.apply()");
$got = received('wait');
like(decode_json($got->{cdp}[0])->{at}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*\+05:30$/, 'times are ISO 8601 still');
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET ALL');

# ---- a queue that fills up, since somebody listens and sleeps in a transaction

sub count_skipped
{
	return $node->safe_psql('postgres', 'SELECT coalesce(sum(batches), 0) FROM cdp.notify_skipped');
}

$node->safe_psql('postgres', 'ALTER SYSTEM SET cdp.notify_queue_limit = 0.00001');
$node->reload;
$node->safe_psql('postgres', 'SELECT cdp.start_worker()');
my ($sleeper_in, $sleeper_out) = ("LISTEN noise;\nBEGIN;\nSELECT 'asleep';\n", '');
my $sleeper = IPC::Run::start([ 'psql', '-XAtq', '-h', $node->host, '-p', $node->port, '-d', 'postgres' ],
	\$sleeper_in, \$sleeper_out, $timer);
pump $sleeper until $sleeper_out =~ /asleep\n/;
order('q1');
is(scalar(@{ received('wait')->{cdp} || [] }), 1, 'a queue that is nearly empty: announced');
$node->safe_psql('postgres', "SELECT pg_notify('noise', repeat('x', 7000) || i) FROM generate_series(1, 50) i");
cmp_ok($node->safe_psql('postgres', 'SELECT pg_notification_queue_usage()'), '>', 0.00001, 'the queue is filling up');
order('q2');
is_deeply(received(), {}, 'nothing is announced any more');
is(count_skipped(), 1, 'which is counted');
is($node->safe_psql('postgres', q(SELECT string_agg(severity || ': ' || (finding ~ 'not announced')::text, ' ' ORDER BY severity) FROM cdp.check() WHERE topic = 'notify')),
	'error: true warning: true', 'check() says so');
is($node->safe_psql('postgres', "SELECT count(*) FROM cdp.poll('mail') WHERE profile_id = cdp.resolve('user_id:q2')"), '1', 'and found by polling');
$sleeper_in .= "COMMIT;\nSELECT 'awake';\n";
pump $sleeper until $sleeper_out =~ /awake\n/;
$sleeper_in .= "\\q\n";
$sleeper->finish;
# the queue is emptied by the next one who notifies
$node->poll_query_until('postgres', "SELECT pg_notification_queue_usage() < 0.00001 FROM pg_notify('noise', clock_timestamp()::text)")
  or die 'the queue is not emptied';
order('q3');
is(scalar(@{ received('wait')->{cdp} || [] }), 1, 'announced again');
$node->safe_psql('postgres', 'ALTER SYSTEM SET cdp.notify_queue_limit = 0');
$node->reload;
$node->safe_psql('postgres', 'SELECT cdp.stop_worker(), cdp.start_worker()');
order('q4');
is_deeply(received(), {}, 'announcements can be switched off');
is(count_skipped(), 1, 'which is not counted');

# ---- changes as logical messages

SKIP:
{
	my ($ret) = $node->psql('postgres', "SELECT pg_create_logical_replication_slot('changes', 'test_decoding')");
	skip 'SKIPPED: test_decoding is not installed', 4 if $ret != 0;

	my $messages = q(SELECT substring(data FROM 'content:(.*)$')::jsonb AS message
		FROM pg_logical_slot_get_changes('changes', NULL, NULL) WHERE data ~ '^message: transactional: 1 prefix: cdp,');
	# some releases of the server take only plugins that are listed
	$node->safe_psql('postgres', "ALTER SYSTEM SET output_plugin_libraries = 'test_decoding', 'wal2json'")
	  if $node->safe_psql('postgres', "SELECT count(*) FROM pg_settings WHERE name = 'output_plugin_libraries'");
	$node->reload;
	my ($no_json) = $node->psql('postgres', "SELECT pg_create_logical_replication_slot('json', 'wal2json')");
	order('l1');
	is($node->safe_psql('postgres', $messages), '', 'none unless asked for');
	$node->safe_psql('postgres', 'ALTER SYSTEM SET cdp.emit_logical = on');
	$node->reload;
	$node->safe_psql('postgres', 'SELECT cdp.stop_worker(), cdp.start_worker()');
	my $head = $node->safe_psql('postgres', 'SELECT next_seq - 1 FROM cdp.applier');
	order('l2');
	order('l2');
	$node->safe_psql('postgres', "SELECT cdp.merge('user_id:l1', 'anonymous_id:l1'); SELECT cdp.wait_applied('120 s')");
	$node->safe_psql('postgres', "CREATE TABLE messages AS $messages");
	is( $node->safe_psql('postgres', 'SELECT count(*) FROM messages'),
		$node->safe_psql('postgres', "SELECT count(*) FROM cdp.changes WHERE seq > $head"),
		'a message a change');
	is( $node->safe_psql(
			'postgres', qq(SELECT count(*) FROM messages m FULL JOIN (SELECT * FROM cdp.changes WHERE seq > $head) c
				ON (m.message->>'seq')::bigint = c.seq
			WHERE jsonb_strip_nulls(m.message - 'v' - 'at' - 'occurred_at') IS DISTINCT FROM jsonb_strip_nulls(to_jsonb(c) - 'at' - 'occurred_at')
				OR (m.message->>'at')::timestamptz <> c.at OR (m.message->>'occurred_at')::timestamptz <> c.occurred_at)),
		'0', 'that says the same');
	is( $node->safe_psql('postgres', q(SELECT count(*) FROM (SELECT (message->>'seq')::bigint - lag((message->>'seq')::bigint) OVER (ORDER BY ctid) AS step FROM messages) x WHERE step <> 1)),
		'0', 'in their order');
	$node->safe_psql('postgres', "SELECT pg_drop_replication_slot('changes')");

  SKIP:
	{
		skip 'SKIPPED: wal2json is not installed (Debian: postgresql-15-wal2json)', 1 if $no_json;
		is( $node->safe_psql('postgres', q(SELECT count(*) FROM (
				SELECT (data::jsonb->>'content')::jsonb AS message
				FROM pg_logical_slot_get_changes('json', NULL, NULL, 'format-version', '2', 'add-msg-prefixes', 'cdp', 'filter-tables', '*.*')
				WHERE data::jsonb->>'action' = 'M') j
				FULL JOIN messages m USING (message) WHERE j.message IS NULL OR m.message IS NULL)),
			'0', 'wal2json gives the same');
		$node->safe_psql('postgres', "SELECT pg_drop_replication_slot('json')");
	}
}

$in .= "\\q\n";
$listener->finish;
$node->stop('fast');

done_testing();
