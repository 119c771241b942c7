# bench/read.sh: cdp.resolve() and cdp.profile() against a primary-key lookup
# that returns a bigint, and a jsonb of the same size.
#
# shellcheck shell=bash

bench_read()
{
	local run
	fresh bench_read
	sql bench_read <"$work/bench/definitions.sql" >/dev/null
	{
		echo "COPY cdp.events ($columns) FROM '$stream';"
		apply_script 10000
		cat <<-'EOT'
			CREATE TABLE bench.pk AS SELECT identifier::text AS identifier, profile_id FROM cdp.identities;
			ALTER TABLE bench.pk ADD PRIMARY KEY (identifier);
			CREATE TABLE bench.sample AS SELECT identifier::text AS identifier, identifier AS id, profile_id
				FROM cdp.identities ORDER BY hashtext(identifier::text) LIMIT 100000;
			CREATE TABLE bench.docs AS SELECT DISTINCT ON (profile_id) profile_id, cdp.profile(profile_id) AS doc
				FROM bench.sample ORDER BY profile_id;
			ALTER TABLE bench.docs ADD PRIMARY KEY (profile_id);
			DELETE FROM bench.sample WHERE profile_id NOT IN (SELECT profile_id FROM bench.docs);
			VACUUM ANALYZE;
		EOT
	} | sql bench_read >/dev/null
	# by CPU time: most of a statement is parsing and planning, and goes to and fro
	awk 'BEGIN { srand(1); for (i = 0; i < 20000; i++) print 1 + int(50000 * rand()) }' >"$tmp/numbers"
	sed "s/.*/SELECT profile_id FROM bench.pk WHERE identifier = 'anonymous_id' || chr(58) || 'a' || &;/" "$tmp/numbers" >"$tmp/pk.sql"
	sed "s/.*/SELECT cdp.resolve(CAST('anonymous_id' || chr(58) || 'a' || & AS cdp.identifier));/" "$tmp/numbers" >"$tmp/resolve.sql"
	for ((run = 1; run <= runs; run++)); do
		measure read pk "$run" bench_read \
			<<<"SELECT count((SELECT k.profile_id FROM bench.pk k WHERE k.identifier = s.identifier)) FROM bench.sample s;"
		measure read resolve "$run" bench_read <<<"SELECT count(cdp.resolve(id)) FROM bench.sample;"
		measure read doc "$run" bench_read \
			<<<"SELECT sum(length((SELECT d.doc::text FROM bench.docs d WHERE d.profile_id = s.profile_id))) FROM (SELECT * FROM bench.sample LIMIT 20000) s;"
		measure read profile "$run" bench_read \
			<<<"SELECT sum(length(cdp.profile(profile_id)::text)) FROM (SELECT * FROM bench.sample LIMIT 20000) s;"
		measure call pk "$run" bench_read <"$tmp/pk.sql"
		measure call resolve "$run" bench_read <"$tmp/resolve.sql"
	done
	line "resolve(), 100,000 in one query: rate, of a primary-key lookup" \
		"$(ratio read resolve pk cpu inverse)" "goal: at least 0.7"
	line "resolve(), one a statement: rate, of a primary-key lookup" \
		"$(ratio call resolve pk cpu inverse)" "goal: at least 0.7"
	line "profile(), 20,000 in one query: rate, of a lookup of such a jsonb" \
		"$(ratio read profile doc cpu inverse)" "goal: at least 0.5"
}
