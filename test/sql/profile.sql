-- Reading one profile.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET timezone = 'UTC';
SET cdp.now = '2026-03-01 12:00+00';

SELECT cdp.profile('user_id:u1');
SELECT cdp.create_trait('ltv', aggregate => 'sum', event => 'Order Completed', value => $$(properties->>'revenue')::numeric$$);
SELECT cdp.create_trait('recent', aggregate => 'count', event => 'Order Completed', within => '7 days');
SELECT cdp.create_segment('customers', 'ltv > 0');
SELECT cdp.create_segment('anonymous', $$ltv IS NULL$$);
DO $$ BEGIN
	PERFORM cdp.page('Home', anonymous_id => 'a1', occurred_at => '2026-02-27 09:00+00');
	PERFORM cdp.identify('u1', '{"name": "Ada", "tags": ["x", 1], "nested": {"a": null}}', anonymous_id => 'a1', identifiers => ARRAY['email: Ada@Example.com'::cdp.identifier], occurred_at => '2026-02-27 10:00+00');
	PERFORM cdp.track('Order Completed', '{"revenue": "12.50"}', user_id => 'u1', occurred_at => '2026-02-28 08:00+00', message_id => 'o-1', source => 'shop');
	PERFORM cdp.track('Order Completed', '{"revenue": "7.50"}', user_id => 'u1', occurred_at => '2026-02-28 08:00+00');
	PERFORM cdp.track('Viewed', user_id => 'u1', anonymous_id => 'a2', context => '{"ip": "::1"}');
	PERFORM cdp.page('Home', anonymous_id => 'a3');
END $$;
SELECT cdp.profile('user_id:u1');		-- not applied yet
SELECT cdp.apply();
SELECT jsonb_pretty(cdp.profile('user_id:u1'));
SELECT cdp.profile('email:ADA@example.com ') = cdp.profile('user_id:u1') AS canonical,
	cdp.profile(cdp.resolve('anonymous_id:a1')) = cdp.profile('anonymous_id:a2') AS by_id;
SELECT cdp.profile('anonymous_id:a3')->'segments' AS segments;
SELECT cdp.profile('user_id:nobody') IS NULL AS unknown, cdp.profile(0) IS NULL, cdp.profile(-1) IS NULL,
	cdp.profile(NULL::cdp.identifier) IS NULL, cdp.profile('user_id:null') IS NULL AS blocked;
SELECT cdp.profile('shoe_size:43');
SELECT cdp.profile('nonsense');

-- values are as of the read
SELECT cdp.profile('user_id:u1')->'traits'->'recent' AS recent;
SET cdp.now = '2026-03-07 08:00+00';
SELECT cdp.profile('user_id:u1')->'traits'->'recent' AS recent;
SET cdp.now = '2026-03-01 12:00+00';

-- timeline
SELECT at, type, event, properties, identifiers, source, message_id LIKE '#%' AS own_id FROM cdp.timeline('user_id:u1');
SELECT count(*) FROM cdp.timeline(cdp.resolve('user_id:u1'));
SELECT at, event FROM cdp.timeline('anonymous_id:a2', max => 2);
SELECT at, event FROM cdp.timeline('user_id:u1', before => '2026-02-28 08:00+00');
SELECT count(*) FROM cdp.timeline('user_id:u1', max => 0);
SELECT count(*) FROM cdp.timeline('user_id:u1', max => NULL);
SELECT * FROM cdp.timeline('user_id:u1', max => -1);
SELECT * FROM cdp.timeline('user_id:nobody');
SELECT * FROM cdp.timeline(NULL::cdp.identifier);
SELECT context FROM cdp.timeline('anonymous_id:a2') WHERE event = 'Viewed';

-- in_segment, segment_members
SELECT cdp.in_segment('user_id:u1', 'customers'), cdp.in_segment(cdp.resolve('user_id:u1'), 'anonymous'), cdp.in_segment('user_id:nobody', 'customers');
SELECT cdp.in_segment('user_id:u1', 'nobody');
SELECT cdp.in_segment('user_id:nobody', 'nobody');
SELECT cdp.segment_members('customers') = cdp.resolve('user_id:u1');
SELECT count(*) FROM cdp.segment_members('anonymous');
SELECT cdp.segment_members('nobody');

-- an id that has been merged away leads to the profile that took it in
SELECT cdp.resolve('anonymous_id:a3') AS old \gset
SELECT cdp.merge('user_id:u1', 'anonymous_id:a3', 'told us') IS NOT NULL;
SELECT cdp.apply();
SELECT cdp.profile(:old) = cdp.profile('user_id:u1') AS merged, cdp.profile(:old)->'identifiers' AS identifiers;

-- a reader needs EXECUTE and nothing else
CREATE ROLE regress_reader;
GRANT EXECUTE ON FUNCTION cdp.profile(cdp.identifier), cdp.timeline(cdp.identifier, timestamptz, int, bigint), cdp.in_segment(cdp.identifier, text), cdp.segment_members(text) TO regress_reader;
SET ROLE regress_reader;
SELECT cdp.profile('user_id:u1')->'segments' AS segments;
SELECT count(*) FROM cdp.timeline('user_id:u1');
SELECT cdp.in_segment('user_id:u1', 'customers');
SELECT count(*) FROM cdp.segment_members('customers');
SELECT count(*) FROM cdp.identities;
RESET ROLE;
DROP OWNED BY regress_reader;
DROP ROLE regress_reader;

-- within a read-only transaction, and a repeatable one
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT cdp.profile('user_id:u1')->'segments' AS segments;
SELECT cdp.in_segment('user_id:u1', 'customers');
COMMIT;
