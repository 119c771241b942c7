/* sql/activate/tables.sql: the changes and who has read them */

CREATE TABLE cdp.changes (
	epoch int NOT NULL,
	seq bigint NOT NULL,
	kind text NOT NULL,
	entity text NOT NULL DEFAULT 'profile',
	profile_id bigint,
	segment text,
	payload jsonb,
	cause text NOT NULL,
	occurred_at timestamptz NOT NULL,
	at timestamptz NOT NULL
) PARTITION BY RANGE (at);
CREATE TABLE cdp.changes_default PARTITION OF cdp.changes DEFAULT;
CREATE INDEX changes_default_seq ON cdp.changes_default (epoch, seq);
COMMENT ON TABLE cdp.changes IS 'what changed, in commit order: seq has no gaps within an epoch';

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
	ELSIF jsonb_typeof(filter -> key) = 'array' AND filter -> key <> '[]'
		AND NOT EXISTS (SELECT FROM jsonb_array_elements(filter -> key) e WHERE jsonb_typeof(e) <> 'string') THEN
		RETURN ARRAY(SELECT jsonb_array_elements_text(filter -> key));
	END IF;
	RAISE EXCEPTION 'invalid value for key "%" of a filter', key
		USING ERRCODE = 'invalid_parameter_value',
			DETAIL = 'It must be a string or an array of strings.';
END
$$;
COMMENT ON FUNCTION cdp.filter_values(jsonb, text) IS 'internal: the values that a filter of a subscription has for a key';

CREATE FUNCTION cdp.filter_flag(filter jsonb, key text) RETURNS boolean
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF filter -> key IS NOT NULL AND jsonb_typeof(filter -> key) NOT IN ('boolean', 'null') THEN
		RAISE EXCEPTION 'invalid value for key "%" of a filter', key
			USING ERRCODE = 'invalid_parameter_value', DETAIL = 'It must be true or false.';
	END IF;
	RETURN coalesce((filter ->> key)::boolean, false);
END
$$;
COMMENT ON FUNCTION cdp.filter_flag(jsonb, text) IS 'internal: the flag that a filter of a subscription has under a key';

CREATE FUNCTION cdp.filter_interval(filter jsonb, key text) RETURNS interval
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	SET intervalstyle = 'postgres'
AS $$
DECLARE
	result interval;
BEGIN
	BEGIN
		result := (filter ->> key)::interval;
	EXCEPTION WHEN data_exception THEN
		result := '0';
	END;
	IF result <= '0' THEN
		RAISE EXCEPTION 'invalid value for key "%" of a filter', key
			USING ERRCODE = 'invalid_parameter_value', DETAIL = 'It must be a positive interval, like "1 hour".';
	END IF;
	RETURN result;
END
$$;
COMMENT ON FUNCTION cdp.filter_interval(jsonb, text) IS 'internal: the interval that a filter of a subscription has under a key';

CREATE TABLE cdp.subscriptions (
	name text PRIMARY KEY,
	filter jsonb NOT NULL DEFAULT '{}',
	include jsonb NOT NULL DEFAULT '{}',
	mode text NOT NULL DEFAULT 'trigger' CHECK (mode IN ('trigger', 'mirror')),
	format text NOT NULL DEFAULT 'cdp' CHECK (format IN ('cdp', 'segment_track', 'segment_identify')),
	visibility interval CHECK (visibility > '0'),
	max_tries int NOT NULL DEFAULT 20 CHECK (max_tries > 0),
	backoff interval NOT NULL DEFAULT '1 second' CHECK (backoff > '0'),
	paused_at timestamptz,
	epoch int NOT NULL,
	acked_seq bigint NOT NULL,
	created_at timestamptz NOT NULL DEFAULT cdp.clock(),
	last_poll_at timestamptz,
	-- what the filter says
	segments text[] GENERATED ALWAYS AS (cdp.filter_values(filter, 'segment')) STORED,
	traits text[] GENERATED ALWAYS AS (cdp.filter_values(filter, 'trait')) STORED,
	kinds text[] GENERATED ALWAYS AS (cdp.filter_values(filter, 'kind')) STORED,
	entities text[] GENERATED ALWAYS AS (cdp.filter_values(filter, 'entity')) STORED,
	causes text[] GENERATED ALWAYS AS (cdp.filter_values(filter, 'cause')) STORED,
	first_entry boolean GENERATED ALWAYS AS (cdp.filter_flag(filter, 'first_entry')) STORED,
	max_age interval GENERATED ALWAYS AS (cdp.filter_interval(filter, 'max_age')) STORED
) WITH (fillfactor = 30);
COMMENT ON TABLE cdp.subscriptions IS 'who reads cdp.changes, through which filter, and how far it has acknowledged';
COMMENT ON COLUMN cdp.subscriptions.visibility IS 'several consumers compete: how long a change is kept from the others after one has polled it; NULL: there is one consumer, and order is kept';
COMMENT ON COLUMN cdp.subscriptions.max_tries IS 'how often a change is delivered, or refused, before it is set aside; see cdp.dead_letters';
COMMENT ON COLUMN cdp.subscriptions.backoff IS 'how long a change that was refused once waits; doubles with every time, up to an hour';

-- What is delivered before the changes after the position: the members that a
-- subscription started with (negative numbers), what is to be tried again out
-- of order, and what has been set aside.
CREATE TABLE cdp.subscription_queue (
	subscription text NOT NULL,
	epoch int NOT NULL,
	seq bigint NOT NULL,
	kind text NOT NULL,
	entity text NOT NULL,
	profile_id bigint,
	segment text,
	payload jsonb,
	cause text NOT NULL,
	occurred_at timestamptz NOT NULL,
	at timestamptz NOT NULL,
	visible_at timestamptz NOT NULL DEFAULT '-infinity',
	tries int NOT NULL DEFAULT 0,
	retry boolean NOT NULL DEFAULT false,
	dead_at timestamptz,
	error text,
	PRIMARY KEY (subscription, epoch, seq)
);
CREATE INDEX subscription_queue_dead ON cdp.subscription_queue (subscription) WHERE dead_at IS NOT NULL;
CREATE INDEX subscription_queue_waiting ON cdp.subscription_queue (subscription, visible_at)
	WHERE dead_at IS NULL AND visible_at > '-infinity';
COMMENT ON TABLE cdp.subscription_queue IS 'what a subscription is given apart from the changes after its position: members at its start, numbered from below up to -1, and changes to be tried again or set aside';
COMMENT ON COLUMN cdp.subscription_queue.retry IS 'a change that is tried again: a cumulative acknowledgement counts for it only once it was delivered again';

CREATE TABLE cdp.deliveries (
	subscription text NOT NULL,
	epoch int NOT NULL,
	seq bigint NOT NULL,
	visible_at timestamptz NOT NULL,
	acked boolean NOT NULL DEFAULT false,
	tries int NOT NULL DEFAULT 1,
	error text,
	PRIMARY KEY (subscription, epoch, seq)
);
CREATE INDEX deliveries_open ON cdp.deliveries (subscription, visible_at) WHERE NOT acked;
COMMENT ON TABLE cdp.deliveries IS 'changes above the acknowledged position that a consumer has polled, until when they are kept from others, or that are settled one by one: acknowledged, or in cdp.subscription_queue';

-- One row, made at first need.
CREATE TABLE cdp.changes_trimmed (
	one boolean PRIMARY KEY DEFAULT true CHECK (one),
	dropped_until timestamptz NOT NULL
);
COMMENT ON TABLE cdp.changes_trimmed IS 'the latest change that cdp.trim_changes() has removed: nobody can start at an earlier one';

CREATE TABLE cdp.notify_skipped (
	one boolean PRIMARY KEY DEFAULT true CHECK (one),
	batches bigint NOT NULL,
	last_at timestamptz NOT NULL
);
COMMENT ON TABLE cdp.notify_skipped IS 'batches whose changes were not announced because the queue of notifications was fuller than cdp.notify_queue_limit';

SELECT pg_extension_config_dump('cdp.changes', '');
SELECT pg_extension_config_dump('cdp.changes_default', '');
SELECT pg_extension_config_dump('cdp.changes_trimmed', '');
SELECT pg_extension_config_dump('cdp.subscriptions', '');
SELECT pg_extension_config_dump('cdp.subscription_queue', '');
SELECT pg_extension_config_dump('cdp.deliveries', '');
