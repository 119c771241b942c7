# Clients through a pooler: pgbouncer in transaction mode, with fewer server
# connections than clients.  Everything but LISTEN works.  The examples in Go and
# Java, straight and through the pooler, where there are a Go toolchain and a JDK
# and their drivers are to be had (Go's from the module proxy, Java's from Debian
# or CDP_PGJDBC, its jar); CDP_CLIENTS=0 leaves them out.
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

# The examples in other languages: their drivers prepare and use binary formats.
sub example
{
	my ($name, $command, $pool) = @_;
	my ($out, $err) = run_command($command);
	like($out, qr/^copied 1000 applied \S*t\S* .*anonymous_id:(?:go|jdbc)-device-1.*user_id:(?:go|jdbc)-1/, $name . ($pool ? ' through the pooler' : ''))
	  or diag $err;
	return;
}

SKIP:
{
	skip 'SKIPPED: the examples in Go and Java are NOT TESTED: CDP_CLIENTS=0', 4 if ($ENV{CDP_CLIENTS} // '') eq '0';

  SKIP:
	{
		my ($go) = grep { -x } map { "$_/go" } split(/:/, $ENV{PATH}), '/usr/local/go/bin', '/usr/lib/go/bin';
		skip 'SKIPPED: no Go toolchain: the example in Go is NOT TESTED', 2 unless $go;
		local %ENV = (%ENV, HOME => $dir, GOFLAGS => '-mod=mod -modcacherw', GOTOOLCHAIN => 'local', GOCACHE => "$dir/cache", GOPATH => "$dir/gopath", CGO_ENABLED => 0);
		my $log = '';
		# all of Go's library is compiled with it: not optimised, it takes two thirds of the time
		my $built = IPC::Run::run([ 'sh', '-c', "cp -r $examples/go $dir/go && cd $dir/go && timeout 60 $go mod download && timeout 300 $go build -gcflags='all=-N -l' -ldflags='-s -w' -o $dir/client ." ],
			'<', \undef, '>', \$log, '2>&1');
		if (!$built)
		{
			diag $log;
			skip 'SKIPPED: Go\'s driver cannot be had or built: the example in Go is NOT TESTED', 2;
		}
		for my $pool (0, 1)
		{
			local %ENV = (%ENV, PGDATABASE => 'postgres', PGUSER => $user);
			@ENV{qw(PGHOST PGPORT PGX_MODE)} = $pool ? ($dir, $port, 'exec') : ($node->host, $node->port, '');
			example('Go', ["$dir/client"], $pool);
		}
	}
  SKIP:
	{
		my ($jar) = grep { -f } $ENV{CDP_PGJDBC} // '', '/usr/share/java/postgresql.jar';
		skip 'SKIPPED: no JDK: the example in Java is NOT TESTED', 2 unless IPC::Run::run([ 'sh', '-c', 'javac -version' ], '>&', '/dev/null');
		skip 'SKIPPED: no JDBC driver (Debian: libpostgresql-jdbc-java; CDP_PGJDBC=its jar): the example in Java is NOT TESTED', 2 unless $jar;
		for my $pool (0, 1)
		{
			my $url = sprintf 'jdbc:postgresql://127.0.0.1:%s/postgres?user=%s%s', $pool ? ($port, $user, '&prepareThreshold=0') : ($node->port, $user, '');
			example('JDBC', [ 'java', '-cp', $jar, "$examples/jdbc/Client.java", $url ], $pool);
		}
	}
}
$pooler->kill_kill;
$node->stop;
done_testing();
