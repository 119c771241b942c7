/* sql/apply/verify_traits.sql: traits, each a query over the log */

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

REVOKE ALL ON FUNCTION cdp.verify_evaluate(text, cdp.events[], int[]),
	cdp.verify_contributions(text, text, text, bigint[], int[]),
	cdp.verify_trait(text, text, text, text, text, interval, text, text, bigint[], int[], timestamptz[], int[], int, timestamptz),
	cdp.verify_declared(jsonb[], text, text, text, text)
	FROM PUBLIC;
