-- Roles that see the members of segments only: everybody else is as good as
-- unknown to them, by whatever way they ask.
\set QUIET on
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION cdp;
SET timezone = 'UTC';
SET cdp.now = '2026-05-04 09:00+00';
CREATE ROLE regress_visible_team;
CREATE ROLE regress_visible_ann IN ROLE regress_visible_team;
CREATE ROLE regress_visible_bob;
SELECT cdp.create_trait('country', type => 'text'), cdp.create_trait('visits', aggregate => 'count'), cdp.create_trait('seats', type => 'int', entity => 'account');
SELECT cdp.create_segment('germans', $$country = 'DE'$$), cdp.create_segment('austrians', $$country = 'AT'$$), cdp.create_segment('seen', 'visits > 0');
SELECT cdp.identify(n, jsonb_build_object('country', c, 'secret', 'secret-' || c), anonymous_id => 'a' || n, identifiers => ARRAY[('email:' || c || '@x.example')::cdp.identifier]) IS NOT NULL
FROM (VALUES (1, 'DE'), (2, 'AT'), (3, 'FR')) v (n, c);
SELECT cdp.identify(1, '{}', identifiers => '{cookie:c1}') IS NOT NULL, cdp.identify(3, '{}', identifiers => '{email:DE@x.example}', occurred_at => '2026-05-04 09:01+00') IS NOT NULL,
	cdp.track('Seen', user_id => 1) IS NOT NULL, cdp.track('Seen', user_id => 2) IS NOT NULL, cdp.track('Seen', user_id => 3) IS NOT NULL,
	cdp.group('acme', '{"seats": 9}', user_id => 1) IS NOT NULL, cdp.group('acme', user_id => 3) IS NOT NULL;
SELECT cdp.apply();
SELECT cdp.grant_reader('regress_visible_team'), cdp.grant_reader('regress_visible_bob');
SELECT cdp.restrict_reader('regress_visible_team', 'germans');

CREATE TABLE public.reads (n serial, statement text);
COPY public.reads (statement) FROM stdin;
SELECT cdp.profile(i) FROM ids
SELECT cdp.profile(i, fresh => true) FROM ids
SELECT cdp.profile(p) FROM numbers
SELECT cdp.profile_at(i, now()) FROM ids
SELECT cdp.resolve(i) FROM ids
SELECT cdp.resolve_at(i, now()) FROM ids
SELECT cdp.current_profile(p) FROM numbers
SELECT x.* FROM numbers, cdp.identifiers(p) x
SELECT x.* FROM ids, cdp.identifiers_at(i, now()) x
SELECT x.* FROM numbers, cdp.identifiers_at(p, now()) x
SELECT i OPERATOR(cdp.~=) i FROM ids
SELECT x.* FROM ids, cdp.component(i) x
SELECT x.* FROM ids, cdp.explain_link(i, 'email:FR@x.example') x
SELECT x.* FROM ids, cdp.refused_links(i) x
SELECT x.* FROM ids, cdp.bridges(i) x
SELECT x.* FROM ids, cdp.articulation_points(i) x
SELECT cdp.graph_dot(i) FROM ids
SELECT x.* FROM numbers, cdp.merges(p) x
SELECT cdp.in_segment(i, 'seen') FROM ids
SELECT cdp.in_segment(p, 'seen') FROM numbers
SELECT x.* FROM ids, cdp.explain_segment('seen', i) x
SELECT cdp.segment_members('seen')
SELECT cdp.segment_members('{seen}'::text[])
SELECT x.* FROM ids, cdp.timeline(i) x
SELECT x.* FROM numbers, cdp.timeline(p) x
SELECT * FROM cdp.audience('seen', '{email}', 'none')
SELECT x.* FROM ids, cdp.accounts_of(i) x
SELECT * FROM cdp.members_of('group_id:acme')
SELECT * FROM cdp.profiles
SELECT * FROM cdp.profile_traits
SELECT * FROM cdp.memberships
SELECT * FROM cdp.account_members
SELECT x FROM numbers, unnest(cdp.component_nodes(p)) x WHERE x <> p
SELECT x.node FROM numbers, cdp.graph_walk(p) x WHERE x.depth > 0
\.
CREATE VIEW public.ids AS SELECT unnest('{user_id:1,user_id:2,user_id:3,email:FR@x.example,anonymous_id:a2}'::cdp.identifier[]) AS i;
CREATE TABLE public.numbers AS SELECT profile_id AS p FROM cdp.profiles;
GRANT SELECT ON public.ids, public.numbers TO PUBLIC;

-- Whom a role sees: how many rows, and what of the three people in them.
CREATE FUNCTION public.seen(role text) RETURNS TABLE (n int, statement text, rows int, seen text) LANGUAGE plpgsql AS $$
DECLARE
	number CONSTANT text := '^[(0-9) ]+$';	-- nothing but ids
	answer text;
	people record;
BEGIN
	SELECT cdp.resolve('user_id:1') AS de, cdp.resolve('user_id:2') AS at, cdp.resolve('user_id:3') AS fr INTO people;
	FOR n, statement IN SELECT r.n, r.statement FROM public.reads r ORDER BY r.n LOOP
		BEGIN
			EXECUTE format('SET LOCAL ROLE %I', role);
			EXECUTE format('SELECT string_agg(x::text, '' ''), count(*) FILTER (WHERE x::text NOT IN (''()'', ''(f)'')) FROM (%s) x', statement) INTO answer, rows;
			RAISE EXCEPTION USING ERRCODE = 'CDPOK';
		EXCEPTION WHEN OTHERS THEN
			IF SQLSTATE <> 'CDPOK' THEN
				answer := SQLSTATE || ' ' || SQLERRM;
			END IF;
		END;
		RESET ROLE;
		seen := concat_ws(' ', CASE WHEN answer ~ '^[0-9A-Z]{5} ' THEN answer END,
			CASE WHEN answer ~ 'secret-DE|DE@x|user_id:1|a1' OR answer ~ number AND people.de::text = ANY (regexp_split_to_array(answer, '[^0-9]+')) THEN 'DE' END,
			CASE WHEN answer ~ 'secret-AT|AT@x|user_id:2|a2' OR answer ~ number AND people.at::text = ANY (regexp_split_to_array(answer, '[^0-9]+')) THEN 'AT' END,
			CASE WHEN answer ~ 'secret-FR|FR@x|user_id:3|a3' OR answer ~ number AND people.fr::text = ANY (regexp_split_to_array(answer, '[^0-9]+')) THEN 'FR' END);
		RETURN NEXT;
	END LOOP;
END;
$$;
SELECT a.n, a.statement, b.rows AS all_rows, b.seen AS everybody, a.rows, a.seen FROM seen('regress_visible_ann') a JOIN seen('regress_visible_bob') b USING (n) ORDER BY n;

-- two segments: the members of either; in a transaction, at once; and taken away
SELECT cdp.restrict_reader('regress_visible_ann', 'austrians');
SET ROLE regress_visible_ann;
SELECT traits ->> 'country' AS country FROM cdp.profiles ORDER BY 1;
RESET ROLE;
SET ROLE regress_visible_team;
SELECT traits ->> 'country' AS country FROM cdp.profiles ORDER BY 1;
RESET ROLE;
-- who leaves the segment is not seen any more
SELECT cdp.identify(2, '{"country": "CH"}') IS NOT NULL;
SELECT cdp.apply();
SET ROLE regress_visible_ann;
SELECT traits ->> 'country' AS country FROM cdp.profiles ORDER BY 1;
-- not through a cheap function of one's own that is asked first
CREATE FUNCTION pg_temp.peek(jsonb) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$ BEGIN RAISE NOTICE 'seen %', $1 ->> 'country'; RETURN true; END $$;
SET client_min_messages = notice;
SELECT count(*) FROM cdp.profiles WHERE pg_temp.peek(traits);
SET client_min_messages = warning;
RESET ROLE;
-- the segment stays as long as it says what somebody sees
SELECT cdp.drop_segment('germans');
SELECT cdp.unrestrict_reader('regress_visible_ann', 'austrians');
SELECT cdp.unrestrict_reader('regress_visible_ann');
SELECT cdp.unrestrict_reader('regress_visible_team');
SELECT cdp.restrict_reader('regress_visible_team', 'nobody');
SET ROLE regress_visible_ann;
SELECT count(*) FROM cdp.profiles;
SELECT cdp.restrict_reader('regress_visible_ann', 'seen');
RESET ROLE;
SELECT action, object, detail FROM cdp.audit WHERE action ~ 'restrict' ORDER BY at;
DROP OWNED BY regress_visible_ann, regress_visible_team, regress_visible_bob;
DROP ROLE regress_visible_ann, regress_visible_team, regress_visible_bob;
