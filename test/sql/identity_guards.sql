-- Guards: which ones the applier has used is known, for previews of others and
-- for questions about earlier times.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;
SET timezone = 'UTC';
CREATE VIEW guards AS SELECT since, max_profile_identifiers AS size, bridge_guard AS bridge, max_new_identifiers_per_hour AS rate FROM guard_history ORDER BY since;
CREATE VIEW planned AS SELECT change, count(*) FROM preview_identity() GROUP BY 1 ORDER BY 1;

-- before anything has been judged there are none
SELECT count(*) FROM guards;
SET cdp.now = '2026-02-01';
SET cdp.max_profile_identifiers = 4;
INSERT INTO events (event, identifiers, occurred_at, received_at)
SELECT 'x', ARRAY['user_id:a', 'cookie:' || g]::identifier[], timestamptz '2026-01-01' + g * interval '20 minutes', '2026-01-15' FROM generate_series(1, 6) g;
INSERT INTO events (event, identifiers, occurred_at, received_at) VALUES
	('x', '{user_id:b,cookie:b}', '2026-01-02', '2026-01-15'), ('x', '{anonymous_id:b,cookie:b1}', '2026-01-03', '2026-01-15'),
	('x', '{user_id:b,anonymous_id:b}', '2026-01-04', '2026-01-15'), ('x', '{user_id:c,cookie:b1}', '2026-01-05', '2026-01-15');
SELECT apply();
TABLE guards;
SELECT resolve('user_id:a') AS a, count(*) FROM identities WHERE profile_id = resolve('user_id:a');
TABLE planned;

-- what others would do, without any change of a rule
BEGIN;
SET LOCAL cdp.max_profile_identifiers = 100;
SELECT * FROM preview_identity() ORDER BY 1, 2, 3, 4;
SET LOCAL cdp.max_new_identifiers_per_hour = 2;
SELECT * FROM preview_identity() ORDER BY 1, 2, 3, 4;
SET LOCAL cdp.max_new_identifiers_per_hour = 1000;
SET LOCAL cdp.bridge_guard = 2;
SELECT * FROM preview_identity() ORDER BY 1, 2, 3, 4;
ROLLBACK;
TABLE planned;

-- together with rules: the policy of a kind moves nobody, who shares does
BEGIN;
SELECT alter_identifier_kind('user_id', policy => 'quarantine');
TABLE planned;
SET LOCAL cdp.max_profile_identifiers = 5;
TABLE planned;
RESET cdp.max_profile_identifiers;
SELECT alter_identifier_kind('cookie', shared => 'anonymous');
TABLE planned;
ROLLBACK;
BEGIN;
SELECT count(*) > 0 AS changes FROM identity_preset('snowplow');
TABLE planned;
ROLLBACK;

-- later on there are others, at first for what comes, then for all
SET cdp.now = '2026-03-01';
SET cdp.max_profile_identifiers = 5;
INSERT INTO events (event, identifiers, occurred_at, received_at) VALUES ('x', '{user_id:a,cookie:7}', '2026-01-10', '2026-03-01');
SELECT apply();
TABLE guards;
SELECT rejudge();
SELECT apply();
SET cdp.now = '2026-04-01';
SET cdp.max_profile_identifiers = 100;
SELECT rejudge();
SELECT apply();
TABLE guards;
SELECT count(*) FROM identities WHERE profile_id = resolve('user_id:a');
SELECT * FROM verify();
SELECT known_at::date, (SELECT count(*) FROM identifiers_at('user_id:a', NULL, known_at)) AS identifiers
FROM unnest('{2026-01-01,2026-01-15,2026-02-15,2026-03-15,2026-04-15}'::timestamptz[]) known_at;
SELECT resolve_at('cookie:6', NULL, '2026-02-15') = resolve_at('user_id:a', NULL, '2026-02-15') AS then, resolve('cookie:6') = resolve('user_id:a') AS now;
SELECT profile_at('cookie:6', known_at => '2026-02-15')->'identifiers' AS then;
-- the session keeps its own, also after an error
SHOW cdp.max_profile_identifiers;
SELECT resolve_at('nokind:1', NULL, '2026-02-15');
SHOW cdp.max_profile_identifiers;
SELECT count(*) FROM identifiers_at('user_id:a');
