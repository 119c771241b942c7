-- Set algebra over the members of segments, against SQL over the rows: dense
-- and sparse sets, pieces on both sides of the size at which an array becomes
-- a bitmap, ids on the edges of pieces, rows of who has left.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SELECT cdp.create_segment(n, 'known()') FROM unnest(ARRAY['dense', 'sparse', 'exact', 'over', 'edges', 'far', 'none']) n;
SELECT setseed(0.4);
INSERT INTO cdp.segment_members (segment_id, profile_id, member, entered_at)
SELECT d.id, p, random() < CASE d.name WHEN 'dense' THEN 0.7 WHEN 'sparse' THEN 0.01 ELSE 2 END, '2026-01-01'
FROM cdp.segment_definitions d, generate_series(1, 70000) p
WHERE d.name IN ('dense', 'sparse')
	OR d.name = 'exact' AND p % 16 = 1
	OR d.name = 'over' AND (p % 16 = 1 OR p = 2)
	OR d.name = 'edges' AND p % 65536 IN (0, 1, 63, 64, 65535)
	OR d.name = 'far' AND p % 5000 = 3;
INSERT INTO cdp.segment_members (segment_id, profile_id, member, entered_at)
SELECT d.id, p, true, '2026-01-01'
FROM cdp.segment_definitions d, unnest(ARRAY[4294967295, 4294967296, 9223372036854775807]) p WHERE d.name IN ('far', 'edges');
SELECT s.name, count(m.profile_id) > 0 AS members, count(m.profile_id) = cdp.segment_size(ARRAY[s.name]) AS size
FROM cdp.segments s LEFT JOIN cdp.memberships m ON m.segment = s.name GROUP BY 1 ORDER BY 1;

-- each two of them
CREATE VIEW public.by_rows AS
	SELECT x.name AS a, y.name AS b,
		(SELECT count(*) FROM cdp.memberships m WHERE m.segment = x.name) AS members_a,
		(SELECT count(*) FROM cdp.memberships m WHERE m.segment = y.name) AS members_b,
		(SELECT count(*) FROM cdp.memberships m JOIN cdp.memberships n USING (profile_id) WHERE m.segment = x.name AND n.segment = y.name) AS members_both
	FROM cdp.segments x JOIN cdp.segments y ON x.name < y.name;
SELECT count(*), count(*) FILTER (WHERE members_both > 0) AS some FROM by_rows;
TABLE by_rows EXCEPT SELECT * FROM cdp.segment_overlap(ARRAY(SELECT name FROM cdp.segments));
SELECT count(*) FROM cdp.segment_overlap(ARRAY(SELECT name FROM cdp.segments));
SELECT a, b, members_b FROM cdp.segment_overlap(ARRAY['none', 'edges', 'none']);
SELECT count(*) FROM cdp.segment_overlap('{dense}') x, cdp.segment_overlap('{}') y;

-- all of, any of, none of
CREATE TABLE public.segments_of AS SELECT profile_id, array_agg(segment) AS segments FROM cdp.memberships GROUP BY profile_id;
CREATE FUNCTION public.by_rows(all_of text[], any_of text[], none_of text[]) RETURNS bigint[] LANGUAGE sql AS $$
	SELECT array_agg(profile_id ORDER BY profile_id) FROM segments_of
	WHERE COALESCE(all_of, '{}') <@ segments AND (COALESCE(any_of, '{}') = '{}' OR any_of && segments) AND NOT COALESCE(none_of, '{}') && segments
$$;
CREATE TABLE public.questions (n serial, all_of text[], any_of text[], none_of text[]);
INSERT INTO questions (all_of, any_of, none_of) VALUES
	('{dense}', NULL, NULL), ('{dense,exact}', NULL, NULL), ('{over}', NULL, '{exact}'), ('{edges,far}', NULL, NULL),
	(NULL, '{sparse,far,edges}', NULL), (NULL, '{sparse,none,over}', '{dense}'), ('{dense}', '{sparse,edges}', '{over,far}'),
	('{none,dense}', NULL, NULL), ('{dense,none}', '{far}', NULL), ('{far}', '{none}', '{}'), ('{}', '{edges,none}', '{dense,sparse}');
SELECT n, (SELECT array_agg(m) FROM cdp.segment_members(all_of, any_of, none_of) m) IS NOT DISTINCT FROM by_rows(all_of, any_of, none_of) AS same,
	cdp.segment_size(all_of, any_of, none_of) = COALESCE(cardinality(by_rows(all_of, any_of, none_of)), 0) AS size
FROM questions ORDER BY n;
SELECT * FROM cdp.segment_members(ARRAY['edges', 'far']);
SELECT (SELECT count(*) FROM cdp.segment_members('far')), (SELECT count(*) FROM cdp.segment_members(all_of => '{edges,far}'));
SELECT count(*) = (SELECT count(*) FROM cdp.segment_members('far')) AS same FROM cdp.segment_members(any_of => '{far}');
SELECT cdp.segment_members();

-- mistakes
SELECT cdp.segment_size('{dense,nobody}');
SELECT cdp.segment_size('{dense}', none_of => ARRAY[NULL]);
SELECT cdp.segment_size(none_of => '{dense}');
SELECT cdp.segment_members('{}'::text[], '{}', '{dense}');
SELECT * FROM cdp.segment_overlap(ARRAY['dense', 'nobody']);

-- who may execute it need not be able to read the tables
CREATE ROLE regress_algebra;
GRANT USAGE ON SCHEMA cdp TO regress_algebra;
SET ROLE regress_algebra;
SELECT cdp.segment_size('{far}');
RESET ROLE;
GRANT EXECUTE ON FUNCTION cdp.segment_size(text[], text[], text[]) TO regress_algebra;
SET ROLE regress_algebra;
SELECT cdp.segment_size('{far}');
SELECT count(*) FROM cdp.segment_members;
RESET ROLE;
DROP OWNED BY regress_algebra;
DROP ROLE regress_algebra;
