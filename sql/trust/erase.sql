/* sql/trust/erase.sql: erasing a person, tombstones, what was done about it */

-- Personal values stay out of pg_statistic; nothing plans by them.
ALTER TABLE cdp.identities ALTER COLUMN identifier SET STATISTICS 0;
ALTER TABLE cdp.former_identities ALTER COLUMN identifier SET STATISTICS 0;
ALTER TABLE cdp.rejected ALTER COLUMN payload SET STATISTICS 0, ALTER COLUMN detail SET STATISTICS 0,
	ALTER COLUMN message_id SET STATISTICS 0;
ALTER TABLE cdp.changes ALTER COLUMN payload SET STATISTICS 0;
ALTER TABLE cdp.subscription_queue ALTER COLUMN payload SET STATISTICS 0, ALTER COLUMN error SET STATISTICS 0;
ALTER TABLE cdp.deliveries ALTER COLUMN error SET STATISTICS 0;
ALTER TABLE cdp.trait_errors ALTER COLUMN last_error SET STATISTICS 0;
ALTER TABLE cdp.segment_errors ALTER COLUMN last_error SET STATISTICS 0;
ALTER TABLE cdp.attachment_definitions ALTER COLUMN last_error SET STATISTICS 0;
ALTER TABLE cdp.applier ALTER COLUMN last_error SET STATISTICS 0;
ALTER TABLE cdp.isolated ALTER COLUMN detail SET STATISTICS 0;

-- Made at first need.  Who has it can tell which identifiers were erased, by
-- trying; so nobody may read it but the owner.
CREATE TABLE cdp.tombstone_keys (
	one boolean PRIMARY KEY DEFAULT true CHECK (one),
	key bytea NOT NULL
);
COMMENT ON TABLE cdp.tombstone_keys IS 'the key of the hashes of cdp.tombstones; dumped with them, since they mean nothing without it';

CREATE TABLE cdp.tombstones (
	hash bytea PRIMARY KEY,
	erasure bigint NOT NULL,
	at timestamptz NOT NULL,
	refused bigint NOT NULL DEFAULT 0,
	last_refused_at timestamptz
) WITH (fillfactor = 80);
COMMENT ON TABLE cdp.tombstones IS 'identifiers that are not taken any more, as HMAC-SHA-256 of the canonical form: the applier deletes entries that carry one, and counts them';
COMMENT ON COLUMN cdp.tombstones.refused IS 'entries that were deleted because of it';

CREATE TABLE cdp.erasures (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	source text NOT NULL DEFAULT 'manual',
	message_id text,
	mode text NOT NULL,
	reason text,
	requested_by text,
	requested_at timestamptz NOT NULL DEFAULT cdp.clock(),
	state text NOT NULL DEFAULT 'requested' CHECK (state IN ('requested', 'taken', 'removing', 'sweeping', 'done')),
	started_at timestamptz,
	done_at timestamptz,
	position bigint NOT NULL DEFAULT 0,
	layout text,
	profile_id bigint,
	anonymous cdp.identifier,
	hashes bytea[] NOT NULL DEFAULT '{}',
	shared bytea[] NOT NULL DEFAULT '{}',
	removed jsonb NOT NULL DEFAULT '{}',
	epoch int,
	seq bigint,
	waiting text[] NOT NULL DEFAULT '{}',
	scrubbed_at timestamptz
) WITH (fillfactor = 50);
COMMENT ON TABLE cdp.erasures IS 'the manifest of each erasure: what was removed where, and who has to be told; without personal values';
COMMENT ON COLUMN cdp.erasures.state IS 'taken: the entry was applied; removing: the profile is gone, its entries are being deleted; sweeping: the rest of the log is searched for it';
COMMENT ON COLUMN cdp.erasures.position IS 'pages of the log that are searched';
COMMENT ON COLUMN cdp.erasures.layout IS 'which files of the log position is about; in others the search begins anew';
COMMENT ON COLUMN cdp.erasures.anonymous IS 'the random identifier of mode anonymise, until it is done';
COMMENT ON COLUMN cdp.erasures.hashes IS 'the identifiers that were erased, as HMAC-SHA-256 (cdp.tombstones)';
COMMENT ON COLUMN cdp.erasures.shared IS 'those that were left in entries of others: devices that are theirs, too';
COMMENT ON COLUMN cdp.erasures.removed IS 'rows removed or changed, by table';
COMMENT ON COLUMN cdp.erasures.seq IS 'the change of kind erased, in epoch';
COMMENT ON COLUMN cdp.erasures.waiting IS 'subscriptions that have not acknowledged it; when there are none left, identifiers are taken out of it (scrubbed_at)';

-- What is being erased, in clear; empty when nothing is.
CREATE TABLE cdp.erasure_identifiers (
	erasure bigint NOT NULL,
	identifier cdp.identifier NOT NULL,
	shared boolean NOT NULL DEFAULT false,
	PRIMARY KEY (erasure, identifier)
);
ALTER TABLE cdp.erasure_identifiers ALTER COLUMN identifier SET STATISTICS 0;
COMMENT ON TABLE cdp.erasure_identifiers IS 'internal: the identifiers of erasures that are not done';

-- Either a packed array of references (see cdp.entry_pieces), or one.
CREATE TABLE cdp.erasure_entries (
	erasure bigint NOT NULL,
	refs bytea,
	entry bigint,
	xid bigint,
	received_at timestamptz
);
CREATE INDEX erasure_entries_erasure ON cdp.erasure_entries (erasure);
COMMENT ON TABLE cdp.erasure_entries IS 'internal: entries of the log that erasures have still to delete';

CREATE TABLE cdp.personal_keys (
	key text PRIMARY KEY,
	personal boolean NOT NULL DEFAULT true
);
COMMENT ON TABLE cdp.personal_keys IS 'which keys of properties are personal (or are not, of those that are by default: see doc/erase.md): mode anonymise drops them. Compared by their letters and digits, without case';

CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON cdp.personal_keys
	FOR EACH ROW EXECUTE FUNCTION cdp.audit_definition('personal key', 'key');

SELECT pg_extension_config_dump('cdp.tombstone_keys', '');
SELECT pg_extension_config_dump('cdp.tombstones', '');
SELECT pg_extension_config_dump('cdp.erasures', '');
SELECT pg_extension_config_dump('cdp.erasures_id_seq', '');
SELECT pg_extension_config_dump('cdp.erasure_identifiers', '');
SELECT pg_extension_config_dump('cdp.erasure_entries', '');
SELECT pg_extension_config_dump('cdp.personal_keys', '');

CREATE INDEX erasures_message ON cdp.erasures (source, message_id);
CREATE INDEX erasures_waiting ON cdp.erasures (id) WHERE scrubbed_at IS NULL AND seq IS NOT NULL;

CREATE FUNCTION cdp.tombstone_hash(identifier cdp.identifier) RETURNS bytea
	AS 'MODULE_PATHNAME', 'cdp_tombstone_hash' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.tombstone_hash(cdp.identifier) IS
	'internal: HMAC-SHA-256 of the canonical form of an identifier under the key of this database';

CREATE FUNCTION cdp.erasure_touches(identifiers cdp.identifier[], event text, properties jsonb, context jsonb) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_erasure_touches' LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.erasure_touches(cdp.identifier[], text, jsonb, jsonb) IS
	'internal: may an entry name who is being erased? Only for the applier at work';

CREATE FUNCTION cdp.erasure_scrub(value jsonb) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'cdp_erasure_scrub' LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.erasure_scrub(jsonb) IS
	'internal: the value without the identifiers that are being erased; NULL when it has none. Only for the applier at work';

CREATE FUNCTION cdp.erasure_mentions(value text) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_erasure_mentions' LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.erasure_mentions(text) IS
	'internal: does a text contain an identifier that is being erased? Only for the applier at work';

-- As long as the person was part of another profile, by a merge that was taken
-- back since, what was said of that one was made of the person's values, too; so
-- were the old values that the batch told of which took it back.
CREATE FUNCTION cdp.erasure_held_by(nodes bigint[]) RETURNS TABLE (profile_id bigint, after bigint[], until bigint[])
	LANGUAGE sql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	WITH RECURSIVE moves AS MATERIALIZED (
		SELECT ARRAY[c.epoch, c.seq] AS n, c.at, c.profile_id, c.kind = 'profile_merged' AS merged,
			ARRAY(SELECT e::bigint FROM jsonb_array_elements_text(c.payload -> CASE c.kind WHEN 'profile_merged' THEN 'merges' ELSE 'into' END) e) AS parts
		FROM cdp.changes c
		WHERE c.kind IN ('profile_merged', 'profile_split') AND c.entity = 'profile'
			AND jsonb_typeof(c.payload -> CASE c.kind WHEN 'profile_merged' THEN 'merges' ELSE 'into' END) = 'array'
	), held (id) AS (
		SELECT n FROM unnest(nodes) n
		UNION SELECT m.profile_id FROM held h JOIN moves m ON h.id = ANY (m.parts)
	), spans AS (
		SELECT m.profile_id, min(m.n) FILTER (WHERE m.merged) AS merged, min(m.n) FILTER (WHERE NOT m.merged) AS split, max(m.n) FILTER (WHERE NOT m.merged) AS until
		FROM moves m WHERE m.profile_id <> ALL (nodes) AND m.parts && ARRAY(SELECT h.id FROM held h)
		GROUP BY m.profile_id
	)
	SELECT s.profile_id, CASE WHEN s.merged < s.split THEN s.merged ELSE '{-1,0}' END,
		(SELECT max(ARRAY[c.epoch, c.seq]) FROM cdp.changes c
		 WHERE c.profile_id = s.profile_id AND c.epoch = s.until[1] AND c.seq >= s.until[2]
			AND c.at = (SELECT m.at FROM moves m WHERE m.n = s.until))
	FROM spans s WHERE s.until IS NOT NULL;
END;
COMMENT ON FUNCTION cdp.erasure_held_by(bigint[]) IS 'internal: other profiles that these nodes were part of, from which change (epoch, seq) until which';

-- The tables that go by the number of a node or profile.
CREATE FUNCTION cdp.erasure_forget(erasure bigint, nodes bigint[], gone bigint[], epoch int, until_seq bigint) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, cdp, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	counts jsonb := '{}';
	n bigint;
BEGIN
	DELETE FROM cdp.segment_members m WHERE m.profile_id = ANY (gone)
		OR (m.profile_id = ANY (nodes) AND NOT m.member);
	GET DIAGNOSTICS n = ROW_COUNT;
	counts := counts || jsonb_build_object('memberships', n);
	DELETE FROM cdp.former_identities f WHERE f.node_id = ANY (gone)
		OR f.identifier IN (SELECT i.identifier FROM cdp.erasure_identifiers i WHERE i.erasure = erasure AND NOT i.shared);
	-- merges by hand with somebody who is gone
	DELETE FROM cdp.links l USING unnest(gone) g (node) WHERE l.a = g.node AND l.origin = 'manual';
	DELETE FROM cdp.links l USING unnest(gone) g (node) WHERE l.b = g.node AND l.origin = 'manual';
	DELETE FROM cdp.merged_profiles m WHERE m.profile_id = ANY (gone);
	UPDATE cdp.releases r SET owner = NULL WHERE r.owner = ANY (gone);
	UPDATE cdp.segment_errors e SET last_profile = NULL, last_error = '(erased)' WHERE e.last_profile = ANY (gone);
	WITH spans AS MATERIALIZED (
		SELECT u.id AS profile_id, ARRAY[-1, 0]::bigint[] AS after, ARRAY[epoch, until_seq - 1] AS until FROM unnest(nodes) u (id)
		UNION ALL SELECT h.profile_id, h.after, least(h.until, ARRAY[epoch, until_seq - 1]) FROM cdp.erasure_held_by(nodes) h
	), changed AS (
		UPDATE cdp.changes c SET payload = cdp.erased_payload(c.payload) FROM spans s
		WHERE c.profile_id = s.profile_id AND ARRAY[c.epoch, c.seq] BETWEEN s.after AND s.until
			AND c.entity = 'profile' AND c.kind <> 'erased' AND c.payload <> cdp.erased_payload(c.payload)
		RETURNING 1
	), queued AS (
		UPDATE cdp.subscription_queue q SET payload = cdp.erased_payload(q.payload), error = NULL FROM spans s
		WHERE q.profile_id = s.profile_id AND ARRAY[q.epoch, q.seq] BETWEEN s.after AND s.until
			AND q.entity = 'profile' AND q.kind <> 'erased'
		RETURNING 1
	)
	SELECT counts || jsonb_build_object('changes scrubbed', (SELECT count(*) FROM changed),
		'queued changes scrubbed', (SELECT count(*) FROM queued)) INTO counts;
	UPDATE cdp.erasures r SET removed = r.removed || counts WHERE r.id = erasure;
END
$$;
COMMENT ON FUNCTION cdp.erasure_forget(bigint, bigint[], bigint[], int, bigint) IS 'internal: take a person out of the tables that go by number';

-- What a payload says beside whom it is about: the trait, how often, which
-- profiles (who was part of which is asked by the next erasure, too).
CREATE FUNCTION cdp.erased_payload(payload jsonb) RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN jsonb_typeof(payload) = 'object' THEN
	(SELECT coalesce(jsonb_object_agg(k, v), '{}') FROM jsonb_each(payload) e (k, v)
	 WHERE k IN ('trait', 'entry_number', 'erased', 'merges', 'into')) || '{"erased": true}' END;
COMMENT ON FUNCTION cdp.erased_payload(jsonb) IS 'internal: the payload of a change about somebody who was erased';

-- Where values may stand otherwise.
CREATE FUNCTION cdp.erasure_forget_values(erasure bigint) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, cdp, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	n bigint;
BEGIN
	-- one of them may have been named again for a moment
	DELETE FROM cdp.former_identities f WHERE f.identifier IN
		(SELECT i.identifier FROM cdp.erasure_identifiers i WHERE i.erasure = erasure AND NOT i.shared);
	-- an entry of the log that only its message id or source names stays as it is
	DELETE FROM cdp.rejected r
	WHERE cdp.erasure_scrub(CASE WHEN r.entry IS NULL THEN r.payload ELSE r.payload - '{message_id,source}'::text[] END) IS NOT NULL
		OR cdp.erasure_mentions(r.detail) OR (r.entry IS NULL AND cdp.erasure_mentions(r.message_id));
	GET DIAGNOSTICS n = ROW_COUNT;
	DELETE FROM cdp.plan_violation_counts v WHERE cdp.erasure_mentions(replace(replace(v.path, '~1', '/'), '~0', '~'));
	UPDATE cdp.plan_violation_counts v SET entry = NULL, xid = NULL
	WHERE v.entry IS NOT NULL AND NOT EXISTS (SELECT FROM cdp.events e WHERE e.xid = v.xid AND e.id = v.entry);
	UPDATE cdp.changes c SET payload = cdp.erasure_scrub(c.payload)
	WHERE c.kind <> 'erased' AND cdp.erasure_scrub(c.payload) IS NOT NULL;
	UPDATE cdp.subscription_queue q SET payload = coalesce(cdp.erasure_scrub(q.payload), q.payload),
		error = CASE WHEN NOT cdp.erasure_mentions(q.error) THEN q.error END
	WHERE q.kind <> 'erased' AND (cdp.erasure_scrub(q.payload) IS NOT NULL OR cdp.erasure_mentions(q.error));
	UPDATE cdp.deliveries d SET error = '(erased)' WHERE cdp.erasure_mentions(d.error);
	UPDATE cdp.trait_errors e SET last_error = '(erased)' WHERE cdp.erasure_mentions(e.last_error);
	UPDATE cdp.segment_errors e SET last_error = '(erased)' WHERE cdp.erasure_mentions(e.last_error);
	UPDATE cdp.attachment_definitions d SET last_error = '(erased)' WHERE cdp.erasure_mentions(d.last_error);
	UPDATE cdp.applier a SET last_error = '(erased)' WHERE cdp.erasure_mentions(a.last_error);
	UPDATE cdp.isolated i SET detail = '(erased)' WHERE cdp.erasure_mentions(i.detail);
	IF FOUND THEN
		-- who has read them reads them again
		PERFORM cdp.definitions_changed();
	END IF;
	UPDATE cdp.erasures r SET removed = r.removed || jsonb_build_object('rejected', n)
	WHERE r.id = erasure;
END
$$;
COMMENT ON FUNCTION cdp.erasure_forget_values(bigint) IS 'internal: take the values of a person out of tables that may mention them. Only for the applier at work';

CREATE FUNCTION cdp.erase(identifier cdp.identifier, mode text DEFAULT 'erase', reason text DEFAULT NULL) RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_erase' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.erase(cdp.identifier, text, text) IS
	'log that the person who has this identifier is to be erased with all identifiers; the entry''s message id, by which cdp.erasures tells how far it is. mode erase: everything goes, and what comes again is refused; anonymise: events stay under a random identifier, without what is personal; suppress: nothing goes, and what comes is refused. Errors: undefined_object for an unregistered kind; invalid_parameter_value for another mode, or an identifier that names nobody';

CREATE FUNCTION cdp.forget_tombstone(identifier cdp.identifier) RETURNS boolean
	LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM cdp.lock_applier();
	DELETE FROM cdp.tombstones t WHERE t.hash = cdp.tombstone_hash(identifier);
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM cdp.audit_record('forget tombstone', encode(cdp.tombstone_hash(identifier), 'hex'));
	RETURN true;
END
$$;
COMMENT ON FUNCTION cdp.forget_tombstone(cdp.identifier) IS
	'let entries with an identifier that was erased or suppressed be taken again from now on; false when it was not. Errors: undefined_object for an unregistered kind; invalid_parameter_value for an identifier that names nobody';

-- Changes of kind erased that everybody has acknowledged lose the identifiers.
CREATE FUNCTION cdp.erased_acknowledged(subscription text DEFAULT NULL) RETURNS int
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	e record;
	left_ text[];
	n int := 0;
BEGIN
	FOR e IN SELECT r.id, r.epoch, r.seq, r.waiting FROM cdp.erasures r
		WHERE r.scrubbed_at IS NULL AND r.seq IS NOT NULL
			AND (subscription IS NULL OR subscription = ANY (r.waiting)) ORDER BY r.id FOR UPDATE SKIP LOCKED
	LOOP
		SELECT coalesce(array_agg(w ORDER BY w), '{}') INTO left_
		FROM unnest(e.waiting) w JOIN cdp.subscriptions s ON s.name = w
		WHERE ((s.epoch, s.acked_seq) < (e.epoch, e.seq)
				AND NOT EXISTS (SELECT FROM cdp.deliveries d WHERE d.subscription = w
					AND d.epoch = e.epoch AND d.seq = e.seq AND d.acked))
			OR EXISTS (SELECT FROM cdp.subscription_queue q WHERE q.subscription = w
				AND q.epoch = e.epoch AND q.seq = e.seq);
		IF left_ = '{}' THEN
			UPDATE cdp.changes c SET payload = c.payload - 'identifiers' WHERE c.epoch = e.epoch AND c.seq = e.seq;
			UPDATE cdp.erasures r SET waiting = '{}', scrubbed_at = cdp.clock() WHERE r.id = e.id;
			n := n + 1;
		ELSIF left_ <> e.waiting THEN
			UPDATE cdp.erasures r SET waiting = left_ WHERE r.id = e.id;
		END IF;
	END LOOP;
	RETURN n;
END
$$;
COMMENT ON FUNCTION cdp.erased_acknowledged(text) IS
	'take the identifiers out of the changes of kind erased that every subscription has acknowledged which there was; with a subscription, out of those that it was waited for; returns of how many. Acknowledging does it by itself';

CREATE FUNCTION cdp.erasure_scan(relation regclass, needles text[], OUT needle int, OUT block bigint, OUT place text) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'cdp_erasure_scan' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.erasure_scan(regclass, text[]) IS
	'internal: where texts stand in the pages of a table, index or TOAST table, without regard to case in ASCII; of tables also in the values of rows, detoasted';

CREATE FUNCTION cdp.clear_free_space(relation regclass) RETURNS bigint
	AS 'MODULE_PATHNAME', 'cdp_clear_free_space' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.clear_free_space(regclass) IS
	'internal: overwrite what is left in the free space of the pages of a relation; how many pages had something there';

-- What is to be proven is that nothing is found, so nothing is left out: every
-- relation of the schema, with its TOAST table and their indexes.
CREATE FUNCTION cdp.erasure_proof(erasure bigint, identifiers cdp.identifier[])
	RETURNS TABLE (relation text, identifier int, place text, pages bigint, remedy text)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, cdp, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	manifest cdp.erasures;
	needles text[] := '{}';
	places int[] := '{}';
	known bytea[] := '{}';
	hash bytea;
	i int;
	r record;
BEGIN
	SELECT * INTO manifest FROM cdp.erasures e WHERE e.id = erasure;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'erasure % does not exist', erasure USING ERRCODE = 'undefined_object', HINT = 'See cdp.erasures.';
	ELSIF manifest.state <> 'done' OR manifest.mode = 'suppress' THEN
		RAISE EXCEPTION 'erasure % is not one that is done', erasure USING ERRCODE = 'object_not_in_prerequisite_state',
			DETAIL = format('Its mode is %s, its state %s.', manifest.mode, manifest.state);
	END IF;
	FOR i IN 1 .. coalesce(cardinality(identifiers), 0) LOOP
		hash := cdp.tombstone_hash(identifiers[i]);
		CONTINUE WHEN hash = ANY (manifest.shared);
		IF hash <> ALL (manifest.hashes) THEN
			RAISE EXCEPTION 'identifier % was not erased by erasure %', i, erasure USING ERRCODE = 'invalid_parameter_value';
		END IF;
		known := known || hash;
		-- short values are found everywhere: with their kind then
		needles := needles || CASE WHEN octet_length(cdp.value(cdp.canonical(identifiers[i]))) < 6
			THEN cdp.canonical(identifiers[i])::text ELSE cdp.value(cdp.canonical(identifiers[i])) END;
		places := places || i;
	END LOOP;
	IF EXISTS (SELECT FROM unnest(manifest.hashes) h WHERE h <> ALL (known)) THEN
		RAISE EXCEPTION '% of the % identifiers that were erased are not given', (SELECT count(*) FROM unnest(manifest.hashes) h WHERE h <> ALL (known)), cardinality(manifest.hashes)
			USING ERRCODE = 'invalid_parameter_value', HINT = 'The change of kind erased named them all.';
	END IF;
	FOR r IN
		WITH tables AS (
			SELECT c.oid, c.reltoastrelid FROM pg_class c
			WHERE c.relnamespace = 'cdp'::regnamespace AND c.relkind IN ('r', 'm')
			UNION ALL
			SELECT t.oid, 0 FROM pg_class c JOIN pg_class t ON t.oid = c.reltoastrelid
			WHERE c.relnamespace = 'cdp'::regnamespace)
		SELECT t.oid FROM tables t UNION ALL SELECT x.indexrelid FROM tables t JOIN pg_index x ON x.indrelid = t.oid
	LOOP
		RETURN QUERY
			SELECT r.oid::regclass::text, places[s.needle], s.place, count(DISTINCT s.block),
				CASE WHEN s.place LIKE 'row%' THEN 'a row has it: look there'
					WHEN s.place = 'free space' THEN 'SELECT cdp.erasure_clean()'
					WHEN (SELECT c.relkind FROM pg_class c WHERE c.oid = r.oid) = 'i' THEN 'VACUUM, then REINDEX'
					ELSE 'VACUUM' END
			FROM cdp.erasure_scan(r.oid, needles) s
			GROUP BY s.needle, s.place ORDER BY 2, 3;
	END LOOP;
	-- what the planner knows of the columns
	RETURN QUERY
		SELECT format('%I.%I', s.schemaname, s.tablename), n.place, format('statistics of column %I', s.attname), NULL::bigint, 'ANALYZE'
		FROM pg_stats s CROSS JOIN unnest(needles, places) n (needle, place)
		WHERE s.schemaname = 'cdp' AND position(lower(n.needle COLLATE "C") IN lower(concat_ws(' ',
			s.most_common_vals, s.histogram_bounds, s.most_common_elems) COLLATE "C")) > 0
		ORDER BY 1, 3, 2;
END
$$;
COMMENT ON FUNCTION cdp.erasure_proof(bigint, cdp.identifier[]) IS
	'look for the identifiers of an erasure, which must all be given, in every page of every table, index and TOAST table of the extension, in every value, and in the statistics of the columns; one row for each place, none when there is nothing: run VACUUM ANALYZE before. identifier: its place among those given. Errors: undefined_object; object_not_in_prerequisite_state for an erasure that is not done; invalid_parameter_value for identifiers that it did not erase, or when some are missing';

CREATE FUNCTION cdp.erasure_clean() RETURNS bigint
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	cleared bigint;
BEGIN
	WITH tables AS (
		SELECT c.oid FROM pg_class c WHERE c.relnamespace = 'cdp'::regnamespace AND c.relkind = 'r'
		UNION ALL
		SELECT c.reltoastrelid FROM pg_class c WHERE c.relnamespace = 'cdp'::regnamespace AND c.relkind = 'r' AND c.reltoastrelid <> 0),
	relations AS (
		SELECT t.oid FROM tables t UNION ALL SELECT x.indexrelid FROM tables t JOIN pg_index x ON x.indrelid = t.oid)
	SELECT coalesce(sum(cdp.clear_free_space(r.oid)), 0) INTO cleared FROM relations r;
	RETURN cleared;
END
$$;
COMMENT ON FUNCTION cdp.erasure_clean() IS
	'overwrite the free space of all pages of the extension''s tables and indexes, where VACUUM leaves the bytes of rows that are gone; returns how many pages had something there';

REVOKE ALL ON TABLE cdp.tombstone_keys, cdp.tombstones, cdp.erasures, cdp.erasure_identifiers,
	cdp.erasure_entries, cdp.personal_keys FROM PUBLIC;
REVOKE ALL ON FUNCTION cdp.tombstone_hash(cdp.identifier),
	cdp.erasure_touches(cdp.identifier[], text, jsonb, jsonb), cdp.erasure_scrub(jsonb),
	cdp.erasure_mentions(text), cdp.erasure_forget(bigint, bigint[], bigint[], int, bigint),
	cdp.erasure_held_by(bigint[]), cdp.erased_payload(jsonb), cdp.erasure_forget_values(bigint), cdp.erase(cdp.identifier, text, text),
	cdp.forget_tombstone(cdp.identifier), cdp.erased_acknowledged(text),
	cdp.erasure_scan(regclass, text[]), cdp.clear_free_space(regclass),
	cdp.erasure_proof(bigint, cdp.identifier[]), cdp.erasure_clean() FROM PUBLIC;
