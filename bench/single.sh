# bench/single.sh: one event, one transaction against a bare INSERT of that
# row; one client, no flush to disk at commit (so that nothing hides our part).
#
# shellcheck shell=bash

# pgbench_cost WORK VARIANT RUN DB FILE: wall seconds a transaction, as a line
pgbench_cost()
{
	local ms
	ms=$(pgbench -n -M prepared -c 1 -T "${SECONDS_EACH:-3}" -f "$5" "$4" 2>/dev/null |
		sed -n 's/^latency average = \([0-9.]*\) ms/\1/p')
	awk -v ms="${ms:-0}" -v id="$1 $2 $3" 'BEGIN { print id, ms / 1000, ms / 1000 }' >>"$results"
}

bench_single()
{
	local run
	cat >"$tmp/insert.sql" <<-'EOT'
		\set n random(1, 100000)
		INSERT INTO bench.plain (event, identifiers, properties, message_id) VALUES ('Product Viewed', ARRAY[CAST('anonymous_id' || chr(58) || 'a' || :n AS cdp.identifier)], '{"sku" : "P-1", "category" : "tents"}', NULL);
	EOT
	sed 's/bench.plain/cdp.events/' "$tmp/insert.sql" >"$tmp/log.sql"
	cat >"$tmp/track.sql" <<-'EOT'
		\set n random(1, 100000)
		SELECT cdp.track('Product Viewed', '{"sku" : "P-1", "category" : "tents"}', anonymous_id => CAST('a' || :n AS cdp.key));
	EOT
	fresh bench_single
	# what a database has after its first hour
	sql bench_single <<<"SELECT cdp.make_partitions();" >/dev/null
	for ((run = 1; run <= runs; run++)); do
		pgbench_cost single plain "$run" bench_single "$tmp/insert.sql"
		pgbench_cost single log "$run" bench_single "$tmp/log.sql"
		pgbench_cost single track "$run" bench_single "$tmp/track.sql"
	done
	line "INSERT into the log: latency, of a bare INSERT ($(median single plain wall 1))" \
		"$(ratio single log plain wall)" "goal: at most 1.5"
	line "cdp.track(): latency, of a bare INSERT" \
		"$(ratio single track plain wall)" "goal: at most 1.5"
}

# Batches of one event each in a log of MONTHS monthly partitions (60), of those in
# a log of a few: the applier asks every partition for what is new.
bench_months()
{
	local run variant i
	for variant in few many; do
		fresh "bench_months_$variant"
		sql "bench_months_$variant" <"$work/bench/definitions.sql" >/dev/null
		{
			[ $variant = few ] || for ((i = ${MONTHS:-60}; i > 0; i--)); do
				echo "SET cdp.now = '$clock'; SELECT set_config('cdp.now', (cdp.clock() - interval '$i months')::text, false), cdp.make_partitions();"
			done
			echo "SET cdp.now = '$clock'; SELECT cdp.make_partitions();"
		} | sql "bench_months_$variant" >/dev/null
	done
	for ((run = 1; run <= runs; run++)); do
		for variant in few many; do
			measure months "$variant" "$run" "bench_months_$variant" "SELECT cdp.apply();" < <(
				for ((i = 1; i <= 500; i++)); do
					echo "SELECT cdp.track('Product Viewed', anonymous_id => 'a$run-$i'); SELECT cdp.apply();"
				done
			)
		done
	done
	line "an event and its batch in a log of $(months_of many) partitions, of one of $(months_of few) ($(median months few cpu 500))" \
		"$(ratio months many few)" "no goal: stated"
}

months_of()
{
	sql "bench_months_$1" <<<"SELECT count(*) FROM pg_inherits WHERE inhparent = 'cdp.events'::regclass"
}
