# The consumers of examples/: they are killed, lose their connection, and outlive
# a restart of the server, and have every change once and in order after leaving
# out repetitions.  Their drivers are Debian's packages, which test/setup
# installs (psycopg 3 belongs to Debian's python3); node's comes from npm where
# node is not Debian's.  Each is skipped where its runtime or driver is absent.
use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use JSON::PP;
use POSIX ':sys_wait_h';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $examples = abs_path(dirname(__FILE__) . '/../../examples');
my $node = PostgreSQL::Test::Cluster->new('examples');
$node->init;
$node->append_conf(
	'postgresql.conf', qq(
shared_preload_libraries = 'cdp'
cdp.naptime = '100ms'
));
$node->start;
$node->safe_psql(
	'postgres', q(
	CREATE EXTENSION cdp;
	SELECT cdp.create_trait('n', aggregate => 'count');
	SELECT cdp.create_segment('odd', 'n % 2 = 1');
));
my $dir = PostgreSQL::Test::Utils::tempdir();
# drivers do not agree on how a connection is written, but all read these; with
# such an encoding, as a SQL_ASCII database has it, psycopg would give bytes
my %where = (
	PGHOST => $node->host,
	PGPORT => $node->port,
	PGDATABASE => 'postgres',
	PGUSER => scalar getpwuid($<),
	PGCLIENTENCODING => 'SQL_ASCII');

sub start
{
	my ($out, @command) = @_;
	my $pid = fork;
	die unless defined $pid;
	return $pid if $pid;
	open STDOUT, '>>', "$dir/$out" or die;
	open STDERR, '>>', "$dir/$out.errors" or die;
	@ENV{ keys %where } = values %where;
	exec @command;
}

sub stop
{
	my ($signal, $pid) = @_;
	kill $signal, $pid;
	waitpid $pid, 0;
	return $? >> 8;
}

sub log_entries
{
	my ($n) = @_;
	$node->safe_psql('postgres',
		"INSERT INTO cdp.events (event, identifiers) SELECT 'x', ARRAY['user_id:u' || i % 7]::cdp.identifier[] FROM generate_series(1, $n) i"
	) for 1 .. 3;
}

# Wait until a consumer has acknowledged everything.
sub caught_up
{
	my ($name) = @_;
	$node->safe_psql('postgres', "SELECT cdp.wait_applied('60 s')");
	return $node->poll_query_until('postgres', "SELECT behind = 0 FROM cdp.subscription_lag WHERE subscription = '$name'");
}

sub works
{
	my $out = '';
	return eval { IPC::Run::run([@_], '<', \undef, '>', \$out, '2>&1') };
}

my ($python) = grep { works($_, '-c', 'import psycopg') } grep { defined } $ENV{PYTHON}, 'python3', '/usr/bin/python3';
my $driver = works('node', '-e', "require('pg')");
if (!$driver && works('node', '--version'))
{
	local $ENV{HOME} = $dir;
	$ENV{NODE_PATH} = "$dir/npm/node_modules";
	$driver = works('sh', '-c', "mkdir $dir/npm && cd $dir/npm && timeout 60 npm install --fetch-retries=0 --silent --no-audit --no-fund pg\@8")
	  && works('node', '-e', "require('pg')");
}
my @consumers = (
	[ 'python', [ $python, "$examples/consumer.py" ], $python, 'psycopg 3' ],
	[ 'node', [ 'node', "$examples/consumer.js" ], $driver, 'pg' ]);
foreach my $consumer (@consumers)
{
	my ($name, $command, $usable, $what) = @$consumer;
	SKIP:
	{
		skip "SKIPPED: no $name with its driver for PostgreSQL ($what)", 8 unless $usable;

		my $ended = start("$name.none", @$command, 'nobody');
		my $until = time + 30;
		sleep 0.05 while waitpid($ended, WNOHANG) == 0 && time < $until;
		isnt($? >> 8, 0, "$name: a subscription that does not exist ends it");
		like(slurp_file("$dir/$name.none.errors"), qr/subscription "nobody" does not exist/, "$name: with the reason");

		$node->safe_psql('postgres', "SELECT cdp.subscribe('$name')");
		my $before = $node->safe_psql('postgres', "SELECT acked_seq FROM cdp.subscriptions WHERE name = '$name'");
		my $pid = start($name, @$command, $name);
		log_entries(7);
		ok(caught_up($name), "$name: it is woken and acknowledges");

		# killed, and away
		foreach my $i (1 .. 3)
		{
			stop('KILL', $pid);
			log_entries(5);
			$pid = start($name, @$command, $name);
			log_entries(4);
		}
		ok(caught_up($name), "$name: killed three times, it catches up");

		# its connection is cut, then the server is away
		$node->safe_psql('postgres',
			"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%cdp.%' AND pid <> pg_backend_pid() AND backend_type = 'client backend'");
		log_entries(3);
		ok(caught_up($name), "$name: cut off, it comes back");
		$node->stop('fast');
		sleep 0.3;
		$node->start;
		log_entries(6);
		ok(caught_up($name), "$name: it outlives a restart of the server");
		is(stop('TERM', $pid), 0, "$name: it leaves when it is told to");

		my $last = $before;
		my @seen;
		foreach my $line (split /\n/, slurp_file("$dir/$name"))
		{
			my $change = eval { decode_json($line) } or next;
			next unless $change->{seq} > $last;
			$last = $change->{seq};
			push @seen, "$last $change->{kind} $change->{profile_id}";
		}
		is( join("\n", @seen),
			$node->safe_psql('postgres',
				"SELECT format('%s %s %s', seq, kind, profile_id) FROM cdp.changes WHERE seq > $before AND cause <> 'definition' ORDER BY epoch, seq"),
			"$name: every change, once and in order");
	}
}
$node->stop('fast');
done_testing();
