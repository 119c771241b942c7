/* sql/apply/sample.sql: a story to play with */

-- Message ids are fixed, so that a second call adds nothing that counts; names
-- begin with sample_, so that nobody's own definitions are in the way.
CREATE FUNCTION cdp.load_sample() RETURNS SETOF text
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	clock timestamptz := cdp.clock();
	product record;
BEGIN
	PERFORM cdp.create_trait('sample_views', aggregate => 'count', event => 'Product Viewed',
		description => 'products viewed', if_exists => 'skip');
	PERFORM cdp.create_trait('sample_orders', aggregate => 'count', event => 'Order Completed',
		description => 'orders', if_exists => 'skip');
	PERFORM cdp.create_trait('sample_ltv', aggregate => 'sum', event => 'Order Completed',
		value => '(properties->>''revenue'')::numeric',
		description => 'revenue of all orders', if_exists => 'skip');
	PERFORM cdp.create_trait('sample_favourite', aggregate => 'most_frequent', event => 'Product Viewed',
		value => 'properties->>''category''',
		description => 'category viewed most often', if_exists => 'skip');
	PERFORM cdp.create_segment('sample_warm_leads',
		'did(''Product Viewed'', at_least => 3, within => ''7 days'')'
		' AND NOT did(''Order Completed'', within => ''7 days'')',
		description => 'looked at three products within seven days and bought nothing',
		if_exists => 'skip');
	PERFORM cdp.create_segment('sample_customers', 'sample_orders > 0',
		description => 'bought at least once', if_exists => 'skip');

	-- Ada looks around on two devices, then signs up: a warm lead.
	-- Ben has bought twice.  Cleo's seven days are over in a minute.
	FOR product IN
		SELECT * FROM (VALUES
			('a1', 'sample-phone', 'tents', interval '5 hours'),
			('a2', 'sample-phone', 'tents', interval '4 hours'),
			('a3', 'sample-laptop', 'stoves', interval '3 hours'),
			('b1', 'sample-tablet', 'boots', interval '40 days'),
			('c1', 'sample-tv', 'maps', interval '7 days' - interval '60 seconds'),
			('c2', 'sample-tv', 'maps', interval '7 days' - interval '50 seconds'),
			('c3', 'sample-tv', 'bags', interval '7 days' - interval '40 seconds')
		) AS v(message, device, category, ago)
	LOOP
		PERFORM cdp.track('Product Viewed',
			jsonb_build_object('category', product.category),
			anonymous_id => product.device,
			occurred_at => clock - product.ago,
			message_id => 'sample-' || product.message, source => 'sample');
	END LOOP;
	PERFORM cdp.identify('sample-ada', '{"email": "Ada@sample.example", "plan": "free"}',
		anonymous_id => 'sample-phone', occurred_at => clock - interval '2 hours',
		message_id => 'sample-a4', source => 'sample');
	PERFORM cdp.identify('sample-ada', '{"plan": "plus"}',
		anonymous_id => 'sample-laptop', occurred_at => clock - interval '1 hour',
		message_id => 'sample-a5', source => 'sample');
	PERFORM cdp.identify('sample-ben', '{"email": "ben@sample.example"}',
		anonymous_id => 'sample-tablet', occurred_at => clock - interval '39 days',
		message_id => 'sample-b2', source => 'sample');
	PERFORM cdp.track('Order Completed', '{"revenue": 89.50}', user_id => 'sample-ben',
		occurred_at => clock - interval '38 days', message_id => 'sample-b3', source => 'sample');
	PERFORM cdp.track('Order Completed', '{"revenue": 12.00}', user_id => 'sample-ben',
		occurred_at => clock - interval '2 days', message_id => 'sample-b4', source => 'sample');

	RETURN NEXT 'SELECT cdp.apply();  -- unless a worker runs: see SELECT * FROM cdp.status()';
	RETURN NEXT 'SELECT jsonb_pretty(cdp.profile(''email:ada@sample.example''));';
	RETURN NEXT 'SELECT * FROM cdp.timeline(''user_id:sample-ada'');';
	RETURN NEXT 'SELECT * FROM cdp.explain_segment(''sample_warm_leads'', ''anonymous_id:sample-tv'');  -- leaves in a minute';
	RETURN NEXT 'SELECT * FROM cdp.memberships;';
	RETURN NEXT 'SELECT * FROM cdp.changes ORDER BY epoch, seq;';
END
$$;
COMMENT ON FUNCTION cdp.load_sample() IS
	'log a story to play with: three people, four traits, two segments; returns what to type next. A second call adds nothing that counts';
REVOKE EXECUTE ON FUNCTION cdp.load_sample() FROM PUBLIC;
