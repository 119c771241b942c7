-- The identity graph: links, limits, merges, splits, undos, late evidence.
SET client_min_messages = warning;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;
\set SHOW_CONTEXT never

CREATE VIEW who AS
	SELECT profile_id, array_agg(identifier::text ORDER BY identifier::text COLLATE "C") AS identifiers
	FROM identities GROUP BY profile_id;
CREATE VIEW evidence AS
	SELECT least(i.identifier::text, j.identifier::text) AS x, greatest(i.identifier::text, j.identifier::text) AS y,
		l.origin, l.status, l.reason
	FROM links l JOIN identities i ON i.node_id = l.a JOIN identities j ON j.node_id = l.b;

-- a stream in order: an anonymous visitor becomes known on two devices; a
-- second user on the second device is kept apart by the limit of user_id
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('m1', 'Viewed', '{anonymous_id:phone}', '2026-01-01Z'),
	('m2', 'Viewed', '{anonymous_id:tablet}', '2026-01-02Z'),
	('m3', 'Signed Up', '{anonymous_id:phone,user_id:ada}', '2026-01-03Z'),
	('m4', 'Logged In', '{user_id:ada,anonymous_id:tablet,email:Ada@Example.com}', '2026-01-04Z'),
	('m5', 'Logged In', '{user_id:bob,anonymous_id:tablet}', '2026-01-05Z');
SELECT apply();
SELECT * FROM who ORDER BY 1;
SELECT * FROM evidence ORDER BY x, y;
SELECT identifier, first_seen, last_seen FROM identifiers(resolve('email:ada@example.com')) ORDER BY identifier;
SELECT 'user_id:ada'::identifier ~= 'anonymous_id:phone' AS same, 'user_id:ada'::identifier ~= 'user_id:bob' AS other, 'user_id:ada'::identifier ~= 'user_id:nobody' AS unknown;

-- bob was first after all: late evidence takes the tablet from ada
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('m0', 'Logged In', '{user_id:bob,anonymous_id:tablet}', '2026-01-01 12:00Z');
SELECT apply();
SELECT * FROM who ORDER BY 1;
SELECT * FROM evidence ORDER BY x, y;

-- a merge by hand is not held to the limit; its undo restores what was
SELECT user_id_merge AS merge FROM (SELECT merge('user_id:ada', 'user_id:bob', 'same person')) AS m (user_id_merge) \gset
SELECT apply();
SELECT * FROM who ORDER BY 1;
SELECT undo(:'merge') AS undo \gset
SELECT apply();
SELECT * FROM who ORDER BY 1;
-- and the undo can be undone
SELECT undo(:'undo') AS undo2 \gset
SELECT apply();
SELECT * FROM who ORDER BY 1;
SELECT undo(:'undo2') IS NOT NULL AS undone;
SELECT apply();

-- a split overrules evidence of any time, until it is undone
SELECT ('user_id:ada'::identifier </> 'anonymous_id:phone') AS split \gset
SELECT apply();
SELECT * FROM who ORDER BY 1;
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('m6', 'Logged In', '{user_id:ada,anonymous_id:phone}', '2026-02-01Z');
SELECT apply();
SELECT * FROM who ORDER BY 1;
SELECT * FROM evidence WHERE status = 'overruled' ORDER BY x, y;
-- the later word about the same pair counts
SELECT 'user_id:ada'::identifier <+> 'anonymous_id:phone' IS NOT NULL AS merged;
SELECT apply();
SELECT * FROM who ORDER BY 1;
SELECT undo(:'split') IS NOT NULL AS undone;
SELECT apply();
SELECT * FROM who ORDER BY 1;

-- role addresses and unregistered kinds are labels, blocked values nothing
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('m7', 'Asked', '{user_id:carl,email:info@acme.com}', '2026-02-02Z'),
	('m8', 'Asked', '{user_id:dora,email:info@acme.com}', '2026-02-02Z'),
	('m9', 'Asked', '{user_id:carl,badge:7}', '2026-02-02Z'),
	('m10', 'Asked', '{email:info@acme.com}', '2026-02-02Z'),
	('m11', 'Asked', '{user_id:null}', '2026-02-02Z'),
	('m12', 'Asked', '{}', '2026-02-02Z');
SELECT apply();
SELECT * FROM who ORDER BY 1;
SELECT message_id, reason, sqlstate FROM rejected ORDER BY id;

-- what was announced about it all
SELECT seq, kind, coalesce(payload->'merges', payload->'into') AS profiles, cause FROM changes WHERE kind LIKE 'profile%' ORDER BY seq;

-- ids that were handed out go on working
SELECT current_profile(resolve('anonymous_id:phone')) = resolve('user_id:ada') AS current, current_profile(-1);

-- a better copy of a message replaces the one that was applied, evidence included
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('d1', 'Viewed', '{user_id:eve,cookie:c1}', '2026-03-02Z');
SELECT apply();
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('d1', 'Viewed', '{user_id:eve,cookie:c2}', '2026-03-01Z'),
	('d1', 'Viewed', '{user_id:eve,cookie:c3}', '2026-03-03Z');
SELECT apply();
SELECT * FROM who WHERE identifiers && '{user_id:eve,cookie:c1,cookie:c2,cookie:c3}' ORDER BY 1;
SELECT * FROM evidence WHERE y = 'user_id:eve';
SELECT count(*) FROM entries n JOIN identities i ON i.node_id = n.owner WHERE i.identifier = 'user_id:eve';

-- size guard
SET cdp.max_profile_identifiers = 3;
INSERT INTO events (message_id, event, identifiers, occurred_at)
	SELECT 's' || n, 'Viewed', ARRAY['user_id:fay', 'cookie:f' || n]::identifier[], timestamptz '2026-04-01Z' + n * interval '1 day'
	FROM generate_series(1, 5) n;
SELECT apply();
SELECT cardinality(identifiers) FROM who WHERE 'user_id:fay' = ANY (identifiers);
SELECT y, status, reason FROM evidence WHERE y = 'user_id:fay' OR x LIKE 'cookie:f%' ORDER BY x;

-- errors
SELECT resolve('nosuch:x');
SELECT merge('user_id:ada', 'user_id:null');
SELECT merge('nosuch:a', 'user_id:ada');
SELECT undo('m33');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT apply();
ROLLBACK;
SELECT apply(0);
-- entries of one's own transaction stay pending
BEGIN;
INSERT INTO events (message_id, event, identifiers) VALUES ('own', 'Viewed', '{user_id:gil}');
SELECT apply();
SELECT resolve('user_id:gil');
COMMIT;
SELECT apply();
SELECT resolve('user_id:gil') IS NOT NULL AS known;

-- many batches in one session: nodes are kept from batch to batch
RESET cdp.max_profile_identifiers;
SET cdp.batch_size = 500;
INSERT INTO events (message_id, event, identifiers, occurred_at)
	SELECT 'k' || n, 'Viewed',
		CASE n % 3 WHEN 0 THEN ARRAY['user_id:k' || n % 1000, 'cookie:k' || n % 2000]
			WHEN 1 THEN ARRAY['cookie:k' || n % 2000] ELSE ARRAY['user_id:k' || n % 1000] END::identifier[],
		timestamptz '2026-05-01Z' + n * interval '1 second'
	FROM generate_series(1, 20000) n;
SELECT apply();
SELECT count(*) AS nodes, count(DISTINCT profile_id) AS profiles FROM identities WHERE identifier::text ~ ':k[0-9]+$';

-- an entry may name more identifiers than a profile can have, or a smallint count
SET cdp.max_new_identifiers_per_hour = 0;
INSERT INTO events (message_id, event, identifiers, occurred_at)
	SELECT 'wide', 'Viewed', identifier('user_id', 'wide') || array_agg(('cookie:w' || n)::identifier ORDER BY n), '2026-05-01Z'
	FROM generate_series(1, 33000) n;
SELECT apply();
SELECT status, count(*), min(ord), max(ord) FROM links l JOIN identities i ON i.node_id = l.b OR i.node_id = l.a
WHERE i.identifier = 'user_id:wide' GROUP BY 1;

-- late evidence takes a profile apart, and each part becomes another's: its
-- number stands for the one that has the node of that number
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('x1', 'Viewed', '{user_id:x1}', '2026-06-01Z'),
	('x2', 'Viewed', '{user_id:x2}', '2026-06-01Z');
SELECT apply();
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('x3', 'Viewed', '{cookie:x3,cookie:x4}', '2026-06-05Z');
SELECT apply();
SELECT resolve('cookie:x3') AS gone, max(seq) AS seq FROM changes \gset
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('x4', 'Viewed', '{user_id:x1,cookie:x3}', '2026-06-02Z'),
	('x5', 'Viewed', '{user_id:x2,cookie:x4}', '2026-06-03Z');
SELECT apply();
SELECT current_profile(:gone) = resolve('user_id:x1') AS heir;
SELECT profile_id = resolve('user_id:x1') AS heir, payload->'merges' = to_jsonb(ARRAY[:gone]) AS lists_it FROM changes WHERE seq > :seq AND kind = 'profile_merged';
