/* sql/apply/verify_traits.sql: traits, each a query over the log */

-- Evaluate an expression over entries, or over elements of arrays in them, at
-- once when possible; when one of them raises an error, by halves, so that only
-- that one is left out.
CREATE FUNCTION cdp.verify_evaluate(query text, rows cdp.events[], seqs int[], items jsonb[],
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
		EXECUTE query INTO good_seqs, vals USING rows, seqs, items;
		RETURN;
	EXCEPTION WHEN OTHERS THEN
		IF n <= 1 THEN
			good_seqs := NULL;
			vals := NULL;
			RETURN;
		END IF;
	END;
	l := cdp.verify_evaluate(query, rows[:half], seqs[:half], items[:half]);
	r := cdp.verify_evaluate(query, rows[half + 1:], seqs[half + 1:], items[half + 1:]);
	good_seqs := l.good_seqs || r.good_seqs;
	vals := l.vals || r.vals;
END
$function$;

-- What each entry gives to a trait: those for which the value is not null,
-- as text.  The CASEs see to it that the filter is evaluated only over entries
-- of the event, and the value only where the filter is true.  With "each", the
-- elements of that array take the entry's place, and it gives several times.
CREATE FUNCTION cdp.verify_contributions(event text, filter text, value text, each text,
	entries bigint[], incarnations int[], of text DEFAULT NULL,
	OUT seqs int[], OUT vals text[])
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
	columns constant text :=
		'e.id, e.message_id, COALESCE(e.source, '''') AS source, e.type, e.event, e.identifiers, '
		'e.properties, e.context, '
		'cdp.effective_at(e.occurred_at, e.received_at) AS occurred_at, e.received_at, e.xid, e.incarnation';
	events constant text :=
		'unnest($1) WITH ORDINALITY
			e(id, message_id, source, type, event, identifiers, properties, context,
			  occurred_at, received_at, xid, incarnation, place)';
	matches text;
	expression text;
	elements text := '';
	chunk record;
	part record;
BEGIN
	-- of: identify calls, or the account that they name
	matches := CASE WHEN of = 'identify' THEN 'e.type = ''identify'''
			WHEN of IS NOT NULL THEN format('EXISTS (SELECT FROM unnest(e.identifiers) i(i) WHERE cdp.canonical(i.i)::text = %L)', of)
			ELSE 'e.type IN (''track'', ''page'', ''screen'')' END ||
		CASE WHEN event IS NULL THEN '' ELSE format(' AND e.event = %L', event) END;
	expression := format(
		'(SELECT CASE WHEN %s THEN CASE WHEN (%s%s) THEN ((%s%s))::text END END FROM (SELECT %s) e)',
		matches, COALESCE(filter, 'true'), E'\n', COALESCE(value, 'true'), E'\n',
		columns || CASE WHEN each IS NULL THEN '' ELSE ', i.item AS item' END);
	IF each IS NOT NULL THEN
		-- an array's elements; null has none, and anything else is an error
		elements := format(
			'CROSS JOIN LATERAL jsonb_array_elements(NULLIF((SELECT (%s%s)::jsonb FROM (SELECT %s) e), ''null'')) i(item)',
			each, E'\n', columns);
	END IF;
	BEGIN
		EXECUTE format(
			'SELECT array_agg(v.seq ORDER BY v.seq), array_agg(v.val ORDER BY v.seq)
			 FROM (SELECT e.seq, %s AS val
				   FROM (SELECT e.id, e.message_id, e.source, e.type, e.event, e.identifiers,
							COALESCE(r.properties, cdp.verify_properties(e)) AS properties, e.context, e.occurred_at, e.received_at,
							e.xid, e.incarnation, k.seq::int AS seq
						 FROM cdp.events e
						 JOIN unnest($1, $2) WITH ORDINALITY k(entry, inc, seq)
						   ON e.id = k.entry AND e.incarnation = k.inc
						 LEFT JOIN cdp.referenced_properties(event => $3) r ON r.entry = e.id
						 WHERE %s OFFSET 0) e %s) v
			 WHERE v.val IS NOT NULL', expression, matches, elements)
		INTO seqs, vals USING entries, incarnations, event;
		RETURN;
	EXCEPTION WHEN OTHERS THEN
		NULL;
	END;

	seqs := '{}';
	vals := '{}';
	FOR chunk IN EXECUTE format(
		'SELECT array_agg(v.e ORDER BY v.seq) AS rows, array_agg(v.seq ORDER BY v.seq) AS seqs, NULL::jsonb[] AS items
		 FROM (SELECT ROW(e.id, e.message_id, e.source, e.type, e.event, e.identifiers,
					cdp.entry_properties(cdp.verify_properties(e), e.source, e.id), e.context,
					e.occurred_at, e.received_at, e.xid, e.incarnation)::cdp.events AS e,
				   k.seq::int AS seq, row_number() OVER (ORDER BY k.seq) AS nth
			   FROM cdp.events e
			   JOIN unnest($1, $2) WITH ORDINALITY k(entry, inc, seq)
				 ON e.id = k.entry AND e.incarnation = k.inc
			   WHERE %s) v
		 GROUP BY (v.nth - 1) / 128', matches) USING entries, incarnations
	LOOP
		IF each IS NOT NULL THEN
			-- the elements first, then each of them on its own
			part := cdp.verify_evaluate(format(
				'SELECT array_agg(($2)[e.place]), array_agg(i.item::text) FROM %s %s', events, elements),
				chunk.rows, chunk.seqs, NULL);
			SELECT array_agg(chunk.rows[array_position(chunk.seqs, u.seq)] ORDER BY u.nth) AS rows,
				   array_agg(u.seq ORDER BY u.nth) AS seqs, array_agg(u.item::jsonb ORDER BY u.nth) AS items
			INTO chunk
			FROM unnest(part.good_seqs, part.vals) WITH ORDINALITY u(seq, item, nth);
			CONTINUE WHEN chunk.seqs IS NULL;
		END IF;
		part := cdp.verify_evaluate(format(
			'SELECT array_agg(v.seq), array_agg(v.val)
			 FROM (SELECT ($2)[e.place] AS seq, %s AS val FROM %s CROSS JOIN LATERAL (SELECT ($3)[e.place]) i(item)) v
			 WHERE v.val IS NOT NULL', expression, events), chunk.rows, chunk.seqs, chunk.items);
		seqs := seqs || part.good_seqs;
		vals := vals || part.vals;
	END LOOP;
END
$function$;

-- What unique_count says about more values than it keeps: 4096 registers, each
-- the greatest position of the first one-bit among the hashes that it gets;
-- the estimate is that of Ertl (2017).
CREATE FUNCTION cdp.verify_cardinality(hashes bigint[]) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
	counts int[];
	m constant float8 := 4096;
	x float8;
	y float8;
	z float8;
	tau float8 := 0;
	sigma float8;
	before float8;
BEGIN
	SELECT array_agg(COALESCE(c.n, 0) ORDER BY k) INTO counts
	FROM generate_series(1, 53) k
	LEFT JOIN (SELECT r.rank, count(*) AS n
			   FROM (SELECT max(53 - length(ltrim((h & 4503599627370495)::bit(52)::text, '0'))) AS rank
					 FROM unnest(hashes) h GROUP BY (h >> 52) & 4095) r
			   GROUP BY r.rank) c ON c.rank = k;
	x := 1 - counts[53] / m;
	IF x NOT IN (0, 1) THEN
		y := 1;
		tau := 1 - x;
		LOOP
			x := sqrt(x);
			before := tau;
			y := 0.5 * y;
			tau := tau - (1 - x) * (1 - x) * y;
			EXIT WHEN tau = before;
		END LOOP;
		tau := tau / 3;
	END IF;
	-- the part of the registers that no hash went to
	x := (m - (SELECT sum(c) FROM unnest(counts) c)) / m;
	y := 1;
	sigma := x;
	LOOP
		x := x * x;
		before := sigma;
		sigma := sigma + x * y;
		y := y + y;
		EXIT WHEN sigma = before;
	END LOOP;
	z := m * tau;
	FOR k IN REVERSE 52 .. 1 LOOP
		z := 0.5 * (z + counts[k]);
	END LOOP;
	z := z + m * sigma;
	RETURN round(m * m / (2 * 0.6931471805599453::float8 * z));
END
$function$;

-- The bucket of percentile's histogram that a number falls into, as the middle
-- of the bucket: powers of two cut into 128 parts.
CREATE FUNCTION cdp.verify_bucket(v numeric) RETURNS numeric
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
	bits bigint;
	size float8;
BEGIN
	v := greatest(least(v, 1e300), -1e300);
	IF abs(v) < 1e-300 THEN
		RETURN 0;
	END IF;
	bits := ('x' || encode(float8send(abs(v)::float8), 'hex'))::bit(64)::bigint;
	size := (1 + ((bits >> 45) % 128 + 0.5::float8) / 128) * power(2::float8, ((bits >> 52) - 1023)::float8);
	RETURN size::numeric * sign(v);
END
$function$;

-- A computed trait for every profile, as text; and for a count the first
-- instant after the clock at which an entry enters or leaves its window, if
-- that makes it another number.
CREATE FUNCTION cdp.verify_trait(aggregate text, type text, event text, filter text, value text,
	win interval, timezone text, empty text,
	entries bigint[], incarnations int[], ats timestamptz[], entry_comps int[], ncomps int,
	clock timestamptz, each text DEFAULT NULL, older_than interval DEFAULT NULL,
	since timestamptz DEFAULT NULL, options jsonb DEFAULT '{}', of text DEFAULT NULL,
	OUT vals text[], OUT next timestamptz[])
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET "TimeZone" = 'UTC'
AS $function$
DECLARE
	c record;
	value_type text := type;
	windowed boolean := win IS NOT NULL OR older_than IS NOT NULL;
	-- of these only the times of the entries matter
	timely boolean := aggregate IN ('count', 'exists', 'first_time', 'last_time', 'rate',
		'sessions', 'session_time', 'session_length', 'session_events', 'streak', 'longest_streak');
	-- entries count as if they had happened at the beginning of a cell so long
	granularity interval := (options->>'granularity')::interval;
	exact boolean := (windowed AND granularity IS NULL) OR COALESCE((options->>'exact')::boolean, false);
	size int := COALESCE((options->>'size')::int, 100);
	gap interval := COALESCE(options->>'gap', '30 minutes')::interval;
	day text := CASE options->>'unit' WHEN 'week'
		THEN '(date_trunc(''week'', %s AT TIME ZONE $6)::date - date ''2001-01-01'') / 7'
		ELSE '((%s AT TIME ZONE $6)::date - date ''2001-01-01'')' END;
	-- before the first batch there is no clock, and nothing that counts
	today constant text := 'NULLIF($5, ''-infinity'')';
	start constant text := CASE WHEN options ? 'granularity'
		THEN format('date_bin(%L, s.at, ''2000-01-01 00:00+00'')', options->>'granularity') ELSE 's.at' END;
	shift constant text :=
		'CASE WHEN s.at < ''3000-01-01'' THEN ' || start || ' + %s ELSE ''infinity'' END';
	sorted boolean := true;
	one text;			-- result as an aggregate of a profile's items
	part text;			-- or as a query
	item text := '1';
BEGIN
	PERFORM set_config('TimeZone', timezone, true);
	IF empty IS NOT NULL THEN
		EXECUTE format('SELECT ($1::%s)::text', type) INTO empty USING empty;
	END IF;
	IF NOT timely THEN
		IF aggregate IN ('sum', 'avg', 'stddev', 'percentile') THEN
			value_type := 'numeric';
		ELSIF aggregate IN ('unique_count', 'list', 'unique_list') THEN
			EXECUTE format('SELECT pg_typeof((%s%s)) FROM (SELECT (NULL::cdp.events).*, NULL::jsonb AS item) e', value, E'\n')
			INTO value_type;
			value_type := replace(value_type, 'unknown', 'text');
		END IF;
		value := CASE WHEN value_type = 'numeric' THEN
			 -- numbers of absurd size are not added up
			 format('(SELECT CASE WHEN v.v IN (''NaN'', ''Infinity'', ''-Infinity'') OR abs(v.v) <= 1e1000 THEN v.v END
					 FROM (SELECT (%s%s)::numeric) v(v))', value, E'\n')
			 ELSE format('(%s%s)::%s', value, E'\n', value_type) END;
		IF aggregate IN ('list', 'unique_list') AND value_type IN ('text', 'character varying') THEN
			-- nor long texts listed
			value := format('(SELECT CASE WHEN octet_length(v.v) <= 8000 THEN v.v END FROM (SELECT %s) v(v))', value);
		END IF;
		item := format('k.val::%s', value_type);
		IF (SELECT t.typcollation <> 0 FROM pg_type t WHERE t.oid = value_type::regtype) THEN
			item := item || ' COLLATE "C"';
		END IF;
		sorted := value_type NOT IN ('json', 'xml', 'point', 'box', 'circle', 'line', 'lseg', 'path', 'polygon');
	END IF;
	c := cdp.verify_contributions(event, filter, value, each, entries, incarnations, of);

	-- elements of one entry have one place; then the value decides
	one := CASE aggregate
		WHEN 'count' THEN 'count(*)'
		WHEN 'exists' THEN 'true'
		WHEN 'sum' THEN 'sum(i.v)'
		WHEN 'avg' THEN 'avg(i.v)'
		WHEN 'stddev' THEN format(
			'CASE WHEN count(*) > %1$s THEN
			 sqrt(greatest((count(*) * sum(i.v * i.v) - sum(i.v) * sum(i.v)) / (count(*)::numeric * (count(*) - %1$s)), 0)) END',
			CASE WHEN (options->>'population')::boolean THEN 0 ELSE 1 END)
		WHEN 'min' THEN '(array_agg(i.v ORDER BY i.v))[1]'
		WHEN 'max' THEN '(array_agg(i.v ORDER BY i.v DESC))[1]'
		WHEN 'first' THEN format('(array_agg(i.v ORDER BY i.seq%s))[1]', CASE WHEN sorted THEN ', i.v' END)
		WHEN 'last' THEN format('(array_agg(i.v ORDER BY i.seq DESC%s))[1]', CASE WHEN sorted THEN ', i.v DESC' END)
		WHEN 'first_time' THEN 'min(i.at)'
		WHEN 'last_time' THEN 'max(i.at)'
		WHEN 'most_frequent' THEN '(array_agg(i.v ORDER BY i.n DESC, i.v))[1]'
		WHEN 'least_frequent' THEN '(array_agg(i.v ORDER BY i.n, i.v))[1]'
		WHEN 'unique_count' THEN
			CASE WHEN exact OR value_type IN ('bit', 'bit varying', 'money', 'tsvector', 'tsquery')
			THEN 'count(DISTINCT i.v)'
			ELSE 'CASE WHEN count(DISTINCT i.v) <= 1000 THEN count(DISTINCT i.v)
				  ELSE cdp.verify_cardinality(array_agg(hash_record_extended(ROW(i.v), 0))) END'
			END
		-- buckets are in the order of the values in them
		WHEN 'percentile' THEN format(CASE WHEN exact THEN '%1$s'
			ELSE 'CASE WHEN count(DISTINCT i.v) <= 1000 THEN %1$s ELSE cdp.verify_bucket(%1$s) END' END,
			format('(array_agg(i.v ORDER BY i.v))[greatest(ceil(%s * count(*)), 1)::int]', COALESCE((options->>'p')::numeric, 0.5)))
		WHEN 'rate' THEN format('count(*)::numeric / greatest(%s - %s + 1, 1)', format(day, today), format(day, 'min(i.at)'))
	END;
	-- of arrays there would be one of more dimensions, in which [1] is nothing
	IF value_type LIKE '%[]' THEN
		one := replace(one, 'array_agg(i.v ORDER', 'array_agg(i.v::text ORDER');
	END IF;
	part := CASE
		WHEN one IS NOT NULL THEN format('SELECT i.comp, %s AS val FROM inside i GROUP BY i.comp', one)
		WHEN aggregate = 'list' THEN format(
			'SELECT l.comp, jsonb_agg(cdp.trait_json(l.v) ORDER BY l.nth) AS val
			 FROM (SELECT i.comp, i.v, row_number() OVER (PARTITION BY i.comp ORDER BY i.seq DESC%s) AS nth FROM inside i) l
			 WHERE l.nth <= %s GROUP BY l.comp', CASE WHEN sorted THEN ', i.v DESC' END, size)
		WHEN aggregate = 'unique_list' THEN format(
			'SELECT l.comp, jsonb_agg(cdp.trait_json(l.v) ORDER BY l.v) AS val
			 FROM (SELECT d.comp, d.v, row_number() OVER (PARTITION BY d.comp ORDER BY d.seq DESC, d.v DESC) AS nth
				   FROM (SELECT DISTINCT ON (i.comp, i.v) i.comp, i.v, i.seq FROM inside i ORDER BY i.comp, i.v, i.seq DESC) d) l
			 WHERE l.nth <= %s GROUP BY l.comp', size)
		WHEN aggregate LIKE 'session%' THEN format(
			-- a session begins where the last entry is further back than the gap
			'SELECT s.comp, %s AS val
			 FROM (SELECT g.comp, count(*) AS n, extract(epoch FROM max(g.at) - min(g.at)) * 1000000 AS length
				   FROM (SELECT f.comp, f.at, count(*) FILTER (WHERE f.fresh) OVER (PARTITION BY f.comp ORDER BY f.at) AS nth
						 FROM (SELECT i.comp, i.at,
									  COALESCE(i.at - lag(i.at) OVER (PARTITION BY i.comp ORDER BY i.at) > %L::interval, true) AS fresh
							   FROM inside i) f) g
				   GROUP BY g.comp, g.nth) s
			 GROUP BY s.comp',
			CASE aggregate
				WHEN 'sessions' THEN 'count(*)'
				WHEN 'session_time' THEN '(sum(s.length)::bigint || '' microseconds'')::interval'
				WHEN 'session_length' THEN '(sum(s.length)::bigint / count(*) || '' microseconds'')::interval'
				ELSE 'sum(s.n) / count(*)' END, gap)
		ELSE format(
			-- days without a hole have the same difference to their number
			'SELECT r.comp, %s AS val
			 FROM (SELECT n.comp, min(n.day) AS first, max(n.day) AS last
				   FROM (SELECT d.comp, d.day, d.day - row_number() OVER (PARTITION BY d.comp ORDER BY d.day) AS run
						 FROM (SELECT DISTINCT i.comp, %s AS day FROM inside i) d) n
				   GROUP BY n.comp, n.run) r
			 CROSS JOIN (SELECT %s AS today) t
			 GROUP BY r.comp',
			CASE aggregate WHEN 'longest_streak' THEN 'max(r.last - r.first + 1)'
				ELSE 'COALESCE(max(least(r.last, t.today) - r.first + 1) FILTER (WHERE r.first <= t.today AND r.last >= t.today - 1), 0)' END,
			format(day, 'i.at'), format(day, today))
	END;
	-- only what this definition needs: there are many, and planning costs
	EXECUTE format(
		'WITH item AS (
			SELECT s.comp, k.seq, s.at, %s AS v %s
			FROM unnest($1, $2) k(seq, val)
			JOIN unnest($3, $4) WITH ORDINALITY s(comp, at, seq) ON s.seq = k.seq
			WHERE s.comp IS NOT NULL AND s.at >= COALESCE($10, ''-infinity'')
		 ), inside AS (
			SELECT i.comp, i.seq, i.at, i.v %s FROM item i %s
		 ), result AS (
			SELECT r.comp, r.val::text AS val FROM (%s) r
		 )'
		|| CASE WHEN aggregate = 'count' AND windowed THEN
		 ', edge AS (
			SELECT i.comp, min(CASE WHEN i.from > $5 THEN i.from WHEN i.until > $5 THEN i.until END) AS at
			FROM item i
			WHERE i.until > i.from
			GROUP BY i.comp
		 ), edges AS (
			SELECT e.comp, e.at AS next
			FROM edge e JOIN item i ON i.comp = e.comp
			WHERE isfinite(e.at)
			GROUP BY e.comp, e.at
			HAVING count(*) FILTER (WHERE i.from <= $5 AND $5 < i.until)
				<> count(*) FILTER (WHERE i.from <= e.at AND e.at < i.until)
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
		item,
		-- an entry counts from when it is old enough until it is too old
		CASE WHEN windowed THEN format(', %s AS from, %s AS until',
			CASE WHEN older_than IS NULL THEN start ELSE format(shift, '$11') END,
			CASE WHEN win IS NULL THEN '''infinity''::timestamptz' ELSE format(shift, '$7') END) END,
		CASE WHEN aggregate LIKE '%\_frequent' THEN ', count(*) OVER (PARTITION BY i.comp, i.v) AS n' END,
		CASE WHEN windowed THEN 'WHERE i.from <= $5 AND $5 < i.until' END,
		part)
	INTO vals, next
	USING c.seqs, c.vals, entry_comps, ats, clock, timezone, win, ncomps,
		  COALESCE(empty, CASE WHEN aggregate IN ('count', 'unique_count', 'sessions', 'streak', 'longest_streak') THEN '0'
				   WHEN aggregate = 'exists' THEN 'false' END), since, older_than;
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
							WHEN (SELECT t.typcategory = 'A' FROM pg_type t WHERE t.oid = type::regtype)
							THEN '((CASE WHEN jsonb_typeof(%1$s) = ''array'' THEN (SELECT COALESCE(array_agg(x.e ORDER BY x.n), ''{}'')
								FROM jsonb_array_elements_text(%1$s) WITH ORDINALITY x(e, n))::text ELSE %1$s #>> ''{}'' END)::' || type || ')::text'
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

REVOKE ALL ON FUNCTION cdp.verify_evaluate(text, cdp.events[], int[], jsonb[]),
	cdp.verify_contributions(text, text, text, text, bigint[], int[], text),
	cdp.verify_cardinality(bigint[]), cdp.verify_bucket(numeric),
	cdp.verify_trait(text, text, text, text, text, interval, text, text, bigint[], int[], timestamptz[], int[], int, timestamptz,
		text, interval, timestamptz, jsonb, text),
	cdp.verify_declared(jsonb[], text, text, text, text)
	FROM PUBLIC;
