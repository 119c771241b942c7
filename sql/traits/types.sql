/* sql/traits/types.sql: states of traits */

CREATE TYPE cdp.trait_state;

CREATE FUNCTION cdp.trait_state_in(cstring) RETURNS cdp.trait_state
	AS 'MODULE_PATHNAME', 'cdp_trait_state_in' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION cdp.trait_state_out(cdp.trait_state) RETURNS cstring
	AS 'MODULE_PATHNAME', 'cdp_trait_state_out' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION cdp.trait_state_recv(internal) RETURNS cdp.trait_state
	AS 'MODULE_PATHNAME', 'cdp_trait_state_recv' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION cdp.trait_state_send(cdp.trait_state) RETURNS bytea
	AS 'MODULE_PATHNAME', 'cdp_trait_state_send' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE TYPE cdp.trait_state (
	INPUT = cdp.trait_state_in,
	OUTPUT = cdp.trait_state_out,
	RECEIVE = cdp.trait_state_recv,
	SEND = cdp.trait_state_send,
	INTERNALLENGTH = VARIABLE,
	ALIGNMENT = int4,
	STORAGE = extended
);
COMMENT ON TYPE cdp.trait_state IS 'what an aggregate of a trait has folded so far; states add up with +';

CREATE TYPE cdp.node_state;

CREATE FUNCTION cdp.node_state_in(cstring) RETURNS cdp.node_state
	AS 'MODULE_PATHNAME', 'cdp_node_state_in' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION cdp.node_state_out(cdp.node_state) RETURNS cstring
	AS 'MODULE_PATHNAME', 'cdp_node_state_out' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION cdp.node_state_recv(internal) RETURNS cdp.node_state
	AS 'MODULE_PATHNAME', 'cdp_node_state_recv' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION cdp.node_state_send(cdp.node_state) RETURNS bytea
	AS 'MODULE_PATHNAME', 'cdp_node_state_send' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE TYPE cdp.node_state (
	INPUT = cdp.node_state_in,
	OUTPUT = cdp.node_state_out,
	RECEIVE = cdp.node_state_recv,
	SEND = cdp.node_state_send,
	INTERNALLENGTH = VARIABLE,
	ALIGNMENT = int4,
	STORAGE = extended
);
COMMENT ON TYPE cdp.node_state IS 'all states of one identifier: declared traits and the states of computed ones';
