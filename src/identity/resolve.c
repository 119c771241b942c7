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
#include "collect/extract.h"
#include "identity/identity.h"
#include "statement.h"

PG_FUNCTION_INFO_V1(cdp_resolve);
PG_FUNCTION_INFO_V1(cdp_current_profile);
PG_FUNCTION_INFO_V1(cdp_same_person);
PG_FUNCTION_INFO_V1(cdp_merge);
PG_FUNCTION_INFO_V1(cdp_split);
PG_FUNCTION_INFO_V1(cdp_merge_operator);
PG_FUNCTION_INFO_V1(cdp_split_operator);
PG_FUNCTION_INFO_V1(cdp_detach);
PG_FUNCTION_INFO_V1(cdp_detach_operator);
PG_FUNCTION_INFO_V1(cdp_undo);
PG_FUNCTION_INFO_V1(cdp_release);
PG_FUNCTION_INFO_V1(cdp_retract);

/* sources of entries by hand, and of calls that name none */
#define MANUAL_SOURCE	"manual"
#define DEFAULT_SOURCE	"sql"

/* when the entry of a message id counts, the latest of its copies */
static CdpStatement entry_of = {
	"SELECT max(t.at) FROM ("
	" SELECT d.at FROM cdp.decisions d WHERE d.source = $1 AND d.message_id = $2"
	" UNION ALL"
	" SELECT cdp.effective_at(e.occurred_at, e.received_at) FROM cdp.events e"
	" WHERE cdp.message_hash(e.source, e.message_id) = cdp.message_hash($1, $2)"
	" AND e.message_id = $2 AND coalesce(e.source, '') = $1) AS t",
	{"text", "text"}
};

/* entries without message id; the log has no index by number alone */
static CdpStatement numbered_entry_of = {
	"SELECT max(cdp.effective_at(e.occurred_at, e.received_at)) FROM cdp.events e"
	" WHERE e.id = $3 AND e.message_id IS NULL AND coalesce(e.source, '') = $1"
	" AND '#' || e.id = $2",
	{"text", "text", "int8"}
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
		profile = CdpProfileOfFormerNode(PG_GETARG_INT64(0));
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

static CdpIdentifier *
check_decision_argument(CdpIdentifier *identifier)
{
	CdpIdentifier *canonical = CdpCanonicalArgument(-1, identifier);

	if (canonical == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("identifier \"%s\" is blocked or cannot be normalised",
						text_to_cstring((text *) identifier))));
	return canonical;
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
	text	   *x = (text *) check_decision_argument(a);
	text	   *y = (text *) check_decision_argument(b);

	if (VARSIZE_ANY_EXHDR(x) == VARSIZE_ANY_EXHDR(y) &&
		memcmp(VARDATA_ANY(x), VARDATA_ANY(y), VARSIZE_ANY_EXHDR(x)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a %s is about two identifiers", type),
				 errdetail("Both are \"%s\".", text_to_cstring(x))));
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

static Datum
detach(CdpIdentifier *identifier, text *reason)
{
	Datum		elem = PointerGetDatum(identifier);
	ArrayType  *identifiers;

	check_decision_argument(identifier);
	identifiers = construct_array(&elem, 1, CdpTypeOid("identifier"), -1, false,
								  TYPALIGN_INT);
	PG_RETURN_TEXT_P(CdpLogAppend("detach", NULL, identifiers,
								  decision_properties(reason, NULL), NULL,
								  NULL, NULL, cstring_to_text(MANUAL_SOURCE)));
}

/*
 * cdp.detach(identifier, reason) returns text: log that what has been seen so
 * far does not join the identifier with any other; the entry's message id.
 */
Datum
cdp_detach(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("identifier must not be null")));
	return detach(PG_GETARG_IDENTIFIER_PP(0),
				  PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1));
}

/* </> a */
Datum
cdp_detach_operator(PG_FUNCTION_ARGS)
{
	return detach(PG_GETARG_IDENTIFIER_PP(0), NULL);
}

static bool
run_max(CdpStatement *statement, Datum *args, TimestampTz *at)
{
	bool		isnull;
	Datum		value;

	CdpRun(statement, args, NULL);
	value = CdpCell(0, 1, &isnull);
	if (!isnull)
		*at = DatumGetTimestampTz(value);
	return !isnull;
}

/*
 * Does the log have such an entry?  Then also when an undo of it is to count,
 * which must be later: now, or right after it.
 */
static bool
find_entry(text *source, text *entry, TimestampTz *undo_at)
{
	CdpUserContext saved;
	const char *name = text_to_cstring(entry);
	Datum		args[3];
	TimestampTz at = DT_NOBEGIN;
	bool		found;

	args[0] = PointerGetDatum(source);
	args[1] = PointerGetDatum(entry);
	CdpBecomeOwner(&saved);
	SPI_connect();
	found = run_max(&entry_of, args, &at);
	if (!found && name[0] == '#' && name[1] >= '1' && name[1] <= '9' &&
		strspn(name + 1, "0123456789") == strlen(name + 1) && strlen(name) < 20)
	{
		args[2] = Int64GetDatum(strtoll(name + 1, NULL, 10));
		found = run_max(&numbered_entry_of, args, &at);
	}
	SPI_finish();
	CdpRestoreUser(&saved);
	*undo_at = CdpClock();
	if (found && at >= *undo_at && !TIMESTAMP_NOT_FINITE(at))
		*undo_at = at + 1;
	return found;
}

static void
check_entry_name(text *entry)
{
	if (VARSIZE_ANY_EXHDR(entry) == 0 ||
		VARSIZE_ANY_EXHDR(entry) > CDP_MAX_MESSAGE_ID)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("message id must have 1 to %d bytes", CDP_MAX_MESSAGE_ID)));
}

/*
 * cdp.undo(entry text, source text) returns text: revoke any entry by its
 * message id; the message id of the undo.  Without source: the entry of that
 * message id that was made by hand, else the one of the source sql.
 */
Datum
cdp_undo(PG_FUNCTION_ARGS)
{
	text	   *target;
	text	   *source;
	TimestampTz at;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("entry must not be null")));
	target = PG_GETARG_TEXT_PP(0);
	check_entry_name(target);
	if (!PG_ARGISNULL(1))
	{
		source = PG_GETARG_TEXT_PP(1);
		if (!find_entry(source, target, &at))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("source \"%s\" has no entry \"%s\"",
							text_to_cstring(source), text_to_cstring(target)),
					 errhint("To take back an entry that has not arrived yet, use cdp.retract().")));
	}
	else
	{
		source = cstring_to_text(MANUAL_SOURCE);
		if (!find_entry(source, target, &at))
		{
			source = cstring_to_text(DEFAULT_SOURCE);
			if (!find_entry(source, target, &at))
				ereport(ERROR,
						(errcode(ERRCODE_UNDEFINED_OBJECT),
						 errmsg("neither source \"manual\" nor source \"sql\" has an entry \"%s\"",
								text_to_cstring(target)),
						 errhint("Pass the message id that the call that logged it returned; name the source when it is another one.")));
		}
	}
	PG_RETURN_TEXT_P(CdpLogAppend("undo", NULL, NULL,
								  decision_properties(NULL, target), NULL,
								  &at, NULL, source));
}

/*
 * cdp.retract(message_id text, source text, reason text) returns text: take
 * an event back, whether it has arrived or not; the message id of the undo.
 */
Datum
cdp_retract(PG_FUNCTION_ARGS)
{
	text	   *target;
	text	   *source;
	TimestampTz at;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("message_id must not be null")));
	target = PG_GETARG_TEXT_PP(0);
	check_entry_name(target);
	source = PG_ARGISNULL(1) ? cstring_to_text(DEFAULT_SOURCE) : PG_GETARG_TEXT_PP(1);
	if (!find_entry(source, target, &at))
		ereport(NOTICE,
				(errmsg("source \"%s\" has no entry \"%s\" yet",
						text_to_cstring(source), text_to_cstring(target)),
				 errdetail("When it comes, it will not count unless it is later than the retraction.")));
	PG_RETURN_TEXT_P(CdpLogAppend("undo", NULL, NULL,
								  decision_properties(PG_ARGISNULL(2) ? NULL :
													  PG_GETARG_TEXT_PP(2), target),
								  NULL, &at, NULL, source));
}

/*
 * cdp.release(entry text, source text, properties jsonb) returns text: let an
 * entry count that a policy holds; the message id of the release.  Or one that
 * a tracking plan holds; its own message id.
 */
Datum
cdp_release(PG_FUNCTION_ARGS)
{
	static CdpStatement held = {
		"SELECT DISTINCT n.source FROM cdp.withheld_entries n"
		" WHERE n.message_id = $1 AND n.held AND ($2 IS NULL OR n.source = $2) LIMIT 2",
		{"text", "text"}
	};
	static CdpStatement from_plan = {
		"SELECT cdp.release_from_plan($1, $2, $3)",
		{"text", "text", "jsonb"}
	};
	CdpUserContext saved;
	MemoryContext caller = CurrentMemoryContext;
	text	   *target;
	text	   *source = NULL;
	text	   *released = NULL;
	Datum		args[3] = {0};
	char		nulls[3] = {' ', 'n', 'n'};
	uint64		n;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("entry must not be null")));
	target = PG_GETARG_TEXT_PP(0);
	args[0] = PointerGetDatum(target);
	if (!PG_ARGISNULL(1))
	{
		args[1] = PG_GETARG_DATUM(1);
		nulls[1] = ' ';
	}
	if (!PG_ARGISNULL(2))
	{
		args[2] = PG_GETARG_DATUM(2);
		nulls[2] = ' ';
	}
	CdpBecomeOwner(&saved);
	SPI_connect();
	n = CdpRun(&held, args, nulls);
	if (n == 1)
		source = (text *) CdpCellVarlena(0, 1, caller);
	else if (n == 0)
	{
		CdpRun(&from_plan, args, nulls);
		released = (text *) CdpCellVarlena(0, 1, caller);
	}
	SPI_finish();
	CdpRestoreUser(&saved);
	if (released != NULL)
		PG_RETURN_TEXT_P(released);
	if (n == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("no entry \"%s\" is held", text_to_cstring(target)),
				 errhint("Entries that are held are in cdp.rejected.")));
	if (n > 1)
		ereport(ERROR,
				(errcode(ERRCODE_AMBIGUOUS_PARAMETER),
				 errmsg("several sources have an entry \"%s\" that is held",
						text_to_cstring(target)),
				 errhint("Name the source.")));
	if (!PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("entry \"%s\" is not held for its properties", text_to_cstring(target)),
				 errhint("Release it without properties.")));
	PG_RETURN_TEXT_P(CdpLogAppend("release", NULL, NULL,
								  decision_properties(NULL, target), NULL,
								  NULL, NULL, source));
}
