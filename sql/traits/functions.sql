/* sql/traits/functions.sql: traits */

CREATE FUNCTION cdp.create_trait(
	name text,
	aggregate text DEFAULT NULL,
	value text DEFAULT NULL,
	event text DEFAULT NULL,
	filter text DEFAULT NULL,
	each text DEFAULT NULL,
	within interval DEFAULT NULL,
	expression text DEFAULT NULL,
	type text DEFAULT NULL,
	entity text DEFAULT 'profile',
	empty text DEFAULT NULL,
	timezone text DEFAULT 'UTC',
	description text DEFAULT NULL,
	options jsonb DEFAULT '{}',
	if_exists text DEFAULT 'error',
	newer_than interval DEFAULT NULL,
	older_than interval DEFAULT NULL,
	since timestamptz DEFAULT NULL
) RETURNS void
	AS 'MODULE_PATHNAME', 'cdp_create_trait' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.create_trait(text, text, text, text, text, text, interval, text, text, text, text, text, text, jsonb, text, interval, interval, timestamptz) IS
	'define a trait: an aggregate over entries, an expression over other traits, or the type of a declared one';

CREATE FUNCTION cdp.alter_trait(
	name text,
	aggregate text DEFAULT NULL,
	value text DEFAULT NULL,
	event text DEFAULT NULL,
	filter text DEFAULT NULL,
	each text DEFAULT NULL,
	within interval DEFAULT NULL,
	expression text DEFAULT NULL,
	type text DEFAULT NULL,
	entity text DEFAULT NULL,
	empty text DEFAULT NULL,
	timezone text DEFAULT NULL,
	description text DEFAULT NULL,
	options jsonb DEFAULT NULL,
	newer_than interval DEFAULT NULL,
	older_than interval DEFAULT NULL,
	since timestamptz DEFAULT NULL
) RETURNS void
	AS 'MODULE_PATHNAME', 'cdp_alter_trait' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.alter_trait(text, text, text, text, text, text, interval, text, text, text, text, text, text, jsonb, interval, interval, timestamptz) IS
	'change a trait: parts that are NULL stay, an empty text (or an interval of zero) removes one';

CREATE FUNCTION cdp.rename_trait(name text, new_name text, entity text DEFAULT NULL) RETURNS void
	AS 'MODULE_PATHNAME', 'cdp_rename_trait' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.rename_trait(text, text, text) IS 'rename a trait; derived traits follow. entity: profile or account; NULL: whichever has it, profiles first';

CREATE FUNCTION cdp.drop_trait(name text, cascade boolean DEFAULT false, entity text DEFAULT NULL) RETURNS void
	AS 'MODULE_PATHNAME', 'cdp_drop_trait' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.drop_trait(text, boolean, text) IS 'drop a trait, with cascade also the derived traits that read it. entity: profile or account; NULL: whichever has it, profiles first';

CREATE FUNCTION cdp.suspended_traits() RETURNS int[]
	AS 'MODULE_PATHNAME', 'cdp_suspended_traits' LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.suspended_traits() IS 'internal: ids of traits without values, because their owner''s role is gone or they cannot be compiled, as far as the session has noticed';
REVOKE ALL ON FUNCTION cdp.suspended_traits() FROM PUBLIC;

CREATE FUNCTION cdp.absolute_time(text) RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_absolute_time' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cdp.absolute_time(text) IS 'its argument, unless that is a time relative to the clock such as ''now''';

CREATE FUNCTION cdp.trait_json(anyelement) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'cdp_trait_json' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cdp.trait_json(anyelement) IS 'a value as profiles show it: times in UTC, NaN and infinity as text';

-- values of a profile from the states of its identifiers

CREATE FUNCTION cdp.node_states_step(internal, cdp.node_state) RETURNS internal
	AS 'MODULE_PATHNAME', 'cdp_node_states_step' LANGUAGE C STABLE PARALLEL UNSAFE;
CREATE FUNCTION cdp.traits_json_final(internal) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'cdp_traits_json_final' LANGUAGE C STABLE PARALLEL UNSAFE;
CREATE FUNCTION cdp.trait_values_final(internal) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'cdp_trait_values_final' LANGUAGE C STABLE PARALLEL UNSAFE;

CREATE AGGREGATE cdp.traits_json(cdp.node_state) (
	SFUNC = cdp.node_states_step,
	STYPE = internal,
	SSPACE = 1024,
	FINALFUNC = cdp.traits_json_final,
	FINALFUNC_MODIFY = SHAREABLE,
	PARALLEL = UNSAFE
);
COMMENT ON AGGREGATE cdp.traits_json(cdp.node_state) IS 'traits of the profile made of these identifiers: declared keys as written, and computed ones';

CREATE AGGREGATE cdp.trait_values(cdp.node_state) (
	SFUNC = cdp.node_states_step,
	STYPE = internal,
	SSPACE = 1024,
	FINALFUNC = cdp.trait_values_final,
	FINALFUNC_MODIFY = SHAREABLE,
	PARALLEL = UNSAFE
);
COMMENT ON AGGREGATE cdp.trait_values(cdp.node_state) IS 'values of all defined traits of the profile made of these identifiers';

-- states as values

CREATE FUNCTION cdp.trait_state(aggregate text, value anyelement, at timestamptz DEFAULT NULL, options jsonb DEFAULT NULL) RETURNS cdp.trait_state
	AS 'MODULE_PATHNAME', 'cdp_trait_state_make' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION cdp.trait_state(text, anyelement, timestamptz, jsonb) IS 'the state of an aggregate after one value; options as in create_trait(), and within, older_than, timezone';

CREATE FUNCTION cdp.trait_state_add(cdp.trait_state, cdp.trait_state) RETURNS cdp.trait_state
	AS 'MODULE_PATHNAME', 'cdp_trait_state_add' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION cdp.trait_state_eq(cdp.trait_state, cdp.trait_state) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_trait_state_eq' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE OPERATOR cdp.+ (
	LEFTARG = cdp.trait_state,
	RIGHTARG = cdp.trait_state,
	FUNCTION = cdp.trait_state_add,
	COMMUTATOR = OPERATOR(cdp.+)
);
COMMENT ON OPERATOR cdp.+ (cdp.trait_state, cdp.trait_state) IS 'combine two states of the same aggregate';

CREATE OPERATOR cdp.= (
	LEFTARG = cdp.trait_state,
	RIGHTARG = cdp.trait_state,
	FUNCTION = cdp.trait_state_eq,
	COMMUTATOR = OPERATOR(cdp.=),
	RESTRICT = eqsel,
	JOIN = eqjoinsel
);
COMMENT ON OPERATOR cdp.= (cdp.trait_state, cdp.trait_state) IS 'the same state';

CREATE FUNCTION cdp.finish(state cdp.trait_state, at timestamptz DEFAULT cdp.clock()) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'cdp_trait_state_finish' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cdp.finish(cdp.trait_state, timestamptz) IS 'the value of a state';

CREATE FUNCTION cdp.trait_state_step(internal, text, anyelement) RETURNS internal
	AS 'MODULE_PATHNAME', 'cdp_trait_state_step' LANGUAGE C IMMUTABLE PARALLEL SAFE;
CREATE FUNCTION cdp.trait_state_step(internal, text, anyelement, timestamptz) RETURNS internal
	AS 'MODULE_PATHNAME', 'cdp_trait_state_step' LANGUAGE C IMMUTABLE PARALLEL SAFE;
CREATE FUNCTION cdp.trait_state_step(internal, text, anyelement, timestamptz, jsonb) RETURNS internal
	AS 'MODULE_PATHNAME', 'cdp_trait_state_step' LANGUAGE C IMMUTABLE PARALLEL SAFE;
CREATE FUNCTION cdp.trait_state_combine_step(internal, cdp.trait_state) RETURNS internal
	AS 'MODULE_PATHNAME', 'cdp_trait_state_combine_step' LANGUAGE C IMMUTABLE PARALLEL SAFE;
CREATE FUNCTION cdp.trait_state_combine(internal, internal) RETURNS internal
	AS 'MODULE_PATHNAME', 'cdp_trait_state_combine' LANGUAGE C IMMUTABLE PARALLEL SAFE;
CREATE FUNCTION cdp.trait_state_serial(internal) RETURNS bytea
	AS 'MODULE_PATHNAME', 'cdp_trait_state_serial' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION cdp.trait_state_deserial(bytea, internal) RETURNS internal
	AS 'MODULE_PATHNAME', 'cdp_trait_state_deserial' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION cdp.trait_state_final(internal) RETURNS cdp.trait_state
	AS 'MODULE_PATHNAME', 'cdp_trait_state_final' LANGUAGE C IMMUTABLE PARALLEL SAFE;

CREATE AGGREGATE cdp.trait_state_agg(aggregate text, value anyelement) (
	SFUNC = cdp.trait_state_step,
	STYPE = internal,
	SSPACE = 1024,
	FINALFUNC = cdp.trait_state_final,
	FINALFUNC_MODIFY = READ_ONLY,
	COMBINEFUNC = cdp.trait_state_combine,
	SERIALFUNC = cdp.trait_state_serial,
	DESERIALFUNC = cdp.trait_state_deserial,
	PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdp.trait_state_agg(text, anyelement) IS 'the state of an aggregate over rows';

CREATE AGGREGATE cdp.trait_state_agg(aggregate text, value anyelement, at timestamptz) (
	SFUNC = cdp.trait_state_step,
	STYPE = internal,
	SSPACE = 1024,
	FINALFUNC = cdp.trait_state_final,
	FINALFUNC_MODIFY = READ_ONLY,
	COMBINEFUNC = cdp.trait_state_combine,
	SERIALFUNC = cdp.trait_state_serial,
	DESERIALFUNC = cdp.trait_state_deserial,
	PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdp.trait_state_agg(text, anyelement, timestamptz) IS 'the state of an aggregate over rows';

CREATE AGGREGATE cdp.trait_state_agg(aggregate text, value anyelement, at timestamptz, options jsonb) (
	SFUNC = cdp.trait_state_step,
	STYPE = internal,
	SSPACE = 1024,
	FINALFUNC = cdp.trait_state_final,
	FINALFUNC_MODIFY = READ_ONLY,
	COMBINEFUNC = cdp.trait_state_combine,
	SERIALFUNC = cdp.trait_state_serial,
	DESERIALFUNC = cdp.trait_state_deserial,
	PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdp.trait_state_agg(text, anyelement, timestamptz, jsonb) IS 'the state of an aggregate over rows';

CREATE AGGREGATE cdp.combine(cdp.trait_state) (
	SFUNC = cdp.trait_state_combine_step,
	STYPE = internal,
	SSPACE = 1024,
	FINALFUNC = cdp.trait_state_final,
	FINALFUNC_MODIFY = READ_ONLY,
	COMBINEFUNC = cdp.trait_state_combine,
	SERIALFUNC = cdp.trait_state_serial,
	DESERIALFUNC = cdp.trait_state_deserial,
	PARALLEL = SAFE
);
COMMENT ON AGGREGATE cdp.combine(cdp.trait_state) IS 'add states up';

REVOKE ALL ON FUNCTION cdp.create_trait(text, text, text, text, text, text, interval, text, text, text, text, text, text, jsonb, text, interval, interval, timestamptz),
	cdp.alter_trait(text, text, text, text, text, text, interval, text, text, text, text, text, text, jsonb, interval, interval, timestamptz),
	cdp.rename_trait(text, text, text), cdp.drop_trait(text, boolean, text) FROM PUBLIC;
