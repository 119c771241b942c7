-- Made from README.md by test/readme; do not edit.
-- block 1
CREATE EXTENSION cdp;
SET cdp.now = '2026-05-04 09:00+00';
-- block 2
SELECT cdp.create_trait('orders', aggregate => 'count', event => 'Order Completed');
SELECT cdp.create_trait('ltv', aggregate => 'sum', event => 'Order Completed',
                        value => $$(properties->>'revenue')::numeric$$);
SELECT cdp.create_trait('favourite', aggregate => 'most_frequent', event => 'Product Viewed',
                        value => $$properties->>'category'$$);
SELECT cdp.create_segment('warm_leads',
    $$did('Product Viewed', at_least => 3, within => '7 days') AND NOT did('Order Completed', within => '7 days')$$);
SELECT cdp.create_segment('customers', 'orders > 0');
-- block 3
SELECT cdp.track('Product Viewed', '{"sku": "T-1", "category": "tents"}', anonymous_id => 'phone-7f3a');
SELECT cdp.track('Product Viewed', '{"sku": "S-1", "category": "stoves"}', anonymous_id => 'laptop-91c2');
SELECT cdp.apply() AS applied;
SELECT profile_id, identifier FROM cdp.identities ORDER BY node_id;
-- block 4
SELECT cdp.identify('ada', '{"email": "Ada@Example.com", "plan": "free"}', anonymous_id => 'phone-7f3a');
SELECT cdp.identify('ada', '{"plan": "plus"}', anonymous_id => 'laptop-91c2');
SELECT cdp.apply() AS applied;
SELECT cdp.resolve('anonymous_id:phone-7f3a') = cdp.resolve('email:ada@example.com') AS same_person;
SELECT * FROM jsonb_each(cdp.profile('email:ada@example.com')) WHERE key NOT LIKE '%_seen';
-- block 5
SELECT cdp.track('Product Viewed', '{"sku": "T-2", "category": "tents"}', user_id => 'ada');
SELECT cdp.apply() AS applied;
SELECT seq, kind, segment, profile_id, cause FROM cdp.changes ORDER BY epoch, seq;
-- block 6
SET cdp.now = '2026-05-11 09:00+00';
SELECT cdp.apply() AS applied;
SELECT cdp.in_segment('user_id:ada', 'warm_leads');
SELECT seq, kind, segment, profile_id, cause FROM cdp.changes ORDER BY epoch DESC, seq DESC LIMIT 1;
-- block 7
SELECT cdp.subscribe('mailer', start => 'now');
SELECT cdp.track('Order Completed', '{"revenue": 129.90}', user_id => 'ada');
SELECT cdp.apply() AS applied;
SELECT seq, kind, segment, profile_id FROM cdp.poll('mailer');
SELECT cdp.ack('mailer', 6);
SELECT traits FROM cdp.profiles WHERE profile_id = cdp.resolve('user_id:ada');
-- block 8
SELECT cdp.split('user_id:ada', 'anonymous_id:phone-7f3a', 'not her phone') AS split \gset
SELECT cdp.apply() AS applied;
SELECT cdp.resolve('anonymous_id:phone-7f3a') = cdp.resolve('user_id:ada') AS same_person;
SELECT cdp.undo(:'split') AS undone \gset
SELECT cdp.apply() AS applied;
SELECT cdp.resolve('anonymous_id:phone-7f3a') = cdp.resolve('user_id:ada') AS same_person;
-- block 9
SELECT * FROM cdp.verify();
-- block 10
CREATE ROLE regress_readme_shop;
GRANT EXECUTE ON FUNCTION cdp.ingest(jsonb, text) TO regress_readme_shop;
GRANT SELECT ON cdp.identities, cdp.memberships TO regress_readme_shop;
DROP OWNED BY regress_readme_shop;
DROP ROLE regress_readme_shop;
