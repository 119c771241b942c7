/*-------------------------------------------------------------------------
 *
 * resolve.c
 *	  Who is who, asked from SQL; and the decisions that people make about it,
 *	  which are entries of the log.
 *
 * IDENTIFICATION
 *	  src/identity/resolve.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "cdp.h"
#include "identity/identity.h"
#include "statement.h"

PG_FUNCTION_INFO_V1(cdp_resolve);
PG_FUNCTION_INFO_V1(cdp_current_profile);
PG_FUNCTION_INFO_V1(cdp_same_person);
PG_FUNCTION_INFO_V1(cdp_merge);
PG_FUNCTION_INFO_V1(cdp_split);
PG_FUNCTION_INFO_V1(cdp_merge_operator);
PG_FUNCTION_INFO_V1(cdp_split_operator);
PG_FUNCTION_INFO_V1(cdp_undo);

#define MANUAL_SOURCE	"manual"

/* among what has been applied, or what has not been yet */
static CdpStatement manual_entry = {
	"SELECT 1 FROM cdp.decisions d WHERE d.source = $2 AND d.message_id = $1"
	" UNION ALL"
	" SELECT 1 FROM cdp.events e"
	" WHERE e.xid >= coalesce((SELECT pg_snapshot_xmin(c.done)::text::bigint"
	" FROM cdp.cursors c JOIN cdp.incarnation n ON n.id = c.incarnation), 0)"
	" AND e.source = $2 AND e.type IN ('merge', 'split', 'undo')"
	" AND coalesce(e.message_id, '#' || e.id) = $1"
	" LIMIT 1",
	{"text", "text"}
};

/*
 * cdp.resolve(identifier) returns bigint: the profile that the identifier
 * belongs to now, NULL when it is unknown.
 */
Datum
cdp_resolve(PG_FUNCTION_ARGS)
{
	int64		profile = CdpProfileOfIdentifier(-1, PG_GETARG_IDENTIFIER_PP(0));

	if (profile == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(profile);
}

/*
 * cdp.current_profile(profile_id bigint) returns bigint: the profile that a
 * profile id handed out earlier stands for now.  (A profile id is the number
 * of one of its nodes, so following merges is looking that node up.)
 */
Datum
cdp_current_profile(PG_FUNCTION_ARGS)
{
	int64		profile = CdpProfileOfNode(PG_GETARG_INT64(0));

	if (profile == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(profile);
}

/*
 * a ~= b: do both belong to the same person now?  NULL when one is
 * unknown.
 */
Datum
cdp_same_person(PG_FUNCTION_ARGS)
{
	int64		x = CdpProfileOfIdentifier(-1, PG_GETARG_IDENTIFIER_PP(0));
	int64		y = CdpProfileOfIdentifier(-1, PG_GETARG_IDENTIFIER_PP(1));

	if (x == 0 || y == 0)
		PG_RETURN_NULL();
	PG_RETURN_BOOL(x == y);
}

static void
check_decision_argument(CdpIdentifier *identifier)
{
	if (CdpCanonicalArgument(-1, identifier) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("identifier \"%s\" is blocked or cannot be normalised",
						text_to_cstring((text *) identifier))));
}

/*
 * Properties of an entry by hand: who, why, and what it is about.
 */
static Jsonb *
decision_properties(text *reason, text *entry)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoString(&buf, "{\"author\": ");
	escape_json(&buf, GetUserNameFromId(GetSessionUserId(), false));
	if (reason != NULL)
	{
		appendStringInfoString(&buf, ", \"reason\": ");
		escape_json(&buf, text_to_cstring(reason));
	}
	if (entry != NULL)
	{
		appendStringInfoString(&buf, ", \"entry\": ");
		escape_json(&buf, text_to_cstring(entry));
	}
	appendStringInfoChar(&buf, '}');
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
											  CStringGetDatum(buf.data)));
}

static Datum
decide(const char *type, CdpIdentifier *a, CdpIdentifier *b, text *reason)
{
	Datum		elems[2];
	ArrayType  *identifiers;

	check_decision_argument(a);
	check_decision_argument(b);
	elems[0] = PointerGetDatum(a);
	elems[1] = PointerGetDatum(b);
	identifiers = construct_array(elems, 2, CdpTypeOid("identifier"), -1, false,
								  TYPALIGN_INT);
	PG_RETURN_TEXT_P(CdpLogAppend(type, NULL, identifiers,
								  decision_properties(reason, NULL), NULL,
								  NULL, NULL, cstring_to_text(MANUAL_SOURCE)));
}

/*
 * cdp.merge(a, b, reason) returns text: log that two identifiers belong to one
 * person; the entry's message id.
 */
Datum
cdp_merge(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("identifier must not be null")));
	return decide("merge", PG_GETARG_IDENTIFIER_PP(0), PG_GETARG_IDENTIFIER_PP(1),
				  PG_ARGISNULL(2) ? NULL : PG_GETARG_TEXT_PP(2));
}

/*
 * cdp.split(a, b, reason) returns text: log that two identifiers do not belong
 * to one person; the entry's message id.
 */
Datum
cdp_split(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("identifier must not be null")));
	return decide("split", PG_GETARG_IDENTIFIER_PP(0), PG_GETARG_IDENTIFIER_PP(1),
				  PG_ARGISNULL(2) ? NULL : PG_GETARG_TEXT_PP(2));
}

/* a <+> b */
Datum
cdp_merge_operator(PG_FUNCTION_ARGS)
{
	return decide("merge", PG_GETARG_IDENTIFIER_PP(0),
				  PG_GETARG_IDENTIFIER_PP(1), NULL);
}

/* a </> b */
Datum
cdp_split_operator(PG_FUNCTION_ARGS)
{
	return decide("split", PG_GETARG_IDENTIFIER_PP(0),
				  PG_GETARG_IDENTIFIER_PP(1), NULL);
}

/*
 * cdp.undo(entry text) returns text: revoke a merge, split or undo by its
 * message id; the message id of the undo.
 */
Datum
cdp_undo(PG_FUNCTION_ARGS)
{
	text	   *target = PG_GETARG_TEXT_PP(0);
	text	   *source = cstring_to_text(MANUAL_SOURCE);
	CdpUserContext saved;
	Datum		args[2];
	uint64		found;

	args[0] = PointerGetDatum(target);
	args[1] = PointerGetDatum(source);
	CdpBecomeOwner(&saved);
	SPI_connect();
	found = CdpRun(&manual_entry, args, NULL);
	SPI_finish();
	CdpRestoreUser(&saved);
	if (found == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("entry \"%s\" is not a merge, split or undo by hand",
						text_to_cstring(target)),
				 errhint("Pass the message id that cdp.merge(), cdp.split() or cdp.undo() returned.")));
	PG_RETURN_TEXT_P(CdpLogAppend("undo", NULL, NULL,
								  decision_properties(NULL, target), NULL,
								  NULL, NULL, source));
}
