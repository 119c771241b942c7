/* sql/identity/index.sql: the access method identity_graph */

CREATE FUNCTION cdp.identity_graph_handler(internal) RETURNS index_am_handler
	LANGUAGE c VOLATILE STRICT
	AS 'MODULE_PATHNAME', 'cdp_identity_graph_handler';
COMMENT ON FUNCTION cdp.identity_graph_handler(internal) IS 'internal: handler of the access method identity_graph';
REVOKE ALL ON FUNCTION cdp.identity_graph_handler(internal) FROM PUBLIC;

CREATE ACCESS METHOD identity_graph TYPE INDEX HANDLER cdp.identity_graph_handler;
COMMENT ON ACCESS METHOD identity_graph IS 'edges of a graph by both of their ends: CREATE INDEX ON edges USING identity_graph (a, b), for two columns of type bigint';

CREATE OPERATOR FAMILY cdp.node_ops USING identity_graph;
CREATE OPERATOR CLASS cdp.node_ops DEFAULT FOR TYPE bigint USING identity_graph FAMILY cdp.node_ops AS
	OPERATOR 1 pg_catalog.= (bigint, bigint);
ALTER OPERATOR FAMILY cdp.node_ops USING identity_graph ADD
	OPERATOR 1 pg_catalog.= (bigint, integer),
	OPERATOR 1 pg_catalog.= (bigint, smallint);

-- Walks over accepted evidence, by node numbers.
CREATE FUNCTION cdp.component_nodes(node bigint) RETURNS bigint[]
	LANGUAGE c STABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'cdp_component_nodes';
COMMENT ON FUNCTION cdp.component_nodes(bigint) IS
'internal: the node numbers that accepted evidence joins to this one, in ascending order, itself included; found by a walk, not by labels';

CREATE FUNCTION cdp.graph_walk(start bigint, target bigint DEFAULT NULL)
	RETURNS TABLE (depth int, node bigint, via bigint, origin text)
	LANGUAGE c STABLE CALLED ON NULL INPUT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'cdp_graph_walk';
COMMENT ON FUNCTION cdp.graph_walk(bigint, bigint) IS
'internal: walk over accepted evidence, breadth first; of several links that reach a node from the level before the earliest counts. With a target, only the way from target back to start, no rows when there is none';

REVOKE ALL ON FUNCTION cdp.component_nodes(bigint), cdp.graph_walk(bigint, bigint) FROM PUBLIC;
