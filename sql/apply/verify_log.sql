/* sql/apply/verify_log.sql: the log, judged anew */

-- Which properties of a row of the log count.
CREATE FUNCTION cdp.verify_properties(e cdp.events) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
	IF EXISTS (SELECT FROM cdp.plan_definitions d WHERE d.mode = 'drop-property') THEN
		RETURN cdp.plan_keeps(e.id, e.type, e.event, e.received_at, e.properties);
	END IF;
	RETURN e.properties;
END
$function$;

-- The log as far as it has been applied, judged.  Entries that are no copies
-- and not rejected have a seq; of those, undone ones count for nothing.
CREATE FUNCTION cdp.verify_log(
	OUT incarnation int, OUT id bigint, OUT source text, OUT message text,
	OUT type text, OUT at timestamptz, OUT target text,
	OUT reason text, OUT seq int, OUT undone boolean,
	OUT names text[], OUT links boolean[])
RETURNS SETOF record
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
BEGIN
	RETURN QUERY
	WITH applied AS MATERIALIZED (
		-- applied is what the done snapshot sees, and of what the target
		-- snapshot sees in addition the part up to the position
		SELECT e.incarnation, e.id, COALESCE(e.source, '') AS source,
			   e.message_id, e.type, e.event, e.identifiers,
			   CASE WHEN jsonb_typeof(e.properties) = 'object' THEN 'object'
					WHEN e.properties IS NOT NULL THEN 'other' END AS shape,
			   CASE WHEN e.type IN ('undo', 'release') AND jsonb_typeof(e.properties) = 'object'
						 AND jsonb_typeof(e.properties->'entry') = 'string'
					THEN NULLIF(e.properties->>'entry', '') END AS target,
			   CASE WHEN e.type = 'consent' THEN cdp.verify_consent_call(e.properties) END AS bad_consent,
			   CASE WHEN (SELECT bool_or(d.mode = 'quarantine') FROM cdp.plan_definitions d)
					THEN cdp.plan_withholds(e.id, e.type, e.event, e.received_at, e.properties) END AS planned,
			   e.occurred_at,
			   cdp.effective_at(e.occurred_at, e.received_at) AS at
		FROM cdp.events e
		JOIN cdp.cursors c ON c.incarnation = e.incarnation
		WHERE pg_visible_in_snapshot(e.xid::text::xid8, c.done)
		   OR (pg_visible_in_snapshot(e.xid::text::xid8, c.target)
			   AND (e.xid, e.id) <= (c.position_xid, c.position_id))
	), raw AS (
		SELECT r.raw, cdp.canonical(r.raw) AS canonical, k.kind,
			   k.priority, COALESCE(k.entity, 'profile') AS entity,
			   COALESCE(k.links, false) AS links, k.labels, k.normaliser
		FROM (SELECT DISTINCT unnest(a.identifiers) AS raw FROM applied a) r
		LEFT JOIN cdp.identifier_kinds k ON k.kind = cdp.kind(r.raw)
		WHERE r.raw IS NOT NULL
	), meaning AS MATERIALIZED (
		SELECT r.raw::text AS raw, r.canonical::text AS canonical,
			   r.kind IS NOT NULL AS registered, r.priority, r.entity,
			   CASE WHEN r.links AND r.labels <> '{}' AND r.canonical IS NOT NULL
					THEN NOT cdp.verify_is_label(r.canonical, r.labels, r.normaliser)
					ELSE r.links END AS links
		FROM raw r
	), named AS (
		-- each identifier of an entry once, at its first place
		SELECT DISTINCT ON (a.incarnation, a.id, m.canonical)
			   a.incarnation, a.id, m.canonical, m.registered, m.priority,
			   m.entity, m.links, i.place
		FROM applied a
		CROSS JOIN LATERAL unnest(a.identifiers) WITH ORDINALITY i(raw, place)
		JOIN meaning m ON m.raw = i.raw::text
		WHERE m.canonical IS NOT NULL
		ORDER BY a.incarnation, a.id, m.canonical, i.place
	), entry_names AS (
		-- hub first; labels after everything that links
		SELECT n.incarnation, n.id,
			   array_agg(n.canonical ORDER BY n.links DESC, n.priority NULLS LAST, n.place)
				   FILTER (WHERE n.entity = 'profile') AS names,
			   array_agg(n.links ORDER BY n.links DESC, n.priority NULLS LAST, n.place)
				   FILTER (WHERE n.entity = 'profile') AS links,
			   count(*) FILTER (WHERE n.entity = 'profile') AS usable,
			   count(*) FILTER (WHERE n.entity = 'profile' AND n.registered) AS registered,
			   count(*) FILTER (WHERE n.entity <> 'profile') AS accounts
		FROM named n
		GROUP BY n.incarnation, n.id
	), judged AS MATERIALIZED (
		SELECT a.*, n.names, n.links,
			   CASE
			   WHEN EXISTS (SELECT FROM cdp.isolated o WHERE o.entry = a.id)
					THEN (SELECT CASE o.sqlstate WHEN '57P02' THEN 'crashed the applier' ELSE 'raised an error' END
						FROM cdp.isolated o WHERE o.entry = a.id)
			   WHEN a.type IS NULL OR a.type NOT IN ('track', 'identify', 'page', 'screen',
					'group', 'leave', 'alias', 'consent', 'merge', 'split', 'detach', 'undo', 'release', 'erase')
					THEN 'unknown type'
			   WHEN octet_length(a.source) > 1024 OR octet_length(a.message_id) > 1024 THEN 'long message id'
			   WHEN NOT isfinite(a.occurred_at) THEN 'infinite time'
			   WHEN array_ndims(a.identifiers) > 1 THEN 'identifiers in several dimensions'
			   WHEN a.type IN ('undo', 'release') THEN
					CASE WHEN a.target IS NULL OR octet_length(a.target) > 1024 THEN 'undo of nothing' END
			   WHEN a.type = 'erase' THEN
					CASE WHEN cardinality(a.identifiers) > 0 THEN 'erase of somebody' END
			   WHEN a.type IN ('merge', 'split') THEN
					CASE WHEN COALESCE(cardinality(a.identifiers), 0) <> 2
							  OR COALESCE(n.usable, 0) <> 2 OR n.registered <> 2
						 THEN 'not two identifiers' END
			   WHEN a.type = 'detach' THEN
					CASE WHEN COALESCE(cardinality(a.identifiers), 0) <> 1
							  OR COALESCE(n.usable, 0) <> 1 OR n.registered <> 1
						 THEN 'not one identifier' END
			   WHEN a.type = 'track' AND COALESCE(a.event, '') = '' THEN 'no event'
			   WHEN a.type = 'consent' AND a.bad_consent THEN 'bad consent'
			   WHEN a.type = 'identify' AND a.shape = 'other' THEN 'traits not an object'
			   WHEN COALESCE(n.usable, 0) = 0 AND COALESCE(n.accounts, 0) = 0
					THEN 'no usable identifier'
			   WHEN a.planned THEN 'tracking plan'
			   END AS reason
		FROM applied a
		LEFT JOIN entry_names n ON n.incarnation = a.incarnation AND n.id = a.id
	), candidates AS (
		SELECT j.incarnation, j.id, j.source, j.message_id, j.at,
			   count(*) OVER (PARTITION BY j.source, j.message_id) AS n
		FROM judged j
		WHERE j.reason IS NULL AND j.message_id IS NOT NULL
	), losers AS (
		-- of entries with the same source and message id the first one counts
		SELECT d.incarnation, d.id
		FROM (SELECT c.incarnation, c.id,
					 row_number() OVER (PARTITION BY c.source, c.message_id
						ORDER BY c.at, cdp.content_hash(e)::text COLLATE "C", c.incarnation, c.id) AS place
			  FROM candidates c
			  JOIN cdp.events e ON e.id = c.id AND e.incarnation = c.incarnation
			  WHERE c.n > 1) d
		WHERE d.place > 1
	), ordered AS MATERIALIZED (
		SELECT j.incarnation, j.id, j.source, COALESCE(j.message_id, '#' || j.id) AS message,
			   j.type, j.at, j.target, j.reason, j.names, j.links,
			   CASE WHEN j.reason IS NULL AND l.id IS NULL THEN
			   row_number() OVER (PARTITION BY j.reason IS NULL AND l.id IS NULL
				ORDER BY j.at, (j.source || E'\x01' || COALESCE(j.message_id, '#' || lpad(j.id::text, 19, '0'))) COLLATE "C",
						 j.incarnation, j.id)::int END AS seq
		FROM judged j
		LEFT JOIN losers l ON l.incarnation = j.incarnation AND l.id = j.id
	), undos AS (
		-- an undo targets an entry of the same source that comes before it
		SELECT u.seq, max(t.seq) AS target
		FROM ordered u
		JOIN ordered t ON t.source = u.source AND t.message = u.target AND t.seq < u.seq
		WHERE u.type = 'undo'
		GROUP BY u.seq
	), undone AS (
		SELECT unnest(cdp.verify_undone(array_agg(u.seq ORDER BY u.seq DESC),
										array_agg(u.target ORDER BY u.seq DESC))) AS seq
		FROM undos u
	)
	SELECT o.incarnation, o.id, o.source, o.message, o.type, o.at, o.target, o.reason,
		   o.seq, n.seq IS NOT NULL, o.names, o.links
	FROM ordered o
	LEFT JOIN undone n ON n.seq = o.seq;
END
$function$;

-- The entries that are undone, given the undos and their targets, the latest
-- undo first.  An entry is active unless an active undo targets it, and an undo
-- only targets what comes before it: so every undo is judged before its target.
CREATE FUNCTION cdp.verify_undone(undos int[], targets int[]) RETURNS int[]
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
	undone boolean[] := array_fill(false, ARRAY[COALESCE(undos[1], 0)]);
	result int[] := '{}';
BEGIN
	FOR i IN 1 .. COALESCE(cardinality(undos), 0) LOOP
		IF NOT undone[undos[i]] AND NOT undone[targets[i]] THEN
			undone[targets[i]] := true;
			result := result || targets[i];
		END IF;
	END LOOP;
	RETURN result;
END
$function$;

-- Is the identifier a label by one of the patterns of its kind?  A pattern is
-- a regular expression when it begins with ^, else a value.
CREATE FUNCTION cdp.verify_is_label(canonical cdp.identifier, patterns text[], normaliser text)
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
	pattern text;
	given text := cdp.value(canonical);
BEGIN
	FOREACH pattern IN ARRAY COALESCE(patterns, '{}') LOOP
		IF pattern LIKE '^%' THEN
			IF given COLLATE "C" ~ pattern THEN
				RETURN true;
			END IF;
		ELSIF given = pattern OR given = cdp.normalise(normaliser, pattern) THEN
			RETURN true;
		END IF;
	END LOOP;
	RETURN false;
END
$function$;

REVOKE ALL ON FUNCTION cdp.verify_log(), cdp.verify_properties(cdp.events), cdp.verify_undone(int[], int[]),
	cdp.verify_is_label(cdp.identifier, text[], text) FROM PUBLIC;
