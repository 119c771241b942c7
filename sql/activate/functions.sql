/* sql/activate/functions.sql: subscriptions to the changes */

CREATE FUNCTION cdp.lock_applier() RETURNS void
	AS 'MODULE_PATHNAME', 'cdp_lock_applier'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.lock_applier() IS 'internal: keep batches from being applied until the transaction ends';

CREATE FUNCTION cdp.lock_positions(exclusive boolean) RETURNS void
	AS 'MODULE_PATHNAME', 'cdp_lock_positions'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.lock_positions(boolean) IS 'internal: keep changes from being removed until the transaction ends; exclusive: keep positions from being set';

CREATE FUNCTION cdp.claim_change(subscription text, epoch int, seq bigint) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_claim_change'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.claim_change(text, int, bigint) IS 'internal: try to claim a change for this consumer until the transaction ends';

-- What a subscription withholds unless its filter asks for it:
-- * kind segment_defined;
-- * in trigger mode, cause definition: a definition was created or altered,
--   nobody did anything;
-- * in trigger mode, entering and leaving by merge or split: the person has
--   not changed, only the number that it goes by.
-- A change of kind erased is withheld from nobody who hears of profiles: who
-- has been told of a person must be told to forget it.
-- A filter by segment and by trait lets through what is about one of either.
-- (Columns, not the row: of a partition that would be converted for each look.)
CREATE FUNCTION cdp.change_matches(s cdp.subscriptions, clock timestamptz, kind text, entity text,
		segment text, cause text, occurred_at timestamptz, payload jsonb) RETURNS boolean
	LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT (kind = 'erased' AND (s.entities IS NULL OR entity = ANY (s.entities))) OR coalesce(
		((s.segments IS NULL AND s.traits IS NULL) OR segment = ANY (s.segments)
			OR (kind = 'trait_changed' AND payload ->> 'trait' = ANY (s.traits)))
		AND (s.kinds IS NULL OR kind = ANY (s.kinds))
		AND (s.entities IS NULL OR entity = ANY (s.entities))
		AND (s.causes IS NULL OR cause = ANY (s.causes))
		AND (s.format = 'cdp' OR kind IN ('segment_entered', 'segment_exited', 'trait_changed'))
		AND (kind <> 'segment_defined' OR 'segment_defined' = ANY (s.kinds))
		AND (s.mode <> 'trigger' OR cause <> 'definition' OR 'definition' = ANY (s.causes)
			OR kind = 'segment_defined')
		AND (s.mode <> 'trigger' OR cause NOT IN ('merge', 'split')
			OR kind NOT IN ('segment_entered', 'segment_exited')
			OR cause = ANY (s.causes))
		AND (NOT s.first_entry OR kind <> 'segment_entered' OR payload -> 'entry_number' = '1')
		AND (s.max_age IS NULL OR occurred_at > clock - s.max_age), false);
END;
COMMENT ON FUNCTION cdp.change_matches(cdp.subscriptions, timestamptz, text, text, text, text, timestamptz, jsonb) IS 'internal: does a change belong to a subscription';

-- The row of a subscription, or an error that says so.
CREATE FUNCTION cdp.subscription(name text) RETURNS cdp.subscriptions
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	s cdp.subscriptions;
BEGIN
	SELECT * INTO s FROM cdp.subscriptions t WHERE t.name = name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'subscription "%" does not exist', name
			USING ERRCODE = 'undefined_object', HINT = 'Create it with cdp.subscribe().';
	END IF;
	RETURN s;
END
$$;
COMMENT ON FUNCTION cdp.subscription(text) IS 'internal: the row of a subscription; undefined_object when there is none';

-- Is every one of these names among those that there are?
CREATE FUNCTION cdp.check_names(what text, names text[], known text[], hint text DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	wrong text;
BEGIN
	SELECT n INTO wrong FROM unnest(names) n WHERE n IS NULL OR n <> ALL (known) LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION '% "%" does not exist', what, coalesce(wrong, 'NULL')
			USING ERRCODE = 'undefined_object',
				HINT = coalesce(hint, format('There are %s.', array_to_string(known, ', ')));
	END IF;
END
$$;
COMMENT ON FUNCTION cdp.check_names(text, text[], text[], text) IS 'internal: an error when a name is not among those that are known';

-- What subscribe() and alter_subscription() refuse. Names of segments, traits
-- and kinds must exist: a filter with a slip in it would wait for ever.
CREATE FUNCTION cdp.check_subscription(filter jsonb, include jsonb, mode text, format text,
		visibility interval, max_tries int, backoff interval, before cdp.subscriptions DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	all_kinds constant text[] := '{segment_entered,segment_exited,segment_defined,trait_changed,profile_merged,profile_split,erased}';
	formed constant text[] := '{segment_entered,segment_exited,trait_changed}';
	wrong text;
	part text;
	kinds text[];
	wanted text[];
BEGIN
	IF mode IS NULL OR mode NOT IN ('trigger', 'mirror') THEN
		RAISE EXCEPTION 'invalid mode "%"', mode
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Modes are trigger and mirror.';
	ELSIF format IS NULL OR format NOT IN ('cdp', 'segment_track', 'segment_identify') THEN
		RAISE EXCEPTION 'invalid format "%"', format
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Formats are cdp, segment_track and segment_identify.';
	ELSIF visibility <= '0' THEN
		RAISE EXCEPTION 'visibility must be positive' USING ERRCODE = 'invalid_parameter_value';
	ELSIF max_tries IS NULL OR max_tries < 1 THEN
		RAISE EXCEPTION 'max_tries must be at least 1' USING ERRCODE = 'invalid_parameter_value';
	ELSIF backoff IS NULL OR backoff <= '0' THEN
		RAISE EXCEPTION 'backoff must be positive' USING ERRCODE = 'invalid_parameter_value';
	ELSIF jsonb_typeof(filter) <> 'object' OR jsonb_typeof(include) <> 'object' THEN
		RAISE EXCEPTION 'filter and include must be JSON objects' USING ERRCODE = 'invalid_parameter_value';
	END IF;

	SELECT k INTO wrong FROM jsonb_object_keys(filter) k
		WHERE k NOT IN ('segment', 'trait', 'kind', 'entity', 'cause', 'first_entry', 'max_age') LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'unknown key "%" of a filter', wrong
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Keys are segment, trait, kind, entity, cause, first_entry and max_age.';
	END IF;
	PERFORM cdp.filter_flag(filter, 'first_entry'), cdp.filter_interval(filter, 'max_age');
	kinds := cdp.filter_values(filter, 'kind');
	PERFORM cdp.check_names('kind of change', kinds, all_kinds);
	PERFORM cdp.check_names('cause', cdp.filter_values(filter, 'cause'),
		'{entry,timer,merge,split,retraction,consent,definition,erasure}');
	PERFORM cdp.check_names('entity', cdp.filter_values(filter, 'entity'), '{profile,account}');
	PERFORM cdp.check_names('segment', cdp.filter_values(filter, 'segment'),
		ARRAY(SELECT d.name FROM cdp.segment_definitions d WHERE NOT d.hidden) || before.segments, 'See cdp.segments.');
	wanted := cdp.filter_values(filter, 'trait');
	PERFORM cdp.check_names('trait', wanted,
		ARRAY(SELECT t.name FROM cdp.traits t) || before.traits, 'See cdp.traits.');
	SELECT t.name INTO wrong FROM cdp.traits t WHERE t.name = ANY (wanted) AND NOT t.announce LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'changes of trait "%" are not announced', wrong
			USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = pg_catalog.format('SELECT cdp.alter_trait(%L, options => ''{"announce": true}'');', wrong);
	END IF;
	IF format <> 'cdp' THEN
		SELECT k INTO wrong FROM unnest(kinds) k WHERE k <> ALL (formed) LIMIT 1;
		IF FOUND THEN
			RAISE EXCEPTION 'format "%" has no form for %', format, wrong
				USING ERRCODE = 'invalid_parameter_value',
					HINT = pg_catalog.format('It has one for %s.', array_to_string(formed, ', '));
		END IF;
	END IF;

	SELECT k INTO wrong FROM jsonb_object_keys(include) k WHERE k NOT IN ('identifiers', 'traits') LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'unknown key "%" of include', wrong
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Keys are identifiers and traits.';
	END IF;
	FOREACH part IN ARRAY ARRAY['identifiers', 'traits'] LOOP
		IF jsonb_typeof(include -> part) NOT IN ('boolean', 'array')
			OR EXISTS (SELECT FROM jsonb_array_elements(CASE WHEN jsonb_typeof(include -> part) = 'array' THEN include -> part END) e
				WHERE jsonb_typeof(e) <> 'string') THEN
			RAISE EXCEPTION 'invalid value for key "%" of include', part
				USING ERRCODE = 'invalid_parameter_value', DETAIL = 'It must be true or an array of names.';
		END IF;
	END LOOP;
	IF jsonb_typeof(include -> 'identifiers') = 'array' THEN
		PERFORM cdp.check_names('kind of identifier', ARRAY(SELECT jsonb_array_elements_text(include -> 'identifiers')),
			ARRAY(SELECT k.kind FROM cdp.identifier_kinds k), 'See cdp.identifier_kinds.');
	END IF;
	-- a declared trait need not be defined to have a value
	IF jsonb_typeof(include -> 'traits') = 'array' THEN
		PERFORM cdp.check_names('trait', ARRAY(SELECT jsonb_array_elements_text(include -> 'traits')),
			ARRAY(SELECT t.name FROM cdp.traits t UNION SELECT k.name FROM cdp.declared_keys k
				UNION SELECT e FROM jsonb_array_elements_text(
					CASE WHEN jsonb_typeof(before.include -> 'traits') = 'array' THEN before.include -> 'traits' END) e), 'See cdp.traits.');
	END IF;
END
$$;
COMMENT ON FUNCTION cdp.check_subscription(jsonb, jsonb, text, text, interval, int, interval, cdp.subscriptions) IS 'internal: refuse what is wrong with a subscription';

-- The position before the first change that is wanted.
CREATE FUNCTION cdp.start_position(start text, OUT epoch int, OUT seq bigint)
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET timezone = 'UTC'
AS $$
#variable_conflict use_variable
DECLARE
	head_epoch int;
	head bigint;
	first_epoch int;
	first_seq bigint;
	since timestamptz;
	known text;
BEGIN
	SELECT a.epoch, a.next_seq - 1 INTO head_epoch, head FROM cdp.applier a;
	head_epoch := coalesce(head_epoch, 0);
	head := coalesce(head, 0);
	SELECT c.epoch, c.seq INTO first_epoch, first_seq FROM cdp.changes c ORDER BY c.epoch, c.seq LIMIT 1;
	known := pg_catalog.format('The head is %s in epoch %s.', head, head_epoch);

	IF start IN ('now', 'snapshot') THEN
		epoch := head_epoch;
		seq := head;
	ELSIF start = 'beginning' THEN
		epoch := coalesce(first_epoch, head_epoch);
		seq := coalesce(first_seq - 1, head);
	ELSIF start ~ '^([0-9]{1,9}:)?[0-9]{1,18}$' THEN
		seq := regexp_replace(start, '^.*:', '');
		IF start ~ ':' THEN
			epoch := split_part(start, ':', 1);
		ELSE
			SELECT c.epoch INTO epoch FROM cdp.changes c
				WHERE c.seq = seq ORDER BY c.epoch DESC LIMIT 1;
			epoch := coalesce(epoch, CASE WHEN seq < first_seq THEN first_epoch ELSE head_epoch END);
		END IF;
		IF seq > head OR epoch > head_epoch THEN
			RAISE EXCEPTION 'cannot start at %, above the head', start
				USING ERRCODE = 'invalid_parameter_value', DETAIL = known;
		ELSIF (epoch, seq) < (coalesce(first_epoch, head_epoch), coalesce(first_seq - 1, head)) THEN
			RAISE EXCEPTION 'cannot start at %: changes after it are no longer kept', start
				USING ERRCODE = 'object_not_in_prerequisite_state',
					DETAIL = coalesce('The first change that is kept is ' || first_seq || ' in epoch ' || first_epoch || '.', known),
					HINT = 'Start with the snapshot, or at the beginning of what is kept.';
		ELSIF epoch < head_epoch AND (epoch, seq) > (first_epoch, first_seq) AND
			NOT EXISTS (SELECT FROM cdp.changes c WHERE c.epoch = epoch AND c.seq = seq) THEN
			RAISE EXCEPTION 'cannot start at %: epoch % has no such change', start, epoch
				USING ERRCODE = 'invalid_parameter_value', DETAIL = known,
					HINT = 'It was given out by a database that was restored to an earlier state since.';
		END IF;
	ELSIF start ~ '^[0-9]{4,6}-[0-9]{2}-[0-9]{2}' THEN
		BEGIN
			since := start;
		EXCEPTION WHEN data_exception THEN
			RAISE EXCEPTION 'invalid start "%"', start
				USING ERRCODE = 'invalid_parameter_value', DETAIL = pg_catalog.format('%s.', SQLERRM);
		END;
		IF since > cdp.clock() THEN
			RAISE EXCEPTION 'cannot start at %, in the future', start USING ERRCODE = 'invalid_parameter_value';
		END IF;
		IF since <= (SELECT t.dropped_until FROM cdp.changes_trimmed t) THEN
			RAISE EXCEPTION 'cannot start at %: changes after it are no longer kept', start
				USING ERRCODE = 'object_not_in_prerequisite_state',
					HINT = 'Start with the snapshot, or at the beginning of what is kept.';
		END IF;
		SELECT c.epoch, c.seq - 1 INTO epoch, seq FROM cdp.changes c
			WHERE c.at >= since ORDER BY c.epoch, c.seq LIMIT 1;
		IF NOT FOUND THEN
			epoch := head_epoch;
			seq := head;
		END IF;
	ELSE
		RAISE EXCEPTION 'invalid start "%"', start
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Start is now, beginning, snapshot, a time (2026-01-31 12:00), or the number of the last change that the subscriber has, with its epoch or without (57, 2:57).';
	END IF;
END
$$;
COMMENT ON FUNCTION cdp.start_position(text) IS 'internal: the position that a start of a subscription stands for';

-- The members of the segments that the filter names, as of this moment; the
-- caller keeps the applier out, so that every later change has a number above
-- the head.
CREATE FUNCTION cdp.queue_members(s cdp.subscriptions) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	INSERT INTO cdp.subscription_queue (subscription, epoch, seq, kind, entity, profile_id, segment,
		payload, cause, occurred_at, at)
	SELECT s.name, s.epoch, -row_number() OVER (ORDER BY m.entered_at DESC, m.profile_id DESC, d.name DESC),
		'segment_entered', d.entity, m.profile_id, d.name,
		jsonb_build_object('entry_number', m.entries), 'snapshot', m.entered_at, cdp.clock()
	FROM cdp.segment_members m JOIN cdp.segment_definitions d ON d.id = m.segment_id
	WHERE m.member AND NOT d.hidden AND (s.segments IS NULL OR d.name = ANY (s.segments))
		AND (s.kinds IS NULL OR 'segment_entered' = ANY (s.kinds))
		AND (s.entities IS NULL OR d.entity = ANY (s.entities))
		AND (s.max_age IS NULL OR m.entered_at > cdp.clock() - s.max_age);
END
$$;
COMMENT ON FUNCTION cdp.queue_members(cdp.subscriptions) IS 'internal: give a subscription the current members of its segments';

CREATE FUNCTION cdp.check_snapshot(filter jsonb) RETURNS void
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF filter ? 'trait' AND NOT filter ? 'segment' THEN
		RAISE EXCEPTION 'a snapshot has members of segments, and the filter names none'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'For values of traits read cdp.profile_traits.';
	END IF;
END
$$;
COMMENT ON FUNCTION cdp.check_snapshot(jsonb) IS 'internal: an error when a filter has no use for a snapshot';

CREATE FUNCTION cdp.subscribe(name text, filter jsonb DEFAULT '{}', start text DEFAULT 'now',
		include jsonb DEFAULT '{}', mode text DEFAULT 'trigger', visibility interval DEFAULT NULL,
		format text DEFAULT 'cdp', max_tries int DEFAULT 20, backoff interval DEFAULT '1 second') RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	s cdp.subscriptions;
	at record;
BEGIN
	IF name IS NULL OR name = '' THEN
		RAISE EXCEPTION 'a subscription needs a name' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	filter := coalesce(filter, '{}');
	include := coalesce(include, '{}');
	PERFORM cdp.check_subscription(filter, include, mode, format, visibility, max_tries, backoff);

	-- Between the members and the head no batch may come.
	IF start = 'snapshot' THEN
		PERFORM cdp.check_snapshot(filter);
		PERFORM cdp.lock_applier();
	END IF;
	PERFORM cdp.lock_positions(false);
	SELECT * INTO at FROM cdp.start_position(start);
	BEGIN
		INSERT INTO cdp.subscriptions AS t (name, filter, include, mode, visibility, format, max_tries, backoff, epoch, acked_seq)
		VALUES (name, filter, include, mode, visibility, format, max_tries, backoff, at.epoch, at.seq)
		RETURNING t.* INTO s;
	EXCEPTION WHEN unique_violation THEN
		RAISE EXCEPTION 'subscription "%" already exists', name
			USING ERRCODE = 'duplicate_object', HINT = 'See cdp.alter_subscription() and cdp.rewind().';
	END;
	IF start = 'snapshot' THEN
		PERFORM cdp.queue_members(s);
	END IF;
END
$$;
COMMENT ON FUNCTION cdp.subscribe(text, jsonb, text, jsonb, text, interval, text, int, interval) IS
	'subscribe to changes. filter: object with the keys segment, trait, kind, entity, cause (a string or an array of strings each), first_entry (boolean), max_age (interval); start: now, beginning, snapshot (the current members first), a time, or the number of the last change that the subscriber has, with its epoch or without; include: {"identifiers": true or kinds, "traits": true or names} to add to payloads; mode: trigger or mirror; visibility: for several consumers that compete, how long a change is kept from the others; format of payloads: cdp, segment_track or segment_identify; max_tries: how often a change is tried before it is set aside in cdp.dead_letters; backoff: the pause after the first refusal. Errors: undefined_object, duplicate_object, invalid_parameter_value, object_not_in_prerequisite_state (changes no longer kept, a trait that is not announced)';

CREATE FUNCTION cdp.alter_subscription(name text, filter jsonb DEFAULT NULL, include jsonb DEFAULT NULL,
		mode text DEFAULT NULL, visibility interval DEFAULT NULL, format text DEFAULT NULL,
		max_tries int DEFAULT NULL, backoff interval DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	s cdp.subscriptions;
BEGIN
	PERFORM cdp.subscription(name);
	SELECT * INTO s FROM cdp.subscriptions t WHERE t.name = name FOR UPDATE;
	-- '0' takes competing consumers back to one
	visibility := CASE WHEN visibility = '0' THEN NULL ELSE coalesce(visibility, s.visibility) END;
	filter := coalesce(filter, s.filter);
	include := coalesce(include, s.include);
	mode := coalesce(mode, s.mode);
	format := coalesce(format, s.format);
	max_tries := coalesce(max_tries, s.max_tries);
	backoff := coalesce(backoff, s.backoff);
	-- names that are gone since may stay
	PERFORM cdp.check_subscription(filter, include, mode, format, visibility, max_tries, backoff, s);
	UPDATE cdp.subscriptions t SET filter = filter, include = include, mode = mode, visibility = visibility,
		format = format, max_tries = max_tries, backoff = backoff
	WHERE t.name = name;
END
$$;
COMMENT ON FUNCTION cdp.alter_subscription(text, jsonb, jsonb, text, interval, text, int, interval) IS
	'change a subscription: NULL leaves as it is; a visibility of 0 ends competing. What is not acknowledged yet is judged by the new filter, its queue excepted. Errors as of cdp.subscribe()';

CREATE FUNCTION cdp.unsubscribe(name text) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
	PERFORM cdp.subscription(name);
	DELETE FROM cdp.subscriptions s WHERE s.name = name;
	DELETE FROM cdp.subscription_queue q WHERE q.subscription = name;
	DELETE FROM cdp.deliveries d WHERE d.subscription = name;
END
$$;
COMMENT ON FUNCTION cdp.unsubscribe(text) IS 'end a subscription, with what waits in its queue; undefined_object when there is none';

CREATE FUNCTION cdp.pause(subscription text) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM cdp.subscription(subscription);
	UPDATE cdp.subscriptions s SET paused_at = coalesce(s.paused_at, cdp.clock()) WHERE s.name = subscription;
END
$$;
COMMENT ON FUNCTION cdp.pause(text) IS 'let a subscription deliver nothing until cdp.resume(); nothing is lost, and acknowledging goes on; undefined_object when there is none';

CREATE FUNCTION cdp.resume(subscription text) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM cdp.subscription(subscription);
	UPDATE cdp.subscriptions s SET paused_at = NULL WHERE s.name = subscription;
END
$$;
COMMENT ON FUNCTION cdp.resume(text) IS 'let a paused subscription deliver again; undefined_object when there is none';

CREATE FUNCTION cdp.rewind(name text, start text) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	s cdp.subscriptions := cdp.subscription(name);
	at record;
BEGIN
	IF start = 'snapshot' THEN
		PERFORM cdp.check_snapshot(s.filter);
		PERFORM cdp.lock_applier();
	END IF;
	PERFORM cdp.lock_positions(false);
	PERFORM FROM cdp.subscriptions t WHERE t.name = name FOR UPDATE;
	SELECT * INTO at FROM cdp.start_position(start);
	DELETE FROM cdp.deliveries d WHERE d.subscription = name;
	DELETE FROM cdp.subscription_queue q WHERE q.subscription = name AND q.dead_at IS NULL;
	-- what comes again need not be set aside as well
	DELETE FROM cdp.subscription_queue q
	WHERE q.subscription = name
		AND CASE WHEN q.seq < 0 THEN start = 'snapshot' ELSE (q.epoch, q.seq) > (at.epoch, at.seq) END;
	UPDATE cdp.subscriptions t SET epoch = at.epoch, acked_seq = at.seq WHERE t.name = name
		RETURNING t.* INTO s;
	IF start = 'snapshot' THEN
		PERFORM cdp.queue_members(s);
	END IF;
END
$$;
COMMENT ON FUNCTION cdp.rewind(text, text) IS
	'move the position of a subscription, back or forth; start as of cdp.subscribe(). What was polled and not acknowledged, or waits to be tried again, is forgotten when it lies before the new position, and comes again when it lies behind it. Errors: undefined_object, invalid_parameter_value, object_not_in_prerequisite_state (changes no longer kept)';

-- Filters go by name: they follow when a segment or a trait gets another one,
-- and keep the old one for what was written under it. What is to be included is
-- looked up when it is delivered, hence by the new one.
CREATE FUNCTION cdp.follow_rename() RETURNS trigger
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	key text := TG_ARGV[0];
BEGIN
	UPDATE cdp.subscriptions s
	SET filter = jsonb_set(s.filter, ARRAY[key],
		to_jsonb(array_append(array_remove(cdp.filter_values(s.filter, key), NEW.name), NEW.name)))
	WHERE OLD.name = ANY (CASE key WHEN 'segment' THEN s.segments ELSE s.traits END);
	IF key = 'trait' THEN
		UPDATE cdp.subscriptions s
		-- profiles and accounts may have a trait of that name each
		SET include = jsonb_set(s.include, '{traits}', (SELECT jsonb_agg(u.name ORDER BY e.n, u.n)
			FROM jsonb_array_elements_text(s.include -> 'traits') WITH ORDINALITY AS e (name, n),
			unnest(CASE WHEN e.name <> OLD.name THEN ARRAY[e.name]
				WHEN EXISTS (SELECT FROM cdp.trait_definitions t WHERE t.name = OLD.name) THEN ARRAY[e.name, NEW.name]
				ELSE ARRAY[NEW.name] END) WITH ORDINALITY AS u (name, n)))
		WHERE jsonb_typeof(s.include -> 'traits') = 'array' AND s.include -> 'traits' ? OLD.name;
	END IF;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION cdp.follow_rename() IS 'internal: what subscriptions filter by and include follows a segment or a trait to its new name';
CREATE TRIGGER subscriptions_follow AFTER UPDATE OF name ON cdp.segment_definitions
	FOR EACH ROW WHEN (OLD.name IS DISTINCT FROM NEW.name) EXECUTE FUNCTION cdp.follow_rename('segment');
CREATE TRIGGER subscriptions_follow AFTER UPDATE OF name ON cdp.trait_definitions
	FOR EACH ROW WHEN (OLD.name IS DISTINCT FROM NEW.name) EXECUTE FUNCTION cdp.follow_rename('trait');

REVOKE ALL ON FUNCTION cdp.lock_applier(), cdp.lock_positions(boolean), cdp.claim_change(text, int, bigint),
	cdp.filter_values(jsonb, text), cdp.filter_flag(jsonb, text), cdp.filter_interval(jsonb, text),
	cdp.change_matches(cdp.subscriptions, timestamptz, text, text, text, text, timestamptz, jsonb),
	cdp.subscription(text), cdp.check_names(text, text[], text[], text),
	cdp.check_subscription(jsonb, jsonb, text, text, interval, int, interval, cdp.subscriptions),
	cdp.start_position(text), cdp.queue_members(cdp.subscriptions), cdp.check_snapshot(jsonb),
	cdp.subscribe(text, jsonb, text, jsonb, text, interval, text, int, interval),
	cdp.alter_subscription(text, jsonb, jsonb, text, interval, text, int, interval),
	cdp.unsubscribe(text), cdp.pause(text), cdp.resume(text), cdp.rewind(text, text),
	cdp.follow_rename() FROM PUBLIC;
