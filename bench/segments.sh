# bench/segments.sh: what many segments cost, what waiting timers cost, and
# memberships as rows beside memberships as sets.  SEGMENTS_PROFILES profiles
# (1000000), SEGMENTS_EVENTS events a run (20000), TIMERS timers (1000000).
#
# shellcheck shell=bash

# 20 traits: ten of events, ten declared; segment i reads two of them
segments_setup()
{
	cat <<-EOT
		SELECT cdp.create_trait('c' || i, aggregate => 'count', event => 'E' || i) FROM generate_series(0, 4) i;
		SELECT cdp.create_trait('c' || i, aggregate => 'sum', event => 'E' || i, value => \$\$(properties->>'n')::numeric\$\$, empty => '0')
		FROM generate_series(5, 9) i;
		SELECT cdp.create_trait('k' || i, type => 'numeric') FROM generate_series(0, 9) i;
	EOT
}

# segments_load PROFILES: after the definitions, which are evaluated as it comes
segments_load()
{
	cat <<-EOT
		INSERT INTO cdp.events (type, identifiers, properties)
		SELECT 'identify', ARRAY[('user_id:u' || p)::cdp.identifier],
			(SELECT jsonb_object_agg('k' || k, (p * (k + 3)) % 10) FROM generate_series(0, 9) k)
		FROM generate_series(1, $1) p;
		INSERT INTO cdp.events (event, identifiers, properties)
		SELECT 'E' || k, ARRAY[('user_id:u' || p)::cdp.identifier], '{"n": 1}'
		FROM generate_series(1, $1) p, generate_series(0, 9, 3) k WHERE p % 5 = 0;
		SELECT cdp.apply();
	EOT
}

# segments_make FROM UPTO
segments_make()
{
	cat <<-EOT
		SELECT cdp.create_segment('s' || i, format('c%s >= %s AND k%s > %s', i % 10, 1 + i / 10, (i * 7 + i / 10) % 10, i % 6))
		FROM generate_series($1, $2) i;
	EOT
}

# segments_events SEED N PROFILES: each touches one trait
segments_events()
{
	cat <<-EOT
		SELECT setseed($1 / 1000.0);
		INSERT INTO cdp.events (type, event, identifiers, properties)
		SELECT CASE WHEN r < 0.3 THEN 'identify' ELSE 'track' END, CASE WHEN r >= 0.3 THEN 'E' || k END,
			ARRAY[('user_id:u' || 1 + (random() * ($3 - 1))::int)::cdp.identifier],
			CASE WHEN r < 0.3 THEN jsonb_build_object('k' || k, (random() * 9)::int) ELSE '{"n": 1}' END
		FROM (SELECT random() AS r, (random() * 9.99)::int % 10 AS k FROM generate_series(1, $2)) x;
	EOT
}

# stories_make FROM UPTO: all have the same sequence in them
stories_make()
{
	cat <<-EOT
		SELECT cdp.create_segment('t' || i, format(\$\$k%s >= %s AND did_in_order('E0', 'E3', 'E6', within => '1 hour')\$\$, i % 10, i % 6))
		FROM generate_series($1, $2) i;
	EOT
}

bench_segments()
{
	local run profiles=${SEGMENTS_PROFILES:-1000000} n=${SEGMENTS_EVENTS:-20000} variant
	for variant in 5 100; do
		fresh "bench_segments_$variant"
		{
			segments_setup
			segments_make 0 $((variant - 1))
			segments_load "$profiles"
			echo "VACUUM ANALYZE; CHECKPOINT;"
		} | sql "bench_segments_$variant" >/dev/null
	done
	for ((run = 1; run <= runs; run++)); do
		for variant in 5 100; do
			# definitions are compiled before the clock runs
			measure segments "$variant" "$run" "bench_segments_$variant" "$(
				segments_events "$run" 1 "$profiles"
				echo "SELECT cdp.apply();"
				segments_events "$run" "$n" "$profiles"
			)" <<<"SELECT cdp.apply();"
		done
	done
	line "apply with 100 segments, of that with 5 ($profiles profiles)" "$(ratio segments 100 5)" "goal: at most 1.5"
	for variant in 5 100; do
		# counters are added to the table at most once a second
		line "evaluations an event, each of at most one trait, $variant segments" "$({
			echo "CREATE TEMP TABLE before AS SELECT segment, evaluations FROM cdp.stat_segments;"
			segments_events 999 1000 "$profiles"
			echo "SELECT cdp.apply();"
			echo "SELECT round((sum(s.evaluations) - sum(b.evaluations)) / 1000.0, 2) FROM cdp.stat_segments s JOIN before b USING (segment);"
		} | sql "bench_segments_$variant" | tail -n 1)" "all would be $variant"
	done
}

# What 100 segments have in common, in SEGMENTS_PROFILES / 20 profiles: 20
# entries a profile to look at.
bench_stories()
{
	local run profiles=$((${SEGMENTS_PROFILES:-1000000} / 20)) n=${SEGMENTS_EVENTS:-20000} variant
	fresh bench_stories_5
	{
		segments_setup
		stories_make 0 4
		segments_load "$profiles"
		echo "INSERT INTO cdp.events (event, identifiers, occurred_at)"
		echo "SELECT 'E' || i % 4 * 3, ARRAY[('user_id:u' || p)::cdp.identifier], cdp.clock() - i * interval '13 hours' FROM generate_series(1, $profiles) p, generate_series(1, 20) i;"
		echo "SELECT cdp.apply(); VACUUM ANALYZE;"
	} | sql bench_stories_5 >/dev/null
	fresh bench_stories_100 bench_stories_5
	stories_make 5 99 | sql bench_stories_100 >/dev/null
	for ((run = 1; run <= runs; run++)); do
		for variant in 5 100; do
			measure stories "$variant" "$run" "bench_stories_$variant" "$(
				segments_events "$run" 1 "$profiles"
				echo "SELECT cdp.apply();"
				segments_events "$run" "$((n / 4))" "$profiles"
			)" <<<"SELECT cdp.apply();"
		done
	done
	line "apply with 100 segments that share a sequence, of that with 5" "$(ratio stories 100 5)" ""
}

# Timers: pending ones cost nothing; many that are due at once let what is new
# through.
bench_timers()
{
	local timers=${TIMERS:-1000000} pid before after seconds=20
	fresh bench_timers
	psql -Xq -d postgres -c "ALTER DATABASE bench_timers RESET cdp.now"
	sql bench_timers >/dev/null <<-EOT
		SELECT cdp.create_segment('lately', \$\$did('V', within => '365 days')\$\$);
		INSERT INTO cdp.events (event, identifiers)
		SELECT 'V', ARRAY[('user_id:u' || p)::cdp.identifier] FROM generate_series(1, $timers) p;
		SELECT cdp.apply();
		VACUUM ANALYZE;
	EOT
	pid=$(sql bench_timers <<<"SELECT cdp.start_worker()")
	sleep 5
	before=$(sql bench_timers <<<"SELECT bench.cpu($pid)")
	sleep $seconds
	after=$(sql bench_timers <<<"SELECT bench.cpu($pid)")
	line "CPU of an idle applier in $seconds s, $(sql bench_timers <<<"SELECT count(*) FROM cdp.timers") timers pending" \
		"$(awk -v a="$after" -v b="$before" 'BEGIN { printf "%.2f s", a - b }')" "goal: not measurable"
	sql bench_timers >/dev/null <<<"SELECT cdp.stop_worker()" || true

	# 100,000 are due; an event comes while the applier works them off
	psql -Xq -d postgres -c "ALTER DATABASE bench_timers SET cdp.batch_size = 1000"
	sql bench_timers >/dev/null <<-EOT
		UPDATE cdp.timers SET at = now() - interval '1 s' WHERE profile_id IN (SELECT profile_id FROM cdp.timers ORDER BY profile_id LIMIT 100000);
		UPDATE cdp.identities i SET timer = t.at FROM cdp.timers t WHERE t.profile_id = i.node_id AND t.at < now();
		VACUUM ANALYZE;
		CREATE TABLE bench.waited (event bigint, due bigint, batches bigint, took interval);
		CREATE PROCEDURE bench.wait_for_new() LANGUAGE plpgsql AS \$\$
		DECLARE
			t timestamptz;
			before bigint;
			since bigint;
			found boolean;
		BEGIN
			FOR i IN 1..20 LOOP
				INSERT INTO cdp.events (event, identifiers) VALUES ('W', ARRAY[('user_id:new' || i)::cdp.identifier]);
				COMMIT;
				t := clock_timestamp();
				SELECT a.batches INTO before FROM cdp.applier a;
				LOOP
					COMMIT;
					-- as of one instant
					SELECT a.batches, cdp.resolve(('user_id:new' || i)::cdp.identifier) IS NOT NULL
					INTO since, found FROM cdp.applier a;
					EXIT WHEN found OR clock_timestamp() > t + interval '20 s';
					PERFORM pg_sleep(0.001);
				END LOOP;
				INSERT INTO bench.waited SELECT i, count(*), since - before - 1, clock_timestamp() - t FROM cdp.timers WHERE at <= clock_timestamp();
				COMMIT;
			END LOOP;
		END \$\$;
		SELECT cdp.start_worker();
		CALL bench.wait_for_new();
	EOT
	line "100,000 timers due: batches before that of a new event" \
		"$(sql bench_timers <<<"SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY batches) || ' (' || min(batches) || ' .. ' || max(batches) || ', ' || count(*) || ' events)' FROM bench.waited WHERE due > 0")" \
		"goal: at most 1, the one under way"
	line "ms until it is applied, timers then left; batches of 1,000" \
		"$(sql bench_timers <<<"SELECT round(1000 * extract(epoch FROM percentile_cont(0.5) WITHIN GROUP (ORDER BY took))), max(due) || ' .. ' || min(due) FROM bench.waited WHERE due > 0")" ""
	sql bench_timers >/dev/null <<<"SELECT cdp.stop_worker()" || true
}

# Set algebra: two segments of SETS members each (1000000), half of them in
# both: a join of the rows that there are, segment_overlap(), which makes
# bitmaps of them, and bitmaps that were made before, of 65,536 profiles a row
# (of type bit, in the form in which CRoaring keeps chunks that are this dense).
bench_sets()
{
	local run same size=${SETS:-1000000}
	fresh bench_sets
	sql bench_sets >/dev/null <<-EOT
		SELECT cdp.create_segment('a', 'known()'), cdp.create_segment('b', 'known()');
		INSERT INTO cdp.segment_members (segment_id, profile_id, member, entered_at)
		SELECT d.id, p, true, now() FROM cdp.segment_definitions d
		CROSS JOIN LATERAL generate_series(CASE d.name WHEN 'a' THEN 1 ELSE 1 + $size / 2 END, CASE d.name WHEN 'a' THEN $size ELSE $size + $size / 2 END) p;
		CREATE TABLE bench.bitmaps (segment_id int, chunk int, bits bit(65536), PRIMARY KEY (segment_id, chunk));
		ALTER TABLE bench.bitmaps ALTER bits SET STORAGE EXTERNAL;
		-- each fourth profile is left out, so that nothing is a run
		DELETE FROM cdp.segment_members WHERE profile_id % 4 = 0;
		INSERT INTO bench.bitmaps
		SELECT m.segment_id, m.profile_id / 65536, string_agg(CASE WHEN m.member THEN '1' ELSE '0' END, '' ORDER BY m.profile_id)::bit(65536)
		FROM (SELECT d.id AS segment_id, p AS profile_id, m.member FROM cdp.segment_definitions d CROSS JOIN generate_series(0, ($size * 3 / 2 / 65536 + 1) * 65536 - 1) p
			  LEFT JOIN cdp.segment_members m ON m.segment_id = d.id AND m.profile_id = p) m
		GROUP BY 1, 2;
		CREATE FUNCTION bench.enter_rows(n int) RETURNS void LANGUAGE sql AS
		\$\$UPDATE cdp.segment_members m SET member = NOT m.member FROM (SELECT DISTINCT 1 + (random() * ($size - 1))::bigint AS p FROM generate_series(1, n)) c WHERE m.profile_id = c.p AND m.segment_id = (SELECT min(id) FROM cdp.segment_definitions)\$\$;
		-- one update a chunk, its bits changed one after the other
		CREATE FUNCTION bench.enter_bits(n int) RETURNS void LANGUAGE plpgsql AS \$\$
		DECLARE
			c record;
			b bit(65536);
			i int;
		BEGIN
			FOR c IN SELECT (p / 65536)::int AS chunk, array_agg((p % 65536)::int) AS places
				FROM (SELECT DISTINCT 1 + (random() * ($size - 1))::bigint AS p FROM generate_series(1, n)) x GROUP BY 1 LOOP
				SELECT bits INTO b FROM bench.bitmaps m WHERE m.segment_id = (SELECT min(id) FROM cdp.segment_definitions) AND m.chunk = c.chunk;
				FOREACH i IN ARRAY c.places LOOP
					b := set_bit(b, i, 1 - get_bit(b, i));
				END LOOP;
				UPDATE bench.bitmaps m SET bits = b WHERE m.segment_id = (SELECT min(id) FROM cdp.segment_definitions) AND m.chunk = c.chunk;
			END LOOP;
		END \$\$;
		CREATE FUNCTION bench.wal(step text) RETURNS bigint LANGUAGE plpgsql AS \$\$
		DECLARE
			before pg_lsn := pg_current_wal_insert_lsn();
		BEGIN
			EXECUTE step;
			RETURN pg_current_wal_insert_lsn() - before;
		END \$\$;
		VACUUM ANALYZE;
		CHECKPOINT;
	EOT
	same=$(sql bench_sets <<<"SELECT cdp.segment_size(ARRAY['a', 'b']) = (SELECT sum(bit_count(a.bits & b.bits)) FROM bench.bitmaps a JOIN bench.bitmaps b USING (chunk) WHERE a.segment_id < b.segment_id)")
	for ((run = 1; run <= runs; run++)); do
		measure sets rows "$run" bench_sets <<<"SELECT count(*) FROM cdp.memberships x JOIN cdp.memberships y USING (profile_id) WHERE x.segment = 'a' AND y.segment = 'b';"
		measure sets overlap "$run" bench_sets <<<"SELECT * FROM cdp.segment_overlap(ARRAY['a', 'b']);"
		measure sets bits "$run" bench_sets <<<"SELECT sum(bit_count(a.bits & b.bits)) FROM bench.bitmaps a JOIN bench.bitmaps b USING (chunk) WHERE a.segment_id < b.segment_id;"
		measure sets enter_rows "$run" bench_sets <<<"SELECT bench.enter_rows(100) FROM generate_series(1, 10);"
		measure sets enter_bits "$run" bench_sets <<<"SELECT bench.enter_bits(100) FROM generate_series(1, 10);"
	done
	line "overlap of two segments of $size: join, segment_overlap, kept bitmaps" \
		"$(median sets rows wall), $(median sets overlap wall), $(median sets bits wall)" "the same number: $same"
	line "100 memberships change, ten times: CPU of rows, bitmaps" "$(median sets enter_rows), $(median sets enter_bits)" ""
	line "100 memberships change: WAL of rows, bitmaps" \
		"$(sql bench_sets <<<"SELECT bench.wal('SELECT bench.enter_rows(100)') || ' bytes, ' || bench.wal('SELECT bench.enter_bits(100)') || ' bytes'")" \
		"$(sql bench_sets <<<"SELECT pg_size_pretty(pg_indexes_size('cdp.segment_members') + pg_relation_size('cdp.segment_members')) || ', ' || pg_size_pretty(pg_total_relation_size('bench.bitmaps'))") on disk"
}
