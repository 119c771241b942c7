/* sql/collect/attachment_presets.sql: schemas that other systems load */

-- The columns of the tables decide, for every table has others.
-- See doc/attach.md.
CREATE FUNCTION cdp.attachment_preset(preset text, schema text)
	RETURNS TABLE (relation text, mapping jsonb)
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	-- what the loaders add to a table, and what becomes something else than a property
	loaded constant text[] := ARRAY['id', 'anonymous_id', 'user_id', 'group_id', 'previous_id', 'event', 'event_text',
		'received_at', 'sent_at', 'timestamp', 'original_timestamp', 'uuid', 'uuid_ts'];
	t record;
	kind text;
	identifiers jsonb;
	at text;
BEGIN
	IF preset IS NULL OR preset NOT IN ('segment', 'rudderstack', 'snowplow', 'posthog') THEN
		RAISE undefined_object USING
			MESSAGE = format('preset "%s" does not exist', preset),
			HINT = 'Presets are segment, rudderstack, snowplow and posthog.';
	END IF;
	IF to_regnamespace(quote_ident(schema)) IS NULL THEN
		RAISE invalid_schema_name USING MESSAGE = format('schema "%s" does not exist', schema);
	END IF;
	IF preset = 'posthog' AND NOT EXISTS (SELECT FROM cdp.identifier_kinds k WHERE k.kind = 'distinct_id') THEN
		RAISE undefined_object USING
			MESSAGE = 'kind of identifier "distinct_id" is not registered',
			HINT = 'PostHog has one name space for all ids: SELECT * FROM cdp.identity_preset(''posthog''), or register the kind with cdp.create_identifier_kind().';
	END IF;
	FOR t IN
		SELECT c.relname::text AS name, array_agg(a.attname::text ORDER BY a.attnum) AS columns
		FROM pg_class c
		JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		WHERE c.relnamespace = to_regnamespace(quote_ident(schema))
		  AND c.relkind IN ('r', 'p') AND NOT c.relispartition
		GROUP BY c.relname
		ORDER BY c.relname COLLATE "C"
	LOOP
		relation := format('%I.%I', schema, t.name);
		IF preset = 'snowplow' THEN
			CONTINUE WHEN NOT t.columns @> ARRAY['event_id', 'domain_userid', 'collector_tstamp', 'event'];
			mapping := jsonb_build_object(
				'type', 'track',
				'event', jsonb_build_object('sql', CASE WHEN 'event_name' = ANY (t.columns)
					THEN 'COALESCE(NULLIF(event_name, ''''), event)' ELSE 'event' END),
				'identifiers', '{"user_id": "user_id", "anonymous_id": "domain_userid"}'::jsonb,
				'time', CASE WHEN 'derived_tstamp' = ANY (t.columns)
					THEN 'COALESCE(derived_tstamp, collector_tstamp)' ELSE 'collector_tstamp' END,
				'key', 'event_id',
				'properties', 'jsonb_strip_nulls(to_jsonb(r))');
			RETURN NEXT;
			CONTINUE;
		END IF;

		IF preset = 'posthog' THEN
			IF t.columns @> ARRAY['uuid', 'event', 'distinct_id', 'properties', 'timestamp'] THEN
				-- events that say who is who, or what a person or a group is like, are calls of their own
				mapping := jsonb_build_object(
					'type', 'track', 'event', '{"sql": "event"}'::jsonb,
					'identifiers', '{"distinct_id": "distinct_id"}'::jsonb,
					'time', '"timestamp"', 'key', 'uuid', 'properties', 'properties',
					'filter', $sql$event NOT IN ('$identify', '$set', '$create_alias', '$merge_dangerously', '$groupidentify')$sql$);
				RETURN NEXT;
				mapping := jsonb_build_object(
					'type', 'identify', 'time', '"timestamp"', 'key', 'uuid',
					'identifiers', jsonb_build_object('distinct_id', jsonb_build_array('distinct_id',
						$sql$CASE WHEN event = '$identify' THEN properties->>'$anon_distinct_id' WHEN event IN ('$create_alias', '$merge_dangerously') THEN properties->>'alias' END$sql$)),
					'traits', $sql$COALESCE(properties->'$set', '{}')$sql$,
					'filter', $sql$event IN ('$identify', '$set', '$create_alias', '$merge_dangerously') OR properties ? '$set'$sql$);
				RETURN NEXT;
				-- what counts once: the first that was said
				mapping := jsonb_build_object(
					'type', 'track', 'event', '$set_once', 'time', '"timestamp"', 'key', 'uuid',
					'identifiers', '{"distinct_id": "distinct_id"}'::jsonb,
					'properties', $sql$properties->'$set_once'$sql$,
					'filter', $sql$jsonb_typeof(properties->'$set_once') = 'object'$sql$);
				RETURN NEXT;
				mapping := jsonb_build_object(
					'type', 'group', 'time', '"timestamp"', 'key', 'uuid',
					'identifiers', jsonb_build_object('group_id', $sql$properties->>'$group_key'$sql$),
					'traits', $sql$COALESCE(properties->'$group_set', '{}')$sql$,
					'filter', $sql$event = '$groupidentify'$sql$);
				RETURN NEXT;
			ELSIF t.columns @> ARRAY['team_id', 'distinct_id', 'person_id', 'properties'] THEN
				-- ids of one person have its id in common
				mapping := jsonb_build_object(
					'type', 'identify', 'key', '["team_id", "distinct_id"]'::jsonb,
					'identifiers', '{"distinct_id": ["distinct_id", "person_id"]}'::jsonb,
					'traits', $sql$COALESCE(NULLIF(properties, 'null'), '{}')$sql$);
				RETURN NEXT;
			END IF;
			CONTINUE;
		END IF;

		-- tracks repeats what is in the tables of the single events, users and
		-- accounts what identify and group calls said last
		kind := CASE
			WHEN t.name IN ('tracks', 'users', 'accounts', 'rudder_discards') THEN NULL
			WHEN t.name = 'identifies' THEN 'identify'
			WHEN t.name = 'groups' AND 'group_id' = ANY (t.columns) THEN 'group'
			WHEN t.name = 'aliases' AND 'previous_id' = ANY (t.columns) THEN 'identify'
			WHEN t.name IN ('pages', 'screens') THEN rtrim(t.name, 's')
			WHEN 'event' = ANY (t.columns) THEN 'track'
			END;
		CONTINUE WHEN kind IS NULL
			OR NOT (t.columns && ARRAY['user_id', 'anonymous_id'])
			OR NOT ('id' = ANY (t.columns) OR t.name = 'aliases');

		identifiers := '{}';
		IF 'user_id' = ANY (t.columns) THEN
			identifiers := identifiers || '{"user_id": "user_id"}';
		END IF;
		IF t.name = 'aliases' THEN
			identifiers := identifiers || '{"anonymous_id": "previous_id"}';
		ELSIF 'anonymous_id' = ANY (t.columns) THEN
			identifiers := identifiers || '{"anonymous_id": "anonymous_id"}';
		END IF;
		IF kind = 'group' THEN
			identifiers := identifiers || '{"group_id": "group_id"}';
		ELSIF 'email' = ANY (t.columns) THEN
			identifiers := identifiers || '{"email": "email"}';
		END IF;
		IF kind = 'identify' AND 'phone' = ANY (t.columns) THEN
			identifiers := identifiers || '{"phone": "phone"}';
		END IF;
		SELECT format('COALESCE(%s)', string_agg(quote_ident(c), ', ' ORDER BY n)) INTO at
		FROM unnest(ARRAY['timestamp', 'original_timestamp', 'received_at']) WITH ORDINALITY u(c, n)
		WHERE c = ANY (t.columns);
		mapping := jsonb_strip_nulls(jsonb_build_object(
			'type', kind,
			'event', CASE
				WHEN kind = 'track' AND 'event_text' = ANY (t.columns) THEN '{"sql": "COALESCE(event_text, event)"}'::jsonb
				WHEN kind = 'track' THEN '{"sql": "event"}'
				WHEN kind IN ('page', 'screen') AND 'name' = ANY (t.columns) THEN '{"sql": "name"}' END,
			'identifiers', identifiers,
			'time', at,
			'key', CASE WHEN 'id' = ANY (t.columns) THEN '"id"'::jsonb
				ELSE '["previous_id", "user_id"]' END,
			'properties', COALESCE((
				SELECT jsonb_agg(c ORDER BY n)
				FROM unnest(t.columns) WITH ORDINALITY u(c, n)
				WHERE c <> ALL (loaded) AND c !~ '^context_'
				  AND NOT (c = 'name' AND kind IN ('page', 'screen'))), '[]')));
		RETURN NEXT;
	END LOOP;
END
$$;
COMMENT ON FUNCTION cdp.attachment_preset(text, text) IS
	'the mappings by which cdp.attach_preset attaches the tables of a schema: one row a table, or one for each type of call in it. Errors: undefined_object, invalid_schema_name';

-- Not a definer's function: who calls it attaches, with their own rights.
CREATE FUNCTION cdp.attach_preset(preset text, schema text, prefix text DEFAULT NULL, capture text DEFAULT NULL)
	RETURNS TABLE (name text, relation text)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	t record;
BEGIN
	FOR t IN SELECT p.relation, p.mapping,
				CASE WHEN p.mapping->>'event' = '$set_once' THEN c.relname || '_set_once'
					WHEN count(*) OVER (PARTITION BY p.relation) > 1 AND p.mapping->>'type' <> 'track'
					THEN c.relname || '_' || (p.mapping->>'type') ELSE c.relname END AS relname
			 FROM cdp.attachment_preset(preset, schema) p
			 JOIN pg_class c ON c.oid = p.relation::regclass
	LOOP
		relation := t.relation;
		name := cdp.attach(t.relation::regclass, t.mapping,
			name => left(regexp_replace(lower(COALESCE(prefix, schema) || '_' || t.relname), '[^a-z0-9_]', '_', 'g'), 50),
			capture => capture);
		RETURN NEXT;
	END LOOP;
	IF name IS NULL THEN
		RAISE NOTICE 'schema "%" has no tables of preset "%"', schema, preset;
	END IF;
END
$$;
COMMENT ON FUNCTION cdp.attach_preset(text, text, text, text) IS
	'attach the tables of a schema into which another system loads: segment and rudderstack (tables of single events, identifies, groups, pages, screens, aliases), snowplow (events), posthog (batch exports of events and of persons, known by their columns). Names of attachments begin with prefix, default the name of the schema; capture as of cdp.attach. One row each. The mappings are those of cdp.attachment_preset. Errors: those of cdp.attach, undefined_object (preset)';
REVOKE EXECUTE ON FUNCTION cdp.attachment_preset(text, text), cdp.attach_preset(text, text, text, text) FROM PUBLIC;
