# bench/clients.sh: many clients, each event a transaction of its own that is
# flushed to disk, with the worker paused and running; and with listeners.  On a
# server of its own with the worker, fsync and synchronous_commit on.
#
#   CLIENTS_PARTS="writers listeners"   which of it; listeners take a minute a run
#
# shellcheck shell=bash

# rate WORK VARIANT RUN CLIENTS FILE: seconds a transaction, as a line
rate()
{
	local tps
	tps=$(pgbench -n -M prepared -c "$4" -j 2 -T "${SECONDS_EACH:-3}" -f "$5" bench_clients 2>/dev/null |
		sed -n 's/^tps = \([0-9.]*\) .*/\1/p')
	awk -v tps="${tps:-0}" -v id="$1 $2 $3" 'BEGIN { t = tps > 0 ? 1 / tps : 0; print id, t, t }' >>"$results"
	[ -z "${VERBOSE:-}" ] || echo "# $1 $2 run $3: $tps transactions/s" >&2
}

# applied: wait until nothing is pending
applied()
{
	sql bench_clients <<<"SELECT cdp.wait_applied('1 minute')" >/dev/null
}

# listening OF N RUN: the rate of 8 clients with N listeners
listening()
{
	local i listeners=()
	for ((i = 0; i < $2; i++)); do
		{ echo "LISTEN cdp;" && sleep $((${SECONDS_EACH:-3} + 5)); } |
			psql -Xq -d bench_clients >/dev/null 2>&1 &
		listeners+=($!)
	done
	sleep 2
	rate "listeners-$1" "$2" "$3" 8 "$tmp/log.sql"
	[ "$2" = 0 ] || wait "${listeners[@]}" || true
	applied
}

bench_clients()
{
	local run n wanted=${CLIENTS_PARTS:-writers listeners}
	private_stop
	as_server rm -rf "$tmp/pg/data"
	private_start "fsync = on" "shared_preload_libraries = 'cdp'" \
		"max_parallel_workers_per_gather = 0" "max_wal_size = 8GB"
	psql -Xq -d postgres -c "CREATE DATABASE bench_clients"
	sql bench_clients <"$work/bench/setup.sql" >/dev/null
	sql bench_clients <<<"SELECT cdp.create_segment('signed_up', \$\$did('Signed Up', at_least => 1)\$\$);" >/dev/null
	cat >"$tmp/insert.sql" <<-'EOT'
		\set n random(1, 1000000000)
		INSERT INTO bench.plain (event, identifiers, properties) VALUES ('Signed Up', ARRAY[CAST('user_id' || chr(58) || 'u' || :n AS cdp.identifier)], '{"plan" : "team"}');
	EOT
	sed 's/bench.plain/cdp.events/' "$tmp/insert.sql" >"$tmp/log.sql"
	if [[ $wanted = *writers* ]]; then
		for ((run = 1; run <= runs; run++)); do
			rate clients plain "$run" 16 "$tmp/insert.sql"
			sql bench_clients <<<"SELECT cdp.stop_worker()" >/dev/null
			rate clients paused "$run" 16 "$tmp/log.sql"
			sql bench_clients <<<"SELECT cdp.start_worker()" >/dev/null
			applied
			rate clients running "$run" 16 "$tmp/log.sql"
			applied
		done
		line "16 clients, worker paused: rate, of INSERTs into a plain table" \
			"$(ratio clients paused plain wall inverse)" "goal: at least 0.9"
		line "16 clients, worker running: rate, of INSERTs into a plain table" \
			"$(ratio clients running plain wall inverse)" "goal: at least 0.7"
	fi
	[[ $wanted = *listeners* ]] || return 0
	# with and without are measured next to each other, each first in turn
	for ((run = 1; run <= runs; run++)); do
		for n in 1 10 50; do
			if ((run % 2)); then
				listening "$n" 0 "$run"
				listening "$n" "$n" "$run"
			else
				listening "$n" "$n" "$run"
				listening "$n" 0 "$run"
			fi
		done
	done
	for n in 1 10 50; do
		line "8 clients, $n listening: rate, of none listening" \
			"$(ratio "listeners-$n" "$n" 0 wall inverse)" "goal: at least 0.9"
	done
}
