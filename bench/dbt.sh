# bench/dbt.sh: `dbt build` of a source, two traits and a segment of the package,
# beside the same as plain incremental SQL: over all of history, again without
# anything new, and with one row in a hundred new.  Wall time, as dbt is a
# program of its own; CDP_DBT names a dbt, else one is installed from PyPI.
#
# shellcheck shell=bash
# shellcheck disable=SC2154

# dbt_time WORK VARIANT RUN: build that project
dbt_time()
{
	local t0 t1
	t0=$(date +%s.%N)
	(cd "$tmp/dbt/$2" && "$dbt" build --quiet >"$tmp/dbt.log" 2>&1) || {
		cat "$tmp/dbt.log" >&2
		return 1
	}
	t1=$(date +%s.%N)
	echo "$1 $2 $3 0 $(awk -v a="$t0" -v b="$t1" 'BEGIN { print b - a }')" >>"$results"
}

bench_dbt()
{
	local run variant what more=$((events / 100))
	dbt=${CDP_DBT:-}
	if [ -z "$dbt" ]; then
		python3 -m venv "$tmp/venv"
		"$tmp/venv/bin/pip" install -q --disable-pip-version-check 'dbt-core>=1.9,<1.10' 'dbt-postgres>=1.9,<1.10'
		dbt=$tmp/venv/bin/dbt
	fi
	cp -R "$work/bench/dbt" "$tmp/dbt"
	cp -R "$work/dbt" "$tmp/dbt/package"
	export DBT_PROFILES_DIR=$tmp/dbt BENCH_DB=bench_dbt DBT_SEND_ANONYMOUS_USAGE_STATS=false DBT_USE_COLORS=false
	export PGUSER=${PGUSER:-postgres}
	(cd "$tmp/dbt/cdp" && "$dbt" deps --quiet)
	for ((run = 1; run <= runs; run++)); do
		fresh bench_dbt
		sql bench_dbt <<-EOT
			ALTER DATABASE bench_dbt RESET cdp.now;
			CREATE SCHEMA raw;
			CREATE TABLE raw.orders (id bigint PRIMARY KEY, who int, total numeric, at timestamptz, loaded_at timestamptz);
			INSERT INTO raw.orders SELECT g, 1 + g::bigint * 7919 % ($events / 50), g % 100, '2026-01-01'::timestamptz + g * interval '1 second', '2026-04-01'::timestamptz + g * interval '1 ms' FROM generate_series(1, $events) g;
			CREATE INDEX ON raw.orders (loaded_at);
			CREATE INDEX ON raw.orders (who);
			VACUUM ANALYZE raw.orders;
		EOT
		for variant in cdp plain; do dbt_time dbt_history "$variant" "$run"; done
		for variant in cdp plain; do dbt_time dbt_again "$variant" "$run"; done
		sql bench_dbt <<-EOT
			INSERT INTO raw.orders SELECT g, 1 + g::bigint * 7919 % ($events / 50), g % 100, '2026-02-01'::timestamptz + g * interval '1 second', '2026-05-01'::timestamptz + g * interval '1 ms' FROM generate_series($events + 1, $events + $more) g;
		EOT
		for variant in cdp plain; do dbt_time dbt_news "$variant" "$run"; done
		what=$(sql bench_dbt <<<"SELECT (SELECT count(*) FROM analytics.spenders) = (SELECT count(*) FROM cdp.segment_members('spenders'))")
		[ "$what" = t ] || echo "# dbt: the two differ in who is a spender"
	done
	for what in "history:all of history" "again:nothing new" "news:one row in a hundred new"; do
		line "dbt build, ${what#*:}: with the package $(median "dbt_${what%%:*}" cdp wall), of plain incremental SQL ($(median "dbt_${what%%:*}" plain wall))" \
			"$(ratio "dbt_${what%%:*}" cdp plain wall)" "no goal: stated"
	done
}
