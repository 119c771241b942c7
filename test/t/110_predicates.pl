# Random predicates on random profiles at random times, evaluated three ways:
# as segments that the applier keeps, by cdp.matches() on the spot, and by
# cdp.verify() in plain SQL over the log.  They must agree.
#
#   CDP_PREDICATES=200   number of predicates
#   CDP_SECONDS=50       begin no round after this time, 0: no limit
#   CDP_SEED=n           seed of the first round; round i has seed n + i
#
# To replay a round: CDP_SEED=<its seed> CDP_PREDICATES=20.
use strict;
use warnings;
use Time::HiRes qw(time);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $wanted = $ENV{CDP_PREDICATES} // ($ENV{CDP_TORTURE} ? 2000 : 200);
my $seconds = $ENV{CDP_SECONDS} // ($ENV{CDP_TORTURE} || $ENV{CDP_PREDICATES} ? 0 : 50);
my $first_seed = $ENV{CDP_SEED} // ($ENV{CDP_TORTURE} ? int(rand(1_000_000_000)) : 1);
my $per_round = 20;
my $profiles = 12;
my $entries = 90;

note "CDP_SEED=$first_seed CDP_PREDICATES=$wanted";

my $node = PostgreSQL::Test::Cluster->new('predicates');
$node->init;
$node->append_conf('postgresql.conf', qq{
fsync = off
full_page_writes = off
autovacuum = off
jit = off
cdp.databases = ''
});
$node->start;
$node->safe_psql('postgres', q{
CREATE EXTENSION cdp;
SET cdp.now = '2026-01-01';
SELECT cdp.create_identifier_kind('workspace', entity => 'account');
SELECT cdp.create_trait('plan', type => 'text');
SELECT cdp.create_trait('age', type => 'numeric');
SELECT cdp.create_trait('member', type => 'boolean');
SELECT cdp.create_trait('signed_up_at', type => 'timestamptz');
SELECT cdp.create_trait('renewal', type => 'timestamptz');
SELECT cdp.create_trait('born', type => 'date');
SELECT cdp.create_trait('tags', type => 'jsonb');
SELECT cdp.create_trait('orders', aggregate => 'count', event => 'Order');
SELECT cdp.create_trait('ltv', aggregate => 'sum', value => $$(properties->>'revenue')::numeric$$, event => 'Order');
SELECT cdp.create_trait('last_seen_at', aggregate => 'last', value => 'occurred_at');
SELECT cdp.create_trait('aov', expression => 'ltv / nullif(orders, 0)');
-- as a segment would have it: NULL and errors are not true
CREATE FUNCTION public.matches(profile bigint, predicate text, timezone text) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
	RETURN COALESCE(cdp.matches(profile, predicate, timezone), false);
EXCEPTION WHEN division_by_zero OR numeric_value_out_of_range OR invalid_text_representation OR cannot_coerce
	OR invalid_datetime_format OR datetime_field_overflow OR invalid_regular_expression OR data_exception THEN
	RETURN false;
END $$;
});

# ---- the grammar ----

sub pick { return $_[ int(rand(@_)) ]; }
sub chance { return rand() < $_[0]; }

my @spans = ("'1 hour'", "'36 hours'", "'1 day'", "'3 days'", "interval '1 week'", "'10 days'", "'1 month'", "'1 month 2 days'", "'3 months'");
my @events = ("'Order'", "'View'", "'Login'", "'Never'");
my @filters = (
	"properties->>'tier' = 'premium'", "(properties->>'revenue')::numeric > 20", "properties ? 'tier'",
	"properties->>'product' IN ('a', 'b)')", "occurred_at > '2026-01-20'::timestamptz", "event LIKE '%e%'");

sub span { return pick(@spans); }
sub interval { my $s = span(); return $s =~ /interval/ ? $s : "interval $s"; }

sub window
{
	return '' if chance(0.3);
	my @pairs = ([ "'10 days'", "'3 days'" ], [ "'1 month'", "'1 week'" ], [ "'3 days'", "'1 hour'" ]);
	my $pair = pick(@pairs);
	return pick(', within => ' . span(), ', newer_than => ' . span(), ', older_than => ' . span(),
		", newer_than => $pair->[0], older_than => $pair->[1]");
}

sub filter { return chance(0.4) ? ', filter => ' . pick(@filters) : ''; }
my @same = ("properties->>'product'", "properties->>'tier'");

sub step
{
	my $event = pick(@events);
	return $event if chance(0.6);
	return "step($event" . filter() . (chance(0.3) ? ', same => ' . pick(@same) : '') . ')';
}

sub sequence
{
	my @steps = map { step() } 1 .. pick(1, 2, 2, 3);
	my $not = @steps == 1 || chance(0.4);
	my $steps = join(', ', @steps);
	$steps = "ARRAY[$steps]" if chance(0.2);
	return "did_in_order($steps" . (chance(0.5) ? ', within => ' . span() : '') . (chance(0.3) ? ', newer_than => ' . span() : '')
	  . (chance(0.3) ? ', same => ' . pick(@same) : '') . ($not ? ', then_not => ' . step() : '') . ')';
}

sub changed
{
	my $trait = pick('plan', 'plan', 'age', 'member', 'tags', 'signed_up_at');
	my %values = (plan => [ "'pro'", "'free'", 'NULL', "'team'" ], age => [ 17, 40, "'18'", '40.5', 'NULL' ], member => [ 'true', "'false'", 'NULL' ]);
	my $values = $values{$trait} // ['NULL'];
	return "changed($trait" . window() . (chance(0.3) ? ', was => ' . pick(@$values) : '') . (chance(0.3) ? ', became => ' . pick(@$values) : '')
	  . (chance(0.2) ? ', at_least => ' . pick(1, 2, 3) : '') . ')';
}

sub compare { return pick('<', '<=', '=', '>=', '>', '<>'); }

sub number
{
	my ($depth) = @_;
	return pick(
		'age', 'ltv', 'orders', 'aov', pick(0, 1, 2, 17, 18, 40, 100, '1.5', '-3'),
		'count_of(' . pick(@events) . window() . filter() . ')',
		"sum_of('Order', (properties->>'revenue')::numeric" . window() . filter() . ')') if $depth <= 0 || chance(0.5);
	my ($a, $b) = (number($depth - 1), number($depth - 1));
	return pick("($a + $b)", "($a - $b)", "$a * $b", "$a / $b", "COALESCE($a, $b)", "-($a)", "abs($a)",
		"greatest($a, $b)", "CASE WHEN " . truth($depth - 1) . " THEN $a ELSE $b END");
}

sub moment
{
	my ($depth) = @_;
	my $m = pick('signed_up_at', 'renewal', 'last_seen_at', "'2026-01-20 12:00+00'::timestamptz", "'2026-02-10'::timestamptz");
	return chance(0.3) ? "$m " . pick('+', '-') . ' ' . interval() : $m;
}

sub clock { return pick('now()', 'now()', 'current_timestamp', 'transaction_timestamp()', 'localtimestamp'); }

# of the round, so that segments have terms in common
my @earlier;

sub leaf
{
	return pick(@earlier) if @earlier && chance(0.25);
	push @earlier, new_leaf(@_);
	return $earlier[-1];
}

sub new_leaf
{
	my ($depth) = @_;
	my $event = pick(@events);
	my $m = moment($depth);
	my $c = compare();
	return pick(
		"did($event" . window() . filter() . ')',
		"did($event, at_least => " . pick(1, 2, 3) . window() . filter() . ')',
		"did($event, at_least => 1, at_most => " . pick(1, 2, 4) . window() . ')',
		"did_not($event" . window() . filter() . ')',
		sequence(), sequence(), sequence(), changed(), changed(),
		"first_time($event, within => " . span() . filter() . ')',
		"plan = 'pro'", "plan <> 'pro'", "plan IN ('pro', 'team')", "plan LIKE 'p%'", "plan ~ '^[pt]'", 'plan IS NULL', "plan IS DISTINCT FROM 'pro'",
		'member', 'member IS NOT TRUE', 'age BETWEEN 17 AND 40', 'true', 'NULL',
		number($depth - 1) . " $c " . number($depth - 1), number($depth - 1) . " $c " . number($depth - 1),
		"tags ? 'x'", "tags->>0 = 'x'", "jsonb_array_length(tags) > 1", "tags @> '[\"y\"]'", "'x' = ANY (string_to_array(plan || ',x', ','))",
		"to_tsvector('simple'::regconfig, plan) @@ 'pro'::tsquery",
		"member_of('acme')", "member_of('workspace:w')", "member_of('group_id:globex')",
		"has_identifier('email')", "has_identifier('anonymous_id')", 'known()',
		"in_segment('base')", "in_segment('lately')",
		"$m $c " . clock(), clock() . " - " . interval() . " $c $m", "$m $c " . clock() . ' + ' . interval(),
		"now() - $m $c " . interval(), "since($m) $c " . interval(), "until($m) $c " . interval(), interval() . " $c since($m)",
		"since($m) BETWEEN interval '1 day' AND interval '1 week'",
		"born $c current_date - " . pick(7000, 14600, 16000), "current_date - born $c " . pick(7000, 14600, 16000),
		"to_char(born, 'MMDD') $c to_char(current_date, 'MMDD')", "extract(dow from current_date) $c " . pick(0, 3, 6),
		"date_trunc('month', $m) = date_trunc('month', now())", "$m $c date_trunc('" . pick('hour', 'day', 'week', 'month', 'year') . "', now())",
		"(now()::date - born) > 10000");
}

sub truth
{
	my ($depth) = @_;
	return leaf($depth) if $depth <= 0 || chance(0.15);
	my ($a, $b) = (truth($depth - 1), truth($depth - 1));
	return pick("$a AND $b", "($a OR $b)", "NOT ($a)", "($a) AND NOT ($b)", "CASE WHEN $a THEN $b ELSE " . leaf($depth - 1) . ' END',
		"COALESCE($a, $b)", "($a) IS TRUE", "($a) IS NOT FALSE", "($a) IS NULL", "(($a) = ($b))", "(($a) IS DISTINCT FROM ($b))");
}

# ---- the profiles ----

my $epoch = 1767225600;    # 2026-01-01 UTC

sub stamp
{
	my ($at) = @_;
	my @t = gmtime($epoch + $at);
	return sprintf('%04d-%02d-%02d %02d:%02d:%02d+00', $t[5] + 1900, $t[4] + 1, @t[ 3, 2, 1, 0 ]);
}

sub entry
{
	my ($at) = @_;
	my $p = int(rand($profiles));
	my @ids = (pick("user_id:u$p", "anonymous_id:a$p"));
	push @ids, "email:p$p\@example.com" if chance(0.2);
	push @ids, "anonymous_id:a$p" if chance(0.1) && $ids[0] ne "anonymous_id:a$p";
	my ($type, $event, @properties) = ('track', pick('Order', 'View', 'Login'));
	push @ids, pick('group_id:acme', 'group_id:globex', 'workspace:w') if chance(0.15);
	if (chance(0.1))
	{
		($type, $event) = (pick('group', 'leave'), undef);
		push @ids, pick('group_id:acme', 'group_id:globex', 'workspace:w');
	}
	elsif (chance(0.3))
	{
		($type, $event) = ('identify', undef);
		push @properties, '"plan": ' . pick('"pro"', '"free"', '"team"', 'null') if chance(0.5);
		push @properties, '"age": ' . pick(17, 18, 40, 40.5, '"old"', 'null') if chance(0.5);
		push @properties, '"member": ' . pick('true', 'false') if chance(0.3);
		push @properties, '"tags": ' . pick('["x"]', '["x", "y"]', '[]', '{"x": 1}') if chance(0.3);
		push @properties, '"signed_up_at": "' . stamp($at - int(rand(40 * 86400))) . '"' if chance(0.4);
		push @properties, '"renewal": "' . stamp($at + int(rand(40 * 86400)) - 86400 * 5) . '"' if chance(0.4);
		push @properties, '"born": "' . pick('1982-01-20', '1986-02-03', '2006-12-31', '1984-02-29') . '"' if chance(0.4);
	}
	else
	{
		push @properties, '"revenue": ' . pick(1, 10.5, 20, 99.99, '"x"', -3) if chance(0.7);
		push @properties, '"tier": ' . pick('"premium"', '"basic"', 'null') if chance(0.5);
		push @properties, '"product": ' . pick('"a"', '"b)"') if chance(0.5);
	}
	return sprintf("INSERT INTO cdp.events (type, event, identifiers, properties, occurred_at, received_at) VALUES ('%s', %s, '{%s}', '{%s}', '%s', '%s');",
		$type, defined $event ? "'$event'" : 'NULL', join(',', @ids), join(', ', @properties), stamp($at - (chance(0.2) ? int(rand(20 * 86400)) : 0)), stamp($at));
}

# ---- a round ----

my $verify_sql = q{
SELECT format('DIFFERENCE %s | %s', station, key || ' | expected ' || COALESCE(expected::text, '-') || ' | found ' || COALESCE(found::text, '-')) FROM cdp.verify() WHERE station <> 'traits';
};
my $compare_sql = q{
SELECT format('DIFFERENCE matches | %s of profile %s: %s | segment %s', d.name, p.profile_id, d.predicate, m.profile_id IS NOT NULL)
FROM cdp.segment_definitions d CROSS JOIN cdp.profiles p
LEFT JOIN cdp.memberships m ON m.segment = d.name AND m.profile_id = p.profile_id
WHERE public.matches(p.profile_id, d.predicate, d.timezone) IS DISTINCT FROM (m.profile_id IS NOT NULL)
UNION ALL
SELECT 'TRUE ' || count(*) FROM cdp.memberships;
};
s/\n/ /g for $verify_sql, $compare_sql;

my ($done, $refused, $true) = (0, 0, 0);
my $begun = time();
my @bad;

for (my $round = 0; $done < $wanted && ($seconds == 0 || time() - $begun < $seconds); $round++)
{
	my $seed = $first_seed + $round;
	srand($seed);
	my $zone = pick('UTC', 'UTC', 'America/New_York', 'Asia/Kolkata');
	my @lines = ('SET client_min_messages = error;', q{
DO $$ BEGIN EXECUTE (SELECT 'TRUNCATE ' || string_agg(oid::regclass::text, ', ') FROM pg_class WHERE relnamespace = 'cdp'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
	AND relname NOT LIKE '%definition%' AND relname NOT LIKE 'audit%' AND relname NOT LIKE '%kind%' AND relname NOT IN ('applier', 'incarnation', 'epochs', 'declared_keys', 'subscriptions', 'deliveries')); END $$;
DO $$ DECLARE n text; BEGIN FOR n IN SELECT name FROM cdp.segment_definitions LOOP IF EXISTS (SELECT FROM cdp.segment_definitions WHERE name = n) THEN PERFORM cdp.drop_segment(n, cascade => true); END IF; END LOOP; END $$;
UPDATE cdp.applier SET generation = generation + 1, clock = '-infinity';
SET cdp.now = '2026-01-01';
SELECT cdp.create_segment('base', $$did('Order')$$);
SELECT cdp.create_segment('lately', $$did('Login', within => '5 days') OR since(signed_up_at) < interval '9 days'$$);
});
	@earlier = ();
	my @predicates = map { truth(1 + int(rand(6))) } 1 .. $per_round;
	my @define = map {
		"DO \$do\$ BEGIN PERFORM cdp.create_segment('s$_', \$q\$$predicates[$_]\$q\$, timezone => '$zone'); EXCEPTION WHEN OTHERS THEN RAISE INFO 'REFUSED % % | %', SQLSTATE, SQLERRM, \$q\$$predicates[$_]\$q\$; END \$do\$;"
	} 0 .. $#predicates;
	my $at = 0;
	my $late = chance(0.5) ? int(rand(4)) : 0;
	for my $step (0 .. 4)
	{
		push @lines, @define if $step == $late;
		for (1 .. $entries / 3)
		{
			last if $step > 2;
			$at += int(rand(2 * 43 * 86400 / $entries));
			push @lines, "SET cdp.now = '" . stamp($at) . "';", entry($at);
			push @lines, 'SELECT cdp.apply();' if chance(0.2);
		}
		$at += pick(1, 3599, 86400, 86400 * 9) if $step > 2 || chance(0.3);
		push @lines, "SET cdp.now = '" . stamp($at) . "';", 'SELECT cdp.apply();', 'SELECT cdp.apply();', $compare_sql;
		# that takes long: once between entries, and when only time has passed
		push @lines, $verify_sql if $step == 2 || $step == 4;
	}
	my ($out, $err) = ('', '');
	my $status = $node->psql('postgres', join("\n", @lines), stdout => \$out, stderr => \$err, on_error_stop => 1);
	push @bad, "round $seed: $err" if $status != 0;
	push @bad, map {"round $seed ($zone): $_" . (/\| s(\d+) of/ ? " | $predicates[$1]" : '')} grep {/^DIFFERENCE/} split /\n/, $out;
	$refused += () = $err =~ /REFUSED/g;
	push @bad, "round $seed: $1" while $err =~ /INFO:\s+(REFUSED XX000 .*)/g;
	note "refused: $_" for $err =~ /INFO:\s+(REFUSED .*)/g;
	$true += $1 while $out =~ /^TRUE (\d+)/mg;
	$done += @predicates;
	last if @bad > 20;
}

note sprintf '%d predicates, %d refused, %d memberships, %.0f s', $done, $refused, $true, time() - $begun;
ok($done >= ($seconds ? $per_round : $wanted), 'there was time for predicates');
cmp_ok($refused, '<', $done / 5, 'the grammar makes predicates');
cmp_ok($true, '>', $done / 2, 'some are true');
is(join("\n", @bad), '', 'three evaluations agree');
$node->stop;
done_testing();
