/* sql/apply/backfill.sql: history under new definitions, beside what comes */

CREATE FUNCTION cdp.wait_backfill(name text DEFAULT NULL, timeout interval DEFAULT interval '1 hour') RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_wait_backfill' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.wait_backfill(text, interval) IS
'wait until a trait or segment of that name is whole, or all rows of an attachment of that name are logged (NULL: until no such work is left, nor identifiers whose domains mean other accounts now), for at most so long; true when it is, false when the time was up first. Errors: undefined_object, active_sql_transaction (the transaction has written), object_not_in_prerequisite_state (no applier runs)';

CREATE FUNCTION cdp.cancel_backfill(name text) RETURNS void
	AS 'MODULE_PATHNAME', 'cdp_cancel_backfill' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.cancel_backfill(text) IS
'stop building a trait or segment: one that is new is dropped, one that is being altered stays as it was. Errors: undefined_object (nothing of that name is being built), dependent_objects_still_exist (of a new one), object_not_in_prerequisite_state (it was altered in a way that has taken the old version away: alter it again, or drop it)';

CREATE VIEW cdp.progress AS
	SELECT p.what, p.phase, p.done, p.total,
		CASE WHEN p.done > 0 THEN p.done / greatest(extract(epoch FROM clock_timestamp() - p.started_at)::float8, 0.001) END AS rate,
		p.requested_at, p.requested_by, p.started_at,
		CASE WHEN p.done > 0 AND p.total > p.done
			THEN clock_timestamp() + (clock_timestamp() - p.started_at) * ((p.total - p.done) / p.done::float8) END AS estimated_end
	FROM (
		SELECT 'identity rules'::text AS what,
			CASE WHEN c.started_at IS NULL THEN 'waiting'
				WHEN c.judging THEN 'judging identifiers' ELSE 'reading entries' END AS phase,
			c.done, c.total, c.requested_at, c.requested_by, c.started_at
		FROM cdp.rule_changes c
		WHERE c.id = (SELECT max(l.id) FROM cdp.rule_changes l)
		UNION ALL
		SELECT COALESCE(CASE WHEN b.replaces IS NULL THEN h.name END,
				CASE WHEN s.hidden THEN q.name END,
				CASE WHEN t.entity = 'account' THEN 'account ' ELSE '' END || CASE WHEN b.kind = 'trait' THEN 'trait ' ELSE 'segment ' END
					|| COALESCE(o.name, t.name, s.name)),
			CASE WHEN b.kind <> 'trait' AND w.id IS NOT NULL THEN 'waiting for traits'
				WHEN b.kind <> 'trait' THEN 'waiting'
				WHEN b.started_at IS NULL THEN 'waiting'
				WHEN b.position = 9223372036854775807 THEN 'switching'
				WHEN t.options->>'over' IS NOT NULL THEN 'evaluating members'
				ELSE 'folding entries' END,
			b.done, CASE WHEN t.options->>'over' IS NOT NULL THEN (SELECT greatest(a.next_node - 1, b.done) FROM cdp.applier a)
				WHEN b.kind = 'trait' THEN (SELECT greatest(a.entries - a.duplicates - a.rejected, b.done) FROM cdp.applier a) END,
			b.requested_at, b.requested_by, b.started_at
		FROM cdp.backfills b
		LEFT JOIN cdp.trait_definitions t ON b.kind = 'trait' AND t.id = b.id
		LEFT JOIN cdp.hidden_traits h ON h.id = t.id
		LEFT JOIN cdp.trait_definitions o ON b.kind = 'trait' AND o.id = b.replaces
		LEFT JOIN cdp.segment_definitions s ON b.kind <> 'trait' AND s.id = b.id
		LEFT JOIN (SELECT k.key, min(m.name COLLATE "C") AS name
			FROM cdp.trait_definitions k JOIN cdp.hidden_traits m ON m.id = k.id
			WHERE k.hidden GROUP BY k.key) q ON q.key = (-s.id)::text
		LEFT JOIN (SELECT DISTINCT d.kind, d.id FROM cdp.definition_depends d
			JOIN cdp.building_traits g ON g.id = d.trait_id) w ON w.kind = b.kind AND w.id = b.id
		WHERE b.kind <> 'domains'
		UNION ALL
		SELECT 'accounts by domain', CASE WHEN b.started_at IS NULL THEN 'waiting' ELSE 'looking at addresses' END,
			b.done, (b.definition->>'upto')::bigint, b.requested_at, b.requested_by, b.started_at
		FROM cdp.backfills b WHERE b.kind = 'domains'
		UNION ALL
		SELECT 'attachment ' || d.name, CASE WHEN l.started_at IS NULL THEN 'waiting' ELSE 'logging rows' END, l.done,
			CASE WHEN l.blocks > 0 THEN greatest(l.done, (l.done::float8 * greatest(l.total_blocks, l.blocks) / l.blocks)::bigint) END,
			l.requested_at, l.requested_by, l.started_at
		FROM cdp.attachment_loads l
		JOIN cdp.attachment_definitions d ON d.id = l.attachment) p;
COMMENT ON VIEW cdp.progress IS 'work on history that is under way; no rows: none';
COMMENT ON COLUMN cdp.progress.what IS 'identity rules, accounts by domain, the definition that is being built (with an event, or members: what a segment asks of them), or the attachment whose rows are being logged';
COMMENT ON COLUMN cdp.progress.phase IS 'rules: waiting for the applier, reading entries by the new rules, or judging again who may be one person; definitions: waiting, waiting for traits, folding entries, evaluating members, switching (whole, and about to be seen); accounts by domain: waiting, looking at addresses; attachments: waiting, logging rows';
COMMENT ON COLUMN cdp.progress.done IS 'entries read, or identifiers judged, in this phase; entries folded, or (evaluating members, accounts by domain) identifiers looked at; rows logged';
COMMENT ON COLUMN cdp.progress.rate IS 'of them, per second since the start';

REVOKE ALL ON FUNCTION cdp.wait_backfill(text, interval), cdp.cancel_backfill(text) FROM PUBLIC;
GRANT SELECT ON cdp.progress TO pg_monitor;
