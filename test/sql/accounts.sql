-- Accounts: who is a member of which, and when.
CREATE EXTENSION cdp;
SET cdp.now = '2026-05-01';
SET TimeZone = 'UTC';
SET client_min_messages = warning;

SELECT cdp.group('acme', '{"plan": "pro"}', user_id => 'ada', occurred_at => '2026-01-01');
SELECT cdp.track('Login', user_id => 'bob', context => '{"groupId": "acme"}', occurred_at => '2026-01-02');
SELECT cdp.group('bolt', user_id => 'bob', occurred_at => '2026-01-10');
SELECT cdp.leave_group('acme', user_id => 'ada', occurred_at => '2026-02-01', message_id => 'gone');
SELECT cdp.group('acme', '{"parent": "holding"}', occurred_at => '2026-02-03');
SELECT cdp.group('null', occurred_at => '2026-02-03');
SELECT cdp.apply() AS applied;
SELECT identifier, first_seen::date, last_seen::date FROM cdp.account_identities ORDER BY identifier;
SELECT account, p.identifier, since::date, until::date
FROM cdp.account_members m JOIN cdp.identities p ON p.node_id = m.profile_id ORDER BY account, since;
-- the primary account first
SELECT account, since::date, named_at::date FROM cdp.accounts_of('user_id:bob');
SELECT account, since::date FROM cdp.accounts_of('user_id:ada');
SELECT account, since::date FROM cdp.accounts_of('user_id:ada', '2026-01-31 12:00');
SELECT account FROM cdp.accounts_of('user_id:ada', '2025-12-31');
SELECT account FROM cdp.accounts_of('user_id:nobody');
SELECT i.identifier FROM cdp.members_of('group_id:acme') m JOIN cdp.identities i ON i.node_id = m.profile_id;
SELECT i.identifier FROM cdp.members_of('group_id:acme', '2026-01-15') m JOIN cdp.identities i ON i.node_id = m.profile_id ORDER BY 1;
SELECT * FROM cdp.members_of('group_id:none');
SELECT * FROM cdp.verify();

-- A late entry of another identifier of the same person: the order of arrival
-- means nothing.
SELECT cdp.identify('ada', anonymous_id => 'phone', occurred_at => '2026-03-01');
SELECT cdp.track('Login', anonymous_id => 'phone', context => '{"groupId": "acme"}', occurred_at => '2026-01-20', message_id => 'early');
SELECT cdp.track('Login', anonymous_id => 'phone', context => '{"groupId": "acme"}', occurred_at => '2026-03-20', message_id => 'again');
SELECT cdp.apply() AS applied;
SELECT since::date, until::date FROM cdp.account_members WHERE profile_id = cdp.resolve('user_id:ada') ORDER BY 1;
SELECT account, since::date, named_at::date FROM cdp.accounts_of('user_id:ada');
SELECT * FROM cdp.verify();
-- She never left; she did.
SELECT cdp.retract('gone') IS NOT NULL AS retracted;
SELECT cdp.apply() AS applied;
SELECT since::date, until::date FROM cdp.account_members WHERE profile_id = cdp.resolve('user_id:ada') ORDER BY 1;
SELECT cdp.undo('#' || id) IS NOT NULL AS undone FROM cdp.events WHERE type = 'undo';
SELECT cdp.retract('again') IS NOT NULL AS retracted;
SELECT cdp.apply() AS applied;
SELECT since::date, until::date FROM cdp.account_members WHERE profile_id = cdp.resolve('user_id:ada') ORDER BY 1;
SELECT * FROM cdp.verify();
-- Two people again.
SELECT cdp.split('user_id:ada', 'anonymous_id:phone') IS NOT NULL AS split;
SELECT cdp.apply() AS applied;
SELECT i.identifier, since::date, until::date FROM cdp.account_members m JOIN cdp.identities i ON i.node_id = m.profile_id
WHERE i.identifier::text <> 'user_id:bob' ORDER BY 1, 2;
SELECT * FROM cdp.verify();

-- An account that no entry names any more is gone.
SELECT cdp.track('Login', user_id => 'eve', context => '{"groupId": "typo"}', message_id => 'typo');
SELECT cdp.track('Login', context => '{"groupId": "typo"}', message_id => 'typo2', occurred_at => '2026-04-01');
SELECT cdp.apply() AS applied;
SELECT first_seen::date, last_seen::date FROM cdp.account_identities WHERE identifier::text = 'group_id:typo';
SELECT cdp.retract('typo') IS NOT NULL AS retracted;
SELECT cdp.apply() AS applied;
SELECT first_seen::date, last_seen::date FROM cdp.account_identities WHERE identifier::text = 'group_id:typo';
SELECT cdp.retract('typo2') IS NOT NULL AS retracted;
SELECT cdp.apply() AS applied;
SELECT * FROM cdp.account_identities WHERE identifier::text = 'group_id:typo';
SELECT * FROM cdp.verify();

-- Accounts of other kinds; the rules of a kind may change.
SELECT cdp.create_identifier_kind('company', entity => 'account');
SELECT cdp.track('Login', user_id => 'eve', identifiers => '{company:ACME,company:Acme,group_id:bolt}', occurred_at => '2026-04-02');
SELECT cdp.track('Signed', identifiers => '{company:acme}', occurred_at => '2026-04-03');
SELECT cdp.apply() AS applied;
SELECT account, since::date FROM cdp.accounts_of('user_id:eve');
SELECT cdp.alter_identifier_kind('company', normaliser => 'lower');
SELECT cdp.apply() AS applied;
SELECT identifier, first_seen::date, last_seen::date FROM cdp.account_identities WHERE cdp.kind(identifier) = 'company';
SELECT account, since::date FROM cdp.accounts_of('user_id:eve');
SELECT * FROM cdp.verify();
-- the same, a step at a time
SET cdp.replay_at_commit = 0;
SELECT cdp.alter_identifier_kind('company', normaliser => 'verbatim');
SELECT cdp.apply() AS applied;
SELECT identifier, first_seen::date, last_seen::date FROM cdp.account_identities WHERE cdp.kind(identifier) = 'company' ORDER BY 1;
SELECT * FROM cdp.verify();
-- blocked, where nobody but the account is named
SELECT cdp.track('Signed', message_id => 'solo', identifiers => '{company:solo}', occurred_at => '2026-04-04');
SELECT cdp.apply() AS applied;
SELECT cdp.alter_identifier_kind('company', blocked => ARRAY['solo']);
SELECT cdp.apply() AS applied;
SELECT message_id, reason FROM cdp.rejected WHERE message_id = 'solo';
SELECT identifier FROM cdp.account_identities WHERE cdp.kind(identifier) = 'company' ORDER BY 1;
SELECT * FROM cdp.verify();

-- Payloads.
SELECT accepted, rejected, errors FROM cdp.ingest('[
	{"type": "group", "userId": "zoe", "groupId": "bolt", "timestamp": "2026-04-10T00:00:00Z"},
	{"type": "leave", "userId": "zoe", "groupId": "bolt", "timestamp": "2026-04-11T00:00:00Z"},
	{"type": "leave", "userId": "zoe"}]');
SELECT cdp.apply() AS applied;
SELECT account, since::date, until::date FROM cdp.account_members WHERE profile_id = cdp.resolve('user_id:zoe');
SELECT cdp.leave_group(user_id => 'ada');
SELECT cdp.leave_group('acme');
SELECT cdp.accounts_of('company_id:x');
SELECT * FROM cdp.members_of('company_id:x');
SELECT * FROM cdp.verify();
