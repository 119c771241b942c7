-- demo/retail.sql: a year of real orders.  Told by demo/run.
\set QUIET on
\set ON_ERROR_STOP on
\pset null '-'
\pset footer off
SET client_min_messages = warning;
SET timezone = 'UTC';
CREATE TABLE retail (invoice text, customer_id text, invoice_ts timestamptz, country text,
					 units int, amount numeric, lines int);
\copy retail from program 'cat "$CDP_SHARED_DATA/transactions/online_retail_orders.csv"' with (format csv, header)

\echo '== What to compute'
\set ECHO queries
SELECT cdp.create_trait('orders', aggregate => 'count', event => 'Order Completed') \g /dev/null
SELECT cdp.create_trait('ltv', aggregate => 'sum', event => 'Order Completed',
                        value => $$(properties->>'amount')::numeric$$) \g /dev/null
SELECT cdp.create_trait('largest', aggregate => 'max', event => 'Order Completed',
                        value => $$(properties->>'amount')::numeric$$) \g /dev/null
SELECT cdp.create_trait('last_order', aggregate => 'last', event => 'Order Completed', value => 'occurred_at') \g /dev/null
SELECT cdp.create_trait('country', aggregate => 'most_frequent', event => 'Order Completed',
                        value => $$properties->>'country'$$) \g /dev/null
SELECT cdp.create_segment('big_spenders', 'ltv > 10000') \g /dev/null
SELECT cdp.create_segment('lapsed', $$orders > 1 AND NOT did('Order Completed', within => '180 days')$$) \g /dev/null
SELECT cdp.create_segment('abroad', $$country <> 'United Kingdom' AND orders >= 5$$) \g /dev/null
\set ECHO none

\echo '== The orders become events, by COPY'
\copy (SELECT invoice, 'retail', 'track', CASE WHEN amount > 0 THEN 'Order Completed' ELSE 'Order Refunded' END, ARRAY['user_id:' || customer_id], jsonb_build_object('amount', amount, 'units', units, 'country', country), invoice_ts FROM retail) to program 'cat > "$CDP_DEMO_DIR/retail.data"'
\timing on
\copy cdp.events (message_id, source, type, event, identifiers, properties, occurred_at) from program 'cat "$CDP_DEMO_DIR/retail.data"'
\set ECHO queries
SELECT cdp.wait_applied('5 minutes');
\timing off
\set ECHO none

\echo '== Sums and counts per customer, beside plain SQL over the file'
\set ECHO queries
SELECT count(*) AS customers, sum((traits->>'orders')::int) AS orders, sum((traits->>'ltv')::numeric) AS ltv
FROM cdp.profiles WHERE (traits->>'orders')::int > 0;
SELECT count(DISTINCT customer_id) AS customers, count(*) AS orders, sum(amount) AS ltv FROM retail WHERE amount > 0;

SELECT count(*) AS customers_that_differ
FROM (SELECT customer_id, count(*) AS orders, sum(amount) AS ltv, max(amount) AS largest, max(invoice_ts) AS last_order
      FROM retail WHERE amount > 0 GROUP BY customer_id) s
FULL JOIN (SELECT cdp.value(i.identifier)::text AS customer_id, p.traits
           FROM cdp.identities i JOIN cdp.profiles p USING (profile_id)
           WHERE (p.traits->>'orders')::int > 0) c USING (customer_id)
WHERE (s.orders, s.ltv, s.largest, s.last_order) IS DISTINCT FROM
      ((c.traits->>'orders')::bigint, (c.traits->>'ltv')::numeric, (c.traits->>'largest')::numeric,
       (c.traits->>'last_order')::timestamptz);

SELECT profile_id, traits->>'country' AS country, traits->>'orders' AS orders, traits->>'ltv' AS ltv, traits->>'last_order' AS last_order
FROM cdp.profiles ORDER BY (traits->>'ltv')::numeric DESC NULLS LAST LIMIT 5;
SELECT segment, count(*) AS members FROM cdp.memberships GROUP BY segment ORDER BY segment;
SELECT count(*) AS differences_from_the_log FROM cdp.verify();
\set ECHO none
