/* sql/apply/verify_replay.sql: the rules of identity, applied in order */

-- Kruskal's algorithm with constraints.  Nodes have a kind and the time when
-- they were first seen.  Links are pairs of nodes with the seq of their
-- earliest evidence, the place in it, the seq of their latest evidence, and
-- whether they were made by hand.  Result: the component of each node, and for
-- each link why it is refused (null: accepted) and, of limits, whose.
--
-- Links are judged in four phases:
--   1  those without a shared identifier (of a kind whose "shared" is
--      anonymous or newest), and merges by hand: earliest evidence first
--   2  between an anonymous identifier and an ordinary one: likewise, but none
--      of an identifier that is contested
--   3  between a newest identifier and an ordinary one: latest evidence first
--   4  between two shared identifiers: earliest evidence first, none when an
--      end is contested
CREATE FUNCTION cdp.verify_replay(kinds text[], seen timestamptz[],
	link_a int[], link_b int[], link_seq int[], link_ord int[], link_last int[], link_manual boolean[],
	cannot_a int[], cannot_b int[],
	OUT comps int[], OUT ncomps int, OUT reasons text[], OUT details text[])
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
	n int := COALESCE(cardinality(kinds), 0);
	ncannot int := COALESCE(cardinality(cannot_a), 0);
	max_size int := current_setting('cdp.max_profile_identifiers');
	max_rate int := current_setting('cdp.max_new_identifiers_per_hour');
	bridge int := current_setting('cdp.bridge_guard');
	shared text[];			-- of nodes of shared kinds
	contested boolean[];	-- such nodes that are nobody's
	limits int[];			-- by slot, see below
	slot_kind text[];		-- by slot; null: the rate guard
	parent int[];			-- a forest: x is a root when parent[x] = x
	size int[];				-- at roots, as are the next four
	slots jsonb[];			-- how many nodes in each slot; null: none
	first_cannot int[];		-- a list of ends of cannot-links, see below
	last_cannot int[];
	ncannots int[];
	next_cannot int[];
	x_slots jsonb;
	y_slots jsonb;
	held int[] := '{}';		-- links that the bridge guard holds
	x int;
	y int;
	p int;
	q int;
	i int;
	reason text;
	detail text;
	r record;
BEGIN
	SELECT array_agg(g ORDER BY g) INTO parent FROM generate_series(1, n) g;
	size := array_fill(1, ARRAY[n]);
	reasons := array_fill(NULL::text, ARRAY[COALESCE(cardinality(link_a), 0)]);
	details := reasons;
	contested := array_fill(false, ARRAY[n]);
	SELECT array_agg(NULLIF(k.shared, 'first') ORDER BY u.node) INTO shared
	FROM unnest(kinds) WITH ORDINALITY u(kind, node)
	LEFT JOIN cdp.identifier_kinds k ON k.kind = u.kind;

	-- A slot is a set of nodes of which a component must not have more than
	-- the limit: those of a kind, or those of a kind that were first seen in
	-- the same period (of the calendar in UTC, numbered; Julian day 0 was a
	-- Monday), or those of any kind first seen in the same hour.
	-- Which has no more than that on the whole need not be looked at.
	WITH slot AS (
		SELECT u.node, k.kind, k.max_per_profile AS limits,
			   CASE k.within WHEN '1 day' THEN floor(extract(julian FROM u.seen AT TIME ZONE 'UTC'))
							 WHEN '7 days' THEN floor(extract(julian FROM u.seen AT TIME ZONE 'UTC') / 7)
							 WHEN '1 month' THEN extract(month FROM u.seen AT TIME ZONE 'UTC') + 12 * extract(year FROM u.seen AT TIME ZONE 'UTC')
							 WHEN '3 months' THEN extract(quarter FROM u.seen AT TIME ZONE 'UTC') + 4 * extract(year FROM u.seen AT TIME ZONE 'UTC')
							 WHEN '1 year' THEN extract(year FROM u.seen AT TIME ZONE 'UTC') END AS period
		FROM unnest(kinds, seen) WITH ORDINALITY u(kind, seen, node)
		JOIN cdp.identifier_kinds k ON k.kind = u.kind
		WHERE k.max_per_profile > 0
		UNION ALL
		SELECT u.node, NULL, max_rate, floor(extract(epoch FROM u.seen) / 3600)
		FROM unnest(seen) WITH ORDINALITY u(seen, node)
		WHERE max_rate > 0
	), tight AS (
		SELECT s.*, dense_rank() OVER (ORDER BY s.kind, s.period) AS slot
		FROM (SELECT s.*, count(*) OVER (PARTITION BY s.kind, s.period) AS total FROM slot s) s
		WHERE s.total > s.limits
	)
	SELECT (SELECT array_agg(t.limits ORDER BY t.slot) FROM (SELECT DISTINCT t.slot, t.limits FROM tight t) t),
		   (SELECT array_agg(t.kind ORDER BY t.slot) FROM (SELECT DISTINCT t.slot, t.kind FROM tight t) t),
		   (SELECT array_agg(s.slots ORDER BY u.node)
			FROM generate_series(1, n) u(node)
			LEFT JOIN (SELECT t.node, jsonb_object_agg(t.slot, 1) AS slots FROM tight t GROUP BY t.node) s
			  ON s.node = u.node)
	INTO limits, slot_kind, slots;

	-- Each cannot-link is an item in the lists of both its ends: item i <=
	-- ncannot stands in the list of cannot_a[i], item ncannot + i in that of
	-- cannot_b[i].
	first_cannot := array_fill(0, ARRAY[n]);
	last_cannot := first_cannot;
	ncannots := first_cannot;
	next_cannot := array_fill(0, ARRAY[2 * ncannot]);
	FOR i IN 1 .. 2 * ncannot LOOP
		x := CASE WHEN i <= ncannot THEN cannot_a[i] ELSE cannot_b[i - ncannot] END;
		next_cannot[i] := first_cannot[x];
		IF first_cannot[x] = 0 THEN
			last_cannot[x] := i;
		END IF;
		first_cannot[x] := i;
		p := ncannots[x] + 1;
		ncannots[x] := p;
	END LOOP;

	FOR phase IN 1 .. 4 LOOP
		IF phase = 2 AND 'anonymous' = ANY (shared) THEN
			contested := cdp.verify_contested(parent, shared, slots, limits, slot_kind,
				link_a, link_b, link_manual, cannot_a, cannot_b);
		END IF;
		CONTINUE WHEN phase > 1 AND NOT ('anonymous' = ANY (shared) OR 'newest' = ANY (shared));

		FOR r IN
			SELECT l.a, l.b, l.link, l.manual
			FROM (SELECT l.*, CASE WHEN l.manual OR shared[l.a] IS NULL AND shared[l.b] IS NULL THEN 1
								   WHEN shared[l.a] IS NOT NULL AND shared[l.b] IS NOT NULL THEN 4
								   WHEN COALESCE(shared[l.a], shared[l.b]) = 'anonymous' THEN 2
								   ELSE 3 END AS phase
				  FROM unnest(link_a, link_b, link_seq, link_ord, link_last, link_manual)
					   WITH ORDINALITY l(a, b, seq, ord, last, manual, link)) l
			WHERE l.phase = phase
			ORDER BY CASE WHEN phase = 3 THEN - l.last END, l.seq, l.ord
		LOOP
			IF phase IN (2, 4) AND (contested[r.a] OR contested[r.b]) THEN
				reasons[r.link] := 'shared';
				CONTINUE;
			END IF;
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
			IF size[x] < size[y] THEN
				p := x;
				x := y;
				y := p;
			END IF;
			reason := NULL;
			detail := NULL;

			-- does a cannot-link cross?
			IF ncannots[x] > 0 AND ncannots[y] > 0 THEN
				p := CASE WHEN ncannots[x] < ncannots[y] THEN x ELSE y END;
				i := first_cannot[p];
				WHILE i > 0 LOOP
					q := CASE WHEN i <= ncannot THEN cannot_b[i] ELSE cannot_a[i - ncannot] END;
					WHILE parent[q] <> q LOOP
						q := parent[q];
					END LOOP;
					IF q <> p AND (q = x OR q = y) THEN
						reason := 'cannot-link';
						EXIT;
					END IF;
					i := next_cannot[i];
				END LOOP;
			END IF;
			-- limits, which merges by hand are not held to
			IF reason IS NULL AND NOT r.manual AND slots[x] IS NOT NULL AND slots[y] IS NOT NULL THEN
				SELECT CASE WHEN count(s.kind) > 0 THEN 'limit' WHEN count(*) > 0 THEN 'rate' END, min(s.kind COLLATE "C")
				INTO reason, detail
				FROM (SELECT slot_kind[t.slot::int] AS kind
					  FROM jsonb_each(slots[y]) t(slot, n)
					  WHERE slots[x] ? t.slot
						AND t.n::int + (slots[x]->t.slot)::int > limits[t.slot::int]) s;
			END IF;
			IF reason IS DISTINCT FROM 'cannot-link' AND reason IS DISTINCT FROM 'limit'
				AND size[x] + size[y] > max_size THEN
				reason := 'size';
			END IF;
			-- One event is not enough to join two large components; two are,
			-- about different pairs.
			IF reason IS NULL AND NOT r.manual AND bridge > 0 AND size[y] >= bridge THEN
				reason := 'bridge';
				FOREACH i IN ARRAY held LOOP
					p := link_a[i];
					WHILE parent[p] <> p LOOP
						p := parent[p];
					END LOOP;
					q := link_b[i];
					WHILE parent[q] <> q LOOP
						q := parent[q];
					END LOOP;
					IF (p = x AND q = y) OR (p = y AND q = x) THEN
						reason := NULL;
						EXIT;
					END IF;
				END LOOP;
				IF reason IS NOT NULL THEN
					held := held || r.link::int;
				END IF;
			END IF;
			IF reason IS NOT NULL THEN
				reasons[r.link] := reason;
				details[r.link] := detail;
				CONTINUE;
			END IF;

			-- y becomes a part of x.  An array to which one of its own elements is
			-- assigned is copied as a whole: so these go by way of a variable.
			parent[y] := x;
			p := size[x] + size[y];
			size[x] := p;
			IF slots[y] IS NOT NULL THEN
				x_slots := slots[x];
				y_slots := slots[y];
				IF x_slots IS NULL THEN
					x_slots := y_slots;
				ELSE
					x_slots := x_slots ||
						(SELECT jsonb_object_agg(t.slot, t.n::int + COALESCE((x_slots->t.slot)::int, 0))
						 FROM jsonb_each(y_slots) t(slot, n));
				END IF;
				slots[x] := x_slots;
				slots[y] := NULL;
			END IF;
			IF ncannots[y] > 0 THEN
				IF ncannots[x] = 0 THEN
					p := first_cannot[y];
					first_cannot[x] := p;
				ELSE
					next_cannot[last_cannot[x]] := first_cannot[y];
				END IF;
				p := last_cannot[y];
				last_cannot[x] := p;
				p := ncannots[x] + ncannots[y];
				ncannots[x] := p;
			END IF;
		END LOOP;
	END LOOP;

	FOR i IN 1 .. n LOOP
		x := i;
		WHILE parent[x] <> x LOOP
			x := parent[x];
		END LOOP;
		parent[i] := x;
	END LOOP;
	-- what came together all the same is not held any more
	FOREACH i IN ARRAY held LOOP
		IF parent[link_a[i]] = parent[link_b[i]] THEN
			reasons[i] := NULL;
		END IF;
	END LOOP;
	SELECT array_agg(u.comp ORDER BY u.node), COALESCE(max(u.comp), 0)
	INTO comps, ncomps
	FROM (SELECT t.node, dense_rank() OVER (ORDER BY t.root)::int AS comp
		  FROM unnest(parent) WITH ORDINALITY t(root, node)) u;
END
$function$;

-- The anonymous identifiers that cannot be one person's: together the
-- components that events link them to would break the limit of a kind.  Those
-- held apart from the identifier by hand are not asked.
CREATE FUNCTION cdp.verify_contested(parent int[], shared text[], slots jsonb[], limits int[], slot_kind text[],
	link_a int[], link_b int[], link_manual boolean[], cannot_a int[], cannot_b int[]) RETURNS boolean[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
	root int[] := parent;
	x int;
	result boolean[];
BEGIN
	FOR i IN 1 .. COALESCE(cardinality(root), 0) LOOP
		x := i;
		WHILE root[x] <> x LOOP
			x := root[x];
		END LOOP;
		root[i] := x;
	END LOOP;
	WITH ends AS (
		SELECT l.a AS node, l.b AS other FROM unnest(link_a, link_b, link_manual) l(a, b, manual) WHERE NOT l.manual
		UNION ALL
		SELECT l.b, l.a FROM unnest(link_a, link_b, link_manual) l(a, b, manual) WHERE NOT l.manual
	), apart AS (
		SELECT c.a AS node, root[c.b] AS comp FROM unnest(cannot_a, cannot_b) c(a, b)
		UNION
		SELECT c.b, root[c.a] FROM unnest(cannot_a, cannot_b) c(a, b)
	), adjacent AS (
		SELECT DISTINCT e.node, root[e.other] AS comp
		FROM ends e
		WHERE shared[e.node] = 'anonymous' AND shared[e.other] IS NULL
		EXCEPT
		SELECT a.node, a.comp FROM apart a
	), contested AS (
		SELECT DISTINCT s.node
		FROM (SELECT a.node
			  FROM adjacent a
			  CROSS JOIN LATERAL jsonb_each(slots[a.comp]) t(slot, n)
			  WHERE slot_kind[t.slot::int] IS NOT NULL
			  GROUP BY a.node, t.slot
			  HAVING count(*) > 1 AND sum(t.n::int) > limits[t.slot::int]) s
	)
	SELECT array_agg(c.node IS NOT NULL ORDER BY u.node) INTO result
	FROM generate_series(1, cardinality(root)) u(node)
	LEFT JOIN contested c ON c.node = u.node;
	RETURN result;
END
$function$;

REVOKE ALL ON FUNCTION
	cdp.verify_replay(text[], timestamptz[], int[], int[], int[], int[], int[], boolean[], int[], int[]),
	cdp.verify_contested(int[], text[], jsonb[], int[], text[], int[], int[], boolean[], int[], int[])
	FROM PUBLIC;
