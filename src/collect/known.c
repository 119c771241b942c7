/*-------------------------------------------------------------------------
 *
 * known.c
 *	  What counts for the rows of an attached table whose entries may be packed.
 *
 *	  cdp.attached_rows has the entry of a row that was logged by a small
 *	  statement; entry 0 says that none counts.  Rows that it does not have are
 *	  in bundles: of the entries and undos with the key of the row the one with
 *	  the greatest id says what counts.  Neither is ever changed by who writes to
 *	  another row, so that writers of different rows do not meet here.
 *
 * IDENTIFICATION
 *	  src/collect/known.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "cdp.h"
#include "collect/bundle.h"
#include "compat.h"
#include "statement.h"

PG_FUNCTION_INFO_V1(cdp_bundled_rows);
PG_FUNCTION_INFO_V1(cdp_bundle_items);
PG_FUNCTION_INFO_V1(cdp_bundled_standing);

/* Keys that are looked for in one search of the index. */
#define SEARCH_TOGETHER 500

static CdpStatement loose_rows = {
	"SELECT u.place, r.entry, r.hash, r.at FROM (SELECT unnest($2) AS key, unnest($3) AS place) AS u"
	" CROSS JOIN LATERAL (SELECT r.entry, r.hash, r.at FROM cdp.attached_rows r"
	" WHERE r.attachment = $1 AND r.key = u.key OFFSET 0) AS r",
	{ "int4", "bytea[]", "int4[]" },
	"attached_rows"
};

static CdpStatement bundles_of_keys = {
	"SELECT b.first, b.packed FROM cdp.bundles b"
	" WHERE cdp.bundle_buckets(b.attachment, b.packed) && $2 AND b.attachment = $1",
	{ "int8", "int4[]" },
	"bundles"
};

static CdpStatement definition_of_version = {
	"SELECT d.id FROM cdp.attachment_definitions d WHERE d.version = $1",
	{ "int8" }
};

/* A key and where it is among those that are asked for. */
typedef struct Sought
{
	char key[CDP_KEY_FOR_HASH]; /* hash key */
	int place;
	int64 latest; /* the greatest id that has been met, undos included */
} Sought;

void
CdpKeyForHash(const bytea *key, char *result)
{
	int len = VARSIZE_ANY_EXHDR(key);

	if (len > 16)
		elog(ERROR, "the key of a row is too long");
	memset(result, 0, CDP_KEY_FOR_HASH);
	result[0] = (char) len;
	memcpy(result + 1, VARDATA_ANY(key), len);
}

/*
 * Run as the active snapshot sees things, and the memory context stays the caller's.
 */
static uint64
run_by_snapshot(CdpStatement *statement, Datum *args)
{
	MemoryContext old = CurrentMemoryContext;

	if (statement->table != NULL && CdpTableIsVoid(statement->table))
		return 0;
	CdpPrepare(statement);
	if (SPI_execute_plan(statement->plan, args, NULL, true, 0) < 0)
		elog(ERROR, "could not look for rows that are in the log");
	MemoryContextSwitchTo(old);
	return SPI_processed;
}

/*
 * What the bundles say that may have these keys; search: of each of them the
 * bucket, once or more.
 */
static void
search_bundles(int64 version, HTAB *sought, int32 *buckets, int n, CdpKnown *known)
{
	Datum args[2] = { Int64GetDatum(version), CdpInt4Array(buckets, n) };
	uint64 found = run_by_snapshot(&bundles_of_keys, args);
	SPITupleTable *table = SPI_tuptable;
	MemoryContext scratch;

	if (found == 0)
		return;
	scratch = AllocSetContextCreate(CurrentMemoryContext, "cdp bundle", ALLOCSET_DEFAULT_SIZES);
	for (uint64 i = 0; i < found; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(scratch);
		CdpBundleRow row = { .attachment = version };
		CdpBundleReader reader;
		CdpBundleItem item;
		bool isnull;

		CHECK_FOR_INTERRUPTS();
		row.first = DatumGetInt64(SPI_getbinval(table->vals[i], table->tupdesc, 1, &isnull));
		CdpBundleReaderBegin(&reader, &row,
							 DatumGetByteaPP(SPI_getbinval(table->vals[i], table->tupdesc, 2, &isnull)));
		while (CdpBundleReaderNext(&reader, &item))
		{
			char key[CDP_KEY_FOR_HASH];
			Sought *one;

			CdpKeyForHash(CdpBundleItemKey(&item), key);
			one = hash_search(sought, key, HASH_FIND, NULL);
			if (one == NULL || item.id < one->latest)
				continue;
			one->latest = item.id;
			known[one->place].packed = true;
			if (known[one->place].loose)
				continue;
			known[one->place].found = !item.undo;
			known[one->place].entry = item.id;
			known[one->place].hash = item.undo ? 0 : item.hash;
			known[one->place].at = item.at;
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(scratch);
	}
	MemoryContextDelete(scratch);
	SPI_freetuptable(table);
}

/*
 * Of keys that are not known yet, what bundles say.
 */
static void
take_bundled(int64 version, Datum *keys, int n, CdpKnown *known)
{
	HASHCTL control = { .keysize = CDP_KEY_FOR_HASH, .entrysize = sizeof(Sought), .hcxt = CurrentMemoryContext };
	HTAB *sought;
	int32 *buckets;
	int nest_level;

	if (CdpTableIsVoid("bundles"))
		return;
	buckets = palloc_array(int32, SEARCH_TOGETHER);
	nest_level = NewGUCNestLevel();
	CdpPinPlans();
	/* the index on keys can be read in no other way */
	(void) set_config_option("enable_bitmapscan", "on", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	for (int i = 0; i < n;)
	{
		int asked = 0;

		sought = hash_create("cdp keys", SEARCH_TOGETHER, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
		for (; i < n && asked < SEARCH_TOGETHER; i++)
		{
			bytea *key = DatumGetByteaPP(keys[i]);
			char sought_for[CDP_KEY_FOR_HASH];
			Sought *one;
			bool there;

			CdpKeyForHash(key, sought_for);
			one = hash_search(sought, sought_for, HASH_ENTER, &there);
			/* asked for twice: the latter is told */
			one->place = i;
			one->latest = PG_INT64_MIN;
			buckets[asked++] = CdpBundleBucket(version, key);
		}
		if (asked > 0)
			search_bundles(version, sought, buckets, CdpBundleBucketsUnique(buckets, asked), known);
		hash_destroy(sought);
	}
	AtEOXact_GUC(true, nest_level);
}

static void
take_loose(int32 attachment, Datum *keys, int n, CdpKnown *known)
{
	int32 *places;
	Datum args[3];
	uint64 found;
	int nest_level;

	if (CdpTableIsVoid("attached_rows"))
		return;
	places = palloc_array(int32, n);
	for (int i = 0; i < n; i++)
		places[i] = i;
	args[0] = Int32GetDatum(attachment);
	args[1] = CdpVarlenaArray(keys, NULL, n, BYTEAOID);
	args[2] = CdpInt4Array(places, n);
	nest_level = NewGUCNestLevel();
	CdpPinPlans();
	found = run_by_snapshot(&loose_rows, args);
	AtEOXact_GUC(true, nest_level);
	for (uint64 i = 0; i < found; i++)
	{
		bool isnull;
		CdpKnown *one = &known[DatumGetInt32(CdpCell(i, 1, &isnull))];
		Datum at;

		one->loose = true;
		one->entry = CdpCellInt8(i, 2);
		one->found = one->entry != 0;
		one->hash = CdpCellInt8(i, 3);
		at = CdpCell(i, 4, &isnull);
		one->at = isnull ? DT_NOBEGIN : DatumGetTimestampTz(at);
	}
	if (found > 0)
		SPI_freetuptable(SPI_tuptable);
}

void
CdpKnownRows(int32 attachment, int64 version, Datum *keys, int n, CdpKnown *known)
{
	memset(known, 0, sizeof(CdpKnown) * n);
	if (n == 0)
		return;
	take_loose(attachment, keys, n, known);
	take_bundled(version, keys, n, known);
}

/*
 * cdp.bundled_rows(version bigint, keys bytea[])
 *		returns setof record (key bytea, hash bigint, entry bigint, at timestamptz)
 */
Datum
cdp_bundled_rows(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	CdpUserContext saved;
	CdpKnown *known;
	Datum *keys;
	bool *isnull;
	int n;
	int kept = 0;

	InitMaterializedSRF(fcinfo, 0);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), BYTEAOID, -1, false, TYPALIGN_INT, &keys, &isnull, &n);
	for (int i = 0; i < n; i++)
		if (!isnull[i])
			keys[kept++] = keys[i];
	known = palloc0_array(CdpKnown, Max(kept, 1));
	if (kept > 0)
	{
		SPI_connect();
		CdpBecomeOwner(&saved);
		take_bundled(PG_GETARG_INT64(0), keys, kept, known);
		CdpRestoreUser(&saved);
		SPI_finish();
	}
	for (int i = 0; i < kept; i++)
	{
		Datum values[4] = { keys[i], Int64GetDatum(known[i].hash), Int64GetDatum(known[i].entry), TimestampTzGetDatum(known[i].at) };
		bool nulls[4] = { 0 };

		if (known[i].found)
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * cdp.bundle_items(version bigint)
 *		returns setof record (key bytea, entry bigint, undo boolean, hash bigint)
 */
Datum
cdp_bundle_items(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int64 version = PG_GETARG_INT64(0);
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "cdp bundle",
												  ALLOCSET_DEFAULT_SIZES);
	CdpBundleScan *scan;
	CdpBundleRow row;
	bytea *packed;

	InitMaterializedSRF(fcinfo, 0);
	scan = CdpBundleScanBegin(GetActiveSnapshot());
	if (scan == NULL)
		return (Datum) 0;
	CdpBundleScanBlocks(scan, 0, InvalidBlockNumber);
	while (CdpBundleScanNext(scan, &row, &packed, NULL))
	{
		MemoryContext old;
		CdpBundleReader reader;
		CdpBundleItem item;

		if (row.attachment != version)
			continue;
		old = MemoryContextSwitchTo(scratch);
		CdpBundleReaderBegin(&reader, &row, packed);
		while (CdpBundleReaderNext(&reader, &item))
		{
			Datum values[4] = { PointerGetDatum(CdpBundleItemKey(&item)), Int64GetDatum(item.id), BoolGetDatum(item.undo), Int64GetDatum(item.undo ? 0 : item.hash) };
			bool nulls[4] = { 0 };

			/* an undo of what is gone from the log has no key */
			if (item.keylen > 0)
				tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(scratch);
	}
	CdpBundleScanEnd(scan);
	MemoryContextDelete(scratch);
	return (Datum) 0;
}

/*
 * Of some entries of an attachment those that count for their rows.
 */
static void
put_standing(ReturnSetInfo *rsinfo, int64 version, Datum *keys, int64 *ids, int n)
{
	Datum arg = Int64GetDatum(version);
	CdpKnown *known;
	bool isnull;
	int32 attachment;

	if (n == 0)
		return;
	if (run_by_snapshot(&definition_of_version, &arg) == 0)
		return; /* its table is attached no more */
	attachment = DatumGetInt32(CdpCell(0, 1, &isnull));
	SPI_freetuptable(SPI_tuptable);
	known = palloc_array(CdpKnown, n);
	CdpKnownRows(attachment, version, keys, n, known);
	for (int i = 0; i < n; i++)
	{
		Datum value = Int64GetDatum(ids[i]);
		bool null = false;

		if (known[i].found && known[i].entry == ids[i])
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &value, &null);
	}
}

/*
 * cdp.bundled_standing(from_page bigint, until_page bigint) returns setof record (entry bigint)
 */
Datum
cdp_bundled_standing(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int64 from = PG_GETARG_INT64(0);
	int64 until = PG_GETARG_INT64(1);
	CdpUserContext saved;
	CdpBundleScan *scan;
	CdpBundleRow row;
	bytea *packed;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	scan = CdpBundleScanBegin(GetActiveSnapshot());
	if (scan == NULL)
		return (Datum) 0;
	SPI_connect();
	CdpBecomeOwner(&saved);
	CdpBundleScanBlocks(scan, (BlockNumber) Min(Max(from, 0), MaxBlockNumber),
						(BlockNumber) Min(Max(until, 0), MaxBlockNumber));
	while (CdpBundleScanNext(scan, &row, &packed, NULL))
	{
		CdpBundleReader reader;
		CdpBundleItem item;
		Datum keys[4096];
		int64 ids[4096];
		int n = 0;
		MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "cdp bundle",
													  ALLOCSET_DEFAULT_SIZES);
		MemoryContext old = MemoryContextSwitchTo(scratch);

		CdpBundleReaderBegin(&reader, &row, packed);
		while (CdpBundleReaderNext(&reader, &item) && n < lengthof(keys))
			if (!item.undo)
			{
				keys[n] = PointerGetDatum(CdpBundleItemKey(&item));
				ids[n++] = item.id;
			}
		put_standing(rsinfo, row.attachment, keys, ids, n);
		MemoryContextSwitchTo(old);
		MemoryContextDelete(scratch);
	}
	CdpRestoreUser(&saved);
	SPI_finish();
	CdpBundleScanEnd(scan);
	return (Datum) 0;
}
