-- A year of real orders (UCI Online Retail II): sums and counts per customer
-- are those of plain SQL over the file.  What is not positive is a refund.
\set have `test -r "${CDP_SHARED_DATA:-../shared/data}/transactions/online_retail_orders.csv" && echo 1 || echo 0`
\if :have
\else
\echo SKIPPED: ../shared/data/transactions/online_retail_orders.csv is absent (or set CDP_SHARED_DATA)
\quit
\endif
CREATE EXTENSION cdp;
SET cdp.now = '2010-12-10 00:00+00';
SET timezone = 'UTC';
CREATE TABLE retail (invoice text, customer_id text, invoice_ts timestamptz, country text,
					 units int, amount numeric, lines int);
\copy retail from program 'cat "${CDP_SHARED_DATA:-../shared/data}/transactions/online_retail_orders.csv"' with (format csv, header)
SELECT count(*) AS invoices, count(DISTINCT customer_id) AS customers, sum(amount) AS total FROM retail WHERE amount > 0;
SELECT count(*) AS refunds FROM retail WHERE amount <= 0;

-- Two traits and a segment exist before the orders come ...
SELECT cdp.create_trait('orders', aggregate => 'count', event => 'Order Completed') \g /dev/null
SELECT cdp.create_trait('ltv', aggregate => 'sum', event => 'Order Completed',
						value => $$(properties->>'amount')::numeric$$) \g /dev/null
SELECT cdp.create_segment('big_spenders', 'ltv > 10000') \g /dev/null

\copy (SELECT invoice, 'retail', 'track', CASE WHEN amount > 0 THEN 'Order Completed' ELSE 'Order Refunded' END, ARRAY['user_id:' || customer_id], jsonb_build_object('amount', amount, 'units', units, 'lines', lines, 'country', country), invoice_ts FROM retail ORDER BY invoice_ts DESC, invoice) to 'results/retail.data'
\copy cdp.events (message_id, source, type, event, identifiers, properties, occurred_at) from 'results/retail.data'
SET cdp.batch_size = 5000;
SELECT cdp.apply(5000) AS applied;
SELECT cdp.apply() AS applied;

-- ... the others are back-filled: too many for a call, the applier does it.
SET client_min_messages = warning;
SELECT cdp.create_trait('units', aggregate => 'sum', event => 'Order Completed',
						value => $$(properties->>'units')::int$$) \g /dev/null
SELECT cdp.create_trait('largest', aggregate => 'max', event => 'Order Completed',
						value => $$(properties->>'amount')::numeric$$) \g /dev/null
SELECT cdp.create_trait('smallest', aggregate => 'min', event => 'Order Completed',
						value => $$(properties->>'amount')::numeric$$) \g /dev/null
SELECT cdp.create_trait('mean', aggregate => 'avg', event => 'Order Completed',
						value => $$(properties->>'amount')::numeric$$) \g /dev/null
SELECT cdp.create_trait('first_order', aggregate => 'first', event => 'Order Completed',
						value => 'occurred_at') \g /dev/null
SELECT cdp.create_trait('last_order', aggregate => 'last', event => 'Order Completed',
						value => 'occurred_at') \g /dev/null
SELECT cdp.create_trait('country', aggregate => 'most_frequent', event => 'Order Completed',
						value => $$properties->>'country'$$) \g /dev/null
SELECT cdp.create_trait('countries', aggregate => 'unique_count', event => 'Order Completed',
						value => $$properties->>'country'$$) \g /dev/null
SELECT cdp.create_trait('orders_90d', aggregate => 'count', event => 'Order Completed',
						within => '90 days') \g /dev/null
SELECT cdp.create_segment('lapsed', $$orders > 1 AND NOT did('Order Completed', within => '180 days')$$) \g /dev/null
RESET client_min_messages;
SELECT count(*) AS building FROM cdp.progress;
SELECT cdp.apply() AS applied;
SELECT count(*) AS building FROM cdp.progress;

CREATE VIEW by_cdp AS
SELECT cdp.value(i.identifier)::text AS customer_id,
	   (p.traits->>'orders')::bigint AS orders, (p.traits->>'ltv')::numeric AS ltv,
	   (p.traits->>'units')::bigint AS units, (p.traits->>'largest')::numeric AS largest,
	   (p.traits->>'smallest')::numeric AS smallest, round((p.traits->>'mean')::numeric, 6) AS mean,
	   (p.traits->>'first_order')::timestamptz AS first_order, (p.traits->>'last_order')::timestamptz AS last_order,
	   p.traits->>'country' AS country, (p.traits->>'countries')::bigint AS countries,
	   (p.traits->>'orders_90d')::bigint AS orders_90d
FROM cdp.identities i JOIN cdp.profiles p USING (profile_id)
WHERE (p.traits->>'orders')::bigint > 0;
CREATE TABLE by_country AS
SELECT DISTINCT ON (customer_id) customer_id, country FROM retail WHERE amount > 0
GROUP BY customer_id, country ORDER BY customer_id, count(*) DESC, country COLLATE "C";
ALTER TABLE by_country ADD PRIMARY KEY (customer_id);
CREATE VIEW by_sql AS
SELECT customer_id, count(*) AS orders, sum(amount) AS ltv, sum(units) AS units, max(amount) AS largest,
	   min(amount) AS smallest, round(avg(amount), 6) AS mean, min(invoice_ts) AS first_order,
	   max(invoice_ts) AS last_order,
	   (SELECT country FROM by_country c WHERE c.customer_id = r.customer_id) AS country,
	   count(DISTINCT country) AS countries,
	   count(*) FILTER (WHERE invoice_ts > timestamptz '2010-12-10 00:00+00' - interval '90 days') AS orders_90d
FROM retail r WHERE amount > 0 GROUP BY customer_id;

SELECT count(*) AS profiles, sum(orders) AS orders, sum(ltv) AS ltv FROM by_cdp;
-- no difference, either way
(SELECT 'only cdp' AS side, * FROM by_cdp EXCEPT ALL SELECT 'only cdp', * FROM by_sql)
UNION ALL
(SELECT 'only sql', * FROM by_sql EXCEPT ALL SELECT 'only sql', * FROM by_cdp)
ORDER BY 2 LIMIT 10;

SELECT segment, count(*) FROM cdp.memberships GROUP BY segment ORDER BY segment;
SELECT (SELECT count(*) FROM by_sql WHERE ltv > 10000) AS big_spenders,
	   (SELECT count(*) FROM by_sql WHERE orders > 1 AND last_order <= timestamptz '2010-12-10 00:00+00' - interval '180 days') AS lapsed;
SELECT count(*) AS rejected FROM cdp.rejected;
SELECT * FROM cdp.verify();
DROP VIEW by_cdp, by_sql;
DROP TABLE retail, by_country;
DROP EXTENSION cdp;
