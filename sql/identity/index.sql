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

-- Components from scratch.
CREATE FUNCTION cdp.graph_components(edges regclass, a name DEFAULT 'a', b name DEFAULT 'b')
	RETURNS TABLE (node bigint, component bigint)
	LANGUAGE c STABLE STRICT
	AS 'MODULE_PATHNAME', 'cdp_graph_components';
COMMENT ON FUNCTION cdp.graph_components(regclass, name, name) IS
'the components of an edge table, computed from its own rows (not those of tables that inherit from it) by union-find in memory: each node with the smallest node of its component; a and b are the names of two bigint columns; needs SELECT on the table';

CREATE FUNCTION cdp.graph_components(query text)
	RETURNS TABLE (node bigint, component bigint)
	LANGUAGE c STABLE STRICT
	AS 'MODULE_PATHNAME', 'cdp_graph_components_query';
COMMENT ON FUNCTION cdp.graph_components(text) IS
'the components of the edges that a query returns as two columns of type bigint, by union-find in memory: each node with the smallest node of its component; runs the query with the rights of the caller';

-- Verification.
CREATE FUNCTION cdp.graph_index_check(index regclass, heapallindexed boolean DEFAULT false) RETURNS void
	LANGUAGE c VOLATILE STRICT
	AS 'MODULE_PATHNAME', 'cdp_graph_index_check';
COMMENT ON FUNCTION cdp.graph_index_check(regclass, boolean) IS
'verify an identity_graph index: error (index_corrupted, with block and LSN) at the first thing that is wrong; with heapallindexed also that every row of the table has its entries; works on a standby';

CREATE FUNCTION cdp.graph_index_findings(index regclass, heapallindexed boolean DEFAULT false)
	RETURNS TABLE (block bigint, lsn pg_lsn, finding text)
	LANGUAGE c VOLATILE STRICT
	AS 'MODULE_PATHNAME', 'cdp_graph_index_findings';
COMMENT ON FUNCTION cdp.graph_index_findings(regclass, boolean) IS
'verify an identity_graph index as graph_index_check() does, but return everything that is wrong: block of the index and LSN of its page (NULL where a row of the table has no entry)';

CREATE FUNCTION cdp.graph_check_walks()
	RETURNS TABLE (node bigint, finding text)
	LANGUAGE c STABLE STRICT
	AS 'MODULE_PATHNAME', 'cdp_graph_check_walks';
COMMENT ON FUNCTION cdp.graph_check_walks() IS
'internal: nodes of cdp.links whose links by its btrees, or by an identity_graph index, are not those of the table';

CREATE FUNCTION cdp.graph_check()
	RETURNS TABLE (node bigint, finding text)
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, cdp, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	graph_index regclass;
BEGIN
	RETURN QUERY
		SELECT coalesce(i.node_id, c.node),
			CASE WHEN i.node_id IS NULL THEN 'has links but no identifier'
			ELSE format('is in profile %s, its accepted links say %s', i.profile_id, coalesce(c.component, i.node_id)) END
		FROM cdp.identities i
		FULL JOIN cdp.graph_components('SELECT a, b FROM cdp.links WHERE status = ''accepted''') c ON c.node = i.node_id
		WHERE i.profile_id IS DISTINCT FROM coalesce(c.component, i.node_id) OR i.node_id IS NULL
		ORDER BY 1;
	RETURN QUERY SELECT w.node, w.finding FROM cdp.graph_check_walks() w;
	FOR graph_index IN
		SELECT x.indexrelid::regclass
		FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid JOIN pg_am m ON m.oid = c.relam
		WHERE x.indrelid = 'cdp.links'::regclass AND m.amname = 'identity_graph' AND x.indisvalid
	LOOP
		RETURN QUERY
			SELECT NULL::bigint, format('index %s, block %s: %s', graph_index, coalesce(f.block::text, '?'), f.finding)
			FROM cdp.graph_index_findings(graph_index, true) f;
	END LOOP;
END
$$;
COMMENT ON FUNCTION cdp.graph_check() IS
'compare the profiles in cdp.identities, the btrees of cdp.links and its identity_graph indexes with a union-find over all of cdp.links: one row for each thing that is wrong; none when all is well';

REVOKE ALL ON FUNCTION cdp.graph_components(regclass, name, name), cdp.graph_components(text),
	cdp.graph_index_check(regclass, boolean), cdp.graph_index_findings(regclass, boolean),
	cdp.graph_check_walks(), cdp.graph_check()
	FROM PUBLIC;
