/* sql/apply/verify_accounts.sql: accounts, from the log */

-- What differs in the evidence of membership.  Arguments as cdp.verify_graph()
-- returns them: names of nodes; by seq the node that owns the entry; seqs that
-- a policy keeps from counting.
CREATE FUNCTION cdp.verify_evidence_of_accounts(node_names text[], entry_owners int[], withheld int[],
	OUT station text, OUT key text, OUT expected jsonb, OUT found jsonb)
RETURNS SETOF record
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
BEGIN
	RETURN QUERY
	WITH log AS MATERIALIZED (
		SELECT l.seq, l.incarnation, l.id, l.source, l.message, l.type, l.at, o.name AS owner
		FROM cdp.verify_log() l
		LEFT JOIN unnest(entry_owners) WITH ORDINALITY w(node, seq) ON w.seq = l.seq
		LEFT JOIN unnest(node_names) WITH ORDINALITY o(name, node) ON o.node = w.node
		WHERE l.seq IS NOT NULL AND NOT l.undone AND l.type NOT IN ('undo', 'release')
		  AND l.seq <> ALL (COALESCE(withheld, '{}'))
	), want AS MATERIALIZED (
		SELECT DISTINCT l.seq, c.canonical AS account, l.owner, l.source, l.message, l.at, l.type = 'leave' AS leaves
		FROM log l
		JOIN cdp.events e ON e.id = l.id AND e.incarnation = l.incarnation
		CROSS JOIN LATERAL (SELECT cdp.canonical(u.raw)::text AS canonical
							FROM unnest(e.identifiers) u(raw)
							JOIN cdp.identifier_kinds k ON k.kind = cdp.kind(u.raw) AND k.entity = 'account') c
		WHERE c.canonical IS NOT NULL
	), have AS (
		SELECT a.identifier::text AS account, i.identifier::text AS owner, COALESCE(v.source, '') AS source,
			   COALESCE(v.message_id, '#' || v.id) AS message, e.at, e.leaves, e.node_id, i.node_id IS NULL AS lost
		FROM cdp.account_evidence e
		LEFT JOIN cdp.account_identities a ON a.account_id = e.account_id
		LEFT JOIN cdp.identities i ON i.node_id = e.node_id
		LEFT JOIN cdp.events v ON v.id = e.entry AND v.xid = e.xid
	)
	SELECT 'accounts', format('message %s of %s for %s', COALESCE(w.message, h.message, '?'),
			COALESCE(w.source, h.source, '?'), COALESCE(w.account, h.account, '?')),
		   CASE WHEN w.account IS NOT NULL THEN jsonb_build_object('owner', w.owner, 'at', w.at, 'leaves', w.leaves) END,
		   CASE WHEN h.at IS NOT NULL THEN jsonb_build_object('owner', h.owner, 'at', h.at, 'leaves', h.leaves) END
	FROM (SELECT w.*, row_number() OVER (PARTITION BY w.source, w.message, w.account ORDER BY w.at, w.owner COLLATE "C") AS nth FROM want w) w
	FULL JOIN (SELECT h.*, row_number() OVER (PARTITION BY h.source, h.message, h.account ORDER BY h.at, h.owner COLLATE "C") AS nth FROM have h) h
	  ON h.source = w.source AND h.message = w.message AND h.account = w.account AND h.nth = w.nth
	WHERE w.at IS DISTINCT FROM h.at OR w.owner IS DISTINCT FROM h.owner OR w.leaves IS DISTINCT FROM h.leaves
	   OR (h.lost AND h.node_id <> 0);

	RETURN QUERY
	SELECT 'accounts', COALESCE(w.account, a.identifier::text),
		   CASE WHEN w.account IS NOT NULL THEN jsonb_build_object('first_seen', w.first_seen, 'last_seen', w.last_seen) END,
		   CASE WHEN a.account_id IS NOT NULL THEN jsonb_build_object('first_seen', a.first_seen, 'last_seen', a.last_seen) END
	FROM (SELECT i.identifier::text AS account, min(e.at) AS first_seen, max(e.at) AS last_seen
		  FROM cdp.account_evidence e
		  JOIN cdp.account_identities i ON i.account_id = e.account_id
		  GROUP BY i.identifier) w
	FULL JOIN cdp.account_identities a ON a.identifier::text = w.account
	WHERE w.first_seen IS DISTINCT FROM a.first_seen OR w.last_seen IS DISTINCT FROM a.last_seen;

	-- numbers are of one counter, and the way from an account to its nodes is there
	RETURN QUERY
	SELECT 'accounts', format('number %s', a.account_id), NULL::jsonb, to_jsonb(i.identifier)
	FROM cdp.account_identities a JOIN cdp.identities i ON i.node_id = a.account_id;
	RETURN QUERY
	SELECT 'accounts', format('node %s of account %s', COALESCE(w.node_id, n.node_id), COALESCE(w.account_id, n.account_id)),
		   to_jsonb(w.node_id IS NOT NULL), to_jsonb(n.node_id IS NOT NULL)
	FROM (SELECT DISTINCT e.node_id, e.account_id FROM cdp.account_evidence e) w
	FULL JOIN cdp.account_nodes n ON n.node_id = w.node_id AND n.account_id = w.account_id
	WHERE n.node_id IS NULL OR (w.node_id IS NULL AND n.state IS NULL);
END
$function$;

REVOKE ALL ON FUNCTION cdp.verify_evidence_of_accounts(text[], int[], int[]) FROM PUBLIC;
