-- Made from doc/from-segment.md by test/readme; do not edit.
-- block 1
SET client_min_messages = warning;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET timezone = 'UTC';
SET cdp.now = '2026-05-04 09:00+00';
CREATE SCHEMA web;
CREATE TABLE web.tracks (id varchar(512) PRIMARY KEY, received_at timestamp, uuid_ts timestamp, anonymous_id varchar(512), user_id varchar(512),
	event varchar(512), event_text varchar(512), context_ip varchar(512), original_timestamp timestamp, sent_at timestamp, "timestamp" timestamp);
CREATE TABLE web.order_completed (LIKE web.tracks INCLUDING ALL, revenue float8, coupon text);
CREATE TABLE web.product_viewed (LIKE web.tracks INCLUDING ALL, sku text, category text);
CREATE TABLE web.identifies (id varchar(512) PRIMARY KEY, received_at timestamp, anonymous_id varchar(512), user_id varchar(512),
	context_ip text, email text, plan text, "timestamp" timestamp);
CREATE TABLE web.users (id varchar(512) PRIMARY KEY, received_at timestamp, email text, plan text);
CREATE TABLE web.groups (id varchar(512) PRIMARY KEY, received_at timestamp, anonymous_id varchar(512), user_id varchar(512), group_id text, name text, seats int, "timestamp" timestamp);
INSERT INTO web.product_viewed (id, anonymous_id, event, event_text, "timestamp", sku, category)
	VALUES ('v1', 'phone-7f3a', 'product_viewed', 'Product Viewed', '2026-05-01 10:00', 'T-1', 'tents');
INSERT INTO web.identifies VALUES ('i1', '2026-05-01 10:05', 'phone-7f3a', 'ada', '::1', 'Ada@example.com', 'free', '2026-05-01 10:04');
INSERT INTO web.users VALUES ('ada', '2026-05-01 10:05', 'Ada@example.com', 'free');
INSERT INTO web.order_completed (id, user_id, event, event_text, "timestamp", revenue)
	VALUES ('o1', 'ada', 'order_completed', 'Order Completed', '2026-05-02 08:00', 129.9);
INSERT INTO web.groups VALUES ('g1', '2026-05-02 09:00', NULL, 'ada', 'acme', 'Acme', 40, '2026-05-02 09:00');
-- block 2
SELECT relation, mapping->>'type' AS type, mapping->'identifiers' AS identifiers, mapping->'properties' AS properties
FROM cdp.attachment_preset('segment', 'web');
-- block 3
SELECT * FROM cdp.attach_preset('segment', 'web');
-- block 4
SELECT count(*) > 0 AS rules_changed FROM cdp.identity_preset('segment');
-- block 5
SELECT cdp.create_trait('ltv', aggregate => 'sum', event => 'Order Completed', value => $$(properties->>'revenue')::numeric$$);
SELECT cdp.create_trait('plan', type => 'text');
SELECT cdp.create_segment('buyers', 'ltv > 100');
SELECT cdp.apply() > 0 AS applied;
SELECT cdp.profile('email:ada@example.com')->'traits'->>'plan' AS plan, cdp.profile('email:ada@example.com')->'traits'->>'ltv' AS ltv;
SELECT identifier FROM cdp.identities WHERE profile_id = cdp.resolve('user_id:ada') ORDER BY 1;
SELECT cdp.in_segment('anonymous_id:phone-7f3a', 'buyers');
SELECT cdp.account('group_id:acme')->'traits' AS acme;
-- block 6
INSERT INTO web.order_completed (id, user_id, event, event_text, "timestamp", revenue)
    VALUES ('o1', 'ada', 'order_completed', 'Order Completed', '2026-05-02 08:00', 29.9)
    ON CONFLICT (id) DO UPDATE SET revenue = excluded.revenue;
SELECT cdp.apply() > 0 AS applied;
SELECT cdp.in_segment('user_id:ada', 'buyers');
SELECT * FROM cdp.verify();
-- block 7
CREATE TABLE web.signed_up (LIKE web.tracks INCLUDING ALL, plan text);
SELECT cdp.attach(p.relation::regclass, p.mapping, name => 'web_' || split_part(p.relation, '.', 2))
FROM cdp.attachment_preset('segment', 'web') p
WHERE NOT EXISTS (SELECT FROM cdp.attachments a WHERE a.relation::regclass = p.relation::regclass);
