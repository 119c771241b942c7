/* sql/apply/config.sql: all definitions as one JSON document, and back */

-- What a definition is when it does not say; keys that are not here are not
-- known.  Sections in the order in which definitions can refer to each other; plans
-- before attachments, whose rows they judge.
CREATE FUNCTION cdp.config_sections(OUT n int, OUT section text, OUT kind text, OUT defaults jsonb)
	RETURNS SETOF record
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
	VALUES
	(1, 'identifier_kinds', 'identifier kind', '{"priority": 100, "max_per_profile": null, "within": null, "normaliser": "verbatim",
		"blocked": [], "labels": [], "entity": "profile", "links": null, "policy": "demote", "shared": "first"}'::jsonb),
	(2, 'free_mail_domains', 'free mail domain', '{"free": true}'),
	(3, 'account_by_domain', 'accounts by domain', '{}'),
	(4, 'tracking_plans', 'tracking plan', '{"schema": null, "mode": "allow"}'),
	(5, 'attachments', 'attachment', '{"relation": null, "mapping": null, "source": null, "capture": null, "copy": true}'),
	(6, 'traits', 'trait', '{"aggregate": null, "value": null, "event": null, "filter": null, "each": null, "within": null,
		"older_than": null, "since": null, "expression": null, "type": null, "empty": null,
		"timezone": "UTC", "description": null, "options": {}}'),
	(7, 'account_traits', 'account trait', '{"aggregate": null, "value": null, "event": null, "filter": null, "each": null, "within": null,
		"older_than": null, "since": null, "expression": null, "type": null, "empty": null,
		"timezone": "UTC", "description": null, "options": {}}'),
	(8, 'purposes', 'purpose', '{"description": null, "combine": "restrictive", "aliases": [], "valid_for": null}'),
	(9, 'segments', 'segment', '{"predicate": null, "entity": "profile", "description": null, "exit_when": null, "timezone": "UTC",
		"options": {}, "exclude": [], "holdout": 0, "seed": "", "enabled": true}'),
	(10, 'subscriptions', 'subscription', '{"filter": {}, "include": {}, "mode": "trigger", "visibility": null, "format": "cdp",
		"max_tries": 20, "backoff": "00:00:01"}')
$$;
COMMENT ON FUNCTION cdp.config_sections() IS 'internal: the sections of a configuration, and what their objects are when they do not say';

CREATE FUNCTION cdp.export_config() RETURNS jsonb
	LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET intervalstyle = 'postgres'
	SET datestyle = 'ISO, YMD'
	SET timezone = 'UTC'
AS $$
DECLARE
	config jsonb;
	known_segments constant text[] := ARRAY(SELECT d.name FROM cdp.segment_definitions d WHERE NOT d.hidden);
	known_traits constant text[] := ARRAY(SELECT t.name FROM cdp.traits t);
	known_included constant text[] := known_traits || ARRAY(SELECT k.name FROM cdp.declared_keys k);
BEGIN
	WITH objects(section, name, object) AS (
		SELECT 'identifier_kinds', d.kind, to_jsonb(d) - 'kind'
		FROM cdp.kind_definitions d
		UNION ALL
		SELECT 'free_mail_domains', f.domain, jsonb_build_object('free', f.free)
		FROM cdp.free_mail_definitions f
		UNION ALL
		SELECT 'account_by_domain', a.kind, '{}'
		FROM cdp.domain_accounts a
		UNION ALL
		SELECT 'attachments', a.name, jsonb_build_object('relation', a.relation, 'mapping', a.mapping,
			'source', NULLIF(a.source, a.name), 'capture', a.capture, 'copy', a.copy)
		FROM cdp.attachment_definitions a
		UNION ALL
		SELECT CASE t.entity WHEN 'account' THEN 'account_traits' ELSE 'traits' END, t.name,
			to_jsonb(t) - '{name,kind,owner,announce,status,entity}'::text[]
			|| jsonb_build_object('options', t.options || CASE WHEN t.announce THEN '{"announce": true}'::jsonb ELSE '{}' END,
				'type', CASE WHEN t.kind = 'declared' THEN t.type END)
		FROM cdp.traits t
		UNION ALL
		SELECT 'purposes', p.name, jsonb_build_object('description', p.description, 'combine', p.combine,
			'aliases', p.aliases, 'valid_for', p.valid_for)
		FROM cdp.purposes p
		UNION ALL
		SELECT 'tracking_plans', d.type || COALESCE(':' || NULLIF(d.event, ''), ''), jsonb_build_object('schema', d.schema, 'mode', d.mode)
		FROM cdp.plan_definitions d
		WHERE d.until_at IS NULL
		UNION ALL
		SELECT 'segments', s.name, jsonb_build_object('predicate', s.predicate::text, 'entity', s.entity,
			'description', s.description, 'exit_when', s.exit_when::text, 'timezone', s.timezone, 'options', d.options,
			'exclude', to_jsonb(s.exclude), 'holdout', s.holdout, 'seed', COALESCE(NULLIF(s.seed, s.name), ''), 'enabled', s.enabled)
		FROM cdp.segments s JOIN cdp.segment_definitions d ON d.name = s.name
		UNION ALL
		-- names that are gone mean something here, where changes were written under them, and are errors elsewhere
		SELECT 'subscriptions', s.name, jsonb_build_object('filter', s.filter || COALESCE(n.filter, '{}'),
			'include', s.include || COALESCE(n.include, '{}'), 'mode', s.mode,
			'visibility', s.visibility, 'format', s.format, 'max_tries', s.max_tries, 'backoff', s.backoff)
		FROM cdp.subscriptions s,
		LATERAL (SELECT jsonb_object_agg(k.key, k.names) FILTER (WHERE k.part = 'filter') AS filter,
				jsonb_object_agg(k.key, k.names) FILTER (WHERE k.part = 'include') AS include
			FROM (SELECT e.part, e.key, COALESCE(jsonb_agg(v.name ORDER BY v.n) FILTER (WHERE v.name = ANY (
					CASE WHEN e.key = 'segment' THEN known_segments WHEN e.part = 'filter' THEN known_traits ELSE known_included END)), '[]') AS names
				FROM (VALUES ('filter', 'segment', s.filter->'segment'), ('filter', 'trait', s.filter->'trait'),
					('include', 'traits', s.include->'traits')) AS e (part, key, value),
				LATERAL jsonb_array_elements_text(CASE WHEN jsonb_typeof(e.value) = 'array' THEN e.value ELSE '[]' END)
					WITH ORDINALITY AS v (name, n)
				GROUP BY 1, 2) k
			-- a filter of no names would be of all
			WHERE k.part = 'include' OR k.names <> '[]') n
	), said AS (
		-- only what is not as it would be anyway
		SELECT o.section, o.name, COALESCE((
				SELECT jsonb_object_agg(e.key, e.value)
				FROM jsonb_each(o.object) e
				WHERE e.value <> COALESCE(COALESCE(to_jsonb(b), s.defaults)->e.key, 'null')), '{}') AS object
		FROM objects o JOIN cdp.config_sections() s ON s.section = o.section
		LEFT JOIN cdp.builtin_kinds b ON b.kind = o.name AND o.section = 'identifier_kinds'
	)
	SELECT jsonb_object_agg(s.section, COALESCE(g.objects, '{}')) INTO config
	FROM cdp.config_sections() s
	LEFT JOIN (SELECT o.section, jsonb_object_agg(o.name, o.object) AS objects FROM said o GROUP BY 1) g ON g.section = s.section;
	RETURN jsonb_build_object('version', 1) || config;
END
$$;
COMMENT ON FUNCTION cdp.export_config() IS
	'all definitions as one JSON document: {"version": 1, "identifier_kinds": {name: …}, "free_mail_domains": …, "account_by_domain": {kind: {}}, "attachments": …, "traits": …, "account_traits": …, "purposes": …, "tracking_plans": {type or type:event: …}, "segments": …, "subscriptions": …}; each object has the arguments of the function that makes it, without those that are at their default. The same definitions give the same document. See cdp.apply_config';

-- An object with all keys, in the form in which objects can be compared.
CREATE FUNCTION cdp.config_object(section text, name text, object jsonb, present jsonb) RETURNS jsonb
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET intervalstyle = 'postgres'
	SET datestyle = 'ISO, YMD'
	SET timezone = 'UTC'
AS $$
DECLARE
	o jsonb;
	k text;
BEGIN
	SELECT s.defaults || object INTO o FROM cdp.config_sections() s WHERE s.section = $1;
	IF section = 'identifier_kinds' THEN
		SELECT to_jsonb(b) - 'kind' || object INTO o FROM cdp.builtin_kinds b WHERE b.kind = $2;
		IF NOT FOUND THEN
			SELECT s.defaults || object INTO o FROM cdp.config_sections() s WHERE s.section = $1;
		END IF;
		IF o->'links' = 'null' THEN
			o := o || jsonb_build_object('links', o->>'entity' <> 'account');
		END IF;
	ELSIF section = 'attachments' THEN
		o := o || jsonb_build_object(
			'relation', COALESCE(to_regclass(o->>'relation')::oid::regclass::text, o->>'relation'),
			'source', COALESCE(NULLIF(o->>'source', ''), name),
			'capture', COALESCE(o->'capture', present->'capture'));
		IF o->'capture' = 'null' AND present IS NOT NULL THEN
			o := o || jsonb_build_object('capture', present->'capture');
		END IF;
	ELSIF section IN ('traits', 'account_traits') THEN
		IF o->'aggregate' <> 'null' OR o->'expression' <> 'null' THEN
			o := o - 'type';
		ELSIF o->'type' <> 'null' THEN
			o := o || jsonb_build_object('type', format_type((o->>'type')::regtype, NULL));
		END IF;
	ELSIF section = 'tracking_plans' AND name LIKE '%:' THEN
		RAISE invalid_parameter_value USING MESSAGE = 'its name is a type, or a type, a colon and an event';
	ELSIF section = 'segments' THEN
		o := o || jsonb_build_object(
			'predicate', (o->>'predicate')::cdp.predicate::text,
			'exit_when', (NULLIF(o->>'exit_when', ''))::cdp.predicate::text,
			'seed', COALESCE(NULLIF(o->>'seed', ''), name),
			'exclude', (SELECT COALESCE(jsonb_agg(e ORDER BY e), '[]') FROM jsonb_array_elements_text(o->'exclude') e));
	END IF;
	FOREACH k IN ARRAY ARRAY['within', 'older_than', 'visibility', 'backoff', 'valid_for'] LOOP
		IF o->k <> 'null' THEN
			o := o || jsonb_build_object(k, (o->>k)::interval::text);
		END IF;
	END LOOP;
	IF o->'since' <> 'null' THEN
		o := o || jsonb_build_object('since', (o->>'since')::timestamptz);
	END IF;
	RETURN o;
END
$$;
COMMENT ON FUNCTION cdp.config_object(text, text, jsonb, jsonb) IS 'internal: an object of a configuration with all its keys, comparable';

CREATE FUNCTION cdp.config_texts(jsonb) RETURNS text[]
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	RETURN ARRAY(SELECT jsonb_array_elements_text($1));
COMMENT ON FUNCTION cdp.config_texts(jsonb) IS 'internal: an array of strings';

-- Make an object what it is to be (o has all keys); how many profiles that moves.
CREATE FUNCTION cdp.config_put(section text, name text, o jsonb, present boolean) RETURNS bigint
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	moved bigint;
BEGIN
	CASE section
	WHEN 'identifier_kinds' THEN
		IF present OR EXISTS (SELECT FROM cdp.identifier_kinds k WHERE k.kind = $2) THEN
			PERFORM cdp.alter_identifier_kind(name, (o->>'priority')::int, COALESCE((o->>'max_per_profile')::int, 0),
				COALESCE((o->>'within')::interval, '0'), o->>'normaliser', cdp.config_texts(o->'blocked'), o->>'entity',
				(o->>'links')::boolean, cdp.config_texts(o->'labels'), o->>'policy', o->>'shared');
		ELSE
			PERFORM cdp.create_identifier_kind(name, (o->>'priority')::int, (o->>'max_per_profile')::int,
				(o->>'within')::interval, o->>'normaliser', cdp.config_texts(o->'blocked'), o->>'entity',
				(o->>'links')::boolean, cdp.config_texts(o->'labels'), o->>'policy', o->>'shared');
		END IF;
	WHEN 'free_mail_domains' THEN
		PERFORM cdp.free_mail_domain(name, (o->>'free')::boolean);
	WHEN 'account_by_domain' THEN
		PERFORM cdp.account_by_domain(true, name);
	WHEN 'attachments' THEN
		IF present THEN
			PERFORM cdp.drop_attachment(name, retract => true);
		END IF;
		PERFORM cdp.attach((o->>'relation')::regclass, o->'mapping', name, o->>'source', o->>'capture', copy => (o->>'copy')::boolean);
	WHEN 'traits', 'account_traits' THEN
		PERFORM cdp.create_trait(name, aggregate => o->>'aggregate', value => o->>'value', event => o->>'event',
			filter => o->>'filter', each => o->>'each', within => (o->>'within')::interval, expression => o->>'expression',
			type => o->>'type', entity => CASE section WHEN 'traits' THEN 'profile' ELSE 'account' END, empty => o->>'empty', timezone => o->>'timezone',
			description => o->>'description', options => o->'options', if_exists => 'replace',
			older_than => (o->>'older_than')::interval, since => (o->>'since')::timestamptz);
	WHEN 'purposes' THEN
		PERFORM cdp.create_purpose(name, o->>'description', o->>'combine', cdp.config_texts(o->'aliases'),
			(o->>'valid_for')::interval, 'replace');
	WHEN 'tracking_plans' THEN
		PERFORM cdp.tracking_plan(substring(name FROM ':(.*)'), o->'schema', o->>'mode', split_part(name, ':', 1));
	WHEN 'segments' THEN
		IF present THEN
			SELECT a.entered + a.exited INTO moved
			FROM cdp.alter_segment(name, (o->>'predicate')::cdp.predicate, COALESCE(o->>'description', ''),
				COALESCE(o->>'exit_when', ''), o->>'timezone', o->'options', (o->>'enabled')::boolean, NULL,
				cdp.config_texts(o->'exclude'), (o->>'holdout')::float8, o->>'seed') a;
		ELSE
			PERFORM cdp.create_segment(name, (o->>'predicate')::cdp.predicate, o->>'entity', o->>'description',
				o->>'exit_when', o->>'timezone', o->'options', 'error',
				cdp.config_texts(o->'exclude'), (o->>'holdout')::float8, o->>'seed');
			IF NOT (o->>'enabled')::boolean THEN
				PERFORM cdp.alter_segment(name, enabled => false);
			END IF;
			moved := (SELECT count(*) FROM cdp.segment_members(name));
		END IF;
	WHEN 'subscriptions' THEN
		IF present THEN
			-- what a document leaves out: names that are gone, under which changes may still wait
			o := jsonb_set(o, '{filter}', o->'filter' || COALESCE((
				SELECT jsonb_object_agg(g.key, o->'filter'->g.key || g.names)
				FROM (SELECT 'segment' AS key, to_jsonb(ARRAY(SELECT v FROM unnest(s.segments) v
							WHERE NOT EXISTS (SELECT FROM cdp.segment_definitions d WHERE d.name = v))) AS names
						FROM cdp.subscriptions s WHERE s.name = config_put.name
					UNION ALL
					SELECT 'trait', to_jsonb(ARRAY(SELECT v FROM unnest(s.traits) v
							WHERE NOT EXISTS (SELECT FROM cdp.traits t WHERE t.name = v)))
						FROM cdp.subscriptions s WHERE s.name = config_put.name) g
				WHERE jsonb_typeof(o->'filter'->g.key) = 'array'), '{}'));
			PERFORM cdp.alter_subscription(name, o->'filter', o->'include', o->>'mode',
				COALESCE((o->>'visibility')::interval, '0'), o->>'format', (o->>'max_tries')::int, (o->>'backoff')::interval);
		ELSE
			PERFORM cdp.subscribe(name, o->'filter', 'now', o->'include', o->>'mode', (o->>'visibility')::interval,
				o->>'format', (o->>'max_tries')::int, (o->>'backoff')::interval);
		END IF;
	END CASE;
	RETURN moved;
END
$$;
COMMENT ON FUNCTION cdp.config_put(text, text, jsonb, boolean) IS 'internal: make or alter an object of a configuration';

CREATE FUNCTION cdp.config_drop(section text, name text) RETURNS bigint
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	moved bigint;
BEGIN
	CASE section
	WHEN 'identifier_kinds' THEN PERFORM cdp.drop_identifier_kind(name);
	WHEN 'free_mail_domains' THEN
		-- as the extension has it: what is said otherwise is the contrary of it
		PERFORM cdp.free_mail_domain(name, NOT COALESCE((cdp.export_config()->section->name->>'free')::boolean, true));
	WHEN 'account_by_domain' THEN
		-- unless another kind has taken its place
		IF cdp.export_config()->section ? name THEN
			PERFORM cdp.account_by_domain(false);
		END IF;
	WHEN 'attachments' THEN PERFORM cdp.drop_attachment(name, retract => false);
	WHEN 'traits' THEN PERFORM cdp.drop_trait(name);
	WHEN 'account_traits' THEN PERFORM cdp.drop_trait(name, entity => 'account');
	WHEN 'purposes' THEN PERFORM cdp.drop_purpose(name);
	WHEN 'tracking_plans' THEN PERFORM cdp.drop_tracking_plan(substring(name FROM ':(.*)'), split_part(name, ':', 1));
	WHEN 'segments' THEN
		moved := (SELECT count(*) FROM cdp.segment_members(name));
		PERFORM cdp.drop_segment(name);
	WHEN 'subscriptions' THEN PERFORM cdp.unsubscribe(name);
	END CASE;
	RETURN moved;
END
$$;
COMMENT ON FUNCTION cdp.config_drop(text, text) IS 'internal: drop an object that a configuration does not have';

-- Not a definer's function: everything is done with the rights of the caller.
CREATE FUNCTION cdp.apply_config(config jsonb, dry_run boolean DEFAULT true, prune boolean DEFAULT false)
	RETURNS TABLE (action text, kind text, name text, before jsonb, after jsonb, profiles_changed bigint)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	current jsonb := cdp.export_config();
	todo jsonb[] := '{}';
	left_over jsonb[];
	done jsonb[] := '{}';
	one jsonb;
	s record;
	o record;
	unknown text;
	wanted jsonb;
	present jsonb;
	moved bigint;
	message text;
	hint text;
	code text;
	place text;
	failed jsonb;
BEGIN
	IF config IS NULL OR jsonb_typeof(config) <> 'object' OR config->'version' IS DISTINCT FROM '1' THEN
		RAISE invalid_parameter_value USING
			MESSAGE = 'invalid configuration',
			DETAIL = 'It must be an object with "version": 1.',
			HINT = 'cdp.export_config() shows what one looks like.';
	END IF;
	SELECT k INTO unknown FROM jsonb_object_keys(config) k
	WHERE k <> 'version' AND k NOT IN (SELECT c.section FROM cdp.config_sections() c);
	IF FOUND THEN
		RAISE invalid_parameter_value USING
			MESSAGE = format('a configuration has no section "%s"', unknown),
			HINT = format('Sections are %s.', (SELECT string_agg(c.section, ', ' ORDER BY c.n) FROM cdp.config_sections() c));
	END IF;

	-- what is other than it is to be
	FOR s IN SELECT * FROM cdp.config_sections() ORDER BY n LOOP
		CONTINUE WHEN config->s.section IS NULL;
		IF jsonb_typeof(config->s.section) <> 'object' THEN
			RAISE invalid_parameter_value USING MESSAGE = format('section "%s" must be an object', s.section);
		END IF;
		FOR o IN SELECT e.key, e.value FROM jsonb_each(config->s.section) e ORDER BY e.key COLLATE "C" LOOP
			IF jsonb_typeof(o.value) <> 'object' THEN
				RAISE invalid_parameter_value USING MESSAGE = format('%s "%s" must be an object', s.kind, o.key);
			END IF;
			SELECT k INTO unknown FROM jsonb_object_keys(o.value) k WHERE NOT s.defaults ? k;
			IF FOUND THEN
				RAISE invalid_parameter_value USING
					MESSAGE = format('%s "%s" has an unknown key "%s"', s.kind, o.key, unknown),
					HINT = format('Keys are %s.', (SELECT string_agg(k, ', ' ORDER BY k) FROM jsonb_object_keys(s.defaults) k));
			END IF;
			present := current->s.section->o.key;
			BEGIN
				wanted := cdp.config_object(s.section, o.key, o.value, present);
			EXCEPTION WHEN syntax_error_or_access_rule_violation OR data_exception OR program_limit_exceeded OR feature_not_supported THEN
				-- what is not even written right, a predicate for example
				GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT, code = RETURNED_SQLSTATE, place = PG_EXCEPTION_CONTEXT;
				RAISE EXCEPTION USING
					ERRCODE = code,
					MESSAGE = format('%s "%s": %s', s.kind, o.key, message),
					DETAIL = COALESCE(substring(place FROM '^(character \d+ of the predicate: [^\n]*)'), ''),
					HINT = COALESCE(NULLIF(hint, ''), 'cdp.apply_config() did nothing.');
			END;
			CONTINUE WHEN present IS NOT NULL
				AND wanted = cdp.config_object(s.section, o.key, present, present);
			-- a built-in kind that is as it is built in
			CONTINUE WHEN present IS NULL AND s.section = 'identifier_kinds'
				AND wanted = cdp.config_object(s.section, o.key, '{}', NULL)
				AND EXISTS (SELECT FROM cdp.builtin_kinds b WHERE b.kind = o.key);
			-- what the extension says anyway
			CONTINUE WHEN s.section = 'free_mail_domains' AND (wanted->>'free')::boolean
				= EXISTS (SELECT FROM cdp.free_mail_domains f WHERE f.domain = cdp.normalise('domain', o.key));
			todo := todo || jsonb_build_object('action', CASE WHEN present IS NULL THEN 'create' ELSE 'alter' END,
				'section', s.section, 'kind', s.kind, 'name', o.key, 'wanted', wanted);
		END LOOP;
	END LOOP;
	IF prune THEN
		FOR s IN SELECT * FROM cdp.config_sections() ORDER BY n DESC LOOP
			CONTINUE WHEN config->s.section IS NULL;
			FOR o IN SELECT e.key FROM jsonb_each(current->s.section) e
					 WHERE NOT config->s.section ? e.key ORDER BY e.key COLLATE "C" LOOP
				todo := todo || jsonb_build_object('action', 'drop', 'section', s.section, 'kind', s.kind, 'name', o.key);
			END LOOP;
		END LOOP;
	END IF;

	BEGIN
		-- Definitions refer to each other: what fails is tried again after the
		-- others, as long as anything succeeds.
		WHILE cardinality(todo) > 0 LOOP
			left_over := '{}';
			FOREACH one IN ARRAY todo LOOP
				BEGIN
					IF one->>'action' = 'drop' THEN
						moved := cdp.config_drop(one->>'section', one->>'name');
					ELSE
						moved := cdp.config_put(one->>'section', one->>'name', one->'wanted', one->>'action' = 'alter');
					END IF;
					done := done || (one || jsonb_build_object('moved', moved));
				EXCEPTION
					WHEN syntax_error_or_access_rule_violation OR data_exception OR invalid_schema_name OR dependent_objects_still_exist
						OR object_not_in_prerequisite_state OR feature_not_supported THEN
						left_over := left_over || one;
						-- the first one is told, if it comes to that: others may fail for its sake
						IF cardinality(left_over) = 1 THEN
							GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT, code = RETURNED_SQLSTATE;
							failed := one;
						END IF;
				END;
			END LOOP;
			IF cardinality(left_over) = cardinality(todo) THEN
				RAISE EXCEPTION USING
					ERRCODE = code,
					MESSAGE = format('%s "%s": %s', failed->>'kind', failed->>'name', message),
					HINT = COALESCE(NULLIF(hint, ''), 'cdp.apply_config() did nothing.');
			END IF;
			todo := left_over;
		END LOOP;
		wanted := cdp.export_config();
		IF dry_run IS DISTINCT FROM false THEN
			RAISE EXCEPTION 'dry run' USING ERRCODE = 'CDPDR';
		END IF;
	EXCEPTION WHEN SQLSTATE 'CDPDR' THEN
		NULL;
	END;

	FOREACH one IN ARRAY done LOOP
		action := one->>'action';
		kind := one->>'kind';
		name := one->>'name';
		before := current->(one->>'section')->name;
		after := wanted->(one->>'section')->name;
		profiles_changed := (one->>'moved')::bigint;
		RETURN NEXT;
	END LOOP;
END
$$;
COMMENT ON FUNCTION cdp.apply_config(jsonb, boolean, boolean) IS
	'make the definitions those of a configuration as cdp.export_config gives it, in one transaction; a section that is absent is left alone. dry_run (the default): do it, tell what it did, and undo it. prune: drop what a section does not have (entries of attachments stay). One row for each object that changed: action create, alter or drop, its kind and name, the object before and after, and for segments how many profiles entered or left (NULL: not known yet). Nothing changes when it is applied again. Errors: invalid_parameter_value and those of the functions that make and drop definitions, with the object named';

REVOKE EXECUTE ON FUNCTION cdp.config_sections(), cdp.export_config(), cdp.config_object(text, text, jsonb, jsonb), cdp.config_texts(jsonb),
	cdp.config_put(text, text, jsonb, boolean), cdp.config_drop(text, text), cdp.apply_config(jsonb, boolean, boolean) FROM PUBLIC;
