-- Made from doc/traits.md by test/readme; do not edit.
-- block 1
SET client_min_messages = warning;
CREATE EXTENSION cdp;
SET cdp.now = '2026-05-04 09:00+00';
CREATE TABLE orders (customer int, ordered_at timestamptz, sku text, amount numeric);
INSERT INTO orders SELECT i % 3, timestamptz '2026-04-20' + i * interval '7 hours', 's' || i % 4, i FROM generate_series(1, 12) i;
-- block 2
SELECT cdp.create_trait('employees', type => 'numeric');
-- block 3
SELECT cdp.create_trait('ltv', aggregate => 'sum', event => 'Order Completed',
                        value => $$(properties->>'revenue')::numeric$$);
-- block 4
SELECT cdp.create_trait('bought', aggregate => 'unique_list', event => 'Order Completed',
                        each => $$properties->'products'$$, value => $$item->>'sku'$$,
                        within => '3 months', older_than => '7 days', timezone => 'Europe/Berlin');
-- block 5
SELECT cdp.create_trait('views_90d', aggregate => 'count', event => 'Product Viewed', within => '90 days',
                        options => '{"granularity": "1 hour"}');
-- block 6
SELECT count(cdp.track('Viewed', jsonb_build_object('sku', sku, 'price', price), user_id => 'ada', occurred_at => at::timestamptz))
FROM (VALUES ('2026-04-20 10:00+00', 'tent', 120), ('2026-04-20 10:10+00', 'stove', 40), ('2026-04-20 15:00+00', 'tent', 120),
             ('2026-04-21 23:30+00', 'rope', 9.5), ('2026-04-30 08:00+00', 'tent', 110), ('2026-05-02 09:00+00', 'lamp', 25),
             ('2026-05-03 07:00+00', 'rope', 9), ('2026-05-03 07:05+00', 'tent', 110), ('2026-05-04 08:00+00', 'stove', NULL)) v(at, sku, price);
SELECT cdp.track('Ordered', '{"products": [{"sku": "tent", "n": 1}, {"sku": "rope", "n": 3}]}', user_id => 'ada', occurred_at => '2026-05-03 07:30+00') <> '' AS logged;
SELECT cdp.apply();
SELECT count(cdp.create_trait(name, aggregate => aggregate, value => CASE v WHEN 'sku' THEN $$properties->>'sku'$$ WHEN 'price' THEN $$(properties->>'price')::numeric$$ END,
                              event => 'Viewed', within => win::interval, older_than => older::interval, since => since::timestamptz, timezone => zone, empty => empty, options => options::jsonb))
FROM (VALUES
    ('views',        'count',          NULL,    NULL, NULL, NULL, NULL, NULL, NULL),
    ('any',          'exists',         NULL,    NULL, NULL, NULL, NULL, NULL, NULL),
    ('total',        'sum',            'price', NULL, NULL, NULL, NULL, NULL, NULL),
    ('mean',         'avg',            'price', NULL, NULL, NULL, NULL, '0',  NULL),
    ('spread',       'stddev',         'price', NULL, NULL, NULL, NULL, NULL, NULL),
    ('spread_all',   'stddev',         'price', NULL, NULL, NULL, NULL, NULL, '{"population": true}'),
    ('cheapest',     'min',            'price', NULL, NULL, NULL, NULL, NULL, NULL),
    ('dearest',      'max',            'price', NULL, NULL, NULL, NULL, NULL, NULL),
    ('first_sku',    'first',          'sku',   NULL, NULL, NULL, NULL, NULL, NULL),
    ('last_sku',     'last',           'sku',   NULL, NULL, NULL, NULL, NULL, NULL),
    ('first_at',     'first_time',     NULL,    NULL, NULL, NULL, NULL, NULL, NULL),
    ('last_at',      'last_time',      NULL,    NULL, NULL, NULL, NULL, NULL, NULL),
    ('favourite',    'most_frequent',  'sku',   NULL, NULL, NULL, NULL, NULL, NULL),
    ('rarest',       'least_frequent', 'sku',   NULL, NULL, NULL, NULL, NULL, NULL),
    ('skus',         'unique_count',   'sku',   NULL, NULL, NULL, NULL, NULL, '{"exact": true}'),
    ('sku_list',     'unique_list',    'sku',   NULL, NULL, NULL, NULL, NULL, '{"size": 3}'),
    ('latest',       'list',           'sku',   NULL, NULL, NULL, NULL, NULL, '{"size": 2}'),
    ('median',       'percentile',     'price', NULL, NULL, NULL, NULL, NULL, NULL),
    ('upper',        'percentile',     'price', NULL, NULL, NULL, NULL, NULL, '{"p": 0.9, "exact": true}'),
    ('visits',       'sessions',       NULL,    NULL, NULL, NULL, NULL, NULL, NULL),
    ('long_visits',  'sessions',       NULL,    NULL, NULL, NULL, NULL, NULL, '{"gap": "6 hours"}'),
    ('visit_time',   'session_time',   NULL,    NULL, NULL, NULL, NULL, NULL, NULL),
    ('visit_length', 'session_length', NULL,    NULL, NULL, NULL, NULL, NULL, '{"gap": "6 hours"}'),
    ('visit_events', 'session_events', NULL,    NULL, NULL, NULL, NULL, NULL, NULL),
    ('daily',        'rate',           NULL,    NULL, NULL, NULL, NULL, NULL, NULL),
    ('days',         'streak',         NULL,    NULL, NULL, NULL, NULL, NULL, NULL),
    ('weeks',        'streak',         NULL,    NULL, NULL, NULL, NULL, NULL, '{"unit": "week"}'),
    ('best_days',    'longest_streak', NULL,    NULL, NULL, NULL, 'Europe/Berlin', NULL, NULL),
    ('views_7d',     'count',          NULL,    '7 days', NULL, NULL, NULL, NULL, NULL),
    ('views_before', 'count',          NULL,    '1 month', '7 days', NULL, NULL, NULL, NULL),
    ('views_old',    'count',          NULL,    NULL, '7 days', NULL, NULL, NULL, NULL),
    ('views_may',    'count',          NULL,    NULL, NULL, '2026-05-01', NULL, NULL, NULL),
    ('views_coarse', 'count',          NULL,    '4 days', NULL, NULL, NULL, NULL, '{"granularity": "1 day"}'),
    ('announced',    'count',          NULL,    NULL, NULL, NULL, NULL, NULL, '{"announce": true}')
  ) t(name, aggregate, v, win, older, since, zone, empty, options);
SELECT count(cdp.create_trait(name, aggregate => aggregate, event => 'Ordered', each => $$properties->'products'$$, value => value, filter => filter, type => type))
FROM (VALUES ('pieces', 'sum', $$(item->>'n')::int$$, NULL, NULL), ('several', 'last', $$item->>'sku'$$, $$(item->>'n')::int > 1$$, NULL),
             ('most', 'max', $$(item->>'n')::numeric$$, NULL, 'int')) t(name, aggregate, value, filter, type);
SELECT key AS trait, value FROM jsonb_each(cdp.profile('user_id:ada')->'traits') ORDER BY 1;
-- block 7
SELECT cdp.create_trait('whole', aggregate => 'sum', event => 'Viewed', value => $$(properties->>'price')::int$$);
SELECT name, errors, nulls, last_error FROM cdp.stat_traits WHERE errors > 0;
-- block 8
SELECT cdp.create_trait('price_per_view', expression => 'round(total / nullif(views, 0), 2)');
SELECT cdp.profile('user_id:ada') #> '{traits,price_per_view}' AS price_per_view;
-- block 9
SELECT cdp.profile('user_id:ada', fresh => true);
-- block 10
SELECT cdp.profile_at('user_id:ada', '2026-05-01');                     -- as it was, by all that we know now
SELECT cdp.profile_at('user_id:ada', '2026-05-01', '2026-05-01');       -- as it was shown then
-- block 11
SELECT cdp.finish(cdp.trait_state_agg('sum', amount)) FROM orders;
SELECT cdp.finish(cdp.trait_state_agg('list', sku, ordered_at, '{"size": 3}')) FROM orders;

CREATE TABLE daily AS
SELECT customer, ordered_at::date AS day, cdp.trait_state_agg('unique_count', sku) AS skus FROM orders GROUP BY 1, 2;
SELECT customer, cdp.finish(cdp.combine(skus)) FROM daily WHERE day > '2026-01-01' GROUP BY 1;
SELECT day, cdp.finish(cdp.combine(skus) OVER (ORDER BY day ROWS 6 PRECEDING)) FROM daily WHERE customer = 1;
-- block 12
DROP TABLE orders, daily;
DROP EXTENSION cdp CASCADE;
