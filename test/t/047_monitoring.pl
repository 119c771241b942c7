# Prometheus and Grafana: every query of the exporter's file runs with no more
# than pg_monitor and has the columns that the file says; every metric of the
# dashboard is one of these; and a real exporter, where there is one, serves them.
use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use HTTP::Tiny;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $dir = abs_path(dirname(__FILE__) . '/../../examples/monitoring');
my $node = PostgreSQL::Test::Cluster->new('monitoring');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'cdp'\n");
$node->start;
$node->safe_psql(
	'postgres', q(
	CREATE EXTENSION cdp;
	CREATE ROLE watcher LOGIN IN ROLE pg_monitor;
	SELECT cdp.subscribe('mailer');
	SELECT cdp.track('x', user_id => 'a');
	SELECT cdp.wait_applied('120 s');
));

# ---- the queries

my (%queries, %metrics, $name);
foreach my $line (split /\n/, slurp_file("$dir/postgres_exporter.yaml"))
{
	$name = $1 if $line =~ /^(\w+):$/;
	$queries{$name} = $1 if $line =~ /^  query: "(.*)"$/;
	push @{ $metrics{$name} }, $1 if $line =~ /^    - (\w+):$/;
}
is(join(' ', sort keys %queries), 'cdp_apply cdp_check cdp_subscription cdp_worker', 'queries in the file');
my $watcher = $node->connstr('postgres') . ' user=watcher';
foreach my $query (sort keys %queries)
{
	my ($out, $err) = run_command([ 'psql', '-XA', '-d', $watcher, '-c', $queries{$query} ]);
	is($err, '', "$query: may be run by who monitors");
	my ($columns, @rows) = split /\n/, $out;
	is($columns, join('|', @{ $metrics{$query} }), "$query: its columns are the metrics");
	cmp_ok(scalar(@rows), '>', 1, "$query: it has rows");
}

# ---- the dashboard

my $dashboard = decode_json(slurp_file("$dir/grafana.json"));
my %known = map { my $q = $_; map { ("${q}_$_" => 1) } @{ $metrics{$q} } } keys %metrics;
my %used;
$used{$_}++ foreach map { $_->{expr} =~ /(cdp_\w+)/g } map { @{ $_->{targets} } } @{ $dashboard->{panels} };
is_deeply([ grep { !$known{$_} } sort keys %used ], [], 'every metric of the dashboard is in the file');

# ---- an exporter

SKIP:
{
	my ($exporter) = grep { defined && -x } $ENV{POSTGRES_EXPORTER},
	  map { ("$_/prometheus-postgres-exporter", "$_/postgres_exporter") } split /:/, $ENV{PATH};
	skip 'SKIPPED: no postgres_exporter (Debian: prometheus-postgres-exporter)', 5 unless defined $exporter;
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $pid = fork;
	if (!$pid)
	{
		open STDOUT, '>', PostgreSQL::Test::Utils::tempdir() . '/exporter' or die;
		open STDERR, '>&', \*STDOUT or die;
		$ENV{DATA_SOURCE_NAME} =
		  'postgresql://watcher@/postgres?sslmode=disable&host=' . $node->host . '&port=' . $node->port;
		exec $exporter, "--web.listen-address=127.0.0.1:$port", "--extend.query-path=$dir/postgres_exporter.yaml",
		  '--disable-default-metrics', '--disable-settings-metrics';
	}
	my $served = '';
	for (1 .. 100)
	{
		my $response = HTTP::Tiny->new(timeout => 5)->get("http://127.0.0.1:$port/metrics");
		$served = $response->{content} if $response->{success};
		last if $served =~ /^cdp_worker_running/m;
		sleep 0.1;
	}
	kill 'TERM', $pid;
	waitpid $pid, 0;
	like($served, qr/^cdp_worker_running\{[^}]*\} 1$/m, 'exporter: the applier runs');
	like($served, qr/^cdp_apply_entries\{[^}]*\} 1$/m, 'exporter: an entry was applied');
	like($served, qr/^cdp_subscription_dead\{[^}]*subscription="mailer"[^}]*\} 0$/m, 'exporter: a subscription');
	like($served, qr/^cdp_check_findings\{[^}]*severity="error"[^}]*\} 0$/m, 'exporter: no errors');
	like($served, qr/^pg_exporter_user_queries_load_error\{.*\} 0$/m, 'exporter: it has read the file');
}
$node->stop('fast');
done_testing();
