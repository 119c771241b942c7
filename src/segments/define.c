/*-------------------------------------------------------------------------
 *
 * define.c
 *	  create_segment, alter_segment, rename_segment, drop_segment.
 *
 *	  Order in every call: the applier's lock, then snapshots.  Texts are
 *	  checked as the caller, tables are written as the extension's owner.  The
 *	  hook at the end fills traits and memberships from history, in the same
 *	  transaction.
 *
 * IDENTIFICATION
 *	  src/segments/define.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgtime.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"

#include "cdp.h"
#include "segments/predicate.h"

/* A definition as written. */
typedef struct Definition
{
	int32		id;				/* 0: not stored yet */
	char	   *name;
	char	   *predicate;
	char	   *exit_when;		/* NULL: none */
	char	   *timezone;
	char	   *description;	/* NULL: none */
	Jsonb	   *options;
	char	   *owner;
	bool		enabled;
} Definition;

static char *
text_argument(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));
}

static char *
required_argument(FunctionCallInfo fcinfo, int n, const char *name)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", name)));
	return text_argument(fcinfo, n);
}

static void
check_name(const char *name)
{
	bool		good = strlen(name) <= CDP_SEGMENT_NAME_MAX &&
		(name[0] == '_' || (name[0] >= 'a' && name[0] <= 'z'));

	for (const char *c = name; *c && good; c++)
		good = *c == '_' || (*c >= 'a' && *c <= 'z') || (*c >= '0' && *c <= '9');
	if (!good)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid name of a segment: \"%s\"", name),
				 errdetail("A name consists of at most %d lower-case letters, digits and underscores and does not begin with a digit.",
						   CDP_SEGMENT_NAME_MAX)));
}

static void
check_timezone(const char *timezone)
{
	pg_tz	   *tz = pg_tzset(timezone);

	if (tz == NULL || !pg_tz_acceptable(tz))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone \"%s\" not recognized", timezone)));
}

static void
check_options(Jsonb *options)
{
	JsonbIterator *iterator;
	JsonbValue	value;

	if (!JB_ROOT_IS_OBJECT(options))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options of a segment must be a JSON object")));
	iterator = JsonbIteratorInit(&options->root);
	while (JsonbIteratorNext(&iterator, &value, true) != WJB_DONE)
	{
		if (value.type == jbvString)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unrecognized option \"%s\" of a segment",
							pnstrdup(value.val.string.val, value.val.string.len)),
					 errdetail("Segments have no options in this version.")));
	}
}

/*
 * What every call does first.
 */
static void
begin_definition(void)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("segments cannot be changed in a transaction of isolation level REPEATABLE READ or SERIALIZABLE"),
				 errhint("Use READ COMMITTED.")));
	CdpApplierLock();
}

/* ---- rows ---- */

static Datum
ints_datum(const int32 *values, int n)
{
	Datum	   *elements = palloc(Max(n, 1) * sizeof(Datum));

	for (int i = 0; i < n; i++)
		elements[i] = Int32GetDatum(values[i]);
	return PointerGetDatum(construct_array(elements, n, INT4OID, 4, true, TYPALIGN_INT));
}

static Datum
list_datum(const List *list)
{
	int32	   *values = palloc(Max(list_length(list), 1) * sizeof(int32));
	ListCell   *lc;
	int			n = 0;

	foreach(lc, list)
		values[n++] = lfirst_int(lc);
	return ints_datum(values, n);
}

static Datum
texts_datum(char **values, int n)
{
	Datum	   *elements = palloc(Max(n, 1) * sizeof(Datum));

	for (int i = 0; i < n; i++)
		elements[i] = CStringGetTextDatum(values[i]);
	return PointerGetDatum(construct_array(elements, n, TEXTOID, -1, false, TYPALIGN_INT));
}

/*
 * Run a statement as the extension's owner with up to two arguments: a
 * segment's id and a text.  Returns the number of rows.
 */
static uint64
execute_as_owner(const char *sql, int32 id, const char *string)
{
	Oid			types[] = {INT4OID, TEXTOID};
	Datum		values[2];
	CdpUserContext saved;
	uint64		processed;

	values[0] = Int32GetDatum(id);
	values[1] = string ? CStringGetTextDatum(string) : (Datum) 0;
	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args(sql, string ? 2 : 1, types, values, NULL, false, 0) < 0)
		elog(ERROR, "could not execute \"%s\"", sql);
	processed = SPI_processed;
	SPI_finish();
	CdpRestoreUser(&saved);
	return processed;
}

/*
 * Read integers, the first column of a query about a segment.
 */
static List *
list_as_owner(const char *sql, int32 id)
{
	Oid			types[] = {INT4OID};
	Datum		values[1];
	CdpUserContext saved;
	MemoryContext context = CurrentMemoryContext;
	List	   *result = NIL;

	values[0] = Int32GetDatum(id);
	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args(sql, 1, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not execute \"%s\"", sql);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		int32		value = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i],
														SPI_tuptable->tupdesc, 1, &isnull));
		MemoryContext oldcontext = MemoryContextSwitchTo(context);

		result = lappend_int(result, value);
		MemoryContextSwitchTo(oldcontext);
	}
	SPI_finish();
	CdpRestoreUser(&saved);
	return result;
}

/*
 * Read a definition; false when there is none of that name.
 */
static bool
read_definition(const char *name, Definition *out)
{
	Oid			types[] = {TEXTOID};
	Datum		values[1];
	CdpUserContext saved;
	MemoryContext context = CurrentMemoryContext;
	bool		found;

	memset(out, 0, sizeof(Definition));
	values[0] = CStringGetTextDatum(name);
	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args("SELECT id, name, predicate, exit_when, timezone, description,"
							  " options, owner, enabled"
							  " FROM cdp.segment_definitions WHERE name = $1",
							  1, types, values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the definition of a segment");
	found = SPI_processed > 0;
	if (found)
	{
		HeapTuple	tuple = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		MemoryContext oldcontext = MemoryContextSwitchTo(context);
		bool		isnull;

		out->id = DatumGetInt32(SPI_getbinval(tuple, desc, 1, &isnull));
		out->name = SPI_getvalue(tuple, desc, 2);
		out->predicate = SPI_getvalue(tuple, desc, 3);
		out->exit_when = SPI_getvalue(tuple, desc, 4);
		out->timezone = SPI_getvalue(tuple, desc, 5);
		out->description = SPI_getvalue(tuple, desc, 6);
		out->options = DatumGetJsonbPCopy(SPI_getbinval(tuple, desc, 7, &isnull));
		out->owner = SPI_getvalue(tuple, desc, 8);
		out->enabled = DatumGetBool(SPI_getbinval(tuple, desc, 9, &isnull));
		MemoryContextSwitchTo(oldcontext);
	}
	SPI_finish();
	CdpRestoreUser(&saved);
	return found;
}

/*
 * Read a definition that must exist and that the caller may change: he owns
 * it, or he is a superuser.  What nobody owns any more only the owner of the
 * extension and superusers may change.
 */
static void
read_own_definition(const char *name, Definition *out)
{
	Oid			owner;

	if (!read_definition(name, out))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("segment \"%s\" does not exist", name)));
	owner = get_role_oid(out->owner, true);
	if (!OidIsValid(owner))
		owner = CdpExtensionOwner();
	if (!has_privs_of_role(GetUserId(), owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of segment \"%s\"", name)));
}

/* ---- writing ---- */

/*
 * Refuse a definition that would refer to itself, and say how.
 */
static void
check_cycle(const Definition *definition, const CdpReferences *references)
{
	static const char *const reaches =
		"WITH RECURSIVE r(id) AS ("
		" SELECT unnest($1) UNION"
		" SELECT unnest(d.segment_ids) FROM r JOIN cdp.segment_definitions d ON d.id = r.id)"
		" SELECT 1 FROM r WHERE id = $2";
	static const char *const path =
		"WITH RECURSIVE w(id, path, ids) AS ("
		" SELECT d.id, ARRAY[$3, d.name], ARRAY[d.id]"
		" FROM cdp.segment_definitions d WHERE d.id = ANY ($1)"
		" UNION ALL"
		" SELECT d.id, w.path || d.name, w.ids || d.id FROM w"
		" JOIN cdp.segment_definitions p ON p.id = w.id"
		" JOIN cdp.segment_definitions d ON d.id = ANY (p.segment_ids)"
		" WHERE w.id <> $2 AND d.id <> ALL (w.ids))"
		" SELECT array_to_string(path, ' -> ') FROM w WHERE id = $2 LIMIT 1";
	Oid			types[] = {INT4ARRAYOID, INT4OID, TEXTOID};
	Datum		values[3];
	CdpUserContext saved;

	if (references->segment_ids == NIL || definition->id == 0)
		return;
	values[0] = list_datum(references->segment_ids);
	values[1] = Int32GetDatum(definition->id);
	values[2] = CStringGetTextDatum(definition->name);
	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args(reaches, 2, types, values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for a cycle of segments");
	if (SPI_processed > 0)
	{
		if (SPI_execute_with_args(path, 3, types, values, NULL, false, 1) != SPI_OK_SELECT ||
			SPI_processed == 0)
			elog(ERROR, "could not name a cycle of segments");
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("segment \"%s\" would depend on itself", definition->name),
				 errdetail("The cycle is %s.",
						   SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1))));
	}
	SPI_finish();
	CdpRestoreUser(&saved);
}

static void
write_definition(Definition *definition, const CdpReferences *references)
{
	static const char *const insert =
		"INSERT INTO cdp.segment_definitions (name, predicate, exit_when, timezone,"
		" description, options, owner, channel, enabled,"
		" terms, trait_names, trait_ids, segment_ids)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"
		" RETURNING id";
	static const char *const update =
		"UPDATE cdp.segment_definitions SET name = $1, predicate = $2, exit_when = $3,"
		" timezone = $4, description = $5, options = $6, owner = $7, channel = $8,"
		" enabled = $9, terms = $10, trait_names = $11, trait_ids = $12,"
		" segment_ids = $13, altered_at = cdp.clock()"
		" WHERE id = $14 RETURNING id";
	Oid			types[] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, JSONBOID,
		TEXTOID, TEXTOID, BOOLOID, INT4ARRAYOID, TEXTARRAYOID, INT4ARRAYOID,
	INT4ARRAYOID, INT4OID};
	Datum		values[14];
	char		nulls[15] = "              ";
	CdpUserContext saved;
	bool		isnull;

	values[0] = CStringGetTextDatum(definition->name);
	values[1] = CStringGetTextDatum(definition->predicate);
	values[2] = (Datum) 0;
	if (definition->exit_when != NULL)
		values[2] = CStringGetTextDatum(definition->exit_when);
	else
		nulls[2] = 'n';
	values[3] = CStringGetTextDatum(definition->timezone);
	values[4] = (Datum) 0;
	if (definition->description != NULL)
		values[4] = CStringGetTextDatum(definition->description);
	else
		nulls[4] = 'n';
	values[5] = JsonbPGetDatum(definition->options);
	values[6] = CStringGetTextDatum(definition->owner);
	values[7] = CStringGetTextDatum(psprintf("%s%s", CDP_SEGMENT_CHANNEL, definition->name));
	values[8] = BoolGetDatum(definition->enabled);
	values[9] = ints_datum(references->terms, references->nterms);
	values[10] = texts_datum(references->names, references->nnames);
	values[11] = ints_datum(references->traits, references->nnames);
	values[12] = list_datum(references->segment_ids);
	values[13] = Int32GetDatum(definition->id);

	CdpBecomeOwner(&saved);
	SPI_connect();
	if (definition->id == 0)
	{
		if (SPI_execute_with_args(insert, 13, types, values, nulls, false, 0) !=
			SPI_OK_INSERT_RETURNING || SPI_processed != 1)
			elog(ERROR, "could not store the definition of a segment");
		definition->id = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0],
													 SPI_tuptable->tupdesc, 1, &isnull));
	}
	else if (SPI_execute_with_args(update, 14, types, values, nulls, false, 0) !=
			 SPI_OK_UPDATE_RETURNING || SPI_processed != 1)
		elog(ERROR, "could not store the definition of a segment");
	SPI_finish();
	CdpRestoreUser(&saved);
}

/*
 * A segment and those that refer to it, directly or not.
 */
static List *
with_dependents(int32 id)
{
	return list_as_owner("WITH RECURSIVE r(id) AS (SELECT $1 UNION"
						 " SELECT d.id FROM r"
						 " JOIN cdp.segment_definitions d ON r.id = ANY (d.segment_ids))"
						 " SELECT r.id FROM r ORDER BY r.id <> $1, r.id", id);
}

/*
 * Most of what marketing sends needs a name or an address.
 */
static void
notice_anonymous(const Definition *definition)
{
	if (execute_as_owner("SELECT FROM cdp.segment_members m"
						 " WHERE m.segment_id = $1 AND m.member"
						 " HAVING count(*) < 2 * count(*) FILTER (WHERE NOT EXISTS ("
						 " SELECT FROM cdp.identities i WHERE i.profile_id = m.profile_id"
						 " AND cdp.kind(i.identifier) IN ('user_id', 'email')))",
						 definition->id, NULL) > 0)
		ereport(NOTICE,
				(errmsg("more than half of the members of segment \"%s\" are anonymous",
						definition->name),
				 errdetail("Their profiles have neither a user_id nor an email identifier.")));
}

/*
 * Check the texts as the owner, who becomes the owner of what they need.
 */
static void
define_texts(const Definition *definition, CdpReferences *references, List **created)
{
	Oid			owner = get_role_oid(definition->owner, true);
	Oid			userid;
	int			sec_context;

	GetUserIdAndSecContext(&userid, &sec_context);
	if (OidIsValid(owner) && owner != userid)
		SetUserIdAndSecContext(owner, sec_context | SECURITY_LOCAL_USERID_CHANGE);
	CdpPredicateDefine(definition->predicate, definition->timezone, "predicate",
					   references, created);
	if (definition->exit_when != NULL)
		CdpPredicateDefine(definition->exit_when, definition->timezone, "exit_when",
						   references, created);
	SetUserIdAndSecContext(userid, sec_context);
}

/*
 * Check and store a definition, then let history decide who is in it.
 */
static void
store_definition(Definition *definition)
{
	CdpReferences references = {0};
	List	   *created = NIL;
	bool		is_new = definition->id == 0;
	CdpTraitSet *traits;
	CdpSegmentSet *set;

	define_texts(definition, &references, &created);
	check_cycle(definition, &references);
	write_definition(definition, &references);
	CdpDependsSet("segment", definition->id, references.trait_ids);
	if (!is_new)
		CdpHiddenTraitsPrune();
	CdpGenerationBump();

	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	traits = CdpTraitSetGet(-1);
	set = CdpSegmentSetGet(-1, traits);
	if (definition->enabled && CdpSegmentById(set, definition->id) == NULL)
		elog(ERROR, "segment \"%s\" was stored and cannot be read", definition->name);
	if (CdpBackfillHook != NULL)
		CdpBackfillHook(created, definition->enabled ? with_dependents(definition->id) : NIL);
	PopActiveSnapshot();
	if (is_new)
		notice_anonymous(definition);
}

static bool
same_text(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

/*
 * Store what differs from the old definition; recompute only when who is in
 * the segment may have changed.
 */
static void
store_changes(Definition *new, const Definition *old)
{
	Oid			types[] = {INT4OID, TEXTOID, JSONBOID, TEXTOID, BOOLOID};
	Datum		values[5];
	char		nulls[6] = "     ";
	CdpUserContext saved;

	if (!same_text(new->predicate, old->predicate) ||
		!same_text(new->exit_when, old->exit_when) ||
		!same_text(new->timezone, old->timezone) ||
		!same_text(new->owner, old->owner) ||
		(new->enabled && !old->enabled))
	{
		store_definition(new);
		return;
	}

	values[0] = Int32GetDatum(new->id);
	values[1] = (Datum) 0;
	if (new->description != NULL)
		values[1] = CStringGetTextDatum(new->description);
	else
		nulls[1] = 'n';
	values[2] = JsonbPGetDatum(new->options);
	values[3] = CStringGetTextDatum(new->owner);
	values[4] = BoolGetDatum(new->enabled);
	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args("UPDATE cdp.segment_definitions SET description = $2,"
							  " options = $3, owner = $4, enabled = $5,"
							  " altered_at = cdp.clock() WHERE id = $1",
							  5, types, values, nulls, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not store the definition of a segment");
	SPI_finish();
	CdpRestoreUser(&saved);
	CdpGenerationBump();
}

/* ---- functions ---- */

PG_FUNCTION_INFO_V1(cdp_create_segment);

/*
 * cdp.create_segment(name, predicate, entity, description, exit_when,
 * timezone, options, if_exists)
 */
Datum
cdp_create_segment(PG_FUNCTION_ARGS)
{
	Definition	definition = {0};
	Definition	existing;
	char	   *name = required_argument(fcinfo, 0, "name");
	char	   *predicate = required_argument(fcinfo, 1, "predicate");
	char	   *entity = required_argument(fcinfo, 2, "entity");
	char	   *if_exists = required_argument(fcinfo, 7, "if_exists");

	definition.name = name;
	definition.predicate = predicate;
	definition.description = text_argument(fcinfo, 3);
	definition.exit_when = text_argument(fcinfo, 4);
	definition.timezone = required_argument(fcinfo, 5, "timezone");
	definition.options = PG_ARGISNULL(6) ?
		DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"))) :
		PG_GETARG_JSONB_P(6);
	definition.enabled = true;
	definition.owner = GetUserNameFromId(GetUserId(), false);

	check_name(name);
	if (strcmp(entity, "account") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("segments of accounts are not supported yet")));
	if (strcmp(entity, "profile") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unrecognized entity \"%s\"", entity),
				 errhint("Segments are made of entity \"profile\".")));
	if (strcmp(if_exists, "error") != 0 && strcmp(if_exists, "replace") != 0 &&
		strcmp(if_exists, "skip") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unrecognized value \"%s\" of argument \"if_exists\"", if_exists),
				 errhint("It is error, replace or skip.")));
	check_timezone(definition.timezone);
	check_options(definition.options);

	begin_definition();
	if (read_definition(name, &existing))
	{
		if (strcmp(if_exists, "error") == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("segment \"%s\" already exists", name),
					 errhint("Use cdp.alter_segment(), or if_exists => 'replace'.")));
		if (strcmp(if_exists, "skip") == 0)
		{
			ereport(NOTICE,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("segment \"%s\" already exists, skipping", name)));
			PG_RETURN_VOID();
		}
		read_own_definition(name, &existing);
		definition.id = existing.id;
		definition.owner = existing.owner;
		definition.enabled = existing.enabled;
		store_changes(&definition, &existing);
		PG_RETURN_VOID();
	}
	store_definition(&definition);
	PG_RETURN_VOID();
}

/*
 * A new owner must be a role that the caller could have used himself.
 */
static char *
check_new_owner(const char *name)
{
	Oid			owner = get_role_oid(name, false);

	check_is_member_of_role(GetUserId(), owner);
	return pstrdup(name);
}

/*
 * The new value of a text that an empty string removes.
 */
static char *
removable_argument(FunctionCallInfo fcinfo, int n, char *old)
{
	char	   *new = text_argument(fcinfo, n);

	if (new == NULL)
		return old;
	return new[0] == '\0' ? NULL : new;
}

PG_FUNCTION_INFO_V1(cdp_alter_segment);

/*
 * cdp.alter_segment(name, predicate, description, exit_when, timezone,
 * options, enabled, owner): NULL leaves as it is, an empty text removes.
 */
Datum
cdp_alter_segment(PG_FUNCTION_ARGS)
{
	Definition	definition;
	Definition	old;
	char	   *name = required_argument(fcinfo, 0, "name");

	begin_definition();
	read_own_definition(name, &old);
	definition = old;
	if (!PG_ARGISNULL(1))
		definition.predicate = text_argument(fcinfo, 1);
	definition.description = removable_argument(fcinfo, 2, definition.description);
	definition.exit_when = removable_argument(fcinfo, 3, definition.exit_when);
	if (!PG_ARGISNULL(4))
	{
		definition.timezone = text_argument(fcinfo, 4);
		check_timezone(definition.timezone);
	}
	if (!PG_ARGISNULL(5))
	{
		definition.options = PG_GETARG_JSONB_P(5);
		check_options(definition.options);
	}
	if (!PG_ARGISNULL(6))
		definition.enabled = PG_GETARG_BOOL(6);
	if (!PG_ARGISNULL(7))
		definition.owner = check_new_owner(text_argument(fcinfo, 7));
	store_changes(&definition, &old);
	PG_RETURN_VOID();
}

/*
 * In a text of a dependent definition, replace the old name by the new one.
 * terms: ids by term, *next: its first term.
 */
static char *
rename_in_text(const char *text, const int32 *terms, int nterms, int *next,
			   int32 id, const char *old, const char *new, const char *dependent)
{
	StringInfoData out;
	const char *quoted = quote_literal_cstr(old);
	int			length = strlen(quoted);
	int			copied = 0;
	List	   *found = NIL;
	ListCell   *lc;

	foreach(lc, CdpVocabularyReplace(CdpParseRaw(text), text, NULL))
	{
		CdpTerm    *term = (CdpTerm *) lfirst(lc);

		if (*next >= nterms)
			elog(ERROR, "terms of a predicate do not fit its text");
		if (terms[(*next)++] == id && term->kind == CDP_TERM_SEGMENT)
			found = lappend_int(found, term->name_location);
	}
	list_sort(found, list_int_cmp);

	initStringInfo(&out);
	foreach(lc, found)
	{
		int			location = lfirst_int(lc);

		if (strncmp(text + location, quoted, length) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("segment \"%s\" cannot be renamed because \"%s\" writes its name in an unusual way",
							old, dependent),
					 errhint("Write in_segment(%s) there.", quoted)));
		appendBinaryStringInfo(&out, text + copied, location - copied);
		appendStringInfoString(&out, quote_literal_cstr(new));
		copied = location + length;
	}
	appendStringInfoString(&out, text + copied);
	return out.data;
}

/*
 * Segments refer to each other by id; their texts are kept in step.
 */
static void
rename_in_dependents(int32 id, const char *old, const char *new)
{
	Oid			types[] = {INT4OID, TEXTOID, TEXTOID};
	CdpUserContext saved;
	SPITupleTable *rows;
	uint64		nrows;
	Datum		values[3];

	values[0] = Int32GetDatum(id);
	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args("SELECT id, name, predicate, exit_when, terms"
							  " FROM cdp.segment_definitions WHERE $1 = ANY (segment_ids)",
							  1, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the dependents of a segment");
	rows = SPI_tuptable;
	nrows = SPI_processed;
	for (uint64 i = 0; i < nrows; i++)
	{
		HeapTuple	tuple = rows->vals[i];
		char	   *dependent = SPI_getvalue(tuple, rows->tupdesc, 2);
		char	   *exit_when = SPI_getvalue(tuple, rows->tupdesc, 4);
		char		nulls[4] = "   ";
		bool		isnull;
		ArrayType  *terms;
		int			next = 0;

		terms = DatumGetArrayTypeP(SPI_getbinval(tuple, rows->tupdesc, 5, &isnull));
		values[0] = SPI_getbinval(tuple, rows->tupdesc, 1, &isnull);
		values[1] = CStringGetTextDatum(rename_in_text(SPI_getvalue(tuple, rows->tupdesc, 3),
													   (int32 *) ARR_DATA_PTR(terms),
													   ArrayGetNItems(ARR_NDIM(terms),
																	  ARR_DIMS(terms)),
													   &next, id, old, new, dependent));
		values[2] = (Datum) 0;
		if (exit_when == NULL)
			nulls[2] = 'n';
		else
			values[2] = CStringGetTextDatum(rename_in_text(exit_when,
														   (int32 *) ARR_DATA_PTR(terms),
														   ArrayGetNItems(ARR_NDIM(terms),
																		  ARR_DIMS(terms)),
														   &next, id, old, new, dependent));
		if (SPI_execute_with_args("UPDATE cdp.segment_definitions SET predicate = $2,"
								  " exit_when = $3 WHERE id = $1",
								  3, types, values, nulls, false, 0) != SPI_OK_UPDATE)
			elog(ERROR, "could not rename a segment in its dependents");
	}
	SPI_finish();
	CdpRestoreUser(&saved);
}

PG_FUNCTION_INFO_V1(cdp_rename_segment);

/*
 * cdp.rename_segment(name, new_name)
 */
Datum
cdp_rename_segment(PG_FUNCTION_ARGS)
{
	char	   *name = text_argument(fcinfo, 0);
	char	   *new_name = text_argument(fcinfo, 1);
	Definition	definition;
	Definition	other;

	check_name(new_name);
	begin_definition();
	read_own_definition(name, &definition);
	if (read_definition(new_name, &other))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("segment \"%s\" already exists", new_name)));
	rename_in_dependents(definition.id, name, new_name);
	(void) execute_as_owner("UPDATE cdp.segment_definitions SET name = $2,"
							" channel = '" CDP_SEGMENT_CHANNEL "' || $2,"
							" altered_at = cdp.clock() WHERE id = $1",
							definition.id, new_name);
	CdpGenerationBump();
	PG_RETURN_VOID();
}

static void
drop_one(int32 id)
{
	(void) execute_as_owner("UPDATE cdp.identities i"
							" SET segments = array_remove(i.segments, $1)"
							" FROM cdp.segment_members m"
							" WHERE m.segment_id = $1 AND m.member"
							" AND i.node_id = m.profile_id", id, NULL);
	(void) execute_as_owner("DELETE FROM cdp.segment_members WHERE segment_id = $1",
							id, NULL);
	(void) execute_as_owner("DELETE FROM cdp.segment_errors WHERE segment_id = $1",
							id, NULL);
	(void) execute_as_owner("DELETE FROM cdp.segment_definitions WHERE id = $1",
							id, NULL);
	CdpDependsSet("segment", id, NIL);
}

PG_FUNCTION_INFO_V1(cdp_drop_segment);

/*
 * cdp.drop_segment(name, cascade)
 */
Datum
cdp_drop_segment(PG_FUNCTION_ARGS)
{
	char	   *name = text_argument(fcinfo, 0);
	bool		cascade = PG_GETARG_BOOL(1);
	Definition	definition;
	List	   *ids;
	ListCell   *lc;

	begin_definition();
	read_own_definition(name, &definition);
	ids = with_dependents(definition.id);
	if (list_length(ids) > 1)
	{
		CdpTraitSet *traits;
		CdpSegmentSet *set;
		StringInfoData names;

		PushActiveSnapshot(GetTransactionSnapshot());
		traits = CdpTraitSetGet(-1);
		set = CdpSegmentSetGet(-1, traits);
		PopActiveSnapshot();
		initStringInfo(&names);
		for_each_from(lc, ids, 1)
		{
			const char *dependent = CdpSegmentName(set, lfirst_int(lc));

			appendStringInfo(&names, "%s\"%s\"", names.len > 0 ? ", " : "",
							 dependent ? dependent : "?");
		}
		if (!cascade)
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("cannot drop segment \"%s\" because other segments refer to it",
							name),
					 errdetail("They are %s.", names.data),
					 errhint("Use cascade => true to drop them too.")));
		for_each_from(lc, ids, 1)
		{
			const char *dependent = CdpSegmentName(set, lfirst_int(lc));
			Definition	other;

			if (dependent != NULL)
				read_own_definition(dependent, &other);
		}
		ereport(NOTICE,
				(errmsg("drop cascades to segments %s", names.data)));
	}
	foreach(lc, ids)
		drop_one(lfirst_int(lc));
	CdpHiddenTraitsPrune();
	CdpGenerationBump();
	PG_RETURN_VOID();
}
