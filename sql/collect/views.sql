/* sql/collect/views.sql: what is in the log; both views read all of it */

CREATE VIEW cdp.sources AS
	SELECT COALESCE(e.source, '') AS source,
		count(*) AS entries,
		count(*) FILTER (WHERE e.received_at > cdp.clock() - interval '1 day') AS last_day,
		min(e.received_at) AS first_received,
		max(e.received_at) AS last_received
	FROM cdp.events e
	GROUP BY COALESCE(e.source, '');
COMMENT ON VIEW cdp.sources IS 'where entries come from: how many, and since when; duplicates and rejected entries included';

CREATE VIEW cdp.event_catalog AS
	SELECT n.event, n.source, n.entries, n.first_seen, n.last_seen,
		COALESCE(k.property_keys, '{}') AS property_keys, n.type
	FROM (
		SELECT e.type, e.event, COALESCE(e.source, '') AS source, count(*) AS entries,
			min(cdp.effective_at(e.occurred_at, e.received_at)) AS first_seen,
			max(cdp.effective_at(e.occurred_at, e.received_at)) AS last_seen
		FROM cdp.events e
		WHERE e.type IN ('track', 'page', 'screen')
		GROUP BY e.type, e.event, COALESCE(e.source, '')
	) n
	LEFT JOIN (
		SELECT p.type, p.event, p.source, array_agg(DISTINCT p.key COLLATE "C" ORDER BY p.key COLLATE "C") AS property_keys
		FROM (
			SELECT e.type, e.event, COALESCE(e.source, '') AS source, j.key
			FROM cdp.events e
			CROSS JOIN LATERAL jsonb_object_keys(CASE WHEN jsonb_typeof(e.properties) = 'object' AND NOT e.properties ? '$row'
				THEN e.properties END) j(key)
			WHERE e.type IN ('track', 'page', 'screen')
			UNION ALL
			SELECT r.type, r.event, r.source, r.key FROM cdp.referenced_keys() r
		) p
		GROUP BY p.type, p.event, p.source
	) k ON k.type = n.type AND k.event IS NOT DISTINCT FROM n.event AND k.source = n.source;
COMMENT ON VIEW cdp.event_catalog IS 'the events, pages and screens in the log: how often from which source, since when, and the keys that their properties have had';
