-- Policies: what becomes of entries whose links break the limit of a kind.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;
SET timezone = 'UTC';
CREATE VIEW people AS
	SELECT string_agg(identifier::text, ' ' ORDER BY identifier) AS identifiers
	FROM identities GROUP BY profile_id ORDER BY min(identifier::text COLLATE "C") COLLATE "C";
CREATE FUNCTION saw(message text, ids text, at timestamptz) RETURNS void LANGUAGE sql
	AS $$INSERT INTO cdp.events (message_id, event, identifiers, occurred_at, received_at) VALUES (message, 'x', ids::cdp.identifier[], at, '2026-11-01Z')$$;
-- who does not keep nodes sees the same: a restart between any two batches
CREATE FUNCTION restart() RETURNS void LANGUAGE sql AS 'UPDATE cdp.applier SET token = 1';
SELECT create_trait('n', 'count');
-- what counts, and for whom
CREATE VIEW counts AS
	SELECT i.identifier, (cdp.profile(i.profile_id)->'traits'->>'n')::int AS n,
		(SELECT string_agg(e.message_id, ' ' ORDER BY e.message_id COLLATE "C") FROM entries n JOIN events e ON e.id = n.entry WHERE n.owner = i.node_id) AS entries
	FROM identities i ORDER BY i.identifier::text COLLATE "C";
CREATE VIEW aside AS
	SELECT message_id, reason, detail, sqlstate, held, payload->>'event' AS event FROM rejected ORDER BY message_id COLLATE "C";

-- refuse: the entry is known, and evidence, but does not count
SELECT alter_identifier_kind('user_id', policy => 'refuse');
SELECT saw('a1', '{user_id:ann,cookie:c}', '2026-01-01Z'), saw('a2', '{user_id:bob,cookie:c}', '2026-01-02Z'), saw('a3', '{user_id:bob}', '2026-01-03Z'),
	saw('a4', '{user_id:bob,cookie:c,cookie:d}', '2026-01-04Z'), saw('a5', '{user_id:bob,cookie:d}', '2026-01-05Z');
SELECT apply();
SELECT * FROM people;
SELECT * FROM counts;
SELECT * FROM aside;
SELECT identifier, first_seen, last_seen FROM identities ORDER BY identifier::text COLLATE "C";
SELECT * FROM verify();
-- an earlier entry turns it round: what counted does not any more, and the reverse
SELECT saw('a6', '{user_id:bob,cookie:c}', '2025-12-31Z');
SELECT apply();
SELECT * FROM people;
SELECT * FROM counts;
SELECT message_id FROM aside;
SELECT * FROM verify();
-- and back, by a better copy, after a restart
SELECT restart();
SELECT saw('a6', '{user_id:bob}', '2025-12-30Z');
SELECT apply();
SELECT * FROM counts;
SELECT message_id FROM aside;
SELECT * FROM verify();
-- a refused entry that is outdone leaves no trace
SELECT saw('a2', '{user_id:bob}', '2026-01-01Z'), saw('a4', '{user_id:bob}', '2026-01-01Z');
SELECT apply();
SELECT * FROM counts;
SELECT * FROM aside;
SELECT * FROM verify();
-- an undone entry frees the place: pairs are accepted, and their entries count
SELECT saw('a7', '{user_id:bob,cookie:c}', '2026-01-06Z');
SELECT apply();
SELECT message_id FROM aside;
SELECT undo('a1') AS undo \gset
SELECT apply();
SELECT * FROM people;
SELECT * FROM counts;
SELECT * FROM aside;
SELECT * FROM verify();
SELECT undo(:'undo', 'sql') \g /dev/null
SELECT apply();
SELECT * FROM counts;
SELECT message_id FROM aside;
SELECT * FROM verify();
-- timelines show what counts
SELECT message_id FROM timeline('user_id:bob') ORDER BY 1;

-- quarantine: held until it is released
SELECT alter_identifier_kind('user_id', policy => 'quarantine');
SELECT * FROM aside;
SELECT saw('b1', '{user_id:cat,cookie:c}', '2026-02-01Z'), saw('b2', '{user_id:cat,cookie:c}', '2026-02-02Z');
SELECT apply();
SELECT * FROM counts;
SELECT message_id, held FROM aside;
SELECT release('b1') AS release \gset
SELECT apply();
SELECT * FROM counts;
SELECT message_id, held FROM aside;
SELECT * FROM verify();
-- the release can be undone, and that, too
SELECT restart();
SELECT undo(:'release', 'sql') AS undo \gset
SELECT apply();
SELECT message_id, held FROM aside;
SELECT * FROM verify();
SELECT undo(:'undo', 'sql') \g /dev/null
SELECT apply();
SELECT message_id, held FROM aside;
SELECT * FROM counts;
-- a better copy of what was released is released
SELECT saw('b1', '{user_id:dan,cookie:c}', '2026-01-31Z');
SELECT apply();
SELECT message_id, held FROM aside;
SELECT * FROM counts;
SELECT undo(:'release', 'sql') \g /dev/null
SELECT apply();
SELECT message_id, held FROM aside;
SELECT * FROM counts;
SELECT * FROM verify();
-- a release may come before what it names
INSERT INTO events (message_id, source, type, properties, occurred_at, received_at) VALUES ('b9', 'shop', 'release', '{"entry": "b8"}', '2026-02-01Z', '2026-11-01Z');
SELECT apply();
INSERT INTO events (message_id, source, event, identifiers, occurred_at, received_at) VALUES ('b8', 'shop', 'x', '{user_id:eve,cookie:c}', '2026-02-03Z', '2026-11-01Z');
SELECT apply();
SELECT * FROM counts WHERE identifier = 'user_id:eve';
-- what cannot be released
SELECT release('nothing');
SELECT release('b8');
SELECT release('b2', 'shop');
SELECT release(NULL);
INSERT INTO events (message_id, source, event, identifiers, occurred_at, received_at) VALUES ('b2', 'shop', 'x', '{user_id:eve,cookie:c}', '2026-02-03Z', '2026-11-01Z');
SELECT apply();
SELECT release('b2');
SELECT release('b2', 'shop') IS NOT NULL AS logged;
INSERT INTO events (message_id, type, properties) VALUES ('b10', 'release', '{}');
SELECT apply();
SELECT message_id, reason, held FROM aside;
SELECT * FROM verify();

-- raise: an error at the call
SELECT alter_identifier_kind('user_id', policy => 'raise');
SELECT * FROM aside;
SELECT track('x', user_id => 'fay', anonymous_id => 'f', message_id => 'c1') IS NOT NULL AS logged;
SELECT apply();
SELECT track('x', user_id => 'gus', anonymous_id => 'f');
SELECT identify('gus', anonymous_id => 'f');
SELECT alias('f', 'gus');
SELECT track('x', user_id => 'gus', identifiers => '{cookie:g,anonymous_id:f}');
SELECT track('x', identifiers => '{user_id:gus,user_id:hal}');
SELECT count(*) FROM events WHERE identifiers && '{user_id:gus}';
SELECT track('x', user_id => 'gus', identifiers => '{cookie:g}', message_id => 'c2') IS NOT NULL AS logged;
-- what is pending is not seen; then it is refused
SELECT track('x', user_id => 'hal', identifiers => '{cookie:g}', message_id => 'c3') IS NOT NULL AS logged;
SELECT apply();
SELECT message_id, held FROM aside WHERE message_id ~ '^c';
SELECT track('x', user_id => 'hal', identifiers => '{cookie:g}');
-- other kinds have other policies: no error for what they refuse
SELECT alter_identifier_kind('user_id', policy => 'demote');
SELECT * FROM aside;
SELECT create_identifier_kind('card', max_per_profile => 1, within => '1 month', policy => 'raise');
SELECT track('x', user_id => 'ida', identifiers => '{card:1}', occurred_at => '2026-05-01Z') IS NOT NULL AS logged;
SELECT apply();
SELECT track('x', user_id => 'ida', identifiers => '{card:2}', occurred_at => '2026-05-31Z');
SELECT track('x', user_id => 'ida', identifiers => '{card:2}', occurred_at => '2026-06-01Z') IS NOT NULL AS logged;
SELECT track('x', user_id => 'hal', identifiers => '{cookie:g}') IS NOT NULL AS logged;
SELECT apply();
SELECT * FROM verify();

-- the strongest of several policies, by the first kind whose limit is broken
SELECT create_identifier_kind('pass', max_per_profile => 1, policy => 'quarantine');
SELECT alter_identifier_kind('card', policy => 'refuse');
SELECT saw('d1', '{cookie:d1,pass:1}', '2026-03-01Z'), saw('d2', '{cookie:d2,pass:2}', '2026-03-01Z'), saw('d3', '{cookie:d1,cookie:d2}', '2026-03-05Z');
SELECT apply();
SELECT message_id, detail, held FROM aside WHERE message_id ~ '^d';
SELECT saw('d4', '{cookie:d1,card:d1}', '2026-03-02Z'), saw('d5', '{cookie:d2,card:d2}', '2026-03-02Z');
SELECT apply();
SELECT message_id, detail, held FROM aside WHERE message_id ~ '^d';
SELECT * FROM verify();

-- the order in which entries come makes no difference
CREATE TABLE results (rule text, people text, counts text, aside text);
CREATE VIEW outcome AS SELECT (SELECT string_agg(p.identifiers, E'\n') FROM people p) AS o1,
	(SELECT string_agg(concat_ws(' ', c.identifier, c.n, c.entries), E'\n') FROM counts c) AS o2,
	(SELECT string_agg(concat_ws(' ', a.message_id, a.detail, a.held), E'\n') FROM aside a) AS o3;
CREATE FUNCTION enter(m text) RETURNS void LANGUAGE sql AS
$$INSERT INTO cdp.events (message_id, type, event, identifiers, properties, occurred_at, received_at)
	VALUES (m, CASE WHEN m ~ '{}$' THEN 'release' ELSE 'track' END, 'x', split_part(m, ' ', 2)::cdp.identifier[],
		CASE WHEN m ~ '{}$' THEN '{"entry": "2026-01-02Z {user_id:b,cookie:c}"}'::jsonb END, split_part(m, ' ', 1)::timestamptz, '2026-11-01Z')$$;
\set ECHO none
\i test/include/permute.sql
\set ECHO all
SELECT alter_identifier_kind('user_id', policy => 'quarantine');
CALL permute('quarantine', ARRAY['2026-01-01Z {user_id:a,cookie:c}', '2026-01-02Z {user_id:b,cookie:c}', '2026-01-03Z {user_id:b,cookie:c}', '2026-01-04Z {user_id:b}', '2026-01-05Z {}']);
SELECT rule, count(*) AS orders, count(DISTINCT (people, counts, aside)) AS results, min(people) AS people, min(counts) AS counts, min(aside) AS aside FROM results GROUP BY 1 ORDER BY 1;
