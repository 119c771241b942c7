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

REVOKE ALL ON FUNCTION cdp.verify_tokens(text),
	cdp.verify_expression(text, text, text[], text[], text[], text[], text[], bigint[], int[], timestamptz[], int[], int, timestamptz)
	FROM PUBLIC;
