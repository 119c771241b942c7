# bench/lib.sh: what the benchmarks share.  Sourced by bench/run.
#
# shellcheck shell=bash
#
# Every measurement is one line "work variant run cpu wall" in $results;
# ratios are taken between the two variants of one run, and their median is
# printed with the smallest and the greatest of them.  Variants take turns, so
# that a noisy neighbour hits both.

# sql DB: run a script from standard input
sql()
{
	psql -XqAt -v ON_ERROR_STOP=1 -d "$1"
}

# fresh DB [TEMPLATE]: a database with the extension and the rival
fresh()
{
	psql -Xq -d postgres -c "DROP DATABASE IF EXISTS $1"
	if [ -n "${2:-}" ]; then
		psql -Xq -d postgres -c "CREATE DATABASE $1 TEMPLATE $2"
	else
		psql -Xq -d postgres -c "CREATE DATABASE $1"
		sql "$1" <"$work/bench/setup.sql" >/dev/null
	fi
	psql -Xq -d postgres -c "ALTER DATABASE $1 SET cdp.now = '$clock'" -c CHECKPOINT
}

# measure WORK VARIANT RUN DB [BEFORE]: CPU seconds of the backend that runs the
# script on standard input, and wall seconds; BEFORE is run first, unmeasured
measure()
{
	local line
	line=$({
		echo "SET client_min_messages = warning;"
		[ -z "${5:-}" ] || printf '\\o /dev/null\n%s\n\\o\n' "$5"
		echo "SELECT bench.cpu() AS c0, clock_timestamp() AS t0 \\gset"
		echo "\\o /dev/null"
		cat
		echo "\\o"
		echo "SELECT bench.cpu() - :c0, round(extract(epoch FROM clock_timestamp() - :'t0'), 3);"
	} | psql -XqAt -F ' ' -v ON_ERROR_STOP=1 -d "$4" | tail -n 1)
	echo "$1 $2 $3 $line" >>"$results"
	[ -z "${VERBOSE:-}" ] || echo "# $1 $2 run $3: cpu and wall seconds $line" >&2
}

# summary WORK A B [cpu|wall] [inverse]: "median (min .. max)" of A / B
ratio()
{
	local column=4
	[ "${4:-cpu}" = wall ] && column=5
	awk -v work="$1" -v a="$2" -v b="$3" -v c="$column" -v inverse="${5:-}" '
		$1 == work && $2 == a { x[$3] = $c }
		$1 == work && $2 == b { y[$3] = $c }
		END {
			for (r in x)
				if ((r in y) && x[r] > 0 && y[r] > 0)
					v[n++] = inverse ? y[r] / x[r] : x[r] / y[r]
			for (i = 0; i < n; i++)
				for (j = i + 1; j < n; j++)
					if (v[j] < v[i]) { t = v[i]; v[i] = v[j]; v[j] = t }
			if (n == 0) { print "not measured"; exit }
			m = n % 2 ? v[(n - 1) / 2] : (v[n / 2 - 1] + v[n / 2]) / 2
			printf "%.2f (%.2f .. %.2f, %d runs)", m, v[0], v[n - 1], n
		}' "$results"
}

# median WORK VARIANT [cpu|wall] [UNITS]: median seconds, or µs a unit
median()
{
	local column=4
	[ "${3:-cpu}" = wall ] && column=5
	awk -v work="$1" -v a="$2" -v c="$column" '$1 == work && $2 == a { print $c }' "$results" |
		sort -n | awk -v units="${4:-}" '
			{ v[NR] = $1 }
			END {
				m = NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2
				if (units) printf "%.1f µs", m * 1e6 / units
				else printf "%.2f s", m
			}'
}

# line TEXT RATIO GOAL: one line of the report
line()
{
	printf '%-62s %-34s %s\n' "$1" "$2" "$3" | tee -a "$report"
}
