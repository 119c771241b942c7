-- Rules of identity beyond limits for ever: periods, rate, bridges.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;
SET timezone = 'UTC';
CREATE VIEW people AS
	SELECT string_agg(identifier::text, ' ' ORDER BY identifier) AS identifiers
	FROM identities GROUP BY profile_id ORDER BY min(identifier::text COLLATE "C") COLLATE "C";
CREATE VIEW refusals AS
	SELECT least(i.identifier::text COLLATE "C", j.identifier::text) AS a, greatest(i.identifier::text COLLATE "C", j.identifier::text) AS b,
		l.origin, l.status, l.reason, l.detail
	FROM links l JOIN identities i ON i.node_id = l.a JOIN identities j ON j.node_id = l.b
	WHERE l.status <> 'accepted' ORDER BY 1, 2;
CREATE FUNCTION saw(message text, ids text, at timestamptz) RETURNS void LANGUAGE sql
	AS $$INSERT INTO cdp.events (message_id, event, identifiers, occurred_at, received_at) VALUES (message, 'x', ids::cdp.identifier[], at, '2026-11-01Z')$$;
-- who does not keep nodes sees the same: a restart between any two batches
CREATE FUNCTION restart() RETURNS void LANGUAGE sql AS 'UPDATE cdp.applier SET token = 1';

-- limits within a period: a period of the calendar, by when identifiers were first seen
SELECT create_identifier_kind('card', priority => 40, max_per_profile => 1, within => '1 month');
SELECT create_identifier_kind('pass', priority => 41, max_per_profile => 2, within => '1 week');
SELECT saw('c1', '{user_id:ann,card:1}', '2026-01-05Z'), saw('c2', '{user_id:ann,card:2}', '2026-01-31 23:59:59.999999Z'),
	saw('c3', '{user_id:ann,card:3}', '2026-02-01Z'), saw('c4', '{user_id:ann,card:2}', '2026-02-02Z');
SELECT apply();
SELECT * FROM people;
SELECT * FROM refusals;
SELECT a, b, status, reason, detail FROM refused_links('user_id:ann');
-- a card turns out to be older: January has room for the other one now
SELECT saw('c5', '{card:1}', '2025-12-31Z');
SELECT apply();
SELECT * FROM people;
SELECT * FROM refusals;
-- and younger again, when the older entry is outdone by a copy of it
SELECT saw('c5', '{cookie:no}', '2025-12-30Z');
SELECT apply();
SELECT * FROM people;
SELECT * FROM verify();
-- merges by hand are exempt, and what comes after them is judged
INSERT INTO events (message_id, type, identifiers, occurred_at, received_at) VALUES ('c6', 'merge', '{user_id:ann,card:2}', '2026-03-01Z', '2026-11-01Z');
SELECT restart();
SELECT saw('c7', '{user_id:ann,card:4}', '2026-01-20Z'), saw('c8', '{user_id:ann,card:5}', '2026-03-20Z'), saw('c9', '{user_id:ann,card:6}', '2026-03-21Z');
SELECT apply();
SELECT * FROM people;
SELECT * FROM refusals;
SELECT * FROM verify();
-- weeks begin on Monday: the 5th of January 2026 was one
SELECT saw('w1', '{user_id:bea,pass:1}', '2026-01-04 23:00Z'), saw('w2', '{user_id:bea,pass:2}', '2026-01-05Z'), saw('w3', '{user_id:bea,pass:3}', '2026-01-11 23:59Z'),
	saw('w4', '{user_id:bea,pass:4}', '2026-01-11 23:59:30Z'), saw('w5', '{user_id:bea,pass:5}', '2026-01-12Z');
SELECT apply();
SELECT * FROM people WHERE identifiers ~ ':bea';
SELECT a, b, reason, detail FROM refusals WHERE a ~ 'pass';
-- other periods: the same log under other rules
SELECT alter_identifier_kind('pass', max_per_profile => 1, within => '1 day');
SELECT * FROM people WHERE identifiers ~ ':bea';
SELECT alter_identifier_kind('pass', within => '3 months');
SELECT * FROM people WHERE identifiers ~ ':bea';
SELECT alter_identifier_kind('pass', within => '1 year', max_per_profile => 3);
SELECT * FROM people WHERE identifiers ~ ':bea';
SELECT * FROM verify();
-- of several limits the first kind by name is blamed, also when an earlier
-- link makes it one only afterwards
SELECT create_identifier_kind('badge', priority => 42, max_per_profile => 1, within => '1 year');
SELECT saw('d1', '{device_id:d1,pass:d1}', '2024-01-01Z'), saw('d2', '{device_id:d2,pass:d2}', '2024-01-02Z');
SELECT alter_identifier_kind('pass', max_per_profile => 1);
SELECT saw('d3', '{device_id:d1,device_id:d2}', '2024-02-01Z');
SELECT apply();
SELECT a, b, reason, detail FROM refusals WHERE a ~ ':d';
SELECT saw('d4', '{device_id:d1,badge:d1}', '2024-01-03Z'), saw('d5', '{device_id:d2,badge:d2}', '2024-01-04Z');
SELECT apply();
SELECT a, b, reason, detail FROM refusals WHERE a ~ ':d';
SELECT * FROM verify();

-- rate: three new identifiers an hour
SET cdp.max_new_identifiers_per_hour = 3;
SELECT saw('r1', '{user_id:cat,cookie:r1}', '2026-04-01 10:00Z'), saw('r2', '{user_id:cat,cookie:r2}', '2026-04-01 10:20Z'),
	saw('r3', '{user_id:cat,cookie:r3}', '2026-04-01 10:59:59Z'), saw('r4', '{user_id:cat,cookie:r4}', '2026-04-01 11:00Z');
SELECT apply();
SELECT * FROM people WHERE identifiers ~ 'r[1-9]';
SELECT a, b, status, reason, detail FROM refusals WHERE reason = 'rate';
-- one of them was seen before: there is room
SELECT restart();
SELECT saw('r5', '{cookie:r1}', '2026-04-01 08:00Z');
SELECT apply();
SELECT * FROM people WHERE identifiers ~ 'r[1-9]';
-- late ones take the place of those that came later
SELECT saw('r6', '{user_id:cat,cookie:r6}', '2026-04-01 10:10Z');
SELECT apply();
SELECT * FROM people WHERE identifiers ~ 'r[1-9]';
SELECT a, b, status, reason FROM refusals WHERE reason = 'rate';
-- an entry with many: the first ones
SELECT saw('r7', '{user_id:dan,cookie:s1,cookie:s2,cookie:s3,cookie:s4}', '2026-04-01 10:00Z');
SELECT apply();
SELECT * FROM people WHERE identifiers ~ ':s';
SELECT * FROM verify();
SET cdp.max_new_identifiers_per_hour = 0;
SELECT saw('r8', '{user_id:eve,cookie:t1,cookie:t2,cookie:t3,cookie:t4}', '2026-04-01 10:00Z');
SELECT apply();
SELECT * FROM people WHERE identifiers ~ ':t';
RESET cdp.max_new_identifiers_per_hour;

-- bridges: one link between two components of three is not enough
DELETE FROM events;
SELECT drop_identifier_kind('card'), drop_identifier_kind('pass'), drop_identifier_kind('badge');
SELECT count(*) FROM identities;
SET cdp.bridge_guard = 3;
SELECT saw('b1', '{user_id:x,cookie:x1,cookie:x2}', '2026-05-01Z'), saw('b2', '{email:y@example.com,cookie:y1,cookie:y2}', '2026-05-01Z'),
	saw('b3', '{device_id:z,cookie:z1}', '2026-05-01Z'), saw('b4', '{cookie:x1,cookie:y1}', '2026-05-02Z'), saw('b5', '{cookie:x1,cookie:z1}', '2026-05-03Z');
SELECT apply();
SELECT * FROM people;
SELECT * FROM refusals;
-- the same pair again is no other evidence
SELECT saw('b6', '{cookie:x1,cookie:y1}', '2026-05-04Z');
SELECT apply();
SELECT * FROM refusals;
SELECT * FROM verify();
-- another pair is: the held link counts as well
SELECT restart();
SELECT saw('b7', '{cookie:z1,cookie:y1}', '2026-05-05Z');
SELECT apply();
SELECT * FROM people;
SELECT * FROM refusals;
-- and when it goes, they part
SELECT saw('b7', '{cookie:elsewhere}', '2026-05-04Z');
SELECT apply();
SELECT * FROM people;
SELECT * FROM refusals;
SELECT * FROM verify();
-- a link from before they were large joins them
SELECT saw('b8', '{cookie:x2,cookie:y2}', '2026-04-30Z');
SELECT apply();
SELECT * FROM people;
SELECT * FROM refusals;
SELECT * FROM verify();
-- a merge by hand is not held
SELECT saw('b9', '{user_id:p,cookie:p1,cookie:p2}', '2026-05-01Z'), saw('b10', '{email:q@example.com,cookie:q1,cookie:q2}', '2026-05-01Z'),
	saw('b11', '{cookie:p1,cookie:q1}', '2026-05-02Z');
SELECT apply();
SELECT * FROM people WHERE identifiers ~ ':[pq]';
INSERT INTO events (message_id, type, identifiers, occurred_at, received_at) VALUES ('b12', 'merge', '{user_id:p,email:q@example.com}', '2026-05-03Z', '2026-11-01Z');
SELECT apply();
SELECT * FROM people WHERE identifiers ~ ':[pq]';
SELECT * FROM refusals WHERE a ~ ':[pq]';
SELECT * FROM verify();

-- the order in which entries come makes no difference
CREATE TABLE results (rule text, people text, refused text);
CREATE VIEW outcome AS SELECT (SELECT string_agg(p.identifiers, E'\n') FROM people p) AS o1,
	(SELECT string_agg(concat_ws(' ', r.a, r.b, r.reason, r.detail), E'\n') FROM refusals r) AS o2;
CREATE FUNCTION enter(m text) RETURNS void LANGUAGE sql AS
$$INSERT INTO cdp.events (message_id, event, identifiers, occurred_at, received_at)
	VALUES (m, 'x', split_part(m, ' ', 2)::cdp.identifier[], split_part(m, ' ', 1)::timestamptz, '2026-11-01Z')$$;
\set ECHO none
\i test/include/permute.sql
\set ECHO all
SELECT create_identifier_kind('card', priority => 40, max_per_profile => 1, within => '1 month');
CALL permute('period', ARRAY['2026-01-05Z {user_id:ann,card:1}', '2026-01-06Z {user_id:ann,card:2}', '2026-01-07Z {card:2,cookie:c}', '2025-12-07Z {card:1}', '2026-01-09Z {user_id:ann,card:3}']);
SET cdp.max_new_identifiers_per_hour = 2;
CALL permute('rate', ARRAY['2026-01-05T10:01Z {user_id:ann,cookie:1}', '2026-01-05T10:02Z {user_id:ann,cookie:2}', '2026-01-05T10:03Z {cookie:2,cookie:3}', '2026-01-05T09:00Z {cookie:1}', '2026-01-05T11:00Z {cookie:3,user_id:ann}']);
RESET cdp.max_new_identifiers_per_hour;
SET cdp.bridge_guard = 2;
CALL permute('bridge', ARRAY['2026-01-01Z {user_id:a,cookie:a}', '2026-01-02Z {device_id:b,cookie:b}', '2026-01-03Z {cookie:a,cookie:b}', '2026-01-04Z {cookie:c,device_id:b}', '2026-01-05Z {cookie:c,cookie:a}']);
SELECT rule, count(*) AS orders, count(DISTINCT (people, refused)) AS results, min(people) AS people, min(refused) AS refused FROM results GROUP BY 1 ORDER BY 1;
