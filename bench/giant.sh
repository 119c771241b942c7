# bench/giant.sh: one profile grows and grows: what an entry for it costs, in
# batches and by itself, in order and late, the memory of the applier, and what
# a new session, late users and a judgement of all take.  GIANT="1000 10000" has
# the sizes; the guards are raised for all but the last line.
#
# shellcheck shell=bash

giant_setup()
{
	cat <<-'EOT'
		SET client_min_messages = warning;
		SELECT cdp.create_trait('n', aggregate => 'count');
		SELECT cdp.create_trait('last', aggregate => 'last', value => $$properties->>'p'$$);
		SELECT cdp.create_segment('many', 'n >= 3');
		CREATE FUNCTION bench.rss() RETURNS bigint LANGUAGE sql AS
		$$SELECT (regexp_match(pg_read_file('/proc/' || pg_backend_pid() || '/status'), 'VmRSS:\s+(\d+)'))[1]::bigint / 1024$$;
		-- entries from .. upto for one user, each with a cookie of its own
		-- n late entries, each by itself: a new cookie, two old ones, an older link
		CREATE PROCEDURE bench.late(n int, size int) LANGUAGE plpgsql AS $$
		DECLARE
			t timestamptz;
			spent interval := '0';
		BEGIN
			FOR i IN 1 .. n LOOP
				INSERT INTO cdp.events (event, identifiers, properties, occurred_at)
				VALUES ('V', CASE i % 3 WHEN 0 THEN ARRAY['user_id:hub', 'cookie:late' || size || '-' || i]
						WHEN 1 THEN ARRAY['cookie:' || i, 'cookie:' || size - 100 + i]
						ELSE ARRAY['user_id:hub', 'cookie:' || size - i] END::cdp.identifier[], '{"p": "x"}',
					timestamptz '2026-01-01' + (size / 2 + i) * interval '1 s');
				COMMIT;
				t := clock_timestamp();
				PERFORM cdp.apply();
				COMMIT;
				-- the first one asks how the profile came about
				IF i > 1 THEN
					spent := spent + (clock_timestamp() - t);
				END IF;
			END LOOP;
			RAISE NOTICE 'giant % % %', 0, round(extract(epoch FROM spent) * 1e6 / (n - 1)), bench.rss();
		END
		$$;
		-- one batch, in milliseconds
		CREATE PROCEDURE bench.once(what text) LANGUAGE plpgsql AS $$
		DECLARE
			t timestamptz := clock_timestamp();
		BEGIN
			PERFORM cdp.apply();
			COMMIT;
			RAISE NOTICE 'giant % % %', what, round(extract(epoch FROM clock_timestamp() - t) * 1e3), bench.rss();
		END
		$$;
		-- everybody is judged again, in batches: all of it, the longest one
		CREATE PROCEDURE bench.rejudge() LANGUAGE plpgsql AS $$
		DECLARE
			t timestamptz := clock_timestamp();
			step timestamptz;
			longest interval := '0';
		BEGIN
			PERFORM cdp.rejudge();
			COMMIT;
			WHILE EXISTS (SELECT FROM cdp.rule_changes) LOOP
				step := clock_timestamp();
				PERFORM cdp.apply(10000);
				COMMIT;
				longest := greatest(longest, clock_timestamp() - step);
			END LOOP;
			RAISE NOTICE 'giant rejudge % %', round(extract(epoch FROM clock_timestamp() - t) * 1e3), bench.rss();
			RAISE NOTICE 'giant longest % %', round(extract(epoch FROM longest) * 1e3), bench.rss();
		END
		$$;
		CREATE PROCEDURE bench.grow(first int, upto int, step int) LANGUAGE plpgsql AS $$
		DECLARE
			i int := first;
			t timestamptz;
			spent interval := '0';
		BEGIN
			WHILE i <= upto LOOP
				INSERT INTO cdp.events (event, identifiers, properties, occurred_at)
				SELECT 'V', ARRAY['user_id:hub', 'cookie:' || g]::cdp.identifier[], '{"p": "x"}',
					timestamptz '2026-01-01' + g * interval '1 s'
				FROM generate_series(i, least(i + step - 1, upto)) g;
				COMMIT;
				t := clock_timestamp();
				PERFORM cdp.apply();
				COMMIT;
				spent := spent + (clock_timestamp() - t);
				i := i + step;
			END LOOP;
			RAISE NOTICE 'giant % % %', step, round(extract(epoch FROM spent) * 1e6 / (upto - first + 1)), bench.rss();
		END
		$$;
	EOT
}

# giant_line SIZE: the numbers of the last two NOTICEs in $tmp/giant
giant_line()
{
	line "a profile of $1 identifiers: µs an entry in batches, by itself, late" \
		"$(sed -n 's/.*giant \([0-9]*\) \([0-9]*\) \([0-9]*\)$/\2/p' "$tmp/giant" | tail -n 3 | paste -sd ' ')" \
		"$(sed -n 's/.*giant .* \([0-9]*\)$/\1/p' "$tmp/giant" | tail -n 1) MB in memory"
}

bench_giant()
{
	local size from=1
	fresh bench_giant
	giant_setup | sql bench_giant >/dev/null
	: >"$tmp/giant"
	{
		echo "SET client_min_messages = notice;"
		echo "SET cdp.max_profile_identifiers = 3000000; SET cdp.max_new_identifiers_per_hour = 0;"
		for size in ${GIANT:-1000 10000 100000}; do
			echo "CALL bench.grow($from, $((size - 20)), 10000);"
			echo "CALL bench.grow($((size - 19)), $size, 1);"
			echo "CALL bench.late(20, $size);"
			echo "\\! cp $tmp/giant $tmp/giant.$size"
			from=$((size + 1))
		done
	} | psql -Xq -d bench_giant >"$tmp/giant" 2>&1
	for size in ${GIANT:-1000 10000 100000}; do
		cp "$tmp/giant.$size" "$tmp/giant"
		giant_line "$size"
	done

	# a new session: the first batch, the first late one, and one that is undone
	{
		echo "SET client_min_messages = notice;"
		echo "SET cdp.max_profile_identifiers = 3000000; SET cdp.max_new_identifiers_per_hour = 0;"
		echo "INSERT INTO cdp.events (event, identifiers, occurred_at) VALUES ('V', '{user_id:hub,cookie:next}', '2027-01-01');"
		echo "CALL bench.once('first');"
		echo "INSERT INTO cdp.events (message_id, event, identifiers, occurred_at) VALUES ('m', 'V', '{user_id:hub,cookie:late}', '2026-01-01');"
		echo "CALL bench.once('late');"
		echo "DO 'BEGIN PERFORM cdp.undo(''m'', ''sql''); END';"
		echo "CALL bench.once('undo');"
		echo "SELECT cdp.split('user_id:hub', 'cookie:500') AS decision \\gset"
		echo "CALL bench.once('split');"
		echo "SELECT cdp.undo(:'decision') \\gset"
		echo "CALL bench.once('unsplit');"
		echo "SELECT cdp.merge('user_id:hub', 'email:new@example.com') AS decision \\gset"
		echo "CALL bench.once('merge');"
		echo "SELECT cdp.undo(:'decision') \\gset"
		echo "CALL bench.once('unmerge');"
		echo "SELECT cdp.detach('cookie:700') AS decision \\gset"
		echo "CALL bench.once('detach');"
		echo "SELECT cdp.undo(:'decision') \\gset"
		echo "CALL bench.once('attach');"
	} | psql -Xq -d bench_giant >"$tmp/giant" 2>&1
	line "ms of a new session's first batch, first late one, an undo; a split, its undo; a merge, its undo; a detach, its undo" \
		"$(sed -n 's/.*giant [a-z]* \([0-9]*\) [0-9]*$/\1/p' "$tmp/giant" | paste -sd ' ')" \
		"$(sed -n 's/.*giant [a-z]* [0-9]* \([0-9]*\)$/\1/p' "$tmp/giant" | tail -n 1) MB in memory"

	# a session that goes on: users whose entries come late, and what takes a replay
	{
		echo "SET client_min_messages = notice;"
		echo "SET cdp.max_profile_identifiers = 3000000; SET cdp.max_new_identifiers_per_hour = 0;"
		echo "INSERT INTO cdp.events (event, identifiers, occurred_at) VALUES ('V', '{user_id:hub,cookie:next2}', '2027-01-01'), ('V', '{user_id:late,cookie:600}', '2026-12-31'), ('V', '{cookie:11,cookie:12}', '2026-01-02');"
		echo "CALL bench.once('warm');"
		echo "INSERT INTO cdp.events (event, identifiers, occurred_at) SELECT 'V', ARRAY['user_id:r' || g, 'cookie:' || g]::cdp.identifier[], '2026-12-31' FROM generate_series(100, 199) g;"
		echo "CALL bench.once('refused');"
		echo "INSERT INTO cdp.events (event, identifiers, occurred_at) SELECT 'V', ARRAY['user_id:f' || g, 'cookie:' || g]::cdp.identifier[], '2025-12-31' FROM generate_series(200, 299) g;"
		echo "CALL bench.once('leaves');"
		echo "INSERT INTO cdp.events (event, identifiers, occurred_at) SELECT 'V', ARRAY['user_id:hub', 'cookie:' || g]::cdp.identifier[], '2025-12-30' FROM generate_series(200, 200) g;"
		echo "INSERT INTO cdp.events (event, identifiers, occurred_at) SELECT 'V', ARRAY['cookie:300', 'cookie:w' || g]::cdp.identifier[], '2026-12-31' FROM generate_series(1, 300) g;"
		echo "CALL bench.once('warm');"
		echo "INSERT INTO cdp.events (event, identifiers, occurred_at) VALUES ('V', '{user_id:wide,cookie:300}', '2025-12-31');"
		echo "CALL bench.once('replay');"
		echo "SET cdp.replay_at_commit = 0;"
		echo "CALL bench.rejudge();"
	} | psql -Xq -d bench_giant >"$tmp/giant" 2>&1
	line "ms of 100 late users who are refused, of 100 who take an identifier away, of a replay; of judging everybody again, its longest batch" \
		"$(sed -n '/giant warm/d; s/.*giant [a-z]* \([0-9]*\) [0-9]*$/\1/p' "$tmp/giant" | paste -sd ' ')" \
		"$(sed -n 's/.*giant [a-z]* [0-9]* \([0-9]*\)$/\1/p' "$tmp/giant" | tail -n 1) MB in memory"

	# whoever holds all of them together goes: as many profiles as there were identifiers
	{
		echo "SET client_min_messages = notice;"
		echo "SET cdp.max_profile_identifiers = 3000000; SET cdp.max_new_identifiers_per_hour = 0;"
		echo "SELECT cdp.detach('user_id:hub') AS decision \\gset"
		echo "CALL bench.once('apart');"
		echo "SELECT cdp.undo(:'decision') \\gset"
		echo "CALL bench.once('again');"
	} | psql -Xq -d bench_giant >"$tmp/giant" 2>&1
	line "ms of a profile that falls into single identifiers, as its hub is detached; of the undo of that" \
		"$(sed -n 's/.*giant [a-z]* \([0-9]*\) [0-9]*$/\1/p' "$tmp/giant" | paste -sd ' ')" \
		"$(sed -n 's/.*giant [a-z]* [0-9]* \([0-9]*\)$/\1/p' "$tmp/giant" | tail -n 1) MB in memory"

	# under the guards that everybody has, the same stream stays small
	fresh bench_giant
	giant_setup | sql bench_giant >/dev/null
	{
		echo "CALL bench.grow(1, ${size:-100000}, 10000);"
		echo "CALL bench.grow($((${size:-100000} + 1)), $((${size:-100000} + 20)), 1);"
		echo "CALL bench.late(20, ${size:-100000});"
	} | PGOPTIONS="-c client_min_messages=notice" psql -Xq -d bench_giant >"$tmp/giant" 2>&1
	giant_line "at most 10000, of ${size:-100000} offered"
}

# who was who, beside who is who
bench_asof()
{
	local run ids=1000
	fresh bench_asof
	sql bench_asof >/dev/null <<-'EOT'
		INSERT INTO cdp.events (message_id, event, identifiers, occurred_at, received_at)
		SELECT 'm' || p || '-' || k, 'V', CASE WHEN k % 10 = 0
				THEN ARRAY['user_id:u' || p, 'cookie:' || p || '-' || k / 10]::cdp.identifier[]
				ELSE ARRAY['cookie:' || p || '-' || k / 10]::cdp.identifier[] END,
			timestamptz '2026-01-01' + k * interval '1 day', timestamptz '2026-01-01' + k * interval '1 day'
		FROM generate_series(1, 4000) p, generate_series(0, 49) k;
		SELECT cdp.apply();
		VACUUM ANALYZE;
	EOT
	for ((run = 1; run <= runs; run++)); do
		measure asof now "$run" bench_asof <<<"SELECT count(cdp.resolve(('user_id:u' || p)::cdp.identifier)) FROM generate_series(1, $ids) p;"
		measure asof at "$run" bench_asof <<<"SELECT count(cdp.resolve_at(('user_id:u' || p)::cdp.identifier, '2026-01-20')) FROM generate_series(1, $ids) p;"
		measure asof known "$run" bench_asof <<<"SELECT count(cdp.resolve_at(('user_id:u' || p)::cdp.identifier, NULL, '2026-01-20')) FROM generate_series(1, $ids) p;"
	done
	line "resolve_at() of a person with 50 entries: what had happened then" "$(median asof at cpu $ids)" "resolve(): $(median asof now cpu $ids)"
	line "resolve_at() of a person with 50 entries: what was known then" "$(median asof known cpu $ids)" ""
}
