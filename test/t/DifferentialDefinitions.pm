# What the streams of the differential test define: kinds, traits, segments,
# purposes, rules, and how these are changed and dropped on the way.  Each is SQL,
# or the arguments of a function of SQL.
package DifferentialDefinitions;

use strict;
use warnings;
use Exporter 'import';

our @EXPORT = qw(
	@traits @segments @more_traits @more_segments @identity_traits @identity_segments @account_traits @asked_of_members
	@account_segments @member_segments @purposes @purposed_segments @consent_steps @late
	@late_more @undefine_more @late_accounts @undefine_accounts @rules @account_rules @domain_steps %kinds @undefine
);

my $revenue = q{(properties->>'revenue')::numeric};
our @traits = (
	qq{'purchases', aggregate => 'count', event => 'Order Completed'},
	qq{'purchases_30d', aggregate => 'count', event => 'Order Completed', within => '30 days'},
	qq{'revenues', aggregate => 'count', value => \$\$$revenue\$\$, event => 'Order Completed'},
	qq{'ltv', aggregate => 'sum', value => \$\$$revenue\$\$, event => 'Order Completed'},
	qq{'ltv_7d', aggregate => 'sum', value => \$\$$revenue\$\$, event => 'Order Completed', within => '7 days'},
	qq{'quantity', aggregate => 'sum', value => \$\$(properties->>'qty')::int\$\$},
	qq{'average', aggregate => 'avg', value => \$\$$revenue\$\$, event => 'Order Completed'},
	qq{'average_month', aggregate => 'avg', value => \$\$$revenue\$\$, within => '1 month', timezone => 'America/New_York'},
	qq{'smallest', aggregate => 'min', value => \$\$$revenue\$\$, event => 'Order Completed'},
	qq{'smallest_10d', aggregate => 'min', value => \$\$$revenue\$\$, within => '10 days'},
	qq{'largest', aggregate => 'max', value => \$\$(properties->>'revenue')::float8\$\$},
	qq{'largest_20d', aggregate => 'max', value => \$\$(properties->>'revenue')::float8\$\$, within => '20 days'},
	qq{'last_name', aggregate => 'max', value => \$\$properties->>'product'\$\$},
	qq{'first_day', aggregate => 'min', value => \$\$occurred_at::date\$\$, timezone => 'Asia/Tokyo'},
	qq{'first_product', aggregate => 'first', value => \$\$properties->>'product'\$\$},
	qq{'first_product_9d', aggregate => 'first', value => \$\$properties->>'product'\$\$, within => '9 days'},
	qq{'last_product', aggregate => 'last', value => \$\$properties->>'product'\$\$, event => 'Product Viewed'},
	qq{'last_product_9d', aggregate => 'last', value => \$\$properties->>'product'\$\$, within => '9 days'},
	qq{'last_active', aggregate => 'last', value => \$\$occurred_at\$\$},
	qq{'favourite', aggregate => 'most_frequent', value => \$\$properties->>'product'\$\$},
	qq{'favourite_14d', aggregate => 'most_frequent', value => \$\$properties->>'product'\$\$, within => '14 days'},
	qq{'usual_quantity', aggregate => 'most_frequent', value => \$\$(properties->>'qty')::int\$\$},
	qq{'products', aggregate => 'unique_count', value => \$\$properties->>'product'\$\$},
	qq{'products_20d', aggregate => 'unique_count', value => \$\$properties->>'product'\$\$, within => '20 days'},
	qq{'premium', aggregate => 'exists', filter => \$\$properties->>'tier' = 'premium'\$\$},
	qq{'premium_5d', aggregate => 'exists', filter => \$\$properties->>'tier' = 'premium'\$\$, within => '5 days'},
	qq{'large_orders', aggregate => 'count', event => 'Order Completed', filter => \$\$$revenue > 50\$\$},
	qq{'large_hours', aggregate => 'count', event => 'Order Completed', filter => \$\$$revenue > 20\$\$, within => '36 hours'},
	qq{'plan', type => 'text'},
	qq{'age', type => 'numeric'},
	qq{'country', type => 'text'},
	qq{'aov', expression => \$\$ltv / nullif(revenues, 0)\$\$},
);
our @segments = (
	[ 'buyers', q{did('Order Completed')} ],
	[ 'repeat_buyers', q{did('Order Completed', at_least => 2, at_most => 4)} ],
	[ 'warm_leads', q{did('Product Viewed', at_least => 2, within => '7 days', filter => properties->>'tier' = 'premium' OR properties->>'product' IN ('a', 'b)')) AND did_not('Order Completed', within => '7 days')} ],
	[ 'large', q{ltv > 100 OR purchases_30d >= 3} ],
	[ 'small_buyers', q{in_segment('buyers') AND NOT in_segment('large')} ],
	[ 'lookers', q{count_of('Product Viewed', within => '1 month') BETWEEN 1 AND 3} ],
	[ 'adults', q{age >= 18 AND plan = 'pro'} ],
	[ 'fragile', q{100 / (purchases - 2) > 10} ],
	[ 'strangers', q{country IS NULL AND NOT did('Signed In', within => '90 days')} ],
	[ 'lingering', q{ltv > 20}, q{purchases_30d = 0} ],
	[ 'fans', q{favourite_14d = last_product_9d AND products_20d > 1} ],
);
# all other aggregates, windows, elements of arrays; for streams about them
our @more_traits = (
	qq{'deviation', aggregate => 'stddev', value => \$\$$revenue\$\$},
	qq{'deviation_20d', aggregate => 'stddev', value => \$\$$revenue\$\$, within => '20 days', older_than => '2 days', options => '{"population": true}'},
	qq{'rarest', aggregate => 'least_frequent', value => \$\$properties->>'product'\$\$},
	qq{'first_order', aggregate => 'first_time', event => 'Order Completed', since => '2026-01-10'},
	qq{'last_view', aggregate => 'last_time', event => 'Product Viewed', newer_than => '1 month', older_than => '1 day', timezone => 'Europe/Berlin'},
	qq{'latest', aggregate => 'list', value => \$\$properties->>'product'\$\$, options => '{"size": 3}'},
	qq{'latest_10d', aggregate => 'list', value => \$\$$revenue\$\$, within => '10 days', options => '{"size": 2}'},
	qq{'liked', aggregate => 'unique_list', value => \$\$properties->>'product'\$\$, options => '{"size": 2}'},
	qq{'amounts', aggregate => 'unique_list', value => \$\$$revenue\$\$},
	qq{'all_products', aggregate => 'unique_count', value => \$\$$revenue\$\$, options => '{"exact": true}'},
	qq{'middle', aggregate => 'percentile', value => \$\$$revenue\$\$},
	qq{'upper', aggregate => 'percentile', value => \$\$$revenue\$\$, options => '{"p": 0.9, "exact": true}', within => '25 days'},
	qq{'visits', aggregate => 'sessions', options => '{"gap": "2 hours"}'},
	qq{'visit_time', aggregate => 'session_time', options => '{"gap": "2 days"}'},
	qq{'visit_length_15d', aggregate => 'session_length', within => '15 days', options => '{"gap": "36 hours"}'},
	qq{'visit_events', aggregate => 'session_events', value => \$\$properties->'tier'\$\$, options => '{"gap": "1 day"}'},
	qq{'daily', aggregate => 'rate', timezone => 'America/New_York'},
	qq{'daily_30d', aggregate => 'rate', event => 'Product Viewed', within => '30 days', timezone => 'Australia/Lord_Howe'},
	qq{'days_on', aggregate => 'streak', timezone => 'Europe/Berlin'},
	qq{'weeks_on', aggregate => 'streak', timezone => 'America/New_York', options => '{"unit": "week"}'},
	qq{'days_on_10d', aggregate => 'streak', within => '10 days', timezone => 'America/Havana'},
	qq{'best_days', aggregate => 'longest_streak', timezone => 'Asia/Kathmandu'},
	qq{'best_weeks', aggregate => 'longest_streak', options => '{"unit": "week"}', since => '2026-02-01'},
	qq{'before', aggregate => 'count', older_than => '7 days', newer_than => '1 month', timezone => 'America/New_York'},
	qq{'views_hours', aggregate => 'count', within => '1 day 30 hours', older_than => '90 minutes', timezone => 'Europe/Berlin'},
	qq{'long_ago', aggregate => 'sum', value => \$\$$revenue\$\$, older_than => '1 month', timezone => 'Europe/London'},
	qq{'since_march', aggregate => 'count', since => '2026-03-01', within => '90 days'},
	qq{'lines', aggregate => 'count', each => \$\$properties->'items'\$\$, event => 'Order Completed'},
	qq{'spent', aggregate => 'sum', each => \$\$properties->'items'\$\$, value => \$\$(item->>'price')::numeric * COALESCE((item->>'n')::int, 1)\$\$, filter => \$\$type = 'track' AND item ? 'price'\$\$},
	qq{'spent_month', aggregate => 'avg', each => \$\$properties->'items'\$\$, value => \$\$(item->>'price')::numeric\$\$, within => '1 month', timezone => 'Europe/Berlin'},
	qq{'last_item', aggregate => 'last', each => \$\$properties->'items'\$\$, value => \$\$item->>'sku'\$\$},
	qq{'item_list', aggregate => 'list', each => \$\$properties->'items'\$\$, value => \$\$item\$\$, options => '{"size": 4}'},
	qq{'skus', aggregate => 'unique_list', each => \$\$properties->'items'\$\$, value => \$\$item->>'sku'\$\$, options => '{"size": 3}', within => '30 days'},
	qq{'common_sku', aggregate => 'most_frequent', each => \$\$properties->'items'\$\$, value => \$\$item->>'sku'\$\$},
	qq{'rare_20d', aggregate => 'least_frequent', value => \$\$properties->>'product'\$\$, within => '20 days', older_than => '1 day'},
	qq{'modal_month', aggregate => 'most_frequent', value => \$\$$revenue\$\$, within => '1 month', timezone => 'America/New_York'},
	qq{'kinds_15d', aggregate => 'unique_count', value => \$\$$revenue\$\$, within => '15 days', options => '{"announce": true}'},
	qq{'visits_25d', aggregate => 'sessions', within => '25 days', options => '{"gap": "12 hours"}'},
	qq{'visit_events_month', aggregate => 'session_events', within => '1 month', older_than => '2 days', timezone => 'Europe/London'},
	qq{'best_days_20d', aggregate => 'longest_streak', within => '20 days', timezone => 'America/New_York'},
	qq{'best_weeks_60d', aggregate => 'longest_streak', within => '60 days', options => '{"unit": "week"}', timezone => 'Asia/Kathmandu'},
	qq{'coarse', aggregate => 'count', within => '10 days', timezone => 'Europe/Berlin', options => '{"granularity": "7 hours"}'},
	qq{'coarse_last', aggregate => 'last', value => \$\$properties->>'product'\$\$, newer_than => '1 month', older_than => '1 day', timezone => 'America/New_York', options => '{"granularity": "1 day"}'},
	qq{'coarse_visits', aggregate => 'session_time', within => '20 days', options => '{"granularity": "36 hours", "gap": "3 hours"}'},
	qq{'coarse_liked', aggregate => 'unique_list', value => \$\$properties->>'product'\$\$, older_than => '5 days', options => '{"granularity": "2 days", "size": 2}'},
	qq{'plan', type => 'text'},
	qq{'spread', expression => 'upper - middle'},
	qq{'devotion', expression => 'days_on * daily + spread / nullif(lines, 0)'},
);
our @more_segments = (
	[ 'various', q{kinds_15d > 2 OR visits_25d > 1 OR modal_month = 10} ],
	[ 'recent', q{coarse > 1 OR coarse_last = 'a'} ],
	[ 'devoted', q{days_on >= 2 OR weeks_on > 2} ],
	[ 'frequent', q{daily > 0.3 OR daily_30d > 0.2} ],
	[ 'faded', q{before > 1 AND visits > 1} ],
	[ 'spenders', q{spent_month > 10 OR long_ago > 50} ],
	[ 'fresh', q{last_view IS NOT NULL AND latest_10d IS NOT NULL} ],
	[ 'complex', q{devotion > 1 AND visit_length_15d > '1 hour'} ],
);
# for streams about identity, few: what can mostly be taken out of a state again
# (src/traits/unfold.c), so that undos do it; each of few entries, since one trait of
# which it cannot be taken makes all states be folded anew
our @identity_traits = (
	(grep {/^'(?:purchases'|plan)/} @traits),
	qq{'smallest', aggregate => 'min', value => \$\$$revenue\$\$},
	qq{'largest', aggregate => 'max', value => \$\$(properties->>'qty')::int\$\$},
	qq{'first_product', aggregate => 'first', value => \$\$properties->>'product'\$\$},
	qq{'last_product', aggregate => 'last', value => \$\$properties->>'product'\$\$, event => 'Product Viewed'},
	qq{'first_order', aggregate => 'first_time', event => 'Order Completed'},
	qq{'last_page', aggregate => 'last_time', filter => \$\$type = 'page'\$\$},
	qq{'latest', aggregate => 'list', value => \$\$properties->>'qty'\$\$, filter => \$\$type IN ('screen', 'alias')\$\$, options => '{"size": 1}'},
	qq{'latest_tier', aggregate => 'last', value => \$\$properties->>'tier'\$\$, event => 'Order Completed', within => '20 days'},
	qq{'quantity', aggregate => 'sum', value => \$\$(properties->>'qty')::int\$\$, event => 'Signed In'},
	qq{'liked', aggregate => 'unique_list', value => \$\$properties->>'product'\$\$, event => 'Signed In', options => '{"size": 2}'},
);
our @identity_segments = (
	[ 'signed', q{did('Signed In')} ],
	[ 'lookers', q{did('Product Viewed', at_least => 2, at_most => 4)} ],
	[ 'cheap', q{smallest < 10 AND first_product <> last_product} ],
);
# traits of accounts: over the entries of members, over what members are, derived
our @account_traits = (
	qq{'purchases', aggregate => 'count', event => 'Order Completed'},
	qq{'purchases_10d', aggregate => 'count', event => 'Order Completed', within => '10 days'},
	qq{'age', type => 'numeric'},
	(map {"$_, entity => 'account'"}
		qq{'seats', type => 'numeric'},
		qq{'plan', type => 'text'},
		qq{'orders', aggregate => 'count', event => 'Order Completed'},
		qq{'orders_10d', aggregate => 'count', event => 'Order Completed', within => '10 days'},
		qq{'revenue', aggregate => 'sum', value => \$\$$revenue\$\$},
		qq{'products', aggregate => 'unique_list', value => \$\$properties->>'product'\$\$},
		qq{'last_product', aggregate => 'last', value => \$\$properties->>'product'\$\$},
		qq{'least', aggregate => 'min', value => \$\$$revenue\$\$, within => '30 days'},
		qq{'all_orders', aggregate => 'count', event => 'Order Completed', options => '{"rollup": true}'},
		qq{'buyers', aggregate => 'count', filter => 'purchases > 0', options => '{"over": "members"}'},
		qq{'bought', aggregate => 'sum', value => 'purchases_10d', options => '{"over": "members", "rollup": true}'},
		qq{'eldest', aggregate => 'max', value => 'age', options => '{"over": "members"}'},
		qq{'mean_age', aggregate => 'avg', value => 'age', filter => 'age < 100', options => '{"over": "members", "rollup": true}'},
		qq{'utilization', expression => 'buyers / nullif(seats, 0)'}),
);
our @asked_of_members = (
	[ 'lately', q{did_in_order('Product Viewed', then_not => 'Order Completed', within => '2 days', newer_than => '20 days')} ],
	[ 'older', q{age > 20 OR in_segment('lately')} ],
);
our @account_segments = (
	[ 'some_lately', q{any_member(in_segment('lately')) AND NOT all_members(in_segment('older'))} ],
	[ 'many_older', q{count_members(in_segment('older')) > 1 OR in_segment('some_lately') AND orders > 1} ],
	[ 'expansion', q{utilization >= 0.5} ],
	[ 'busy', q{orders_10d > 1 OR bought > 2} ],
	[ 'old', q{eldest > 20 AND in_segment('busy')} ],
	[ 'large', q{all_orders > 3} ],
	[ 'stuck', q{any_member(did_in_order('Product Viewed', then_not => 'Order Completed', within => '1 day', newer_than => '15 days') AND age > 10)} ],
	[ 'not_stuck', q{all_members(in_segment('lately') IS NOT TRUE AND (known() OR has_identifier('email'))) OR count_members(age > 20 OR in_segment('lately')) > 2} ],
	[ 'lively', q{any_member(did('Product Viewed', within => '7 days') AND NOT age > 30)} ],
	[ 'loyal', q{all_members(did('Order Completed') OR purchases_10d > 0 OR member_of('g2')) AND in_segment('busy') IS NOT NULL} ],
	[ 'few', q{count_members() < 3 AND count_members(sum_of('Order Completed', (properties->>'qty')::numeric) > 1) >= 1} ],
);
our @member_segments = (
	[ 'of_busy', q{account.orders_10d > 0 OR account.plan = 'pro'} ],
	[ 'of_none', q{account.seats IS NULL AND purchases = 0} ],
	[ 'of_buyers', q{account.bought > 1 AND did('Product Viewed', within => '15 days') AND NOT in_segment('of_busy')} ],
	[ 'of_old', q{account.mean_age > 25 AND (account.utilization > 0.3 OR member_of('g1'))} ],
);
our @purposes = (
	q{'marketing', aliases => '{Advertising,ads}'},
	q{'analytics', combine => 'latest'},
	q{'profiling', valid_for => '20 days', aliases => '{advertising}'},
);
our @purposed_segments = (
	[ 'mailed', q{did('Product Viewed')}, 'marketing' ],
	[ 'counted', q{did('Product Viewed', within => '30 days') OR plan = 'pro'}, 'analytics' ],
	[ 'scored', q{true}, 'profiling' ],
	[ 'dormant', q{true}, 'marketing' ],
	[ 'lingering', q{did('Order Completed', within => '10 days')}, 'analytics', q{did('Signed In', within => '10 days')} ],
	[ 'silent', q{NOT consented('marketing') AND NOT consented('analytics')} ],
	[ 'both', q{consented('marketing') AND consented('profiling')} ],
	[ 'derived', q{in_segment('mailed') OR in_segment('dormant')} ],
);
# somewhere in a stream of the class consent; in the end all is as it was at first
our @consent_steps = (
	q{SELECT cdp.alter_segment('dormant', enabled => false);},
	q{SELECT cdp.alter_purpose('marketing', combine => 'latest');},
	q{SELECT cdp.alter_purpose('analytics', aliases => '{stats}', valid_for => '5 days');},
	q{SELECT cdp.alter_purpose('marketing', combine => 'restrictive');},
	q{SELECT cdp.alter_purpose('analytics', aliases => '{}', valid_for => '0');},
	q{SELECT cdp.alter_segment('dormant', enabled => true);},
);
# made one after the other somewhere in a stream of the class define, and often
# built beside what comes
our @late = (
	q{SELECT cdp.create_trait('late_sum', aggregate => 'sum', value => $$(properties->>'qty')::numeric$$, event => 'Product Viewed', within => '21 days');},
	q{SELECT cdp.create_trait('late_mode', aggregate => 'most_frequent', value => $$properties->>'tier'$$);},
	q{SELECT cdp.create_segment('late', $$did('Product Viewed', within => '21 days', at_least => 2) OR late_sum > 4$$);},
	q{SELECT cdp.alter_trait('products_20d', within => '6 days');},
	q{SELECT cdp.alter_segment('lookers', $$count_of('Product Viewed', within => '10 days') > 1$$);},
	q{SELECT cdp.alter_trait('ltv', filter => $$properties->>'tier' = 'premium'$$);},
	q{SELECT cdp.alter_trait('favourite', event => 'Product Viewed');},
	q{SELECT cdp.alter_trait('ltv', filter => '', description => 'as it was');},
	q{DO $$ BEGIN PERFORM cdp.cancel_backfill('favourite'); EXCEPTION WHEN undefined_object THEN NULL; END $$;},
	q{SELECT cdp.alter_trait('favourite', event => 'Order Completed');},
	# another type
	q{SELECT cdp.alter_trait('quantity', aggregate => 'max');},
	q{SELECT cdp.rename_trait('quantity', 'amount');},
	q{SELECT cdp.alter_trait('amount', event => 'Order Completed');},
	q{SELECT cdp.rename_trait('amount', 'quantity');},
	q{SELECT cdp.alter_trait('purchases_30d', within => '12 days');},
	q{SELECT cdp.drop_segment('late'); SELECT cdp.create_segment('late', $$did('Product Viewed', within => '21 days') AND premium$$);},
);
# the same in a stream of the class versions: every kind of state changes
our @late_more = (
	q{SELECT cdp.alter_trait('latest_10d', within => '5 days', options => '{"size": 3}');},
	q{SELECT cdp.alter_trait('visits', options => '{"gap": "1 day"}');},
	q{SELECT cdp.alter_trait('days_on', timezone => 'America/New_York');},
	q{SELECT cdp.alter_trait('coarse', options => '{"granularity": "1 day"}');},
	q{SELECT cdp.alter_trait('coarse_last', options => '{}');},
	q{SELECT cdp.alter_trait('middle', options => '{"p": 0.25, "exact": true}');},
	q{SELECT cdp.alter_trait('kinds_15d', older_than => '1 day', timezone => 'Australia/Lord_Howe');},
	q{SELECT cdp.alter_trait('modal_month', within => '40 days', older_than => '2 days');},
	q{SELECT cdp.alter_trait('since_march', since => '2026-01-20');},
	q{SELECT cdp.alter_trait('skus', each => $$properties->'items'$$, value => $$item->>'price'$$);},
	q{SELECT cdp.alter_trait('lines', filter => $$item ? 'n'$$);},
	q{SELECT cdp.alter_trait('rarest', event => 'Product Viewed');},
	q{SELECT cdp.alter_trait('spread', expression => 'upper + middle');},
	q{SELECT cdp.alter_trait('coarse', older_than => '3 days');},
	q{SELECT cdp.alter_trait('daily_30d', within => '1 month', timezone => 'Asia/Kathmandu');},
);
our @undefine_more = ('SET cdp.backfill_at_once = 1000000000;', 'SET client_min_messages = warning;',
	map { my $d = $_; my ($name) = $d =~ /'(\w+)'/;
		(grep {/alter_trait\('$name'/} @late_more) ? "SELECT cdp.create_trait($d, if_exists => 'replace');" : () } @more_traits);
# the same in a stream of the class accounts
our @late_accounts = (
	q{SELECT cdp.alter_trait('orders', event => 'Product Viewed');},
	q{SELECT cdp.alter_trait('orders_10d', within => '4 days', entity => 'account');},
	q{SELECT cdp.alter_trait('all_orders', filter => $$properties->>'product' IS NOT NULL$$);},
	q{SELECT cdp.alter_trait('products', options => '{"size": 2}');},
	q{SELECT cdp.create_trait('late_first', aggregate => 'first', value => $$properties->>'product'$$, entity => 'account', options => '{"rollup": true}');},
	q{SELECT cdp.create_segment('late', $$late_first IS NOT NULL AND any_member(did('Product Viewed', within => '9 days'))$$, entity => 'account');},
	q{SELECT cdp.alter_trait('buyers', filter => 'purchases > 1');},
	q{SELECT cdp.alter_trait('bought', aggregate => 'max');},
	q{SELECT cdp.alter_trait('purchases_10d', within => '6 days');},
	q{SELECT cdp.alter_trait('buyers', filter => 'purchases > 0');},
	q{DO $$ BEGIN PERFORM cdp.cancel_backfill('orders'); EXCEPTION WHEN undefined_object THEN NULL; END $$;},
	q{SELECT cdp.alter_trait('orders', event => 'Product Viewed', filter => '');},
	q{SELECT cdp.alter_segment('busy', $$orders_10d > 0 OR count_members(did('Order Completed', within => '3 days')) > 1$$);},
	# another type
	q{SELECT cdp.alter_trait('last_product', aggregate => 'unique_count');},
);
our @undefine_accounts = ('SET cdp.backfill_at_once = 1000000000;', 'SET client_min_messages = warning;',
	q{SELECT cdp.drop_segment(name) FROM cdp.segment_definitions WHERE name = 'late' AND entity = 'account';},
	q{SELECT cdp.drop_trait(name, entity => 'account') FROM cdp.trait_definitions WHERE name = 'late_first';},
	q{SELECT cdp.alter_segment(name, 'orders_10d > 1 OR bought > 2') FROM cdp.segment_definitions WHERE name = 'busy' AND predicate NOT LIKE '%bought%';},
	map { my $d = $_; my ($name) = $d =~ /'(\w+)'/;
		(grep {/alter_trait\('$name'/} @late_accounts) ? "SELECT cdp.create_trait($d, if_exists => 'replace');" : () } @account_traits);
# changes of the rules of identity, one of each line
our @rules = (
	[ q{'email', max_per_profile => 1}, q{'email', labels => ARRAY['p1@example.com', '^p2']}, q{'email', blocked => ARRAY['p3@example.com']}, q{'email', priority => 90} ],
	[ q{'user_id', max_per_profile => 2}, q{'user_id', max_per_profile => 0}, q{'user_id', normaliser => 'nfkc'} ],
	[ q{'anonymous_id', links => false}, q{'anonymous_id', max_per_profile => 3}, q{'anonymous_id', priority => 1} ],
	[ q{'shoe_size'}, q{'shoe_size', priority => 1, max_per_profile => 1} ],
);
our @account_rules = (
	[ q{'group_id', normaliser => 'lower'}, q{'group_id', blocked => ARRAY['g2']} ],
	[ q{'workspace', entity => 'account'}, q{'workspace', entity => 'account', normaliser => 'lower'} ],
	[ q{'email', max_per_profile => 1}, q{'anonymous_id', priority => 1}, q{'user_id', max_per_profile => 2} ],
);
# accounts by the domains of addresses, and what becomes of that on the way
our @domain_steps = (
	[ 'SELECT cdp.account_by_domain();' ],
	[ 'SELECT cdp.account_by_domain();', q{SELECT cdp.free_mail_domain('south.example');} ],
	[ q{SELECT cdp.free_mail_domain('south.example');}, 'SELECT cdp.account_by_domain();', q{SELECT cdp.free_mail_domain('south.example', false);} ],
	[ 'SELECT cdp.account_by_domain();', 'SELECT cdp.account_by_domain(false);' ],
);
# rules that a stream about identity may have, one of each line
our %kinds = (
	periods => [
		[ map { ("'email', max_per_profile => 1, within => '$_'", "'email', max_per_profile => 2, within => '$_'") } '1 day', '7 days', '7 days', '1 month' ],
		[ map {"'anonymous_id', max_per_profile => 1, within => '$_'"} '1 day', '1 week', '1 week', '3 months', '1 year' ],
		[ q{'user_id', max_per_profile => 1, within => '1 month'}, q{'user_id', max_per_profile => 2} ] ],
	shared => [
		[ map {"'anonymous_id', shared => '$_'"} 'anonymous', 'newest', 'anonymous' ],
		[ map {"'device_id', shared => '$_'"} 'anonymous', 'newest', 'newest' ],
		[ q{'email', max_per_profile => 1}, q{'email', shared => 'newest'}, q{'device_id', priority => 1} ] ],
	policies => [
		[ map {"'user_id', policy => '$_'"} 'refuse', 'quarantine', 'quarantine', 'raise' ],
		[ map {"'email', max_per_profile => 1, policy => '$_'"} 'demote', 'refuse', 'quarantine', 'quarantine', 'raise' ],
		[ map {"'anonymous_id', max_per_profile => 1, within => '1 day', policy => '$_'"} 'demote', 'refuse', 'quarantine' ] ],
);
$kinds{mixed} = [
	[ map {@$_} $kinds{periods}[0], $kinds{policies}[1] ],
	[ map {@$_} $kinds{shared}[0], $kinds{periods}[1], $kinds{policies}[2] ],
	[ map {@$_} $kinds{periods}[2], $kinds{policies}[0] ],
	$kinds{shared}[1],
	[ q{'cookie', links => false}, q{'cookie', blocked => ARRAY['k1']}, q{'cookie', labels => ARRAY['^k[23]']} ] ];
our @undefine = (
	'SET cdp.backfill_at_once = 1000000000;',
	q{SELECT cdp.account_by_domain(false) FROM cdp.domain_accounts;},
	q{SELECT cdp.free_mail_domain(domain, NOT free) FROM cdp.free_mail_definitions;},
	q{SELECT cdp.drop_segment('late') FROM cdp.segment_definitions WHERE name = 'late';},
	q{SELECT cdp.drop_trait(name) FROM cdp.trait_definitions WHERE name IN ('late_sum', 'late_mode');},
	q{SELECT cdp.alter_trait(name, within => '20 days') FROM cdp.trait_definitions WHERE name = 'products_20d' AND within <> '20 days';},
	q{SELECT cdp.alter_trait(name, filter => '') FROM cdp.trait_definitions WHERE name = 'ltv' AND filter IS NOT NULL;},
	q{SELECT cdp.alter_trait(name, event => '') FROM cdp.trait_definitions WHERE name = 'favourite' AND event IS NOT NULL;},
	q{SELECT cdp.rename_trait(name, 'quantity') FROM cdp.trait_definitions WHERE name = 'amount';},
	q{SELECT cdp.alter_trait(name, aggregate => 'sum', event => '') FROM cdp.trait_definitions WHERE name = 'quantity' AND aggregate <> 'sum';},
	q{SELECT cdp.alter_trait(name, within => '30 days') FROM cdp.trait_definitions WHERE name = 'purchases_30d' AND within <> '30 days';},
	q{SELECT cdp.alter_segment(name, $$count_of('Product Viewed', within => '1 month') BETWEEN 1 AND 3$$) FROM cdp.segment_definitions WHERE name = 'lookers' AND predicate NOT LIKE '%month%';},
	q{SELECT cdp.alter_purpose(name, combine => 'restrictive') FROM cdp.purposes WHERE name = 'marketing' AND combine = 'latest';},
	q{SELECT cdp.alter_purpose(name, aliases => '{}', valid_for => '0') FROM cdp.purposes WHERE name = 'analytics' AND aliases <> '{}';},
	q{SELECT cdp.alter_segment(name, enabled => true) FROM cdp.segment_definitions WHERE name = 'dormant' AND NOT enabled;},
	q{SELECT cdp.drop_identifier_kind(kind) FROM cdp.kind_definitions;},
);

1;
