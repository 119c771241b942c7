-- A segment is altered: what that does to its members, before and after.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET timezone = 'UTC';
SET cdp.now = '2026-03-01 12:00+00';
CREATE FUNCTION public.who(segment text) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(cdp.value(i.identifier), ' ' ORDER BY i.identifier)
	FROM cdp.memberships m JOIN cdp.identities i ON i.node_id = m.profile_id WHERE m.segment = who.segment
$$;
DO $$ BEGIN
	FOR i IN 1..9 LOOP
		PERFORM cdp.identify('u' || i, jsonb_build_object('n', i));
		PERFORM cdp.track('Order', user_id => 'u' || i) FROM generate_series(1, i % 3);
	END LOOP;
END $$;
SELECT cdp.apply();
SELECT cdp.create_trait('n', type => 'numeric');

SELECT cdp.create_segment('customers', $$did('Order')$$);
-- a new version, and what it does to the members; rolled back, nothing has happened
SELECT cdp.create_segment('upper', 'n > 5');
BEGIN;
SELECT * FROM cdp.alter_segment('upper', 'n BETWEEN 3 AND 7');
SELECT who('upper');
ROLLBACK;
SELECT who('upper'), (SELECT version FROM cdp.segments WHERE name = 'upper') AS version;
SELECT * FROM cdp.alter_segment('upper', description => 'nothing to work out');
SELECT * FROM cdp.alter_segment('upper', 'n BETWEEN 3 AND 7');
SELECT who('upper');
SELECT kind, cause, payload FROM cdp.changes WHERE segment = 'upper' AND kind = 'segment_defined' ORDER BY epoch, seq;

-- previews of everything that decides; what is not given is as it is
CREATE FUNCTION public.preview_and_do(predicate text DEFAULT NULL, exit_when text DEFAULT NULL, exclude text[] DEFAULT NULL,
	holdout float8 DEFAULT NULL, seed text DEFAULT NULL)
RETURNS TABLE (members bigint, non_members bigint, unknown bigint, errors bigint, enter bigint, leave bigint, as_done boolean) LANGUAGE plpgsql AS $$
DECLARE
	p record;
	a record;
BEGIN
	p := cdp.preview_segment(predicate, segment => 'upper', exit_when => exit_when, exclude => exclude, holdout => holdout, seed => seed);
	a := cdp.alter_segment('upper', predicate, exit_when => exit_when, exclude => exclude, holdout => holdout, seed => seed);
	RETURN QUERY SELECT p.members, p.non_members, p.unknown, p.errors, p.enter, p.leave,
		(p.members, p.enter, p.leave) = (a.members, a.entered, a.exited);
END $$;
SELECT * FROM preview_and_do(exit_when => 'n = 4');
SELECT * FROM preview_and_do('n > 6');
SELECT who('upper');
SELECT * FROM preview_and_do(exclude => ARRAY['customers']);
SELECT * FROM preview_and_do(exit_when => '');
SELECT * FROM preview_and_do(exclude => '{}', holdout => 0.5, seed => 'x');
SELECT * FROM preview_and_do(seed => 'y');
SELECT * FROM preview_and_do('1 / (n - 8) >= 0', holdout => 0);
SELECT who('upper');
SELECT * FROM cdp.preview_segment('n > 2', holdout => 0.1, seed => 'x', exclude => ARRAY['customers'], exit_when => 'n = 9');
SELECT cdp.preview_segment();
SELECT cdp.preview_segment('n > 2', exclude => ARRAY['nobody']);
SELECT cdp.preview_segment($$in_segment('upper')$$, segment => 'upper');
SELECT cdp.preview_segment('n > 2', holdout => 1);
SELECT cdp.preview_segment('n > 2', timezone => 'Mars/Olympus');
SELECT * FROM cdp.verify();

-- suspended for a time: what has happened since is made up for
CREATE ROLE regress_cdp_passing;
GRANT USAGE ON SCHEMA cdp TO regress_cdp_passing;
SELECT * FROM cdp.alter_segment('upper', 'n > 6', owner => 'regress_cdp_passing');
ALTER ROLE regress_cdp_passing RENAME TO regress_cdp_passed;
SELECT cdp.identify('u9', '{"n": 1}') IS NOT NULL;
SET client_min_messages = error;
SELECT cdp.apply();
SELECT who('upper'), (SELECT state FROM cdp.segments WHERE name = 'upper');
SELECT cdp.reevaluate_segment('upper');
RESET client_min_messages;
ALTER ROLE regress_cdp_passed RENAME TO regress_cdp_passing;
SELECT who('upper'), (SELECT state FROM cdp.segments WHERE name = 'upper');
SELECT * FROM cdp.reevaluate_segment('upper');
SELECT who('upper');
SELECT cdp.reevaluate_segment('nobody');
SELECT * FROM cdp.verify();
SELECT cdp.drop_segment('upper', cascade => true);
DROP OWNED BY regress_cdp_passing;
DROP ROLE regress_cdp_passing;

-- who counts as known by other rules, though nothing is read otherwise
SET cdp.replay_at_commit = 0;
SELECT cdp.create_segment('known_ones', 'known()');
SELECT cdp.create_segment('strangers', $$NOT in_segment('known_ones')$$);
SELECT cdp.track('Seen', anonymous_id => 'device') IS NOT NULL;
SELECT cdp.apply() > 0;
SELECT cdp.in_segment('anonymous_id:device', 'known_ones'), (SELECT count(*) FROM cdp.memberships WHERE segment = 'strangers') AS strangers;
SELECT cdp.alter_identifier_kind('anonymous_id', priority => 2);
SELECT cdp.apply(NULL) >= 0;
SELECT cdp.in_segment('anonymous_id:device', 'known_ones'), (SELECT count(*) FROM cdp.memberships WHERE segment = 'strangers') AS strangers;
SELECT * FROM cdp.verify();

-- the same while it is being altered, which is given up then
SET cdp.backfill_at_once = 0;
SET cdp.backfill_rate = -1;
SELECT cdp.alter_segment('known_ones', $$known() AND NOT did('Seen')$$);
SELECT cdp.alter_identifier_kind('anonymous_id', priority => 50);
SELECT cdp.apply(NULL) >= 0;
SELECT what, phase FROM cdp.progress ORDER BY what, phase;
SELECT name, state FROM cdp.segments ORDER BY name;
SELECT cdp.cancel_backfill('known_ones');
SELECT what, phase FROM cdp.progress ORDER BY what, phase;
SET cdp.backfill_rate = 0;
SELECT cdp.apply(NULL) >= 0;
SELECT cdp.in_segment('anonymous_id:device', 'known_ones'), (SELECT count(*) FROM cdp.memberships WHERE segment = 'strangers') AS strangers;
SELECT name, predicate, state FROM cdp.segments ORDER BY name;
SELECT * FROM cdp.verify();

-- what it is to be follows when another segment is renamed
SET cdp.backfill_rate = -1;
SELECT cdp.alter_segment('customers', $$did('Order') AND NOT in_segment('strangers') AND NOT did('Gone')$$, exit_when => $$in_segment('strangers') OR did('Gone')$$);
SELECT cdp.rename_segment('strangers', 'unknown_ones');
SET cdp.backfill_rate = 0;
SELECT cdp.apply(NULL) >= 0;
SELECT predicate, exit_when, state FROM cdp.segments WHERE name = 'customers';
SELECT * FROM cdp.verify();
