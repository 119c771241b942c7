# bench/accounts.sh: an entry of a member, in an account of few members and of many.
# Each of them has done something before, and the session that applies has them in
# its memory, as a worker has after a while: what the first entry of somebody costs,
# rows of his that are not there yet, is no matter of the account's size.
#
# A database of more people is slower by itself: rows that nobody has looked at
# lately, indexes with one level more.  So as many people are also measured in
# accounts that are all small, each batch in one of them.
#
#   MEMBERS="1000 100000"           members of the account
#
# shellcheck shell=bash

# accounts_of MEMBERS ACCOUNTS: µs an entry in batches of 100, and of 10 (medians of three)
accounts_of()
{
	local size=$1 accounts=$2 pass
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
		SELECT cdp.create_segment('of_busy', 'account.n > 1000000 AND own > 0');
		INSERT INTO cdp.events (type, identifiers, occurred_at)
		SELECT 'group', ARRAY['user_id:u' || g, 'group_id:acme' || g % $accounts]::cdp.identifier[], timestamptz '2026-04-01'
		FROM generate_series(0, $size * $accounts - 1) g;
		SELECT cdp.apply();
		CREATE PROCEDURE bench.members(first int, n int, step int) LANGUAGE plpgsql AS \$\$
		DECLARE
			cpu float8 := 0;
			c float8;
			i int := first;
		BEGIN
			WHILE i < first + n LOOP
				INSERT INTO cdp.events (event, identifiers, properties, occurred_at)
				SELECT 'V', ARRAY['user_id:u' || (i + g) * 7919 % $size * $accounts + i / step % $accounts]::cdp.identifier[],
					jsonb_build_object('x', g), timestamptz '2026-04-05' + (i + g) * interval '1 s'
				FROM generate_series(1, step) g;
				COMMIT;
				c := split_part(pg_read_file('/proc/' || pg_backend_pid() || '/schedstat'), ' ', 1)::float8 / 1e9;
				PERFORM cdp.apply();
				COMMIT;
				cpu := cpu + split_part(pg_read_file('/proc/' || pg_backend_pid() || '/schedstat'), ' ', 1)::float8 / 1e9 - c;
				i := i + step;
			END LOOP;
			RAISE NOTICE 'members % %', step, round((cpu * 1e6 / n)::numeric, 1);
		END
		\$\$;
	EOT
	{
		cat <<-EOT
			INSERT INTO cdp.events (event, identifiers, properties, occurred_at)
			SELECT 'V', ARRAY['user_id:u' || g]::cdp.identifier[], jsonb_build_object('x', g), timestamptz '2026-04-03'
			FROM generate_series(0, $size * $accounts - 1) g;
			DO \$\$ BEGIN WHILE cdp.apply(10000) > 0 LOOP COMMIT; END LOOP; END \$\$;
			VACUUM ANALYZE;
		EOT
		for pass in 0 1 2 3; do
			echo "CALL bench.members($((pass * 6000)), 4000, 100);"
			echo "CALL bench.members($((pass * 6000 + 4000)), 2000, 10);"
		done
	} | PGOPTIONS="-c client_min_messages=notice" psql -Xq -d bench_accounts >"$tmp/members" 2>&1
	# the first pass warms up
	for pass in 100 10; do
		sed -n "s/.*members $pass \([0-9.]*\)\$/\1/p" "$tmp/members" | tail -n 3 | sort -n | sed -n 2p
	done
}

bench_accounts()
{
	local size few=0 first="" cost control
	for size in ${MEMBERS:-1000 100000}; do
		mapfile -t cost < <(accounts_of "$size" 1)
		if [ -z "$first" ]; then
			first="${cost[0]} ${cost[1]}"
			few=$size
		fi
		line "account of $size members: µs an entry in batches of 100, of 10" \
			"${cost[0]} ${cost[1]}" \
			"$(awk -v a="${cost[0]}" -v b="${cost[1]}" -v f="$first" 'BEGIN { split(f, x, " "); printf "%.2f and %.2f times the first", a / x[1], b / x[2] }')"
		[ "$size" -gt "$few" ] || continue
		mapfile -t control < <(accounts_of "$few" $((size / few)))
		line "$((size / few)) accounts of $few members: µs an entry in batches of 100, of 10" \
			"${control[0]} ${control[1]}" \
			"$(awk -v a="${control[0]}" -v b="${control[1]}" -v f="$first" 'BEGIN { split(f, x, " "); printf "%.2f and %.2f times the first", a / x[1], b / x[2] }')"
		line "of as many people: one account beside accounts of $few" \
			"$(awk -v a="${cost[0]}" -v b="${cost[1]}" -v c="${control[0]}" -v d="${control[1]}" 'BEGIN { printf "%.2f and %.2f times", a / c, b / d }')" "(1.5)"
	done
}
