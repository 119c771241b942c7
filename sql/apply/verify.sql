/* sql/apply/verify.sql: everything that is derived, recomputed from the log */

-- cdp.verify() is the second, independent implementation of what doc/verify.md
-- calls f(events, rules, definitions, clock).  It shares with the applier only
-- the definitions: cdp.canonical(), cdp.effective_at(), cdp.content_hash(), and
-- the tables that hold kinds, traits and segments.  It is written for
-- plainness, not speed: the log is sorted once, the graph is Kruskal's
-- algorithm over all evidence in order, a trait is a GROUP BY.
--
-- All functions are STABLE, so that every query in them uses the one snapshot
-- of the calling query: the answer is right beside a running applier.  They
-- keep what they need in arrays and not in temporary tables, because they must
-- run in read-only transactions and on a standby.
--
-- Conventions: "seq" is the position of an entry that counts in the order
-- (at, tie), from 1; "comp" numbers the recomputed profiles from 1.  Arrays
-- over one of them are indexed by it.

-- The other side of the comparison: what the stored states of a profile yield
-- at an instant.
CREATE FUNCTION cdp.profile_traits_at(profile_id bigint, at timestamptz) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'cdp_profile_traits_at'
	LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.profile_traits_at(bigint, timestamptz) IS 'traits: as cdp.profile() would show them at that instant; values: of every definition, hidden ones included; next: when one changes by itself';

-- The log as far as it has been applied, judged.
CREATE FUNCTION cdp.verify_log(
	OUT incarnation int, OUT id bigint, OUT source text, OUT message text,
	OUT type text, OUT event text, OUT at timestamptz, OUT tie text,
	OUT target text, OUT reason text, OUT counts boolean,
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
			   CASE WHEN e.type = 'undo' AND jsonb_typeof(e.properties) = 'object'
						 AND jsonb_typeof(e.properties->'entry') = 'string'
					THEN NULLIF(e.properties->>'entry', '') END AS target,
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
	), meaning AS (
		SELECT r.raw::text AS raw, r.canonical::text AS canonical,
			   r.kind IS NOT NULL AS registered, r.priority, r.entity,
			   r.links AND NOT cdp.verify_is_label(r.canonical, r.labels, r.normaliser) AS links
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
			   WHEN a.type IS NULL OR a.type NOT IN ('track', 'identify', 'page', 'screen',
					'group', 'alias', 'merge', 'split', 'undo') THEN 'unknown type'
			   WHEN octet_length(a.source) > 1024 OR octet_length(a.message_id) > 1024 THEN 'long message id'
			   WHEN NOT isfinite(a.occurred_at) THEN 'infinite time'
			   WHEN array_ndims(a.identifiers) > 1 THEN 'identifiers in several dimensions'
			   WHEN a.type = 'undo' THEN
					CASE WHEN a.target IS NULL OR octet_length(a.target) > 1024 THEN 'undo of nothing' END
			   WHEN a.type IN ('merge', 'split') THEN
					CASE WHEN COALESCE(cardinality(a.identifiers), 0) <> 2
							  OR COALESCE(n.usable, 0) <> 2 OR n.registered <> 2
						 THEN 'not two identifiers' END
			   WHEN a.type = 'track' AND COALESCE(a.event, '') = '' THEN 'no event'
			   WHEN a.type = 'identify' AND a.shape = 'other' THEN 'traits not an object'
			   WHEN COALESCE(n.usable, 0) = 0 AND COALESCE(n.accounts, 0) = 0
					THEN 'no usable identifier'
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
	)
	SELECT j.incarnation, j.id, j.source, COALESCE(j.message_id, '#' || j.id),
		   j.type, j.event, j.at,
		   j.source || E'\x01' || COALESCE(j.message_id, '#' || lpad(j.id::text, 19, '0')),
		   j.target, j.reason, j.reason IS NULL AND l.id IS NULL,
		   j.names, j.links
	FROM judged j
	LEFT JOIN losers l ON l.incarnation = j.incarnation AND l.id = j.id;
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

-- Evaluate an expression over entries, at once when possible; when one of them
-- raises an error, by halves, so that only that one is left out.
CREATE FUNCTION cdp.verify_evaluate(query text, rows cdp.events[], seqs int[],
	OUT good_seqs int[], OUT vals text[])
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
	n int := COALESCE(cardinality(seqs), 0);
	half int := n / 2;
	l record;
	r record;
BEGIN
	BEGIN
		EXECUTE query INTO good_seqs, vals USING rows, seqs;
		RETURN;
	EXCEPTION WHEN OTHERS THEN
		IF n <= 1 THEN
			good_seqs := NULL;
			vals := NULL;
			RETURN;
		END IF;
	END;
	l := cdp.verify_evaluate(query, rows[:half], seqs[:half]);
	r := cdp.verify_evaluate(query, rows[half + 1:], seqs[half + 1:]);
	good_seqs := l.good_seqs || r.good_seqs;
	vals := l.vals || r.vals;
END
$function$;

-- What each entry gives to a trait: those for which the value is not null,
-- as text.  The CASEs see to it that the filter is evaluated only over entries
-- of the event, and the value only where the filter is true.
CREATE FUNCTION cdp.verify_contributions(event text, filter text, value text,
	entries bigint[], incarnations int[],
	OUT seqs int[], OUT vals text[])
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
	columns constant text :=
		'e.id, e.message_id, COALESCE(e.source, '''') AS source, e.type, e.event, e.identifiers, e.properties, e.context, '
		'cdp.effective_at(e.occurred_at, e.received_at) AS occurred_at, e.received_at, e.xid, e.incarnation';
	matches text;
	expression text;
	chunk record;
	part record;
BEGIN
	matches := 'e.type IN (''track'', ''page'', ''screen'')' ||
		CASE WHEN event IS NULL THEN '' ELSE format(' AND e.event = %L', event) END;
	expression := format(
		'(SELECT CASE WHEN %s THEN CASE WHEN (%s%s) THEN ((%s%s))::text END END FROM (SELECT %s) e)',
		matches, COALESCE(filter, 'true'), E'\n', COALESCE(value, 'true'), E'\n', columns);
	BEGIN
		EXECUTE format(
			'SELECT array_agg(v.seq ORDER BY v.seq), array_agg(v.val ORDER BY v.seq)
			 FROM (SELECT k.seq::int AS seq, %s AS val
				   FROM cdp.events e
				   JOIN unnest($1, $2) WITH ORDINALITY k(entry, inc, seq)
					 ON e.id = k.entry AND e.incarnation = k.inc
				   WHERE %s) v
			 WHERE v.val IS NOT NULL', expression, matches)
		INTO seqs, vals USING entries, incarnations;
		RETURN;
	EXCEPTION WHEN OTHERS THEN
		NULL;
	END;

	seqs := '{}';
	vals := '{}';
	FOR chunk IN EXECUTE format(
		'SELECT array_agg(v.e ORDER BY v.seq) AS rows, array_agg(v.seq ORDER BY v.seq) AS seqs
		 FROM (SELECT e, k.seq::int AS seq, row_number() OVER (ORDER BY k.seq) AS nth
			   FROM cdp.events e
			   JOIN unnest($1, $2) WITH ORDINALITY k(entry, inc, seq)
				 ON e.id = k.entry AND e.incarnation = k.inc
			   WHERE %s) v
		 GROUP BY (v.nth - 1) / 128', matches) USING entries, incarnations
	LOOP
		part := cdp.verify_evaluate(format(
			'SELECT array_agg(v.seq), array_agg(v.val)
			 FROM (SELECT ($2)[e.place] AS seq, %s AS val
				   FROM unnest($1) WITH ORDINALITY
						e(id, message_id, source, type, event, identifiers, properties, context,
						  occurred_at, received_at, xid, incarnation, place)) v
			 WHERE v.val IS NOT NULL', expression), chunk.rows, chunk.seqs);
		seqs := seqs || part.good_seqs;
		vals := vals || part.vals;
	END LOOP;
END
$function$;

-- A computed trait for every profile, as text; and for a count the first
-- instant after the clock at which an entry enters or leaves its window, if
-- that makes it another number.
CREATE FUNCTION cdp.verify_trait(aggregate text, type text, event text, filter text, value text,
	win interval, timezone text, empty text,
	entries bigint[], incarnations int[], ats timestamptz[], entry_comps int[], ncomps int,
	clock timestamptz, OUT vals text[], OUT next timestamptz[])
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET "TimeZone" = 'UTC'
AS $function$
DECLARE
	c record;
	value_type text := type;
	final text;
	item text := 'k.val';
BEGIN
	PERFORM set_config('TimeZone', timezone, true);
	IF empty IS NOT NULL THEN
		EXECUTE format('SELECT ($1::%s)::text', type) INTO empty USING empty;
	END IF;
	IF aggregate = 'count' OR aggregate = 'exists' THEN
		value_type := 'text';
	ELSIF aggregate = 'sum' OR aggregate = 'avg' THEN
		value_type := 'numeric';
	ELSIF aggregate = 'unique_count' THEN
		EXECUTE format('SELECT pg_typeof((%s%s)) FROM (SELECT (NULL::cdp.events).*) e', value, E'\n')
		INTO value_type;
		value_type := replace(value_type, 'unknown', 'text');
	END IF;
	c := cdp.verify_contributions(event, filter,
		CASE WHEN aggregate IN ('count', 'exists') THEN value
			 WHEN value_type = 'numeric' THEN
			 -- numbers of absurd size are not added up
			 format('(SELECT CASE WHEN v.v IN (''NaN'', ''Infinity'', ''-Infinity'') OR abs(v.v) <= 1e1000 THEN v.v END
					 FROM (SELECT (%s%s)::numeric) v(v))', value, E'\n')
			 ELSE format('(%s%s)::%s', value, E'\n', value_type) END,
		entries, incarnations);

	item := format('k.val::%s', value_type);
	IF (SELECT t.typcollation <> 0 FROM pg_type t WHERE t.oid = value_type::regtype) THEN
		item := item || ' COLLATE "C"';
	END IF;
	final := CASE aggregate
		WHEN 'count' THEN 'count(*)::text'
		WHEN 'exists' THEN '''true'''
		WHEN 'sum' THEN 'sum(i.v)::text'
		WHEN 'avg' THEN 'avg(i.v)::text'
		WHEN 'min' THEN '(array_agg(i.v ORDER BY i.v))[1]::text'
		WHEN 'max' THEN '(array_agg(i.v ORDER BY i.v DESC))[1]::text'
		WHEN 'first' THEN '(array_agg(i.v ORDER BY i.seq))[1]::text'
		WHEN 'last' THEN '(array_agg(i.v ORDER BY i.seq DESC))[1]::text'
		WHEN 'unique_count' THEN 'count(DISTINCT i.v)::text'
		WHEN 'most_frequent' THEN '(array_agg(i.v ORDER BY i.n DESC, i.v))[1]::text'
	END;
	-- only what this definition needs: there are many, and planning costs
	EXECUTE format(
		'WITH item AS (
			SELECT s.comp, k.seq, s.at, %s AS v %s
			FROM unnest($1, $2) k(seq, val)
			JOIN unnest($3, $4) WITH ORDINALITY s(comp, at, seq) ON s.seq = k.seq
			WHERE s.comp IS NOT NULL
		 ), inside AS (
			SELECT i.comp, i.seq, i.v %s FROM item i %s
		 ), result AS (
			SELECT i.comp, %s AS val FROM inside i GROUP BY i.comp
		 )'
		|| CASE WHEN aggregate = 'count' AND win IS NOT NULL THEN
		 ', edge AS (
			SELECT i.comp, min(CASE WHEN i.at > $5 THEN i.at WHEN i.until > $5 THEN i.until END) AS at
			FROM item i
			WHERE i.until > i.at
			GROUP BY i.comp
		 ), edges AS (
			SELECT e.comp, e.at AS next
			FROM edge e JOIN item i ON i.comp = e.comp
			WHERE isfinite(e.at)
			GROUP BY e.comp, e.at
			HAVING count(*) FILTER (WHERE i.at <= $5 AND $5 < i.until)
				<> count(*) FILTER (WHERE i.at <= e.at AND e.at < i.until)
		 )
		 SELECT array_agg(COALESCE(r.val, $9) ORDER BY p.comp),
				array_agg(e.next ORDER BY p.comp)
		 FROM generate_series(1, $8) p(comp)
		 LEFT JOIN result r ON r.comp = p.comp
		 LEFT JOIN edges e ON e.comp = p.comp'
		ELSE
		 'SELECT array_agg(COALESCE(r.val, $9) ORDER BY p.comp), NULL::timestamptz[]
		 FROM generate_series(1, $8) p(comp)
		 LEFT JOIN result r ON r.comp = p.comp'
		END,
		CASE WHEN aggregate IN ('count', 'exists') THEN '1' ELSE item END,
		CASE WHEN win IS NOT NULL THEN
			', CASE WHEN s.at < ''3000-01-01'' THEN (s.at AT TIME ZONE $6 + $7) AT TIME ZONE $6
					ELSE ''infinity'' END AS until' END,
		CASE WHEN aggregate = 'most_frequent' THEN ', count(*) OVER (PARTITION BY i.comp, i.v) AS n' END,
		CASE WHEN win IS NOT NULL THEN 'WHERE i.at <= $5 AND $5 < i.until' END,
		final)
	INTO vals, next
	USING c.seqs, c.vals, entry_comps, ats, clock, timezone, win, ncomps,
		  COALESCE(empty, CASE aggregate WHEN 'count' THEN '0' WHEN 'unique_count' THEN '0'
				   WHEN 'exists' THEN 'false' END);
END
$function$;

-- An expression cut into tokens; white space and comments are tokens too, so
-- that the pieces joined together are the expression.
CREATE FUNCTION cdp.verify_tokens(expression text) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
	rest text := expression;
	token text;
	tokens text[] := '{}';
BEGIN
	WHILE rest <> '' LOOP
		token := COALESCE(
			(regexp_match(rest, '^[eE]''(?:[^''\\]|''''|\\.)*'''))[1],
			(regexp_match(rest, '^(?:[bBxXnN]|[uU]&)?''(?:[^'']|'''')*'''))[1],
			(regexp_match(rest, '^(?:[uU]&)?"(?:[^"]|"")*"'))[1],
			(regexp_match(rest, '^--[^\n]*'))[1],
			(regexp_match(rest, '^\s+'))[1],
			(regexp_match(rest, '^[[:alpha:]_][[:alnum:]_$]*'))[1],
			(regexp_match(rest, '^\d[\d.]*(?:[eE][+-]?\d+)?'))[1],
			(regexp_match(rest, '^(?:=>|:=|::)'))[1]);
		IF token IS NULL AND rest ~ '^\$(?:[[:alpha:]_]\w*)?\$' THEN
			token := (regexp_match(rest, '^\$[^$]*\$'))[1];
			token := token || split_part(substr(rest, length(token) + 1), token, 1) || token;
		END IF;
		IF token IS NULL AND left(rest, 2) = '/*' THEN
			token := left(rest, strpos(rest, '*/') + 1);
		END IF;
		token := COALESCE(token, left(rest, 1));
		tokens := tokens || token;
		rest := substr(rest, length(token) + 1);
	END LOOP;
	RETURN tokens;
END
$function$;

-- A predicate or derived trait for every profile, as text.  Calls of the
-- vocabulary are evaluated on their own and replaced by columns; the rest is
-- SQL over one row a profile.  An error makes the value null for that profile
-- only.
CREATE FUNCTION cdp.verify_expression(expression text, timezone text,
	trait_names text[], trait_types text[], trait_vals text[],
	segment_names text[], segment_vals text[],
	entries bigint[], incarnations int[], ats timestamptz[], entry_comps int[], ncomps int,
	clock timestamptz) RETURNS text[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET "TimeZone" = 'UTC'
AS $function$
DECLARE
	tokens text[] := cdp.verify_tokens(expression);
	n int := cardinality(tokens);
	name text;
	columns text[] := '{}';		-- each an array over comp, as text
	targets text[] := '{}';
	used text[] := '{}';
	out_text text := '';
	depth int;
	args text[];
	arg text;
	i int := 1;
	j int;
	k int;
	named jsonb;
	m text[];
	t record;
	sql text;
	result text[];
	one text;
BEGIN
	PERFORM set_config('TimeZone', timezone, true);
	WHILE i <= n LOOP
		name := CASE WHEN tokens[i] ~ '^[[:alpha:]_]' AND tokens[i] !~ '''' THEN lower(tokens[i])
					 WHEN tokens[i] ~ '^"' THEN replace(substr(tokens[i], 2, length(tokens[i]) - 2), '""', '"')
				END;
		-- the next token that is not white space
		j := i + 1;
		WHILE j <= n AND tokens[j] ~ '^(\s|--|/\*)' LOOP
			j := j + 1;
		END LOOP;

		-- cdp.did() is did()
		IF name = 'cdp' AND tokens[j] = '.' THEN
			i := j + 1;
			CONTINUE;
		END IF;
		IF name IN ('did', 'did_not', 'count_of', 'in_segment', 'now') AND tokens[j] = '(' THEN
			depth := 0;
			args := '{}';
			arg := '';
			LOOP
				IF tokens[j] IN ('(', '[') THEN
					depth := depth + 1;
				ELSIF tokens[j] IN (')', ']') THEN
					depth := depth - 1;
				END IF;
				EXIT WHEN depth = 0;
				IF depth = 1 AND tokens[j] = ',' THEN
					args := args || arg;
					arg := '';
				ELSIF depth > 1 OR tokens[j] <> '(' THEN
					arg := arg || CASE WHEN tokens[j] ~ '^(--|/\*)' THEN ' ' ELSE tokens[j] END;
				END IF;
				j := j + 1;
			END LOOP;
			IF btrim(arg, E' \n\t\r') <> '' THEN
				args := args || arg;
			END IF;
			i := j + 1;

			named := '{}';
			FOREACH arg IN ARRAY args LOOP
				m := regexp_match(arg, '^\s*([[:alpha:]_]\w*)\s*(?:=>|:=)(.*)$');
				IF m IS NOT NULL THEN
					named := named || jsonb_build_object(lower(m[1]), m[2]);
				ELSE
					named := named || jsonb_build_object(
						CASE WHEN name = 'in_segment' THEN 'segment' ELSE 'event' END, arg);
				END IF;
			END LOOP;
			-- everything but the filter is a constant
			FOR t IN SELECT e.key, e.value FROM jsonb_each_text(named) e WHERE e.key <> 'filter' LOOP
				EXECUTE 'SELECT (' || t.value || ')::text' INTO one;
				named := named || jsonb_build_object(t.key, one);
			END LOOP;

			IF name = 'now' THEN
				out_text := out_text || format('%L::timestamptz', clock);
				CONTINUE;
			ELSIF name = 'in_segment' THEN
				k := array_position(segment_names, named->>'segment');
				columns := columns || segment_vals[k];
				targets := targets || format('c%s::boolean AS call_%s', cardinality(columns), cardinality(columns));
				out_text := out_text || format('COALESCE(call_%s, false)', cardinality(columns));
				CONTINUE;
			END IF;
			SELECT v.vals::text INTO one
			FROM cdp.verify_trait('count', 'bigint', named->>'event', named->>'filter', NULL,
				(named->>'within')::interval, timezone, NULL,
				entries, incarnations, ats, entry_comps, ncomps, clock) v;
			columns := columns || one;
			k := cardinality(columns);
			targets := targets || format('c%s::bigint AS call_%s', k, k);
			out_text := out_text || CASE name
				WHEN 'count_of' THEN format('call_%s', k)
				WHEN 'did_not' THEN format('(call_%s = 0)', k)
				ELSE format('(call_%s >= %s AND call_%s <= %s)', k,
					COALESCE(named->>'at_least', '1'),
					k, COALESCE(named->>'at_most', '9223372036854775807'))
			END;
			CONTINUE;
		END IF;

		IF name IN ('current_timestamp', 'current_date', 'localtimestamp') AND tokens[i] !~ '^"' THEN
			out_text := out_text || format('%L::timestamptz', clock) ||
				CASE name WHEN 'current_date' THEN '::date' WHEN 'localtimestamp' THEN '::timestamp' ELSE '' END;
		ELSE
			k := COALESCE(array_position(trait_names, name), array_position(trait_names, lower(name)));
			IF k IS NOT NULL AND tokens[j] IS DISTINCT FROM '(' AND NOT name = ANY (used) THEN
				used := used || name;
				columns := columns || trait_vals[k];
				targets := targets || format('c%s::%s AS %I', cardinality(columns), trait_types[k], name);
			END IF;
			out_text := out_text || tokens[i];
		END IF;
		i := i + 1;
	END LOOP;

	IF cardinality(columns) = 0 THEN
		columns := ARRAY[array_fill(NULL::text, ARRAY[ncomps])::text];
		targets := ARRAY['c1 AS c1'];
	END IF;
	sql := format('(SELECT (%s%s)::text FROM (SELECT %s) row_of_profile)',
		out_text, E'\n', array_to_string(targets, ', '));
	BEGIN
		EXECUTE format('SELECT array_agg(%s ORDER BY p.comp) FROM ROWS FROM (%s) WITH ORDINALITY p(%s, comp)', sql,
			(SELECT string_agg(format('unnest(($1)[%s]::text[])', g), ', ') FROM generate_series(1, cardinality(columns)) g),
			(SELECT string_agg(format('c%s', g), ', ') FROM generate_series(1, cardinality(columns)) g))
		INTO result USING columns;
		RETURN result;
	EXCEPTION WHEN OTHERS THEN
		NULL;
	END;
	result := array_fill(NULL::text, ARRAY[ncomps]);
	FOR t IN EXECUTE format('SELECT ARRAY[%s] AS c, p.comp::int AS comp FROM ROWS FROM (%s) WITH ORDINALITY p(%s, comp)',
			(SELECT string_agg(format('c%s', g), ', ') FROM generate_series(1, cardinality(columns)) g),
			(SELECT string_agg(format('unnest(($1)[%s]::text[])', g), ', ') FROM generate_series(1, cardinality(columns)) g),
			(SELECT string_agg(format('c%s', g), ', ') FROM generate_series(1, cardinality(columns)) g)) USING columns
	LOOP
		BEGIN
			EXECUTE format('SELECT %s FROM (SELECT %s) p', sql,
				(SELECT string_agg(format('($1)[%s] AS c%s', g, g), ', ') FROM generate_series(1, cardinality(columns)) g))
			INTO one USING t.c;
			result[t.comp] := one;
		EXCEPTION WHEN OTHERS THEN
			NULL;
		END;
	END LOOP;
	RETURN result;
END
$function$;

-- What differs between the stored state and the state recomputed from the log.
CREATE FUNCTION cdp.verify(OUT station text, OUT key text, OUT expected jsonb, OUT found jsonb)
RETURNS SETOF record
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET "TimeZone" = 'UTC'
SET "DateStyle" = 'ISO, YMD'
SET "IntervalStyle" = 'postgres'
SET extra_float_digits = 1
SET bytea_output = 'hex'
AS $function$
#variable_conflict use_column
DECLARE
	g record;
	v_clock timestamptz;
	entry_comps int[];
	profiles bigint[];			-- by comp: smallest node number
	stored jsonb[];				-- by comp: values that the incremental state gives
	waiting bigint[];			-- profiles whose timer is due and not handled yet
	due timestamptz[];			-- by comp: when a count changes by itself
	declared jsonb[];			-- by comp: last writer of each key
	traits jsonb[];				-- definitions
	t_names text[] := '{}';
	t_types text[] := '{}';
	t_ids int[] := '{}';
	t_vals text[] := '{}';		-- each an array over comp, as text
	s_names text[] := '{}';
	s_vals text[] := '{}';
	names text[];
	types text[];
	vals text[];
	others text[];
	pending jsonb[];
	t jsonb;
	s jsonb;
	v record;
	progress boolean;
BEGIN
	SELECT COALESCE(max(a.clock), '-infinity') INTO v_clock FROM cdp.applier a;
	SELECT * INTO g FROM cdp.verify_graph();

	-- log: what was refused, and what counts for whom
	RETURN QUERY
	SELECT 'log', 'entry ' || COALESCE(l.id, r.entry),
		   CASE WHEN l.id IS NOT NULL THEN jsonb_build_object('rejected', l.reason) END,
		   CASE WHEN r.entry IS NOT NULL THEN jsonb_build_object('rejected', r.reason) END
	FROM (SELECT l.id, l.reason, row_number() OVER (PARTITION BY l.id) AS nth
		  FROM unnest(g.rejected, g.reasons) l(id, reason)) l
	FULL JOIN (SELECT r.entry, r.reason, row_number() OVER (PARTITION BY r.entry) AS nth
			   FROM cdp.rejected r WHERE r.entry IS NOT NULL) r
	  ON r.entry = l.id AND r.nth = l.nth
	WHERE l.id IS NULL OR r.entry IS NULL;

	-- Which of two equal duplicates counts makes no difference, so entries
	-- are compared by message id.
	RETURN QUERY
	WITH want AS (
		SELECT e.source, COALESCE(e.message_id, '#' || e.id) AS message, n.name AS owner, k.at
		FROM unnest(g.entries, g.incarnations, g.ats, g.owners) k(id, incarnation, at, owner)
		JOIN cdp.events e ON e.id = k.id AND e.incarnation = k.incarnation
		JOIN unnest(g.names) WITH ORDINALITY n(name, node) ON n.node = k.owner
	), have AS (
		SELECT e.source, COALESCE(e.message_id, '#' || e.id) AS message,
			   i.identifier::text AS owner, f.at
		FROM cdp.entries f
		LEFT JOIN cdp.events e ON e.id = f.entry AND e.xid = f.xid
		LEFT JOIN cdp.identities i ON i.node_id = f.owner
	)
	SELECT 'log', format('message %s of %s', COALESCE(w.message, h.message, '?'), COALESCE(w.source, h.source, '?')),
		   CASE WHEN w.message IS NOT NULL THEN jsonb_build_object('owner', w.owner, 'at', w.at) END,
		   CASE WHEN h.at IS NOT NULL THEN jsonb_build_object('owner', h.owner, 'at', h.at) END
	FROM (SELECT w.*, row_number() OVER (PARTITION BY w.source, w.message ORDER BY w.at, w.owner COLLATE "C") AS nth FROM want w) w
	FULL JOIN (SELECT h.*, row_number() OVER (PARTITION BY h.source, h.message ORDER BY h.at, h.owner COLLATE "C") AS nth FROM have h) h
	  ON w.source IS NOT DISTINCT FROM h.source AND w.message = h.message AND w.nth = h.nth
	WHERE w.at IS DISTINCT FROM h.at OR w.owner IS DISTINCT FROM h.owner;

	-- identity: nodes and the partition of them.  A profile's number is the
	-- smallest of its nodes'.
	SELECT array_agg(c.profile ORDER BY c.comp) INTO profiles
	FROM (SELECT n.comp, min(i.node_id) AS profile
		  FROM unnest(g.names, g.comps) n(name, comp)
		  LEFT JOIN cdp.identities i ON i.identifier::text = n.name
		  GROUP BY n.comp) c;
	RETURN QUERY
	SELECT 'identity', COALESCE(w.name, i.identifier::text),
		   CASE WHEN w.name IS NOT NULL THEN jsonb_build_object('profile', w.profile,
				'first_seen', w.first_seen, 'last_seen', w.last_seen) END,
		   CASE WHEN i.node_id IS NOT NULL THEN jsonb_build_object('profile', i.profile_id,
				'first_seen', i.first_seen, 'last_seen', i.last_seen) END
	FROM (SELECT n.name, n.first_seen, n.last_seen, p.profile
		  FROM unnest(g.names, g.first_seen, g.last_seen, g.comps) n(name, first_seen, last_seen, comp)
		  JOIN unnest(profiles) WITH ORDINALITY p(profile, comp) ON p.comp = n.comp) w
	FULL JOIN cdp.identities i ON i.identifier::text = w.name
	WHERE w.name IS NULL OR i.node_id IS NULL
	   OR w.profile IS DISTINCT FROM i.profile_id
	   OR w.first_seen IS DISTINCT FROM i.first_seen
	   OR w.last_seen IS DISTINCT FROM i.last_seen;

	-- identity: what became of the evidence, and which decisions hold
	RETURN QUERY
	WITH nodes AS (
		SELECT n.name, n.node FROM unnest(g.names) WITH ORDINALITY n(name, node)
	), want AS (
		SELECT a.name AS a, b.name AS b, p.accepted
		FROM unnest(g.pair_a, g.pair_b, g.pair_accepted) p(a, b, accepted)
		JOIN nodes a ON a.node = p.a
		JOIN nodes b ON b.node = p.b
	), have AS (
		SELECT least(a.identifier::text COLLATE "C", b.identifier::text) AS a,
			   greatest(a.identifier::text COLLATE "C", b.identifier::text) AS b,
			   l.status, l.reason
		FROM cdp.links l
		LEFT JOIN cdp.identities a ON a.node_id = l.a
		LEFT JOIN cdp.identities b ON b.node_id = l.b
		WHERE l.origin = 'event'
	)
	SELECT 'identity', format('link %s %s', COALESCE(w.a, h.a), COALESCE(w.b, h.b)),
		   CASE WHEN w.a IS NOT NULL THEN jsonb_build_object('accepted', w.accepted) END,
		   CASE WHEN h.status IS NOT NULL THEN jsonb_strip_nulls(jsonb_build_object('accepted', h.status = 'accepted',
				'status', h.status, 'reason', h.reason)) END
	FROM want w
	FULL JOIN have h ON h.a = w.a AND h.b = w.b
	WHERE w.accepted IS DISTINCT FROM (h.status = 'accepted');

	RETURN QUERY
	SELECT 'identity', format('decision %s', COALESCE(w.entry, d.entry)),
		   CASE WHEN w.entry IS NOT NULL THEN jsonb_build_object('effective', w.effective) END,
		   CASE WHEN d.entry IS NOT NULL THEN jsonb_build_object('effective', d.effective) END
	FROM unnest(g.decision_entries, g.decision_effective) w(entry, effective)
	FULL JOIN cdp.decisions d ON d.entry = w.entry
	WHERE w.effective IS DISTINCT FROM d.effective;

	-- traits
	SELECT array_agg(c.comp ORDER BY o.seq) INTO entry_comps
	FROM unnest(g.owners) WITH ORDINALITY o(node, seq)
	LEFT JOIN unnest(g.comps) WITH ORDINALITY c(comp, node) ON c.node = o.node;

	SELECT array_agg(cdp.profile_traits_at(p.profile, v_clock) ORDER BY p.comp) INTO stored
	FROM unnest(profiles) WITH ORDINALITY p(profile, comp);

	-- declared: the last writer of a key, over the whole profile; a key that
	-- was removed is there with null
	SELECT array_agg(d.traits ORDER BY p.comp) INTO declared
	FROM generate_series(1, g.ncomps) p(comp)
	LEFT JOIN (
		SELECT w.comp, jsonb_object_agg(w.key, w.value) AS traits
		FROM (SELECT DISTINCT ON (s.comp, j.key COLLATE "C") s.comp, j.key, j.value
			  FROM unnest(g.entries, g.incarnations, entry_comps) WITH ORDINALITY s(entry, incarnation, comp, seq)
			  JOIN cdp.events e ON e.id = s.entry AND e.incarnation = s.incarnation
			  CROSS JOIN LATERAL jsonb_each(CASE WHEN jsonb_typeof(e.properties) = 'object'
												 THEN e.properties ELSE '{}' END) j
			  WHERE e.type = 'identify' AND s.comp IS NOT NULL
			  ORDER BY s.comp, j.key COLLATE "C", s.seq DESC) w
		GROUP BY w.comp) d ON d.comp = p.comp;

	SELECT array_agg(to_jsonb(d) ORDER BY d.aggregate = 'expression', d.id) INTO traits FROM cdp.trait_definitions d;
	pending := COALESCE(traits, '{}');
	LOOP
		progress := false;
		traits := pending;
		pending := '{}';
		FOREACH t IN ARRAY traits LOOP
			IF t->>'owner' <> ALL (SELECT r.rolname FROM pg_roles r) THEN
				-- suspended
				vals := array_fill(NULL::text, ARRAY[g.ncomps]);
			ELSIF t->>'aggregate' = 'declared' THEN
				vals := cdp.verify_declared(declared, COALESCE(t->>'key', t->>'name'), t->>'type', t->>'timezone', t->>'empty');
			ELSIF t->>'aggregate' = 'expression' THEN
				-- after what it depends on
				IF EXISTS (SELECT FROM unnest(traits) o
						   WHERE o->>'name' = ANY (cdp.verify_tokens(t->>'expression'))
							 AND o->>'aggregate' = 'expression' AND o->>'name' <> t->>'name'
							 AND NOT o->>'name' = ANY (t_names)) THEN
					pending := pending || t;
					CONTINUE;
				END IF;
				vals := cdp.verify_expression(format('COALESCE((%s%s)::%s, %L)', t->>'expression', E'\n', t->>'type', t->>'empty'), t->>'timezone',
					t_names, t_types, t_vals, '{}', '{}',
					g.entries, g.incarnations, g.ats, entry_comps, g.ncomps, v_clock);
			ELSE
				SELECT * INTO v FROM cdp.verify_trait(t->>'aggregate', t->>'type', t->>'event',
					t->>'filter_sql', t->>'value_sql', (t->>'within')::interval, t->>'timezone', t->>'empty',
					g.entries, g.incarnations, g.ats, entry_comps, g.ncomps, v_clock);
				vals := v.vals;
				IF v.next IS NOT NULL THEN
					SELECT array_agg(least(u.due, u.next) ORDER BY u.comp) INTO due
					FROM unnest(due, v.next) WITH ORDINALITY u(due, next, comp);
				END IF;
			END IF;
			progress := true;
			t_ids := t_ids || (t->>'id')::int;
			t_names := t_names || (t->>'name');
			t_types := t_types || (t->>'type');
			t_vals := t_vals || vals::text;
			IF t->>'key' <> t->>'name' THEN
				-- a declared trait goes by its key too
				t_ids := t_ids || (t->>'id')::int;
				t_names := t_names || (t->>'key');
				t_types := t_types || (t->>'type');
				t_vals := t_vals || vals::text;
			END IF;

			RETURN QUERY EXECUTE format(
				'SELECT ''traits'', format(''%%s of profile %%s'', $4, p.profile), p.expected, p.found
				 FROM (SELECT u.profile, to_jsonb(u.val::%s) AS expected, u.stored->''values''->$4 AS found
					   FROM unnest($1, $2, $3) u(profile, val, stored)) p
				 WHERE p.profile IS NOT NULL AND p.expected IS DISTINCT FROM p.found', t->>'type')
			USING profiles, vals, stored, t->>'name';
		END LOOP;
		EXIT WHEN cardinality(pending) = 0;
		IF NOT progress THEN
			RAISE EXCEPTION 'derived traits depend on each other in a circle';
		END IF;
	END LOOP;

	RETURN QUERY
	SELECT 'traits', format('%s of profile %s', k.key, u.profile), NULLIF(u.declared->k.key, 'null'), u.stored->'traits'->k.key
	FROM unnest(profiles, declared, stored) u(profile, declared, stored)
	CROSS JOIN LATERAL (
		SELECT jsonb_object_keys(u.declared) AS key
		UNION
		SELECT jsonb_object_keys(u.stored->'traits')) k
	WHERE u.profile IS NOT NULL
	  AND NOT EXISTS (SELECT FROM cdp.trait_definitions d WHERE d.name = k.key AND d.aggregate <> 'declared')
	  AND NULLIF(u.declared->k.key, 'null') IS DISTINCT FROM u.stored->'traits'->k.key;

	-- timers: one that is early does no harm, one that is late does
	RETURN QUERY
	SELECT 'timers', format('profile %s', u.profile), to_jsonb(u.due), to_jsonb(m.at)
	FROM unnest(profiles, due) u(profile, due)
	LEFT JOIN cdp.timers m ON m.profile_id = u.profile
	WHERE u.due < COALESCE(m.at, 'infinity') AND u.profile IS NOT NULL;
	RETURN QUERY
	SELECT 'timers', format('profile %s', COALESCE(i.node_id, m.profile_id)), to_jsonb(i.timer), to_jsonb(m.at)
	FROM (SELECT i.node_id, i.timer FROM cdp.identities i WHERE i.timer IS NOT NULL) i
	FULL JOIN cdp.timers m ON m.profile_id = i.node_id
	WHERE i.timer IS DISTINCT FROM m.at;

	-- When many timers are due at once they are handled in batches; until then
	-- members are as of before.
	waiting := ARRAY(SELECT m.profile_id FROM cdp.timers m WHERE m.at <= v_clock);

	-- segments: what rows of identities say must agree with the members
	RETURN QUERY
	SELECT 'segments', format('node %s', COALESCE(i.node_id, m.profile_id)), to_jsonb(m.segments), to_jsonb(i.segments)
	FROM (SELECT i.node_id, i.segments FROM cdp.identities i WHERE cardinality(i.segments) > 0) i
	FULL JOIN (SELECT m.profile_id, array_agg(m.segment_id ORDER BY m.segment_id) AS segments
			   FROM cdp.segment_members m WHERE m.member GROUP BY m.profile_id) m
	  ON m.profile_id = i.node_id
	WHERE i.segments IS DISTINCT FROM m.segments;

	-- segments, those that others refer to first
	SELECT array_agg(to_jsonb(d) ORDER BY d.id) INTO pending FROM cdp.segment_definitions d;
	pending := COALESCE(pending, '{}');
	LOOP
		progress := false;
		traits := pending;
		pending := '{}';
		FOREACH s IN ARRAY traits LOOP
			IF EXISTS (SELECT FROM unnest(traits) o
					   WHERE quote_literal(o->>'name') = ANY (cdp.verify_tokens(s->>'predicate'))
						 AND o->>'name' <> s->>'name' AND NOT o->>'name' = ANY (s_names)) THEN
				pending := pending || s;
				CONTINUE;
			END IF;
			progress := true;
			s_names := s_names || (s->>'name');
			-- the names that the text uses, and what they stand for
			SELECT array_agg(n.name), array_agg(t_types[array_position(t_ids, n.id)]),
				   array_agg(t_vals[array_position(t_ids, n.id)])
			INTO names, types, others
			FROM unnest(ARRAY(SELECT jsonb_array_elements_text(s->'trait_names')),
						ARRAY(SELECT jsonb_array_elements_text(s->'trait_ids')::int)) n(name, id);
			IF NOT (s->>'enabled')::boolean
				OR s->>'owner' <> ALL (SELECT r.rolname FROM pg_roles r) THEN
				-- keeps the members that it has
				SELECT array_agg(m.profile_id IS NOT NULL ORDER BY p.comp) INTO vals
				FROM unnest(profiles) WITH ORDINALITY p(profile, comp)
				LEFT JOIN cdp.memberships m ON m.profile_id = p.profile AND m.segment = s->>'name';
				s_vals := s_vals || vals::text;
				CONTINUE;
			END IF;
			vals := cdp.verify_expression(s->>'predicate', s->>'timezone',
				COALESCE(names, '{}'), types, others, s_names, s_vals,
				g.entries, g.incarnations, g.ats, entry_comps, g.ncomps, v_clock);
			IF s->>'exit_when' IS NOT NULL THEN
				-- who is in stays while it is not true
				others := cdp.verify_expression(s->>'exit_when', s->>'timezone',
					COALESCE(names, '{}'), types, others, s_names, s_vals,
					g.entries, g.incarnations, g.ats, entry_comps, g.ncomps, v_clock);
				SELECT array_agg(NOT COALESCE(u.gone::boolean, false)
								 AND (COALESCE(u.val::boolean, false) OR m.profile_id IS NOT NULL) ORDER BY u.comp)
				INTO vals
				FROM unnest(vals, others, profiles) WITH ORDINALITY u(val, gone, profile, comp)
				LEFT JOIN cdp.memberships m ON m.profile_id = u.profile AND m.segment = s->>'name';
			END IF;
			s_vals := s_vals || vals::text;
			RETURN QUERY
			SELECT 'segments', format('%s of profile %s', s->>'name', COALESCE(w.profile, m.profile_id)),
				   to_jsonb(w.profile IS NOT NULL), to_jsonb(m.profile_id IS NOT NULL)
			FROM (SELECT u.profile FROM unnest(profiles, vals) u(profile, val)
				  WHERE u.val::boolean AND u.profile IS NOT NULL) w
			FULL JOIN (SELECT m.profile_id FROM cdp.memberships m WHERE m.segment = s->>'name') m
			  ON m.profile_id = w.profile
			WHERE (w.profile IS NULL OR m.profile_id IS NULL)
			  AND COALESCE(w.profile, m.profile_id) <> ALL (waiting);
		END LOOP;
		EXIT WHEN cardinality(pending) = 0;
		IF NOT progress THEN
			RAISE EXCEPTION 'segments refer to each other in a circle';
		END IF;
	END LOOP;
END
$function$;
COMMENT ON FUNCTION cdp.verify() IS 'recomputes identities, traits and memberships from the log and returns what differs from the stored state; empty means equal';

-- A declared trait that has a type: null where the value does not fit it.  The
-- key is matched exactly, else in any case when only one key of the profile
-- matches so.
CREATE FUNCTION cdp.verify_declared(declared jsonb[], wanted text, type text, timezone text, empty text)
RETURNS text[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET "TimeZone" = 'UTC'
AS $function$
DECLARE
	written jsonb[];
	result text[] := '{}';
	one jsonb;
	val text;
	conversion text := CASE WHEN type::regtype = 'jsonb'::regtype THEN 'NULLIF(%s, ''null'')::text'
							WHEN (SELECT t.typcategory = 'D' FROM pg_type t WHERE t.oid = type::regtype)
							THEN '(cdp.absolute_time(%s #>> ''{}'')::' || type || ')::text'
							ELSE '((%s #>> ''{}'')::' || type || ')::text' END;
BEGIN
	PERFORM set_config('TimeZone', COALESCE(timezone, 'UTC'), true);
	IF empty IS NOT NULL THEN
		EXECUTE format('SELECT ($1::%s)::text', type) INTO empty USING empty;
	END IF;
	SELECT array_agg(CASE WHEN d.traits ? wanted THEN d.traits->wanted
						  ELSE (SELECT CASE WHEN count(*) = 1 THEN (array_agg(j.value))[1] END
								FROM jsonb_each(d.traits) j
								WHERE lower(j.key COLLATE "C") = lower(wanted COLLATE "C")) END ORDER BY d.comp)
	INTO written
	FROM unnest(declared) WITH ORDINALITY d(traits, comp);
	BEGIN
		EXECUTE format('SELECT array_agg(COALESCE(%s, $2) ORDER BY d.comp)
			FROM unnest($1) WITH ORDINALITY d(val, comp)', format(conversion, 'd.val'))
		INTO result USING written, empty;
		RETURN result;
	EXCEPTION WHEN OTHERS THEN
		result := '{}';
	END;
	FOREACH one IN ARRAY written LOOP
		BEGIN
			EXECUTE format('SELECT ' || conversion, '$1') INTO val USING one;
		EXCEPTION WHEN OTHERS THEN
			val := NULL;
		END;
		result := result || COALESCE(val, empty);
	END LOOP;
	RETURN result;
END
$function$;

REVOKE ALL ON FUNCTION cdp.verify(), cdp.profile_traits_at(bigint, timestamptz), cdp.verify_log(), cdp.verify_graph(),
	cdp.verify_is_label(cdp.identifier, text[], text), cdp.verify_evaluate(text, cdp.events[], int[]),
	cdp.verify_contributions(text, text, text, bigint[], int[]),
	cdp.verify_trait(text, text, text, text, text, interval, text, text, bigint[], int[], timestamptz[], int[], int, timestamptz),
	cdp.verify_tokens(text), cdp.verify_declared(jsonb[], text, text, text, text),
	cdp.verify_expression(text, text, text[], text[], text[], text[], text[], bigint[], int[], timestamptz[], int[], int, timestamptz)
	FROM PUBLIC;
