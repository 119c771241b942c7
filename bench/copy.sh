# bench/copy.sh: COPY into the log against COPY into a plain table with the
# same columns, types and indexes.
#
# shellcheck shell=bash
columns="message_id, source, type, event, identifiers, properties, context, occurred_at"

bench_copy()
{
	local run
	fresh bench_copy
	for ((run = 1; run <= runs; run++)); do
		sql bench_copy <<<"TRUNCATE bench.plain; CHECKPOINT;"
		measure copy plain "$run" bench_copy <<<"COPY bench.plain ($columns) FROM '$stream';"
		sql bench_copy <<<"TRUNCATE cdp.events; CHECKPOINT;"
		measure copy log "$run" bench_copy <<<"COPY cdp.events ($columns) FROM '$stream';"
	done
	line "COPY into the log: rate, of a plain COPY ($(median copy plain cpu "$events") an event)" \
		"$(ratio copy log plain cpu inverse)" "goal: at least 0.80"
}
