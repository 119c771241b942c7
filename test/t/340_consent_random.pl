# Nobody who does not consent is seen in a purpose's segment, told of, or given to
# an audience: random grants, refusals, expiries, preferences, merges, splits,
# undos and batches that are rolled back, while other sessions look, each time at
# one snapshot.  CDP_SEED, CDP_ROUNDS: another story, a longer one.
use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{CDP_SEED} // 1;
my $rounds = $ENV{CDP_ROUNDS} // 25;
srand($seed);
diag "CDP_SEED=$seed";

my $node = PostgreSQL::Test::Cluster->new('consent_random');
$node->init;
$node->append_conf('postgresql.conf', "fsync = off\ncdp.databases = ''\nlog_statement = none\n");
$node->start;
$node->safe_psql('postgres', q{
	SET client_min_messages = warning;
	SET cdp.now = '2026-01-01';
	CREATE EXTENSION cdp;
	SELECT cdp.create_purpose('marketing', aliases => '{Advertising}'), cdp.create_purpose('research', combine => 'latest', valid_for => '30 hours');
	SELECT cdp.create_trait('visits', aggregate => 'count', event => 'Seen', within => '20 hours');
	SELECT cdp.create_segment('mailed', 'true', options => '{"purpose": "marketing"}');
	SELECT cdp.create_segment('visiting', 'visits > 0', exit_when => 'visits = 0', options => '{"purpose": "marketing"}');
	SELECT cdp.create_segment('studied', $$NOT consented('marketing')$$, options => '{"purpose": "research"}');
	SELECT cdp.subscribe('trigger'), cdp.subscribe('mirror', mode => 'mirror', start => 'snapshot');
	CREATE TABLE seen (what text, wrong bigint, looked bigint);
	CREATE TABLE purposes AS VALUES ('mailed', 'marketing'), ('visiting', 'marketing'), ('studied', 'research');
	ALTER TABLE purposes RENAME column1 TO segment;
	ALTER TABLE purposes RENAME column2 TO purpose;
});

# What readers do: each look is one snapshot, at the instant up to which is applied.
sub looks
{
	my ($query) = @_;
	return qq{BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT set_config('cdp.now', (SELECT clock::text FROM cdp.applier), true) \\g /dev/null
INSERT INTO seen $query;
COMMIT;
};
}
my @readers = (
	looks(q{SELECT 'members', count(*) FILTER (WHERE cdp.consented(m.profile_id, p.purpose) IS NOT TRUE), count(*) FROM cdp.memberships m JOIN purposes p USING (segment)})
	  . looks(q{SELECT 'audience', count(*) FILTER (WHERE cdp.consented(a.profile_id, p.purpose) IS NOT TRUE), count(*) FROM purposes p, cdp.audience(p.segment, '{user_id,anonymous_id}', 'none') a}),
	map {
		looks(qq{SELECT '$_', count(*) FILTER (WHERE x.kind = 'segment_entered' AND cdp.consented(cdp.current_profile(x.profile_id), p.purpose) IS NOT TRUE), count(*) FROM cdp.poll('$_', 20) x JOIN purposes p USING (segment)})
		  . "SELECT cdp.ack('$_', x.seq) FROM (SELECT max(seq) AS seq FROM cdp.poll('$_', 3)) x WHERE x.seq > 0 \\g /dev/null\n"
	} 'trigger', 'mirror');

my $dir = $node->basedir;
my @running;
for my $n (0 .. $#readers)
{
	append_to_file("$dir/reader$n", $readers[$n] x 4000);
	push @running, IPC::Run::start([ 'psql', '-XqAt', '-d', $node->connstr('postgres'), '-f', "$dir/reader$n" ],
		'>', "$dir/out$n", '2>', "$dir/err$n");
}

my @messages;
my $message = 0;
my $hours = 0;
sub pick { return $_[ int(rand(@_)) ]; }
sub id { return rand() < 0.6 ? 'user_id:u' . int(rand(5)) : 'anonymous_id:a' . int(rand(6)); }

sub entry
{
	my $at = sprintf("timestamptz '2026-01-01' + interval '%d minutes'", $hours * 60 - int(rand(rand() < 0.3 ? 2000 : 60)));
	my $m = 'm' . ++$message;
	my $what = rand();
	my $ids = join(',', rand() < 0.4 ? ('user_id:u' . int(rand(5)), 'anonymous_id:a' . int(rand(6))) : id());
	my @before = @messages;
	push @messages, $m if $what < 0.72;
	my $insert = "INSERT INTO cdp.events (message_id, source, type, event, identifiers, properties, context, occurred_at, received_at) VALUES ('$m', 'sql', ";
	my $received = "timestamptz '2026-01-01' + interval '$hours hours'";

	return "$insert 'consent', NULL, '{$ids}', '{\"purpose\": \"" . pick('marketing', 'Advertising', 'research') . '", "state": "' . pick('granted', 'granted', 'denied', 'unset') . '"'
	  . (rand() < 0.3 ? sprintf(', "expires": "2026-%02d-%02dT%02d:00:00Z"', (1 + int($hours / 24 / 28) % 12), 1 + int($hours / 24) % 28, int(rand(24))) : '') . "}', NULL, $at, $received);" if $what < 0.4;
	return "$insert 'track', 'Seen', '{$ids}', NULL, '{\"consent\": {\"categoryPreferences\": {\"" . pick('advertising', 'research') . '": ' . pick('true', 'false') . "}}}', $at, $received);" if $what < 0.55;
	return "$insert 'track', 'Seen', '{$ids}', NULL, '{\"consentManagement\": {\"" . pick('allowed', 'denied') . "ConsentIds\": [\"Advertising\"]}}', $at, $received);" if $what < 0.62;
	return "$insert 'track', 'Seen', '{$ids}', NULL, NULL, $at, $received);" if $what < 0.72;
	return "SELECT cdp.merge('user_id:u" . int(rand(5)) . "', 'anonymous_id:a" . int(rand(6)) . "') IS NOT NULL;" if $what < 0.8;
	return "SELECT cdp.split('user_id:u" . int(rand(5)) . "', 'anonymous_id:a" . int(rand(6)) . "') IS NOT NULL;" if $what < 0.9 || @before == 0;
	return "SELECT cdp.undo('" . pick(@before) . "', 'sql') IS NOT NULL;";
}

for (1 .. $rounds)
{
	my $script = "SET client_min_messages = error;\n";
	$hours += 1 + int(rand(5)) if rand() < 0.7;
	$script .= "SELECT set_config('cdp.now', (timestamptz '2026-01-01' + interval '$hours hours')::text, false);\n";
	$script .= entry() . "\n" for 1 .. 1 + int(rand(6));
	my $apply = 'SELECT cdp.apply(' . pick(1, 2, 3, 'NULL') . ");\n";
	my $how = rand();
	$script .= $how < 0.2 ? "BEGIN;\n$apply SELECT pg_sleep(0.02);\nROLLBACK;\n" : $how < 0.5 ? "BEGIN;\n$apply SELECT pg_sleep(0.02);\nCOMMIT;\n" : $apply;
	$node->safe_psql('postgres', $script);
}
# the last to be seen, by all of them
$node->safe_psql('postgres', "SELECT set_config('cdp.now', (timestamptz '2026-01-01' + interval '$hours hours')::text, false); SELECT cdp.consent('last', 'marketing'); SELECT cdp.apply()");
ok($node->poll_query_until('postgres', 'SELECT count(DISTINCT what) = 4 FROM seen WHERE looked > 0'), 'there was somebody to be seen, by every way');
for my $reader (@running)
{
	$reader->signal('TERM');
	$reader->finish;
}
note "$rounds rounds, $message entries";

$node->safe_psql('postgres', "SELECT set_config('cdp.now', (timestamptz '2026-01-01' + interval '$hours hours')::text, false); SELECT cdp.apply()");
is($node->safe_psql('postgres', 'SELECT what, sum(wrong) FROM seen GROUP BY 1 HAVING sum(wrong) > 0'), '', 'nobody was seen who does not consent')
  or diag "CDP_SEED=$seed";
is($node->safe_psql('postgres', 'SELECT count(*) FROM cdp.verify()'), '0', 'verify() finds no difference');
my @errors = grep { !/could not serialize|terminating connection|server closed|This probably|before or while|connection to server was lost|^\s*$/ } map { split /\n/, slurp_file("$dir/err$_") } 0 .. $#readers;
is("@errors[0 .. ($#errors < 3 ? $#errors : 3)]", '', 'readers raised no error');

$node->stop;
done_testing();
