/* sql/segments/views.sql: segments for people who explore */

CREATE VIEW cdp.segments AS
SELECT d.name, d.entity, d.predicate, d.exit_when, d.timezone, d.description,
	d.owner, d.channel, d.enabled,
	ARRAY(SELECT x.name FROM cdp.segment_definitions x
		WHERE x.id OPERATOR(pg_catalog.=) ANY (d.exclude) ORDER BY x.name) AS exclude,
	d.holdout, d.seed, d.version,
	CASE WHEN NOT d.enabled THEN 'disabled'
		WHEN e.suspended OR NOT EXISTS (SELECT FROM pg_catalog.pg_roles r
						 WHERE r.rolname OPERATOR(pg_catalog.=) d.owner::pg_catalog.name) THEN 'suspended'
		WHEN d.id OPERATOR(pg_catalog.=) ANY (SELECT w.id FROM cdp.waiting_segments w) THEN 'building'
		WHEN EXISTS (SELECT FROM cdp.backfills b WHERE b.kind OPERATOR(pg_catalog.=) 'segment version' AND b.id OPERATOR(pg_catalog.=) d.id) THEN 'altering'
		ELSE 'active'
	END AS state,
	COALESCE(e.errors, 0) AS errors, cdp.shown_error(e.last_error) AS last_error, e.last_at AS last_error_at,
	d.created_at, d.altered_at
FROM cdp.segment_definitions d
-- with those of what it asks of members
LEFT JOIN LATERAL (SELECT sum(x.errors)::bigint AS errors, bool_or(x.suspended) AS suspended, max(x.last_at) AS last_at,
		(array_agg(x.last_error ORDER BY x.last_at DESC))[1] AS last_error
	FROM cdp.segment_errors x
	WHERE x.segment_id OPERATOR(pg_catalog.=) d.id
		OR x.segment_id OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT h.id FROM cdp.segment_definitions h
			WHERE h.hidden AND h.id OPERATOR(pg_catalog.=) ANY (d.segment_ids)))) e ON true
WHERE NOT d.hidden;
COMMENT ON VIEW cdp.segments IS 'the segments: predicate, channel, and whether they are kept up to date; building that its members are being worked out (it keeps those that it has), altering that it is as it was until the history for what it is to be is folded, suspended that the owner''s role no longer exists or that the definition cannot be compiled, see last_error';

CREATE VIEW cdp.memberships WITH (security_barrier) AS
SELECT d.name AS segment, m.profile_id, m.entered_at
FROM cdp.segment_members m
JOIN cdp.segment_definitions d ON d.id OPERATOR(pg_catalog.=) m.segment_id
WHERE m.member AND NOT d.hidden AND (d.entity OPERATOR(pg_catalog.=) 'account' OR cdp.visible(m.profile_id));
COMMENT ON VIEW cdp.memberships IS 'who is in which segment as of the applied clock';

CREATE VIEW cdp.stat_segments AS
SELECT d.name AS segment,
	v.evaluations,
	v.timed_us OPERATOR(pg_catalog./) NULLIF(v.timed, 0)::float8 AS evaluation_us,
	COALESCE(e.errors, 0) AS errors, cdp.shown_error(e.last_error) AS last_error, e.last_profile, e.last_at AS last_error_at
FROM cdp.segment_definitions d
CROSS JOIN LATERAL (SELECT d.id OPERATOR(pg_catalog.||) ARRAY(SELECT h.id FROM cdp.segment_definitions h
	WHERE h.hidden AND h.id OPERATOR(pg_catalog.=) ANY (d.segment_ids)) AS ids) own
LEFT JOIN LATERAL (SELECT sum(COALESCE(x.evaluations, 0) OPERATOR(pg_catalog.+) cdp.pending_evaluations(i.id))::bigint AS evaluations,
		sum(x.timed)::bigint AS timed, sum(x.timed_us) AS timed_us
	FROM unnest(own.ids) i(id) LEFT JOIN cdp.segment_evaluations x ON x.segment_id OPERATOR(pg_catalog.=) i.id) v ON true
LEFT JOIN LATERAL (SELECT sum(x.errors)::bigint AS errors, max(x.last_at) AS last_at,
		(array_agg(x.last_error ORDER BY x.last_at DESC))[1] AS last_error,
		(array_agg(x.last_profile ORDER BY x.last_at DESC))[1] AS last_profile
	FROM cdp.segment_errors x WHERE x.segment_id OPERATOR(pg_catalog.=) ANY (own.ids)) e ON true
WHERE NOT d.hidden;
COMMENT ON VIEW cdp.stat_segments IS 'work and errors by segment, with those of what it asks of members: profiles or accounts evaluated by the applier, how long one takes on average in microseconds (by a sample; NULL: not known yet), errors of its predicate, the last one and whose profile raised it';
