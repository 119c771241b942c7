# bench/graph.sh: the access method identity_graph against two btrees: walks,
# insertion, size, growth; components from scratch against pgRouting and SQL.
#
# shellcheck shell=bash
#
#   GRAPH_PARTS="walks inserts growth components"
#   GRAPH_WALKS=20000       components of each size
#   GRAPH_INSERTS=100000    edges inserted in each run
#   GRAPH_GROWTH=1000000    edges to which an index of 1,000 grows
#   GRAPH_EDGES="1000000"   edges of which components are made from scratch
#   GRAPH_RIVALS="sql pgrouting"   of these
#   GRAPH_ONCE=2000000      from so many edges on the rivals, which take minutes, run once

# walks DB SIZE COUNT TIMES RUN: COUNT components of SIZE nodes, TIMES times
# over, in a session that has walked all of them once: by the partial index with
# the visibility map, by the full index, which has to read each row for its
# status, and by our own C walk over two btrees.  That is the rival of the goals:
# the prototype walked its two btrees for about the time of one probe of one of
# them by SPI, so it walked them in C too.  Beside them a recursive
# query over the two btrees, by a tenth of the components: what one would write.
walks()
{
	local once="SELECT sum(cardinality(cdp.component_nodes(start))) FROM bench.starts$2 WHERE n <= $3;"
	local query="SELECT sum(cardinality(cdp.component_nodes(start))) FROM bench.starts$2, generate_series(1, $4) WHERE n <= $3;"
	local recursive="SELECT sum(c.nodes) FROM (SELECT * FROM bench.starts$2 WHERE n <= greatest($3 / 10, 1)) s,
		LATERAL (WITH RECURSIVE r(node) AS (SELECT s.start UNION SELECT x.o FROM r, LATERAL (
			SELECT b AS o FROM cdp.links WHERE a = r.node AND status = 'accepted' UNION ALL
			SELECT a FROM cdp.links WHERE b = r.node AND status = 'accepted' OFFSET 0) x) SELECT count(*) AS nodes FROM r) c;"
	measure "walk$2" btrees "$5" "$1" "SET cdp.enable_graph_index = off; $once" <<<"$query"
	measure "walk$2" visible "$5" "$1" "$once" <<<"$query"
	measure "walk$2" heap "$5" "$1" "BEGIN; DROP INDEX cdp.bench_accepted; $once" <<<"$query ROLLBACK;"
	measure "walk$2" sql "$5" "$1" "SET jit = off; BEGIN; DROP INDEX cdp.bench_accepted, cdp.bench_all; $recursive" <<<"$recursive ROLLBACK;"
}

# walk_counts SIZE: how many components, how many times over
walk_counts()
{
	count=${GRAPH_WALKS:-20000}
	times=$((30 / $1 + 1))
	[ "$1" -lt 10000 ] || { count=3 && times=8; }
}

bench_graph()
{
	local part edges db=bench_graph
	fresh $db
	for part in ${GRAPH_PARTS:-walks inserts growth components}; do
		case $part in
		walks) graph_walks $db ;;
		inserts) graph_inserts $db ;;
		growth) graph_growth $db ;;
		components) for edges in ${GRAPH_EDGES:-1000000}; do graph_components $db "$edges"; done ;;
		*) echo "bench/run: no such part of graph: $part" >&2 && exit 2 ;;
		esac
	done
}

graph_walks()
{
	local run size count times
	local db=$1
	sql "$db" >/dev/null <<-EOT
		CREATE FUNCTION bench.walks() RETURNS int LANGUAGE sql IMMUTABLE RETURN ${GRAPH_WALKS:-20000};
	EOT
	sql "$db" >/dev/null <<-'EOT'
		-- chains with a shortcut at every fifth node, as evidence makes them; the
		-- parts of a component are inserted far from each other
		CREATE TABLE bench.starts (size int, n int, start bigint) PARTITION BY LIST (size);
		CREATE TABLE bench.starts2 PARTITION OF bench.starts FOR VALUES IN (2);
		CREATE TABLE bench.starts5 PARTITION OF bench.starts FOR VALUES IN (5);
		CREATE TABLE bench.starts10 PARTITION OF bench.starts FOR VALUES IN (10);
		CREATE TABLE bench.starts20 PARTITION OF bench.starts FOR VALUES IN (20);
		CREATE TABLE bench.starts10000 PARTITION OF bench.starts FOR VALUES IN (10000);
		CREATE TABLE bench.edges (a bigint, b bigint);
		DO $$
		DECLARE
			node bigint := 0;
			size int;
		BEGIN
			FOR size IN SELECT unnest('{2,5,10,20}'::int[]) LOOP
				INSERT INTO bench.starts SELECT size, n, node + (n - 1) * size + 1 FROM generate_series(1, bench.walks()) n;
				node := node + bench.walks() * size;
			END LOOP;
			INSERT INTO bench.starts VALUES (10000, 1, node + 1), (10000, 2, node + 10001), (10000, 3, node + 20001);
			INSERT INTO bench.edges SELECT s.start + i - 1, s.start + i FROM bench.starts s, generate_series(1, s.size - 1) i;
			INSERT INTO bench.edges SELECT s.start + i, s.start + i + 3 FROM bench.starts s, generate_series(0, s.size - 4, 5) i;
		END $$;
		INSERT INTO cdp.links (a, b, entry, at, tie, ord, origin, status)
		SELECT a, b, a, '2026-01-01', 'web' || chr(1) || a, 0, 'event', 'accepted' FROM bench.edges
		ORDER BY hashint8(a # 77), b;
		CREATE INDEX bench_all ON cdp.links USING identity_graph (a, b);
		CREATE INDEX bench_accepted ON cdp.links USING identity_graph (a, b) WHERE status = 'accepted';
		VACUUM ANALYZE;
	EOT
	for ((run = 1; run <= runs; run++)); do
		for size in 2 5 10 20 10000; do
			walk_counts "$size"
			walks $db $size "$count" "$times" "$run"
		done
	done
	for size in 2 5 10 20 10000; do
		walk_counts "$size"
		line "walk of $size nodes, all-visible: rate, of our C walk over two btrees ($(median walk$size visible cpu $((count * times))))" \
			"$(ratio walk$size btrees visible)" "goal: at least $([ $size -lt 10 ] && echo 3 || echo 4)"
		line "walk of $size nodes, heap checked: rate, of our C walk over two btrees ($(median walk$size heap cpu $((count * times))))" \
			"$(ratio walk$size btrees heap)" "goal: at least 2"
		line "walk of $size nodes: by our C walk over two btrees; by a recursive SQL query over them" \
			"$(median walk$size btrees cpu $((count * times))); $(median walk$size sql cpu "$((count < 10 ? 1 : count / 10))")" ""
	done
}

# insertion of single rows by a prepared statement, and in bulk
graph_inserts()
{
	local run table inserts=${GRAPH_INSERTS:-100000}
	local db=$1
	sql "$db" >/dev/null <<-'EOT'
		CREATE TABLE bench.graph (a bigint, b bigint);
		CREATE INDEX ON bench.graph USING identity_graph (a, b);
		CREATE TABLE bench.btrees (a bigint, b bigint);
		CREATE INDEX ON bench.btrees (a, b);
		CREATE INDEX ON bench.btrees (b);
		INSERT INTO bench.graph SELECT (random() * 800000)::bigint, (random() * 800000)::bigint FROM generate_series(1, 1000);
		INSERT INTO bench.btrees TABLE bench.graph;
		CREATE FUNCTION bench.one_by_one(t regclass, n int) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN
			IF t = 'bench.graph'::regclass THEN
				FOR i IN 1 .. n LOOP INSERT INTO bench.graph VALUES ((random() * 800000)::bigint, (random() * 800000)::bigint); END LOOP;
			ELSE
				FOR i IN 1 .. n LOOP INSERT INTO bench.btrees VALUES ((random() * 800000)::bigint, (random() * 800000)::bigint); END LOOP;
			END IF;
		END $$;
	EOT
	for ((run = 1; run <= runs; run++)); do
		for table in btrees graph; do
			measure bulk $table "$run" "$db" <<<"INSERT INTO bench.$table SELECT (random() * 800000)::bigint, (random() * 800000)::bigint FROM generate_series(1, $inserts);"
			measure edge $table "$run" "$db" <<<"SELECT bench.one_by_one('bench.$table', $inserts);"
		done
	done
	line "insert of an edge, one a statement: time, of two btrees ($(median edge graph cpu "$inserts"))" \
		"$(ratio edge graph btrees)" "goal: at most 1.15"
	line "insert of an edge, in bulk: time, of two btrees ($(median bulk graph cpu "$inserts"))" \
		"$(ratio bulk graph btrees)" ""
}

# bench.graph and bench.btrees grow from 1,000 edges, and are then built anew: the
# cost of insertion at that size, bytes an edge, and what is read as fast as before
graph_growth()
{
	local run table lookups edges=${GRAPH_GROWTH:-1000000}
	local db=$1
	sql "$db" >/dev/null <<-EOT
		CREATE TABLE bench.grown_graph (a bigint, b bigint);
		CREATE TABLE bench.grown_btrees (a bigint, b bigint);
		INSERT INTO bench.grown_graph SELECT (random() * 0.8 * $edges)::bigint, (random() * 0.8 * $edges)::bigint FROM generate_series(1, 1000);
		INSERT INTO bench.grown_btrees TABLE bench.grown_graph;
		CREATE INDEX ON bench.grown_graph USING identity_graph (a, b);
		CREATE INDEX ON bench.grown_btrees (a, b);
		CREATE INDEX ON bench.grown_btrees (b);
	EOT
	for table in btrees graph; do
		measure growth $table 1 "$db" <<<"INSERT INTO bench.grown_$table SELECT (random() * 0.8 * $edges)::bigint, (random() * 0.8 * $edges)::bigint FROM generate_series(1, $edges);"
	done
	line "growth from 1,000 to $edges edges: time, of two btrees ($(median growth graph cpu "$edges") an edge)" \
		"$(ratio growth graph btrees)" "goal: at most 1.15"
	line "bytes an edge after growth from 1,000 to $edges edges" "$(bytes_an_edge "$db")" "goal: at most 80"
	lookups="SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT count(*) FROM generate_series(1, 200000) i, LATERAL (SELECT FROM bench.grown_graph WHERE a = hashint8(i) & 1048575 OFFSET 0) e;"
	sql "$db" >/dev/null <<<"VACUUM ANALYZE bench.grown_graph;"
	for ((run = 1; run <= runs; run++)); do
		measure lookups grown "$run" "$db" "$lookups" <<<"$lookups $lookups"
	done
	sql "$db" <<<"SET client_min_messages = warning; REINDEX TABLE bench.grown_graph; REINDEX TABLE bench.grown_btrees;"
	for ((run = 1; run <= runs; run++)); do
		measure lookups built "$run" "$db" "$lookups" <<<"$lookups $lookups"
	done
	line "look-up in the index that has grown: time, of one in the same built anew ($(median lookups grown cpu 400000))" \
		"$(ratio lookups grown built)" "goal: 1"
	line "bytes an edge after a build of $edges edges" "$(bytes_an_edge "$db")" "goal: at most 60"
}

bytes_an_edge()
{
	sql "$1" <<<"SELECT round(pg_indexes_size('bench.grown_graph') / count(*)::numeric, 1) || ' (two btrees: ' || round(pg_indexes_size('bench.grown_btrees') / count(*)::numeric, 1) || ')' FROM bench.grown_graph"
}

# components of an edge table from scratch; the edges of one come far apart
graph_components()
{
	local run pgrouting='' rivals=" ${GRAPH_RIVALS:-sql pgrouting} " rival_runs=$runs
	[ "$2" -lt "${GRAPH_ONCE:-2000000}" ] || rival_runs=1
	sql "$1" >/dev/null <<-EOT
		DROP TABLE IF EXISTS bench.big;
		CREATE TABLE bench.big AS SELECT i AS id, 1 + (i * 7 / 10 / 5) * 5 + (random() * 4)::bigint AS a,
			1 + (i * 7 / 10 / 5) * 5 + (random() * 4)::bigint AS b, 1::float8 AS cost FROM generate_series(1::bigint, $2) i ORDER BY hashint8(i);
		VACUUM ANALYZE bench.big;
		CREATE OR REPLACE PROCEDURE bench.propagate() LANGUAGE plpgsql AS \$\$
		DECLARE
			changed bigint;
		BEGIN
			-- labels go along edges, then pointers jump, until nothing changes
			CREATE TEMP TABLE label AS SELECT node, min(other) AS label FROM (
				SELECT a AS node, least(a, b) AS other FROM bench.big UNION ALL SELECT b, least(a, b) FROM bench.big) e GROUP BY node;
			LOOP
				CREATE TEMP TABLE hop AS
				SELECT l.node, least(l.label, min(e.label)) AS label FROM label l
				LEFT JOIN (SELECT x.a AS node, y.label FROM bench.big x JOIN label y ON y.node = x.b
					UNION ALL SELECT x.b, y.label FROM bench.big x JOIN label y ON y.node = x.a) e USING (node)
				GROUP BY l.node, l.label;
				CREATE TEMP TABLE jump AS SELECT h.node, p.label FROM hop h JOIN hop p ON p.node = h.label;
				SELECT count(*) INTO changed FROM jump j JOIN label l USING (node) WHERE j.label <> l.label;
				DROP TABLE label, hop;
				ALTER TABLE jump RENAME TO label;
				EXIT WHEN changed = 0;
			END LOOP;
			DROP TABLE label;
		END \$\$;
	EOT
	if [[ $rivals != *" pgrouting "* ]]; then
		:
	elif sql "$1" <<<"CREATE EXTENSION IF NOT EXISTS pgrouting CASCADE;" >/dev/null 2>&1; then
		pgrouting=1
	else
		echo "SKIPPED: pgRouting is not installed (apt-get install postgresql-15-pgrouting): no comparison with pgr_connectedComponents" | tee -a "$report"
	fi
	gcc -O2 -Wall -o "$tmp/unionfind" "$work/bench/unionfind.c"
	sql "$1" <<<"COPY (SELECT a, b FROM bench.big) TO STDOUT" >"$tmp/edges"
	for ((run = 1; run <= runs; run++)); do
		measure "components$2" unionfind "$run" "$1" <<<"SELECT count(*) FROM cdp.graph_components('bench.big'::regclass);"
		measure "components$2" scan "$run" "$1" <<<"SELECT count(a), count(b) FROM bench.big;"
		echo "components$2 memory $run $("$tmp/unionfind" <"$tmp/edges" 2>/dev/null)" >>"$results"
		awk -v work="components$2" -v run="$run" '$1 == work && $3 == run && $2 == "scan" { scan = $4 }
			$1 == work && $3 == run && $2 == "memory" { print work, "limit", run, scan + 3 * $4, 0 }' "$results" >>"$results.limit"
		cat "$results.limit" >>"$results" && rm "$results.limit"
		[ "$run" -le "$rival_runs" ] || continue
		[[ $rivals != *" sql "* ]] || measure "components$2" sql "$run" "$1" <<<"CALL bench.propagate();"
		[ -z "$pgrouting" ] || measure "components$2" pgrouting "$run" "$1" \
			<<<"SELECT count(*) FROM pgr_connectedComponents('SELECT id, a AS source, b AS target, cost FROM bench.big');"
	done
	line "components of $2 edges: time, of a scan ($(median "components$2" unionfind cpu))" \
		"$(ratio "components$2" unionfind scan)" ""
	line "components of $2 edges: time, of a scan and 3 union-finds in memory ($(median "components$2" memory cpu))" \
		"$(ratio "components$2" unionfind limit)" "goal: at most 1"
	[[ $rivals != *" sql "* ]] ||
		line "components of $2 edges: rate, of label propagation in SQL ($(median "components$2" sql cpu))" \
			"$(ratio "components$2" sql unionfind)" "goal: at least 100"
	[ -z "$pgrouting" ] ||
		line "components of $2 edges: rate, of pgr_connectedComponents ($(median "components$2" pgrouting cpu))" \
			"$(ratio "components$2" pgrouting unionfind)" "goal: at least 10"
}
