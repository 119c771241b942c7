/*-------------------------------------------------------------------------
 *
 * reference.c
 *	  Payloads that are not copied: entries of tables that are attached with
 *	  copy => false.
 *
 *	  Such an entry has in the place of its properties a reference,
 *	  {"$row": key of the row}.  The row is looked up by its primary key and
 *	  mapped again when somebody wants the properties, many at a time, by the
 *	  code that mapped it when it was logged.  What it says counts only if
 *	  cdp.attached_rows has the hash of just that for just that entry: so an
 *	  entry has either the payload that it was logged with, or none that can
 *	  be read; never another one, and nobody makes up a reference.
 *
 *	  None can be read when the row has changed since.  The trigger has logged
 *	  an undo of the entry then, and what an undo takes away is computed anew
 *	  without a look at what the entry said.  Nor can any be read while the
 *	  table is away, locked or not what it was.  When the applier meets such an
 *	  entry it notes the attachment in cdp.unread_attachments, and the next
 *	  comparison logs all rows anew, so that whatever was computed without them
 *	  is computed again.
 *
 * IDENTIFICATION
 *	  src/collect/reference.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/sysattr.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "cdp.h"
#include "collect/attach.h"
#include "compat.h"
#include "statement.h"

PG_FUNCTION_INFO_V1(cdp_entry_properties);
PG_FUNCTION_INFO_V1(cdp_entries_properties);

#define REFERENCE_KEY "$row"

/* Rows that are looked up in one query. */
#define CHUNK 5000

/* How long a lock is waited for, in ms, unless lock_timeout is shorter. */
#define MAX_WAIT 1000

static CdpStatement attachment_of_source = {
	"SELECT a.name FROM cdp.attachment_definitions a WHERE a.source = $1 AND NOT a.copy",
	{ "text" }
};

static CdpStatement same_as_logged = {
	"SELECT r.entry, i.properties FROM " CDP_ROWS_NAME " AS i"
	" CROSS JOIN LATERAL (SELECT r.entry FROM cdp.attached_rows r"
	" WHERE r.attachment = $1 AND r.key = i.key AND r.hash = i.hash OFFSET 0) AS r",
	{ "int4" }
};

/* entries that count for their rows, and could not be read */
static CdpStatement note_unread = {
	"INSERT INTO cdp.unread_attachments SELECT $1 WHERE EXISTS ("
	"SELECT FROM (SELECT unnest($2) AS key, unnest($3) AS entry) AS u"
	" JOIN cdp.attached_rows r ON r.attachment = $1 AND r.key = u.key AND r.entry = u.entry)"
	" AND NOT EXISTS (SELECT FROM cdp.unread_attachments n WHERE n.attachment = $1)",
	{ "int4", "bytea[]", "int8[]" }
};

/* what entries have in the log now */
static CdpStatement read_again = {
	"SELECT u.place, e.properties FROM"
	" (SELECT unnest($1) AS place, unnest($2) AS xid, unnest($3) AS id, unnest($4) AS received_at) AS u"
	" JOIN cdp.events e ON e.xid = u.xid AND e.id = u.id AND e.received_at = u.received_at",
	{ "int4[]", "int8[]", "int8[]", "timestamptz[]" }
};

/* A reference in an entry, and what was read for it. */
typedef struct Reference
{
	int64 entry;
	text *source;
	text *key;
	int place; /* of the entry among those that are asked for */
	bool ours; /* its source does not copy */
	bool locked; /* somebody else's lock is in the way */
	Jsonb *properties; /* NULL when they cannot be read */
} Reference;

/*
 * A reference to the row with this key; NULL when the key is too long for one.
 */
Jsonb *
CdpReferenceMake(text *key)
{
	JsonbParseState *state = NULL;
	JsonbValue value = { .type = jbvString };

	if (VARSIZE_ANY_EXHDR(key) > CDP_MAX_REFERENCE / 2)
		return NULL;
	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	value.val.string.val = REFERENCE_KEY;
	value.val.string.len = strlen(REFERENCE_KEY);
	(void) pushJsonbValue(&state, WJB_KEY, &value);
	value.val.string.val = VARDATA_ANY(key);
	value.val.string.len = VARSIZE_ANY_EXHDR(key);
	(void) pushJsonbValue(&state, WJB_VALUE, &value);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/*
 * The key in a reference; NULL when it is none.
 */
text *
CdpReferenceKey(const Jsonb *json)
{
	JsonbValue value;

	if (!JB_ROOT_IS_OBJECT(json) || JB_ROOT_COUNT(json) != 1 ||
		getKeyJsonValueFromContainer(unconstify(JsonbContainer *, &json->root), REFERENCE_KEY,
									 strlen(REFERENCE_KEY), &value) == NULL ||
		value.type != jbvString)
		return NULL;
	return cstring_to_text_with_len(value.val.string.val, value.val.string.len);
}

/*
 * The columns of a row as ROW(…)::text writes it; NULL if it does not.
 */
static List *
columns_of_key(const char *text)
{
	List *columns = NIL;
	StringInfoData buf;
	const char *p = text + 1;

	if (text[0] != '(')
		return NIL;
	do
	{
		bool quoted = false;

		initStringInfo(&buf);
		for (; *p != '\0' && (quoted || (*p != ',' && *p != ')')); p++)
		{
			if (*p == '"' && quoted && p[1] == '"')
				appendStringInfoChar(&buf, *++p);
			else if (*p == '"')
				quoted = !quoted;
			else if (*p == '\\' && p[1] != '\0')
				appendStringInfoChar(&buf, *++p);
			else
				appendStringInfoChar(&buf, *p);
		}
		columns = lappend(columns, buf.data);
	} while (*p++ == ',');
	return columns;
}

/*
 * The rows with these keys as a FROM item whose arguments are the values of
 * each column of the primary key; NULL when there is nothing to look for.
 */
static char *
rows_with_keys(Oid relid, const char *relation, Reference *references, int n,
			   Datum **keys, int *nkeys)
{
	Oid constraint;
	Bitmapset *columns = get_primary_key_attnos(relid, true, &constraint);
	int ncolumns = bms_num_members(columns);
	ArrayBuildState **values = palloc0_array(ArrayBuildState *, ncolumns);
	StringInfoData matches;
	StringInfoData arrays;
	Oid index;
	int column = -1;

	*keys = palloc_array(Datum, Max(ncolumns, 1));
	*nkeys = ncolumns;
	if (ncolumns == 0)
		return NULL;
	for (int i = 0; i < n; i++)
	{
		char *key = text_to_cstring(references[i].key);
		List *parts = ncolumns == 1 ? list_make1(key) : columns_of_key(key);

		if (list_length(parts) == ncolumns)
			for (int c = 0; c < ncolumns; c++)
				values[c] = accumArrayResult(values[c], CStringGetTextDatum(list_nth(parts, c)),
											 false, TEXTOID, CurrentMemoryContext);
	}
	if (values[0] == NULL)
		return NULL;
	index = get_constraint_index(constraint);
	initStringInfo(&matches);
	initStringInfo(&arrays);
	for (int c = 0; (column = bms_next_member(columns, column)) >= 0; c++)
	{
		AttrNumber number = column + FirstLowInvalidHeapAttributeNumber;
		/* char and bit of any length */
		const char *value = psprintf("u.c%d::%s", c,
									 format_type_extended(get_atttype(relid, number), -1, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));

		if (!CdpMappingSameKey(&matches, relid, index, number, value))
			return NULL;
		appendStringInfo(&arrays, "%sunnest($%d) AS c%d", c > 0 ? ", " : "", c + 1, c);
		(*keys)[c] = makeArrayResult(values[c], CurrentMemoryContext);
	}
	return psprintf("(SELECT k.* FROM %s AS k WHERE EXISTS (SELECT FROM (SELECT %s) AS u WHERE %s)) AS r",
					relation, arrays.data, matches.data);
}

static int
reference_order(const void *a, const void *b)
{
	const Reference *x = a;
	const Reference *y = b;
	Size len_x = VARSIZE_ANY_EXHDR(x->source);
	Size len_y = VARSIZE_ANY_EXHDR(y->source);
	int cmp;

	if (len_x != len_y)
		return len_x < len_y ? -1 : 1;
	cmp = memcmp(VARDATA_ANY(x->source), VARDATA_ANY(y->source), len_x);
	if (cmp != 0)
		return cmp;
	return x->entry < y->entry ? -1 : x->entry > y->entry ? 1 :
															0;
}

static int
entry_order(const void *a, const void *b)
{
	int64 x = *(const int64 *) a;
	int64 y = ((const Reference *) b)->entry;

	return x < y ? -1 : x > y ? 1 :
								0;
}

/*
 * Take what has been read for references if it is what was logged.
 */
static void
take_rows(CdpCapture *capture, Reference *references, int n, MemoryContext context)
{
	Datum arg = Int32GetDatum(capture->attachment->id);
	CdpUserContext saved;

	CdpBecomeOwner(&saved);
	CdpCaptureRegister(capture);
	CdpPrepare(&same_as_logged);
	if (SPI_execute_snapshot(same_as_logged.plan, &arg, NULL, capture->moment,
							 InvalidSnapshot, true, false, 0) < 0)
		elog(ERROR, "could not compare rows with what was logged");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		int64 entry = CdpCellInt8(i, 1);
		Reference *found = bsearch(&entry, references, n, sizeof(Reference), entry_order);
		bool isnull;
		Datum properties = CdpCell(i, 2, &isnull);

		if (found != NULL && !isnull)
		{
			MemoryContext old = MemoryContextSwitchTo(context);

			found->properties = DatumGetJsonbPCopy(properties);
			MemoryContextSwitchTo(old);
		}
	}
	SPI_freetuptable(SPI_tuptable);
	CdpCaptureUnregister();
	CdpRestoreUser(&saved);
}

/*
 * Read the rows of references of one attachment, in halves if one of them
 * cannot be mapped; false when the table is locked.
 */
static bool
read_rows(CdpAttachment *attachment, Oid relid, const char *primary, Snapshot snapshot,
		  Reference *references, int n, MemoryContext context)
{
	CdpCapture capture;
	Datum *keys;
	int nkeys;
	char *from = rows_with_keys(relid, attachment->relation, references, n, &keys, &nkeys);
	int sqlstate;
	bool hopeless;

	CHECK_FOR_INTERRUPTS();
	if (from == NULL)
		return true;
	CdpCaptureBegin(&capture, attachment);
	capture.whole = true;
	capture.moment = snapshot;
	sqlstate = CdpCaptureTry(&capture, relid, primary, from, NULL, keys, nkeys);
	if (sqlstate == 0)
	{
		take_rows(&capture, references, n, context);
		CdpCaptureEnd(&capture);
		return true;
	}
	hopeless = n == 1 || sqlstate == ERRCODE_LOCK_NOT_AVAILABLE ||
		CdpCaptureTry(&capture, relid, primary, from, "false", keys, nkeys) != 0;
	CdpCaptureEnd(&capture);
	if (hopeless)
		return sqlstate != ERRCODE_LOCK_NOT_AVAILABLE;
	return read_rows(attachment, relid, primary, snapshot, references, n / 2, context) &&
		read_rows(attachment, relid, primary, snapshot, references + n / 2, n - n / 2, context);
}

/*
 * Has the applier read none for an entry that counts for its row?
 */
static void
note(CdpAttachment *attachment, Reference *references, int n)
{
	Datum *keys = palloc(sizeof(Datum) * n);
	Datum *entries = palloc(sizeof(Datum) * n);
	Datum args[3];
	CdpUserContext saved;
	int kept = 0;

	for (int i = 0; i < n; i++)
	{
		if (references[i].properties != NULL)
			continue;
		keys[kept] = CdpAttachedKey(references[i].key);
		entries[kept++] = Int64GetDatum(references[i].entry);
	}
	if (kept == 0)
		return;
	args[0] = Int32GetDatum(attachment->id);
	args[1] = CdpVarlenaArray(keys, NULL, kept, BYTEAOID);
	args[2] = PointerGetDatum(construct_array(entries, kept, INT8OID, sizeof(int64),
											  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	CdpBecomeOwner(&saved);
	CdpRun(&note_unread, args, NULL);
	CdpRestoreUser(&saved);
}

/*
 * Read the references of one source, which are in order of their entries.
 */
static void
read_source(Reference *references, int n, Snapshot snapshot, MemoryContext context)
{
	CdpUserContext saved;
	CdpAttachment *attachment = NULL;
	Datum arg = PointerGetDatum(references[0].source);
	bool isnull;
	Oid relid;
	const char *primary;

	CdpBecomeOwner(&saved);
	CdpPrepare(&attachment_of_source);
	if (SPI_execute_snapshot(attachment_of_source.plan, &arg, NULL, snapshot,
							 InvalidSnapshot, true, false, 1) < 0)
		elog(ERROR, "could not look for the attachment of a source");
	if (SPI_processed > 0)
	{
		char *name = TextDatumGetCString(CdpCell(0, 1, &isnull));

		SPI_freetuptable(SPI_tuptable);
		attachment = CdpAttachmentGet(name, true);
	}
	CdpRestoreUser(&saved);
	if (attachment == NULL)
		return;

	for (int i = 0; i < n; i++)
		references[i].ours = true;
	relid = OidIsValid(attachment->role) ? CdpAttachedRelation(attachment) : InvalidOid;
	primary = OidIsValid(relid) ? CdpMappingPrimaryKey(relid, true) : NULL;
	if (primary != NULL)
	{
		int nest_level = NewGUCNestLevel();

		/* whoever keeps the table locked does not keep the applier from the rest ... */
		if (LockTimeout == 0 || LockTimeout > MAX_WAIT)
			(void) set_config_option("lock_timeout", CppAsString2(MAX_WAIT), PGC_USERSET,
									 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
		/* ... and is not waited for a second time */
		for (int i = 0; i < n && !references[0].locked; i += CHUNK)
			references[0].locked = !read_rows(attachment, relid, primary, snapshot,
											  references + i, Min(CHUNK, n - i), context);
		AtEOXact_GUC(true, nest_level);
	}
	if (CdpApplierLockMine() && !CdpStatementsReadOnly)
		note(attachment, references, n);
}

/*
 * Read references of any sources.
 */
static void
read_references(Reference *references, int n, Snapshot snapshot, MemoryContext context)
{
	int end;

	SPI_connect();
	snapshot = RegisterSnapshot(snapshot);
	qsort(references, n, sizeof(Reference), reference_order);
	for (int i = 0; i < n; i = end)
	{
		Reference first = references[i];

		first.entry = PG_INT64_MAX;
		for (end = i + 1; end < n && reference_order(&references[end], &first) <= 0; end++)
			;
		read_source(references + i, end - i, snapshot, context);
	}
	UnregisterSnapshot(snapshot);
	SPI_finish();
}

static Jsonb *
nothing(void)
{
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
}

static void
set_properties(CdpEntry *entry, Jsonb *properties)
{
	entry->properties = properties;
	entry->values[CDP_EVENTS_PROPERTIES] = JsonbPGetDatum(properties);
}

/*
 * What seems to be a reference, and is not to a table that is attached without
 * copying: the attachment may have ended since the entry was looked at, and its
 * payload been copied.
 */
static void
look_again(CdpEntry **entries, Reference *references, int n, MemoryContext context)
{
	int32 *places = palloc(sizeof(int32) * n);
	int64 *xids = palloc(sizeof(int64) * n);
	int64 *ids = palloc(sizeof(int64) * n);
	TimestampTz *received = palloc(sizeof(TimestampTz) * n);
	Datum args[4];
	int kept = 0;

	for (int i = 0; i < n; i++)
	{
		CdpEntry *entry = entries[references[i].place];

		if (references[i].ours)
			continue;
		places[kept] = references[i].place;
		xids[kept] = entry->xid;
		ids[kept] = entry->id;
		received[kept++] = entry->received_at;
	}
	if (kept == 0)
		return;
	SPI_connect();
	args[0] = CdpInt4Array(places, kept);
	args[1] = CdpInt8Array(xids, kept);
	args[2] = CdpInt8Array(ids, kept);
	args[3] = CdpTimestampArray(received, kept);
	CdpRun(&read_again, args, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool isnull;
		int32 place = DatumGetInt32(CdpCell(i, 1, &isnull));
		Datum properties = CdpCell(i, 2, &isnull);

		if (!isnull)
		{
			MemoryContext old = MemoryContextSwitchTo(context);

			set_properties(entries[place], DatumGetJsonbPCopy(properties));
			MemoryContextSwitchTo(old);
		}
	}
	SPI_finish();
}

/*
 * Put the properties in the place of references, into the current context.
 * Those that cannot be read are {}, and the entry is unread.
 */
void
CdpEntriesRead(CdpEntry **entries, int n)
{
	MemoryContext context = CurrentMemoryContext;
	Reference *references = NULL;
	int count = 0;

	for (int i = 0; i < n; i++)
	{
		text *key = entries[i]->properties ? CdpReferenceKey(entries[i]->properties) : NULL;

		if (key == NULL)
			continue;
		if (references == NULL)
			references = palloc_extended(sizeof(Reference) * (n - i), MCXT_ALLOC_HUGE);
		references[count++] = (Reference){ .entry = entries[i]->id, .source = entries[i]->source, .key = key, .place = i };
	}
	if (count == 0)
		return;
	read_references(references, count,
					CdpStatementsReadOnly ? GetActiveSnapshot() : GetTransactionSnapshot(),
					context);
	for (int i = 0; i < count; i++)
	{
		CdpEntry *entry = entries[references[i].place];

		if (!references[i].ours)
			continue;
		entry->referenced = true;
		entry->unread = references[i].properties == NULL;
		set_properties(entry, entry->unread ? nothing() : references[i].properties);
	}
	look_again(entries, references, count, context);
	pfree(references);
}

void
CdpEntriesReadAll(CdpEntry *entries, int n)
{
	CdpEntry **pointers = NULL;
	int count = 0;

	for (int i = 0; i < n; i++)
	{
		if (entries[i].properties == NULL || CdpReferenceKey(entries[i].properties) == NULL)
			continue;
		if (pointers == NULL)
			pointers = palloc_extended(sizeof(CdpEntry *) * (n - i), MCXT_ALLOC_HUGE);
		pointers[count++] = &entries[i];
	}
	if (count == 0)
		return;
	CdpEntriesRead(pointers, count);
	pfree(pointers);
}

bool
CdpEntryUnknown(const CdpEntry *entry)
{
	return entry->unread ||
		(entry->properties != NULL && CdpReferenceKey(entry->properties) != NULL);
}

/*
 * Sources whose tables were locked when a statement asked for one of their
 * rows: it does not wait a second time.
 */
typedef struct LockedSources
{
	TimestampTz statement;
	List *sources; /* text * */
} LockedSources;

static bool
was_locked(LockedSources *locked, text *source)
{
	ListCell *cell;

	if (locked == NULL || locked->statement != GetCurrentStatementStartTimestamp())
		return false;
	foreach(cell, locked->sources)
		if (DatumGetBool(DirectFunctionCall2Coll(texteq, C_COLLATION_OID,
												 PointerGetDatum(lfirst(cell)), PointerGetDatum(source))))
			return true;
	return false;
}

static void
note_locked(FmgrInfo *flinfo, text *source)
{
	LockedSources *locked = flinfo->fn_extra;
	MemoryContext old = MemoryContextSwitchTo(flinfo->fn_mcxt);

	if (locked == NULL)
		flinfo->fn_extra = locked = palloc0(sizeof(LockedSources));
	if (locked->statement != GetCurrentStatementStartTimestamp())
	{
		list_free_deep(locked->sources);
		locked->sources = NIL;
		locked->statement = GetCurrentStatementStartTimestamp();
	}
	locked->sources = lappend(locked->sources, DatumGetTextPCopy(PointerGetDatum(source)));
	MemoryContextSwitchTo(old);
}

Jsonb *
CdpReferenceRead(Jsonb *properties, text *source, int64 entry, FmgrInfo *flinfo)
{
	Reference reference = { .source = source, .entry = entry };

	reference.key = CdpReferenceKey(properties);
	if (reference.key == NULL)
		return properties;
	if (was_locked(flinfo->fn_extra, source))
		return nothing();
	read_references(&reference, 1, GetActiveSnapshot(), CurrentMemoryContext);
	if (reference.locked)
		note_locked(flinfo, source);
	if (!reference.ours)
		return properties;
	return reference.properties ? reference.properties : nothing();
}

/*
 * cdp.entry_properties(properties jsonb, source text, entry bigint) returns jsonb
 */
Datum
cdp_entry_properties(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	/* most properties need not be looked into */
	if (PG_ARGISNULL(1) || PG_ARGISNULL(2) ||
		toast_raw_datum_size(PG_GETARG_DATUM(0)) > CDP_MAX_REFERENCE)
		PG_RETURN_DATUM(PG_GETARG_DATUM(0));
	PG_RETURN_JSONB_P(CdpReferenceRead(PG_GETARG_JSONB_P(0), PG_GETARG_TEXT_PP(1),
									   PG_GETARG_INT64(2), fcinfo->flinfo));
}

/*
 * cdp.entries_properties(properties jsonb[], sources text[], entries bigint[])
 *		returns setof record (entry bigint, said jsonb)
 */
Datum
cdp_entries_properties(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Reference *references;
	Datum *columns[3];
	bool *isnull[3];
	int n[3];
	int count = 0;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < 3; i++)
	{
		ArrayType *array = PG_GETARG_ARRAYTYPE_P(i);

		if (i == 2)
			deconstruct_array(array, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
							  &columns[i], &isnull[i], &n[i]);
		else
			deconstruct_array(array, ARR_ELEMTYPE(array), -1, false, TYPALIGN_INT,
							  &columns[i], &isnull[i], &n[i]);
	}
	if (n[1] != n[0] || n[2] != n[0])
		elog(ERROR, "arrays are not of the same length");
	references = palloc_extended(sizeof(Reference) * Max(n[0], 1), MCXT_ALLOC_HUGE);
	for (int i = 0; i < n[0]; i++)
	{
		text *key;

		if (isnull[0][i] || isnull[1][i] || isnull[2][i])
			continue;
		key = CdpReferenceKey(DatumGetJsonbP(columns[0][i]));
		if (key != NULL)
			references[count++] = (Reference){ .entry = DatumGetInt64(columns[2][i]), .source = DatumGetTextPP(columns[1][i]), .key = key };
	}
	if (count > 0)
		read_references(references, count, GetActiveSnapshot(), CurrentMemoryContext);
	for (int i = 0; i < count; i++)
	{
		Datum values[2];
		bool nulls[2] = { 0 };

		if (!references[i].ours)
			continue;
		values[0] = Int64GetDatum(references[i].entry);
		values[1] = JsonbPGetDatum(references[i].properties ? references[i].properties : nothing());
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
