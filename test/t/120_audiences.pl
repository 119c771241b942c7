# The audiences of doc/audiences.md: the document's own statements are run, and
# people who should and should not be in them are.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use FindBin;

my $doc = PostgreSQL::Test::Utils::slurp_file("$FindBin::Bin/../../doc/audiences.md");
my @blocks = $doc =~ /^```sql\n(.*?)^```/msg;
cmp_ok(scalar @blocks, '>=', 14, 'the document has examples');
my %named = map { $_ => 1 } map { /create_segment\('(\w+)'/g } @blocks;

my $node = PostgreSQL::Test::Cluster->new('audiences');
$node->init;
$node->append_conf('postgresql.conf', "fsync = off\njit = off\ncdp.databases = ''\n");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION cdp');
my $clock = '2026-06-01 12:00+00';
$node->safe_psql('postgres', join("\n", "SET cdp.now = '2026-06-01 12:00+00'; SET client_min_messages = error;", @blocks));

my %seen;

sub at
{
	($clock) = @_;
}

# event AGO WHO EVENT [PROPERTIES]
sub did
{
	my ($ago, $who, $event, $properties) = @_;
	my ($kind, $value) = $who =~ /^(\w+):(.*)$/ ? ($1, $2) : ('user_id', $who);
	$node->safe_psql('postgres', "SET cdp.now = '$clock'; SELECT cdp.track('$event', '" . ($properties // '{}')
		  . "', identifiers => ARRAY['$kind:$value'::cdp.identifier], occurred_at => '$clock'::timestamptz - interval '$ago')");
}

sub is_known
{
	my ($who, $traits) = @_;
	$node->safe_psql('postgres', "SET cdp.now = '$clock'; SELECT cdp.identify('$who', '$traits')");
}

sub asked
{
	my ($sql) = @_;
	return (split /\n/, $node->safe_psql('postgres', "SET cdp.now = '$clock'; SELECT cdp.apply() IS NULL; SELECT cdp.apply() IS NULL; $sql"))[-1];
}

sub members
{
	my ($segment, $wanted, $what) = @_;
	$seen{$segment} = 1;
	my $found = $node->safe_psql('postgres', "SET cdp.now = '$clock'; SELECT cdp.apply() IS NULL; SELECT cdp.apply() IS NULL; SELECT string_agg(DISTINCT cdp.value(i.identifier), ' ' ORDER BY cdp.value(i.identifier)) FROM cdp.memberships m JOIN cdp.identities i ON i.node_id = m.profile_id WHERE m.segment = '$segment'");
	$found =~ s/^(f\n)*//;
	is($found, $wanted, "$segment: $what");
}

did('13 days', 'asleep', 'Logged In');
did('1 hour', 'awake', 'Logged In') for 1 .. 8;
members('dormant', '', 'one day early');
members('engaged', 'awake', 'eight logins');
members('unhealthy', 'asleep', 'few logins');
at('2026-06-02 12:00+00');
members('dormant', 'asleep', 'time has passed');

did('3 days', 'stuck', 'Onboarding Step', '{"step": 2}');
did('2 days', 'going', 'Onboarding Step', '{"step": 2}');
did('5 days', 'through', 'Onboarding Step', '{"step": 2}');
did('1 days', 'through', 'Onboarding Step', '{"step": 3}');
did('1 hour', 'through', 'Onboarding Finished');
members('stalled_at_step_2', 'stuck', 'three days at step 2');
members('onboarded', 'through', 'finished');
did('0', 'stuck', 'Onboarding Step', '{"step": 3}');
members('stalled_at_step_2', '', 'goes on');

is_known($_, '{"plan": "professional", "job": "customer success manager"}') for 'payer', 'user';
is_known('engineer', '{"plan": "professional", "job": "engineer"}');
is_known('trial', '{"plan": "free", "job": "customer success manager"}');
did("$_ days", 'user', 'Report Viewed') for 0 .. 6;
members('show_reporting', 'payer', 'pays and does not use');
members('reporting_daily', 'user', 'uses it daily');

did("$_ days", 'fading', 'Logged In') for 15 .. 20, 3, 4, 5;
did("$_ days", 'steady', 'Logged In') for 15 .. 20, 3, 4, 5, 6;
did('1 day', $_, 'Ticket', '{"status": "opened"}') for 'fading', 'steady';
members('churn_alert', 'fading', 'half as many');
did('0', 'fading', 'Ticket', '{"status": "solved"}');
members('churn_alert', '', 'the ticket is solved');

did("$_ days", $_[0] // 'lead', 'Product Viewed', '{"tier": "premium", "product": "p"}') for 1, 2, 3;
did("$_ days", 'buyer', 'Product Viewed', '{"tier": "premium", "product": "p"}') for 1, 2, 3;
did('1 hour', 'buyer', 'Order Completed', '{"revenue": 100, "product": "p"}');
members('warm_leads', 'lead', 'three views');
members('bought_what_they_viewed', 'buyer', 'the same product');
members('first_time_buyer', 'buyer', 'one order');
did('1 minute', 'other', 'Product Viewed', '{"product": "q"}');
did('0', 'other', 'Order Completed', '{"revenue": 1, "product": "r"}');
members('bought_what_they_viewed', 'buyer', 'not another product');
did('1 hour', 'rich', 'Order Completed', '{"revenue": 250}');
did('2 hour', 'rich', 'Order Completed', '{"revenue": 250}');
members('high_value', 'rich', 'two orders, 500');
did('0', 'rich', 'Pricing');
did('0', 'buyer', 'Pricing');
members('pricing_alert', 'rich', 'opens the pricing page');
did('0', 'buyer', 'Order Completed', '{"revenue": 1}');
members('repeat_buyer', 'buyer', 'two orders');
members('customers', 'buyer other rich', 'customers');
members('recent_buyers', 'buyer other rich', 'all of them lately');

my $lifecycle = "'new_visitor','first_time_buyer','repeat_buyer','high_value','churn_risk','inactive'";
for my $day ('2026-06-02 12:00+00', '2026-06-07 12:00+00', '2026-08-31 12:30+00', '2026-09-20', '2026-11-30', '2027-01-01')
{
	at($day);
	members('pricing_alert', $day =~ /^2026-06-02/ ? 'rich' : '', "an hour, at $day");
	members('warm_leads', '', "views are over, at $day") if $day gt '2026-06-07';
	is( $node->safe_psql('postgres', "SELECT count(*) FROM (SELECT p.profile_id FROM cdp.profiles p LEFT JOIN cdp.memberships m ON m.profile_id = p.profile_id AND m.segment IN ($lifecycle) GROUP BY 1 HAVING count(m.segment) <> 1) x"),
		'0', "everybody is in one stage of the lifecycle at $day");
}
members('churn_risk', '', 'no longer');
members('inactive', 'buyer other rich', 'half a year later');
ok($node->safe_psql('postgres', "SELECT count(*) FROM cdp.memberships WHERE segment = 'new_visitor'") > 5, 'new visitors');

is_known('anna', '{"country": "DE", "joined_at": "2026-12-28 00:00:01+00"}');
is_known('bob', '{"country": "US", "joined_at": "2026-12-31"}');
is_known('cleo', '{"country": "FR", "joined_at": "2026-12-01"}');
members('new_europeans', 'anna', 'joined lately');
at('2027-01-02 00:00:01+00');
members('new_europeans', '', 'five days later');

did('0', $_, 'Article Read', '{"topic": "climate"}') for 'rich', 'reader', 'reader', 'both';
did('0', $_, 'Article Read', '{"topic": "sports"}') for 'fan', 'both', 'both';
did('0', 'both', 'Article Read', '{"topic": "energy"}');
members('climate_readers', 'both reader rich', 'by topic');
members('acquisition', 'both fan reader', 'no customers');
members('recent_buyers', '', 'half a year later');
did('0', $_, 'Newsletter Opened') for 'fan', 'reader';
members('sports_lately', 'fan', 'one of the latest topics');
did('0', 'fan', 'Article Read', qq({"topic": "$_"})) for 'art', 'film', 'books';
members('sports_lately', '', 'three other topics since');
members('acquisition_tested', $node->safe_psql('postgres', "SELECT string_agg(cdp.value(i.identifier), ' ' ORDER BY cdp.value(i.identifier)) FROM cdp.memberships m JOIN cdp.identities i ON i.node_id = m.profile_id WHERE m.segment = 'acquisition' AND (hashtextextended('spring:' || m.profile_id, 0) & 9223372036854775807) % 1000000 >= 100000"), 'but for the held out');

did('0', $_, 'Cart Filled') for 'slow', 'quick';
at('2027-01-02 00:30+00');
did('0', 'quick', 'Order Completed');
members('cart_abandoned', '', 'before the hour is over');
at('2027-01-02 01:00:01+00');
members('cart_abandoned', 'slow', 'an hour later');
did('0', 'slow', 'Order Completed');
members('cart_abandoned', '', 'ordered after all');

is_known('soon', '{"renewal_at": "2027-02-05", "owner_email": "sue@shop.example"}');
is_known('past', '{"renewal_at": "2027-01-01"}');
members('renewal_at_risk', '', 'not yet');
at('2027-01-06');
members('renewal_at_risk', 'soon', 'thirty days before');
is(asked(q{SELECT string_agg((payload->'traits'->>'owner_email') || ' ' || (payload->'traits'->>'health'), ',') FROM cdp.poll('tasks')}), 'sue@shop.example 0', 'a task with the address of the owner');
at('2027-02-05 00:00:00.000001+00');
members('renewal_at_risk', '', 'too late');

did("$_ hours", 'busy', 'Page Viewed') for 1, 3, 5;
did("$_ minutes", 'idle', 'Page Viewed') for 1, 3, 5;
members('three_sessions', 'busy', 'hours apart');
$node->safe_psql('postgres', "SET cdp.now = '$clock'; SELECT cdp.track('Page Viewed', user_id => '$$_[0]', context => '{\"campaign\": {\"name\": \"$$_[1]\"}}', occurred_at => '$clock'::timestamptz - m * interval '1 minute') FROM generate_series(0, $$_[2], 5) m")
	for ['came', 'spring', 15], ['short', 'spring', 5], ['autumn', 'autumn', 15];
did('0', 'came', 'Page Viewed');
members('long_sessions', 'came', 'a quarter of an hour, five pages, by the campaign');
did('0', 'email:ada@example.com', 'Logged In');
did('0', 'anonymous_id:a1', 'Page Viewed');
members('reachable', 'ada@example.com', 'an address');
members('visitors', 'a1', 'a browser only');

is_known('mover', '{"plan": "free"}');
at('2027-02-06');
is_known('mover', '{"plan": "professional"}');
members('just_upgraded', 'mover', 'from free to professional');
at('2027-02-13');
members('just_upgraded', '', 'a week later');

sub says
{
	my ($who, $state, $expires) = @_;
	$node->safe_psql('postgres', "SET cdp.now = '$clock'; SELECT cdp.consent('$who', 'marketing', '$state', expires => "
		  . (defined $expires ? "'$expires')" : 'NULL)'));
}
is_known($_, qq({"email": "$_\@example.com"})) for 'buyer', 'rich';
$node->safe_psql('postgres', "SET cdp.now = '$clock'; SELECT cdp.identify('$_', '{}', identifiers => '{email:$_\@example.com}')") for 'buyer', 'rich';
did('0', $_, 'Newsletter Requested') for 'buyer', 'other', 'rich';
members('win_back', '', 'nobody has consented');
members('newsletter', '', 'nor to the newsletter');
says('buyer', 'granted');
says('other', 'granted', '2027-02-13 00:00:01+00');
says('rich', 'denied');
members('win_back', 'buyer', 'who has, and has an address');
members('newsletter', 'buyer other', 'who has');
at('2027-02-13 00:00:01+00');
members('newsletter', 'buyer', 'consent has expired');
says('buyer', 'denied');
members('win_back', '', 'withdrawn');
members('newsletter', '', 'from all of them');

# accounts, with the changes that have been announced
sub accounts
{
	my ($segment, $wanted, $what) = @_;
	$seen{$segment} = 1;
	my $found = $node->safe_psql('postgres', "SET cdp.now = '$clock'; SELECT cdp.apply() IS NULL; SELECT cdp.apply() IS NULL; SELECT COALESCE((SELECT string_agg(cdp.value(a.identifier), ' ' ORDER BY cdp.value(a.identifier)) FROM cdp.memberships m JOIN cdp.account_identities a ON a.account_id = m.profile_id WHERE m.segment = '$segment'), '') || '; ' || (SELECT count(*) FILTER (WHERE kind = 'segment_entered') || ' ' || count(*) FILTER (WHERE kind = 'segment_exited') FROM cdp.changes WHERE segment = '$segment' AND entity = 'account')");
	$found =~ s/^(f\n)*//;
	is($found, $wanted, "$segment: $what");
}
$node->safe_psql('postgres', "SET cdp.now = '$clock'; SELECT cdp.group('acme', '{\"seats_bought\": 5}', user_id => 'w1'); SELECT cdp.group('acme', user_id => 'w' || i) FROM generate_series(2, 5) i");
did('0', "w$_", 'Logged In') for 1 .. 3;
accounts('expansion', '; 0 0', 'three of five');
members('idle_at_acme', 'w4 w5', 'no login yet');
did('0', 'w4', 'Logged In');
accounts('expansion', 'acme; 1 0', 'four of five');
did('0', $_, 'Logged In') for 'w4', 'w5', 'w1';
accounts('expansion', 'acme; 1 0', 'announced once');
members('idle_at_acme', '', 'all work');
did('0', 'w1', 'Article Read', '{"topic": "x"}');
did('0', 'w2', 'Webinar');
accounts('target_engaged', '; 0 0', 'two signals');
is_known('w2', '{"renewal_at": "2027-03-25"}');
accounts('some_renewing', '; 0 0', 'in more than a month');
accounts('champions', '; 0 0', 'five are at work, nobody asks for the price');
did('0', 'w3', 'Pricing');
accounts('target_engaged', 'acme; 1 0', 'three, by three people');
is(asked(qq{SELECT count(*) || ' ' || min(payload->'identifiers'->>'group_id') FROM cdp.poll('$_')}), '1 ["acme"]', "one signal for $_") for 'ads', 'email', 'sales';
accounts('champions', 'acme; 1 0', 'one does');
$node->safe_psql('postgres', "SET cdp.now = '$clock'; SELECT cdp.group('acme', '{\"employees\": 1500}', user_id => 'w1'); SELECT cdp.identify('w1', anonymous_id => 'w1-browser'); SELECT cdp.group('small', '{\"employees\": 15}', user_id => 'v1')");
did('0', $_, 'Page Viewed') for 'anonymous_id:w1-browser', 'v1';
members('enterprise_visitors', 'w1', 'by the employees of the account');
at('2027-03-01');
members('renewing', 'w2', 'in less');
accounts('some_renewing', 'acme; 1 0', 'somebody in less');
at('2027-03-16 00:00:01+00');
accounts('target_engaged', '; 1 1', 'thirty days later');
accounts('expansion', '; 1 1', 'nobody logs in');
accounts('champions', '; 1 1', 'nor asks');
members('idle_at_acme', 'w1 w2 w3 w4 w5', 'nor is at work');
at('2027-03-26');
accounts('some_renewing', '; 1 1', 'the renewal is over');

# to a platform: who is in it, hashed, and who comes and goes
$node->safe_psql('postgres', "SET cdp.now = '$clock'; SELECT cdp.identify('reader', identifiers => '{email:Reader\@example.com}')");
members('acquisition', 'both fan reader', 'as before');
is(asked("SELECT kind || ' ' || (value = encode(sha256('reader\@example.com'), 'hex')) FROM cdp.audience('acquisition', '{email,phone}', 'sha256')"), 'email true', 'by the hash of an address');
is(asked(q{SELECT array_agg(profile_id ORDER BY profile_id) = (SELECT array_agg(m ORDER BY m) FROM cdp.segment_members('acquisition') m) FROM (SELECT DISTINCT ON (profile_id) profile_id, kind FROM cdp.poll('platform', 1000) ORDER BY profile_id, epoch DESC, seq DESC) p WHERE kind = 'segment_entered'}), 't', 'the platform is told of all of them');
did('0', 'reader', 'Order Completed', '{"revenue": 1}');
members('acquisition', 'both fan', 'one has bought');
is(asked(q{SELECT kind || ' ' || (payload->'identifiers'->>'email') FROM cdp.poll('platform') ORDER BY epoch DESC, seq DESC LIMIT 1}), 'segment_exited ["reader@example.com"]', 'and left');

is(join(' ', grep { !$seen{$_} } sort keys %named), 'new_visitor', 'every audience has been looked at');
is($node->safe_psql('postgres', 'SELECT * FROM cdp.verify()'), '', 'verify() agrees');
$node->stop;
done_testing();
