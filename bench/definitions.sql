-- bench/definitions.sql: ten traits and five segments, as a shop would have.
SELECT cdp.create_trait('views', aggregate => 'count', event => 'Product Viewed');
SELECT cdp.create_trait('orders', aggregate => 'count', event => 'Order Completed');
SELECT cdp.create_trait('ltv', aggregate => 'sum', event => 'Order Completed', value => $$(properties->>'revenue')::numeric$$);
SELECT cdp.create_trait('largest_order', aggregate => 'max', event => 'Order Completed', value => $$(properties->>'revenue')::numeric$$);
SELECT cdp.create_trait('average_order', aggregate => 'avg', event => 'Order Completed', value => $$(properties->>'revenue')::numeric$$);
SELECT cdp.create_trait('first_order', aggregate => 'min', event => 'Order Completed', value => 'occurred_at');
SELECT cdp.create_trait('last_login', aggregate => 'max', event => 'Logged In', value => 'occurred_at');
SELECT cdp.create_trait('favourite', aggregate => 'most_frequent', event => 'Product Viewed', value => $$properties->>'category'$$);
SELECT cdp.create_trait('orders_30d', aggregate => 'count', event => 'Order Completed', within => '30 days');
SELECT cdp.create_trait('country', type => 'text');

SELECT cdp.create_segment('buyers', 'orders > 0');
SELECT cdp.create_segment('high_value', 'ltv > 500 AND orders_30d >= 2');
SELECT cdp.create_segment('warm_leads', $$did('Product Viewed', at_least => 3, within => '7 days') AND NOT did('Order Completed', within => '7 days')$$);
SELECT cdp.create_segment('europe', $$country IN ('DE', 'FR', 'NL') AND views >= 5$$);
SELECT cdp.create_segment('tent_people', $$favourite = 'tents' AND NOT orders > 3$$);
