-- Entries that have been kept long enough go, as if they had never come: the
-- database is as one is that never had them.
\set QUIET on
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION cdp;
SET timezone = 'UTC';
SET cdp.now = '2025-12-28 12:00+00';

CREATE PROCEDURE define() LANGUAGE plpgsql AS $$
BEGIN
	PERFORM cdp.create_trait('plan', type => 'text'), cdp.create_trait('orders', aggregate => 'count', event => 'Bought'),
		cdp.create_trait('spent', aggregate => 'sum', value => $t$(properties->>'total')::numeric$t$, event => 'Bought'),
		cdp.create_trait('last_seen', aggregate => 'max', value => 'occurred_at'), cdp.create_trait('pages', aggregate => 'unique_list', value => 'event'),
		cdp.create_trait('recent', aggregate => 'count', within => '60 days'),
		cdp.create_trait('team_orders', aggregate => 'count', event => 'Bought', entity => 'account'),
		cdp.create_segment('buyers', 'orders > 0'), cdp.create_segment('seen', $t$did('Seen')$t$);
END $$;
CALL define();
-- a year of entries, some a month; some copies, some late, some that link
CREATE TABLE story (n int, type text, event text, at timestamptz, received timestamptz, identifiers text[], properties jsonb, message_id text);
INSERT INTO story
SELECT n, CASE WHEN n % 11 = 0 THEN 'identify' WHEN n % 17 = 0 THEN 'group' ELSE 'track' END, CASE WHEN n % 3 = 0 THEN 'Bought' ELSE 'Seen' END,
	t - (n % 5) * interval '20 days', t,
	CASE WHEN n % 17 = 0 THEN ARRAY['user_id:' || n % 7, 'group_id:g' || n % 2]
		WHEN n % 4 = 0 THEN ARRAY['user_id:' || n % 7, 'anonymous_id:a' || n % 13] ELSE ARRAY['anonymous_id:a' || n % 13] END,
	jsonb_build_object('total', n, 'plan', 'p' || n % 3), CASE WHEN n % 6 = 0 THEN 'm' || n % 90 END
FROM (SELECT n, '2025-01-01 00:00+00'::timestamptz + n * interval '1 day' AS t FROM generate_series(1, 360) n) x;
CREATE PROCEDURE tell(rest boolean) LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO cdp.events (message_id, type, event, identifiers, properties, occurred_at, received_at)
	SELECT s.message_id, s.type, s.event, s.identifiers::cdp.identifier[], s.properties, s.at, s.received FROM story s
	WHERE NOT rest OR s.received >= CASE WHEN s.type = 'track' AND s.event = 'Bought' THEN '2025-04-30 12:00+00'
		WHEN s.type = 'track' THEN '2025-10-29 12:00+00' ELSE '-infinity' END::timestamptz
	ORDER BY s.n;
END $$;
CREATE FUNCTION state() RETURNS TABLE (what text, who text, state jsonb) LANGUAGE plpgsql AS $f$
BEGIN
	RETURN QUERY
	SELECT 'profile' AS what, (SELECT min(j.identifier::text) FROM cdp.identities j WHERE j.profile_id = p.profile_id) AS who,
		jsonb_build_object('traits', p.traits, 'first', p.first_seen, 'last', p.last_seen,
			'identifiers', (SELECT jsonb_agg(j.identifier::text ORDER BY j.identifier) FROM cdp.identities j WHERE j.profile_id = p.profile_id),
			'segments', (SELECT jsonb_agg(m.segment ORDER BY m.segment) FROM cdp.memberships m WHERE m.profile_id = p.profile_id)) AS state
	FROM cdp.profiles p
	UNION ALL
	SELECT 'account', a.identifier::text, to_jsonb(a) - 'account_id' FROM cdp.accounts a
	UNION ALL
	SELECT 'entry', e.received_at::text, to_jsonb(e) - ARRAY['id', 'xid', 'incarnation'] FROM cdp.events e
	UNION ALL
	SELECT 'member', account::text, to_jsonb(m) - ARRAY['account_id', 'profile_id']
		|| jsonb_build_object('who', (SELECT min(j.identifier::text) FROM cdp.identities j WHERE j.profile_id = m.profile_id)) FROM cdp.account_members m;
END $f$;

CALL tell(false);
SELECT cdp.apply();
SELECT count(*) AS entries FROM cdp.events;
SELECT cdp.merge('user_id:1', 'email:kept@example.com') IS NOT NULL;
SELECT cdp.set_retention('60 days', type => 'track'), cdp.set_retention('8 months -1 day', 'Bought', 'track'), cdp.set_retention('10 years');
SELECT type, event, source, keep FROM cdp.retention_rules ORDER BY 1, 2;
SELECT count(*) AS still FROM cdp.events;
-- once there is nothing else to do; what was rolled back is done again; the decision stays
SELECT cdp.apply() >= 0;
BEGIN;
SELECT cdp.apply() >= 0;
SELECT count(*) < 300 AS gone FROM cdp.events;
ROLLBACK;
SELECT count(*) < 300 AS gone FROM cdp.events;
SELECT cdp.apply() >= 0;
SELECT cdp.apply() >= 0;
SELECT count(*) AS entries, min(received_at) FILTER (WHERE type = 'track' AND event = 'Seen') AS seen,
	min(received_at) FILTER (WHERE type = 'track' AND event = 'Bought') AS bought, min(received_at) AS others, count(*) FILTER (WHERE type = 'merge') AS merges FROM cdp.events;
SELECT * FROM cdp.verify();
CREATE TABLE found AS SELECT * FROM state();
SELECT what, count(*) FROM found GROUP BY 1 ORDER BY 1;

-- the same without the expired ones
DROP EXTENSION cdp CASCADE;
CREATE EXTENSION cdp;
CALL define();
CALL tell(true);
SELECT cdp.apply();
SELECT cdp.merge('user_id:1', 'email:kept@example.com') IS NOT NULL;
SELECT cdp.apply();
SELECT coalesce(f.what, e.what) AS what, coalesce(f.who, e.who) AS who, f.state AS found, e.state AS expected
FROM (SELECT *, row_number() OVER (PARTITION BY what, who, state) AS n FROM found) f
FULL JOIN (SELECT *, row_number() OVER (PARTITION BY s.what, s.who, s.state) AS n FROM state() s) e USING (what, who, state, n)
WHERE f.what IS NULL OR e.what IS NULL;
SELECT count(*) > 0 AS compared FROM state();

-- a partition whose entries have all gone is dropped; what an attached table says stays with the table
SELECT cdp.set_retention('10 days');
CREATE TABLE orders (id int PRIMARY KEY, who text, at timestamptz);
INSERT INTO orders VALUES (1, '7', '2025-12-27');
SELECT cdp.attach('orders', '{"type": "track", "event": "''Bought''", "identifiers": {"user_id": "who"}, "time": "at", "key": "id"}') IS NOT NULL;
SET cdp.now = '2026-02-28 12:00+00';
SELECT cdp.make_partitions();
SELECT cdp.track('Seen', user_id => '1') IS NOT NULL;
SELECT cdp.apply() >= 0;
SET cdp.now = '2026-04-28 12:00+00';
SELECT cdp.apply() >= 0;
SELECT e.type, e.event, e.received_at FROM cdp.events e ORDER BY e.id;
SELECT * FROM cdp.verify();
SELECT cdp.drop_expired_partitions() AS dropped;
SELECT cdp.track('Seen', user_id => '1') IS NOT NULL;
SELECT cdp.apply() >= 0;
SELECT cdp.profile('user_id:1') #> '{traits,recent}' AS recent;

-- What an expired entry said of consent stays, or a refusal would make way for
-- what was granted before; of what was said again, only the last.
SELECT cdp.drop_retention();
SET cdp.now = '2026-05-01';
SELECT cdp.create_purpose('marketing', aliases => '{Advertising}') IS NOT NULL, cdp.create_segment('mailed', 'true', options => '{"purpose": "marketing"}') IS NOT NULL;
CREATE FUNCTION said(who text, day int, context jsonb, message text DEFAULT NULL) RETURNS void LANGUAGE sql AS $$
	INSERT INTO cdp.events (type, event, identifiers, properties, context, occurred_at, received_at, message_id)
	VALUES ('track', 'Bought', ARRAY['user_id:' || who, 'anonymous_id:d' || who, 'group_id:g']::cdp.identifier[], '{"total": 1}', context, timestamptz '2026-04-01' + day * interval '1 hour', '2026-04-20', message)
$$;
SELECT cdp.consent('w', 'marketing', occurred_at => '2026-03-01') IS NOT NULL, cdp.consent('v', 'marketing', 'denied', occurred_at => '2026-03-01') IS NOT NULL,
	said('w', 1, '{"consent": {"categoryPreferences": {"Advertising": true}}}'), said('w', 2, '{"ip": "192.0.2.1", "consent": {"categoryPreferences": {"Advertising": false, "Other": true, "none": 3}}}', 'm'),
	said('v', 1, '{"consentManagement": {"allowedConsentIds": ["Advertising"], "deniedConsentIds": []}}'), said('u', 1, '{"consent": {"categoryPreferences": {"Advertising": true}}}', 'undone'),
	said('u', 2, '{"consent": {"categoryPreferences": {"Advertising": 1}}}'), said('t', 1, '{"consent": {"categoryPreferences": {"Advertising": true}}}'),
	cdp.consent('t', 'marketing', 'denied', occurred_at => '2026-04-02') IS NOT NULL, cdp.undo('undone', 'sql') IS NOT NULL;
SELECT cdp.apply() >= 0;
CREATE VIEW words AS SELECT u, cdp.consented(u, 'marketing'), (SELECT state FROM cdp.consents(u) WHERE purpose = 'marketing' AND said_by IS NULL) AS state,
	u::text IN (SELECT i.identifier::text FROM cdp.memberships m JOIN cdp.identities i USING (profile_id) WHERE m.segment = 'mailed') AS mailed, cdp.resolve('anonymous_id:d' || cdp.value(u)) = cdp.resolve(u) AS linked, cdp.profile(u) #> '{traits,orders}' AS orders
FROM unnest('{user_id:t,user_id:u,user_id:v,user_id:w}'::cdp.identifier[]) u;
SELECT * FROM words;
SELECT cdp.set_retention('10 days', type => 'track');
SELECT cdp.apply() >= 0;
SELECT cdp.apply() >= 0;
SELECT * FROM words;
SELECT type, event, identifiers, properties, context, message_id IS NULL AS nameless FROM cdp.events WHERE received_at = '2026-04-20' ORDER BY id;
SELECT * FROM cdp.verify();
DROP VIEW words;
-- So does what was said by identifiers that expire, which may be in use.
SELECT cdp.drop_retention(type => 'track');
INSERT INTO cdp.events (type, event, identifiers, context, occurred_at, received_at)
SELECT 'track', 'Seen', '{anonymous_id:ds}'::cdp.identifier[], context::jsonb, at, at
FROM (VALUES ('{"consent": {"categoryPreferences": {"Advertising": false}}}', timestamptz '2026-04-01'), ('{"consent": {"categoryPreferences": {"Advertising": false}}}', '2026-04-02'), (NULL, '2026-04-03')) v (context, at);
SELECT cdp.consent('s', 'marketing', occurred_at => '2026-03-01') IS NOT NULL, said('s', 1, NULL);
SELECT cdp.apply() >= 0;
SELECT cdp.consented('user_id:s', 'marketing');
SELECT cdp.set_retention('15 days', kind => 'anonymous_id');
SELECT cdp.apply() >= 0;
SELECT cdp.apply() >= 0;
SELECT cdp.consented('user_id:s', 'marketing');
SELECT type, event, identifiers, properties, context, received_at FROM cdp.events e WHERE e.identifiers::text LIKE '%anonymous_id:ds%' ORDER BY received_at;
SELECT * FROM cdp.verify();

-- Identifiers of a kind, and traits: entries stay without them, as if they had
-- never had them.
SET cdp.now = '2025-12-28 12:00+00';
DROP EXTENSION cdp CASCADE;
CREATE EXTENSION cdp;
CALL define();
CREATE PROCEDURE tell_parts(rest boolean) LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO cdp.events (type, event, identifiers, properties, occurred_at, received_at)
	SELECT * FROM (
		SELECT s.type, s.event, (SELECT array_agg(i ORDER BY o) FROM unnest(s.identifiers || ('email:' || s.n % 20 || '@example.com')) WITH ORDINALITY u (i, o)
				WHERE NOT rest OR NOT (i LIKE 'anonymous_id%' AND s.received < '2025-09-29 12:00+00' OR i LIKE 'email%' AND s.received < '2025-11-28 12:00+00'))::cdp.identifier[] AS identifiers,
			CASE WHEN rest AND s.type IN ('identify', 'group') AND s.received < '2025-10-29 12:00+00' THEN s.properties - 'plan' ELSE s.properties END, s.at, s.received FROM story s ORDER BY s.n) x
	WHERE x.identifiers IS NOT NULL;
END $$;
CALL tell_parts(false);
SELECT cdp.apply() > 300 AS applied;
SELECT cdp.set_retention('90 days', kind => 'anonymous_id'), cdp.set_retention('30 days', kind => 'email'), cdp.set_retention('60 days', trait => 'plan');
SELECT kind, trait, keep FROM cdp.retention_rules ORDER BY 1, 2;
SELECT cdp.apply() >= 0;
SELECT * FROM cdp.verify();
CREATE TABLE parts AS SELECT * FROM state();
SELECT what, count(*) > 5 AS some FROM parts GROUP BY 1 ORDER BY 1;
DROP EXTENSION cdp CASCADE;
CREATE EXTENSION cdp;
CALL define();
CALL tell_parts(true);
SELECT cdp.apply() > 100 AS applied;
SELECT coalesce(f.what, e.what) AS what, coalesce(f.who, e.who) AS who, f.state AS found, e.state AS expected
FROM (SELECT *, row_number() OVER (PARTITION BY what, who, state) AS n FROM parts) f
FULL JOIN (SELECT *, row_number() OVER (PARTITION BY s.what, s.who, s.state) AS n FROM state() s) e USING (what, who, state, n)
WHERE f.what IS NULL OR e.what IS NULL;
SELECT cdp.set_retention('1 year', kind => 'nonesuch');
SELECT cdp.set_retention('1 year', kind => 'email', trait => 'plan');
SELECT cdp.set_retention('1 year', trait => '');
SELECT cdp.set_retention('1 year', 'Bought', kind => 'email');
SELECT cdp.set_retention('10 days', type => 'track'), cdp.set_retention('1 year', kind => 'email'), cdp.drop_retention(kind => 'email');
SELECT cdp.drop_retention(kind => 'email');

-- rules
SELECT cdp.set_retention('1 hour');
SELECT cdp.set_retention('1 year', type => 'merge');
SELECT cdp.set_retention('1 year', on_expiry => 'freeze');
SELECT cdp.set_retention('1 year', on_expiry => 'burn');
SELECT cdp.set_retention(NULL);
SELECT cdp.drop_retention(type => 'track');
SELECT cdp.drop_retention();
SELECT action, object, detail FROM cdp.audit WHERE action ~ 'retention' ORDER BY at;

-- a partition whose time is over stays as long as it has an entry: decisions do not expire
SET cdp.now = '2030-01-10 12:00+00';
SELECT cdp.set_retention('10 days'), cdp.make_partitions('0') AS made;
SELECT cdp.track('Seen', user_id => 'late') IS NOT NULL AS logged, cdp.merge('user_id:late', 'cookie:late') IS NOT NULL AS logged;
SELECT cdp.apply() > 0 AS applied;
SET cdp.now = '2030-03-10 12:00+00';
SELECT cdp.apply() >= 0;
SELECT cdp.drop_expired_partitions() AS dropped;
SELECT e.tableoid::regclass, e.type FROM cdp.events e WHERE e.received_at > '2030-01-01';
-- who does not see what has been committed since does not know that it is empty
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT cdp.drop_expired_partitions();
ROLLBACK;
