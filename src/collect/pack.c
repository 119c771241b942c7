/*-------------------------------------------------------------------------
 *
 * pack.c
 *	  What a statement did to a table that is attached with copy => false: which
 *	  of its rows are new, and their entries, packed into rows of cdp.bundles.
 *
 *	  A row is packed when nothing is known of its key: neither cdp.attached_rows
 *	  nor a bundle of this version of the attachment has it.  So there is at most
 *	  one packed entry of a key, and nothing has to be said of which one counts.
 *	  For that no other transaction may be about to pack the same key, unseen.  The
 *	  primary key of the table sees to that: who adds a row with the key of one
 *	  that is not committed yet waits.  Therefore only where it is checked at once,
 *	  holds for all rows of the attachment, and is of types whose values are told
 *	  apart by what they are written as.
 *
 *	  Rows that are known, and change, are told to cdp.attached_rows, and go the
 *	  way of all attached tables (capture_write.c).  Rows that say what they said
 *	  before go no way at all.
 *
 * IDENTIFICATION
 *	  src/collect/pack.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "catalog/index.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "cdp.h"
#include "collect/attach.h"
#include "collect/bundle.h"
#include "compat.h"
#include "statement.h"

/* Rows that are looked up, and whose entries are written, together. */
#define CHUNK 4000

static CdpStatement insert_bundles = {
	"INSERT INTO cdp.bundles (last, first, received_at, attachment, packed) SELECT g.* FROM given AS g",
	.given = { { "last", "int8" }, { "first", "int8" }, { "received_at", "timestamptz" }, { "attachment", "int8" }, { "packed", "bytea" } }
};

typedef enum Way
{
	WAY_NONE = 0, /* says what it said */
	WAY_NEW, /* is not known */
	WAY_KNOWN /* or one of several with a key */
} Way;

/* One row of a chunk. */
typedef struct Row
{
	Datum values[CDP_ROW_NATTS];
	bool isnull[CDP_ROW_NATTS];
	Way way;
} Row;

/* A key of a chunk, and the row that has it. */
typedef struct Met
{
	char key[CDP_KEY_FOR_HASH]; /* hash key */
	int place;
} Met;

typedef struct Packing
{
	CdpCapture *capture;
	CdpAttachment *attachment;
	TupleDesc desc; /* of rows */
	Tuplestorestate *others;
	int64 nothers;
	bool due; /* new rows may be packed ... */
	bool begun; /* ... and have been */
	TimestampTz now;
	Oid sequence;
	CdpBundleWriter *writer;
	CdpGiven *bundles;
	MemoryContext chunk;
} Packing;

/*
 * Types whose values are written alike only if they are equal.
 */
static bool
is_told_apart(Oid type)
{
	switch (getBaseType(type))
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case NUMERICOID:
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case UUIDOID:
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return true;
		default:
			return false;
	}
}

/*
 * Can no two transactions have a row with the same key, both before either has
 * committed?
 */
static bool
keys_are_unique(Oid relid)
{
	Oid constraint;
	Bitmapset *columns = get_primary_key_attnos(relid, false, &constraint);
	HeapTuple tuple;
	Form_pg_index index;
	int column = -1;
	bool result;

	if (bms_is_empty(columns))
		return false;
	while ((column = bms_next_member(columns, column)) >= 0)
		if (!is_told_apart(get_atttype(relid, column + FirstLowInvalidHeapAttributeNumber)))
			return false;
	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(get_constraint_index(constraint)));
	if (!HeapTupleIsValid(tuple))
		return false;
	index = (Form_pg_index) GETSTRUCT(tuple);
	result = index->indisunique && index->indimmediate && index->indisvalid && index->indisready &&
		index->indislive;
	ReleaseSysCache(tuple);
	return result;
}

/*
 * May what is new be packed?
 */
static bool
is_due(const CdpCapture *capture)
{
	Oid relid;

	if (capture->nrows < cdp_pack_from || capture->whole || capture->doubles ||
		capture->attachment->mapping->key != NULL)
		return false;
	relid = CdpAttachedRelation(capture->attachment);
	return OidIsValid(relid) && keys_are_unique(relid);
}

static void
take_bundle(Packing *packing)
{
	int64 first;
	int64 last;
	Datum values[5];
	bool isnull[5] = { 0 };
	MemoryContext old = CurrentMemoryContext;

	if (CdpBundleWriterCount(packing->writer) == 0)
		return;
	values[4] = PointerGetDatum(CdpBundleWriterTake(packing->writer, &first, &last));
	values[0] = Int64GetDatum(last);
	values[1] = Int64GetDatum(first);
	values[2] = TimestampTzGetDatum(packing->now);
	values[3] = Int64GetDatum(packing->attachment->version);
	CdpGiveRow(packing->bundles, values, isnull);
	MemoryContextSwitchTo(old);
}

static void
add_entry(Packing *packing, Row *row)
{
	CdpBundleItem item = { 0 };
	bool *isnull = row->isnull;
	bytea *key = DatumGetByteaPP(row->values[CDP_ROW_KEY]);
	Jsonb *properties = isnull[CDP_ROW_PROPERTIES] ? NULL : DatumGetJsonbP(row->values[CDP_ROW_PROPERTIES]);
	text *reference = properties == NULL ? NULL : CdpReferenceKey(properties);
	bool *nulls;

	item.hash = DatumGetInt64(row->values[CDP_ROW_HASH]);
	item.at = isnull[CDP_ROW_TIME] ? packing->now : DatumGetTimestampTz(row->values[CDP_ROW_TIME]);
	/* what the row itself says may look like a reference */
	if (reference != NULL)
	{
		bytea *same = CdpShortKey(VARDATA_ANY(reference), VARSIZE_ANY_EXHDR(reference));

		if (VARSIZE_ANY_EXHDR(same) != VARSIZE_ANY_EXHDR(key) ||
			memcmp(VARDATA_ANY(same), VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key)) != 0)
			reference = NULL;
	}
	item.key = reference ? VARDATA_ANY(reference) : VARDATA_ANY(key);
	item.keylen = reference ? VARSIZE_ANY_EXHDR(reference) : VARSIZE_ANY_EXHDR(key);
	item.properties = reference ? CDP_BUNDLE_REFERENCE : properties ? CDP_BUNDLE_COPIED :
																	  CDP_BUNDLE_NONE;
	if (item.properties == CDP_BUNDLE_COPIED)
	{
		item.copied = VARDATA(properties);
		item.copiedlen = VARSIZE(properties) - VARHDRSZ;
	}
	if (!isnull[CDP_ROW_EVENT])
	{
		text *event = DatumGetTextPP(row->values[CDP_ROW_EVENT]);

		item.event = VARDATA_ANY(event);
		item.eventlen = VARSIZE_ANY_EXHDR(event);
	}
	deconstruct_array(DatumGetArrayTypeP(row->values[CDP_ROW_IDENTIFIERS]),
					  CdpTypeOid("identifier"), -1, false, TYPALIGN_INT,
					  &item.identifiers, &nulls, &item.nidentifiers);
	item.id = nextval_internal(packing->sequence, false);
	if (!CdpBundleWriterAdd(packing->writer, &item))
	{
		take_bundle(packing);
		if (!CdpBundleWriterAdd(packing->writer, &item))
			elog(ERROR, "an entry does not fit into a bundle");
	}
	packing->capture->logged++;
}

/*
 * What is to be done with each row, as things are now.  Returns how many are new.
 */
static int
sort_out(Packing *packing, Row *rows, Datum *keys, const CdpKnown *known, int n)
{
	HASHCTL control = { .keysize = CDP_KEY_FOR_HASH, .entrysize = sizeof(Met), .hcxt = CurrentMemoryContext };
	HTAB *met = hash_create("cdp keys", n, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	int fresh = 0;

	for (int i = 0; i < n; i++)
	{
		if (known[i].found && !packing->capture->anew &&
			known[i].hash == DatumGetInt64(rows[i].values[CDP_ROW_HASH]))
			rows[i].way = WAY_NONE;
		else if (known[i].loose || known[i].packed || !packing->due)
			rows[i].way = WAY_KNOWN;
		else
			rows[i].way = WAY_NEW;
	}
	/* which of several rows with a key counts is not for us to say */
	for (int i = 0; i < n; i++)
	{
		char key[CDP_KEY_FOR_HASH];
		bool there;
		Met *one;

		CdpKeyForHash(DatumGetByteaPP(keys[i]), key);
		one = hash_search(met, key, HASH_ENTER, &there);
		if (there)
			rows[i].way = rows[one->place].way = WAY_KNOWN;
		else
			one->place = i;
	}
	for (int i = 0; i < n; i++)
		fresh += rows[i].way == WAY_NEW;
	return fresh;
}

static void
take_chunk(Packing *packing, Row *rows, int n)
{
	Datum *keys = palloc_array(Datum, n);
	Datum *changed = palloc_array(Datum, n);
	CdpKnown *known = palloc_array(CdpKnown, n);
	MemoryContext old = CurrentMemoryContext;
	int nchanged = 0;
	int fresh;

	for (int i = 0; i < n; i++)
		keys[i] = rows[i].values[CDP_ROW_KEY];
	CdpKnownLatest(packing->attachment, keys, n, known);
	fresh = sort_out(packing, rows, keys, known, n);
	packing->begun |= fresh >= cdp_pack_from;
	packing->bundles = CdpGive(&insert_bundles);
	for (int i = 0; i < n; i++)
	{
		if (rows[i].way == WAY_NONE)
			continue;
		if (rows[i].way == WAY_NEW && packing->begun)
		{
			add_entry(packing, &rows[i]);
			continue;
		}
		tuplestore_putvalues(packing->others, packing->desc, rows[i].values, rows[i].isnull);
		packing->nothers++;
		known[nchanged] = known[i];
		changed[nchanged++] = keys[i];
	}
	take_bundle(packing);
	CdpRunGiven(packing->bundles, NULL, NULL);
	MemoryContextSwitchTo(old);
	CdpKnow(packing->attachment, changed, known, nchanged);
}

/*
 * Does something for each chunk of rows, in a context of its own.
 */
static void
for_each_chunk(Packing *packing)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(packing->desc, &TTSOpsMinimalTuple);
	MemoryContext old = CurrentMemoryContext;
	Row *rows = palloc_array(Row, Min(CHUNK, packing->capture->nrows));
	int n = 0;

	tuplestore_rescan(packing->capture->rows);
	for (bool more = true; more;)
	{
		more = tuplestore_gettupleslot(packing->capture->rows, true, false, slot);
		if (more)
		{
			MinimalTuple tuple;
			HeapTupleData form;

			MemoryContextSwitchTo(packing->chunk);
			tuple = ExecCopySlotMinimalTuple(slot);
			form.t_len = tuple->t_len + MINIMAL_TUPLE_OFFSET;
			form.t_data = (HeapTupleHeader) ((char *) tuple - MINIMAL_TUPLE_OFFSET);
			heap_deform_tuple(&form, packing->desc, rows[n].values, rows[n].isnull);
			n++;
			MemoryContextSwitchTo(old);
		}
		if (n == CHUNK || (!more && n > 0))
		{
			CHECK_FOR_INTERRUPTS();
			MemoryContextSwitchTo(packing->chunk);
			take_chunk(packing, rows, n);
			MemoryContextSwitchTo(old);
			MemoryContextReset(packing->chunk);
			n = 0;
		}
	}
	pfree(rows);
	ExecDropSingleTupleTableSlot(slot);
}

/*
 * Tell cdp.attached_rows of keys: of rows that are gone, or of rows whose keys
 * need not be their own.
 */
static void
know_keys(CdpCapture *capture, Tuplestorestate *store, TupleDesc desc)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	MemoryContext chunk = AllocSetContextCreate(CurrentMemoryContext, "cdp keys", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = CurrentMemoryContext;
	Datum *keys = palloc_array(Datum, CHUNK);
	int n = 0;

	tuplestore_rescan(store);
	for (bool more = true; more;)
	{
		more = tuplestore_gettupleslot(store, true, false, slot);
		MemoryContextSwitchTo(chunk);
		if (more)
		{
			bool isnull;

			keys[n++] = PointerGetDatum(DatumGetByteaPCopy(slot_getattr(slot, 1, &isnull)));
		}
		if (n == CHUNK || (!more && n > 0))
		{
			CHECK_FOR_INTERRUPTS();
			if (capture->doubles)
				CdpKnowDoubles(capture->attachment, keys, n);
			else
			{
				CdpKnown *known = palloc_array(CdpKnown, n);

				CdpKnownLatest(capture->attachment, keys, n, known);
				CdpKnow(capture->attachment, keys, known, n);
			}
			MemoryContextReset(chunk);
			n = 0;
		}
		MemoryContextSwitchTo(old);
	}
	pfree(keys);
	ExecDropSingleTupleTableSlot(slot);
	MemoryContextDelete(chunk);
}

void
CdpPackKnowGone(CdpCapture *capture)
{
	if (capture->ngone > 0 && !CdpTableIsVoid("bundles"))
		know_keys(capture, capture->gone, CdpGoneDescriptor());
}

/*
 * The key comes first in both.
 */
StaticAssertDecl(CDP_ROW_KEY == 0, "the key of a row must be its first column");

Tuplestorestate *
CdpPackNew(CdpCapture *capture, int64 *others)
{
	Packing packing = { .capture = capture, .attachment = capture->attachment, .now = CdpClock() };
	bool is_void = CdpTableIsVoid("bundles");

	*others = capture->nrows;
	if (capture->doubles)
	{
		if (!is_void)
			know_keys(capture, capture->rows, CdpCaptureDescriptor());
		return capture->rows;
	}
	packing.due = is_due(capture);
	if (is_void && !packing.due)
		return capture->rows;
	packing.desc = CdpCaptureDescriptor();
	packing.others = tuplestore_begin_heap(false, false, work_mem);
	packing.sequence = CdpRelationOid("events_id_seq");
	packing.writer = CdpBundleWriterMake(capture->attachment->source,
										 cstring_to_text(capture->attachment->mapping->type));
	packing.chunk = AllocSetContextCreate(CurrentMemoryContext, "cdp packed rows", ALLOCSET_DEFAULT_SIZES);
	for_each_chunk(&packing);
	MemoryContextDelete(packing.chunk);
	*others = packing.nothers;
	return packing.others;
}
