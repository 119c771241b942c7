-- Lists for advertising platforms, with the platforms' own vectors; and what
-- subscriptions add to changes: identifiers, traits, the shape of Segment's.
SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE EXTENSION cdp;
SET timezone = 'UTC';
SET cdp.now = '2026-05-04 09:00+00';

SELECT cdp.create_trait('orders', aggregate => 'count', event => 'Ordered', options => '{"announce": true}');
SELECT cdp.create_trait('plan', type => 'text');
SELECT cdp.create_segment('buyers', 'orders > 0');
SELECT cdp.identify('ann', '{"email": "  John_Smith@gmail.com ", "phone": "+1 (650) 555-1212", "plan": "pro"}');
SELECT cdp.identify('bob', '{"email": "B.O.B+news@GoogleMail.com"}', identifiers => '{ios.idfa:AEBE52E7-03EE-455A-B3C4-E57283966239}');
SELECT cdp.identify('eve', '{"email": "eve@Bücher.example"}');
SELECT cdp.track('Ordered', user_id => u) FROM unnest('{ann,bob,eve}'::text[]) u;
SELECT cdp.track('Ordered', anonymous_id => 'nobody');
SELECT cdp.apply();

SELECT * FROM cdp.audience('buyers', hash => 'none');
-- published: 62a14e44… for john_smith@gmail.com, e323ec62… for 16505551212
SELECT kind, value FROM cdp.audience('buyers', hash => 'meta') WHERE profile_id = cdp.resolve('user_id:ann');
SELECT kind, value = encode(sha256(v), 'hex') AS right FROM cdp.audience('buyers', hash => 'google'),
	LATERAL (SELECT CASE kind WHEN 'phone' THEN '+16505551212'::bytea ELSE 'johnsmith@gmail.com' END) x (v)
	WHERE profile_id = cdp.resolve('user_id:ann') AND kind = 'phone';
SELECT value = encode(sha256('bob+news@googlemail.com'), 'hex') AS right FROM cdp.audience('buyers', '{email}', 'google')
	WHERE profile_id = cdp.resolve('user_id:bob');
SELECT value = encode(sha256('b.o.b+news@googlemail.com'), 'hex') AS right FROM cdp.audience('buyers', '{email}')
	WHERE profile_id = cdp.resolve('user_id:bob');
SELECT kind, value FROM cdp.audience('buyers', '{ios.idfa,user_id}', 'google');
SELECT kind, value = encode(sha256('bob'), 'hex') AS hashed FROM cdp.audience('buyers', '{user_id}', 'meta') WHERE profile_id = cdp.resolve('user_id:bob');
-- two addresses that the platform takes for one
SELECT cdp.identify('ann', '{}', identifiers => '{email:johnsmith@gmail.com,email:john.smith@gmail.com}');
SELECT cdp.apply();
SELECT count(*) FILTER (WHERE hash = 'google') AS google, count(*) FILTER (WHERE hash = 'meta') AS meta
	FROM unnest('{google,meta}'::text[]) hash, cdp.audience('buyers', '{email}', hash) a WHERE a.profile_id = cdp.resolve('user_id:ann');
SELECT * FROM cdp.audience('byers');
SELECT * FROM cdp.audience('buyers', '{emial}');
SELECT * FROM cdp.audience('buyers', '{}');
SELECT * FROM cdp.audience('buyers', hash => 'md5');

-- a snapshot, then what changes: identifiers and traits as they are when polled
SELECT cdp.subscribe('mail', '{"segment": "buyers"}', 'snapshot', '{"identifiers": ["email", "user_id"], "traits": ["plan", "orders"]}');
SELECT seq, profile_id, payload FROM cdp.poll('mail');
SELECT cdp.track('Ordered', user_id => 'zoe');
SELECT cdp.apply();
SELECT seq > 0 AS change, profile_id, payload FROM cdp.poll('mail') WHERE cause <> 'snapshot';
SELECT cdp.alter_subscription('mail', include => '{"identifiers": true, "traits": true}');
SELECT payload FROM cdp.poll('mail') WHERE seq = -1 OR cause <> 'snapshot';

-- what Segment sends
SELECT cdp.subscribe('track', start => 'snapshot', format => 'segment_track');
SELECT cdp.subscribe('identify', start => 'now', include => '{"identifiers": ["email"]}', format => 'segment_identify');
SELECT cdp.alter_segment('buyers', 'orders > 1');
SELECT cdp.track('Ordered', user_id => 'ann');
SELECT cdp.track('Ordered', anonymous_id => 'new');
SELECT cdp.apply();
SELECT jsonb_pretty(payload) FROM cdp.poll('track') WHERE seq IN (-4, -1);
SELECT kind, payload - 'context' AS payload FROM cdp.poll('track') WHERE seq > 0;
SELECT kind, payload FROM cdp.poll('identify');

-- values before and after
SELECT cdp.subscribe('values', '{"trait": "orders"}', 'beginning');
SELECT profile_id, cause, payload FROM cdp.poll('values') ORDER BY seq;

-- how far they are
SELECT cdp.ack('values', seq) FROM (SELECT max(seq) AS seq FROM cdp.poll('values')) x;
SELECT subscription, state, behind, oldest_at, lag, in_flight, waiting, dead, slowest, alarm FROM cdp.subscription_lag ORDER BY 1;
SET cdp.now = '2026-05-04 11:00+00';
SELECT subscription, lag, alarm FROM cdp.subscription_lag ORDER BY 1;
SELECT cdp.pause('mail');
SELECT count(*) FROM cdp.poll('track', 1);
SELECT subscription, state, alarm FROM cdp.subscription_lag ORDER BY 1;
SET cdp.now = '2026-05-05 11:00:01+00';
SELECT alarm FROM cdp.subscription_lag WHERE subscription = 'mail';

-- changes of accounts carry what is known of the account; for Segment they are group calls, and events with a groupId
SELECT cdp.create_trait('tier', entity => 'account', type => 'text');
SELECT cdp.create_trait('ordered', entity => 'account', aggregate => 'count', event => 'Ordered');
SELECT cdp.create_segment('active_accounts', 'ordered > 0', entity => 'account');
SELECT cdp.subscribe('accounts', '{"entity": "account"}', include => '{"identifiers": true, "traits": ["tier", "ordered"]}');
SELECT cdp.rewind('track', 'now');
SELECT cdp.group('acme', '{"tier": "gold"}', user_id => 'new1');
SELECT cdp.track('Ordered', user_id => 'new1');
SELECT cdp.apply();
SELECT kind, entity, segment, payload FROM cdp.poll('accounts');
SELECT DISTINCT entity FROM cdp.poll('track');
SELECT cdp.subscribe('calls', '{"entity": "account", "kind": "segment_entered"}', 'beginning', format => 'segment_identify', mode => 'mirror');
SELECT cdp.subscribe('events', '{"entity": "account"}', 'snapshot', format => 'segment_track');
SELECT payload FROM cdp.poll('calls');
SELECT payload FROM cdp.poll('events');
BEGIN;
DELETE FROM cdp.account_identities;
SELECT payload FROM cdp.poll('calls');
ROLLBACK;
SELECT cdp.subscribe('later', '{"segment": "active_accounts"}', 'snapshot', '{"identifiers": ["group_id"]}');
SELECT seq, entity, payload FROM cdp.poll('later');
SELECT * FROM cdp.audience('active_accounts');

-- who is in another segment only is not in the audience
SELECT cdp.create_segment('everybody', 'orders >= 0');
SELECT cdp.track('Seen', user_id => 'joe') IS NOT NULL;
SELECT cdp.apply();
SELECT segment, count(*) FILTER (WHERE value = 'joe') AS joe, count(*) FILTER (WHERE value = 'ann') AS ann
FROM unnest('{buyers,everybody}'::text[]) segment, cdp.audience(segment, '{user_id}', 'none') GROUP BY 1 ORDER BY 1;
