/* sql/traits/views.sql: traits and profiles, without internals */

CREATE VIEW cdp.traits AS
	SELECT t.name,
		CASE t.aggregate
			WHEN 'declared' THEN 'declared'
			WHEN 'expression' THEN 'derived'
			ELSE 'computed'
		END AS kind,
		CASE WHEN t.aggregate NOT IN ('declared', 'expression')
			THEN t.aggregate
		END AS aggregate,
		t.value, t.event, t.filter, t.within, t.expression, t.type, t.entity,
		t.empty, t.timezone, t.description, t.owner,
		COALESCE((t.options ->> 'announce')::boolean, false) AS announce,
		t.each, t.older_than, t.since, t.options - 'announce' AS options,
		CASE WHEN t.id IN (SELECT b.id FROM cdp.building_traits b) THEN 'building'
			WHEN EXISTS (SELECT FROM cdp.backfills b WHERE b.kind = 'trait' AND b.replaces = t.id) THEN 'altering'
			WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = t.owner::name) THEN 'suspended'
			ELSE 'active'
		END AS status
	FROM cdp.trait_definitions t
	WHERE NOT t.hidden;
COMMENT ON VIEW cdp.traits IS 'definitions of traits; status: active, building (no values until history is folded), altering (a new version is being built beside it), suspended (its owner does not exist)';

CREATE VIEW cdp.stat_traits AS
	SELECT COALESCE(h.name, t.name) AS name, t.aggregate,
		COALESCE(e.errors, 0) AS errors,
		COALESCE(e.nulls, 0) AS nulls,
		cdp.shown_error(e.last_error) AS last_error, e.last_entry, e.last_at
	FROM cdp.trait_definitions t
	LEFT JOIN cdp.hidden_traits h ON h.id = t.id
	LEFT JOIN cdp.trait_errors e ON e.trait_id = t.id;
COMMENT ON VIEW cdp.stat_traits IS 'how often a trait''s value could not be computed (errors) or was NULL, and the last error; what a segment asks of an event, or of members, has the segment''s name with the event''s, or with members';

CREATE VIEW cdp.profiles WITH (security_barrier) AS
	SELECT i.profile_id,
		min(i.first_seen) AS first_seen,
		max(i.last_seen) AS last_seen,
		cdp.traits_json(i.state) AS traits
	FROM cdp.identities i
	WHERE cdp.visible(i.profile_id)
	GROUP BY i.profile_id;
COMMENT ON VIEW cdp.profiles IS 'everybody: first and last seen, and all traits';
