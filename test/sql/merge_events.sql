-- What is announced about merges and splits: every id ever merged, and the
-- entries that did it.
SET client_min_messages = warning;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;
SET timezone = 'UTC';
\set SHOW_CONTEXT never

CREATE VIEW told AS
	SELECT seq, kind, profile_id AS of, payload->>'created_at' AS created,
		coalesce(payload->'merges', payload->'into') AS profiles,
		(SELECT string_agg(concat_ws(' ', d->>'profile_id', left(d->>'created_at', 10), left(coalesce(d->>'merged_at', d->>'split_at'), 10), d->>'source', d->>'triggering_event_id'), ', ' ORDER BY n)
		 FROM jsonb_array_elements(coalesce(payload->'merged', payload->'parts')) WITH ORDINALITY AS x (d, n)) AS details,
		cause
	FROM changes WHERE kind IN ('profile_merged', 'profile_split') ORDER BY seq;

-- four strangers
SET cdp.now = '2026-01-10 00:00Z';
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('m1', 'Viewed', '{anonymous_id:a}', '2026-01-01Z'),
	('m2', 'Viewed', '{anonymous_id:b}', '2026-01-02Z'),
	('m3', 'Viewed', '{anonymous_id:c}', '2026-01-03Z'),
	('m4', 'Viewed', '{anonymous_id:d}', '2026-01-04Z');
SELECT apply();
SELECT * FROM told;

-- c and d become one, then b joins them, then a: a merge of merges lists all
SET cdp.now = '2026-01-11 00:00Z';
SELECT track('Logged In', user_id => 'u', anonymous_id => 'c', message_id => 'm5');
SELECT track('Logged In', user_id => 'u', anonymous_id => 'd', message_id => 'm6');
SELECT apply();
SET cdp.now = '2026-01-12 00:00Z';
SELECT track('Logged In', user_id => 'u', anonymous_id => 'b', message_id => 'm7');
SELECT apply();
SET cdp.now = '2026-01-13 00:00Z';
SELECT track('Logged In', user_id => 'u', anonymous_id => 'a', message_id => 'm8', source => 'app');
SELECT apply();
SELECT * FROM told;
SELECT * FROM merges(1);
SELECT merged_id FROM merges(4);

-- a split gives b its id back, with what had been merged into it
SET cdp.now = '2026-01-14 00:00Z';
SELECT split('anonymous_id:a', 'user_id:u') IS NOT NULL AS split;
SELECT apply();
SELECT * FROM told OFFSET 3;
SELECT merged_id FROM merges(1);
SELECT merged_id, source, message_id FROM merges(2);
SELECT current_profile(1) AS one, current_profile(2) AS two, current_profile(3) AS three, current_profile(4) AS four;

-- and once more: the later merge counts
SET cdp.now = '2026-01-15 00:00Z';
SELECT merge('anonymous_id:a', 'user_id:u') IS NOT NULL AS merged;
SELECT apply();
SELECT * FROM told OFFSET 4;
SELECT merged_id, merged_at, source FROM merges(1);

-- two profiles that are one and absorb a third within one batch are one change
SET cdp.now = '2026-01-16 00:00Z';
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('n1', 'Viewed', '{anonymous_id:e}', '2026-01-01Z'),
	('n2', 'Viewed', '{anonymous_id:f}', '2026-01-01Z'),
	('n3', 'Viewed', '{anonymous_id:g}', '2026-01-01Z');
SELECT apply();
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('n4', 'Logged In', '{user_id:v,anonymous_id:e}', '2026-01-02Z'),
	('n5', 'Logged In', '{user_id:v,anonymous_id:f}', '2026-01-03Z'),
	('n6', 'Logged In', '{user_id:v,anonymous_id:g}', '2026-01-04Z');
SELECT apply();
SELECT * FROM told OFFSET 5;

-- what exists for its own sake is no merge: identifiers that were never alone
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('n7', 'Signed Up', '{user_id:w,anonymous_id:h,email:w@example.com}', '2026-01-05Z');
SELECT apply();
SELECT count(*) FROM told;

-- an undo restores ids; the entry is the undo
SET cdp.now = '2026-01-17 00:00Z';
SELECT merge('anonymous_id:h', 'user_id:v') AS merge \gset
SELECT apply();
SELECT undo(:'merge') IS NOT NULL AS undone;
SELECT apply();
SELECT regexp_replace(details, '#[0-9]+', '#n', 'g') AS details, kind, of, profiles FROM told OFFSET 6;
SELECT count(*) FROM merged_profiles WHERE profile_id = resolve('anonymous_id:h');

-- new rules: who is absorbed by them is known, too
SET cdp.now = '2026-01-18 00:00Z';
SELECT alter_identifier_kind('anonymous_id', links => false);
SELECT * FROM merges(1);
SELECT alter_identifier_kind('anonymous_id', links => true);
SELECT merged_id, merged_at, source FROM merges(1);
SELECT * FROM verify();

-- a profile that falls apart while others absorb its parts stands for the one
-- that has the identifier of its number
SET cdp.now = '2026-01-20 00:00Z';
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('p1', 'Viewed', '{cookie:x}', '2026-01-05Z'),
	('p2', 'Viewed', '{cookie:y}', '2026-01-05Z');
SELECT apply();
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('p3', 'Viewed', '{cookie:left,cookie:right}', '2026-01-10Z');
SELECT apply();
INSERT INTO events (message_id, type, source, event, identifiers, occurred_at) VALUES
	('p4', 'split', 'manual', NULL, '{cookie:left,cookie:right}', '2026-01-11Z'),
	('p5', 'track', 'sql', 'Viewed', '{cookie:x,cookie:left}', '2026-01-12Z'),
	('p6', 'track', 'sql', 'Viewed', '{cookie:y,cookie:right}', '2026-01-12Z');
SELECT apply();
SELECT kind, of = resolve('cookie:x') AS x, of = resolve('cookie:y') AS y, jsonb_array_length(profiles) AS n, regexp_replace(details, '(^|, )[0-9]+ ', '\1', 'g') AS details
FROM told WHERE seq > (SELECT max(seq) FROM changes) - 2;

-- the prefix operator is detach, and an id whose identifier went and came back
-- stands for it again
SELECT (</> 'cookie:left'::identifier) IS NOT NULL AS detached;
SELECT apply();
SELECT resolve('cookie:left') = resolve('cookie:x') AS together;
SELECT resolve('cookie:p') AS unknown;
SELECT track('Viewed', identifiers => '{cookie:p}', message_id => 'p7', source => 'shop');
SELECT apply();
SELECT resolve('cookie:p') AS before \gset
SELECT undo('p7', 'shop') AS undo \gset
SELECT apply();
SELECT resolve('cookie:p') AS gone, current_profile(:before) AS nobody;
SELECT track('Viewed', identifiers => '{cookie:p}', message_id => 'p8', source => 'shop');
SELECT apply();
SELECT resolve('cookie:p') = current_profile(:before) AS found;

-- an undo that lets earlier evidence count again is what joined them: of a split,
-- and of the undo of a merge
SET cdp.now = '2026-01-21 00:00Z';
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('q1', 'Viewed', '{cookie:q}', '2026-01-05Z'),
	('q2', 'Viewed', '{cookie:r}', '2026-01-05Z');
SELECT apply();
SELECT merge('cookie:q', 'cookie:r') AS merge \gset
SELECT apply();
SELECT split('cookie:q', 'cookie:r') AS split \gset
SELECT apply();
SELECT undo(:'split') AS undo \gset
SELECT apply();
CREATE FUNCTION why() RETURNS text LANGUAGE sql AS
$$SELECT payload->'merged'->0->>'triggering_event_id' FROM changes WHERE kind = 'profile_merged' ORDER BY seq DESC LIMIT 1$$;
SELECT resolve('cookie:q') = resolve('cookie:r') AS together, why() = :'undo' AS the_undo, why() = :'merge' AS the_merge;
SELECT undo(:'merge') AS undo \gset
SELECT apply();
SELECT resolve('cookie:q') = resolve('cookie:r') AS together;
SELECT undo(:'undo', 'manual') AS undo \gset
SELECT apply();
SELECT resolve('cookie:q') = resolve('cookie:r') AS together, why() = :'undo' AS the_undo, why() = :'merge' AS the_merge;

-- an undo of the same batch that has nothing to do with a merge is not named: a split
-- makes room for r3; what is undone is about somebody else, or an identifier alone
SET cdp.now = '2026-01-22 00:00Z';
SELECT alter_identifier_kind('email', max_per_profile => 1);
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('r0', 'Viewed', '{anonymous_id:r}', '2026-01-05Z'),
	('r1', 'Viewed', '{email:r2@example.com}', '2026-01-06Z'),
	('r2', 'Viewed', '{anonymous_id:r,email:r1@example.com}', '2026-01-07Z'),
	('r3', 'Viewed', '{anonymous_id:r,email:r2@example.com}', '2026-01-08Z'),
	('r4', 'Viewed', '{user_id:r4,cookie:r4}', '2026-01-08Z'),
	('r5', 'Viewed', '{user_id:r4}', '2026-01-08Z'),
	('r6', 'Viewed', '{anonymous_id:r}', '2026-01-08Z');
SELECT apply();
SELECT split('anonymous_id:r', 'email:r1@example.com') AS split, retract('r4', 'sql') AS undo \gset
SELECT apply();
SELECT resolve('anonymous_id:r') = resolve('email:r2@example.com') AS together, why(), why() = :'undo' AS the_undo;
SELECT undo(:'split') IS NOT NULL AS undone;
SELECT apply();
SELECT resolve('anonymous_id:r') = resolve('email:r1@example.com') AS together;
SELECT split('anonymous_id:r', 'email:r1@example.com') AS split, retract('r6', 'sql') AS undo \gset
SELECT apply();
SELECT resolve('anonymous_id:r') = resolve('email:r2@example.com') AS together, why(), why() = :'undo' AS the_undo;
-- but what is undone may be what was in the way
SELECT undo(:'split') IS NOT NULL AS undone;
SELECT apply();
SELECT retract('r2', 'sql') AS undo \gset
SELECT apply();
SELECT resolve('anonymous_id:r') = resolve('email:r2@example.com') AS together, why() = :'undo' AS the_undo;
-- nor is it named where a late message parts a profile: s3 is older than s0
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('s0', 'Viewed', '{anonymous_id:s,email:s2@example.com}', '2026-01-07Z'),
	('s1', 'Viewed', '{user_id:s4}', '2026-01-08Z'),
	('s2', 'Viewed', '{user_id:s4,cookie:s4}', '2026-01-08Z');
SELECT apply();
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('s3', 'Viewed', '{anonymous_id:s,email:s1@example.com}', '2026-01-06Z');
SELECT retract('s1', 'sql') IS NOT NULL AS undone;
SELECT apply();
SELECT resolve('anonymous_id:s') = resolve('email:s1@example.com') AS together, payload->'parts'->0->>'triggering_event_id' AS why
FROM changes WHERE kind = 'profile_split' ORDER BY seq DESC LIMIT 1;
SELECT * FROM verify();
