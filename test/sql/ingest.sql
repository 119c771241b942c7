--
-- Payloads: forms, inheritance, identifiers, times, what is refused
--
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET cdp.now = '2026-03-01 12:00:00+00';
SET timezone = 'Asia/Kolkata';
SET datestyle = 'SQL, DMY';

CREATE VIEW entries AS
	SELECT id, message_id, source, type, event, identifiers, properties, context,
		occurred_at AT TIME ZONE 'UTC' AS occurred_at
	FROM cdp.events ORDER BY id;

-- one payload, an array, a batch body
SELECT * FROM cdp.ingest('{"type": "track", "userId": "ada", "event": "Signed Up", "messageId": "m1",
	"properties": {"plan": "pro"}, "timestamp": "2026-02-01T10:00:00.123Z"}', 'web');
SELECT * FROM cdp.ingest('[{"type": "identify", "userId": "ada", "traits": {"email": "ada@example.com"}},
	{"type": "page", "anonymousId": "w1", "name": "Home"}]', 'web');
SELECT * FROM cdp.ingest('{"batch": [{"type": "track", "userId": "ada", "event": "A"},
		{"type": "track", "userId": "ada", "event": "B", "context": {"ip": "1.1.1.1"}, "channel": null}],
	"context": {"ip": "8.8.8.8", "library": {"name": "x"}}, "channel": "server",
	"messageId": "not inherited", "writeKey": "not inherited either"}');
SELECT * FROM cdp.ingest('[]');
SELECT * FROM cdp.ingest('{"batch": []}');
SELECT id, message_id, source, type, event, identifiers, properties, context FROM entries;
SELECT cdp.payload(e) FROM cdp.events e ORDER BY id;

-- the call itself
SELECT * FROM cdp.ingest(NULL);
SELECT * FROM cdp.ingest('[]', repeat('s', 1025));

-- what cannot be taken is put aside; its neighbours are taken
TRUNCATE cdp.events;
CREATE FUNCTION try(payloads text[], OUT payload text, OUT reason text, OUT detail text) RETURNS SETOF record
LANGUAGE plpgsql AS $$
DECLARE
	result record;
BEGIN
	SELECT * INTO STRICT result FROM cdp.ingest(
		(SELECT jsonb_agg(u.p::jsonb ORDER BY u.i) FROM unnest(payloads) WITH ORDINALITY u(p, i)));
	RETURN QUERY SELECT left(u.p, 100), coalesce(e.value->>'reason', 'accepted'), e.value->>'detail'
		FROM unnest(payloads) WITH ORDINALITY u(p, i)
		LEFT JOIN jsonb_array_elements(result.errors) e(value) ON (e.value->>'index')::int = u.i - 1
		ORDER BY u.i;
END
$$;
SELECT * FROM try(ARRAY[
	'{"type": "track", "userId": "ada", "event": "first"}',
	'null', '1', '"text"', '[]', '{}', 'true',
	'{"userId": "ada"}',
	'{"type": 5}',
	'{"type": "nonsense", "messageId": "kept"}',
	'{"type": "split", "userId": "ada"}',
	'{"type": "undo", "userId": "ada"}',
	'{"type": "track", "userId": "ada"}',
	'{"type": "track", "userId": "ada", "event": ""}',
	'{"type": "track", "userId": "ada", "event": {"a": 1}}',
	'{"type": "page", "userId": "ada", "name": 5}',
	'{"type": "track", "userId": {"a": 1}, "event": "x"}',
	'{"type": "track", "userId": [1], "event": "x"}',
	'{"type": "track", "userId": true, "event": "x"}',
	'{"type": "track", "anonymousId": false, "event": "x"}',
	'{"type": "track", "userId": "ada", "event": "x", "properties": "text"}',
	'{"type": "track", "userId": "ada", "event": "x", "properties": []}',
	'{"type": "identify", "userId": "ada", "traits": 5}',
	'{"type": "identify", "userId": "ada", "context": "text"}',
	'{"type": "identify", "userId": "ada", "context": {"externalIds": {}}}',
	'{"type": "identify", "userId": "ada", "context": {"externalIds": [1]}}',
	'{"type": "identify", "userId": "ada", "context": {"externalIds": [{"type": "x"}]}}',
	'{"type": "identify", "userId": "ada", "context": {"externalIds": [{"type": "x", "id": {}}]}}',
	'{"type": "identify", "userId": "ada", "context": {"externalIds": [{"type": "ü", "id": 1}]}}',
	'{"type": "identify", "userId": "ada", "context": {"externalIds": [{"type": "x", "id": 1, "collection": "cats"}]}}',
	'{"type": "identify", "userId": "ada", "context": {"device": {"type": "android", "id": {}}}}',
	'{"type": "group", "userId": "ada"}',
	'{"type": "alias", "userId": "ada"}',
	'{"type": "merge"}',
	'{"type": "merge", "mergeProperties": [{"type": "email", "value": "a@b.example"}]}',
	'{"type": "merge", "mergeProperties": [{"type": "email", "value": "a"}, {"type": "email"}]}',
	'{"type": "merge", "mergeProperties": [{"type": "email", "value": "a"}, {"type": "Email", "value": "a"}]}',
	'{"type": "track", "userId": "ada", "event": "x", "messageId": {}}',
	'{"type": "track", "userId": "ada", "event": "x", "messageId": "#7"}',
	'{"type": "track", "userId": "ada", "event": "x", "timestamp": "yesterday"}',
	'{"type": "track", "userId": "ada", "event": "x", "timestamp": 1700000000}',
	'{"type": "track", "userId": "ada", "event": "x", "timestamp": ""}',
	'{"type": "track", "userId": "ada", "event": "x", "timestamp": "infinity"}',
	'{"type": "track", "userId": "ada", "event": "x", "originalTimestamp": "1/2/2020"}',
	'{"type": "track", "userId": "ada", "event": "x", "originalTimestamp": "9999-12-31", "sentAt": "now"}',
	'{"type": "track", "userId": "ada", "event": "x", "originalTimestamp": "-004713-12-01", "sentAt": "9999-12-31", "receivedAt": "-004713-12-01"}',
	'{"type": "track", "userId": "ada", "event": "last"}']);
SELECT event, identifiers FROM entries;
SELECT source, message_id, reason, detail, sqlstate, payload FROM cdp.rejected
WHERE message_id IS NOT NULL OR payload = '"text"' ORDER BY id;
-- an id that is too long is not kept in full
SELECT * FROM cdp.ingest(jsonb_build_object('type', 'track', 'event', 'x', 'messageId', repeat('m', 5000)));
-- the list of errors is bounded, the rows put aside are not
TRUNCATE cdp.rejected;
SELECT accepted, rejected, jsonb_array_length(errors), errors->99->>'index' AS last
FROM cdp.ingest((SELECT jsonb_agg(CASE WHEN i = 150 THEN '{"type": "track", "event": "kept"}'::jsonb ELSE to_jsonb(i) END)
	FROM generate_series(1, 200) i));
SELECT count(*) FROM cdp.rejected;

-- times
TRUNCATE cdp.events;
SELECT count(*) FILTER (WHERE reason = 'accepted') AS accepted, count(*) FROM try(ARRAY(
	SELECT format('{"type": "track", "event": "%s", "timestamp": "%s"}', t, t) FROM unnest(ARRAY[
		'2026-02-03', '2026-02-03T04:05', '2026-02-03 04:05:06', '2026-02-03t04:05:06z',
		'2026-02-03T04:05:06.7Z', '2026-02-03T04:05:06,789+00', '2026-02-03T04:05:06.1234569Z',
		'2026-02-03T04:05:06+0530', '2026-02-03T04:05:06-08:00', '2026-02-03T24:00:00Z',
		'2016-12-31T23:59:60Z', '0001-01-01T00:00:00Z', '0000-01-01T00:00:00Z', '9999-12-31T23:59:59.999Z',
		'-000044-03-15T00:00:00Z', '+010000-01-01T00:00:00Z', '2024-02-29']) t));
SELECT event, occurred_at FROM entries;
SELECT cdp.payload(e)->>'timestamp' = event AS unchanged, count(*) FROM cdp.events e GROUP BY 1;
SELECT x.payload::jsonb->>'event' AS not_a_time, x.reason FROM try(ARRAY(
	SELECT format('{"type": "track", "event": "%s", "timestamp": "%s"}', t, t) FROM unnest(ARRAY[
		'2026-02-30', '2026-13-01', '2023-02-29', '2026-2-3', '20260203', '2026-02-03T', '2026-02-03T04',
		'2026-02-03T24:00:01Z', '2026-02-03T04:60Z', '2026-02-03T04:05:61Z', '2026-02-03T04:05:06.Z',
		'2026-02-03T04:05:06+', '2026-02-03T04:05:06+1', '2026-02-03T04:05:06+99', '2026-02-03T04:05:06 CET',
		'2026-02-03T04:05:06ZZ', 'now', 'epoch', ' 2026-02-03', '26-02-03', '999999-01-01', '+999999-01-01']) t)) x;

-- skew: against our clock, or against that of the collector that had it before
TRUNCATE cdp.events;
SELECT accepted, rejected FROM cdp.ingest('[
	{"type": "track", "event": "client only", "originalTimestamp": "2020-01-01T00:00:00Z"},
	{"type": "track", "event": "our clock", "originalTimestamp": "2020-01-01T00:00:00Z", "sentAt": "2020-01-01T00:00:10Z"},
	{"type": "track", "event": "their clock", "originalTimestamp": "2020-01-01T00:00:00Z", "sentAt": "2020-01-01T00:00:10Z", "receivedAt": "2020-01-01T05:00:00Z"},
	{"type": "track", "event": "timestamp wins", "timestamp": "2021-01-01", "originalTimestamp": "2020-01-01T00:00:00Z", "sentAt": "x"},
	{"type": "track", "event": "neither", "sentAt": "2020-01-01T00:00:10Z", "receivedAt": "2020-01-01T00:00:10Z"},
	{"type": "track", "event": "snake", "original_timestamp": "2020-01-01T00:00:00Z", "sent_at": "2020-01-01T00:00:10Z", "received_at": "2020-01-01T06:00:00Z"}]');
SELECT accepted FROM cdp.ingest('{"sentAt": "2020-01-01T00:01:00Z", "batch": [
	{"type": "track", "event": "sentAt of the batch", "originalTimestamp": "2020-01-01T00:00:00Z"}]}');
SELECT e.event, e.occurred_at, r.received_at AT TIME ZONE 'UTC' AS received_at
FROM entries e JOIN cdp.events r USING (id);

-- where identifiers are found
TRUNCATE cdp.events;
SELECT accepted, rejected, errors FROM cdp.ingest('[
	{"type": "identify", "userId": 123, "anonymousId": "w1"},
	{"type": "identify", "user_id": "u", "anonymous_id": 1.50, "traits": {"email": "a@b.example", "phone": 4930}},
	{"type": "identify", "userId": "u", "traits": {"email": {"not": "an address"}, "phone": true}},
	{"type": "track", "event": "context", "context": {"traits": {"email": "a@b.example", "phone": "+49 30"}}},
	{"type": "track", "event": "properties", "properties": {"email": "a@b.example", "phone": "not taken"}},
	{"type": "track", "event": "friend", "properties": {"email": "friend@b.example"}, "context": {"traits": {"email": "a@b.example"}}},
	{"type": "track", "event": "newsletter", "userId": "u", "properties": {"email": true}},
	{"type": "group", "groupId": "g", "userId": "u", "traits": {"email": "info@b.example", "phone": "1"}, "context": {"traits": {"email": "a@b.example"}}},
	{"type": "track", "event": "account", "userId": "u", "context": {"groupId": 7}},
	{"type": "alias", "userId": "u", "previousId": "old", "anonymousId": "w1"},
	{"type": "track", "event": "android", "context": {"device": {"type": "Android", "id": "D", "advertisingId": "A", "adTrackingEnabled": true, "token": "T"}}},
	{"type": "track", "event": "no tracking", "context": {"device": {"type": "ios", "id": "D", "advertisingId": "A", "adTrackingEnabled": false, "token": "T"}}},
	{"type": "track", "event": "snake", "context": {"device": {"type": "ios", "advertising_id": "A", "ad_tracking_enabled": null}}},
	{"type": "track", "event": "toaster", "context": {"device": {"type": "toaster", "id": "D"}}},
	{"type": "track", "event": "google", "context": {"integrations": {"Google Analytics": {"clientId": "G"}}}},
	{"type": "track", "event": "braze", "context": {"brazeId": "B1", "Braze": {"braze_id": "B2"}}},
	{"type": "track", "event": "xid", "cross_domain_id": "X"},
	{"type": "track", "event": "external", "context": {"externalIds": [
		{"id": "1", "type": "Shopify ID", "collection": "users", "encoding": "none"},
		{"id": 2, "type": "user_id"}, {"id": "3", "type": "group_id", "collection": "accounts"},
		{"id": "4", "type": "crm", "collection": "accounts"}]}},
	{"type": "merge", "mergeProperties": [{"type": "Email", "value": "a@b.example"}, {"type": "user_id", "value": 5}], "userId": "u"},
	{"action": "track", "event": "action", "userId": ""},
	{"type": "track", "event": "null", "userId": null, "anonymousId": "w", "context": null, "properties": null, "messageId": ""}
]');
SELECT type, event, identifiers FROM entries;
SELECT context->'$payload' AS kept FROM entries WHERE context ? '$payload';

-- whatever a payload says, it comes back as it was
CREATE TABLE odd (payload jsonb);
INSERT INTO odd
SELECT p::jsonb FROM unnest(ARRAY[
	'{"type": "track", "event": "x"}',
	'{"type": "track", "event": "x", "action": "y", "event_name": "z"}',
	'{"type": "track", "event": "x", "userId": "a", "user_id": "b"}',
	'{"type": "track", "event": "x", "user_id": "b", "userId": null}',
	'{"type": "track", "event": "x", "userId": 1, "anonymousId": 2.50, "groupId": 3}',
	'{"type": "track", "event": "x", "userId": "", "messageId": "", "properties": {}}',
	'{"type": "track", "event": "x", "context": {}}',
	'{"type": "track", "event": "x", "context": {"$payload": {"type": "page", "$absent": ["event"]}}}',
	'{"type": "track", "event": "x", "context": {"$payload": 5, "ip": "1"}, "$payload": 1}',
	'{"type": "track", "event": "x", "$absent": ["type"], "$$absent": 1, "$$$absent": null, "absent": 2, "x$absent": 3}',
	'{"type": "track", "event": "x", "context": {"groupId": "g", "traits": {"email": "e"}}, "groupId": "h"}',
	'{"type": "track", "event": "x", "context": {"externalIds": [{"id": "u", "type": "user_id"}, {"id": "w", "type": "anonymous_id"}, {"id": "g", "type": "group_id"}]}}',
	'{"type": "track", "event": "x", "name": "y", "traits": {"a": 1}, "previousId": "p"}',
	'{"type": "page", "name": "x", "event": "y", "category": "c"}',
	'{"type": "screen", "properties": {"name": "z"}}',
	'{"type": "identify", "properties": [], "traits": {"a": null}, "event": {"x": 1}}',
	'{"type": "alias", "previousId": "w", "anonymousId": "w", "userId": "u", "traits": {}}',
	'{"type": "alias", "previous_id": 5, "traits": [], "properties": 1}',
	'{"type": "merge", "mergeProperties": [{"type": "email", "value": "a", "x": 1}, {"type": "phone", "value": 5}], "properties": {"a": 1}, "userId": "u"}',
	'{"type": "merge", "mergeProperties": [{"type": "email", "value": "a"}, {"type": "phone", "value": "5"}]}',
	'{"type": "track", "event": "x", "timestamp": "2026-03-01T12:00:00.000Z"}',
	'{"type": "track", "event": "x", "timestamp": "2026-03-01T12:00:00Z", "receivedAt": "2020-01-01", "received_at": 5}',
	'{"type": "track", "event": "x", "timestamp": "2025-03-01T12:00:00.123456Z"}',
	'{"type": "track", "event": "x", "timestamp": "2025-03-01T12:00:00.123000Z"}',
	'{"type": "track", "event": "x", "timestamp": null, "originalTimestamp": "2025-03-01T12:00:00.000Z"}',
	'{"type": "track", "event": "x", "properties": {"n": 1e40, "z": -0.0, "big": 123456789012345678901234567890.5, "u": "\ud83d\ude00", "": {"": [[], {}]}}}',
	'{"type": "track", "event": "x", "integrations": {"All": false}, "sentAt": {"odd": true}, "receivedAt": [null], "version": 2, "_metadata": {}}',
	'{"type": "track", "event": "x", "batch": "not a batch"}']) p;
SELECT sum(i.accepted) AS accepted, sum(i.rejected) AS rejected FROM odd, LATERAL cdp.ingest(odd.payload, 'odd') i;
SELECT odd.payload FROM odd
WHERE NOT EXISTS (SELECT FROM cdp.events e WHERE e.source = 'odd' AND cdp.payload(e) = odd.payload);
-- numbers keep their digits
SELECT cdp.payload(e)->'properties' FROM cdp.events e WHERE e.properties ? 'big';

-- what is in the log
TRUNCATE cdp.events;
INSERT INTO cdp.events (source, type, event, properties, occurred_at, received_at) VALUES
	('shop', 'track', 'Order Completed', '{"revenue": 1, "b": 2}', '2026-01-01+00', '2026-01-02+00'),
	('shop', 'track', 'Order Completed', '{"revenue": 1, "a": 2}', '2026-02-01+00', '2026-01-03+00'),
	('shop', 'page', NULL, NULL, NULL, '2026-03-01 11:00+00'),
	('shop', 'page', NULL, '{"path": "/"}', NULL, '2026-03-01 11:00+00'),
	('app', 'track', 'Order Completed', '[1]', '2026-01-01+00', '2026-01-02+00'),
	(NULL, 'identify', NULL, '{"plan": "pro"}', '2026-01-01+00', '2026-01-02+00');
SET timezone = 'UTC';
SET datestyle = 'ISO';
SELECT * FROM cdp.sources ORDER BY source;
SELECT * FROM cdp.event_catalog ORDER BY source, event;

DROP VIEW entries;
DROP FUNCTION try;
DROP TABLE odd;
DROP EXTENSION cdp;
