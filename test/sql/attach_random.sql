--
-- Random statements on attached tables: what is computed from the log is what
-- plain SQL computes from the rows, at every moment.
--
SET client_min_messages = warning;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET timezone = 'UTC';
SET cdp.now = '2026-05-01 12:00+00';
SELECT setseed(0.42);

CREATE TABLE sales (id int, part int, who int, amount text, at timestamptz, PRIMARY KEY (part, id)) PARTITION BY LIST (part);
CREATE TABLE sales_0 PARTITION OF sales FOR VALUES IN (0);
CREATE TABLE sales_1 (amount text, who int, at timestamptz, part int NOT NULL, id int NOT NULL);
ALTER TABLE sales ATTACH PARTITION sales_1 FOR VALUES IN (1);
SELECT cdp.create_trait('total', aggregate => 'sum', event => 'Sale', value => $$(properties->>'amount')::numeric$$);
SELECT cdp.create_trait('largest', aggregate => 'max', event => 'Sale', value => $$(properties->>'amount')::numeric$$);
SELECT cdp.create_trait('latest', aggregate => 'last', event => 'Sale', value => $$properties->>'id'$$);
SELECT cdp.attach('sales', '{"event": "Sale", "identifiers": {"user_id": "who"}, "time": "at",
	"filter": "amount <> ''-''", "properties": {"amount": "amount::numeric", "id": "id"}}');
-- the same rows once more, with payloads that are not copied
SELECT cdp.create_trait('row_total', aggregate => 'sum', event => 'Row', value => $$(properties->>'amount')::numeric$$);
SELECT cdp.create_trait('row_largest', aggregate => 'max', event => 'Row', value => $$(properties->>'amount')::numeric$$);
SELECT cdp.attach('sales', '{"event": "Row", "identifiers": {"user_id": "who"}, "time": "at",
	"filter": "amount <> ''-''", "properties": {"amount": "amount::numeric", "filler": "repeat(''x'', 50)"}}', name => 'rows', copy => false);

CREATE FUNCTION differences() RETURNS TABLE (what text, who text) LANGUAGE sql AS $$
	WITH expected AS (
		SELECT s.who::text, sum(s.amount::numeric) AS total, max(s.amount::numeric) AS largest,
			   (array_agg(s.id ORDER BY s.at DESC))[1]::text AS latest
		FROM sales s WHERE s.amount NOT IN ('-', 'x') AND s.who IS NOT NULL GROUP BY s.who
	), found AS (
		SELECT cdp.value(i.identifier) AS who, (p.traits->>'total')::numeric AS total,
			   (p.traits->>'largest')::numeric AS largest, p.traits->>'latest' AS latest
		FROM cdp.identities i JOIN cdp.profiles p ON p.profile_id = i.profile_id
		WHERE p.traits ? 'total'
	)
	(SELECT 'missing', e.who FROM (SELECT * FROM expected EXCEPT SELECT * FROM found) e)
	UNION ALL
	(SELECT 'invented', f.who FROM (SELECT * FROM found EXCEPT SELECT * FROM expected) f)
	UNION ALL
	(SELECT 'read otherwise than copied', p.profile_id::text FROM cdp.profiles p
	 WHERE p.traits->'total' IS DISTINCT FROM p.traits->'row_total' OR p.traits->'largest' IS DISTINCT FROM p.traits->'row_largest')
$$;

-- Times are all different, so that the latest is one.
CREATE SEQUENCE instants;
CREATE FUNCTION instant() RETURNS timestamptz LANGUAGE sql AS
	$$ SELECT '2026-01-01 00:00+00'::timestamptz + (nextval('instants') * 7919 % 100003) * interval '1 minute' $$;

CREATE TABLE problems (step int, what text, who text);
DO $$
DECLARE
	n int := 0;
BEGIN
	FOR step IN 1..150 LOOP
		CASE floor(random() * 12)::int
		WHEN 0, 1, 2 THEN
			INSERT INTO sales SELECT n + g, floor(random() * 2), 1 + floor(random() * 6), round((random() * 100)::numeric, 2)::text, instant()
			FROM generate_series(1, 1 + floor(random() * 8)::int) g;
			n := n + 8;
		WHEN 3 THEN
			INSERT INTO sales_1 (id, part, who, amount, at) VALUES (n + 1, 1, 1 + floor(random() * 6), (ARRAY['-', '3'])[1 + floor(random() * 2)::int], instant());
			n := n + 1;
		WHEN 4 THEN
			UPDATE sales SET amount = (amount::numeric + 1)::text WHERE random() < 0.3 AND amount <> '-';
		WHEN 5 THEN
			UPDATE sales SET who = 1 + floor(random() * 6) WHERE random() < 0.2;
		WHEN 6 THEN
			UPDATE sales SET part = 1 - part WHERE random() < 0.2;
		WHEN 7 THEN
			DELETE FROM sales WHERE random() < 0.15;
		WHEN 8 THEN
			DELETE FROM sales_0 WHERE random() < 0.15;
		WHEN 9 THEN
			IF random() < 0.2 THEN
				TRUNCATE sales_1;
			ELSE
				UPDATE sales_1 SET at = instant() WHERE random() < 0.3;
			END IF;
		WHEN 10 THEN
			INSERT INTO sales SELECT s.id, s.part, s.who, '1', instant() FROM sales s WHERE random() < 0.3
				ON CONFLICT (part, id) DO UPDATE SET amount = CASE WHEN random() < 0.3 THEN '-' ELSE '2' END;
		WHEN 11 THEN
			BEGIN
				DELETE FROM sales WHERE random() < 0.5;
				RAISE EXCEPTION 'rolled back';
			EXCEPTION WHEN raise_exception THEN
				NULL;
			END;
		END CASE;
		COMMIT;
		IF random() < 0.4 THEN
			PERFORM cdp.apply();
			COMMIT;
			INSERT INTO problems SELECT step, d.what, d.who FROM differences() d;
			IF step % 5 = 0 THEN
				INSERT INTO problems SELECT step, v.station, v.key FROM cdp.verify() v;
			END IF;
			COMMIT;
		END IF;
	END LOOP;
END $$;
SELECT cdp.apply() > 0 AS applied;
SELECT count(*) > 500 AS entries, count(*) FILTER (WHERE type = 'undo') > 100 AS undos FROM cdp.events;
SELECT * FROM problems;
SELECT * FROM differences();
SELECT * FROM cdp.verify();
SELECT logged, retracted, rejected FROM cdp.sync_attachment('sales');
SELECT logged, retracted, rejected FROM cdp.sync_attachment('rows');
SELECT count(*) > 100 AS referred FROM cdp.events WHERE properties ? '$row';
SELECT count(*) FROM cdp.rejected;
SELECT count(*) AS unread FROM cdp.unread_attachments;
