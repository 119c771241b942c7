-- Rules of identity are changed on live data: look first, then commit or roll
-- back.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;
SET timezone = 'UTC';
SET cdp.batch_size = 4;
CREATE VIEW people AS
	SELECT string_agg(identifier::text, ' ' ORDER BY identifier) AS identifiers
	FROM identities GROUP BY profile_id ORDER BY min(identifier::text COLLATE "C") COLLATE "C";
-- every table of the extension, row by row
CREATE FUNCTION contents() RETURNS TABLE (name text, line text) LANGUAGE plpgsql AS $$
DECLARE
	t regclass;
BEGIN
	FOR t IN
		SELECT d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid JOIN pg_class c ON c.oid = d.objid
		WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
			AND e.extname = 'cdp' AND c.relkind IN ('r', 'S')
	LOOP
		RETURN QUERY EXECUTE format('SELECT %L, (SELECT x)::text FROM (SELECT * FROM %s) x', t, t);
	END LOOP;
END
$$;

SELECT create_trait('orders', aggregate => 'count', event => 'Order');
SELECT create_segment('buyers', 'orders >= 2');
-- a household with one tablet, a shop terminal, and a badge that nobody
-- registered
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('m1', 'Order', '{user_id:ada,anonymous_id:tablet}', '2026-01-01Z'),
	('m2', 'Order', '{user_id:bob,anonymous_id:tablet}', '2026-01-02Z'),
	('m3', 'Order', '{user_id:bob,anonymous_id:phone}', '2026-01-03Z'),
	('m4', 'Order', '{anonymous_id:till,email:c@example.com}', '2026-01-04Z'),
	('m5', 'Order', '{anonymous_id:till,email:d@example.com}', '2026-01-05Z'),
	('m6', 'Order', '{badge:7,anonymous_id:gate}', '2026-01-06Z'),
	('m7', 'Order', '{badge:7,user_id:eve}', '2026-01-07Z'),
	('m8', 'Order', '{crm:AB}', '2026-01-08Z'),
	('m9', 'Order', '{crm:ab,user_id:fay}', '2026-01-09Z'),
	('m9', 'Order', '{email:blocked@example.com}', '2026-01-08Z'),
	('m10', 'Order', '{email:none@,phone:1}', '2026-01-10Z');
SELECT apply();
SELECT undo('m3') IS NOT NULL AS undone;
SELECT apply();
SELECT identifier, profile_id FROM identities ORDER BY node_id;
TABLE people;
SELECT * FROM preview_identity();
CREATE TEMP TABLE before AS SELECT * FROM contents();

-- too loose a rule: who would be one person
BEGIN;
SELECT alter_identifier_kind('user_id', max_per_profile => 0);
SELECT * FROM preview_identity() ORDER BY 1, 2, 3, 4;
SELECT what, phase, done, total, started_at FROM progress;
-- readers see nothing of it yet
TABLE people;
ROLLBACK;
(TABLE before EXCEPT ALL SELECT * FROM contents()) UNION ALL (SELECT * FROM contents() EXCEPT ALL TABLE before);
SELECT * FROM progress;
SELECT * FROM verify();

-- several changes at a time, and a savepoint
BEGIN;
SELECT create_identifier_kind('badge');
SAVEPOINT s;
SELECT alter_identifier_kind('email', blocked => ARRAY['^d@']);
SELECT * FROM preview_identity() ORDER BY 1, 2, 3, 4;
ROLLBACK TO s;
SELECT create_identifier_kind('crm', normaliser => 'lower');
SELECT alter_identifier_kind('email', max_per_profile => 1);
SELECT * FROM preview_identity() ORDER BY 1, 2, 3, 4;
COMMIT;
-- so small a log is replayed at the commit
SELECT * FROM progress;
TABLE people;
SELECT * FROM verify();

-- above the size, in steps: each call of apply() is one transaction
SET cdp.replay_at_commit = 0;
SELECT alter_identifier_kind('email', max_per_profile => 0);
SELECT alter_identifier_kind('user_id', max_per_profile => 0);
SELECT * FROM preview_identity() ORDER BY 1, 2, 3, 4;
SELECT what, phase, done, total FROM progress;
SELECT station, key, found->>'phase' AS phase FROM verify();
SELECT apply(1);
SELECT what, phase, started_at IS NOT NULL AS started FROM progress;
SELECT apply();
SELECT * FROM progress;
TABLE people;
SELECT * FROM verify();

-- entries that are read otherwise, while others come
SELECT segment, count(*) FROM memberships GROUP BY 1;
SELECT drop_identifier_kind('badge');
SELECT apply(3);
SELECT phase, done, total FROM progress;
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('n1', 'Order', '{badge:7,user_id:eve}', '2026-01-11Z'),
	('n2', 'Order', '{badge:7,user_id:gus}', '2026-01-11Z'),
	('m6', 'Order', '{badge:8,anonymous_id:gate}', '2026-01-05Z');
-- another change comes before the first is through
SELECT alter_identifier_kind('email', blocked => ARRAY['^c@', '^blocked@']);
SELECT alter_identifier_kind('anonymous_id', links => false);
SELECT apply(2);
SELECT count(*) FROM rule_changes;
SELECT apply();
SELECT * FROM progress;
TABLE people;
SELECT identifier, owner FROM (SELECT message_id, i.identifier AS owner, e.identifiers AS identifier
	FROM entries n JOIN identities i ON i.node_id = n.owner JOIN events e ON e.id = n.entry) x ORDER BY message_id;
SELECT * FROM verify();
-- and back, in one transaction with the application of it
BEGIN;
SELECT alter_identifier_kind('email', blocked => '{}');
SELECT alter_identifier_kind('anonymous_id', links => true);
SELECT alter_identifier_kind('user_id', priority => 50);
SELECT apply();
SELECT count(*) FROM rule_changes;
COMMIT;
TABLE people;
SELECT * FROM verify();

-- policies: history is replayed as a whole
SELECT alter_identifier_kind('user_id', max_per_profile => 1, policy => 'refuse');
SELECT apply();
SELECT message_id, reason FROM rejected WHERE reason = 'limit' ORDER BY 1;
SELECT * FROM verify();
SELECT alter_identifier_kind('user_id', policy => 'demote');
SELECT apply();
SELECT * FROM verify();

-- the whole log at once
SELECT create_identifier_kind('badge', priority => 5);
SELECT apply_identity_changes();
SELECT * FROM progress;
TABLE people;
SELECT * FROM verify();

-- what was undone, and copies that lost, are found by what they mean now
INSERT INTO events (source, message_id, event, identifiers, occurred_at) VALUES
	('api', 'u1', 'Order', '{crm:Hugo,phone:+41441234567}', '2026-01-12Z'),
	('api', 'u2', 'Order', '{crm:Hugo,email:hugo@example.com}', '2026-01-13Z'),
	('api', 'u3', 'Order', '{crm:Hugo,cookie:h3}', '2026-01-15Z');
SELECT apply();
INSERT INTO events (source, type, message_id, properties, occurred_at) VALUES
	('api', 'undo', 'u4', '{"entry": "u2"}', '2026-01-20Z');
INSERT INTO events (source, message_id, event, identifiers, occurred_at) VALUES
	('api', 'u3', 'Order', '{crm:Hugo,cookie:h3,device_id:h3}', '2026-01-14Z');
SELECT apply();
SELECT alter_identifier_kind('crm', normaliser => 'verbatim');
-- the change is not through yet
SELECT identifier FROM identifiers_at('crm:Hugo') ORDER BY 1;
SELECT identifier FROM identifiers_at('crm:Hugo', '2026-01-18Z') ORDER BY 1;
SELECT apply();
SELECT identifier FROM identifiers_at('crm:Hugo') ORDER BY 1;
SELECT identifier FROM identifiers_at('crm:Hugo', '2026-01-18Z') ORDER BY 1;
SELECT * FROM verify();

-- more changes at a time than anybody makes by hand
SELECT create_identifier_kind('seat', normaliser => 'lower');
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('v1', 'Order', '{seat:A1,user_id:ida}', '2026-01-12Z'),
	('v2', 'Order', '{seat:a1,email:ida@example.com}', '2026-01-13Z');
SELECT apply();
SELECT alter_identifier_kind('seat', normaliser => 'verbatim');
DO $$ BEGIN FOR i IN 1 .. 80 LOOP PERFORM cdp.alter_identifier_kind('loyalty_id', priority => 100 + i); COMMIT; END LOOP; END $$;
SELECT count(*) FROM rule_changes;
SELECT apply();
SELECT identifier FROM identities WHERE identifier::text LIKE 'seat:%' ORDER BY 1;
SELECT count(*) FROM rule_changes;
SELECT * FROM verify();
