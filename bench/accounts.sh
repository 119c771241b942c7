# bench/accounts.sh: an entry of a member, in an account of few members and of many.
# Each of them has done something before, and the session that applies has them in
# its memory, as a worker has after a while: what the first entry of somebody costs,
# rows of his that are not there yet, is no matter of the account's size.
#
#   MEMBERS="1000 100000"           members of the account
#
# shellcheck shell=bash

bench_accounts()
{
	local size first= cost
	for size in ${MEMBERS:-1000 100000}; do
		fresh bench_accounts
		sql bench_accounts >/dev/null <<-EOT
			SET client_min_messages = warning;
			SELECT cdp.create_trait('own', aggregate => 'count', event => 'V');
			SELECT cdp.create_trait('n', aggregate => 'count', event => 'V', entity => 'account');
			SELECT cdp.create_trait('spent', aggregate => 'sum', value => \$\$(properties->>'x')::numeric\$\$, entity => 'account');
			SELECT cdp.create_trait('last', aggregate => 'last', value => \$\$properties->>'x'\$\$, entity => 'account');
			SELECT cdp.create_trait('used', aggregate => 'count', filter => 'own > 0', entity => 'account', options => '{"over": "members"}');
			SELECT cdp.create_trait('most', aggregate => 'max', value => 'own', entity => 'account', options => '{"over": "members"}');
			SELECT cdp.create_trait('share', expression => 'used / 100000.0', entity => 'account');
			SELECT cdp.create_segment('busy', 'n > 100 AND share > 0.001', entity => 'account');
			INSERT INTO cdp.events (type, identifiers, occurred_at)
			SELECT 'group', ARRAY['user_id:u' || g, 'group_id:acme']::cdp.identifier[], timestamptz '2026-04-01'
			FROM generate_series(1, $size) g;
			SELECT cdp.apply();
			CREATE PROCEDURE bench.members(first int, n int, step int) LANGUAGE plpgsql AS \$\$
			DECLARE
				cpu float8 := 0;
				c float8;
				i int := first;
			BEGIN
				WHILE i < first + n LOOP
					INSERT INTO cdp.events (event, identifiers, properties, occurred_at)
					SELECT 'V', ARRAY['user_id:u' || 1 + (i + g) * 7919 % $size]::cdp.identifier[],
						jsonb_build_object('x', g), timestamptz '2026-04-05' + (i + g) * interval '1 s'
					FROM generate_series(1, step) g;
					COMMIT;
					c := split_part(pg_read_file('/proc/' || pg_backend_pid() || '/schedstat'), ' ', 1)::float8 / 1e9;
					PERFORM cdp.apply();
					COMMIT;
					cpu := cpu + split_part(pg_read_file('/proc/' || pg_backend_pid() || '/schedstat'), ' ', 1)::float8 / 1e9 - c;
					i := i + step;
				END LOOP;
				RAISE NOTICE 'members %', round((cpu * 1e6 / n)::numeric, 1);
			END
			\$\$;
		EOT
		{
			cat <<-EOT
				INSERT INTO cdp.events (event, identifiers, properties, occurred_at)
				SELECT 'V', ARRAY['user_id:u' || g]::cdp.identifier[], jsonb_build_object('x', g), timestamptz '2026-04-03'
				FROM generate_series(1, $size) g;
				DO \$\$ BEGIN WHILE cdp.apply(10000) > 0 LOOP COMMIT; END LOOP; END \$\$;
				VACUUM ANALYZE;
			EOT
			echo "CALL bench.members(0, 2000, 100);"
			echo "CALL bench.members(2000, 4000, 100);"
			echo "CALL bench.members(6000, 500, 10);"
		} | PGOPTIONS="-c client_min_messages=notice" psql -Xq -d bench_accounts >"$tmp/members" 2>&1
		mapfile -t cost < <(sed -n 's/.*members \([0-9.]*\)$/\1/p' "$tmp/members")
		[ -n "$first" ] || first="${cost[1]} ${cost[2]}"
		line "account of $size members: µs an entry in batches of 100, of 10" \
			"${cost[1]} ${cost[2]}" \
			"$(awk -v a="${cost[1]}" -v b="${cost[2]}" -v f="$first" 'BEGIN { split(f, x, " "); printf "%.2f and %.2f times the first (1.5)", a / x[1], b / x[2] }')"
	done
}
