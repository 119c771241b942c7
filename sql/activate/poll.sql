/* sql/activate/poll.sql: delivering changes and settling them */

-- The payload with what the subscription wants to have included.
CREATE FUNCTION cdp.include_payload(payload jsonb, profile jsonb, include jsonb) RETURNS jsonb
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	part text;
	chosen jsonb;
BEGIN
	FOREACH part IN ARRAY ARRAY['identifiers', 'traits'] LOOP
		chosen := coalesce(profile -> part, '{}');
		IF jsonb_typeof(include -> part) = 'array' THEN
			SELECT coalesce(jsonb_object_agg(k, v), '{}') INTO chosen
			FROM jsonb_each(chosen) AS e (k, v) WHERE include -> part ? k;
		ELSIF include -> part IS DISTINCT FROM 'true' THEN
			CONTINUE;
		END IF;
		payload := coalesce(payload, '{}') || jsonb_build_object(part, chosen);
	END LOOP;
	RETURN payload;
END
$$;
COMMENT ON FUNCTION cdp.include_payload(jsonb, jsonb, jsonb) IS 'internal: a payload with identifiers and traits';

-- The call that Segment's audiences and computed traits would make.
CREATE FUNCTION cdp.segment_payload(change cdp.changes, profile jsonb, call text) RETURNS jsonb
	LANGUAGE plpgsql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	SET timezone = 'UTC'
AS $$
DECLARE
	class text;
	key text;
	value jsonb;
	payload jsonb;
BEGIN
	IF change.kind IN ('segment_entered', 'segment_exited') THEN
		class := 'audience';
		key := change.segment;
		value := to_jsonb(change.kind = 'segment_entered');
	ELSIF change.kind = 'trait_changed' THEN
		class := 'trait';
		key := change.payload ->> 'trait';
		value := change.payload -> 'new';
	ELSE
		RETURN NULL;
	END IF;
	payload := CASE WHEN call = 'identify' THEN
			jsonb_build_object('type', CASE WHEN change.entity = 'account' THEN 'group' ELSE 'identify' END,
				'traits', jsonb_build_object(key, value))
		ELSE jsonb_build_object('type', 'track',
			'event', CASE WHEN class = 'trait' THEN 'Trait Computed'
				WHEN value = 'true' THEN 'Audience Entered' ELSE 'Audience Exited' END,
			'properties', jsonb_build_object(class || '_key', key, key, value))
		END;
	payload := payload || jsonb_build_object(
		'messageId', format('cdp-%s-%s', change.epoch, change.seq),
		'timestamp', to_char(change.occurred_at, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
		'context', jsonb_build_object('personas', jsonb_build_object(
			'computation_class', class, 'computation_key', key, 'namespace', 'cdp')));
	-- an account's call is nobody's; those who have no identifier of these kinds go by the number
	IF change.entity = 'account' THEN
		payload := payload || jsonb_build_object('anonymousId', 'cdp-account-' || change.profile_id);
		-- no row: the account is gone
		SELECT v -> 0 INTO value FROM jsonb_each(profile -> 'identifiers') AS i (k, v) LIMIT 1;
		IF FOUND THEN
			payload := jsonb_set(payload, CASE WHEN call = 'identify' THEN '{groupId}' ELSE '{context,groupId}' END::text[], value);
		END IF;
	ELSIF profile -> 'identifiers' ? 'user_id' THEN
		payload := payload || jsonb_build_object('userId', profile #> '{identifiers,user_id,0}');
	ELSE
		payload := payload || jsonb_build_object('anonymousId',
			coalesce(profile #>> '{identifiers,anonymous_id,0}', 'cdp-' || change.profile_id));
	END IF;
	RETURN payload;
END
$$;
COMMENT ON FUNCTION cdp.segment_payload(cdp.changes, jsonb, text) IS
	'what Segment sends for such a change: call track (Audience Entered, Audience Exited, Trait Computed) or identify, which for an account is group; profile: its identifiers as cdp.profile() gives them; NULL for kinds of changes that have no such form';

-- A change as the subscription wants to have it.
CREATE FUNCTION cdp.render_change(change cdp.changes, s cdp.subscriptions) RETURNS jsonb
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	profile jsonb;
	payload jsonb := change.payload;
BEGIN
	IF change.kind = 'erased' THEN
		RETURN CASE WHEN payload ? 'identifiers' THEN jsonb_set(payload, '{identifiers}',
			(SELECT coalesce(jsonb_object_agg(k, CASE WHEN cdp.hidden('kind', k) THEN '["***"]' ELSE v END), '{}')
			FROM jsonb_each(payload -> 'identifiers') e (k, v))) ELSE payload END;
	ELSIF change.profile_id IS NULL THEN
		RETURN payload;
	END IF;
	IF change.kind = 'trait_changed' AND cdp.hidden(
			CASE change.entity WHEN 'account' THEN 'account_trait' ELSE 'trait' END, payload ->> 'trait') THEN
		payload := payload || '{"old": "***", "new": "***"}';
		change.payload := payload;
	END IF;
	IF s.include = '{}' AND s.format = 'cdp' THEN
		RETURN payload;
	END IF;
	IF change.entity = 'account' THEN
		SELECT jsonb_build_object('traits', cdp.account(a.identifier) -> 'traits', 'identifiers',
			jsonb_build_object(cdp.kind(a.identifier), jsonb_build_array(cdp.value(a.identifier)))) INTO profile
		FROM cdp.account_identities a WHERE a.account_id = change.profile_id;
	ELSE
		profile := cdp.profile(change.profile_id);
	END IF;
	IF s.format <> 'cdp' THEN
		payload := cdp.segment_payload(change, profile, substr(s.format, 9));
		IF change.seq < 0 THEN
			payload := jsonb_set(payload, '{messageId}',
				to_jsonb(format('cdp-%s-%s%s', change.epoch, s.name, change.seq)));
		END IF;
		IF s.include <> '{}' THEN
			payload := jsonb_set(payload, '{context}',
				cdp.include_payload(payload -> 'context', profile, s.include));
		END IF;
		RETURN payload;
	END IF;
	RETURN cdp.include_payload(payload, profile, s.include);
END
$$;
COMMENT ON FUNCTION cdp.render_change(cdp.changes, cdp.subscriptions) IS 'internal: the payload of a change as a subscription wants it';

-- How long a change waits that has been refused so often.
CREATE FUNCTION cdp.backoff(first interval, tries int) RETURNS interval
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT greatest(first, least(first * power(2, least(tries, 31) - 1), interval '1 hour'));
END;
COMMENT ON FUNCTION cdp.backoff(interval, int) IS 'internal: how long a change waits that has been refused so often: doubled each time, up to an hour';

-- Everything up to the position is acknowledged; never goes back.
CREATE FUNCTION cdp.move_position(name text, epoch int, seq bigint) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
	UPDATE cdp.subscriptions s SET epoch = epoch, acked_seq = seq
	WHERE s.name = name AND (s.epoch, s.acked_seq) < (epoch, seq);
	IF FOUND THEN
		DELETE FROM cdp.deliveries d
		WHERE d.subscription = name AND (d.epoch, d.seq) <= (epoch, seq);
	END IF;
END
$$;
COMMENT ON FUNCTION cdp.move_position(text, int, bigint) IS 'internal: move the acknowledged position of a subscription forward';

-- Move the position to before the first change that is not settled. When
-- another consumer is at that, it will, or a later one.
CREATE FUNCTION cdp.advance(name text) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
	SET enable_sort = off
AS $$
#variable_conflict use_variable
DECLARE
	s cdp.subscriptions;
	head_epoch int;
	head bigint;
	first record;
	clock timestamptz := cdp.clock();
	purposed constant text[] := cdp.purposed_segments();
BEGIN
	-- before the changes are read: whatever is up to here is seen by that
	SELECT a.epoch, a.next_seq - 1 INTO head_epoch, head FROM cdp.applier a;
	-- nothing is written when there is nothing to do
	IF NOT EXISTS (SELECT FROM cdp.subscriptions t
			WHERE t.name = name AND (t.epoch, t.acked_seq) < (head_epoch, head)) THEN
		RETURN;
	END IF;
	SELECT * INTO s FROM cdp.subscriptions t WHERE t.name = name FOR UPDATE SKIP LOCKED;
	IF NOT FOUND THEN
		RETURN;
	END IF;
	SELECT c.epoch, c.seq INTO first FROM cdp.changes c
	WHERE (c.epoch, c.seq) > (s.epoch, s.acked_seq) AND cdp.change_matches(s, clock, c.kind, c.entity, c.segment, c.cause, c.occurred_at, c.payload)
		AND NOT (c.kind = 'segment_entered' AND c.segment = ANY (purposed) AND cdp.lacks_consent(c.segment, c.profile_id))
		AND NOT EXISTS (SELECT FROM cdp.deliveries d
			WHERE d.subscription = name AND d.epoch = c.epoch AND d.seq = c.seq AND d.acked)
	ORDER BY c.epoch, c.seq LIMIT 1;
	IF NOT FOUND THEN
		PERFORM cdp.move_position(name, head_epoch, head);
	ELSE
		PERFORM cdp.move_position(name, first.epoch, first.seq - 1);
	END IF;
END
$$;
COMMENT ON FUNCTION cdp.advance(text) IS 'internal: move the position of a subscription to before the first change that is not settled';

-- Of what is queued and comes next, forget the entries of those who do not
-- consent (any more) to the segment's purpose.
CREATE FUNCTION cdp.withhold_queued(s cdp.subscriptions, purposed text[], max int, clock timestamptz) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
	LOOP
		DELETE FROM cdp.subscription_queue q USING (
			SELECT r.epoch, r.seq, r.kind, r.segment, r.profile_id FROM cdp.subscription_queue r
			WHERE r.subscription = s.name AND r.dead_at IS NULL AND r.visible_at <= clock
			ORDER BY r.epoch, r.seq LIMIT max) n
		WHERE q.subscription = s.name AND q.epoch = n.epoch AND q.seq = n.seq
			AND n.kind = 'segment_entered' AND n.segment = ANY (purposed)
			AND cdp.lacks_consent(n.segment, n.profile_id);
		EXIT WHEN NOT FOUND;
	END LOOP;
END
$$;
COMMENT ON FUNCTION cdp.withhold_queued(cdp.subscriptions, text[], int, timestamptz) IS 'internal: of what is queued, forget entries into segments to whose purpose the person does not consent';
REVOKE ALL ON FUNCTION cdp.withhold_queued(cdp.subscriptions, text[], int, timestamptz) FROM PUBLIC;

-- One consumer: what is queued, then changes after the position, in order.
-- Nothing behind a change that was refused and has to wait. Polling twice
-- without acknowledging gives the same again.
CREATE FUNCTION cdp.poll_in_order(s cdp.subscriptions, max int, clock timestamptz) RETURNS SETOF cdp.changes
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
	SET enable_sort = off
AS $$
#variable_conflict use_variable
DECLARE
	writable constant boolean := current_setting('transaction_read_only') = 'off';
	purposed constant text[] := cdp.purposed_segments();
	held record;
	n bigint;
BEGIN
	IF writable AND cardinality(purposed) > 0 THEN
		PERFORM cdp.withhold_queued(s, purposed, max, clock);
	END IF;
	SELECT h.epoch, h.seq INTO held FROM (
		(SELECT d.epoch, d.seq FROM cdp.deliveries d
		WHERE d.subscription = s.name AND NOT d.acked AND d.visible_at > clock ORDER BY 1, 2 LIMIT 1)
		UNION ALL
		(SELECT q.epoch, q.seq FROM cdp.subscription_queue q
		WHERE q.subscription = s.name AND q.dead_at IS NULL AND q.visible_at > clock ORDER BY 1, 2 LIMIT 1)) h
	ORDER BY 1, 2 LIMIT 1;
	IF NOT FOUND THEN
		SELECT 2147483647 AS epoch, 0::bigint AS seq INTO held;
	END IF;

	IF writable AND EXISTS (SELECT FROM cdp.subscription_queue q
			WHERE q.subscription = s.name AND q.retry AND q.dead_at IS NULL AND q.visible_at > '-infinity') THEN
		WITH next AS MATERIALIZED (
			SELECT r.epoch, r.seq FROM cdp.subscription_queue r
			WHERE r.subscription = s.name AND r.dead_at IS NULL AND r.visible_at <= clock
				AND (r.epoch, r.seq) < (held.epoch, held.seq)
			ORDER BY r.epoch, r.seq LIMIT max)
		UPDATE cdp.subscription_queue q SET tries = q.tries + 1
		FROM next r
		WHERE q.subscription = s.name AND q.epoch = r.epoch AND q.seq = r.seq AND q.retry;
	END IF;
	RETURN QUERY
		SELECT f.* FROM (
			(SELECT q.epoch, q.seq, q.kind, q.entity, q.profile_id, q.segment, q.payload, q.cause, q.occurred_at, q.at
			FROM cdp.subscription_queue q
			WHERE q.subscription = s.name AND q.dead_at IS NULL AND q.visible_at <= clock
				AND (NOT q.retry OR writable) AND (q.epoch, q.seq) < (held.epoch, held.seq)
				AND NOT (q.kind = 'segment_entered' AND q.segment = ANY (purposed) AND cdp.lacks_consent(q.segment, q.profile_id))
			ORDER BY q.epoch, q.seq LIMIT max)
			UNION ALL
			(SELECT c.* FROM cdp.changes c
			WHERE (c.epoch, c.seq) > (s.epoch, s.acked_seq) AND (c.epoch, c.seq) < (held.epoch, held.seq)
				AND cdp.change_matches(s, clock, c.kind, c.entity, c.segment, c.cause, c.occurred_at, c.payload)
				AND NOT (c.kind = 'segment_entered' AND c.segment = ANY (purposed) AND cdp.lacks_consent(c.segment, c.profile_id))
				AND NOT EXISTS (SELECT FROM cdp.deliveries d
					WHERE d.subscription = s.name AND d.epoch = c.epoch AND d.seq = c.seq AND d.acked)
			ORDER BY c.epoch, c.seq LIMIT max)) f
		ORDER BY f.epoch, f.seq LIMIT max;
	GET DIAGNOSTICS n = ROW_COUNT;

	-- nothing up to the head is left: do not read all that again next time
	IF n = 0 AND held.epoch = 2147483647 AND writable THEN
		PERFORM cdp.advance(s.name);
	END IF;
END
$$;
COMMENT ON FUNCTION cdp.poll_in_order(cdp.subscriptions, int, timestamptz) IS 'internal: what is next for the one consumer of a subscription';

-- Several consumers: what one has polled is kept from the others for the
-- subscription's visibility. What is in the queue is claimed by its row. A
-- change is claimed by a lock that is only tried for; after that, a new
-- statement, hence a new snapshot, looks whether another consumer has committed
-- a delivery in between. What was polled and not settled in time goes to the
-- queue, so that it does not hold the position back.
CREATE FUNCTION cdp.poll_competing(s cdp.subscriptions, max int, clock timestamptz) RETURNS SETOF cdp.changes
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
	SET enable_sort = off
AS $$
#variable_conflict use_variable
DECLARE
	most constant int := 200;	-- every claim is an entry of the server's table of locks
	purposed constant text[] := cdp.purposed_segments();
	late record;
	queued cdp.changes[];
	taken cdp.changes[] := '{}';
	change cdp.changes;
	seen boolean := false;
BEGIN
	FOR late IN SELECT d.epoch, d.seq, d.tries FROM cdp.deliveries d
		WHERE d.subscription = s.name AND NOT d.acked AND d.visible_at <= clock
		ORDER BY d.visible_at LIMIT most FOR UPDATE SKIP LOCKED
	LOOP
		PERFORM cdp.set_aside(s, late.epoch, late.seq, late.tries, '-infinity', NULL);
	END LOOP;
	IF cardinality(purposed) > 0 THEN
		PERFORM cdp.withhold_queued(s, purposed, max, clock);
	END IF;
	-- MATERIALIZED: rows are to be locked once, not again for each of a join
	WITH worn AS MATERIALIZED (
		SELECT r.epoch, r.seq FROM cdp.subscription_queue r
		WHERE r.subscription = s.name AND r.dead_at IS NULL AND r.visible_at > '-infinity'
			AND r.visible_at <= clock AND r.tries >= s.max_tries
		FOR UPDATE SKIP LOCKED)
	UPDATE cdp.subscription_queue q SET dead_at = clock
	FROM worn r
	WHERE q.subscription = s.name AND q.epoch = r.epoch AND q.seq = r.seq;

	WITH next AS MATERIALIZED (
		SELECT r.epoch, r.seq FROM cdp.subscription_queue r
		WHERE r.subscription = s.name AND r.dead_at IS NULL AND r.visible_at <= clock
		ORDER BY r.epoch, r.seq LIMIT max FOR UPDATE SKIP LOCKED
	), mine AS (
		UPDATE cdp.subscription_queue q SET visible_at = clock + s.visibility, tries = q.tries + 1
		FROM next r
		WHERE q.subscription = s.name AND q.epoch = r.epoch AND q.seq = r.seq
		RETURNING q.*)
	SELECT array_agg(ROW(m.epoch, m.seq, m.kind, m.entity, m.profile_id, m.segment, m.payload,
		m.cause, m.occurred_at, m.at)::cdp.changes) INTO queued FROM mine m;

	max := least(max - coalesce(cardinality(queued), 0), most);
	IF max > 0 THEN
		FOR change IN
			SELECT c.* FROM cdp.changes c
			WHERE (c.epoch, c.seq) > (s.epoch, s.acked_seq) AND cdp.change_matches(s, clock, c.kind, c.entity, c.segment, c.cause, c.occurred_at, c.payload)
				AND NOT (c.kind = 'segment_entered' AND c.segment = ANY (purposed) AND cdp.lacks_consent(c.segment, c.profile_id))
				AND NOT EXISTS (SELECT FROM cdp.deliveries d
					WHERE d.subscription = s.name AND d.epoch = c.epoch AND d.seq = c.seq)
			ORDER BY c.epoch, c.seq
		LOOP
			seen := true;
			IF cdp.claim_change(s.name, change.epoch, change.seq) THEN
				taken := taken || change;
				EXIT WHEN cardinality(taken) >= max;
			END IF;
		END LOOP;
	END IF;
	IF cardinality(taken) > 0 THEN
		WITH mine AS (
			INSERT INTO cdp.deliveries (subscription, epoch, seq, visible_at)
			SELECT s.name, f.epoch, f.seq, clock + s.visibility FROM unnest(taken) f
			WHERE EXISTS (SELECT FROM cdp.subscriptions t
				WHERE t.name = s.name AND (f.epoch, f.seq) > (t.epoch, t.acked_seq))
			ON CONFLICT ON CONSTRAINT deliveries_pkey DO NOTHING
			RETURNING epoch, seq)
		SELECT coalesce(array_agg(f), '{}') INTO taken
		FROM unnest(taken) f JOIN mine ON mine.epoch = f.epoch AND mine.seq = f.seq;
	ELSIF NOT seen AND max > 0 THEN
		PERFORM cdp.advance(s.name);
	END IF;
	RETURN QUERY SELECT f.* FROM unnest(queued || taken) f ORDER BY f.epoch, f.seq;
END
$$;
COMMENT ON FUNCTION cdp.poll_competing(cdp.subscriptions, int, timestamptz) IS 'internal: what is next for one of several consumers of a subscription';

CREATE FUNCTION cdp.poll(name text, max int DEFAULT 100) RETURNS SETOF cdp.changes
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	s cdp.subscriptions := cdp.subscription(name);
	clock timestamptz := cdp.clock();
	plain boolean;		-- changes go out as they are
BEGIN
	IF max IS NULL OR max < 1 THEN
		RAISE EXCEPTION 'max must be at least 1' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	IF current_setting('transaction_read_only') = 'off'
		AND (s.last_poll_at IS NULL OR s.last_poll_at < clock - interval '1 second') THEN
		PERFORM FROM cdp.subscriptions t WHERE t.name = name FOR UPDATE SKIP LOCKED;
		IF FOUND THEN
			UPDATE cdp.subscriptions t SET last_poll_at = clock WHERE t.name = name;
		END IF;
	END IF;
	IF s.paused_at IS NOT NULL THEN
		RETURN;
	END IF;
	plain := s.include = '{}' AND s.format = 'cdp' AND NOT EXISTS (SELECT FROM cdp.sensitive_names);
	IF s.visibility IS NULL AND plain THEN
		RETURN QUERY SELECT * FROM cdp.poll_in_order(s, max, clock);
	ELSIF s.visibility IS NULL THEN
		RETURN QUERY SELECT f.epoch, f.seq, f.kind, f.entity, f.profile_id, f.segment,
				cdp.render_change(f, s), f.cause, f.occurred_at, f.at
			FROM cdp.poll_in_order(s, max, clock) f;
	ELSIF plain THEN
		RETURN QUERY SELECT * FROM cdp.poll_competing(s, max, clock);
	ELSE
		RETURN QUERY SELECT f.epoch, f.seq, f.kind, f.entity, f.profile_id, f.segment,
				cdp.render_change(f, s), f.cause, f.occurred_at, f.at
			FROM cdp.poll_competing(s, max, clock) f;
	END IF;
END
$$;
COMMENT ON FUNCTION cdp.poll(text, int) IS
	'the next changes of a subscription, at most max: those that are not acknowledged and that its filter lets through; nothing while it is paused. One of several consumers gets at most 200 that were not delivered before. Errors: undefined_object, invalid_parameter_value; feature_not_supported for several consumers at another isolation level than READ COMMITTED';

-- The epochs in which a consumer that has polled after a position has seen
-- these numbers. An error when one of them was not given out.
CREATE FUNCTION cdp.epochs_of(s cdp.subscriptions, seqs bigint[], epoch int)
	RETURNS TABLE (at_epoch int, at_seq bigint)
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	head_epoch int;
	head bigint;
	wrong bigint;
BEGIN
	SELECT a.epoch, a.next_seq - 1 INTO head_epoch, head FROM cdp.applier a;
	head_epoch := coalesce(head_epoch, 0);
	head := coalesce(head, 0);
	IF seqs IS NULL OR array_position(seqs, NULL) IS NOT NULL THEN
		RAISE EXCEPTION 'cannot acknowledge NULL' USING ERRCODE = 'null_value_not_allowed';
	END IF;
	SELECT max(u) INTO wrong FROM unnest(seqs) u;
	IF wrong > head OR epoch > head_epoch THEN
		RAISE EXCEPTION 'cannot acknowledge %, above the head', coalesce(epoch || ':', '') || wrong
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = format('The head is %s in epoch %s.', head, head_epoch),
				HINT = 'When the epoch has changed, the database was restored to an earlier state: poll again from there.';
	END IF;
	IF epoch < head_epoch THEN
		SELECT u INTO wrong FROM unnest(seqs) u
		WHERE u >= 0 AND (epoch, u) > (s.epoch, s.acked_seq)
			AND NOT EXISTS (SELECT FROM cdp.changes c WHERE c.epoch = epoch AND c.seq = u)
		LIMIT 1;
		IF FOUND THEN
			RAISE EXCEPTION 'cannot acknowledge %, which epoch % does not have', wrong, epoch
				USING ERRCODE = 'invalid_parameter_value',
					DETAIL = format('The head is %s in epoch %s.', head, head_epoch),
					HINT = 'The database was restored to an earlier state: poll again from there.';
		END IF;
	END IF;
	RETURN QUERY SELECT DISTINCT CASE
			-- members and what is tried again know theirs
			WHEN q.epoch IS NOT NULL THEN q.epoch
			WHEN epoch IS NOT NULL OR s.epoch = head_epoch THEN coalesce(epoch, head_epoch)
			ELSE coalesce((SELECT c.epoch FROM cdp.changes c
					WHERE c.seq = u AND (c.epoch, c.seq) > (s.epoch, s.acked_seq)
					ORDER BY c.epoch LIMIT 1),
				CASE WHEN u <= s.acked_seq THEN s.epoch ELSE head_epoch END)
		END, u
	FROM unnest(seqs) u
	LEFT JOIN LATERAL (SELECT q.epoch FROM cdp.subscription_queue q
		WHERE q.subscription = s.name AND q.seq = u AND q.dead_at IS NULL
			AND (u < 0 OR epoch IS NULL OR q.epoch = epoch)
		ORDER BY q.epoch LIMIT 1) q ON true
	ORDER BY 1, 2;
END
$$;
COMMENT ON FUNCTION cdp.epochs_of(cdp.subscriptions, bigint[], int) IS 'internal: the epochs that the numbers of changes belong to which a subscriber settles';

CREATE FUNCTION cdp.ack(name text, seq bigint, epoch int DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	s cdp.subscriptions := cdp.subscription(name);
	clock timestamptz := cdp.clock();
	refused bigint;
BEGIN
	SELECT e.at_epoch INTO epoch FROM cdp.epochs_of(s, ARRAY[seq], epoch) e;
	SELECT d.seq INTO refused FROM cdp.deliveries d
	WHERE s.visibility IS NULL AND d.subscription = name AND NOT d.acked AND d.visible_at > clock
		AND (d.epoch, d.seq) <= (epoch, seq) LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'cannot acknowledge up to %: change % was refused and is to be tried again', seq, refused
			USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = 'Acknowledge what comes before it, or single changes: ack(name, ARRAY[...]).';
	END IF;
	DELETE FROM cdp.subscription_queue q
	WHERE q.subscription = name AND q.dead_at IS NULL AND (q.epoch, q.seq) <= (epoch, seq)
		AND q.visible_at <= clock AND (NOT q.retry OR q.tries > 0);
	IF seq >= 0 THEN
		PERFORM cdp.move_position(name, epoch, seq);
	END IF;
	PERFORM cdp.erased_acknowledged(name);
END
$$;
COMMENT ON FUNCTION cdp.ack(text, bigint, int) IS
	'acknowledge all changes of a subscription up to seq, what was refused and waits excepted; nothing happens when they are acknowledged already. Errors: undefined_object; invalid_parameter_value for a number above the head, or one that the epoch does not have; object_not_in_prerequisite_state when one consumer has refused a change before it';

CREATE FUNCTION cdp.ack(name text, seqs bigint[], epoch int DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	s cdp.subscriptions := cdp.subscription(name);
BEGIN
	-- always in the same order, so that consumers cannot deadlock
	WITH done AS MATERIALIZED (
		SELECT e.at_epoch, e.at_seq FROM cdp.epochs_of(s, seqs, epoch) e
	), unqueued AS (
		DELETE FROM cdp.subscription_queue q USING done e
		WHERE q.subscription = name AND q.epoch = e.at_epoch AND q.seq = e.at_seq AND q.dead_at IS NULL
	)
	INSERT INTO cdp.deliveries (subscription, epoch, seq, visible_at, acked)
	SELECT name, e.at_epoch, e.at_seq, 'infinity', true FROM done e
	WHERE e.at_seq >= 0 AND (e.at_epoch, e.at_seq) > (s.epoch, s.acked_seq)
	ORDER BY 2, 3
	ON CONFLICT ON CONSTRAINT deliveries_pkey DO UPDATE SET acked = true, visible_at = 'infinity';
	PERFORM cdp.advance(name);
	PERFORM cdp.erased_acknowledged(name);
END
$$;
COMMENT ON FUNCTION cdp.ack(text, bigint[], int) IS
	'acknowledge single changes of a subscription, as each of several consumers does; nothing happens for those that are acknowledged already. Errors: undefined_object; invalid_parameter_value for a number above the head, or one that the epoch does not have';

-- A change leaves the stream for the queue, to be tried again or as dead. Its
-- row of cdp.deliveries, which the caller has locked or makes, settles it.
CREATE FUNCTION cdp.set_aside(s cdp.subscriptions, epoch int, seq bigint, tries int,
		visible_at timestamptz, error text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	dead_at timestamptz := CASE WHEN tries >= s.max_tries THEN cdp.clock() END;
BEGIN
	INSERT INTO cdp.subscription_queue (subscription, epoch, seq, kind, entity, profile_id, segment,
		payload, cause, occurred_at, at, visible_at, tries, retry, dead_at, error)
	SELECT s.name, c.epoch, c.seq, c.kind, c.entity, c.profile_id, c.segment,
		c.payload, c.cause, c.occurred_at, c.at,
		-- -infinity stands for never delivered
		greatest(visible_at, cdp.clock()), tries, true, dead_at, error
	FROM cdp.changes c WHERE c.epoch = epoch AND c.seq = seq
	ON CONFLICT ON CONSTRAINT subscription_queue_pkey DO NOTHING;
	UPDATE cdp.deliveries d SET acked = true, visible_at = 'infinity'
	WHERE d.subscription = s.name AND d.epoch = epoch AND d.seq = seq;
	RETURN dead_at IS NOT NULL;
END
$$;
COMMENT ON FUNCTION cdp.set_aside(cdp.subscriptions, int, bigint, int, timestamptz, text) IS 'internal: put a change into the queue of a subscription, to be tried again or as dead; whether it is dead';

CREATE FUNCTION cdp.nack(name text, seqs bigint[], error text DEFAULT NULL,
		delay interval DEFAULT NULL, epoch int DEFAULT NULL) RETURNS int
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_variable
DECLARE
	s cdp.subscriptions := cdp.subscription(name);
	clock timestamptz := cdp.clock();
	ordered constant boolean := s.visibility IS NULL;
	e record;
	tries int;
	refused int := 0;
BEGIN
	IF delay < '0' THEN
		RAISE EXCEPTION 'delay must not be negative' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	FOR e IN SELECT * FROM cdp.epochs_of(s, seqs, epoch) LOOP
		-- in the queue: one consumer has not counted the delivery of members
		UPDATE cdp.subscription_queue q
		SET tries = q.tries + (ordered AND NOT q.retry)::int,
			visible_at = clock + coalesce(delay, cdp.backoff(s.backoff, q.tries + (ordered AND NOT q.retry)::int)),
			dead_at = CASE WHEN q.tries + (ordered AND NOT q.retry)::int >= s.max_tries THEN clock END,
			error = error
		WHERE q.subscription = name AND q.epoch = e.at_epoch AND q.seq = e.at_seq AND q.dead_at IS NULL;
		IF FOUND THEN
			refused := refused + 1;
			CONTINUE;
		END IF;
		CONTINUE WHEN e.at_seq < 0 OR (e.at_epoch, e.at_seq) <= (s.epoch, s.acked_seq);

		INSERT INTO cdp.deliveries AS d (subscription, epoch, seq, visible_at, error)
		SELECT name, c.epoch, c.seq, clock + coalesce(delay, s.backoff), error
		FROM cdp.changes c
		WHERE c.epoch = e.at_epoch AND c.seq = e.at_seq AND cdp.change_matches(s, clock, c.kind, c.entity, c.segment, c.cause, c.occurred_at, c.payload)
		-- the consumer that has polled it has counted the delivery
		ON CONFLICT ON CONSTRAINT deliveries_pkey DO UPDATE
			SET tries = d.tries + ordered::int, error = excluded.error,
				visible_at = clock + coalesce(delay, cdp.backoff(s.backoff, d.tries + ordered::int))
			WHERE NOT d.acked
		RETURNING d.tries INTO tries;
		CONTINUE WHEN NOT FOUND;
		refused := refused + 1;
		-- one consumer waits for it, so that order is kept; several go on
		IF NOT ordered OR tries >= s.max_tries THEN
			PERFORM cdp.set_aside(s, e.at_epoch, e.at_seq, tries,
				clock + coalesce(delay, cdp.backoff(s.backoff, tries)), error);
		END IF;
	END LOOP;
	IF refused > 0 THEN
		PERFORM cdp.advance(name);
	END IF;
	RETURN refused;
END
$$;
COMMENT ON FUNCTION cdp.nack(text, bigint[], text, interval, int) IS
	'refuse changes that could not be processed: they come again after delay (NULL: the subscription''s backoff, doubled with every refusal), and are set aside in cdp.dead_letters with the error after max_tries; how many of them were not settled before. The one consumer of a subscription gets nothing behind them until then. Errors: undefined_object; invalid_parameter_value for a number above the head, or one that the epoch does not have';

CREATE FUNCTION cdp.nack(name text, seq bigint, error text DEFAULT NULL,
		delay interval DEFAULT NULL, epoch int DEFAULT NULL) RETURNS int
	LANGUAGE sql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT cdp.nack(name, ARRAY[seq], error, delay, epoch);
END;
COMMENT ON FUNCTION cdp.nack(text, bigint, text, interval, int) IS 'refuse one change: see nack(text, bigint[], text, interval, int)';

CREATE VIEW cdp.dead_letters AS
	SELECT q.subscription, q.epoch, q.seq, q.kind, q.entity, q.profile_id, q.segment, q.payload,
		q.cause, q.occurred_at, q.at, q.tries, q.dead_at, q.error
	FROM cdp.subscription_queue q WHERE q.dead_at IS NOT NULL;
COMMENT ON VIEW cdp.dead_letters IS 'changes that were tried max_tries times and set aside: see cdp.requeue() and cdp.discard()';

CREATE FUNCTION cdp.requeue(name text, seqs bigint[] DEFAULT NULL, epoch int DEFAULT NULL) RETURNS int
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	n int;
BEGIN
	PERFORM cdp.subscription(name);
	UPDATE cdp.subscription_queue q
	SET dead_at = NULL, tries = 0, retry = true, visible_at = cdp.clock()
	WHERE q.subscription = name AND q.dead_at IS NOT NULL
		AND (seqs IS NULL OR q.seq = ANY (seqs)) AND (epoch IS NULL OR q.epoch = epoch);
	GET DIAGNOSTICS n = ROW_COUNT;
	RETURN n;
END
$$;
COMMENT ON FUNCTION cdp.requeue(text, bigint[], int) IS 'deliver again what was set aside in cdp.dead_letters: those numbers (NULL: all), of that epoch (NULL: any); how many; undefined_object when there is no such subscription';

CREATE FUNCTION cdp.discard(name text, seqs bigint[] DEFAULT NULL, epoch int DEFAULT NULL) RETURNS int
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	n int;
BEGIN
	PERFORM cdp.subscription(name);
	DELETE FROM cdp.subscription_queue q
	WHERE q.subscription = name AND q.dead_at IS NOT NULL
		AND (seqs IS NULL OR q.seq = ANY (seqs)) AND (epoch IS NULL OR q.epoch = epoch);
	GET DIAGNOSTICS n = ROW_COUNT;
	RETURN n;
END
$$;
COMMENT ON FUNCTION cdp.discard(text, bigint[], int) IS 'forget what was set aside in cdp.dead_letters: those numbers (NULL: all), of that epoch (NULL: any); how many; undefined_object when there is no such subscription';

REVOKE ALL ON cdp.dead_letters FROM PUBLIC;
REVOKE ALL ON FUNCTION cdp.include_payload(jsonb, jsonb, jsonb), cdp.segment_payload(cdp.changes, jsonb, text),
	cdp.render_change(cdp.changes, cdp.subscriptions), cdp.backoff(interval, int),
	cdp.move_position(text, int, bigint), cdp.advance(text),
	cdp.poll_in_order(cdp.subscriptions, int, timestamptz),
	cdp.poll_competing(cdp.subscriptions, int, timestamptz), cdp.poll(text, int),
	cdp.epochs_of(cdp.subscriptions, bigint[], int),
	cdp.ack(text, bigint, int), cdp.ack(text, bigint[], int),
	cdp.set_aside(cdp.subscriptions, int, bigint, int, timestamptz, text),
	cdp.nack(text, bigint[], text, interval, int), cdp.nack(text, bigint, text, interval, int),
	cdp.requeue(text, bigint[], int), cdp.discard(text, bigint[], int) FROM PUBLIC;
