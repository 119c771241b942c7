-- Who is erased has never been, table by table: a database in which Paula was, is
-- erased, and one that never saw her have the same rows in every table, but for
-- what is named here.  With accounts, attached tables, subscriptions that are
-- behind, hold-outs, consent, retention, quarantined and rejected entries.
\set QUIET on
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SET TimeZone = 'UTC';

CREATE PROCEDURE public.define() LANGUAGE plpgsql AS $$
BEGIN
	PERFORM cdp.create_trait('orders', aggregate => 'count', event => 'Order', options => '{"announce": true}'), cdp.create_trait('plan', type => 'text'),
		cdp.create_trait('spent', aggregate => 'sum', event => 'Order', value => '(properties->>''n'')::numeric'), cdp.create_trait('recent', aggregate => 'count', within => '40 days'),
		cdp.create_trait('products', aggregate => 'unique_list', value => 'properties->>''product''', event => 'Order'), cdp.create_trait('broken', aggregate => 'sum', value => '(properties->>''odd'')::int'),
		cdp.create_trait('team', aggregate => 'sum', event => 'Order', value => '(properties->>''n'')::numeric', entity => 'account'), cdp.create_trait('seats', type => 'int', entity => 'account'),
		cdp.create_trait('buyers', entity => 'account', aggregate => 'count', filter => 'orders > 1', options => '{"over": "members"}'),
		cdp.create_purpose('marketing', aliases => '{Ads}'),
		cdp.create_segment('buying', 'orders > 1', holdout => 0.3, seed => 'x'), cdp.create_segment('mailed', 'orders > 0', options => '{"purpose": "marketing"}'),
		cdp.create_segment('teams', 'team > 20', entity => 'account'), cdp.create_segment('lately', 'recent > 0'),
		cdp.alter_identifier_kind('phone', max_per_profile => 1, policy => 'quarantine'), cdp.alter_identifier_kind('email', max_per_profile => 1, policy => 'refuse'),
		cdp.subscribe('late'),
		cdp.set_retention('100 days', 'Old', 'track'), cdp.set_retention('60 days', trait => 'nick');
END $$;
CREATE TABLE public.shop (id int PRIMARY KEY, who text, n int, at timestamptz);

-- What everybody does who is not left out.
CREATE PROCEDURE public.tell(without text, part int) LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO cdp.events (source, message_id, type, event, identifiers, properties, context, occurred_at, received_at)
	SELECT 'web', who || '-' || k, type, event, identifiers::cdp.identifier[], properties, context, CASE WHEN event = 'Old' OR type = 'identify' THEN at - interval '90 days' ELSE at END,
		CASE WHEN event = 'Old' OR type = 'identify' THEN at - interval '90 days' ELSE '2026-03-01' END
	FROM (
		SELECT *, 'p' || u AS who, u * 7 + k AS x, timestamptz '2026-01-01' + (u * 7 + k * 3) % 55 * interval '1 day' + k * interval '1 minute' AS at,
			CASE WHEN k % 12 = 5 THEN 'identify' WHEN k % 12 = 7 THEN 'group' WHEN k % 12 = 9 THEN 'consent' WHEN k % 12 = 11 THEN 'nonsense' ELSE 'track' END AS type,
			CASE WHEN k % 12 IN (5, 7, 9) THEN NULL WHEN k % 12 IN (2, 4) THEN 'Seen' WHEN k = 6 THEN 'Old' ELSE 'Order' END AS event,
			ARRAY['user_id:p' || u] || CASE WHEN k % 3 = 0 THEN '{}' ELSE ARRAY['anonymous_id:d' || u || '-' || k % 4] END
				|| CASE WHEN k % 12 = 7 THEN ARRAY['group_id:g' || u % 3] WHEN k = 8 THEN ARRAY['phone:+49301234' || 560 + u] WHEN k = 20 THEN ARRAY['phone:+49301234' || 460 + u]
					WHEN k = 10 THEN ARRAY['email:p' || u || '@example.com'] ELSE '{}' END AS identifiers,
			CASE WHEN k % 12 = 9 THEN jsonb_build_object('purpose', 'marketing', 'state', CASE WHEN u % 2 = 0 THEN 'granted' ELSE 'denied' END)
				ELSE jsonb_build_object('n', k, 'plan', 'plan' || u, 'nick', 'nick' || u, 'product', 'product-' || u || '-' || k, 'seats', k, 'odd', CASE WHEN k % 5 = 0 THEN 'odd-' || u ELSE '1' END) END AS properties,
			CASE WHEN k = 4 THEN jsonb_build_object('consent', jsonb_build_object('categoryPreferences', jsonb_build_object('Ads', u % 3 = 0))) END AS context
		FROM generate_series(1, 7) u, generate_series(1, 24) k) s
	WHERE who <> without AND k > (part - 1) * 12 AND k <= part * 12 ORDER BY k, u;
	INSERT INTO public.shop SELECT u * 10 + part, 'p' || u, u, timestamptz '2026-02-01' + u * interval '1 day' FROM generate_series(1, 7) u WHERE 'p' || u <> without;
END $$;
CREATE PROCEDURE public.world(without text) LANGUAGE plpgsql AS $$
BEGIN
	TRUNCATE public.shop;
	CALL public.define();
	PERFORM cdp.attach('public.shop', '{"type": "track", "event": "''Order''", "identifiers": {"user_id": "who"}, "time": "at", "key": "id", "properties": {"n": "n"}}');
	UPDATE cdp.attachment_definitions SET version = 1; -- else no hash is like another
	-- all but her have their numbers first: hold-outs follow the number of a profile
	INSERT INTO cdp.events (source, message_id, event, identifiers, occurred_at, received_at)
	SELECT 'web', 'first-' || i, 'Seen', ARRAY[i]::cdp.identifier[], '2026-01-01', '2026-03-01'
	FROM generate_series(1, 7) u, unnest(ARRAY['user_id:p' || u, 'phone:+49301234' || 560 + u, 'phone:+49301234' || 460 + u, 'email:p' || u || '@example.com',
		'anonymous_id:d' || u || '-0', 'anonymous_id:d' || u || '-1', 'anonymous_id:d' || u || '-2', 'anonymous_id:d' || u || '-3']) i WHERE u <> 4 ORDER BY u, i;
	PERFORM cdp.apply();
	CALL public.tell(without, 1);
END $$;

-- All tables as text, with names in place of numbers.
CREATE FUNCTION public.name_of(n bigint) RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
	RETURN (SELECT coalesce((SELECT i.identifier::text FROM cdp.identities i WHERE i.node_id = n), (SELECT a.identifier::text FROM cdp.account_identities a WHERE a.account_id = n),
		(SELECT f.identifier::text FROM cdp.former_identities f WHERE f.node_id = n), CASE WHEN n = 0 THEN '0' ELSE 'nobody' END));
END
$$;
CREATE FUNCTION public.person(n bigint) RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
	RETURN (SELECT coalesce((SELECT min(i.identifier::text) FROM cdp.identities i WHERE i.profile_id = n), public.name_of(n)));
END
$$;
CREATE FUNCTION public.told(r jsonb) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
BEGIN
	RETURN (SELECT coalesce(jsonb_object_agg(k, CASE WHEN v = 'null' THEN v
		WHEN k IN ('node_id', 'a', 'b', 'owner', 'account_id', 'parent') AND jsonb_typeof(v) = 'number' THEN to_jsonb(public.name_of(v::bigint))
		WHEN k IN ('profile_id', 'last_profile') THEN to_jsonb(public.person(v::bigint))
		WHEN k IN ('entry', 'last_entry') THEN to_jsonb(coalesce((SELECT coalesce(e.message_id, e.identifiers::text || e.occurred_at) FROM cdp.events e WHERE e.id = v::bigint), 'none')) ELSE v END), '{}')
	FROM jsonb_each(r) e (k, v)
	-- numbers of the log and of changes, and packed references to entries, which the view below tells
	WHERE k NOT IN ('xid', 'incarnation', 'recent', 'refs', 'seq', 'epoch', 'acked_seq', 'position'));
END
$$;
CREATE FUNCTION public.dump() RETURNS TABLE (what text, row_ text) LANGUAGE plpgsql AS $$
DECLARE
	t text;
BEGIN
	FOR t IN SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'cdp'::regnamespace AND c.relkind = 'r' AND c.relname NOT IN (
		-- the applier's and the audit's own, and what erasures are noted in
		'applier', 'epochs', 'incarnation', 'identity_rules', 'written', 'audit_entries', 'audit_seals', 'audit_unsealed', 'attachment_definitions',
		'erasures', 'tombstones', 'tombstone_keys', 'changes_default', 'entry_pieces',
		-- how often something was evaluated
		'segment_evaluations', 'trait_errors') UNION ALL SELECT 'owned_entries' ORDER BY 1
	LOOP
		RETURN QUERY EXECUTE format($q$SELECT %1$L, (public.told((to_jsonb(x) #- '{payload,id}' #- '{payload,xid}' #- '{payload,incarnation}') - CASE WHEN %1$L IN ('events_default', 'rejected') THEN 'id' ELSE '' END))::text FROM cdp.%1$I x
			WHERE (%1$L <> 'events_default' OR to_jsonb(x) ->> 'type' <> 'erase')$q$, t)
			-- her rows of the queue are there, without what they said
			|| CASE t WHEN 'subscription_queue' THEN $q$ AND (x.payload ->> 'erased') IS NULL$q$ ELSE '' END;
	END LOOP;
END $$;

-- with her
SET cdp.now = '2026-03-01';
CREATE EXTENSION cdp;
CALL public.world('');
SELECT cdp.apply() > 80 AS applied;
SET cdp.now = '2026-03-02';
SELECT cdp.subscribe('retried', '{"segment": "buying"}', start => 'snapshot', visibility => '1 minute', mode => 'mirror');
SELECT cdp.nack('retried', min(seq), 'no p4') AS put_back FROM cdp.poll('retried', 2);
CALL public.tell('', 2);
SELECT cdp.apply() > 80 AS applied;
SELECT cdp.apply() >= 0;
SELECT (SELECT count(*) > 0 FROM cdp.withheld_entries) AS withheld, (SELECT count(*) > 0 FROM cdp.rejected) AS rejected, (SELECT count(*) > 0 FROM cdp.links WHERE status = 'refused') AS refused,
	(SELECT count(*) FROM cdp.events WHERE event = 'Old') AS old, (SELECT count(*) FROM cdp.events WHERE properties ? 'nick' AND type = 'identify') AS nicks,
	(SELECT count(*) FROM cdp.attached_rows) AS attached, (SELECT count(*) > 2 FROM cdp.subscription_queue) AS queued, (SELECT bool_and(n > 0) FROM (SELECT count(*) AS n FROM cdp.memberships GROUP BY segment) m) AS members;
SELECT cdp.erase('user_id:p4') IS NOT NULL;
SELECT cdp.apply() >= 0;
DELETE FROM public.shop WHERE who = 'p4';
SELECT cdp.apply() >= 0;
SELECT state FROM cdp.erasures;
SELECT * FROM cdp.verify();
CREATE TABLE public.erased AS SELECT * FROM public.dump();

-- and without
SET cdp.now = '2026-03-01';
DROP EXTENSION cdp CASCADE;
CREATE EXTENSION cdp;
CALL public.world('p4');
SELECT cdp.apply() > 60 AS applied;
SET cdp.now = '2026-03-02';
SELECT cdp.subscribe('retried', '{"segment": "buying"}', start => 'snapshot', visibility => '1 minute', mode => 'mirror');
SELECT cdp.nack('retried', min(seq), 'no p4') AS put_back FROM cdp.poll('retried', 2);
CALL public.tell('p4', 2);
SELECT cdp.apply() > 60 AS applied;
SELECT cdp.apply() >= 0;
CREATE TABLE public.never AS SELECT * FROM public.dump();
SELECT count(DISTINCT what) > 15 AS tables, count(*) > 500 AS rows FROM public.never;
SELECT 'erased' AS side, x.* FROM (SELECT * FROM public.erased EXCEPT ALL SELECT * FROM public.never) x
UNION ALL SELECT 'never there', x.* FROM (SELECT * FROM public.never EXCEPT ALL SELECT * FROM public.erased) x ORDER BY 2, 3, 1;
