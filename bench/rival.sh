# bench/rival.sh: log and apply against a PL/pgSQL function that folds the
# same events one by one (bench/plpgsql.sql), 1,000 a commit; on the first
# RIVAL_EVENTS events of the stream.  The rival gets its best plans: those
# that it caches from empty tables cost it a third more.
#
# shellcheck shell=bash

bench_rival()
{
	local run n=${RIVAL_EVENTS:-$((events < 200000 ? events : 200000))} part=$tmp/pg/part
	head -n "$n" "$stream" | as_server tee "$part" >/dev/null
	fresh bench_defined
	sql bench_defined <"$work/bench/definitions.sql" >/dev/null
	for ((run = 1; run <= runs; run++)); do
		fresh bench_rival
		sql bench_rival <"$work/bench/plpgsql.sql"
		measure rival plpgsql "$run" bench_rival <<-EOT
			COPY bench.plain ($columns) FROM '$part';
			ANALYZE bench.plain;
			SET enable_seqscan = off;
			SET plan_cache_mode = force_generic_plan;
			CALL bench.hand_apply(1000);
		EOT
		fresh bench_apply bench_defined
		{
			echo "COPY cdp.events ($columns) FROM '$part';"
			events=$n apply_script 10000
		} | measure rival cdp "$run" bench_apply
	done
	line "log and apply: times as fast as PL/pgSQL ($(median rival plpgsql cpu "$n") an event)" \
		"$(ratio rival plpgsql cdp cpu)" "goal: at least 4"
}
