-- Rows of nodes are written where they were last seen.  What others do to
-- the table between batches, or triggers during them, must not matter.
CREATE EXTENSION cdp;
SET client_min_messages = warning;
SELECT cdp.create_trait('bought', aggregate => 'count', event => 'Bought');
SELECT cdp.create_segment('buyers', 'bought > 1');
CREATE FUNCTION buy(first int, last int, event text DEFAULT 'Bought') RETURNS void LANGUAGE sql AS $$
	INSERT INTO cdp.events (message_id, event, identifiers)
	SELECT event || clock_timestamp() || i, event, ARRAY['user_id:u' || i]::cdp.identifier[] FROM generate_series(first, last) i
$$;
CREATE VIEW states AS SELECT min((cdp.profile(node_id)->'traits'->>'bought')::int), max((cdp.profile(node_id)->'traits'->>'bought')::int),
	count(*), (SELECT count(*) FROM cdp.verify()) AS wrong FROM cdp.identities;

SELECT buy(1, 400);
SELECT cdp.apply();
SELECT min(bought), max(bought), count(*) FROM (SELECT (cdp.profile(node_id)->'traits'->>'bought')::int AS bought FROM cdp.identities) s;

-- nobody looks for rows by the index once they are known
SELECT buy(1, 400);
BEGIN;
SELECT idx_scan AS scans, n_tup_upd AS updated FROM pg_stat_xact_user_tables WHERE relname = 'identities' \gset
SELECT cdp.apply();
SELECT idx_scan - :scans AS scans, n_tup_upd - :updated AS updated FROM pg_stat_xact_user_tables WHERE relname = 'identities';
COMMIT;
SELECT * FROM states;

-- rows come to stand where others stood: dead ones before them are cleared away
UPDATE cdp.identities SET recent = recent WHERE node_id % 3 = 0;
VACUUM FULL cdp.identities;
SELECT buy(1, 400);
SELECT cdp.apply();
SELECT * FROM states;
-- in another order
CLUSTER cdp.identities USING identities_identifier;
SELECT buy(1, 400);
SELECT cdp.apply();
SELECT * FROM states;
-- in fewer pages
ALTER TABLE cdp.identities SET (fillfactor = 100);
VACUUM FULL cdp.identities;
SELECT buy(1, 400);
SELECT cdp.apply();
ALTER TABLE cdp.identities SET (fillfactor = 50);
SELECT * FROM states;
-- replaced, by who does not know better
UPDATE cdp.identities SET recent = recent;
SELECT buy(1, 400);
SELECT cdp.apply();
SELECT * FROM states;

-- written twice in one batch: what is undone, and what comes with it
SELECT cdp.undo(message_id) IS NOT NULL AS undone FROM cdp.events WHERE event = 'Bought' AND identifiers = '{user_id:u7}' ORDER BY id LIMIT 2;
SELECT buy(5, 9);
SELECT cdp.apply();
SELECT cdp.profile('user_id:u7'::cdp.identifier)->'traits' AS u7, cdp.profile('user_id:u8'::cdp.identifier)->'traits' AS u8;
SELECT count(*) FROM cdp.verify();

-- triggers
CREATE TABLE seen (op text, node_id bigint, grown boolean);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.seen VALUES (TG_OP, NEW.node_id, TG_OP = 'INSERT' OR length(NEW.recent) > length(OLD.recent));
	RETURN NEW;
END $$;
GRANT INSERT ON seen TO PUBLIC;
CREATE TRIGGER note_before BEFORE INSERT OR UPDATE ON cdp.identities FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER note_after AFTER INSERT OR UPDATE ON cdp.identities FOR EACH ROW EXECUTE FUNCTION note();
SELECT buy(399, 402);
SELECT cdp.apply();
SELECT op, count(*), count(DISTINCT node_id), bool_and(grown) FROM seen GROUP BY op ORDER BY op;
DROP TRIGGER note_before ON cdp.identities;
DROP TRIGGER note_after ON cdp.identities;
SELECT count(*) FROM cdp.verify();

-- constraints
ALTER TABLE cdp.identities ADD CONSTRAINT no_more CHECK (identifier::text <> 'user_id:u403');
SELECT buy(403, 403);
\set VERBOSITY terse
SELECT cdp.apply();
ALTER TABLE cdp.identities DROP CONSTRAINT no_more;
SELECT cdp.apply();
SELECT count(*) FROM cdp.verify();
