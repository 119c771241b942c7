# Who was who: what cdp.identifiers_at(), cdp.resolve_at(), cdp.profile_at() and
# cdp.account_at() say about random instants must be what a database says that was given
# only the entries of then, under the kinds and guards of then.
#
#   CDP_STREAMS=60      number of streams, CDP_SEED=n of the first one
#   CDP_SECONDS=90      begin no stream after this time, 0: no limit
#
# To replay one failure: CDP_SEED=<its seed> CDP_STREAMS=1.
use strict;
use warnings;
use IPC::Run;
use Time::HiRes qw(time);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $streams = $ENV{CDP_STREAMS} // ($ENV{CDP_TORTURE} ? 2000 : 60);
my $seconds = $ENV{CDP_SECONDS} // ($ENV{CDP_TORTURE} || $ENV{CDP_STREAMS} ? 0 : 90);
my $first_seed = $ENV{CDP_SEED} // ($ENV{CDP_TORTURE} ? int(rand(1_000_000_000)) : 500_000);
my $questions = 4;

note "CDP_SEED=$first_seed CDP_STREAMS=$streams";

my $node = PostgreSQL::Test::Cluster->new('asof');
$node->init;
$node->append_conf('postgresql.conf', qq{
fsync = off
full_page_writes = off
autovacuum = off
jit = off
max_parallel_workers_per_gather = 0
cdp.databases = ''
});
$node->start;
for my $db ('now', 'then')
{
	$node->safe_psql('postgres', qq{CREATE DATABASE "$db"});
	$node->safe_psql($db, q{
		CREATE EXTENSION cdp;
		SELECT cdp.create_trait('which', aggregate => 'list', value => 'message_id');
		SELECT cdp.create_trait('lately', aggregate => 'count', within => '3 days');
		SELECT cdp.create_trait('older', aggregate => 'count', older_than => '2 days', newer_than => '6 days');
		SELECT cdp.create_segment('busy', 'lately > 1 OR older > 2');
		SELECT cdp.create_trait('seats', type => 'numeric', entity => 'account');
		SELECT cdp.create_trait('which', aggregate => 'list', value => 'message_id', entity => 'account');
		SELECT cdp.create_trait('all_lately', aggregate => 'count', within => '3 days', entity => 'account', options => '{"rollup": true}');
		SELECT cdp.create_trait('active', aggregate => 'sum', value => 'lately', entity => 'account', options => '{"over": "members", "rollup": true}');
		SELECT cdp.create_segment('crowded', $$any_member(in_segment('busy')) AND count_members() > 1$$, entity => 'account');
		SELECT cdp.create_segment('staff', $$account.all_lately > 1 OR account.active > 1$$);
		SELECT cdp.account_by_domain();
	});
}

my $script = PostgreSQL::Test::Utils::tempdir() . '/stream.sql';

my $reset = join("\n", 'SET client_min_messages = warning;',
	'RESET cdp.max_profile_identifiers; RESET cdp.bridge_guard; RESET cdp.max_new_identifiers_per_hour;',
	q{TRUNCATE cdp.events, cdp.identities, cdp.links, cdp.decisions, cdp.entry_pieces, cdp.withheld_entries, cdp.releases, cdp.merged_profiles, cdp.rule_changes, cdp.rule_cursors, cdp.rejected, cdp.timers, cdp.window_items, cdp.segment_members, cdp.changes, cdp.kind_history, cdp.guard_history, cdp.history_entries, cdp.former_identities, cdp.account_identities, cdp.account_evidence, cdp.account_nodes, cdp.account_values, cdp.account_totals, cdp.account_news;},
	q{DELETE FROM cdp.kind_definitions;},
	q{UPDATE cdp.identity_rules SET generation = generation + 1;},
	q{UPDATE cdp.applier SET generation = generation + 1, clock = '-infinity', history_from = '-infinity', cursors = '{}';});

sub pick { return $_[ int(rand(@_)) ]; }
sub chance { return rand() < $_[0]; }
sub lit { my ($s) = @_; return 'NULL' unless defined $s; $s =~ s/'/''/g; return "'$s'"; }

sub stamp
{
	my ($seconds) = @_;
	my @t = gmtime(1767225600 + $seconds);    # 2026-01-01 UTC
	return sprintf('%04d-%02d-%02d %02d:%02d:%02d+00',
		$t[5] + 1900, $t[4] + 1, @t[ 3, 2, 1, 0 ]);
}

# changes of kinds: what keeps an identifier's meaning, and what does not
my @mild = (
	q{alter_identifier_kind('email', max_per_profile => 1)},
	q{alter_identifier_kind('user_id', max_per_profile => 2)},
	q{alter_identifier_kind('user_id', max_per_profile => 0)},
	q{alter_identifier_kind('anonymous_id', max_per_profile => 2)},
	q{alter_identifier_kind('anonymous_id', priority => 1)},
	q{alter_identifier_kind('user_id', priority => 50)},
	q{alter_identifier_kind('anonymous_id', shared => 'newest')},
	q{alter_identifier_kind('anonymous_id', shared => 'anonymous')},
	q{alter_identifier_kind('email', max_per_profile => 1, within => '7 days')},
	q{alter_identifier_kind('user_id', policy => 'refuse')},
	q{alter_identifier_kind('user_id', policy => 'quarantine')},
);
# guards, as they are set
sub guards
{
	return join(' ', 'SET cdp.max_profile_identifiers = ' . pick(2, 3, 4, 10000) . ';',
		'SET cdp.bridge_guard = ' . pick(0, 1, 2) . ';', 'SET cdp.max_new_identifiers_per_hour = ' . pick(0, 1, 2, 1000) . ';');
}
my @strong = (
	q{alter_identifier_kind('email', links => false)},
	q{alter_identifier_kind('email', blocked => ARRAY['p1@example.com'])},
	q{alter_identifier_kind('email', labels => ARRAY['^p2', 'p3@example.com'])},
	q{alter_identifier_kind('user_id', normaliser => 'nfkc')},
	q{create_identifier_kind('badge', max_per_profile => 1, priority => 3)},
);

sub stream
{
	my ($seed) = @_;
	srand($seed);
	my $n = 5 + int(rand(40));
	my $people = 2 + int(rand(4));
	my $days = pick(5, 20);
	my $copies = pick(0, 0.1, 0.4);
	my $decide = pick(0, 0.3, 0.5);
	my $grouped = pick(0, 0.2, 0.5);
	my (@ids, @entries, @decisions, @rules);

	for my $i (1 .. $people)
	{
		push @ids, "anonymous_id:d$i", "email:p$i\@example.com", "user_id:u$i", "user_id:U$i", "badge:$i";
	}
	for my $i (1 .. $n)
	{
		my $received = int(rand($days));
		my $home = int(rand(@ids));
		my $e = {
			message => chance(0.9) ? "m$i" : undef,
			source => pick('web', 'web', 'app'),
			type => 'track',
			ids => [ $ids[$home] ],
			received => $received,
			occurred => $received - (chance(0.5) ? 0 : int(rand($days)))
		};
		push @{ $e->{ids} }, chance(0.7) ? $ids[ ($home + pick(-1, 1)) % @ids ] : pick(@ids)
		  while (chance(0.5) && @{ $e->{ids} } < 4);
		if (chance($grouped))
		{
			$e->{type} = pick('track', 'group', 'group', 'leave');
			$e->{ids} = [] if $e->{type} ne 'leave' && chance(0.2);
			push @{ $e->{ids} }, 'group_id:g' . int(rand(3)) while !@{ $e->{ids} } || $e->{ids}[-1] !~ /^group/ || chance(0.2);
			$e->{properties} = sprintf('{"seats": %d%s}', $i, chance(0.5) ? sprintf(', "parent": "g%d"', int(rand(4))) : '') if $e->{type} eq 'group';
		}
		elsif (chance($decide))
		{
			$e->{source} = 'manual' if chance(0.9);
			$e->{message} = "d$i";
			$e->{type} = pick('merge', 'split', 'detach', 'undo', 'undo');
			$e->{ids} = [ $ids[$home], $e->{type} eq 'detach' ? () : $ids[ ($home + 1) % @ids ] ];
			$e->{ids} = [ reverse @{ $decisions[-1]{ids} } ] if @decisions && chance(0.4) && @{ $decisions[-1]{ids} } == @{ $e->{ids} };
			if ($e->{type} eq 'undo')
			{
				my @targets = grep { defined $_->{message} } @entries;
				push @targets, (@decisions) x 3;
				next unless @targets;
				my $target = pick(@targets);
				$e->{undoes} = $target->{message};
				$e->{source} = $target->{source};
				$e->{ids} = $target->{ids};
			}
			push @decisions, $e;
		}
		push @entries, $e;
		if (chance($copies))
		{
			my $d = { %{ pick(@entries) } };
			$d->{received} = int(rand($days)) if chance(0.7);
			$d->{occurred} = $d->{received} - (chance(0.5) ? 0 : int(rand($days))) if chance(0.7);
			$d->{ids} = [ pick(@ids), pick(@ids) ] if chance(0.3) && !$d->{undoes};
			push @entries, $d;
		}
	}
	@entries = sort { $a->{order} <=> $b->{order} } map { $_->{order} = rand(); $_ } @entries if chance(0.7);
	if (chance(0.5))
	{
		my @kinds = chance(0.5) ? @mild : (@mild, @strong);
		my %done;
		for my $day (sort { $a <=> $b } map { int(rand($days + 2)) } 1 .. 1 + int(rand(3)))
		{
			my $rule = pick(@kinds);
			push @rules, [ $day, $rule ] unless $done{$rule}++;
		}
	}
	# guards have days of their own, among those of kinds
	push @rules, map { [ int(rand($days)), undef, guards() ] } 1 .. 1 + int(rand(2)) if chance(0.4);
	@rules = sort { $a->[0] <=> $b->[0] } @rules;
	my @asked = map { [ chance(0.3) ? undef : int(rand($days)), chance(0.3) ? undef : int(rand($days)) ] } 1 .. $questions - 1;
	push @asked, [ undef, undef ];
	return { entries => \@entries, rules => \@rules, ids => \@ids, asked => \@asked, days => $days };
}

sub row
{
	my ($e) = @_;
	return '(' . join(', ', lit($e->{message}), lit($e->{source}), lit($e->{type}),
		$e->{type} eq 'track' ? lit('e') : 'NULL::text',
		$e->{undoes} ? q{'{}'::cdp.identifier[]} : 'ARRAY[' . join(', ', map { lit($_) } @{ $e->{ids} }) . ']::cdp.identifier[]',
		$e->{undoes} ? lit("{\"entry\": \"$e->{undoes}\"}") . '::jsonb' : lit($e->{properties}) . '::jsonb',
		lit(stamp($e->{occurred} * 86400)) . '::timestamptz', lit(stamp($e->{received} * 86400)) . '::timestamptz') . ')';
}

my $columns = 'message_id, source, type, event, identifiers, properties, occurred_at, received_at';

sub instant { my ($day) = @_; return defined $day ? lit(stamp($day * 86400)) : 'NULL'; }

# the identifiers that may be asked for: kinds that are registered in the end
sub names
{
	my ($s) = @_;
	my $badge = grep { ($_->[1] // '') =~ /badge/ } @{ $s->{rules} };
	return join(', ', map { '(' . lit($_) . '::cdp.identifier)' } grep { $badge || !/badge/ } @{ $s->{ids} });
}

my $accounts = "('group_id:g0'::cdp.identifier), ('group_id:g1'), ('group_id:g2'), ('domain:example.com')";

# a change of kinds, or guards with which the applier goes on from then on
sub change
{
	my ($rule, $apply) = @_;
	my ($day, $call, $guards) = @$rule;
	return ($guards, $apply ? ('SELECT cdp.rejudge();', 'SELECT cdp.apply() IS NULL;') : ()) unless defined $call;
	return "SELECT cdp.$call;";
}

# everything, in any order, rules as they came
sub script_now
{
	my ($s, $seed) = @_;
	srand($seed + 1);
	my @sql = ($reset);
	my @rules = @{ $s->{rules} };
	my @entries = @{ $s->{entries} };
	my $day = -1;
	for my $e (@entries)
	{
		push @sql, "INSERT INTO cdp.events ($columns) VALUES " . row($e) . ';';
		# the guards of the first batch are those that held before
		push @sql, 'SELECT cdp.apply() IS NULL;' if chance(0.6) || $e == $entries[0];
		if (@rules && chance(0.1))
		{
			my $rule = shift @rules;
			push @sql, 'SET cdp.now = ' . instant($rule->[0]) . ';', change($rule, 1);
		}
	}
	push @sql, map { ('SET cdp.now = ' . instant($_->[0]) . ';', change($_, 1)) } @rules;
	push @sql, 'SET cdp.now = ' . instant($s->{days} + 10) . ';', 'SELECT cdp.apply() IS NULL;';
	my $i = 0;
	for my $q (@{ $s->{asked} })
	{
		my ($at, $known) = (instant($q->[0]), instant($q->[1]));
		push @sql, "SELECT 'QUESTION $i';",
		  "SELECT v.i || ' is ' || coalesce((SELECT string_agg(a.identifier || ' ' || a.first_seen || ' ' || a.last_seen, ', ' ORDER BY a.identifier) FROM cdp.identifiers_at(v.i, $at, $known) a), 'unknown') FROM (VALUES " . names($s) . ") v (i);";
		# a profile has the smallest number of its identifiers
		push @sql, "SELECT 'WRONG NUMBER of ' || v.i FROM (VALUES " . names($s) . ") v (i) WHERE cdp.resolve_at(v.i, $at, $known) IS DISTINCT FROM (SELECT min(coalesce((SELECT n.node_id FROM cdp.identities n WHERE n.identifier = a.identifier), (SELECT max(f.node_id) FROM cdp.former_identities f WHERE f.identifier = a.identifier))) FROM cdp.identifiers_at(v.i, $at, $known) a);"
		  =~ s/ = a/ OPERATOR(cdp.=) a/gr;
		push @sql, "SELECT v.i || ' is profile ' || coalesce((cdp.profile_at(v.i, $at, $known) - 'profile_id')::text, 'none') FROM (VALUES " . names($s) . ") v (i);";
		push @sql, "SELECT v.i || ' is account ' || coalesce((cdp.account_at(v.i, $at, $known) - 'account_id')::text, 'none') FROM (VALUES $accounts) v (i);";
		push @sql, "SELECT 'NOT AS NOW ' || v.i FROM (VALUES " . names($s) . ") v (i) WHERE cdp.resolve_at(v.i) IS DISTINCT FROM cdp.resolve(v.i);" if !defined $q->[0] && !defined $q->[1];
		$i++;
	}
	return join("\n", @sql) . "\n";
}

# for each question a database that knows no more
sub script_then
{
	my ($s) = @_;
	my @sql = ('CREATE TEMP TABLE staged AS SELECT row_number() OVER () AS n, v.* FROM (VALUES ' . join(",\n", map { row($_) } @{ $s->{entries} }) . ") v ($columns);");
	my $i = 0;
	for my $q (@{ $s->{asked} })
	{
		my ($at, $known) = (instant($q->[0]), instant($q->[1]));
		push @sql, $reset, 'RESET cdp.now;';
		for my $rule (@{ $s->{rules} })
		{
			next if defined $q->[1] && $rule->[0] > $q->[1];
			push @sql, change($rule, 0);
		}
		push @sql, "INSERT INTO cdp.events ($columns) SELECT $columns FROM staged WHERE cdp.effective_at(occurred_at, received_at) <= coalesce($at, 'infinity'::timestamptz) AND received_at <= coalesce($known, 'infinity'::timestamptz) ORDER BY n;",
		  'SET cdp.now = ' . (defined $q->[0] ? $at : instant($s->{days} + 10)) . ';',
		  'SELECT cdp.apply() IS NULL;', "SELECT 'QUESTION $i';",
		  "SELECT v.i || ' is ' || coalesce((SELECT string_agg(b.identifier || ' ' || b.first_seen || ' ' || b.last_seen, ', ' ORDER BY b.identifier) FROM cdp.identities a JOIN cdp.identities b ON b.profile_id = a.profile_id WHERE a.identifier OPERATOR(cdp.=) cdp.canonical(v.i)), 'unknown') FROM (VALUES " . names($s) . ") v (i);",
		  "SELECT v.i || ' is profile ' || coalesce((cdp.profile((SELECT a.profile_id FROM cdp.identities a WHERE a.identifier OPERATOR(cdp.=) cdp.canonical(v.i))) - 'profile_id')::text, 'none') FROM (VALUES " . names($s) . ") v (i);",
		  "SELECT v.i || ' is account ' || coalesce((cdp.account(v.i) - 'account_id' - 'last_seen')::text, 'none') FROM (VALUES $accounts) v (i);";
		$i++;
	}
	return join("\n", @sql) . "\n";
}

sub run
{
	my ($db, $text) = @_;
	my ($out, $err) = ('', '');
	open my $fh, '>:raw', $script or die "$script: $!";
	print $fh $text;
	close $fh;
	IPC::Run::run([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-v', 'VERBOSITY=terse',
		'-d', $node->connstr($db), '-f', $script ], '>', \$out, '2>', \$err);
	return $? == 0 ? join('', grep { /\bis\b|QUESTION|WRONG|NOT AS/ } map { "$_\n" } split /\n/, $out) : "ERROR in $db: $err";
}

# questions about a former time must have different answers from now, or the
# test tests nothing
my ($asked, $differing) = (0, 0);
my $begin = time();
my $done = 0;
my @failed;
for my $seed ($first_seed .. $first_seed + $streams - 1)
{
	last if $seconds && time() - $begin > $seconds;
	my $s = stream($seed);
	my $now = run('now', script_now($s, $seed));
	my $then = run('then', script_then($s));
	$done++;
	my @answers = split /^QUESTION \d+\n/m, $then;
	$asked += $questions - 1;
	$differing += grep { $_ ne $answers[-1] } @answers[ 1 .. $#answers - 1 ];
	next if $now eq $then;
	push @failed, $seed;
	my @a = split /\n/, $now;
	my @b = split /\n/, $then;
	for my $i (0 .. ($#a > $#b ? $#a : $#b))
	{
		next if ($a[$i] // '') eq ($b[$i] // '');
		my ($q) = grep { /QUESTION/ } reverse @a[ 0 .. $i ];
		diag("seed $seed, " . ($q // '') . ": " . join(', ', map { $_ // 'all' } @{ $s->{asked}[ (($q // '') =~ /(\d+)/)[0] // 0 ] }), "\n   found: ", $a[$i] // '', "\nexpected: ", $b[$i] // '');
		last;
	}
	last if @failed > 5;
}
is("@failed", '', "$done streams: identities of former times");
cmp_ok($differing, '>', $asked / 3, "$differing of $asked questions have another answer than now");
# what is older than is asked for goes, the guards that held then too
$node->append_conf('postgresql.conf', 'cdp.history_retention = 20');
$node->reload;
is($node->safe_psql('now', "$reset" . q{
	SET cdp.now = '2026-06-01';
	INSERT INTO cdp.guard_history VALUES ('-infinity', 10, 10, 10), ('2026-02-01Z', 20, 20, 20), ('2026-05-20Z', 30, 30, 30);
	SELECT cdp.prune_history() = '2026-02-01Z';
	SELECT string_agg(bridge_guard::text, ',' ORDER BY since) FROM cdp.guard_history;
}), "t\n20,30", 'guards are forgotten with their time');
done_testing();
