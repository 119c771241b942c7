-- demo/stream.sql: a generated stream goes through.  Told by demo/run.
\set QUIET on
\pset footer off
\pset null '-'
SET timezone = 'UTC';
COPY cdp.events (message_id, source, type, event, identifiers, properties, context, occurred_at) FROM :'file';
SELECT cdp.wait_applied('5 minutes') \g /dev/null
\set ECHO queries
SELECT entries, duplicates, rejected, batches FROM cdp.stat_apply;
SELECT count(*) AS identifiers, count(DISTINCT profile_id) AS profiles FROM cdp.identities;
SELECT segment, count(*) AS members FROM cdp.memberships GROUP BY segment ORDER BY segment;
SELECT profile_id, views, orders, ltv, average_order, favourite, orders_30d, country, last_login
FROM cdp.profile_traits ORDER BY ltv DESC NULLS LAST LIMIT 5;
\set ECHO none
