# bench/capture.sh: what capturing the changes of an attached table costs: bulk
# INSERT, UPDATE and COPY without triggers, with those of cdp.attach(), and with
# a row trigger in PL/pgSQL that writes an entry for each row.
#
# shellcheck shell=bash
# shellcheck disable=SC2154

# rows of a change: a tenth of the stream, so that the slow rival ends
capture_rows=${CAPTURE_ROWS:-$((events / 10))}

# capture_table VARIANT: an empty table, attached in that way
capture_table()
{
	sql bench_capture <<-EOT
		SELECT cdp.drop_attachment(name) FROM cdp.attachments;
		DROP TABLE IF EXISTS sales;
		CREATE TABLE sales (id int PRIMARY KEY, who int, total numeric, at timestamptz);
		TRUNCATE cdp.events;
	EOT
	case $1 in
	attached)
		sql bench_capture <<-'EOT'
			SELECT cdp.attach('sales', '{"event": "Sale", "identifiers": {"user_id": "who"}, "time": "at", "properties": ["total"]}');
		EOT
		;;
	rival)
		sql bench_capture <<-'EOT'
			CREATE OR REPLACE FUNCTION capture_row() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN
				IF TG_OP = 'UPDATE' THEN
					PERFORM cdp.retract('sale-' || OLD.id || '-' || OLD.total, 'sales');
				END IF;
				PERFORM cdp.track('Sale', jsonb_build_object('total', NEW.total), user_id => NEW.who,
					occurred_at => NEW.at, message_id => 'sale-' || NEW.id || '-' || NEW.total, source => 'sales');
				RETURN NULL;
			END $$;
			CREATE TRIGGER capture AFTER INSERT OR UPDATE ON sales FOR EACH ROW EXECUTE FUNCTION capture_row();
		EOT
		;;
	esac
}

# capture_size VARIANT COPY: rows with a payload of some 300 bytes, and what they take
capture_size()
{
	sql bench_capture >/dev/null <<-EOT
		SELECT cdp.drop_attachment(name, retract => true) FROM cdp.attachments;
		DROP TABLE IF EXISTS sales, wide;
		TRUNCATE cdp.events;
		CREATE TABLE wide (id int PRIMARY KEY, who int, note text, at timestamptz);
		SELECT cdp.attach('wide', '{"event": "Sale", "identifiers": {"user_id": "who"}, "time": "at"}', copy => $2);
		INSERT INTO wide SELECT g, g % 10007, (SELECT string_agg(md5((g * 10 + i)::text), '') FROM generate_series(1, 8) i),
			'2026-04-01'::timestamptz + g * interval '1 second' FROM generate_series(1, $capture_rows) g;
		VACUUM FULL cdp.attached_rows;
	EOT
	bytes capture_disk "$1" 1 bench_capture "pg_total_relation_size('cdp.events_default') + pg_total_relation_size('cdp.attached_rows')"
}

bench_capture()
{
	local run variant
	fresh bench_capture
	sql bench_capture >"$tmp/pg/sales" <<-EOT
		COPY (SELECT g, g % 10007, g % 100, '2026-04-01'::timestamptz + g * interval '1 second' FROM generate_series(1, $capture_rows) g) TO STDOUT;
	EOT
	chmod a+r "$tmp/pg/sales"
	for ((run = 1; run <= runs; run++)); do
		for variant in plain attached rival; do
			capture_table "$variant" >/dev/null
			measure capture_insert "$variant" "$run" bench_capture <<-EOT
				INSERT INTO sales SELECT g, g % 10007, g % 100, '2026-04-01'::timestamptz + g * interval '1 second' FROM generate_series(1, $capture_rows) g;
			EOT
			measure capture_update "$variant" "$run" bench_capture <<<"UPDATE sales SET total = total + 1;"
			capture_table "$variant" >/dev/null
			measure capture_copy "$variant" "$run" bench_capture <<<"COPY sales FROM '$tmp/pg/sales';"
		done
	done
	local what
	for what in insert update copy; do
		line "capture of a bulk ${what^^}: cost, of the statement without trigger ($(median capture_$what plain cpu "$capture_rows") a row)" \
			"$(ratio capture_$what attached plain)" "no goal: stated"
		line "capture of a bulk ${what^^}: a PL/pgSQL row trigger's cost, of ours" \
			"$(ratio capture_$what rival attached)" "goal: at least 5"
	done
	capture_size copied true
	capture_size referred false
	line "an attached row with a payload of 300 bytes: bytes in log and row keys, payload copied" \
		"$(capture_each copied)" ""
	line "the same with copy => false" "$(capture_each referred)" "goal: 64 plus identifiers"
}

capture_each()
{
	awk -v a="$1" -v n="$capture_rows" '$1 == "capture_disk" && $2 == a { printf "%.0f", $4 / n }' "$results"
}
