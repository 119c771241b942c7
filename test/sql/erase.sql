-- Erasing a person: what goes, what stays, who is told, what is refused.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;
SET TimeZone = 'UTC';
SET cdp.now = '2026-03-01';
SELECT create_trait('orders', aggregate => 'count', event => 'Order');
SELECT create_trait('plan', type => 'text', options => '{"announce": true}');
SELECT create_trait('account_orders', aggregate => 'sum', value => $$(properties->>'n')::numeric$$, event => 'Order', entity => 'account');
SELECT create_segment('buyers', 'orders >= 1');
SELECT subscribe('crm', mode => 'mirror');
SELECT subscribe('mail', '{"segment": "buyers"}', start => 'snapshot', visibility => '1 minute');

-- Paula and Quentin share a device; Rita once gave Paula's address
CREATE FUNCTION log(message text, type text, event text, identifiers text[], properties jsonb DEFAULT '{}', context jsonb DEFAULT NULL) RETURNS void
LANGUAGE sql AS $$
	INSERT INTO cdp.events (source, message_id, type, event, identifiers, properties, context, occurred_at)
	VALUES ('web', message, type, event, identifiers::cdp.identifier[], properties, context, '2026-02-01')
$$;
SELECT log('p1', 'track', 'Order', '{user_id:paula,anonymous_id:tablet}', '{"n": 1}'),
	log('p2', 'identify', NULL, '{user_id:paula,email:p@example.com}', '{"plan": "pro", "email": "P@example.com"}'),
	log('p3', 'track', 'Order', '{anonymous_id:tablet}', '{"n": 2}'),
	log('p4', 'group', NULL, '{user_id:paula,group_id:acme}'),
	log('p5', 'track', 'Order', '{user_id:paula}', '{"n": 4}'),
	log('p6', 'unknown', NULL, '{user_id:paula}'),
	log('q1', 'track', 'Order', '{user_id:quentin,anonymous_id:tablet}', '{"n": 8}'),
	log('q2', 'track', 'Invite', '{user_id:quentin}', '{"friend": "P@Example.com", "note": "ask p@example.com.", "user_id": "paula", "n": 3, "list": [1, "p@example.com"]}'),
	log('q3', 'group', NULL, '{user_id:quentin,group_id:acme}'),
	log('r1', 'track', 'Order', '{user_id:rita,email:p@example.com}', '{"n": 16}', '{"externalIds": [{"type": "user_id", "id": "paula"}]}'),
	log('r1', 'track', 'Order', '{user_id:rita,user_id:paula}', '{"n": 17}');
SELECT merge('user_id:rita', 'anonymous_id:phone') IS NOT NULL AS logged;
SELECT merge('user_id:paula', 'anonymous_id:watch', 'it is hers') IS NOT NULL AS logged;
SELECT apply();
SELECT identifier, profile_id FROM identities ORDER BY node_id;
SELECT account('group_id:acme') -> 'traits';
SELECT seq, kind, segment FROM poll('mail');
SELECT nack('mail', 2, 'no such person: p@example.com', '0 s');

-- the request
SELECT erase('nonesuch:1');
SELECT erase('email:none');
SELECT erase('group_id:acme');
SELECT erase('email:p@example.com', 'forget');
SELECT erase('email:P@EXAMPLE.com', reason => 'asked by letter') IS NOT NULL AS logged;
SELECT apply();
SELECT mode, reason, requested_by = session_user AS mine, state, removed, cardinality(hashes) AS identifiers, cardinality(shared) AS shared, waiting FROM erasures;

-- what is left
SELECT message_id, type, identifiers, properties, context FROM events ORDER BY id;
SELECT i.identifier, j.identifier AS profile FROM identities i JOIN identities j ON j.node_id = i.profile_id ORDER BY i.node_id;
SELECT account('group_id:acme') -> 'traits';
SELECT (SELECT count(*) FROM rejected) AS rejected, (SELECT count(*) FROM former_identities) AS former,
	(SELECT count(*) FROM erasure_identifiers) AS at_work, (SELECT count(*) FROM erasure_entries) AS to_delete,
	(SELECT count(*) FROM decisions) AS decisions, (SELECT count(*) FROM segment_members WHERE profile_id = 1) AS memberships;
SELECT * FROM verify();

-- who is told; what was to be delivered says nothing of her any more
SELECT kind, profile_id, segment, payload, cause FROM changes WHERE profile_id = 1 OR cause = 'erasure' ORDER BY seq;
SELECT kind, cause, payload FROM poll('mail') WHERE kind = 'erased';
SELECT seq, payload, error FROM subscription_queue ORDER BY seq;
SET cdp.now = '2026-03-02';
SELECT ack('mail', (SELECT array_agg(seq) FROM poll('mail')));
SELECT waiting, scrubbed_at FROM erasures;
SELECT payload ? 'identifiers' AS told FROM changes WHERE kind = 'erased';
SELECT ack('crm', max(seq)) FROM changes;
SELECT waiting, scrubbed_at FROM erasures;
SELECT payload FROM changes WHERE kind = 'erased';

-- what comes again is deleted and counted; the device is Quentin's
SELECT log('p1', 'track', 'Order', '{user_id:paula,anonymous_id:tablet}', '{"n": 1}'),
	log('p7', 'track', 'Order', '{anonymous_id:watch}', '{"n": 1}'),
	log('q4', 'track', 'Order', '{anonymous_id:tablet}', '{"n": 1}');
SELECT merge('user_id:quentin', 'user_id:paula') IS NOT NULL AS logged;
SELECT apply();
SELECT sum(refused) AS refused, count(*) AS tombstones FROM tombstones;
SELECT message_id, identifiers FROM events WHERE message_id IN ('p1', 'p7', 'q4') OR type = 'merge' ORDER BY id;
SELECT profile('user_id:quentin') -> 'traits' AS quentin, resolve('user_id:paula') AS paula;
SELECT * FROM verify();
-- the proof: all identifiers that were erased must be given
SELECT erasure_proof(9, '{user_id:paula}');
SELECT erasure_proof(1, '{user_id:paula}');
SELECT erasure_proof(1, '{user_id:paula,user_id:rita}');
VACUUM;
SELECT erasure_clean() > 0 AS cleaned;
SELECT DISTINCT relation, remedy FROM erasure_proof(1, '{user_id:paula,email:P@example.com,anonymous_id:watch,anonymous_id:tablet}') ORDER BY 1;

SELECT forget_tombstone('email:p@example.com'), forget_tombstone('email:p@example.com'), forget_tombstone('user_id:paula');
SELECT log('p8', 'track', 'Order', '{user_id:paula}', '{"n": 1}');
SELECT apply();
SELECT profile('user_id:paula') -> 'traits' AS paula;

-- erased twice, and who was never there
SELECT erase('user_id:paula') IS NOT NULL AND erase('user_id:paula') IS NOT NULL AND erase('user_id:nobody') IS NOT NULL AS logged;
SELECT apply();
SELECT id, state, profile_id IS NOT NULL AS known, removed, seq IS NOT NULL AS told FROM erasures WHERE id > 1 ORDER BY id;
SELECT * FROM verify();

-- anonymous: the events stay, under one random name
SELECT log('s1', 'track', 'Order', '{user_id:sue,anonymous_id:s}', '{"n": 1, "first_name": "Sue", "email": "sue@example.com", "Shoe": 39}', '{"ip": "192.0.2.1"}'),
	log('s2', 'group', NULL, '{user_id:sue,group_id:acme}'),
	log('s3', 'identify', NULL, '{user_id:sue,email:sue@example.com}', '{"plan": "free"}'),
	log('s4', 'track', 'Order', '{email:sue@example.com}', '{"n": 2, "shoe": 40, "by": "sue@example.com"}');
SELECT apply();
SELECT account('group_id:acme') -> 'traits' AS traits, account('group_id:acme') -> 'members' AS members;
INSERT INTO personal_keys VALUES ('shoe');
SELECT erase('email:sue@example.com', 'anonymise') IS NOT NULL AS logged;
SELECT apply();
SELECT count(*), count(DISTINCT identifiers[1]), count(DISTINCT profile_id) FROM events e JOIN identities i ON i.identifier = e.identifiers[1] WHERE message_id LIKE 's_';
SELECT message_id, type, kind(identifiers[1]), identifiers[2:], properties, context FROM events WHERE message_id LIKE 's_' ORDER BY id;
SELECT account('group_id:acme') -> 'traits' AS traits, account('group_id:acme') -> 'members' AS members;
SELECT resolve('user_id:sue'), anonymous, state, removed FROM erasures ORDER BY id DESC LIMIT 1;
SELECT * FROM verify();

-- neither in the event's name nor in the message's, nor in copies that did not
-- count; somebody else's copy that counts now stays as it is
SELECT log('u1', 'track', 'Asked una@example.com', '{user_id:una,email:una@example.com}'),
	log('u2', 'track', 'Order', '{user_id:una}', '{"first_name": "Una"}'),
	log('u2', 'track', 'Order', '{user_id:una}', '{"first_name": "Una", "n": 1}'),
	log('u3', 'track', 'Order', '{user_id:una}', '{"first_name": "Una"}'),
	log('u3', 'track', 'Order', '{user_id:vic}', '{"first_name": "Vic"}'),
	log('u4 una@example.com', 'track', 'Order', '{user_id:una}', '{"n": 1}');
SELECT apply();
SELECT erase('user_id:una', 'anonymise') IS NOT NULL AS logged;
SELECT apply();
SELECT message_id, event, kind(identifiers[1]), properties FROM events WHERE message_id LIKE 'u_%' AND type = 'track' AND source = 'web' ORDER BY id;
SELECT * FROM verify();

-- the search of the log begins anew when its rows have other places
SELECT log('w2', 'track', 'Invite', '{user_id:yan}', '{"by": "xena@example.com"}');
SELECT apply();
INSERT INTO erasures (mode, state, position, layout) VALUES ('erase', 'sweeping', 1000000, 'those of another database');
INSERT INTO erasure_identifiers SELECT max(id), 'email:xena@example.com' FROM erasures;
SELECT apply();
SELECT message_id, identifiers, properties FROM events WHERE message_id LIKE 'w_' ORDER BY id;
SELECT state, removed FROM erasures ORDER BY id DESC LIMIT 1;

-- suppressed: what is there stays, and nothing is added
SELECT log('t1', 'track', 'Order', '{user_id:tom,email:tom@example.com}', '{"n": 1}');
SELECT apply();
SELECT erase('user_id:tom', 'suppress') IS NOT NULL AS logged, log('t2', 'track', 'Order', '{user_id:tom}', '{"n": 1}');
SELECT apply();
SELECT log('t3', 'track', 'Order', '{email:tom@example.com}', '{"n": 1}');
SELECT apply();
SELECT profile('email:tom@example.com') -> 'traits' AS tom, (SELECT count(*) FROM events WHERE message_id LIKE 't_') AS entries;
SELECT * FROM verify();
SELECT action, detail FROM (SELECT action, detail - 'entry' - 'logged_at' AS detail, seq FROM audit WHERE action IN ('erase', 'forget tombstone')) a ORDER BY seq;
SELECT * FROM audit_verify();

-- who was part of another profile for a while: what was said of that one then was
-- said of both
SELECT alter_trait('orders', options => '{"announce": true}');
SELECT log('x1', 'track', 'Order', '{user_id:ines}', '{"n": 1}');
SELECT apply();
SELECT log('x2', 'track', 'Order', '{user_id:jo,email:jo@example.com}', '{"n": 1}'), log('x3', 'identify', NULL, '{user_id:jo}', '{"plan": "vip"}');
SELECT apply();
SELECT merge('user_id:ines', 'email:jo@example.com') IS NOT NULL AS logged;
SELECT apply();
SELECT log('x4', 'track', 'Order', '{user_id:jo}', '{"n": 1}');
SELECT apply();
SELECT split('user_id:ines', 'email:jo@example.com') IS NOT NULL AS logged;
SELECT apply();
SET cdp.now = '2026-03-03';
SELECT log('x5', 'track', 'Order', '{user_id:ines}', '{"n": 1}');
SELECT apply();
SELECT erase('user_id:jo') IS NOT NULL AS logged;
SELECT apply();
SELECT kind, payload - 'profile_id' - 'created_at' - 'merged' - 'parts' - 'into' - 'merges' AS payload, cause FROM changes
WHERE profile_id = resolve('user_id:ines') AND kind <> 'segment_entered' ORDER BY seq;
SELECT * FROM verify();

-- nor is an identifier kept that did not count, when entries stay
SELECT alter_identifier_kind('phone', max_per_profile => 1, policy => 'quarantine');
SELECT log('y1', 'track', 'Order', '{user_id:kim,phone:+49301234567}'), log('y2', 'track', 'Order', '{user_id:kim,phone:+49301234568}');
SELECT apply();
SELECT count(*) AS withheld FROM withheld_entries;
SELECT erase('user_id:kim', 'anonymise') IS NOT NULL AS logged;
SELECT apply();
SELECT identifier FROM former_identities WHERE kind(identifier) = 'phone';
SELECT * FROM verify();

-- of what her neighbour owns only those entries are read that may name her
SELECT log('m1', 'identify', NULL, '{user_id:nina,email:nina@example.com}');
SELECT count(log('m2-' || i, 'track', 'Seen', '{user_id:mona}')) AS logged FROM generate_series(1, 2000) i;
SELECT log('m3', 'track', 'Seen', '{user_id:mona,email:nina@example.com}');
SELECT apply();
SELECT identifier FROM identities WHERE profile_id = resolve('user_id:nina') ORDER BY identifier;
SELECT erase('user_id:nina') IS NOT NULL AS logged;
BEGIN;
SELECT pg_stat_get_xact_tuples_fetched('events_default_xid'::regclass) AS before \gset
SELECT apply();
SELECT pg_stat_get_xact_tuples_fetched('events_default_xid'::regclass) - :before < 100 AS few;
COMMIT;
SELECT message_id, identifiers FROM events WHERE message_id ~ '^m[13]';
SELECT * FROM verify();
