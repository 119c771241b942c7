# bench/backfill.sh: a trait and a segment over the whole stream are built by the
# worker while four clients write; what that costs, what the clients notice, and
# whether the sums are those of a GROUP BY over the log.
#
# shellcheck shell=bash

# writers PHASE SECONDS: four clients append, 200 transactions a second
backfill_writers()
{
	(cd "$tmp" && pgbench -n -f "$tmp/writer.sql" -c 4 -j 2 -T "$2" -R 200 -l \
		--log-prefix="writer-$1" bench_backfill >/dev/null)
}

# slowest PHASE PERCENT: that percentile of the commits' times, in ms
backfill_latency()
{
	cat "$tmp/writer-$1".* | awk '{ print $3 - ($7 ? $7 : 0) }' | sort -n | awk -v p="$2" '
		{ v[NR] = $1 } END { i = int(NR * p / 100); if (i < 1) i = 1; printf "%.2f", v[i] / 1000 }'
}

bench_backfill()
{
	local seconds before left same entries grouped writers
	private_stop
	as_server rm -rf "$tmp/pg/data"
	private_start "fsync = on" "shared_preload_libraries = 'cdp'" "cdp.databases = ''" \
		"max_parallel_workers_per_gather = 0" "shared_buffers = 512MB" "max_wal_size = 8GB" "autovacuum = off"
	psql -Xq -d postgres -c "CREATE DATABASE bench_backfill"
	sql bench_backfill <"$work/bench/setup.sql" >/dev/null
	sql bench_backfill >/dev/null <<-EOT
		COPY cdp.events (message_id, source, type, event, identifiers, properties, context, occurred_at) FROM '$stream';
		SET cdp.batch_size = 50000;
		SELECT cdp.apply();
		ANALYZE;
	EOT
	cat >"$tmp/writer.sql" <<-'EOT'
		\set user random(1, 20000)
		SELECT cdp.track('Order Completed', jsonb_build_object('revenue', :user % 100), user_id => 'u' || :user);
	EOT
	psql -Xq -d postgres -c "ALTER SYSTEM SET cdp.databases = '*'" -c "SELECT pg_reload_conf()" >/dev/null
	until [ "$(sql bench_backfill <<<"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'cdp applier' AND datname = 'bench_backfill'")" = 1 ]; do
		sleep 0.1
	done

	backfill_writers quiet 15
	entries=$(sql bench_backfill <<<"SELECT count(*) FROM cdp.entries")
	rm -f "$tmp/stop"
	while [ ! -e "$tmp/stop" ]; do backfill_writers busy 3; done &
	writers=$!
	sleep 2
	before=$(date +%s.%N)
	sql bench_backfill >/dev/null <<-'EOT'
		SET client_min_messages = warning;
		SELECT cdp.create_trait('spent', aggregate => 'sum', event => 'Order Completed', value => $$(properties->>'revenue')::numeric$$);
		SELECT cdp.create_segment('spenders', $$spent > 100 AND did('Product Viewed', at_least => 3)$$);
	EOT
	left=$(sql bench_backfill <<<"SELECT cdp.wait_backfill(timeout => '10 minutes')")
	seconds=$(awk -v a="$before" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')
	touch "$tmp/stop"
	wait "$writers"
	sql bench_backfill >/dev/null <<<"SELECT cdp.wait_applied('5 minutes')"
	grouped=$(sql bench_backfill <<-'EOT'
		SELECT clock_timestamp() AS t0 \gset
		SELECT sum(s) AS total FROM (
			SELECT n.owner, sum((e.properties->>'revenue')::numeric) AS s
			FROM cdp.entries n JOIN cdp.events e ON e.xid = n.xid AND e.id = n.entry
			WHERE e.event = 'Order Completed' GROUP BY n.owner) x \gset
		SELECT round(extract(epoch FROM clock_timestamp() - :'t0'), 1);
	EOT
	)
	same=$(sql bench_backfill <<-'EOT'
		SELECT (SELECT sum((traits->>'spent')::numeric) FROM cdp.profiles) =
			(SELECT sum((e.properties->>'revenue')::numeric) FROM cdp.entries n
			JOIN cdp.events e ON e.xid = n.xid AND e.id = n.entry WHERE e.event = 'Order Completed')
	EOT
	)
	line "back-fill of $entries entries beside four writers: seconds (whole: $left, equal to a GROUP BY: $same)" "$seconds" ""
	line "a GROUP BY over the same log: seconds" "$grouped" ""
	line "commits of the writers, without a back-fill: p50, p99, slowest, in ms" \
		"$(backfill_latency quiet 50) $(backfill_latency quiet 99) $(backfill_latency quiet 100)" ""
	line "commits of the writers, beside the back-fill: p50, p99, slowest, in ms" \
		"$(backfill_latency busy 50) $(backfill_latency busy 99) $(backfill_latency busy 100)" ""
	[ "$left $same" = "t t" ]
}
