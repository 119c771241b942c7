# What cdp.graph_index_check() says about damaged identity_graph indexes.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', 'autovacuum = off');
$node->start;
$node->safe_psql(
	'postgres', q(
	CREATE EXTENSION cdp;
	CREATE TABLE e (a bigint, b bigint);
	INSERT INTO e SELECT hashint8extended(i, 1) & 1023, hashint8extended(i, 2) & 1023 FROM generate_series(1, 3000) i;
	INSERT INTO e SELECT 7, i FROM generate_series(1, 700) i;
	CREATE INDEX e_graph ON e USING identity_graph (a, b);
	CHECKPOINT;
));
my $file = $node->data_dir . '/' . $node->safe_psql('postgres', q(SELECT pg_relation_filepath('e_graph')));
my $whole = slurp_file($file);
my $blocks = length($whole) / 8192;

# The first block of a kind: meta 1, directory 2, primary 4, overflow 8, hub 16.
sub block_of
{
	my ($kind) = @_;
	for my $block (0 .. $blocks - 1)
	{
		return $block if (unpack('v', substr($whole, $block * 8192 + 8188, 2)) & 0x3f) == $kind;
	}
	die "no page of kind $kind";
}

my $primary = block_of(4);
my $hub = block_of(16);
my $slots = $primary * 8192 + 24;
my $used = 0;
$used += 2 while unpack('v', substr($whole, $slots + $used, 2)) == 0;

# offset in the file, bytes, what the check says, whether a scan must fail too
my @damage = (
	[ 24, "\x00", qr/another magic number/ ],
	[ 28, "\x63", qr/layout version is 99, not 1/ ],
	[ 32, "\x00\x00\x00\x7f", qr/buckets in 1 directory pages are impossible/ ],
	[ 8192 + 24, "\x00\x00\x00\x00", qr/no page is known of bucket 0/ ],
	[ 8192 + 24, "\xf0\xff\xff\x00", qr/beyond the end of the index/ ],
	[ 8192 + 8188, "\x40", qr/expected a page of kind/ ],
	[ $primary * 8192 + 8190, "\x00\x00", qr/another page id/ ],
	[ $primary * 8192 + 8176, "\x63", qr/page of bucket 99 is in the chain of bucket/ ],
	[ $primary * 8192 + 8180, "\x00\x00\x00\x00", qr/impossible stamp 0/ ],
	[ $primary * 8192 + 12, "\x1b\x01", qr/impossible number of entries/ ],
	[ $primary * 8192 + 12, "\xff\xff", qr/page header is damaged|invalid page/ ],
	[ $slots + $used, "\xff\x7f", qr/leads to entry 32767/ ],
	[ $slots + $used, "\x00\x00", qr/is in no list/ ],
	[ $slots + 256, "\xff\xff\xff\xff", qr/of node .* is in (list|bucket)/ ],
	[ $slots + 256 + 8, "\xff\xff\xff\x00", qr/points behind the end of the table/ ],
	[ $slots + 256 + 4, "\xff\xff", qr/has no entry for node/ ],
	[ $primary * 8192 + 8184, pack('V', $primary), qr/expected a page of kind/ ],
	[ $hub * 8192 + 8176, "\x63", qr/page of hub 99 is in the chain of hub 7/ ],
	[ $hub * 8192 + 12, "\x19\x00", qr/impossible number of entries/ ],
	[ $hub * 8192 + 24, "\xff\xff", qr/has no entry for node 7/ ]);

# A statement that waits for itself cannot be cancelled: do not wait for it.
sub try_damaged
{
	my ($sql) = @_;
	my $timed_out = 0;
	$node->psql('postgres', $sql, timeout => 60, timed_out => \$timed_out);
	ok(!$timed_out, 'ends: ' . substr($sql, 0, 20));
	return;
}

foreach my $damage (@damage)
{
	my ($offset, $bytes, $message) = @$damage;
	$node->stop;
	open my $fh, '+<', $file or die "$file: $!";
	binmode $fh;
	seek $fh, $offset, 0;
	print $fh $bytes;
	close $fh;
	$node->start;
	my ($rc, $out, $err) = $node->psql('postgres', q(\set VERBOSITY verbose
		SELECT cdp.graph_index_check('e_graph', true)));
	like($err, $message, "block " . int($offset / 8192) . ": $message");
	like($err, qr/XX002/, 'index_corrupted') unless $err =~ /invalid page/;
	if ($err !~ /invalid page/)
	{
		like($err, qr/Index block=\d+, page lsn=/, 'with block and LSN') unless $err =~ /has no entry/;
		my $findings = $node->safe_psql('postgres', q(SELECT string_agg(finding, '; ') FROM cdp.graph_index_findings('e_graph', true)));
		like($findings, $message, 'also as a finding');
	}

	# no damage may bring the server down
	$node->psql('postgres', q(SET enable_seqscan = off;
		SELECT count(*) FROM generate_series(1, 1023) x, LATERAL (SELECT FROM e WHERE a = x OR b = x OFFSET 0) s));
	try_damaged("INSERT INTO e SELECT i, i + 1 FROM generate_series(1, 500) i");
	try_damaged('DELETE FROM e WHERE a % 50 = 1; VACUUM e');
	is($node->safe_psql('postgres', 'SELECT 1'), 1, 'the server is there');
	$node->stop('immediate');
	open $fh, '>', $file or die "$file: $!";
	binmode $fh;
	print $fh $whole;
	close $fh;
	$node->start;
	$node->safe_psql('postgres', 'TRUNCATE e;
		INSERT INTO e SELECT hashint8extended(i, 1) & 1023, hashint8extended(i, 2) & 1023 FROM generate_series(1, 3000) i;
		INSERT INTO e SELECT 7, i FROM generate_series(1, 700) i;
		REINDEX INDEX e_graph; CHECKPOINT');
	$file = $node->data_dir . '/' . $node->safe_psql('postgres', q(SELECT pg_relation_filepath('e_graph')));
	$whole = slurp_file($file);
	is($node->safe_psql('postgres', q(SELECT cdp.graph_index_check('e_graph', true))), '', 'REINDEX repairs it');
}

# the mark of a split that has ended long ago
$node->safe_psql(
	'postgres', q(
	CREATE TABLE m (a bigint, b bigint);
	CREATE INDEX m_graph ON m USING identity_graph (a, b);
	INSERT INTO m SELECT i, i + 1 FROM generate_series(1, 5000) i;
	CHECKPOINT));
$file = $node->data_dir . '/' . $node->safe_psql('postgres', q(SELECT pg_relation_filepath('m_graph')));
$node->stop;
$whole = slurp_file($file);
$blocks = length($whole) / 8192;
open my $fh, '+<', $file or die "$file: $!";
binmode $fh;
seek $fh, block_of(4) * 8192 + 8188, 0;
print $fh "\x84";
close $fh;
$node->start;
my $timed_out = 0;
my ($rc, $out, $err) = $node->psql('postgres', 'INSERT INTO m SELECT i, i + 2 FROM generate_series(1, 500) i',
	timeout => 60, timed_out => \$timed_out);
like($err, qr/marks of a split that has ended/, 'an insertion finds a mark that is wrong') unless $timed_out;
ok(!$timed_out, 'and does not wait for what never comes');
$node->stop('immediate') if $timed_out;

unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC/, 'no crash');
done_testing();
