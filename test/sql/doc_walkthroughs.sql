-- Made from doc/walkthroughs.md by test/readme; do not edit.
-- block 1
SET client_min_messages = warning;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET cdp.now = '2026-05-31 09:00+00';
-- block 2
CREATE SCHEMA shop;
CREATE TABLE shop.crm (id int PRIMARY KEY, user_id text, email text, phone text, country text, joined date);
CREATE TABLE shop.invoices (id int PRIMARY KEY, email text, amount numeric, paid_at timestamptz);
CREATE TABLE shop.tickets (id int PRIMARY KEY, phone text, opened_at timestamptz, solved_at timestamptz);
CREATE TABLE shop.loyalty (card text PRIMARY KEY, email text, level text);
CREATE TABLE shop.till (receipt text PRIMARY KEY, card text, amount numeric, at timestamptz);
CREATE SCHEMA web;
CREATE TABLE web.logged_in (id text PRIMARY KEY, anonymous_id text, user_id text, event text, event_text text, received_at timestamp, "timestamp" timestamp);
INSERT INTO shop.crm VALUES
    (1, 'ada', 'Ada@example.com', '+49 30 901820', 'DE', '2026-05-28'), (2, 'bob', 'bob@example.com', '+1 212 555 0100', 'US', '2026-05-29'),
    (3, 'eve', 'eve@example.com', '+33 1 42 68 53 00', 'FR', '2025-01-10');
INSERT INTO shop.loyalty VALUES ('L-77', 'ada@example.com', 'gold');
-- block 3
SELECT cdp.create_identifier_kind('loyalty_card', normaliser => 'verbatim');
SELECT cdp.attach('shop.crm', '{"type": "identify", "identifiers": {"user_id": "user_id", "email": "email", "phone": "phone"}, "traits": ["country", "joined"]}');
SELECT cdp.attach('shop.invoices', '{"event": "Invoice Paid", "identifiers": {"email": "email"}, "time": "paid_at", "filter": "paid_at IS NOT NULL", "properties": ["amount"]}');
SELECT cdp.attach('shop.tickets', '{"event": "Ticket Opened", "identifiers": {"phone": "phone"}, "time": "opened_at", "properties": "jsonb_build_object(''solved'', solved_at IS NOT NULL)"}');
SELECT cdp.attach('shop.loyalty', '{"type": "identify", "identifiers": {"loyalty_card": "card", "email": "email"}, "traits": ["level"]}');
SELECT cdp.attach('shop.till', '{"event": "Shop Purchase", "identifiers": {"loyalty_card": "card"}, "time": "at", "properties": ["amount"]}');
SELECT * FROM cdp.attach_preset('segment', 'web');
-- block 4
INSERT INTO web.logged_in SELECT 'l' || g, 'cookie-1', 'ada', 'logged_in', 'Logged In', t, t
    FROM generate_series(1, 6) g, LATERAL (SELECT timestamp '2026-05-04 08:00' + g * interval '1 day' AS t) x;
INSERT INTO shop.tickets VALUES (1, '+4930901820', '2026-05-27 10:00+00', NULL);
INSERT INTO shop.invoices VALUES (1, 'ADA@example.com', 49, '2026-05-29 10:00+00'), (2, 'bob@example.com', 10, NULL);
COPY shop.till FROM stdin WITH (FORMAT csv);
R-1,L-77,19.90,2026-05-30T15:00:00Z
R-2,L-77,5.10,2026-05-30T15:05:00Z
\.
SELECT cdp.apply() > 0 AS applied;
-- block 5
SELECT identifier FROM cdp.identities WHERE profile_id = cdp.resolve('user_id:ada') ORDER BY 1;
-- block 6
SELECT source, event, at AT TIME ZONE 'UTC' AS at FROM cdp.timeline('loyalty_card:L-77') WHERE event <> 'Logged In' ORDER BY 3;
-- block 7
SELECT cdp.create_segment('churn_risk', $$
    NOT did('Logged In', within => '14 days', at_least => 3)
    AND did('Logged In', within => '28 days', at_least => 5)
    AND did('Ticket Opened', within => '30 days', filter => NOT (properties->>'solved')::boolean)$$);
SELECT cdp.in_segment('user_id:ada', 'churn_risk');
UPDATE shop.tickets SET solved_at = '2026-05-31 08:00+00' WHERE id = 1;
SELECT cdp.apply() > 0 AS applied;
SELECT cdp.in_segment('user_id:ada', 'churn_risk');
SELECT kind, segment, cause FROM cdp.changes WHERE segment = 'churn_risk' AND kind LIKE 'segment_e%' ORDER BY epoch, seq;
-- block 8
SELECT cdp.create_trait('country', type => 'text');
SELECT cdp.create_trait('joined', type => 'timestamptz');
SELECT cdp.create_segment('new_in_europe', $$country IN ('DE', 'FR', 'IT') AND joined > now() - interval '5 days'$$);
SELECT cdp.in_segment('user_id:ada', 'new_in_europe') AS ada, cdp.in_segment('user_id:bob', 'new_in_europe') AS bob, cdp.in_segment('user_id:eve', 'new_in_europe') AS eve;
UPDATE shop.crm SET country = 'IT' WHERE user_id = 'bob';
SELECT cdp.apply() > 0 AS applied;
SELECT cdp.in_segment('user_id:bob', 'new_in_europe') AS bob;
SET cdp.now = '2026-06-02 09:00+00';
SELECT cdp.apply() AS entries;
SELECT cdp.in_segment('user_id:ada', 'new_in_europe') AS ada, cdp.in_segment('user_id:bob', 'new_in_europe') AS bob;
-- block 9
SELECT cdp.create_trait('paid', aggregate => 'sum', event => 'Invoice Paid', value => $$(properties->>'amount')::numeric$$);
SELECT cdp.create_trait('in_shop', aggregate => 'sum', event => 'Shop Purchase', value => $$(properties->>'amount')::numeric$$);
SELECT cdp.create_trait('spent', expression => 'COALESCE(paid, 0) + COALESCE(in_shop, 0)');
UPDATE shop.invoices SET amount = amount * 2;
UPDATE shop.invoices SET paid_at = '2026-06-01' WHERE id = 2;
DELETE FROM shop.till WHERE receipt = 'R-2';
SELECT cdp.apply() > 0 AS applied;
-- block 10
SELECT c.user_id, (SELECT sum(i.amount) FROM shop.invoices i WHERE lower(i.email) = lower(c.email) AND i.paid_at IS NOT NULL) AS by_the_table,
       p.traits->>'paid' AS paid, p.traits->>'in_shop' AS in_shop, p.traits->>'spent' AS spent
FROM shop.crm c LEFT JOIN cdp.profiles p ON p.profile_id = cdp.resolve(cdp.identifier('user_id', c.user_id)) ORDER BY 1;
-- block 11
SELECT name, status FROM cdp.attachments ORDER BY name;
SELECT * FROM cdp.verify();
