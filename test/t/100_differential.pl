# Random streams of entries: what the applier makes of them, in batches and in
# any order of arrival, must be what cdp.verify() computes from the log.
#
# Streams of the classes about everything (plain … rules) come in two orders and
# are verified on the way, and so are those of the class traits: about aggregates,
# windows and time zones that the others have not; and accounts: about who belongs
# to them, and what counts for them; and consent: about what people say to purposes.  Those about the rules of
# identity (periods … mixed) have few traits and segments, and come in ten orders.
#
# Streams follow one another in two sessions, one for the first order and one for
# the others, which are replaced after some streams.
#
#   CDP_STREAMS=450     number of streams, 200 of which come in ten orders; torture:
#                       4500, with 2000 of them
#   CDP_JOBS=1          streams at a time; torture: as many as there are processors
#   CDP_SECONDS=240     begin no stream after this time, 0: no limit
#   CDP_SEED=n          seed of the first one; stream i has seed n + i
#   CDP_ORDERS=10       orders of arrival of streams about identity
#   CDP_CLASSES=a,b     only these: plain, limits, size, decisions, define, rules, traits, versions, plans,
#                       accounts, consent, periods, rate, bridge, shared, policies, detach, undo, mixed
#   CDP_MINIMISE=60     seconds to spend on making a failing stream smaller
#
# To replay one failure: CDP_SEED=<its seed> CDP_STREAMS=1.
use strict;
use warnings;
use IPC::Open3;
use POSIX ();
use Storable qw(nstore retrieve);
use Time::HiRes qw(time);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use DifferentialDefinitions;

my $streams = $ENV{CDP_STREAMS} // ($ENV{CDP_TORTURE} ? 4500 : 450);
my $jobs = $ENV{CDP_JOBS} // ($ENV{CDP_TORTURE} ? `getconf _NPROCESSORS_ONLN` : 1);
my $seconds = $ENV{CDP_SECONDS} // ($ENV{CDP_TORTURE} || $ENV{CDP_STREAMS} ? 0 : 240);
# `make test' gives the same verdict every time; `make torture' looks for news
my $first_seed = $ENV{CDP_SEED} // ($ENV{CDP_TORTURE} ? int(rand(1_000_000_000)) : 800_000);
my $minimise = $ENV{CDP_MINIMISE} // 60;
my $orders = $ENV{CDP_ORDERS} // 10;
my @lean = qw(periods rate bridge shared policies detach undo mixed);
my %lean = map { $_ => 1 } @lean;
my @classes = split /,/, $ENV{CDP_CLASSES} // join(',', qw(plain traits versions plans accounts consent limits size decisions define rules), @lean);

note "CDP_SEED=$first_seed CDP_STREAMS=$streams";

my $node = PostgreSQL::Test::Cluster->new('differential');
$node->init;
$node->append_conf('postgresql.conf', qq{
fsync = off
full_page_writes = off
autovacuum = off
log_statement = none
jit = off
restart_after_crash = on
max_parallel_workers_per_gather = 0
cdp.databases = ''
});
$node->start;
for my $db ('streams', 'traits', 'accounts', 'consent', 'identity')
{
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, 'CREATE EXTENSION cdp');
}

my $tempdir = PostgreSQL::Test::Utils::tempdir();
my $script = "$tempdir/stream.sql";
my $db;
# which of the jobs this is; each has its own databases
my $job = 0;

# ---- definitions ----

$node->safe_psql('streams', join("\n",
	"SET cdp.now = '2026-01-01';",
	(map {"SELECT cdp.create_trait($_);"} @traits),
	(map {"SELECT cdp.create_segment('$_->[0]', \$p\$$_->[1]\$p\$"
			  . ($_->[2] ? ", exit_when => \$p\$$_->[2]\$p\$" : '') . ');'} @segments)));
$node->safe_psql('traits', join("\n",
	"SET cdp.now = '2026-01-01';",
	(map {"SELECT cdp.create_trait($_);"} @more_traits),
	(map {"SELECT cdp.create_segment('$_->[0]', \$p\$$_->[1]\$p\$);"} @more_segments)));
$node->safe_psql('accounts', join("\n",
	"SET cdp.now = '2026-01-01';",
	(map {"SELECT cdp.create_trait($_);"} @account_traits),
	(map {"SELECT cdp.create_segment('$_->[0]', \$p\$$_->[1]\$p\$);"} @asked_of_members),
	(map {"SELECT cdp.create_segment('$_->[0]', \$p\$$_->[1]\$p\$, entity => 'account');"} @account_segments),
	(map {"SELECT cdp.create_segment('$_->[0]', \$p\$$_->[1]\$p\$"
			  . ($_->[2] ? ", exit_when => \$p\$$_->[2]\$p\$" : '') . ');'} @member_segments)));
$node->safe_psql('consent', join("\n",
	"SET cdp.now = '2026-01-01';",
	"SELECT cdp.create_trait('plan', type => 'text');",
	(map {"SELECT cdp.create_purpose($_);"} @purposes),
	(map {"SELECT cdp.create_segment('$_->[0]', \$p\$$_->[1]\$p\$"
			  . ($_->[2] ? qq{, options => '{"purpose": "$_->[2]"}'} : '')
			  . ($_->[3] ? ", exit_when => \$p\$$_->[3]\$p\$" : '') . ');'} @purposed_segments)));
$node->safe_psql('identity', join("\n",
	"SET cdp.now = '2026-01-01';",
	(map {"SELECT cdp.create_trait($_);"} @identity_traits),
	(map {"SELECT cdp.create_segment('$_->[0]', \$p\$$_->[1]\$p\$);"} @identity_segments)));
# a second backend that applies, so that each must notice what the other did
my $other = !grep { $node->psql($_, 'CREATE EXTENSION dblink') != 0 } qw(streams traits accounts consent identity);
note 'no dblink: one backend applies all' unless $other;

# ---- what is compared ----

# What cdp.profile() shows of everybody with fresh => true, and once all is applied.
my $fresh_sql = q{
CREATE TEMP TABLE fresh AS SELECT n.i, f.p - 'segments' - 'accounts' AS p, (f.p->'segments') - 'lingering' AS s
FROM (SELECT n.i
	  FROM (SELECT DISTINCT u.i::text::cdp.identifier AS i FROM cdp.events e, unnest(e.identifiers) u(i)) n
	  JOIN cdp.identifier_kinds k ON k.kind = cdp.kind(n.i)
	  -- what is being built has no values, and has them after apply()
	  WHERE NOT EXISTS (SELECT FROM cdp.backfills)
	  OFFSET 0) n
CROSS JOIN LATERAL (SELECT cdp.profile(n.i, fresh => true) AS p OFFSET 0) f;
COMMIT;
SELECT 'applied' FROM cdp.apply(NULL);
SELECT format('DIFFERENCE fresh %s: %s %s, applied %s', f.i, f.p, f.s, cdp.profile(f.i))
FROM fresh f
WHERE (f.p - 'profile_id', f.s) IS DISTINCT FROM
		(cdp.profile(f.i) - 'segments' - 'profile_id' - 'accounts', (cdp.profile(f.i)->'segments') - 'lingering')
LIMIT 3;
DROP TABLE fresh;};

# Everything that must not depend on the order of arrival, numbers aside.
my $state_sql = q{
SELECT 'profile ' || p.names || ' ' || p.seen || ' ' || (cdp.profile_traits_at(p.profile_id, (SELECT clock FROM cdp.applier))->>'traits') || ' '
	|| COALESCE((SELECT string_agg(m.segment, ' ' ORDER BY m.segment COLLATE "C") FROM cdp.memberships m WHERE m.profile_id = p.profile_id AND m.segment <> 'lingering'), '')
FROM (SELECT profile_id, string_agg(identifier::text, ' ' ORDER BY identifier::text COLLATE "C") AS names,
			 string_agg(first_seen || '/' || last_seen, ' ' ORDER BY identifier::text COLLATE "C") AS seen
	  FROM cdp.identities GROUP BY profile_id) p
UNION ALL
SELECT 'link ' || least(a.identifier::text COLLATE "C", b.identifier::text) || ' ' || greatest(a.identifier::text COLLATE "C", b.identifier::text)
	|| ' ' || l.origin || ' ' || l.at || ' ' || l.status || ' ' || COALESCE(l.reason, '') || ' ' || COALESCE(l.detail, '')
FROM cdp.links l JOIN cdp.identities a ON a.node_id = l.a JOIN cdp.identities b ON b.node_id = l.b
WHERE l.origin = 'event'
UNION ALL
SELECT 'decision ' || d.source || ' ' || d.message_id || ' ' || d.effective FROM cdp.decisions d
UNION ALL
SELECT 'rejected ' || r.source || ' ' || COALESCE(r.message_id, '-') || ' ' || r.reason || ' ' || COALESCE(r.held::text, '') FROM cdp.rejected r
UNION ALL
SELECT 'entry ' || i.identifier::text || ' ' || e.at FROM cdp.entries e JOIN cdp.identities i ON i.node_id = e.owner
UNION ALL
SELECT 'account ' || a.identifier::text || ' ' || a.first_seen || '/' || a.last_seen || ' ' || COALESCE(a.parent::text, '-') || ' '
	|| cdp.account_traits_json(a.account_id, (SELECT clock FROM cdp.applier)) || ' '
	|| COALESCE((SELECT string_agg(m.segment, ' ' ORDER BY m.segment COLLATE "C") FROM cdp.memberships m WHERE m.profile_id = a.account_id), '')
FROM cdp.account_identities a
ORDER BY 1;
};
$state_sql =~ s/\n\s*/ /g;

# What is read of accounts is as of the read's instant, whatever is due by then.
my $accounts_sql = q{
SELECT format('DIFFERENCE account_at %s: %s, is %s', a.identifier, cdp.account_at(a.identifier), cdp.account(a.identifier))
FROM cdp.account_identities a
WHERE cdp.account_at(a.identifier) IS DISTINCT FROM cdp.account(a.identifier) - 'last_seen' AND NOT EXISTS (SELECT FROM cdp.rule_changes)
  AND NOT EXISTS (SELECT FROM cdp.backfills WHERE kind = 'segment') LIMIT 3;};
my $verify_sql =
  q{SELECT 'DIFFERENCE ' || station || ' | ' || key || ' | expected ' || COALESCE(expected::text, '-') || ' | found ' || COALESCE(found::text, '-') FROM cdp.verify() WHERE key <> 'change of rules';} . $accounts_sql;

# Nobody without consent is in a segment that has a purpose, at any time: but for
# timers that are due, for which no batch has come yet.
my $consent_sql = q{
SELECT format('DIFFERENCE member %s of %s does not consent', m.profile_id, s.name)
FROM cdp.segment_members m JOIN cdp.segment_definitions s ON s.id = m.segment_id
WHERE m.member AND s.options ? 'purpose' AND NOT cdp.consented(m.profile_id, s.options->>'purpose')
  AND NOT EXISTS (SELECT FROM cdp.timers t WHERE t.profile_id = m.profile_id AND t.at <= cdp.clock())
LIMIT 3;};

my @tables = map {"cdp.$_"} qw(events identities former_identities history_entries kind_history guard_history merged_profiles links decisions entry_pieces withheld_entries releases rejected timers window_items segment_members changes account_news trait_errors segment_errors rule_changes rule_cursors account_evidence account_identities account_nodes account_values account_totals plan_definitions plan_releases plan_counts plan_violation_counts);
my $reset_sql = join("\n", 'SET client_min_messages = warning;', @undefine,
	q{UPDATE cdp.applier SET generation = generation + 1, clock = '-infinity', cursors = '{}';});
# for a few rows quicker than TRUNCATE
my $delete_sql = 'SET client_min_messages = warning; ' . join(' ', map {"DELETE FROM $_;"} @tables);
my $truncate_sql = 'TRUNCATE ' . join(', ', @tables) . ';';

# ---- the generator ----

sub pick { return $_[ int(rand(@_)) ]; }
sub chance { return rand() < $_[0]; }
sub lit { my ($s) = @_; return 'NULL' unless defined $s; $s =~ s/'/''/g; return "'$s'"; }

my $epoch = 1767225600;    # 2026-01-01 UTC

sub stamp
{
	my ($seconds) = @_;
	my @t = gmtime($epoch + $seconds);
	return sprintf('%04d-%02d-%02d %02d:%02d:%02d+00',
		$t[5] + 1900, $t[4] + 1, @t[ 3, 2, 1, 0 ]);
}

my @products = ('a', 'b)', 'B', 'Ä', 'z', "o'c", '');

# Products of an order: mostly an array of objects.
my $with_items = 0;
# Group calls say something of accounts.
my $with_accounts = 0;

sub items_of
{
	my ($rough) = @_;
	return pick('"x"', '{"sku": "s1"}', 'null', '[]', '[1, "x", null, [2]]') if chance(0.05 + $rough / 2);
	return '[' . join(', ', map {
			'{' . join(', ', '"sku": ' . pick('"s1"', '"s2"', '"s2"', '"S3"', 'null', 4),
				(chance(0.8) ? '"price": ' . pick(1, 2.5, '"3.50"', 10, -1, $rough > 0.1 ? '"y"' : 0) : ()),
				(chance(0.3) ? '"n": ' . pick(1, 2, $rough > 0.1 ? 1.5 : 3) : ())) . '}'
		} 1 .. int(rand(5))) . ']';
}

sub properties
{
	my ($type, $rough) = @_;
	my @p;
	if ($type eq 'group' && $with_accounts)
	{
		push @p, '"seats": ' . pick(1, 2, 4, '"3"', 'null') if chance(0.4);
		push @p, '"plan": ' . pick('"pro"', '"free"', 'null', '7') if chance(0.4);
		push @p, '"parent": ' . pick('"g1"', '"g2"', '"G3"', '"workspace:w1"', 'null', 3, '"group_id:g1"') if chance(0.4);
	}
	elsif ($type eq 'identify')
	{
		return 'NULL' if chance(0.03);
		push @p, '"plan": ' . pick('"pro"', '"free"', 'null', '7') if chance(0.6);
		push @p, '"age": ' . pick(17, 18, 40, '"40"', '"old"', 'null') if chance(0.5);
		push @p, '"country": ' . pick('"DE"', '"FR"', 'null') if chance(0.4);
		push @p, '"nick": ' . pick('"x"', '"y"', '["x"]', '{"a": 1}', 'null', 'true') if chance(0.3);
	}
	else
	{
		push @p, '"revenue": ' . pick(1, 10, 10.5, 99.99, '"10.50"', $rough > 0.1 ? '"x"' : 7, 'null', -3, 55, 1e3) if chance(0.6);
		push @p, '"product": "' . pick(@products) . '"' if chance(0.6);
		push @p, '"tier": ' . pick('"premium"', '"basic"', 'null') if chance(0.5);
		push @p, '"qty": ' . pick(1, 1, 2, 3, '"4"', $rough > 0.1 ? (2.5, 99999999999) : ()) if chance(0.4);
		push @p, '"items": ' . items_of($rough) if $with_items && chance(0.5);
	}
	return lit('{' . join(', ', @p) . '}') . '::jsonb';
}

# One entry as the VALUES row of (message_id, source, type, event,
# identifiers, properties, context, occurred_at, received_at).
sub row
{
	my ($e) = @_;
	return '(' . join(', ',
		lit($e->{message}), lit($e->{source}), lit($e->{type}), lit($e->{event}),
		(defined $e->{ids}
			? 'ARRAY[' . join(', ', map { lit($_) } @{ $e->{ids} }) . ']::cdp.identifier[]'
			: 'NULL'),
		$e->{properties}, $e->{context} // 'NULL', lit($e->{occurred}), lit($e->{received})) . ')';
}

# Preferences in the shape of RudderStack's libraries.
sub listed
{
	my %said = map { /^(".*"): (.*)$/ } @_;
	my $list = sub { my ($word) = @_; return join(', ', grep { $said{$_} eq $word } sort keys %said) };
	return sprintf('{"consentManagement": {"provider": "custom", "allowedConsentIds": [%s], "deniedConsentIds": [%s, 7]}}',
		$list->('true'), $list->('false') || '"none"');
}

# A schema for what properties() makes, and for which entries it is.
sub one_plan
{
	my ($type, $event) = @{ pick([ 'track', 'Order Completed' ], [ 'track', 'Product Viewed' ], [ 'page', 'Home' ], [ 'identify', '' ], [ 'group', '' ]) };
	my $schema = pick('true', '{}', 'false', '{"required": ["revenue"]}', '{"properties": {"revenue": {"type": "number", "minimum": 5}}}',
		'{"properties": {"tier": {"enum": ["premium", "basic"]}}}', '{"anyOf": [{"required": ["product"]}, {"required": ["qty"]}]}', '{"minProperties": 2}');
	$schema = pick('{"properties": {"plan": {"enum": ["pro", "free"]}}}', '{"properties": {"age": {"type": "integer"}}, "required": ["country"]}', '{}', 'false') if $event eq '';
	return ($type, $event, $schema, pick('quarantine', 'quarantine', 'drop-property', 'drop-property', 'allow'));
}

# Versions that are there from the beginning, each in force for some time.
sub plans
{
	my ($span) = @_;
	my %version;
	my @rows;
	for (1 .. pick(0, 2, 5))
	{
		my ($type, $event, $schema, $mode) = one_plan();
		my $before = $version{"$type $event"} //= { n => 0, until => -86400 };
		my $from = $before->{until} + (chance(0.5) ? 0 : int(rand($span / 4)));
		$before->{until} = $from + int(rand($span));
		push @rows, '(' . join(', ', lit($type), lit($event), ++$before->{n}, lit($schema), lit($mode), lit(stamp($from)), lit(stamp($before->{until}))) . ')';
	}
	return @rows ? ('INSERT INTO cdp.plan_definitions VALUES ' . join(', ', @rows) . '; SELECT cdp.definitions_changed();') : ();
}

# A version about history: how things end does not depend on when it was made.
sub retroactive
{
	my ($type, $event, $schema, $mode) = one_plan();
	return 'SELECT cdp.tracking_plan(' . join(', ', $event eq '' ? 'NULL' : lit($event), lit($schema), lit($mode), lit($type)) . ', retroactive => true);';
}

# At the end, when it is known what is held: of some messages, as it is or corrected.
my $release_sql = q{
SELECT 'released' FROM (SELECT DISTINCT r.source, r.message_id FROM cdp.rejected r
	WHERE r.held AND r.reason = 'tracking plan' ORDER BY 1, 2) h
CROSS JOIN LATERAL cdp.release(h.message_id, h.source) WHERE right(h.message_id, 1) IN ('1', '4', '8');};

# What an entry of the class consent says: preferences in the context of any, or a
# call.
sub consent
{
	my ($e, $rough, $span, $grain) = @_;
	if (chance(0.3))
	{
		my @c = map { "\"$_\": " . pick('true', 'true', 'false', $rough > 0 ? ('null', '"yes"', 1) : ()) }
		  grep { chance(0.4) } 'marketing', 'Advertising', 'ADS', 'Analytics', 'stats', 'profiling', 'x';
		my $preferences = chance($rough / 4) ? pick('[true]', '"x"', 'null') : '{' . join(', ', @c) . '}';
		$e->{context} = lit(chance($rough / 4) ? pick('{"consent": [1]}', '[1]', '{"consent": {"categoryPreferences": 3}}')
			: @c % 2 == 1 ? listed(@c) : "{\"consent\": {\"categoryPreferences\": $preferences}}") . '::jsonb';
	}
	return unless chance(0.4);
	$e->{type} = 'consent';
	$e->{event} = undef;
	$e->{properties} = lit('{' . join(', ',
		'"purpose": ' . pick('"marketing"', '"Marketing"', '"analytics"', '"ads"', '"profiling"', '"none"', $rough > 0.1 ? ('""', 3) : ()),
		'"state": ' . pick('"granted"', '"granted"', '"granted"', '"denied"', '"unset"', $rough > 0.1 ? ('"yes"', 'true') : ()),
		(chance(0.3) ? '"expires": ' . pick((map { '"' . stamp(int(rand(1.5 * $span / $grain)) * $grain) =~ s/ /T/r =~ s/\+00/Z/r . '"' } 1 .. 3), 'null', $rough > 0.1 ? ('"soon"', 7) : ()) : ())) . '}') . '::jsonb';
}

# A stream: a list of items, each an entry {…} or a step [what, argument].
sub stream
{
	my ($seed) = @_;
	srand($seed);
	my $class = $classes[ $seed % @classes ];
	my $lean = $lean{$class};
	$with_items = $class =~ /^(traits|versions)$/;
	$with_accounts = $class eq 'accounts';
	my $n = int(10**(1 + rand($lean ? 0.8 : 1.5)));
	my $people = $lean ? 1 + int(rand(1 + $n / 10)) : 2 + int(rand(2 + $n / 10));
	my $span = $class eq 'rate' ? 4 * 3600 : $class eq 'periods' ? pick(3, 12, 12, 30, 600) * 86400 : pick(3, 30, 150) * 86400;
	my $grain = $class eq 'rate' ? 600 : pick(1, 3600, 86400);
	my (@ids, @entries, @decisions);
	my @domains = $with_accounts && int($seed / @classes) % 2 ? qw(north.example south.example gmail.com) : qw(example.com);

	for my $i (1 .. $people)
	{
		push @ids, "anonymous_id:d$i", "anonymous_id:e$i", "email:p$i\@$domains[$i % @domains]";
		push @ids, "user_id:u$i", "user_id:v$i" if $class ne 'plain';
		push @ids, $class eq 'periods' ? "email:q$i\@example.com" : ("device_id:t$i", "cookie:k$i") if $lean;
	}
	my @odd = (
		'email:info@example.com', 'EMAIL', 'user_id:null', 'anonymous_id:0', 'email:not an address',
		'anonymous_id:', 'shoe_size:43', 'shoe_size:44', 'group_id:acme', 'anonymous_id:' . ('x' x 1100), undef);
	my $sociable = $lean ? pick(0.4, 0.7) : pick(0.1, 0.3, 0.7);
	my $rough = pick(0, 0.05, 0.2);
	my $again = pick(0.05, 0.12, 0.5);
	my $decide = $class =~ /decisions|detach/ ? 0.3 : $class =~ /undo|policies/ ? 0.25 : $class eq 'plain' ? 0 : $class =~ /traits|accounts|consent/ ? 0.15 : 0.08;

	for my $i (1 .. $n)
	{
		my $e = {
			message => "m$i",
			source => pick('web', 'web', 'app'),
			type => pick(('track') x 6, 'identify', 'identify', 'page', 'screen', 'group', 'alias')
		};
		my $received = int(rand($span / $grain)) * $grain;
		my $at = $received - (chance(0.5) ? 0 : int(rand($span / $grain)) * $grain);
		$e->{event} = pick('Order Completed', 'Product Viewed', 'Product Viewed', 'Signed In') if $e->{type} eq 'track';
		$e->{event} = pick('Home', 'Order Completed') if $e->{type} =~ /page|screen/;
		$e->{received} = stamp($received);
		$e->{occurred} = chance(0.05) ? undef : chance(0.03) ? stamp($received + pick(60, 299, 300, 301, 86400)) : stamp($at);
		# neighbours in the list belong to one person more often than not
		my $home = int(rand(@ids));
		$e->{ids} = [ $ids[$home] ];
		push @{ $e->{ids} }, chance(0.7) ? $ids[ ($home + pick(-2, -1, 1, 2)) % @ids ] : pick(@ids)
		  while (chance($sociable) && @{ $e->{ids} } < 5);
		if (chance($rough))
		{
			my $odd = pick(@odd);
			$odd = 'email:P' . (1 + int(rand($people))) . '@EXAMPLE.com ' if defined $odd && $odd eq 'EMAIL';
			if (chance(0.5)) { push @{ $e->{ids} }, $odd }
			else { $e->{ids} = [$odd] }
		}
		if ($with_accounts)
		{
			# mostly of the same few, and not every entry names one
			$e->{type} = pick('group', 'group', 'leave') if chance(0.25);
			push @{ $e->{ids} }, pick('group_id:g1', 'group_id:g1', 'group_id:g2', 'group_id:G1', 'group_id:3', 'workspace:w1', @domains > 1 ? 'domain:North.example' : ())
			  while ($e->{type} =~ /group|leave/ || chance(0.15)) && chance(0.8) && @{ $e->{ids} } < 7;
			@{ $e->{ids} } = grep { defined && /^(group_id|workspace|domain):/ } @{ $e->{ids} } if chance(0.08);
		}
		$e->{properties} = properties($e->{type}, $rough);
		consent($e, $rough, $span, $grain) if $class eq 'consent';
		if (chance($rough / 4))
		{
			my $what = pick(qw(type event time ids shape nothing));
			$e->{type} = pick('bogus', 'erase', undef) if $what eq 'type';
			$e->{event} = pick('', undef) if $what eq 'event';
			$e->{occurred} = pick('infinity', '-infinity') if $what eq 'time';
			$e->{ids} = pick([], undef) if $what eq 'ids';
			$e->{properties} = pick(q{'[1]'::jsonb}, q{'"x"'::jsonb}, q{'null'::jsonb}, 'NULL') if $what eq 'shape';
		}
		if (chance($decide))
		{
			$e->{source} = 'manual' unless chance(0.1);
			$e->{type} = pick('merge', 'split', 'undo', $class =~ /detach|mixed/ ? ('detach', 'detach') : ());
			$e->{type} = 'undo' if $class eq 'undo' && chance(0.7);
			$e->{type} = 'release' if $class eq 'policies' && chance(0.7) || $class eq 'mixed' && chance(0.4);
			$e->{event} = undef;
			if ($e->{type} =~ /undo|release/ && $class =~ /undo|mixed|policies|traits|accounts|consent/ && @entries && chance(0.8))
			{
				# of anything, mostly of what is earlier
				my $target = pick(@entries);
				$e->{properties} = lit("{\"entry\": \"$target->{message}\"}") . '::jsonb';
				$e->{source} = $target->{source};
				$e->{ids} = pick([], undef);
				if (chance(0.7))
				{
					$received = $span + 3600 * int(rand(24));
					$e->{received} = $e->{occurred} = stamp($received);
				}
			}
			elsif ($e->{type} =~ /undo|release/)
			{
				my $target = @decisions && chance(0.95) ? pick(@decisions)->{message} : 'm' . (1 + int(rand($n)));
				$e->{properties} = lit("{\"entry\": \"$target\"}") . '::jsonb';
				$e->{properties} = q{'{"entry": 3}'::jsonb} if chance(0.02);
				$e->{ids} = pick([], undef);
			}
			elsif ($e->{type} eq 'detach')
			{
				$e->{ids} = [ chance(0.1) ? pick(grep { !defined || $_ ne 'EMAIL' } @odd) : $ids[$home] ];
				push @{ $e->{ids} }, pick(@ids) if chance(0.03);
				$e->{properties} = q{'{"reason": "r"}'::jsonb};
			}
			else
			{
				# often about a pair that has been decided before
				my ($before) = grep { $_->{type} =~ /merge|split/ } reverse @decisions;
				$e->{ids} = chance(0.4) && $before ? [ reverse @{ $before->{ids} } ]
				  : chance(0.5) ? [ $ids[$home], $ids[ ($home + 1) % @ids ] ]
				  : [ pick(@ids), pick(@ids) ];
				$e->{ids}[1] = pick(grep { !defined || $_ ne 'EMAIL' } @odd) if chance($rough);
				$e->{properties} = q{'{"reason": "r", "author": "me"}'::jsonb};
			}
			push @decisions, $e;
		}
		push @entries, $e;
		if (chance($again))
		{
			# again, with the same message id
			my $d = { %{ pick(@entries) } };
			$d->{occurred} = stamp(int(rand($span / $grain)) * $grain) if chance(0.5);
			$d->{properties} = properties($d->{type} // 'track', $rough) if chance(0.3) && ($d->{type} // '') !~ /merge|split|undo|release/;
			$d->{ids} = [ pick(@ids), pick(@ids) ] if chance(0.2) && ($d->{type} // '') !~ /undo|release|detach/;
			$d->{type} = 'bogus' if chance(0.1);
			push @entries, $d;
		}
	}
	my @changes = $class eq 'rules' ? map { chance(0.6) ? pick(@$_) : () } @rules
	  : $class eq 'accounts' ? map { chance(0.3) ? pick(@$_) : () } @account_rules
	  : $class eq 'consent' ? map { chance(0.15) ? pick(@$_) : () } @rules
	  : $kinds{$class} ? map { chance(0.6) ? pick(@$_) : () } @{ $kinds{$class} } : ();
	my @retroactive = $class eq 'plans' ? map { retroactive() } 1 .. pick(0, 1, 3, 6) : ();
	return { seed => $seed, class => $class, domains => @domains > 1 ? pick(@domain_steps) : undef, rules => \@changes, span => $span, entries => \@entries,
		plans => [ $class eq 'plans' ? plans($span) : () ], retroactive => \@retroactive,
		release => $class eq 'plans' && chance(0.6),
		# most rules are there from the beginning
		early => $lean && chance($class eq 'policies' ? 0.4 : 0.8),
		# guards that are others at first, and everybody is judged again
		guards => $class =~ /^(size|bridge|rate|mixed)$/ && chance(0.3) ? {
			max_profile_identifiers => pick(2, 4, 10000),
			bridge_guard => pick(0, 1, 3),
			max_new_identifiers_per_hour => pick(0, 1, 2) } : {},
		settings => {
			max_profile_identifiers => $class eq 'size' || $class eq 'mixed' && chance(0.3) ? pick(2, 3, 5) : 10000,
			# large for the bridge guard is what has a timeline
			bridge_guard => $class =~ /^(size|rate|limits|decisions)$/ && chance(0.4) ? pick(2, 3, 4) : $class eq 'bridge' || $class eq 'mixed' && chance(0.3) ? pick(1, 2, 2, 3) : 0,
			max_new_identifiers_per_hour => $class eq 'rate' || $class eq 'mixed' && chance(0.3) ? pick(1, 2, 3) : 0 } };
}

# The stream as items in order of arrival, cut into transactions and batches.
sub items
{
	my ($stream, $order) = @_;
	srand($stream->{seed} * 16 + $order);
	my @entries = @{ $stream->{entries} };
	# as generated, as they happened, backwards, and any other way
	my %key = map { $_ => $order == 1 && $lean{ $stream->{class} } ? $_->{occurred} // $_->{received}
		  : rand() } @entries;
	@entries = sort { $key{$a} cmp $key{$b} } @entries if $order > 0;
	@entries = reverse @entries if $order == 2;
	my $batch = pick(1, 3, 10, 100, 1000);
	my $busy = pick(0.02, 0.1, 0.4);
	# windows whose items do not all stand in the node's row
	my $chunk = pick(1, 2, 5, 1000);
	my $clock = -86400;
	my $end = 1.2 * $stream->{span};
	my %define;
	my @steps = $stream->{class} eq 'define' ? @late : $stream->{class} eq 'versions' ? @late_more
	  : $stream->{class} eq 'consent' && chance(0.4) ? @consent_steps : $stream->{domains} ? @{ $stream->{domains} }
	  : $stream->{class} eq 'accounts' && int($stream->{seed} / @classes / 2) % 2 ? @late_accounts : @{ $stream->{retroactive} };
	my @at = sort { $a <=> $b } map { int(rand(@entries)) } @steps;
	push @{ $define{ $at[$_] } }, $steps[$_] for 0 .. $#steps;
	my %rules;
	push @{ $rules{ $stream->{early} ? 0 : int(rand(@entries)) } }, $_ for @{ $stream->{rules} };
	my $guarded = %{ $stream->{guards} } ? int(rand(@entries)) : -1;
	my $strange = chance(0.3);
	my $round = chance(0.4);
	my @items = ([ 'now', stamp($clock) ], map { [ 'define', $_ ] } @{ $stream->{plans} });
	push @items, [ 'set', 'backfill_at_once = 0' ] if %define && chance(0.7);
	# changes of rules: in steps between the batches, or at once
	push @items, ['later'] if (@{ $stream->{rules} } || @{ $stream->{retroactive} } || $guarded >= 0) && chance(0.7);

	for my $i (0 .. $#entries)
	{
		push @items, [ 'define', $_ ] for @{ $define{$i} // [] };
		push @items, [ 'rule', $_ ] for @{ $rules{$i} // [] };
		push @items, [ 'setrule', join(' ', map {"SET cdp.$_ = $stream->{settings}{$_};"} sort keys %{ $stream->{guards} }) ] if $i == $guarded;
		push @items, $entries[$i];
		push @items, ['commit'] if chance(0.2);
		if (chance($busy))
		{
			if (chance(0.6))
			{
				my $next = $clock + int(rand(($end - $clock) / 4));
				# often the very instant at which windows end
				$next = int($next / 86400) * 86400 if $round;
				$clock = $next if $next > $clock;
				push @items, [ 'now', stamp($clock) ];
				push @items, ['accounts'] if $with_accounts && chance(0.3);
			}
			push @items, [ $strange ? pick('apply', 'other', 'other', 'aborted', 'partly') : 'apply',
				chance(0.5) ? $batch : pick(1, 2, 5, 1000) ];
			push @items, ['consent'] if $stream->{class} eq 'consent';
			push @items, ['verify'] if chance($lean{ $stream->{class} } ? 0.01 : 0.05);
			push @items, ['fresh'] if $stream->{class} ne 'accounts' && chance($lean{ $stream->{class} } ? 0.02 : 0.1);
		}
	}
	push @items, [ 'end', stamp($end) ];
	push @items, ['release'] if $stream->{release};
	# the other orders are compared with these
	push @items, ['check'] if $order < 2;
	return [ (map { [ 'set', "$_ = " . ($stream->{guards}{$_} // $stream->{settings}{$_}) ] } sort keys %{ $stream->{settings} }),
		[ 'set', "batch_size = $batch" ], [ 'set', "window_chunk = $chunk" ], @items ];
}

sub script
{
	my ($items) = @_;
	my @sql = ('RESET ALL;', $delete_sql, $db =~ /^traits/ ? @undefine_more : $db =~ /^accounts/ ? @undefine_accounts : (), $reset_sql);
	push @sql, q{SELECT dblink_connect('other', format('host=%s port=%s dbname=%s', split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'), current_database())) WHERE 'other' <> ALL (COALESCE(dblink_get_connections(), '{}'));} if $other && grep { ref $_ eq 'ARRAY' && $_->[0] eq 'other' } @$items;
	my $check = '';
	my $release = '';
	my @rows;
	my $flush = sub {
		return unless @rows;
		push @sql,
		  "INSERT INTO cdp.events (message_id, source, type, event, identifiers, properties, context, occurred_at, received_at) VALUES\n"
		  . join(",\n", map { row($_) } @rows) . ';';
		@rows = ();
	};

	for my $item (@$items)
	{
		if (ref $item eq 'HASH')
		{
			push @rows, $item;
			next;
		}
		my ($what, $argument) = @$item;
		# what a transaction itself has written, too
		push @sql, 'BEGIN;' if $what eq 'fresh';
		$flush->();
		push @sql, $fresh_sql if $what eq 'fresh';
		push @sql, "SET cdp.now = '$argument';" if $what =~ /now|end/;
		push @sql, "SET cdp.$argument;" if $what eq 'set';
		$check = $verify_sql if $what eq 'check';
		$release = "SELECT 'applied' FROM cdp.apply(NULL);\n$release_sql" if $what eq 'release';
		push @sql, "SELECT 'applied' FROM cdp.apply($argument);" if $what eq 'apply';
		if ($what eq 'other')
		{
			push @sql, $other
			  ? "SELECT x FROM dblink('other', (SELECT string_agg(format('SET %I.%I = %L;', 'cdp', split_part(name, '.', 2), setting), ' ') FROM pg_settings WHERE name IN ('cdp.now', 'cdp.max_profile_identifiers', 'cdp.bridge_guard', 'cdp.max_new_identifiers_per_hour')) || ' SELECT ''applied'' FROM cdp.apply($argument)') AS t(x text);"
			  : "SELECT 'applied' FROM cdp.apply($argument);";
		}
		push @sql, 'BEGIN;', "SELECT 'applied' FROM cdp.apply($argument);", 'ROLLBACK;' if $what eq 'aborted';
		push @sql, 'BEGIN;', "SELECT 'applied' FROM cdp.apply($argument);", 'SAVEPOINT s;',
		  "SELECT 'applied' FROM cdp.apply($argument);", 'ROLLBACK TO s;', "SELECT 'applied' FROM cdp.apply(1);", 'COMMIT;'
		  if $what eq 'partly';
		push @sql, 'SELECT cdp.' . ($argument =~ /shoe|workspace/ ? 'create' : 'alter') . "_identifier_kind($argument);" if $what eq 'rule';
		push @sql, $argument, 'SELECT cdp.rejudge();' if $what eq 'setrule';
		push @sql, 'SET cdp.replay_at_commit = 0;' if $what eq 'later';
		push @sql, $verify_sql if $what eq 'verify';
		push @sql, $argument if $what eq 'define';
		push @sql, $consent_sql if $what eq 'consent';
		push @sql, $accounts_sql if $what eq 'accounts';
	}
	$flush->();
	push @sql, $release, "SELECT 'applied' FROM cdp.apply(NULL);", "SELECT 'LEFT ' || n FROM cdp.apply(NULL) n WHERE n > 0;",
	  q{SELECT 'LEFT a change of rules' FROM cdp.rule_changes;},
	  q{SELECT 'LEFT a definition' FROM cdp.backfills;},
	  q{SELECT 'LEFT timers' FROM cdp.timers t, cdp.applier a WHERE t.at <= a.clock LIMIT 1;},
	  $check, q{SELECT 'STATE';}, $state_sql;
	return join("\n", @sql) . "\n";
}

my %reasons;

# Sessions by database and what they are for: psql, which reads from a pipe.
my %sessions;
# Each list in a session of its own?
our $apart = 0;

sub session
{
	my ($name) = @_;
	return $sessions{$name} if $sessions{$name};
	open my $err, '+>', "$script.$name.err" or die "$script.$name.err: $!";
	my $pid = open3(my $in, my $out, '>&' . fileno($err), 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1',
		'-v', 'VERBOSITY=terse', '-d', $node->connstr($db));
	$in->autoflush(1);
	return $sessions{$name} = { pid => $pid, in => $in, out => $out, err => "$script.$name.err" };
}

# Ends the session; returns what went wrong in it.
sub end_session
{
	my ($name) = @_;
	my $session = delete $sessions{$name} or return '';
	close $session->{in};
	waitpid $session->{pid}, 0;
	return '' if $? == 0;
	my $err = PostgreSQL::Test::Utils::slurp_file($session->{err});
	return 'ERROR ' . (join("\n", grep { /ERROR|FATAL|PANIC|closed|lost/ } split /\n/, $err) || $err || "psql: $?");
}

# Run lists of items, one after the other in one session; returns for each
# [what is wrong or '', state].  None comes after one that raised an error.
sub run
{
	my ($for, @lists) = @_;
	my $name = "$db.$for";
	my @results;
	end_session($name) if $apart;
	my $session = session($name);
	# from a file: psql may stop reading when there is an error.  Another one than
	# last time, of which it has perhaps not seen the end.
	my $file = "$script." . ($session->{turn} = !$session->{turn} ? 1 : 0) . ".$name";
	open my $fh, '>:raw', $file or die "$file: $!";
	print $fh map { script($_) . "\\echo NEXT\n" } @lists;
	close $fh;
	local $SIG{PIPE} = 'IGNORE';
	my $stream = $session->{in};
	print $stream "\\i $file\n";
	for my $list (@lists)
	{
		my (@wrong, @state);
		my $line;
		while (defined($line = readline $session->{out}) && $line ne "NEXT\n")
		{
			chomp $line;
			if (@state) { push @state, $line }
			elsif ($line eq 'STATE') { push @state, '' }
			elsif ($line =~ /^(DIFFERENCE|LEFT) /) { push @wrong, $line }
		}
		if (!defined $line)
		{
			push @wrong, end_session($name) || 'ERROR psql came to an end';
			# a crash: wait until the server is back
			$node->poll_query_until('postgres', 'SELECT true', 't');
		}
		shift @state;
		push @results, [ join("\n", @wrong), join("\n", @state) ];
		last unless defined $line;
	}
	return @results;
}

# All orders, given as lists of items; returns what is wrong, and which of the
# lists after the first it is wrong with.
sub check
{
	my ($items, @others) = @_;
	my ($first) = run('first', $items);
	my ($wrong, $state) = @$first;
	if ($wrong ne '' && !$apart)
	{
		local $apart = 1;
		$wrong = "not alone, but after others in the same session:\n$wrong" if (check($items))[0] eq '';
	}
	return ($wrong, 0) if $wrong ne '';
	# link a b origin date time status reason
	$reasons{$1}++ while $state =~ /^link (?:\S+ ){6}([a-z]\S+)/mg;
	$reasons{"entries $1"}++ while $state =~ /^rejected \S+ \S+ limit (\S+)/mg;
	my @results = @others ? run('others', @others) : ();
	for my $order (0 .. $#results)
	{
		($wrong, my $state2) = @{ $results[$order] };
		my $where = 'another order of arrival';
		if (!$apart && ($wrong ne '' || $state ne $state2))
		{
			# in a session of its own, to know whether what was before matters
			local $apart = 1;
			my ($alone) = check($items, $others[$order]);
			$where .= $alone ne '' ? ' (alone, too)' : ' (not alone, but after others in the same session)';
		}
		return ("in $where:\n$wrong", $order) if $wrong ne '';
		next if $state eq $state2;
		my (%seen, @diff);
		$seen{$_}++ for split /\n/, $state;
		$seen{$_}-- for split /\n/, $state2;
		for my $line (sort keys %seen)
		{
			push @diff, "first order: $line" if $seen{$line} > 0;
			push @diff, "other order: $line" if $seen{$line} < 0;
		}
		return ("two orders of arrival differ ($where):\n" . join("\n", @diff[ 0 .. ($#diff < 11 ? $#diff : 11) ]), $order);
	}
	return ('', 0);
}

# Remove from both lists what is not needed for the failure.
sub smaller
{
	my ($items, $other, $wrong) = @_;
	my $deadline = time() + $minimise;
	local $apart = 1;
	# only what fails in the same way counts: its first two words
	my ($how) = $wrong =~ /^(\w+ \w+)/;
	my $fails = sub { my ($what) = check(@_); return $what =~ /^\Q$how\E/; };
	for my $list (0, 1)
	{
		my $size = int(@{ $list ? $other : $items } / 2);
		while ($size >= 1)
		{
			my $at = 0;
			while ($at < @{ $list ? $other : $items })
			{
				last if time() > $deadline;
				my $subject = $list ? $other : $items;
				my $to = $at + $size - 1 < $#$subject ? $at + $size - 1 : $#$subject;
				# both orders keep what they are judged by, else they differ for that
				my %gone = map { $_ => 1 } grep { ref $_ eq 'HASH' || $_->[0] !~ /define|end|rule|set|check|release/ } @$subject[ $at .. $to ];
				my @a = grep { !$gone{$_} } @$items;
				my @b = grep { !$gone{$_} } @$other;
				if (%gone && $fails->(\@a, \@b)) { $items = \@a; $other = \@b; }
				else { $at += $size; }
			}
			$size = int($size / 2);
		}
	}
	return ($items, $other);
}

# ---- the streams ----

my $start = time();

# Every so many streams of a database, new sessions and tables without dead rows.
my $lasts = 8;
my %since;

# The streams of one job; returns what they came to.
sub stream_all
{
	my ($failed, $ran) = (0, 0);
	my %done;
	for (my $i = $job; $i < $streams; $i += $jobs)
	{
		# on a slow or busy machine, fewer
		last if $seconds > 0 && time() - $start > $seconds;
		$ran++;
		my $stream = stream($first_seed + $i);
		$db = $lean{ $stream->{class} } ? 'identity' : $stream->{class} =~ /^(traits|versions)$/ ? 'traits'
		  : $stream->{class} =~ /^(accounts|consent)$/ ? $1 : 'streams';
		$db .= $job if $jobs > 1;
		if ($since{$db}++ % $lasts == 0)
		{
			end_session("$db.$_") for qw(first others);
			$node->safe_psql($db, $truncate_sql);
		}
		my @lists = map { items($stream, $_) } 0 .. ($lean{ $stream->{class} } ? $orders : 2) - 1;
		my ($wrong, $order) = check(@lists);
		$done{ $stream->{class} }++;
		note sprintf('%d streams in %.0f s', $i + 1, time() - $start) if ($i + 1) % 50 == 0;
		next if $wrong eq '';
		$failed++;
		diag "stream with seed $stream->{seed} ($stream->{class}, "
		  . scalar(@{ $stream->{entries} }) . " entries) fails:\n"
		  . join("\n", grep { defined } (split /\n/, $wrong)[ 0 .. 11 ]);
		if ($minimise > 0 && $failed == 1)
		{
			my ($items, $other) = smaller($lists[0], $lists[ $order + 1 ], $wrong);
			my $file = "$PostgreSQL::Test::Utils::log_path/stream-$stream->{seed}";
			PostgreSQL::Test::Utils::append_to_file("$file.sql", script($items));
			PostgreSQL::Test::Utils::append_to_file("$file.other.sql", script($other));
			my $text = script($items);
			my $lines = ($text =~ tr/\n//);
			diag "made smaller: $file.sql and $file.other.sql, $lines lines"
			  . ($lines <= 80 ? ":\n$text" : '');
			diag "it says:\n" . (check($items, $other))[0];
		}
		last if $failed >= ($ENV{CDP_MAX_FAILURES} // 5);
	}
	end_session($_) for keys %sessions;
	return { failed => $failed, ran => $ran, done => \%done, reasons => \%reasons };
}

my @results;
if ($jobs > 1)
{
	for my $name ('streams', 'traits', 'accounts', 'consent', 'identity')
	{
		$node->safe_psql('postgres', "CREATE DATABASE $name$_ TEMPLATE $name") for 0 .. $jobs - 1;
	}
	my @children;
	for (0 .. $jobs - 1)
	{
		defined(my $pid = fork) or die "fork: $!";
		push @children, $pid;
		next if $pid;
		# the parent has the server and the verdict
		$job = $_;
		$script = "$tempdir/stream$job.sql";
		my $ok = eval { nstore(stream_all(), "$tempdir/result$job"); 1 };
		diag "job $job: $@" unless $ok;
		POSIX::_exit($ok ? 0 : 1);
	}
	waitpid $_, 0 for @children;
	@results = map { -e "$tempdir/result$_" ? retrieve("$tempdir/result$_")
		  : { failed => 1, ran => 0, done => {}, reasons => {} } } 0 .. $jobs - 1;
}
else
{
	@results = stream_all();
}
my ($failed, $ran) = (0, 0);
my (%done, %why);
for my $result (@results)
{
	$failed += $result->{failed};
	$ran += $result->{ran};
	$done{$_} += $result->{done}{$_} for keys %{ $result->{done} };
	$why{$_} += $result->{reasons}{$_} for keys %{ $result->{reasons} };
}
my $elapsed = time() - $start;
note sprintf('%d of %d streams in %.1f s: %s', $ran, $streams, $elapsed,
	join(', ', map {"$done{$_} $_"} sort keys %done));
note 'what does not count: ' . join(', ', map {"$why{$_} $_"} sort keys %why);
# a test of rules that are never broken would test nothing
if ($ran >= 100 && !$ENV{CDP_CLASSES})
{
	ok(exists $why{$_}, "something does not count: $_")
	  for qw(limit cannot-link size rate bridge shared detached), 'entries true', 'entries false';
}
is($failed, 0, "$ran random streams from seed $first_seed: applied in any order as recomputed");

$node->stop;
done_testing();
