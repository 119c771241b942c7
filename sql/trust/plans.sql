/* sql/trust/plans.sql: tracking plans: which properties entries should have */

CREATE TABLE cdp.plan_definitions (
	type text NOT NULL CHECK (type IN ('track', 'page', 'screen', 'identify', 'group')),
	event text NOT NULL,
	version int NOT NULL,
	schema jsonb NOT NULL,
	mode text NOT NULL CHECK (mode IN ('allow', 'drop-property', 'quarantine')),
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

-- An input, as the log is.
CREATE TABLE cdp.plan_releases (
	entry bigint PRIMARY KEY,
	corrected boolean NOT NULL
);
COMMENT ON TABLE cdp.plan_releases IS 'entries that cdp.release() was called for, or whose payload was copied from its row when an attachment ended: they count whatever tracking plans say, or (corrected) never, as a copy of the message was logged';

SELECT pg_extension_config_dump('cdp.plan_definitions', '');
SELECT pg_extension_config_dump('cdp.plan_releases', '');
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

CREATE FUNCTION cdp.plans_before(change bigint) RETURNS SETOF cdp.plan_definitions
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT p.type, p.event, p.version, p.schema, p.mode, p.from_at, p.until_at
	FROM cdp.rule_changes c CROSS JOIN LATERAL jsonb_populate_recordset(NULL::cdp.plan_definitions, c.plans) AS p
	WHERE c.id = change;
END;
COMMENT ON FUNCTION cdp.plans_before(bigint) IS 'internal: the tracking plans before a change that is about history';

-- From when on a version is in force: all that has been applied was received
-- before, also where the clock stands still.  In the applier's way.
CREATE FUNCTION cdp.plan_moment() RETURNS timestamptz
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT greatest(cdp.clock(), (SELECT a.clock + interval '1 microsecond' FROM cdp.applier a));
END;
COMMENT ON FUNCTION cdp.plan_moment() IS 'internal: from when on a version of a tracking plan is in force';

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
	ELSIF type = 'track' AND event = '' THEN
		RAISE EXCEPTION 'event must not be empty' USING ERRCODE = 'invalid_parameter_value';
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
	UPDATE cdp.plan_definitions d SET until_at = cdp.plan_moment()
	WHERE d.type = type AND d.event = coalesce(event, '') AND d.until_at IS NULL;
	ended := FOUND;
	PERFORM cdp.definitions_changed();
END;
$$;
COMMENT ON FUNCTION cdp.end_tracking_plan(text, text) IS 'internal: end the version of a tracking plan that is in force';

CREATE FUNCTION cdp.tracking_plan(event text, schema jsonb, mode text DEFAULT 'allow', type text DEFAULT 'track',
		retroactive boolean DEFAULT false) RETURNS int
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	version int;
BEGIN
	IF schema IS NULL OR retroactive IS NULL THEN
		RAISE EXCEPTION '% must not be null', CASE WHEN schema IS NULL THEN 'schema' ELSE 'retroactive' END
			USING ERRCODE = 'null_value_not_allowed';
	ELSIF mode IS NULL OR mode NOT IN ('allow', 'drop-property', 'quarantine') THEN
		RAISE EXCEPTION 'invalid mode "%" of a tracking plan', mode USING ERRCODE = 'invalid_parameter_value',
			HINT = 'There are allow, drop-property and quarantine.';
	END IF;
	PERFORM cdp.schema_check(schema);
	-- this lock goes before the applier's
	IF retroactive THEN
		PERFORM cdp.identity_rules_changing();
	END IF;
	SELECT e.next_version INTO version FROM cdp.end_tracking_plan(event, type) e;
	IF retroactive THEN
		UPDATE cdp.plan_definitions d SET until_at = d.from_at
		WHERE d.type = type AND d.event = coalesce(event, '') AND d.until_at > d.from_at;
	END IF;
	INSERT INTO cdp.plan_definitions VALUES (type, coalesce(event, ''), version, schema, mode,
		CASE WHEN retroactive THEN '-infinity' ELSE cdp.plan_moment() END, NULL);
	IF retroactive THEN
		PERFORM cdp.identity_rules_changed();
	END IF;
	RETURN version;
END;
$$;
COMMENT ON FUNCTION cdp.tracking_plan(text, jsonb, text, text, boolean) IS
	'judge the properties of entries of a type (track, page, screen; identify and group: their traits) with this event (NULL: none) by a JSON Schema, from now on: entries that are received after this; retroactive: all of them, whenever received, in place of all earlier versions. mode allow: entries count whole; drop-property: without the properties in which something is wrong; quarantine: those with violations do not count, and are in cdp.rejected until cdp.release(). What is wrong is in cdp.plan_violations. Returns the number of the version. Errors: invalid_parameter_value, feature_not_supported (what a schema has that is not known), null_value_not_allowed';

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

-- Let an entry count that a plan withholds; NULL: there is none.  Without
-- properties the row of the log becomes an entry of this transaction; with
-- properties a copy of the message is logged, at the time of its event.
CREATE FUNCTION cdp.release_from_plan(entry text, source text, properties jsonb) RETURNS text
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	ids bigint[];
	sources text[];
	held record;
	wrong text;
BEGIN
	-- who releases the same entry meanwhile waits, and finds that it is not held
	PERFORM cdp.lock_applier();
	SELECT array_agg(r.entry), array_agg(DISTINCT r.source) INTO ids, sources FROM cdp.rejected r
	WHERE r.held AND r.reason = 'tracking plan' AND (source IS NULL OR r.source = source)
		AND CASE WHEN entry ~ '^#[0-9]{1,18}$' THEN r.message_id IS NULL AND r.entry = substr(entry, 2)::bigint ELSE r.message_id = entry END;
	IF ids IS NULL THEN
		RETURN NULL;
	ELSIF cardinality(sources) > 1 THEN
		RAISE EXCEPTION 'several sources have an entry "%" that is held', entry USING ERRCODE = 'ambiguous_parameter', HINT = 'Name the source.';
	END IF;
	-- of copies the one that would count
	SELECT e.* INTO held FROM cdp.rejected r JOIN cdp.events e ON e.xid = (r.payload ->> 'xid')::bigint AND e.id = r.entry
	WHERE r.entry = ANY (ids) ORDER BY cdp.effective_at(e.occurred_at, e.received_at), cdp.content_hash(e)::text COLLATE "C", e.id LIMIT 1;
	IF NOT FOUND THEN
		RETURN NULL;
	END IF;

	IF properties IS NOT NULL THEN
		SELECT string_agg(DISTINCT format('%s %s', CASE v.path WHEN '' THEN 'all of it' ELSE v.path END, v.keyword), ', ') INTO wrong
		FROM cdp.plan_definitions d CROSS JOIN LATERAL cdp.schema_violations(properties, d.schema) v
		WHERE d.type = held.type AND d.event = coalesce(held.event, '') AND d.until_at IS NULL AND d.mode = 'quarantine';
		IF wrong IS NOT NULL THEN
			RAISE EXCEPTION 'the properties are not as the tracking plan wants them' USING ERRCODE = 'check_violation', DETAIL = wrong;
		END IF;
		INSERT INTO cdp.events (type, event, identifiers, properties, context, occurred_at, message_id, source)
		VALUES (held.type, held.event, held.identifiers, properties, held.context,
			cdp.effective_at(held.occurred_at, held.received_at), coalesce(held.message_id, '#' || held.id), held.source);
		INSERT INTO cdp.plan_releases SELECT DISTINCT u.id, true FROM unnest(ids) u (id) ON CONFLICT DO NOTHING;
		UPDATE cdp.rejected r SET held = false WHERE r.entry = ANY (ids);
	ELSE
		INSERT INTO cdp.plan_releases VALUES (held.id, false) ON CONFLICT DO NOTHING;
		UPDATE cdp.events e SET xid = cdp.entry_xid(), incarnation = (SELECT n.id FROM cdp.incarnation n)
		WHERE e.xid = held.xid AND e.id = held.id;
		DELETE FROM cdp.rejected r WHERE r.entry = held.id;
	END IF;
	PERFORM cdp.definitions_changed();
	PERFORM cdp.audit_record('release', entry, jsonb_build_object('corrected', properties IS NOT NULL));
	RETURN entry;
END;
$$;
COMMENT ON FUNCTION cdp.release_from_plan(text, text, jsonb) IS 'internal: cdp.release() of an entry that a tracking plan withholds';

-- For cdp.verify(), which knows the log only.
CREATE FUNCTION cdp.plan_withholds(entry bigint, type text, event text, received_at timestamptz, properties jsonb) RETURNS boolean
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT coalesce(
		(SELECT r.corrected FROM cdp.plan_releases r WHERE r.entry = plan_withholds.entry),
		EXISTS (
			SELECT FROM cdp.plan_definitions d CROSS JOIN LATERAL cdp.schema_violations(coalesce(properties, '{}'), d.schema)
			WHERE d.type = plan_withholds.type AND d.event = coalesce(plan_withholds.event, '') AND d.mode = 'quarantine'
				AND d.from_at <= received_at AND received_at < coalesce(d.until_at, 'infinity'))
			AND CASE WHEN jsonb_typeof(properties) = 'object' AND jsonb_typeof(properties -> '$row') = 'string'
				THEN properties - '$row' <> '{}' ELSE true END);
END;
COMMENT ON FUNCTION cdp.plan_withholds(bigint, text, text, timestamptz, jsonb) IS 'internal: does a tracking plan keep an entry from counting?';

-- For cdp.verify() too.  A path is a JSON pointer (RFC 6901); what is wrong with
-- all of it, as what is missing, is in none of the properties.
CREATE FUNCTION cdp.plan_keeps(entry bigint, type text, event text, received_at timestamptz, properties jsonb) RETURNS jsonb
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT CASE
		WHEN jsonb_typeof(properties) IS DISTINCT FROM 'object' THEN properties
		WHEN jsonb_typeof(properties -> '$row') = 'string' AND properties - '$row' = '{}' THEN properties
		WHEN EXISTS (SELECT FROM cdp.plan_releases r WHERE r.entry = plan_keeps.entry) THEN properties
		ELSE properties - (
			SELECT coalesce(array_agg(replace(replace(split_part(v.path, '/', 2), '~1', '/'), '~0', '~')), '{}')
			FROM cdp.plan_definitions d CROSS JOIN LATERAL cdp.schema_violations(properties, d.schema) v
			WHERE d.type = plan_keeps.type AND d.event = coalesce(plan_keeps.event, '') AND d.mode = 'drop-property'
				AND d.from_at <= received_at AND received_at < coalesce(d.until_at, 'infinity') AND v.path <> '')
		END;
END;
COMMENT ON FUNCTION cdp.plan_keeps(bigint, text, text, timestamptz, jsonb) IS 'internal: the properties of an entry without those that a tracking plan leaves out';

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

REVOKE ALL ON cdp.plan_definitions, cdp.plan_releases, cdp.plan_counts, cdp.plan_violation_counts, cdp.plan_violations, cdp.stat_plans FROM PUBLIC;
REVOKE ALL ON FUNCTION cdp.schema_check(jsonb), cdp.end_tracking_plan(text, text), cdp.tracking_plan(text, jsonb, text, text, boolean),
	cdp.plans_before(bigint), cdp.plan_moment(), cdp.release_from_plan(text, text, jsonb),
	cdp.plan_withholds(bigint, text, text, timestamptz, jsonb), cdp.plan_keeps(bigint, text, text, timestamptz, jsonb),
	cdp.drop_tracking_plan(text, text), cdp.count_plans(text[], text[], int[], bigint[], bigint[]),
	cdp.count_plan_violations(text[], text[], int[], text[], text[], bigint[], timestamptz[], timestamptz[], bigint[], bigint[]) FROM PUBLIC;
