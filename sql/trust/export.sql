/* sql/trust/export.sql: all that is known of a person, for who asks what it is */

-- In one snapshot, as the function is STABLE.  The log is read once, as entries
-- that do not count are in no index by whom they name.
CREATE FUNCTION cdp.export_items(identifier cdp.identifier) RETURNS TABLE (section text, item jsonb)
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, cdp, pg_temp
	SET TimeZone = 'UTC'
	SET IntervalStyle = 'iso_8601'
AS $$
#variable_conflict use_column
DECLARE
	profile bigint := cdp.resolve(export_items.identifier);
	nodes bigint[];
	mine cdp.identifier[];
	-- kinds of persons, the strongest first
	kinds text[] := ARRAY(SELECT k.kind FROM cdp.identifier_kinds k WHERE k.entity = 'profile' ORDER BY k.priority, k.kind COLLATE "C");
	labels text[] := ARRAY(SELECT k.kind FROM cdp.identifier_kinds k WHERE NOT k.links AND k.entity = 'profile');
	named text[];
	keyed text[];
BEGIN
	SELECT array_agg(i.node_id), array_agg(i.identifier) INTO nodes, mine
	FROM cdp.identities i WHERE i.profile_id = profile;
	IF nodes IS NULL THEN
		RETURN;
	END IF;

	RETURN QUERY
		SELECT 'profile', jsonb_build_object('profile_id', profile, 'first_seen', min(i.first_seen), 'last_seen', max(i.last_seen),
			'former_ids', (SELECT coalesce(jsonb_agg(m.profile_id ORDER BY m.profile_id), '[]') FROM cdp.merged_profiles m WHERE m.profile_id = ANY (nodes)))
		FROM cdp.identities i WHERE i.node_id = ANY (nodes);
	RETURN QUERY
		SELECT 'identifiers', jsonb_build_object('identifier', i.identifier, 'first_seen', i.first_seen, 'last_seen', i.last_seen)
		FROM cdp.identities i WHERE i.node_id = ANY (nodes) ORDER BY i.first_seen, i.node_id;

	-- The log: what the person owns is told whole, of the entries of others only
	-- that they name the person.
	RETURN QUERY
		WITH found AS MATERIALIZED (
			SELECT e.*, cdp.effective_at(e.occurred_at, e.received_at) AS at
			FROM cdp.events e
			WHERE e.type IN ('undo', 'release')
				OR EXISTS (SELECT FROM unnest(e.identifiers) u (i)
					WHERE CASE WHEN cdp.kind(u.i) = ANY (kinds) THEN cdp.canonical(u.i) = ANY (mine) END)
		), log AS MATERIALIZED (
			SELECT e.*, coalesce(e.type IN ('merge', 'split', 'detach', 'undo', 'release'), false) AS decides,
				(SELECT cdp.canonical(u.i) FROM unnest(e.identifiers) WITH ORDINALITY u (i, o)
				 WHERE CASE WHEN cdp.kind(u.i) = ANY (kinds) THEN cdp.canonical(u.i) IS NOT NULL END
				 ORDER BY (SELECT k.priority FROM cdp.identifier_kinds k WHERE k.kind = cdp.kind(u.i)), u.o LIMIT 1) = ANY (mine) AS owned
			FROM found e
		), states AS MATERIALIZED (
			SELECT o.entry, bool_and(o.withheld) AS withheld
			FROM unnest(nodes) n CROSS JOIN LATERAL cdp.owned_entries_of(n) o GROUP BY 1
		), referenced AS MATERIALIZED (
			SELECT x.* FROM (
				SELECT array_agg(e.properties) AS properties, array_agg(e.source) AS sources, array_agg(e.id) AS entries
				FROM log e WHERE e.owned AND NOT e.decides AND e.properties ? '$row') a
			CROSS JOIN LATERAL cdp.entries_properties(a.properties, a.sources, a.entries) x
		), told AS (
			SELECT e.*, CASE WHEN s.withheld THEN 'withheld' WHEN s.entry IS NOT NULL THEN 'counts' ELSE 'does not count' END AS state
			FROM log e LEFT JOIN states s ON s.entry = e.id
		)
		SELECT x.section, x.item FROM (
			SELECT 'entries' AS section, e.at, e.id, jsonb_build_object('id', e.id, 'at', e.at, 'state', e.state, 'source', e.source,
				'message_id', e.message_id, 'type', e.type, 'event', e.event, 'identifiers', to_jsonb(e.identifiers),
				'properties', coalesce(r.said, e.properties), 'context', e.context, 'occurred_at', e.occurred_at, 'received_at', e.received_at) AS item
			FROM told e LEFT JOIN referenced r ON r.entry = e.id WHERE e.owned AND NOT e.decides
			UNION ALL
			SELECT 'mentions', e.at, e.id, jsonb_build_object('id', e.id, 'at', e.at, 'source', e.source,
				'message_id', e.message_id, 'type', e.type, 'event', e.event, 'identifiers', m.mine, 'received_at', e.received_at)
			FROM told e CROSS JOIN LATERAL (
				SELECT jsonb_agg(u.i ORDER BY u.o) AS mine FROM unnest(e.identifiers) WITH ORDINALITY u (i, o)
				WHERE CASE WHEN cdp.kind(u.i) = ANY (kinds) THEN cdp.canonical(u.i) = ANY (mine) END) m
			WHERE e.owned IS NOT TRUE AND NOT e.decides
			UNION ALL
			SELECT 'decisions', e.at, e.id, jsonb_build_object('id', e.id, 'at', e.at, 'source', e.source,
				'message_id', e.message_id, 'type', e.type, 'identifiers', coalesce(m.mine, '[]'),
				'properties', e.properties, 'received_at', e.received_at,
				'effective', (SELECT d.effective FROM cdp.decisions d WHERE d.entry = e.id))
			FROM told e CROSS JOIN LATERAL (
				SELECT jsonb_agg(u.i ORDER BY u.o) AS mine FROM unnest(e.identifiers) WITH ORDINALITY u (i, o)
				WHERE CASE WHEN cdp.kind(u.i) = ANY (kinds) THEN cdp.canonical(u.i) = ANY (mine) END) m
			WHERE e.decides AND (m.mine IS NOT NULL
				OR (coalesce(e.source, ''), e.properties ->> 'entry') IN (SELECT coalesce(t.source, ''), coalesce(t.message_id, '#' || t.id) FROM log t
					WHERE (t.owned OR t.type IN ('merge', 'split', 'detach')) AND t.type NOT IN ('undo', 'release')))
			UNION ALL
			SELECT 'labels', min(e.at), min(e.id), jsonb_build_object('identifier', u.i, 'first_seen', min(e.at), 'last_seen', max(e.at))
			FROM told e CROSS JOIN unnest(e.identifiers) u (i)
			WHERE e.owned AND NOT e.decides AND e.state = 'counts' AND cdp.canonical(CASE WHEN cdp.kind(u.i) = ANY (labels) THEN u.i END) = ANY (mine) IS NOT TRUE
				AND (cdp.kind(u.i) = ANY (labels) OR cdp.kind(u.i) NOT IN (SELECT k.kind FROM cdp.identifier_kinds k))
			GROUP BY u.i
			UNION ALL
			SELECT 'rejected', r.at, r.id, jsonb_build_object('entry', r.entry, 'source', r.source, 'message_id', r.message_id,
				'reason', r.reason, 'detail', r.detail, 'payload', CASE WHEN r.entry IS NULL THEN r.payload END, 'at', r.at, 'held', r.held)
			FROM cdp.rejected r WHERE r.entry IN (SELECT e.id FROM log e WHERE e.owned)
			UNION ALL
			SELECT 'isolated', i.at, i.entry, jsonb_build_object('entry', i.entry, 'sqlstate', i.sqlstate, 'detail', i.detail, 'at', i.at)
			FROM cdp.isolated i WHERE i.entry IN (SELECT e.id FROM log e WHERE e.owned)
		) x
		ORDER BY x.section, x.at, x.id;

	-- payloads that never came into the log
	named := ARRAY(SELECT lower(m.i::text) FROM unnest(mine) m (i)
		UNION SELECT lower(cdp.value(m.i)) FROM unnest(mine) m (i)
		WHERE strpos(cdp.value(m.i), '@') > 0 OR octet_length(cdp.value(m.i)) >= 8);
	keyed := ARRAY(SELECT replace(cdp.kind(m.i), '_', '') || ':' || lower(cdp.value(m.i)) FROM unnest(mine) m (i));
	RETURN QUERY
		SELECT 'rejected', jsonb_build_object('entry', NULL, 'source', r.source, 'message_id', r.message_id, 'reason', r.reason,
			'detail', r.detail, 'payload', r.payload, 'at', r.at, 'held', r.held)
		FROM cdp.rejected r
		WHERE r.entry IS NULL AND (
			EXISTS (SELECT FROM jsonb_path_query(r.payload, '$.** ? (@.type() == "string")') s
				WHERE lower(btrim(s #>> '{}')) = ANY (named))
			OR EXISTS (SELECT FROM jsonb_path_query(r.payload, '$.** ? (@.type() == "object").keyvalue()') v
				WHERE replace(lower(v ->> 'key'), '_', '') || ':' || lower(btrim(v ->> 'value')) = ANY (keyed)))
		ORDER BY r.id;

	RETURN QUERY
		SELECT 'traits', jsonb_build_object('name', t.key, 'value', t.value, 'kind', coalesce(d.kind, 'declared'),
			'definition', jsonb_strip_nulls(to_jsonb(d)) - '{name,kind,owner,entity,announce,status}'::text[])
		FROM jsonb_each(cdp.profile(profile) -> 'traits') t
		LEFT JOIN cdp.traits d ON d.name = t.key AND d.entity = 'profile'
		ORDER BY t.key COLLATE "C";
	RETURN QUERY
		SELECT 'segments', jsonb_build_object('name', d.name, 'description', d.description, 'purpose', d.options ->> 'purpose',
			'predicate', d.predicate::text, 'exit_when', d.exit_when::text, 'profile_id', m.profile_id,
			'member', m.member, 'entered_at', m.entered_at, 'entries', m.entries)
		FROM cdp.segment_members m JOIN cdp.segment_definitions d ON d.id = m.segment_id AND d.entity = 'profile' AND NOT d.hidden
		WHERE m.profile_id = ANY (nodes) ORDER BY d.name COLLATE "C", m.profile_id;
	RETURN QUERY
		SELECT 'accounts', jsonb_build_object('account', a.account, 'since', a.since, 'until', a.until)
		FROM cdp.account_members a WHERE a.profile_id = profile ORDER BY a.since, a.account_id;

	-- evidence; at its other end may be somebody else
	RETURN QUERY
		SELECT 'links', jsonb_build_object('a', a.identifier, 'b', b.identifier, 'at', l.at, 'last_at', l.last_at, 'origin', l.origin,
			'status', l.status, 'reason', l.reason, 'detail', l.detail,
			'source', split_part(l.tie, E'\x01', 1), 'message_id', substr(l.tie, strpos(l.tie, E'\x01') + 1))
		FROM (SELECT * FROM cdp.links WHERE a = ANY (nodes) UNION SELECT * FROM cdp.links WHERE b = ANY (nodes)) l
		LEFT JOIN cdp.identities a ON a.node_id = l.a AND a.profile_id = profile
		LEFT JOIN cdp.identities b ON b.node_id = l.b AND b.profile_id = profile
		ORDER BY l.at, l.tie COLLATE "C", l.ord, l.a, l.b;
	RETURN QUERY
		SELECT 'merges', jsonb_build_object('profile_id', m.profile_id, 'created_at', m.created_at, 'merged_at', m.merged_at,
			'source', m.source, 'message_id', m.message_id)
		FROM cdp.merged_profiles m WHERE m.profile_id = ANY (nodes) ORDER BY m.merged_at, m.profile_id;
	RETURN QUERY
		SELECT 'changes', jsonb_build_object('epoch', c.epoch, 'seq', c.seq, 'kind', c.kind, 'profile_id', c.profile_id,
			'segment', c.segment, 'payload', c.payload, 'cause', c.cause, 'occurred_at', c.occurred_at, 'at', c.at)
		FROM cdp.changes c WHERE c.profile_id = ANY (nodes) AND c.entity = 'profile' AND c.kind <> 'erased'
		ORDER BY c.epoch, c.seq;

	RETURN QUERY
		SELECT 'consents', to_jsonb(c) FROM cdp.consents(export_items.identifier) c;
	RETURN QUERY
		SELECT 'erasures', jsonb_build_object('mode', r.mode, 'reason', r.reason, 'requested_at', r.requested_at, 'state', r.state,
			'identifier', e.identifier)
		FROM cdp.erasure_identifiers e JOIN cdp.erasures r ON r.id = e.erasure
		WHERE e.identifier = ANY (mine) ORDER BY r.id, e.identifier;
	IF EXISTS (SELECT FROM cdp.tombstones) THEN
		RETURN QUERY
			SELECT 'refused', jsonb_build_object('identifier', m.i, 'since', t.at, 'entries', t.refused, 'last_at', t.last_refused_at)
			FROM unnest(mine) m (i) JOIN cdp.tombstones t ON t.hash = cdp.tombstone_hash(m.i) ORDER BY t.at, m.i;
	END IF;
END
$$;
COMMENT ON FUNCTION cdp.export_items(cdp.identifier) IS 'internal: all that is known of a person, section by section';

CREATE FUNCTION cdp.export_begins(identifier cdp.identifier) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF EXISTS (SELECT FROM cdp.sensitive_names s WHERE cdp.hidden(s.object, s.name)) THEN
		RAISE EXCEPTION 'permission denied: an export has sensitive values' USING ERRCODE = 'insufficient_privilege',
			HINT = 'It takes the right to execute cdp.see_sensitive().';
	END IF;
	IF cdp.resolve(identifier) IS NOT NULL THEN
		PERFORM cdp.audit_record('export', encode(cdp.tombstone_hash(identifier), 'hex'));
	END IF;
END
$$;
COMMENT ON FUNCTION cdp.export_begins(cdp.identifier) IS 'internal: may the session export? Notes in the audit that it does';

CREATE FUNCTION cdp.export_rows(identifier cdp.identifier) RETURNS TABLE (section text, item jsonb)
	LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM cdp.export_begins(identifier);
	RETURN QUERY SELECT x.section, x.item FROM cdp.export_items(identifier) x;
END
$$;
COMMENT ON FUNCTION cdp.export_rows(cdp.identifier) IS
	'what cdp.export() has, item by item: for persons whose export is too large for one value. No rows when the identifier is unknown. Errors: undefined_object for an unregistered kind; insufficient_privilege where sensitive values are hidden from the user';

CREATE FUNCTION cdp.export(identifier cdp.identifier) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	SET TimeZone = 'UTC'
AS $$
DECLARE
	most CONSTANT bigint := 200 * 1024 * 1024;
	size bigint;
	result jsonb;
BEGIN
	PERFORM cdp.export_begins(identifier);
	WITH items AS MATERIALIZED (
		SELECT x.section, x.item, x.n, sum(pg_column_size(x.item)) OVER () AS size
		FROM cdp.export_items(identifier) WITH ORDINALITY x (section, item, n)
	), sections AS (
		SELECT x.section, jsonb_agg(x.item ORDER BY x.n) AS list
		FROM items x WHERE x.size <= most GROUP BY x.section
	)
	SELECT (SELECT i.size FROM items i LIMIT 1),
		jsonb_build_object('version', 1, 'exported_at', cdp.clock())
		|| jsonb_object_agg(n.name, CASE n.name WHEN 'profile' THEN s.list -> 0 ELSE coalesce(s.list, '[]') END)
	INTO size, result
	FROM unnest('{profile,identifiers,labels,entries,mentions,decisions,rejected,isolated,traits,segments,accounts,links,merges,changes,consents,erasures,refused}'::text[]) n (name)
	LEFT JOIN sections s ON s.section = n.name;
	IF size IS NULL THEN
		RETURN NULL;
	ELSIF size > most THEN
		RAISE EXCEPTION 'the export is too large for one value' USING ERRCODE = 'program_limit_exceeded',
			DETAIL = format('It has %s bytes; the most is %s.', size, most),
			HINT = 'Use cdp.export_rows(), which gives the same item by item.';
	END IF;
	RETURN result;
END
$$;
COMMENT ON FUNCTION cdp.export(cdp.identifier) IS
	'all that is known of the person who has the identifier, as one JSON value (see doc/export.md): entries of the log, identifiers, traits and segments with their definitions, accounts, evidence, history, consents; NULL when the identifier is unknown. Noted in the audit. Errors: undefined_object for an unregistered kind; insufficient_privilege where sensitive values are hidden from the user; program_limit_exceeded above 200 MB';

REVOKE ALL ON FUNCTION cdp.export_items(cdp.identifier), cdp.export_begins(cdp.identifier),
	cdp.export_rows(cdp.identifier), cdp.export(cdp.identifier) FROM PUBLIC;
