/*-------------------------------------------------------------------------
 *
 * known.c
 *	  What counts for the rows of an attached table whose entries may be packed.
 *
 *	  It is what cdp.attached_rows has of the row, if it has anything; entry 0 says
 *	  that none counts.  Else it is the entry in a bundle with the key of the row.
 *	  There is at most one: an entry is packed only when neither knows the key
 *	  (pack.c), and a row that is known changes in cdp.attached_rows.  So what a
 *	  bundle says is copied there before the row changes (CdpKnow), with a mark
 *	  that a bundle has it: such a row must stay there as long as the bundle has
 *	  its entry.
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
#include "collect/attach.h"
#include "collect/bundle.h"
#include "compat.h"
#include "statement.h"

PG_FUNCTION_INFO_V1(cdp_bundle_items);
PG_FUNCTION_INFO_V1(cdp_bundled_standing);

/* Keys that are looked for in one search of the index. */
#define SEARCH_TOGETHER 500

static CdpStatement loose_rows = {
	"SELECT u.place, r.entry, r.hash, r.at, r.packed FROM (SELECT unnest($2) AS key, unnest($3) AS place) AS u"
	" CROSS JOIN LATERAL (SELECT r.entry, r.hash, r.at, r.packed FROM cdp.attached_rows r"
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

/* what bundles say of rows, before these change */
static CdpStatement keep_known = {
	"INSERT INTO cdp.attached_rows (attachment, key, hash, entry, at, packed)"
	" SELECT $1, u.key, u.hash, u.entry, CASE WHEN u.at > cdp.clock() THEN u.at END, true"
	" FROM (SELECT unnest($2) AS key, unnest($3) AS hash, unnest($4) AS entry, unnest($5) AS at) AS u ORDER BY u.key"
	" ON CONFLICT (attachment, key) DO NOTHING RETURNING key",
	{ "int4", "bytea[]", "int8[]", "int8[]", "timestamptz[]" }
};

/* where a key may be that of two rows */
static CdpStatement mark_packed = {
	"UPDATE cdp.attached_rows r SET packed = true FROM unnest($2) AS u (key)"
	" WHERE r.attachment = $1 AND r.key = u.key AND NOT r.packed",
	{ "int4", "bytea[]" }
};

/* what has left its bundle between the look at it and its copy */
static CdpStatement forget_known = {
	"DELETE FROM cdp.attached_rows r USING unnest($2) AS u (key) WHERE r.attachment = $1 AND r.key = u.key",
	{ "int4", "bytea[]" }
};

/* A key and where it is among those that are asked for. */
typedef struct Sought
{
	char key[CDP_KEY_FOR_HASH]; /* hash key */
	int place; /* the last one; each names the one before, or -1 */
} Sought;

void
CdpKeyForHash(const bytea *key, char *result)
{
	int len = VARSIZE_ANY_EXHDR(key);

	if (len > 16)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the key of a row is too long")));
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
search_bundles(int64 version, HTAB *sought, const int *before, int32 *buckets, int n, CdpKnown *known)
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
			for (int j = one == NULL ? -1 : one->place; j >= 0; j = before[j])
			{
				known[j].packed = true;
				if (known[j].loose)
					continue;
				known[j].found = true;
				known[j].entry = item.id;
				known[j].hash = item.hash;
				known[j].at = item.at;
			}
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(scratch);
	}
	MemoryContextDelete(scratch);
	SPI_freetuptable(table);
}

/*
 * What bundles say; of all keys, or of those of which cdp.attached_rows has nothing.
 */
static void
take_bundled(int64 version, Datum *keys, int n, bool all, CdpKnown *known)
{
	HASHCTL control = { .keysize = CDP_KEY_FOR_HASH, .entrysize = sizeof(Sought), .hcxt = CurrentMemoryContext };
	int32 *buckets;
	int *before;
	int nest_level;

	if (CdpTableIsVoid("bundles"))
		return;
	before = palloc_array(int, n);
	buckets = palloc_array(int32, SEARCH_TOGETHER);
	nest_level = NewGUCNestLevel();
	CdpPinPlans();
	/* the index on keys can be read in no other way */
	(void) set_config_option("enable_bitmapscan", "on", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	for (int i = 0; i < n;)
	{
		HTAB *sought = hash_create("cdp keys", SEARCH_TOGETHER, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
		int asked = 0;

		for (; i < n && asked < SEARCH_TOGETHER; i++)
		{
			bytea *key = DatumGetByteaPP(keys[i]);
			char sought_for[CDP_KEY_FOR_HASH];
			Sought *one;
			bool twice;

			if (known[i].loose && !all)
				continue;
			CdpKeyForHash(key, sought_for);
			one = hash_search(sought, sought_for, HASH_ENTER, &twice);
			before[i] = twice ? one->place : -1;
			one->place = i;
			buckets[asked++] = CdpBundleBucket(version, key);
		}
		if (asked > 0)
			search_bundles(version, sought, before, buckets, CdpBundleBucketsUnique(buckets, asked), known);
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
		one->packed = DatumGetBool(CdpCell(i, 5, &isnull));
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
	take_bundled(version, keys, n, false, known);
}

/*
 * The same by the latest snapshot, whatever the transaction sees otherwise.
 */
void
CdpKnownLatest(const CdpAttachment *attachment, Datum *keys, int n, CdpKnown *known)
{
	CommandCounterIncrement();
	PushActiveSnapshot(GetLatestSnapshot());
	CdpKnownRows(attachment->id, attachment->version, keys, n, known);
	PopActiveSnapshot();
}

static uint64
run_latest(CdpStatement *statement, Datum *args)
{
	MemoryContext old = CurrentMemoryContext;
	uint64 n = CdpRunLatest(statement, args);

	MemoryContextSwitchTo(old);
	return n;
}

/*
 * Whoever erases an entry, or changes it, takes it out of its bundle when we have
 * looked there and not written yet.  He holds the keys that are concerned in
 * cdp.attached_rows until he commits, so we have waited for him when we have
 * written; then nothing counts for the row any more.
 */
static void
look_again(const CdpAttachment *attachment, uint64 kept)
{
	Datum *keys = palloc_array(Datum, kept);
	CdpKnown *known = palloc0_array(CdpKnown, kept);
	Datum args[2] = { Int32GetDatum(attachment->id) };
	int n = 0;

	for (uint64 i = 0; i < kept; i++)
		keys[i] = PointerGetDatum(CdpCellVarlena(i, 1, CurrentMemoryContext));
	SPI_freetuptable(SPI_tuptable);
	CommandCounterIncrement();
	PushActiveSnapshot(GetLatestSnapshot());
	take_bundled(attachment->version, keys, (int) kept, true, known);
	PopActiveSnapshot();
	for (uint64 i = 0; i < kept; i++)
		if (!known[i].packed)
			keys[n++] = keys[i];
	if (n == 0)
		return;
	args[1] = CdpVarlenaArray(keys, NULL, n, BYTEAOID);
	run_latest(&forget_known, args);
}

void
CdpKnow(const CdpAttachment *attachment, Datum *keys, const CdpKnown *known, int n)
{
	Datum *some = palloc_array(Datum, Max(n, 1));
	int64 *hashes = palloc_array(int64, Max(n, 1));
	int64 *entries = palloc_array(int64, Max(n, 1));
	TimestampTz *times = palloc_array(TimestampTz, Max(n, 1));
	Datum args[5];
	int count = 0;
	uint64 kept;

	for (int i = 0; i < n; i++)
	{
		if (!known[i].found || known[i].loose)
			continue;
		some[count] = keys[i];
		hashes[count] = known[i].hash;
		entries[count] = known[i].entry;
		times[count++] = known[i].at;
	}
	if (count == 0)
		return;
	args[0] = Int32GetDatum(attachment->id);
	args[1] = CdpVarlenaArray(some, NULL, count, BYTEAOID);
	args[2] = CdpInt8Array(hashes, count);
	args[3] = CdpInt8Array(entries, count);
	args[4] = CdpTimestampArray(times, count);
	kept = run_latest(&keep_known, args);
	if (kept > 0)
		look_again(attachment, kept);
}

/*
 * Where two rows may have a key, as in a table and its children, cdp.attached_rows
 * may have got it while a bundle did that others did not see.
 */
void
CdpKnowDoubles(const CdpAttachment *attachment, Datum *keys, int n)
{
	CdpKnown *known = palloc0_array(CdpKnown, Max(n, 1));
	Datum args[2] = { Int32GetDatum(attachment->id) };
	Datum *some = palloc_array(Datum, Max(n, 1));
	int count = 0;

	if (n == 0)
		return;
	CommandCounterIncrement();
	PushActiveSnapshot(GetLatestSnapshot());
	take_loose(attachment->id, keys, n, known);
	take_bundled(attachment->version, keys, n, true, known);
	PopActiveSnapshot();
	for (int i = 0; i < n; i++)
		if (known[i].loose && known[i].packed)
			some[count++] = keys[i];
	if (count > 0)
	{
		args[1] = CdpVarlenaArray(some, NULL, count, BYTEAOID);
		run_latest(&mark_packed, args);
	}
	CdpKnow(attachment, keys, known, n);
}

/*
 * cdp.bundle_items(version bigint)
 *		returns setof record (key bytea, entry bigint, hash bigint)
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
			Datum values[3] = { PointerGetDatum(CdpBundleItemKey(&item)), Int64GetDatum(item.id), Int64GetDatum(item.hash) };
			bool nulls[3] = { 0 };

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
 * Of the entries of a bundle those that count for their rows, as cdp.attached_rows
 * says nothing else.
 */
static void
put_standing(ReturnSetInfo *rsinfo, const CdpBundleRow *row, bytea *packed)
{
	Datum arg = Int64GetDatum(row->attachment);
	CdpBundleReader reader;
	CdpBundleItem item;
	CdpKnown *known;
	Datum *keys;
	int64 *ids;
	int32 attachment;
	bool isnull;
	int n = 0;
	int allocated = 256;

	if (run_by_snapshot(&definition_of_version, &arg) == 0)
		return; /* its table is attached no more */
	attachment = DatumGetInt32(CdpCell(0, 1, &isnull));
	SPI_freetuptable(SPI_tuptable);
	keys = palloc_array(Datum, allocated);
	ids = palloc_array(int64, allocated);
	CdpBundleReaderBegin(&reader, row, packed);
	while (CdpBundleReaderNext(&reader, &item))
	{
		if (n == allocated)
		{
			allocated *= 2;
			keys = repalloc(keys, sizeof(Datum) * allocated);
			ids = repalloc(ids, sizeof(int64) * allocated);
		}
		keys[n] = PointerGetDatum(CdpBundleItemKey(&item));
		ids[n++] = item.id;
	}
	known = palloc0_array(CdpKnown, Max(n, 1));
	if (n > 0)
		take_loose(attachment, keys, n, known);
	for (int i = 0; i < n; i++)
	{
		Datum value = Int64GetDatum(ids[i]);
		bool null = false;

		/* that one entry counts for the row in both places is what CdpKnow says */
		if (!known[i].loose || known[i].entry == ids[i])
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
		MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "cdp bundle",
													  ALLOCSET_DEFAULT_SIZES);
		MemoryContext old = MemoryContextSwitchTo(scratch);

		put_standing(rsinfo, &row, packed);
		MemoryContextSwitchTo(old);
		MemoryContextDelete(scratch);
	}
	CdpRestoreUser(&saved);
	SPI_finish();
	CdpBundleScanEnd(scan);
	return (Datum) 0;
}
