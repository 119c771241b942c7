/* sql/activate/functions.sql: subscriptions to the changes */

CREATE FUNCTION cdp.lock_applier() RETURNS void
	AS 'MODULE_PATHNAME', 'cdp_lock_applier'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.lock_applier() IS 'keep batches from being applied until the transaction ends';

CREATE FUNCTION cdp.claim_change(subscription text, epoch int, seq bigint) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_claim_change'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.claim_change(text, int, bigint) IS 'try to claim a change for this consumer until the transaction ends';

-- A text or an array of texts under a key of a filter, as an array.
CREATE FUNCTION cdp.filter_values(filter jsonb, key text) RETURNS text[]
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF filter -> key IS NULL OR filter -> key = 'null' THEN
		RETURN NULL;
	ELSIF jsonb_typeof(filter -> key) = 'string' THEN
		RETURN ARRAY[filter ->> key];
	ELSIF jsonb_typeof(filter -> key) = 'array'
		AND NOT EXISTS (SELECT FROM jsonb_array_elements(filter -> key) e WHERE jsonb_typeof(e) <> 'string') THEN
		RETURN ARRAY(SELECT jsonb_array_elements_text(filter -> key));
	END IF;
	RAISE EXCEPTION 'invalid value for key "%" of a filter', key
		USING ERRCODE = 'invalid_parameter_value',
			DETAIL = 'It must be a string or an array of strings.';
END
$$;
COMMENT ON FUNCTION cdp.filter_values(jsonb, text) IS 'the values that a filter of a subscription has for a key';

-- What a subscription withholds unless its filter asks for it:
-- * cause definition: a definition was created or altered, nobody did anything;
-- * kind segment_defined;
-- * in trigger mode, entering and leaving by merge or split: the person has
--   not changed, only the number that it goes by.
CREATE FUNCTION cdp.change_matches(change cdp.changes, mode text, segments text[],
		kinds text[], entities text[], causes text[]) RETURNS boolean
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT coalesce((segments IS NULL OR change.segment = ANY (segments))
		AND (kinds IS NULL OR change.kind = ANY (kinds))
		AND (entities IS NULL OR change.entity = ANY (entities))
		AND (causes IS NULL OR change.cause = ANY (causes))
		AND (change.kind <> 'segment_defined' OR 'segment_defined' = ANY (kinds))
		AND (change.cause <> 'definition' OR 'definition' = ANY (causes)
			OR change.kind = 'segment_defined')
		AND (mode <> 'trigger' OR change.cause NOT IN ('merge', 'split')
			OR change.kind NOT IN ('segment_entered', 'segment_exited')
			OR change.cause = ANY (causes)), false);
END;
COMMENT ON FUNCTION cdp.change_matches(cdp.changes, text, text[], text[], text[], text[]) IS 'does a change belong to a subscription with that mode and filter';

CREATE FUNCTION cdp.subscribe(name text, filter jsonb DEFAULT '{}', start text DEFAULT 'now',
		include jsonb DEFAULT '{}', mode text DEFAULT 'trigger',
		visibility interval DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	wrong text;
	segments text[];
	kinds text[];
	head_epoch int;
	head bigint;
	position_epoch int;
	position_seq bigint;
BEGIN
	IF name IS NULL OR name = '' THEN
		RAISE EXCEPTION 'a subscription needs a name' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	IF mode IS NULL OR mode NOT IN ('trigger', 'mirror') THEN
		RAISE EXCEPTION 'invalid mode "%"', mode
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Modes are trigger and mirror.';
	END IF;
	IF visibility <= '0' THEN
		RAISE EXCEPTION 'visibility must be positive' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	filter := coalesce(filter, '{}');
	include := coalesce(include, '{}');
	IF jsonb_typeof(filter) <> 'object' OR jsonb_typeof(include) <> 'object' THEN
		RAISE EXCEPTION 'filter and include must be JSON objects' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	SELECT k INTO wrong FROM jsonb_object_keys(filter) k
		WHERE k NOT IN ('segment', 'kind', 'entity', 'cause') LIMIT 1;
	IF wrong IS NOT NULL THEN
		RAISE EXCEPTION 'unknown key "%" of a filter', wrong
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Keys are segment, kind, entity and cause.';
	END IF;
	SELECT k INTO wrong FROM jsonb_each(include) AS i (k, v)
		WHERE k NOT IN ('identifiers', 'traits') OR jsonb_typeof(v) NOT IN ('boolean', 'array') LIMIT 1;
	IF wrong IS NOT NULL THEN
		RAISE EXCEPTION 'invalid key "%" of include', wrong
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Keys are identifiers and traits, their values true or an array of names.';
	END IF;
	segments := cdp.filter_values(filter, 'segment');
	kinds := cdp.filter_values(filter, 'kind');
	PERFORM cdp.filter_values(filter, 'entity'), cdp.filter_values(filter, 'cause');

	-- Between the members and the head no batch may come.
	IF start = 'snapshot' THEN
		PERFORM cdp.lock_applier();
	END IF;
	SELECT a.epoch, a.next_seq - 1 INTO head_epoch, head FROM cdp.applier a;
	head_epoch := coalesce(head_epoch, 0);
	head := coalesce(head, 0);

	IF start IN ('now', 'snapshot') THEN
		position_epoch := head_epoch;
		position_seq := head;
	ELSIF start = 'beginning' THEN
		position_epoch := 0;
		position_seq := 0;
	ELSIF start ~ '^[0-9]{1,18}$' THEN
		position_seq := start::bigint;
		IF position_seq > head THEN
			RAISE EXCEPTION 'cannot start at %, above the head', position_seq
				USING ERRCODE = 'invalid_parameter_value',
					DETAIL = format('The head is %s in epoch %s.', head, head_epoch);
		END IF;
		SELECT c.epoch INTO position_epoch FROM cdp.changes c
			WHERE c.seq = position_seq ORDER BY c.epoch DESC LIMIT 1;
		position_epoch := coalesce(position_epoch, head_epoch);
	ELSE
		RAISE EXCEPTION 'invalid start "%"', start
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Start is now, beginning, snapshot, or the number of the last change that the subscriber has.';
	END IF;

	BEGIN
		INSERT INTO cdp.subscriptions (name, filter, include, mode, visibility, epoch, acked_seq)
		VALUES (name, filter, include, mode, visibility, position_epoch, position_seq);
	EXCEPTION WHEN unique_violation THEN
		RAISE EXCEPTION 'subscription "%" already exists', name USING ERRCODE = 'duplicate_object';
	END;

	IF start = 'snapshot' THEN
		INSERT INTO cdp.subscription_members (subscription, seq, segment, profile_id, entered_at, entries)
		SELECT name, -row_number() OVER (ORDER BY m.entered_at DESC, m.profile_id DESC, d.name DESC),
			d.name, m.profile_id, m.entered_at, m.entries
		FROM cdp.segment_members m JOIN cdp.segment_definitions d ON d.id = m.segment_id
		WHERE m.member AND (segments IS NULL OR d.name = ANY (segments))
			AND (kinds IS NULL OR 'segment_entered' = ANY (kinds));
	END IF;
END
$$;
COMMENT ON FUNCTION cdp.subscribe(text, jsonb, text, jsonb, text, interval) IS
	'subscribe to changes; start: now, beginning, snapshot (the current members first), or the number of the last change that the subscriber has; visibility: for several consumers that compete';

CREATE FUNCTION cdp.unsubscribe(name text) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
	DELETE FROM cdp.subscriptions s WHERE s.name = name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'subscription "%" does not exist', name USING ERRCODE = 'undefined_object';
	END IF;
	DELETE FROM cdp.subscription_members m WHERE m.subscription = name;
	DELETE FROM cdp.deliveries d WHERE d.subscription = name;
END
$$;
COMMENT ON FUNCTION cdp.unsubscribe(text) IS 'end a subscription';

-- The payload with what the subscription wants to have included.
CREATE FUNCTION cdp.include_payload(payload jsonb, profile_id bigint, include jsonb) RETURNS jsonb
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	profile jsonb;
	part text;
	chosen jsonb;
BEGIN
	IF profile_id IS NULL THEN
		RETURN payload;
	END IF;
	profile := cdp.profile(profile_id);
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
COMMENT ON FUNCTION cdp.include_payload(jsonb, bigint, jsonb) IS 'a payload with the profile''s identifiers and traits as they are now';

-- Members of the snapshot come first, as entries with negative numbers, then
-- changes after the acknowledged position in the order of (epoch, seq).
--
-- One consumer: polling twice without acknowledging gives the same again.
-- Several: what one has polled is kept from the others for the subscription's
-- visibility. A change is claimed by a lock that is only tried for; after
-- that, a new statement, hence a new snapshot, looks whether another consumer
-- has committed a delivery in between.
CREATE FUNCTION cdp.poll(name text, max int DEFAULT 100) RETURNS SETOF cdp.changes
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_variable
DECLARE
	s cdp.subscriptions;
	segments text[];
	kinds text[];
	entities text[];
	causes text[];
	head_epoch int;
	head bigint;
	clock timestamptz := cdp.clock();
	taken cdp.changes[] := '{}';
	change cdp.changes;
	live bigint := 0;
	writable boolean := current_setting('transaction_read_only') = 'off';
BEGIN
	SELECT * INTO s FROM cdp.subscriptions t WHERE t.name = name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'subscription "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'Create it with cdp.subscribe().';
	END IF;
	IF max IS NULL OR max < 1 THEN
		RAISE EXCEPTION 'max must be at least 1' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	segments := cdp.filter_values(s.filter, 'segment');
	kinds := cdp.filter_values(s.filter, 'kind');
	entities := cdp.filter_values(s.filter, 'entity');
	causes := cdp.filter_values(s.filter, 'cause');
	-- before the changes are read: whatever is up to here is seen by that
	SELECT a.epoch, a.next_seq - 1 INTO head_epoch, head FROM cdp.applier a;

	FOR change IN
		SELECT c.* FROM (
			SELECT s.epoch, m.seq, 'segment_entered'::text AS kind, 'profile'::text AS entity,
				m.profile_id, m.segment, jsonb_build_object('entry_number', m.entries) AS payload,
				'snapshot'::text AS cause, m.entered_at AS occurred_at, s.created_at AS at
			FROM cdp.subscription_members m
			WHERE m.subscription = name
		) c
		WHERE s.visibility IS NULL AND NOT EXISTS (SELECT FROM cdp.deliveries d
				WHERE d.subscription = name AND d.epoch = c.epoch AND d.seq = c.seq AND d.acked)
			OR s.visibility IS NOT NULL AND NOT EXISTS (SELECT FROM cdp.deliveries d
				WHERE d.subscription = name AND d.epoch = c.epoch AND d.seq = c.seq
					AND (d.acked OR d.visible_at > clock))
		ORDER BY c.seq
	LOOP
		EXIT WHEN cardinality(taken) >= max;
		IF s.visibility IS NULL OR cdp.claim_change(name, change.epoch, change.seq) THEN
			taken := taken || change;
		END IF;
	END LOOP;

	IF cardinality(taken) < max THEN
		FOR change IN
			SELECT c.* FROM cdp.changes c
			WHERE (c.epoch, c.seq) > (s.epoch, s.acked_seq)
				AND cdp.change_matches(c, s.mode, segments, kinds, entities, causes)
				AND NOT EXISTS (SELECT FROM cdp.deliveries d
					WHERE d.subscription = name AND d.epoch = c.epoch AND d.seq = c.seq
						AND (d.acked OR (s.visibility IS NOT NULL AND d.visible_at > clock)))
			ORDER BY c.epoch, c.seq
		LOOP
			live := live + 1;
			IF s.visibility IS NULL OR cdp.claim_change(name, change.epoch, change.seq) THEN
				taken := taken || change;
			END IF;
			EXIT WHEN cardinality(taken) >= max;
		END LOOP;
	ELSE
		live := 1;
	END IF;

	IF s.visibility IS NOT NULL AND cardinality(taken) > 0 THEN
		-- what another has taken between the look and the lock, or has
		-- acknowledged since, is not ours
		WITH mine AS (
			INSERT INTO cdp.deliveries AS d (subscription, epoch, seq, visible_at)
			SELECT name, f.epoch, f.seq, clock + s.visibility FROM unnest(taken) f
			WHERE EXISTS (SELECT FROM cdp.subscriptions t
					WHERE t.name = name AND (f.seq < 0 OR (f.epoch, f.seq) > (t.epoch, t.acked_seq)))
				AND (f.seq >= 0 OR EXISTS (SELECT FROM cdp.subscription_members m
					WHERE m.subscription = name AND m.seq = f.seq))
			ON CONFLICT ON CONSTRAINT deliveries_pkey DO UPDATE
				SET visible_at = excluded.visible_at, tries = d.tries + 1
				WHERE NOT d.acked AND d.visible_at <= clock
			RETURNING d.epoch, d.seq)
		SELECT coalesce(array_agg(f ORDER BY f.epoch, f.seq), '{}') INTO taken
		FROM unnest(taken) f JOIN mine ON mine.epoch = f.epoch AND mine.seq = f.seq;
	END IF;

	-- Note the visit, unless somebody else is doing that; and when nothing up
	-- to the head is left, do not read all that again next time.
	IF writable AND (live = 0 AND (head_epoch, head) > (s.epoch, s.acked_seq)
			OR s.last_poll_at IS NULL OR s.last_poll_at < clock - interval '1 second') THEN
		PERFORM FROM cdp.subscriptions t WHERE t.name = name FOR UPDATE SKIP LOCKED;
		IF FOUND THEN
			UPDATE cdp.subscriptions t SET last_poll_at = clock WHERE t.name = name;
			IF live = 0 AND s.visibility IS NULL THEN
				PERFORM cdp.move_position(name, head_epoch, head);
			END IF;
		END IF;
	END IF;

	IF s.include = '{}' THEN
		RETURN QUERY SELECT f.* FROM unnest(taken) f ORDER BY f.epoch, f.seq;
	ELSE
		RETURN QUERY SELECT f.epoch, f.seq, f.kind, f.entity, f.profile_id, f.segment,
				cdp.include_payload(f.payload, f.profile_id, s.include), f.cause, f.occurred_at, f.at
			FROM unnest(taken) f ORDER BY f.epoch, f.seq;
	END IF;
END
$$;
COMMENT ON FUNCTION cdp.poll(text, int) IS 'the next changes of a subscription, at most max: those after the acknowledged position that its filter lets through';

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
		WHERE d.subscription = name AND d.seq >= 0 AND (d.epoch, d.seq) <= (epoch, seq);
	END IF;
END
$$;
COMMENT ON FUNCTION cdp.move_position(text, int, bigint) IS 'move the acknowledged position of a subscription forward';

-- The epoch in which a consumer that has polled after a position has seen a
-- number. An error when that number has not been given out yet.
CREATE FUNCTION cdp.epoch_of(name text, seq bigint, epoch int) RETURNS int
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	s cdp.subscriptions;
	head_epoch int;
	head bigint;
	result int;
BEGIN
	SELECT * INTO s FROM cdp.subscriptions t WHERE t.name = name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'subscription "%" does not exist', name USING ERRCODE = 'undefined_object';
	END IF;
	SELECT a.epoch, a.next_seq - 1 INTO head_epoch, head FROM cdp.applier a;
	head_epoch := coalesce(head_epoch, 0);
	head := coalesce(head, 0);
	IF seq IS NULL THEN
		RAISE EXCEPTION 'cannot acknowledge NULL' USING ERRCODE = 'null_value_not_allowed';
	END IF;
	IF seq > head OR epoch > head_epoch THEN
		RAISE EXCEPTION 'cannot acknowledge %, above the head', seq
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = format('The head is %s in epoch %s.', head, head_epoch),
				HINT = 'When the epoch has changed, the database was restored to an earlier state: poll again from there.';
	END IF;
	IF epoch IS NOT NULL OR s.epoch = head_epoch THEN
		RETURN coalesce(epoch, head_epoch);
	END IF;
	SELECT c.epoch INTO result FROM cdp.changes c
	WHERE c.seq = seq AND (c.epoch, c.seq) > (s.epoch, s.acked_seq)
	ORDER BY c.epoch LIMIT 1;
	RETURN coalesce(result, CASE WHEN seq <= s.acked_seq THEN s.epoch ELSE head_epoch END);
END
$$;
COMMENT ON FUNCTION cdp.epoch_of(text, bigint, int) IS 'the epoch that a number acknowledged by a subscriber belongs to';

CREATE FUNCTION cdp.ack(name text, seq bigint, epoch int DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
	epoch := cdp.epoch_of(name, seq, epoch);
	DELETE FROM cdp.subscription_members m WHERE m.subscription = name AND m.seq <= seq;
	DELETE FROM cdp.deliveries d WHERE d.subscription = name AND d.seq < 0 AND d.seq <= seq;
	IF seq >= 0 THEN
		PERFORM cdp.move_position(name, epoch, seq);
	END IF;
END
$$;
COMMENT ON FUNCTION cdp.ack(text, bigint, int) IS 'acknowledge all changes of a subscription up to seq; nothing happens when they are acknowledged already';

CREATE FUNCTION cdp.ack(name text, seqs bigint[], epoch int DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_variable
DECLARE
	s cdp.subscriptions;
	seq bigint;
	at_epoch int;
	first_epoch int;
	first_seq bigint;
	head_epoch int;
	head bigint;
BEGIN
	-- always in the same order, so that consumers cannot deadlock
	FOR seq IN SELECT DISTINCT u FROM unnest(seqs) u ORDER BY u LOOP
		at_epoch := cdp.epoch_of(name, seq, epoch);
		IF seq < 0 THEN
			DELETE FROM cdp.subscription_members m WHERE m.subscription = name AND m.seq = seq;
			DELETE FROM cdp.deliveries d WHERE d.subscription = name AND d.seq = seq;
		ELSE
			INSERT INTO cdp.deliveries (subscription, epoch, seq, visible_at, acked)
			SELECT name, at_epoch, seq, 'infinity', true
			FROM cdp.subscriptions t
			WHERE t.name = name AND (at_epoch, seq) > (t.epoch, t.acked_seq)
			ON CONFLICT ON CONSTRAINT deliveries_pkey DO UPDATE SET acked = true, visible_at = 'infinity';
		END IF;
	END LOOP;

	-- The position moves up to the first change that is not acknowledged;
	-- when another consumer is at that, it will, or a later one.
	SELECT a.epoch, a.next_seq - 1 INTO head_epoch, head FROM cdp.applier a;
	SELECT * INTO s FROM cdp.subscriptions t WHERE t.name = name FOR UPDATE SKIP LOCKED;
	IF NOT FOUND THEN
		RETURN;
	END IF;
	SELECT c.epoch, c.seq INTO first_epoch, first_seq FROM cdp.changes c
	WHERE (c.epoch, c.seq) > (s.epoch, s.acked_seq)
		AND cdp.change_matches(c, s.mode, cdp.filter_values(s.filter, 'segment'),
			cdp.filter_values(s.filter, 'kind'), cdp.filter_values(s.filter, 'entity'),
			cdp.filter_values(s.filter, 'cause'))
		AND NOT EXISTS (SELECT FROM cdp.deliveries d
			WHERE d.subscription = name AND d.epoch = c.epoch AND d.seq = c.seq AND d.acked)
	ORDER BY c.epoch, c.seq LIMIT 1;
	IF NOT FOUND THEN
		PERFORM cdp.move_position(name, head_epoch, head);
	ELSE
		PERFORM cdp.move_position(name, first_epoch, first_seq - 1);
	END IF;
END
$$;
COMMENT ON FUNCTION cdp.ack(text, bigint[], int) IS 'acknowledge single changes of a subscription that several consumers poll';

REVOKE ALL ON FUNCTION cdp.lock_applier(), cdp.claim_change(text, int, bigint),
	cdp.subscribe(text, jsonb, text, jsonb, text, interval), cdp.unsubscribe(text),
	cdp.include_payload(jsonb, bigint, jsonb), cdp.poll(text, int),
	cdp.move_position(text, int, bigint), cdp.epoch_of(text, bigint, int),
	cdp.ack(text, bigint, int), cdp.ack(text, bigint[], int) FROM PUBLIC;
