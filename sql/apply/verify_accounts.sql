/* sql/apply/verify_accounts.sql: accounts, from the log */

-- The accounts that addresses of e-mail mean by their domains: by the settings as
-- they are, or where a change has not reached the node yet as it was marked, which
-- must be an account of that domain.
CREATE FUNCTION cdp.verify_domains(addresses text[], OUT address text, OUT account text)
RETURNS SETOF record
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
	SELECT d.address, d.account
	FROM (SELECT n.name AS address, f.domain, cdp.canonical((a.kind || ':' || f.domain)::cdp.identifier)::text AS account
		  FROM cdp.domain_accounts a
		  CROSS JOIN unnest(addresses) n(name)
		  JOIN cdp.identifier_kinds k ON k.kind = split_part(n.name, ':', 1) AND k.normaliser = 'email'
		  CROSS JOIN LATERAL (SELECT reverse(split_part(reverse(n.name), '@', 1)) AS domain) f) d
	WHERE d.account IS NOT NULL
	  AND COALESCE((SELECT NOT f.free FROM cdp.free_mail_definitions f WHERE f.domain = d.domain),
				   NOT EXISTS (SELECT FROM cdp.builtin_free_mail b WHERE b.domain = d.domain))
	  AND NOT EXISTS (SELECT FROM cdp.backfills b JOIN cdp.identities i ON i.identifier OPERATOR(cdp.=) d.address::cdp.identifier
					  WHERE b.kind = 'domains' AND i.node_id > b.position AND i.node_id <= (b.definition->>'upto')::bigint)
	UNION ALL
	SELECT n.name, cdp.canonical(cdp.identifier(cdp.kind(a.identifier), reverse(split_part(reverse(n.name), '@', 1))))::text
	FROM cdp.backfills b
	CROSS JOIN unnest(addresses) n(name)
	JOIN cdp.identities i ON i.identifier OPERATOR(cdp.=) n.name::cdp.identifier
	JOIN cdp.account_nodes m ON m.node_id = i.node_id AND m.by_domain
	JOIN cdp.account_identities a ON a.account_id = m.account_id
	WHERE b.kind = 'domains' AND i.node_id > b.position AND i.node_id <= (b.definition->>'upto')::bigint
$function$;

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
		WHERE l.seq IS NOT NULL AND NOT l.undone AND l.type NOT IN ('undo', 'release', 'erase')
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
	FROM (SELECT s.account, min(s.first_seen) AS first_seen, max(s.last_seen) AS last_seen
		  FROM (SELECT i.identifier::text AS account, e.at AS first_seen, e.at AS last_seen
				FROM cdp.account_evidence e
				JOIN cdp.account_identities i ON i.account_id = e.account_id
				UNION ALL
				SELECT d.account, i.first_seen, i.last_seen
				FROM cdp.verify_domains(node_names) d
				JOIN cdp.identities i ON i.identifier::text = d.address) s
		  GROUP BY s.account) w
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
	WHERE n.node_id IS NULL OR (w.node_id IS NULL AND n.state IS NULL AND NOT n.by_domain);
	RETURN QUERY
	SELECT 'accounts', format('domain of %s', COALESCE(d.address, h.address)), to_jsonb(d.account), to_jsonb(h.account)
	FROM cdp.verify_domains(node_names) d
	FULL JOIN (SELECT i.identifier::text AS address, a.identifier::text AS account
			   FROM cdp.account_nodes n
			   LEFT JOIN cdp.identities i ON i.node_id = n.node_id
			   LEFT JOIN cdp.account_identities a ON a.account_id = n.account_id
			   WHERE n.by_domain) h ON h.address = d.address
	WHERE d.account IS DISTINCT FROM h.account OR h.address IS NULL;
END
$function$;

-- What differs in the traits and segments of accounts.  Arguments as above, and
-- by seq: entries, incarnations, ats, and the comp that owns the entry; by node:
-- its comp, and when it was first seen; the ids of traits of profiles and their
-- values by comp, as text.
CREATE FUNCTION cdp.verify_values_of_accounts(entries bigint[], incarnations int[], ats timestamptz[],
	entry_comps int[], withheld int[], node_names text[], node_comps int[], node_seen timestamptz[],
	trait_ids int[], trait_vals text[], clock timestamptz,
	OUT station text, OUT key text, OUT expected jsonb, OUT found jsonb)
RETURNS SETOF record
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET "TimeZone" = 'UTC'
AS $function$
#variable_conflict use_variable
DECLARE
	suspended int[] := cdp.suspended_traits();
	accounts text[];			-- by acc, the number of an account here
	na int;
	numbers bigint[];			-- by acc: as it is stored
	named_seqs int[];			-- entries that name an account
	named_accs int[];
	named_leaves boolean[];
	domain_comps int[];			-- who is a member by an address, and since when
	domain_accs int[];
	domain_since timestamptz[];
	credit_seqs int[];			-- entries and accounts that they count for
	credit_accs int[];
	below_accs int[];			-- accounts with all that are below them
	below_roots int[];
	plain record;				-- the same as verify_trait takes it …
	rolled record;				-- … and with what rolls up
	declared jsonb[];			-- by acc
	member_comps int[];			-- members now
	member_accs int[];
	comp_profiles bigint[];		-- by comp, the profile as it is stored
	stored jsonb[];
	shown jsonb[];
	due timestamptz[];
	definitions jsonb[];
	pending jsonb[];
	t jsonb;
	names text[] := '{}';
	types text[] := '{}';
	ids int[] := '{}';
	all_vals text[] := '{}';
	vals text[];
	others text[];
	n_names text[];
	n_types text[];
	n_vals text[];
	s_names text[] := '{}';
	s_vals text[] := '{}';
	waiting bigint[];			-- profiles and accounts whose timer is due and not handled yet
	behind bigint[];			-- accounts that have such a member, or one below them has
	v record;
	progress boolean;
	tokens text[];				-- of a predicate, while calls about members are taken out
	inner_text text;
	unnamed int;				-- the hidden segment that stands for it
	member_names text[];		-- traits of profiles, by name
	member_types text[];
	member_vals text[];
	depth int;
	i int;
BEGIN
	SELECT array_agg(x.account ORDER BY x.seq, x.account COLLATE "C"), array_agg(x.seq ORDER BY x.seq, x.account COLLATE "C"),
		   array_agg(x.leaves ORDER BY x.seq, x.account COLLATE "C")
	INTO n_names, named_seqs, named_leaves
	FROM (SELECT DISTINCT l.seq, cdp.canonical(u.raw)::text AS account, l.type = 'leave' AS leaves
		  FROM cdp.verify_log() l
		  JOIN cdp.events e ON e.id = l.id AND e.incarnation = l.incarnation
		  CROSS JOIN LATERAL unnest(e.identifiers) u(raw)
		  JOIN cdp.identifier_kinds k ON k.kind = cdp.kind(u.raw) AND k.entity = 'account'
		  WHERE l.seq IS NOT NULL AND NOT l.undone AND l.type NOT IN ('undo', 'release', 'erase')
			AND l.seq <> ALL (COALESCE(verify_values_of_accounts.withheld, '{}'))) x
	WHERE x.account IS NOT NULL;
	SELECT array_agg(DISTINCT n.account COLLATE "C" ORDER BY n.account COLLATE "C") INTO accounts
	FROM (SELECT n.account FROM unnest(n_names) n(account)
		  UNION ALL SELECT d.account FROM cdp.verify_domains(node_names) d) n;
	IF accounts IS NULL THEN
		RETURN;
	END IF;
	named_seqs := COALESCE(named_seqs, '{}');
	na := cardinality(accounts);
	SELECT array_agg(m.comp ORDER BY m.comp, m.acc), array_agg(m.acc ORDER BY m.comp, m.acc), array_agg(m.since ORDER BY m.comp, m.acc)
	INTO domain_comps, domain_accs, domain_since
	FROM (SELECT n.comp, a.acc::int, min(n.seen) AS since
		  FROM cdp.verify_domains(node_names) d
		  JOIN unnest(node_names, node_comps, node_seen) n(name, comp, seen) ON n.name = d.address
		  JOIN unnest(accounts) WITH ORDINALITY a(account, acc) ON a.account = d.account
		  GROUP BY n.comp, a.acc) m;
	SELECT array_agg(a.acc ORDER BY n.place) INTO named_accs
	FROM unnest(n_names) WITH ORDINALITY n(account, place)
	JOIN unnest(accounts) WITH ORDINALITY a(account, acc) ON a.account = n.account;
	SELECT array_agg(i.account_id ORDER BY a.acc) INTO numbers
	FROM unnest(accounts) WITH ORDINALITY a(account, acc)
	LEFT JOIN cdp.account_identities i ON i.identifier::text = a.account;

	-- an entry counts for the accounts that it names, else for those of which
	-- the latest evidence up to its instant says that its profile is a member
	WITH evidence AS MATERIALIZED (
		SELECT n.seq, n.acc, n.leaves, ats[n.seq] AS at, entry_comps[n.seq] AS comp
		FROM unnest(named_seqs, named_accs, named_leaves) n(seq, acc, leaves)
	), counting AS (
		SELECT k.seq, k.at, k.comp
		FROM unnest(ats, entry_comps) WITH ORDINALITY k(at, comp, seq)
		WHERE k.comp IS NOT NULL AND k.seq <> ALL (named_seqs)
	), said AS MATERIALIZED (
		SELECT DISTINCT ON (k.seq, e.acc) k.seq, e.acc, e.leaves
		FROM counting k JOIN evidence e ON e.comp = k.comp AND e.at <= k.at
		ORDER BY k.seq, e.acc, e.seq DESC
	), domains AS (
		SELECT d.comp, d.acc, d.since FROM unnest(domain_comps, domain_accs, domain_since) d(comp, acc, since)
	), credits AS (
		SELECT e.seq, e.acc FROM evidence e
		UNION ALL
		SELECT s.seq, s.acc FROM said s WHERE NOT s.leaves
		UNION ALL
		-- by an address, where nothing was said of the account, and of no other that he is a member
		SELECT k.seq, d.acc
		FROM counting k JOIN domains d ON d.comp = k.comp AND d.since <= k.at
		WHERE NOT EXISTS (SELECT FROM said s WHERE s.seq = k.seq AND (s.acc = d.acc OR NOT s.leaves))
	), last AS MATERIALIZED (
		SELECT DISTINCT ON (e.comp, e.acc) e.comp, e.acc, e.leaves
		FROM evidence e WHERE e.comp IS NOT NULL
		ORDER BY e.comp, e.acc, e.seq DESC
	), members AS (
		SELECT l.comp, l.acc FROM last l WHERE NOT l.leaves
		UNION ALL
		SELECT d.comp, d.acc FROM domains d
		WHERE NOT EXISTS (SELECT FROM last l WHERE l.comp = d.comp AND (l.acc = d.acc OR NOT l.leaves))
	)
	SELECT c.seqs, c.accs, m.comps, m.accs INTO credit_seqs, credit_accs, member_comps, member_accs
	FROM (SELECT array_agg(c.seq ORDER BY c.seq, c.acc) AS seqs, array_agg(c.acc ORDER BY c.seq, c.acc) AS accs FROM credits c) c,
		 (SELECT array_agg(m.comp) AS comps, array_agg(m.acc) AS accs FROM members m) m;

	-- declared by group calls that name the account
	SELECT array_agg(COALESCE(d.traits, '{}') ORDER BY a.acc) INTO declared
	FROM generate_series(1, na) a(acc)
	LEFT JOIN (
		SELECT w.acc, jsonb_object_agg(w.key, w.value) AS traits
		FROM (SELECT DISTINCT ON (n.acc, j.key COLLATE "C") n.acc, j.key, j.value
			  FROM unnest(named_seqs, named_accs) n(seq, acc)
			  JOIN cdp.events e ON e.id = entries[n.seq] AND e.incarnation = incarnations[n.seq]
			  LEFT JOIN cdp.referenced_properties('{group}') r ON r.entry = e.id
			  CROSS JOIN LATERAL jsonb_each(CASE WHEN jsonb_typeof(e.properties) = 'object'
												 THEN COALESCE(r.properties, cdp.verify_properties(e)) ELSE '{}' END) j
			  WHERE e.type = 'group'
			  ORDER BY n.acc, j.key COLLATE "C", n.seq DESC) w
		GROUP BY w.acc) d ON d.acc = a.acc;

	-- the hierarchy
	RETURN QUERY
	SELECT 'accounts', format('parent of %s', w.account), to_jsonb(w.parent), to_jsonb(i.parent)
	FROM (SELECT a.account, a.acc, cdp.verify_parent(declared[a.acc], a.account) AS parent
		  FROM unnest(accounts) WITH ORDINALITY a(account, acc)) w
	JOIN cdp.account_identities i ON i.account_id = numbers[w.acc]
	WHERE w.parent IS DISTINCT FROM i.parent::text;
	WITH RECURSIVE child AS (
		SELECT a.acc, p.acc AS parent
		FROM unnest(accounts) WITH ORDINALITY a(account, acc)
		JOIN unnest(accounts) WITH ORDINALITY p(account, acc) ON p.account = cdp.verify_parent(declared[a.acc], a.account)
	), below (root, acc) AS (
		SELECT a.acc, a.acc FROM generate_series(1, na) a(acc)
		UNION
		SELECT b.root, c.acc::int FROM below b JOIN child c ON c.parent = b.acc
	)
	SELECT array_agg(b.root), array_agg(b.acc) INTO below_roots, below_accs FROM below b;

	-- what a member contributes is as it was when his timer was last handled
	waiting := ARRAY(SELECT m.profile_id FROM cdp.timers m WHERE m.at <= clock);
	behind := ARRAY(
		SELECT DISTINCT r.number
		FROM cdp.identities i
		JOIN cdp.account_nodes n ON n.node_id = i.node_id
		JOIN unnest(numbers) WITH ORDINALITY a(number, acc) ON a.number = n.account_id
		JOIN unnest(below_roots, below_accs) b(root, acc) ON b.acc = a.acc
		JOIN unnest(numbers) WITH ORDINALITY r(number, acc) ON r.acc = b.root
		WHERE i.profile_id = ANY (waiting));

	SELECT array_agg(entries[k.seq] ORDER BY k.place) AS entries, array_agg(incarnations[k.seq] ORDER BY k.place) AS incarnations,
		   array_agg(ats[k.seq] ORDER BY k.place) AS ats, array_agg(k.acc ORDER BY k.place) AS accs
	INTO plain FROM unnest(credit_seqs, credit_accs) WITH ORDINALITY k(seq, acc, place);
	SELECT array_agg(entries[k.seq] ORDER BY k.seq, b.root) AS entries, array_agg(incarnations[k.seq] ORDER BY k.seq, b.root) AS incarnations,
		   array_agg(ats[k.seq] ORDER BY k.seq, b.root) AS ats, array_agg(b.root ORDER BY k.seq, b.root) AS accs
	INTO rolled FROM unnest(credit_seqs, credit_accs) k(seq, acc)
	JOIN unnest(below_roots, below_accs) b(root, acc) ON b.acc = k.acc;

	SELECT array_agg(cdp.account_trait_values(n.number, clock) ORDER BY n.acc),
		   array_agg(cdp.account_traits_json(n.number, clock) ORDER BY n.acc)
	INTO stored, shown FROM unnest(numbers) WITH ORDINALITY n(number, acc);

	SELECT array_agg(to_jsonb(d) ORDER BY d.aggregate = 'expression', d.id) INTO pending
	FROM cdp.trait_definitions d WHERE d.entity = 'account';
	-- some count the members of segments of profiles, which are compared elsewhere
	IF EXISTS (SELECT FROM unnest(pending) d WHERE d->'options' ? 'segment') THEN
		SELECT array_agg(COALESCE(o.profile_id, w.profile_id) ORDER BY c.comp) INTO comp_profiles
		FROM generate_series(1, (SELECT max(c) FROM unnest(entry_comps || node_comps) c)) c(comp)
		LEFT JOIN (SELECT DISTINCT ON (k.comp) k.comp, i.profile_id
				   FROM cdp.identities i CROSS JOIN LATERAL cdp.entries_of(i.node_id) n
				   JOIN unnest(entries, entry_comps) k(entry, comp) ON k.entry = n.entry) o ON o.comp = c.comp
		-- whom only a merge or a split by hand has named owns no entry
		LEFT JOIN (SELECT DISTINCT ON (n.comp) n.comp, i.profile_id
				   FROM cdp.identities i
				   JOIN unnest(node_names, node_comps) n(name, comp) ON n.name = i.identifier::text) w ON w.comp = c.comp;
	END IF;
	pending := COALESCE(pending, '{}');
	LOOP
		progress := false;
		definitions := pending;
		pending := '{}';
		FOREACH t IN ARRAY definitions LOOP
			IF (t->>'id')::int = ANY (suspended)
				OR (t->>'id')::int IN (SELECT b.id FROM cdp.building_traits b) THEN
				-- suspended, or without values until it is built
				vals := array_fill(NULL::text, ARRAY[na]);
			ELSIF t->'options'->>'over' = 'members' AND (t->>'key')::int = ANY (suspended) THEN
				-- what members contributed while it had values
				SELECT array_agg(u.stored->>(t->>'name') ORDER BY u.acc) INTO vals FROM unnest(stored) WITH ORDINALITY u(stored, acc);
			ELSIF t->>'aggregate' = 'declared' THEN
				vals := cdp.verify_declared(declared, COALESCE(t->>'key', t->>'name'), t->>'type', t->>'timezone', t->>'empty');
			ELSIF t->>'aggregate' = 'expression' THEN
				IF EXISTS (SELECT FROM unnest(definitions) o
						   WHERE o->>'name' = ANY (cdp.verify_tokens(t->>'expression'))
							 AND o->>'aggregate' = 'expression' AND o->>'name' <> t->>'name'
							 AND NOT o->>'name' = ANY (names)) THEN
					pending := pending || t;
					CONTINUE;
				END IF;
				vals := cdp.verify_expression(format('COALESCE((%s%s)::%s, %L)', t->>'expression', E'\n', t->>'type', t->>'empty'), t->>'timezone',
					names, types, all_vals, '{}', '{}', '{}', '{}', plain.entries, plain.incarnations, plain.ats, plain.accs, na, clock);
			ELSIF t->'options'->>'over' = 'members' THEN
				SELECT array_agg(COALESCE(r.val, t->>'empty', CASE WHEN t->>'aggregate' = 'count' THEN '0' END) ORDER BY a.acc) INTO vals
				FROM generate_series(1, na) a(acc)
				LEFT JOIN (
					SELECT b.root, CASE t->>'aggregate' WHEN 'count' THEN count(m.val)::text WHEN 'sum' THEN sum(m.val)::text
						WHEN 'avg' THEN (trim_scale(sum(m.val)) / count(m.val))::text WHEN 'min' THEN min(m.val)::text ELSE max(m.val)::text END AS val
					FROM unnest(below_roots, below_accs) b(root, acc)
					JOIN (SELECT m.acc, CASE WHEN t->'options' ? 'segment'
								 THEN (SELECT 1 FROM cdp.segment_members s WHERE s.member AND s.profile_id = comp_profiles[m.comp]
										  AND s.segment_id = (t->'options'->>'segment')::int)
								 ELSE u.val::numeric END AS val
						  FROM unnest(member_comps, member_accs) m(comp, acc)
						  LEFT JOIN unnest((trait_vals[array_position(trait_ids, (t->>'key')::int)])::text[]) WITH ORDINALITY u(val, comp)
							  ON u.comp = m.comp) m ON m.acc = b.acc
					WHERE m.val IS NOT NULL AND m.val NOT IN ('NaN', 'Infinity', '-Infinity')
					  AND (b.root = b.acc OR COALESCE((t->'options'->>'rollup')::boolean, false))
					GROUP BY b.root) r ON r.root = a.acc;
			ELSE
				v := NULL;
				IF COALESCE((t->'options'->>'rollup')::boolean, false) THEN
					SELECT * INTO v FROM cdp.verify_trait(t->>'aggregate', t->>'type', t->>'event',
						t->>'filter_sql', t->>'value_sql', (t->>'within')::interval, t->>'timezone', t->>'empty',
						rolled.entries, rolled.incarnations, rolled.ats, rolled.accs, na, clock,
						t->>'each', (t->>'older_than')::interval, (t->>'since')::timestamptz, t->'options');
				ELSE
					SELECT * INTO v FROM cdp.verify_trait(t->>'aggregate', t->>'type', t->>'event',
						t->>'filter_sql', t->>'value_sql', (t->>'within')::interval, t->>'timezone', t->>'empty',
						plain.entries, plain.incarnations, plain.ats, plain.accs, na, clock,
						t->>'each', (t->>'older_than')::interval, (t->>'since')::timestamptz, t->'options');
				END IF;
				vals := v.vals;
				IF v.next IS NOT NULL THEN
					SELECT array_agg(least(u.due, u.next) ORDER BY u.acc) INTO due
					FROM unnest(due, v.next) WITH ORDINALITY u(due, next, acc);
				END IF;
			END IF;
			progress := true;
			ids := ids || (t->>'id')::int;
			names := names || (t->>'name');
			types := types || (t->>'type');
			all_vals := all_vals || vals::text;
			RETURN QUERY EXECUTE format(
				'SELECT ''accounts'', format(''%%s of %%s'', $4, p.account), p.expected, p.found
				 FROM (SELECT u.account, to_jsonb(u.val::%s) AS expected, u.stored->$4 AS found
					   FROM unnest($1, $2, $3, $5) u(account, val, stored, number)
					   WHERE $6 IS NULL OR u.number <> ALL ($6)) p
				 WHERE p.expected IS DISTINCT FROM p.found', t->>'type')
			USING accounts, vals, stored, t->>'name', numbers,
				CASE WHEN t->>'aggregate' = 'expression' OR t->'options'->>'over' = 'members' THEN behind END;
		END LOOP;
		EXIT WHEN cardinality(pending) = 0;
		IF NOT progress THEN
			RAISE EXCEPTION 'derived traits depend on each other in a circle';
		END IF;
	END LOOP;

	RETURN QUERY
	SELECT 'accounts', format('%s of %s', k.key, u.account), NULLIF(u.declared->k.key, 'null'), u.shown->k.key
	FROM unnest(accounts, declared, shown) u(account, declared, shown)
	CROSS JOIN LATERAL (
		SELECT jsonb_object_keys(u.declared) AS key
		UNION
		SELECT jsonb_object_keys(u.shown)) k
	WHERE NOT EXISTS (SELECT FROM cdp.trait_definitions d WHERE d.name = k.key AND d.entity = 'account' AND d.aggregate <> 'declared')
	  AND NULLIF(u.declared->k.key, 'null') IS DISTINCT FROM u.shown->k.key;

	RETURN QUERY
	SELECT 'timers', format('account %s', u.account), to_jsonb(u.due), to_jsonb(m.at)
	FROM unnest(accounts, numbers, due) u(account, number, due)
	LEFT JOIN cdp.timers m ON m.profile_id = u.number
	WHERE u.due < COALESCE(m.at, 'infinity');
	waiting := waiting || behind;

	SELECT array_agg(d.name), array_agg(d.type), array_agg(trait_vals[array_position(trait_ids, d.id)])
	INTO member_names, member_types, member_vals
	FROM cdp.trait_definitions d WHERE d.entity = 'profile' AND d.id = ANY (trait_ids);
	SELECT array_agg(to_jsonb(d) ORDER BY d.id) INTO pending FROM cdp.segment_definitions d WHERE d.entity = 'account';
	pending := COALESCE(pending, '{}');
	LOOP
		progress := false;
		definitions := pending;
		pending := '{}';
		FOREACH t IN ARRAY definitions LOOP
			IF EXISTS (SELECT FROM unnest(definitions) o
					   WHERE quote_literal(o->>'name') = ANY (cdp.verify_tokens(t->>'predicate'))
						 AND o->>'name' <> t->>'name' AND NOT o->>'name' = ANY (s_names))
				OR EXISTS (SELECT FROM unnest(definitions) o
						   WHERE t->'exclude' @> (o->'id') AND NOT o->>'name' = ANY (s_names)) THEN
				pending := pending || t;
				CONTINUE;
			END IF;
			progress := true;
			SELECT array_agg(n.name), array_agg(types[array_position(ids, n.id)]), array_agg(all_vals[array_position(ids, n.id)])
			INTO n_names, n_types, n_vals
			FROM unnest(ARRAY(SELECT jsonb_array_elements_text(t->'trait_names')),
						ARRAY(SELECT jsonb_array_elements_text(t->'trait_ids')::int)) n(name, id);
			IF NOT (t->>'enabled')::boolean OR t->>'exit_when' IS NOT NULL
				OR t->>'owner' <> ALL (SELECT r.rolname FROM pg_roles r)
				OR EXISTS (SELECT FROM cdp.segment_errors x WHERE x.segment_id = (t->>'id')::int AND x.suspended)
				OR EXISTS (SELECT FROM cdp.definition_depends d WHERE d.kind = 'segment' AND d.id = (t->>'id')::int AND d.trait_id = ANY (suspended))
				OR EXISTS (SELECT FROM cdp.backfills b WHERE b.kind = 'segment' AND b.id = (t->>'id')::int)
				OR EXISTS (SELECT FROM cdp.building_traits b WHERE t->'trait_ids' @> to_jsonb(b.id)) THEN
				-- what it was decides as well, or alone until what it reads is built
				SELECT array_agg(m.profile_id IS NOT NULL ORDER BY u.acc) INTO vals
				FROM unnest(numbers) WITH ORDINALITY u(number, acc)
				LEFT JOIN cdp.memberships m ON m.profile_id = u.number AND m.segment = t->>'name';
			ELSE
				-- any_member(), all_members(), count_members(): a column for each
				tokens := cdp.verify_tokens(t->>'predicate');
				i := 1;
				WHILE i <= cardinality(tokens) LOOP
					IF tokens[i] NOT IN ('any_member', 'all_members', 'count_members') THEN
						i := i + 1;
						CONTINUE;
					END IF;
					depth := 0;
					inner_text := '';
					FOR j IN i + 1..cardinality(tokens) LOOP
						depth := depth + CASE tokens[j] WHEN '(' THEN 1 WHEN ')' THEN -1 ELSE 0 END;
						EXIT WHEN depth = 0;
						inner_text := inner_text || CASE WHEN inner_text = '' AND depth = 1 AND tokens[j] = '(' THEN ' ' ELSE tokens[j] END;
						tokens[j] := '';
					END LOOP;
					vals := NULL;
					-- a segment of profiles that nobody has named: its members follow from the log, too (verify)
					SELECT d.id INTO unnamed FROM cdp.segment_definitions d
					WHERE d.hidden AND t->'segment_ids' @> to_jsonb(d.id) AND btrim(inner_text) <> '' AND d.predicate::text = btrim(inner_text);
					IF unnamed IS NOT NULL THEN
						SELECT array_agg((s.profile_id IS NOT NULL)::text ORDER BY c.comp) INTO vals
						FROM unnest(comp_profiles) WITH ORDINALITY c(profile_id, comp)
						LEFT JOIN cdp.segment_members s ON s.profile_id = c.profile_id AND s.segment_id = unnamed AND s.member;
					ELSIF btrim(inner_text) LIKE ANY ('{in_segment(%,cdp.in_segment(%}') THEN
						SELECT array_agg((s.profile_id IS NOT NULL)::text ORDER BY c.comp) INTO vals
						FROM unnest(comp_profiles) WITH ORDINALITY c(profile_id, comp)
						LEFT JOIN cdp.memberships s ON s.profile_id = c.profile_id
							AND quote_literal(s.segment) = ANY (cdp.verify_tokens(inner_text));
					ELSIF btrim(inner_text) <> '' THEN
						vals := cdp.verify_expression(inner_text, t->>'timezone', member_names, member_types, member_vals,
							'{}', '{}', '{}', '{}', entries, incarnations, ats, entry_comps,
							(SELECT max(c) FROM unnest(entry_comps) c), clock);
					END IF;
					SELECT array_agg(m.n ORDER BY a.acc), array_agg(m.everybody ORDER BY a.acc) INTO others, vals
					FROM generate_series(1, na) a(acc)
					CROSS JOIN LATERAL (
						SELECT count(*) FILTER (WHERE btrim(inner_text) = '' OR vals[m.comp]::boolean) AS n, count(*) AS everybody
						FROM unnest(member_comps, member_accs) m(comp, acc) WHERE m.acc = a.acc) m;
					n_names := n_names || ARRAY[format('n_%s', i), format('of_%s', i)];
					n_types := n_types || ARRAY['bigint', 'bigint'];
					n_vals := n_vals || ARRAY[others::text, vals::text];
					tokens[i] := CASE tokens[i] WHEN 'any_member' THEN format('(n_%s > 0', i)
						WHEN 'all_members' THEN format('(n_%1$s = of_%1$s AND n_%1$s > 0', i) ELSE format('(n_%s', i) END;
					i := i + 1;
				END LOOP;
				vals := cdp.verify_expression(array_to_string(tokens, ''), t->>'timezone',
					COALESCE(n_names, '{}'), n_types, n_vals, s_names, s_vals, '{}', '{}',
					plain.entries, plain.incarnations, plain.ats, plain.accs, na, clock);
				-- members of excluded segments, and who is held out
				SELECT array_agg((u.val::boolean AND NOT EXISTS (
						SELECT FROM jsonb_array_elements_text(t->'exclude') x
						JOIN cdp.segment_definitions d ON d.id = x::int
						WHERE (s_vals[array_position(s_names, d.name)]::boolean[])[u.acc])
					AND (hashtextextended(format('%s:%s', t->>'seed', u.number) COLLATE "C", 0) & 9223372036854775807) % 1000000
						>= (t->>'holdout')::float8 * 1000000)::text ORDER BY u.acc)
				INTO vals FROM unnest(vals, numbers) WITH ORDINALITY u(val, number, acc);
			END IF;
			s_names := s_names || (t->>'name');
			s_vals := s_vals || vals::text;
			RETURN QUERY
			SELECT 'accounts', format('%s of account %s', t->>'name', COALESCE(w.number, m.profile_id)),
				   to_jsonb(w.number IS NOT NULL), to_jsonb(m.profile_id IS NOT NULL)
			FROM (SELECT u.number FROM unnest(numbers, vals) u(number, val)
				  WHERE u.val::boolean AND u.number IS NOT NULL) w
			FULL JOIN (SELECT m.profile_id FROM cdp.memberships m WHERE m.segment = t->>'name') m
			  ON m.profile_id = w.number
			WHERE (w.number IS NULL OR m.profile_id IS NULL) AND COALESCE(w.number, m.profile_id) <> ALL (waiting);
		END LOOP;
		EXIT WHEN cardinality(pending) = 0;
		IF NOT progress THEN
			RAISE EXCEPTION 'segments refer to each other in a circle';
		END IF;
	END LOOP;
END
$function$;

-- The account that the declared trait parent means: kind:value when that is a
-- kind of accounts, else a value of the account's own kind.
CREATE FUNCTION cdp.verify_parent(declared jsonb, account text) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
	SELECT cdp.canonical(cdp.identifier(n.kind, n.value::cdp.key))::text
	FROM (SELECT declared->>'parent' AS parent WHERE jsonb_typeof(declared->'parent') IN ('string', 'number')) p
	CROSS JOIN LATERAL (
		SELECT k.kind, substr(p.parent, length(k.kind) + 2) AS value
		FROM cdp.identifier_kinds k
		WHERE k.entity = 'account' AND strpos(p.parent, ':') > 0 AND k.kind = split_part(p.parent, ':', 1)
		UNION ALL
		SELECT split_part(account, ':', 1), p.parent
		LIMIT 1) n
$function$;

REVOKE ALL ON FUNCTION cdp.verify_values_of_accounts(bigint[], int[], timestamptz[], int[], int[], text[], int[], timestamptz[], int[], text[], timestamptz),
	cdp.verify_parent(jsonb, text), cdp.verify_domains(text[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION cdp.verify_evidence_of_accounts(text[], int[], int[]) FROM PUBLIC;
