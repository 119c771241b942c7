/* sql/identity/types.sql: cdp.key and cdp.identifier */

CREATE TYPE cdp.key;

CREATE FUNCTION cdp.key_in(cstring) RETURNS cdp.key
	AS 'MODULE_PATHNAME', 'cdp_key_in' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION cdp.key_out(cdp.key) RETURNS cstring
	AS 'MODULE_PATHNAME', 'cdp_key_out' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION cdp.key_recv(internal) RETURNS cdp.key
	AS 'MODULE_PATHNAME', 'cdp_key_recv' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION cdp.key_send(cdp.key) RETURNS bytea
	AS 'MODULE_PATHNAME', 'cdp_key_send' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE TYPE cdp.key (
	INPUT = cdp.key_in,
	OUTPUT = cdp.key_out,
	RECEIVE = cdp.key_recv,
	SEND = cdp.key_send,
	INTERNALLENGTH = VARIABLE,
	ALIGNMENT = int4,
	STORAGE = extended,
	CATEGORY = 'S'
);
COMMENT ON TYPE cdp.key IS 'an id of the application''s own world, as text; integers, uuids and text are cast to it implicitly';

-- The representation is text's.
CREATE CAST (text AS cdp.key) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (varchar AS cdp.key) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (cdp.key AS text) WITHOUT FUNCTION AS ASSIGNMENT;
CREATE CAST (int2 AS cdp.key) WITH INOUT AS IMPLICIT;
CREATE CAST (int4 AS cdp.key) WITH INOUT AS IMPLICIT;
CREATE CAST (int8 AS cdp.key) WITH INOUT AS IMPLICIT;
CREATE CAST (uuid AS cdp.key) WITH INOUT AS IMPLICIT;

CREATE TYPE cdp.identifier;

CREATE FUNCTION cdp.identifier_in(cstring) RETURNS cdp.identifier
	AS 'MODULE_PATHNAME', 'cdp_identifier_in' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION cdp.identifier_out(cdp.identifier) RETURNS cstring
	AS 'MODULE_PATHNAME', 'cdp_identifier_out' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION cdp.identifier_recv(internal) RETURNS cdp.identifier
	AS 'MODULE_PATHNAME', 'cdp_identifier_recv' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION cdp.identifier_send(cdp.identifier) RETURNS bytea
	AS 'MODULE_PATHNAME', 'cdp_identifier_send' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE TYPE cdp.identifier (
	INPUT = cdp.identifier_in,
	OUTPUT = cdp.identifier_out,
	RECEIVE = cdp.identifier_recv,
	SEND = cdp.identifier_send,
	INTERNALLENGTH = VARIABLE,
	ALIGNMENT = int4,
	STORAGE = extended,
	CATEGORY = 'S'
);
COMMENT ON TYPE cdp.identifier IS 'a name of a person or account, written kind:value, for example email:ada@example.com; input checks the syntax only';

CREATE FUNCTION cdp.identifier(text) RETURNS cdp.identifier
	AS 'MODULE_PATHNAME', 'cdp_identifier_from_text' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cdp.identifier(text) IS 'text of the form kind:value as an identifier; invalid_text_representation otherwise';

CREATE CAST (text AS cdp.identifier) WITH FUNCTION cdp.identifier(text) AS IMPLICIT;
CREATE CAST (varchar AS cdp.identifier) WITH FUNCTION cdp.identifier(text) AS IMPLICIT;
-- A function that changes nothing, as PostgreSQL 18 takes an identifier that is
-- only relabelled as text, with no collation, for the column of an index when it
-- plans LIKE, and raises an error.
CREATE FUNCTION cdp.identifier_text(cdp.identifier) RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_identifier_text' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cdp.identifier_text(cdp.identifier) IS 'the identifier as text, kind:value; what identifier::text calls';

CREATE CAST (cdp.identifier AS text) WITH FUNCTION cdp.identifier_text(cdp.identifier) AS ASSIGNMENT;

CREATE FUNCTION cdp.identifier(kind text, value cdp.key) RETURNS cdp.identifier
	AS 'MODULE_PATHNAME', 'cdp_identifier_make' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cdp.identifier(text, cdp.key) IS 'the identifier kind:value; invalid_text_representation when kind is not the name of a kind';

CREATE FUNCTION cdp.kind(identifier cdp.identifier) RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_identifier_kind' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cdp.kind(cdp.identifier) IS 'the kind: what is before the first colon';

CREATE FUNCTION cdp.value(identifier cdp.identifier) RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_identifier_value' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cdp.value(cdp.identifier) IS 'the value: what is after the first colon';

-- Comparison: bytewise, whatever the collations are.
CREATE FUNCTION cdp.identifier_eq(cdp.identifier, cdp.identifier) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_identifier_eq' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF;
CREATE FUNCTION cdp.identifier_ne(cdp.identifier, cdp.identifier) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_identifier_ne' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF;
CREATE FUNCTION cdp.identifier_lt(cdp.identifier, cdp.identifier) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_identifier_lt' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF;
CREATE FUNCTION cdp.identifier_le(cdp.identifier, cdp.identifier) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_identifier_le' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF;
CREATE FUNCTION cdp.identifier_gt(cdp.identifier, cdp.identifier) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_identifier_gt' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF;
CREATE FUNCTION cdp.identifier_ge(cdp.identifier, cdp.identifier) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_identifier_ge' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF;
CREATE FUNCTION cdp.identifier_cmp(cdp.identifier, cdp.identifier) RETURNS int
	AS 'MODULE_PATHNAME', 'cdp_identifier_cmp' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF;
CREATE FUNCTION cdp.identifier_sortsupport(internal) RETURNS void
	AS 'MODULE_PATHNAME', 'cdp_identifier_sortsupport' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION cdp.identifier_hash(cdp.identifier) RETURNS int
	AS 'MODULE_PATHNAME', 'cdp_identifier_hash' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION cdp.identifier_hash_extended(cdp.identifier, bigint) RETURNS bigint
	AS 'MODULE_PATHNAME', 'cdp_identifier_hash_extended' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE OPERATOR cdp.= (
	FUNCTION = cdp.identifier_eq, LEFTARG = cdp.identifier, RIGHTARG = cdp.identifier,
	COMMUTATOR = OPERATOR(cdp.=), NEGATOR = OPERATOR(cdp.<>),
	RESTRICT = eqsel, JOIN = eqjoinsel, HASHES, MERGES
);
CREATE OPERATOR cdp.<> (
	FUNCTION = cdp.identifier_ne, LEFTARG = cdp.identifier, RIGHTARG = cdp.identifier,
	COMMUTATOR = OPERATOR(cdp.<>), NEGATOR = OPERATOR(cdp.=),
	RESTRICT = neqsel, JOIN = neqjoinsel
);
CREATE OPERATOR cdp.< (
	FUNCTION = cdp.identifier_lt, LEFTARG = cdp.identifier, RIGHTARG = cdp.identifier,
	COMMUTATOR = OPERATOR(cdp.>), NEGATOR = OPERATOR(cdp.>=),
	RESTRICT = scalarltsel, JOIN = scalarltjoinsel
);
CREATE OPERATOR cdp.<= (
	FUNCTION = cdp.identifier_le, LEFTARG = cdp.identifier, RIGHTARG = cdp.identifier,
	COMMUTATOR = OPERATOR(cdp.>=), NEGATOR = OPERATOR(cdp.>),
	RESTRICT = scalarlesel, JOIN = scalarlejoinsel
);
CREATE OPERATOR cdp.> (
	FUNCTION = cdp.identifier_gt, LEFTARG = cdp.identifier, RIGHTARG = cdp.identifier,
	COMMUTATOR = OPERATOR(cdp.<), NEGATOR = OPERATOR(cdp.<=),
	RESTRICT = scalargtsel, JOIN = scalargtjoinsel
);
CREATE OPERATOR cdp.>= (
	FUNCTION = cdp.identifier_ge, LEFTARG = cdp.identifier, RIGHTARG = cdp.identifier,
	COMMUTATOR = OPERATOR(cdp.<=), NEGATOR = OPERATOR(cdp.<),
	RESTRICT = scalargesel, JOIN = scalargejoinsel
);

CREATE OPERATOR CLASS cdp.identifier_ops
	DEFAULT FOR TYPE cdp.identifier USING btree AS
	OPERATOR 1 cdp.<,
	OPERATOR 2 cdp.<=,
	OPERATOR 3 cdp.=,
	OPERATOR 4 cdp.>=,
	OPERATOR 5 cdp.>,
	FUNCTION 1 cdp.identifier_cmp(cdp.identifier, cdp.identifier),
	FUNCTION 2 cdp.identifier_sortsupport(internal),
	FUNCTION 4 pg_catalog.btequalimage(oid);

CREATE OPERATOR CLASS cdp.identifier_ops
	DEFAULT FOR TYPE cdp.identifier USING hash AS
	OPERATOR 1 cdp.=,
	FUNCTION 1 cdp.identifier_hash(cdp.identifier),
	FUNCTION 2 cdp.identifier_hash_extended(cdp.identifier, bigint);

COMMENT ON FUNCTION cdp.key_in(cstring) IS 'I/O';
COMMENT ON FUNCTION cdp.key_out(cdp.key) IS 'I/O';
COMMENT ON FUNCTION cdp.key_recv(internal) IS 'I/O';
COMMENT ON FUNCTION cdp.key_send(cdp.key) IS 'I/O';
COMMENT ON FUNCTION cdp.identifier_in(cstring) IS 'I/O';
COMMENT ON FUNCTION cdp.identifier_out(cdp.identifier) IS 'I/O';
COMMENT ON FUNCTION cdp.identifier_recv(internal) IS 'I/O';
COMMENT ON FUNCTION cdp.identifier_send(cdp.identifier) IS 'I/O';
COMMENT ON FUNCTION cdp.identifier_eq(cdp.identifier, cdp.identifier) IS 'implementation of = operator';
COMMENT ON FUNCTION cdp.identifier_ne(cdp.identifier, cdp.identifier) IS 'implementation of <> operator';
COMMENT ON FUNCTION cdp.identifier_lt(cdp.identifier, cdp.identifier) IS 'implementation of < operator';
COMMENT ON FUNCTION cdp.identifier_le(cdp.identifier, cdp.identifier) IS 'implementation of <= operator';
COMMENT ON FUNCTION cdp.identifier_gt(cdp.identifier, cdp.identifier) IS 'implementation of > operator';
COMMENT ON FUNCTION cdp.identifier_ge(cdp.identifier, cdp.identifier) IS 'implementation of >= operator';
COMMENT ON FUNCTION cdp.identifier_cmp(cdp.identifier, cdp.identifier) IS 'less-equal-greater, by bytes';
COMMENT ON FUNCTION cdp.identifier_sortsupport(internal) IS 'sort support';
COMMENT ON FUNCTION cdp.identifier_hash(cdp.identifier) IS 'hash';
COMMENT ON FUNCTION cdp.identifier_hash_extended(cdp.identifier, bigint) IS 'hash';
COMMENT ON OPERATOR cdp.= (cdp.identifier, cdp.identifier) IS 'the same text';
COMMENT ON OPERATOR cdp.<> (cdp.identifier, cdp.identifier) IS 'not the same text';
COMMENT ON OPERATOR cdp.< (cdp.identifier, cdp.identifier) IS 'less than, by bytes';
COMMENT ON OPERATOR cdp.<= (cdp.identifier, cdp.identifier) IS 'less than or equal, by bytes';
COMMENT ON OPERATOR cdp.> (cdp.identifier, cdp.identifier) IS 'greater than, by bytes';
COMMENT ON OPERATOR cdp.>= (cdp.identifier, cdp.identifier) IS 'greater than or equal, by bytes';
