-- Who may do what: every object of the extension is in a set of rights, is
-- PUBLIC's, or is the owner's by name; and the sets are enough for their work.
\set QUIET on
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION cdp;
SET timezone = 'UTC';
SET cdp.now = '2026-05-04 09:00+00';
CREATE ROLE regress_access_reader;
CREATE ROLE regress_access_writer;
CREATE ROLE regress_access_bulk;
CREATE ROLE regress_access_consumer;
CREATE ROLE regress_access_operator;
CREATE ROLE regress_access_privacy;
CREATE ROLE regress_access_nobody;
SELECT cdp.grant_reader('regress_access_reader'), cdp.grant_writer('regress_access_writer'),
	cdp.grant_writer('regress_access_bulk', bulk => true), cdp.grant_consumer('regress_access_consumer'),
	cdp.grant_operator('regress_access_operator'), cdp.grant_privacy_officer('regress_access_privacy');

CREATE TEMP TABLE objects AS
	SELECT 'function' AS kind, p.proname::text AS name, p.oid,
		has_function_privilege('public', p.oid, 'EXECUTE') AS public,
		ARRAY(SELECT right(r.rolname, -length('regress_access_'))::text FROM pg_roles r
			WHERE r.rolname LIKE 'regress\_access\_%' AND has_function_privilege(r.oid, p.oid, 'EXECUTE') ORDER BY 1) AS may
	FROM pg_proc p WHERE p.pronamespace = 'cdp'::regnamespace AND p.prorettype <> 'trigger'::regtype
	UNION ALL
	SELECT 'relation', c.relname::text, c.oid, has_table_privilege('public', c.oid, 'SELECT'),
		ARRAY(SELECT right(r.rolname, -length('regress_access_'))::text FROM pg_roles r
			WHERE r.rolname LIKE 'regress\_access\_%' AND has_table_privilege(r.oid, c.oid, 'SELECT') ORDER BY 1)
	FROM pg_class c WHERE c.relnamespace = 'cdp'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S');

-- What is in a set but does not exist: nothing.
SELECT * FROM cdp.access_sets s
WHERE NOT EXISTS (SELECT FROM objects o WHERE o.kind = s.kind AND o.name = s.name)
	AND s.name NOT IN ('profile_traits', 'account_traits');	-- made with the first trait
-- What is in a set although everybody has it: nothing.
SELECT s.* FROM cdp.access_sets s JOIN objects o USING (kind, name) WHERE o.public;

-- Who has what, by list.
SELECT kind, name, array_to_string(array_agg(DISTINCT s.grant_set), ' ') AS sets
FROM cdp.access_sets s GROUP BY 1, 2 ORDER BY kind, name COLLATE "C";
-- Who has what, by PostgreSQL, is the same.
SELECT o.kind, o.oid::regprocedure::text, o.may
FROM objects o
WHERE NOT o.public AND array_remove(o.may, 'bulk') IS DISTINCT FROM ARRAY(
	SELECT s.grant_set FROM cdp.access_sets s WHERE s.kind = o.kind AND s.name = o.name ORDER BY 1);
-- Nobody may write a table, but the bulk writer the columns of an entry.
SELECT c.oid::regclass, r.rolname, p
FROM pg_class c, pg_roles r, unnest('{INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) p
WHERE c.relnamespace = 'cdp'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND r.rolname LIKE 'regress\_access\_%'
	AND has_table_privilege(r.oid, c.oid, p);
SELECT c.oid::regclass, r.rolname, a.attname, p
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped,
	pg_roles r, unnest('{INSERT,UPDATE}'::text[]) p
WHERE c.relnamespace = 'cdp'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND r.rolname LIKE 'regress\_access\_%'
	AND has_column_privilege(r.oid, c.oid, a.attnum, p)
ORDER BY 1, 2, a.attnum;

-- What is the owner's alone.  A new object belongs into sql/trust/access.sql, or
-- it shows here and should be here for a reason.
SELECT DISTINCT kind, CASE WHEN name LIKE 'verify\_%' THEN 'verify_*' ELSE name END COLLATE "C" AS owners
FROM objects WHERE NOT public AND may = '{}'
ORDER BY 1, 2;

-- The sets are enough for their work, and for no more: each statement by each role.
SELECT cdp.create_trait('plan', type => 'text'), cdp.create_trait('visits', aggregate => 'count', event => 'Seen'),
	cdp.create_segment('pros', $$plan = 'pro'$$), cdp.create_segment('seen', 'visits > 0'),
	cdp.create_trait('seats', type => 'int', entity => 'account'), cdp.subscribe('feed');
SELECT cdp.identify(1, '{"plan": "pro"}', identifiers => '{email:ada@example.com}') IS NOT NULL,
	cdp.identify(2, '{"plan": "free"}', anonymous_id => 'a2') IS NOT NULL, cdp.group('acme', '{"seats": 3}', user_id => 1) IS NOT NULL;
SELECT cdp.apply();

CREATE TEMP TABLE work (n serial, statement text);
COPY work (statement) FROM stdin;
SELECT cdp.profile('user_id:1')
SELECT cdp.profile(1::bigint)
SELECT cdp.profile('user_id:1', fresh => true)
SELECT cdp.profile_at('user_id:1', now())
SELECT cdp.resolve('user_id:1')
SELECT cdp.resolve_at('user_id:1', now())
SELECT cdp.current_profile(1)
SELECT cdp.identifiers(1)
SELECT cdp.identifiers_at('user_id:1', now())
SELECT 'user_id:1'::cdp.identifier OPERATOR(cdp.~=) 'email:ada@example.com'
SELECT cdp.component('user_id:1')
SELECT cdp.explain_link('user_id:1', 'email:ada@example.com')
SELECT cdp.refused_links('user_id:1')
SELECT cdp.bridges('user_id:1')
SELECT cdp.articulation_points('user_id:1')
SELECT cdp.graph_dot('user_id:1')
SELECT cdp.merges(1)
SELECT cdp.in_segment('user_id:1', 'pros')
SELECT cdp.segment_members('pros')
SELECT cdp.segment_overlap('{pros,seen}')
SELECT cdp.segment_stats('pros')
SELECT cdp.explain_segment('pros', 'user_id:1')
SELECT cdp.preview_segment('visits > 1')
SELECT cdp.matches(1, 'visits > 1')
SELECT cdp.timeline('user_id:1')
SELECT cdp.audience('pros', '{email}', 'sha256')
SELECT cdp.account('group_id:acme')
SELECT cdp.accounts_of('user_id:1')
SELECT cdp.members_of('group_id:acme')
SELECT FROM cdp.profiles
SELECT traits FROM cdp.profiles
SELECT * FROM cdp.profile_traits
SELECT * FROM cdp.account_traits
SELECT * FROM cdp.accounts
SELECT * FROM cdp.account_members
SELECT * FROM cdp.memberships
SELECT * FROM cdp.traits
SELECT * FROM cdp.segments
SELECT * FROM cdp.identifier_kinds
SELECT * FROM cdp.sources
SELECT * FROM cdp.event_catalog
SELECT * FROM cdp.progress
SELECT * FROM cdp.attachments
SELECT * FROM cdp.dead_letters
SELECT * FROM cdp.subscription_lag
SELECT * FROM cdp.stat_worker
SELECT * FROM cdp.stat_apply
SELECT * FROM cdp.stat_traits
SELECT * FROM cdp.stat_segments
SELECT * FROM cdp.audit
SELECT * FROM cdp.identities
SELECT * FROM cdp.events
SELECT * FROM cdp.changes
SELECT * FROM cdp.rejected
SELECT * FROM cdp.audit_verify()
SELECT cdp.export('user_id:1')
SELECT * FROM cdp.export_rows('user_id:1')
SELECT cdp.track('Seen', user_id => 1)
SELECT cdp.identify(1, '{"plan": "free"}')
SELECT cdp.page('Home', user_id => 1)
SELECT cdp.screen('Home', user_id => 1)
SELECT cdp.group('acme', user_id => 2)
SELECT cdp.leave_group('acme', 2)
SELECT cdp.alias('a9', 1)
SELECT cdp.ingest('[{"type": "track", "event": "Seen", "userId": "1"}]')
SELECT cdp.ingest_text('{"type": "track", "event": "Seen", "userId": "1"}')
INSERT INTO cdp.events (event, identifiers) VALUES ('Seen', '{user_id:1}')
SELECT cdp.poll('feed', 1)
SELECT cdp.ack('feed', 0)
SELECT cdp.nack('feed', 1)
SELECT cdp.create_trait('n', aggregate => 'count')
SELECT cdp.alter_trait('plan', description => 'what they pay for')
SELECT cdp.create_segment('n', 'visits > 3')
SELECT cdp.alter_segment('seen', description => 'was here')
SELECT cdp.reevaluate_segment('seen')
SELECT cdp.drop_segment('pros')
SELECT cdp.create_identifier_kind('crm_id', priority => 15)
SELECT cdp.alter_identifier_kind('cookie', priority => 35)
SELECT cdp.identity_preset('segment', true)
SELECT cdp.preview_identity()
SELECT cdp.subscribe('more')
SELECT cdp.alter_subscription('feed', backoff => '2 s')
SELECT cdp.rewind('feed', '0')
SELECT cdp.unsubscribe('feed')
SELECT cdp.merge('user_id:1', 'cookie:c')
SELECT cdp.split('user_id:1', 'email:ada@example.com')
SELECT 'user_id:1'::cdp.identifier OPERATOR(cdp.<+>) 'cookie:c'
SELECT cdp.detach('email:ada@example.com')
SELECT cdp.undo('nothing')
SELECT cdp.retract('nothing')
SELECT cdp.export_config()
SELECT cdp.apply_config('{}', dry_run => true)
SELECT cdp.apply()
SELECT cdp.verify()
SELECT cdp.check()
SELECT cdp.status()
SELECT cdp.pause()
SELECT cdp.resume()
SELECT cdp.make_partitions()
SELECT cdp.trim_changes()
SELECT cdp.graph_check()
SELECT cdp.audit_seal()
SELECT cdp.set_sensitivity('kind', 'email')
SELECT cdp.grant_reader('regress_access_nobody')
\.
CREATE TEMP TABLE outcome (n int, role text, outcome text);
GRANT INSERT ON outcome TO PUBLIC;
GRANT SELECT ON work TO PUBLIC;
DO $$
DECLARE
	w record;
	r text;
BEGIN
	FOREACH r IN ARRAY '{reader,writer,bulk,consumer,operator,privacy,nobody}'::text[] LOOP
		FOR w IN SELECT * FROM work ORDER BY n LOOP
			BEGIN
				EXECUTE format('SET LOCAL ROLE regress_access_%s', r);
				EXECUTE w.statement;
				RAISE EXCEPTION USING ERRCODE = 'CDPOK';
			EXCEPTION WHEN OTHERS THEN
				RESET ROLE;
				INSERT INTO outcome VALUES (w.n, r, CASE SQLSTATE WHEN 'CDPOK' THEN 'yes' WHEN '42501' THEN
					CASE WHEN SQLERRM ~ ('^permission denied for (table|view|function) ' || coalesce(substring(w.statement FROM 'cdp\.([a-z_]+)'), 'x') || '$')
						OR w.statement ~ 'OPERATOR|grant_' THEN '.' ELSE SQLERRM END
					ELSE SQLSTATE END);
			END;
		END LOOP;
	END LOOP;
END $$;
SELECT statement, max(outcome) FILTER (WHERE role = 'reader') AS reader, max(outcome) FILTER (WHERE role = 'writer') AS writer,
	max(outcome) FILTER (WHERE role = 'bulk') AS bulk, max(outcome) FILTER (WHERE role = 'consumer') AS consumer,
	max(outcome) FILTER (WHERE role = 'operator') AS operator, max(outcome) FILTER (WHERE role = 'privacy') AS privacy,
	max(outcome) FILTER (WHERE role = 'nobody') AS nobody
FROM work JOIN outcome USING (n) GROUP BY n, statement ORDER BY n;

-- What a reader may call is safe whatever it is given.
SET ROLE regress_access_reader;
SELECT count(*) FROM cdp.unpack_entries('\x0101020202020a', array_fill(NULL::int, '{130000000}'));
SELECT entry, xid FROM cdp.unpack_entries('\x0101020202020a', '{7,10}');
RESET ROLE;

-- Taken away again, as a whole.
SELECT cdp.revoke_access(r::regrole) FROM unnest('{regress_access_reader,regress_access_writer,regress_access_bulk,
	regress_access_consumer,regress_access_operator,regress_access_privacy}'::text[]) r;
SELECT o.kind, o.name, r.rolname
FROM objects o, pg_roles r
WHERE r.rolname LIKE 'regress\_access\_%' AND NOT o.public
	AND CASE o.kind WHEN 'function' THEN has_function_privilege(r.oid, o.oid, 'EXECUTE')
		ELSE has_table_privilege(r.oid, o.oid, 'SELECT, INSERT') OR has_any_column_privilege(r.oid, o.oid, 'SELECT, INSERT') END;
SELECT action, object FROM cdp.audit WHERE action ~ '^(grant|revoke)' ORDER BY at, action;
DROP ROLE regress_access_reader, regress_access_writer, regress_access_bulk, regress_access_consumer,
	regress_access_operator, regress_access_privacy, regress_access_nobody;
