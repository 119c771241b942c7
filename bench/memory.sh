# bench/memory.sh: what the applier holds in memory over a long log.
#
#   MEMORY=2000000     entries; a sample after each tenth
#
# shellcheck shell=bash

bench_memory()
{
	local n=${MEMORY:-2000000}
	fresh bench_memory
	sql bench_memory >/dev/null <<-EOT
		SET client_min_messages = warning;
		SELECT cdp.create_trait('orders', aggregate => 'count', event => 'Order');
		SELECT cdp.create_trait('spent_7d', aggregate => 'sum', value => \$\$(properties->>'x')::numeric\$\$, event => 'Order', within => '7 days');
		SELECT cdp.create_trait('common', aggregate => 'most_frequent', value => \$\$properties->>'p'\$\$, within => '30 days');
		SELECT cdp.create_trait('half', expression => 'orders / 2');
		SELECT cdp.create_segment('busy', \$\$orders > 3 AND did('View', within => '3 days')\$\$);
		-- people come, stay for a while, and go; one of a thousand entries is somebody's who does much; some people turn out to be one
		CREATE PROCEDURE bench.memory(upto int, step int) LANGUAGE plpgsql AS \$\$
		DECLARE
			i int := 1;
			sample text;
		BEGIN
			WHILE i <= upto LOOP
				PERFORM set_config('cdp.now', (timestamptz '2026-05-01' + (i + step) * interval '1 s')::text, false);
				INSERT INTO cdp.events (event, identifiers, properties, occurred_at)
				SELECT CASE WHEN g % 3 = 0 THEN 'Order' ELSE 'View' END,
					CASE WHEN g % 1000 = 0 THEN ARRAY['user_id:busy']
						WHEN g % 50 = 0 THEN ARRAY['user_id:u' || g / 5, 'email:e' || g / 7 || '@example.com']
						ELSE ARRAY['user_id:u' || (g / 5 + (hashint4(g) & 4095))] END::cdp.identifier[],
					CASE WHEN g % 997 = 0 THEN '{"x": "none"}' ELSE jsonb_build_object('x', g % 977, 'p', 'p' || g % 89) END,
					timestamptz '2026-05-01' + g * interval '1 s' - (CASE WHEN g % 20 = 0 THEN hashint4(g) & 65535 ELSE 0 END) * interval '1 s'
				FROM generate_series(i, least(i + step - 1, upto)) g;
				COMMIT;
				PERFORM cdp.apply();
				COMMIT;
				IF (i / step + 1) % greatest(upto / step / 10, 1) = 0 THEN
					SELECT pg_size_pretty(sum(m.total_bytes)) || '; ' || (SELECT string_agg(t.name || ' ' || pg_size_pretty(t.bytes), ', ')
						FROM (SELECT m.name, sum(m.total_bytes) AS bytes FROM pg_backend_memory_contexts m GROUP BY 1 ORDER BY 2 DESC LIMIT 4) t)
					INTO sample FROM pg_backend_memory_contexts m;
					RAISE NOTICE 'memory % %', i + step - 1, sample;
				END IF;
				i := i + step;
			END LOOP;
		END
		\$\$;
	EOT
	echo "CALL bench.memory($n, 10000);" |
		PGOPTIONS="-c client_min_messages=notice" psql -Xq -v ON_ERROR_STOP=1 -d bench_memory 2>&1 |
		sed -un 's/^.*memory \([0-9]*\) \(.*\)$/\1 entries: \2/p' | while IFS= read -r one; do
		echo "memory contexts of who applies, $one"
	done | tee -a "$report"
}
