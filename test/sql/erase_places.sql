-- Wherever values of somebody may have come to stand outside of the log, an
-- erasure takes them from there: errors that quote them, what is queued, held or
-- put aside, what others have of the person, and rows that go by number.
\set VERBOSITY terse
SET client_min_messages = error;
CREATE EXTENSION cdp;
SET search_path = cdp, public;
SET TimeZone = 'UTC';
SET cdp.now = '2026-03-01';
CREATE FUNCTION places() RETURNS TABLE (place text) LANGUAGE sql AS $$
	SELECT DISTINCT c.relname || regexp_replace(s.place, '^row, column ', '.')
	FROM pg_class c CROSS JOIN LATERAL erasure_scan(c.oid, '{ada@example.com,lovelace-17}') s
	WHERE c.relnamespace = 'cdp'::regnamespace AND c.relkind = 'r' AND s.place ~ '^row' ORDER BY 1
$$;
SELECT create_trait('seen', aggregate => 'count', event => 'Seen', options => '{"announce": true}');
SELECT create_trait('friend', type => 'text', options => '{"announce": true}');
SELECT create_trait('guests', aggregate => 'list', value => $$properties->>'guest'$$, event => 'Party');
SELECT create_trait('price', aggregate => 'sum', value => $$(properties->>'price')::numeric$$, event => 'Bought');
SELECT create_segment('befriended', 'friend IS NOT NULL'), create_segment('numbered', 'friend::int > 1 AND seen > 0');
SELECT create_identifier_kind('crm', max_per_profile => 1, policy => 'quarantine');
SELECT tracking_plan('Paid', '{"required": ["sum"], "additionalProperties": false}', 'quarantine');
SELECT subscribe('mail', mode => 'mirror'), subscribe('queue', visibility => '1 minute'), subscribe('turn', visibility => '1 minute');
SET cdp.now = '2026-03-01 01:00';
-- her device and her account are two profiles first
SELECT length(track('Seen', anonymous_id => 'd1')) > 0, length(identify('lovelace-17', '{"email": "ada@example.com", "friend": "bob"}')) > 0;
SELECT apply();
SELECT length(track('Seen', user_id => 'lovelace-17', anonymous_id => 'd1')) > 0;
SELECT apply();
-- values that the log has of hers and of Bob's
SELECT length(identify('bob', '{"friend": "ada@example.com"}')) > 0, length(track('Party', '{"guest": "ada@example.com"}', user_id => 'bob')) > 0,
	length(track('Seen', user_id => 'bob')) > 0, length(track('Bought', '{"price": "for ada@example.com"}', user_id => 'bob')) > 0,
	length(track('Paid', '{"to ada@example.com": 1}', user_id => 'bob')) > 0,
	length(track('Seen', '{"crm": 1}', user_id => 'lovelace-17', identifiers => '{crm:1}')) > 0, length(track('Seen', '{"crm": 2}', user_id => 'lovelace-17', identifiers => '{crm:2}', message_id => 'held')) > 0;
INSERT INTO events (type, identifiers, message_id, properties) VALUES ('what', '{user_id:bob}', 'from ada@example.com', '{}');
SELECT apply();
SELECT release('held') IS NOT NULL AS released;
SELECT apply();
CREATE TEMP TABLE first AS SELECT seq, payload FROM poll('queue', 100);
SELECT nack('queue', min(seq), 'no such person: ada@example.com') AS put_back FROM first;
SELECT nack('queue', array_agg(seq), 'not today') > 0 AS put_back FROM first WHERE payload::text ~ 'ada@example.com';
SELECT ack('queue', array_agg(seq)) FROM first WHERE seq NOT IN (SELECT q.seq FROM subscription_queue q);
-- what no error that can be had at will would say
UPDATE applier SET last_error = 'what about ada@example.com';
INSERT INTO isolated (entry, xid, sqlstate, detail) VALUES (0, 0, '22023', 'it was ada@example.com');
INSERT INTO attachment_definitions (id, name, relation, source, mapping, capture, attached_by, relation_owner, last_error)
	VALUES (7, 't', 'public.t', 't', '{}', 'compare', current_user, current_user, 'no row for ada@example.com');
UPDATE segment_errors SET last_error = 'what is ada@example.com', last_profile = resolve('user_id:lovelace-17');
INSERT INTO trait_errors (trait_id, errors, nulls, last_error, last_at, missed) SELECT id, 1, 0, 'what is ada@example.com', cdp.clock(), false FROM trait_definitions WHERE name = 'guests';
INSERT INTO deliveries (subscription, epoch, seq, visible_at, acked, tries, error)
	SELECT 'mail', epoch, min(seq), '2026-03-02', false, 1, 'not ada@example.com' FROM changes GROUP BY epoch ON CONFLICT (subscription, epoch, seq) DO UPDATE SET error = excluded.error;
SELECT place FROM places();
SELECT (SELECT count(*) FROM merged_profiles) AS merged, (SELECT count(owner) FROM releases) AS released, (SELECT count(last_profile) FROM segment_errors) AS failed;

SELECT erase('user_id:lovelace-17') IS NOT NULL AS logged;
SELECT apply();
DELETE FROM attachment_definitions WHERE last_error = '(erased)';
SELECT place FROM places();
SELECT (SELECT count(*) FROM merged_profiles) AS merged, (SELECT count(owner) FROM releases) AS released, (SELECT count(last_profile) FROM segment_errors) AS failed,
	(SELECT count(*) FROM segment_members m WHERE NOT EXISTS (SELECT FROM identities i WHERE i.node_id = m.profile_id)) AS members;
-- but what says so, until everybody has heard of it; message ids of others are theirs
DELETE FROM deliveries WHERE error = '(erased)';
SELECT ack('mail', max(seq)) FROM changes;
SELECT waiting, scrubbed_at FROM erasures;
SELECT place FROM places();
SELECT ack('turn', array_agg(seq)) FROM poll('turn', 100) WHERE kind = 'erased';
SELECT (SELECT acked_seq FROM subscriptions WHERE name = 'turn') < seq AS behind, waiting FROM erasures;
-- put back is not acknowledged, out of turn is
SET cdp.now = '2026-03-02';
CREATE TEMP TABLE got AS SELECT seq, kind FROM poll('queue', 100);
SELECT nack('queue', seq, 'later') AS put_back FROM got WHERE kind = 'erased';
SELECT ack('queue', array_agg(seq)) FROM got WHERE kind <> 'erased';
SELECT waiting, scrubbed_at IS NOT NULL AS scrubbed FROM erasures;
SELECT identify('carl', '{"friend": "dora"}') IS NOT NULL AS logged;
SELECT apply();
SET cdp.now = '2026-03-03';
CREATE TEMP TABLE again AS SELECT seq, kind FROM poll('queue', 100);
SELECT kind FROM again ORDER BY seq;
SELECT ack('queue', array_agg(seq)) FROM again WHERE kind = 'erased';
SELECT waiting, scrubbed_at IS NOT NULL AS scrubbed FROM erasures;
SELECT place FROM places();
DELETE FROM isolated;
SELECT station, key FROM verify();

-- entries that cannot be applied go, too, in whatever form they name her, and are refused when they come again
CREATE PROCEDURE malformed() LANGUAGE sql AS $$
	INSERT INTO events (type, event, identifiers, properties) VALUES ('track', 'x', '{{user_id:mia-mueller,user_id:bob},{user_id:carl,user_id:dora}}', '{}'), ('track', 'x', '{{user_id:mia-mueller}}', NULL),
		('track', 'x', '[2:4]={user_id:bob,NULL,email:Mia@Example.com}', '{}'), ('nonsense', NULL, '{user_id:mia-mueller}', '{}'), (NULL, NULL, '{user_id:bob,user_id:mia-mueller}', '{}'),
		('track', NULL, '{user_id:mia-mueller,group_id:acme}', '{}'), ('track', 'Paid', '{user_id:mia-mueller}', '{}'), ('track', 'x', '{{user_id:bob}}', '{}')
$$;
SELECT identify('mia-mueller', '{"email": "mia@example.com"}') IS NOT NULL AS logged;
CALL malformed();
SELECT apply();
SELECT reason, held FROM rejected WHERE entry IS NOT NULL ORDER BY entry DESC LIMIT 7;
SELECT erase('user_id:mia-mueller') IS NOT NULL AS logged;
SELECT apply();
SELECT type, event, identifiers FROM events WHERE identifiers::text ~* 'mia|bob' AND id > (SELECT max(id) - 20 FROM events) AND event = 'x' ORDER BY id;
SELECT count(*) AS rejected FROM rejected WHERE entry IS NOT NULL;
SELECT station, key FROM verify();
CALL malformed();
SELECT apply();
SELECT count(*) AS rejected FROM rejected WHERE entry IS NOT NULL;
SELECT sum(refused) AS refused FROM tombstones;
SELECT count(*) AS named FROM pg_class c CROSS JOIN LATERAL erasure_scan(c.oid, '{mia@example.com,mia-mueller}') s
WHERE c.relnamespace = 'cdp'::regnamespace AND c.relkind = 'r' AND s.place ~ '^row' AND c.relname <> 'changes_default';
SELECT station, key FROM verify();

-- what is personal is for the owner to say
INSERT INTO personal_keys VALUES ('City', false), ('shoe size', true);
SELECT track('Sized', '{"city": "Rome", "shoeSize": 42, "name": "O", "n": 1}', user_id => 'olga-ostrova') IS NOT NULL AS logged;
SELECT apply();
SELECT erase('user_id:olga-ostrova', 'anonymise') IS NOT NULL AS logged;
SELECT apply();
SELECT properties FROM events WHERE event = 'Sized';

-- devices that others have, too, are theirs: they stay in their entries, without tombstones
SELECT count(track('Seen', user_id => u, identifiers => '{anonymous_id:a-device,cookie:a-device,cross_domain_id:a-device,device_id:a-device,ga_client_id:a-device,android.id:a-device,ios.id:a-device}')) AS logged
FROM unnest('{pia-pohl,quinn}'::text[]) u;
SELECT apply();
SELECT erase('user_id:pia-pohl') IS NOT NULL AS logged;
SELECT apply();
SELECT cardinality(hashes) AS hers, cardinality(shared) AS theirs FROM erasures ORDER BY id DESC LIMIT 1;
SELECT identifiers FROM events WHERE 'user_id:quinn' = ANY (identifiers);
SELECT station, key FROM verify();
