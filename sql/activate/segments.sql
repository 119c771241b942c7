/* sql/activate/segments.sql: how segments have changed */

CREATE FUNCTION cdp.segment_stats(segment text, days int DEFAULT 30)
RETURNS TABLE (day date, entered bigint, exited bigint, members bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET "TimeZone" = 'UTC'
AS $function$
#variable_conflict use_column
DECLARE
	today date := (SELECT a.clock FROM cdp.applier a WHERE isfinite(a.clock))::date;
BEGIN
	IF NOT EXISTS (SELECT FROM cdp.segments s WHERE s.name = segment_stats.segment) THEN
		RAISE undefined_object USING MESSAGE = format('segment "%s" does not exist', segment_stats.segment);
	END IF;
	RETURN QUERY
	WITH c AS (
		SELECT c.occurred_at::date AS day, count(*) FILTER (WHERE c.kind = 'segment_entered') AS entered,
			count(*) FILTER (WHERE c.kind = 'segment_exited') AS exited
		FROM cdp.changes c
		WHERE c.segment = segment_stats.segment AND c.kind IN ('segment_entered', 'segment_exited')
		GROUP BY 1
	), d AS (
		SELECT g::date AS day, COALESCE(c.entered, 0) AS entered, COALESCE(c.exited, 0) AS exited
		FROM generate_series(today - greatest(days, 1) + 1, today::timestamp, interval '1 day') g
		LEFT JOIN c ON c.day = g::date
	)
	-- backwards from what is known now
	SELECT d.day, d.entered, d.exited,
		(SELECT count(*) FROM cdp.memberships m WHERE m.segment = segment_stats.segment)
		- COALESCE((SELECT sum(l.entered - l.exited) FROM d l WHERE l.day > d.day), 0)::bigint
	FROM d ORDER BY d.day DESC;
END
$function$;
COMMENT ON FUNCTION cdp.segment_stats(text, int) IS 'by day (UTC), latest first: how many profiles entered and exited the segment, for whatever cause, and how many were in it at its end; the first row is today, up to the applied clock; undefined_object when there is no such segment';
REVOKE ALL ON FUNCTION cdp.segment_stats(text, int) FROM PUBLIC;
