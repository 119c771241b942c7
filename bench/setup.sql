-- bench/setup.sql: what every benchmark's database has.
CREATE EXTENSION cdp;
CREATE SCHEMA bench;

-- CPU seconds (user and system) of a process, this backend by default; /proc/<pid>/stat
-- has hundredths of a second only.
CREATE FUNCTION bench.cpu(pid int DEFAULT pg_backend_pid()) RETURNS numeric
LANGUAGE sql VOLATILE AS $$
	SELECT round(split_part(pg_read_file('/proc/' || pid || '/schedstat'), ' ', 1)::numeric / 1e9, 4)
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
