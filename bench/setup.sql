-- bench/setup.sql: what every benchmark's database has.
CREATE EXTENSION cdp;
CREATE SCHEMA bench;

-- CPU seconds (user and system) of a process, this backend by default.
CREATE FUNCTION bench.cpu(pid int DEFAULT pg_backend_pid()) RETURNS numeric
LANGUAGE sql VOLATILE AS $$
	SELECT round((f[12]::numeric + f[13]::numeric) / 100, 2)
	FROM string_to_array(substring(pg_read_file('/proc/' || pid || '/stat') FROM '\) (.*)'), ' ') f
$$;

-- The rival of the log: same columns, types and indexes, nothing else.
CREATE SEQUENCE bench.plain_id_seq;
CREATE TABLE bench.plain (LIKE cdp.events);
ALTER TABLE bench.plain
	ALTER id SET DEFAULT nextval('bench.plain_id_seq'),
	ALTER source SET DEFAULT 'sql',
	ALTER type SET DEFAULT 'track',
	ALTER identifiers SET DEFAULT '{}',
	ALTER occurred_at SET DEFAULT now(),
	ALTER received_at SET DEFAULT now(),
	ALTER xid SET DEFAULT 1,
	ALTER incarnation SET DEFAULT 1;
DO $$
DECLARE
	def text;
BEGIN
	FOR def IN SELECT pg_get_indexdef(indexrelid) FROM pg_index
			   WHERE indrelid = 'cdp.events_default'::regclass
	LOOP
		EXECUTE regexp_replace(def, ' INDEX \S+ ON (ONLY )?cdp\.events_default ', ' INDEX ON bench.plain ');
	END LOOP;
END $$;
