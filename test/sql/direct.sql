-- Rows that are looked up without a statement where the index may not be used yet.
\set QUIET on
SET client_min_messages = warning;
CREATE EXTENSION cdp;
SET timezone = 'UTC';
SET cdp.now = '2026-01-02 00:00+00';
DO $$ BEGIN PERFORM cdp.create_trait('n', aggregate => 'count'); END $$;
CREATE VIEW profiles AS SELECT i.profile_id, array_agg(i.identifier::text ORDER BY i.node_id) AS identifiers,
	(SELECT p->'traits'->'n' FROM cdp.profile(min(i.identifier::text)::cdp.identifier) p) AS n FROM cdp.identities i GROUP BY 1;
CREATE FUNCTION track(who text[]) RETURNS void LANGUAGE sql AS $$
	INSERT INTO cdp.events (event, identifiers, occurred_at, received_at) VALUES ('Ping', who::cdp.identifier[], '2026-01-01', '2026-01-01') $$;
DO $$ BEGIN PERFORM track('{user_id:a,anonymous_id:a1}'), track('{user_id:b}'), track('{anonymous_id:c1}'), track('{user_id:d,anonymous_id:c1}'); END $$;
SELECT FROM cdp.apply();
SELECT * FROM profiles ORDER BY 1;

-- as CREATE INDEX leaves it when older snapshots may see what it does not have: the
-- table is read; by a session that has nobody in memory
DO $$ BEGIN PERFORM track('{anonymous_id:a1,email:a@example.com}'), track('{user_id:d}'), track('{user_id:new}'); END $$;
\c -
SET timezone = 'UTC';
SET cdp.now = '2026-01-02 00:00+00';
BEGIN;
UPDATE pg_index SET indcheckxmin = true WHERE indrelid = 'cdp.identities'::regclass;
SELECT FROM cdp.apply();
COMMIT;
SELECT * FROM profiles ORDER BY 1;
-- nodes looked up by number: who loses what is undone
SELECT cdp.undo('#' || id) IS NOT NULL AS undone FROM cdp.events WHERE 'email:a@example.com' = ANY (identifiers::text[]);
\c -
SET timezone = 'UTC';
SET cdp.now = '2026-01-02 00:00+00';
BEGIN;
UPDATE pg_index SET indcheckxmin = true WHERE indrelid = 'cdp.identities'::regclass;
SELECT FROM cdp.apply();
COMMIT;
UPDATE pg_index SET indcheckxmin = false WHERE indrelid = 'cdp.identities'::regclass;
SELECT * FROM profiles ORDER BY 1;
SELECT * FROM cdp.verify();

-- rows that are in memory and have moved since: all of one profile were read when one of them was named
DO $$ BEGIN PERFORM track(array_agg('anonymous_id:p' || i) || '{user_id:p}') FROM generate_series(1, 20) i; END $$;
SELECT FROM cdp.apply();
\c -
SET timezone = 'UTC';
SET cdp.now = '2026-01-02 00:00+00';
DO $$ BEGIN PERFORM track('{user_id:p}'); END $$;
SELECT FROM cdp.apply();
CREATE TABLE places AS SELECT node_id, ctid AS place FROM cdp.identities;
VACUUM FULL cdp.identities;
SELECT count(*) > 15 AS moved FROM cdp.identities i JOIN places p USING (node_id) WHERE i.identifier::text ~ ':p' AND i.ctid <> p.place;
DO $$ BEGIN PERFORM track(ARRAY['anonymous_id:p' || i]) FROM generate_series(1, 20) i; END $$;
SELECT FROM cdp.apply();
SELECT n, cardinality(identifiers) FROM profiles WHERE 'user_id:p' = ANY (identifiers);
SELECT * FROM cdp.verify();

-- rows that others have written since are found by number
UPDATE cdp.identities SET last_seen = last_seen WHERE node_id % 2 = 0;
DO $$ BEGIN PERFORM track(ARRAY['anonymous_id:p' || i]) FROM generate_series(1, 20) i; END $$;
SELECT FROM cdp.apply();
SELECT n, cardinality(identifiers) FROM profiles WHERE 'user_id:p' = ANY (identifiers);
-- rows that are written again and again, where they are known to be, stay on their pages
SELECT pg_relation_size('cdp.identities') AS size \gset
CREATE PROCEDURE again(n int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. n LOOP
		PERFORM track(ARRAY['anonymous_id:p' || j]) FROM generate_series(1, 20) j;
		COMMIT;
		PERFORM cdp.apply();
		COMMIT;
	END LOOP;
END $$;
CALL again(60);
SELECT pg_relation_size('cdp.identities') < :size + 4 * 8192 AS few_pages;
SELECT n, cardinality(identifiers) FROM profiles WHERE 'user_id:p' = ANY (identifiers);
SELECT * FROM cdp.verify();

-- rows say who is all of a profile; who has nobody in memory looks for no others of those
CREATE VIEW told AS SELECT i.identifier, i.single, count(*) OVER (PARTITION BY i.profile_id) = 1 AS is_single FROM cdp.identities i;
SELECT count(*) > 0 AS some, bool_and(single = is_single) AS right FROM told WHERE is_single;
SELECT count(*) AS wrong FROM told WHERE single AND NOT is_single;
DO $$ BEGIN PERFORM track('{user_id:s1}'), track('{anonymous_id:s2}'), track('{user_id:s3}'); END $$;
SELECT FROM cdp.apply();
SELECT * FROM told WHERE identifier::text ~ ':s' ORDER BY 1;
\c -
SET timezone = 'UTC';
SET cdp.now = '2026-01-02 00:00+00';
-- of whom nothing else changes, too
DO $$ BEGIN PERFORM track('{user_id:s1,anonymous_id:s2}'); PERFORM cdp.merge('user_id:s3', 'anonymous_id:s2'); END $$;
SELECT FROM cdp.apply();
SELECT * FROM told WHERE identifier::text ~ ':s' ORDER BY 1;
\c -
SET timezone = 'UTC';
SET cdp.now = '2026-01-02 00:00+00';
DO $$ BEGIN PERFORM track('{anonymous_id:s2}'); END $$;
SELECT FROM cdp.apply();
SELECT identifiers, n FROM profiles WHERE 'user_id:s3' = ANY (identifiers);
SELECT cdp.split('user_id:s3', 'anonymous_id:s2') IS NOT NULL AS split;
SELECT FROM cdp.apply();
SELECT * FROM told WHERE identifier::text ~ ':s' ORDER BY 1;
SELECT * FROM cdp.verify();
-- one that says so wrongly is found
UPDATE cdp.identities SET single = true WHERE identifier::text = 'anonymous_id:s2';
SELECT station, expected, found FROM cdp.verify();
