--
-- Bodies as they came: what is no jsonb is put aside, its neighbours are taken
--
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET cdp.now = '2026-03-01 12:00:00+00';

-- what is valid is taken as cdp.ingest takes it
SELECT * FROM cdp.ingest_text('{"type": "track", "event": "one", "userId": "u"}', 'web');
SELECT * FROM cdp.ingest_text('[{"type": "track", "event": "two"}, {"type": "nonsense"}]', 'web');
SELECT * FROM cdp.ingest_text('5');
SELECT * FROM cdp.ingest_text(NULL);
SELECT message_id, source, event, identifiers FROM cdp.events ORDER BY id;
TRUNCATE cdp.events, cdp.rejected;

-- NUL characters and broken surrogates in one payload of many
SELECT i.accepted, i.rejected, e.value->>'index' AS index, e.value->>'reason' AS reason FROM cdp.ingest_text(
	'[{"type": "track", "event": "a", "userId": "u"},
	  {"type": "track", "event": "b\u0000", "userId": "u"},
	  {"type": "track", "event": "c, \"]}[{\\", "userId": "u"} , {"type": "track", "event": "\ud800"},
	  {"type": "nonsense"}, 5, {"type": "track", "event": "d", "userId": "u"}]') i,
	jsonb_array_elements(i.errors) e;
SELECT accepted, rejected FROM cdp.ingest_text(
	'{"sentAt": "2020-01-01T00:00:10Z", "batch" : [{"type": "track", "event": "e", "originalTimestamp": "2020-01-01T00:00:00Z"},
	  {"type": "track", "event": "\u0000"}] , "context": {"ip": "8.8.8.8"}, "x": ["batch", {"batch": [1]}]}');
SELECT event, context, occurred_at AT TIME ZONE 'UTC' FROM cdp.events ORDER BY id;
SELECT reason, sqlstate, payload FROM cdp.rejected ORDER BY id;
TRUNCATE cdp.events, cdp.rejected;

-- not JSON at all, or not to the end
SELECT t, i.accepted, i.rejected, i.errors->0->>'reason' AS reason FROM unnest(ARRAY[
	'', ' ', 'nonsense', '{', '{"type": "track"', '"', '[', '[]]', '[1', '[1,', '[,]', '[1,]', '[}', '{"batch": [}',
	'{"batch": [1, 2}', '{"batch": 5, x}', '{"batch": [1 2]}', '{"a": 1, "batch": []', '{batch: [1]}',
	'[{"type": "track", "event": "f"}, {"type": "track", "event": "g"}', '[{"type": "track", "event": "h"}] {"type": "track"}',
	'{"batch": [{"type": "track", "event": "i"}, {"type": "track", "event": "j"}], "x": "\u0000"}',
	E'[{"type": "track", "event": "k"}, "\\', '[1e999999, {"type": "track", "event": "l"}]']) t,
	LATERAL cdp.ingest_text(t) i;
SELECT event FROM cdp.events ORDER BY id;
SELECT payload FROM cdp.rejected WHERE jsonb_typeof(payload) <> 'number' ORDER BY id;

-- deep, long, many
\set VERBOSITY terse
SELECT accepted, rejected
FROM cdp.ingest_text('[{"type": "track", "event": "m"}, ' || repeat('[', 1000000) || repeat(']', 1000000) || ', {"type": "track", "event": "n"}]');
SELECT accepted, rejected FROM cdp.ingest_text('[{"type": "track", "event": "o"}, "\u0000' || repeat('x', 32 * 1024 * 1024) || '", {"type": "track", "event": "p"}]');
SELECT accepted, rejected FROM cdp.ingest_text('["\u0000"' || repeat(', {"type": "track", "event": "q"}', 2000) || ']');
SELECT event, count(*) FROM cdp.events WHERE event >= 'm' GROUP BY event ORDER BY event;

-- a role that may only call; and a transaction goes on
CREATE ROLE regress_ingest_text;
SET ROLE regress_ingest_text;
SELECT * FROM cdp.ingest_text('[]');
RESET ROLE;
GRANT EXECUTE ON FUNCTION cdp.ingest_text TO regress_ingest_text;
BEGIN;
SET LOCAL ROLE regress_ingest_text;
SELECT accepted, rejected FROM cdp.ingest_text('[{"type": "track", "event": "r"}, "\u0000"]');
SELECT current_user, count(*) FROM cdp.ingest_text('["\u0000"]');
COMMIT;
SELECT count(*) FROM cdp.events WHERE event = 'r';
REVOKE ALL ON FUNCTION cdp.ingest_text FROM regress_ingest_text;
DROP ROLE regress_ingest_text;

DROP EXTENSION cdp;
