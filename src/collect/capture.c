/*-------------------------------------------------------------------------
 *
 * capture.c
 *	  Rows of attached tables: mapped, compared with what the log says of
 *	  them, and written to it.
 *
 *	  cdp.attached_rows knows for each row that was logged its key, the entry
 *	  that counts and a hash of what that entry says.  So a change of a row is
 *	  an undo of its entry and a new entry, a row that is gone is an undo, and a
 *	  row that says what it said before is nothing.  Whatever a table went
 *	  through, the entries of its source that count are its rows.
 *
 *	  A mapping is evaluated as the role that attached the table, in a
 *	  restricted operation and with settings of its own.  An error in it must
 *	  not stop the transaction that writes to the table: if the rows cannot be
 *	  mapped as a set, they are mapped one by one, and those that fail go to
 *	  cdp.rejected with what they hold.
 *
 * IDENTIFICATION
 *	  src/collect/capture.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "common/md5.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "collect/attach.h"
#include "collect/extract.h"
#include "compat.h"
#include "statement.h"

#define FETCH_SIZE 1000
#define MAX_PLANS 100

#define ROWS_NAME CDP_ROWS_NAME
#define GONE_NAME "cdp_gone"

typedef enum RowColumn
{
	ROW_KEY = 0,
	ROW_HASH,
	ROW_EVENT,
	ROW_IDENTIFIERS,
	ROW_PROPERTIES,
	ROW_TIME,
	ROW_NATTS
} RowColumn;

/* What could not be mapped. */
typedef struct Refused
{
	int sqlstate;
	char *detail;
	Jsonb *row;
} Refused;

/*
 * Plans of mappings' queries.  They live as long as the backend; a query names
 * everything that its plan depends on but the relation that r is.
 */
typedef struct MappingPlan
{
	Oid relid;
	char *query;
	SPIPlanPtr plan;
} MappingPlan;

static List *plans = NIL;

/*
 * Ids are drawn here and not by the column's default, for both tables get
 * them.  An undo counts only for what is earlier, hence its time.  Rows that
 * are known are found again where the join has seen them; one that is not there
 * any more, as keys need not be unique, is put like a new one.
 */
#define LOG_ROWS(which) \
	"WITH fresh AS MATERIALIZED (" \
	" SELECT nextval('cdp.events_id_seq') AS id, i.*," \
	" COALESCE(i.occurred_at, cdp.clock()) AS at," \
	" r.entry AS old_entry, r.at AS old_at, r.ctid AS place" \
	" FROM " which " AS i" \
	" LEFT JOIN cdp.attached_rows r ON r.attachment = $1 AND r.key = i.key" \
	" WHERE $4 OR r.hash IS DISTINCT FROM i.hash)," \
	" retracted AS (" \
	" INSERT INTO cdp.events (source, type, identifiers, properties, occurred_at)" \
	" SELECT $2, 'undo', '{}', jsonb_build_object('entry', '#' || f.old_entry)," \
	" GREATEST(cdp.clock(), f.old_at)" \
	" FROM fresh f WHERE f.old_entry IS NOT NULL)," \
	" logged AS (" \
	" INSERT INTO cdp.events (id, source, type, event, identifiers, properties, occurred_at)" \
	" SELECT f.id, $2, $3, f.event, f.identifiers, f.properties, f.at FROM fresh f)," \
	" renewed AS (" \
	" UPDATE cdp.attached_rows r" \
	" SET hash = f.hash, entry = f.id, at = CASE WHEN f.at > cdp.clock() THEN f.at END" \
	" FROM fresh f WHERE r.ctid = f.place RETURNING r.entry)," \
	" kept AS (" \
	" INSERT INTO cdp.attached_rows AS r (attachment, key, hash, entry, at)" \
	" SELECT $1, f.key, f.hash, f.id, CASE WHEN f.at > cdp.clock() THEN f.at END FROM fresh f" \
	" WHERE f.id NOT IN (SELECT n.entry FROM renewed n)" \
	" ON CONFLICT (attachment, key) DO UPDATE" \
	" SET hash = excluded.hash, entry = excluded.entry, at = excluded.at)" \
	" SELECT count(*), count(f.old_entry) FROM fresh f"

static CdpStatement log_rows = {
	LOG_ROWS(ROWS_NAME),
	{ "int4", "text", "text", "bool" }
};

/* what should be a key may not be one: the earliest row counts, and it is said */
static CdpStatement log_distinct_rows = {
	LOG_ROWS("(SELECT DISTINCT ON (d.key) d.* FROM " ROWS_NAME " AS d ORDER BY d.key, d.occurred_at, d.hash)"),
	{ "int4", "text", "text", "bool" }
};

static CdpStatement count_doubles = {
	"SELECT count(*) - count(DISTINCT d.key) FROM " ROWS_NAME " AS d",
	{ NULL }
};

#define RETRACT(which) \
	"WITH gone AS (" \
	" DELETE FROM cdp.attached_rows r " which \
	" RETURNING r.entry, r.at)," \
	" retracted AS (" \
	" INSERT INTO cdp.events (source, type, identifiers, properties, occurred_at)" \
	" SELECT $2, 'undo', '{}', jsonb_build_object('entry', '#' || g.entry)," \
	" GREATEST(cdp.clock(), g.at) FROM gone g)" \
	" SELECT count(*) FROM gone"

static CdpStatement retract_gone = {
	RETRACT("USING " GONE_NAME " AS o WHERE r.attachment = $1 AND r.key = o.key"),
	{ "int4", "text" }
};

static CdpStatement retract_others = {
	RETRACT("WHERE r.attachment = $1 AND NOT EXISTS"
			" (SELECT FROM " GONE_NAME " AS o WHERE o.key = r.key)"),
	{ "int4", "text" }
};

static CdpStatement retract_absent = {
	RETRACT("WHERE r.attachment = $1 AND NOT EXISTS"
			" (SELECT FROM " ROWS_NAME " AS i WHERE i.key = r.key)"),
	{ "int4", "text" }
};

/* when all rows are mapped anew, what was said of them before is out of date */
static CdpStatement forget_refused = {
	"DELETE FROM cdp.rejected WHERE source = $1 AND reason = $2 AND entry IS NULL",
	{ "text", "text" }
};

static CdpStatement refuse = {
	"INSERT INTO cdp.rejected (source, reason, detail, sqlstate, payload)"
	" VALUES ($1, $2, $3, $4, $5)",
	{ "text", "text", "text", "text", "jsonb" }
};

static TupleDesc
row_descriptor(void)
{
	TupleDesc desc = CreateTemplateTupleDesc(ROW_NATTS);

	TupleDescInitEntry(desc, ROW_KEY + 1, "key", BYTEAOID, -1, 0);
	TupleDescInitEntry(desc, ROW_HASH + 1, "hash", INT8OID, -1, 0);
	TupleDescInitEntry(desc, ROW_EVENT + 1, "event", TEXTOID, -1, 0);
	TupleDescInitEntry(desc, ROW_IDENTIFIERS + 1, "identifiers",
					   get_array_type(CdpTypeOid("identifier")), -1, 0);
	TupleDescInitEntry(desc, ROW_PROPERTIES + 1, "properties", JSONBOID, -1, 0);
	TupleDescInitEntry(desc, ROW_TIME + 1, "occurred_at", TIMESTAMPTZOID, -1, 0);
	return desc;
}

static TupleDesc
gone_descriptor(void)
{
	TupleDesc desc = CreateTemplateTupleDesc(1);

	TupleDescInitEntry(desc, 1, "key", BYTEAOID, -1, 0);
	return desc;
}

void
CdpCaptureBegin(CdpCapture *capture, CdpAttachment *attachment)
{
	memset(capture, 0, sizeof(CdpCapture));
	capture->attachment = attachment;
	capture->rows = tuplestore_begin_heap(false, false, work_mem);
	capture->gone = tuplestore_begin_heap(false, false, work_mem);
}

void
CdpCaptureEnd(CdpCapture *capture)
{
	tuplestore_end(capture->rows);
	tuplestore_end(capture->gone);
}

static void
digest(const void *data, Size len, uint8 *result)
{
	const char *error = NULL;

	if (!pg_md5_binary(data, len, result, &error))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not compute a hash: %s", error)));
}

/*
 * What tells a row apart, in 16 bytes at most: a short key as it is, after its
 * length, so that numbers that grow are put at the end of the index and not all
 * over it; the MD5 of a longer one, with a first byte that is no such length.
 */
static bytea *
short_key(const void *data, Size len)
{
	bool fits = len < MD5_DIGEST_LENGTH;
	Size size = fits ? len + 1 : MD5_DIGEST_LENGTH;
	bytea *key = palloc(VARHDRSZ + size);
	uint8 *bytes = (uint8 *) VARDATA(key);

	SET_VARSIZE(key, VARHDRSZ + size);
	if (fits)
		memcpy(bytes + 1, data, len);
	else
		digest(data, len, bytes);
	bytes[0] = fits ? len : bytes[0] | 0x80;
	return key;
}

Datum
CdpAttachedKey(text *key)
{
	return PointerGetDatum(short_key(VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key)));
}

/*
 * Half of an MD5, which begins with a number that nobody who writes rows knows:
 * so nobody makes up two rows that say the same by it.
 */
static int64
hash_of(StringInfo buf)
{
	uint8 bytes[MD5_DIGEST_LENGTH];
	int64 hash;

	digest(buf->data, buf->len, bytes);
	memcpy(&hash, bytes, sizeof(hash));
	return hash;
}

static void
hash_part(StringInfo buf, const void *data, int32 len)
{
	appendBinaryStringInfo(buf, (const char *) &len, sizeof(len));
	if (len > 0)
		appendBinaryStringInfo(buf, data, len);
}

static void
hash_varlena(StringInfo buf, Datum value, bool isnull)
{
	struct varlena *v;

	if (isnull)
	{
		hash_part(buf, NULL, -1);
		return;
	}
	v = PG_DETOAST_DATUM_PACKED(value);
	hash_part(buf, VARDATA_ANY(v), VARSIZE_ANY_EXHDR(v));
}

/*
 * A reference to the row in the place of its payload; or the payload, if that
 * takes less.
 */
static Datum
reference_or(Datum properties, text *key)
{
	Jsonb *payload = DatumGetJsonbP(properties);
	Jsonb *reference = JB_ROOT_IS_OBJECT(payload) ? CdpReferenceMake(key) : NULL;

	if (reference == NULL ||
		(VARSIZE(reference) >= VARSIZE(payload) && CdpReferenceKey(payload) == NULL))
		return properties;
	return JsonbPGetDatum(reference);
}

/*
 * Keep one mapped row.
 */
static void
keep_row(CdpCapture *capture, TupleDesc desc, Datum *mapped, bool *mapped_null)
{
	CdpMapping *mapping = capture->attachment->mapping;
	CdpIdentifierList list;
	Datum values[ROW_NATTS];
	bool nulls[ROW_NATTS] = { 0 };
	StringInfoData buf;
	Datum *elements;
	bool *element_nulls;
	text *key;
	int n;

	if (mapped_null[CDP_MAPPED_KEY])
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("key of the row is NULL")));
	key = DatumGetTextPP(mapped[CDP_MAPPED_KEY]);
	values[ROW_KEY] = CdpAttachedKey(key);

	CdpIdentifierListInit(&list);
	deconstruct_array(DatumGetArrayTypeP(mapped[CDP_MAPPED_VALUES]), TEXTOID, -1,
					  false, TYPALIGN_INT, &elements, &element_nulls, &n);
	Assert(n == list_length(mapping->kinds));
	for (int i = 0; i < n; i++)
	{
		const char *kind = list_nth(mapping->kinds, i);
		text *value;

		if (element_nulls[i])
			continue;
		value = DatumGetTextPP(elements[i]);
		if (VARSIZE_ANY_EXHDR(value) > 0)
			CdpIdentifierListAdd(&list, kind, strlen(kind), VARDATA_ANY(value),
								 VARSIZE_ANY_EXHDR(value));
	}
	values[ROW_IDENTIFIERS] = PointerGetDatum(CdpIdentifierListArray(&list));
	values[ROW_EVENT] = mapped[CDP_MAPPED_EVENT];
	nulls[ROW_EVENT] = mapped_null[CDP_MAPPED_EVENT];
	values[ROW_PROPERTIES] = mapped[CDP_MAPPED_PROPERTIES];
	nulls[ROW_PROPERTIES] = mapped_null[CDP_MAPPED_PROPERTIES];
	values[ROW_TIME] = mapped[CDP_MAPPED_TIME];
	nulls[ROW_TIME] = mapped_null[CDP_MAPPED_TIME];

	initStringInfo(&buf);
	hash_part(&buf, &capture->attachment->version, sizeof(int64));
	hash_part(&buf, mapping->type, strlen(mapping->type));
	hash_varlena(&buf, values[ROW_EVENT], nulls[ROW_EVENT]);
	for (int i = 0; i < list.count; i++)
		hash_varlena(&buf, list.items[i], false);
	hash_varlena(&buf, values[ROW_PROPERTIES], nulls[ROW_PROPERTIES]);
	if (!nulls[ROW_TIME])
		hash_part(&buf, &values[ROW_TIME], sizeof(Datum));
	values[ROW_HASH] = Int64GetDatum(hash_of(&buf));
	if (!capture->attachment->copy && !capture->whole && !nulls[ROW_PROPERTIES])
		values[ROW_PROPERTIES] = reference_or(values[ROW_PROPERTIES], key);

	tuplestore_putvalues(capture->rows, desc, values, nulls);
	capture->nrows++;
}

static void
keep_gone(CdpCapture *capture, TupleDesc desc, Datum key, bool isnull)
{
	Datum value;
	bool null = false;
	struct varlena *data;

	if (isnull)
		return; /* was never logged */
	data = PG_DETOAST_DATUM_PACKED(key);
	value = PointerGetDatum(short_key(VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data)));
	tuplestore_putvalues(capture->gone, desc, &value, &null);
	capture->ngone++;
}

static SPIPlanPtr
prepare(const char *query, int nargs, Oid *argtypes, int options)
{
	SPIPlanPtr plan = SPI_prepare_cursor(query, nargs, argtypes, options);

	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	return plan;
}

/*
 * The plan of a query whose arguments are arrays of texts.
 */
static SPIPlanPtr
plan_of(Oid relid, const char *query, int nargs)
{
	Oid argtypes[INDEX_MAX_KEYS];

	MappingPlan *entry;
	MemoryContext old;
	ListCell *cell;
	SPIPlanPtr plan;

	foreach(cell, plans)
	{
		entry = lfirst(cell);
		if (entry->relid == relid && strcmp(entry->query, query) == 0)
			return entry->plan;
	}
	for (int i = 0; i < nargs; i++)
		argtypes[i] = TEXTARRAYOID;
	/* look-ups by keys are made one by one, too */
	plan = prepare(query, nargs, argtypes, nargs > 0 ? CURSOR_OPT_GENERIC_PLAN : 0);
	if (list_length(plans) >= MAX_PLANS)
	{
		entry = linitial(plans);
		plans = list_delete_first(plans);
		SPI_freeplan(entry->plan);
		pfree(entry->query);
		pfree(entry);
	}
	SPI_keepplan(plan);
	old = MemoryContextSwitchTo(CacheMemoryContext);
	entry = palloc(sizeof(MappingPlan));
	entry->relid = relid;
	entry->query = pstrdup(query);
	entry->plan = plan;
	plans = lappend(plans, entry);
	MemoryContextSwitchTo(old);
	return plan;
}

/*
 * Errors that say something of the rows or the mapping, and not of the server
 * or of what the user wants.
 */
bool
CdpCaptureTolerates(const ErrorData *error)
{
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case MAKE_SQLSTATE('4', '0', '0', '0', '0'): /* transaction rollback */
		case MAKE_SQLSTATE('5', '3', '0', '0', '0'): /* insufficient resources */
		case MAKE_SQLSTATE('5', '7', '0', '0', '0'): /* operator intervention */
		case MAKE_SQLSTATE('5', '8', '0', '0', '0'): /* system error */
		case MAKE_SQLSTATE('X', 'X', '0', '0', '0'): /* internal error */
			return false;
		default:
			return true;
	}
}

void
CdpCaptureRefuse(CdpCapture *capture, MemoryContext context, ErrorData *error, Jsonb *row)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	Refused *one = palloc0(sizeof(Refused));

	one->sqlstate = error->sqlerrcode;
	one->detail = pstrdup(error->message);
	if (row != NULL)
	{
		one->row = palloc(VARSIZE(row));
		memcpy(one->row, row, VARSIZE(row));
	}
	capture->refused = lappend(capture->refused, one);
	capture->rejected++;
	MemoryContextSwitchTo(old);
}

/*
 * What is done with the rows that a query yields; runs in a context that is
 * reset after each fetch.
 */
typedef void (*RowFunction)(CdpCapture *capture, void *arg,
							HeapTuple tuple, TupleDesc desc);

static void
for_each_row(CdpCapture *capture, SPIPlanPtr plan, Datum *args, RowFunction function, void *arg)
{
	Portal portal;
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext,
												  "cdp rows",
												  ALLOCSET_DEFAULT_SIZES);
	bool latest = capture->latest || capture->moment != NULL;

	if (latest)
	{
		/* the snapshot of a transaction may be older than what has been logged */
		CommandCounterIncrement();
		PushActiveSnapshot(capture->moment ? capture->moment : GetLatestSnapshot());
	}
	portal = SPI_cursor_open(NULL, plan, args, NULL, latest);
	if (latest)
		PopActiveSnapshot();
	for (;;)
	{
		SPITupleTable *table;
		uint64 n;

		SPI_cursor_fetch(portal, true, FETCH_SIZE);
		table = SPI_tuptable;
		n = SPI_processed;
		for (uint64 i = 0; i < n; i++)
		{
			MemoryContext old = MemoryContextSwitchTo(scratch);

			CHECK_FOR_INTERRUPTS();
			function(capture, arg, table->vals[i], table->tupdesc);
			MemoryContextSwitchTo(old);
			MemoryContextReset(scratch);
		}
		SPI_freetuptable(table);
		if (n < FETCH_SIZE)
			break;
	}
	SPI_cursor_close(portal);
	MemoryContextDelete(scratch);
}

static void
mapped_row(CdpCapture *capture, void *arg, HeapTuple tuple, TupleDesc desc)
{
	Datum values[CDP_MAPPED_NATTS];
	bool nulls[CDP_MAPPED_NATTS];

	heap_deform_tuple(tuple, desc, values, nulls);
	keep_row(capture, arg, values, nulls);
}

static void
gone_row(CdpCapture *capture, void *arg, HeapTuple tuple, TupleDesc desc)
{
	bool isnull;
	Datum key = SPI_getbinval(tuple, desc, 1, &isnull);

	keep_gone(capture, arg, key, isnull);
}

/*
 * Do something in a subtransaction; an error that can be tolerated undoes it
 * and is returned.
 */
typedef struct Attempt
{
	CdpCapture *capture;
	Oid relid;
	const char *query;
	Datum *keys; /* arguments of the query, arrays of texts */
	int nkeys;
	Oid argtype; /* of $1, when there is a row to be mapped */
	Datum row;
	SPIPlanPtr plan; /* not kept: a row's type may change unnoticed */
	RowFunction function;
	void *arg; /* of the function */
} Attempt;

static ErrorData *
attempt(Attempt *what)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		if (!OidIsValid(what->argtype))
			for_each_row(what->capture,
						 what->capture->once ? prepare(what->query, 0, NULL, 0) : plan_of(what->relid, what->query, what->nkeys),
						 what->keys, what->function, what->arg);
		else
		{
			if (what->plan == NULL)
				what->plan = prepare(what->query, 1, &what->argtype, 0);
			SPI_execute_plan(what->plan, &what->row, NULL, false, 0);
			if (SPI_processed > 0)
				what->function(what->capture, what->arg, SPI_tuptable->vals[0],
							   SPI_tuptable->tupdesc);
			SPI_freetuptable(SPI_tuptable);
		}
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (!CdpCaptureTolerates(error))
			ReThrowError(error);
	}
	PG_END_TRY();
	return error;
}

/*
 * Rows one by one: each with what it holds as JSON, to be put aside if it
 * cannot be mapped.
 */
typedef struct Single
{
	Attempt attempt;
	Attempt key; /* of the row, when what it said before cannot be read any more */
	MemoryContext keep;
} Single;

static void
single_row(CdpCapture *capture, void *arg, HeapTuple tuple, TupleDesc desc)
{
	Single *single = arg;
	ErrorData *error;
	bool isnull;

	single->attempt.row = SPI_getbinval(tuple, desc, 1, &isnull);
	error = attempt(&single->attempt);
	if (error == NULL)
		return;
	CdpCaptureRefuse(capture, single->keep, error,
					 DatumGetJsonbP(SPI_getbinval(tuple, desc, 2, &isnull)));
	if (!capture->attachment->copy)
	{
		single->key.row = single->attempt.row;
		(void) attempt(&single->key);
	}
}

/*
 * Map the rows of a FROM item whose rows are those of a relation.
 */
void
CdpCaptureRows(CdpCapture *capture, Oid relid, const char *key,
			   const char *from, const char *condition)
{
	CdpAttachment *attachment = capture->attachment;
	Attempt all = { .capture = capture, .relid = relid, .query = CdpMappingQuery(attachment->mapping, key, from, condition), .function = mapped_row, .arg = row_descriptor() };
	CdpUserContext saved;
	int64 before = capture->nrows;
	ErrorData *error;

	/* no primary key holds for a table and its children */
	if (attachment->mapping->key != NULL ||
		(get_rel_relkind(relid) == RELKIND_RELATION && has_subclass(relid)))
		capture->doubles = true;
	CdpBecomeRole(attachment->role, &saved);
	error = attempt(&all);
	if (error != NULL)
	{
		Single single = { .attempt = all, .keep = CurrentMemoryContext };
		Attempt each = { .capture = capture, .relid = relid, .function = single_row, .arg = &single };

		Assert(before == 0);
		tuplestore_clear(capture->rows);
		capture->nrows = before;
		single.attempt.argtype = get_rel_type_id(relid);
		single.attempt.query = CdpMappingQuery(attachment->mapping, key,
											   "(SELECT ($1).*) AS r", condition);
		single.key = single.attempt;
		single.key.query = CdpMappingKeyQuery(attachment->mapping, key,
											  "(SELECT ($1).*) AS r", false);
		single.key.function = gone_row;
		single.key.arg = gone_descriptor();
		each.query = psprintf("SELECT r::%s, to_jsonb(r) FROM %s",
							  format_type_be_qualified(single.attempt.argtype), from);
		error = attempt(&each);
		if (error != NULL && !capture->unattended)
			ReThrowError(error);
		if (error != NULL)
		{
			tuplestore_clear(capture->rows);
			capture->nrows = before;
			CdpCaptureRefuse(capture, single.keep, error, NULL);
		}
	}
	CdpRestoreUser(&saved);
}

int
CdpCaptureTry(CdpCapture *capture, Oid relid, const char *key,
			  const char *from, const char *condition, Datum *keys, int nkeys)
{
	Attempt all = { .capture = capture, .relid = relid, .query = CdpMappingQuery(capture->attachment->mapping, key, from, condition), .keys = keys, .nkeys = nkeys, .function = mapped_row, .arg = row_descriptor() };
	CdpUserContext saved;
	ErrorData *error;

	CdpBecomeRole(capture->attachment->role, &saved);
	error = attempt(&all);
	CdpRestoreUser(&saved);
	if (error == NULL)
		return 0;
	tuplestore_clear(capture->rows);
	capture->nrows = 0;
	return error->sqlerrcode;
}

/*
 * The keys of rows that are gone, as a query yields them.
 */
void
CdpCaptureKeys(CdpCapture *capture, Oid relid, const char *query)
{
	Attempt all = { .capture = capture, .relid = relid, .query = query, .function = gone_row, .arg = gone_descriptor() };
	CdpUserContext saved;
	ErrorData *error;

	CdpBecomeRole(capture->attachment->role, &saved);
	error = attempt(&all);
	if (error != NULL)
	{
		tuplestore_clear(capture->gone);
		capture->ngone = 0;
		CdpCaptureRefuse(capture, CurrentMemoryContext, error, NULL);
	}
	CdpRestoreUser(&saved);
}

static void
register_rows(const char *name, Tuplestorestate *rows, TupleDesc desc, int64 n)
{
	EphemeralNamedRelation relation = palloc0(sizeof(EphemeralNamedRelationData));

	relation->md.name = pstrdup(name);
	relation->md.reliddesc = InvalidOid;
	relation->md.tupdesc = desc;
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = n;
	relation->reldata = rows;
	if (SPI_register_relation(relation) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register the rows");
}

void
CdpCaptureRegister(CdpCapture *capture)
{
	register_rows(ROWS_NAME, capture->rows, row_descriptor(), capture->nrows);
}

void
CdpCaptureUnregister(void)
{
	SPI_unregister_relation(ROWS_NAME);
}

static void
write_refused(CdpCapture *capture, bool everything)
{
	ListCell *cell;
	Datum args[5];

	args[0] = PointerGetDatum(capture->attachment->source);
	args[1] = CStringGetTextDatum(psprintf("attachment \"%s\": row cannot be mapped",
										   capture->attachment->name));
	if (everything)
		CdpRun(&forget_refused, args, NULL);
	foreach(cell, capture->refused)
	{
		Refused *one = lfirst(cell);

		args[2] = CStringGetTextDatum(one->detail);
		args[3] = CStringGetTextDatum(unpack_sql_state(one->sqlstate));
		args[4] = PointerGetDatum(one->row);
		CdpRun(&refuse, args, one->row ? NULL : "    n");
	}
}

/*
 * Write to the log what has been captured; with everything, rows that are in
 * it and have not been captured are gone.
 */
void
CdpCaptureWrite(CdpCapture *capture, bool everything)
{
	CdpAttachment *attachment = capture->attachment;
	CdpUserContext saved;
	Datum args[4];

	CdpBecomeOwner(&saved);
	args[0] = Int32GetDatum(attachment->id);
	args[1] = PointerGetDatum(attachment->source);
	args[2] = CStringGetTextDatum(attachment->mapping->type);
	args[3] = BoolGetDatum(capture->anew);
	CdpCaptureRegister(capture);
	register_rows(GONE_NAME, capture->gone, gone_descriptor(), capture->ngone);

	/* what could not be mapped stays as it was: it is not known to be gone */
	if (everything && capture->rejected == 0)
	{
		CdpRunLatest(&retract_absent, args);
		capture->retracted += CdpCellInt8(0, 1);
	}
	CdpPinPlans();
	if (capture->ngone > 0)
	{
		CdpRunLatest(&retract_gone, args);
		capture->retracted += CdpCellInt8(0, 1);
	}
	if (capture->nrows > 0 && capture->doubles)
	{
		int64 doubles;

		CdpRunLatest(&count_doubles, NULL);
		doubles = CdpCellInt8(0, 1);
		if (doubles > 0)
		{
			ErrorData error = { .sqlerrcode = ERRCODE_UNIQUE_VIOLATION };

			error.message = psprintf("Rows with the key of another one: " INT64_FORMAT
									 "; of each key one row counts.",
									 doubles);
			CdpCaptureRefuse(capture, CurrentMemoryContext, &error, NULL);
		}
	}
	if (capture->nrows > 0)
	{
		CdpRunLatest(capture->doubles ? &log_distinct_rows : &log_rows, args);
		capture->logged += CdpCellInt8(0, 1);
		capture->retracted += CdpCellInt8(0, 2);
	}
	write_refused(capture, everything);
	CdpCaptureUnregister();
	SPI_unregister_relation(GONE_NAME);
	CdpRestoreUser(&saved);
}

/*
 * After TRUNCATE of the table or of a part of it: what is not there any more is
 * retracted.  Both statements see the same moment, as others go on writing to
 * other parts.
 */
void
CdpCaptureTruncate(CdpCapture *capture, Oid relid, const char *key)
{
	CdpAttachment *attachment = capture->attachment;
	CdpUserContext saved;
	Datum args[2];
	Snapshot snapshot;

	CommandCounterIncrement();
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	if (key != NULL)
	{
		char *from = psprintf("%s AS r", attachment->relation);

		capture->moment = snapshot;
		CdpCaptureKeys(capture, relid, CdpMappingKeyQuery(attachment->mapping, key, from, true));
		capture->moment = NULL;
	}
	CdpBecomeOwner(&saved);
	if (capture->rejected == 0)
	{
		int rc;

		args[0] = Int32GetDatum(attachment->id);
		args[1] = PointerGetDatum(attachment->source);
		register_rows(GONE_NAME, capture->gone, gone_descriptor(), capture->ngone);
		CdpPrepare(&retract_others);
		rc = SPI_execute_snapshot(retract_others.plan, args, NULL, snapshot,
								  InvalidSnapshot, false, true, 0);
		if (rc < 0)
			elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(rc));
		capture->retracted += CdpCellInt8(0, 1);
		SPI_unregister_relation(GONE_NAME);
	}
	write_refused(capture, capture->rejected == 0 && capture->ngone == 0);
	CdpRestoreUser(&saved);
	UnregisterSnapshot(snapshot);
}
