-- Made from doc/with-http.md by test/readme; do not edit.
-- block 1
SET client_min_messages = warning;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET timezone = 'UTC';
SET cdp.now = '2026-05-04 09:00+00';
-- block 2
CREATE ROLE regress_web_anon NOLOGIN;      -- db-anon-role
CREATE ROLE regress_web_user NOLOGIN;      -- the role that a JSON web token names
CREATE SCHEMA api;                         -- db-schemas = "api"
GRANT USAGE ON SCHEMA api TO regress_web_anon, regress_web_user;

-- POST /rpc/track {"event": "Product Viewed", "properties": {"sku": "T-1"}, "anonymous_id": "phone-7f3a"}
CREATE FUNCTION api.track(event text, properties jsonb DEFAULT NULL, anonymous_id text DEFAULT NULL, message_id text DEFAULT NULL) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT cdp.track(event, properties, anonymous_id => anonymous_id, message_id => message_id, source => 'web',
        user_id => current_setting('request.jwt.claims', true)::jsonb->>'sub')
$$;

-- POST /rpc/batch with a body of Segment's libraries (an unnamed argument is the whole body)
CREATE FUNCTION api.batch(jsonb) RETURNS jsonb
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT to_jsonb(i) FROM cdp.ingest($1, 'web') i
$$;

-- POST /rpc/me: the caller's own profile, and nobody else's
CREATE FUNCTION api.me() RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT cdp.profile(cdp.identifier('user_id', current_setting('request.jwt.claims', true)::jsonb->>'sub'))->'traits'
$$;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA api FROM PUBLIC;
GRANT EXECUTE ON FUNCTION api.track, api.batch TO regress_web_anon, regress_web_user;
GRANT EXECUTE ON FUNCTION api.me TO regress_web_user;
-- block 3
SELECT cdp.create_trait('views', aggregate => 'count', event => 'Product Viewed');
BEGIN;
SET LOCAL ROLE regress_web_user;
SELECT set_config('request.jwt.claims', '{"role": "regress_web_user", "sub": "ada"}', true) IS NOT NULL AS claims;
WITH body AS (SELECT * FROM json_to_record('{"event": "Product Viewed", "properties": {"sku": "T-1"}, "anonymous_id": "phone-7f3a", "message_id": "m1"}')
    AS _(event text, properties jsonb, anonymous_id text, message_id text))
SELECT api.track(event => event, properties => properties, anonymous_id => anonymous_id, message_id => message_id) FROM body;
COMMIT;
BEGIN;
SET LOCAL ROLE regress_web_anon;
SELECT api.batch('{"batch": [{"type": "track", "event": "Product Viewed", "anonymousId": "phone-7f3a", "messageId": "m2", "timestamp": "2026-05-04T08:00:00Z"}], "sentAt": "2026-05-04T09:00:00Z"}');
COMMIT;
SELECT cdp.apply() > 0 AS applied;
BEGIN;
SET LOCAL ROLE regress_web_user;
SELECT set_config('request.jwt.claims', '{"role": "regress_web_user", "sub": "ada"}', true) IS NOT NULL AS claims;
SELECT api.me()->>'views' AS views;
COMMIT;
SET ROLE regress_web_anon;
SELECT api.me();
SELECT cdp.profile('user_id:ada');
RESET ROLE;
-- block 4
CREATE TABLE api.logged (message_id text PRIMARY KEY);
CREATE FUNCTION api.log_event(event text, properties jsonb, hasura_session json) RETURNS SETOF api.logged
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT cdp.track(event, properties, user_id => hasura_session->>'x-hasura-user-id', source => 'web')
$$;
SELECT count(*) FROM api.log_event('Product Viewed', '{"sku": "T-2"}', '{"x-hasura-user-id": "ada"}');
-- block 5
DROP SCHEMA api CASCADE;
DROP ROLE regress_web_anon, regress_web_user;
