/*-------------------------------------------------------------------------
 *
 * pack.c
 *	  What a statement of many rows did to a table that is attached with
 *	  copy => false: its entries, packed into rows of cdp.bundles.
 *
 *	  A bundle is written once.  That a row has another entry, or none, is said
 *	  by a later bundle, not by a change of an earlier one: so two transactions
 *	  that write to different rows never wait for each other.  Undos come in
 *	  bundles of their own, before the entries that take the place of what they
 *	  undo, and have the keys of the rows, too.
 *
 * IDENTIFICATION
 *	  src/collect/pack.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
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

/* bundles say what counts for them from now on */
static CdpStatement forget_loose = {
	"DELETE FROM cdp.attached_rows r USING unnest($2) AS u (key) WHERE r.attachment = $1 AND r.key = u.key",
	{ "int4", "bytea[]" }
};

/* One row of a chunk. */
typedef struct Row
{
	Datum values[CDP_ROW_NATTS];
	bool isnull[CDP_ROW_NATTS];
	bool skip;
} Row;

typedef struct Packing
{
	CdpCapture *capture;
	CdpAttachment *attachment;
	TimestampTz now;
	Oid sequence;
	CdpBundleWriter *undos;
	CdpBundleWriter *entries;
	CdpGiven *bundles;
	MemoryContext chunk;
} Packing;

bool
CdpPackIsDue(const CdpCapture *capture)
{
	return !capture->attachment->copy && capture->nrows + capture->ngone >= cdp_pack_from;
}

static void
take_bundle(Packing *packing, CdpBundleWriter *writer)
{
	int64 first;
	int64 last;
	Datum values[5];
	bool isnull[5] = { 0 };
	MemoryContext old = CurrentMemoryContext;

	if (CdpBundleWriterCount(writer) == 0)
		return;
	values[4] = PointerGetDatum(CdpBundleWriterTake(writer, &first, &last));
	values[0] = Int64GetDatum(last);
	values[1] = Int64GetDatum(first);
	values[2] = TimestampTzGetDatum(packing->now);
	values[3] = Int64GetDatum(packing->attachment->version);
	CdpGiveRow(packing->bundles, values, isnull);
	MemoryContextSwitchTo(old);
}

/*
 * Add an entry.  In the order of their ids bundles of a transaction do not overlap,
 * so undos are taken before entries begin.
 */
static void
add_item(Packing *packing, CdpBundleWriter *writer, CdpBundleItem *item)
{
	item->id = nextval_internal(packing->sequence, false);
	if (CdpBundleWriterAdd(writer, item))
		return;
	take_bundle(packing, writer);
	if (!CdpBundleWriterAdd(writer, item))
		elog(ERROR, "an entry does not fit into a bundle");
}

static void
write_bundles(Packing *packing)
{
	MemoryContext old = CurrentMemoryContext;

	CdpRunGiven(packing->bundles, NULL, NULL);
	MemoryContextSwitchTo(old);
}

/*
 * What counts for rows, as it is now, whatever the transaction sees otherwise.
 */
static CdpKnown *
known_now(Packing *packing, Datum *keys, int n)
{
	CdpKnown *known = palloc_array(CdpKnown, Max(n, 1));

	CommandCounterIncrement();
	PushActiveSnapshot(GetLatestSnapshot());
	CdpKnownRows(packing->attachment->id, packing->attachment->version, keys, n, known);
	PopActiveSnapshot();
	return known;
}

static void
add_undo(Packing *packing, Datum key, const CdpKnown *known)
{
	bytea *bytes = DatumGetByteaPP(key);
	CdpBundleItem item = { .undo = true, .target = known->entry, .key = VARDATA_ANY(bytes), .keylen = VARSIZE_ANY_EXHDR(bytes) };

	/* a key that no bundle has need not be in this one */
	if (!known->packed)
		item.keylen = 0;
	/* an undo counts only for what is earlier */
	item.at = Max(packing->now, known->at);
	add_item(packing, packing->undos, &item);
	packing->capture->retracted++;
}

static void
forget(Packing *packing, Datum *keys, int n)
{
	Datum args[2] = { Int32GetDatum(packing->attachment->id), CdpVarlenaArray(keys, NULL, n, BYTEAOID) };
	MemoryContext old = CurrentMemoryContext;

	if (n > 0)
		CdpRunLatest(&forget_loose, args);
	MemoryContextSwitchTo(old);
}

static void
write_gone(Packing *packing, Datum *keys, int n)
{
	CdpKnown *known = known_now(packing, keys, n);
	Datum *loose = palloc_array(Datum, Max(n, 1));
	int nloose = 0;

	packing->bundles = CdpGive(&insert_bundles);
	for (int i = 0; i < n; i++)
	{
		if (known[i].loose)
			loose[nloose++] = keys[i];
		if (known[i].found)
			add_undo(packing, keys[i], &known[i]);
	}
	take_bundle(packing, packing->undos);
	forget(packing, loose, nloose);
	write_bundles(packing);
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
	add_item(packing, packing->entries, &item);
	packing->capture->logged++;
}

static void
write_rows(Packing *packing, Row *rows, int n)
{
	Datum *keys = palloc_array(Datum, Max(n, 1));
	Datum *loose = palloc_array(Datum, Max(n, 1));
	int nloose = 0;
	CdpKnown *known;

	packing->bundles = CdpGive(&insert_bundles);
	for (int i = 0; i < n; i++)
		keys[i] = rows[i].values[CDP_ROW_KEY];
	known = known_now(packing, keys, n);
	for (int i = 0; i < n; i++)
	{
		rows[i].skip = known[i].found && !packing->capture->anew &&
			known[i].hash == DatumGetInt64(rows[i].values[CDP_ROW_HASH]);
		if (rows[i].skip)
			continue;
		if (known[i].loose)
			loose[nloose++] = keys[i];
		if (!known[i].found)
			continue;
		add_undo(packing, keys[i], &known[i]);
	}
	take_bundle(packing, packing->undos);
	for (int i = 0; i < n; i++)
		if (!rows[i].skip)
			add_entry(packing, &rows[i]);
	take_bundle(packing, packing->entries);
	forget(packing, loose, nloose);
	write_bundles(packing);
}

void
CdpPackWrite(CdpCapture *capture, TupleDesc rowdesc, TupleDesc gonedesc)
{
	Packing packing = { .capture = capture, .attachment = capture->attachment, .now = CdpClock() };
	TupleTableSlot *slot;
	Datum *keys;
	Row *rows;
	MemoryContext old;
	int n = 0;

	packing.sequence = CdpRelationOid("events_id_seq");
	packing.undos = CdpBundleWriterMake(capture->attachment->source, cstring_to_text("undo"), true);
	packing.entries = CdpBundleWriterMake(capture->attachment->source,
										  cstring_to_text(capture->attachment->mapping->type), false);
	packing.chunk = AllocSetContextCreate(CurrentMemoryContext, "cdp packed rows", ALLOCSET_DEFAULT_SIZES);
	old = CurrentMemoryContext;

	slot = MakeSingleTupleTableSlot(gonedesc, &TTSOpsMinimalTuple);
	keys = palloc_array(Datum, CHUNK);
	tuplestore_rescan(capture->gone);
	for (bool more = true; more;)
	{
		more = tuplestore_gettupleslot(capture->gone, true, false, slot);
		if (more)
		{
			bool isnull;

			MemoryContextSwitchTo(packing.chunk);
			keys[n++] = PointerGetDatum(DatumGetByteaPCopy(slot_getattr(slot, 1, &isnull)));
			MemoryContextSwitchTo(old);
		}
		if (n == CHUNK || (!more && n > 0))
		{
			CHECK_FOR_INTERRUPTS();
			MemoryContextSwitchTo(packing.chunk);
			write_gone(&packing, keys, n);
			MemoryContextSwitchTo(old);
			MemoryContextReset(packing.chunk);
			n = 0;
		}
	}
	ExecDropSingleTupleTableSlot(slot);

	slot = MakeSingleTupleTableSlot(rowdesc, &TTSOpsMinimalTuple);
	rows = palloc_array(Row, CHUNK);
	tuplestore_rescan(capture->rows);
	for (bool more = true; more;)
	{
		more = tuplestore_gettupleslot(capture->rows, true, false, slot);
		if (more)
		{
			Row *row = &rows[n++];
			MinimalTuple tuple;
			HeapTupleData form;

			MemoryContextSwitchTo(packing.chunk);
			tuple = ExecCopySlotMinimalTuple(slot);
			form.t_len = tuple->t_len + MINIMAL_TUPLE_OFFSET;
			form.t_data = (HeapTupleHeader) ((char *) tuple - MINIMAL_TUPLE_OFFSET);
			heap_deform_tuple(&form, rowdesc, row->values, row->isnull);
			MemoryContextSwitchTo(old);
		}
		if (n == CHUNK || (!more && n > 0))
		{
			CHECK_FOR_INTERRUPTS();
			MemoryContextSwitchTo(packing.chunk);
			write_rows(&packing, rows, n);
			MemoryContextSwitchTo(old);
			MemoryContextReset(packing.chunk);
			n = 0;
		}
	}
	ExecDropSingleTupleTableSlot(slot);
	MemoryContextDelete(packing.chunk);
}
