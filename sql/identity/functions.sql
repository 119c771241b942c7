/* sql/identity/functions.sql: kinds, canonical forms */

CREATE FUNCTION cdp.canonical(identifier cdp.identifier) RETURNS cdp.identifier
	AS 'MODULE_PATHNAME', 'cdp_canonical' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cdp.canonical(cdp.identifier) IS 'the form in which identities hold it, by its kind''s rules; NULL when it is blocked or has none';

CREATE FUNCTION cdp.normalise(normaliser text, value text) RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_normalise' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cdp.normalise(text, text) IS 'the canonical form of a value by the normaliser domain, email, lower, nfkc, phone or verbatim; NULL when it has none';

CREATE FUNCTION cdp.normalise_phone(value text, region text DEFAULT NULL) RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_normalise_phone' LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION cdp.normalise_phone(text, text) IS 'a phone number in E.164; region is the ISO 3166 code of the country whose national numbers are read, NULL: only international form; NULL when value is no number';

CREATE FUNCTION cdp.normaliser_versions(OUT normaliser text, OUT library text, OUT version text) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'cdp_normaliser_versions' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cdp.normaliser_versions() IS 'the libraries that the normalisers use, and their versions; NULL: none';

-- For the functions that change definitions; not for users.
CREATE FUNCTION cdp.visible(profile_id bigint) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_visible' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 0.1;
COMMENT ON FUNCTION cdp.visible(bigint) IS 'may the session''s user see the profile? Everybody may, unless cdp.restrict_reader() says otherwise';

CREATE FUNCTION cdp.definitions_lock() RETURNS void
	AS 'MODULE_PATHNAME', 'cdp_definitions_lock' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.definitions_lock() IS 'internal: keep the applier and other changes of definitions out until the transaction ends';
CREATE FUNCTION cdp.definitions_changed() RETURNS void
	AS 'MODULE_PATHNAME', 'cdp_definitions_changed' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.definitions_changed() IS 'internal: tell the applier that definitions have changed';
CREATE FUNCTION cdp.identity_rules_changing() RETURNS void
	AS 'MODULE_PATHNAME', 'cdp_identity_rules_changing' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.identity_rules_changing() IS 'internal: the rules of identity are about to change, by this transaction alone';
CREATE FUNCTION cdp.identity_rules_changed() RETURNS void
	AS 'MODULE_PATHNAME', 'cdp_identity_rules_changed' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.identity_rules_changed() IS 'internal: the rules of identity have changed; history follows when the transaction has committed';

-- Refuse what would fail when the kind is loaded, with messages that say what.
CREATE FUNCTION cdp.check_kind(definition cdp.kind_definitions) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	pattern text;
BEGIN
	PERFORM cdp.identifier(definition.kind, '');
	IF definition.normaliser NOT IN ('domain', 'email', 'lower', 'nfkc', 'phone', 'verbatim') THEN
		RAISE undefined_object USING
			MESSAGE = format('normaliser "%s" does not exist', definition.normaliser),
			HINT = 'Normalisers are domain, email, lower, nfkc, phone and verbatim.';
	END IF;
	IF definition.entity NOT IN ('profile', 'account') THEN
		RAISE invalid_parameter_value USING
			MESSAGE = format('"%s" is not an entity', definition.entity),
			HINT = 'Entities are profile and account.';
	END IF;
	IF definition.priority <= 0 THEN
		RAISE invalid_parameter_value USING MESSAGE = 'priority must be greater than zero';
	END IF;
	IF definition.max_per_profile < 0 THEN
		RAISE invalid_parameter_value USING MESSAGE = 'max_per_profile must not be negative';
	END IF;
	IF definition.entity = 'account' AND definition.links THEN
		RAISE invalid_parameter_value USING
			MESSAGE = format('kind "%s" names accounts and cannot link profiles', definition.kind);
	END IF;
	-- as they are sent, for '30 days' is equal to '1 month'
	IF interval_send(definition.within) NOT IN (interval_send('1 day'), interval_send('7 days'),
			interval_send('1 month'), interval_send('3 months'), interval_send('1 year')) THEN
		RAISE invalid_parameter_value USING
			MESSAGE = format('a limit cannot hold within %s', definition.within),
			HINT = 'Periods are those of the calendar: 1 day, 1 week, 1 month, 3 months and 1 year.';
	END IF;
	IF definition.within IS NOT NULL AND definition.max_per_profile IS NULL THEN
		RAISE invalid_parameter_value USING
			MESSAGE = 'within needs max_per_profile';
	END IF;
	IF definition.policy NOT IN ('demote', 'refuse', 'quarantine', 'raise') THEN
		RAISE invalid_parameter_value USING
			MESSAGE = format('"%s" is not a policy', definition.policy),
			HINT = 'Policies are demote, refuse, quarantine and raise.';
	END IF;
	IF definition.shared NOT IN ('first', 'newest', 'anonymous') THEN
		RAISE invalid_parameter_value USING
			MESSAGE = format('"%s" is not a way to share identifiers', definition.shared),
			HINT = 'Who has a shared identifier is first, newest or anonymous.';
	END IF;
	FOREACH pattern IN ARRAY definition.blocked || definition.labels LOOP
		IF pattern IS NULL THEN
			RAISE null_value_not_allowed USING MESSAGE = 'blocked and labels must not contain NULL';
		END IF;
		IF pattern LIKE '^%' THEN
			PERFORM '' COLLATE "C" ~ pattern;
		END IF;
	END LOOP;
END
$$;
COMMENT ON FUNCTION cdp.check_kind(cdp.kind_definitions) IS 'internal: an error when the kind cannot be';

CREATE FUNCTION cdp.create_identifier_kind(
	kind text, priority int DEFAULT 100, max_per_profile int DEFAULT NULL,
	within interval DEFAULT NULL, normaliser text DEFAULT 'verbatim',
	blocked text[] DEFAULT '{}', entity text DEFAULT 'profile',
	links boolean DEFAULT NULL, labels text[] DEFAULT '{}',
	policy text DEFAULT 'demote', shared text DEFAULT 'first') RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
	definition cdp.kind_definitions;
BEGIN
	definition.kind := $1;
	definition.priority := coalesce($2, 100);
	definition.max_per_profile := nullif($3, 0);
	definition.within := nullif($4, '0');
	definition.normaliser := coalesce($5, 'verbatim');
	definition.blocked := coalesce($6, '{}');
	definition.entity := coalesce($7, 'profile');
	definition.links := coalesce($8, definition.entity <> 'account');
	definition.labels := coalesce($9, '{}');
	definition.policy := coalesce($10, 'demote');
	definition.shared := coalesce($11, 'first');
	IF $1 IS NULL THEN
		RAISE null_value_not_allowed USING MESSAGE = 'kind must not be NULL';
	END IF;
	PERFORM cdp.check_kind(definition);
	PERFORM cdp.identity_rules_changing();
	IF EXISTS (SELECT FROM cdp.identifier_kinds k WHERE k.kind = $1) THEN
		RAISE duplicate_object USING
			MESSAGE = format('kind "%s" already exists', $1),
			HINT = 'Use cdp.alter_identifier_kind to change it.';
	END IF;
	INSERT INTO cdp.kind_definitions SELECT definition.*;
	PERFORM cdp.identity_rules_changed();
END
$$;
COMMENT ON FUNCTION cdp.create_identifier_kind(text, int, int, interval, text, text[], text, boolean, text[], text, text) IS
'make a kind of identifier. priority: the smallest owns an entry; max_per_profile: identifiers of the kind that one profile may have, NULL or 0: any number; within: the calendar period (UTC) that max_per_profile is about: 1 day, 7 days, 1 month, 3 months or 1 year; NULL or 0: ever; normaliser: verbatim, lower, nfkc, email, domain or phone; blocked: values to ignore, and labels: values that link nothing, each a canonical value or a regular expression that begins with ^; entity: profile or account; links: default true for profiles; policy: what becomes of an entry whose link breaks the limit: demote, refuse, quarantine or raise; shared: who has an identifier that several people use: first, newest or anonymous. History follows the new rules when the transaction has committed: see cdp.preview_identity() and cdp.progress. Errors: duplicate_object, undefined_object (normaliser), invalid_parameter_value, invalid_regular_expression';

CREATE FUNCTION cdp.alter_identifier_kind(
	kind text, priority int DEFAULT NULL, max_per_profile int DEFAULT NULL,
	within interval DEFAULT NULL, normaliser text DEFAULT NULL,
	blocked text[] DEFAULT NULL, entity text DEFAULT NULL,
	links boolean DEFAULT NULL, labels text[] DEFAULT NULL,
	policy text DEFAULT NULL, shared text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
	old record;
	definition cdp.kind_definitions;
BEGIN
	PERFORM cdp.identity_rules_changing();
	SELECT * INTO old FROM cdp.identifier_kinds k WHERE k.kind = $1;
	IF NOT FOUND THEN
		RAISE undefined_object USING
			MESSAGE = format('kind "%s" does not exist', $1),
			HINT = 'Use cdp.create_identifier_kind to make it.';
	END IF;
	definition.kind := old.kind;
	definition.priority := coalesce($2, old.priority);
	definition.max_per_profile := nullif(coalesce($3, old.max_per_profile), 0);
	definition.within := nullif(coalesce($4, CASE WHEN definition.max_per_profile IS NOT NULL THEN old.within END), '0');
	definition.normaliser := coalesce($5, old.normaliser);
	definition.blocked := coalesce($6, old.blocked);
	definition.entity := coalesce($7, old.entity);
	definition.links := coalesce($8, CASE WHEN definition.entity = old.entity THEN old.links
										  ELSE definition.entity <> 'account' END);
	definition.labels := coalesce($9, old.labels);
	definition.policy := coalesce($10, old.policy);
	definition.shared := coalesce($11, old.shared);
	PERFORM cdp.check_kind(definition);
	IF EXISTS (SELECT FROM cdp.backfills b WHERE b.kind = 'domains') AND (old.normaliser = 'domain'
			OR (definition.normaliser = 'email') <> (old.normaliser = 'email')) THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = format('cannot alter kind "%s" while history follows which domains mean accounts', $1),
			HINT = 'See cdp.progress, and wait for it by cdp.wait_backfill().';
	ELSIF EXISTS (SELECT FROM cdp.domain_accounts d
				  WHERE d.kind = $1 OR (definition.normaliser = 'email') <> (old.normaliser = 'email')) THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = format('cannot alter kind "%s" while domains of e-mail mean accounts', $1),
			HINT = 'Call cdp.account_by_domain(false) before, and cdp.account_by_domain() afterwards.';
	END IF;
	INSERT INTO cdp.kind_definitions SELECT definition.*
	ON CONFLICT ON CONSTRAINT kind_definitions_pkey DO UPDATE SET
		(normaliser, priority, max_per_profile, within, blocked, labels, entity, links, policy, shared) =
		(excluded.normaliser, excluded.priority, excluded.max_per_profile, excluded.within, excluded.blocked,
		excluded.labels, excluded.entity, excluded.links, excluded.policy, excluded.shared);
	PERFORM cdp.identity_rules_changed();
END
$$;
COMMENT ON FUNCTION cdp.alter_identifier_kind(text, int, int, interval, text, text[], text, boolean, text[], text, text) IS
'change a kind of identifier, built-in ones included: arguments as for create_identifier_kind; NULL leaves a rule as it is, max_per_profile 0 removes the limit, within 0 makes it hold for ever. History follows the new rules when the transaction has committed: see cdp.preview_identity() and cdp.progress. Errors: undefined_object and those of create_identifier_kind';

CREATE FUNCTION cdp.drop_identifier_kind(kind text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
	builtin boolean;
BEGIN
	PERFORM cdp.identity_rules_changing();
	builtin := EXISTS (SELECT FROM cdp.builtin_kinds b WHERE b.kind = $1);
	IF EXISTS (SELECT FROM cdp.backfills b JOIN cdp.kind_definitions k ON k.kind = $1
			   WHERE b.kind = 'domains' AND k.normaliser IN ('domain', 'email')) THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = format('cannot drop kind "%s" while history follows which domains mean accounts', $1),
			HINT = 'See cdp.progress, and wait for it by cdp.wait_backfill().';
	ELSIF EXISTS (SELECT FROM cdp.domain_accounts d WHERE d.kind = $1 OR EXISTS (
			SELECT FROM cdp.builtin_kinds b JOIN cdp.kind_definitions k ON k.kind = b.kind
			WHERE k.kind = $1 AND (k.normaliser = 'email') <> (b.normaliser = 'email'))) THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = format('cannot drop kind "%s" while domains of e-mail mean accounts', $1),
			HINT = 'Call cdp.account_by_domain(false) before, and cdp.account_by_domain() afterwards.';
	END IF;
	DELETE FROM cdp.kind_definitions d WHERE d.kind = $1;
	IF NOT FOUND THEN
		IF builtin THEN
			RAISE object_not_in_prerequisite_state USING
				MESSAGE = format('cannot drop built-in kind "%s"', $1),
				HINT = 'Use cdp.alter_identifier_kind to change its rules, for example links => false.';
		END IF;
		RAISE undefined_object USING MESSAGE = format('kind "%s" does not exist', $1);
	END IF;
	IF builtin THEN
		RAISE NOTICE 'kind "%" has its built-in rules again', $1;
	END IF;
	PERFORM cdp.identity_rules_changed();
END
$$;
COMMENT ON FUNCTION cdp.drop_identifier_kind(text) IS 'drop a kind of identifier, or give a changed built-in one its own rules back. Identifiers of the kind stay in the log and are labels from then on; history follows as with alter_identifier_kind. Errors: undefined_object, object_not_in_prerequisite_state (built-in)';

REVOKE ALL ON FUNCTION
	cdp.definitions_lock(),
	cdp.definitions_changed(),
	cdp.identity_rules_changing(),
	cdp.identity_rules_changed(),
	cdp.check_kind(cdp.kind_definitions),
	cdp.create_identifier_kind(text, int, int, interval, text, text[], text, boolean, text[], text, text),
	cdp.alter_identifier_kind(text, int, int, interval, text, text[], text, boolean, text[], text, text),
	cdp.drop_identifier_kind(text)
FROM PUBLIC;
