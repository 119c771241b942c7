-- Undo of any entry, detach, retract: exactly as if it had never been.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;
SET cdp.now = '2026-02-01';
SET timezone = 'UTC';
CREATE VIEW people AS
	SELECT string_agg(identifier::text, ' ' ORDER BY identifier) AS identifiers,
		min(first_seen)::date AS first, max(last_seen)::date AS last
	FROM identities GROUP BY profile_id;
CREATE VIEW lapsed AS
	SELECT a.identifier AS a, b.identifier AS b, l.origin, l.status, l.reason
	FROM links l JOIN identities a ON a.node_id = l.a JOIN identities b ON b.node_id = l.b
	WHERE l.status <> 'accepted';
SELECT create_trait('orders', aggregate => 'count', event => 'Order');
SELECT create_trait('first_product', aggregate => 'first', value => $$properties->>'product'$$, event => 'Order');
SELECT create_segment('buyers', 'orders >= 2');

-- an event that joined two people and made one of them a buyer
SELECT track('Order', '{"product": "p1"}', anonymous_id => 'a', message_id => 'm1', occurred_at => '2026-01-01');
SELECT track('Order', '{"product": "p2"}', user_id => 'u', anonymous_id => 'a', message_id => 'm2', occurred_at => '2026-01-02');
SELECT identify('u', '{"plan": "pro"}', message_id => 'm3', occurred_at => '2026-01-03');
SELECT apply();
TABLE people;
SELECT segment, identifier FROM memberships m JOIN identities i ON i.node_id = m.profile_id;
SELECT undo('m2') AS undo_m2 \gset
SELECT apply();
TABLE people ORDER BY 1;
SELECT profile('user_id:u')->'traits' AS u, profile('anonymous_id:a')->'traits' AS a;
SELECT count(*) FROM memberships;
SELECT * FROM verify();
-- what comes later does not bring it back
SELECT track('Order', '{"product": "p3"}', user_id => 'u', message_id => 'm4', occurred_at => '2026-01-01');
SELECT track('Order', '{"product": "p4"}', user_id => 'u', anonymous_id => 'b', message_id => 'm5', occurred_at => '2026-01-05');
SELECT apply();
SELECT profile('user_id:u')->'traits' AS u, profile('anonymous_id:a')->'traits' AS a;
SELECT * FROM verify();
-- the undo is undone
SELECT undo(:'undo_m2') AS undo_undo \gset
SELECT apply();
TABLE people ORDER BY 1;
SELECT profile('user_id:u')->'traits' AS u;
SELECT * FROM verify();
SELECT undo(:'undo_undo') IS NOT NULL AS again;
SELECT apply();
TABLE people ORDER BY 1;
SELECT * FROM verify();
-- an entry of a profile of its own leaves nothing
SELECT identify('gone', '{"plan": "x"}', message_id => 'm6');
SELECT apply();
SELECT undo('m6') IS NOT NULL AS undone;
SELECT apply();
SELECT resolve('user_id:gone');
SELECT * FROM verify();

-- the target is the message, whichever copy counts, and whether it is here
INSERT INTO events (source, message_id, event, identifiers, occurred_at) VALUES
	('web', 'c1', 'Order', '{user_id:c,anonymous_id:c2}', '2026-01-10');
SELECT retract('c1', 'web') IS NOT NULL AS retracted;
SELECT retract('c2', 'web', 'sent by mistake') IS NOT NULL AS retracted;
SELECT apply();
SELECT resolve('user_id:c');
INSERT INTO events (source, message_id, event, identifiers, occurred_at) VALUES
	('web', 'c1', 'Order', '{user_id:c,anonymous_id:c1}', '2026-01-09'),
	('web', 'c2', 'Order', '{user_id:c,anonymous_id:c2}', '2026-01-09'),
	('app', 'c2', 'Order', '{user_id:d}', '2026-01-09'),
	('web', 'c3', 'Order', '{user_id:e}', '2026-01-09');
SELECT apply();
SELECT resolve('user_id:c') AS c, resolve('user_id:d') IS NOT NULL AS d;
SELECT * FROM verify();
-- later than the retraction: it counts
INSERT INTO events (source, message_id, type, properties, occurred_at) VALUES
	('web', 'c4', 'undo', '{"entry": "c3"}', '2026-01-08');
SELECT apply();
SELECT resolve('user_id:e') IS NOT NULL AS e;
-- a copy of the undo that is earlier replaces it
INSERT INTO events (source, message_id, type, properties, occurred_at) VALUES
	('web', 'c5', 'undo', '{"entry": "c3"}', '2026-01-11');
SELECT apply();
SELECT resolve('user_id:e') IS NOT NULL AS e;
INSERT INTO events (source, message_id, type, properties, occurred_at) VALUES
	('web', 'c5', 'undo', '{"entry": "nothing"}', '2026-01-10');
SELECT apply();
SELECT resolve('user_id:e') IS NOT NULL AS e;
SELECT * FROM verify();

-- merges and splits: nothing is left of the identifiers that only they named
SELECT merge('user_id:d', 'email:only@example.com') AS merged \gset
SELECT apply();
SELECT resolve('email:only@example.com') IS NOT NULL AS there;
SELECT undo(:'merged') AS undone \gset
SELECT apply();
SELECT resolve('email:only@example.com') IS NOT NULL AS there;
SELECT type, a IS NULL AS nodeless, effective FROM decisions WHERE message_id IN (:'merged', :'undone') ORDER BY entry;
SELECT * FROM verify();
SELECT undo(:'undone') IS NOT NULL AS again;
SELECT apply();
SELECT 'email:only@example.com' ~= 'user_id:d' AS same;
SELECT * FROM verify();
-- a merge whose undo came first
INSERT INTO events (source, message_id, type, properties, occurred_at) VALUES
	('manual', 'x2', 'undo', '{"entry": "x1"}', '2026-01-12');
SELECT apply();
INSERT INTO events (source, message_id, type, identifiers, occurred_at) VALUES
	('manual', 'x1', 'merge', '{user_id:d,anonymous_id:b}', '2026-01-11');
SELECT apply();
SELECT 'anonymous_id:b' ~= 'user_id:d' AS same;
SELECT * FROM verify();

-- detach: what has been seen so far does not join it with others
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('d1', 'Order', '{user_id:f,anonymous_id:tv,email:f@example.com}', '2026-01-10'),
	('d2', 'Order', '{anonymous_id:tv,email:g@example.com}', '2026-01-11'),
	('d3', 'Order', '{user_id:f,anonymous_id:tv}', '2026-01-12');
SELECT apply();
SELECT identifiers FROM people WHERE identifiers ~ ':tv';
SELECT detach('anonymous_id:tv', 'sold') AS detached \gset
SELECT apply();
SELECT identifiers FROM people WHERE identifiers ~ ':(tv|f|g)' ORDER BY 1;
TABLE lapsed ORDER BY 1, 2;
SELECT * FROM verify();
-- late evidence that is earlier changes nothing, later evidence counts
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('d4', 'Order', '{user_id:f,anonymous_id:tv}', '2026-01-09'),
	('d5', 'Order', '{user_id:h,anonymous_id:tv}', '2026-01-09');
SELECT apply();
SELECT identifiers FROM people WHERE identifiers ~ ':(tv|f|g|h)' ORDER BY 1;
SELECT * FROM verify();
SET cdp.now = '2026-02-02';
SELECT track('Order', anonymous_id => 'tv', identifiers => '{email:g@example.com}', message_id => 'd6');
SELECT apply();
SELECT identifiers FROM people WHERE identifiers ~ ':(tv|f|g|h)' ORDER BY 1;
SELECT * FROM verify();
-- merges as well, and the undo of what makes the difference
SELECT merge('anonymous_id:tv', 'user_id:h') AS merged \gset
SELECT apply();
SET cdp.now = '2026-02-03';
SELECT detach('anonymous_id:tv') AS detached_again \gset
SELECT apply();
SELECT identifiers FROM people WHERE identifiers ~ ':(tv|f|g|h)' ORDER BY 1;
TABLE lapsed ORDER BY 1, 2, 3;
SELECT * FROM verify();
SELECT undo(:'detached_again') IS NOT NULL AS undone;
SELECT apply();
SELECT identifiers FROM people WHERE identifiers ~ ':(tv|f|g|h)' ORDER BY 1;
SELECT undo(:'detached') IS NOT NULL AS undone;
SELECT undo('d4') IS NOT NULL AS undone;
SELECT apply();
SELECT identifiers FROM people WHERE identifiers ~ ':(tv|f|g|h)' ORDER BY 1;
SELECT * FROM verify();

-- what was refused already, and evidence that comes with the detach and is later
INSERT INTO events (message_id, source, type, event, identifiers, occurred_at) VALUES
	('p1', 'sql', 'track', 'Order', '{user_id:p,user_id:q}', '2026-01-20');
SELECT apply();
INSERT INTO events (message_id, source, type, event, identifiers, occurred_at) VALUES
	('p2', 'manual', 'detach', NULL, '{user_id:q}', '2026-01-21'),
	('p3', 'sql', 'track', 'Order', '{user_id:p,user_id:q}', '2026-01-22');
SELECT apply();
SELECT l.at, l.status, l.reason FROM links l JOIN identities i ON i.node_id = l.a WHERE i.identifier = 'user_id:p';
SELECT * FROM verify();

-- a label that is merged by hand is not the stronger of the two, whatever its kind
INSERT INTO events (message_id, source, type, identifiers, occurred_at) VALUES
	('k1', 'manual', 'merge', '{anonymous_id:k,email:info@example.com}', '2026-01-20'),
	('k2', 'manual', 'split', '{anonymous_id:k,email:info@example.com}', '2026-01-10');
SELECT apply();
SELECT undo('k2') IS NOT NULL AS undone;
SELECT apply();
SELECT 'anonymous_id:k' ~= 'email:info@example.com' AS same;
SELECT * FROM verify();

-- what cannot be
SELECT undo('nothing');
SELECT undo('c3');
SELECT undo('c3', 'app');
SELECT undo(NULL);
SELECT undo('');
SELECT retract(NULL);
SELECT detach('anonymous_id:null');
SELECT detach('shoe_size:43');
SELECT detach(NULL);
INSERT INTO events (source, message_id, type, identifiers) VALUES
	('manual', 'r1', 'detach', '{}'), ('manual', 'r2', 'detach', '{user_id:a,user_id:b}'),
	('manual', 'r3', 'detach', '{shoe_size:43}'), ('manual', 'r4', 'detach', '{user_id:null}');
SELECT apply();
SELECT message_id, reason, detail FROM rejected WHERE message_id ~ '^r' ORDER BY 1;
SELECT * FROM verify();

-- the same in one batch, and after a replay
CREATE TEMP TABLE before AS TABLE people;
SELECT alter_identifier_kind('cookie', priority => 31);
(TABLE people EXCEPT TABLE before) UNION ALL (TABLE before EXCEPT TABLE people);
SELECT * FROM verify();

-- a decision is about two identifiers, however they are written
SELECT merge('email:Self@x.com', 'email:self@X.com');
SELECT 'user_id:self' </> 'user_id:self';
