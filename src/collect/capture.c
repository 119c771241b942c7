/*-------------------------------------------------------------------------
 *
 * capture.c
 *	  Rows of attached tables, mapped.
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
#include "collect/bundle.h"
#include "collect/extract.h"
#include "compat.h"
#include "statement.h"

#define FETCH_SIZE 1000
#define MAX_PLANS 100


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

TupleDesc
CdpCaptureDescriptor(void)
{
	TupleDesc desc = CreateTemplateTupleDesc(CDP_ROW_NATTS);

	TupleDescInitEntry(desc, CDP_ROW_KEY + 1, "key", BYTEAOID, -1, 0);
	TupleDescInitEntry(desc, CDP_ROW_HASH + 1, "hash", INT8OID, -1, 0);
	TupleDescInitEntry(desc, CDP_ROW_EVENT + 1, "event", TEXTOID, -1, 0);
	TupleDescInitEntry(desc, CDP_ROW_IDENTIFIERS + 1, "identifiers",
					   get_array_type(CdpTypeOid("identifier")), -1, 0);
	TupleDescInitEntry(desc, CDP_ROW_PROPERTIES + 1, "properties", JSONBOID, -1, 0);
	TupleDescInitEntry(desc, CDP_ROW_TIME + 1, "occurred_at", TIMESTAMPTZOID, -1, 0);
	return desc;
}

TupleDesc
CdpGoneDescriptor(void)
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
bytea *
CdpShortKey(const void *data, Size len)
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
	return PointerGetDatum(CdpShortKey(VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key)));
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
	Datum values[CDP_ROW_NATTS];
	bool nulls[CDP_ROW_NATTS] = { 0 };
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
	values[CDP_ROW_KEY] = CdpAttachedKey(key);

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
	values[CDP_ROW_IDENTIFIERS] = PointerGetDatum(CdpIdentifierListArray(&list));
	values[CDP_ROW_EVENT] = mapped[CDP_MAPPED_EVENT];
	nulls[CDP_ROW_EVENT] = mapped_null[CDP_MAPPED_EVENT];
	values[CDP_ROW_PROPERTIES] = mapped[CDP_MAPPED_PROPERTIES];
	nulls[CDP_ROW_PROPERTIES] = mapped_null[CDP_MAPPED_PROPERTIES];
	values[CDP_ROW_TIME] = mapped[CDP_MAPPED_TIME];
	nulls[CDP_ROW_TIME] = mapped_null[CDP_MAPPED_TIME];

	initStringInfo(&buf);
	hash_part(&buf, &capture->attachment->version, sizeof(int64));
	hash_part(&buf, mapping->type, strlen(mapping->type));
	hash_varlena(&buf, values[CDP_ROW_EVENT], nulls[CDP_ROW_EVENT]);
	for (int i = 0; i < list.count; i++)
		hash_varlena(&buf, list.items[i], false);
	hash_varlena(&buf, values[CDP_ROW_PROPERTIES], nulls[CDP_ROW_PROPERTIES]);
	if (!nulls[CDP_ROW_TIME])
		hash_part(&buf, &values[CDP_ROW_TIME], sizeof(Datum));
	values[CDP_ROW_HASH] = Int64GetDatum(hash_of(&buf));
	if (!capture->attachment->copy && !capture->whole && !nulls[CDP_ROW_PROPERTIES])
		values[CDP_ROW_PROPERTIES] = reference_or(values[CDP_ROW_PROPERTIES], key);

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
	value = PointerGetDatum(CdpShortKey(VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data)));
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
	CdpRefused *one = palloc0(sizeof(CdpRefused));

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
	Attempt all = { .capture = capture, .relid = relid, .query = CdpMappingQuery(attachment->mapping, key, from, condition), .function = mapped_row, .arg = CdpCaptureDescriptor() };
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
		single.key.arg = CdpGoneDescriptor();
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
	Attempt all = { .capture = capture, .relid = relid, .query = CdpMappingQuery(capture->attachment->mapping, key, from, condition), .keys = keys, .nkeys = nkeys, .function = mapped_row, .arg = CdpCaptureDescriptor() };
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
	Attempt all = { .capture = capture, .relid = relid, .query = query, .function = gone_row, .arg = CdpGoneDescriptor() };
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

void
CdpRegisterRows(const char *name, Tuplestorestate *rows, TupleDesc desc, int64 n)
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
	CdpRegisterRows(CDP_ROWS_NAME, capture->rows, CdpCaptureDescriptor(), capture->nrows);
}

void
CdpCaptureUnregister(void)
{
	SPI_unregister_relation(CDP_ROWS_NAME);
}
