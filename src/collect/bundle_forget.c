/*-------------------------------------------------------------------------
 *
 * bundle_forget.c
 *	  Keys of rows whose entries have left the log.
 *
 *	  An undo has the key of its row so that what it undoes does not count for
 *	  the row any more, and cdp.attached_rows has it with entry 0 for the same
 *	  reason.  When no bundle has an entry of the row any more nothing needs it,
 *	  and it may be personal: it goes with the last entry.
 *
 * IDENTIFICATION
 *	  src/collect/bundle_forget.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "cdp.h"
#include "collect/bundle.h"
#include "compat.h"
#include "statement.h"

/* Keys that are looked for in one search of the index. */
#define FORGET_TOGETHER 500

static CdpStatement bundles_with_keys = {
	"SELECT b.ctid, b.first, b.packed FROM cdp.bundles b"
	" WHERE cdp.bundle_buckets(b.attachment, b.packed) && $2 AND b.attachment = $1",
	{ "int8", "int4[]" }
};

static CdpStatement write_packed = {
	"UPDATE cdp.bundles b SET packed = $2 WHERE b.ctid = $1",
	{ "tid", "bytea" }
};

static CdpStatement forget_none = {
	"DELETE FROM cdp.attached_rows r USING cdp.attachment_definitions d, unnest($2) AS u (key)"
	" WHERE d.version = $1 AND r.attachment = d.id AND r.key = u.key AND r.entry = 0",
	{ "int8", "bytea[]" },
	"attached_rows"
};

typedef struct Forgotten
{
	char key[CDP_KEY_FOR_HASH]; /* hash key */
	Datum bytes;
} Forgotten;

typedef struct Found
{
	ItemPointerData place;
	CdpBundleRow row;
	bytea *packed;
} Found;

/*
 * Keys of which there is an entry stay.
 */
static void
keep_keys(HTAB *keys, Found *found)
{
	CdpBundleReader reader;
	CdpBundleItem item;

	CdpBundleReaderBegin(&reader, &found->row, found->packed);
	if (reader.undos)
		return;
	while (CdpBundleReaderNext(&reader, &item))
	{
		char key[CDP_KEY_FOR_HASH];

		CdpKeyForHash(CdpBundleItemKey(&item), key);
		(void) hash_search(keys, key, HASH_REMOVE, NULL);
	}
}

static void
forget_keys(int64 attachment, HTAB *keys, Found *found, int n)
{
	int nkeys = (int) hash_get_num_entries(keys);
	Datum *left = palloc_array(Datum, Max(nkeys, 1));
	HASH_SEQ_STATUS status;
	Forgotten *one;
	Datum args[2];
	int count = 0;

	if (nkeys == 0)
		return;
	hash_seq_init(&status, keys);
	while ((one = hash_seq_search(&status)) != NULL)
		left[count++] = one->bytes;
	for (int i = 0; i < n; i++)
	{
		bytea *packed = CdpBundleForget(&found[i].row, found[i].packed, keys);

		if (packed == NULL)
			continue;
		args[0] = PointerGetDatum(&found[i].place);
		args[1] = PointerGetDatum(packed);
		if (CdpRunHere(&write_packed, args, NULL) != 1)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("packed entries have been changed by somebody else meanwhile")));
	}
	args[0] = Int64GetDatum(attachment);
	args[1] = CdpVarlenaArray(left, NULL, count, BYTEAOID);
	CdpRunHere(&forget_none, args, NULL);
}

static void
forget_some(int64 attachment, Datum *keys, int n)
{
	HASHCTL control = { .keysize = CDP_KEY_FOR_HASH, .entrysize = sizeof(Forgotten), .hcxt = CurrentMemoryContext };
	HTAB *table = hash_create("cdp keys", n, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	int32 *buckets = palloc_array(int32, n);
	Found *found;
	Datum args[2];
	int nfound;
	int nest_level;

	for (int i = 0; i < n; i++)
	{
		bytea *key = DatumGetByteaPP(keys[i]);
		char name[CDP_KEY_FOR_HASH];
		Forgotten *one;

		CdpKeyForHash(key, name);
		one = hash_search(table, name, HASH_ENTER, NULL);
		one->bytes = keys[i];
		buckets[i] = CdpBundleBucket(attachment, key);
	}
	args[0] = Int64GetDatum(attachment);
	args[1] = CdpInt4Array(buckets, CdpBundleBucketsUnique(buckets, n));
	nest_level = NewGUCNestLevel();
	CdpPinPlans();
	/* the index on keys can be read in no other way */
	(void) set_config_option("enable_bitmapscan", "on", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	nfound = (int) CdpRunHere(&bundles_with_keys, args, NULL);
	AtEOXact_GUC(true, nest_level);
	found = palloc0_array(Found, Max(nfound, 1));
	for (int i = 0; i < nfound; i++)
	{
		bool isnull;

		found[i].place = *(ItemPointer) DatumGetPointer(CdpCell(i, 1, &isnull));
		found[i].row.first = CdpCellInt8(i, 2);
		found[i].row.attachment = attachment;
		found[i].packed = (bytea *) CdpCellVarlena(i, 3, CurrentMemoryContext);
	}
	SPI_freetuptable(SPI_tuptable);
	for (int i = 0; i < nfound; i++)
		keep_keys(table, &found[i]);
	forget_keys(attachment, table, found, nfound);
}

void
CdpBundleForgetRows(int64 attachment, Datum *keys, int n)
{
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "cdp forgotten keys",
												  ALLOCSET_DEFAULT_SIZES);

	for (int i = 0; i < n; i += FORGET_TOGETHER)
	{
		MemoryContext old = MemoryContextSwitchTo(scratch);

		CHECK_FOR_INTERRUPTS();
		forget_some(attachment, keys + i, Min(FORGET_TOGETHER, n - i));
		MemoryContextSwitchTo(old);
		MemoryContextReset(scratch);
	}
	MemoryContextDelete(scratch);
}
