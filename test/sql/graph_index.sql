-- The access method identity_graph: same rows as a sequential scan, in every
-- way in which an index can be made, while it grows, shrinks and is vacuumed.
SET client_min_messages = warning;
CREATE EXTENSION cdp;
SELECT amvalidate(oid) FROM pg_opclass WHERE opcname = 'node_ops';
SELECT amname, amtype, (SELECT count(*) FROM pg_amop WHERE amopmethod = m.oid) AS operators
FROM pg_am m WHERE amname = 'identity_graph';

-- edges(n, seed): edges of a graph of n nodes, the same every time
CREATE FUNCTION edges(n int, times int) RETURNS TABLE (a bigint, b bigint) LANGUAGE sql AS $$
	SELECT hashint8extended(i, 1) & (n - 1), hashint8extended(i, 2) & (n - 1) FROM generate_series(1, times) i
$$;

-- plan(query): without what 18 says of a node that enable_… has disabled
CREATE FUNCTION plan(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
		IF line !~ '^ *Disabled: ' THEN
			RETURN NEXT line;
		END IF;
	END LOOP;
END;
$$;

-- differs(table): rows that a scan by index finds and a sequential one does
-- not, or the other way round
CREATE FUNCTION differs(t regclass, low bigint, high bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	wrong bigint := 0;
	n bigint;
	way text;
BEGIN
	FOREACH way IN ARRAY ARRAY['enable_indexscan', 'enable_bitmapscan'] LOOP
		SET LOCAL enable_seqscan = off;
		SET LOCAL enable_indexscan = on;
		SET LOCAL enable_bitmapscan = on;
		PERFORM set_config(way, 'off', true);
		EXECUTE format('CREATE TEMP TABLE by_index AS
			SELECT 1 AS how, x, t.ctid AS tid FROM generate_series($1, $2) x, LATERAL (SELECT ctid FROM %1$s e WHERE e.a = x OFFSET 0) t
			UNION ALL
			SELECT 2, x, t.ctid FROM generate_series($1, $2) x, LATERAL (SELECT ctid FROM %1$s e WHERE e.b = x OFFSET 0) t', t)
		USING low, high;
		SET LOCAL enable_seqscan = on;
		SET LOCAL enable_indexscan = off;
		SET LOCAL enable_bitmapscan = off;
		EXECUTE format('CREATE TEMP TABLE by_table AS
			SELECT 1 AS how, a AS x, ctid AS tid FROM %1$s WHERE a BETWEEN $1 AND $2
			UNION ALL SELECT 2, b, ctid FROM %1$s WHERE b BETWEEN $1 AND $2', t)
		USING low, high;
		SELECT count(*) INTO n FROM (
			(TABLE by_index EXCEPT ALL TABLE by_table) UNION ALL (TABLE by_table EXCEPT ALL TABLE by_index)) d;
		wrong := wrong + n;
		DROP TABLE by_index, by_table;
	END LOOP;
	RETURN wrong;
END
$$;

CREATE TABLE e (a bigint, b bigint, note text);
INSERT INTO e SELECT a, b FROM edges(256, 1000);
CREATE INDEX e_graph ON e USING identity_graph (a, b);
SELECT differs('e', -1, 256);
SELECT cdp.graph_index_check('e_graph', true);

-- plans
ANALYZE e;
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT * FROM e WHERE a = 5 OR b = 5;
EXPLAIN (COSTS OFF) SELECT * FROM e WHERE a = 5::smallint AND b = 7;
EXPLAIN (COSTS OFF) SELECT * FROM e WHERE a = ANY ('{1,2,3}');
SELECT count(*) FROM e WHERE a = 5 OR b = 5;
SELECT count(*) FROM e WHERE a = 5 AND a = 6;
SELECT count(*) FROM e WHERE a = NULL;
SELECT (SELECT count(*) FROM e WHERE a = ANY ('{1,2,3}')) = (SELECT count(*) FROM e WHERE a + 0 IN (1, 2, 3)) AS same;
-- nothing but a sequential scan is good for all rows, or for an order
SELECT plan('SELECT * FROM e');
SELECT plan('SELECT * FROM e WHERE a > 5');
RESET enable_seqscan;

-- growth: splits, overflow pages
INSERT INTO e SELECT a, b FROM edges(8192, 30000);
SELECT differs('e', -1, 8192);
SELECT cdp.graph_index_check('e_graph', true);
SELECT pg_relation_size('e_graph') / count(*) < 80 AS small FROM e;
REINDEX INDEX e_graph;
SELECT pg_relation_size('e_graph') / count(*) < 60 AS smaller FROM e;
SELECT cdp.graph_index_check('e_graph', true);

-- one node with many edges, from both sides, itself included
INSERT INTO e SELECT 77, i FROM generate_series(1, 4000) i;
INSERT INTO e SELECT i, 77 FROM generate_series(1, 4000) i;
SELECT differs('e', 70, 80);
SELECT cdp.graph_index_check('e_graph', true);
REINDEX INDEX e_graph;
SELECT differs('e', 70, 80);
INSERT INTO e SELECT 77, -i FROM generate_series(1, 2000) i;
SELECT differs('e', 70, 80);
SELECT cdp.graph_index_check('e_graph', true);

-- NULL, and numbers that do not fit a short entry
INSERT INTO e VALUES (1, NULL), (NULL, 1), (NULL, NULL), (9223372036854775807, -9223372036854775808), (-1, 1099511627776), (1099511627775, 0), (5, 5);
INSERT INTO e SELECT NULL, NULL FROM generate_series(1, 2000);
INSERT INTO e SELECT -i, i * 1000000000000 FROM generate_series(1, 1000) i;
SELECT differs('e', -100, 100);
SELECT count(*) FROM e WHERE a = 9223372036854775807 OR b = 9223372036854775807;
SELECT count(*) FROM e WHERE b = 500000000000000;
SELECT cdp.graph_index_check('e_graph', true);

-- vacuum, and the use of what it freed
DELETE FROM e WHERE a % 3 = 0 OR a = 77;
VACUUM e;
SELECT differs('e', -10, 300);
SELECT cdp.graph_index_check('e_graph', true);
SELECT pg_relation_size('e_graph') AS before \gset
INSERT INTO e SELECT a, b FROM edges(8192, 12000);
SELECT pg_relation_size('e_graph') <= :before AS reused;
SELECT cdp.graph_index_check('e_graph', true);
DELETE FROM e;
VACUUM e;
SELECT differs('e', 0, 100);
SELECT cdp.graph_index_check('e_graph', true);
INSERT INTO e SELECT a, b FROM edges(64, 500);
SELECT differs('e', -1, 64);
SELECT cdp.graph_index_check('e_graph', true);

-- hot updates, others, and rolled back ones
UPDATE e SET note = 'x' WHERE a < 32;
UPDATE e SET a = a + 1 WHERE a < 16;
BEGIN;
UPDATE e SET b = 0;
ROLLBACK;
SELECT differs('e', -1, 64);
VACUUM FULL e;
SELECT differs('e', -1, 64);
SELECT cdp.graph_index_check('e_graph', true);
TRUNCATE e;
SELECT cdp.graph_index_check('e_graph', true);
INSERT INTO e SELECT a, b FROM edges(64, 500);
SELECT differs('e', -1, 64);

-- concurrently
CREATE INDEX CONCURRENTLY e_graph2 ON e USING identity_graph (b, a) WITH (fillfactor = 50);
SELECT cdp.graph_index_check('e_graph2', true);
REINDEX INDEX CONCURRENTLY e_graph;
REINDEX TABLE CONCURRENTLY e;
SELECT cdp.graph_index_check('e_graph', true);
DROP INDEX CONCURRENTLY e_graph2;
SELECT differs('e', -1, 64);

-- options and columns
CREATE INDEX ON e USING identity_graph (a, b) WITH (fillfactor = 9);
CREATE INDEX ON e USING identity_graph (a, b) WITH (fillfactor = 101);
CREATE INDEX ON e USING identity_graph (a, b) WITH (colour = 1);
CREATE INDEX ON e USING identity_graph (a);
CREATE INDEX ON e USING identity_graph (a, b, a);
CREATE INDEX ON e USING identity_graph (a, note);
CREATE INDEX ON e USING identity_graph (a, b) INCLUDE (note);
CREATE INDEX ON e USING identity_graph (a DESC, b);
CREATE UNIQUE INDEX ON e USING identity_graph (a, b);
ALTER TABLE e CLUSTER ON e_graph;
-- an exclusion constraint would look for rows that are not committed
CREATE TABLE exclusive (a bigint, b bigint, EXCLUDE USING identity_graph (a WITH =, b WITH =));
ALTER TABLE e ADD EXCLUDE USING identity_graph (a WITH =, b WITH =);

-- partial, on expressions, temporary, unlogged, of partitions
CREATE INDEX e_partial ON e USING identity_graph (a, b) WHERE a < 10;
CREATE INDEX e_expression ON e USING identity_graph ((a * 2), (b * 2));
INSERT INTO e SELECT a, b FROM edges(64, 100);
SELECT cdp.graph_index_check(i, true) FROM unnest('{e_graph,e_partial,e_expression}'::regclass[]) i;
SET enable_seqscan = off;
SELECT (SELECT count(*) FROM e WHERE a * 2 = 8 OR b * 2 = 8) = (SELECT count(*) FROM e WHERE a + 0 = 4 OR b + 0 = 4) AS same;
EXPLAIN (COSTS OFF) SELECT * FROM e WHERE a * 2 = 8;
-- a scan without a key is complete, too
DROP INDEX e_graph, e_expression;
SELECT (SELECT count(*) FROM e WHERE a < 10) = (SELECT count(*) FROM e WHERE a + 0 < 10) AS same;
RESET enable_seqscan;
DROP TABLE e;

-- other kinds of tables
CREATE TEMP TABLE t AS SELECT a, b FROM edges(64, 500);
CREATE INDEX t_graph ON t USING identity_graph (a, b);
INSERT INTO t SELECT a, b FROM edges(64, 500);
SELECT differs('t', -1, 64);
CREATE UNLOGGED TABLE u (a bigint, b bigint);
CREATE INDEX u_graph ON u USING identity_graph (a, b);
INSERT INTO u SELECT a, b FROM edges(1024, 3000);
SELECT differs('u', -1, 64);
SELECT cdp.graph_index_check('u_graph', true);
ALTER TABLE u SET LOGGED;
SELECT differs('u', -1, 64);
ALTER TABLE u SET UNLOGGED;
SELECT differs('u', -1, 64);

CREATE TABLE p (a bigint, b bigint) PARTITION BY RANGE (a);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (32);
CREATE INDEX p_graph ON p USING identity_graph (a, b);
CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (32) TO (64);
INSERT INTO p SELECT a, b FROM edges(64, 500);
SELECT cdp.graph_index_check(indexrelid, true) FROM pg_index WHERE indrelid IN ('p1'::regclass, 'p2'::regclass);
SELECT differs('p1', -1, 64), differs('p2', -1, 64);
SELECT cdp.graph_index_check('p_graph');

-- the checks refuse what they are not for
SELECT cdp.graph_index_check('p1');
SELECT cdp.graph_index_check('cdp.links_a');
SELECT * FROM cdp.graph_index_findings('u_graph', true);

-- components
SELECT * FROM cdp.graph_components($$VALUES (1::bigint, 2::bigint), (3, 2), (7, 8), (9, 9), (NULL, 4)$$) ORDER BY node;
SELECT * FROM cdp.graph_components($$VALUES (5::bigint, 2::bigint), (-3, 2), (4611686018427387904, 5), (10, 11)$$) ORDER BY node;
-- where a column stands differs: behind what has no fixed length, behind a NULL, in rows older than it
CREATE TABLE v (t text, a bigint, b bigint);
INSERT INTO v VALUES ('x', 1, 2), ('longer', 3, 2), (NULL, 5, 6), ('y', NULL, 1), ('y', 7, NULL);
SELECT * FROM cdp.graph_components('v'::regclass) ORDER BY node;
CREATE TABLE w (c smallint, d int, e "char", a bigint);
INSERT INTO w VALUES (1, 2, 'x', 1), (NULL, 2, 'x', 9), (1, 2, NULL, 3);
ALTER TABLE w ADD b bigint;
INSERT INTO w VALUES (1, 2, 'x', 1, 4), (NULL, 2, 'x', 3, 4), (1, 2, 'x', NULL, 4), (1, 2, 'x', 6, NULL);
ALTER TABLE w ADD f bigint DEFAULT 8;
INSERT INTO w VALUES (1, 2, 'x', 12, 13, 14);
SELECT * FROM cdp.graph_components('w'::regclass) ORDER BY node;
SELECT * FROM cdp.graph_components('w'::regclass, 'b', 'f') ORDER BY node;
ALTER TABLE w DROP c;
INSERT INTO w VALUES (2, 'x', 20, 21, 14);
SELECT * FROM cdp.graph_components('w'::regclass) ORDER BY node;
SELECT * FROM cdp.graph_components('w'::regclass, 'b', 'f') ORDER BY node;
DROP TABLE v, w;
SELECT cdp.graph_components('SELECT 1, 2');
SELECT cdp.graph_components('CREATE TABLE x ()');
SELECT cdp.graph_components('u'::regclass, 'a', 'c');
WITH RECURSIVE reach (node, other) AS (
	SELECT a, b FROM (SELECT a, b FROM p UNION SELECT b, a FROM p UNION SELECT a, a FROM p UNION SELECT b, b FROM p) e
	UNION
	SELECT r.node, e.b FROM reach r JOIN (SELECT a, b FROM p UNION SELECT b, a FROM p) e ON e.a = r.other
)
SELECT count(*) AS wrong
FROM (SELECT node, min(other) AS component FROM reach GROUP BY node) r
FULL JOIN cdp.graph_components('SELECT a, b FROM p') c USING (node, component)
WHERE r.node IS NULL OR c.node IS NULL;
CREATE ROLE regress_graph;
GRANT USAGE ON SCHEMA cdp TO regress_graph;
GRANT EXECUTE ON FUNCTION cdp.graph_components(regclass, name, name), cdp.graph_components(text) TO regress_graph;
SET ROLE regress_graph;
SELECT count(*) FROM cdp.graph_components('u'::regclass);
SELECT count(*) FROM cdp.graph_components('SELECT a, b FROM u');
SELECT cdp.graph_index_check('u_graph');
RESET ROLE;
GRANT SELECT ON u TO regress_graph;
ALTER TABLE u ENABLE ROW LEVEL SECURITY;
SET ROLE regress_graph;
SELECT count(*) FROM cdp.graph_components('u'::regclass);
SELECT count(*) FROM cdp.graph_components('SELECT a, b FROM u');
RESET ROLE;
DROP OWNED BY regress_graph;
DROP ROLE regress_graph;

-- a partial index does not make the planner think the table smaller
CREATE TABLE counted (a bigint, b bigint, status text);
INSERT INTO counted SELECT i, i + 1, CASE WHEN i % 100 = 0 THEN 'accepted' ELSE 'refused' END FROM generate_series(1, 1000) i;
CREATE INDEX counted_graph ON counted USING identity_graph (a, b) WHERE status = 'accepted';
SELECT relname, reltuples FROM pg_class WHERE relname LIKE 'counted%' ORDER BY 1;
DROP TABLE counted;

-- a node may have very many edges: the planner takes btrees for one end or both
CREATE TABLE beside (a bigint, b bigint);
INSERT INTO beside SELECT i, i + 1 FROM generate_series(1, 10000) i;
CREATE INDEX beside_graph ON beside USING identity_graph (a, b);
ANALYZE beside;
EXPLAIN (COSTS OFF) SELECT * FROM beside WHERE a = 5 AND b = 6;
CREATE INDEX beside_a ON beside (a, b);
CREATE INDEX beside_b ON beside (b);
EXPLAIN (COSTS OFF) SELECT * FROM beside WHERE a = 5 AND b = 6;
EXPLAIN (COSTS OFF) SELECT * FROM beside WHERE a = 5;
EXPLAIN (COSTS OFF) SELECT * FROM beside WHERE b = 5;
DROP TABLE beside;

-- walks over evidence: the same by two btrees and by either index
SELECT count(cdp.track('x', user_id => (i % 40)::text, anonymous_id => 'd' || (i * 7 % 60), occurred_at => timestamptz '2026-01-01' + i * interval '1 hour'))
FROM generate_series(1, 60) i;
SELECT count(cdp.track('x', anonymous_id => 'd' || i, identifiers => ARRAY['cookie:c' || i % 9]::cdp.identifier[], occurred_at => timestamptz '2026-02-01' + (i * 37 % 11) * interval '1 hour'))
FROM generate_series(1, 30) i;
SELECT cdp.merge('user_id:5', 'user_id:6') IS NOT NULL AS merged;
SELECT cdp.split('user_id:2', 'user_id:3') IS NOT NULL AS split;
SELECT count(*) > 0 AS applied FROM (SELECT cdp.apply()) a;
CREATE FUNCTION walks() RETURNS text LANGUAGE sql AS $$
	SELECT md5(string_agg(w::text, ',' ORDER BY w::text COLLATE "C")) FROM (
		SELECT i.identifier, c FROM cdp.identities i, cdp.component(i.identifier) c
		UNION ALL
		SELECT i.identifier, (0, e.from_identifier, e.to_identifier, now(), now()) FROM cdp.identities i, cdp.explain_link(i.identifier, 'user_id:5') e
		UNION ALL
		SELECT i.identifier, (0, cdp.component_nodes(i.node_id)::text, '', now(), now()) FROM cdp.identities i
	) w
$$;
BEGIN;
SELECT walks() AS btrees \gset
CREATE INDEX links_graph ON cdp.links USING identity_graph (a, b);
SELECT walks() = :'btrees' AS same;
CREATE INDEX links_accepted ON cdp.links USING identity_graph (a, b) WHERE status = 'accepted';
SELECT walks() = :'btrees' AS same;
DROP INDEX cdp.links_graph;
SELECT walks() = :'btrees' AS same;
COMMIT;
VACUUM cdp.links;
BEGIN;
SET LOCAL cdp.enable_graph_index = off;
SELECT walks() AS btrees \gset
SET LOCAL cdp.enable_graph_index = on;
SELECT walks() = :'btrees' AS same;
COMMIT;
-- rows that were deleted, updated in place and elsewhere, refused, not vacuumed
CREATE FUNCTION components() RETURNS text LANGUAGE sql AS $$
	SELECT md5(string_agg(cdp.component_nodes(node_id)::text, ',' ORDER BY node_id)) FROM cdp.identities
$$;
SELECT components() AS before \gset
BEGIN;
CREATE INDEX links_graph ON cdp.links USING identity_graph (a, b);
DELETE FROM cdp.links WHERE (a + b) % 5 = 0;
UPDATE cdp.links SET weight = 2 WHERE (a + b) % 5 = 1;
UPDATE cdp.links SET status = 'refused' WHERE (a + b) % 5 = 2;
UPDATE cdp.links SET status = 'accepted' WHERE (a + b) % 10 = 2;
SET LOCAL cdp.enable_graph_index = off;
SELECT components() AS changed \gset
SET LOCAL cdp.enable_graph_index = on;
SELECT components() = :'changed' AS same, :'changed' <> :'before' AS otherwise;
DROP INDEX cdp.links_accepted;
SELECT components() = :'changed' AS same;
ROLLBACK;
SELECT components() = :'before' AS same;

-- recomputation closes clusters by an index over all links, else by the btrees
CREATE INDEX links_graph ON cdp.links USING identity_graph (a, b);
CREATE FUNCTION apply_late(OUT by_index boolean) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM cdp.apply();
	by_index := pg_stat_get_xact_numscans('cdp.links_graph'::regclass) > 0;
END $$;
-- before everything that is linked
SELECT count(cdp.track('x', user_id => '7', anonymous_id => 'd' || i, occurred_at => timestamptz '2025-12-01' - i * interval '1 hour'))
FROM generate_series(1, 30, 3) i;
SELECT cdp.undo(message_id) IS NOT NULL AS undone FROM cdp.decisions WHERE type = 'split';
SELECT cdp.split('user_id:10', 'user_id:11') IS NOT NULL AS split;
SELECT * FROM apply_late();
SELECT status, count(*) > 0 AS some FROM cdp.links GROUP BY status ORDER BY status;
SELECT * FROM cdp.verify();
SELECT cdp.graph_index_check('cdp.links_graph', true);
SELECT * FROM cdp.graph_check();
-- and it finds what is wrong
BEGIN;
UPDATE cdp.identities SET profile_id = 1 WHERE node_id = (SELECT max(node_id) FROM cdp.identities);
SELECT count(*), min(finding) LIKE 'is in profile 1, its accepted links say %' AS found FROM cdp.graph_check();
ROLLBACK;
DROP EXTENSION cdp CASCADE;
