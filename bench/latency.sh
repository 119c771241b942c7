# bench/latency.sh: from COMMIT to the notification, through the log, the
# worker and the change, against a commit followed by a bare NOTIFY.  On a
# server of its own with the worker, fsync and synchronous_commit on.
#
# shellcheck shell=bash

bench_latency()
{
	local run rate writers p50 p99 max lost mode base=0
	gcc -O2 -Wall -I"$("$pg_config" --includedir)" -o "$tmp/latency" "$work/bench/latency.c" \
		-L"$("$pg_config" --libdir)" -lpq
	private_stop
	as_server rm -rf "$tmp/pg/data"
	private_start "fsync = on" "shared_preload_libraries = 'cdp'" \
		"max_parallel_workers_per_gather = 0"
	psql -Xq -d postgres -c "CREATE DATABASE bench_latency"
	sql bench_latency <"$work/bench/setup.sql" >/dev/null
	# what a database has after its first hour
	sql bench_latency <<<"SELECT cdp.make_partitions(), cdp.make_change_partitions();" >/dev/null
	sql bench_latency <<<"SELECT cdp.create_segment('signed_up', \$\$did('Signed Up', at_least => 1)\$\$);" >/dev/null
	for rate in 100 1000; do
		writers=$((rate >= 1000 ? 4 : 1))
		for ((run = 1; run <= runs; run++)); do
			for mode in bare cdp; do
				base=$((base + 1000000))
				read -r p50 p99 max lost < <(PGDATABASE=bench_latency "$tmp/latency" \
					"$mode" "$rate" "$((rate * ${LATENCY_SECONDS:-10}))" "$writers" "$base") || {
					echo "# latency: $mode at $rate failed" >&2
					return 0
				}
				echo "p50-$rate $mode $run $p50 $p50" >>"$results"
				echo "p99-$rate $mode $run $p99 $p99" >>"$results"
				[ -z "${VERBOSE:-}" ] || echo "# latency $mode at $rate/s: p50 $p50 p99 $p99 max $max ms, $lost lost" >&2
				[ "$lost" = 0 ] || echo "# latency $mode at $rate/s: $lost without a notification" >&2
			done
		done
		line "commit to NOTIFY at $rate/s: p50, of a commit and a bare NOTIFY ($(median "p50-$rate" cdp | sed 's/ s$/ ms/'))" \
			"$(ratio "p50-$rate" cdp bare)" "goal: at most 2"
		line "commit to NOTIFY at $rate/s: p99, of a commit and a bare NOTIFY ($(median "p99-$rate" cdp | sed 's/ s$/ ms/'))" \
			"$(ratio "p99-$rate" cdp bare)" "goal: at most 3"
	done
}
