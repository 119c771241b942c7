/* sql/trust/plans.sql: tracking plans: which properties entries should have */

CREATE TABLE cdp.plan_definitions (
	type text NOT NULL CHECK (type IN ('track', 'page', 'screen', 'identify', 'group')),
	event text NOT NULL,
	version int NOT NULL,
	schema jsonb NOT NULL,
	mode text NOT NULL CHECK (mode = 'allow'),
	from_at timestamptz NOT NULL,
	until_at timestamptz,
	PRIMARY KEY (type, event, version)
);
COMMENT ON TABLE cdp.plan_definitions IS 'all versions of all tracking plans; an entry is judged by the one with from_at <= received_at < until_at; event is empty for entries without one';
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON cdp.plan_definitions
	FOR EACH ROW EXECUTE FUNCTION cdp.audit_definition('tracking plan', 'event');

CREATE TABLE cdp.plan_counts (
	type text NOT NULL,
	event text NOT NULL,
	version int NOT NULL,
	judged bigint NOT NULL,
	violating bigint NOT NULL,
	PRIMARY KEY (type, event, version)
);
COMMENT ON TABLE cdp.plan_counts IS 'entries that were judged by a version of a tracking plan, and those with violations';

CREATE TABLE cdp.plan_violation_counts (
	type text NOT NULL,
	event text NOT NULL,
	version int NOT NULL,
	path text NOT NULL,
	keyword text NOT NULL,
	entries bigint NOT NULL,
	first_at timestamptz NOT NULL,
	last_at timestamptz NOT NULL,
	entry bigint,
	xid bigint,
	PRIMARY KEY (type, event, version, path, keyword)
);
COMMENT ON TABLE cdp.plan_violation_counts IS 'what was wrong with entries by a version of a tracking plan; entry, xid: the first one, NULL once it was erased';

SELECT pg_extension_config_dump('cdp.plan_definitions', '');
SELECT pg_extension_config_dump('cdp.plan_counts', '');
SELECT pg_extension_config_dump('cdp.plan_violation_counts', '');

CREATE VIEW cdp.plan_violations AS
	SELECT v.type, v.event, v.version, v.path, v.keyword, v.entries, v.first_at, v.last_at, v.entry
	FROM cdp.plan_violation_counts v;
COMMENT ON VIEW cdp.plan_violations IS 'what was wrong with entries by a version of a tracking plan: where (numbers in paths are *), by which keyword, how many entries, received from when to when, and one of them; no values. Above 1,000 rows of a version the rest is counted under the path …';

CREATE VIEW cdp.stat_plans AS
	SELECT d.type, d.event, d.version, d.mode, d.from_at, d.until_at,
		coalesce(c.judged, 0) AS judged, coalesce(c.violating, 0) AS violating
	FROM cdp.plan_definitions d LEFT JOIN cdp.plan_counts c USING (type, event, version);
COMMENT ON VIEW cdp.stat_plans IS 'versions of tracking plans: when they are in force, how many entries were judged and how many of them have violations';

CREATE FUNCTION cdp.schema_check(schema jsonb) RETURNS void
	AS 'MODULE_PATHNAME', 'cdp_schema_check' LANGUAGE C VOLATILE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cdp.schema_check(jsonb) IS 'internal: error unless the schema is one that is known, whatever it would judge';

-- End the version in force; the next version's number.  In the applier's way.
CREATE FUNCTION cdp.end_tracking_plan(event text, type text, OUT ended boolean, OUT next_version int)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
	IF type IS NULL OR type NOT IN ('track', 'page', 'screen', 'identify', 'group') THEN
		RAISE EXCEPTION 'invalid type "%" of a tracking plan', type USING ERRCODE = 'invalid_parameter_value',
			HINT = 'There are track, page, screen, identify and group.';
	ELSIF type = 'track' AND event IS NULL THEN
		RAISE EXCEPTION 'event must not be null' USING ERRCODE = 'null_value_not_allowed';
	ELSIF type IN ('identify', 'group') AND event IS NOT NULL THEN
		RAISE EXCEPTION 'entries of type % have no event', type USING ERRCODE = 'invalid_parameter_value',
			HINT = 'The plan for all of them has the event NULL.';
	ELSIF octet_length(event) > 500 THEN
		RAISE EXCEPTION 'event is too long' USING ERRCODE = 'invalid_parameter_value',
			DETAIL = 'A tracking plan can be for an event of at most 500 bytes.';
	END IF;
	PERFORM cdp.definitions_lock();
	SELECT coalesce(max(d.version), 0) + 1 INTO next_version FROM cdp.plan_definitions d
	WHERE d.type = type AND d.event = coalesce(event, '');
	UPDATE cdp.plan_definitions d SET until_at = cdp.clock()
	WHERE d.type = type AND d.event = coalesce(event, '') AND d.until_at IS NULL;
	ended := FOUND;
	PERFORM cdp.definitions_changed();
END;
$$;
COMMENT ON FUNCTION cdp.end_tracking_plan(text, text) IS 'internal: end the version of a tracking plan that is in force';

CREATE FUNCTION cdp.tracking_plan(event text, schema jsonb, mode text DEFAULT 'allow', type text DEFAULT 'track') RETURNS int
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	version int;
BEGIN
	IF schema IS NULL THEN
		RAISE EXCEPTION 'schema must not be null' USING ERRCODE = 'null_value_not_allowed';
	ELSIF mode IN ('drop-property', 'quarantine') THEN
		RAISE EXCEPTION 'mode "%" of tracking plans is not supported', mode USING ERRCODE = 'feature_not_supported',
			HINT = 'The mode allow counts what is wrong.';
	ELSIF mode IS DISTINCT FROM 'allow' THEN
		RAISE EXCEPTION 'invalid mode "%" of a tracking plan', mode USING ERRCODE = 'invalid_parameter_value',
			HINT = 'There is allow.';
	END IF;
	PERFORM cdp.schema_check(schema);
	SELECT e.next_version INTO version FROM cdp.end_tracking_plan(event, type) e;
	INSERT INTO cdp.plan_definitions VALUES (type, coalesce(event, ''), version, schema, mode, cdp.clock(), NULL);
	RETURN version;
END;
$$;
COMMENT ON FUNCTION cdp.tracking_plan(text, jsonb, text, text) IS
	'judge the properties of entries of a type (track, page, screen; identify and group: their traits) with this event (NULL: none) by a JSON Schema, from now on: entries that are received after this. mode allow: entries count whole, and what is wrong is in cdp.plan_violations. Returns the number of the version. Errors: invalid_parameter_value, feature_not_supported (mode, or what a schema has that is not known), null_value_not_allowed';

CREATE FUNCTION cdp.drop_tracking_plan(event text, type text DEFAULT 'track') RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
	IF NOT (SELECT e.ended FROM cdp.end_tracking_plan(event, type) e) THEN
		RAISE EXCEPTION 'there is no tracking plan for % "%"', type, event USING ERRCODE = 'undefined_object', HINT = 'See cdp.stat_plans.';
	END IF;
END;
$$;
COMMENT ON FUNCTION cdp.drop_tracking_plan(text, text) IS
	'judge entries of a type with this event no more; its versions and what they found stay. Errors: undefined_object';

-- Add up what a batch has found.
CREATE FUNCTION cdp.count_plans(types text[], events text[], versions int[], judged bigint[], violating bigint[]) RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	INSERT INTO cdp.plan_counts AS c
	SELECT * FROM unnest(types, events, versions, judged, violating)
	ON CONFLICT (type, event, version) DO UPDATE
		SET judged = c.judged + EXCLUDED.judged, violating = c.violating + EXCLUDED.violating;
END;
COMMENT ON FUNCTION cdp.count_plans(text[], text[], int[], bigint[], bigint[]) IS 'internal: add to the counts of tracking plans';

CREATE FUNCTION cdp.count_plan_violations(types text[], events text[], versions int[], paths text[], keywords text[], counts bigint[],
		firsts timestamptz[], lasts timestamptz[], examples bigint[], xids bigint[]) RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	INSERT INTO cdp.plan_violation_counts AS c
	SELECT f.type, f.event, f.version, f.path, f.keyword, sum(f.entries), min(f.first_at), max(f.last_at),
		(array_agg(f.entry ORDER BY f.entry))[1], (array_agg(f.xid ORDER BY f.entry))[1]
	FROM (
		SELECT u.type, u.event, u.version, u.entries, u.first_at, u.last_at, u.entry, u.xid,
			CASE WHEN k.known THEN u.path ELSE '…' END AS path, CASE WHEN k.known THEN u.keyword ELSE '' END AS keyword
		FROM (
			SELECT u.*, v.path IS NOT NULL AS has, coalesce(s.rows, 0) +
				row_number() OVER (PARTITION BY u.type, u.event, u.version, v.path IS NULL
					ORDER BY u.entry, u.path, u.keyword) AS place
			FROM unnest(types, events, versions, paths, keywords, counts, firsts, lasts, examples, xids)
				AS u (type, event, version, path, keyword, entries, first_at, last_at, entry, xid)
			LEFT JOIN cdp.plan_violation_counts v USING (type, event, version, path, keyword)
			LEFT JOIN (SELECT x.type, x.event, x.version, count(*) AS rows FROM cdp.plan_violation_counts x
				GROUP BY 1, 2, 3) s USING (type, event, version)) u
		CROSS JOIN LATERAL (SELECT u.has OR u.place <= 1000 AS known) k) f
	GROUP BY f.type, f.event, f.version, f.path, f.keyword
	ON CONFLICT (type, event, version, path, keyword) DO UPDATE
		SET entries = c.entries + EXCLUDED.entries, first_at = least(c.first_at, EXCLUDED.first_at),
			last_at = greatest(c.last_at, EXCLUDED.last_at);
END;
COMMENT ON FUNCTION cdp.count_plan_violations(text[], text[], int[], text[], text[], bigint[], timestamptz[], timestamptz[], bigint[], bigint[]) IS
	'internal: add to the violations of tracking plans';

REVOKE ALL ON cdp.plan_definitions, cdp.plan_counts, cdp.plan_violation_counts, cdp.plan_violations, cdp.stat_plans FROM PUBLIC;
REVOKE ALL ON FUNCTION cdp.schema_check(jsonb), cdp.end_tracking_plan(text, text), cdp.tracking_plan(text, jsonb, text, text),
	cdp.drop_tracking_plan(text, text), cdp.count_plans(text[], text[], int[], bigint[], bigint[]),
	cdp.count_plan_violations(text[], text[], int[], text[], text[], bigint[], timestamptz[], timestamptz[], bigint[], bigint[]) FROM PUBLIC;
