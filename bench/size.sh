# bench/size.sh: bytes on disk and in the WAL for each event that is logged and
# applied, against the plain table; and what an event costs when the tables
# are ten times as large.
#
# shellcheck shell=bash

# bytes WORK VARIANT RUN DB WHAT: a number from a query as a line of results
bytes()
{
	local n
	n=$(sql "$4" <<<"SELECT $5")
	echo "$1 $2 $3 $n $n" >>"$results"
	[ -z "${VERBOSE:-}" ] || echo "# $1 $2 run $3: $n bytes" >&2
}

# wal VARIANT RUN DB: WAL of the script on standard input, from a checkpoint on
wal()
{
	local from
	from=$(sql "$3" <<<"CHECKPOINT; SELECT pg_current_wal_insert_lsn();")
	sql "$3" >/dev/null
	bytes wal "$1" "$2" "$3" "pg_current_wal_insert_lsn() - '$from'"
}

bench_size()
{
	local run of_log="FROM pg_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
		AND d.refclassid = 'pg_extension'::regclass WHERE c.relkind IN ('r', 'm')"
	fresh bench_defined
	sql bench_defined <"$work/bench/definitions.sql" >/dev/null
	for ((run = 1; run <= runs; run++)); do
		fresh bench_size bench_defined
		wal plain "$run" bench_size <<<"COPY bench.plain ($columns) FROM '$stream';"
		bytes disk plain "$run" bench_size "pg_total_relation_size('bench.plain')"
		wal log "$run" bench_size <<<"COPY cdp.events ($columns) FROM '$stream';"
		bytes disk log "$run" bench_size "sum(pg_total_relation_size(c.oid)) $of_log"
		wal apply "$run" bench_size < <(apply_script 10000)
		# of the log and of its application
		awk -v r="$run" '$1 == "wal" && $3 == r && ($2 == "log" || $2 == "apply") { n += $4 }
			END { print "wal all", r, n, n }' "$results" >>"$results"
		bytes disk all "$run" bench_size "sum(pg_total_relation_size(c.oid)) $of_log"
	done
	line "log alone: bytes on disk, of the plain table ($(each disk plain) an event)" \
		"$(ratio disk log plain)" ""
	line "log and all that follows from it: bytes on disk ($(each disk all) an event)" \
		"$(ratio disk all plain)" "goal: at most 1.6"
	line "log alone: bytes in the WAL, of the plain table ($(each wal plain) an event)" \
		"$(ratio wal log plain)" ""
	line "log and apply in batches of 10000: bytes in the WAL ($(each wal all) an event)" \
		"$(ratio wal all plain)" "goal: at most 2.0"
}

# each WORK VARIANT: bytes an event, of the last run
each()
{
	awk -v work="$1" -v a="$2" -v n="$events" '$1 == work && $2 == a { x = $4 } END { printf "%.0f", x / n }' "$results"
}

# The stream in ten parts, in one session.  The first is left out: it meets
# empty tables.
bench_growth()
{
	local run part n=$((events / 10))
	fresh bench_growth
	sql bench_growth <"$work/bench/definitions.sql" >/dev/null
	sql bench_growth <<<"COPY cdp.events ($columns) FROM '$stream';"
	for ((run = 1; run <= runs; run++)); do
		fresh bench_grown bench_growth
		for ((part = 0; part < 10; part++)); do
			printf '\\o\nSELECT %s, bench.cpu();\n\\o /dev/null\n' "$part"
			events=$n apply_script 10000 0
		done | { cat && printf '\\o\nSELECT 10, bench.cpu();\n'; } | psql -XqAt -F ' ' -d bench_grown |
			awk -v r="$run" 'NR > 1 { print "growth part" $1 - 1, r, $2 - cpu, $2 - cpu } { cpu = $2 }' >>"$results"
	done
	line "apply: cost an event of the last tenth, of the second ($(median growth part9 cpu "$n"))" \
		"$(ratio growth part9 part1)" "goal: at most 1.2"
}
