/* sql/identity/history.sql: what was believed earlier */

-- Every change of a kind leaves a version.  A built-in kind has versions from
-- its first change on.
CREATE TABLE cdp.kind_history (
	kind text NOT NULL,
	since timestamptz NOT NULL,
	rules jsonb,
	PRIMARY KEY (kind, since)
);
SELECT pg_extension_config_dump('cdp.kind_history', '');
COMMENT ON TABLE cdp.kind_history IS 'versions of the kinds of identifiers, for cdp.resolve_at()';
COMMENT ON COLUMN cdp.kind_history.since IS 'when these rules came into force; -infinity: they came with the extension';
COMMENT ON COLUMN cdp.kind_history.rules IS 'the row of cdp.identifier_kinds; NULL: the kind was dropped';

-- The guards are settings; the applier writes down which ones it goes on with.
CREATE TABLE cdp.guard_history (
	since timestamptz PRIMARY KEY,
	max_profile_identifiers int NOT NULL,
	bridge_guard int NOT NULL,
	max_new_identifiers_per_hour int NOT NULL
);
SELECT pg_extension_config_dump('cdp.guard_history', '');
COMMENT ON TABLE cdp.guard_history IS 'guards by which profiles were judged, for cdp.resolve_at() and cdp.preview_identity()';
COMMENT ON COLUMN cdp.guard_history.since IS 'from when on the applier has used these; -infinity: the first ones';

-- Identifiers that are known no more: whoever has such a profile id asks for it.
CREATE TABLE cdp.former_identities (
	node_id bigint PRIMARY KEY,
	identifier cdp.identifier NOT NULL,
	gone_at timestamptz NOT NULL
);
CREATE INDEX former_identities_identifier ON cdp.former_identities (identifier);
SELECT pg_extension_config_dump('cdp.former_identities', '');
COMMENT ON TABLE cdp.former_identities IS 'identifiers that no entry names any more, under the numbers that they had';

-- Entries that bear on who was who and that cdp.entries does not lead to.
CREATE TABLE cdp.history_entries (
	hash bigint NOT NULL,
	entry bigint NOT NULL,
	xid bigint NOT NULL,
	received_at timestamptz NOT NULL,
	until timestamptz NOT NULL
);
CREATE INDEX history_entries_hash ON cdp.history_entries (hash);
SELECT pg_extension_config_dump('cdp.history_entries', '');
COMMENT ON TABLE cdp.history_entries IS 'entries that do not count now and did earlier, and undos: for cdp.resolve_at()';
COMMENT ON COLUMN cdp.history_entries.hash IS 'of a canonical identifier that the entry names, or of the message that an undo revokes';
COMMENT ON COLUMN cdp.history_entries.until IS 'questions about later times need not know the entry; infinity: all need it';

-- The latest version is the one in force, so time does not go back here.
CREATE FUNCTION cdp.remember_kinds() RETURNS void
LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, cdp, pg_temp
	SET intervalstyle = 'postgres'
AS $$
BEGIN
	INSERT INTO cdp.kind_history (kind, since, rules)
	SELECT b.kind, '-infinity', to_jsonb(b)
	FROM cdp.builtin_kinds b
	JOIN cdp.kind_definitions d USING (kind)
	WHERE NOT EXISTS (SELECT FROM cdp.kind_history h WHERE h.kind = b.kind);

	INSERT INTO cdp.kind_history AS h (kind, since, rules)
	SELECT coalesce(k.kind, v.kind),
		greatest(cdp.clock(), (SELECT max(since) FROM cdp.kind_history)),
		CASE WHEN k.kind IS NOT NULL THEN to_jsonb(k) END
	FROM cdp.identifier_kinds k
	FULL JOIN (
		SELECT DISTINCT ON (kind) kind, rules FROM cdp.kind_history ORDER BY kind, since DESC
	) v ON v.kind = k.kind
	WHERE CASE WHEN k.kind IS NOT NULL THEN to_jsonb(k) END IS DISTINCT FROM v.rules
		AND (v.kind IS NOT NULL OR EXISTS (SELECT FROM cdp.kind_definitions d WHERE d.kind = k.kind))
	ON CONFLICT (kind, since) DO UPDATE SET rules = excluded.rules;
END
$$;
COMMENT ON FUNCTION cdp.remember_kinds() IS 'internal: the kinds have changed; keep a version of each that did';

CREATE FUNCTION cdp.kinds_at(known_at timestamptz) RETURNS SETOF cdp.identifier_kinds
LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, cdp, pg_temp
AS $$
BEGIN
	RETURN QUERY
		SELECT r.*
		FROM (
			SELECT DISTINCT ON (h.kind) h.rules
			FROM cdp.kind_history h
			WHERE h.since <= kinds_at.known_at
			ORDER BY h.kind, h.since DESC
		) AS v
		CROSS JOIN LATERAL jsonb_populate_record(NULL::cdp.identifier_kinds, v.rules) AS r
		WHERE v.rules IS NOT NULL
		UNION ALL
		SELECT k.* FROM cdp.identifier_kinds k
		WHERE NOT EXISTS (SELECT FROM cdp.kind_history h WHERE h.kind = k.kind);
END
$$;
COMMENT ON FUNCTION cdp.kinds_at(timestamptz) IS 'the kinds of identifiers and their rules as they were in force at an instant';

REVOKE ALL ON cdp.kind_history, cdp.guard_history, cdp.former_identities, cdp.history_entries FROM PUBLIC;
REVOKE ALL ON FUNCTION cdp.remember_kinds(), cdp.kinds_at(timestamptz) FROM PUBLIC;
