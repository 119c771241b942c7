-- What is read of accounts is as of the read's instant, also what their members
-- contribute: a slow worker makes no answer wrong.
CREATE EXTENSION cdp;
SET TimeZone = 'UTC';
SET cdp.now = '2026-05-01';
SET client_min_messages = warning;

SELECT cdp.create_trait('renewal', type => 'timestamptz');
SELECT cdp.create_trait('parent', type => 'text', entity => 'account');
SELECT cdp.create_trait('logins', aggregate => 'count', event => 'Login', within => '3 days');
SELECT cdp.create_trait(agg || '_logins', aggregate => agg, value => 'logins', entity => 'account', options => '{"over": "members"}')
FROM unnest('{sum,avg,min,max}'::text[]) agg;
SELECT cdp.create_trait('active', aggregate => 'count', filter => 'logins > 0', entity => 'account', options => '{"over": "members", "rollup": true}');
SELECT count(cdp.group(g, user_id => u)) AS joined
FROM (VALUES ('acme', 'ada'), ('acme', 'bob'), ('acme', 'cyd'), ('beta', 'cyd'), ('beta', 'dan'), ('gone', 'eve')) v(g, u);
SELECT cdp.group('acme', '{"parent": "holding"}') IS NOT NULL AND cdp.group('holding', '{}') IS NOT NULL AS logged;
SELECT count(cdp.identify(u, jsonb_build_object('renewal', '2026-05-01'::date + d))) AS told
FROM (VALUES ('ada', 3), ('bob', 9), ('cyd', 5), ('dan', 6), ('eve', 2)) v(u, d);
SELECT count(cdp.track('Login', user_id => u, occurred_at => '2026-05-01'::timestamptz - h * interval '1 hour')) AS logins
FROM (VALUES ('ada', 1), ('ada', 30), ('bob', 2), ('bob', 60), ('bob', 70), ('cyd', 40), ('dan', 3), ('eve', 50)) v(u, h);
SELECT cdp.apply() > 0 AS applied;

SELECT cdp.create_segment('due', $$renewal < now() + interval '2 days'$$);
SELECT cdp.create_segment('some_due', $$any_member(in_segment('due'))$$, entity => 'account');
SELECT cdp.create_segment('all_due', $$all_members(in_segment('due'))$$, entity => 'account');
SELECT cdp.create_segment('quiet', $$NOT any_member(did('Login', within => '2 days'))$$, entity => 'account');
SELECT cdp.create_segment('weak', $$max_logins < 2 OR active = 0$$, entity => 'account');
SELECT cdp.create_segment('of_weak', $$account.max_logins < 2$$);

-- everything that can be read of accounts, by name
CREATE VIEW read AS
	SELECT cdp.value(a.identifier) AS account, a.traits - 'parent' AS traits,
		cdp.account(a.identifier) -> 'segments' AS segments,
		ARRAY(SELECT s FROM unnest('{some_due,all_due,quiet,weak}'::text[]) s WHERE cdp.in_segment(a.identifier, s) ORDER BY s) AS is_in,
		ARRAY(SELECT cdp.value(u) FROM unnest('{user_id:ada,user_id:bob,user_id:cyd,user_id:dan,user_id:eve}'::cdp.identifier[]) u
			JOIN cdp.accounts_of(u) o ON cdp.value(o.account) = cdp.value(a.identifier)
			WHERE cdp.in_segment(u, 'of_weak') AND cdp.matches(u, 'account.max_logins < 2') ORDER BY 1) AS weak_members
	FROM cdp.accounts a;
SELECT * FROM read ORDER BY account;

-- the same before the applier has looked at who is due, and after
CREATE TABLE before (at timestamptz, LIKE read);
CREATE PROCEDURE step(at timestamptz) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('cdp.now', at::text, false);
	INSERT INTO before SELECT at, * FROM read;
	COMMIT;
	PERFORM cdp.apply();
	COMMIT;
	RAISE INFO '%: accounts that read otherwise than a step before: %; otherwise than what is stored: %', to_char(at, 'MM-DD HH24:MI'),
		(SELECT count(DISTINCT x.account) FROM before x JOIN before y ON y.account = x.account AND x.at = step.at
		 AND y.at = (SELECT max(z.at) FROM before z WHERE z.at < step.at) AND (x.*) IS DISTINCT FROM (step.at, y.account, y.traits, y.segments, y.is_in, y.weak_members)),
		(SELECT count(*) FROM (SELECT b.account, b.traits, b.segments, b.is_in, b.weak_members FROM before b WHERE b.at = step.at EXCEPT ALL SELECT * FROM read) d);
END $$;
CALL step('2026-05-01 10:00');
CALL step('2026-05-01 23:00');
CALL step('2026-05-02 07:00');
CALL step('2026-05-02 18:00');
CALL step('2026-05-03 23:00');
CALL step('2026-05-05 12:00');
SELECT * FROM read ORDER BY account;
SELECT * FROM cdp.verify();

-- more are due than anybody looks through for one account
SELECT count(cdp.group('crowd', user_id => 'c' || i)) AS joined FROM generate_series(1, 1100) i;
SELECT count(cdp.identify('c' || i, jsonb_build_object('renewal', timestamptz '2026-05-08' + i * interval '1 minute'))) AS told FROM generate_series(1, 1100) i;
SELECT cdp.apply() > 0 AS applied;
SET cdp.now = '2026-05-07 12:00';
SELECT count(*) AS due FROM cdp.timers WHERE at <= cdp.clock();
SELECT cdp.in_segment('group_id:crowd', 'some_due') AS some, cdp.in_segment('group_id:crowd', 'all_due') AS "all", cdp.in_segment('group_id:beta', 'all_due') AS others;
SELECT count(*) FROM cdp.memberships WHERE segment = 'some_due';
SELECT cdp.apply();
SELECT count(*) FROM cdp.memberships WHERE segment = 'some_due';
SELECT * FROM cdp.verify();
