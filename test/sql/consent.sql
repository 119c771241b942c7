-- Purposes, what is said about them, and what follows for segments and delivery.
\set VERBOSITY terse
SET client_min_messages = warning;
SET intervalstyle = postgres;
SET timezone = UTC;
SET datestyle = ISO;
CREATE EXTENSION cdp;
SET cdp.now = '2026-01-01';

-- ---- purposes ----
SELECT cdp.create_purpose('Marketing');
SELECT cdp.create_purpose('marketing', combine => 'strict');
SELECT cdp.create_purpose('marketing', valid_for => '-1 day');
SELECT cdp.create_purpose('marketing', aliases => '{a,NULL}');
SELECT cdp.create_purpose('marketing', 'mails and calls', aliases => '{Advertising}');
SELECT cdp.create_purpose('marketing');
SELECT cdp.create_purpose('marketing', if_exists => 'skip');
SELECT cdp.create_purpose('analytics', combine => 'latest', valid_for => '1 year');
SELECT * FROM cdp.purposes ORDER BY name;
-- a purpose is no trait that anybody could define or drop
SELECT cdp.create_trait('x', aggregate => 'consent');
SELECT cdp.trait_state('consent', '\x00'::bytea);
SELECT name FROM cdp.traits;

-- ---- calls ----
SELECT cdp.consent('ada');
SELECT cdp.consent('ada', 'marketting');
SELECT cdp.consent('ada', 'marketing', 'yes');
SELECT cdp.consent('ada', 'marketing', expires => 'infinity');
SELECT cdp.consent(purpose => 'marketing');
SELECT cdp.consent('ada', 'marketing', NULL);
SET timezone = 'Europe/Berlin';
SELECT cdp.consent('ada', 'marketing', expires => '2026-02-01 12:00:00.5+01', source => 'form', message_id => 'c1');
SET timezone = UTC;
SELECT type, event, identifiers, properties, source FROM cdp.events;
SELECT cdp.payload(e) - 'timestamp' FROM cdp.events e;
-- payloads and rows are judged when they are applied
SELECT accepted, rejected FROM cdp.ingest('[
	{"type": "consent", "userId": "bob", "properties": {"purpose": "ADVERTISING", "state": "granted"}},
	{"type": "consent", "userId": "bob", "properties": {"purpose": "marketing"}},
	{"type": "consent", "userId": "bob", "properties": {"state": "granted"}},
	{"type": "consent", "userId": "bob", "properties": {"purpose": "marketing", "state": "granted", "expires": "tomorrow"}},
	{"type": "consent", "userId": "bob", "properties": {"purpose": "unheard of", "state": "denied"}}]');
SELECT cdp.apply();
SELECT reason, detail FROM cdp.rejected ORDER BY entry;
SELECT purpose, state, said_by, source, at, expires FROM cdp.consents('user_id:ada') ORDER BY 1, 3 NULLS FIRST;
SELECT purpose, state, said_by FROM cdp.consents('user_id:bob') ORDER BY 1, 3 NULLS FIRST;
SELECT cdp.consented('user_id:bob', 'marketing'), cdp.consented('user_id:nobody', 'marketing'), cdp.consented(1, 'analytics');
SELECT cdp.consented('user_id:bob', 'marketting');
-- what was said to a purpose before it was declared counts
SELECT cdp.create_purpose('later', aliases => '{unheard of}');
SELECT state FROM cdp.consents('user_id:bob') WHERE purpose = 'later' AND said_by IS NOT NULL;

-- ---- segments ----
SELECT cdp.create_segment('x', 'true', options => '{"purpose": "marketting"}');
SELECT cdp.create_segment('x', 'true', options => '{"purpose": 3}');
SELECT cdp.create_segment('x', 'true', options => '{"purpos": "marketing"}');
SELECT cdp.create_segment('x', 'true', entity => 'account', options => '{"purpose": "marketing"}');
SELECT cdp.create_segment('x', $$consented('marketting')$$);
SELECT cdp.create_segment('x', $$consented('marketing')$$, entity => 'account');
SELECT cdp.create_segment('x', $$consented()$$);
SELECT cdp.create_segment('mailed', $$did('Order Completed')$$, options => '{"purpose": "marketing"}');
SELECT cdp.create_segment('kept', 'true', options => '{"purpose": "marketing"}');
SELECT cdp.create_segment('silent', $$NOT consented('marketing')$$);
SELECT cdp.subscribe('trigger');
SELECT cdp.subscribe('mirror', mode => 'mirror');
SELECT cdp.track('Order Completed', user_id => u) FROM unnest('{ada,bob,eve}'::cdp.key[]) u;
SELECT cdp.apply();
SELECT segment, profile_id FROM cdp.memberships ORDER BY 1, 2;
SELECT term, value, needed FROM cdp.explain_segment('mailed', 'user_id:eve');
SELECT cdp.matches('user_id:ada', $$consented('marketing') AND NOT consented('analytics')$$);
SELECT members, non_members FROM cdp.preview_segment(segment => 'mailed');
-- a segment that is not evaluated is left, too, and that is told
SELECT cdp.alter_segment('kept', enabled => false);
SELECT cdp.consent('bob', 'marketing', 'denied');
SELECT cdp.apply();
SELECT segment, profile_id FROM cdp.memberships ORDER BY 1, 2;
SELECT kind, segment, profile_id, cause FROM cdp.changes WHERE seq > (SELECT max(seq) - 3 FROM cdp.changes) ORDER BY seq;
-- neither has polled before: that he had entered is not told any more
SELECT kind, segment, profile_id, cause FROM cdp.poll('trigger') WHERE kind ~ 'segment_e';
SELECT kind, segment, profile_id, cause FROM cdp.poll('mirror') WHERE kind ~ 'segment_e';
SELECT count(*) FROM cdp.verify();

-- it expires by itself
SET cdp.now = '2026-02-01 11:00:00.5+00';
SELECT cdp.apply();
SELECT segment, profile_id FROM cdp.memberships ORDER BY 1, 2;
SELECT kind, segment, profile_id, cause, occurred_at FROM cdp.changes ORDER BY seq DESC LIMIT 1;
SELECT purpose, state, said_by, expires FROM cdp.consents('user_id:ada') WHERE expires <= cdp.clock();
-- and is not told before the applier has noticed
SELECT cdp.consent('eve', 'marketing', expires => '2026-03-01');
SELECT cdp.apply();
SELECT count(*) FROM cdp.poll('trigger') WHERE kind = 'segment_entered' AND segment = 'mailed';
SELECT value FROM cdp.audience('mailed', '{user_id}', 'none') ORDER BY 1;
SET cdp.now = '2026-03-01';
SELECT value FROM cdp.audience('mailed', '{user_id}', 'none') ORDER BY 1;
SELECT count(*) FROM cdp.poll('trigger') WHERE kind = 'segment_entered' AND segment = 'mailed';
SELECT cdp.apply();
SELECT count(*) FROM cdp.verify();

-- ---- a start with the members, and several consumers ----
SELECT cdp.alter_segment('kept', enabled => true);
SELECT cdp.consent(u, 'marketing') FROM unnest('{ada,bob,eve}'::cdp.key[]) u;
SELECT cdp.apply();
SELECT cdp.subscribe('workers', start => 'snapshot', filter => '{"segment": "mailed"}', visibility => '1 minute');
SELECT cdp.subscribe('one', start => 'snapshot', filter => '{"segment": "mailed"}');
SELECT cdp.consent('eve', 'marketing', 'denied');
SELECT cdp.apply();
SELECT kind, profile_id, cause FROM cdp.poll('workers');
SELECT kind, profile_id, cause FROM cdp.poll('one');
SELECT subscription, count(*) FROM cdp.subscription_queue GROUP BY 1 ORDER BY 1;

-- ---- merges and splits ----
-- who refuses on a device, logs in there and agrees has agreed
SELECT cdp.consent(anonymous_id => 'd1', purpose => 'marketing', state => 'denied', occurred_at => '2026-02-10');
SELECT cdp.consent('fay', 'marketing', anonymous_id => 'd1', occurred_at => '2026-02-11');
SELECT cdp.apply();
SELECT purpose, state, said_by FROM cdp.consents('user_id:fay') WHERE purpose = 'marketing' ORDER BY 3 NULLS FIRST;
-- on two devices, apart: one no is a no; of the other purpose the last word counts
SELECT cdp.consent(anonymous_id => 'd2', purpose => p, state => 'denied', occurred_at => '2026-02-10') FROM unnest('{marketing,analytics}'::text[]) p;
SELECT cdp.consent('gus', p, occurred_at => '2026-02-11') FROM unnest('{marketing,analytics}'::text[]) p;
SELECT cdp.track('Order Completed', user_id => 'gus');
SELECT cdp.apply();
SELECT segment FROM cdp.memberships WHERE profile_id = cdp.resolve('user_id:gus') ORDER BY 1;
SELECT cdp.merge('user_id:gus', 'anonymous_id:d2', 'the same');
SELECT cdp.apply();
SELECT purpose, state, said_by FROM cdp.consents('user_id:gus') WHERE purpose <> 'later' ORDER BY 1, 3 NULLS FIRST;
SELECT segment FROM cdp.memberships WHERE profile_id = cdp.resolve('user_id:gus') ORDER BY 1;
SELECT kind, segment, cause FROM cdp.changes WHERE kind ~ 'segment' ORDER BY seq DESC LIMIT 3;
SELECT cdp.split('user_id:gus', 'anonymous_id:d2', 'are not');
SELECT cdp.apply();
SELECT segment, cdp.consented('user_id:gus', 'marketing'), cdp.consented('anonymous_id:d2', 'marketing')
FROM cdp.memberships WHERE profile_id = cdp.resolve('user_id:gus') ORDER BY 1;
-- an undo takes back what was said
SELECT cdp.consent('gus', 'marketing', 'denied', message_id => 'no');
SELECT cdp.apply();
SELECT cdp.consented('user_id:gus', 'marketing');
SELECT length(cdp.undo('no', 'sql')) > 0;
SELECT cdp.apply();
SELECT cdp.consented('user_id:gus', 'marketing');
SELECT count(*) FROM cdp.verify();

-- ---- preferences ----
SELECT cdp.track('Home', user_id => 'hal', context => '{"consent": {"categoryPreferences": {"advertising": true, "Analytics": false, "other": true}}}');
SELECT cdp.identify('ida', context => '{"consent": {"categoryPreferences": {"Advertising": true, "marketing": false, "analytics": "yes"}}}');
SELECT cdp.apply();
SELECT u, cdp.consented(u, 'marketing'), (SELECT state FROM cdp.consents(u) WHERE purpose = 'analytics' AND said_by IS NULL)
FROM unnest('{user_id:hal,user_id:ida}'::cdp.identifier[]) u;
-- as RudderStack's libraries have them; and a consent call with several
SELECT cdp.track('Home', user_id => 'jim', context => '{"consentManagement": {"provider": "oneTrust", "allowedConsentIds": ["advertising", "other", 5], "deniedConsentIds": ["Analytics"], "resolutionStrategy": "and"}}');
SELECT cdp.track('Home', user_id => 'kay', context => '{"consentManagement": {"allowedConsentIds": ["Advertising", "marketing"], "deniedConsentIds": ["MARKETING"]}}');
SELECT cdp.track('Home', user_id => 'lea', context => '{"consentManagement": {"allowedConsentIds": "Advertising", "deniedConsentIds": {"a": "marketing"}}}');
SELECT accepted, rejected, errors FROM cdp.ingest('[{"type": "consent", "userId": "max", "properties": {"preferences": {"Advertising": true, "analytics": false, "other": 1}}},
	{"type": "consent", "userId": "nan2", "properties": {"preferences": [true]}}]');
SELECT cdp.apply();
SELECT u, cdp.consented(u, 'marketing'), (SELECT state FROM cdp.consents(u) WHERE purpose = 'marketing' AND said_by IS NULL) AS marketing,
	(SELECT state FROM cdp.consents(u) WHERE purpose = 'analytics' AND said_by IS NULL) AS analytics
FROM unnest('{user_id:jim,user_id:kay,user_id:lea,user_id:max}'::cdp.identifier[]) u;
SELECT e.type, cdp.consent_preferences(e.type, e.properties, e.context) FROM cdp.events e WHERE e.identifiers && '{user_id:hal,user_id:jim,user_id:kay,user_id:lea,user_id:max}' ORDER BY e.id;
SELECT * FROM cdp.verify();

-- ---- changes of purposes ----
SELECT cdp.drop_purpose('marketing');
SELECT cdp.drop_purpose('later');
SELECT cdp.drop_purpose('later');
SELECT cdp.alter_purpose('later');
SELECT cdp.alter_purpose('marketing', description => '', aliases => '{}', valid_for => '2 years');
SELECT cdp.consented('user_id:hal', 'marketing');
SELECT * FROM cdp.purposes ORDER BY name;
SELECT count(*) FROM cdp.verify();
-- beside what comes
SET cdp.backfill_at_once = 0;
SELECT cdp.alter_purpose('marketing', aliases => '{Advertising}');
SELECT cdp.alter_segment('silent', options => '{"purpose": "analytics"}');
SELECT name, status, segments FROM cdp.purposes ORDER BY name;
SELECT cdp.apply();
SELECT cdp.apply();
SELECT name, status, segments FROM cdp.purposes ORDER BY name;
SELECT cdp.consented('user_id:hal', 'marketing');
SELECT count(*) FROM cdp.verify();
RESET cdp.backfill_at_once;
-- a segment that gets a purpose
SELECT cdp.alter_segment('silent', $$NOT consented('analytics')$$, options => '{}');
SELECT members FROM cdp.alter_segment('silent', options => '{"purpose": "marketing"}');
SELECT count(*) FROM cdp.verify();

-- ---- configuration ----
SELECT cdp.export_config()->'purposes';
SELECT action, kind, name, after FROM cdp.apply_config(
	'{"version": 1, "purposes": {"analytics": {"combine": "latest"}, "profiling": {"aliases": ["P"]}},
	"segments": {"profiled": {"predicate": "true", "options": {"purpose": "profiling"}}}}', dry_run => false) ORDER BY 1, 2, 3;
SELECT * FROM cdp.apply_config(cdp.export_config());
SELECT action, object FROM cdp.audit WHERE action ~ 'purpose' ORDER BY at, action, object;
