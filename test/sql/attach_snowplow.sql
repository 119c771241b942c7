-- Snowplow's own test events, loaded as text and attached by the preset: each
-- event once, and every person's sessions together.
\set header `head -n 1 "${CDP_SHARED_DATA:-../shared/data}/events/snowplow_web/snowplow_web_events.csv" 2>/dev/null | tr -d '\r' || true`
SELECT :'header' <> '' AS have \gset
\if :have
\else
\echo SKIPPED: no ../shared/data/events/snowplow_web/snowplow_web_events.csv, see CDP_SHARED_DATA
\quit
\endif
SET client_min_messages = warning;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET timezone = 'UTC';
SELECT count(*) > 0 AS changed FROM cdp.identity_preset('snowplow_dbt');
CREATE SCHEMA atomic;
SELECT format('CREATE TABLE atomic.events (%s)',
	string_agg(quote_ident(c) || CASE WHEN c ~ 'tstamp$' THEN ' timestamp' ELSE ' text' END, ', ' ORDER BY n))
FROM unnest(string_to_array(:'header', ',')) WITH ORDINALITY u(c, n) \gexec
SELECT * FROM cdp.attach_preset('snowplow', 'atomic');
\copy atomic.events FROM PROGRAM 'cat "${CDP_SHARED_DATA:-../shared/data}/events/snowplow_web/snowplow_web_events.csv"' (FORMAT csv, HEADER)
SELECT count(*) AS rows, count(DISTINCT event_id) AS events FROM atomic.events;
SELECT detail FROM cdp.rejected WHERE entry IS NULL;
SELECT count(*) AS logged, count(*) FILTER (WHERE e.occurred_at = c.first) AS earliest
FROM cdp.events e
JOIN (SELECT event_id, min(COALESCE(derived_tstamp, collector_tstamp)) AT TIME ZONE 'UTC' AS first
	  FROM atomic.events GROUP BY 1) c ON c.event_id = e.properties->>'event_id';
SELECT cdp.apply();
-- one profile for each user that a cookie was seen with last
SELECT count(*) AS cookies,
	   count(*) FILTER (WHERE cdp.resolve(cdp.identifier('anonymous_id', s.domain_userid))
							= COALESCE(cdp.resolve(cdp.identifier('user_id', s.stitched)),
									   cdp.resolve(cdp.identifier('anonymous_id', s.domain_userid)))) AS stitched
FROM (SELECT DISTINCT domain_userid, first_value(user_id) OVER (
		PARTITION BY domain_userid ORDER BY user_id IS NULL, collector_tstamp DESC) AS stitched
	  FROM atomic.events WHERE domain_userid IS NOT NULL) s;
SELECT * FROM cdp.verify();
