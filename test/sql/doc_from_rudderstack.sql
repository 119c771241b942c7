-- Made from doc/from-rudderstack.md by test/readme; do not edit.
-- block 1
SET client_min_messages = warning;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET timezone = 'UTC';
SET cdp.now = '2026-05-04 09:00+00';
CREATE SCHEMA rudder;
CREATE TABLE rudder.tracks (id text PRIMARY KEY, anonymous_id text, user_id text, received_at timestamptz, sent_at timestamptz, original_timestamp timestamptz, "timestamp" timestamptz, uuid_ts timestamptz, context_ip text, event text, event_text text);
CREATE TABLE rudder.order_completed (LIKE rudder.tracks INCLUDING ALL, revenue numeric);
CREATE TABLE rudder.identifies (id text PRIMARY KEY, anonymous_id text, user_id text, received_at timestamptz, "timestamp" timestamptz, context_traits_plan text, email text, plan text);
CREATE TABLE rudder.aliases (user_id text, previous_id text, received_at timestamptz);
CREATE TABLE rudder.rudder_discards (table_name text, row_id text, column_name text, column_value text, received_at timestamptz, uuid_ts timestamptz, reason text);
INSERT INTO rudder.order_completed (id, anonymous_id, "timestamp", event, event_text, revenue) VALUES ('o1', 'cookie-1', '2026-05-01 12:00+02', 'order_completed', 'Order Completed', 40);
INSERT INTO rudder.identifies VALUES ('i1', 'cookie-1', 'bob', '2026-05-01 12:05+02', '2026-05-01 12:05+02', 'free', 'bob@example.com', 'free');
INSERT INTO rudder.aliases VALUES ('bob', 'old-cookie', '2026-05-01 13:00+02');
-- block 2
SELECT * FROM cdp.attach_preset('rudderstack', 'rudder', prefix => 'r');
SELECT cdp.create_trait('orders', aggregate => 'count', event => 'Order Completed');
SELECT cdp.apply() > 0 AS applied;
SELECT identifier FROM cdp.identities WHERE profile_id = cdp.resolve('user_id:bob') ORDER BY 1;
SELECT cdp.profile('anonymous_id:old-cookie')->'traits'->>'orders' AS orders;
-- block 3
BEGIN;
DELETE FROM rudder.order_completed WHERE id = 'o1';
INSERT INTO rudder.order_completed (id, anonymous_id, "timestamp", event, event_text, revenue) VALUES ('o1', 'cookie-1', '2026-05-01 12:00+02', 'order_completed', 'Order Completed', 40);
COMMIT;
SELECT cdp.apply() > 0 AS applied;
SELECT cdp.profile('user_id:bob')->'traits'->>'orders' AS orders;
SELECT * FROM cdp.verify();
