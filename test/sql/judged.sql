--
-- What the log takes and what then counts: bad rows are rejected with a
-- reason when they are applied, and everything beside them counts
--
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET timezone = 'UTC';
SET cdp.now = '2026-03-01 12:00:00+00';

CREATE FUNCTION differences() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM cdp.verify()';
SELECT cdp.create_trait('n', aggregate => 'count');
SELECT cdp.create_trait('last_at', aggregate => 'last', value => 'occurred_at');

COPY cdp.events (message_id, type, event, identifiers, properties, occurred_at) FROM stdin;
good 1	track	x	{user_id:u}	\N	2026-01-01
type	nonsense	x	{user_id:u}	\N	2026-01-01
no type	\N	x	{user_id:u}	\N	2026-01-01
no event	track	\N	{user_id:u}	\N	2026-01-01
empty event	track		{user_id:u}	\N	2026-01-01
infinite	track	x	{user_id:u}	\N	infinity
minus infinite	track	x	{user_id:u}	\N	-infinity
nobody	track	x	{}	\N	2026-01-01
null nobody	track	x	\N	\N	2026-01-01
null elements	track	x	{NULL,NULL}	\N	2026-01-01
blocked	track	x	{user_id:,user_id:null,anonymous_id:0000-0000}	\N	2026-01-01
two dimensions	track	x	{{user_id:u},{user_id:v}}	\N	2026-01-01
traits	identify	\N	{user_id:u}	[1]	2026-01-01
scalar traits	identify	\N	{user_id:u}	"x"	2026-01-01
merge of one	merge	\N	{user_id:u}	\N	2026-01-01
merge of none	merge	\N	\N	\N	2026-01-01
merge with itself	merge	\N	{user_id:u,user_id:u}	\N	2026-01-01
merge unregistered	merge	\N	{user_id:u,nonsense:1}	\N	2026-01-01
split of three	split	\N	{user_id:u,user_id:v,user_id:w}	\N	2026-01-01
undo nothing	undo	\N	{}	\N	2026-01-01
undo a number	undo	\N	{}	{"entry": 5}	2026-01-01
good 2	track	x	{user_id:u}	\N	0001-01-01
good 3	track	x	{user_id:u}	\N	9999-12-31
good 4	track	x	{user_id:u}	\N	\N
good 5	track	x	{user_id:u,nonsense:1,user_id:}	[1]	2026-01-01
good 6	page	\N	{user_id:u}	"x"	2026-01-01
account only	group	\N	{group_id:g}	\N	2026-01-01
undo of a stranger	undo	\N	{}	{"entry": "elsewhere"}	2026-01-01
\.
-- identifiers that are too long, beside one that is not
INSERT INTO cdp.events (message_id, event, identifiers, occurred_at) VALUES
	('too long', 'x', ARRAY[cdp.identifier('user_id', repeat('u', 2000))], '2026-01-01'),
	('good 7', 'x', ARRAY['user_id:u', cdp.identifier('anonymous_id', repeat('u', 32 * 1024 * 1024))], '2026-01-01');
SELECT cdp.apply();
SELECT message_id, reason, sqlstate FROM cdp.rejected ORDER BY entry;
SELECT cdp.profile('user_id:u')->'traits' AS traits, (SELECT count(*) FROM cdp.identities) AS identities;
SELECT differences();
-- what was rejected stays rejected, and is not read again
SELECT cdp.apply();
SELECT count(*) FROM cdp.rejected;

-- duplicates: the earliest counts, whichever comes first, in one batch or not
SELECT cdp.track('d', '{"v": 2}', user_id => 'dup', occurred_at => '2026-02-02', message_id => 'd', source => 's');
SELECT cdp.track('d', '{"v": 3}', user_id => 'dup', occurred_at => '2026-02-03', message_id => 'd', source => 's');
SELECT cdp.apply();
SELECT cdp.profile('user_id:dup')->'traits' AS traits;
SELECT cdp.track('d', '{"v": 1}', user_id => 'dup', occurred_at => '2026-02-01', message_id => 'd', source => 's');
SELECT cdp.track('d', '{"v": 1}', user_id => 'dup', occurred_at => '2026-02-01', message_id => 'd', source => 's');
SELECT cdp.track('d', user_id => 'dup', occurred_at => '2026-02-10', message_id => 'd', source => 'another source');
SELECT cdp.apply();
SELECT cdp.profile('user_id:dup')->'traits' AS traits;
SELECT differences();
-- without a message id all count; without a source there is still one
INSERT INTO cdp.events (source, message_id, event, identifiers) VALUES
	(NULL, NULL, 'x', '{user_id:many}'), (NULL, NULL, 'x', '{user_id:many}'),
	(NULL, 'm', 'y', '{user_id:one}'), (NULL, 'm', 'y', '{user_id:one}'), ('', 'm', 'y', '{user_id:one}');
SELECT cdp.apply();
SELECT cdp.profile('user_id:many')->'traits'->'n' AS many, cdp.profile('user_id:one')->'traits'->'n' AS one;
SELECT differences();

-- payloads: an anonymous visitor on two devices becomes one customer
SELECT accepted, rejected FROM cdp.ingest('[
	{"type": "track", "event": "App Opened", "anonymousId": "a1", "context": {"device": {"id": "i1", "type": "ios"}}},
	{"type": "track", "event": "Shoe Clicked", "anonymousId": "a1", "context": {"device": {"id": "i1", "type": "ios"}}},
	{"type": "identify", "userId": "c1", "anonymousId": "a1", "context": {"device": {"id": "i1", "type": "ios"}}},
	{"type": "identify", "userId": "c1", "anonymousId": "a2", "context": {"device": {"id": "d1", "type": "android"}}},
	{"type": "identify", "userId": "c1", "anonymousId": "a3", "context": {"device": {"id": "d1", "type": "android"}}}]');
SELECT cdp.apply();
SELECT cdp.profile('anonymous_id:a3')->'identifiers' AS identifiers, cdp.profile('ios.id:i1')->'traits'->'n' AS n;
-- alias, and a merge call
SELECT accepted, rejected FROM cdp.ingest('[
	{"type": "track", "event": "x", "anonymousId": "before"},
	{"type": "alias", "previousId": "before", "userId": "after"},
	{"type": "track", "event": "x", "userId": "after"},
	{"type": "identify", "userId": "m1", "traits": {"email": "m1@example.com"}},
	{"type": "identify", "userId": "m2", "traits": {"email": "m2@example.com"}},
	{"type": "merge", "mergeProperties": [{"type": "email", "value": "m1@example.com"}, {"type": "user_id", "value": "m2"}]}]');
SELECT cdp.apply();
SELECT cdp.profile('user_id:after')->'identifiers' AS aliased, cdp.profile('user_id:after')->'traits'->'n' AS n;
SELECT cdp.profile('user_id:m1')->'identifiers' AS merged;
SELECT differences();

-- without message ids, of two entries at the same instant the later one is the later one
INSERT INTO cdp.events (event, identifiers, occurred_at, properties)
	SELECT 'y', '{user_id:same}', '2026-01-05', jsonb_build_object('i', i) FROM generate_series(1, 120) i;
SELECT cdp.create_trait('last_i', aggregate => 'last', event => 'y', value => $$properties->>'i'$$);
SELECT cdp.apply();
SELECT cdp.profile('user_id:same')->'traits'->'last_i' AS last_i;
SELECT differences();

-- source and message id may contain what stands between them in the order of
-- entries: these are two messages
INSERT INTO cdp.events (source, message_id, event, identifiers, occurred_at) VALUES
	('a', E'b\x01c', 'Viewed', '{user_id:one}', '2026-01-01Z'),
	(E'a\x01b', 'c', 'Viewed', '{user_id:two}', '2026-01-01Z');
SELECT cdp.apply();
SELECT cdp.resolve('user_id:one') <> cdp.resolve('user_id:two') AS two;
SELECT * FROM cdp.verify();

DROP FUNCTION differences;
DROP EXTENSION cdp;
