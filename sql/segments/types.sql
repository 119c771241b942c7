/* sql/segments/types.sql: cdp.predicate */

CREATE TYPE cdp.predicate;

CREATE FUNCTION cdp.predicate_in(cstring) RETURNS cdp.predicate
	AS 'MODULE_PATHNAME', 'cdp_predicate_in' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION cdp.predicate_out(cdp.predicate) RETURNS cstring
	AS 'MODULE_PATHNAME', 'cdp_predicate_out' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION cdp.predicate_recv(internal) RETURNS cdp.predicate
	AS 'MODULE_PATHNAME', 'cdp_predicate_recv' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION cdp.predicate_send(cdp.predicate) RETURNS bytea
	AS 'MODULE_PATHNAME', 'cdp_predicate_send' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE TYPE cdp.predicate (
	INPUT = cdp.predicate_in,
	OUTPUT = cdp.predicate_out,
	RECEIVE = cdp.predicate_recv,
	SEND = cdp.predicate_send,
	INTERNALLENGTH = VARIABLE,
	ALIGNMENT = int4,
	STORAGE = extended,
	CATEGORY = 'S'
);
COMMENT ON TYPE cdp.predicate IS 'a boolean SQL expression over traits and behaviour, in canonical form; input checks the grammar and the vocabulary''s calls, not the names';

CREATE FUNCTION cdp.predicate(text) RETURNS cdp.predicate
	AS 'MODULE_PATHNAME', 'cdp_predicate_from_text' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cdp.predicate(text) IS 'a text as a predicate; syntax_error and others with the position otherwise';

CREATE CAST (text AS cdp.predicate) WITH FUNCTION cdp.predicate(text) AS IMPLICIT;
CREATE CAST (varchar AS cdp.predicate) WITH FUNCTION cdp.predicate(text) AS IMPLICIT;
CREATE CAST (cdp.predicate AS text) WITHOUT FUNCTION AS IMPLICIT;

-- Comparison of canonical texts, bytewise.
CREATE FUNCTION cdp.predicate_eq(cdp.predicate, cdp.predicate) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_predicate_eq' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF;
CREATE FUNCTION cdp.predicate_ne(cdp.predicate, cdp.predicate) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_predicate_ne' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF;
CREATE FUNCTION cdp.predicate_lt(cdp.predicate, cdp.predicate) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_predicate_lt' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF;
CREATE FUNCTION cdp.predicate_le(cdp.predicate, cdp.predicate) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_predicate_le' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF;
CREATE FUNCTION cdp.predicate_gt(cdp.predicate, cdp.predicate) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_predicate_gt' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF;
CREATE FUNCTION cdp.predicate_ge(cdp.predicate, cdp.predicate) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_predicate_ge' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF;
CREATE FUNCTION cdp.predicate_cmp(cdp.predicate, cdp.predicate) RETURNS int
	AS 'MODULE_PATHNAME', 'cdp_predicate_cmp' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF;
CREATE FUNCTION cdp.predicate_hash(cdp.predicate) RETURNS int
	AS 'MODULE_PATHNAME', 'cdp_predicate_hash' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION cdp.predicate_hash_extended(cdp.predicate, bigint) RETURNS bigint
	AS 'MODULE_PATHNAME', 'cdp_predicate_hash_extended' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE OPERATOR cdp.= (
	FUNCTION = cdp.predicate_eq, LEFTARG = cdp.predicate, RIGHTARG = cdp.predicate,
	COMMUTATOR = OPERATOR(cdp.=), NEGATOR = OPERATOR(cdp.<>),
	RESTRICT = eqsel, JOIN = eqjoinsel, HASHES, MERGES
);
CREATE OPERATOR cdp.<> (
	FUNCTION = cdp.predicate_ne, LEFTARG = cdp.predicate, RIGHTARG = cdp.predicate,
	COMMUTATOR = OPERATOR(cdp.<>), NEGATOR = OPERATOR(cdp.=),
	RESTRICT = neqsel, JOIN = neqjoinsel
);
CREATE OPERATOR cdp.< (
	FUNCTION = cdp.predicate_lt, LEFTARG = cdp.predicate, RIGHTARG = cdp.predicate,
	COMMUTATOR = OPERATOR(cdp.>), NEGATOR = OPERATOR(cdp.>=),
	RESTRICT = scalarltsel, JOIN = scalarltjoinsel
);
CREATE OPERATOR cdp.<= (
	FUNCTION = cdp.predicate_le, LEFTARG = cdp.predicate, RIGHTARG = cdp.predicate,
	COMMUTATOR = OPERATOR(cdp.>=), NEGATOR = OPERATOR(cdp.>),
	RESTRICT = scalarlesel, JOIN = scalarlejoinsel
);
CREATE OPERATOR cdp.> (
	FUNCTION = cdp.predicate_gt, LEFTARG = cdp.predicate, RIGHTARG = cdp.predicate,
	COMMUTATOR = OPERATOR(cdp.<), NEGATOR = OPERATOR(cdp.<=),
	RESTRICT = scalargtsel, JOIN = scalargtjoinsel
);
CREATE OPERATOR cdp.>= (
	FUNCTION = cdp.predicate_ge, LEFTARG = cdp.predicate, RIGHTARG = cdp.predicate,
	COMMUTATOR = OPERATOR(cdp.<=), NEGATOR = OPERATOR(cdp.<),
	RESTRICT = scalargesel, JOIN = scalargejoinsel
);

CREATE OPERATOR CLASS cdp.predicate_ops DEFAULT FOR TYPE cdp.predicate USING btree AS
	OPERATOR 1 cdp.<, OPERATOR 2 cdp.<=, OPERATOR 3 cdp.=, OPERATOR 4 cdp.>=, OPERATOR 5 cdp.>,
	FUNCTION 1 cdp.predicate_cmp(cdp.predicate, cdp.predicate);
CREATE OPERATOR CLASS cdp.predicate_ops DEFAULT FOR TYPE cdp.predicate USING hash AS
	OPERATOR 1 cdp.=,
	FUNCTION 1 cdp.predicate_hash(cdp.predicate),
	FUNCTION 2 cdp.predicate_hash_extended(cdp.predicate, bigint);

-- What comparisons with the clock become inside predicates; callable by the
-- owners of predicates, and of no use elsewhere.
CREATE FUNCTION cdp.clock_is(now timestamptz, operator int, at timestamptz) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_clock_is' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF;
COMMENT ON FUNCTION cdp.clock_is(timestamptz, int, timestamptz) IS 'internal: a comparison with the instant of evaluation';
CREATE FUNCTION cdp.clock_is(now timestamptz, operator int, at timestamptz, unit text) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_clock_unit_is' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cdp.clock_is(timestamptz, int, timestamptz, text) IS 'internal: a comparison with the begin of the unit of time in which the instant of evaluation is';
CREATE FUNCTION cdp.sequence_is(now timestamptz, list jsonb, rules text) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_sequence_is' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION cdp.sequence_is(timestamptz, jsonb, text) IS 'internal: what did_in_order() becomes';
CREATE FUNCTION cdp.sequence_at(now timestamptz, list jsonb, rules text) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_sequence_is' LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION cdp.sequence_at(timestamptz, jsonb, text) IS 'internal: did_in_order(), as of an instant, in the time zone of the definition';
CREATE FUNCTION cdp.changed_is(now timestamptz, list jsonb, rules text) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_changed_is' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION cdp.changed_is(timestamptz, jsonb, text) IS 'internal: what changed() becomes';
CREATE FUNCTION cdp.changed_at(now timestamptz, list jsonb, rules text) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_changed_is' LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION cdp.changed_at(timestamptz, jsonb, text) IS 'internal: changed(), as of an instant, in the time zone of the definition';
CREATE FUNCTION cdp.declared_write(at timestamptz, properties jsonb, key text) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'cdp_declared_write' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cdp.declared_write(timestamptz, jsonb, text) IS 'internal: time and value of a key of an identify call, for changed()';
CREATE FUNCTION cdp.clock_at(now timestamptz, unit text) RETURNS timestamptz
	AS 'MODULE_PATHNAME', 'cdp_clock_at' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cdp.clock_at(timestamptz, text) IS 'internal: the begin of the unit of time in which the instant of evaluation is';
CREATE FUNCTION cdp.shared_term(internal) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_shared_term' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cdp.shared_term(internal) IS 'internal: a term that several segments have in common, evaluated once for a profile';
