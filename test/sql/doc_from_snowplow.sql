-- Made from doc/from-snowplow.md by test/readme; do not edit.
-- block 1
SET client_min_messages = warning;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET timezone = 'UTC';
SET cdp.now = '2026-05-04 09:00+00';
CREATE SCHEMA atomic;
CREATE TABLE atomic.events (app_id varchar(255), platform varchar(255), collector_tstamp timestamp NOT NULL, derived_tstamp timestamp, event varchar(128), event_id char(36) NOT NULL,
	user_id varchar(255), domain_userid varchar(128), network_userid varchar(128), page_urlpath varchar(3000), mkt_source varchar(255), event_name varchar(1000),
	tr_orderid varchar(255), tr_total numeric(18, 2));
INSERT INTO atomic.events (collector_tstamp, derived_tstamp, event, event_id, user_id, domain_userid, page_urlpath, mkt_source, event_name) VALUES
	('2026-05-01 10:00', '2026-05-01 09:59', 'page_view', '11111111-0000-4000-8000-000000000001', NULL, 'd-1', '/tents', 'newsletter', 'page_view'),
	('2026-05-01 10:01', '2026-05-01 10:00', 'page_view', '11111111-0000-4000-8000-000000000002', 'ada', 'd-1', '/cart', NULL, 'page_view'),
	('2026-05-01 10:07', '2026-05-01 10:00', 'page_view', '11111111-0000-4000-8000-000000000002', 'ada', 'd-1', '/cart', NULL, 'page_view');
INSERT INTO atomic.events (collector_tstamp, derived_tstamp, event, event_id, user_id, domain_userid, event_name, tr_orderid, tr_total) VALUES
	('2026-05-01 10:05', '2026-05-01 10:04', 'transaction', '11111111-0000-4000-8000-000000000003', 'ada', 'd-1', 'transaction', 'o-1', 129.90);
-- block 2
SELECT * FROM cdp.attach_preset('snowplow', 'atomic');
SELECT cdp.create_trait('pages', aggregate => 'count', event => 'page_view');
SELECT cdp.create_trait('first_source', aggregate => 'first', event => 'page_view', filter => $$properties ? 'mkt_source'$$, value => $$properties->>'mkt_source'$$);
SELECT cdp.create_trait('revenue', aggregate => 'sum', event => 'transaction', value => $$(properties->>'tr_total')::numeric$$);
SELECT cdp.apply() > 0 AS applied;
SELECT p.traits->>'pages' AS pages, p.traits->>'first_source' AS first_source, p.traits->>'revenue' AS revenue
FROM cdp.profiles p WHERE p.profile_id = cdp.resolve('user_id:ada');
-- block 3
CREATE TABLE atomic.com_example_coupon_1 (root_id char(36), root_tstamp timestamp, code text);
INSERT INTO atomic.com_example_coupon_1 VALUES ('11111111-0000-4000-8000-000000000003', '2026-05-01 10:05', 'SPRING');
SELECT cdp.drop_attachment('atomic_events', retract => true) > 0 AS dropped;
SELECT cdp.attach('atomic.events', mapping || '{"properties":
    "jsonb_strip_nulls(to_jsonb(r)) || jsonb_build_object(''coupons'', (SELECT jsonb_agg(c.code) FROM atomic.com_example_coupon_1 c WHERE c.root_id = r.event_id))"}', name => 'atomic_events')
FROM cdp.attachment_preset('snowplow', 'atomic');
SELECT cdp.apply() > 0 AS applied;
SELECT properties->'coupons' AS coupons FROM cdp.events WHERE event = 'transaction' ORDER BY id DESC LIMIT 1;
