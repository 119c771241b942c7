-- Changes of policies, and of the settings of guards, go through history in steps.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;
SET timezone = 'UTC';
SET cdp.replay_at_commit = 0;
SELECT create_trait('n', aggregate => 'count');

-- thirty devices of two users each: the second user's entry breaks the limit
CREATE PROCEDURE days(first int, last int) LANGUAGE plpgsql AS $$
BEGIN
	FOR d IN first .. last LOOP
		INSERT INTO cdp.events (message_id, event, identifiers, occurred_at, received_at)
		SELECT 'm' || d || '-' || g, 'x', ARRAY['user_id:' || CASE WHEN d % 2 = 0 THEN 'a' ELSE 'b' END || g, 'anonymous_id:d' || g]::cdp.identifier[],
			timestamptz '2026-01-01' + d * interval '1 day', '2026-11-01' FROM generate_series(1, 30) g;
	END LOOP;
END
$$;
CREATE VIEW state AS SELECT (SELECT sum((p.traits->>'n')::int) FROM profiles p) AS counted, (SELECT count(*) FROM withheld_entries) AS withheld,
	(SELECT count(*) FROM rejected r WHERE r.held) AS held, (SELECT count(DISTINCT profile_id) FROM identities) AS profiles;
-- the next steps of a change, and entries between them
CREATE PROCEDURE finish(day int) LANGUAGE plpgsql AS $$
DECLARE
	steps int := 0;
BEGIN
	WHILE EXISTS (SELECT FROM cdp.rule_changes) LOOP
		PERFORM cdp.apply(20);
		COMMIT;
		steps := steps + 1;
		IF steps = 2 THEN
			CALL days(day, day);
			COMMIT;
		END IF;
	END LOOP;
	PERFORM cdp.apply();
	COMMIT;
	RAISE NOTICE 'in steps: %', steps > 4;
END
$$;
CALL days(1, 6);
SELECT apply();
TABLE state;
SELECT alter_identifier_kind('user_id', policy => 'refuse');
CALL finish(7);
TABLE state;
SELECT * FROM verify();
SELECT alter_identifier_kind('user_id', policy => 'quarantine');
CALL finish(8);
TABLE state;
SELECT * FROM verify();
-- one is released, and another change comes while this one is under way
SELECT release('m2-5', 'sql') IS NOT NULL;
SELECT alter_identifier_kind('user_id', policy => 'raise');
SELECT apply(20) >= 0;
SELECT alter_identifier_kind('user_id', policy => 'quarantine', max_per_profile => 1);
CALL finish(9);
TABLE state;
SELECT * FROM verify();
-- back to the beginning, while entries are undone that were withheld
SELECT alter_identifier_kind('user_id', policy => 'demote');
SELECT apply(20) >= 0;
SELECT undo('m2-1'), undo('m2-30'), undo('m4-17');
CALL finish(10);
TABLE state;
SELECT * FROM verify();

-- Guards are settings: what came under the old ones is judged again by rejudge().
SET cdp.max_profile_identifiers = 2;
INSERT INTO events (message_id, event, identifiers, occurred_at, received_at)
SELECT 'g' || g, 'x', ARRAY['user_id:g' || g % 10, 'cookie:c' || g]::cdp.identifier[], timestamptz '2026-03-01' + g * interval '1 hour', '2026-11-01' FROM generate_series(0, 49) g;
SELECT apply();
SELECT reason, count(*) FROM links WHERE reason <> 'limit' GROUP BY 1;
RESET cdp.max_profile_identifiers;
BEGIN;
SELECT rejudge();
SELECT change, count(*) FROM preview_identity() GROUP BY 1 ORDER BY 1;
ROLLBACK;
SELECT count(*) FROM rule_changes;
SELECT rejudge();
SELECT apply(20) >= 0;
SELECT phase, total FROM progress;
SELECT station, key, expected FROM verify();
CALL finish(11);
SELECT reason, count(*) FROM links WHERE reason <> 'limit' GROUP BY 1;
SELECT count(*), count(DISTINCT profile_id) FROM identities WHERE identifier::text ~ '[:]g|cookie';
SELECT * FROM verify();
SET cdp.max_new_identifiers_per_hour = 1;
SELECT rejudge();
CALL finish(12);
SELECT * FROM verify();
SET cdp.max_new_identifiers_per_hour = 2;
SET cdp.bridge_guard = 2;
SELECT rejudge();
CALL finish(13);
SELECT * FROM verify();
-- a small log is judged by the commit
RESET cdp.max_new_identifiers_per_hour;
RESET cdp.bridge_guard;
RESET cdp.replay_at_commit;
SELECT rejudge();
SELECT * FROM verify();
