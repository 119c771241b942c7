# Reading segments where nothing can be written: on a standby, and in a read-only
# transaction of the primary server.  The answers are those of a transaction that
# may write, and what needs to write says so.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', "fsync = off\njit = off\ncdp.databases = ''\n");
$primary->start;
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

my $clock = "SET cdp.now = '2026-03-01 12:00+00'; SET timezone = 'UTC'; SET client_min_messages = error;";
$primary->safe_psql('postgres', $clock . q{
CREATE EXTENSION cdp;
SELECT cdp.create_trait('plan', type => 'text'), cdp.create_trait('signed_up_at', type => 'timestamptz'), cdp.create_trait('seats', type => 'numeric', entity => 'account');
SELECT cdp.create_purpose('marketing', 'offers');
SELECT cdp.identify('u' || i, jsonb_build_object('plan', CASE WHEN i % 2 = 0 THEN 'pro' ELSE 'free' END, 'signed_up_at', timestamptz '2026-03-01' - i * interval '1 day')) FROM generate_series(1, 20) i;
SELECT cdp.track('View', user_id => 'u' || i, occurred_at => '2026-03-01 10:00+00') FROM generate_series(1, 10) i;
SELECT cdp.track('Order', user_id => 'u' || i, occurred_at => '2026-03-01 11:00+00') FROM generate_series(1, 5) i;
SELECT cdp.group('acme', '{"seats": 12}', user_id => 'u' || i) FROM generate_series(1, 8) i;
SELECT cdp.consent('u' || i, 'marketing', 'granted') FROM generate_series(1, 4) i;
SELECT cdp.apply();
SELECT cdp.create_segment('pros', $$plan = 'pro' AND since(signed_up_at) < interval '15 days'$$);
SELECT cdp.create_segment('buyers', $$did_in_order('View', 'Order', within => '2 hours') AND account.seats > 3 AND member_of('acme') AND NOT changed(plan) AND known()$$);
SELECT cdp.create_segment('written_to', $$consented('marketing') OR in_segment('buyers')$$, exclude => '{pros}', holdout => 0.1);
SELECT cdp.create_segment('left', $$did_in_order('View', then_not => 'Order', within => '1 hour')$$, exit_when => $$plan = 'pro'$$);
SELECT cdp.create_segment('fails', $$1 / length(replace(plan, 'free', '')) > 0$$);
SELECT cdp.create_segment('lively', $$seats > 3 AND any_member(did('Order', within => '1 day')) AND count_members(since(signed_up_at) < interval '9 days') > 2$$, entity => 'account');
});

my @reads = (
	q{SELECT s.name, u, e.* FROM cdp.segments s, generate_series(1, 20) u, cdp.explain_segment(s.name, cdp.identifier('user_id', 'u' || u)) WITH ORDINALITY e WHERE s.entity = 'profile' ORDER BY s.name, u, e.ordinality},
	q{SELECT * FROM cdp.explain_segment('lively', 'group_id:acme')},
	q{SELECT s.name, u, cdp.in_segment(cdp.identifier('user_id', 'u' || u), s.name) FROM cdp.segments s, generate_series(1, 20) u WHERE s.entity = 'profile' ORDER BY 1, 2},
	q{SELECT cdp.in_segment('group_id:acme', 'lively')},
	q{SELECT p.profile_id, cdp.matches(p.profile_id, $$did('Order') AND plan = 'pro' OR count_of('Never asked for', within => '3 days') > 0 OR account.seats > 20$$) FROM cdp.profiles p ORDER BY 1},
	q{SELECT cdp.profile(p.profile_id)->'segments' FROM cdp.profiles p ORDER BY p.profile_id},
	q{SELECT * FROM cdp.segment_overlap('{pros,buyers,written_to,left}')},
	q{SELECT cdp.segment_size('{pros}', none_of => '{left}'), array(SELECT cdp.segment_members(any_of => '{buyers,left}'))},
	q{SELECT * FROM cdp.segment_members('written_to')},
	q{SELECT * FROM cdp.segment_stats('left', 3)},
	q{SELECT * FROM cdp.preview_segment($$plan = 'pro' AND did('Order', within => '1 day')$$)},
	q{SELECT * FROM cdp.preview_segment(segment => 'written_to', exclude => '{left}', holdout => 0.5)},
	q{SELECT * FROM cdp.memberships ORDER BY 1, 2},
	q{SELECT name, version, state, errors, last_error FROM cdp.segments ORDER BY name},
	q{SELECT * FROM cdp.verify()});
my @errors = (
	q{SELECT * FROM cdp.preview_segment($$did('Never asked for')$$)},
	q{SELECT cdp.create_segment('more', 'true')},
	q{SELECT * FROM cdp.alter_segment('pros', 'true')},
	q{SELECT cdp.matches('user_id:u1', $$consented('marketin')$$)},
	q{SELECT cdp.in_segment('user_id:u1', 'buyer')});

# what it says, and when a day has passed that the applier has not seen
for my $at ('2026-03-01 12:00+00', '2026-03-02 11:00+00')
{
	$primary->wait_for_catchup($standby);
	my $now = "SET cdp.now = '$at'; SET timezone = 'UTC';";
	for my $read (@reads)
	{
		my $wanted = $primary->safe_psql('postgres', "$now $read");
		is($primary->safe_psql('postgres', "$now BEGIN READ ONLY; $read"), $wanted, "read-only: $read");
		is($standby->safe_psql('postgres', "$now $read"), $wanted, "standby: $read");
	}
}
for my $error (@errors)
{
	my @said = map {
		my ($node, $begin) = @$_;
		my $said = '';
		isnt($node->psql('postgres', "$clock $begin $error", stderr => \$said), 0, "refused: $error");
		$said;
	} [ $primary, 'BEGIN READ ONLY;' ], [ $standby, '' ];
	unlike($_, qr/XX000|internal|recovery conflict/, 'by a message for people') for @said;
}
my ($out, $said) = ('', '');
$standby->psql('postgres', "$clock $errors[0]", stderr => \$said);
like($said, qr/asks what no segment asks yet.*Ask on the primary server/s, 'a preview that would have to fold history says where it can be had');
$standby->psql('postgres', "$clock $errors[4]", stderr => \$said);
like($said, qr/Perhaps you meant 'buyers'/, 'hints are there, too');
$standby->stop;
$primary->stop;
done_testing();
