/* sql/trust/access.sql: who may do what: sets of rights, given and taken as a whole */

-- The one list.  What is in no set, and is not PUBLIC's, is the owner's;
-- test/sql/access.sql has the names of those, and fails for whatever is new
-- and in neither list.  A function is listed by name, whatever its arguments.
CREATE VIEW cdp.access_sets AS
	SELECT s.grant_set, s.kind, n AS name
	FROM (VALUES
		('reader', 'function', 'account account_at accounts_of members_of profile profile_at resolve resolve_at current_profile '
			'identifiers identifiers_at kinds_at component component_nodes explain_link refused_links bridges articulation_points '
			'graph_dot graph_walk find_cuts link_entry check_explainable dot_string entries_of owned_entries_of '
			'consented consents in_segment segment_members segment_overlap segment_size segment_stats explain_segment '
			'same_person timeline merges audience audience_value member_since unpack_entries '
			'profile_traits_at account_trait_values account_traits_json referenced_keys'),
		('reader', 'relation', 'accounts account_members profiles profile_traits account_traits memberships traits segments '
			'purposes plan_violations stat_plans sources event_catalog progress'),
		('writer', 'function', 'track identify page screen group alias leave_group consent ingest ingest_text'),
		('consumer', 'function', 'poll ack nack status'),
		('operator', 'function', 'create_identifier_kind alter_identifier_kind drop_identifier_kind identity_preset preview_identity rejudge '
			'create_trait alter_trait rename_trait drop_trait '
			'create_purpose alter_purpose drop_purpose tracking_plan drop_tracking_plan '
			'create_segment alter_segment rename_segment drop_segment reevaluate_segment preview_segment matches pending_evaluations '
			'attach referenced_keys attach_preset attachment_preset drop_attachment sync_attachment sync_attachments load_attachments '
			'subscribe alter_subscription unsubscribe rewind requeue discard advance subscription '
			'account_by_domain free_mail_domain merge merge_operator split split_operator undo detach detach_operator release retract '
			'export_config apply_config config_drop config_object config_put config_sections config_texts load_sample '
			'apply check status lag pause resume retry_rejected start_worker stop_worker cancel_backfill wait_backfill '
			'make_partitions make_change_partitions trim_changes prune_history audit_seal finish_restore'),
		('operator', 'relation', 'free_mail_domains traits segments purposes plan_violations stat_plans attachments progress sources event_catalog dead_letters subscription_lag '
			'stat_worker stat_apply stat_traits stat_segments waiting_segments building_traits access_sets'),
		('privacy', 'function', 'audit_seal audit_verify see_sensitive set_sensitivity consent consented consents '
			'erase forget_tombstone erased_acknowledged erasure_proof erasure_clean export export_rows '
			'set_retention drop_retention drop_expired_partitions'),
		('privacy', 'relation', 'audit purposes access_sets erasures')
	) AS s (grant_set, kind, names), unnest(string_to_array(s.names, ' ')) n;
COMMENT ON VIEW cdp.access_sets IS 'which functions and relations the sets of rights have: reader, writer, consumer, operator and privacy; functions by name, whatever their arguments';

-- GRANT and REVOKE run with the caller's rights: who may not give a right away
-- cannot do so by these functions either.
CREATE FUNCTION cdp.change_access(grant_set text, role regrole, give boolean) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	command text := CASE WHEN give THEN 'GRANT %s ON %s %s TO %s' ELSE 'REVOKE %s ON %s %s FROM %s' END;
	object record;
BEGIN
	IF role IS NULL THEN
		RAISE EXCEPTION 'role must not be null' USING ERRCODE = 'null_value_not_allowed';
	END IF;
	FOR object IN
		SELECT p.oid::regprocedure::text AS name, 'FUNCTION' AS kind, 'EXECUTE' AS privilege
		FROM cdp.access_sets s
		JOIN pg_proc p ON p.proname = s.name AND p.pronamespace = 'cdp'::regnamespace
		WHERE s.grant_set = $1 AND s.kind = 'function'
		UNION ALL
		SELECT c.oid::regclass::text, 'TABLE', 'SELECT'
		FROM cdp.access_sets s
		JOIN pg_class c ON c.relname = s.name AND c.relnamespace = 'cdp'::regnamespace
		WHERE s.grant_set = $1 AND s.kind = 'relation'
	LOOP
		EXECUTE format(command, object.privilege, object.kind, object.name, role);
	END LOOP;
	PERFORM cdp.audit_record(CASE WHEN give THEN 'grant ' ELSE 'revoke ' END || $1, role::text);
END;
$$;
COMMENT ON FUNCTION cdp.change_access(text, regrole, boolean) IS 'internal: give a role a set of rights, or take it';

CREATE FUNCTION cdp.grant_reader(role regrole) RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
RETURN cdp.change_access('reader', role, true);
COMMENT ON FUNCTION cdp.grant_reader(regrole) IS
	'let a role read profiles, accounts, traits, memberships, identities and their history, sensitive ones masked. Only the owner of the extension may call it, and again after an update. Errors: insufficient_privilege';

CREATE FUNCTION cdp.grant_writer(role regrole, bulk boolean DEFAULT false) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM cdp.change_access('writer', role, true);
	IF bulk THEN
		EXECUTE format('GRANT INSERT (message_id, source, type, event, identifiers, properties, context, occurred_at) ON cdp.events TO %s', role);
		EXECUTE format('GRANT USAGE ON SEQUENCE cdp.events_id_seq TO %s', role);
	END IF;
END;
$$;
COMMENT ON FUNCTION cdp.grant_writer(regrole, boolean) IS
	'let a role log what customers do. bulk: by INSERT and COPY into cdp.events, too, and so also decisions (merge, split) in any author''s name. Only the owner of the extension may call it, and again after an update. Errors: insufficient_privilege';

CREATE FUNCTION cdp.grant_consumer(role regrole) RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
RETURN cdp.change_access('consumer', role, true);
COMMENT ON FUNCTION cdp.grant_consumer(regrole) IS
	'let a role poll and acknowledge changes, of all subscriptions, with what they include. Only the owner of the extension may call it, and again after an update. Errors: insufficient_privilege';

CREATE FUNCTION cdp.grant_operator(role regrole) RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
RETURN cdp.change_access('operator', role, true);
COMMENT ON FUNCTION cdp.grant_operator(regrole) IS
	'let a role define kinds, traits, segments, attachments and subscriptions, decide about identities, and run the applier. Only the owner of the extension may call it, and again after an update. Errors: insufficient_privilege';

CREATE FUNCTION cdp.grant_privacy_officer(role regrole) RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
RETURN cdp.change_access('privacy', role, true);
COMMENT ON FUNCTION cdp.grant_privacy_officer(regrole) IS
	'let a role see sensitive values, export and erase people, declare purposes of consent, and read the audit. Only the owner of the extension may call it, and again after an update. Errors: insufficient_privilege';

CREATE FUNCTION cdp.revoke_access(role regrole) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM cdp.change_access(s, role, false) FROM unnest('{reader,writer,consumer,operator,privacy}'::text[]) s;
	EXECUTE format('REVOKE INSERT (message_id, source, type, event, identifiers, properties, context, occurred_at) ON cdp.events FROM %s', role);
	EXECUTE format('REVOKE USAGE ON SEQUENCE cdp.events_id_seq FROM %s', role);
END;
$$;
COMMENT ON FUNCTION cdp.revoke_access(regrole) IS
	'take all sets of rights from a role; what was granted otherwise stays. Only the owner of the extension may call it. Errors: insufficient_privilege';

REVOKE ALL ON cdp.access_sets FROM PUBLIC;
REVOKE ALL ON FUNCTION cdp.change_access(text, regrole, boolean), cdp.grant_reader(regrole), cdp.grant_writer(regrole, boolean),
	cdp.grant_consumer(regrole), cdp.grant_operator(regrole), cdp.grant_privacy_officer(regrole), cdp.revoke_access(regrole) FROM PUBLIC;
