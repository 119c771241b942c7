/* sql/activate/check.sql: what an operator should know */

CREATE FUNCTION cdp.check()
	RETURNS TABLE (severity text, topic text, object text, finding text, remedy text)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET timezone = 'UTC'
	SET datestyle = 'ISO'
AS $$
#variable_conflict use_column
DECLARE
	running boolean := cdp.worker_pid() IS NOT NULL;
	usage float8 := pg_notification_queue_usage();
	guard bigint := current_setting('cdp.max_profile_identifiers')::bigint;
	lag record;
	applier cdp.applier;
	month text := to_char(date_trunc('month', cdp.clock()) + interval '1 month', '"y"YYYY"m"MM');
BEGIN
	SELECT * INTO applier FROM cdp.applier;
	SELECT * INTO lag FROM cdp.lag();

	-- the applier
	IF cdp.version() <> (SELECT e.extversion FROM pg_extension e WHERE e.extname = 'cdp') THEN
		RETURN QUERY SELECT 'error', 'version', NULL::text,
			format('the library has version %s, the extension %s', cdp.version(),
				(SELECT e.extversion FROM pg_extension e WHERE e.extname = 'cdp')),
			'ALTER EXTENSION cdp UPDATE, and restart the server when the library is the older one';
	END IF;
	IF applier.paused_at IS NOT NULL THEN
		RETURN QUERY SELECT 'warning', 'worker', NULL::text,
			format('applying is paused since %s', date_trunc('second', applier.paused_at)), 'SELECT cdp.resume()';
	ELSIF NOT running AND lag.entries > 0 THEN
		RETURN QUERY SELECT 'warning', 'worker', NULL::text, format('no applier runs; entries that wait: %s', lag.entries), cdp.worker_hint();
	ELSIF NOT running THEN
		RETURN QUERY SELECT 'info', 'worker', NULL::text, 'no applier runs: what is logged is applied by cdp.apply()', cdp.worker_hint();
	END IF;
	IF strpos(current_setting('shared_preload_libraries'), 'cdp') = 0 THEN
		RETURN QUERY SELECT 'info', 'preload', NULL::text, 'the applier does not start with the server',
			'add cdp to shared_preload_libraries and restart the server';
	END IF;
	IF cdp.restore_pending() THEN
		RETURN QUERY SELECT 'warning', 'restore', NULL::text, 'the restore of this database is not finished: nothing is applied',
			'let pg_restore come to its end; when parts of the dump were left out and nothing more will come, SELECT cdp.finish_restore()';
	ELSIF NOT lag.active AND lag.entries > 0 AND NOT EXISTS (
			SELECT FROM cdp.events e JOIN cdp.incarnation i ON e.incarnation = i.id) THEN
		RETURN QUERY SELECT 'info', 'restore', NULL::text, format('the log was restored; entries that wait for the first new one: %s', lag.entries),
			'SELECT cdp.start_worker(), or SELECT cdp.apply()';
	ELSIF lag.seconds > 60 THEN
		RETURN QUERY SELECT CASE WHEN lag.seconds > 3600 THEN 'error' ELSE 'warning' END, 'lag', NULL::text,
			format('entries that wait: %s, the oldest for %s s', lag.entries, round(lag.seconds)),
			'see cdp.stat_worker and cdp.stat_apply: is the applier running, blocked, or too slow for what comes in?';
	END IF;
	IF applier.last_error_at > coalesce(applier.last_batch_at, '-infinity') THEN
		RETURN QUERY SELECT 'error', 'apply', NULL::text, format('the applier fails: %s', applier.last_error),
			'the server log has the details; the log is applied up to the entry that it names';
	ELSIF applier.last_error_at > clock_timestamp() - interval '1 day' THEN
		RETURN QUERY SELECT 'info', 'apply', NULL::text, format('the applier failed within a day and goes on: %s', applier.last_error),
			'the server log has the details';
	END IF;
	RETURN QUERY SELECT 'info', 'rejected', r.reason, format('rejected within a day: %s', count(*)), 'see cdp.rejected'
		FROM cdp.rejected r WHERE r.at > cdp.clock() - interval '1 day' AND NOT r.held AND r.reason NOT IN ('raised an error', 'crashed the applier') GROUP BY r.reason;
	RETURN QUERY SELECT 'error', 'isolated', i.sqlstate,
			format('entries put aside because they %s: %s, the last at %s',
				CASE i.sqlstate WHEN '57P02' THEN 'crashed the applier' ELSE 'raised an error' END, count(*), date_trunc('second', max(i.at))),
			'once the cause is gone: SELECT cdp.retry_rejected(); see cdp.rejected and the server log'
		FROM cdp.isolated i GROUP BY i.sqlstate ORDER BY i.sqlstate;
	RETURN QUERY SELECT 'warning', 'timers', NULL::text,
			format('profiles and accounts whose time came at %s or later are not evaluated: %s', date_trunc('second', min(t.at)), count(*)),
			'the server log says why; they are tried again within the hour'
		FROM (SELECT t.at FROM cdp.timers t WHERE t.at < applier.clock - interval '1 minute' ORDER BY t.at LIMIT 1000) t
		WHERE running AND applier.paused_at IS NULL AND lag.entries = 0 HAVING count(*) > 0;
	RETURN QUERY SELECT 'info', 'rules', NULL::text, 'a change of the rules of identity has not gone through all of history', 'see cdp.progress'
		WHERE EXISTS (SELECT FROM cdp.rule_changes);
	RETURN QUERY SELECT 'warning', 'prepared', p.gid, format('a prepared transaction waits since %s', date_trunc('second', p.prepared)),
			'COMMIT PREPARED or ROLLBACK PREPARED: it holds back VACUUM, and its entries are not applied'
		FROM pg_prepared_xacts p WHERE p.database = current_database() AND p.prepared < now() - interval '1 hour';
	IF current_setting('autovacuum') = 'off' OR current_setting('track_counts') = 'off' THEN
		RETURN QUERY SELECT 'warning', 'autovacuum', NULL::text, 'autovacuum does not run: tables that are updated grow without end',
			'set autovacuum and track_counts to on';
	END IF;

	-- partitions
	RETURN QUERY SELECT 'warning', 'partitions', t.name, 'there is no partition for the next month', t.remedy
		FROM (VALUES ('events', 'SELECT cdp.make_partitions()'), ('changes', 'SELECT cdp.make_change_partitions()')) t (name, remedy)
		WHERE to_regclass(format('cdp.%I', t.name || '_' || month)) IS NULL
			AND (SELECT count(*) > 1 FROM pg_inherits i WHERE i.inhparent = format('cdp.%I', t.name)::regclass);
	-- in the month of the installation that is as it should be
	RETURN QUERY SELECT 'warning', 'partitions', t.name, 'the default partition takes what comes, for more than a month', t.remedy
		FROM (VALUES
			('events', 'SELECT cdp.make_partitions()',
				(SELECT e.received_at FROM cdp.events_default e ORDER BY e.xid, e.id LIMIT 1),
				(SELECT e.received_at FROM cdp.events_default e ORDER BY e.xid DESC, e.id DESC LIMIT 1)),
			('changes', 'SELECT cdp.make_change_partitions()',
				(SELECT c.at FROM cdp.changes_default c ORDER BY c.epoch, c.seq LIMIT 1),
				(SELECT c.at FROM cdp.changes_default c ORDER BY c.epoch DESC, c.seq DESC LIMIT 1))) t (name, remedy, first, last)
		WHERE t.first < date_trunc('month', cdp.clock()) AND t.last >= date_trunc('month', cdp.clock())
			AND to_regclass(format('cdp.%I', t.name || to_char(cdp.clock() AT TIME ZONE 'UTC', '"_y"YYYY"m"MM'))) IS NULL;

	-- definitions
	RETURN QUERY SELECT 'error', 'segment', s.name,
			coalesce('suspended: ' || s.last_error, 'suspended: its owner does not exist any more'),
			format('SELECT cdp.alter_segment(%L, …)', s.name)
		FROM cdp.segments s WHERE s.state = 'suspended';
	RETURN QUERY SELECT 'warning', 'segment', s.name, format('errors: %s, the last one: %s', s.errors, s.last_error),
			format('who raises one is left out: see SELECT * FROM cdp.stat_segments WHERE segment = %L', s.name)
		FROM cdp.segments s WHERE s.state = 'active' AND s.errors > 0 AND s.last_error_at > cdp.clock() - interval '1 day';
	RETURN QUERY SELECT 'error', 'trait', t.name, format('its owner %I does not exist any more', t.owner), format('SELECT cdp.alter_trait(%L) makes it yours', t.name)
		FROM cdp.traits t WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = t.owner);
	RETURN QUERY SELECT 'error', 'segment', s.name, 'entries that came while it was suspended do not count',
			format('SELECT cdp.reevaluate_segment(%L) counts them', s.name)
		FROM cdp.segments n JOIN cdp.segment_definitions s ON s.name = n.name
		WHERE n.state = 'active' AND EXISTS (SELECT FROM cdp.definition_depends d JOIN cdp.trait_definitions t ON t.id = d.trait_id AND t.hidden
			JOIN cdp.missed_traits e ON e.id = t.id
			WHERE d.kind = 'segment' AND (d.id = s.id OR d.id IN (SELECT h.id FROM cdp.segment_definitions h WHERE h.hidden AND h.id = ANY (s.segment_ids))));
	RETURN QUERY SELECT 'error', 'trait', t.name, 'entries that came while it was suspended do not count',
			format('SELECT cdp.alter_trait(%L) counts them, and makes it yours', t.name)
		FROM cdp.traits n JOIN cdp.trait_definitions t ON t.name = n.name AND t.entity = n.entity
		JOIN cdp.missed_traits e ON e.id = t.id
		WHERE n.status = 'active';
	RETURN QUERY SELECT 'warning', 'trait', t.name, format('errors: %s, the last one: %s', t.errors, t.last_error), 'what raises one does not count: see cdp.stat_traits'
		FROM cdp.stat_traits t WHERE t.errors > 0 AND t.last_at > cdp.clock() - interval '1 day';

	RETURN QUERY SELECT CASE WHEN a.status = 'triggers are missing' THEN 'warning' ELSE 'error' END, 'attachment', a.name, a.status,
			format('SELECT cdp.sync_attachment(%1$L) says what is in the way; SELECT cdp.drop_attachment(%1$L) ends it', a.name)
		FROM cdp.attachments a WHERE a.status NOT IN ('ok', 'being loaded');
	RETURN QUERY SELECT 'error', 'attachment', f.name, 'the mapping does not fit the relation: ' || f.fault,
			format('its rows wait until it does; then the worker, or SELECT cdp.sync_attachment(%L), logs them', f.name)
		FROM (SELECT a.name, cdp.attachment_fault(a.name) AS fault FROM cdp.attachments a WHERE a.status IN ('ok', 'being loaded')) f
		WHERE f.fault IS NOT NULL;

	RETURN QUERY SELECT 'warning', 'segment', s.segment, format('evaluating a profile takes %s µs on average', round(s.evaluation_us)),
			'every entry of everybody pays for it: a computed trait can keep what is costly, or the expression can be simpler'
		FROM cdp.stat_segments s WHERE s.evaluation_us > 1000;

	-- accounts
	RETURN QUERY
	WITH RECURSIVE up (start, number, identifier, parent) AS (
		SELECT a.account_id, a.account_id, a.identifier, a.parent
		FROM cdp.account_identities a
		WHERE a.parent IS NOT NULL
		  AND EXISTS (SELECT FROM cdp.account_identities c WHERE c.parent OPERATOR(cdp.=) a.identifier)
		UNION
		SELECT u.start, p.account_id, p.identifier, p.parent
		FROM up u JOIN cdp.account_identities p ON p.identifier OPERATOR(cdp.=) u.parent
		WHERE p.parent IS NOT NULL
	)
	SELECT 'warning', 'accounts', 'account ' || u.start,
		format('parents lead in a circle: accounts %s', string_agg(u.number::text, ', ' ORDER BY u.number)),
		'say of one of them that it has no parent: cdp.group(…, ''{"parent": null}''); traits that roll up count each account once meanwhile'
	FROM up u
	GROUP BY u.start
	HAVING u.start = min(u.number) AND bool_or(u.parent OPERATOR(cdp.=) (SELECT s.identifier FROM cdp.account_identities s WHERE s.account_id = u.start));

	-- limits
	RETURN QUERY SELECT 'warning', 'limits', g.reason, format('links refused by the %s guard: %s', g.reason, CASE WHEN g.n > 1000 THEN 'more than 1000' ELSE g.n::text END),
			'see cdp.refused_links() and cdp.links: an identifier that many share may have to be blocked, or to be a label'
		FROM (SELECT r.reason, (SELECT count(*) FROM (SELECT FROM cdp.links l WHERE l.reason = r.reason LIMIT 1001) l) AS n
			FROM unnest('{size,rate,bridge}'::text[]) r (reason)) g
		WHERE g.n > 0;
	-- who is large is known from ANALYZE, and then counted
	RETURN QUERY SELECT 'warning', 'limits', 'profile ' || c.profile_id, format('a profile has %s identifiers, of at most %s', c.n, guard),
			format('SELECT * FROM cdp.identifiers(%s): links beyond are refused; see cdp.bridges()', c.profile_id)
		FROM (SELECT v.profile_id, (SELECT count(*) FROM cdp.identities i WHERE i.profile_id = v.profile_id) AS n
			FROM pg_stats s
			JOIN pg_class t ON t.oid = 'cdp.identities'::regclass,
			LATERAL ROWS FROM (unnest(s.most_common_vals::text::bigint[]), unnest(s.most_common_freqs)) AS v (profile_id, freq)
			WHERE s.schemaname = 'cdp' AND s.tablename = 'identities' AND s.attname = 'profile_id'
				AND v.freq * t.reltuples > guard * 0.5) c
		WHERE guard > 0 AND c.n > guard * 0.8;
	RETURN QUERY SELECT 'info', 'limits', NULL::text, format('entries that wait: %s, of at most %s for profile(…, fresh => true)', lag.entries, current_setting('cdp.max_fresh_entries')),
			'fresh reads raise an error until the applier has caught up'
		WHERE lag.entries > current_setting('cdp.max_fresh_entries')::bigint;

	-- attached relations
	RETURN QUERY SELECT 'warning', 'attachment', d.name, format('its cursor %s has no index', d.mapping ->> 'cursor'),
			format('CREATE INDEX ON %s ((%s)): every look reads the whole table', d.relation, d.mapping ->> 'cursor')
		FROM cdp.attachment_definitions d
		JOIN pg_class c ON c.oid = to_regclass(d.relation) AND c.relkind IN ('r', 'p', 'm')
		WHERE d.mapping ? 'cursor' AND (c.relkind = 'p' OR pg_relation_size(c.oid) > 1000000)
			AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL
				AND btrim(pg_get_indexdef(i.indexrelid, 1, true), '()') = btrim(d.mapping ->> 'cursor', '()'));
	-- rows that share a key overwrite each other
	RETURN QUERY SELECT 'warning', 'attachment', d.name, format('nothing keeps its key (%s) unique', k.columns),
			format('CREATE UNIQUE INDEX ON %s (%s): rows with the same key would be taken for one', d.relation, k.columns)
		FROM cdp.attachment_definitions d
		JOIN pg_class c ON c.oid = to_regclass(d.relation) AND c.relkind IN ('r', 'p', 'm'),
		LATERAL (SELECT array_agg(e) AS names, string_agg(e, ', ') AS columns
			FROM jsonb_array_elements_text(CASE jsonb_typeof(d.mapping -> 'key') WHEN 'array' THEN d.mapping -> 'key'
				WHEN 'string' THEN jsonb_build_array(d.mapping -> 'key') ELSE '[]' END) e) k
		WHERE k.names IS NOT NULL
			AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
				AND k.names @> ARRAY(SELECT pg_get_indexdef(i.indexrelid, n, true) FROM generate_series(1, i.indnkeyatts) n));

	-- who reads the changes
	RETURN QUERY SELECT 'warning', 'subscription', l.subscription, format('%s; behind: %s', l.alarm, l.behind),
			CASE WHEN l.dead > 0 THEN format('SELECT * FROM cdp.dead_letters WHERE subscription = %L', l.subscription)
				ELSE format('look after the consumer, or SELECT cdp.unsubscribe(%L)', l.subscription) END
		FROM cdp.subscription_lag l WHERE l.alarm IS NOT NULL;
	RETURN QUERY SELECT 'warning', 'subscription', s.name, format('its filter names %s "%s", which is gone', w.what, w.name),
			format('SELECT cdp.alter_subscription(%L, filter => …)', s.name)
		FROM cdp.subscriptions s, LATERAL (
			SELECT 'segment' AS what, n AS name FROM unnest(s.segments) n
			WHERE NOT EXISTS (SELECT FROM cdp.segment_definitions d WHERE d.name = ANY (s.segments))
			UNION ALL
			SELECT 'trait', n FROM unnest(s.traits) n
			WHERE NOT EXISTS (SELECT FROM cdp.trait_definitions d WHERE d.name = ANY (s.traits))) w;
	IF usage > current_setting('cdp.notify_queue_limit')::float8 AND current_setting('cdp.notify_queue_limit')::float8 > 0 THEN
		RETURN QUERY SELECT 'error', 'notify', NULL::text, format('the queue of notifications is %s %% full: changes are not announced', round((usage * 100)::numeric, 1)),
			'a session listens and sleeps in a transaction: see pg_stat_activity';
	ELSIF usage > current_setting('cdp.notify_queue_limit')::float8 / 2 THEN
		RETURN QUERY SELECT 'warning', 'notify', NULL::text, format('the queue of notifications is %s %% full', round((usage * 100)::numeric, 1)),
			'a session listens and sleeps in a transaction: see pg_stat_activity';
	END IF;
	RETURN QUERY SELECT 'warning', 'notify', NULL::text, format('batches that were not announced: %s, the last at %s', n.batches, date_trunc('second', n.last_at)),
			'the queue of notifications was too full; consumers that poll miss nothing'
		FROM cdp.notify_skipped n WHERE n.last_at > clock_timestamp() - interval '1 day';
	IF current_setting('cdp.emit_logical') = 'on' AND current_setting('wal_level') <> 'logical' THEN
		RETURN QUERY SELECT 'warning', 'logical', NULL::text, 'cdp.emit_logical has no effect', 'set wal_level to logical and restart the server';
	END IF;
END
$$;
COMMENT ON FUNCTION cdp.check() IS
	'what an operator should know: severity error (something is not done), warning (it will not be, or someone waits) or info; what it is about, what was found, and what to do. No row: all is well. Reads no big table as a whole';
REVOKE ALL ON FUNCTION cdp.check() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.check() TO pg_monitor;
