/* sql/identity/presets.sql: rules of identity as other systems have them */

-- The kinds under a preset: built-in ones, with their own rules and on top what
-- the preset says.  Kinds that users made are their own business.
-- See doc/presets.md.
CREATE FUNCTION cdp.preset_kinds(name text) RETURNS SETOF cdp.kind_definitions
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
	-- what names a device, a browser or an installation rather than a person
	devices constant text[] := ARRAY['android.id', 'ios.id', 'device_id', 'android.idfa', 'ios.idfa',
		'android.push_token', 'ios.push_token', 'ga_client_id', 'cookie', 'anonymous_id'];
	k cdp.kind_definitions;
BEGIN
	IF name IS NULL OR name NOT IN ('default', 'segment', 'posthog', 'rudderstack', 'snowplow', 'snowplow_dbt',
		'mparticle_default', 'mparticle_profile_conversion', 'mparticle_profile_isolation', 'mparticle_best_match') THEN
		RAISE undefined_object USING
			MESSAGE = format('preset "%s" does not exist', name),
			HINT = 'Presets are default, segment, posthog, rudderstack, snowplow, snowplow_dbt, mparticle_default, mparticle_profile_conversion, mparticle_profile_isolation and mparticle_best_match.';
	END IF;
	FOR k IN
		SELECT b.kind, b.normaliser, b.priority, b.max_per_profile, b.within, b.blocked, b.labels, b.entity, b.links, b.policy, b.shared
		FROM cdp.builtin_kinds b
		UNION ALL
		-- PostHog has one name space for all ids
		SELECT 'distinct_id', 'verbatim', 2, NULL, NULL, '{}', '{}', 'profile', true, 'demote', 'first'
		WHERE name = 'posthog'
	LOOP
		IF name = 'default' OR k.entity <> 'profile' THEN
			RETURN NEXT k;
			CONTINUE;
		END IF;
		-- nobody else keeps the addresses of offices apart
		k.labels := '{}';
		CASE name
		WHEN 'segment' THEN
			k.max_per_profile := CASE WHEN k.kind = 'user_id' THEN 1 ELSE 5 END;
			k.priority := CASE k.kind WHEN 'user_id' THEN 1 WHEN 'email' THEN 2
				ELSE 3 + (SELECT count(*) FROM cdp.builtin_kinds o
						  WHERE o.entity = 'profile' AND o.kind NOT IN ('user_id', 'email')
							AND o.kind COLLATE "C" < k.kind) END;
		WHEN 'posthog' THEN
			-- everything else is a property there
			k.links := k.kind IN ('user_id', 'distinct_id', 'anonymous_id');
			IF k.links THEN
				k.blocked := ARRAY['distinctid', 'distinct_id', 'id', 'not_authenticated', 'email', 'true', 'false'];
				k.blocked := ARRAY(
					SELECT '^"?' || (SELECT string_agg(CASE WHEN c.c ~ '[a-z]' THEN '[' || c.c || upper(c.c) || ']'
														ELSE c.c END, '' ORDER BY c.n)
									 FROM regexp_split_to_table(b.b, '') WITH ORDINALITY c(c, n)) || '"?$'
					FROM unnest(k.blocked) b(b))
					|| ARRAY['^\s*$', '^"(undefined|null|NaN|None|\[object Object\])"$'];
			END IF;
		WHEN 'rudderstack', 'mparticle_best_match' THEN
			k.max_per_profile := NULL;
		WHEN 'snowplow' THEN
			IF k.kind = ANY (devices) THEN
				k.shared := 'anonymous';
			END IF;
		WHEN 'snowplow_dbt' THEN
			k.links := k.kind = 'user_id' OR k.kind = ANY (devices);
			IF k.kind = ANY (devices) THEN
				k.shared := 'newest';
			END IF;
		ELSE
			k.priority := COALESCE(array_position(ARRAY['user_id', 'phone', 'email', 'loyalty_id', 'braze_id',
				'cross_domain_id', 'ios.idfa', 'ios.id', 'android.idfa', 'android.id'], k.kind), k.priority);
			IF name = 'mparticle_profile_isolation' AND k.kind = ANY (devices) THEN
				k.links := false;
			END IF;
		END CASE;
		RETURN NEXT k;
	END LOOP;
END
$$;
COMMENT ON FUNCTION cdp.preset_kinds(text) IS 'internal: the kinds of identifiers under a preset';

CREATE FUNCTION cdp.identity_preset(name text, dry_run boolean DEFAULT false,
	OUT kind text, OUT rule text, OUT was text, OUT becomes text) RETURNS SETOF record
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
	d cdp.kind_definitions;
BEGIN
	IF NOT COALESCE($2, false) THEN
		PERFORM cdp.identity_rules_changing();
	END IF;
	RETURN QUERY
	SELECT p.kind, n.key, o.value, n.value
	FROM cdp.preset_kinds($1) p
	LEFT JOIN cdp.identifier_kinds i ON i.kind = p.kind
	CROSS JOIN LATERAL jsonb_each_text(to_jsonb(p) - 'kind') n
	LEFT JOIN LATERAL jsonb_each_text(to_jsonb(i)) o ON o.key = n.key
	WHERE o.value IS DISTINCT FROM n.value
	ORDER BY p.kind COLLATE "C", n.key COLLATE "C";
	IF NOT FOUND OR COALESCE($2, false) THEN
		RETURN;
	END IF;

	FOR d IN SELECT p.* FROM cdp.preset_kinds($1) p LOOP
		PERFORM cdp.check_kind(d);
		CONTINUE WHEN EXISTS (SELECT FROM cdp.identifier_kinds i WHERE to_jsonb(i) = to_jsonb(d));
		DELETE FROM cdp.kind_definitions o WHERE o.kind = d.kind;
		IF NOT EXISTS (SELECT FROM cdp.identifier_kinds i WHERE to_jsonb(i) = to_jsonb(d)) THEN
			INSERT INTO cdp.kind_definitions SELECT d.*;
		END IF;
	END LOOP;
	PERFORM cdp.identity_rules_changed();
END
$$;
COMMENT ON FUNCTION cdp.identity_preset(text, boolean) IS
'give the built-in kinds of identifiers the rules that another system has: segment, posthog, rudderstack, snowplow (its Identities), snowplow_dbt (its packages for dbt), mparticle_default, mparticle_profile_conversion, mparticle_profile_isolation, mparticle_best_match; default: the rules that come with the extension. Returns one row for each rule that changes: kind, rule, was, becomes (NULL: none). dry_run: change nothing. History follows as with alter_identifier_kind, once for all of them. Errors: undefined_object';

REVOKE ALL ON FUNCTION cdp.preset_kinds(text), cdp.identity_preset(text, boolean) FROM PUBLIC;
