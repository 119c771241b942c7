# The dbt package: a project of seeds, sources, traits, segments, models, tests
# and a snapshot, built by a dbt that is installed here from PyPI (or by the
# one that CDP_DBT names).
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use File::Copy qw(copy);
use FindBin;
use IPC::Run qw(run);

my $dbt = $ENV{CDP_DBT};
my $dir = PostgreSQL::Test::Utils::tempdir;
$ENV{HOME} = $dir;
if (!$dbt)
{
	# later versions want a parser that has to be compiled; the server's user
	# may not be allowed to use the python of whoever runs the tests
	my $log = '';
	my $python = -x '/usr/bin/python3' ? '/usr/bin/python3' : 'python3';
	my $ok = run([ 'sh', '-c', "$python -m venv '$dir/venv' && timeout 300 '$dir/venv/bin/pip' install -q --no-cache-dir --disable-pip-version-check "
		  . "'dbt-core>=1.9,<1.10' 'dbt-postgres>=1.9,<1.10'" ], '<', \undef, '>', \$log, '2>&1');
	if (!$ok)
	{
		diag $log;
		plan skip_all => 'SKIPPED: dbt could not be installed from PyPI';
	}
	$dbt = "$dir/venv/bin/dbt";
}

my $node = PostgreSQL::Test::Cluster->new('dbt');
$node->init;
$node->append_conf('postgresql.conf', "fsync = off\njit = off\nshared_preload_libraries = 'cdp'\n");
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql('shop', 'CREATE EXTENSION cdp; CREATE ROLE regress_dbt_reader');

run([ 'cp', '-R', "$FindBin::Bin/../../dbt", "$dir/dbt" ]) or die 'cannot copy the package';
my $project = "$dir/dbt/integration_tests";
my %env = (PGHOST => $node->host, PGPORT => $node->port, PGUSER => (getpwuid $<)[0], PGDATABASE => 'shop', DBT_PROFILES_DIR => $project,
	DBT_SEND_ANONYMOUS_USAGE_STATS => 'false', DBT_USE_COLORS => 'false');
@ENV{ keys %env } = values %env;

# what dbt printed; fails the test when dbt does
sub dbt
{
	my (@args) = @_;
	my $out = '';
	my $ok = run([ $dbt, @args, '--project-dir', $project ], '<', \undef, '>', \$out, '2>&1');
	ok($ok, "dbt @args") or diag $out;
	return $out;
}

sub value
{
	return $node->safe_psql('shop', $_[0]);
}

dbt('deps');
my $out = dbt('build');
like($out, qr/cdp: create trait orders_total/, 'a trait was made');
like($out, qr/cdp: create segment spenders \(1 profiles\)/, 'a segment was made, of the customers that there are');
is(value('SELECT string_agg(id || total::text || spender, $$ $$ ORDER BY id) FROM analytics.customer_summary WHERE total IS NOT NULL'),
	'1120.5true 215false', 'profiles, traits and segments beside the tables');
is(value(q{SELECT event || mode || (schema->'properties'->'coupon'->>'pattern') FROM cdp.plan_definitions}), 'Order Completeddrop-property^[A-Z0-9]+$',
	'a tracking plan');
is(value('SELECT count(*) FROM analytics.order_plan'), 0, '... and its view');
is(value('SELECT count(*) FROM analytics.quiet'), 1, 'a segment that names another');
is(value('SELECT count(*) FROM analytics.spenders m JOIN analytics.orders_total t USING (profile_id) WHERE t.value::numeric = 120.5'),
	1, 'the views of a segment and a trait');
is(value(q{SELECT has_table_privilege('regress_dbt_reader', 'analytics.spenders', 'SELECT')}), 't', 'grants are honoured');
is(value(q{SELECT description FROM cdp.segments WHERE name = 'spenders'}), 'More than 100 in all, on the plan plus.', 'so is the description');
is(value('SELECT sum(cdp.finish(state)::text::numeric) FROM analytics.states'), '135.5', 'states in a model of its own');

is(value(q{SELECT entity FROM cdp.traits WHERE name = 'company_orders'}), 'account', 'a trait of accounts');
is(value('SELECT count(account_id) FROM analytics.company_orders'), 0, '... and its view');

my $before = value('SELECT cdp.export_config()');
my $events = value('SELECT count(*) FROM cdp.events');
$out = dbt('build');
unlike($out, qr/cdp: (create|alter|drop)/, 'built again: no definition changes');
is(value('SELECT cdp.export_config()'), $before, 'indeed');
is(value('SELECT count(*) FROM cdp.events'), $events, 'and nothing is logged');

# data change: one correction, one customer more in the segment
my $seeds = PostgreSQL::Test::Utils::slurp_file("$project/seeds/raw_customers.csv");
$seeds =~ s/2,bob\@example.com,free/2,bob\@example.com,plus/ or die;
append_or_write("$project/seeds/raw_customers.csv", $seeds);
$seeds = PostgreSQL::Test::Utils::slurp_file("$project/seeds/raw_orders.csv");
$seeds =~ s/cancelled/paid/ or die;
append_or_write("$project/seeds/raw_orders.csv", $seeds);

sub append_or_write
{
	my ($file, $text) = @_;
	open my $fh, '>', $file or die "$file: $!";
	print $fh $text;
	close $fh or die "$file: $!";
	return;
}

# the test that says who is no spender does not hold any more
my $seen = value('SELECT COALESCE(max(seq), 0) FROM cdp.changes');
dbt('build', '--exclude', 'the_others_are_no_spenders');
is(value("SELECT string_agg(segment || ' ' || kind, ',') FROM analytics.segment_changes WHERE seq > $seen"),
	'spenders segment_entered', 'an incremental model over the changes');
# in a build a snapshot may come before what its seeds log is applied
dbt('snapshot');
is(value(q{SELECT count(*) FROM analytics.members WHERE dbt_valid_to IS NOT NULL}) > 0, 1, 'a snapshot of what profiles were');

# a definition that changes
my $model = "$project/models/segments/spenders.sql";
my $text = PostgreSQL::Test::Utils::slurp_file($model);
$text =~ s/> 100/> 500/ or die;
append_or_write($model, $text);
$out = dbt('run', '--select', 'spenders', 'segment_changes');
like($out, qr/cdp: alter segment spenders/, 'the segment is altered');
is(value('SELECT count(*) FROM analytics.spenders'), 2, 'exit_when keeps who was in');
is(value('SELECT count(*) - count(DISTINCT (epoch, seq)) FROM analytics.segment_changes'), 0, 'the incremental model has each change once');

$out = dbt('build', '--full-refresh', '--exclude', 'the_others_are_no_spenders');
is(value('SELECT total FROM analytics.customer_summary WHERE id = 2'), '915', 'rows that were logged anew count once');
is(value('SELECT count(*) FROM cdp.verify()'), 0, 'and all is right');
my $manifest = PostgreSQL::Test::Utils::slurp_file("$project/target/manifest.json");
my $edges = '"model.cdp_integration_tests.orders_mean": ["model.cdp_integration_tests.orders_count", "model.cdp_integration_tests.orders_total"]';
cmp_ok(index($manifest, $edges), '>=', 0, 'lineage between definitions');
is(value('SELECT count(*) FROM cdp.attachments WHERE status <> $$ok$$'), 0, 'all sources are followed');

$node->stop;
done_testing();
