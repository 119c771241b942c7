# Predicates that nobody would write: mutated texts through input, definition
# and evaluation, mutated bytes through the binary form.  No crash, no internal
# error, and what is accepted has one spelling.
#
#   CDP_SECONDS=8       how long (600 in make torture)
#   CDP_SEED=n          seed
use strict;
use warnings;
use Time::HiRes qw(time);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seconds = $ENV{CDP_SECONDS} // ($ENV{CDP_TORTURE} ? 600 : 8);
my $seed = $ENV{CDP_SEED} // ($ENV{CDP_TORTURE} ? int(rand(1_000_000_000)) : 1);
note "CDP_SEED=$seed CDP_SECONDS=$seconds";
srand($seed);

my $node = PostgreSQL::Test::Cluster->new('fuzz');
$node->init;
$node->append_conf('postgresql.conf', "fsync = off\njit = off\nautovacuum = off\ncdp.databases = ''\nlog_min_messages = panic\n");
$node->start;
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION cdp;
SET cdp.now = '2026-01-01';
SELECT cdp.create_trait('plan', type => 'text'), cdp.create_trait('n', type => 'numeric'), cdp.create_trait('born', type => 'date'),
	cdp.create_trait('at', type => 'timestamptz'), cdp.create_trait('tags', type => 'jsonb');
SELECT cdp.create_trait('orders', aggregate => 'count', event => 'Order');
SELECT cdp.create_segment('base', $$did('Order', within => '5 days')$$);
SELECT cdp.identify('u', '{"plan": "pro", "n": 1, "born": "1980-02-29", "at": "2026-01-01", "tags": ["x"]}');
SELECT cdp.track('Order', '{"revenue": 1}', user_id => 'u');
SELECT cdp.group('acme', user_id => 'u');
SELECT cdp.apply();
CREATE TABLE seeds (n serial, t text);
INSERT INTO seeds (t) VALUES ($$plan = 'pro' AND NOT did('Order', at_least => 2, at_most => 3, within => '7 days', filter => properties->>'a' = 'b')$$),
	($$count_of('Order', newer_than => interval '1 month', older_than => '3 days') * 2 <= sum_of('Order', (properties->>'revenue')::numeric)$$),
	($$did_in_order(step('A', filter => true, same => properties->>'x'), 'B', then_not => 'C', within => '1 hour', newer_than => '2 days')$$),
	($$changed(plan, was => 'free', became => NULL, within => '3 days', at_least => 2)$$), ($$member_of('acme') OR has_identifier('email') IS NOT known()$$),
	($$since("at") < interval '5 days' AND until(at) BETWEEN interval '0' AND '1 day'$$), ($$in_segment('base') IS DISTINCT FROM (n > 1.5e3)$$),
	($$first_time('Order', within => '3 days') AND now() - interval '1 day' > at$$), ($$CASE WHEN tags ?& ARRAY['x', E'\\u0041'] THEN born < current_date - 7 ELSE tags @> '{"a": 1}' END$$),
	($$to_char(born, 'MMDD') = to_char(current_date, 'MMDD') /* c */ -- d
	OR plan ~ '^(a+)+$' OR plan LIKE U&'\0061%' ESCAPE '!'$$), ($$date_trunc('month', at) = date_trunc('month', now()) AND localtimestamp > at$$),
	($$plan = $q$it's$q$ AND B'101' = B'101' AND x'1f' <> x'20' AND plan COLLATE "C" < 'z'$$);
CREATE TABLE bytes (p cdp.predicate);
-- a text with some of its parts exchanged, doubled, left out or damaged
CREATE FUNCTION public.mutate(t text) RETURNS text LANGUAGE plpgsql AS $f$
DECLARE
	words constant text[] := ARRAY['(', ')', '''', '"', '$$', '=>', ',', ' AND ', ' NOT ', 'NULL', '::', 'interval ', '-1', '99999999999999999999', '1e400', 'did(', 'now()', 'current_date',
		'changed(', 'member_of(', 'did_in_order(', 'step(', 'in_segment(''base'')', 'since(', 'filter => ', 'within => ', '''infinity''', '''1000000 years''', '[', ']', '{', '\', '/*', '*/', '--', E'\n', E'\u00e9', E'\U0001F600', E'\x01',
		'cdp.', 'pg_catalog.', 'OPERATOR(pg_catalog.=)', 'ROW(', '(SELECT 1)', 'count(*)', 'orders', 'plan', '"N"', '%', '$1', ';', '@', 'IS ', 'ANY (', 'ARRAY', 'COLLATE "C"', 'E''\u0000''', '.', '*', 'U&''\D83D'''];
	i int;
	j int;
	other text;
BEGIN
	FOR k IN 1 .. 1 + floor(random() * 4) LOOP
		i := floor(random() * (length(t) + 1));
		j := floor(random() * 12);
		CASE floor(random() * 6)
		WHEN 0 THEN t := left(t, i) || substr(t, i + j + 1);
		WHEN 1 THEN t := left(t, i) || words[1 + floor(random() * cardinality(words))] || substr(t, i + 1);
		WHEN 2 THEN t := left(t, i) || substr(t, i + 1, j) || substr(t, i + 1);
		WHEN 3 THEN t := left(t, i) || chr(1 + floor(random() * 255)::int) || substr(t, i + 2);
		WHEN 4 THEN
			SELECT s.t INTO other FROM seeds s ORDER BY random() LIMIT 1;
			t := left(t, i) || substr(other, 1 + floor(random() * length(other))::int, j * 3) || substr(t, i + 1);
		ELSE t := left(t, i) || repeat(substr(t, i + 1, j), 1 + floor(random() * 20)::int) || substr(t, i + j + 1);
		END CASE;
	END LOOP;
	RETURN left(t, 5000);
END $f$;
CREATE FUNCTION public.fuzz(seed float8, seconds float8) RETURNS TABLE (tried bigint, accepted bigint, evaluated bigint, wrong text) LANGUAGE plpgsql AS $f$
DECLARE
	t text;
	p cdp.predicate;
	until timestamptz := clock_timestamp() + seconds * interval '1 s';
	kept text[];
	keep boolean;
BEGIN
	tried := 0;
	accepted := 0;
	evaluated := 0;
	PERFORM setseed(seed);
	SELECT array_agg(s.t ORDER BY s.n) INTO kept FROM seeds s;
	WHILE clock_timestamp() < until AND wrong IS NULL LOOP
		t := mutate(kept[1 + floor(random() * cardinality(kept))]);
		tried := tried + 1;
		BEGIN
			p := t;
			accepted := accepted + 1;
			IF p::text::cdp.predicate <> p THEN
				wrong := 'two spellings: ' || t;
				EXIT;
			END IF;
			-- what means nothing is seldom kept, else nothing else is left soon
			keep := random() < 0.02;
			BEGIN
				PERFORM cdp.matches('user_id:u'::cdp.identifier, p);
				evaluated := evaluated + 1;
				keep := true;
			EXCEPTION WHEN data_exception OR undefined_object THEN
				NULL;
			END;
			IF keep AND cardinality(kept) < 200 THEN
				kept := kept || t;
			ELSIF keep THEN
				kept[1 + floor(random() * 200)] := t;
			END IF;
			-- as a segment: what a preview defines it takes back
			IF random() < 0.1 THEN
				PERFORM cdp.preview_segment(p, exit_when => CASE WHEN random() < 0.5 THEN p::text END);
				PERFORM cdp.create_segment('f', p);
				PERFORM * FROM cdp.explain_segment('f', 'user_id:u');
				PERFORM cdp.drop_segment('f');
			END IF;
		EXCEPTION WHEN query_canceled THEN
			RAISE;
		WHEN OTHERS THEN
			-- what the server itself raises as internal is named here
			IF SQLSTATE = 'XX000' THEN
				wrong := SQLERRM || ': ' || t;
			END IF;
		END;
	END LOOP;
	RETURN NEXT;
END $f$;
SQL

my $begun = time();
my ($tried, $accepted, $evaluated, $rows, @wrong) = (0, 0, 0, 0);
while (time() - $begun < $seconds && @wrong < 5)
{
	my $left = $seconds - (time() - $begun);
	my $slice = $left < 20 ? $left * 0.6 : 12;
	my ($out, $err) = ('', '');
	my $status = $node->psql('postgres',
		"SET client_min_messages = error; SET cdp.now = '2026-01-02'; SELECT tried, accepted, evaluated, COALESCE(replace(wrong, E'\\n', ' '), '') FROM fuzz(" . rand() . ", $slice)",
		stdout => \$out, stderr => \$err);
	push @wrong, "psql: $status $err" if $status != 0;
	my @row = split /\|/, $out, 4;
	$tried += $row[0] // 0;
	$accepted += $row[1] // 0;
	$evaluated += $row[2] // 0;
	push @wrong, $row[3] if defined $row[3] && $row[3] ne '';

	# the binary form: a copy of one row, damaged
	my @texts = split /\x00/, $node->safe_psql('postgres', "SELECT string_agg(t, E'\\x1f') FROM seeds");
	@texts = split /\x1f/, $texts[0];
	my @commands;
	for my $i (1 .. 25)
	{
		my $text = $texts[ int(rand(@texts)) ];
		substr($text, int(rand(length($text))), int(rand(4)), join('', map { chr(int(rand(256))) } 1 .. int(rand(6)))) for 1 .. 1 + int(rand(3));
		utf8::encode($text) if utf8::is_utf8($text);
		my $length = rand() < 0.1 ? int(rand(1 << 31)) : length($text);
		my $file = $node->basedir . "/row$i";
		open my $fh, '>:raw', $file or die;
		print $fh "PGCOPY\n\xff\r\n\0", pack('NN', 0, 0), pack('n', 1), pack('N', $length), $text, pack('n', 0xffff);
		close $fh;
		push @commands, "\\copy bytes FROM '$file' WITH (FORMAT binary)";
		$rows++;
	}
	$status = $node->psql('postgres', join("\n", 'SET client_min_messages = error;', @commands, 'SELECT 1;'), stdout => \$out, stderr => \$err, on_error_stop => 0);
	push @wrong, "binary: $status" if $status == 2;
	push @wrong, $err if $err =~ /XX000|internal error|\bterminating|closed the connection/i;
	$out = $node->safe_psql('postgres', 'SELECT count(*) FROM bytes WHERE p::text::cdp.predicate <> p OR cdp.predicate_hash(p) <> cdp.predicate_hash(p::text::cdp.predicate)');
	push @wrong, "$out rows with two spellings" if $out ne '0';
}
note sprintf '%d texts, %d accepted, %d evaluated, %d binary rows of which %s were accepted', $tried, $accepted, $evaluated, $rows,
  $node->safe_psql('postgres', 'SELECT count(*) FROM bytes');
is(join("\n", @wrong), '', 'nothing went wrong');
cmp_ok($tried, '>', 10, 'there were texts');
is($node->safe_psql('postgres', 'SELECT count(*) FROM cdp.segments'), '1', 'nothing was left behind');
$node->stop;
done_testing();
