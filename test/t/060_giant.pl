# One large profile and late evidence for it: where nothing can come out otherwise
# it is judged at once, else all of the profile is judged again.  Either way the
# result is the one that cdp.verify() computes from the log.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('giant');
$node->init;
$node->append_conf('postgresql.conf', q{
fsync = off
cdp.databases = ''
cdp.max_new_identifiers_per_hour = 0
});
$node->start;

my $setup = q{
SET client_min_messages = warning;
CREATE EXTENSION cdp;
SET search_path = public, cdp;
CREATE FUNCTION log(ids text, at text) RETURNS void LANGUAGE sql AS
$$INSERT INTO cdp.events (event, identifiers, occurred_at, received_at)
  VALUES ('V', ids::cdp.identifier[], at::timestamptz, '2026-11-01Z')$$;
CREATE VIEW profile AS SELECT count(*) AS identifiers, count(*) FILTER (WHERE cdp.kind(identifier) = 'user_id') AS users
  FROM cdp.identities WHERE profile_id = (SELECT profile_id FROM cdp.identities WHERE identifier = 'user_id:hub');
CREATE FUNCTION refused(x text, y text) RETURNS text LANGUAGE sql AS
$$SELECT l.status || ' ' || coalesce(l.reason, '') FROM cdp.links l JOIN cdp.identities i ON i.node_id IN (l.a, l.b)
  JOIN cdp.identities j ON j.node_id IN (l.a, l.b) WHERE i.identifier = x::cdp.identifier AND j.identifier = y::cdp.identifier$$;
ALTER DATABASE %s SET search_path = public, cdp;
};

# one session per call unless many statements are given: they share the nodes
sub judged
{
	my ($db, $sql) = @_;
	my ($rc, $out, $err) = $node->psql($db, "SET client_min_messages = debug1;\n$sql");
	is($rc, 0, 'statements succeed') or diag $err;
	my @again = $err =~ /judging (\d+) links again/g;
	return scalar @again;
}

sub verified
{
	my ($db, $what) = @_;
	is($node->safe_psql($db, 'SELECT * FROM cdp.verify()'), '', "verify: $what");
}

# ---- a hub with many cookies, far above the bridge guard ----
$node->safe_psql('postgres', 'CREATE DATABASE hub');
$node->safe_psql('postgres', 'ALTER DATABASE hub SET cdp.bridge_guard = 100');
$node->safe_psql('hub', sprintf($setup, 'hub'));
$node->safe_psql('hub', q{
SELECT log(format('{user_id:hub,cookie:%s}', g), (timestamptz '2026-01-01Z' + g * interval '1 hour')::text) FROM generate_series(1, 1000) g;
SELECT log(format('{user_id:hub,email:%s@x.com}', g), '2026-03-01Z') FROM generate_series(1, 20) g;
SELECT apply();
});

is(judged('hub', q{
SELECT log('{user_id:hub,cookie:late1}', '2026-01-02Z'); SELECT apply();
SELECT log('{cookie:late2,cookie:700}', '2026-01-05 00:30Z'); SELECT apply();
SELECT log('{cookie:10,cookie:20}', '2026-01-03Z'); SELECT apply();
SELECT log('{cookie:900,cookie:20}', '2026-01-02Z'); SELECT apply();
SELECT log('{user_id:hub,cookie:800}', '2026-01-04 00:30Z'); SELECT apply();
SELECT log(format('{user_id:hub,cookie:more%s}', g), (timestamptz '2026-01-01 00:10Z' + g * interval '1 hour')::text) FROM generate_series(1, 500) g; SELECT apply();
}), 0, 'leaves and links inside, in one session, are judged at once');
is($node->safe_psql('hub', 'TABLE profile'), '1523|1', 'and are there');
verified('hub', 'leaves and links inside');
is(judged('hub', q{SELECT log('{user_id:hub,cookie:other}', '2026-01-02Z'); SELECT apply();}), 0, 'also in a new session');
verified('hub', 'in a new session');

# a second user is refused at any time after the hub was one
is(judged('hub', q{
SELECT log('{user_id:eve,cookie:5}', '2026-04-01Z'); SELECT apply();
SELECT log('{user_id:mel,cookie:6}', '2026-03-02Z'); SELECT apply();
SELECT log('{user_id:mel,cookie:6}', '2026-03-01 12:00Z'); SELECT apply();
SELECT log('{user_id:hub,cookie:late3}', '2026-01-02Z'); SELECT apply();
}), 0, 'what is refused after the last union is so at once, and stays so');
is($node->safe_psql('hub', q{SELECT refused('user_id:mel', 'cookie:6'), refused('user_id:eve', 'cookie:5')}),
	'refused limit|refused limit', 'both are refused');
verified('hub', 'refusals');
# … but before that, it matters
is(judged('hub', q{SELECT log('{user_id:first,cookie:7}', '2025-12-31Z'); SELECT apply();}), 0,
	'who came before the hub takes a leaf away from it');
is($node->safe_psql('hub', q{SELECT refused('user_id:hub', 'cookie:7'), refused('user_id:first', 'cookie:7'), resolve('user_id:first') = resolve('cookie:7')}),
	'refused limit|accepted |t', 'the later link is refused');
verified('hub', 'a user who came first');
# … and in the middle, it depends on who was there by then
is(judged('hub', q{
SELECT log('{user_id:ann,cookie:8}', '2026-02-01Z'); SELECT apply();
SELECT log('{user_id:bob,cookie:810}', '2026-01-20Z'); SELECT log('{user_id:cid,cookie:811}', '2026-01-20Z'); SELECT apply();
SELECT log('{user_id:bob,cookie:812}', '2026-01-21Z'); SELECT log('{cookie:813,cookie:814}', '2026-01-19Z'); SELECT log('{user_id:dan,cookie:813}', '2026-01-20Z'); SELECT apply();
}), 0, 'late users are refused, or take leaves away, by who was with the hub at their time');
is($node->safe_psql('hub', q{SELECT refused('user_id:ann', 'cookie:8'), refused('user_id:hub', 'cookie:811'), refused('user_id:hub', 'cookie:812'),
	resolve('user_id:bob') = resolve('cookie:810'), resolve('user_id:bob') = resolve('cookie:812'), resolve('user_id:dan') = resolve('cookie:814')}),
	'refused limit|refused limit|refused limit|t|t|t', 'ann came too late, bob and cid did not');
verified('hub', 'users in the middle');
# several links to one node of the rest
is(judged('hub', q{
SELECT log('{cookie:g1,email:g1@x.com}', '2026-03-09Z'), log('{user_id:hub,cookie:g1,email:g1@x.com}', '2026-03-10Z'), log('{cookie:g2,cookie:g1}', '2026-03-12Z'); SELECT apply();
SELECT log('{user_id:zoe,cookie:g2}', '2026-03-09Z'), log('{user_id:zoe,cookie:g1}', '2026-03-09Z'); SELECT apply();
}), 0, 'a few who hang together leave together');
is($node->safe_psql('hub', q{SELECT refused('user_id:hub', 'cookie:g1'), refused('user_id:hub', 'email:g1@x.com'),
	(SELECT count(*) FROM cdp.identities WHERE profile_id = resolve('user_id:zoe'))}), 'refused limit|refused limit|4', 'four are with zoe');
verified('hub', 'a few who leave together');
# one to whom others were refused
is(judged('hub', q{SELECT log('{user_id:old,cookie:5}', '2025-12-31Z'); SELECT apply();}), 0, 'who was refused to a leaf is judged again with it');
verified('hub', 'a leaf with refusals');
# … and who holds more than a few together
is(judged('hub', q{SELECT log('{user_id:hub,cookie:wide}', '2026-02-02Z'); SELECT log(format('{cookie:wide,cookie:wide%s}', g), '2026-02-03Z') FROM generate_series(1, 300) g; SELECT apply();
SELECT log('{user_id:wim,cookie:wide}', '2026-02-01Z'); SELECT apply();}), 1, 'a large part takes a judgement of all');
is($node->safe_psql('hub', q{SELECT refused('user_id:hub', 'cookie:wide'), (SELECT count(*) FROM cdp.identities WHERE profile_id = resolve('user_id:wim'))}),
	'refused limit|302', 'which is somebody else now');
verified('hub', 'a large part');

# ---- a device of many, whose user is another one than it seemed ----
$node->safe_psql('postgres', 'CREATE DATABASE shared');
$node->safe_psql('postgres', 'ALTER DATABASE shared SET cdp.bridge_guard = 100');
$node->safe_psql('shared', sprintf($setup, 'shared'));
$node->safe_psql('shared', q{
SELECT log(format('{cookie:team,cookie:%s}', g), (timestamptz '2026-01-01Z' + g * interval '1 hour')::text) FROM generate_series(1, 500) g;
SELECT log('{user_id:eva,cookie:eva}', '2026-01-02Z'), log('{user_id:eva,cookie:team}', '2026-01-10Z');
SELECT create_trait('seen', aggregate => 'count', event => 'V');
SELECT create_segment('busy', 'seen >= 2');
SELECT apply();
});
is(judged('shared', q{SELECT log('{user_id:ben,cookie:team}', '2026-01-05Z'); SELECT apply();}), 0, 'an earlier user takes the place of the later one');
is($node->safe_psql('shared', q{SELECT refused('user_id:eva', 'cookie:team'), refused('user_id:ben', 'cookie:team'), resolve('user_id:eva') = resolve('cookie:eva')}),
	'refused limit|accepted |t', 'who leaves with what was hers');
verified('shared', 'an earlier user');

# ---- what hangs on the hub by a single link leaves it and comes back ----
$node->safe_psql('postgres', 'CREATE DATABASE edge');
$node->safe_psql('postgres', 'ALTER DATABASE edge SET cdp.bridge_guard = 100');
$node->safe_psql('edge', sprintf($setup, 'edge'));
$node->safe_psql('edge', q{
INSERT INTO events (message_id, event, identifiers, occurred_at)
SELECT 'm' || g, 'V', ARRAY['user_id:hub', 'cookie:' || g]::identifier[], timestamptz '2026-01-01Z' + g * interval '1 hour' FROM generate_series(1, 1000) g;
SELECT log(format('{cookie:%s,device:%s}', g, g), '2026-03-01Z') FROM generate_series(10, 20) g;
SELECT log('{user_id:hub,cookie:30}', '2026-03-02Z');
SELECT log('{user_id:mel,cookie:40}', '2026-03-02Z');
SELECT create_identifier_kind('device', priority => 30);
SELECT create_trait('seen', aggregate => 'count', event => 'V');
SELECT create_segment('busy', 'seen >= 2');
SELECT apply();
});
is($node->safe_psql('edge', 'TABLE profile'), '1012|1', 'the hub');
is($node->safe_psql('edge', q{SELECT refused('user_id:mel', 'cookie:40')}), 'refused limit', 'a second user is refused');
my $steps = q{
SELECT undo('m50', 'sql') AS u \gset
SELECT apply(); SELECT * FROM verify(); SELECT 'undo', identifiers FROM profile;
SELECT undo(:'u', 'sql') \gset
SELECT apply(); SELECT * FROM verify(); SELECT 'undo of it', identifiers FROM profile;
SELECT undo('m30', 'sql') \gset
SELECT apply(); SELECT * FROM verify(); SELECT 'later evidence remains', identifiers FROM profile;
SELECT undo('m10', 'sql') \gset
SELECT apply(); SELECT * FROM verify(); SELECT 'undo, two nodes', identifiers FROM profile;
SELECT split('user_id:hub', 'cookie:12') AS s \gset
SELECT apply(); SELECT * FROM verify(); SELECT 'split', identifiers FROM profile;
SELECT undo(:'s') \gset
SELECT apply(); SELECT * FROM verify(); SELECT 'split undone', identifiers FROM profile;
SELECT detach('cookie:13') AS d \gset
SELECT apply(); SELECT * FROM verify(); SELECT 'detached', identifiers FROM profile;
SELECT undo(:'d') \gset
SELECT apply(); SELECT * FROM verify(); SELECT 'detached no more', identifiers FROM profile;
SELECT merge('user_id:hub', 'cookie:15') AS m \gset
SELECT apply(); SELECT * FROM verify(); SELECT 'merged with itself', identifiers FROM profile;
SELECT undo(:'m') \gset
SELECT apply(); SELECT * FROM verify(); SELECT 'and not', identifiers FROM profile;
SELECT log('{cookie:new,device:new}', '2026-03-03Z'); SELECT apply();
SELECT merge('cookie:16', 'device:new') AS m \gset
SELECT apply(); SELECT * FROM verify(); SELECT 'merged with others', identifiers FROM profile;
SELECT undo(:'m') \gset
SELECT apply(); SELECT * FROM verify(); SELECT 'and not', identifiers FROM profile;
SELECT log('{user_id:hub,cookie:700}', '2026-01-02Z'); SELECT apply(); SELECT * FROM verify();
};
{
	my ($rc, $out, $err) = $node->psql('edge', "SET client_min_messages = debug1;\n$steps");
	is($rc, 0, 'statements succeed') or diag $err;
	unlike($err, qr/judging \d{3,} links again/, 'none of it takes a judgement of all');
	is(join(' ', $out =~ /^[a-z].*\|.*$/mg), 'undo|1011 undo of it|1012 later evidence remains|1012 undo, two nodes|1010 split|1008 split undone|1010'
		. ' detached|1008 detached no more|1010 merged with itself|1010 and not|1010 merged with others|1012 and not|1010', 'who is with the hub');
	unlike($out, qr/^(identity|traits|segments|log)/m, 'verify finds nothing on the way');
}
# what holds two parts together in another way
is(judged('edge', q{SELECT log('{cookie:101,cookie:102}', '2026-03-04Z'); SELECT apply(); SELECT undo('m101', 'sql'); SELECT apply();}), 0,
	'a link that others replace');
is(judged('edge', q{SELECT log('{cookie:111,cookie:112}', '2026-01-05Z'), log('{cookie:111,cookie:113}', '2026-01-05Z'),
	log('{cookie:112,cookie:113}', '2026-01-05Z'); SELECT apply(); SELECT undo('m111', 'sql'), undo('m112', 'sql'); SELECT apply();}), 0,
	'two of three that others replace');
is($node->safe_psql('edge', 'TABLE profile'), '1010|1', 'nobody has left');
verified('edge', 'other ways');
# … and who was refused may come in
is(judged('edge', q{SELECT split('user_id:hub', 'cookie:40'); SELECT apply();}), 1, 'so does a split at what was refused');
is($node->safe_psql('edge', q{SELECT refused('user_id:mel', 'cookie:40'), refused('user_id:hub', 'cookie:40')}), 'accepted |overruled cannot-link',
	'the second user has the cookie');
verified('edge', 'a split at what was refused');
# what is with the hub again loses a link of its own in the same batch
$node->safe_psql('edge', q{
SELECT log('{user_id:hub,cookie:pair}', '2026-03-05Z');
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES ('pair', 'V', '{cookie:pair,device:pair}', '2026-03-05 01:00Z');
SELECT apply();
SELECT split('user_id:hub', 'cookie:pair') AS s \gset
SELECT apply();
SELECT undo(:'s'), undo('pair', 'sql');
SELECT apply();
});
is($node->safe_psql('edge', q{SELECT resolve('user_id:hub') = resolve('cookie:pair'), resolve('device:pair') IS NULL}), 't|t', 'the pair is parted, one of it is with the hub');
verified('edge', 'a split that goes with evidence of who was split off');

# ---- two halves that only just came together ----
$node->safe_psql('postgres', 'CREATE DATABASE halves');
$node->safe_psql('postgres', 'ALTER DATABASE halves SET cdp.bridge_guard = 200');
$node->safe_psql('halves', sprintf($setup, 'halves'));
$node->safe_psql('halves', q{
SELECT log(format('{user_id:hub,cookie:%s}', g), (timestamptz '2026-01-01Z' + g * interval '1 hour')::text) FROM generate_series(1, 300) g;
SELECT log(format('{device:d,cookie:d%s}', g), (timestamptz '2026-01-01Z' + g * interval '1 hour')::text) FROM generate_series(1, 197) g;
SELECT create_identifier_kind('device', priority => 20);
SELECT apply();
SELECT log('{user_id:hub,device:d}', '2026-03-01Z');
SELECT log(format('{user_id:hub,cookie:after%s}', g), '2026-03-02Z') FROM generate_series(1, 10) g;
SELECT apply();
});
is($node->safe_psql('halves', 'TABLE profile'), '509|1', '198 and 301 are joined by one link');
is(judged('halves', q{SELECT log('{device:d,cookie:one}', '2026-01-02Z'); SELECT apply();}), 0, 'room for one more');
is($node->safe_psql('halves', 'TABLE profile'), '510|1', 'still one');
verified('halves', 'room for one more');
is(judged('halves', q{SELECT log('{device:d,cookie:two}', '2026-01-02Z'); SELECT apply();}), 1, 'the next one reaches the guard');
is($node->safe_psql('halves', 'TABLE profile'), '311|1', 'and the link is held');
is($node->safe_psql('halves', q{SELECT refused('user_id:hub', 'device:d')}), 'refused bridge', 'as a bridge');
verified('halves', 'a bridge');
# evidence that joins them earlier, when they were small
is(judged('halves', q{SELECT log('{device:d,cookie:3}', '2026-01-01 04:00Z'); SELECT apply();}), 1, 'early evidence joins them');
is($node->safe_psql('halves', 'TABLE profile'), '511|1', 'in one profile');
is(judged('halves', q{SELECT log(format('{device:d,cookie:x%s}', g), '2026-01-05Z') FROM generate_series(1, 300) g; SELECT apply();}), 0, 'which may grow');
verified('halves', 'early evidence');

# ---- merges by hand of who has evidence that is ahead of them ----
$node->safe_psql('postgres', 'CREATE DATABASE ahead');
$node->safe_psql('postgres', "ALTER DATABASE ahead SET cdp.$_") for 'bridge_guard = 200', "now = '2026-03-01Z'";
$node->safe_psql('ahead', sprintf($setup, 'ahead'));
$node->safe_psql('ahead', q{
SELECT log(format('{user_id:hub,cookie:%s}', g), (timestamptz '2026-01-01Z' + g * interval '1 hour')::text) FROM generate_series(1, 300) g;
SELECT log(format('{device:d,cookie:d%s}', g), (timestamptz '2026-01-01Z' + g * interval '1 hour')::text) FROM generate_series(1, 100) g;
SELECT log('{user_id:hub,cookie:ahead}', '2026-03-01 00:02Z'), log('{user_id:hub,cookie:1}', '2026-03-01 00:03Z');
SELECT log('{user_id:ann,cookie:ann}', '2026-02-01Z'), log('{user_id:bob,cookie:bob}', '2026-02-01Z'), log('{user_id:cid,cookie:cid}', '2026-02-01Z');
SELECT log('{user_id:eve,cookie:2}', '2026-03-01 00:01Z'), log('{user_id:bob,cookie:3}', '2026-03-01 00:01Z'), log('{user_id:cid,cookie:4}', '2026-02-02Z');
SELECT create_identifier_kind('device', priority => 20);
SELECT log('{user_id:dan,device:d}', '2026-03-01 00:01Z');
SELECT apply();
});
is(judged('ahead', q{
SELECT merge('user_id:hub', 'user_id:ann') AS m \gset
SELECT apply(); SELECT * FROM verify();
SELECT undo(:'m'); SELECT apply(); SELECT * FROM verify();
SELECT merge('user_id:hub', 'user_id:ann'); SELECT apply();
SET cdp.now = '2026-03-01 00:00:01Z'; SELECT merge('cookie:200', 'user_id:cid'); SELECT apply();
SELECT merge('cookie:9', 'cookie:99'); SELECT apply();
}), 0, 'what came later, and was refused for its user then, makes no difference');
is($node->safe_psql('ahead', q{TABLE profile; SELECT refused('user_id:eve', 'cookie:2'), refused('user_id:bob', 'cookie:3')}),
	"306|3\nrefused limit|refused limit", 'they are together');
verified('ahead', 'merges before what came');
is(judged('ahead', q{SELECT merge('user_id:hub', 'user_id:bob'); SELECT apply();}), 1, 'what was refused between the two takes a judgement of all');
is($node->safe_psql('ahead', q{SELECT refused('user_id:bob', 'cookie:3')}), 'accepted ', 'and is not any more');
verified('ahead', 'a merge before a refusal');
is(judged('ahead', q{SELECT merge('device:d', 'user_id:late'); SELECT apply();}), 1, 'so does a user who came later');
is($node->safe_psql('ahead', q{SELECT refused('user_id:dan', 'device:d'), resolve('cookie:d7') = resolve('user_id:late')}), 'refused limit|t', 'who is refused now');
verified('ahead', 'a merge before a user');
$node->safe_psql('ahead', q{
SELECT log(format('{cookie:e0,cookie:e%s}', g), '2026-02-03Z') FROM generate_series(1, 198) g;
SELECT log('{cookie:e0,cookie:10}', '2026-03-01 00:02Z'); SELECT apply();
});
is($node->safe_psql('ahead', q{SELECT refused('cookie:e0', 'cookie:10')}), 'accepted ', '199 come to the hub');
is(judged('ahead', q{
SELECT merge('cookie:e7', 'cookie:new'); SELECT apply();
}), 1, 'and the bridge guard, to whom it is one too many');
is($node->safe_psql('ahead', q{SELECT refused('cookie:e0', 'cookie:10')}), 'refused bridge', 'which holds them');
verified('ahead', 'a merge before what the guard holds');
is(judged('ahead', q{SET cdp.now = '2026-04-01Z'; SELECT merge('cookie:e1', 'cookie:11'); SELECT apply();}), 1, 'so does a merge after it');
is($node->safe_psql('ahead', q{SELECT refused('cookie:e0', 'cookie:10')}), 'accepted ', 'by which they are together');
verified('ahead', 'a merge after what the guard holds');

# ---- a full profile, and a flood of identifiers in disorder ----
$node->safe_psql('postgres', 'CREATE DATABASE flood');
$node->safe_psql('postgres', 'ALTER DATABASE flood SET cdp.max_profile_identifiers = 300');
$node->safe_psql('flood', sprintf($setup, 'flood'));
$node->safe_psql('flood', q{
SELECT log(format('{user_id:hub,cookie:%s}', g), (timestamptz '2026-01-01Z' + g * interval '1 hour')::text) FROM generate_series(1, 400) g;
SELECT apply();
});
is($node->safe_psql('flood', 'TABLE profile'), '300|1', 'the profile is full');
is(judged('flood', q{
SELECT log(format('{user_id:hub,cookie:x%s}', g), (timestamptz '2026-01-15Z' - g * interval '1 s')::text) FROM generate_series(1, 300) g; SELECT apply();
SELECT log(format('{user_id:hub,cookie:y%s}', g), (timestamptz '2026-01-15Z' - g * interval '1 s')::text) FROM generate_series(1, 300) g; SELECT apply();
SELECT log('{user_id:hub,cookie:x5}', '2026-01-14 22:00Z'); SELECT apply();
}), 0, 'a flood in disorder, since it was full, is refused at once');
is($node->safe_psql('flood', 'TABLE profile'), '300|1', 'it stays full');
verified('flood', 'a flood');
is(judged('flood', q{SELECT log('{user_id:hub,cookie:z}', '2026-01-02Z'); SELECT apply();
SELECT log('{user_id:hub,cookie:x}', '2026-01-13 10:30Z'); SELECT apply();}), 0, 'who came before it was full takes the place of the last one, who came later does not');
is($node->safe_psql('flood', q{SELECT refused('user_id:hub', 'cookie:z'), refused('user_id:hub', 'cookie:299')}), 'accepted |refused size', 'as it were in order');
verified('flood', 'the last one');
is(judged('flood', q{
SELECT log(format('{user_id:hub,cookie:w%s}', g), (timestamptz '2026-01-03Z' + g * interval '1 s')::text) FROM generate_series(1, 120) g; SELECT apply();
SELECT log('{user_id:hub,cookie:x9}', '2026-01-03Z'); SELECT log('{user_id:hub,cookie:350}', '2026-01-04Z'); SELECT apply();
}), 0, 'so do many, and some who were refused');
is($node->safe_psql('flood', q{TABLE profile; SELECT refused('user_id:hub', 'cookie:350'), refused('user_id:hub', 'cookie:177'), refused('user_id:hub', 'cookie:175')}),
	"300|1\naccepted |refused size|accepted ", 'the last ones have left');
verified('flood', 'many late ones');
is(judged('flood', q{SELECT log('{cookie:p1,email:p1@x.com}', '2026-01-02Z'), log('{user_id:hub,cookie:p1}', '2026-01-03Z'); SELECT apply();}), 1, 'two who are one take a judgement of all');
verified('flood', 'two who are one');
# … and two halves that only just came together
is(judged('flood', q{
SET cdp.bridge_guard = 110;
SELECT log(format('{anonymous_id:half,cookie:h%s}', g), (timestamptz '2026-01-01Z' + g * interval '1 hour')::text) FROM generate_series(1, 108) g;
SELECT log(format('{anonymous_id:other,cookie:o%s}', g), (timestamptz '2026-01-01Z' + g * interval '1 hour')::text) FROM generate_series(1, 186) g;
SELECT log('{anonymous_id:half,anonymous_id:other}', '2026-03-01Z'); SELECT apply();
SELECT log(format('{anonymous_id:other,cookie:after%s}', g), (timestamptz '2026-03-02Z' + g * interval '1 hour')::text) FROM generate_series(1, 6) g; SELECT apply();
SELECT log('{anonymous_id:half,cookie:h}', '2026-01-01Z'); SELECT apply();
}), 1, 'one more in the smaller half reaches the guard');
is($node->safe_psql('flood', q{SELECT refused('anonymous_id:half', 'anonymous_id:other'), refused('anonymous_id:other', 'cookie:after4')}), 'refused bridge|accepted ', 'and the link is held');
is($node->safe_psql('flood', 'SET cdp.bridge_guard = 110; SELECT * FROM verify()'), '', 'verify: halves of a full profile');

# ---- the guard for hours, while it fills, and later a late entry about what was refused ----
$node->safe_psql('postgres', 'CREATE DATABASE hours');
$node->safe_psql('postgres', "ALTER DATABASE hours SET cdp.$_") for 'max_new_identifiers_per_hour = 50', 'max_profile_identifiers = 300';
$node->safe_psql('hours', sprintf($setup, 'hours'));
$node->safe_psql('hours', q{
SELECT log(format('{user_id:hub,cookie:%s}', g), (timestamptz '2026-01-01Z' + g * interval '30 s')::text) FROM generate_series(0, 1499) g;
SELECT apply();
});
is($node->safe_psql('hours', q{TABLE profile; SELECT reason, count(*) FROM cdp.links WHERE reason IS NOT NULL GROUP BY 1 ORDER BY 1}),
	"300|1\nrate|350\nsize|850", 'fifty an hour until it is full');
is(judged('hours', q{
SELECT log('{user_id:hub,cookie:1400}', '2026-01-01 07:10Z'); SELECT apply();
SELECT log('{cookie:1300,cookie:7}', '2026-01-01 08:10Z'); SELECT apply();
SELECT log('{cookie:1200}', '2025-12-31Z'); SELECT apply();
SELECT log(format('{user_id:hub,cookie:%s}', g), '2026-01-01 07:30Z') FROM generate_series(1400, 1450) g; SELECT apply();
}), 0, 'an hour makes no difference to what was refused for size');
is(judged('hours', q{SELECT log('{cookie:1250}', '2025-12-30Z'); SELECT apply();}), 0, 'also in a new session');
verified('hours', 'other hours of what was refused');
is(judged('hours', q{SELECT log('{cookie:7}', '2025-12-31Z'); SELECT apply();}), 1, 'one less in an hour that was full');
is($node->safe_psql('hours', q{SELECT refused('user_id:hub', 'cookie:50'), refused('user_id:hub', 'cookie:51')}),
	'accepted |refused rate', 'the next one takes its place');
verified('hours', 'a place in an hour');
is(judged('hours', q{SELECT log('{cookie:110}', '2025-12-31Z'); SELECT apply();}), 1, 'one that was refused for its hour had another hour');
is($node->safe_psql('hours', q{SELECT refused('user_id:hub', 'cookie:110')}), 'accepted ', 'and is taken');
verified('hours', 'another hour');

# ---- so many that all of cdp.links is read in place of looking up each of them ----
$node->safe_psql('postgres', 'CREATE DATABASE most');
$node->safe_psql('most', sprintf($setup, 'most'));
$node->safe_psql('most', q{
SELECT log(format('{user_id:hub,cookie:%s}', g), (timestamptz '2026-01-01Z' + g * interval '1 minute')::text) FROM generate_series(1, 10050) g;
SELECT log(format('{user_id:other,cookie:%s}', -g), '2026-01-20Z') FROM generate_series(1, 100) g;
SELECT apply();
});
is(judged('most', q{SELECT log('{cookie:10,cookie:20}', '2026-01-03Z'); SELECT apply();}), 0, 'a link inside, by the timeline');
is(judged('most', q{SELECT log('{cookie:900,cookie:20}', '2026-01-01 10:00Z'); SELECT apply();}), 1, 'one before another end came, by all links');
verified('most', 'all links read');

# ---- a guard that is lowered takes a large profile apart, and raised puts it together again ----
$node->safe_psql('postgres', 'CREATE DATABASE apart');
$node->safe_psql('apart', sprintf($setup, 'apart'));
$node->safe_psql('apart', q{
SELECT log(format('{user_id:hub,cookie:%s}', g), (timestamptz '2026-01-01Z' + g * interval '1 minute')::text) FROM generate_series(1, 2500) g;
SELECT log(format('{cookie:2500,cookie:w%s}', g), '2026-02-01Z') FROM generate_series(1, 300) g;
SELECT create_trait('seen', aggregate => 'count', event => 'V');
SELECT apply();
});
my $told = q{
SELECT 'told', count(DISTINCT seq), max(jsonb_array_length(ids)), bool_and((payload->>'partial')::bool), count(DISTINCT id), min(id::bigint), max(id::bigint)
FROM cdp.changes c, LATERAL (SELECT coalesce(payload->'into', payload->'merges') AS ids) l, jsonb_array_elements(ids) id
WHERE kind = '%s' AND profile_id = resolve('user_id:hub');
};
my $parts = "SET cdp.max_profile_identifiers = 100;\n" . q{
SELECT log('{user_id:wim,cookie:2500}', '2025-12-31Z'); SELECT apply();
};
is(judged('apart', $parts), 1, 'a judgement of all under another guard');
is($node->safe_psql('apart', 'SET cdp.max_profile_identifiers = 100; SELECT * FROM cdp.verify()'), '', 'verify: taken apart');
is($node->safe_psql('apart', 'TABLE profile; SELECT count(*) > 2500 FROM (SELECT FROM cdp.identities GROUP BY profile_id) p'), "100|1\nt", 'most are alone');
like($node->safe_psql('apart', sprintf($told, 'profile_split')), qr/^told\|3\|1000\|t\|2604\|1\|/, 'they are told by changes of a thousand');
$node->safe_psql('apart', q{
SELECT log('{user_id:hub,cookie:2500}', '2025-12-30Z'); SELECT apply();
});
is($node->safe_psql('apart', 'TABLE profile'), '2801|1', 'all are one again');
like($node->safe_psql('apart', sprintf($told, 'profile_merged')), qr/^told\|3\|1000\|t\|2603\|/, 'which is told likewise');
is($node->safe_psql('apart', q{SELECT count(*) FROM cdp.merges(resolve('user_id:hub'))}), '2603', 'and all are remembered');
verified('apart', 'together again');

# ---- more in one cluster than is kept in memory from batch to batch ----
$node->safe_psql('postgres', 'CREATE DATABASE heavy');
$node->safe_psql('postgres', "ALTER DATABASE heavy SET cdp.$_") for 'max_profile_identifiers = 100', 'replay_at_commit = 0';
$node->safe_psql('heavy', sprintf($setup, 'heavy'));
$node->safe_psql('heavy', q{
SELECT create_trait('letter', aggregate => 'last', value => $$properties->>'text'$$);
INSERT INTO cdp.events (event, identifiers, properties, occurred_at) SELECT 'V', ARRAY['cookie:' || g]::cdp.identifier[],
	jsonb_build_object('text', repeat(g::text || ' ', 3500)), timestamptz '2026-01-01Z' + g * interval '1 minute' FROM generate_series(1, 16000) g;
SELECT log(format('{user_id:hub,cookie:%s}', g), (timestamptz '2026-01-01Z' + g * interval '1 minute')::text) FROM generate_series(1, 16000) g;
SELECT apply();
});
is($node->safe_psql('heavy', 'TABLE profile'), '100|1', 'most were refused, and are of one cluster with the others');
is(judged('heavy', 'SELECT cdp.rejudge();' . 'SELECT apply(1000);' x 20), 1, 'a change of the rules has it judged once');
is($node->safe_psql('heavy', 'SELECT count(*) FROM cdp.rule_changes'), '0', 'and is through');
verified('heavy', 'more than is kept');

$node->stop;
done_testing();
