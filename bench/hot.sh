# bench/hot.sh: one busy profile, and a long log.  What an entry costs a profile
# that has many of them; and what it costs to keep traits up to date, beside the
# GROUP BY of a nightly model.
#
#   HOT="1000 100000 1000000"       entries of one profile
#   HOT_TRAITS=lists                windows of lists, values and sessions; by default
#                                   of scalars
#   REFRESH="1000000 5000000"       entries of the log
#   REFRESH_TRAITS="4 12"           simple ones; of all kinds
#
# shellcheck shell=bash

# Windows that entries leave as fast as they come: at last a million is in them.
hot_lists()
{
	cat <<-'EOT'
		SELECT cdp.create_trait('different_18d', aggregate => 'unique_count', value => $$properties->>'x'$$, within => '18 days');
		SELECT cdp.create_trait('common_12d', aggregate => 'most_frequent', value => $$properties->>'p'$$, within => '12 days');
		SELECT cdp.create_trait('middle_18d', aggregate => 'percentile', value => $$(properties->>'x')::numeric$$, within => '18 days');
		SELECT cdp.create_trait('products_18d', aggregate => 'unique_list', value => $$properties->>'p'$$, within => '18 days');
		SELECT cdp.create_trait('latest_18d', aggregate => 'list', value => $$properties->>'x'$$, within => '18 days', options => '{"size": 20}');
		SELECT cdp.create_trait('visits_12d', aggregate => 'sessions', within => '12 days', options => '{"gap": "1.6 s"}');
		SELECT cdp.create_trait('days_12d', aggregate => 'longest_streak', within => '12 days');
	EOT
}

hot_scalars()
{
	cat <<-'EOT'
		SELECT cdp.create_trait('n_30d', aggregate => 'count', within => '30 days');
		SELECT cdp.create_trait('spent_30d', aggregate => 'sum', value => $$(properties->>'x')::numeric$$, within => '30 days');
		SELECT cdp.create_trait('different', aggregate => 'unique_count', value => $$properties->>'x'$$);
		SELECT cdp.create_trait('latest', aggregate => 'list', value => $$properties->>'x'$$, options => '{"size": 20}');
		SELECT cdp.create_trait('middle', aggregate => 'percentile', value => $$(properties->>'x')::numeric$$);
		SELECT cdp.create_trait('n_old', aggregate => 'count', older_than => '30 days');
		SELECT cdp.create_segment('busy', 'n_30d > 100');
	EOT
}

hot_setup()
{
	echo "SET client_min_messages = warning;"
	"hot_${HOT_TRAITS:-scalars}"
	cat <<-'EOT'
		-- CPU time of this backend in seconds
		CREATE FUNCTION bench.precisely() RETURNS float8 LANGUAGE sql AS
		$$SELECT split_part(pg_read_file('/proc/' || pg_backend_pid() || '/schedstat'), ' ', 1)::float8 / 1e9$$;
		-- entries from .. upto of one user, step at a time; the clock goes with them
		CREATE PROCEDURE bench.hot(first int, upto int, step int) LANGUAGE plpgsql AS $$
		DECLARE
			i int := first;
			cpu float8 := 0;
			c float8;
		BEGIN
			WHILE i <= upto LOOP
				PERFORM set_config('cdp.now', (timestamptz '2026-05-01' + (i + step) * 1.05 * interval '1.5 s')::text, false);
				INSERT INTO cdp.events (event, identifiers, properties, occurred_at)
				SELECT 'V', ARRAY['user_id:hot']::cdp.identifier[], jsonb_build_object('x', g::bigint * 7919 % 100003, 'p', 'p' || g % 89),
					timestamptz '2026-05-01' + (g + (g / 20)) * interval '1.5 s'
				FROM generate_series(i, least(i + step - 1, upto)) g;
				COMMIT;
				c := bench.precisely();
				PERFORM cdp.apply();
				COMMIT;
				cpu := cpu + bench.precisely() - c;
				i := i + step;
			END LOOP;
			RAISE NOTICE 'hot %', round((cpu * 1e6 / (upto - first + 1))::numeric, 1);
		END
		$$;
	EOT
}

bench_hot()
{
	local size from=1 first= cost
	fresh bench_hot
	hot_setup | sql bench_hot >/dev/null
	for size in ${HOT:-1000 100000 1000000}; do
		{
			echo "CALL bench.hot($from, $size, 10000);"
			echo "CALL bench.hot($((size + 1)), $((size + 2000)), 100);"
			echo "CALL bench.hot($((size + 2001)), $((size + 2200)), 10);"
		} | PGOPTIONS="-c client_min_messages=notice" psql -Xq -v ON_ERROR_STOP=1 -d bench_hot >"$tmp/hot" 2>&1 || cat "$tmp/hot" >&2
		from=$((size + 2201))
		mapfile -t cost < <(sed -n 's/.*hot \([0-9.]*\)$/\1/p' "$tmp/hot")
		[ -n "$first" ] || first="${cost[1]} ${cost[2]}"
		line "one profile of $size entries: µs an entry in batches of 100, of 10" \
			"${cost[1]} ${cost[2]}" \
			"$(awk -v a="${cost[1]}" -v b="${cost[2]}" -v f="$first" 'BEGIN { split(f, x, " "); printf "%.2f and %.2f times the first", a / x[1], b / x[2] }')"
	done
}

# One more batch of 1,000 entries on a log of many, and the query over all of it
# that a model would run every night: for four simple traits, and for twelve of
# all kinds.  The model is given who is who; like a dbt model it leaves a table.
# First in a session that has applied a batch of others before, then in one that has
# applied an entry of each of them: a worker that has been up for a while has them in
# its memory (src/apply/README.md says how many).
#
#   REFRESH="1000000 5000000"       entries; REFRESH_TRAITS="4 12"
#   REFRESH_PEOPLE=50000            people in each log; otherwise one for twenty entries, so
#                                   a longer log has deeper indexes, more rows that nobody has
#                                   looked at lately, and more people than are kept in memory
refresh_traits()
{
	cat <<-'EOT'
		SELECT cdp.create_trait('orders', aggregate => 'count', event => 'Order');
		SELECT cdp.create_trait('spent', aggregate => 'sum', value => $$(properties->>'x')::numeric$$, event => 'Order');
		SELECT cdp.create_trait('orders_30d', aggregate => 'count', event => 'Order', within => '30 days');
		SELECT cdp.create_trait('products', aggregate => 'unique_count', value => $$properties->>'p'$$);
	EOT
	[ "$1" = 12 ] || return 0
	cat <<-'EOT'
		SELECT cdp.create_trait('spent_7d', aggregate => 'sum', value => $$(properties->>'x')::numeric$$, event => 'Order', within => '7 days');
		SELECT cdp.create_trait('mean', aggregate => 'avg', value => $$(properties->>'x')::numeric$$, event => 'Order');
		SELECT cdp.create_trait('median', aggregate => 'percentile', value => $$(properties->>'x')::numeric$$, event => 'Order', options => '{"p": 0.5}');
		SELECT cdp.create_trait('first_order', aggregate => 'min', value => 'occurred_at', event => 'Order');
		SELECT cdp.create_trait('last_seen_at', aggregate => 'max', value => 'occurred_at');
		SELECT cdp.create_trait('last_product', aggregate => 'last', value => $$properties->>'p'$$);
		SELECT cdp.create_trait('favourite', aggregate => 'most_frequent', value => $$properties->>'p'$$);
		SELECT cdp.create_trait('visits', aggregate => 'sessions', options => '{"gap": "30 minutes"}');
	EOT
}

refresh_model()
{
	local columns="count(*) FILTER (WHERE e.event = 'Order') AS orders,
		sum((e.properties->>'x')::numeric) FILTER (WHERE e.event = 'Order') AS spent,
		count(*) FILTER (WHERE e.event = 'Order' AND e.occurred_at > cdp.clock() - interval '30 days') AS orders_30d,
		count(DISTINCT e.properties->>'p') AS products"
	local from="cdp.events e JOIN bench.persons m ON m.identifier = e.identifiers[1]::text"
	if [ "$1" = 12 ]; then
		columns+=",
		sum((e.properties->>'x')::numeric) FILTER (WHERE e.event = 'Order' AND e.occurred_at > cdp.clock() - interval '7 days') AS spent_7d,
		avg((e.properties->>'x')::numeric) FILTER (WHERE e.event = 'Order') AS mean,
		percentile_cont(0.5) WITHIN GROUP (ORDER BY (e.properties->>'x')::float8) FILTER (WHERE e.event = 'Order') AS median,
		min(e.occurred_at) FILTER (WHERE e.event = 'Order') AS first_order, max(e.occurred_at) AS last_seen_at,
		(array_agg(e.properties->>'p' ORDER BY e.occurred_at DESC))[1] AS last_product,
		mode() WITHIN GROUP (ORDER BY e.properties->>'p') AS favourite,
		count(*) FILTER (WHERE e.begins) AS visits"
		from="(SELECT m.person, e.*, e.occurred_at - lag(e.occurred_at) OVER (PARTITION BY m.person ORDER BY e.occurred_at)
			< interval '30 minutes' IS NOT TRUE AS begins FROM $from) e"
	else
		from="(SELECT m.person, e.* FROM $from) e"
	fi
	echo "DROP TABLE IF EXISTS bench.model; CREATE TABLE bench.model AS SELECT e.person, $columns FROM $from GROUP BY 1;"
}

bench_refresh()
{
	local size run last traits session people first=""
	for size in ${REFRESH:-1000000 5000000}; do
		[ -n "$first" ] || first=$size
		people=${REFRESH_PEOPLE:-$(((size + 19) / 20))}
		for traits in ${REFRESH_TRAITS:-4 12}; do
			fresh bench_refresh
			{
				echo "SET client_min_messages = warning;"
				refresh_traits "$traits"
				cat <<-EOT
					CREATE FUNCTION bench.entries(first int, upto int) RETURNS void LANGUAGE sql AS \$\$
						INSERT INTO cdp.events (event, identifiers, properties, occurred_at)
						SELECT CASE WHEN g % 3 = 0 THEN 'Order' ELSE 'View' END,
							ARRAY[cdp.identifier('user_id', (hashint4(g) & 1048575) % $people)]::cdp.identifier[],
							jsonb_build_object('x', g % 977, 'p', 'p' || g % 89),
							timestamptz '2026-04-30' - ($size + 100000 - g) * interval '2 s'
						FROM generate_series(first, upto) g\$\$;
					SELECT bench.entries(1, $size);
					-- as the worker does: a transaction a batch, so that old versions of rows make room
					DO \$\$ BEGIN WHILE cdp.apply(10000) > 0 LOOP COMMIT; END LOOP; END \$\$;
					CREATE TABLE bench.persons AS SELECT i.identifier::text AS identifier, i.profile_id AS person FROM cdp.identities i;
					VACUUM ANALYZE;
				EOT
			} | sql bench_refresh >/dev/null
			for ((run = 1; run <= runs; run++)); do
				# ten batches, in a session that has applied before, as the worker has
				last=$((size + run * 11000))
				measure "refresh$traits-$size" apply "$run" bench_refresh \
					"SELECT bench.entries($last - 10999, $last - 10000); SELECT cdp.apply(); SELECT bench.entries($last - 9999, $last);" \
					<<<"$(for ((batch = 1; batch <= 10; batch++)); do echo "SELECT cdp.apply(1000);"; done)"
				measure "refresh$traits-$size" model "$run" bench_refresh <<<"$(refresh_model "$traits")"
			done
			# the model has read no more than was there
			for ((run = 1; run <= runs; run++)); do
				last=$((size + (runs + run) * 11000))
				measure "refresh$traits-$size" worker "$run" bench_refresh "
					INSERT INTO cdp.events (event, identifiers, properties, occurred_at)
					SELECT 'View', ARRAY[cdp.identifier('user_id', g)]::cdp.identifier[], '{}', timestamptz '2026-04-30' - interval '1 day'
					FROM generate_series(0, $people - 1) g;
					DO \$\$ BEGIN WHILE cdp.apply(10000) > 0 LOOP COMMIT; END LOOP; END \$\$;
					SELECT bench.entries($last - 9999, $last);" \
					<<<"$(for ((batch = 1; batch <= 10; batch++)); do echo "SELECT cdp.apply(1000);"; done)"
			done
			for session in apply worker; do
				line "1,000 new entries on a log of $size, $traits traits ($session): ms of CPU" \
					"$(median "refresh$traits-$size" "$session" cpu 10 | awk '{ printf "%.1f", $1 / 1000 }')" \
					"GROUP BY of all: $(ratio "refresh$traits-$size" model "$session" | awk '{ printf "%.0f", $1 * 10 }') times as much (200)"
				[ "$size" != "$first" ] || continue
				line "the same, on a log of $size beside one of $first, $traits traits ($session)" \
					"$(awk -v a="$(median "refresh$traits-$size" "$session" cpu 10)" -v b="$(median "refresh$traits-$first" "$session" cpu 10)" 'BEGIN { printf "%.2f", a / b }') times" "(1)"
			done
		done
	done
}
