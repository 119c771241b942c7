/* sql/collect/attach.sql: tables and views as sources of entries */

CREATE TABLE cdp.attachment_definitions (
	id int PRIMARY KEY,
	name text NOT NULL UNIQUE,
	relation text NOT NULL,
	source text NOT NULL UNIQUE,
	mapping jsonb NOT NULL,
	capture text NOT NULL,
	attached_by text NOT NULL,
	relation_owner text NOT NULL,
	attached_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	version bigint NOT NULL DEFAULT hashtextextended(gen_random_uuid()::text, 0),
	copy boolean NOT NULL DEFAULT true,
	incarnation int,
	position timestamptz,
	synchronised_at timestamptz,
	tried_at timestamptz,
	last_error text
);
COMMENT ON TABLE cdp.attachment_definitions IS 'attached relations, by name; see the view cdp.attachments';
COMMENT ON COLUMN cdp.attachment_definitions.version IS 'another one whenever the definition is another one, as name and id can be used again, also within a transaction';
COMMENT ON COLUMN cdp.attachment_definitions.copy IS 'whether payloads are copied into the log; else an entry has {"$row": key} and what it says is read from the row: see cdp.entry_properties';
COMMENT ON COLUMN cdp.attachment_definitions.incarnation IS 'of the log, when it was attached: what a restore brought waits for the log to be activated';
COMMENT ON COLUMN cdp.attachment_definitions.relation_owner IS 'whose the relation was: another one''s does not take its place';
COMMENT ON COLUMN cdp.attachment_definitions.position IS 'up to where the mapping''s cursor has been followed';
COMMENT ON COLUMN cdp.attachment_definitions.tried_at IS 'when cdp.sync_attachments() was at it last, with success or without';
COMMENT ON COLUMN cdp.attachment_definitions.last_error IS 'why cdp.sync_attachments() could not synchronise it; NULL when it could';

-- A row of it for each row that is attached: what has eight bytes comes first,
-- so that nothing is lost to alignment.
CREATE TABLE cdp.attached_rows (
	entry bigint NOT NULL,
	hash bigint NOT NULL,
	at timestamptz,
	attachment int,
	key bytea,
	PRIMARY KEY (attachment, key)
) WITH (fillfactor = 90);
COMMENT ON TABLE cdp.attached_rows IS 'rows of attached relations that are in the log';
COMMENT ON COLUMN cdp.attached_rows.entry IS 'the entry of the log that counts for the row';
COMMENT ON COLUMN cdp.attached_rows.hash IS '64 bits of MD5 of what the entry says and the version of the attachment: a row that says the same again is no change';
COMMENT ON COLUMN cdp.attached_rows.at IS 'the time of that entry, which its undo must not precede; NULL: no later than when it was logged';
COMMENT ON COLUMN cdp.attached_rows.key IS 'what tells the row apart: its length and up to 15 bytes, or MD5';

-- Numbers of relations and files mean nothing in another database: a load that
-- a restore brings begins anew (see incarnation), and logs nothing twice.
CREATE TABLE cdp.attachment_loads (
	attachment int PRIMARY KEY,
	incarnation int NOT NULL,
	leaf bigint NOT NULL DEFAULT 0,
	file bigint NOT NULL DEFAULT 0,
	block bigint NOT NULL DEFAULT 0,
	done bigint NOT NULL DEFAULT 0,
	blocks bigint NOT NULL DEFAULT 0,
	total_blocks bigint,
	requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	requested_by text NOT NULL,
	started_at timestamptz
);
COMMENT ON TABLE cdp.attachment_loads IS 'attached relations of which not all rows that were there have been logged; see cdp.progress';
COMMENT ON COLUMN cdp.attachment_loads.leaf IS 'table or partition that is being read, in the log''s incarnation';
COMMENT ON COLUMN cdp.attachment_loads.file IS 'its file: another one is read from its beginning';
COMMENT ON COLUMN cdp.attachment_loads.block IS 'the next block of it';
COMMENT ON COLUMN cdp.attachment_loads.done IS 'rows that have been mapped, or were put aside';
COMMENT ON COLUMN cdp.attachment_loads.total_blocks IS 'blocks that there were to read; NULL: not known';

CREATE TABLE cdp.unread_attachments (
	attachment int NOT NULL
);
COMMENT ON TABLE cdp.unread_attachments IS 'attachments that do not copy, of which the applier could not read rows that count: the next comparison logs all rows anew';

SELECT pg_extension_config_dump('cdp.attachment_definitions', '');
SELECT pg_extension_config_dump('cdp.unread_attachments', '');
SELECT pg_extension_config_dump('cdp.attached_rows', '');
SELECT pg_extension_config_dump('cdp.attachment_loads', '');

CREATE FUNCTION cdp.capture() RETURNS trigger
	AS 'MODULE_PATHNAME', 'cdp_capture' LANGUAGE C;
COMMENT ON FUNCTION cdp.capture() IS
	'trigger that cdp.attach() makes: logs what a statement did to an attached table. Does nothing on any other table';

CREATE FUNCTION cdp.attach(relation regclass, mapping jsonb, name text DEFAULT NULL, source text DEFAULT NULL,
		capture text DEFAULT NULL, load boolean DEFAULT true, copy boolean DEFAULT true)
	RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_attach' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.attach(regclass, jsonb, text, text, text, boolean, boolean) IS
	'make a table or view a source of entries: from now on the entries of its source that count are its rows. mapping: {"type": track, identify, page, screen or group; "event": name, or {"sql": expression}; "identifiers": {kind: expression or array of them}; "properties" or "traits": expression, list of columns or {name: expression}, default the whole row; "time": expression, default the time of the change; "key": expression or array of them, default the primary key; "filter": expression; "cursor": expression that grows with each change of a polled row; "overlap": interval by which such a row may come late}; expressions are SQL over the columns of the row r, evaluated with the rights of the caller, search_path pg_catalog and TimeZone UTC. name: of the attachment, default that of the relation; source: of its entries, default the name; capture: trigger (default for tables) or poll (default for views and foreign tables: see cdp.sync_attachments); load: log the rows that are there; the worker does it, in steps, when they are more than cdp.backfill_at_once, but for a view or foreign table without cursor (see cdp.progress); copy: copy payloads into the log; false leaves them in the rows, where they are read when they are needed, and is for tables with triggers and a primary key whose rows seldom change. Returns the name. Needs the rights to read the relation and to make triggers on it, and locks it against writing until the end of the transaction. Errors: duplicate_object, invalid_parameter_value, undefined_object, syntax_error, undefined_column, insufficient_privilege';
REVOKE EXECUTE ON FUNCTION cdp.attach(regclass, jsonb, text, text, text, boolean, boolean) FROM PUBLIC;

CREATE FUNCTION cdp.entry_properties(properties jsonb, source text, entry bigint)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'cdp_entry_properties' LANGUAGE C STABLE PARALLEL UNSAFE COST 10;
COMMENT ON FUNCTION cdp.entry_properties(jsonb, text, bigint) IS
	'internal: what an entry (its properties, source and id) says: its properties, or those of the row that they refer to, when its table is attached with copy => false; {} when the row does not say any more what was logged, or cannot be read';
REVOKE EXECUTE ON FUNCTION cdp.entry_properties(jsonb, text, bigint) FROM PUBLIC;

CREATE FUNCTION cdp.entries_properties(properties jsonb[], sources text[], entries bigint[])
	RETURNS TABLE (entry bigint, said jsonb)
	AS 'MODULE_PATHNAME', 'cdp_entries_properties' LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.entries_properties(jsonb[], text[], bigint[]) IS
	'internal: what cdp.entry_properties says of those of the entries that refer to rows; many rows are read at a time';
REVOKE EXECUTE ON FUNCTION cdp.entries_properties(jsonb[], text[], bigint[]) FROM PUBLIC;

CREATE FUNCTION cdp.referenced_properties(types text[] DEFAULT NULL, event text DEFAULT NULL)
	RETURNS TABLE (entry bigint, properties jsonb)
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	IF NOT EXISTS (SELECT FROM cdp.attachment_definitions d WHERE NOT d.copy) THEN
		RETURN;
	END IF;
	RETURN QUERY
	SELECT x.entry, x.said
	FROM (
		SELECT array_agg(e.properties) AS properties, array_agg(e.source) AS sources, array_agg(e.id) AS entries
		FROM cdp.events e
		WHERE e.source IN (SELECT d.source FROM cdp.attachment_definitions d WHERE NOT d.copy)
		  AND e.properties ? '$row' AND ($1 IS NULL OR e.type = ANY ($1)) AND ($2 IS NULL OR e.event = $2)
		GROUP BY e.id / 100000) a -- an array has its limits
	CROSS JOIN LATERAL cdp.entries_properties(a.properties, a.sources, a.entries) x;
END
$$;
COMMENT ON FUNCTION cdp.referenced_properties(text[], text) IS
	'internal: what all entries of the log say that refer to rows (of these types, of this event)';
REVOKE EXECUTE ON FUNCTION cdp.referenced_properties(text[], text) FROM PUBLIC;

-- For the event catalog: keys only, of rows that its reader need not have any right to.
CREATE FUNCTION cdp.referenced_keys()
	RETURNS TABLE (type text, event text, source text, key text)
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY
	SELECT DISTINCT e.type, e.event, COALESCE(e.source, ''), k.key
	FROM cdp.referenced_properties('{track,page,screen}') r
	JOIN cdp.events e ON e.id = r.entry
	CROSS JOIN LATERAL jsonb_object_keys(r.properties) k(key);
END
$$;
COMMENT ON FUNCTION cdp.referenced_keys() IS
	'internal: the property keys of events whose table is attached with copy => false, as their rows are now';
REVOKE EXECUTE ON FUNCTION cdp.referenced_keys() FROM PUBLIC;

CREATE FUNCTION cdp.drop_attachment(name text, retract boolean DEFAULT false)
	RETURNS bigint
	AS 'MODULE_PATHNAME', 'cdp_drop_attachment' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.drop_attachment(text, boolean) IS
	'end an attachment: its triggers go, and what the extension knows of its rows; what was logged stays, or with retract does not count any more. Returns how many entries were retracted. Needs the rights of the role that attached the relation. Errors: undefined_object, insufficient_privilege';
REVOKE EXECUTE ON FUNCTION cdp.drop_attachment(text, boolean) FROM PUBLIC;

CREATE FUNCTION cdp.sync_attachment(name text, OUT logged bigint, OUT retracted bigint, OUT rejected bigint)
	AS 'MODULE_PATHNAME', 'cdp_sync_attachment' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.sync_attachment(text) IS
	'compare the rows of an attached relation with what the log says of them and log the difference: rows that are new or other (logged; the entry before is retracted), rows that are gone (retracted; not looked for when the mapping has a cursor). Makes triggers that are missing, as after a rename-swap. Errors: undefined_object, undefined_table, insufficient_privilege, and when the mapping does not fit the relation any more what each row would raise, as undefined_column';
REVOKE EXECUTE ON FUNCTION cdp.sync_attachment(text) FROM PUBLIC;

CREATE FUNCTION cdp.attachment_fault(name text) RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_attachment_fault' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.attachment_fault(text) IS
	'internal: why the mapping of an attachment does not fit its relation as that is now: the message of the error that each row would raise. NULL: it fits, or that cannot be told: there is no such attachment, relation or role, or somebody has locked the relation, or the error says nothing of the mapping';
REVOKE EXECUTE ON FUNCTION cdp.attachment_fault(text) FROM PUBLIC;

CREATE FUNCTION cdp.load_attachment(name text, rows int, OUT logged bigint, OUT finished boolean)
	AS 'MODULE_PATHNAME', 'cdp_load_attachment' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.load_attachment(text, int) IS
	'internal: log about so many of the rows that an attached relation had, as cdp.load_attachments does; whether all have been logged';
REVOKE EXECUTE ON FUNCTION cdp.load_attachment(text, int) FROM PUBLIC;

CREATE VIEW cdp.attachments AS
	SELECT d.name, d.relation, d.source, d.mapping, d.capture, d.attached_by, d.attached_at, d.synchronised_at,
		   CASE
		   WHEN to_regclass(d.relation) IS NULL THEN 'relation does not exist'
		   WHEN d.relation_owner <> (SELECT pg_catalog.pg_get_userbyid(c.relowner) FROM pg_catalog.pg_class c
									 WHERE c.oid = to_regclass(d.relation)) THEN 'relation has another owner'
		   WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_roles u WHERE u.rolname = d.attached_by)
				THEN 'role does not exist'
		   WHEN d.capture = 'trigger' AND (
				SELECT count(*) < 4 FROM pg_catalog.pg_trigger t
				WHERE t.tgrelid = to_regclass(d.relation)
				  AND t.tgfoid = 'cdp.capture()'::regprocedure AND t.tgenabled <> 'D'
				  AND t.tgargs = convert_to(d.name, getdatabaseencoding()::name) || '\000'::bytea)
				THEN 'triggers are missing'
		   WHEN d.last_error IS NULL AND EXISTS (SELECT FROM cdp.unread_attachments n WHERE n.attachment = d.id)
				THEN 'rows could not be read'
		   WHEN d.last_error IS NULL AND EXISTS (SELECT FROM cdp.attachment_loads l WHERE l.attachment = d.id)
				THEN 'being loaded'
		   ELSE COALESCE(d.last_error, 'ok') END AS status
	FROM cdp.attachment_definitions d;
COMMENT ON VIEW cdp.attachments IS 'attached relations; a status other than ok and being loaded is mended by cdp.sync_attachment(), which says what is in the way, or by cdp.drop_attachment(); that the mapping does not fit the relation any more is said by cdp.check()';

-- Each in a subtransaction of its own: one that cannot be synchronised stops
-- no other.  What the worker calls must not wait for somebody's transaction.
CREATE FUNCTION cdp.sync_attachments(due boolean DEFAULT false, since timestamptz DEFAULT NULL)
	RETURNS TABLE (name text, logged bigint, retracted bigint, rejected bigint, error text)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	one text;
	locks boolean;
	turn text;
	timeout constant text := current_setting('lock_timeout');
BEGIN
	IF due THEN
		PERFORM set_config('lock_timeout', '1s', true);
	END IF;
	-- those that are not polled come last, as it takes a while to ask which of them are due
	<<turns>>
	FOREACH turn IN ARRAY CASE WHEN due THEN '{poll,trigger}' ELSE '{all}' END::text[] LOOP
		FOR one, locks IN
			SELECT a.name, a.capture = 'trigger' FROM cdp.attachments a
			JOIN cdp.attachment_definitions d ON d.name = a.name
			WHERE NOT due OR (a.capture = turn
				AND (since IS NULL OR greatest(d.synchronised_at, d.tried_at) < since
					OR COALESCE(d.synchronised_at, d.tried_at) IS NULL)
				-- what is being loaded is compared by the load, if need be
				AND NOT EXISTS (SELECT FROM cdp.attachment_loads l WHERE l.attachment = d.id)
				-- not amid a restore, when the rows may not be there yet
				AND EXISTS (SELECT FROM cdp.incarnation i
					WHERE i.id = d.incarnation OR EXISTS (SELECT FROM cdp.cursors c WHERE c.incarnation = i.id))
				AND (turn = 'poll' OR a.status <> 'ok' OR cdp.attachment_fault(a.name) IS NOT NULL))
			ORDER BY CASE WHEN due THEN greatest(d.synchronised_at, d.tried_at) END NULLS FIRST, a.name
		LOOP
			IF due THEN
				-- somebody compares, loads or drops it
				PERFORM FROM cdp.attachment_definitions d WHERE d.name = one FOR UPDATE SKIP LOCKED;
				CONTINUE WHEN NOT FOUND;
			END IF;
			name := one;
			error := NULL;
			BEGIN
				SELECT s.logged, s.retracted, s.rejected INTO logged, retracted, rejected
				FROM cdp.sync_attachment(one) s;
			EXCEPTION WHEN OTHERS THEN
				logged := 0;
				retracted := 0;
				rejected := 0;
				error := SQLERRM;
			END;
			UPDATE cdp.attachment_definitions d
			SET synchronised_at = CASE WHEN error IS NULL THEN clock_timestamp() ELSE d.synchronised_at END,
				tried_at = clock_timestamp(),
				last_error = error
			WHERE d.name = one;
			RETURN NEXT;
			-- locks of several tables would get in the way of who writes to several
			EXIT turns WHEN due AND (CASE WHEN locks THEN error IS NULL ELSE since IS NOT NULL END);
		END LOOP;
	END LOOP;
	PERFORM set_config('lock_timeout', timeout, true);
END
$$;
COMMENT ON FUNCTION cdp.sync_attachments(boolean, timestamptz) IS
	'synchronise every attached relation, or those that are due: views and others without triggers, and those that are not ok, but none that a restore brought before its log is activated. One row each, as of cdp.sync_attachment, with the message of the error that kept it from it, which the view cdp.attachments shows too. Of relations with triggers, which are locked against writing until the transaction ends, a call takes one when due; since: of those that are due and have not been tried since then, one that is polled or one that can be mended, so that each has a transaction of its own. The worker does it for those that are due every cdp.sync_interval';
REVOKE EXECUTE ON FUNCTION cdp.sync_attachments(boolean, timestamptz) FROM PUBLIC;

CREATE FUNCTION cdp.load_attachments(rows int DEFAULT 10000, due boolean DEFAULT false)
	RETURNS TABLE (name text, logged bigint, finished boolean, error text)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	one text;
	timeout constant text := current_setting('lock_timeout');
BEGIN
	IF due THEN
		PERFORM set_config('lock_timeout', '1s', true);
	END IF;
	FOR one IN
		SELECT d.name FROM cdp.attachment_loads l
		JOIN cdp.attachment_definitions d ON d.id = l.attachment
		WHERE NOT due OR EXISTS (SELECT FROM cdp.incarnation i
			WHERE i.id = d.incarnation OR EXISTS (SELECT FROM cdp.cursors c WHERE c.incarnation = i.id))
		ORDER BY d.name
	LOOP
		name := one;
		error := NULL;
		BEGIN
			SELECT l.logged, l.finished INTO logged, finished
			FROM cdp.load_attachment(one, rows) l;
		EXCEPTION WHEN OTHERS THEN
			logged := 0;
			finished := false;
			error := SQLERRM;
		END;
		UPDATE cdp.attachment_definitions d
		SET synchronised_at = CASE WHEN finished THEN clock_timestamp() ELSE d.synchronised_at END,
			last_error = error
		WHERE d.name = one AND (finished OR d.last_error IS DISTINCT FROM error);
		RETURN NEXT;
		-- locks of several tables would get in the way of who writes to several
		EXIT WHEN due AND error IS NULL;
	END LOOP;
	PERFORM set_config('lock_timeout', timeout, true);
END
$$;
COMMENT ON FUNCTION cdp.load_attachments(int, boolean) IS
	'a step of every attached relation whose rows are being loaded: log about so many of the rows that it had when it was attached; its table, or the partition of it that is being read, is locked against writing until the transaction ends. One row each: how many were logged, whether all have been, and the message of the error that kept it from it. No row: nothing is being loaded. The worker makes such steps by itself; due: of one of them, none of a restored log that is not activated, and no waiting for locks';
REVOKE EXECUTE ON FUNCTION cdp.load_attachments(int, boolean) FROM PUBLIC;
