-- Rules of kinds are rules of identity: a change replays the log.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;
CREATE VIEW people AS
	SELECT string_agg(identifier::text, ' ' ORDER BY identifier) AS identifiers
	FROM identities GROUP BY profile_id ORDER BY min(identifier::text COLLATE "C") COLLATE "C";

-- an unregistered kind is an error in calls, a label in the log
SELECT track('x', identifiers => ARRAY['crm:AB', 'anonymous_id:a1']::identifier[]);
INSERT INTO events (type, event, identifiers) VALUES
	('track', 'x', ARRAY['crm:ÄB', 'anonymous_id:a1']::identifier[]),
	('track', 'x', ARRAY['crm:äb', 'anonymous_id:a2']::identifier[]),
	('track', 'x', ARRAY['email:Info@Example.com', 'anonymous_id:a1']::identifier[]),
	('track', 'x', ARRAY['email:info@example.com', 'anonymous_id:a3']::identifier[]),
	('track', 'x', ARRAY['anonymous_id:null', 'email: Ada@Example.com', 'anonymous_id:a3']::identifier[]),
	('track', 'x', ARRAY['user_id:u1', 'anonymous_id:a4']::identifier[]),
	('track', 'x', ARRAY['user_id:u2', 'anonymous_id:a4']::identifier[]);
SELECT apply();
SELECT * FROM people;
-- once registered it links, from the beginning of the log on
SELECT create_identifier_kind('crm', normaliser => 'nfkc');
SELECT * FROM people;
SELECT * FROM verify();
-- blocked from now on: as if it had never been there
SELECT alter_identifier_kind('crm', blocked => ARRAY['^ä']);
SELECT * FROM people;
SELECT * FROM verify();
-- links no more, but labels
SELECT alter_identifier_kind('crm', blocked => '{}', links => false);
SELECT * FROM people;
-- other limits, other people
SELECT alter_identifier_kind('user_id', max_per_profile => 2);
SELECT * FROM people;
SELECT * FROM verify();
SELECT drop_identifier_kind('user_id');
SELECT drop_identifier_kind('crm');
SELECT * FROM people;
SELECT * FROM verify();
-- lookups normalise as the applier does
SELECT resolve('email:ADA@example.com') = resolve('anonymous_id:a3') AS same;
-- who is no profile any more leaves its segments, and subscribers can see it
SELECT create_segment('active', $$did('x')$$);
SELECT count(*) AS members FROM memberships;
SELECT max(seq) AS seq FROM changes \gset
SELECT alter_identifier_kind('user_id', max_per_profile => 2);
SELECT count(*) AS members, count(*) = (SELECT count(DISTINCT profile_id) FROM identities) AS all_profiles FROM memberships;
SELECT kind, segment, cause, count(*) FROM changes WHERE seq > :seq GROUP BY 1, 2, 3 ORDER BY 1;
SELECT * FROM verify();

-- what is pending is applied under the old rules: the better copy of an entry
-- takes a refused link back that the new rules do not know
SELECT drop_identifier_kind('user_id');
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('p1', 'x', '{user_id:p1,email:p@example.com,anonymous_id:p}', '2026-01-03Z'),
	('p2', 'x', '{user_id:p2,email:p@example.com}', '2026-01-01Z');
SELECT apply();
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('p1', 'x', '{user_id:p1,email:p@example.com,anonymous_id:p}', '2026-01-02Z');
SELECT alter_identifier_kind('email', links => false);
SELECT * FROM people WHERE identifiers ~ ':p';
SELECT * FROM verify();

-- a replay in other batches keeps the numbers of nodes that go and come back
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('r1', 'x', '{anonymous_id:r1}', '2026-01-05Z');
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('r1', 'x', '{anonymous_id:r2}', '2026-01-04Z');
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('r2', 'x', '{anonymous_id:r1}', '2026-01-06Z');
SELECT apply();
SELECT resolve('anonymous_id:r1') AS r1, max(seq) AS seq FROM changes \gset
SET cdp.batch_size = 1;
SELECT create_identifier_kind('badge');
RESET cdp.batch_size;
SELECT resolve('anonymous_id:r1') = :r1 AS same_number;
SELECT count(*) FROM changes WHERE seq > :seq;
SELECT * FROM verify();

-- a decision that is undone and then cannot be read any more leaves nothing
SET cdp.replay_at_commit = 0;
SELECT split('email:gone@example.com', 'anonymous_id:r1') AS gone \gset
SELECT undo(:'gone') \gset
SELECT apply();
SELECT count(*) FROM cdp.decisions WHERE message_id = :'gone';
SELECT alter_identifier_kind('email', blocked => ARRAY['gone@example.com']);
SELECT apply();
SELECT count(*) FROM cdp.decisions WHERE message_id = :'gone';
SELECT * FROM verify();
