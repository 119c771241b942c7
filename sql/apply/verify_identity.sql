/* sql/apply/verify_identity.sql: the graph of identifiers, replayed as a whole */

-- The graph.  Arrays over nodes: names, first_seen, last_seen, comps.  Arrays
-- over seq: entries, incarnations, ats, owners (a node or null).  Then what
-- became of the evidence of events, and of the decisions by hand; and what
-- was refused.
CREATE FUNCTION cdp.verify_graph(
	OUT names text[], OUT first_seen timestamptz[], OUT last_seen timestamptz[],
	OUT comps int[], OUT ncomps int,
	OUT entries bigint[], OUT incarnations int[], OUT ats timestamptz[], OUT owners int[],
	OUT pair_a int[], OUT pair_b int[], OUT pair_accepted boolean[],
	OUT decision_entries bigint[], OUT decision_effective boolean[],
	OUT rejected bigint[], OUT reasons text[])
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
	pair_seq int[];
	pair_ord int[];
	d_seq int[];
	d_type text[];
	d_a int[];
	d_b int[];
	d_source text[];
	d_message text[];
	d_target text[];
	d_targets int[];
	d_active boolean[];
	limits int[];			-- of the kinds that have one
	limited text[];
	nlimits int;
	cannot_a int[];			-- ends of effective splits
	cannot_b int[];
	parent int[];
	size int[];
	counts int[];			-- (node - 1) * nlimits + kind
	bound boolean[];		-- at roots: has an end of a cannot-link
	max_size int;
	n int;
	x int;
	y int;
	p int;
	q int;
	i int;
	k int;
	ok boolean;
	r record;
BEGIN
	WITH judged AS MATERIALIZED (
		SELECT l.* FROM cdp.verify_log() l
	), log AS MATERIALIZED (
		SELECT row_number() OVER (ORDER BY l.at, l.tie COLLATE "C", l.incarnation, l.id)::int AS seq, l.*
		FROM judged l
		WHERE l.counts
	), named AS MATERIALIZED (
		SELECT l.seq, l.at, l.type, u.name, u.ord, u.links
		FROM log l
		CROSS JOIN LATERAL unnest(l.names, l.links) WITH ORDINALITY u(name, links, ord)
		WHERE l.type <> 'undo' AND (u.links OR u.ord = 1 OR l.type IN ('merge', 'split'))
	), nodes AS MATERIALIZED (
		SELECT g.name, row_number() OVER (ORDER BY g.name COLLATE "C")::int AS node,
			   g.first_seen, g.last_seen
		FROM (SELECT d.name, min(d.at) AS first_seen, max(d.at) AS last_seen
			  FROM named d GROUP BY d.name) g
	), numbered AS MATERIALIZED (
		SELECT d.seq, d.type, d.ord, d.links, o.node
		FROM named d JOIN nodes o ON o.name = d.name
	), evidence AS (
		-- an entry's identifiers are linked as a star from its hub; of all
		-- evidence for a pair only the earliest can matter
		SELECT DISTINCT ON (a, b) least(h.node, o.node) AS a, greatest(h.node, o.node) AS b, o.seq, o.ord::int AS ord
		FROM numbered h JOIN numbered o ON o.seq = h.seq
		WHERE h.ord = 1 AND o.ord > 1 AND h.links AND o.links
		  AND h.type NOT IN ('merge', 'split')
		ORDER BY a, b, o.seq, ord
	)
	SELECT o.names, o.first_seen, o.last_seen,
		   l.entries, l.incarnations, l.ats, l.owners,
		   e.pair_a, e.pair_b, e.pair_seq, e.pair_ord,
		   d.seq, d.type, d.a, d.b, d.source, d.message, d.target, d.entry,
		   z.entries, z.reasons
	INTO names, first_seen, last_seen,
		 entries, incarnations, ats, owners,
		 pair_a, pair_b, pair_seq, pair_ord,
		 d_seq, d_type, d_a, d_b, d_source, d_message, d_target, decision_entries,
		 rejected, reasons
	FROM (SELECT array_agg(o.name ORDER BY o.node) AS names,
				 array_agg(o.first_seen ORDER BY o.node) AS first_seen,
				 array_agg(o.last_seen ORDER BY o.node) AS last_seen
		  FROM nodes o) o,
		 (SELECT array_agg(l.id ORDER BY l.seq) AS entries,
				 array_agg(l.incarnation ORDER BY l.seq) AS incarnations,
				 array_agg(l.at ORDER BY l.seq) AS ats,
				 array_agg(w.node ORDER BY l.seq) AS owners
		  FROM log l
		  LEFT JOIN numbered w ON w.seq = l.seq AND w.ord = 1) l,
		 (SELECT array_agg(e.a ORDER BY e.seq, e.ord) AS pair_a,
				 array_agg(e.b ORDER BY e.seq, e.ord) AS pair_b,
				 array_agg(e.seq ORDER BY e.seq, e.ord) AS pair_seq,
				 array_agg(e.ord ORDER BY e.seq, e.ord) AS pair_ord
		  FROM evidence e) e,
		 (SELECT array_agg(l.seq ORDER BY l.seq) AS seq,
				 array_agg(l.type ORDER BY l.seq) AS type,
				 array_agg(ends.a ORDER BY l.seq) AS a,
				 array_agg(ends.b ORDER BY l.seq) AS b,
				 array_agg(l.source ORDER BY l.seq) AS source,
				 array_agg(l.message ORDER BY l.seq) AS message,
				 array_agg(l.target ORDER BY l.seq) AS target,
				 array_agg(l.id ORDER BY l.seq) AS entry
		  FROM log l
		  LEFT JOIN (SELECT m.seq, min(m.node) AS a, max(m.node) AS b
					 FROM numbered m WHERE m.type IN ('merge', 'split') GROUP BY m.seq) ends
			ON ends.seq = l.seq
		  WHERE l.type IN ('merge', 'split', 'undo')) d,
		 (SELECT array_agg(j.id) AS entries, array_agg(j.reason) AS reasons
		  FROM judged j WHERE j.reason IS NOT NULL) z;

	-- Decisions.  An entry is active unless an active undo targets it.  An
	-- undo can only target what comes before it, so going backwards every
	-- undo is judged before its target.
	n := COALESCE(cardinality(d_seq), 0);
	d_active := array_fill(true, ARRAY[n]);
	decision_effective := array_fill(false, ARRAY[n]);
	SELECT array_agg(t.target ORDER BY t.i) INTO d_targets
	FROM (SELECT u.i, max(v.i)::int AS target
		  FROM unnest(d_type, d_source, d_target) WITH ORDINALITY u(type, source, target, i)
		  LEFT JOIN unnest(d_source, d_message) WITH ORDINALITY v(source, message, i)
			ON u.type = 'undo' AND v.source = u.source AND v.message = u.target AND v.i < u.i
		  GROUP BY u.i) t;
	FOR i IN REVERSE n .. 1 LOOP
		IF d_active[i] AND d_targets[i] IS NOT NULL THEN
			d_active[d_targets[i]] := false;
		END IF;
	END LOOP;
	-- of the active ones about a pair the last is effective
	FOR i IN
		SELECT DISTINCT ON (d.a, d.b) d.i
		FROM unnest(d_type, d_a, d_b, d_active) WITH ORDINALITY d(type, a, b, active, i)
		WHERE d.type <> 'undo' AND d.active
		ORDER BY d.a, d.b, d.i DESC
	LOOP
		decision_effective[i] := true;
	END LOOP;
	FOR i IN 1 .. n LOOP
		IF d_type[i] = 'undo' THEN
			decision_effective[i] := d_active[i];
		END IF;
	END LOOP;

	-- Kruskal's algorithm over event evidence and effective merges in the
	-- order of the entries.
	n := COALESCE(cardinality(names), 0);
	max_size := current_setting('cdp.max_profile_identifiers');
	SELECT array_agg(t.kind), array_agg(t.max_per_profile), count(*)
	INTO limited, limits, nlimits
	FROM cdp.identifier_kinds t
	WHERE t.max_per_profile IS NOT NULL AND t.max_per_profile > 0;
	SELECT array_agg(d.a), array_agg(d.b) INTO cannot_a, cannot_b
	FROM unnest(d_type, d_a, d_b, decision_effective) d(type, a, b, effective)
	WHERE d.type = 'split' AND d.effective;

	SELECT array_agg(g ORDER BY g) INTO parent FROM generate_series(1, n) g;
	size := array_fill(1, ARRAY[n]);
	bound := array_fill(false, ARRAY[n]);
	SELECT array_agg((l.kind = split_part(u.name, ':', 1))::int ORDER BY u.node, l.k) INTO counts
	FROM unnest(names) WITH ORDINALITY u(name, node),
		 unnest(limited) WITH ORDINALITY l(kind, k);
	FOR i IN 1 .. COALESCE(cardinality(cannot_a), 0) LOOP
		bound[cannot_a[i]] := true;
		bound[cannot_b[i]] := true;
	END LOOP;
	pair_accepted := array_fill(true, ARRAY[COALESCE(cardinality(pair_a), 0)]);

	FOR r IN
		SELECT p.seq, p.ord, p.a, p.b, p.i, false AS manual
		FROM unnest(pair_seq, pair_ord, pair_a, pair_b) WITH ORDINALITY p(seq, ord, a, b, i)
		UNION ALL
		SELECT d.seq, 1, d.a, d.b, NULL, true
		FROM unnest(d_seq, d_type, d_a, d_b, decision_effective) d(seq, type, a, b, effective)
		WHERE d.type = 'merge' AND d.effective
		ORDER BY 1, 2
	LOOP
		x := r.a;
		WHILE parent[x] <> x LOOP
			p := parent[parent[x]];
			parent[x] := p;
			x := p;
		END LOOP;
		y := r.b;
		WHILE parent[y] <> y LOOP
			p := parent[parent[y]];
			parent[y] := p;
			y := p;
		END LOOP;
		CONTINUE WHEN x = y;

		ok := size[x] + size[y] <= max_size;
		IF ok AND bound[x] AND bound[y] THEN
			FOR i IN 1 .. cardinality(cannot_a) LOOP
				p := cannot_a[i];
				WHILE parent[p] <> p LOOP
					p := parent[p];
				END LOOP;
				q := cannot_b[i];
				WHILE parent[q] <> q LOOP
					q := parent[q];
				END LOOP;
				IF (p = x AND q = y) OR (p = y AND q = x) THEN
					ok := false;
					EXIT;
				END IF;
			END LOOP;
		END IF;
		IF ok AND NOT r.manual THEN
			FOR k IN 1 .. nlimits LOOP
				p := counts[(x - 1) * nlimits + k];
				q := counts[(y - 1) * nlimits + k];
				IF p > 0 AND q > 0 AND p + q > limits[k] THEN
					ok := false;
					EXIT;
				END IF;
			END LOOP;
		END IF;
		IF NOT ok THEN
			IF r.i IS NOT NULL THEN
				pair_accepted[r.i] := false;
			END IF;
			CONTINUE;
		END IF;

		IF size[x] < size[y] THEN
			p := x;
			x := y;
			y := p;
		END IF;
		parent[y] := x;
		size[x] := size[x] + size[y];
		bound[x] := bound[x] OR bound[y];
		FOR k IN 1 .. nlimits LOOP
			counts[(x - 1) * nlimits + k] :=
				counts[(x - 1) * nlimits + k] + counts[(y - 1) * nlimits + k];
		END LOOP;
	END LOOP;

	FOR i IN 1 .. n LOOP
		x := i;
		WHILE parent[x] <> x LOOP
			x := parent[x];
		END LOOP;
		parent[i] := x;
	END LOOP;
	SELECT array_agg(u.comp ORDER BY u.node), COALESCE(max(u.comp), 0)
	INTO comps, ncomps
	FROM (SELECT t.node, dense_rank() OVER (ORDER BY t.root)::int AS comp
		  FROM unnest(parent) WITH ORDINALITY t(root, node)) u;
END
$function$;

REVOKE ALL ON FUNCTION cdp.verify_graph() FROM PUBLIC;
