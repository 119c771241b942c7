/* sql/trust/audit.sql: who changed what, append-only and chained by hashes */

-- Two tables, as whoever acts must not wait for who acts beside him: an entry
-- is inserted by its transaction, and sealed, that is numbered and chained to
-- the one before it, by the applier once that transaction has committed.
CREATE TABLE cdp.audit_entries (
	id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
	at timestamptz NOT NULL DEFAULT clock_timestamp(),
	who text NOT NULL DEFAULT session_user,
	role text NOT NULL DEFAULT current_setting('role'),
	action text NOT NULL,
	object text,
	detail jsonb NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE cdp.audit_entries IS 'what was done to rules, definitions and people''s data, and by whom; see the view cdp.audit';
COMMENT ON COLUMN cdp.audit_entries.who IS 'the role that logged in; of an entry of the log its author, or its source when it names none';
COMMENT ON COLUMN cdp.audit_entries.role IS 'the role that it had set by then, or none';

CREATE TABLE cdp.audit_unsealed (id uuid PRIMARY KEY);
COMMENT ON TABLE cdp.audit_unsealed IS 'entries of cdp.audit_entries that cdp.audit_seal() has not chained yet';

CREATE TABLE cdp.audit_seals (
	seq bigint PRIMARY KEY,
	id uuid NOT NULL UNIQUE,
	hash bytea NOT NULL
);
COMMENT ON TABLE cdp.audit_seals IS 'the chain: the hash of an entry of the audit and of the hash before it';

CREATE FUNCTION cdp.audit_refuse() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE EXCEPTION 'the audit is append-only' USING ERRCODE = 'insufficient_privilege',
		DETAIL = format('%s of "cdp.%s" is refused.', TG_OP, TG_TABLE_NAME);
END;
$$;
COMMENT ON FUNCTION cdp.audit_refuse() IS 'internal: trigger that refuses to change the audit';
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON cdp.audit_entries
	FOR EACH STATEMENT EXECUTE FUNCTION cdp.audit_refuse();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON cdp.audit_seals
	FOR EACH STATEMENT EXECUTE FUNCTION cdp.audit_refuse();

CREATE VIEW cdp.audit AS
	SELECT s.seq, e.at, e.who, e.role, e.action, e.object, e.detail, e.id, s.hash
	FROM cdp.audit_entries e LEFT JOIN cdp.audit_seals s USING (id);
COMMENT ON VIEW cdp.audit IS 'who changed which rule, definition, identity or right, and whose data was exported or erased; seq is NULL until the applier has sealed the entry';
COMMENT ON COLUMN cdp.audit.seq IS 'number in the chain, without gaps';
COMMENT ON COLUMN cdp.audit.hash IS 'SHA-256 of the hash before it and of the entry';

CREATE FUNCTION cdp.audit_record(action text, object text, detail jsonb DEFAULT '{}') RETURNS void
	AS 'MODULE_PATHNAME', 'cdp_audit_record' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.audit_record(text, text, jsonb) IS
	'internal: note what the session does to an object in the audit; detail must not hold personal values. The applier is woken at commit to seal it';

-- What was changed: the columns that differ, before and after.  Arguments: the
-- kind of object, the column with its name, and columns that are no news.
CREATE FUNCTION cdp.audit_definition() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	was jsonb := '{}';
	is_ jsonb := '{}';
	silent text[] := TG_ARGV[2:];
BEGIN
	IF TG_OP <> 'INSERT' THEN
		was := jsonb_strip_nulls(to_jsonb(OLD));
	END IF;
	IF TG_OP <> 'DELETE' THEN
		is_ := jsonb_strip_nulls(to_jsonb(NEW));
	END IF;
	IF was - silent = is_ - silent THEN
		RETURN NULL;
	END IF;
	PERFORM cdp.audit_record(
		CASE TG_OP WHEN 'INSERT' THEN 'create ' WHEN 'UPDATE' THEN 'alter ' ELSE 'drop ' END || TG_ARGV[0],
		(was || is_) ->> TG_ARGV[1],
		(SELECT coalesce(jsonb_object_agg(k, CASE TG_OP
				WHEN 'INSERT' THEN is_ -> k
				WHEN 'DELETE' THEN was -> k
				ELSE jsonb_build_object('before', was -> k, 'after', is_ -> k) END), '{}')
			FROM jsonb_object_keys((was || is_) - silent) k
			WHERE (was -> k) IS DISTINCT FROM (is_ -> k)));
	RETURN NULL;
END;
$$;
COMMENT ON FUNCTION cdp.audit_definition() IS 'internal: trigger that notes changes of definitions in the audit';

CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON cdp.kind_definitions
	FOR EACH ROW EXECUTE FUNCTION cdp.audit_definition('identifier kind', 'kind');
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON cdp.domain_accounts
	FOR EACH ROW EXECUTE FUNCTION cdp.audit_definition('accounts by domain', 'kind', 'one');
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON cdp.free_mail_definitions
	FOR EACH ROW EXECUTE FUNCTION cdp.audit_definition('free mail domain', 'domain');
CREATE TRIGGER audit_insert AFTER INSERT ON cdp.trait_definitions
	FOR EACH ROW WHEN (NOT NEW.hidden) EXECUTE FUNCTION cdp.audit_definition('trait', 'name', 'value_sql', 'filter_sql');
CREATE TRIGGER audit_update AFTER UPDATE ON cdp.trait_definitions
	FOR EACH ROW WHEN (NOT NEW.hidden) EXECUTE FUNCTION cdp.audit_definition('trait', 'name', 'value_sql', 'filter_sql');
CREATE TRIGGER audit_delete AFTER DELETE ON cdp.trait_definitions
	FOR EACH ROW WHEN (NOT OLD.hidden) EXECUTE FUNCTION cdp.audit_definition('trait', 'name', 'value_sql', 'filter_sql');
CREATE TRIGGER audit_insert AFTER INSERT ON cdp.segment_definitions
	FOR EACH ROW WHEN (NOT NEW.hidden) EXECUTE FUNCTION cdp.audit_definition('segment', 'name',
		'terms', 'trait_ids', 'trait_names', 'segment_ids', 'channel', 'altered_at', 'hidden');
CREATE TRIGGER audit_update AFTER UPDATE ON cdp.segment_definitions
	FOR EACH ROW WHEN (NOT NEW.hidden) EXECUTE FUNCTION cdp.audit_definition('segment', 'name',
		'terms', 'trait_ids', 'trait_names', 'segment_ids', 'channel', 'altered_at', 'hidden');
CREATE TRIGGER audit_delete AFTER DELETE ON cdp.segment_definitions
	FOR EACH ROW WHEN (NOT OLD.hidden) EXECUTE FUNCTION cdp.audit_definition('segment', 'name',
		'terms', 'trait_ids', 'trait_names', 'segment_ids', 'channel', 'altered_at', 'hidden');
CREATE TRIGGER audit AFTER INSERT OR UPDATE OF name, relation, source, mapping, capture, attached_by OR DELETE
	ON cdp.attachment_definitions
	FOR EACH ROW EXECUTE FUNCTION cdp.audit_definition('attachment', 'name',
		'version', 'position', 'synchronised_at', 'tried_at', 'last_error', 'incarnation');
-- not the positions, which every consumer moves
CREATE TRIGGER audit AFTER INSERT
	OR UPDATE OF filter, include, mode, format, visibility, max_tries, backoff, paused_at OR DELETE
	ON cdp.subscriptions
	FOR EACH ROW EXECUTE FUNCTION cdp.audit_definition('subscription', 'name',
		'epoch', 'acked_seq', 'last_poll_at', 'segments', 'traits', 'kinds', 'entities', 'causes', 'first_entry', 'max_age');

-- Decisions are entries of the log; the applier notes those that a batch took.
CREATE FUNCTION cdp.audit_decisions(entries bigint[], xids bigint[]) RETURNS bigint
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	WITH noted AS (
		INSERT INTO cdp.audit_entries (who, role, action, object, detail)
		SELECT coalesce(e.properties ->> 'author', e.source, ''), 'none', e.type, coalesce(e.message_id, '#' || e.id),
			jsonb_strip_nulls(jsonb_build_object('entry', e.id, 'source', e.source, 'logged_at', e.received_at,
				'undone', CASE WHEN e.type IN ('undo', 'release') THEN e.properties ->> 'entry' END))
		-- the log has no index by number alone
		FROM (SELECT unnest(entries) AS id, unnest(xids) AS xid) u
		CROSS JOIN LATERAL (SELECT * FROM cdp.events e WHERE e.xid = u.xid AND e.id = u.id OFFSET 0) e
		RETURNING id
	)
	INSERT INTO cdp.audit_unsealed SELECT id FROM noted;
	RETURN cdp.audit_seal();
END;
$$;
COMMENT ON FUNCTION cdp.audit_decisions(bigint[], bigint[]) IS 'internal: note merges, splits and other decisions, entries of the log by number and transaction, in the audit, and seal it';

-- What is hashed of an entry: everything, as the text of a jsonb array, which
-- is the same on all machines and versions.
CREATE FUNCTION cdp.audit_hash(before bytea, seq bigint, entry cdp.audit_entries) RETURNS bytea
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN sha256(before || convert_to(jsonb_build_array(seq, (entry).id,
	extract(epoch FROM (entry).at), (entry).who, (entry).role, (entry).action, (entry).object,
	(entry).detail)::text, 'UTF8'));
COMMENT ON FUNCTION cdp.audit_hash(bytea, bigint, cdp.audit_entries) IS
	'the hash that seals an entry: SHA-256 of the hash before it (32 zero bytes for the first) and of the UTF-8 text of the jsonb array of seq, id, at in seconds since 1970, who, role, action, object and detail';

CREATE FUNCTION cdp.audit_seal() RETURNS bigint
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	entry cdp.audit_entries;
	last bigint;
	chained bytea;
	sealed bigint := 0;
BEGIN
	LOCK TABLE cdp.audit_seals IN SHARE ROW EXCLUSIVE MODE;
	SELECT s.seq, s.hash INTO last, chained FROM cdp.audit_seals s ORDER BY s.seq DESC LIMIT 1;
	last := coalesce(last, 0);
	chained := coalesce(chained, decode(repeat('00', 32), 'hex'));
	FOR entry IN
		SELECT e.* FROM cdp.audit_unsealed u JOIN cdp.audit_entries e USING (id)
		WHERE NOT EXISTS (SELECT FROM cdp.audit_seals s WHERE s.id = u.id)
		ORDER BY e.at, e.id
	LOOP
		last := last + 1;
		chained := cdp.audit_hash(chained, last, entry);
		INSERT INTO cdp.audit_seals VALUES (last, entry.id, chained);
		DELETE FROM cdp.audit_unsealed u WHERE u.id = entry.id;
		sealed := sealed + 1;
	END LOOP;
	RETURN sealed;
END;
$$;
COMMENT ON FUNCTION cdp.audit_seal() IS 'chain the entries of the audit that have been committed; returns how many. The applier does it by itself';

CREATE FUNCTION cdp.audit_verify(known_seq bigint DEFAULT NULL, known_hash bytea DEFAULT NULL)
	RETURNS TABLE (seq bigint, id uuid, finding text)
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	seal record;
	expected bigint := 0;
	chained bytea := decode(repeat('00', 32), 'hex');
BEGIN
	IF (known_seq IS NULL) <> (known_hash IS NULL) THEN
		RAISE EXCEPTION 'known_seq and known_hash belong together' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	FOR seal IN
		SELECT s.seq, s.id, s.hash, e AS entry, e.id IS NULL AS gone
		FROM cdp.audit_seals s LEFT JOIN cdp.audit_entries e USING (id) ORDER BY s.seq
	LOOP
		expected := expected + 1;
		IF seal.seq <> expected THEN
			RETURN QUERY SELECT expected, NULL::uuid,
				format('seals %s to %s are missing', expected, seal.seq - 1);
			expected := seal.seq;
		ELSIF seal.gone THEN
			RETURN QUERY SELECT seal.seq, seal.id, 'the entry is missing'::text;
		ELSIF seal.hash <> cdp.audit_hash(chained, seal.seq, seal.entry) THEN
			RETURN QUERY SELECT seal.seq, seal.id, 'the entry or the seal before it is not what was sealed'::text;
		END IF;
		IF seal.seq = known_seq AND seal.hash <> known_hash THEN
			RETURN QUERY SELECT seal.seq, seal.id, 'the hash is not the one that is known'::text;
		END IF;
		chained := seal.hash;
	END LOOP;
	IF known_seq > expected THEN
		RETURN QUERY SELECT known_seq, NULL::uuid, format('the chain ends at %s, before the seal that is known', expected);
	END IF;
	RETURN QUERY
		SELECT NULL::bigint, e.id, 'the entry is in no chain and waits for none'::text
		FROM cdp.audit_entries e
		WHERE NOT EXISTS (SELECT FROM cdp.audit_seals s WHERE s.id = e.id)
			AND NOT EXISTS (SELECT FROM cdp.audit_unsealed u WHERE u.id = e.id);
END;
$$;
COMMENT ON FUNCTION cdp.audit_verify(bigint, bytea) IS
	'what is wrong with the audit: entries changed, removed or slipped in after they were sealed. known_seq, known_hash: a seal that was kept elsewhere, by which a chain that was written anew as a whole, or cut off at its end, shows';

SELECT pg_extension_config_dump('cdp.audit_entries', '');
SELECT pg_extension_config_dump('cdp.audit_unsealed', '');
SELECT pg_extension_config_dump('cdp.audit_seals', '');

REVOKE ALL ON cdp.audit_entries, cdp.audit_unsealed, cdp.audit_seals, cdp.audit FROM PUBLIC;
REVOKE ALL ON FUNCTION cdp.audit_refuse(), cdp.audit_definition(), cdp.audit_record(text, text, jsonb),
	cdp.audit_decisions(bigint[], bigint[]), cdp.audit_hash(bytea, bigint, cdp.audit_entries),
	cdp.audit_seal(), cdp.audit_verify(bigint, bytea) FROM PUBLIC;
