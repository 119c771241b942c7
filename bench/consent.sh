# bench/consent.sh: what purposes cost when entries are applied, those that say
# nothing of consent and those whose context does each time, as libraries send it.
# CONSENT_PROFILES profiles (20000), CONSENT_EVENTS events a run (20000).
#
# shellcheck shell=bash

# consent_events SEED N PROFILES CONTEXT
consent_events()
{
	cat <<-EOT
		SELECT setseed($1 / 1000.0);
		INSERT INTO cdp.events (event, identifiers, properties, context)
		SELECT 'E', ARRAY[('user_id:u' || p)::cdp.identifier, ('anonymous_id:a' || p)::cdp.identifier], '{"n": 1}', $4
		FROM (SELECT 1 + (random() * ($3 - 1))::int AS p, random() AS r FROM generate_series(1, $2)) x;
	EOT
}

bench_consent()
{
	local run profiles=${CONSENT_PROFILES:-20000} n=${CONSENT_EVENTS:-20000} variant
	local plain="'{\"library\": {\"name\": \"x\"}, \"categories\": {\"Advertising\": true, \"Analytics\": false, \"Functional\": true, \"Other\": true}}'"
	local said="jsonb_build_object('library', '{\"name\": \"x\"}'::jsonb, 'consent', jsonb_build_object('categoryPreferences', jsonb_build_object('Advertising', r < 0.9, 'Analytics', r < 0.5, 'Functional', true, 'Other', true)))"
	fresh bench_consent_none
	{
		echo "SELECT cdp.create_trait('n', aggregate => 'sum', event => 'E', value => \$\$(properties->>'n')::numeric\$\$);"
		echo "SELECT cdp.create_segment('many', 'n > 5');"
		consent_events 0 "$((2 * profiles))" "$profiles" "$plain"
		echo "SELECT cdp.apply(); VACUUM ANALYZE;"
	} | sql bench_consent_none >/dev/null
	fresh bench_consent_asked bench_consent_none
	# not the segment's: who is no member any more would cost nothing
	sql bench_consent_asked <<<"SELECT cdp.create_purpose(x) FROM unnest('{advertising,analytics,functional}'::text[]) x;" >/dev/null
	fresh bench_consent_said bench_consent_asked
	for variant in none asked said; do
		psql -Xq -d "bench_consent_$variant" -c "VACUUM ANALYZE" -c CHECKPOINT
	done
	for ((run = 1; run <= runs; run++)); do
		for variant in none asked said; do
			measure consent "$variant" "$run" "bench_consent_$variant" "$(
				consent_events "$run" 1 "$profiles" "$plain"
				echo "SELECT cdp.apply();"
				consent_events "$run" "$n" "$profiles" "$([ "$variant" = said ] && echo "$said" || echo "$plain")"
			)" <<<"SELECT cdp.apply();"
		done
	done
	line "apply with 3 purposes, of that without; no entry says anything" "$(ratio consent asked none)" "-"
	line "the same, each entry says what 4 categories are" "$(ratio consent said none)" "-"
}
