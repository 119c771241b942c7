# bench/plans.sh: what 20 tracking plans cost: the log, and its application, with
# plans of mode allow and quarantine, against none.
#
# shellcheck shell=bash

# plan_script MODE: seven plans for all that the stream has, 13 for what it has not
plan_script()
{
	local i viewed='{"type": "object", "required": ["sku", "price"], "properties": {
		"sku": {"type": "string", "pattern": "^P-[0-9]+$", "maxLength": 20}, "price": {"type": "number", "minimum": 0},
		"category": {"enum": ["tents", "stoves", "bags", "boots", "maps"]}, "tier": {"enum": ["premium", "basic"]}}}'
	local order='{"type": "object", "required": ["order_id", "revenue", "currency"], "properties": {
		"order_id": {"type": "string", "minLength": 1}, "revenue": {"type": "number", "minimum": 0, "maximum": 100000},
		"currency": {"pattern": "^[A-Z]{3}$"}, "products": {"type": "integer", "minimum": 1}}}'
	local identify='{"properties": {"plan": {"enum": ["free", "plus"]}, "country": {"type": "string", "minLength": 2, "maxLength": 2}}}'
	# received when the clock stands still
	echo "SELECT cdp.tracking_plan(e, '$viewed', '$1', retroactive => true) FROM unnest('{Logged In,Product Added,Product Viewed}'::text[]) e;
		SELECT cdp.tracking_plan('Order Completed', '$order', '$1', retroactive => true);
		SELECT cdp.tracking_plan('Home', '$viewed', '$1', 'page', retroactive => true);
		SELECT cdp.tracking_plan(NULL, '$identify', '$1', 'identify', retroactive => true);
		SELECT cdp.tracking_plan(NULL, '$identify', '$1', 'group', retroactive => true);"
	for ((i = 1; i <= 13; i++)); do
		echo "SELECT cdp.tracking_plan('Other $i', '$order', '$1', retroactive => true);"
	done
}

bench_plans()
{
	local run mode wrong modes=(none allow quarantine)
	for mode in "${modes[@]}"; do
		fresh "bench_plans_$mode"
		sql "bench_plans_$mode" <"$work/bench/definitions.sql" >/dev/null
		[ "$mode" = none ] || plan_script "$mode" | sql "bench_plans_$mode" >/dev/null
	done
	for ((run = 1; run <= runs; run++)); do
		# each goes first in turn
		for mode in "${modes[@]:run % 3}" "${modes[@]:0:run % 3}"; do
			fresh bench_plans "bench_plans_$mode"
			measure plans "log_$mode" "$run" bench_plans <<<"COPY cdp.events ($columns) FROM '$stream';"
			apply_script 10000 | measure plans "apply_$mode" "$run" bench_plans
			wrong=$(sql bench_plans <<<"SELECT coalesce(sum(judged), 0) || ' judged, ' || coalesce(sum(violating), 0) || ' violating' FROM cdp.stat_plans")
			[ -z "${VERBOSE:-}" ] || echo "# $mode: $wrong" >&2
		done
	done
	for mode in allow quarantine; do
		line "20 tracking plans ($mode): rate of the log, of that without" \
			"$(ratio plans "log_$mode" log_none cpu inverse)" "goal: at least 0.9"
		line "20 tracking plans ($mode), batches of 10000: rate of apply, of that without ($(median plans "apply_$mode" cpu "$events") an event)" \
			"$(ratio plans "apply_$mode" apply_none cpu inverse)" ""
	done
}
