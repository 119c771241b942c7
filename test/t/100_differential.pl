# Random streams of entries: what the applier makes of them, in batches and in
# any order of arrival, must be what cdp.verify() computes from the log.
#
# Streams of the classes about everything (plain … rules) come in two orders and
# are verified on the way, and so are those of the class traits: about aggregates,
# windows and time zones that the others have not; and accounts: about who belongs
# to them, and what counts for them; and consent: about what people say to purposes.  Those about the rules of
# identity (periods … mixed) have few traits and segments, and come in ten orders.
#
# Streams follow one another in two sessions, one for the first order and one for
# the others, which are replaced after some streams.
#
#   CDP_STREAMS=450     number of streams, 200 of which come in ten orders; torture:
#                       4500, with 2000 of them
#   CDP_JOBS=1          streams at a time; torture: as many as there are processors
#   CDP_SECONDS=240     begin no stream after this time, 0: no limit
#   CDP_SEED=n          seed of the first one; stream i has seed n + i
#   CDP_ORDERS=10       orders of arrival of streams about identity
#   CDP_CLASSES=a,b     only these: plain, limits, size, decisions, define, rules, traits, versions, plans,
#                       accounts, consent, periods, rate, bridge, shared, policies, detach, undo, mixed
#   CDP_MINIMISE=60     seconds to spend on making a failing stream smaller
#
# To replay one failure: CDP_SEED=<its seed> CDP_STREAMS=1.
use strict;
use warnings;
use IPC::Open3;
use POSIX ();
use Storable qw(nstore retrieve);
use Time::HiRes qw(time);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $streams = $ENV{CDP_STREAMS} // ($ENV{CDP_TORTURE} ? 4500 : 450);
my $jobs = $ENV{CDP_JOBS} // ($ENV{CDP_TORTURE} ? `getconf _NPROCESSORS_ONLN` : 1);
my $seconds = $ENV{CDP_SECONDS} // ($ENV{CDP_TORTURE} || $ENV{CDP_STREAMS} ? 0 : 240);
# `make test' gives the same verdict every time; `make torture' looks for news
my $first_seed = $ENV{CDP_SEED} // ($ENV{CDP_TORTURE} ? int(rand(1_000_000_000)) : 800_000);
my $minimise = $ENV{CDP_MINIMISE} // 60;
my $orders = $ENV{CDP_ORDERS} // 10;
my @lean = qw(periods rate bridge shared policies detach undo mixed);
my %lean = map { $_ => 1 } @lean;
my @classes = split /,/, $ENV{CDP_CLASSES} // join(',', qw(plain traits versions plans accounts consent limits size decisions define rules), @lean);

note "CDP_SEED=$first_seed CDP_STREAMS=$streams";

my $node = PostgreSQL::Test::Cluster->new('differential');
$node->init;
$node->append_conf('postgresql.conf', qq{
fsync = off
full_page_writes = off
autovacuum = off
log_statement = none
jit = off
restart_after_crash = on
max_parallel_workers_per_gather = 0
cdp.databases = ''
});
$node->start;
for my $db ('streams', 'traits', 'accounts', 'consent', 'identity')
{
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, 'CREATE EXTENSION cdp');
}

my $tempdir = PostgreSQL::Test::Utils::tempdir();
my $script = "$tempdir/stream.sql";
my $db;
# which of the jobs this is; each has its own databases
my $job = 0;

# ---- definitions ----

my $revenue = q{(properties->>'revenue')::numeric};
my @traits = (
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
my @segments = (
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
my @more_traits = (
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
my @more_segments = (
	[ 'various', q{kinds_15d > 2 OR visits_25d > 1 OR modal_month = 10} ],
	[ 'recent', q{coarse > 1 OR coarse_last = 'a'} ],
	[ 'devoted', q{days_on >= 2 OR weeks_on > 2} ],
	[ 'frequent', q{daily > 0.3 OR daily_30d > 0.2} ],
	[ 'faded', q{before > 1 AND visits > 1} ],
	[ 'spenders', q{spent_month > 10 OR long_ago > 50} ],
	[ 'fresh', q{last_view IS NOT NULL AND latest_10d IS NOT NULL} ],
	[ 'complex', q{devotion > 1 AND visit_length_15d > '1 hour'} ],
);
# traits of accounts: over the entries of members, over what members are, derived
my @account_traits = (
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
my @asked_of_members = (
	[ 'lately', q{did_in_order('Product Viewed', then_not => 'Order Completed', within => '2 days', newer_than => '20 days')} ],
	[ 'older', q{age > 20 OR in_segment('lately')} ],
);
my @account_segments = (
	[ 'some_lately', q{any_member(in_segment('lately')) AND NOT all_members(in_segment('older'))} ],
	[ 'many_older', q{count_members(in_segment('older')) > 1 OR in_segment('some_lately') AND orders > 1} ],
	[ 'expansion', q{utilization >= 0.5} ],
	[ 'busy', q{orders_10d > 1 OR bought > 2} ],
	[ 'old', q{eldest > 20 AND in_segment('busy')} ],
	[ 'large', q{all_orders > 3} ],
	[ 'lively', q{any_member(did('Product Viewed', within => '7 days') AND NOT age > 30)} ],
	[ 'loyal', q{all_members(did('Order Completed') OR purchases_10d > 0 OR member_of('g2')) AND in_segment('busy') IS NOT NULL} ],
	[ 'few', q{count_members() < 3 AND count_members(sum_of('Order Completed', (properties->>'qty')::numeric) > 1) >= 1} ],
);
my @member_segments = (
	[ 'of_busy', q{account.orders_10d > 0 OR account.plan = 'pro'} ],
	[ 'of_none', q{account.seats IS NULL AND purchases = 0} ],
	[ 'of_buyers', q{account.bought > 1 AND did('Product Viewed', within => '15 days') AND NOT in_segment('of_busy')} ],
	[ 'of_old', q{account.mean_age > 25 AND (account.utilization > 0.3 OR member_of('g1'))} ],
);
my @purposes = (
	q{'marketing', aliases => '{Advertising,ads}'},
	q{'analytics', combine => 'latest'},
	q{'profiling', valid_for => '20 days', aliases => '{advertising}'},
);
my @purposed_segments = (
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
my @consent_steps = (
	q{SELECT cdp.alter_segment('dormant', enabled => false);},
	q{SELECT cdp.alter_purpose('marketing', combine => 'latest');},
	q{SELECT cdp.alter_purpose('analytics', aliases => '{stats}', valid_for => '5 days');},
	q{SELECT cdp.alter_purpose('marketing', combine => 'restrictive');},
	q{SELECT cdp.alter_purpose('analytics', aliases => '{}', valid_for => '0');},
	q{SELECT cdp.alter_segment('dormant', enabled => true);},
);
# made one after the other somewhere in a stream of the class define, and often
# built beside what comes
my @late = (
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
my @late_more = (
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
my @undefine_more = ('SET cdp.backfill_at_once = 1000000000;', 'SET client_min_messages = warning;',
	map { my $d = $_; my ($name) = $d =~ /'(\w+)'/;
		(grep {/alter_trait\('$name'/} @late_more) ? "SELECT cdp.create_trait($d, if_exists => 'replace');" : () } @more_traits);
# changes of the rules of identity, one of each line
my @rules = (
	[ q{'email', max_per_profile => 1}, q{'email', labels => ARRAY['p1@example.com', '^p2']}, q{'email', blocked => ARRAY['p3@example.com']}, q{'email', priority => 90} ],
	[ q{'user_id', max_per_profile => 2}, q{'user_id', max_per_profile => 0}, q{'user_id', normaliser => 'nfkc'} ],
	[ q{'anonymous_id', links => false}, q{'anonymous_id', max_per_profile => 3}, q{'anonymous_id', priority => 1} ],
	[ q{'shoe_size'}, q{'shoe_size', priority => 1, max_per_profile => 1} ],
);
my @account_rules = (
	[ q{'group_id', normaliser => 'lower'}, q{'group_id', blocked => ARRAY['g2']} ],
	[ q{'workspace', entity => 'account'}, q{'workspace', entity => 'account', normaliser => 'lower'} ],
	[ q{'email', max_per_profile => 1}, q{'anonymous_id', priority => 1}, q{'user_id', max_per_profile => 2} ],
);
# accounts by the domains of addresses, and what becomes of that on the way
my @domain_steps = (
	[ 'SELECT cdp.account_by_domain();' ],
	[ 'SELECT cdp.account_by_domain();', q{SELECT cdp.free_mail_domain('south.example');} ],
	[ q{SELECT cdp.free_mail_domain('south.example');}, 'SELECT cdp.account_by_domain();', q{SELECT cdp.free_mail_domain('south.example', false);} ],
	[ 'SELECT cdp.account_by_domain();', 'SELECT cdp.account_by_domain(false);' ],
);
# rules that a stream about identity may have, one of each line
my %kinds = (
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
my @undefine = (
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
$node->safe_psql('streams', join("\n",
	"SET cdp.now = '2026-01-01';",
	(map {"SELECT cdp.create_trait($_);"} @traits),
	(map {"SELECT cdp.create_segment('$_->[0]', \$p\$$_->[1]\$p\$"
			  . ($_->[2] ? ", exit_when => \$p\$$_->[2]\$p\$" : '') . ');'} @segments)));
$node->safe_psql('traits', join("\n",
	"SET cdp.now = '2026-01-01';",
	(map {"SELECT cdp.create_trait($_);"} @more_traits),
	(map {"SELECT cdp.create_segment('$_->[0]', \$p\$$_->[1]\$p\$);"} @more_segments)));
$node->safe_psql('accounts', join("\n",
	"SET cdp.now = '2026-01-01';",
	(map {"SELECT cdp.create_trait($_);"} @account_traits),
	(map {"SELECT cdp.create_segment('$_->[0]', \$p\$$_->[1]\$p\$);"} @asked_of_members),
	(map {"SELECT cdp.create_segment('$_->[0]', \$p\$$_->[1]\$p\$, entity => 'account');"} @account_segments),
	(map {"SELECT cdp.create_segment('$_->[0]', \$p\$$_->[1]\$p\$"
			  . ($_->[2] ? ", exit_when => \$p\$$_->[2]\$p\$" : '') . ');'} @member_segments)));
$node->safe_psql('consent', join("\n",
	"SET cdp.now = '2026-01-01';",
	"SELECT cdp.create_trait('plan', type => 'text');",
	(map {"SELECT cdp.create_purpose($_);"} @purposes),
	(map {"SELECT cdp.create_segment('$_->[0]', \$p\$$_->[1]\$p\$"
			  . ($_->[2] ? qq{, options => '{"purpose": "$_->[2]"}'} : '')
			  . ($_->[3] ? ", exit_when => \$p\$$_->[3]\$p\$" : '') . ');'} @purposed_segments)));
$node->safe_psql('identity', join("\n",
	"SET cdp.now = '2026-01-01';",
	(map {"SELECT cdp.create_trait($_);"} @traits[ 0, 5, 16 ], grep {/'plan'/} @traits),
	(map {"SELECT cdp.create_segment('$_->[0]', \$p\$$_->[1]\$p\$);"} @segments[ 0, 1 ])));
# a second backend that applies, so that each must notice what the other did
my $other = !grep { $node->psql($_, 'CREATE EXTENSION dblink') != 0 } qw(streams traits accounts consent identity);
note 'no dblink: one backend applies all' unless $other;

# ---- what is compared ----

# What cdp.profile() shows of everybody with fresh => true, and once all is applied.
my $fresh_sql = q{
CREATE TEMP TABLE fresh AS SELECT n.i, f.p - 'segments' - 'accounts' AS p, (f.p->'segments') - 'lingering' AS s
FROM (SELECT n.i
	  FROM (SELECT DISTINCT u.i::text::cdp.identifier AS i FROM cdp.events e, unnest(e.identifiers) u(i)) n
	  JOIN cdp.identifier_kinds k ON k.kind = cdp.kind(n.i)
	  -- what is being built has no values, and has them after apply()
	  WHERE NOT EXISTS (SELECT FROM cdp.backfills)
	  OFFSET 0) n
CROSS JOIN LATERAL (SELECT cdp.profile(n.i, fresh => true) AS p OFFSET 0) f;
COMMIT;
SELECT 'applied' FROM cdp.apply(NULL);
SELECT format('DIFFERENCE fresh %s: %s %s, applied %s', f.i, f.p, f.s, cdp.profile(f.i))
FROM fresh f
WHERE (f.p - 'profile_id', f.s) IS DISTINCT FROM
		(cdp.profile(f.i) - 'segments' - 'profile_id' - 'accounts', (cdp.profile(f.i)->'segments') - 'lingering')
LIMIT 3;
DROP TABLE fresh;};

# Everything that must not depend on the order of arrival, numbers aside.
my $state_sql = q{
SELECT 'profile ' || p.names || ' ' || p.seen || ' ' || (cdp.profile_traits_at(p.profile_id, (SELECT clock FROM cdp.applier))->>'traits') || ' '
	|| COALESCE((SELECT string_agg(m.segment, ' ' ORDER BY m.segment COLLATE "C") FROM cdp.memberships m WHERE m.profile_id = p.profile_id AND m.segment <> 'lingering'), '')
FROM (SELECT profile_id, string_agg(identifier::text, ' ' ORDER BY identifier::text COLLATE "C") AS names,
			 string_agg(first_seen || '/' || last_seen, ' ' ORDER BY identifier::text COLLATE "C") AS seen
	  FROM cdp.identities GROUP BY profile_id) p
UNION ALL
SELECT 'link ' || least(a.identifier::text COLLATE "C", b.identifier::text) || ' ' || greatest(a.identifier::text COLLATE "C", b.identifier::text)
	|| ' ' || l.origin || ' ' || l.at || ' ' || l.status || ' ' || COALESCE(l.reason, '') || ' ' || COALESCE(l.detail, '')
FROM cdp.links l JOIN cdp.identities a ON a.node_id = l.a JOIN cdp.identities b ON b.node_id = l.b
WHERE l.origin = 'event'
UNION ALL
SELECT 'decision ' || d.source || ' ' || d.message_id || ' ' || d.effective FROM cdp.decisions d
UNION ALL
SELECT 'rejected ' || r.source || ' ' || COALESCE(r.message_id, '-') || ' ' || r.reason || ' ' || COALESCE(r.held::text, '') FROM cdp.rejected r
UNION ALL
SELECT 'entry ' || i.identifier::text || ' ' || e.at FROM cdp.entries e JOIN cdp.identities i ON i.node_id = e.owner
UNION ALL
SELECT 'account ' || a.identifier::text || ' ' || a.first_seen || '/' || a.last_seen || ' ' || COALESCE(a.parent::text, '-') || ' '
	|| cdp.account_traits_json(a.account_id, (SELECT clock FROM cdp.applier)) || ' '
	|| COALESCE((SELECT string_agg(m.segment, ' ' ORDER BY m.segment COLLATE "C") FROM cdp.memberships m WHERE m.profile_id = a.account_id), '')
FROM cdp.account_identities a
ORDER BY 1;
};
$state_sql =~ s/\n\s*/ /g;

my $verify_sql =
  q{SELECT 'DIFFERENCE ' || station || ' | ' || key || ' | expected ' || COALESCE(expected::text, '-') || ' | found ' || COALESCE(found::text, '-') FROM cdp.verify() WHERE key <> 'change of rules';};

# Nobody without consent is in a segment that has a purpose, at any time: but for
# timers that are due, for which no batch has come yet.
my $consent_sql = q{
SELECT format('DIFFERENCE member %s of %s does not consent', m.profile_id, s.name)
FROM cdp.segment_members m JOIN cdp.segment_definitions s ON s.id = m.segment_id
WHERE m.member AND s.options ? 'purpose' AND NOT cdp.consented(m.profile_id, s.options->>'purpose')
  AND NOT EXISTS (SELECT FROM cdp.timers t WHERE t.profile_id = m.profile_id AND t.at <= cdp.clock())
LIMIT 3;};

my @tables = map {"cdp.$_"} qw(events identities former_identities history_entries kind_history merged_profiles links decisions entry_pieces withheld_entries releases rejected timers window_items segment_members changes cursors account_news trait_errors segment_errors rule_changes rule_cursors account_evidence account_identities account_nodes account_values account_totals plan_definitions plan_releases plan_counts plan_violation_counts);
my $reset_sql = join("\n", 'SET client_min_messages = warning;', @undefine,
	q{UPDATE cdp.applier SET generation = generation + 1, clock = '-infinity';});
# for a few rows quicker than TRUNCATE
my $delete_sql = 'SET client_min_messages = warning; ' . join(' ', map {"DELETE FROM $_;"} @tables);
my $truncate_sql = 'TRUNCATE ' . join(', ', @tables) . ';';

# ---- the generator ----

sub pick { return $_[ int(rand(@_)) ]; }
sub chance { return rand() < $_[0]; }
sub lit { my ($s) = @_; return 'NULL' unless defined $s; $s =~ s/'/''/g; return "'$s'"; }

my $epoch = 1767225600;    # 2026-01-01 UTC

sub stamp
{
	my ($seconds) = @_;
	my @t = gmtime($epoch + $seconds);
	return sprintf('%04d-%02d-%02d %02d:%02d:%02d+00',
		$t[5] + 1900, $t[4] + 1, @t[ 3, 2, 1, 0 ]);
}

my @products = ('a', 'b)', 'B', 'Ä', 'z', "o'c", '');

# Products of an order: mostly an array of objects.
my $with_items = 0;
# Group calls say something of accounts.
my $with_accounts = 0;

sub items_of
{
	my ($rough) = @_;
	return pick('"x"', '{"sku": "s1"}', 'null', '[]', '[1, "x", null, [2]]') if chance(0.05 + $rough / 2);
	return '[' . join(', ', map {
			'{' . join(', ', '"sku": ' . pick('"s1"', '"s2"', '"s2"', '"S3"', 'null', 4),
				(chance(0.8) ? '"price": ' . pick(1, 2.5, '"3.50"', 10, -1, $rough > 0.1 ? '"y"' : 0) : ()),
				(chance(0.3) ? '"n": ' . pick(1, 2, $rough > 0.1 ? 1.5 : 3) : ())) . '}'
		} 1 .. int(rand(5))) . ']';
}

sub properties
{
	my ($type, $rough) = @_;
	my @p;
	if ($type eq 'group' && $with_accounts)
	{
		push @p, '"seats": ' . pick(1, 2, 4, '"3"', 'null') if chance(0.4);
		push @p, '"plan": ' . pick('"pro"', '"free"', 'null', '7') if chance(0.4);
		push @p, '"parent": ' . pick('"g1"', '"g2"', '"G3"', '"workspace:w1"', 'null', 3, '"group_id:g1"') if chance(0.4);
	}
	elsif ($type eq 'identify')
	{
		return 'NULL' if chance(0.03);
		push @p, '"plan": ' . pick('"pro"', '"free"', 'null', '7') if chance(0.6);
		push @p, '"age": ' . pick(17, 18, 40, '"40"', '"old"', 'null') if chance(0.5);
		push @p, '"country": ' . pick('"DE"', '"FR"', 'null') if chance(0.4);
		push @p, '"nick": ' . pick('"x"', '"y"', '["x"]', '{"a": 1}', 'null', 'true') if chance(0.3);
	}
	else
	{
		push @p, '"revenue": ' . pick(1, 10, 10.5, 99.99, '"10.50"', $rough > 0.1 ? '"x"' : 7, 'null', -3, 55, 1e3) if chance(0.6);
		push @p, '"product": "' . pick(@products) . '"' if chance(0.6);
		push @p, '"tier": ' . pick('"premium"', '"basic"', 'null') if chance(0.5);
		push @p, '"qty": ' . pick(1, 1, 2, 3, '"4"', $rough > 0.1 ? (2.5, 99999999999) : ()) if chance(0.4);
		push @p, '"items": ' . items_of($rough) if $with_items && chance(0.5);
	}
	return lit('{' . join(', ', @p) . '}') . '::jsonb';
}

# One entry as the VALUES row of (message_id, source, type, event,
# identifiers, properties, context, occurred_at, received_at).
sub row
{
	my ($e) = @_;
	return '(' . join(', ',
		lit($e->{message}), lit($e->{source}), lit($e->{type}), lit($e->{event}),
		(defined $e->{ids}
			? 'ARRAY[' . join(', ', map { lit($_) } @{ $e->{ids} }) . ']::cdp.identifier[]'
			: 'NULL'),
		$e->{properties}, $e->{context} // 'NULL', lit($e->{occurred}), lit($e->{received})) . ')';
}

# Preferences in the shape of RudderStack's libraries.
sub listed
{
	my %said = map { /^(".*"): (.*)$/ } @_;
	my $list = sub { my ($word) = @_; return join(', ', grep { $said{$_} eq $word } sort keys %said) };
	return sprintf('{"consentManagement": {"provider": "custom", "allowedConsentIds": [%s], "deniedConsentIds": [%s, 7]}}',
		$list->('true'), $list->('false') || '"none"');
}

# A schema for what properties() makes, and for which entries it is.
sub one_plan
{
	my ($type, $event) = @{ pick([ 'track', 'Order Completed' ], [ 'track', 'Product Viewed' ], [ 'page', 'Home' ], [ 'identify', '' ], [ 'group', '' ]) };
	my $schema = pick('true', '{}', 'false', '{"required": ["revenue"]}', '{"properties": {"revenue": {"type": "number", "minimum": 5}}}',
		'{"properties": {"tier": {"enum": ["premium", "basic"]}}}', '{"anyOf": [{"required": ["product"]}, {"required": ["qty"]}]}', '{"minProperties": 2}');
	$schema = pick('{"properties": {"plan": {"enum": ["pro", "free"]}}}', '{"properties": {"age": {"type": "integer"}}, "required": ["country"]}', '{}', 'false') if $event eq '';
	return ($type, $event, $schema, pick('quarantine', 'quarantine', 'quarantine', 'allow'));
}

# Versions that are there from the beginning, each in force for some time.
sub plans
{
	my ($span) = @_;
	my %version;
	my @rows;
	for (1 .. pick(0, 2, 5))
	{
		my ($type, $event, $schema, $mode) = one_plan();
		my $before = $version{"$type $event"} //= { n => 0, until => -86400 };
		my $from = $before->{until} + (chance(0.5) ? 0 : int(rand($span / 4)));
		$before->{until} = $from + int(rand($span));
		push @rows, '(' . join(', ', lit($type), lit($event), ++$before->{n}, lit($schema), lit($mode), lit(stamp($from)), lit(stamp($before->{until}))) . ')';
	}
	return @rows ? ('INSERT INTO cdp.plan_definitions VALUES ' . join(', ', @rows) . '; SELECT cdp.definitions_changed();') : ();
}

# A version about history: how things end does not depend on when it was made.
sub retroactive
{
	my ($type, $event, $schema, $mode) = one_plan();
	return 'SELECT cdp.tracking_plan(' . join(', ', $event eq '' ? 'NULL' : lit($event), lit($schema), lit($mode), lit($type)) . ', retroactive => true);';
}

# At the end, when it is known what is held: of some messages, as it is or corrected.
my $release_sql = q{
SELECT 'released' FROM (SELECT DISTINCT r.source, r.message_id FROM cdp.rejected r
	WHERE r.held AND r.reason = 'tracking plan' ORDER BY 1, 2) h
CROSS JOIN LATERAL cdp.release(h.message_id, h.source) WHERE right(h.message_id, 1) IN ('1', '4', '8');};

# What an entry of the class consent says: preferences in the context of any, or a
# call.
sub consent
{
	my ($e, $rough, $span, $grain) = @_;
	if (chance(0.3))
	{
		my @c = map { "\"$_\": " . pick('true', 'true', 'false', $rough > 0 ? ('null', '"yes"', 1) : ()) }
		  grep { chance(0.4) } 'marketing', 'Advertising', 'ADS', 'Analytics', 'stats', 'profiling', 'x';
		my $preferences = chance($rough / 4) ? pick('[true]', '"x"', 'null') : '{' . join(', ', @c) . '}';
		$e->{context} = lit(chance($rough / 4) ? pick('{"consent": [1]}', '[1]', '{"consent": {"categoryPreferences": 3}}')
			: @c % 2 == 1 ? listed(@c) : "{\"consent\": {\"categoryPreferences\": $preferences}}") . '::jsonb';
	}
	return unless chance(0.4);
	$e->{type} = 'consent';
	$e->{event} = undef;
	$e->{properties} = lit('{' . join(', ',
		'"purpose": ' . pick('"marketing"', '"Marketing"', '"analytics"', '"ads"', '"profiling"', '"none"', $rough > 0.1 ? ('""', 3) : ()),
		'"state": ' . pick('"granted"', '"granted"', '"granted"', '"denied"', '"unset"', $rough > 0.1 ? ('"yes"', 'true') : ()),
		(chance(0.3) ? '"expires": ' . pick((map { '"' . stamp(int(rand(1.5 * $span / $grain)) * $grain) =~ s/ /T/r =~ s/\+00/Z/r . '"' } 1 .. 3), 'null', $rough > 0.1 ? ('"soon"', 7) : ()) : ())) . '}') . '::jsonb';
}

# A stream: a list of items, each an entry {…} or a step [what, argument].
sub stream
{
	my ($seed) = @_;
	srand($seed);
	my $class = $classes[ $seed % @classes ];
	my $lean = $lean{$class};
	$with_items = $class =~ /^(traits|versions)$/;
	$with_accounts = $class eq 'accounts';
	my $n = int(10**(1 + rand($lean ? 0.8 : 1.5)));
	my $people = $lean ? 1 + int(rand(1 + $n / 10)) : 2 + int(rand(2 + $n / 10));
	my $span = $class eq 'rate' ? 4 * 3600 : $class eq 'periods' ? pick(3, 12, 12, 30, 600) * 86400 : pick(3, 30, 150) * 86400;
	my $grain = $class eq 'rate' ? 600 : pick(1, 3600, 86400);
	my (@ids, @entries, @decisions);
	my @domains = $with_accounts && int($seed / @classes) % 2 ? qw(north.example south.example gmail.com) : qw(example.com);

	for my $i (1 .. $people)
	{
		push @ids, "anonymous_id:d$i", "anonymous_id:e$i", "email:p$i\@$domains[$i % @domains]";
		push @ids, "user_id:u$i", "user_id:v$i" if $class ne 'plain';
		push @ids, $class eq 'periods' ? "email:q$i\@example.com" : ("device_id:t$i", "cookie:k$i") if $lean;
	}
	my @odd = (
		'email:info@example.com', 'EMAIL', 'user_id:null', 'anonymous_id:0', 'email:not an address',
		'anonymous_id:', 'shoe_size:43', 'shoe_size:44', 'group_id:acme', 'anonymous_id:' . ('x' x 1100), undef);
	my $sociable = $lean ? pick(0.4, 0.7) : pick(0.1, 0.3, 0.7);
	my $rough = pick(0, 0.05, 0.2);
	my $again = pick(0.05, 0.12, 0.5);
	my $decide = $class =~ /decisions|detach/ ? 0.3 : $class =~ /undo|policies/ ? 0.25 : $class eq 'plain' ? 0 : $class =~ /traits|accounts|consent/ ? 0.15 : 0.08;

	for my $i (1 .. $n)
	{
		my $e = {
			message => "m$i",
			source => pick('web', 'web', 'app'),
			type => pick(('track') x 6, 'identify', 'identify', 'page', 'screen', 'group', 'alias')
		};
		my $received = int(rand($span / $grain)) * $grain;
		my $at = $received - (chance(0.5) ? 0 : int(rand($span / $grain)) * $grain);
		$e->{event} = pick('Order Completed', 'Product Viewed', 'Product Viewed', 'Signed In') if $e->{type} eq 'track';
		$e->{event} = pick('Home', 'Order Completed') if $e->{type} =~ /page|screen/;
		$e->{received} = stamp($received);
		$e->{occurred} = chance(0.05) ? undef : chance(0.03) ? stamp($received + pick(60, 299, 300, 301, 86400)) : stamp($at);
		# neighbours in the list belong to one person more often than not
		my $home = int(rand(@ids));
		$e->{ids} = [ $ids[$home] ];
		push @{ $e->{ids} }, chance(0.7) ? $ids[ ($home + pick(-2, -1, 1, 2)) % @ids ] : pick(@ids)
		  while (chance($sociable) && @{ $e->{ids} } < 5);
		if (chance($rough))
		{
			my $odd = pick(@odd);
			$odd = 'email:P' . (1 + int(rand($people))) . '@EXAMPLE.com ' if defined $odd && $odd eq 'EMAIL';
			if (chance(0.5)) { push @{ $e->{ids} }, $odd }
			else { $e->{ids} = [$odd] }
		}
		if ($with_accounts)
		{
			# mostly of the same few, and not every entry names one
			$e->{type} = pick('group', 'group', 'leave') if chance(0.25);
			push @{ $e->{ids} }, pick('group_id:g1', 'group_id:g1', 'group_id:g2', 'group_id:G1', 'group_id:3', 'workspace:w1', @domains > 1 ? 'domain:North.example' : ())
			  while ($e->{type} =~ /group|leave/ || chance(0.15)) && chance(0.8) && @{ $e->{ids} } < 7;
			@{ $e->{ids} } = grep { defined && /^(group_id|workspace|domain):/ } @{ $e->{ids} } if chance(0.08);
		}
		$e->{properties} = properties($e->{type}, $rough);
		consent($e, $rough, $span, $grain) if $class eq 'consent';
		if (chance($rough / 4))
		{
			my $what = pick(qw(type event time ids shape nothing));
			$e->{type} = pick('bogus', 'erase', undef) if $what eq 'type';
			$e->{event} = pick('', undef) if $what eq 'event';
			$e->{occurred} = pick('infinity', '-infinity') if $what eq 'time';
			$e->{ids} = pick([], undef) if $what eq 'ids';
			$e->{properties} = pick(q{'[1]'::jsonb}, q{'"x"'::jsonb}, q{'null'::jsonb}, 'NULL') if $what eq 'shape';
		}
		if (chance($decide))
		{
			$e->{source} = 'manual' unless chance(0.1);
			$e->{type} = pick('merge', 'split', 'undo', $class =~ /detach|mixed/ ? ('detach', 'detach') : ());
			$e->{type} = 'undo' if $class eq 'undo' && chance(0.7);
			$e->{type} = 'release' if $class eq 'policies' && chance(0.7) || $class eq 'mixed' && chance(0.4);
			$e->{event} = undef;
			if ($e->{type} =~ /undo|release/ && $class =~ /undo|mixed|policies|traits|accounts|consent/ && @entries && chance(0.8))
			{
				# of anything, mostly of what is earlier
				my $target = pick(@entries);
				$e->{properties} = lit("{\"entry\": \"$target->{message}\"}") . '::jsonb';
				$e->{source} = $target->{source};
				$e->{ids} = pick([], undef);
				if (chance(0.7))
				{
					$received = $span + 3600 * int(rand(24));
					$e->{received} = $e->{occurred} = stamp($received);
				}
			}
			elsif ($e->{type} =~ /undo|release/)
			{
				my $target = @decisions && chance(0.95) ? pick(@decisions)->{message} : 'm' . (1 + int(rand($n)));
				$e->{properties} = lit("{\"entry\": \"$target\"}") . '::jsonb';
				$e->{properties} = q{'{"entry": 3}'::jsonb} if chance(0.02);
				$e->{ids} = pick([], undef);
			}
			elsif ($e->{type} eq 'detach')
			{
				$e->{ids} = [ chance(0.1) ? pick(grep { !defined || $_ ne 'EMAIL' } @odd) : $ids[$home] ];
				push @{ $e->{ids} }, pick(@ids) if chance(0.03);
				$e->{properties} = q{'{"reason": "r"}'::jsonb};
			}
			else
			{
				# often about a pair that has been decided before
				my ($before) = grep { $_->{type} =~ /merge|split/ } reverse @decisions;
				$e->{ids} = chance(0.4) && $before ? [ reverse @{ $before->{ids} } ]
				  : chance(0.5) ? [ $ids[$home], $ids[ ($home + 1) % @ids ] ]
				  : [ pick(@ids), pick(@ids) ];
				$e->{ids}[1] = pick(grep { !defined || $_ ne 'EMAIL' } @odd) if chance($rough);
				$e->{properties} = q{'{"reason": "r", "author": "me"}'::jsonb};
			}
			push @decisions, $e;
		}
		push @entries, $e;
		if (chance($again))
		{
			# again, with the same message id
			my $d = { %{ pick(@entries) } };
			$d->{occurred} = stamp(int(rand($span / $grain)) * $grain) if chance(0.5);
			$d->{properties} = properties($d->{type} // 'track', $rough) if chance(0.3) && ($d->{type} // '') !~ /merge|split|undo|release/;
			$d->{ids} = [ pick(@ids), pick(@ids) ] if chance(0.2) && ($d->{type} // '') !~ /undo|release|detach/;
			$d->{type} = 'bogus' if chance(0.1);
			push @entries, $d;
		}
	}
	my @changes = $class eq 'rules' ? map { chance(0.6) ? pick(@$_) : () } @rules
	  : $class eq 'accounts' ? map { chance(0.3) ? pick(@$_) : () } @account_rules
	  : $class eq 'consent' ? map { chance(0.15) ? pick(@$_) : () } @rules
	  : $kinds{$class} ? map { chance(0.6) ? pick(@$_) : () } @{ $kinds{$class} } : ();
	my @retroactive = $class eq 'plans' ? map { retroactive() } 1 .. pick(0, 1, 3, 6) : ();
	return { seed => $seed, class => $class, domains => @domains > 1 ? pick(@domain_steps) : undef, rules => \@changes, span => $span, entries => \@entries,
		plans => [ $class eq 'plans' ? plans($span) : () ], retroactive => \@retroactive,
		release => $class eq 'plans' && chance(0.6),
		# most rules are there from the beginning
		early => $lean && chance($class eq 'policies' ? 0.4 : 0.8),
		# guards that are others at first, and everybody is judged again
		guards => $class =~ /^(size|bridge|rate|mixed)$/ && chance(0.3) ? {
			max_profile_identifiers => pick(2, 4, 10000),
			bridge_guard => pick(0, 1, 3),
			max_new_identifiers_per_hour => pick(0, 1, 2) } : {},
		settings => {
			max_profile_identifiers => $class eq 'size' || $class eq 'mixed' && chance(0.3) ? pick(2, 3, 5) : 10000,
			# large for the bridge guard is what has a timeline
			bridge_guard => $class =~ /^(size|rate|limits|decisions)$/ && chance(0.4) ? pick(2, 3, 4) : $class eq 'bridge' || $class eq 'mixed' && chance(0.3) ? pick(1, 2, 2, 3) : 0,
			max_new_identifiers_per_hour => $class eq 'rate' || $class eq 'mixed' && chance(0.3) ? pick(1, 2, 3) : 0 } };
}

# The stream as items in order of arrival, cut into transactions and batches.
sub items
{
	my ($stream, $order) = @_;
	srand($stream->{seed} * 16 + $order);
	my @entries = @{ $stream->{entries} };
	# as generated, as they happened, backwards, and any other way
	my %key = map { $_ => $order == 1 && $lean{ $stream->{class} } ? $_->{occurred} // $_->{received}
		  : rand() } @entries;
	@entries = sort { $key{$a} cmp $key{$b} } @entries if $order > 0;
	@entries = reverse @entries if $order == 2;
	my $batch = pick(1, 3, 10, 100, 1000);
	my $busy = pick(0.02, 0.1, 0.4);
	# windows whose items do not all stand in the node's row
	my $chunk = pick(1, 2, 5, 1000);
	my $clock = -86400;
	my $end = 1.2 * $stream->{span};
	my %define;
	my @steps = $stream->{class} eq 'define' ? @late : $stream->{class} eq 'versions' ? @late_more
	  : $stream->{class} eq 'consent' && chance(0.4) ? @consent_steps : $stream->{domains} ? @{ $stream->{domains} } : @{ $stream->{retroactive} };
	my @at = sort { $a <=> $b } map { int(rand(@entries)) } @steps;
	push @{ $define{ $at[$_] } }, $steps[$_] for 0 .. $#steps;
	my %rules;
	push @{ $rules{ $stream->{early} ? 0 : int(rand(@entries)) } }, $_ for @{ $stream->{rules} };
	my $guarded = %{ $stream->{guards} } ? int(rand(@entries)) : -1;
	my $strange = chance(0.3);
	my $round = chance(0.4);
	my @items = ([ 'now', stamp($clock) ], map { [ 'define', $_ ] } @{ $stream->{plans} });
	push @items, [ 'set', 'backfill_at_once = 0' ] if %define && chance(0.7);
	# changes of rules: in steps between the batches, or at once
	push @items, ['later'] if (@{ $stream->{rules} } || @{ $stream->{retroactive} } || $guarded >= 0) && chance(0.7);

	for my $i (0 .. $#entries)
	{
		push @items, [ 'define', $_ ] for @{ $define{$i} // [] };
		push @items, [ 'rule', $_ ] for @{ $rules{$i} // [] };
		push @items, [ 'setrule', join(' ', map {"SET cdp.$_ = $stream->{settings}{$_};"} sort keys %{ $stream->{guards} }) ] if $i == $guarded;
		push @items, $entries[$i];
		push @items, ['commit'] if chance(0.2);
		if (chance($busy))
		{
			if (chance(0.6))
			{
				my $next = $clock + int(rand(($end - $clock) / 4));
				# often the very instant at which windows end
				$next = int($next / 86400) * 86400 if $round;
				$clock = $next if $next > $clock;
				push @items, [ 'now', stamp($clock) ];
			}
			push @items, [ $strange ? pick('apply', 'other', 'other', 'aborted', 'partly') : 'apply',
				chance(0.5) ? $batch : pick(1, 2, 5, 1000) ];
			push @items, ['consent'] if $stream->{class} eq 'consent';
			push @items, ['verify'] if chance($lean{ $stream->{class} } ? 0.01 : 0.05);
			push @items, ['fresh'] if $stream->{class} ne 'accounts' && chance($lean{ $stream->{class} } ? 0.02 : 0.1);
		}
	}
	push @items, [ 'end', stamp($end) ];
	push @items, ['release'] if $stream->{release};
	# the other orders are compared with these
	push @items, ['check'] if $order < 2;
	return [ (map { [ 'set', "$_ = " . ($stream->{guards}{$_} // $stream->{settings}{$_}) ] } sort keys %{ $stream->{settings} }),
		[ 'set', "batch_size = $batch" ], [ 'set', "window_chunk = $chunk" ], @items ];
}

sub script
{
	my ($items) = @_;
	my @sql = ('RESET ALL;', $delete_sql, $db =~ /^traits/ ? @undefine_more : (), $reset_sql);
	push @sql, q{SELECT dblink_connect('other', format('host=%s port=%s dbname=%s', split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'), current_database())) WHERE 'other' <> ALL (COALESCE(dblink_get_connections(), '{}'));} if $other && grep { ref $_ eq 'ARRAY' && $_->[0] eq 'other' } @$items;
	my $check = '';
	my $release = '';
	my @rows;
	my $flush = sub {
		return unless @rows;
		push @sql,
		  "INSERT INTO cdp.events (message_id, source, type, event, identifiers, properties, context, occurred_at, received_at) VALUES\n"
		  . join(",\n", map { row($_) } @rows) . ';';
		@rows = ();
	};

	for my $item (@$items)
	{
		if (ref $item eq 'HASH')
		{
			push @rows, $item;
			next;
		}
		my ($what, $argument) = @$item;
		# what a transaction itself has written, too
		push @sql, 'BEGIN;' if $what eq 'fresh';
		$flush->();
		push @sql, $fresh_sql if $what eq 'fresh';
		push @sql, "SET cdp.now = '$argument';" if $what =~ /now|end/;
		push @sql, "SET cdp.$argument;" if $what eq 'set';
		$check = $verify_sql if $what eq 'check';
		$release = "SELECT 'applied' FROM cdp.apply(NULL);\n$release_sql" if $what eq 'release';
		push @sql, "SELECT 'applied' FROM cdp.apply($argument);" if $what eq 'apply';
		if ($what eq 'other')
		{
			push @sql, $other
			  ? "SELECT x FROM dblink('other', (SELECT string_agg(format('SET %I.%I = %L;', 'cdp', split_part(name, '.', 2), setting), ' ') FROM pg_settings WHERE name IN ('cdp.now', 'cdp.max_profile_identifiers', 'cdp.bridge_guard', 'cdp.max_new_identifiers_per_hour')) || ' SELECT ''applied'' FROM cdp.apply($argument)') AS t(x text);"
			  : "SELECT 'applied' FROM cdp.apply($argument);";
		}
		push @sql, 'BEGIN;', "SELECT 'applied' FROM cdp.apply($argument);", 'ROLLBACK;' if $what eq 'aborted';
		push @sql, 'BEGIN;', "SELECT 'applied' FROM cdp.apply($argument);", 'SAVEPOINT s;',
		  "SELECT 'applied' FROM cdp.apply($argument);", 'ROLLBACK TO s;', "SELECT 'applied' FROM cdp.apply(1);", 'COMMIT;'
		  if $what eq 'partly';
		push @sql, 'SELECT cdp.' . ($argument =~ /shoe|workspace/ ? 'create' : 'alter') . "_identifier_kind($argument);" if $what eq 'rule';
		push @sql, $argument, 'SELECT cdp.rejudge();' if $what eq 'setrule';
		push @sql, 'SET cdp.replay_at_commit = 0;' if $what eq 'later';
		push @sql, $verify_sql if $what eq 'verify';
		push @sql, $argument if $what eq 'define';
		push @sql, $consent_sql if $what eq 'consent';
	}
	$flush->();
	push @sql, $release, "SELECT 'applied' FROM cdp.apply(NULL);", "SELECT 'LEFT ' || n FROM cdp.apply(NULL) n WHERE n > 0;",
	  q{SELECT 'LEFT a change of rules' FROM cdp.rule_changes;},
	  q{SELECT 'LEFT a definition' FROM cdp.backfills;},
	  q{SELECT 'LEFT timers' FROM cdp.timers t, cdp.applier a WHERE t.at <= a.clock LIMIT 1;},
	  $check, q{SELECT 'STATE';}, $state_sql;
	return join("\n", @sql) . "\n";
}

my %reasons;

# Sessions by database and what they are for: psql, which reads from a pipe.
my %sessions;
# Each list in a session of its own?
our $apart = 0;

sub session
{
	my ($name) = @_;
	return $sessions{$name} if $sessions{$name};
	open my $err, '+>', "$script.$name.err" or die "$script.$name.err: $!";
	my $pid = open3(my $in, my $out, '>&' . fileno($err), 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1',
		'-v', 'VERBOSITY=terse', '-d', $node->connstr($db));
	$in->autoflush(1);
	return $sessions{$name} = { pid => $pid, in => $in, out => $out, err => "$script.$name.err" };
}

# Ends the session; returns what went wrong in it.
sub end_session
{
	my ($name) = @_;
	my $session = delete $sessions{$name} or return '';
	close $session->{in};
	waitpid $session->{pid}, 0;
	return '' if $? == 0;
	my $err = PostgreSQL::Test::Utils::slurp_file($session->{err});
	return 'ERROR ' . (join("\n", grep { /ERROR|FATAL|PANIC|closed|lost/ } split /\n/, $err) || $err || "psql: $?");
}

# Run lists of items, one after the other in one session; returns for each
# [what is wrong or '', state].  None comes after one that raised an error.
sub run
{
	my ($for, @lists) = @_;
	my $name = "$db.$for";
	my @results;
	end_session($name) if $apart;
	my $session = session($name);
	# from a file: psql may stop reading when there is an error.  Another one than
	# last time, of which it has perhaps not seen the end.
	my $file = "$script." . ($session->{turn} = !$session->{turn} ? 1 : 0) . ".$name";
	open my $fh, '>:raw', $file or die "$file: $!";
	print $fh map { script($_) . "\\echo NEXT\n" } @lists;
	close $fh;
	local $SIG{PIPE} = 'IGNORE';
	my $stream = $session->{in};
	print $stream "\\i $file\n";
	for my $list (@lists)
	{
		my (@wrong, @state);
		my $line;
		while (defined($line = readline $session->{out}) && $line ne "NEXT\n")
		{
			chomp $line;
			if (@state) { push @state, $line }
			elsif ($line eq 'STATE') { push @state, '' }
			elsif ($line =~ /^(DIFFERENCE|LEFT) /) { push @wrong, $line }
		}
		if (!defined $line)
		{
			push @wrong, end_session($name) || 'ERROR psql came to an end';
			# a crash: wait until the server is back
			$node->poll_query_until('postgres', 'SELECT true', 't');
		}
		shift @state;
		push @results, [ join("\n", @wrong), join("\n", @state) ];
		last unless defined $line;
	}
	return @results;
}

# All orders, given as lists of items; returns what is wrong, and which of the
# lists after the first it is wrong with.
sub check
{
	my ($items, @others) = @_;
	my ($first) = run('first', $items);
	my ($wrong, $state) = @$first;
	if ($wrong ne '' && !$apart)
	{
		local $apart = 1;
		$wrong = "not alone, but after others in the same session:\n$wrong" if (check($items))[0] eq '';
	}
	return ($wrong, 0) if $wrong ne '';
	# link a b origin date time status reason
	$reasons{$1}++ while $state =~ /^link (?:\S+ ){6}([a-z]\S+)/mg;
	$reasons{"entries $1"}++ while $state =~ /^rejected \S+ \S+ limit (\S+)/mg;
	my @results = @others ? run('others', @others) : ();
	for my $order (0 .. $#results)
	{
		($wrong, my $state2) = @{ $results[$order] };
		my $where = 'another order of arrival';
		if (!$apart && ($wrong ne '' || $state ne $state2))
		{
			# in a session of its own, to know whether what was before matters
			local $apart = 1;
			my ($alone) = check($items, $others[$order]);
			$where .= $alone ne '' ? ' (alone, too)' : ' (not alone, but after others in the same session)';
		}
		return ("in $where:\n$wrong", $order) if $wrong ne '';
		next if $state eq $state2;
		my (%seen, @diff);
		$seen{$_}++ for split /\n/, $state;
		$seen{$_}-- for split /\n/, $state2;
		for my $line (sort keys %seen)
		{
			push @diff, "first order: $line" if $seen{$line} > 0;
			push @diff, "other order: $line" if $seen{$line} < 0;
		}
		return ("two orders of arrival differ ($where):\n" . join("\n", @diff[ 0 .. ($#diff < 11 ? $#diff : 11) ]), $order);
	}
	return ('', 0);
}

# Remove from both lists what is not needed for the failure.
sub smaller
{
	my ($items, $other, $wrong) = @_;
	my $deadline = time() + $minimise;
	local $apart = 1;
	# only what fails in the same way counts: its first two words
	my ($how) = $wrong =~ /^(\w+ \w+)/;
	my $fails = sub { my ($what) = check(@_); return $what =~ /^\Q$how\E/; };
	for my $list (0, 1)
	{
		my $size = int(@{ $list ? $other : $items } / 2);
		while ($size >= 1)
		{
			my $at = 0;
			while ($at < @{ $list ? $other : $items })
			{
				last if time() > $deadline;
				my $subject = $list ? $other : $items;
				my $to = $at + $size - 1 < $#$subject ? $at + $size - 1 : $#$subject;
				# both orders keep what they are judged by, else they differ for that
				my %gone = map { $_ => 1 } grep { ref $_ eq 'HASH' || $_->[0] !~ /define|end|rule|set|check|release/ } @$subject[ $at .. $to ];
				my @a = grep { !$gone{$_} } @$items;
				my @b = grep { !$gone{$_} } @$other;
				if (%gone && $fails->(\@a, \@b)) { $items = \@a; $other = \@b; }
				else { $at += $size; }
			}
			$size = int($size / 2);
		}
	}
	return ($items, $other);
}

# ---- the streams ----

my $start = time();

# Every so many streams of a database, new sessions and tables without dead rows.
my $lasts = 8;
my %since;

# The streams of one job; returns what they came to.
sub stream_all
{
	my ($failed, $ran) = (0, 0);
	my %done;
	for (my $i = $job; $i < $streams; $i += $jobs)
	{
		# on a slow or busy machine, fewer
		last if $seconds > 0 && time() - $start > $seconds;
		$ran++;
		my $stream = stream($first_seed + $i);
		$db = $lean{ $stream->{class} } ? 'identity' : $stream->{class} =~ /^(traits|versions)$/ ? 'traits'
		  : $stream->{class} =~ /^(accounts|consent)$/ ? $1 : 'streams';
		$db .= $job if $jobs > 1;
		if ($since{$db}++ % $lasts == 0)
		{
			end_session("$db.$_") for qw(first others);
			$node->safe_psql($db, $truncate_sql);
		}
		my @lists = map { items($stream, $_) } 0 .. ($lean{ $stream->{class} } ? $orders : 2) - 1;
		my ($wrong, $order) = check(@lists);
		$done{ $stream->{class} }++;
		note sprintf('%d streams in %.0f s', $i + 1, time() - $start) if ($i + 1) % 50 == 0;
		next if $wrong eq '';
		$failed++;
		diag "stream with seed $stream->{seed} ($stream->{class}, "
		  . scalar(@{ $stream->{entries} }) . " entries) fails:\n"
		  . join("\n", grep { defined } (split /\n/, $wrong)[ 0 .. 11 ]);
		if ($minimise > 0 && $failed == 1)
		{
			my ($items, $other) = smaller($lists[0], $lists[ $order + 1 ], $wrong);
			my $file = "$PostgreSQL::Test::Utils::log_path/stream-$stream->{seed}";
			PostgreSQL::Test::Utils::append_to_file("$file.sql", script($items));
			PostgreSQL::Test::Utils::append_to_file("$file.other.sql", script($other));
			my $text = script($items);
			my $lines = ($text =~ tr/\n//);
			diag "made smaller: $file.sql and $file.other.sql, $lines lines"
			  . ($lines <= 80 ? ":\n$text" : '');
			diag "it says:\n" . (check($items, $other))[0];
		}
		last if $failed >= ($ENV{CDP_MAX_FAILURES} // 5);
	}
	end_session($_) for keys %sessions;
	return { failed => $failed, ran => $ran, done => \%done, reasons => \%reasons };
}

my @results;
if ($jobs > 1)
{
	for my $name ('streams', 'traits', 'accounts', 'consent', 'identity')
	{
		$node->safe_psql('postgres', "CREATE DATABASE $name$_ TEMPLATE $name") for 0 .. $jobs - 1;
	}
	my @children;
	for (0 .. $jobs - 1)
	{
		defined(my $pid = fork) or die "fork: $!";
		push @children, $pid;
		next if $pid;
		# the parent has the server and the verdict
		$job = $_;
		$script = "$tempdir/stream$job.sql";
		my $ok = eval { nstore(stream_all(), "$tempdir/result$job"); 1 };
		diag "job $job: $@" unless $ok;
		POSIX::_exit($ok ? 0 : 1);
	}
	waitpid $_, 0 for @children;
	@results = map { -e "$tempdir/result$_" ? retrieve("$tempdir/result$_")
		  : { failed => 1, ran => 0, done => {}, reasons => {} } } 0 .. $jobs - 1;
}
else
{
	@results = stream_all();
}
my ($failed, $ran) = (0, 0);
my (%done, %why);
for my $result (@results)
{
	$failed += $result->{failed};
	$ran += $result->{ran};
	$done{$_} += $result->{done}{$_} for keys %{ $result->{done} };
	$why{$_} += $result->{reasons}{$_} for keys %{ $result->{reasons} };
}
my $elapsed = time() - $start;
note sprintf('%d of %d streams in %.1f s: %s', $ran, $streams, $elapsed,
	join(', ', map {"$done{$_} $_"} sort keys %done));
note 'what does not count: ' . join(', ', map {"$why{$_} $_"} sort keys %why);
# a test of rules that are never broken would test nothing
if ($ran >= 100 && !$ENV{CDP_CLASSES})
{
	ok(exists $why{$_}, "something does not count: $_")
	  for qw(limit cannot-link size rate bridge shared detached), 'entries true', 'entries false';
}
is($failed, 0, "$ran random streams from seed $first_seed: applied in any order as recomputed");

$node->stop;
done_testing();
