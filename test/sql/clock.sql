-- The clock and its override.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
\set SHOW_CONTEXT never
SET timezone = 'America/New_York';
SELECT abs(extract(epoch FROM cdp.clock() - clock_timestamp())) < 60 AS wall_clock;
-- whatever the form, it is kept in one that does not depend on other settings
SET cdp.now = '2026-06-01Z';
SHOW cdp.now;
SELECT cdp.clock();
SET cdp.now = '2026-06-01 12:00 EDT';
SHOW cdp.now;
SET cdp.now = '2026-06-01 12:00';
SHOW cdp.now;
SET timezone = 'UTC';
SELECT cdp.clock();
SET cdp.now = '0044-03-15 12:00:00.5+00 BC';
SHOW cdp.now;
SELECT cdp.clock();
SET cdp.now = 'tomorrow, or so';
SET cdp.now = 'infinity';
-- a parallel worker has the same clock
SET cdp.now = '2026-06-01Z';
SELECT count(set_config(name, 'on', false)) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
SELECT count(*), max(cdp.clock()) FROM cdp.identities;
SELECT count(set_config(name, 'off', false)) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
SET cdp.now = '';
SELECT abs(extract(epoch FROM cdp.clock() - clock_timestamp())) < 60 AS wall_clock;
CREATE ROLE regress_clock;
SET ROLE regress_clock;
SET cdp.now = '2026-06-01Z';
RESET ROLE;
DROP ROLE regress_clock;
