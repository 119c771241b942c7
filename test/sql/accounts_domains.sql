-- Accounts by the domains of addresses of e-mail.
CREATE EXTENSION cdp;
SET cdp.now = '2026-05-01';
SET TimeZone = 'UTC';
SET client_min_messages = warning;
CREATE VIEW members AS
	SELECT account, (SELECT min(i.identifier::text) FROM cdp.identities i WHERE i.profile_id = m.profile_id AND cdp.kind(i.identifier) <> 'email') AS who,
		since::date, until::date
	FROM cdp.account_members m ORDER BY account, who, since;

SELECT cdp.create_trait('logins', aggregate => 'count', event => 'Login', entity => 'account');
SELECT cdp.create_trait('users', aggregate => 'count', entity => 'account', options => '{"over": "members"}');
SELECT cdp.create_segment('busy', 'logins >= 2', entity => 'account');
SELECT cdp.create_segment('busy_people', 'account.logins >= 1');

-- What is a domain: as an address has it, in whatever form.
SELECT cdp.canonical('domain:ACME.com'), cdp.canonical('domain: Bücher.example '), cdp.canonical('domain:acme'), cdp.normalise('domain', 'a@acme.com');

-- Off by default.
SELECT cdp.identify('ada', '{"email": "Ada@Acme.com"}', identifiers => '{email:Ada@Acme.com}', occurred_at => '2026-01-01');
SELECT cdp.track('Login', user_id => 'ada', occurred_at => '2025-12-31');
SELECT cdp.track('Login', user_id => 'ada', occurred_at => '2026-01-02');
SELECT cdp.identify('bob', identifiers => '{email:bob@gmail.com}', occurred_at => '2026-01-01');
SELECT cdp.track('Login', user_id => 'bob', occurred_at => '2026-01-03');
SELECT cdp.identify('cyd', identifiers => '{email:cyd@xn--bcher-kva.example}', occurred_at => '2026-01-01');
SELECT cdp.apply() AS applied;
SELECT * FROM members;

-- History follows.
SELECT cdp.account_by_domain();
SELECT * FROM members;
SELECT identifier, traits, first_seen::date, last_seen::date FROM cdp.accounts ORDER BY identifier;
SELECT i.identifier FROM cdp.segment_members('busy_people') m JOIN cdp.identities i ON i.node_id = m ORDER BY 1;
SELECT a.identifier FROM cdp.segment_members('busy') m JOIN cdp.accounts a ON a.account_id = m ORDER BY 1;
SELECT cdp.profile('user_id:ada')->'accounts';
SELECT account, since::date, named_at::date FROM cdp.accounts_of('user_id:ada', '2026-01-15');
SELECT account FROM cdp.accounts_of('user_id:ada', '2025-12-31');
SELECT count(*) FROM cdp.members_of('domain:acme.com');
SELECT * FROM cdp.verify();
-- member_of() asks entries, and says so of a domain
SET client_min_messages = notice;
SELECT * FROM cdp.preview_segment($$member_of('domain:ACME.com')$$);
SELECT cdp.create_segment('of_acme', $$member_of('domain:ACME.com') OR member_of('acme')$$);
SET client_min_messages = warning;
SELECT count(*) FROM cdp.segment_members('of_acme');
SELECT cdp.drop_segment('of_acme');

-- What entries say wins: a group for as long as it lasts, and a leave.
SELECT cdp.group('bolt', user_id => 'ada', occurred_at => '2026-02-01');
SELECT cdp.leave_group('bolt', user_id => 'ada', occurred_at => '2026-03-01', message_id => 'left');
SELECT cdp.track('Login', user_id => 'ada', occurred_at => '2026-02-10');
SELECT cdp.track('Login', user_id => 'ada', occurred_at => '2026-03-10');
SELECT cdp.apply() AS applied;
SELECT * FROM members WHERE who = 'user_id:ada';
SELECT identifier, traits FROM cdp.accounts ORDER BY identifier;
SELECT account, since::date, named_at::date FROM cdp.accounts_of('user_id:ada', '2026-02-15');
SELECT account, since::date, named_at::date FROM cdp.accounts_of('user_id:ada');
SELECT * FROM cdp.verify();
SELECT cdp.retract('left') IS NOT NULL AS retracted;
SELECT cdp.apply() AS applied;
SELECT * FROM members WHERE who = 'user_id:ada';
SELECT identifier, traits FROM cdp.accounts ORDER BY identifier;
SELECT i.identifier FROM cdp.segment_members('busy_people') m JOIN cdp.identities i ON i.node_id = m ORDER BY 1;
SELECT a.identifier FROM cdp.segment_members('busy') m JOIN cdp.accounts a ON a.account_id = m ORDER BY 1;
SELECT * FROM cdp.verify();
-- that she belongs to neither, late
SELECT cdp.leave_group('bolt', user_id => 'ada', occurred_at => '2026-02-05');
SELECT cdp.track('Left', user_id => 'ada', identifiers => '{domain:acme.com}', occurred_at => '2026-01-01 12:00', message_id => 'word');
SELECT cdp.apply() AS applied;
SELECT * FROM members WHERE who = 'user_id:ada';
SELECT * FROM cdp.verify();
SELECT cdp.retract('word') IS NOT NULL AS retracted;
SELECT cdp.ingest('{"type": "leave", "userId": "ada", "messageId": "never", "timestamp": "2026-01-01T12:00:00Z", "context": {"externalIds": [{"type": "domain", "id": "acme.com", "collection": "users", "encoding": "none"}]}, "groupId": "none"}') IS NOT NULL AS logged;
SELECT cdp.apply() AS applied;
SELECT * FROM members WHERE who = 'user_id:ada';
SELECT identifier, traits FROM cdp.accounts ORDER BY identifier;
SELECT * FROM cdp.verify();
SELECT cdp.retract('never') IS NOT NULL AS retracted;
SELECT cdp.apply() AS applied;

-- Late, and earlier than all that was known of the address.
SELECT cdp.track('Login', user_id => 'ada', identifiers => '{email:ada@acme.com}', occurred_at => '2025-12-01', message_id => 'early');
SELECT cdp.apply() AS applied;
SELECT * FROM members WHERE who = 'user_id:ada';
SELECT identifier, traits, first_seen::date, last_seen::date FROM cdp.accounts WHERE identifier::text = 'domain:acme.com';
SELECT * FROM cdp.verify();
SELECT cdp.retract('early') IS NOT NULL AS retracted;
SELECT cdp.apply() AS applied;
SELECT identifier, traits, first_seen::date, last_seen::date FROM cdp.accounts WHERE identifier::text = 'domain:acme.com';
SELECT * FROM cdp.verify();

-- Addresses move with the profiles that have them: merge, split, undo, detach.
SELECT cdp.track('Login', anonymous_id => 'web', occurred_at => '2026-01-05');
SELECT cdp.merge('user_id:ada', 'anonymous_id:web') AS merge \gset
SELECT cdp.apply() AS applied;
SELECT identifier, traits FROM cdp.accounts WHERE identifier::text = 'domain:acme.com';
SELECT * FROM cdp.verify();
SELECT cdp.undo(:'merge') IS NOT NULL AS undone;
SELECT cdp.apply() AS applied;
SELECT identifier, traits FROM cdp.accounts WHERE identifier::text = 'domain:acme.com';
SELECT cdp.split('user_id:ada', 'email:ada@acme.com') AS split \gset
SELECT cdp.apply() AS applied;
SELECT * FROM members WHERE account::text = 'domain:acme.com';
SELECT identifier, traits FROM cdp.accounts WHERE identifier::text = 'domain:acme.com';
SELECT * FROM cdp.verify();
SELECT cdp.undo(:'split') IS NOT NULL AS undone;
SELECT cdp.apply() AS applied;
SELECT identifier, traits FROM cdp.accounts WHERE identifier::text = 'domain:acme.com';
SELECT cdp.detach('email:ada@acme.com') IS NOT NULL AS detached;
SELECT cdp.apply() AS applied;
SELECT * FROM members WHERE account::text = 'domain:acme.com';
SELECT identifier, traits FROM cdp.accounts WHERE identifier::text = 'domain:acme.com';
SELECT * FROM cdp.verify();

-- Domains of free mail: users add theirs, and take out what comes with the extension.
SELECT cdp.free_mail_domain('BÜCHER.example');
SELECT cdp.free_mail_domain('gmail.com', false);
SELECT domain FROM cdp.free_mail_domains WHERE domain IN ('gmail.com', 'xn--bcher-kva.example', 'gmx.de') ORDER BY 1;
SELECT * FROM members;
SELECT * FROM cdp.verify();
SELECT cdp.free_mail_domain('gmail.com');
SELECT * FROM cdp.free_mail_definitions;
SELECT cdp.free_mail_domain('no domain');
SELECT cdp.free_mail_domain('x.example', NULL);

-- Other kinds of accounts, if they are of domains.
SELECT cdp.account_by_domain(true, 'company');
SELECT cdp.account_by_domain(true, 'group_id');
SELECT cdp.create_identifier_kind('company', entity => 'account', normaliser => 'domain', blocked => '{bolt.com}');
SELECT cdp.account_by_domain(true, 'company');
SELECT cdp.identify('dan', identifiers => '{email:dan@bolt.com}', occurred_at => '2026-01-01');
SELECT cdp.identify('eve', identifiers => '{email:eve@acme.com}', occurred_at => '2026-01-01', message_id => 'eve');
SELECT cdp.apply() AS applied;
SELECT * FROM members;
SELECT cdp.alter_identifier_kind('company', blocked => '{}');
SELECT cdp.drop_identifier_kind('company');
SELECT cdp.alter_identifier_kind('email', normaliser => 'lower');
SELECT * FROM cdp.verify();

-- Who is named by nobody but a split by hand is a member, too.
SELECT cdp.create_segment('mailed', $$any_member(has_identifier('email'))$$, entity => 'account');
SELECT cdp.split('user_id:gus', 'email:gus@dolt.com') IS NOT NULL AS split;
SELECT cdp.apply() AS applied;
SELECT account FROM members WHERE account::text ~ 'dolt';
SELECT cdp.account('company:dolt.com')->'segments' AS segments;
SELECT * FROM cdp.verify();
SELECT cdp.drop_segment('mailed');

-- Who is erased is a member of nothing; an account with no address is gone.
SELECT cdp.retract('eve') IS NOT NULL AS retracted;
SELECT cdp.erase('email:ada@acme.com') IS NOT NULL AS erased;
SELECT cdp.apply() AS applied;
SELECT * FROM members;
SELECT identifier FROM cdp.account_identities WHERE identifier::text LIKE 'company:%';
SELECT * FROM cdp.verify();

-- Off again.
SELECT cdp.identify('flo', identifiers => '{email:flo@acme.com}', occurred_at => '2026-01-01');
SELECT cdp.apply() AS applied;
SELECT cdp.account_by_domain(false);
SELECT * FROM members;
SELECT identifier FROM cdp.accounts ORDER BY 1;
SELECT cdp.alter_identifier_kind('company', blocked => '{}');
SELECT action, object FROM cdp.audit WHERE action ~ 'domain' ORDER BY at, object;
SELECT * FROM cdp.verify();
