-- Identifiers that several people use: kinds with shared => anonymous and newest.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;
SET timezone = 'UTC';
CREATE VIEW people AS
	SELECT string_agg(identifier::text, ' ' ORDER BY identifier) AS identifiers
	FROM identities GROUP BY profile_id ORDER BY min(identifier::text COLLATE "C") COLLATE "C";
CREATE VIEW refusals AS
	SELECT least(i.identifier::text COLLATE "C", j.identifier::text) AS a, greatest(i.identifier::text COLLATE "C", j.identifier::text) AS b,
		l.origin, l.status, l.reason, l.detail
	FROM links l JOIN identities i ON i.node_id = l.a JOIN identities j ON j.node_id = l.b
	WHERE l.status <> 'accepted' ORDER BY 1, 2;
CREATE FUNCTION saw(message text, ids text, at timestamptz) RETURNS void LANGUAGE sql
	AS $$INSERT INTO cdp.events (message_id, event, identifiers, occurred_at, received_at) VALUES (message, 'x', ids::cdp.identifier[], at, '2026-11-01Z')$$;
-- who does not keep nodes sees the same: a restart between any two batches
CREATE FUNCTION restart() RETURNS void LANGUAGE sql AS 'UPDATE cdp.applier SET token = 1';

-- anonymous: a kiosk is the first user's until there is a second one, then nobody's
SELECT create_identifier_kind('kiosk', priority => 60, shared => 'anonymous');
SELECT saw('k1', '{user_id:ann,kiosk:1}', '2026-01-01Z'), saw('k2', '{cookie:a,user_id:ann}', '2026-01-01Z'), saw('k3', '{kiosk:1}', '2026-01-02Z');
SELECT apply();
SELECT * FROM people;
SELECT saw('k4', '{user_id:bob,kiosk:1}', '2026-01-03Z');
SELECT apply();
SELECT * FROM people;
SELECT * FROM refusals;
-- whoever comes then, comes without a replay of all who have come
SELECT restart();
SELECT saw('k5', '{user_id:cat,kiosk:1}', '2026-01-04Z'), saw('k6', '{cookie:d,kiosk:1}', '2026-01-01Z');
SELECT apply();
SELECT * FROM people;
SELECT * FROM verify();
-- people who may be one leave it where it is
SELECT saw('k7', '{user_id:eve,kiosk:2}', '2026-01-01Z'), saw('k8', '{email:eve@example.com,kiosk:2}', '2026-01-02Z'), saw('k9', '{cookie:e,kiosk:2}', '2026-01-03Z');
SELECT apply();
SELECT * FROM people WHERE identifiers ~ 'kiosk:2';
-- a split of all but one of them from the kiosk gives it back
SELECT split('kiosk:1', 'user_id:bob') \g /dev/null
SELECT apply();
SELECT * FROM people WHERE identifiers ~ 'kiosk:1';
SELECT split('kiosk:1', 'user_id:cat') AS entry \gset
SELECT apply();
SELECT * FROM people WHERE identifiers ~ 'kiosk:1';
SELECT * FROM refusals WHERE a ~ 'kiosk:1' OR b ~ 'kiosk:1';
SELECT * FROM verify();
SELECT undo(:'entry') \g /dev/null
SELECT apply();
SELECT * FROM people WHERE identifiers ~ 'kiosk:1';
-- a merge by hand keeps it
SELECT merge('kiosk:1', 'user_id:ann') \g /dev/null
SELECT apply();
SELECT * FROM people WHERE identifiers ~ 'kiosk:1';
SELECT * FROM verify();
-- an entry that made it contested goes
SELECT saw('m1', '{user_id:f,kiosk:3}', '2026-01-01Z'), saw('m2', '{user_id:g,kiosk:3}', '2026-01-02Z');
SELECT apply();
SELECT * FROM people WHERE identifiers ~ 'kiosk:3';
SELECT saw('m2', '{user_id:g,cookie:g}', '2026-01-01Z');
SELECT apply();
SELECT * FROM people WHERE identifiers ~ 'kiosk:3';
-- two kiosks: their link is refused when one of them is contested
SELECT saw('n1', '{kiosk:3,kiosk:4}', '2026-01-05Z');
SELECT apply();
SELECT * FROM people WHERE identifiers ~ 'kiosk:3';
SELECT saw('n2', '{user_id:h,kiosk:4}', '2026-01-06Z'), saw('n3', '{user_id:i,kiosk:4}', '2026-01-06Z');
SELECT apply();
SELECT * FROM people WHERE identifiers ~ 'kiosk:[34]';
SELECT * FROM refusals WHERE a ~ 'kiosk:[34]';
SELECT restart();
SELECT saw('n4', '{cookie:n,kiosk:3}', '2026-01-07Z');
SELECT apply();
SELECT * FROM people WHERE identifiers ~ 'kiosk:[34]';
SELECT * FROM verify();

-- newest: a tablet is whose who used it last
SELECT create_identifier_kind('tablet', priority => 61, shared => 'newest');
SELECT saw('t1', '{user_id:mum,tablet:1}', '2026-02-01Z'), saw('t2', '{user_id:dad,tablet:1}', '2026-02-02Z');
SELECT apply();
SELECT * FROM people WHERE identifiers ~ 'mum|dad';
SELECT * FROM refusals WHERE a ~ 'tablet';
-- she again; the evidence is known, its time is not
SELECT saw('t3', '{user_id:mum,tablet:1}', '2026-02-03Z');
SELECT apply();
SELECT * FROM people WHERE identifiers ~ 'mum|dad';
SELECT * FROM refusals WHERE a ~ 'tablet';
-- an entry that comes late and is not the latest changes nothing
SELECT restart();
SELECT saw('t4', '{user_id:dad,tablet:1}', '2026-02-02 12:00Z');
SELECT apply();
SELECT * FROM people WHERE identifiers ~ 'mum|dad';
-- somebody without a name is not kept out by it
SELECT saw('t5', '{cookie:kid,tablet:1}', '2026-02-04Z');
SELECT apply();
SELECT * FROM people WHERE identifiers ~ 'mum|dad|kid';
-- the cookie turns out to be dad's, so the tablet is
SELECT saw('t6', '{cookie:kid,user_id:dad}', '2026-02-05Z');
SELECT apply();
SELECT * FROM people WHERE identifiers ~ 'mum|dad|kid';
SELECT * FROM verify();
-- the latest entry is outdone by a copy
SELECT saw('t5', '{cookie:kid}', '2026-02-04Z'), saw('t3', '{user_id:mum}', '2026-02-02Z');
SELECT saw('t5', '{cookie:kid}', '2026-02-01Z');
SELECT apply();
SELECT * FROM people WHERE identifiers ~ 'mum|dad|kid';
SELECT * FROM verify();
-- a merge by hand is stronger than any use
SELECT saw('t7', '{user_id:mum,tablet:1}', '2026-02-06Z');
INSERT INTO events (message_id, type, identifiers, occurred_at, received_at) VALUES ('t8', 'merge', '{user_id:dad,tablet:1}', '2026-02-01Z', '2026-11-01Z');
SELECT apply();
SELECT * FROM people WHERE identifiers ~ 'mum|dad|kid';
SELECT * FROM verify();

-- a change of the policy replays the log
SELECT alter_identifier_kind('tablet', shared => 'first');
SELECT alter_identifier_kind('kiosk', shared => 'newest');
SELECT * FROM people WHERE identifiers ~ 'kiosk|tablet';
SELECT * FROM verify();

-- the order in which entries come makes no difference
CREATE TABLE results (rule text, people text, refused text);
CREATE VIEW outcome AS SELECT (SELECT string_agg(p.identifiers, E'\n') FROM people p) AS o1,
	(SELECT string_agg(concat_ws(' ', r.a, r.b, r.reason, r.detail), E'\n') FROM refusals r) AS o2;
CREATE FUNCTION enter(m text) RETURNS void LANGUAGE sql AS
$$INSERT INTO cdp.events (message_id, event, identifiers, occurred_at, received_at)
	VALUES (m, 'x', split_part(m, ' ', 2)::cdp.identifier[], split_part(m, ' ', 1)::timestamptz, '2026-11-01Z')$$;
\set ECHO none
\i test/include/permute.sql
\set ECHO all
CALL permute('newest', ARRAY['2026-01-01Z {user_id:a,kiosk:1}', '2026-01-02Z {user_id:b,kiosk:1}', '2026-01-03Z {user_id:a,kiosk:1}', '2026-01-04Z {cookie:c,kiosk:1}', '2026-01-05Z {user_id:b,cookie:c}']);
SELECT alter_identifier_kind('kiosk', shared => 'anonymous');
CALL permute('anonymous', ARRAY['2026-01-01Z {user_id:a,kiosk:1}', '2026-01-02Z {email:b@example.com,kiosk:1}', '2026-01-03Z {cookie:c,kiosk:2}', '2026-01-04Z {kiosk:1,kiosk:2}', '2026-01-05Z {user_id:b,email:b@example.com}']);
SELECT rule, count(*) AS orders, count(DISTINCT (people, refused)) AS results, min(people) AS people, min(refused) AS refused FROM results GROUP BY 1 ORDER BY 1;

-- newest from now on: who had it last is asked of the log, in steps
SELECT alter_identifier_kind('kiosk', shared => 'first');
TRUNCATE identities, links, entry_pieces;
DELETE FROM events;
SELECT saw('s1', '{user_id:a,kiosk:9}', '2026-02-01Z'), saw('s2', '{user_id:b,kiosk:9}', '2026-02-02Z'), saw('s3', '{user_id:c,kiosk:9}', '2026-02-03Z'), saw('s4', '{user_id:b,kiosk:9}', '2026-02-04Z');
SELECT apply();
SELECT * FROM people WHERE identifiers ~ ':9';
SET cdp.replay_at_commit = 0;
SELECT alter_identifier_kind('kiosk', shared => 'newest');
SELECT apply(3) FROM generate_series(1, 20);
SELECT count(*) FROM rule_changes;
SELECT * FROM people WHERE identifiers ~ ':9';
RESET cdp.replay_at_commit;
