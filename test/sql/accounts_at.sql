-- Accounts at earlier times: as they were shown then, where nothing came late;
-- whoever turned out to be somebody else later, and whatever was undone later.
SET client_min_messages = error;
CREATE EXTENSION cdp;
SET timezone = 'UTC';
SET cdp.now = '2026-01-01';
SELECT cdp.create_trait('orders', aggregate => 'count', event => 'Order');
SELECT cdp.create_trait('orders_5d', aggregate => 'count', event => 'Order', within => '5 days');
SELECT cdp.create_trait('age', type => 'numeric');
SELECT count(cdp.create_trait(name, aggregate => a, value => v, event => e, within => w::interval, filter => f, type => t, expression => x, options => o::jsonb, entity => 'account'))
FROM (VALUES ('seats', NULL, NULL, NULL, NULL, NULL, 'numeric', NULL, NULL), ('plan', NULL, NULL, NULL, NULL, NULL, 'text', NULL, NULL),
	('orders', 'count', NULL, 'Order', NULL, NULL, NULL, NULL, NULL), ('orders_5d', 'count', NULL, 'Order', '5 days', NULL, NULL, NULL, NULL),
	('last_item', 'last', $$properties->>'item'$$, NULL, NULL, NULL, NULL, NULL, NULL), ('items', 'unique_list', $$properties->>'item'$$, NULL, '10 days', NULL, NULL, NULL, '{"size": 3}'),
	('days', 'streak', NULL, NULL, NULL, NULL, NULL, NULL, NULL), ('all_orders', 'count', NULL, 'Order', NULL, NULL, NULL, NULL, '{"rollup": true}'),
	('buyers', 'count', NULL, NULL, NULL, 'orders > 0', NULL, NULL, '{"over": "members"}'), ('lately', 'sum', 'orders_5d', NULL, NULL, NULL, NULL, NULL, '{"over": "members", "rollup": true}'),
	('eldest', 'max', 'age', NULL, NULL, NULL, NULL, NULL, '{"over": "members"}'), ('use', NULL, NULL, NULL, NULL, NULL, NULL, 'buyers / nullif(seats, 0)', NULL)) v(name, a, v, e, w, f, t, x, o);
SELECT cdp.create_segment('active', $$orders_5d > 1 OR did_in_order('Order', 'View', within => '2 days', newer_than => '9 days')$$);
SELECT cdp.create_segment('busy', $$orders_5d > 2 OR any_member(in_segment('active'))$$, entity => 'account');
SELECT cdp.create_segment('grown', $$all_members(orders > 1) AND NOT in_segment('busy')$$, entity => 'account');
SELECT cdp.account_by_domain();

-- some days; what is shown at the end of each is remembered
CREATE TABLE shown (at timestamptz, account cdp.identifier, was jsonb, members bigint[]);
CREATE PROCEDURE days(first int, last int) LANGUAGE plpgsql AS $$
DECLARE
	at timestamptz;
BEGIN
	FOR d IN first..last LOOP
		at := timestamptz '2026-01-01' + d * interval '1 day';
		PERFORM set_config('cdp.now', at::text, false);
		FOR i IN 1..12 LOOP
			PERFORM CASE
				WHEN (d * 7 + i * 5) % 11 = 0 THEN cdp.group('g' || (d + i) % 4, jsonb_build_object('seats', d % 5, 'plan', 'p' || i % 3) || CASE WHEN d % 4 = 1 THEN jsonb_build_object('parent', 'g' || i % 3) ELSE '{}' END,
					user_id => 'u' || i * d % 9, occurred_at => at - i * interval '1 hour')
				WHEN (d * 3 + i) % 17 = 0 THEN cdp.leave_group('g' || (d + i) % 4, user_id => 'u' || i * d % 9, occurred_at => at - i * interval '1 hour')
				WHEN (d + i) % 13 = 0 THEN cdp.track('Order', jsonb_build_object('item', 'i' || i), identifiers => ARRAY['group_id:g' || d % 4, 'group_id:g1']::cdp.identifier[], occurred_at => at - i * interval '1 hour')
				WHEN (d + i) % 19 = 0 THEN cdp.identify('u' || i % 9, jsonb_build_object('age', d + i), identifiers => ARRAY[format('email:u%s@%s.example', i % 9, i % 2)]::cdp.identifier[], occurred_at => at - i * interval '1 hour')
				ELSE cdp.track(CASE WHEN i % 2 = 0 THEN 'Order' ELSE 'View' END, jsonb_build_object('item', 'i' || (i + d) % 6), user_id => 'u' || (i + d * d) % 9, occurred_at => at - i * interval '1 hour', message_id => format('m%s.%s', d, i)) END;
		END LOOP;
		-- who is somebody else, or has not done it, after all
		IF d > 8 THEN
			PERFORM CASE d % 5
				WHEN 0 THEN cdp.merge(format('user_id:u%s', d % 9)::cdp.identifier, format('user_id:u%s', (d + 4) % 9)::cdp.identifier)
				WHEN 1 THEN (SELECT cdp.undo(COALESCE(message_id, '#' || id), source) FROM cdp.events WHERE type = 'merge' ORDER BY id DESC LIMIT 1)
				WHEN 2 THEN cdp.split(format('user_id:u%s', d % 9)::cdp.identifier, format('email:u%s@%s.example', d % 9, d % 2)::cdp.identifier)
				ELSE (SELECT min(cdp.undo(COALESCE(e.message_id, '#' || e.id), e.source)) FROM (SELECT * FROM cdp.events e WHERE type IN ('group', 'leave', 'track') AND (type <> 'track' OR d % 2 = 0) ORDER BY md5(id::text || d) LIMIT 3) e) END;
		END IF;
		COMMIT;
		PERFORM cdp.apply();
		INSERT INTO shown SELECT at, a.identifier, cdp.account(a.identifier) - 'last_seen', ARRAY(SELECT m.profile_id FROM cdp.members_of(a.identifier) m ORDER BY 1) FROM cdp.account_identities a;
		COMMIT;
	END LOOP;
END $$;
CALL days(1, 8);
SELECT s.at, s.account, s.members FROM shown s WHERE s.members <> ARRAY(SELECT m.profile_id FROM cdp.members_of(s.account, s.at) m ORDER BY 1) LIMIT 5;
CALL days(9, 18);
SELECT count(*) AS shown, count(DISTINCT was->'traits') > 60 AS many, count(DISTINCT was->'segments') AS segments, count(DISTINCT was->'parent') AS parents, max((was->>'members')::int) AS members FROM shown;
SELECT count(DISTINCT s.account) AS accounts, min(s.account::text) AS account FROM shown s WHERE s.account::text LIKE 'domain%';

SELECT s.at, s.account, s.was, n.found FROM shown s CROSS JOIN LATERAL (SELECT cdp.account_at(s.account, s.at) OFFSET 0) n(found) WHERE s.was IS DISTINCT FROM n.found ORDER BY 1, 2 LIMIT 5;
-- not known yet, not known at all; now
SELECT cdp.account_at('group_id:g1', '2025-12-31'), cdp.account_at('group_id:nobody', '2026-01-20'), cdp.account_at('user_id:u1', '2026-01-20'), cdp.account_at(NULL, '2026-01-20');
SELECT count(*) AS now, (SELECT count(*) FROM cdp.account_identities) AS of_all FROM cdp.account_identities a WHERE cdp.account_at(a.identifier) = cdp.account(a.identifier) - 'last_seen';
SELECT cdp.account_at('group_id:g1', 'infinity') = cdp.account('group_id:g1') - 'last_seen' AS for_ever, cdp.account_at('group_id:g1', '-infinity');
SELECT cdp.account_at('no_kind:x', now());

-- what comes late was so then as well, but not by what was known; and what is taken
-- back now was not taken back then
SET cdp.now = '2026-01-20';
SELECT cdp.track('Order', '{"item": "late"}', user_id => 'u1', identifiers => '{group_id:g1}', occurred_at => '2026-01-10', message_id => 'late') <> '' AS logged;
SELECT cdp.apply();
SELECT (cdp.account_at('group_id:g1', '2026-01-11')->'traits'->>'orders')::int - (s.was->'traits'->>'orders')::int AS more,
	cdp.account_at('group_id:g1', '2026-01-11', '2026-01-11') = s.was AS by_what_was_known
FROM shown s WHERE s.account::text = 'group_id:g1' AND s.at = '2026-01-11';
SET cdp.now = '2026-01-21';
SELECT cdp.retract('late') <> '' AS logged;
SELECT cdp.apply();
SELECT (cdp.account_at('group_id:g1', '2026-01-11')->'traits'->>'orders')::int - (s.was->'traits'->>'orders')::int AS more
FROM shown s WHERE s.account::text = 'group_id:g1' AND s.at = '2026-01-11';
-- all that named it is taken back: then it was known, with the number that it has no more
SELECT cdp.group('gone', '{"seats": 7}', user_id => 'u1', message_id => 'gone') <> '' AS logged;
SELECT cdp.apply();
SET cdp.now = '2026-01-22';
SELECT cdp.retract('gone') <> '' AS logged;
SELECT cdp.apply();
SELECT cdp.account('group_id:gone'), n.found - 'traits' AS then, n.found #> '{traits,seats}' AS seats FROM (SELECT cdp.account_at('group_id:gone', '2026-01-21') OFFSET 0) n(found);
SELECT cdp.merge('user_id:u1', 'user_id:u2') <> '' AS merged;
SELECT cdp.apply();
SELECT count(*) AS now, (SELECT count(*) FROM cdp.account_identities) AS of_all FROM cdp.account_identities a WHERE cdp.account_at(a.identifier) = cdp.account(a.identifier) - 'last_seen';
SELECT s.at, s.account, s.was, n.found FROM shown s CROSS JOIN LATERAL (SELECT cdp.account_at(s.account, s.at, s.at) OFFSET 0) n(found) WHERE s.at > '2026-01-14' AND s.was IS DISTINCT FROM n.found ORDER BY 1, 2 LIMIT 5;
SELECT * FROM cdp.verify();
-- who is below whom stands in rows that stay where they are
CREATE TABLE companies (id text PRIMARY KEY, belongs_to text);
INSERT INTO companies VALUES ('root', NULL), ('leaf', 'root');
SELECT cdp.attach('companies', '{"type": "group", "identifiers": {"group_id": "id"}, "traits": {"parent": "belongs_to"}}', copy => false);
SELECT cdp.track('Order', user_id => 'u1', identifiers => '{group_id:leaf}') <> '' AS logged;
SELECT cdp.apply();
SELECT cdp.account_at('group_id:root')->'traits'->'all_orders' AS below, cdp.account_at('group_id:root') = cdp.account('group_id:root') - 'last_seen' AS same;
DROP TABLE companies;
-- what a group call names beside others, and names no account by the rules there are now, is below none
SELECT cdp.track('Order', user_id => 'u1', identifiers => '{group_id:over}') <> '' AS logged;
INSERT INTO cdp.events (type, identifiers, properties) VALUES ('group', '{group_id:under,group_id:barred}', '{"parent": "group_id:over"}');
SELECT cdp.alter_identifier_kind('group_id', blocked => ARRAY['barred']);
SELECT FROM cdp.apply();
SELECT cdp.account_at('group_id:over') = cdp.account('group_id:over') - 'last_seen' AS same, cdp.account_at('group_id:under')->'parent' AS parent;
-- nothing is written
BEGIN READ ONLY;
SELECT cdp.account_at('group_id:g1', '2026-01-20') IS NOT NULL AS answered;
COMMIT;
DROP PROCEDURE days;
DROP TABLE shown;
DROP EXTENSION cdp CASCADE;

-- people who are met again on the way to others, by copies of one message about many, count once
SET client_min_messages = warning;
CREATE EXTENSION cdp;
SET cdp.now = '2025-12-31';
SET cdp.bridge_guard = 0;
SET cdp.max_new_identifiers_per_hour = 0;
SELECT cdp.create_trait('r', aggregate => 'count', entity => 'account', options => '{"rollup": true}');
CREATE FUNCTION say(message text, source text, type text, who text, at timestamptz, received timestamptz, said jsonb DEFAULT '{}') RETURNS void LANGUAGE sql AS $$
	INSERT INTO cdp.events (message_id, source, type, event, identifiers, occurred_at, received_at, properties) VALUES (message, source, type, CASE WHEN type = 'track' THEN 'Seen' END, who::cdp.identifier[], at, received, said) $$;
DO $$ BEGIN
	PERFORM say('m1', 'web', 'group', '{user_id:u8,anonymous_id:d11}', '2026-05-03', '2026-03-26');
	PERFORM say('m4', 'web', 'page', '{user_id:u6,user_id:u18,user_id:v6}', '2026-01-30 00:04:59', '2026-01-30');
END $$;
SELECT FROM cdp.apply();
DO $$ BEGIN
	PERFORM say('m51', 'web', 'group', '{user_id:u6,user_id:u3,anonymous_id:e6}', '2025-12-10', '2026-05-06');
	PERFORM say('m58', 'web', 'track', '{user_id:v11,email:p1@example.com,anonymous_id:d5,anonymous_id:e12,email:p11@example.com}', '2026-05-21', '2026-05-21');
	PERFORM say('m62', 'app', 'track', '{user_id:u8,anonymous_id:e8,email:p8@example.com}', '2026-03-23', '2026-03-23');
	PERFORM say('m63', 'manual', 'merge', '{user_id:u6,anonymous_id:e5}', '2026-04-25', '2026-04-25');
	PERFORM say('m70', 'app', 'identify', '{email:p8@example.com,group_id:G1}', '2026-02-20', '2026-04-23');
	PERFORM say('m1', 'web', 'group', '{email:p17@example.com,anonymous_id:d13}', '2026-01-05', '2026-03-26');
	PERFORM say('m32', 'web', 'group', '{anonymous_id:e4,user_id:v6,group_id:G1,group_id:g2}', '2026-01-04', '2026-02-10', '{"seats": 2, "plan": 7}');
	PERFORM say('m1', 'web', 'group', '{user_id:u11,anonymous_id:d20}', '2026-04-18', '2026-03-26');
	PERFORM say('m84', 'web', 'group', '{anonymous_id:e12,group_id:g1,group_id:3}', '2025-11-07', '2026-03-26', '{"parent": "group_id:g1"}');
	PERFORM say('m88', 'app', 'group', '{anonymous_id:e5,anonymous_id:e16,user_id:u5,group_id:g1,group_id:G1}', '2026-03-14', '2026-03-14', '{"plan": "free"}');
END $$;
SELECT cdp.create_identifier_kind('workspace', entity => 'account', normaliser => 'lower');
DO $$ BEGIN
	PERFORM say('m54', 'web', 'track', '{anonymous_id:e20,user_id:u3}', '2026-02-27', '2026-03-12');
	PERFORM say('m21', 'web', 'track', '{user_id:v19,anonymous_id:e13,anonymous_id:e20,user_id:v12,anonymous_id:d20}', '2026-01-23', '2026-05-03');
	PERFORM say('m109', 'manual', 'split', '{email:p11@example.com,user_id:u11}', '2026-03-31 00:05', '2026-03-31', '{"reason": "r", "author": "me"}');
	PERFORM say('m32', 'web', 'group', '{anonymous_id:e4,user_id:v6,group_id:G1,group_id:g2}', '2026-01-04', '2026-02-10', '{"seats": 2, "parent": "group_id:g1"}');
END $$;
SET cdp.now = '2026-06-30';
SELECT FROM cdp.apply();
SELECT a.identifier, cdp.account_at(a.identifier)->'members' AS then, cdp.account(a.identifier)->'members' AS now FROM cdp.account_identities a ORDER BY a.identifier::text COLLATE "C";
SELECT * FROM cdp.verify();
DROP EXTENSION cdp CASCADE;
DROP FUNCTION say;
