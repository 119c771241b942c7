# Clients through a pooler: pgbouncer in transaction mode, with fewer server
# connections than clients.  Everything but LISTEN works.  The examples in Go and
# Java, straight and through the pooler, where CDP_CLIENTS=1 asks for them (the
# first build of Go's driver takes a minute) and their drivers are to be had.
use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $examples = abs_path(dirname(__FILE__) . '/../../examples');
my ($bouncer) = grep { -x } map { "$_/pgbouncer" } split(/:/, $ENV{PATH} // ''), '/usr/sbin', '/usr/local/sbin';
plan skip_all => 'pgbouncer is not installed (test/setup installs it): NOTHING IS TESTED THROUGH A POOLER' unless $bouncer;
plan skip_all => 'pgbouncer does not run as root: NOTHING IS TESTED THROUGH A POOLER' if $> == 0;

my $user = getpwuid($<);
my $node = PostgreSQL::Test::Cluster->new('clients');
$node->init;
$node->append_conf(
	'postgresql.conf', qq(
shared_preload_libraries = 'cdp'
cdp.naptime = '100ms'
listen_addresses = '127.0.0.1'
));
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION cdp');

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $dir = PostgreSQL::Test::Utils::tempdir_short();
append_to_file("$dir/bouncer.ini", sprintf(<<'END', $node->host, $node->port, $user, $port, $dir, $dir));
[databases]
* = host=%s port=%s user=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
unix_socket_dir = %s
logfile = %s/log
auth_type = any
pool_mode = transaction
default_pool_size = 3
max_client_conn = 100
ignore_startup_parameters = extra_float_digits,options
END
my $err = '';
my $pooler = IPC::Run::start([ $bouncer, "$dir/bouncer.ini" ], '>', \my $out, '2>', \$err);
END { local $?; $pooler->kill_kill if $pooler; }

sub pooled
{
	my ($sql) = @_;
	my ($stdout, $stderr);
	IPC::Run::run([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', "host=$dir port=$port dbname=postgres user=$user", '-c', $sql ],
		'>', \$stdout, '2>', \$stderr);
	chomp $stdout;
	return $stdout . ($stderr =~ /ERROR|FATAL|error/ ? $stderr : '');
}

for (1 .. 100)
{
	last if pooled('SELECT 1') eq '1';
	sleep 0.1;
}
is(pooled('SELECT cdp.version() IS NOT NULL'), 't', 'the pooler answers') or diag $err;

# definitions, and a consumer whose position is in the database
is(pooled("SELECT cdp.create_trait('n', aggregate => 'count', event => 'x')"), '', 'a trait is made');
is(pooled("SELECT cdp.create_segment('many', 'n >= 5')"), '', 'a segment is made');
pooled("SELECT cdp.subscribe('reader')");

# many clients, three server connections
my $script = "$dir/script.sql";
append_to_file($script, <<'END');
\set u random(1, 40)
BEGIN;
SELECT cdp.track('x', '{"n": 1}', user_id => 'u' || :u, anonymous_id => 'a' || :u);
SELECT cdp.identify('u' || :u, '{"plan": "free"}');
COMMIT;
SELECT cdp.resolve(cdp.identifier('user_id', 'u' || :u));
SELECT accepted FROM cdp.ingest('[{"type": "track", "event": "x", "anonymousId": "b1"}]');
SELECT cdp.profile(cdp.identifier('user_id', 'u' || :u), fresh => true) IS NOT NULL;
END
for my $protocol (qw(simple extended))
{
	command_ok([ 'pgbench', '-n', '-c', 12, '-j', 2, '-t', 10, '-M', $protocol, '-f', $script, "host=$dir port=$port dbname=postgres user=$user" ],
		"twelve clients on three connections, protocol $protocol");
}
is(pooled("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()") <= 3, 1, '... which are three at most');

# COPY, also binary, with arrays of identifiers
IPC::Run::run([ 'psql', '-XAtq', '-d', "host=$dir port=$port dbname=postgres user=$user", '-c',
		"COPY (SELECT 'c' || i AS message_id, 'copy' AS source, 'x' AS event, ARRAY['user_id:c' || i % 7]::cdp.identifier[] AS identifiers FROM generate_series(1, 100) i) TO STDOUT (FORMAT binary)" ],
	'>', "$dir/rows") or die;
command_ok([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', "host=$dir port=$port dbname=postgres user=$user",
		'-c', "\\copy cdp.events (message_id, source, event, identifiers) FROM '$dir/rows' (FORMAT binary)" ], 'COPY in binary format');
is(pooled("SELECT cdp.wait_applied('60 s')"), 't', 'waiting for the applier');
is(pooled("SELECT count(*) FROM cdp.events WHERE event = 'x'"), 240 + 240 + 100, 'all of it is in the log');
is(pooled("SELECT cdp.in_segment('user_id:c1', 'many')"), 't', '... and applied');

# polling from whichever connection, acknowledged from another one
my $seen = 0;
for (1 .. 50)
{
	my $seqs = pooled("SELECT string_agg(seq::text, ',') FROM cdp.poll('reader', 20)");
	last if $seqs eq '';
	my @seqs = split /,/, $seqs;
	$seen += @seqs;
	pooled("SELECT cdp.ack('reader', $seqs[-1])");
}
is($seen, $node->safe_psql('postgres', q{SELECT count(*) FROM cdp.changes WHERE kind <> 'segment_defined'}), 'every change is polled once');
is(pooled('SELECT * FROM cdp.verify()'), '', 'all is as the log says');

SKIP:
{
	skip 'the examples in Go and Java: CDP_CLIENTS is not set, they are NOT TESTED', 1 unless $ENV{CDP_CLIENTS};
	my %where = (PGDATABASE => 'postgres', PGUSER => $user);
	my $expected = qr/^copied 1000 applied \S*t\S* .*anonymous_id:(?:go|jdbc)-device-1.*user_id:(?:go|jdbc)-1/;

	SKIP:
	{
		local $ENV{GOFLAGS} = '-mod=mod -modcacherw';
		local $ENV{HOME} = $dir;
		my $built = IPC::Run::run([ 'sh', '-c', "cp -r $examples/go $dir/go && cd $dir/go && go build -o $dir/client ." ], '>', \my $o, '2>', \my $e);
		skip "Go or its driver cannot be had: $e", 2 unless $built;
		for my $pool (0, 1)
		{
			local @ENV{ keys %where } = values %where;
			local @ENV{qw(PGHOST PGPORT PGX_MODE)} = $pool ? ($dir, $port, 'exec') : ($node->host, $node->port, '');
			my ($o, $e) = run_command([ "$dir/client" ]);
			like($o, $expected, 'Go' . ($pool ? ' through the pooler' : '')) or diag $e;
		}
	}
	SKIP:
	{
		my ($jar) = grep { -f } $ENV{CDP_PGJDBC} // '', glob('/root/.m2/repository/org/postgresql/postgresql/*/*.jar ' . ($ENV{HOME} // '') . '/.m2/repository/org/postgresql/postgresql/*/*.jar');
		skip 'Java, or PostgreSQL\'s JDBC driver (CDP_PGJDBC=its jar), is absent', 2 unless $jar && IPC::Run::run([ 'java', '-version' ], '>&', '/dev/null');
		for my $pool (0, 1)
		{
			my $url = sprintf 'jdbc:postgresql://127.0.0.1:%s/postgres?user=%s%s', $pool ? ($port, $user, '&prepareThreshold=0') : ($node->port, $user, '');
			my ($o, $e) = run_command([ 'java', '-cp', $jar, "$examples/jdbc/Client.java", $url ]);
			like($o, $expected, 'JDBC' . ($pool ? ' through the pooler' : '')) or diag $e;
		}
	}
}
$pooler->kill_kill;
$node->stop;
done_testing();
