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
--
-- The recomputation of each station is in verify_log.sql, verify_identity.sql
-- and verify_replay.sql, verify_traits.sql, verify_segments.sql and verify_accounts.sql; here is the
-- comparison.

-- The other side of the comparison: what the stored states of a profile yield
-- at an instant.
CREATE FUNCTION cdp.profile_traits_at(profile_id bigint, at timestamptz) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'cdp_profile_traits_at'
	LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.profile_traits_at(bigint, timestamptz) IS 'traits: as cdp.profile() would show them at that instant; values: of every definition, hidden ones included; next: when one changes by itself';

-- What differs between the stored state and the state recomputed from the log.
CREATE FUNCTION cdp.verify(OUT station text, OUT key text, OUT expected jsonb, OUT found jsonb)
RETURNS SETOF record
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET "TimeZone" = 'UTC'
SET "DateStyle" = 'ISO, YMD'
SET "IntervalStyle" = 'postgres'
SET extra_float_digits = 1
SET jit = off
SET bytea_output = 'hex'
AS $function$
#variable_conflict use_column
DECLARE
	g record;
	v_clock timestamptz;
	entry_comps int[];
	profiles bigint[];			-- by comp: smallest node number
	stored jsonb[];				-- by comp: values that the incremental state gives
	unfolded bigint[];			-- profiles with a row of cdp.refolds
	waiting bigint[];			-- profiles whose timer is due and not handled yet, or who wait for news
	primaries jsonb[];			-- by comp: values of the primary account
	due timestamptz[];			-- by comp: when a count changes by itself
	declared jsonb[];			-- by comp: last writer of each key
	traits jsonb[];				-- definitions
	suspended int[] := cdp.suspended_traits();
	t_names text[] := '{}';
	t_types text[] := '{}';
	t_ids int[] := '{}';
	t_vals text[] := '{}';		-- each an array over comp, as text
	s_names text[] := '{}';
	s_vals text[] := '{}';
	kinds text[];				-- by comp: kinds of its identifiers, as text
	known text[];				-- by comp: is one of them a person's?
	names text[];
	types text[];
	vals text[];
	others text[];
	one text;
	pending jsonb[];
	t jsonb;
	s jsonb;
	v record;
	progress boolean;
	consents text[];			-- by comp: to a segment's purpose
BEGIN
	-- while history is read by two sets of rules, the result is neither's
	IF EXISTS (SELECT FROM cdp.rule_changes) THEN
		RETURN QUERY
		SELECT 'identity', 'change of rules', to_jsonb('finished'::text),
			   jsonb_build_object('phase', p.phase, 'done', p.done, 'total', p.total)
		FROM cdp.progress p;
		RETURN;
	END IF;
	SELECT COALESCE(max(a.clock), '-infinity') INTO v_clock FROM cdp.applier a;
	SELECT * INTO g FROM cdp.verify_graph();

	-- log: what was refused, and what counts for whom
	RETURN QUERY
	SELECT 'log', 'entry ' || COALESCE(l.id, r.entry),
		   CASE WHEN l.id IS NOT NULL THEN jsonb_build_object('rejected', l.reason) END,
		   CASE WHEN r.entry IS NOT NULL THEN jsonb_build_object('rejected', r.reason) END
	FROM (SELECT l.id, l.reason, row_number() OVER (PARTITION BY l.id) AS nth
		  FROM unnest(g.rejected, g.rejected_reasons) l(id, reason)) l
	FULL JOIN (SELECT r.entry, r.reason, row_number() OVER (PARTITION BY r.entry) AS nth
			   FROM cdp.rejected r WHERE r.entry IS NOT NULL AND r.reason <> 'limit') r
	  ON r.entry = l.id AND r.nth = l.nth
	WHERE l.id IS NULL OR r.entry IS NULL;
	RETURN QUERY
	SELECT 'log', format('message %s of %s', COALESCE(w.message, h.message, '?'), COALESCE(w.source, h.source, '?')),
		   CASE WHEN w.message IS NOT NULL THEN jsonb_build_object('rejected', 'limit') END,
		   CASE WHEN h.reason IS NOT NULL THEN jsonb_build_object('rejected', h.reason) END
	FROM (SELECT COALESCE(e.source, '') AS source, COALESCE(e.message_id, '#' || e.id) AS message,
				 row_number() OVER (PARTITION BY COALESCE(e.source, ''), COALESCE(e.message_id, '#' || e.id)) AS nth
		  FROM unnest(g.withheld) s(seq)
		  JOIN cdp.events e ON e.id = g.entries[s.seq] AND e.incarnation = g.incarnations[s.seq]) w
	FULL JOIN (SELECT COALESCE(e.source, '') AS source, COALESCE(e.message_id, '#' || e.id) AS message, r.reason,
					  row_number() OVER (PARTITION BY COALESCE(e.source, ''), COALESCE(e.message_id, '#' || e.id)) AS nth
			   FROM cdp.rejected r
			   LEFT JOIN cdp.events e ON e.id = r.entry
			   WHERE r.entry IS NOT NULL AND r.reason = 'limit') h
	  ON h.source = w.source AND h.message = w.message AND h.nth = w.nth
	WHERE w.message IS NULL OR h.reason IS NULL;

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
		SELECT a.name AS a, b.name AS b, p.origin, p.reason, p.detail
		FROM (SELECT 'event' AS origin, p.*
			  FROM unnest(g.pair_a, g.pair_b, g.pair_reason, g.pair_detail) p(a, b, reason, detail)
			  UNION ALL
			  SELECT 'manual', m.a, m.b, m.reason, NULL
			  FROM unnest(g.merge_a, g.merge_b, g.merge_reason) m(a, b, reason)) p
		JOIN nodes a ON a.node = p.a
		JOIN nodes b ON b.node = p.b
	), have AS (
		SELECT least(a.identifier::text COLLATE "C", b.identifier::text) AS a,
			   greatest(a.identifier::text COLLATE "C", b.identifier::text) AS b,
			   l.origin, l.status, l.reason, l.detail
		FROM cdp.links l
		LEFT JOIN cdp.identities a ON a.node_id = l.a
		LEFT JOIN cdp.identities b ON b.node_id = l.b
	)
	SELECT 'identity', format('%s %s %s', CASE COALESCE(w.origin, h.origin) WHEN 'manual' THEN 'merge' ELSE 'link' END,
			COALESCE(w.a, h.a), COALESCE(w.b, h.b)),
		   CASE WHEN w.a IS NOT NULL THEN jsonb_strip_nulls(jsonb_build_object('status', w.status,
				'reason', w.reason, 'detail', w.detail)) END,
		   CASE WHEN h.status IS NOT NULL THEN jsonb_strip_nulls(jsonb_build_object('status', h.status,
				'reason', h.reason, 'detail', h.detail)) END
	FROM (SELECT w.*, CASE WHEN w.reason IS NULL THEN 'accepted'
						   WHEN w.reason IN ('cannot-link', 'detached') THEN 'overruled'
						   ELSE 'refused' END AS status
		  FROM want w) w
	FULL JOIN have h ON h.a = w.a AND h.b = w.b AND h.origin = w.origin
	WHERE w.status IS DISTINCT FROM h.status OR w.reason IS DISTINCT FROM h.reason
	   OR w.detail IS DISTINCT FROM h.detail;

	RETURN QUERY
	SELECT 'identity', format('decision %s', COALESCE(w.entry, d.entry)),
		   CASE WHEN w.entry IS NOT NULL THEN jsonb_build_object('effective', w.effective) END,
		   CASE WHEN d.entry IS NOT NULL THEN jsonb_build_object('effective', d.effective) END
	FROM unnest(g.decision_entries, g.decision_effective) w(entry, effective)
	FULL JOIN cdp.decisions d ON d.entry = w.entry
	WHERE w.effective IS DISTINCT FROM d.effective;

	-- whose states are computed anew at the end of a pass of retention, or of an erasure
	unfolded := ARRAY(SELECT i.profile_id FROM cdp.refolds r JOIN cdp.identities i ON i.node_id = r.owner);
	SELECT array_agg(CASE WHEN p.profile <> ALL (unfolded) THEN p.profile END ORDER BY p.comp) INTO profiles
	FROM unnest(profiles) WITH ORDINALITY p(profile, comp);

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
			  LEFT JOIN cdp.referenced_properties('{identify}') r ON r.entry = e.id
			  CROSS JOIN LATERAL jsonb_each(CASE WHEN jsonb_typeof(e.properties) = 'object'
												 THEN COALESCE(r.properties, cdp.verify_properties(e)) ELSE '{}' END) j
			  WHERE e.type = 'identify' AND s.comp IS NOT NULL
			  ORDER BY s.comp, j.key COLLATE "C", s.seq DESC) w
		GROUP BY w.comp) d ON d.comp = p.comp;

	SELECT array_agg(to_jsonb(d) ORDER BY d.aggregate = 'expression', d.id) INTO traits FROM cdp.trait_definitions d WHERE d.entity = 'profile';
	pending := COALESCE(traits, '{}');
	LOOP
		progress := false;
		traits := pending;
		pending := '{}';
		FOREACH t IN ARRAY traits LOOP
			IF (t->>'id')::int = ANY (suspended)
				OR (t->>'id')::int IN (SELECT b.id FROM cdp.building_traits b) THEN
				-- suspended, or without values until it is built
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
					t_names, t_types, t_vals, '{}', '{}', '{}', '{}',
					g.entries, g.incarnations, g.ats, entry_comps, g.ncomps, v_clock);
			ELSIF t->>'aggregate' IN ('consent', 'consent_latest') THEN
				SELECT * INTO v FROM cdp.verify_consent(t->>'key', t->'options', t->>'aggregate' = 'consent_latest',
					g.entries, g.incarnations, g.ats, g.owners, g.names, entry_comps, g.ncomps, v_clock);
				vals := v.vals;
				SELECT array_agg(least(u.due, u.next) ORDER BY u.comp) INTO due
				FROM unnest(due, v.next) WITH ORDINALITY u(due, next, comp);
			ELSE
				SELECT * INTO v FROM cdp.verify_trait(t->>'aggregate', t->>'type', t->>'event',
					t->>'filter_sql', t->>'value_sql', (t->>'within')::interval, t->>'timezone', t->>'empty',
					g.entries, g.incarnations, g.ats, entry_comps, g.ncomps, v_clock,
					t->>'each', (t->>'older_than')::interval, (t->>'since')::timestamptz, t->'options',
					CASE WHEN t->>'aggregate' = 'last' THEN t->>'key' WHEN t->>'key' IS NOT NULL THEN 'identify' END);
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
			IF t->>'aggregate' = 'declared' AND t->>'key' <> t->>'name' THEN
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
	  AND NOT EXISTS (SELECT FROM cdp.trait_definitions d WHERE d.name = k.key AND d.entity = 'profile' AND d.aggregate <> 'declared')
	  AND NULLIF(u.declared->k.key, 'null') IS DISTINCT FROM u.stored->'traits'->k.key;

	-- who is said to be all of a profile is
	RETURN QUERY
	SELECT 'identity', format('node %s', i.node_id), to_jsonb(false), to_jsonb(i.single)
	FROM cdp.identities i
	WHERE i.single AND (i.profile_id <> i.node_id
		OR EXISTS (SELECT FROM cdp.identities o WHERE o.profile_id = i.profile_id AND o.node_id <> i.node_id));

	-- timers: one that is early does no harm, one that is late does
	RETURN QUERY
	SELECT 'timers', format('profile %s', u.profile), to_jsonb(u.due), to_jsonb(m.at)
	FROM unnest(profiles, due) u(profile, due)
	LEFT JOIN cdp.timers m ON m.profile_id = u.profile
	WHERE u.due < COALESCE(m.at, 'infinity') AND u.profile IS NOT NULL;
	RETURN QUERY
	SELECT 'timers', format('profile %s', COALESCE(i.node_id, m.profile_id)), to_jsonb(i.timer), to_jsonb(m.at)
	FROM (SELECT i.node_id, i.timer FROM cdp.identities i WHERE i.timer IS NOT NULL
		  UNION ALL
		  SELECT a.account_id, a.timer FROM cdp.account_identities a WHERE a.timer IS NOT NULL) i
	FULL JOIN cdp.timers m ON m.profile_id = i.node_id
	WHERE i.timer IS DISTINCT FROM m.at;

	-- When many timers are due at once they are handled in batches; until then
	-- members are as of before.
	waiting := ARRAY(SELECT m.profile_id FROM cdp.timers m WHERE m.at <= v_clock UNION SELECT n.profile_id FROM cdp.account_news n UNION SELECT unnest(unfolded)
		-- who will be told when an account's time is handled
		UNION SELECT i.profile_id FROM cdp.timers m JOIN cdp.account_nodes n ON n.account_id = m.profile_id
			JOIN cdp.identities i ON i.node_id = n.node_id WHERE m.at <= v_clock);

	-- the account that each profile's entries have named last, of those that it
	-- has not left; accounts themselves are looked at further below
	WITH said AS MATERIALIZED (
		SELECT DISTINCT ON (i.profile_id, e.account_id) i.profile_id, e.account_id, e.at, e.tie, e.leaves
		FROM cdp.account_evidence e JOIN cdp.identities i ON i.node_id = e.node_id
		ORDER BY i.profile_id, e.account_id, e.at DESC, e.tie DESC
	), member AS (
		SELECT s.profile_id, s.account_id, s.at, s.tie FROM said s WHERE NOT s.leaves
		UNION ALL
		-- by the domain of an address
		SELECT i.profile_id, n.account_id, max(i.first_seen), NULL
		FROM cdp.account_nodes n JOIN cdp.identities i ON i.node_id = n.node_id
		WHERE n.by_domain
		  AND NOT EXISTS (SELECT FROM said s WHERE s.profile_id = i.profile_id AND (s.account_id = n.account_id OR NOT s.leaves))
		GROUP BY i.profile_id, n.account_id
	), latest AS MATERIALIZED (
		SELECT DISTINCT ON (m.profile_id) m.profile_id, m.account_id
		FROM member m JOIN cdp.account_identities a ON a.account_id = m.account_id
		ORDER BY m.profile_id, m.at DESC, m.tie DESC, a.identifier::text COLLATE "C"
	), vals AS MATERIALIZED (
		SELECT l.account_id, cdp.account_trait_values(l.account_id, v_clock) AS traits
		FROM (SELECT DISTINCT l.account_id FROM latest l) l
	)
	SELECT array_agg(v.traits ORDER BY p.comp) INTO primaries
	FROM unnest(profiles) WITH ORDINALITY p(profile, comp)
	LEFT JOIN latest x ON x.profile_id = p.profile
	LEFT JOIN vals v ON v.account_id = x.account_id;

	-- segments: what rows of identities say must agree with the members
	RETURN QUERY
	SELECT 'segments', format('node %s', COALESCE(i.node_id, m.profile_id)), to_jsonb(m.segments), to_jsonb(i.segments)
	FROM (SELECT i.node_id, i.segments FROM cdp.identities i WHERE cardinality(i.segments) > 0
		  UNION ALL
		  SELECT a.account_id, a.segments FROM cdp.account_identities a WHERE cardinality(a.segments) > 0) i
	FULL JOIN (SELECT m.profile_id, array_agg(m.segment_id ORDER BY m.segment_id) AS segments
			   FROM cdp.segment_members m WHERE m.member GROUP BY m.profile_id) m
	  ON m.profile_id = i.node_id
	WHERE i.segments IS DISTINCT FROM m.segments;

	SELECT array_agg(n.kinds ORDER BY n.comp), array_agg(n.known ORDER BY n.comp) INTO kinds, known
	FROM (SELECT n.comp, array_agg(split_part(n.name, ':', 1))::text AS kinds,
				 bool_or(EXISTS (SELECT FROM cdp.identifier_kinds k WHERE k.kind = split_part(n.name, ':', 1)
								 AND k.links AND k.priority < 11))::text AS known
		  FROM unnest(g.names, g.comps) n(name, comp)
		  WHERE n.comp IS NOT NULL
		  GROUP BY n.comp) n;

	-- segments, those that others refer to first
	SELECT array_agg(to_jsonb(d) ORDER BY d.id) INTO pending FROM cdp.segment_definitions d WHERE d.entity = 'profile';
	pending := COALESCE(pending, '{}');
	LOOP
		progress := false;
		traits := pending;
		pending := '{}';
		FOREACH s IN ARRAY traits LOOP
			IF EXISTS (SELECT FROM unnest(traits) o
					   WHERE quote_literal(o->>'name') = ANY (cdp.verify_tokens(s->>'predicate'))
						 AND o->>'name' <> s->>'name' AND NOT o->>'name' = ANY (s_names))
				OR EXISTS (SELECT FROM unnest(traits) o
						   WHERE s->'exclude' @> (o->'id') AND NOT o->>'name' = ANY (s_names)) THEN
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
			FOR v IN SELECT n.place, d.name, d.type
					 FROM unnest(ARRAY(SELECT jsonb_array_elements_text(s->'trait_ids')::int)) WITH ORDINALITY n(id, place)
					 JOIN cdp.trait_definitions d ON d.id = n.id AND d.entity = 'account' LOOP
				types[v.place] := v.type;
				SELECT array_agg(CASE WHEN v.type LIKE '%[]' THEN
						(SELECT array_agg(j.value ORDER BY j.nth)::text FROM jsonb_array_elements_text(NULLIF(u.x->v.name, 'null')) WITH ORDINALITY j(value, nth))
					ELSE u.x->>v.name END ORDER BY u.comp)::text
				INTO one FROM unnest(primaries) WITH ORDINALITY u(x, comp);
				others[v.place] := one;
			END LOOP;
			consents := NULL;
			IF s->'options'->>'purpose' IS NOT NULL THEN
				consents := others[array_position(names, E'\x01C' || (s->'options'->>'purpose'))]::text[];
			END IF;
			IF NOT (s->>'enabled')::boolean
				OR (s->>'id')::int IN (SELECT w.id FROM cdp.waiting_segments w)
				OR s->>'owner' <> ALL (SELECT r.rolname FROM pg_roles r)
				OR EXISTS (SELECT FROM cdp.segment_errors x WHERE x.segment_id = (s->>'id')::int AND x.suspended)
				OR EXISTS (SELECT FROM cdp.definition_depends d WHERE d.kind = 'segment' AND d.id = (s->>'id')::int AND d.trait_id = ANY (suspended)) THEN
				-- keeps the members that it has
				SELECT array_agg(m.profile_id IS NOT NULL ORDER BY p.comp) INTO vals
				FROM unnest(profiles) WITH ORDINALITY p(profile, comp)
				LEFT JOIN cdp.segment_members m ON m.profile_id = p.profile AND m.segment_id = (s->>'id')::int AND m.member;
				s_vals := s_vals || vals::text;
				-- but for whoever does not consent
				RETURN QUERY
				SELECT 'segments', format('%s of profile %s', s->>'name', u.profile), 'false'::jsonb, 'true'::jsonb
				FROM unnest(profiles, vals, consents) u(profile, val, consent)
				WHERE consents IS NOT NULL AND u.val::boolean AND u.consent IS DISTINCT FROM 'granted' AND u.profile <> ALL (waiting);
				CONTINUE;
			END IF;
			vals := cdp.verify_expression(s->>'predicate', s->>'timezone',
				COALESCE(names, '{}'), types, others, s_names, s_vals, kinds, known,
				g.entries, g.incarnations, g.ats, entry_comps, g.ncomps, v_clock);
			IF s->>'exit_when' IS NOT NULL THEN
				-- who is in stays while it is not true, and raises no error (null)
				others := cdp.verify_expression(format(E'(%s\n) IS TRUE', s->>'exit_when'), s->>'timezone',
					COALESCE(names, '{}'), types, others, s_names, s_vals, kinds, known,
					g.entries, g.incarnations, g.ats, entry_comps, g.ncomps, v_clock);
				SELECT array_agg(NOT COALESCE(u.gone::boolean, true)
								 AND (COALESCE(u.val::boolean, false) OR m.profile_id IS NOT NULL) ORDER BY u.comp)
				INTO vals
				FROM unnest(vals, others, profiles) WITH ORDINALITY u(val, gone, profile, comp)
				LEFT JOIN cdp.segment_members m ON m.profile_id = u.profile AND m.segment_id = (s->>'id')::int AND m.member;
			END IF;
			-- members of excluded segments, and who is held out
			IF jsonb_array_length(s->'exclude') > 0 OR (s->>'holdout')::float8 > 0 THEN
				SELECT array_agg(u.val::boolean AND NOT EXISTS (
						SELECT FROM jsonb_array_elements_text(s->'exclude') x
						JOIN cdp.segment_definitions d ON d.id = x::int
						WHERE (s_vals[array_position(s_names, d.name)]::boolean[])[u.comp])
					AND (hashtextextended(format('%s:%s', s->>'seed', u.profile) COLLATE "C", 0) & 9223372036854775807) % 1000000
						>= (s->>'holdout')::float8 * 1000000 ORDER BY u.comp)
				INTO vals
				FROM unnest(vals, profiles) WITH ORDINALITY u(val, profile, comp);
			END IF;
			IF consents IS NOT NULL THEN
				SELECT array_agg(u.val::boolean AND u.consent IS NOT DISTINCT FROM 'granted' ORDER BY u.comp) INTO vals
				FROM unnest(vals, consents) WITH ORDINALITY u(val, consent, comp);
			END IF;
			s_vals := s_vals || vals::text;
			RETURN QUERY
			SELECT 'segments', format('%s of profile %s', s->>'name', COALESCE(w.profile, m.profile_id)),
				   to_jsonb(w.profile IS NOT NULL), to_jsonb(m.profile_id IS NOT NULL)
			FROM (SELECT u.profile FROM unnest(profiles, vals) u(profile, val)
				  WHERE u.val::boolean AND u.profile IS NOT NULL) w
			FULL JOIN (SELECT m.profile_id FROM cdp.segment_members m WHERE m.segment_id = (s->>'id')::int AND m.member) m
			  ON m.profile_id = w.profile
			WHERE (w.profile IS NULL OR m.profile_id IS NULL)
			  AND COALESCE(w.profile, m.profile_id) <> ALL (waiting);
		END LOOP;
		EXIT WHEN cardinality(pending) = 0;
		IF NOT progress THEN
			RAISE EXCEPTION 'segments refer to each other in a circle';
		END IF;
	END LOOP;

	-- accounts, where there are any
	IF EXISTS (SELECT FROM cdp.account_identities)
		OR EXISTS (SELECT FROM cdp.events e CROSS JOIN LATERAL unnest(e.identifiers) u(raw)
				   JOIN cdp.identifier_kinds k ON k.kind = cdp.kind(u.raw) AND k.entity = 'account')
		OR EXISTS (SELECT FROM cdp.domain_accounts) THEN
		RETURN QUERY SELECT * FROM cdp.verify_evidence_of_accounts(g.names, g.owners, g.withheld);
		RETURN QUERY SELECT * FROM cdp.verify_values_of_accounts(g.entries, g.incarnations, g.ats, entry_comps, g.withheld,
			g.names, g.comps, g.first_seen, t_ids, t_vals, v_clock);
	END IF;
END
$function$;
COMMENT ON FUNCTION cdp.verify() IS 'recomputes identities, traits and memberships from the log and returns what differs from the stored state; empty means equal';

REVOKE ALL ON FUNCTION cdp.verify(), cdp.profile_traits_at(bigint, timestamptz) FROM PUBLIC;
