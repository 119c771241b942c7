--
-- Input that is meant to break things, or might: never a crash, never a lost
-- neighbour, and the error says what is wrong
--
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET timezone = 'UTC';

-- neighbours of everything below
CREATE FUNCTION beside(payload jsonb, OUT accepted bigint, OUT rejected bigint, OUT reason text)
LANGUAGE sql AS $$
	SELECT i.accepted, i.rejected, left(i.errors->0->>'reason', 80)
	FROM cdp.ingest(jsonb_build_array('{"type": "track", "event": "before", "userId": "n"}'::jsonb,
		payload, '{"type": "track", "event": "after", "userId": "n"}'::jsonb)) i
$$;

-- strings of 32 MB, wherever one fits
\set VERBOSITY terse
\set big 'repeat(''x'', 32 * 1024 * 1024)'
SELECT * FROM beside(jsonb_build_object('type', 'track', 'event', :big, 'userId', :big, 'anything', :big,
	'properties', jsonb_build_object('email', :big, :big, 1)));
SELECT * FROM beside(jsonb_build_object('type', 'track', 'event', 'x', 'messageId', :big));
SELECT k, b.* FROM unnest(ARRAY['type', 'timestamp', 'context']) k,
	beside(jsonb_build_object('type', 'track', 'event', 'x') || jsonb_build_object(k, repeat('x', 1000000))) b;
SELECT * FROM beside(jsonb_build_object('type', 'identify', 'context', jsonb_build_object('externalIds',
	jsonb_build_array(jsonb_build_object('type', repeat('t', 1000000), 'id', 1)))));
SELECT count(*), count(*) FILTER (WHERE event IN ('before', 'after')) AS neighbours FROM cdp.events;
SELECT reason, length(message_id) FROM cdp.rejected ORDER BY id;
SELECT length(cdp.track(:big, user_id => :big)) > 0 AS logged;
SELECT max(octet_length(cdp.payload(e)::text)) > 4 * 32 * 1024 * 1024 AS readable FROM cdp.events e;
TRUNCATE cdp.events, cdp.rejected;

-- deep nesting: the parser's limit, and below it no limit of ours
SELECT beside((repeat('[', 1000000) || repeat(']', 1000000))::jsonb);
SELECT beside(('{"type": "track", "event": "x", "properties": {"deep": ' || repeat('[', 3000) || repeat(']', 3000) || '}}')::jsonb);
SELECT beside(('{"type": "track", "event": "x", "deep": ' || repeat('{"a": ', 3000) || '1' || repeat('}', 3000) || '}')::jsonb);
SELECT beside((repeat('[', 3000) || repeat(']', 3000))::jsonb);
SELECT beside(('{"batch": ' || repeat('[', 1000) || repeat(']', 1000) || '}')::jsonb);
SELECT count(*) FROM cdp.events e WHERE length(cdp.payload(e)::text) > 6000;
SELECT cdp.track('x', ('{"deep": ' || repeat('[', 3000) || repeat(']', 3000) || '}')::jsonb, user_id => 1) IS NOT NULL AS logged;

-- NUL, broken surrogates, invalid UTF-8: refused by the type
SELECT beside('{"type": "track", "event": "a\u0000b"}');
SELECT beside('{"type": "track", "event": "\ud800"}');
SELECT beside(convert_from('\x7b2274797065223a2022ff227d', 'UTF8')::jsonb);
SELECT cdp.track(convert_from('\xff', 'UTF8'), user_id => 1);
SELECT cdp.track('x', user_id => E'a\u0000b');

-- numbers that are none, or too many digits
SELECT beside('{"type": "track", "event": "x", "properties": {"n": NaN}}');
SELECT beside('{"type": "track", "event": "x", "properties": {"n": Infinity}}');
SELECT beside('{"type": "track", "event": "x", "properties": {"n": 1e999999}}');
SELECT beside(jsonb_build_object('type', 'track', 'event', 'x', 'userId', 'NaN'::float8, 'properties', jsonb_build_object('n', 'Infinity'::float8)));
SELECT beside('{"type": "track", "event": "x", "userId": 1e1000, "messageId": 1e1000}');
SELECT beside('{"type": "track", "event": "x", "userId": 1e1030, "messageId": 1e1030}');

-- many of everything
SELECT accepted, rejected FROM cdp.ingest((SELECT jsonb_agg('{"type": "track", "event": "many"}'::jsonb) FROM generate_series(1, 50000)));
SELECT * FROM beside(jsonb_build_object('type', 'identify', 'context', jsonb_build_object('externalIds',
	(SELECT jsonb_agg(jsonb_build_object('type', 'x', 'id', i)) FROM generate_series(1, 100000) i))));
SELECT * FROM beside(jsonb_build_object('type', 'identify', 'context', jsonb_build_object('externalIds',
	(SELECT jsonb_agg(jsonb_build_object('type', 'x', 'id', i)) FROM generate_series(1, 1000) i))));
SELECT * FROM beside((SELECT jsonb_object_agg('k' || i, i) FROM generate_series(1, 100000) i)
	|| '{"type": "track", "event": "keys"}');
SELECT max(cardinality(identifiers)) AS identifiers, count(*) FILTER (WHERE event = 'many') AS many,
	count(*) FILTER (WHERE event = 'keys' AND cdp.payload(e) ? 'k100000') AS keys FROM cdp.events e;

-- rows that no function would write
COPY cdp.events (type, event, identifiers, properties, context, occurred_at) FROM stdin;
track	x	{{user_id:1,user_id:2},{user_id:3,user_id:4}}	5	"text"	infinity
\N	\N	{NULL,user_id:1}	null	null	-infinity
merge	\N	{}	[]	{"$payload": 5}	0001-01-01
alias	\N	\N	{"a": 1}	{"$payload": {"$absent": 5}}	9999-12-31
undo	\N	{}	{"entry": 5}	{"$payload": {"$absent": [null, {}, ["type"]]}}	0044-03-15 BC
\.
SELECT cdp.payload(e) FROM cdp.events e WHERE id > (SELECT max(id) - 5 FROM cdp.events) ORDER BY id;
SELECT cdp.payload(NULL::cdp.events), cdp.content_hash(e) = cdp.content_hash(e) AS hashed
FROM cdp.events e WHERE id > (SELECT max(id) - 5 FROM cdp.events);

-- one bad row stops a COPY only where the type itself refuses it
COPY cdp.events (event, identifiers) FROM stdin;
x	{nonsense}
\.
COPY cdp.events (event, properties) FROM stdin;
x	{"a": "\\u0000"}
\.

DROP FUNCTION beside;
DROP EXTENSION cdp;
