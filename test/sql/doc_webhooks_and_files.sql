-- Made from doc/webhooks-and-files.md by test/readme; do not edit.
-- block 1
SET client_min_messages = warning;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET timezone = 'UTC';
SET cdp.now = '2026-05-04 09:00+00';
-- block 2
CREATE SCHEMA hooks;
CREATE TABLE hooks.stripe (body jsonb NOT NULL, id text GENERATED ALWAYS AS (body->>'id') STORED PRIMARY KEY);
CREATE TABLE hooks.zendesk (body jsonb NOT NULL, id text GENERATED ALWAYS AS (body->>'id') STORED PRIMARY KEY);
-- block 3
SELECT cdp.create_identifier_kind('stripe_id', normaliser => 'verbatim');
SELECT cdp.attach('hooks.stripe', '{
    "event": {"sql": "body->>''type''"},
    "time": "to_timestamp((body->>''created'')::float8)",
    "identifiers": {
        "stripe_id": "CASE WHEN body#>>''{data,object,object}'' = ''customer'' THEN body#>>''{data,object,id}'' ELSE body#>>''{data,object,customer}'' END",
        "email": "COALESCE(body#>>''{data,object,customer_email}'', body#>>''{data,object,customer_details,email}'', CASE WHEN body#>>''{data,object,object}'' = ''customer'' THEN body#>>''{data,object,email}'' END)",
        "user_id": "COALESCE(body#>>''{data,object,client_reference_id}'', body#>>''{data,object,metadata,user_id}'')"},
    "properties": "jsonb_strip_nulls(jsonb_build_object(''amount'', round(COALESCE(body#>>''{data,object,amount_paid}'', body#>>''{data,object,amount}'')::numeric / 100, 2), ''currency'', body#>''{data,object,currency}'', ''status'', body#>''{data,object,status}''))",
    "filter": "COALESCE((body->>''livemode'')::boolean, true)"}');
INSERT INTO hooks.stripe (body) VALUES
    ('{"id": "evt_1", "object": "event", "type": "customer.created", "created": 1777622400, "livemode": true,
       "data": {"object": {"id": "cus_9", "object": "customer", "email": "Ada@example.com", "metadata": {"user_id": "ada"}}}}'),
    ('{"id": "evt_2", "object": "event", "type": "invoice.paid", "created": 1777626000, "livemode": true,
       "data": {"object": {"id": "in_1", "object": "invoice", "customer": "cus_9", "amount_paid": 4900, "currency": "eur", "status": "paid"}}}'),
    ('{"id": "evt_3", "object": "event", "type": "invoice.paid", "created": 1777626000, "livemode": false,
       "data": {"object": {"id": "in_2", "object": "invoice", "customer": "cus_9", "amount_paid": 100, "currency": "eur"}}}');
INSERT INTO hooks.stripe (body)
    VALUES ('{"id": "evt_2", "object": "event", "type": "invoice.paid", "created": 1777626000, "data": {"object": {"id": "in_1"}}}')
    ON CONFLICT DO NOTHING;
-- block 4
SELECT cdp.create_identifier_kind('zendesk_id', normaliser => 'verbatim');
SELECT cdp.attach('hooks.zendesk', '{
    "event": {"sql": "CASE body->>''type'' WHEN ''zen:event-type:ticket.created'' THEN ''Ticket Opened'' ELSE ''Ticket Solved'' END"},
    "time": "(body->>''time'')::timestamptz",
    "filter": "body->>''type'' = ''zen:event-type:ticket.created'' OR body->>''type'' = ''zen:event-type:ticket.status_changed'' AND body#>>''{event,current}'' = ''SOLVED''",
    "identifiers": {"zendesk_id": "body#>>''{detail,requester_id}''", "email": "body#>>''{detail,requester_email}''"},
    "properties": {"ticket": "body#>>''{detail,id}''", "priority": "lower(body#>>''{detail,priority}'')"}}');
INSERT INTO hooks.zendesk (body) VALUES
    ('{"id": "z1", "type": "zen:event-type:ticket.created", "time": "2026-05-02T08:00:00Z",
       "detail": {"id": "35436", "requester_id": "8447388090494", "requester_email": "ada@example.com", "priority": "HIGH", "status": "OPEN"}, "event": {}}'),
    ('{"id": "z2", "type": "zen:event-type:ticket.status_changed", "time": "2026-05-02T11:00:00Z",
       "detail": {"id": "35436", "requester_id": "8447388090494", "priority": "HIGH"}, "event": {"current": "SOLVED", "previous": "OPEN"}}'),
    ('{"id": "z3", "type": "zen:event-type:ticket.created", "time": "soon", "detail": {"id": "35437", "requester_id": "8447388090494"}, "event": {}}');
-- block 5
SELECT cdp.create_trait('paid', aggregate => 'sum', event => 'invoice.paid', value => $$(properties->>'amount')::numeric$$);
SELECT cdp.create_trait('tickets', aggregate => 'count', event => 'Ticket Opened');
SELECT cdp.create_trait('solved', aggregate => 'count', event => 'Ticket Solved');
SELECT cdp.create_segment('to_be_called', 'paid > 0 AND tickets > COALESCE(solved, 0)');
SELECT cdp.apply() > 0 AS applied;
SELECT identifier FROM cdp.identities WHERE profile_id = cdp.resolve('user_id:ada') ORDER BY 1;
SELECT p.traits->>'paid' AS paid, p.traits->>'tickets' AS tickets, p.traits->>'solved' AS solved FROM cdp.profiles p WHERE p.profile_id = cdp.resolve('user_id:ada');
SELECT source, detail, payload#>>'{body,id}' AS id FROM cdp.rejected;
-- block 6
UPDATE hooks.zendesk SET body = jsonb_set(body, '{time}', '"2026-05-03T08:00:00Z"') WHERE id = 'z3';
SELECT cdp.apply() > 0 AS applied;
SELECT cdp.in_segment('zendesk_id:8447388090494', 'to_be_called');
SELECT logged, retracted, rejected FROM cdp.sync_attachment('zendesk');
SELECT count(*) AS rejected FROM cdp.rejected;
-- block 7
COPY cdp.events (message_id, source, event, identifiers, properties, occurred_at) FROM stdin WITH (FORMAT csv);
till-1,till,Shop Visit,"{loyalty_card:77,email:ada@example.com}","{""shop"": ""Kiel""}",2026-05-01T15:00:00Z
till-2,till,Shop Visit,{loyalty_card:77},"{""shop"": ""Bonn""}",2026-05-02T15:00:00Z
\.
-- block 8
SELECT cdp.create_identifier_kind('loyalty_card', normaliser => 'verbatim');
SELECT cdp.apply() > 0 AS applied;
SELECT event, properties->>'shop' AS shop FROM cdp.timeline('user_id:ada') WHERE event = 'Shop Visit' ORDER BY at;
-- block 9
CREATE TEMP TABLE lines (line text);
COPY lines FROM stdin WITH (FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02');
{"type": "track", "messageId": "f-1", "event": "Shop Visit", "userId": "ada", "properties": {"shop": "Ulm"}, "timestamp": "2026-05-03T10:00:00Z"}
{"type": "track", "messageId": "f-2", "event": "Shop Visit", "userId": "bob", "properties": {"shop": "Ulm"}, "timestamp": "2026-05-03T11:00:00Z"}
\.
SELECT accepted, rejected FROM cdp.ingest((SELECT jsonb_agg(line::jsonb) FROM lines), 'files');
-- block 10
CREATE EXTENSION file_fdw;
CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
CREATE FOREIGN TABLE members (card text, email text, level text) SERVER files
    OPTIONS (program 'printf "77,ada@example.com,gold\n78,bob@example.com,silver\n"', format 'csv');
SELECT cdp.attach('members', '{"type": "identify", "key": "card", "identifiers": {"loyalty_card": "card", "email": "email"}, "traits": ["level"]}');
SELECT cdp.create_trait('level', type => 'text');
SELECT cdp.apply() > 0 AS applied;
SELECT cdp.profile('loyalty_card:77')->'traits'->>'level' AS level;
ALTER FOREIGN TABLE members OPTIONS (SET program 'printf "77,ada@example.com,platinum\n"');
SELECT logged, retracted FROM cdp.sync_attachment('members');
SELECT cdp.apply() > 0 AS applied;
SELECT cdp.profile('loyalty_card:77')->'traits'->>'level' AS level, cdp.profile('loyalty_card:78')->'traits'->>'level' AS of_bob;
SELECT * FROM cdp.verify();
