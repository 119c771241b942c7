/* sql/apply/verify_identity.sql: the graph of identifiers, from the log */

-- What the log says, before any rule.  Arrays over nodes: names, first_seen,
-- last_seen.  Arrays over seq: entries, incarnations, ats, owners (a node; null
-- when the entry counts for nobody).  Arrays over pairs of nodes that entries
-- name together: pair_a < pair_b, the earliest entry that counts as evidence
-- for it (pair_seq, and the place in it, pair_ord; null when the pair has none
-- since one of its ends was detached) and the latest (pair_last).  Arrays over
-- decisions by hand.  Then what was rejected.
CREATE FUNCTION cdp.verify_evidence(
	OUT names text[], OUT first_seen timestamptz[], OUT last_seen timestamptz[],
	OUT entries bigint[], OUT incarnations int[], OUT ats timestamptz[], OUT owners int[],
	OUT pair_a int[], OUT pair_b int[], OUT pair_seq int[], OUT pair_ord int[], OUT pair_last int[],
	OUT star_seq int[], OUT star_a int[], OUT star_b int[],
	OUT d_seq int[], OUT d_type text[], OUT d_entry bigint[], OUT d_a int[], OUT d_b int[],
	OUT d_effective boolean[], OUT d_detached boolean[],
	OUT released int[], OUT rejected bigint[], OUT rejected_reasons text[])
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
DECLARE
	-- who is held to a limit that costs entries: then all evidence is needed
	policies boolean := EXISTS (SELECT FROM cdp.identifier_kinds k WHERE k.policy <> 'demote');
BEGIN
	WITH log AS MATERIALIZED (
		SELECT l.* FROM cdp.verify_log() l
	), named AS MATERIALIZED (
		-- labels are nodes where they own an entry or are named by hand
		SELECT l.seq, l.at, l.type, u.name, u.ord::int AS ord, u.links
		FROM log l
		CROSS JOIN LATERAL unnest(l.names, l.links) WITH ORDINALITY u(name, links, ord)
		WHERE l.seq IS NOT NULL AND NOT l.undone
		  AND l.type NOT IN ('undo', 'release', 'erase')
		  AND (u.links OR u.ord = 1 OR l.type IN ('merge', 'split', 'detach'))
	), nodes AS MATERIALIZED (
		SELECT g.name, row_number() OVER (ORDER BY g.name COLLATE "C")::int AS node,
			   g.first_seen, g.last_seen
		FROM (SELECT d.name, min(d.at) AS first_seen, max(d.at) AS last_seen
			  FROM named d GROUP BY d.name) g
	), numbered AS MATERIALIZED (
		SELECT d.seq, d.type, d.ord, d.links, o.node
		FROM named d JOIN nodes o ON o.name = d.name
	), detached AS MATERIALIZED (
		SELECT m.node, max(m.seq) AS seq FROM numbered m WHERE m.type = 'detach' GROUP BY m.node
	), star AS MATERIALIZED (
		-- an entry's identifiers are linked as a star from its hub
		SELECT o.seq, o.ord, least(h.node, o.node) AS a, greatest(h.node, o.node) AS b
		FROM numbered h JOIN numbered o ON o.seq = h.seq
		WHERE h.ord = 1 AND o.ord > 1 AND h.links AND o.links
		  AND h.type NOT IN ('merge', 'split', 'detach')
	), pairs AS (
		-- of all evidence for a pair only the earliest can matter, and it does
		-- not count when one of the two was detached after it
		SELECT p.a, p.b, p.last, (p.key >> 32)::int AS seq, (p.key & 4294967295)::int AS ord
		FROM (SELECT s.a, s.b, max(s.seq) AS last,
					 min((s.seq::bigint << 32) + s.ord)
					 FILTER (WHERE s.seq > greatest(da.seq, db.seq, 0)) AS key
			  FROM star s
			  LEFT JOIN detached da ON da.node = s.a
			  LEFT JOIN detached db ON db.node = s.b
			  GROUP BY s.a, s.b) p
	), decisions AS (
		-- of the active ones about a pair the last is effective
		SELECT l.seq, l.type, l.id, e.a, e.b,
			   NOT l.undone AND COALESCE(l.seq = max(l.seq) FILTER (WHERE NOT l.undone AND l.type IN ('merge', 'split'))
				OVER (PARTITION BY e.a, e.b), true) AS effective,
			   l.type = 'merge' AND l.seq < greatest(da.seq, db.seq) AS detached
		FROM log l
		LEFT JOIN (SELECT m.seq, min(m.node) AS a, max(m.node) AS b
				   FROM numbered m WHERE m.type IN ('merge', 'split') GROUP BY m.seq) e ON e.seq = l.seq
		LEFT JOIN detached da ON da.node = e.a
		LEFT JOIN detached db ON db.node = e.b
		WHERE l.seq IS NOT NULL AND l.type IN ('merge', 'split', 'undo', 'detach')
	)
	SELECT o.names, o.first_seen, o.last_seen,
		   l.entries, l.incarnations, l.ats, l.owners,
		   e.a, e.b, e.seq, e.ord, e.last,
		   s.seq, s.a, s.b,
		   d.seq, d.type, d.entry, d.a, d.b, d.effective, d.detached,
		   f.seq, z.entries, z.reasons
	INTO names, first_seen, last_seen,
		 entries, incarnations, ats, owners,
		 pair_a, pair_b, pair_seq, pair_ord, pair_last,
		 star_seq, star_a, star_b,
		 d_seq, d_type, d_entry, d_a, d_b, d_effective, d_detached,
		 released, rejected, rejected_reasons
	FROM (SELECT array_agg(o.name ORDER BY o.node) AS names,
				 array_agg(o.first_seen ORDER BY o.node) AS first_seen,
				 array_agg(o.last_seen ORDER BY o.node) AS last_seen
		  FROM nodes o) o,
		 (SELECT array_agg(l.id ORDER BY l.seq) AS entries,
				 array_agg(l.incarnation ORDER BY l.seq) AS incarnations,
				 array_agg(l.at ORDER BY l.seq) AS ats,
				 array_agg(w.node ORDER BY l.seq) AS owners
		  FROM log l
		  LEFT JOIN numbered w ON w.seq = l.seq AND w.ord = 1
		  WHERE l.seq IS NOT NULL) l,
		 (SELECT array_agg(p.a) AS a, array_agg(p.b) AS b, array_agg(p.seq) AS seq,
				 array_agg(p.ord) AS ord, array_agg(p.last) AS last
		  FROM pairs p) e,
		 (SELECT array_agg(s.seq) AS seq, array_agg(s.a) AS a, array_agg(s.b) AS b
		  FROM star s WHERE policies) s,
		 (SELECT array_agg(d.seq) AS seq, array_agg(d.type) AS type, array_agg(d.id) AS entry,
				 array_agg(d.a) AS a, array_agg(d.b) AS b,
				 array_agg(d.effective) AS effective, array_agg(d.detached) AS detached
		  FROM decisions d) d,
		 (SELECT array_agg(t.seq) AS seq
		  FROM log r
		  JOIN log t ON t.source = r.source AND t.message = r.target AND t.seq IS NOT NULL
		  WHERE r.type = 'release' AND r.seq IS NOT NULL AND NOT r.undone) f,
		 (SELECT array_agg(l.id) AS entries, array_agg(l.reason) AS reasons
		  FROM log l WHERE l.reason IS NOT NULL) z;
END
$function$;

-- The graph under the rules in force.  Arrays as in verify_evidence(); comps:
-- the profile of each node; pair_reason: why the pair is refused, null when it
-- is accepted, and pair_detail; the same for merges in effect; withheld: seqs
-- of entries that a policy keeps out, which have no owner.
CREATE FUNCTION cdp.verify_graph(
	OUT names text[], OUT first_seen timestamptz[], OUT last_seen timestamptz[],
	OUT comps int[], OUT ncomps int,
	OUT entries bigint[], OUT incarnations int[], OUT ats timestamptz[], OUT owners int[],
	OUT pair_a int[], OUT pair_b int[], OUT pair_reason text[], OUT pair_detail text[],
	OUT merge_a int[], OUT merge_b int[], OUT merge_reason text[],
	OUT decision_entries bigint[], OUT decision_effective boolean[],
	OUT rejected bigint[], OUT rejected_reasons text[], OUT withheld int[])
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
	e record;
	v record;
	links record;
	cannot record;
BEGIN
	e := cdp.verify_evidence();
	names := e.names;
	first_seen := e.first_seen;
	last_seen := e.last_seen;
	entries := e.entries;
	incarnations := e.incarnations;
	ats := e.ats;
	owners := e.owners;
	decision_entries := e.d_entry;
	decision_effective := e.d_effective;
	rejected := e.rejected;
	rejected_reasons := e.rejected_reasons;

	-- what is to be judged: evidence of events that is in force, and merges
	SELECT array_agg(l.a) AS a, array_agg(l.b) AS b, array_agg(l.seq) AS seq, array_agg(l.ord) AS ord,
		   array_agg(l.last) AS last, array_agg(l.manual) AS manual
	INTO links
	FROM (SELECT p.a, p.b, p.seq, p.ord, p.last, false AS manual
		  FROM unnest(e.pair_a, e.pair_b, e.pair_seq, e.pair_ord, e.pair_last) p(a, b, seq, ord, last)
		  WHERE p.seq IS NOT NULL
		  UNION ALL
		  SELECT d.a, d.b, d.seq, 1, d.seq, true
		  FROM unnest(e.d_a, e.d_b, e.d_seq, e.d_type, e.d_effective, e.d_detached) d(a, b, seq, type, effective, detached)
		  WHERE d.type = 'merge' AND d.effective AND d.detached IS NOT TRUE) l;
	SELECT array_agg(d.a) AS a, array_agg(d.b) AS b
	INTO cannot
	FROM unnest(e.d_a, e.d_b, e.d_type, e.d_effective) d(a, b, type, effective)
	WHERE d.type = 'split' AND d.effective;
	v := cdp.verify_replay(
		ARRAY(SELECT split_part(n.name, ':', 1) FROM unnest(names) WITH ORDINALITY n(name, node) ORDER BY n.node),
		first_seen, links.a, links.b, links.seq, links.ord, links.last, links.manual, cannot.a, cannot.b);
	comps := v.comps;
	ncomps := v.ncomps;

	SELECT array_agg(p.a), array_agg(p.b),
		   array_agg(CASE WHEN p.seq IS NULL THEN 'detached' ELSE j.reason END),
		   array_agg(j.detail)
	INTO pair_a, pair_b, pair_reason, pair_detail
	FROM unnest(e.pair_a, e.pair_b, e.pair_seq) p(a, b, seq)
	LEFT JOIN unnest(links.a, links.b, links.manual, v.reasons, v.details) j(a, b, manual, reason, detail)
	  ON j.a = p.a AND j.b = p.b AND NOT j.manual;

	SELECT array_agg(d.a), array_agg(d.b), array_agg(CASE WHEN d.detached THEN 'detached' ELSE j.reason END)
	INTO merge_a, merge_b, merge_reason
	FROM unnest(e.d_a, e.d_b, e.d_type, e.d_effective, e.d_detached) d(a, b, type, effective, detached)
	LEFT JOIN unnest(links.a, links.b, links.manual, v.reasons) j(a, b, manual, reason)
	  ON j.a = d.a AND j.b = d.b AND j.manual
	WHERE d.type = 'merge' AND d.effective;

	-- the policies of kinds: whose limit keeps a link of an entry apart
	IF e.star_seq IS NOT NULL THEN
		SELECT array_agg(DISTINCT s.seq) INTO withheld
		FROM unnest(pair_a, pair_b, pair_reason, pair_detail) p(a, b, reason, detail)
		JOIN cdp.identifier_kinds k ON k.kind = p.detail
		JOIN unnest(e.star_seq, e.star_a, e.star_b) s(seq, a, b) ON s.a = p.a AND s.b = p.b
		WHERE p.reason = 'limit'
		  AND (k.policy IN ('refuse', 'raise')
			   OR k.policy = 'quarantine' AND s.seq <> ALL (COALESCE(e.released, '{}')));
		SELECT array_agg(CASE WHEN w.seq IS NULL THEN o.owner END ORDER BY o.seq) INTO owners
		FROM unnest(owners) WITH ORDINALITY o(owner, seq)
		LEFT JOIN unnest(withheld) w(seq) ON w.seq = o.seq;
	END IF;
END
$function$;

REVOKE ALL ON FUNCTION cdp.verify_evidence(), cdp.verify_graph() FROM PUBLIC;
