/* sql/identity/explain.sql: why identifiers are, or are not, one person */

-- The entry behind a link.  Where the log does not have it any more, the link
-- itself still knows source and message id.
CREATE FUNCTION cdp.link_entry(link cdp.links, OUT event text, OUT source text, OUT message_id text)
	LANGUAGE plpgsql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, cdp, pg_temp
AS $$
DECLARE
	found_xid bigint;
	found_received_at timestamptz;
BEGIN
	SELECT n.xid, n.received_at INTO found_xid, found_received_at
	FROM cdp.owned_entries n
	WHERE n.owner IN (link.a, link.b) AND n.at = link.at AND n.entry = link.entry;
	IF FOUND THEN
		SELECT coalesce(e.event, e.type), coalesce(e.source, ''), coalesce(e.message_id, '#' || e.id)
		INTO event, source, message_id
		FROM cdp.events e
		WHERE e.received_at = found_received_at AND e.xid = found_xid AND e.id = link.entry;
	END IF;
	IF message_id IS NULL THEN
		source := split_part(link.tie, E'\x01', 1);
		message_id := substr(link.tie, length(source) + 2);
	END IF;
END
$$;
COMMENT ON FUNCTION cdp.link_entry(cdp.links) IS 'internal: what the log says about the entry that gave a link';

CREATE FUNCTION cdp.explain_link(a cdp.identifier, b cdp.identifier)
	RETURNS TABLE (step int, from_identifier cdp.identifier, to_identifier cdp.identifier,
		origin text, event text, source text, message_id text, at timestamptz)
	LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SECURITY DEFINER
	SET search_path = pg_catalog, cdp, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	profile_a bigint := cdp.resolve(explain_link.a);
	profile_b bigint := cdp.resolve(explain_link.b);
	start_node bigint;
	node bigint;
	-- the way
	froms bigint[];
	tos bigint[];
	hows text[];
BEGIN
	IF profile_a IS DISTINCT FROM profile_b OR profile_a IS NULL THEN
		RETURN;
	END IF;
	SELECT i.node_id INTO node FROM cdp.identities i
	WHERE i.identifier = cdp.canonical(explain_link.a);
	SELECT i.node_id INTO start_node FROM cdp.identities i
	WHERE i.identifier = cdp.canonical(explain_link.b);
	IF node = start_node THEN
		RETURN;
	END IF;

	-- from b to a, so that the way back begins at a
	SELECT array_agg(w.node ORDER BY w.depth DESC), array_agg(w.via ORDER BY w.depth DESC),
		array_agg(w.origin ORDER BY w.depth DESC)
	INTO froms, tos, hows
	FROM cdp.graph_walk(start_node, node) w WHERE w.depth > 0;
	IF froms IS NULL THEN
		RAISE data_corrupted USING
			MESSAGE = format('no accepted evidence joins nodes %s and %s of profile %s', node, start_node, profile_a),
			HINT = 'Run cdp.verify().';
	END IF;

	RETURN QUERY
		SELECT s.step::int, cdp.shown(f.identifier), cdp.shown(t.identifier), l.origin, e.event, e.source, e.message_id, l.at
		FROM unnest(froms, tos, hows) WITH ORDINALITY AS s (f, t, origin, step)
		JOIN cdp.identities f ON f.node_id = s.f
		JOIN cdp.identities t ON t.node_id = s.t
		JOIN cdp.links l ON l.a = least(s.f, s.t) AND l.b = greatest(s.f, s.t) AND l.origin = s.origin
		CROSS JOIN LATERAL cdp.link_entry(l) e
		ORDER BY s.step;
END
$$;
COMMENT ON FUNCTION cdp.explain_link(cdp.identifier, cdp.identifier) IS
'why two identifiers are one person: the shortest chain of accepted evidence, one row a step; no rows when they are not, or when they are the same identifier';

CREATE FUNCTION cdp.component(member cdp.identifier)
	RETURNS TABLE (depth int, identifier cdp.identifier, via cdp.identifier,
		first_seen timestamptz, last_seen timestamptz)
	LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SECURITY DEFINER
	SET search_path = pg_catalog, cdp, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	start_node bigint;
BEGIN
	IF cdp.resolve(component.member) IS NULL THEN
		RETURN;
	END IF;
	SELECT i.node_id INTO start_node FROM cdp.identities i
	WHERE i.identifier = cdp.canonical(component.member);
	IF start_node IS NULL THEN
		RETURN;
	END IF;
	RETURN QUERY
		SELECT w.depth, cdp.shown(i.identifier), cdp.shown(v.identifier), i.first_seen, i.last_seen
		FROM cdp.graph_walk(start_node) w
		JOIN cdp.identities i ON i.node_id = w.node
		LEFT JOIN cdp.identities v ON v.node_id = w.via
		ORDER BY w.depth, w.node;
END
$$;
COMMENT ON FUNCTION cdp.component(cdp.identifier) IS
'the identifiers of the profile by their distance in accepted evidence from the one given, each with the one through which it was reached';

CREATE FUNCTION cdp.refused_links(identifier cdp.identifier)
	RETURNS TABLE (a cdp.identifier, b cdp.identifier, status text, reason text, origin text,
		event text, source text, message_id text, at timestamptz, other_profile bigint, detail text)
	LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SECURITY DEFINER
	SET search_path = pg_catalog, cdp, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	profile bigint := cdp.resolve(refused_links.identifier);
BEGIN
	RETURN QUERY
		SELECT cdp.shown(i.identifier), cdp.shown(j.identifier), (r.link).status, (r.link).reason, (r.link).origin,
			e.event, e.source, e.message_id, (r.link).at, j.profile_id, (r.link).detail
		FROM (
			SELECT l AS link, l.a AS x, l.b AS y
			FROM cdp.identities i
			JOIN cdp.links l ON l.a = i.node_id AND l.status <> 'accepted'
			WHERE i.profile_id = profile
			UNION ALL
			SELECT l, l.b, l.a
			FROM cdp.identities i
			JOIN cdp.links l ON l.b = i.node_id AND l.status <> 'accepted'
			JOIN cdp.identities o ON o.node_id = l.a AND o.profile_id <> profile
			WHERE i.profile_id = profile
		) AS r
		JOIN cdp.identities i ON i.node_id = r.x
		JOIN cdp.identities j ON j.node_id = r.y AND cdp.visible(j.profile_id)
		CROSS JOIN LATERAL cdp.link_entry(r.link) e
		ORDER BY (r.link).at, (r.link).tie COLLATE "C", (r.link).ord, r.x, r.y;
END
$$;
COMMENT ON FUNCTION cdp.refused_links(cdp.identifier) IS
'evidence about the profile that the rules refused (reason limit, with the kind in detail, size, rate, bridge, shared), or that a split (cannot-link) or a detach (detached) overruled: a is in the profile, b in other_profile, which is the same one where something else joined them';

-- What every function that needs the whole profile at once can bear.
CREATE FUNCTION cdp.check_explainable(profile_id bigint) RETURNS void
	LANGUAGE plpgsql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, cdp, pg_temp
AS $$
DECLARE
	max_links CONSTANT int := 100000;
BEGIN
	IF (SELECT count(*) FROM (
			SELECT FROM cdp.identities i JOIN cdp.links l ON l.a = i.node_id
			WHERE i.profile_id = check_explainable.profile_id
			UNION ALL
			SELECT FROM cdp.identities i JOIN cdp.links l ON l.b = i.node_id
			WHERE i.profile_id = check_explainable.profile_id AND l.status <> 'accepted'
			LIMIT max_links + 1) AS s) > max_links THEN
		RAISE program_limit_exceeded USING
			MESSAGE = format('profile %s has more than %s links', check_explainable.profile_id, max_links),
			HINT = 'cdp.component() and cdp.explain_link() have no such limit.';
	END IF;
END
$$;
COMMENT ON FUNCTION cdp.check_explainable(bigint) IS 'internal: error when a profile is too large to be taken apart';

-- Tarjan's algorithm, with a stack of its own: low is the earliest node that
-- what is below a node reaches without the link through which it was found.
CREATE FUNCTION cdp.find_cuts(profile_id bigint,
	OUT nodes bigint[], OUT parts int[], OUT bridge_tops bigint[], OUT bridge_ends bigint[], OUT bridge_sizes int[])
	LANGUAGE plpgsql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, cdp, pg_temp
AS $$
DECLARE
	-- neighbours of node v: heads[firsts[v]] to heads[firsts[v + 1] - 1]
	heads int[];
	times int[];
	firsts int[];
	n int;
	seen int[];
	low int[];
	size int[];
	parent int[];
	parent_times int[];
	place int[];
	clock int := 1;
	v int := 1;
	w int;
	link int;
BEGIN
	bridge_tops := '{}';
	bridge_ends := '{}';
	bridge_sizes := '{}';
	parts := '{}';
	PERFORM cdp.check_explainable(find_cuts.profile_id);

	-- Nodes get numbers by rank, not by a join: nothing is known here of the
	-- number of rows, and a nested loop would never end.  In a profile of more
	-- than one node every node has a link, so ranks are the same at both ends.
	WITH pairs AS MATERIALIZED (
		-- evidence by events and by hand may join the same pair
		SELECT l.a, l.b, count(*)::int AS times
		FROM cdp.identities i
		JOIN cdp.links l ON l.a = i.node_id AND l.status = 'accepted'
		WHERE i.profile_id = find_cuts.profile_id
		GROUP BY l.a, l.b
	), halves AS MATERIALIZED (
		SELECT p.a AS x, p.b AS y, p.times FROM pairs p
		UNION ALL
		SELECT p.b, p.a, p.times FROM pairs p
	), ranked AS (
		SELECT h.x, h.y, h.times, dense_rank() OVER (ORDER BY h.y)::int AS number FROM halves h
	), ends AS MATERIALIZED (
		SELECT h.x, (1 + sum(count(*)) OVER (ORDER BY h.x))::int AS upto FROM halves h GROUP BY h.x
	)
	SELECT (SELECT array_agg(r.number ORDER BY r.x, r.y) FROM ranked r),
		(SELECT array_agg(r.times ORDER BY r.x, r.y) FROM ranked r),
		(SELECT array_agg(e.x ORDER BY e.x) FROM ends e),
		(SELECT array_agg(e.upto ORDER BY e.x) FROM ends e)
	INTO heads, times, nodes, firsts;
	n := cardinality(nodes);
	IF n IS NULL THEN
		RETURN;
	END IF;
	firsts := 1 || firsts;

	place := firsts;
	seen := array_fill(0, ARRAY[n]);
	low := seen;
	size := array_fill(1, ARRAY[n]);
	parent := seen;
	parent_times := seen;
	parts := seen;
	seen[1] := 1;
	low[1] := 1;
	LOOP
		link := place[v];
		IF link < firsts[v + 1] THEN
			place[v] := link + 1;
			w := heads[link];
			IF seen[w] = 0 THEN
				parent[w] := v;
				parent_times[w] := times[link];
				clock := clock + 1;
				seen[w] := clock;
				low[w] := clock;
				v := w;
			ELSIF w <> parent[v] AND seen[w] < low[v] THEN
				low[v] := seen[w];
			END IF;
		ELSE
			w := parent[v];
			-- what is above a node is one part more; nothing is above the first
			IF w = 0 THEN
				EXIT;
			END IF;
			parts[v] := parts[v] + 1;
			size[w] := size[w] + size[v];
			IF low[v] < low[w] THEN
				low[w] := low[v];
			END IF;
			IF low[v] >= seen[w] THEN
				parts[w] := parts[w] + 1;
			END IF;
			IF low[v] > seen[w] AND parent_times[v] = 1 THEN
				bridge_tops := bridge_tops || nodes[w];
				bridge_ends := bridge_ends || nodes[v];
				bridge_sizes := bridge_sizes || size[v];
			END IF;
			v := w;
		END IF;
	END LOOP;
END
$$;
COMMENT ON FUNCTION cdp.find_cuts(bigint) IS 'internal: into how many parts a profile falls without each of its nodes, and the links that hold it together, with the number of nodes behind them';

CREATE FUNCTION cdp.bridges(identifier cdp.identifier)
	RETURNS TABLE (a cdp.identifier, b cdp.identifier, origin text, event text, source text,
		message_id text, at timestamptz, a_side int, b_side int)
	LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SECURITY DEFINER
	SET search_path = pg_catalog, cdp, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	profile bigint := cdp.resolve(bridges.identifier);
BEGIN
	RETURN QUERY
		SELECT cdp.shown(i.identifier), cdp.shown(j.identifier), l.origin, e.event, e.source, e.message_id, l.at,
			s.a_side, s.total - s.a_side
		FROM (
			SELECT least(u.x, u.y) AS a, greatest(u.x, u.y) AS b, cardinality(c.nodes) AS total,
				CASE WHEN u.y < u.x THEN u.size ELSE cardinality(c.nodes) - u.size END AS a_side
			FROM cdp.find_cuts(profile) c
			CROSS JOIN LATERAL unnest(c.bridge_tops, c.bridge_ends, c.bridge_sizes) AS u (x, y, size)
		) AS s
		JOIN cdp.links l ON l.a = s.a AND l.b = s.b AND l.status = 'accepted'
		JOIN cdp.identities i ON i.node_id = s.a
		JOIN cdp.identities j ON j.node_id = s.b
		CROSS JOIN LATERAL cdp.link_entry(l) e
		ORDER BY least(s.a_side, s.total - s.a_side) DESC, l.at, l.tie COLLATE "C", l.ord, s.a, s.b;
END
$$;
COMMENT ON FUNCTION cdp.bridges(cdp.identifier) IS
'the links without which the profile would fall in two, those that part it most evenly first, with the number of identifiers on either side; error above 100000 links';

CREATE FUNCTION cdp.articulation_points(member cdp.identifier)
	RETURNS TABLE (identifier cdp.identifier, parts int)
	LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SECURITY DEFINER
	SET search_path = pg_catalog, cdp, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	profile bigint := cdp.resolve(articulation_points.member);
BEGIN
	RETURN QUERY
		SELECT cdp.shown(i.identifier), u.parts
		FROM cdp.find_cuts(profile) c
		CROSS JOIN LATERAL unnest(c.nodes, c.parts) AS u (node, parts)
		JOIN cdp.identities i ON i.node_id = u.node
		WHERE u.parts > 1
		ORDER BY u.parts DESC, u.node;
END
$$;
COMMENT ON FUNCTION cdp.articulation_points(cdp.identifier) IS
'the identifiers without which the profile would fall apart, and into how many parts; error above 100000 links';

-- A quoted string of Graphviz that shows the value.  Labels know escapes that
-- begin with a backslash, and HTML entities.
CREATE FUNCTION cdp.dot_string(value text) RETURNS text
	LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	value := replace(replace(replace(value, E'\\', E'\\\\'), '"', E'\\"'), '&', '&amp;');
	value := replace(value, E'\n', E'\\n');
	RETURN '"' || regexp_replace(value, E'[\\x01-\\x1f\\x7f]', ' ', 'g') || '"';
END
$$;
COMMENT ON FUNCTION cdp.dot_string(text) IS 'internal: a value as a string of Graphviz';

CREATE FUNCTION cdp.graph_dot(identifier cdp.identifier) RETURNS text
	LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SECURITY DEFINER
	SET search_path = pg_catalog, cdp, pg_temp
AS $$
DECLARE
	profile bigint := cdp.resolve(graph_dot.identifier);
	nodes text;
	links text;
BEGIN
	IF profile IS NULL THEN
		RETURN NULL;
	END IF;
	PERFORM cdp.check_explainable(profile);

	WITH mine AS MATERIALIZED (
		SELECT i.node_id FROM cdp.identities i WHERE i.profile_id = profile
	), evidence AS MATERIALIZED (
		SELECT l.* FROM mine m JOIN cdp.links l ON l.a = m.node_id
		UNION
		SELECT l.* FROM mine m JOIN cdp.links l ON l.b = m.node_id AND l.status <> 'accepted'
	), shown AS (
		SELECT m.node_id FROM mine m
		UNION
		SELECT v.a FROM evidence v
		UNION
		SELECT v.b FROM evidence v
	)
	SELECT
		(SELECT string_agg(format(E'\tn%s [label=%s%s];\n', i.node_id,
				cdp.dot_string(cdp.shown(i.identifier)::text ||
					CASE WHEN i.profile_id = profile THEN '' ELSE E'\nprofile ' || i.profile_id END),
				CASE WHEN i.profile_id = profile THEN '' ELSE ', color=gray, fontcolor=gray' END),
			'' ORDER BY i.node_id)
		 FROM shown s JOIN cdp.identities i ON i.node_id = s.node_id AND cdp.visible(i.profile_id)),
		(SELECT string_agg(format(E'\tn%s -- n%s [label=%s%s];\n', l.a, l.b,
				cdp.dot_string(concat_ws(E'\n', e.event, to_char(l.at AT TIME ZONE 'UTC', 'YYYY-MM-DD'),
					CASE WHEN l.status <> 'accepted' THEN concat_ws(': ', l.status, concat_ws(' ', l.reason, l.detail)) END)),
				CASE WHEN l.status <> 'accepted' THEN ', style=dashed, color=gray, fontcolor=gray'
					WHEN l.origin = 'manual' THEN ', style=bold' ELSE '' END),
			'' ORDER BY l.at, l.tie COLLATE "C", l.ord, l.a, l.b)
		 FROM evidence v
		 JOIN cdp.links l ON l.a = v.a AND l.b = v.b AND l.origin = v.origin
		 CROSS JOIN LATERAL cdp.link_entry(l) e)
	INTO nodes, links;
	RETURN format(E'graph "profile %s" {\n\tnode [shape=box];\n%s%s}\n', profile, nodes, links);
END
$$;
COMMENT ON FUNCTION cdp.graph_dot(cdp.identifier) IS
'the profile as a graph in the language of Graphviz: accepted evidence solid, by hand bold, refused or overruled dashed; error above 100000 links; NULL when unknown';

REVOKE ALL ON FUNCTION
	cdp.link_entry(cdp.links),
	cdp.check_explainable(bigint), cdp.find_cuts(bigint), cdp.dot_string(text),
	cdp.explain_link(cdp.identifier, cdp.identifier), cdp.component(cdp.identifier),
	cdp.refused_links(cdp.identifier), cdp.bridges(cdp.identifier),
	cdp.articulation_points(cdp.identifier), cdp.graph_dot(cdp.identifier)
	FROM PUBLIC;
