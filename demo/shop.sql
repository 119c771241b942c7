-- demo/shop.sql: a visitor becomes a customer.  Told by demo/run.
\set QUIET on
\set ON_ERROR_STOP on
\pset null '-'
\pset footer off
SET client_min_messages = warning;
SET timezone = 'UTC';

\echo
\echo '== What to compute: four traits and a segment'
\set ECHO queries
SELECT cdp.create_trait('views', aggregate => 'count', event => 'Product Viewed') \g /dev/null
SELECT cdp.create_trait('orders', aggregate => 'count', event => 'Order Completed') \g /dev/null
SELECT cdp.create_trait('ltv', aggregate => 'sum', event => 'Order Completed',
                        value => $$(properties->>'revenue')::numeric$$) \g /dev/null
SELECT cdp.create_trait('favourite', aggregate => 'most_frequent', event => 'Product Viewed',
                        value => $$properties->>'category'$$) \g /dev/null
SELECT cdp.create_segment('warm_leads',
    $$did('Product Viewed', at_least => 3, within => '7 days') AND NOT did('Order Completed', within => '7 days')$$) \g /dev/null
SELECT cdp.create_segment('customers', 'orders > 0') \g /dev/null
\set ECHO none

\echo
\echo '== Monday: somebody browses on a phone, and in the evening on a laptop'
\set ECHO queries
SELECT cdp.track('Product Viewed', '{"sku": "T-1", "category": "tents"}', anonymous_id => 'phone-7f3a') \g /dev/null
SELECT cdp.track('Product Viewed', '{"sku": "S-1", "category": "stoves"}', anonymous_id => 'laptop-91c2') \g /dev/null
SELECT cdp.wait_applied('30 seconds') \g /dev/null
SELECT profile_id, array_agg(identifier ORDER BY node_id) AS identifiers
FROM cdp.identities GROUP BY profile_id ORDER BY profile_id;
\set ECHO none

\echo '== She signs up on the phone, and logs in on the laptop: one person, the whole history'
\set ECHO queries
SELECT cdp.identify('ada', '{"email": "Ada@Example.com", "name": "Ada"}', anonymous_id => 'phone-7f3a') \g /dev/null
SELECT cdp.identify('ada', '{"plan": "plus"}', anonymous_id => 'laptop-91c2') \g /dev/null
SELECT cdp.wait_applied('30 seconds') \g /dev/null
SELECT jsonb_pretty(cdp.profile('email:ada@example.com')) AS profile;
\set ECHO none

\echo '== A third product, and nothing bought: a warm lead'
\set ECHO queries
SELECT cdp.track('Product Viewed', '{"sku": "T-2", "category": "tents"}', user_id => 'ada') \g /dev/null
SELECT cdp.wait_applied('30 seconds') \g /dev/null
\set ECHO none
SELECT pg_sleep(0.5) \g /dev/null

\echo '== Seven days pass in which nothing happens: the clock is moved'
\set ECHO queries
SELECT cdp.in_segment('user_id:ada', 'warm_leads') AS warm_lead_on_monday;
ALTER SYSTEM SET cdp.now = '2026-05-11 20:00+00';
SELECT pg_reload_conf() \g /dev/null
\set ECHO none
SELECT pg_sleep(0.5) \g /dev/null
SELECT cdp.apply() \g /dev/null
\set ECHO queries
SELECT cdp.in_segment('user_id:ada', 'warm_leads') AS warm_lead_a_week_later;
\set ECHO none

\echo '== She buys, on the phone'
\set ECHO queries
SELECT cdp.track('Order Completed', '{"order_id": "o-1", "revenue": 129.90}', anonymous_id => 'phone-7f3a') \g /dev/null
SELECT cdp.wait_applied('30 seconds') \g /dev/null
SELECT cdp.profile('user_id:ada')->'traits' AS traits, cdp.profile('user_id:ada')->'segments' AS segments;
SELECT seq, kind, segment, profile_id, cause, occurred_at FROM cdp.changes ORDER BY epoch, seq;
SELECT * FROM cdp.verify();
\set ECHO none
