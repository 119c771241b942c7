-- Definitions of traits: what they accept, refuse and show.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;
SET IntervalStyle = postgres;
\set SHOW_CONTEXT never

SELECT create_trait('ltv', aggregate => 'sum', value => $$(properties->>'revenue')::numeric$$, event => 'Order Completed');
SELECT create_trait('orders', aggregate => 'count', event => 'Order Completed', description => 'orders ever');
SELECT create_trait('orders_30d', aggregate => 'count', event => 'Order Completed', within => '30 days', timezone => 'Europe/Berlin');
SELECT create_trait('last_login', aggregate => 'last', value => $$occurred_at$$, event => 'Logged In');
SELECT create_trait('favourite', aggregate => 'most_frequent', value => $$properties->>'category'$$, filter => $$type = 'track' AND properties ? 'category'$$, empty => 'none');
SELECT create_trait('days', aggregate => 'unique_count', value => $$date_trunc('day', occurred_at)$$, timezone => 'Asia/Tokyo');
SELECT create_trait('employees', type => 'numeric');
SELECT create_trait('aov', expression => $$round(ltv / nullif(orders, 0), 2)$$);
SELECT create_trait('is_big', expression => $$aov > 100 OR Employees > 50$$, options => '{"announce": true}');
SELECT name, kind, aggregate, event, filter, within, expression, type, empty, timezone, announce FROM traits ORDER BY name;
SELECT name, value_sql, filter_sql FROM trait_definitions WHERE value_sql IS NOT NULL OR filter_sql IS NOT NULL ORDER BY name;
\d profile_traits

-- names
SELECT create_trait('LTV', aggregate => 'count');
SELECT create_trait('1st', aggregate => 'count');
SELECT create_trait(repeat('x', 52), aggregate => 'count');
SELECT create_trait('profile_id', aggregate => 'count');
SELECT create_trait('', aggregate => 'count');
SELECT create_trait(NULL, aggregate => 'count');
SELECT create_trait('ltv', aggregate => 'count');
SELECT create_trait('ltv', aggregate => 'count', if_exists => 'skip');
SELECT create_trait('ltv', aggregate => 'count', if_exists => 'maybe');

-- aggregates and arguments
SELECT create_trait('x', aggregate => 'median');
SELECT create_trait('x', aggregate => 'percentile');
SELECT create_trait('x', aggregate => 'declared');
SELECT create_trait('x', aggregate => 'sum');
SELECT create_trait('x', aggregate => 'sum', value => 'event');
SELECT create_trait('x', aggregate => 'sum', value => 'properties');
SELECT create_trait('x', aggregate => 'max', value => $$point(1, 2)$$);
SELECT create_trait('x', aggregate => 'count', expression => '1');
SELECT create_trait('x', aggregate => 'count', each => 'products');
SELECT create_trait('x', aggregate => 'count', entity => 'planet');
SELECT create_trait('x', aggregate => 'count', type => 'text');
SELECT create_trait('x', aggregate => 'count', within => '-1 day');
SELECT create_trait('x', aggregate => 'count', within => '0');
SELECT create_trait('x', aggregate => 'count', within => '2000 years');
SELECT create_trait('x', aggregate => 'count', timezone => 'Mars/Olympus');
SELECT create_trait('x', aggregate => 'count', timezone => 'CET');
SELECT create_trait('x', aggregate => 'count', empty => 'many');
SELECT create_trait('x', aggregate => 'count', options => '[]');
SELECT create_trait('x');
SELECT create_trait('x', type => 'numeric', event => 'Order Completed');
SELECT create_trait('x', type => 'no_such_type');
SELECT create_trait('x', type => 'cdp.identifier');
SELECT create_trait('x', type => 'record');

-- expressions: positions and reasons
SELECT create_trait('x', aggregate => 'max', value => '');
SELECT create_trait('x', aggregate => 'max', value => '1 +');
SELECT create_trait('x', aggregate => 'max', value => '1, 2');
SELECT create_trait('x', aggregate => 'max', value => '1 FROM cdp.events');
SELECT create_trait('x', aggregate => 'max', value => '1 LIMIT 1');
SELECT create_trait('x', aggregate => 'max', value => '1; DROP TABLE cdp.events');
SELECT create_trait('x', aggregate => 'max', value => '1 AS one');
SELECT create_trait('x', aggregate => 'max', value => 'DISTINCT id');
SELECT create_trait('x', aggregate => 'max', value => '*');
SELECT create_trait('x', aggregate => 'max', value => 'id + amount');
SELECT create_trait('x', aggregate => 'max', value => 'events.id');
SELECT create_trait('x', aggregate => 'max', value => 'xid');
SELECT create_trait('x', aggregate => 'max', value => '(SELECT 1)');
SELECT create_trait('x', aggregate => 'max', value => 'id + (SELECT max(id) FROM cdp.events)');
SELECT create_trait('x', aggregate => 'max', value => 'EXISTS (SELECT FROM pg_class)');
SELECT create_trait('x', aggregate => 'max', value => 'ARRAY(SELECT 1)');
SELECT create_trait('x', aggregate => 'max', value => '$1');
SELECT create_trait('x', aggregate => 'max', value => 'max(id)');
SELECT create_trait('x', aggregate => 'max', value => 'row_number() OVER ()');
SELECT create_trait('x', aggregate => 'max', value => 'generate_series(1, 3)');
SELECT create_trait('x', aggregate => 'max', value => 'jsonb_object_keys(properties)');
SELECT create_trait('x', aggregate => 'max', value => 'random()');
SELECT create_trait('x', aggregate => 'max', value => 'id + pg_backend_pid()');
SELECT create_trait('x', aggregate => 'max', value => $$nextval('cdp.events_id_seq')$$);
SELECT create_trait('x', aggregate => 'max', value => $$pg_read_file('/etc/passwd')$$);
SELECT create_trait('x', aggregate => 'max', value => $$current_setting('port')$$);
SELECT create_trait('x', aggregate => 'max', value => 'now()');
SELECT create_trait('x', aggregate => 'max', value => 'clock_timestamp()');
SELECT create_trait('x', aggregate => 'max', value => 'age(occurred_at)');
SELECT create_trait('x', aggregate => 'max', value => 'current_date');
SELECT create_trait('x', aggregate => 'max', value => 'CURRENT_TIMESTAMP - occurred_at');
SELECT create_trait('x', aggregate => 'max', value => 'localtime');
SELECT create_trait('x', aggregate => 'max', value => 'current_user');
SELECT create_trait('x', aggregate => 'max', value => $$'now'::timestamptz$$);
SELECT create_trait('x', aggregate => 'exists', filter => $$occurred_at > 'yesterday'$$);
SELECT create_trait('x', aggregate => 'exists', filter => $$occurred_at = ANY ('{today}')$$);
SELECT create_trait('x', aggregate => 'exists', filter => $$event = 'now'$$);
SELECT drop_trait('x');
SELECT create_trait('x', aggregate => 'max', value => $$'pg_class'::regclass$$);
SELECT create_trait('x', aggregate => 'max', value => $$source::regclass$$);
SELECT create_trait('x', aggregate => 'max', value => 'ROW(1, 2)');
SELECT create_trait('x', aggregate => 'max', value => 'xmlelement(name a)');
SELECT create_trait('x', aggregate => 'max', value => $$event COLLATE "no such collation"$$);
SELECT create_trait('x', aggregate => 'exists', filter => 'event');
SELECT create_trait('x', aggregate => 'exists', filter => 'properties');
SELECT create_trait('x', aggregate => 'exists', filter => 'id = event');
SELECT create_trait('x', aggregate => 'exists', filter => E'type = ''track''\nAND no_such_column');
SELECT create_trait('x', aggregate => 'exists', filter => repeat('x', 1100000));

-- nothing of a user's is ever picked up
CREATE FUNCTION public.lower(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT 'hijacked'$$;
CREATE FUNCTION public.mine(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT 'hijacked'$$;
CREATE DOMAIN public.word AS text;
CREATE TYPE public.colour AS ENUM ('red');
CREATE FUNCTION public.never(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$SELECT false$$;
CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = public.never);
SET search_path = public, cdp;
SELECT create_trait('x', aggregate => 'max', value => 'lower(event)', filter => $$event = 'a'$$);
SELECT value_sql, filter_sql FROM trait_definitions WHERE name = 'x';
SELECT drop_trait('x');
SELECT create_trait('x', aggregate => 'max', value => 'mine(event)');
SELECT create_trait('x', aggregate => 'max', value => 'public.mine(event)');
SELECT create_trait('x', aggregate => 'max', value => 'event::word');
SELECT create_trait('x', aggregate => 'max', value => 'event::public.word');
SELECT create_trait('x', aggregate => 'max', value => $$'red'::public.colour$$);
SELECT create_trait('x', aggregate => 'exists', filter => $$event OPERATOR(public.=) 'a'$$);
SET search_path = cdp, public;
-- the extension's own functions are
SELECT create_trait('x', aggregate => 'max', value => $$cdp.value(identifiers[1])$$, filter => $$cdp.kind(identifiers[1]) = 'user_id'$$);
SELECT value_sql, filter_sql FROM trait_definitions WHERE name = 'x';
SELECT drop_trait('x');
SELECT create_trait('x', aggregate => 'max', value => $$cdp.clock()$$);

-- derived traits
SELECT create_trait('x', expression => 'ltv + no_such_trait');
SELECT create_trait('x', expression => 'ltv + ordrs');
SELECT create_trait('x', expression => 'x + 1');
SELECT create_trait('x', expression => 'now() - last_login');
SELECT create_trait('x', expression => $$last_login::text || favourite$$);
SELECT create_trait('y', expression => $$upper(x)$$);
SELECT alter_trait('x', expression => $$y || 'a'$$);
SELECT alter_trait('ltv', expression => 'aov * 2');
SELECT name, expression, type FROM traits WHERE name IN ('x', 'y');

-- alter: same name, same dependants, a new id when what is folded changes
CREATE TEMP TABLE ids AS SELECT name, id FROM trait_definitions;
SELECT alter_trait('orders', description => 'how many orders', empty => '-1');
SELECT alter_trait('ltv', event => 'Order Paid');
SELECT t.name, t.id = i.id AS same_id FROM trait_definitions t JOIN ids i USING (name) WHERE name IN ('orders', 'ltv', 'aov');
SELECT name, event, description, empty FROM traits WHERE name IN ('orders', 'ltv');
SELECT alter_trait('orders', event => '', description => '');
SELECT name, event, description FROM traits WHERE name = 'orders';
SELECT alter_trait('ltv', aggregate => 'last', value => 'event');
SELECT alter_trait('orders_30d', within => '60 days');
SELECT within FROM traits WHERE name = 'orders_30d';
SELECT alter_trait('orders_30d', within => '0');
SELECT within FROM traits WHERE name = 'orders_30d';
SELECT alter_trait('no_such_trait', event => 'x');
SELECT create_trait('ltv', aggregate => 'sum', value => $$(properties->>'revenue')::numeric$$, event => 'Order Completed', if_exists => 'replace');
SELECT name, event FROM traits WHERE name = 'ltv';
SELECT count(*) FROM definition_depends d WHERE NOT EXISTS (SELECT FROM trait_definitions t WHERE t.id = d.trait_id);

-- rename: derived traits follow, the view too
CREATE VIEW public.users_view AS SELECT profile_id, ltv, employees FROM profile_traits;
SELECT rename_trait('ltv', 'revenue');
SELECT rename_trait('employees', 'Staff');
SELECT rename_trait('employees', 'orders');
SELECT rename_trait('employees', 'staff');
SELECT name, expression FROM traits WHERE kind = 'derived' ORDER BY name;
SELECT key FROM trait_definitions WHERE name = 'staff';
SELECT replace(pg_get_viewdef('public.users_view'), 'profile_traits.', '') AS viewdef;

-- drop
SELECT drop_trait('revenue');
SELECT drop_trait('revenue', cascade => true);
DROP VIEW public.users_view;
SELECT drop_trait('revenue', cascade => true);
SELECT name FROM traits ORDER BY name;
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'profile_traits'::regclass ORDER BY attnum;
SELECT drop_trait('revenue');
-- a grant on the view survives its being made anew
CREATE ROLE regress_reader;
GRANT SELECT ON profile_traits TO regress_reader;
SELECT drop_trait('staff');
SELECT has_table_privilege('regress_reader', 'cdp.profile_traits', 'SELECT');
DROP OWNED BY regress_reader;
DROP ROLE regress_reader;

SELECT drop_trait('x', cascade => true);
-- keys that have been seen: resolved by definitions, declared with a notice
SELECT identify('u1', '{"createdAt": "2020-01-01", "Plan": "pro", "seats": 3, "mixed": 1, "vip": true, "First Name": "Ada", "tags": ["a"], "dup": 1, "DUP": 2}') IS NOT NULL;
SELECT identify('u1', '{"mixed": "one", "gone": null}') IS NOT NULL;
SELECT apply();
SELECT name, json_type FROM declared_keys ORDER BY name COLLATE "C", json_type;
SELECT create_trait('d1', expression => $$plan || ' ' || seats$$);
SELECT create_trait('d2', expression => $$"createdAt" > '2019'$$);
SELECT create_trait('d3', expression => $$createdat$$);
SELECT create_trait('d4', expression => $$"First Name"$$);
SELECT create_trait('d5', expression => $$NOT vip$$);
SELECT create_trait('d6', expression => $$tags->>0$$);
SELECT create_trait('x', expression => $$mixed$$);
SELECT create_trait('x', expression => $$"DuP" + 1$$);
SELECT create_trait('d7', expression => $$"DUP" + 1$$);
SELECT create_trait('x', expression => $$gone$$);
SELECT create_trait('mixed', type => 'text');
SELECT create_trait('d8', expression => $$mixed$$);
SELECT name, kind, type FROM traits WHERE kind = 'declared' ORDER BY name;
SELECT traits FROM profiles;
SELECT plan, seats, createdat, first_name, d1, d2, d3, d4, d5, d6, d7, d8 FROM profile_traits;
-- an implicit declaration gives way to an explicit one
SELECT create_trait('seats', type => 'text');
SELECT create_trait('plan', type => 'text');
SELECT create_trait('plan', type => 'text');
SELECT * FROM verify();

-- who may
CREATE ROLE regress_nobody;
SET ROLE regress_nobody;
SELECT cdp.create_trait('x', aggregate => 'count');
RESET ROLE;
GRANT EXECUTE ON FUNCTION cdp.create_trait TO regress_nobody;
SET ROLE regress_nobody;
SELECT cdp.create_trait('theirs', aggregate => 'count', filter => $$event <> ''$$);
RESET ROLE;
SELECT owner FROM traits WHERE name = 'theirs';
-- a role that is gone suspends what it owns, and nothing else
SELECT track('Ping', '{}', user_id => 'u1') IS NOT NULL;
SELECT apply();
SELECT traits->'theirs' AS theirs FROM profiles;
DROP OWNED BY regress_nobody;
DROP ROLE regress_nobody;
SELECT create_trait('z', aggregate => 'count');
SELECT traits->'theirs' AS theirs, traits->'z' AS z FROM profiles;

-- values that are arrays
SET client_min_messages = error;
SELECT count(create_trait('tags_' || a, aggregate => a, event => 'Tagged', value => $$string_to_array(properties->>'tags', ',')$$))
FROM unnest('{first,last,min,max,most_frequent,least_frequent,unique_list,unique_count,list}'::text[]) a;
SELECT count(track('Tagged', jsonb_build_object('tags', t), user_id => 'poet')) FROM unnest('{"a,b",b,"a,b",NULL,"",c}'::text[]) t;
SELECT apply();
SELECT key, value FROM jsonb_each(profile('user_id:poet')->'traits') WHERE key LIKE 'tags%' ORDER BY 1;
SELECT * FROM verify();

-- the view is not a member of the extension, yet goes with it
SELECT count(*) FROM pg_depend WHERE objid = 'cdp.profile_traits'::regclass AND deptype = 'e';
SET client_min_messages = error;
DROP EXTENSION cdp;
