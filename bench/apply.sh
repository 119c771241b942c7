# bench/apply.sh: applying the stream (10 traits, 5 segments) against the
# plain COPY of the same events, by size of batch.
#
# shellcheck shell=bash

# apply_script SIZE [MORE]: so many batches that nothing is left, or MORE than those
apply_script()
{
	local n
	echo "SET cdp.batch_size = $1;"
	for ((n = 0; n < events / $1 + ${2:-5}; n++)); do
		echo "SELECT cdp.apply($1);"
	done
}

bench_apply()
{
	local run size left
	fresh bench_defined
	sql bench_defined <"$work/bench/definitions.sql" >/dev/null
	for ((run = 1; run <= runs; run++)); do
		fresh bench_plain
		measure apply plain "$run" bench_plain <<<"COPY bench.plain ($columns) FROM '$stream';"
		for size in $batches; do
			fresh bench_apply bench_defined
			measure apply "log$size" "$run" bench_apply <<<"COPY cdp.events ($columns) FROM '$stream';"
			apply_script "$size" | measure apply "apply$size" "$run" bench_apply
			awk -v s="$size" -v r="$run" '$1 == "apply" && $3 == r && ($2 == "log" s || $2 == "apply" s) { c += $4; w += $5 }
				END { print "apply both" s, r, c, w }' "$results" >>"$results"
			left=$(sql bench_apply <<<"SELECT cdp.apply()")
			[ "$left" = 0 ] || echo "# batches of $size: $left entries were left over" >&2
		done
	done
	for size in $batches; do
		line "apply, batches of $size: cost, of a plain COPY ($(median apply "apply$size" cpu "$events") an event)" \
			"$(ratio apply "apply$size" plain cpu)" \
			"$([ "$size" = 10000 ] && echo "goal: at most 1.0")"
	done
	for size in $batches; do
		line "log and apply, batches of $size: rate, of a plain COPY" \
			"$(ratio apply "both$size" plain cpu inverse)" \
			"$(case $size in 1000) echo "goal: at least 0.33" ;; 10000) echo "goal: at least 0.42" ;; 50000) echo "goal: at least 0.48" ;; esac)"
	done
}
