/* sql/apply/verify_segments.sql: predicates, each a query over profiles */

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

-- now() in predicates, to which intervals have been added: comparing it with a
-- time moves them to the other side, last one first.  now() minus a time, and a
-- time minus now(), compare with an interval in the same way.
CREATE TYPE cdp.verify_instant AS (at timestamptz, shifts interval[]);
CREATE TYPE cdp.verify_span AS (instant cdp.verify_instant, time timestamptz, until boolean);

CREATE FUNCTION cdp.verify_shift(x timestamptz, shifts interval[]) RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
	FOR i IN REVERSE cardinality(shifts)..1 LOOP
		x := x + shifts[i];
	END LOOP;
	RETURN x;
END
$function$;
CREATE FUNCTION cdp.verify_instant_minus(a cdp.verify_instant, b interval) RETURNS cdp.verify_instant
	LANGUAGE sql IMMUTABLE RETURN ROW((a).at, (a).shifts || b)::cdp.verify_instant;
CREATE FUNCTION cdp.verify_instant_plus(a cdp.verify_instant, b interval) RETURNS cdp.verify_instant
	LANGUAGE sql IMMUTABLE RETURN ROW((a).at, (a).shifts || -b)::cdp.verify_instant;
CREATE FUNCTION cdp.verify_plus_instant(a interval, b cdp.verify_instant) RETURNS cdp.verify_instant
	LANGUAGE sql IMMUTABLE RETURN ROW((b).at, (b).shifts || -a)::cdp.verify_instant;
CREATE FUNCTION cdp.verify_since(a cdp.verify_instant, b timestamptz) RETURNS cdp.verify_span
	LANGUAGE sql IMMUTABLE RETURN ROW(a, b, false)::cdp.verify_span;
CREATE FUNCTION cdp.verify_until(a timestamptz, b cdp.verify_instant) RETURNS cdp.verify_span
	LANGUAGE sql IMMUTABLE RETURN ROW(b, a, true)::cdp.verify_span;
-- only in a branch that is never taken: predicates may not say it elsewhere
CREATE FUNCTION cdp.verify_span_minus(a cdp.verify_span, b interval) RETURNS cdp.verify_span
	LANGUAGE sql IMMUTABLE RETURN ROW((a).instant, CASE WHEN (a).until THEN (a).time - b ELSE (a).time + b END, (a).until)::cdp.verify_span;
CREATE FUNCTION cdp.verify_span_plus(a cdp.verify_span, b interval) RETURNS cdp.verify_span
	LANGUAGE sql IMMUTABLE RETURN ROW((a).instant, CASE WHEN (a).until THEN (a).time + b ELSE (a).time - b END, (a).until)::cdp.verify_span;
CREATE OPERATOR cdp.- (FUNCTION = cdp.verify_span_minus, LEFTARG = cdp.verify_span, RIGHTARG = interval);
CREATE OPERATOR cdp.+ (FUNCTION = cdp.verify_span_plus, LEFTARG = cdp.verify_span, RIGHTARG = interval);
CREATE OPERATOR cdp.- (FUNCTION = cdp.verify_instant_minus, LEFTARG = cdp.verify_instant, RIGHTARG = interval);
CREATE OPERATOR cdp.+ (FUNCTION = cdp.verify_instant_plus, LEFTARG = cdp.verify_instant, RIGHTARG = interval);
CREATE OPERATOR cdp.+ (FUNCTION = cdp.verify_plus_instant, LEFTARG = interval, RIGHTARG = cdp.verify_instant);
CREATE OPERATOR cdp.- (FUNCTION = cdp.verify_since, LEFTARG = cdp.verify_instant, RIGHTARG = timestamptz);
CREATE OPERATOR cdp.- (FUNCTION = cdp.verify_until, LEFTARG = timestamptz, RIGHTARG = cdp.verify_instant);

DO $do$
DECLARE
	o record;
	d record;
BEGIN
	FOR o IN SELECT * FROM (VALUES ('lt', '<', '>'), ('le', '<=', '>='), ('eq', '=', '='), ('ne', '<>', '<>'),
							('ge', '>=', '<='), ('gt', '>', '<')) v(name, op, flipped) LOOP
		FOR d IN SELECT * FROM (VALUES
			('instant', 'cdp.verify_instant', 'timestamptz', format('(a).at %s cdp.verify_shift(b, (a).shifts)', o.op)),
			('to_instant', 'timestamptz', 'cdp.verify_instant', format('(b).at %s cdp.verify_shift(a, (b).shifts)', o.flipped)),
			('span', 'cdp.verify_span', 'interval', format('CASE WHEN (a).until THEN ((a).instant).at %s cdp.verify_shift((a).time - b, ((a).instant).shifts)
				ELSE ((a).instant).at %s cdp.verify_shift((a).time + b, ((a).instant).shifts) END', o.flipped, o.op)),
			('to_span', 'interval', 'cdp.verify_span', format('CASE WHEN (b).until THEN ((b).instant).at %s cdp.verify_shift((b).time - a, ((b).instant).shifts)
				ELSE ((b).instant).at %s cdp.verify_shift((b).time + a, ((b).instant).shifts) END', o.op, o.flipped))
			) v(name, a, b, body) LOOP
			EXECUTE format('CREATE FUNCTION cdp.verify_%s_%s(a %s, b %s) RETURNS boolean LANGUAGE sql STABLE RETURN %s', d.name, o.name, d.a, d.b, d.body);
			EXECUTE format('CREATE OPERATOR cdp.%s (FUNCTION = cdp.verify_%s_%s, LEFTARG = %s, RIGHTARG = %s)', o.op, d.name, o.name, d.a, d.b);
			EXECUTE format('REVOKE ALL ON FUNCTION cdp.verify_%s_%s(%s, %s) FROM PUBLIC', d.name, o.name, d.a, d.b);
		END LOOP;
	END LOOP;
END
$do$;
REVOKE ALL ON FUNCTION cdp.verify_shift(timestamptz, interval[]), cdp.verify_instant_minus(cdp.verify_instant, interval),
	cdp.verify_instant_plus(cdp.verify_instant, interval), cdp.verify_plus_instant(interval, cdp.verify_instant),
	cdp.verify_since(cdp.verify_instant, timestamptz), cdp.verify_until(timestamptz, cdp.verify_instant),
	cdp.verify_span_minus(cdp.verify_span, interval), cdp.verify_span_plus(cdp.verify_span, interval) FROM PUBLIC;

-- Arguments of a call, cut at its commas; names and values.
CREATE FUNCTION cdp.verify_arguments(call text, positional text[]) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
	token text;
	depth int := 0;
	arg text := '';
	args text[] := '{}';
	m text[];
	nth int := 0;
	result jsonb := '{}';
BEGIN
	FOREACH token IN ARRAY cdp.verify_tokens(call) LOOP
		IF depth = 0 AND token = ',' THEN
			args := args || arg;
			arg := '';
		ELSE
			depth := depth + CASE WHEN token IN ('(', '[') THEN 1 WHEN token IN (')', ']') THEN -1 ELSE 0 END;
			arg := arg || token;
		END IF;
	END LOOP;
	FOREACH arg IN ARRAY args || arg LOOP
		m := regexp_match(arg, '^\s*([[:alpha:]_]\w*)\s*(?:=>|:=)(.*)$');
		IF m IS NOT NULL THEN
			result := result || jsonb_build_object(lower(m[1]), m[2]);
		ELSE
			nth := nth + 1;
			result := result || jsonb_build_object(COALESCE(positional[nth], 'step' || nth), arg);
		END IF;
	END LOOP;
	RETURN result;
END
$function$;

-- did_in_order() for every profile, as text.
CREATE FUNCTION cdp.verify_sequence(arguments text, timezone text,
	entries bigint[], incarnations int[], ats timestamptz[], entry_comps int[], ncomps int,
	clock timestamptz) RETURNS text[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
	args jsonb;
	steps text[];
	step text;
	one jsonb;
	c record;
	win interval;
	newer interval;
	i int := 0;
	-- what matches: by step, position in the log, key
	m_step int[] := '{}';
	m_seq int[] := '{}';
	m_key text[] := '{}';
	-- stories under way: first entry, latest entry, key
	s_first int[];
	s_last int[];
	s_key text[];
	nsteps int;
	result text[];
BEGIN
	PERFORM set_config('TimeZone', timezone, true);
	arguments := regexp_replace(arguments, '^\s*array\s*\[(.*)\]', '\1', 'i');
	args := cdp.verify_arguments(arguments, '{}');
	IF args ? 'within' THEN
		EXECUTE 'SELECT (' || (args->>'within') || ')::interval' INTO win;
	END IF;
	IF args ? 'newer_than' THEN
		EXECUTE 'SELECT (' || (args->>'newer_than') || ')::interval' INTO newer;
	END IF;
	SELECT array_agg(e.value ORDER BY substr(e.key, 5)::int) INTO steps
	FROM jsonb_each_text(args) e WHERE e.key ~ '^step\d+$';
	nsteps := cardinality(steps);
	FOREACH step IN ARRAY steps || (args->>'then_not') LOOP
		i := i + 1;
		CONTINUE WHEN step IS NULL;
		IF step ~* '^\s*step\s*\(' THEN
			one := cdp.verify_arguments(regexp_replace(regexp_replace(step, '^\s*step\s*\(', '', 'i'), '\)\s*$', ''), '{event}');
		ELSE
			one := jsonb_build_object('event', step);
		END IF;
		EXECUTE 'SELECT ' || (one->>'event') INTO step;
		c := cdp.verify_contributions(step, one->>'filter', COALESCE(one->>'same', args->>'same', ''''''), NULL, entries, incarnations);
		m_step := m_step || array_fill(i, ARRAY[COALESCE(cardinality(c.seqs), 0)]);
		m_seq := m_seq || c.seqs;
		m_key := m_key || c.vals;
	END LOOP;

	SELECT array_agg(m.seq), array_agg(m.seq), array_agg(m.key) INTO s_first, s_last, s_key
	FROM unnest(m_step, m_seq, m_key) m(step, seq, key)
	WHERE m.step = 1 AND ats[m.seq] <= clock AND entry_comps[m.seq] IS NOT NULL;
	FOR i IN 2..nsteps LOOP
		SELECT array_agg(n.first), array_agg(n.seq), array_agg(n.key) INTO s_first, s_last, s_key
		FROM (SELECT s.first, CASE WHEN i = nsteps THEN max(m.seq) ELSE min(m.seq) END AS seq, s.key
			  FROM unnest(s_first, s_last, s_key) s(first, last, key)
			  JOIN unnest(m_step, m_seq, m_key) m(step, seq, key)
				ON m.step = i AND m.key = s.key AND m.seq > s.last AND entry_comps[m.seq] = entry_comps[s.first]
			   AND ats[m.seq] <= clock AND (win IS NULL OR ats[m.seq] < ats[s.first] + win)
			  GROUP BY s.first, s.last, s.key) n;
	END LOOP;
	SELECT array_agg((h.comp IS NOT NULL)::text ORDER BY p.comp) INTO result
	FROM generate_series(1, ncomps) p(comp)
	LEFT JOIN (
		SELECT DISTINCT entry_comps[s.first] AS comp
		FROM unnest(s_first, s_last, s_key) s(first, last, key)
		WHERE (newer IS NULL OR clock < ats[s.last] + newer)
		  AND (NOT args ? 'then_not'
			   OR (win IS NULL OR clock >= ats[s.first] + win)
			   AND NOT EXISTS (SELECT FROM unnest(m_step, m_seq, m_key) m(step, seq, key)
							   WHERE m.step = nsteps + 1 AND m.key = s.key AND m.seq > s.last
								 AND entry_comps[m.seq] = entry_comps[s.first] AND ats[m.seq] <= clock))) h ON h.comp = p.comp;
	RETURN result;
END
$function$;
-- Is a value, as jsonb, the constant of which the text is given?
CREATE FUNCTION cdp.verify_is(val text, constant text) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE
	WHEN constant IS NULL THEN NULL
	WHEN constant ~* '^\s*null\s*$' THEN pg_catalog.format('%s = ''null''', val)
	WHEN constant ~* '^\s*(true|false)\s*$' THEN pg_catalog.format('%s = ''%s''', val, pg_catalog.lower(pg_catalog.btrim(constant)))
	WHEN constant ~ '''|\$' THEN pg_catalog.format('(jsonb_typeof(%1$s) IN (''string'', ''number'', ''boolean'') AND %1$s#>>''{}'' = %2$s)', val, constant)
	ELSE pg_catalog.format('%s = to_jsonb(%s)', val, constant)
END;

-- changed() for every profile, as text: the calls that name the key, each beside
-- the one before it.
CREATE FUNCTION cdp.verify_changed(arguments text, timezone text,
	entries bigint[], incarnations int[], ats timestamptz[], entry_comps int[], ncomps int,
	clock timestamptz) RETURNS text[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
	args jsonb := cdp.verify_arguments(arguments, '{trait}');
	trait text := btrim(args->>'trait', E' \n\t');
	trait_key text;
	c record;
	newer interval;
	older interval;
	result text[];
BEGIN
	PERFORM set_config('TimeZone', timezone, true);
	trait := CASE WHEN trait ~ '^"' THEN replace(substr(trait, 2, length(trait) - 2), '""', '"') ELSE lower(trait) END;
	SELECT COALESCE(d.key, d.name) INTO trait_key
	FROM cdp.trait_definitions d
	WHERE d.aggregate = 'declared' AND lower(trait) IN (lower(d.name), lower(d.key))
	ORDER BY d.name <> trait, d.key IS DISTINCT FROM trait LIMIT 1;
	EXECUTE format('SELECT (%s)::interval, (%s)::interval',
		COALESCE(args->>'within', args->>'newer_than', 'NULL'), COALESCE(args->>'older_than', 'NULL')) INTO newer, older;
	c := cdp.verify_contributions(NULL, NULL, format(
		'COALESCE(properties->%1$L, CASE WHEN (SELECT count(*) FROM jsonb_object_keys(properties) k WHERE lower(k) = lower(%1$L)) = 1
			THEN (SELECT j.value FROM jsonb_each(properties) j WHERE lower(j.key) = lower(%1$L)) END)', trait_key),
		NULL, entries, incarnations, 'identify');
	EXECUTE format('
		SELECT array_agg((COALESCE(h.n, 0) >= %s)::text ORDER BY p.comp)
		FROM generate_series(1, $4) p(comp)
		LEFT JOIN (
			SELECT w.comp, count(*) AS n
			FROM (SELECT s.comp, s.at, s.val, row_number() OVER (PARTITION BY s.comp ORDER BY s.seq DESC) AS nth,
						 lag(s.val, 1, ''null'') OVER (PARTITION BY s.comp ORDER BY s.seq) AS was
				  FROM (SELECT u.seq, u.val::jsonb AS val, ($1)[u.seq] AS at, ($2)[u.seq] AS comp
						FROM unnest($5, $6) u(seq, val)) s
				  WHERE s.comp IS NOT NULL AND s.at <= $3) w
			-- a list has 1000 elements, of which the first is only the value before
			WHERE w.val <> w.was AND w.nth < 1000 AND %s AND %s
			  AND ($7 IS NULL OR $3 < w.at + $7) AND ($8 IS NULL OR $3 >= w.at + $8)
			GROUP BY w.comp) h ON h.comp = p.comp',
		COALESCE(args->>'at_least', '1'),
		COALESCE(cdp.verify_is('w.was', args->>'was'), 'w.was <> ''null'''),
		COALESCE(cdp.verify_is('w.val', args->>'became'), 'true'))
	INTO result USING ats, entry_comps, clock, ncomps, c.seqs, c.vals, newer, older;
	RETURN result;
END
$function$;
REVOKE ALL ON FUNCTION cdp.verify_arguments(text, text[]), cdp.verify_is(text, text),
	cdp.verify_changed(text, text, bigint[], int[], timestamptz[], int[], int, timestamptz),
	cdp.verify_sequence(text, text, bigint[], int[], timestamptz[], int[], int, timestamptz) FROM PUBLIC;

-- A predicate or derived trait for every profile, as text.  Calls of the
-- vocabulary are evaluated on their own and replaced by columns; the rest is
-- SQL over one row a profile.  An error makes the value null for that profile
-- only.
CREATE FUNCTION cdp.verify_expression(expression text, timezone text,
	trait_names text[], trait_types text[], trait_vals text[],
	segment_names text[], segment_vals text[], kinds text[], known text[],
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
	older text;
	filter text;
	closers jsonb := '{}';		-- what to write in the place of a parenthesis
	instant text := format('ROW(%L::timestamptz, ''{}''::interval[])::cdp.verify_instant', clock);
BEGIN
	PERFORM set_config('TimeZone', timezone, true);
	-- for the operators of instants
	PERFORM set_config('search_path', 'pg_catalog, cdp, pg_temp', true);
	WHILE i <= n LOOP
		name := CASE WHEN tokens[i] ~ '^[[:alpha:]_]' AND tokens[i] !~ '''' THEN lower(tokens[i])
					 WHEN tokens[i] ~ '^"' THEN replace(substr(tokens[i], 2, length(tokens[i]) - 2), '""', '"')
				END;
		-- the next token that is not white space
		j := i + 1;
		WHILE j <= n AND tokens[j] ~ '^(\s|--|/\*)' LOOP
			j := j + 1;
		END LOOP;

		IF name IN ('transaction_timestamp', 'statement_timestamp') AND tokens[j] = '(' THEN
			name := 'now';
		END IF;
		-- cdp.did() is did()
		IF name = 'cdp' AND tokens[j] = '.' THEN
			i := j + 1;
			CONTINUE;
		END IF;
		-- a trait of the primary account
		IF name = 'account' AND tokens[j] = '.' THEN
			k := j + 1;
			WHILE tokens[k] ~ '^(\s|--|/\*)' LOOP
				k := k + 1;
			END LOOP;
			name := 'account.' || CASE WHEN tokens[k] ~ '^"' THEN replace(substr(tokens[k], 2, length(tokens[k]) - 2), '""', '"') ELSE lower(tokens[k]) END;
			i := k + 1;
			k := array_position(trait_names, name);
			IF NOT name = ANY (used) THEN
				used := used || name;
				columns := columns || trait_vals[k];
				targets := targets || format('c%s::%s AS %I', cardinality(columns), trait_types[k], name);
			END IF;
			out_text := out_text || quote_ident(name);
			CONTINUE;
		END IF;
		IF closers ? i::text THEN
			out_text := out_text || (closers->>i::text);
			i := i + 1;
			CONTINUE;
		END IF;
		IF name IN ('since', 'until') AND tokens[j] = '(' THEN
			depth := 1;
			k := j;
			WHILE depth > 0 LOOP
				k := k + 1;
				depth := depth + CASE tokens[k] WHEN '(' THEN 1 WHEN ')' THEN -1 ELSE 0 END;
			END LOOP;
			out_text := out_text || CASE name WHEN 'since' THEN '(' || instant || ' - (' ELSE '((' END;
			closers := closers || jsonb_build_object(k::text, CASE name WHEN 'since' THEN '))' ELSE ') - ' || instant || ')' END);
			i := j + 1;
			CONTINUE;
		END IF;
		IF name IN ('did', 'did_not', 'count_of', 'sum_of', 'first_time', 'in_segment', 'has_identifier', 'known', 'now', 'did_in_order', 'changed', 'member_of', 'consented') AND tokens[j] = '(' THEN
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

			IF name IN ('did_in_order', 'changed') THEN
				columns := columns || CASE name
					WHEN 'changed' THEN cdp.verify_changed(array_to_string(args, ','), timezone,
						entries, incarnations, ats, entry_comps, ncomps, clock)
					ELSE cdp.verify_sequence(array_to_string(args, ','), timezone,
						entries, incarnations, ats, entry_comps, ncomps, clock) END::text;
				targets := targets || format('c%s::boolean AS call_%s', cardinality(columns), cardinality(columns));
				out_text := out_text || format('call_%s', cardinality(columns));
				CONTINUE;
			END IF;
			named := '{}';
			FOREACH arg IN ARRAY args LOOP
				m := regexp_match(arg, '^\s*([[:alpha:]_]\w*)\s*(?:=>|:=)(.*)$');
				IF m IS NOT NULL THEN
					named := named || jsonb_build_object(lower(m[1]), m[2]);
				ELSE
					named := named || jsonb_build_object(
						CASE WHEN name = 'in_segment' THEN 'segment'
							WHEN name = 'member_of' THEN 'account'
							WHEN name = 'consented' THEN 'purpose'
							WHEN name = 'has_identifier' THEN 'kind'
							WHEN named ? 'event' THEN 'value' ELSE 'event' END, arg);
				END IF;
			END LOOP;
			-- everything but expressions over an entry is a constant
			FOR t IN SELECT e.key, e.value FROM jsonb_each_text(named) e WHERE e.key NOT IN ('filter', 'value') LOOP
				EXECUTE 'SELECT (' || t.value || ')::text' INTO one;
				named := named || jsonb_build_object(t.key, one);
			END LOOP;

			IF name = 'now' THEN
				-- rounded to a unit it is a time like others
				out_text := out_text || CASE
					WHEN out_text ~* 'date_trunc\s*\(\s*''\w+''\s*,\s*$' OR array_to_string(tokens[i:i + 3], '') ~* '^\s*::\s*date'
					THEN format('%L::timestamptz', clock) ELSE instant END;
				CONTINUE;
			ELSIF name = 'has_identifier' THEN
				columns := columns || kinds::text;
				targets := targets || format('c%s::text[] AS call_%s', cardinality(columns), cardinality(columns));
				out_text := out_text || format('(%L = ANY (call_%s))', named->>'kind', cardinality(columns));
				CONTINUE;
			ELSIF name = 'member_of' THEN
				-- a kind of accounts, or else a group_id
				one := cdp.canonical((CASE WHEN named->>'account' ~ ':' AND EXISTS (
						SELECT FROM cdp.identifier_kinds k
						WHERE k.kind = split_part(named->>'account', ':', 1) AND k.entity = 'account') THEN ''
					ELSE 'group_id:' END || (named->>'account'))::cdp.identifier)::text;
				-- one that is blocked by now is nobody's
				one := COALESCE(one, '');
				SELECT v.vals::text INTO one
				FROM cdp.verify_trait('last', 'boolean', NULL, NULL, 'type <> ''leave''', NULL, timezone, NULL,
					entries, incarnations, ats, entry_comps, ncomps, clock, of => one) v;
				columns := columns || one;
				targets := targets || format('COALESCE(c%s::boolean, false) AS call_%s', cardinality(columns), cardinality(columns));
				out_text := out_text || format('call_%s', cardinality(columns));
				CONTINUE;
			ELSIF name = 'consented' THEN
				k := array_position(trait_names, E'\x01C' || (named->>'purpose'));
				columns := columns || trait_vals[k];
				targets := targets || format('c%s::text AS call_%s', cardinality(columns), cardinality(columns));
				out_text := out_text || format('(call_%s IS NOT DISTINCT FROM ''granted'')', cardinality(columns));
				CONTINUE;
			ELSIF name = 'known' THEN
				columns := columns || known::text;
				targets := targets || format('c%s::boolean AS call_%s', cardinality(columns), cardinality(columns));
				out_text := out_text || format('call_%s', cardinality(columns));
				CONTINUE;
			ELSIF name = 'in_segment' THEN
				k := array_position(segment_names, named->>'segment');
				columns := columns || segment_vals[k];
				targets := targets || format('c%s::boolean AS call_%s', cardinality(columns), cardinality(columns));
				out_text := out_text || format('COALESCE(call_%s, false)', cardinality(columns));
				CONTINUE;
			END IF;
			-- "from 28 to 14 days ago": counted entry by entry, not by difference
			filter := named->>'filter';
			older := named->>'older_than';
			named := named || jsonb_build_object('within', COALESCE(named->>'within', named->>'newer_than'));
			SELECT v.vals::text INTO one
			FROM cdp.verify_trait(CASE name WHEN 'sum_of' THEN 'sum' ELSE 'count' END, CASE name WHEN 'sum_of' THEN 'numeric' ELSE 'bigint' END,
				named->>'event', CASE WHEN older IS NULL THEN filter ELSE
					format('occurred_at + %L::interval <= %L::timestamptz%s', older, clock, ' AND (' || filter || E'\n)') END,
				named->>'value',
				(named->>'within')::interval, timezone, NULL,
				entries, incarnations, ats, entry_comps, ncomps, clock) v;
			columns := columns || one;
			k := cardinality(columns);
			targets := targets || CASE name WHEN 'sum_of' THEN format('COALESCE(c%s::numeric, 0) AS call_%s', k, k)
				ELSE format('c%s::bigint AS call_%s', k, k) END;
			IF name = 'first_time' THEN
				-- of all that it did, everything is in the window
				SELECT v.vals::text INTO one
				FROM cdp.verify_trait('count', 'bigint', named->>'event', filter, NULL, NULL, timezone, NULL,
					entries, incarnations, ats, entry_comps, ncomps, clock) v;
				columns := columns || one;
				targets := targets || format('c%s::bigint AS call_%s', k + 1, k + 1);
			END IF;
			out_text := out_text || CASE name
				WHEN 'count_of' THEN format('call_%s', k)
				WHEN 'sum_of' THEN format('call_%s', k)
				WHEN 'first_time' THEN format('(call_%s > 0 AND call_%s = call_%s)', k, k, k + 1)
				WHEN 'did_not' THEN format('(call_%s = 0)', k)
				ELSE format('(call_%s >= %s AND call_%s <= %s)', k,
					COALESCE(named->>'at_least', '1'),
					k, COALESCE(named->>'at_most', '9223372036854775807'))
			END;
			CONTINUE;
		END IF;

		IF name IN ('current_timestamp', 'current_date', 'localtimestamp') AND tokens[i] !~ '^"' THEN
			out_text := out_text || CASE name WHEN 'current_date' THEN format('(%L::timestamptz)::date', clock) ELSE instant END;
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
			-- OFFSET 0: as constants, the values would be computed with when planning,
			-- and terms that another one makes irrelevant would raise their errors
			EXECUTE format('SELECT %s FROM (SELECT %s OFFSET 0) p', sql,
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

REVOKE ALL ON FUNCTION cdp.verify_tokens(text),
	cdp.verify_expression(text, text, text[], text[], text[], text[], text[], text[], text[], bigint[], int[], timestamptz[], int[], int, timestamptz)
	FROM PUBLIC;
