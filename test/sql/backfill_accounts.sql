-- Traits and segments of accounts that are built beside what comes.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;
SET TimeZone = 'UTC';
\set SHOW_CONTEXT never
SET cdp.now = '2026-06-01 00:00+00';
SET cdp.backfill_at_once = 100;
SET cdp.batch_size = 200;

-- people in companies, devices, entries that are nobody's, some of two companies; each message comes twice
CREATE FUNCTION public.append(first int, last int) RETURNS void LANGUAGE sql AS $$
INSERT INTO cdp.events (source, type, event, identifiers, properties, occurred_at, message_id)
SELECT 's', CASE i % 29 WHEN 0 THEN 'group' WHEN 5 THEN 'leave' ELSE 'track' END, (ARRAY['Viewed', 'Bought', 'Left'])[1 + i % 3],
	CASE WHEN i % 29 = 0 THEN ARRAY['user_id:u' || i * 7919 % 200, 'group_id:g' || i % 20]
		WHEN i % 29 = 5 THEN ARRAY['user_id:u' || i * 7919 % 200, 'group_id:g' || i % 20]
		WHEN i % 23 = 0 THEN ARRAY['group_id:g' || i % 20, 'group_id:g' || i % 7]
		WHEN i % 97 = 0 THEN ARRAY['user_id:u' || i * 7919 % 200, 'anonymous_id:a' || i * 31 % 150]
		WHEN i % 2 = 0 THEN ARRAY['anonymous_id:a' || i * 31 % 150]
		ELSE ARRAY['user_id:u' || i * 7919 % 200] END::cdp.identifier[],
	jsonb_build_object('revenue', i % 100, 'parent', 'g' || i % 3), timestamptz '2026-05-01 00:00+00' + i * 7919 % 40000 * interval '1 minute', 'm' || i / 2
FROM generate_series(first, last) i
$$;
CREATE VIEW public.sums AS
SELECT sum((traits->>'ltv')::numeric) AS ltv, sum((traits->>'month')::bigint) AS month, sum((traits->>'buyers')::numeric) AS buyers, sum((traits->>'rolled')::numeric) AS rolled,
	sum((traits->>'share')::numeric) AS share, (SELECT count(*) FROM cdp.memberships WHERE segment = 'rich') AS rich, (SELECT count(*) FROM cdp.memberships WHERE segment = 'lookers') AS lookers,
	(SELECT count(*) FROM cdp.memberships WHERE segment = 'colleagues') AS colleagues
FROM cdp.accounts;
CREATE FUNCTION public.differences() RETURNS TABLE (station text, key text, expected jsonb, found jsonb) LANGUAGE sql AS $$ SELECT * FROM cdp.verify() LIMIT 5 $$;

SELECT append(1, 1500);
SELECT apply();
SET client_min_messages = warning;
SELECT create_trait('bought', aggregate => 'count', event => 'Bought');
SELECT apply();
RESET client_min_messages;

-- over entries, over members, derived, rolled up; segments that wait for them
SELECT create_trait('ltv', aggregate => 'sum', value => $$(properties->>'revenue')::numeric$$, event => 'Bought', entity => 'account');
SELECT create_trait('month', aggregate => 'count', event => 'Bought', within => '30 days', entity => 'account');
SELECT create_trait('rolled', aggregate => 'count', event => 'Bought', entity => 'account', options => '{"rollup": true}');
SELECT create_trait('buyers', aggregate => 'count', filter => 'bought > 1', entity => 'account', options => '{"over": "members"}');
SELECT create_trait('share', expression => 'coalesce(ltv, 0) / nullif(buyers, 0)', entity => 'account');
SELECT create_segment('rich', 'share > 10 AND month > 3', entity => 'account');
SELECT create_segment('lookers', $$any_member(did('Viewed', at_least => 2, within => '30 days')) AND NOT in_segment('rich')$$, entity => 'account');
SELECT create_segment('colleagues', 'account.share > 10');
SELECT name, kind, status FROM traits WHERE entity = 'account' ORDER BY name;
SELECT name, state FROM segments ORDER BY name;
SELECT what, phase, total > 0 AS counted FROM progress ORDER BY what COLLATE "C", phase;
SELECT account('group_id:g1')->'traits' ?| '{ltv,month,buyers,share}' AS values;
SELECT in_segment('group_id:g1', 'rich');
SELECT explain_segment('rich', 'group_id:g1');
SELECT count(*) FROM preview_segment('month > 1', entity => 'account');

-- steps, with entries, merges and undos between them; at every instant it is what the log says
CREATE PROCEDURE public.run(n int) LANGUAGE plpgsql AS $$
DECLARE
	steps int := 0;
	seen text[] := '{}';
	r record;
BEGIN
	WHILE EXISTS (SELECT FROM cdp.backfills) LOOP
		PERFORM cdp.apply(n);
		COMMIT;
		steps := steps + 1;
		seen := seen || ARRAY(SELECT DISTINCT phase FROM cdp.progress);
		IF steps % 6 = 1 THEN
			PERFORM append(1500 + steps * 40, 1500 + steps * 40 + 60);
			PERFORM CASE steps % 4 WHEN 1 THEN cdp.merge(format('user_id:u%s', steps % 50)::cdp.identifier, format('user_id:u%s', steps % 43 + 60)::cdp.identifier)
				WHEN 3 THEN cdp.undo('m' || steps * 11, 's') ELSE cdp.split(format('user_id:u%s', steps % 50)::cdp.identifier, format('user_id:u%s', steps % 43 + 60)::cdp.identifier) END;
			COMMIT;
		END IF;
		IF steps % 16 = 0 THEN
			FOR r IN SELECT * FROM cdp.verify() LIMIT 3 LOOP
				RAISE NOTICE 'step %: %', steps, r;
			END LOOP;
		END IF;
		IF steps > 1000 THEN
			RAISE EXCEPTION 'does not end';
		END IF;
	END LOOP;
	RAISE NOTICE '%', COALESCE((SELECT string_agg(DISTINCT s, ', ' ORDER BY s) FROM unnest(seen) s), 'nothing to do') || CASE WHEN steps > 10 THEN ', in many steps' ELSE '' END;
END
$$;
CALL run(150);
SELECT * FROM progress;
SELECT apply() >= 0 AS applied;
SELECT * FROM differences();
SELECT s.*, s.share > 0 AS derived FROM public.sums s;
SELECT name, state FROM segments ORDER BY name;
SELECT segment, cause, count(*) > 0 AS told FROM changes WHERE cause = 'definition' GROUP BY 1, 2 ORDER BY 1;

-- another version: the old one stays until it is whole, then all changes at once
CREATE TABLE public.before AS SELECT * FROM public.sums;
SELECT alter_trait('ltv', filter => $$(properties->>'revenue')::int > 50$$);
SELECT alter_trait('buyers', filter => 'bought > 3', entity => 'account');
SELECT name, status FROM traits WHERE entity = 'account' AND status <> 'active' ORDER BY name;
SELECT apply(300);
SELECT b = s AS as_before FROM public.before b, public.sums s;
SELECT * FROM differences();
CALL run(200);
SELECT apply() >= 0 AS applied;
SELECT * FROM differences();
SELECT s.ltv < b.ltv AS less, s.buyers <= b.buyers AS fewer FROM public.before b, public.sums s;
SELECT count(*) AS left_over FROM trait_definitions t WHERE t.hidden AND NOT EXISTS (SELECT FROM definition_depends d WHERE d.trait_id = t.id);

-- cancelled: what is altered stays, what is new goes; a name in both entities
SELECT alter_trait('buyers', filter => 'bought > 0', entity => 'account');
SELECT create_trait('ltv', aggregate => 'sum', value => $$(properties->>'revenue')::numeric$$);
SELECT cancel_backfill('buyers');
SELECT cancel_backfill('ltv');
SELECT name, entity, status FROM traits WHERE name IN ('buyers', 'ltv') ORDER BY 1, 2;
SELECT create_trait('gone', aggregate => 'avg', value => 'bought', entity => 'account', options => '{"over": "members"}');
SELECT apply(100);
SELECT drop_trait('gone', entity => 'account');
SELECT count(*) AS left_over FROM trait_definitions t WHERE t.hidden AND NOT EXISTS (SELECT FROM definition_depends d WHERE d.trait_id = t.id);
CALL run(200);
SELECT * FROM differences();

-- it waits, and a segment of accounts that is altered stays as it was
SET cdp.backfill_rate = -1;
SELECT alter_segment('rich', $$month > 1 AND count_members(did('Left')) > 0$$);
SELECT state FROM segments WHERE name = 'rich';
SELECT apply(1000);
SELECT count(*) > 0 AS waits FROM progress;
RESET cdp.backfill_rate;
CALL run(1000);
SELECT state FROM segments WHERE name = 'rich';
SELECT * FROM differences();
-- a trait of members that has no values until it is built anew: what accounts have of it waits, too
SET client_min_messages = warning;
SELECT alter_trait('buyers', filter => 'bought > 0', entity => 'account');
CALL run(1000);
SELECT create_segment('buying', 'buyers > 0', entity => 'account');
SELECT max(seq) AS seq FROM changes \gset
SELECT count(*) > 0 AS some FROM memberships WHERE segment = 'buying';
SELECT alter_trait('bought', aggregate => 'avg', value => $$(properties->>'revenue')::numeric$$, event => 'Bought');
RESET client_min_messages;
SELECT name, entity, status FROM traits WHERE status <> 'active' ORDER BY 1, 2;
SELECT name, state FROM segments WHERE state <> 'active' ORDER BY 1;
SELECT apply(100) >= 0 AS applied;
CALL run(500);
SELECT count(*) AS exited FROM changes WHERE seq > :seq AND segment = 'buying' AND kind = 'segment_exited';
SELECT count(*) AS building FROM traits WHERE status <> 'active';
SELECT * FROM differences();
-- no more of the entries that are nobody's at a time than a step may take
INSERT INTO cdp.events (source, type, event, identifiers, message_id)
SELECT 'many', 'track', 'Bought', ARRAY['group_id:many' || i]::cdp.identifier[], 'many' || i FROM generate_series(1, 400) i;
SELECT apply();
SELECT create_trait('seen', aggregate => 'count', entity => 'account');
SELECT apply(50);
SELECT done > 0 AS some, done < 150 AS few FROM backfills;
CALL run(200);
SELECT sum((traits->>'seen')::int) AS seen FROM accounts WHERE identifier::text LIKE '%many%';
DROP FUNCTION public.append, public.differences;
DROP PROCEDURE public.run;
DROP VIEW public.sums;
DROP TABLE public.before;
SET client_min_messages = error;
DROP EXTENSION cdp CASCADE;
