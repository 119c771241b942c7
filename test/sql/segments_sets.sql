-- Segments and other segments: exclusion, hold-outs, overlap, statistics,
-- previews of changes, explanations, counters.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET timezone = 'UTC';
SET cdp.now = '2026-03-01 12:00+00';
CREATE FUNCTION public.who(segment text) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(cdp.value(i.identifier), ' ' ORDER BY i.identifier)
	FROM cdp.memberships m JOIN cdp.identities i ON i.node_id = m.profile_id WHERE m.segment = who.segment
$$;
DO $$ BEGIN
	FOR i IN 1..9 LOOP
		PERFORM cdp.identify('u' || i, jsonb_build_object('n', i));
		PERFORM cdp.track('Order', user_id => 'u' || i) FROM generate_series(1, i % 3);
	END LOOP;
END $$;
SELECT cdp.apply();
SELECT cdp.create_trait('n', type => 'numeric');

-- exclude
SELECT cdp.create_segment('customers', $$did('Order')$$);
SELECT cdp.create_segment('many', 'n > 3');
SELECT cdp.create_segment('prospects', 'n > 3', exclude => ARRAY['customers']);
SELECT who('customers'), who('many'), who('prospects');
SELECT cdp.track('Order', user_id => 'u6') IS NOT NULL;
SELECT cdp.apply();
SELECT who('prospects'), cdp.in_segment('user_id:u6', 'prospects'), cdp.in_segment('user_id:u9', 'prospects');
SELECT name, exclude, holdout, seed, version FROM cdp.segments ORDER BY name;
SELECT cdp.alter_segment('customers', exclude => ARRAY['prospects']);
SELECT cdp.alter_segment('prospects', exclude => ARRAY['prospects']);
SELECT cdp.create_segment('x', 'true', exclude => ARRAY['custmers']);
SELECT cdp.create_segment('x', 'true', exclude => ARRAY[NULL]);
SELECT cdp.rename_segment('customers', 'clients');
SELECT exclude FROM cdp.segments WHERE name = 'prospects';
SELECT cdp.drop_segment('clients');
SELECT * FROM cdp.explain_segment('prospects', 'user_id:u6');
SELECT * FROM cdp.verify();
SELECT cdp.alter_segment('prospects', exclude => '{}');
SELECT who('prospects');
SELECT cdp.alter_segment('prospects', exclude => ARRAY['clients']);

-- holdout: the same profiles each time, another choice with another seed
SELECT cdp.create_segment('half', 'true', holdout => 0.5, seed => 'a');
SELECT cdp.create_segment('same_half', 'n > 0', holdout => 0.5, seed => 'a');
SELECT cdp.create_segment('other_half', 'true', holdout => 0.5, seed => 'b');
SELECT who('half') = who('same_half') AS same, who('half') = who('other_half') AS other, array_length(string_to_array(who('half'), ' '), 1) BETWEEN 1 AND 8 AS some;
SELECT * FROM cdp.verify();
SELECT cdp.alter_segment('half', holdout => 0);
SELECT who('half');
SELECT cdp.alter_segment('half', holdout => 1);
SELECT cdp.create_segment('x', 'true', holdout => 'NaN');
SELECT count(*) FROM (SELECT FROM generate_series(1, 20000) g
	WHERE (hashtextextended(('seed:' || g) COLLATE "C", 0) & 9223372036854775807) % 1000000 < 100000) h HAVING count(*) BETWEEN 1900 AND 2100;

-- what a change would do, and what it did
SELECT * FROM cdp.preview_segment('n > 5', segment => 'many');
SELECT * FROM cdp.preview_segment('n > 5', segment => 'manny');
BEGIN;
SELECT cdp.alter_segment('many', 'n > 5');
SELECT who('many');
SELECT kind, cause, count(*) FROM cdp.changes WHERE segment = 'many' AND cause = 'definition' GROUP BY 1, 2 ORDER BY 1;
ROLLBACK;
SELECT who('many');
SELECT * FROM cdp.segment_overlap(ARRAY['many', 'clients', 'half']);
SELECT * FROM cdp.segment_overlap(ARRAY['many', 'nobody']);
SET cdp.now = '2026-03-03 12:00+00';
SELECT cdp.identify('u1', '{"n": 10}') IS NOT NULL, cdp.identify('u9', '{"n": 0}') IS NOT NULL, cdp.identify('u8', '{"n": 0}') IS NOT NULL;
SELECT cdp.apply();
SELECT * FROM cdp.segment_stats('many', 4);
SELECT * FROM cdp.segment_stats('nobody');
SELECT cdp.alter_segment('many', enabled => false);
SELECT cdp.identify('u2', '{"n": 10}') IS NOT NULL;
SELECT cdp.apply();
SELECT who('many');
SELECT cdp.alter_segment('many', enabled => true);
SELECT who('many');

-- why
SELECT cdp.create_segment('why', $$n BETWEEN 2 AND 9 AND (n > 1 OR did('Login')) AND did('Order', within => '7 days') AND NOT in_segment('half')$$);
SELECT * FROM cdp.explain_segment('why', 'user_id:u4');
SELECT cdp.alter_segment('why', $$n BETWEEN 2 AND 9 AND did('Order', within => '7 days')$$);
SELECT * FROM cdp.explain_segment('why', 'user_id:u4');
SELECT * FROM cdp.explain_segment('why', 'user_id:u3');

-- counters
SELECT cdp.create_segment('fragile', '1 / (n - 4) > 0');
SELECT segment, evaluations > 0 AS evaluated, errors, last_error, i.identifier FROM cdp.stat_segments s
LEFT JOIN cdp.identities i ON i.node_id = s.last_profile WHERE segment IN ('fragile', 'why') ORDER BY 1;
SELECT evaluations AS before FROM cdp.stat_segments WHERE segment = 'fragile' \gset
SELECT cdp.identify('u5', '{"n": 6}') IS NOT NULL;
SELECT cdp.apply();
SELECT evaluations - :before AS evaluations FROM cdp.stat_segments WHERE segment = 'fragile';
-- an entry that touches none of a segment's traits does not evaluate it
SELECT cdp.track('Login', user_id => 'u5') IS NOT NULL, cdp.create_segment('lately', $$did('Login', within => '1 day')$$),
	cdp.create_segment('on_lately', $$in_segment('lately') AND n > 0$$);
SELECT cdp.apply();
CREATE TEMP TABLE before AS SELECT * FROM cdp.stat_segments;
SELECT cdp.track('Login', user_id => 'u5') IS NOT NULL;
SELECT cdp.apply();
SELECT segment, a.evaluations - b.evaluations AS evaluations FROM cdp.stat_segments a JOIN before b USING (segment) WHERE a.evaluations <> b.evaluations ORDER BY 1;
-- nor does a call that writes none of the keys it reads, in whatever case
SELECT cdp.create_trait('other', type => 'text'), cdp.create_segment('others', $$other = 'x'$$);
SELECT cdp.identify('u5', '{"other": "y"}') IS NOT NULL;
SELECT cdp.apply();
DROP TABLE before;
CREATE TEMP TABLE before AS SELECT * FROM cdp.stat_segments;
SELECT cdp.identify('u5', '{"third": 1}') IS NOT NULL;
SELECT cdp.apply();
SELECT segment, a.evaluations - b.evaluations AS evaluations FROM cdp.stat_segments a JOIN before b USING (segment) WHERE a.evaluations <> b.evaluations ORDER BY 1;
SELECT cdp.identify('u5', '{"third": 1, "other": "x"}') IS NOT NULL;
SELECT cdp.apply();
SELECT segment, a.evaluations - b.evaluations AS evaluations FROM cdp.stat_segments a JOIN before b USING (segment) WHERE a.evaluations <> b.evaluations ORDER BY 1;
SELECT who('others');
SELECT cdp.create_trait('scored', type => 'numeric'), cdp.create_segment('scorers', 'scored > 1');
SELECT cdp.identify('u6', '{"Scored": 2}') IS NOT NULL;
SELECT cdp.apply();
SELECT who('scorers');
-- when a timer is due all are evaluated
SET cdp.now = '2026-03-05 12:00+00';
SELECT cdp.apply();
SELECT bool_and(a.evaluations - b.evaluations > 0) AS all FROM cdp.stat_segments a JOIN before b USING (segment);
SELECT who('lately');
SELECT * FROM cdp.verify();
-- a trait that is derived changes with what it is derived from
SELECT cdp.create_trait('twice', expression => 'scored * 2'), cdp.create_trait('more', expression => 'twice + 1');
SELECT cdp.create_segment('derived', 'more >= 9');
SELECT cdp.identify('u6', '{"scored": 4}') IS NOT NULL;
SELECT cdp.apply();
SELECT who('derived');
-- whoever is in any of those that are excluded is out, not only in the first; and when he leaves it he is in
SELECT cdp.create_segment('first', $$other = 'nobody'$$), cdp.create_segment('second', 'more >= 9'), cdp.create_segment('third', 'scored > 100');
SELECT cdp.create_segment('left_over', $$scored > 1$$, exclude => '{first,second,third}');
SELECT who('left_over');
SELECT cdp.identify('u6', '{"scored": 2}') IS NOT NULL;
SELECT cdp.apply();
SELECT who('left_over'), who('second');
SELECT cdp.identify('u6', '{"scored": 101}') IS NOT NULL;
SELECT cdp.apply();
SELECT who('left_over'), who('second'), who('third');
-- what a preview tells apart
SELECT members, members + non_members + unknown + errors = (SELECT count(*) FROM cdp.profiles) AS all, unknown > 0 AS unknown, errors FROM cdp.preview_segment('scored > 1');
SELECT members, unknown, errors FROM cdp.preview_segment('scored > 1 AND 1 / (scored - 101) > 0 OR scored IS NULL');
-- a person's identifiers have a priority of 10 or less
SELECT cdp.create_identifier_kind('passport', priority => 10), cdp.create_identifier_kind('set_top_box', priority => 11);
SELECT cdp.track('X', identifiers => '{passport:p}') IS NOT NULL, cdp.track('X', identifiers => '{set_top_box:s}') IS NOT NULL;
SELECT cdp.apply();
SELECT cdp.matches('passport:p'::cdp.identifier, 'known()') AS passport, cdp.matches('set_top_box:s'::cdp.identifier, 'known()') AS set_top_box;
SELECT * FROM cdp.verify();
DROP FUNCTION public.who;
DROP EXTENSION cdp;
