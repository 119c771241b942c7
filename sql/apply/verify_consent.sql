/* sql/apply/verify_consent.sql: consent, a query over the log */

-- Is what a consent call says none of what it can say?
CREATE FUNCTION cdp.verify_consent_call(properties jsonb) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN CASE
	WHEN jsonb_typeof(properties) IS DISTINCT FROM 'object' THEN true
	WHEN jsonb_typeof(properties->'preferences') = 'object' THEN false
	WHEN jsonb_typeof(properties->'purpose') IS DISTINCT FROM 'string' THEN true
	WHEN octet_length(properties->>'purpose') NOT BETWEEN 1 AND 1024 THEN true
	WHEN properties->'state' IS NULL OR properties->'state' NOT IN ('"granted"', '"denied"', '"unset"') THEN true
	WHEN COALESCE(properties->'expires', 'null') = 'null' THEN false
	ELSE jsonb_typeof(properties->'expires') <> 'string' OR cdp.iso_time(properties->>'expires') IS NULL
END;

-- What every profile says to a purpose, and when that changes by itself.  Who
-- speaks is the owner of an entry; the other identifiers that link are spoken
-- for.  The last word about each identifier stays, and of these the own ones
-- count: of restrictive purposes a no, of others the latest.
CREATE FUNCTION cdp.verify_consent(purpose text, options jsonb, latest boolean,
	entries bigint[], incarnations int[], ats timestamptz[], owners int[], names text[], entry_comps int[], ncomps int,
	clock timestamptz, OUT vals text[], OUT next timestamptz[])
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET "TimeZone" = 'UTC'
AS $function$
#variable_conflict use_variable
DECLARE
	called text[] := ARRAY(SELECT lower(n COLLATE "C") FROM unnest(purpose || ARRAY(SELECT jsonb_array_elements_text(options->'names'))) n);
BEGIN
	WITH spoken AS MATERIALIZED (
		SELECT s.seq, s.comp, names[s.owner] AS owner, s.at, e.identifiers,
			   COALESCE(CASE WHEN e.type = 'consent' AND lower((e.properties->>'purpose') COLLATE "C") = ANY (called)
							 THEN e.properties->>'state' END, p.state) AS state,
			   CASE WHEN e.type = 'consent' AND lower((e.properties->>'purpose') COLLATE "C") = ANY (called)
					THEN cdp.iso_time(e.properties->>'expires') END AS expires
		FROM unnest(entries, incarnations, ats, owners, entry_comps) WITH ORDINALITY s(entry, incarnation, at, owner, comp, seq)
		JOIN cdp.events e ON e.id = s.entry AND e.incarnation = s.incarnation
		CROSS JOIN LATERAL (
			SELECT CASE WHEN bool_or(j.value = 'false') THEN 'denied' WHEN bool_or(j.value = 'true') THEN 'granted' END AS state
			FROM (
				SELECT c.key, c.value
				FROM unnest(ARRAY[e.context->'consent'->'categoryPreferences', CASE WHEN e.type = 'consent' THEN e.properties->'preferences' END]) o
				CROSS JOIN LATERAL jsonb_each(CASE WHEN jsonb_typeof(o) = 'object' THEN o ELSE '{}' END) c
				UNION ALL
				SELECT c #>> '{}', l.word
				FROM (VALUES ('allowedConsentIds', 'true'::jsonb), ('deniedConsentIds', 'false')) l(list, word)
				CROSS JOIN LATERAL jsonb_array_elements(CASE WHEN jsonb_typeof(e.context->'consentManagement') = 'object'
					AND jsonb_typeof(e.context->'consentManagement'->l.list) = 'array' THEN e.context->'consentManagement'->l.list ELSE '[]' END) c
				WHERE jsonb_typeof(c) = 'string') j
			WHERE lower(j.key COLLATE "C") = ANY (called)) p
		WHERE s.comp IS NOT NULL AND (e.type = 'consent' OR e.context->'consent' ? 'categoryPreferences' OR e.context ? 'consentManagement')
	), said AS (
		SELECT s.comp, s.seq, s.owner AS identifier, s.state,
			   CASE WHEN s.state = 'granted' AND s.expires IS NULL THEN s.at + (options->>'valid_for')::interval
					ELSE s.expires END AS expires
		FROM spoken s WHERE s.state IS NOT NULL
		UNION ALL
		SELECT s.comp, s.seq, c.canonical, NULL, NULL
		FROM spoken s
		CROSS JOIN LATERAL (SELECT cdp.canonical(u.raw)::text AS canonical, k.labels, k.normaliser
			FROM unnest(s.identifiers) u(raw)
			JOIN cdp.identifier_kinds k ON k.kind = cdp.kind(u.raw) AND k.entity = 'profile' AND k.links) c
		WHERE s.state IS NOT NULL AND c.canonical <> s.owner
		  AND NOT (c.labels <> '{}' AND cdp.verify_is_label(c.canonical::cdp.identifier, c.labels, c.normaliser))
	), last AS (
		SELECT DISTINCT ON (d.comp, d.identifier COLLATE "C") d.comp, d.seq, d.state,
			   COALESCE(d.expires, 'infinity') AS expires
		FROM said d ORDER BY d.comp, d.identifier COLLATE "C", d.seq DESC
	), word AS (
		SELECT l.comp, l.state, l.expires
		FROM (SELECT l.*, row_number() OVER (PARTITION BY l.comp ORDER BY l.seq DESC) AS nth FROM last l WHERE l.state IS NOT NULL) l
		WHERE (NOT latest OR l.nth = 1) AND l.state <> 'unset' AND l.expires > clock
	), result AS (
		SELECT w.comp, min(w.state) AS state, -- denied before granted
			   max(w.expires) FILTER (WHERE w.state = 'denied') AS no_ends, max(w.expires) AS yes_ends
		FROM word w GROUP BY w.comp
	)
	SELECT array_agg(r.state ORDER BY p.comp),
		   array_agg(NULLIF(CASE r.state WHEN 'denied' THEN r.no_ends ELSE r.yes_ends END, 'infinity') ORDER BY p.comp)
	INTO vals, next
	FROM generate_series(1, ncomps) p(comp)
	LEFT JOIN result r ON r.comp = p.comp;
END
$function$;

REVOKE ALL ON FUNCTION cdp.verify_consent_call(jsonb),
	cdp.verify_consent(text, jsonb, boolean, bigint[], int[], timestamptz[], int[], text[], int[], int, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION cdp.verify_consent_call(jsonb) IS 'internal: is a consent call malformed';
