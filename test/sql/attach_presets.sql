--
-- Schemas that Segment, RudderStack and Snowplow load, as documented.
--
SET client_min_messages = warning;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET timezone = 'UTC';
SET cdp.now = '2026-05-01 12:00+00';

CREATE SCHEMA web;
CREATE TABLE web.tracks (id varchar(512) PRIMARY KEY, received_at timestamp, uuid int8, uuid_ts timestamp, anonymous_id varchar(512),
	context_ip varchar(512), event varchar(512), event_text varchar(512), original_timestamp timestamp, sent_at timestamp,
	"timestamp" timestamp, user_id varchar(512));
CREATE TABLE web.order_completed (LIKE web.tracks INCLUDING ALL, revenue float8, "Odd ""name" text, name text);
CREATE TABLE web.identifies (id varchar(512) PRIMARY KEY, received_at timestamp, anonymous_id varchar(512), user_id varchar(512),
	"timestamp" timestamp, context_ip text, email text, plan text);
CREATE TABLE web.users (id varchar(512) PRIMARY KEY, received_at timestamp, email text, plan text);
CREATE TABLE web.pages (id varchar(512) PRIMARY KEY, received_at timestamp, anonymous_id varchar(512), user_id varchar(512),
	"timestamp" timestamp, name text, path text);
CREATE TABLE web.groups (id varchar(512) PRIMARY KEY, received_at timestamp, anonymous_id varchar(512), user_id varchar(512),
	"timestamp" timestamp, group_id text, name text, seats int);
CREATE TABLE web.aliases (id varchar(512) PRIMARY KEY, received_at timestamp, previous_id text, user_id text, "timestamp" timestamp);
CREATE TABLE web.unrelated (id int PRIMARY KEY, note text);
SELECT * FROM cdp.attachment_preset('segment', 'web');
SELECT * FROM cdp.attach_preset('segment', 'web');

INSERT INTO web.identifies VALUES ('i1', '2026-04-01 10:00', 'anon-1', 'u1', '2026-04-01 09:59', '::1', 'Ada@x.example', 'free');
INSERT INTO web.pages VALUES ('p1', '2026-04-01 10:00', 'anon-1', NULL, '2026-04-01 09:58', 'Home', '/');
INSERT INTO web.tracks (id, anonymous_id, user_id, event, event_text, "timestamp")
	VALUES ('t1', 'anon-1', 'u1', 'order_completed', 'Order Completed', '2026-04-01 10:05');
INSERT INTO web.order_completed (id, anonymous_id, user_id, event, event_text, "timestamp", revenue, "Odd ""name", name)
	VALUES ('t1', 'anon-1', 'u1', 'order_completed', 'Order Completed', '2026-04-01 10:05', 12.5, 'x', 'n');
INSERT INTO web.groups VALUES ('g1', '2026-04-01 10:00', NULL, 'u1', '2026-04-01 10:00', 'acme', 'Acme', 7);
INSERT INTO web.aliases VALUES ('a1', '2026-04-01 10:00', 'anon-0', 'u1', '2026-04-01 10:00');
SELECT type, event, identifiers, properties, occurred_at, source FROM cdp.events ORDER BY id;
SELECT cdp.apply();
SELECT cdp.profile('email:ada@x.example')->'identifiers' AS identifiers;
SELECT * FROM cdp.verify();

-- RudderStack: timestamps with time zone, aliases without id
CREATE SCHEMA rudder;
CREATE TABLE rudder.tracks (id text PRIMARY KEY, anonymous_id text, user_id text, received_at timestamptz, "timestamp" timestamptz, event text, event_text text);
CREATE TABLE rudder.signed_up (LIKE rudder.tracks INCLUDING ALL, plan text, context_source_id text);
CREATE TABLE rudder.aliases (user_id text, previous_id text, received_at timestamptz);
CREATE TABLE rudder.rudder_discards (table_name text, row_id text, column_name text, column_value text, received_at timestamptz, uuid_ts timestamptz, reason text);
SELECT relation, mapping FROM cdp.attachment_preset('rudderstack', 'rudder');
SELECT * FROM cdp.attach_preset('rudderstack', 'rudder', prefix => 'r');

SELECT * FROM cdp.attach_preset('tealium', 'web');
SELECT * FROM cdp.attach_preset('segment', 'nowhere');
SELECT * FROM cdp.attach_preset('snowplow', 'web');
