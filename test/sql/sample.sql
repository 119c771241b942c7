-- cdp.load_sample(): the story that it loads is true, and loading it twice changes nothing.
CREATE EXTENSION cdp;
SET client_min_messages = warning;
SET cdp.now = '2026-05-04 09:00+00';
SELECT * FROM cdp.load_sample();
SELECT cdp.apply() > 0 AS applied;
SELECT cdp.profile('email:ada@sample.example') - 'first_seen' - 'last_seen' AS ada;
SELECT cdp.profile('email:ben@sample.example') - 'first_seen' - 'last_seen' AS ben;
SELECT segment, profile_id FROM cdp.memberships ORDER BY 1, 2;
SELECT count(*) FROM cdp.load_sample();
SELECT cdp.apply() > 0 AS applied;
SELECT cdp.profile('user_id:sample-ben')->'traits'->'sample_ltv' AS ltv;
SET cdp.now = '2026-05-04 09:02+00';
SELECT cdp.apply() AS applied;
SELECT segment, profile_id FROM cdp.memberships ORDER BY 1, 2;
SELECT * FROM cdp.verify();
