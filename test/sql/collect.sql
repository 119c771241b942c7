--
-- The log: calls, defaults, raw loading, rights
--
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET cdp.now = '2026-03-01 12:00:00+00';
SET timezone = 'UTC';

CREATE VIEW entries AS
	SELECT id, message_id, source, type, event, identifiers, properties, context, occurred_at
	FROM cdp.events ORDER BY id;

-- each call, the shortest way
SELECT cdp.track('Order Completed', '{"revenue": 25}', user_id => 42);
SELECT cdp.identify('ada', '{"plan": "pro"}', anonymous_id => 'web-1');
SELECT cdp.page('Home', 'Start', '{"path": "/"}', anonymous_id => 'web-1');
SELECT cdp.screen('Settings', user_id => 'ada');
SELECT cdp.group(7, '{"name": "Initech", "email": "info@initech.example", "phone": "+1 555"}', user_id => 'ada');
SELECT cdp.alias('web-0', 'ada');
SELECT * FROM entries;

-- the tail of arguments, and keys of other types
SELECT cdp.track('Signed Up', user_id => '6f2c1f1e-4a0b-4b7e-9a53-0a5e6b5c0f11'::uuid,
	identifiers => ARRAY['email:Ada@Example.com', 'phone:+49 30 123']::cdp.identifier[],
	context => '{"ip": "8.8.8.8"}', occurred_at => '2026-02-28 10:00+00',
	message_id => 'm-1', source => 'shop');
SELECT cdp.track('Signed Up', user_id => 9223372036854775807, message_id => '');
SELECT * FROM entries WHERE id > 6;

-- identifiers in traits and context are found; each is kept once
SELECT cdp.identify('ada', '{"email": "ada@example.com", "phone": 49301234}',
	identifiers => '{email:ada@example.com,user_id:ada}',
	context => '{"traits": {"email": "other@example.com"},
		"device": {"type": "iOS", "id": "D1", "advertisingId": "A1", "token": "T1"},
		"integrations": {"Google Analytics": {"clientId": "GA.1"}},
		"externalIds": [{"id": 5, "type": "loyalty_id", "collection": "users", "encoding": "none"},
			{"id": "A-5", "type": "CRM-Id", "collection": "accounts", "encoding": "none"}],
		"groupId": "g1"}') IS NOT NULL AS logged;
SELECT identifiers FROM entries ORDER BY id DESC LIMIT 1;

-- mistakes of the caller are errors
SELECT cdp.track();
SELECT cdp.track('');
SELECT cdp.track('Order Completed');
SELECT cdp.track('Order Completed', user_id => '');
SELECT cdp.identify();
SELECT cdp.group(user_id => 'ada');
SELECT cdp.alias(user_id => 'ada');
SELECT cdp.track('x', '[1]', user_id => 1);
SELECT cdp.track('x', '"text"', user_id => 1);
SELECT cdp.identify(1, 'null');
SELECT cdp.track('x', user_id => 1, context => '[]');
SELECT cdp.track('x', identifiers => '{nonsense:1}');
SELECT cdp.track('x', identifiers => '{Email:1}');
SELECT cdp.track('x', identifiers => '{email:a@b.example,NULL}');
SELECT cdp.track('x', user_id => 1, occurred_at => 'infinity');
SELECT cdp.track('x', user_id => 1, message_id => '#12');
SELECT cdp.track('x', user_id => 1, message_id => repeat('m', 1025));
SELECT cdp.track('x', user_id => 1, source => repeat('s', 1025));
SELECT cdp.track('x', user_id => 1, context => '{"device": {"type": "ios", "id": [1]}}');
SELECT count(*) FROM cdp.events;

-- defaults of a raw row
BEGIN;
INSERT INTO cdp.events (event, identifiers) VALUES ('Raw', '{user_id:1}');
SELECT message_id, source, type, properties, context, occurred_at, received_at,
	xid = pg_current_xact_id()::text::bigint AS xid, incarnation = i.id AS incarnation
FROM cdp.events, cdp.incarnation i WHERE event = 'Raw';
SAVEPOINT a;
INSERT INTO cdp.events (event, identifiers) VALUES ('In a subtransaction', '{user_id:1}');
RELEASE a;
SELECT xid = pg_current_xact_id()::text::bigint AS top_level FROM cdp.events WHERE event = 'In a subtransaction';
ROLLBACK;

-- only what the applier itself relies on is required
COPY cdp.events (event, identifiers, properties, occurred_at) FROM stdin;
Copied	{user_id:1,"email:a,b@example.com"}	{"n": 1}	2026-01-01
Copied	\N	\N	\N
Copied	{nonsense:1}	[]	infinity
\.
COPY cdp.events (type, source, message_id, event) FROM stdin;
nonsense	\N	m	\N
\N	s	m	x
\.
SELECT * FROM entries WHERE id > (SELECT max(id) - 5 FROM cdp.events);

-- COPY stays on its multi-insert path as long as no default but nextval() is volatile
SELECT a.attname, p.proname, p.provolatile
FROM pg_attrdef d
JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
JOIN pg_depend x ON x.classid = 'pg_attrdef'::regclass AND x.objid = d.oid
	AND x.refclassid = 'pg_proc'::regclass
JOIN pg_proc p ON p.oid = x.refobjid
WHERE d.adrelid = 'cdp.events'::regclass
ORDER BY a.attnum;

-- when an entry counts: not more than five minutes after its receipt
SELECT o, r, cdp.effective_at(o, r) FROM (VALUES
	(NULL::timestamptz, '2026-01-01'::timestamptz),
	('2025-01-01', '2026-01-01'),
	('2026-01-01 00:05:00', '2026-01-01'),
	('2026-01-01 00:05:00.000001', '2026-01-01'),
	('0001-01-01', '2026-01-01'),
	('4713-01-01 BC', '294276-12-31'),
	('9999-12-31', '2026-01-01'),
	('294276-12-31 23:59:59', '294276-12-31 23:58:59'),
	('infinity', '2026-01-01'),
	('-infinity', '2026-01-01'),
	('2026-01-01', '-infinity')) v(o, r);
SELECT cdp.effective_at('2026-01-01', NULL);

-- hashes
SELECT cdp.message_hash('a', 'b') = cdp.message_hash('a', 'b') AS same,
	cdp.message_hash('a', 'bc') <> cdp.message_hash('ab', 'c') AS parted,
	cdp.message_hash(NULL, 'b') = cdp.message_hash('', 'b') AS no_source,
	cdp.message_hash('a', NULL) IS NULL AS no_message;
SELECT cdp.content_hash(a) = cdp.content_hash(b) AS same_content
FROM cdp.events a, cdp.events b
WHERE a.id = 1 AND b.id = (SELECT max(id) FROM cdp.events);

-- an entry that came otherwise has a payload too
SELECT cdp.payload(e) FROM cdp.events e WHERE id <= 7 ORDER BY id;

-- a role that may only call
CREATE ROLE regress_collect_app;
GRANT EXECUTE ON FUNCTION cdp.track TO regress_collect_app;
GRANT EXECUTE ON FUNCTION cdp.ingest(jsonb, text) TO regress_collect_app;
SET ROLE regress_collect_app;
SELECT cdp.track('By the application', user_id => 'bob', identifiers => '{email:bob@example.com}', message_id => 'app-1');
SELECT * FROM cdp.ingest('[{"type": "track", "event": "By payload", "userId": "bob"}, {"type": "nonsense"}]');
SELECT cdp.identify('bob');
SELECT cdp.make_partitions();
SELECT count(*) FROM cdp.events;
INSERT INTO cdp.events (event) VALUES ('x');
SELECT current_user, current_setting('search_path') = '"$user", public' AS path_restored;
RESET ROLE;
SELECT event, identifiers FROM entries WHERE event LIKE 'By %';
-- nothing of the caller's is picked up on the way
SET ROLE regress_collect_app;
CREATE TEMP TABLE events (id int);
CREATE FUNCTION pg_temp.clock() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz';
SET search_path = pg_temp, public;
SELECT cdp.track('Hostile path', user_id => 'bob', message_id => 'app-2');
RESET search_path;
DROP TABLE pg_temp.events;
DROP FUNCTION pg_temp.clock();
RESET ROLE;

-- a role that loads rows by itself
GRANT INSERT (message_id, source, type, event, identifiers, properties, context, occurred_at)
	ON cdp.events TO regress_collect_app;
GRANT USAGE ON SEQUENCE cdp.events_id_seq TO regress_collect_app;
SET ROLE regress_collect_app;
INSERT INTO cdp.events (event, identifiers, message_id) VALUES ('Loaded', '{user_id:bob}', 'm1');
COPY cdp.events (event, identifiers, message_id) FROM stdin;
Loaded	{user_id:bob}	m2
\.
INSERT INTO cdp.events (event, xid) VALUES ('Forged', 1);
INSERT INTO cdp.events (event, incarnation) VALUES ('Forged', 1);
INSERT INTO cdp.events_default (event) VALUES ('Forged');
UPDATE cdp.events SET event = 'Forged';
RESET ROLE;
SELECT event, count(*) FROM cdp.events WHERE event IN ('Loaded', 'Forged') GROUP BY event;

-- nobody else may call
SELECT p.oid::regprocedure FROM pg_proc p
WHERE pronamespace = 'cdp'::regnamespace
	AND proname IN ('track', 'identify', 'page', 'screen', 'group', 'alias', 'ingest', 'ingest_text', 'make_partitions')
	AND has_function_privilege('public', oid, 'EXECUTE');

REVOKE ALL ON cdp.events, cdp.events_id_seq FROM regress_collect_app;
REVOKE ALL ON FUNCTION cdp.track, cdp.ingest(jsonb, text) FROM regress_collect_app;
DROP VIEW entries;
DROP EXTENSION cdp;
DROP ROLE regress_collect_app;
