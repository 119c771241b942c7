-- Kinds of identifiers: their rules, and what these make of values.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;
\set SHOW_CONTEXT never

SELECT kind, normaliser, priority, max_per_profile, within, cardinality(blocked) AS blocked, cardinality(labels) AS labels, entity, links, policy, shared
FROM identifier_kinds ORDER BY priority, kind;

-- canonical forms by kind
SELECT i, canonical(i) FROM unnest(ARRAY['user_id:AbC', 'email: Ada@Example.COM ', 'phone:+49 30 901820', 'group_id:Acme', 'unheard_of:X y']::identifier[]) i;
-- what programs write when they know nothing is blocked, whatever the kind
SELECT v, canonical(identifier('user_id', v)) IS NULL AND canonical(identifier('unheard_of', v)) IS NULL AND canonical(identifier('phone', v)) IS NULL AS blocked
FROM unnest(ARRAY['', ' ', '0', '000', '-', '0-0', '00000000-0000-0000-0000-000000000000', '-1', 'null', 'NULL', ' Null ', 'none', 'None', 'undefined', 'nan', 'NaN',
	'anonymous', 'Anonymous', 'guest', '[object Object]']) v;
SELECT v, canonical(identifier('user_id', v)) FROM unnest(ARRAY['01', '-2', 'nullable', 'guest1', 'nobody', 'object', '[]']) v;
-- no canonical form, no identifier
SELECT canonical('email:ada'), canonical('phone:12345'), canonical(identifier('user_id', repeat('x', 1016))) IS NOT NULL AS fits, canonical(identifier('user_id', repeat('x', 1017)));
SELECT canonical(NULL);

-- make one
SELECT create_identifier_kind('crm', priority => 5, max_per_profile => 2, normaliser => 'nfkc', blocked => ARRAY['TEST', '^x+$'], labels => ARRAY['^shared']);
SELECT * FROM identifier_kinds WHERE kind = 'crm';
SELECT v, canonical(identifier('crm', v)) FROM unnest(ARRAY['ABC', 'Test', 'test1', 'xxx', 'XX', 'xy', 'Shared desk']) v;
SELECT create_identifier_kind('tenant', entity => 'account');
SELECT create_identifier_kind('plain');
SELECT kind, normaliser, priority, max_per_profile, blocked, labels, entity, links FROM kind_definitions ORDER BY kind;

-- what cannot be
SELECT create_identifier_kind('crm');
SELECT create_identifier_kind('user_id');
SELECT create_identifier_kind('Bad kind');
SELECT create_identifier_kind(NULL);
SELECT create_identifier_kind('c', normaliser => 'soundex');
SELECT create_identifier_kind('c', entity => 'dog');
SELECT create_identifier_kind('c', priority => 0);
SELECT create_identifier_kind('c', max_per_profile => -1);
SELECT create_identifier_kind('c', within => '1 day');
SELECT create_identifier_kind('c', max_per_profile => 1, within => '2 days');
SELECT create_identifier_kind('c', max_per_profile => 1, within => '30 days');
SELECT create_identifier_kind('c', max_per_profile => 1, within => '24:00:00');
SELECT create_identifier_kind('c', max_per_profile => 1, policy => 'ignore');
SELECT create_identifier_kind('c', max_per_profile => 1, shared => 'everybody');
SELECT create_identifier_kind('c', entity => 'account', links => true);
SELECT create_identifier_kind('c', blocked => ARRAY['^(']);
SELECT create_identifier_kind('c', labels => ARRAY['ok', '^[z-a]']);
SELECT create_identifier_kind('c', blocked => ARRAY[NULL]);
SELECT count(*) FROM identifier_kinds WHERE kind = 'c';

-- change one; NULL leaves a rule as it is
SELECT alter_identifier_kind('crm', priority => 6);
SELECT alter_identifier_kind('crm', max_per_profile => 0, blocked => '{}');
SELECT kind, normaliser, priority, max_per_profile, blocked, labels FROM identifier_kinds WHERE kind = 'crm';
SELECT alter_identifier_kind('crm', within => '1 month');
SELECT alter_identifier_kind('crm', max_per_profile => 3, within => '1 week');
SELECT max_per_profile, within FROM identifier_kinds WHERE kind = 'crm';
SELECT alter_identifier_kind('crm', within => '0');
SELECT max_per_profile, within FROM identifier_kinds WHERE kind = 'crm';
SELECT alter_identifier_kind('crm', within => '1 year');
SELECT alter_identifier_kind('crm', max_per_profile => 0);
SELECT max_per_profile, within FROM identifier_kinds WHERE kind = 'crm';
SELECT canonical('crm:xxx');
SELECT alter_identifier_kind('nothing', priority => 6);
SELECT alter_identifier_kind('crm', entity => 'account');
SELECT entity, links FROM identifier_kinds WHERE kind = 'crm';
SELECT alter_identifier_kind('crm', links => true);
-- a built-in one is overridden, and gets its rules back
SELECT alter_identifier_kind('user_id', max_per_profile => 3, normaliser => 'nfkc');
SELECT normaliser, priority, max_per_profile FROM identifier_kinds WHERE kind = 'user_id';
SELECT canonical('user_id:AbC');
SELECT count(*), count(DISTINCT kind) FROM identifier_kinds;
SELECT drop_identifier_kind('user_id');
SELECT normaliser, priority, max_per_profile FROM identifier_kinds WHERE kind = 'user_id';
SELECT canonical('user_id:AbC');
SELECT drop_identifier_kind('user_id');
SELECT drop_identifier_kind('crm');
SELECT drop_identifier_kind('crm');
SELECT canonical('crm:ABC');

-- a change that is rolled back leaves no trace, not even in caches
BEGIN;
SELECT alter_identifier_kind('user_id', blocked => ARRAY['^u']);
SELECT canonical('user_id:u1');
SAVEPOINT s;
SELECT alter_identifier_kind('user_id', blocked => ARRAY['^v']);
SELECT canonical('user_id:u1'), canonical('user_id:v1');
ROLLBACK TO s;
SELECT canonical('user_id:u1'), canonical('user_id:v1');
ROLLBACK;
SELECT canonical('user_id:u1');

-- patterns: exact values are taken canonically, expressions see the canonical value
SELECT create_identifier_kind('mail2', normaliser => 'email', blocked => ARRAY['Test@Example.com', '^spam@', '^.*@bücher']);
SELECT v, canonical(identifier('mail2', v)) FROM unnest(ARRAY['TEST@example.COM', 'Spam@x.de', 'ada@example.com', 'a@bücher.de']) v;
-- an expression that takes long is cut off by nothing but an interrupt, and finds its way
SELECT create_identifier_kind('slow', blocked => ARRAY['^(a|b|ab)*c$']);
SELECT canonical(identifier('slow', repeat('ab', 400))) IS NULL, canonical(identifier('slow', repeat('ab', 400) || 'c')) IS NULL;

-- rights: everybody may read, only who may change does
CREATE ROLE regress_cdp_kinds;
SET ROLE regress_cdp_kinds;
SELECT count(*) > 15 AS visible FROM identifier_kinds;
SELECT canonical('email:A@B.com'), kind('a:b'), normalise('email', 'A@B.com');
SELECT create_identifier_kind('mine');
SELECT alter_identifier_kind('user_id', priority => 2);
SELECT drop_identifier_kind('slow');
SELECT definitions_changed();
SELECT definitions_lock();
SELECT identity_rules_changed();
INSERT INTO kind_definitions SELECT 'mine', 'verbatim', 1, NULL, NULL, '{}', '{}', 'profile', true;
UPDATE builtin_kinds SET priority = 9;
RESET ROLE;
GRANT EXECUTE ON FUNCTION create_identifier_kind(text, int, int, interval, text, text[], text, boolean, text[], text, text) TO regress_cdp_kinds;
SET ROLE regress_cdp_kinds;
SELECT create_identifier_kind('mine', priority => 9);
RESET ROLE;
SELECT priority FROM identifier_kinds WHERE kind = 'mine';
REVOKE EXECUTE ON FUNCTION create_identifier_kind(text, int, int, interval, text, text[], text, boolean, text[], text, text) FROM regress_cdp_kinds;
DROP ROLE regress_cdp_kinds;

-- objects of the same names on the caller's path change nothing
CREATE SCHEMA evil;
CREATE FUNCTION evil.coalesce_trap(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT 1/0 = 1';
CREATE OPERATOR evil.= (FUNCTION = evil.coalesce_trap, LEFTARG = text, RIGHTARG = text);
SET search_path = evil, pg_catalog, cdp, public;
SELECT cdp.create_identifier_kind('safe');
SELECT cdp.canonical('safe:X');
SET search_path = cdp, public;
DROP SCHEMA evil CASCADE;

-- in parallel plans
SELECT count(set_config(name, 'on', false)) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
SELECT canonical(i) FROM unnest(ARRAY['email:A@B.com', 'crm:X']::identifier[]) i;
SELECT count(set_config(name, 'off', false)) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
-- dropped and made again in one session
DROP EXTENSION cdp;
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SELECT canonical('email:A@B.com'), canonical('safe:none');
SELECT count(*) FROM kind_definitions;
