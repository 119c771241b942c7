/*-------------------------------------------------------------------------
 *
 * bundle.h
 *	  Private to collect/: entries of attached rows that are packed, many in a
 *	  row of cdp.bundles.
 *
 * IDENTIFICATION
 *	  src/collect/bundle.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_BUNDLE_H
#define CDP_BUNDLE_H

#include "postgres.h"

#include "access/skey.h"
#include "collect/collect.h"
#include "executor/tuptable.h"
#include "storage/block.h"
#include "storage/itemptr.h"
#include "utils/hsearch.h"
#include "utils/snapshot.h"

/* Columns of cdp.bundles, in order. */
typedef enum CdpBundlesColumn
{
	CDP_BUNDLES_XID = 0,
	CDP_BUNDLES_LAST,
	CDP_BUNDLES_FIRST,
	CDP_BUNDLES_RECEIVED_AT,
	CDP_BUNDLES_ATTACHMENT,
	CDP_BUNDLES_INCARNATION,
	CDP_BUNDLES_PACKED,
	CDP_BUNDLES_NATTS
} CdpBundlesColumn;

/* A bundle without what is packed in it. */
typedef struct CdpBundleRow
{
	int64 xid;
	int64 first;
	int64 last;
	TimestampTz received_at;
	int64 attachment;
	int32 incarnation;
} CdpBundleRow;

typedef enum CdpBundleProperties
{
	CDP_BUNDLE_REFERENCE = 0, /* to the row: what they say is not copied */
	CDP_BUNDLE_COPIED, /* as they take less than a reference */
	CDP_BUNDLE_NONE
} CdpBundleProperties;

/*
 * One entry.  What is pointed to is in the bundle, or the writer's caller's.
 */
typedef struct CdpBundleItem
{
	int64 id;
	TimestampTz at; /* occurred_at */
	bool undo; /* of the entry target; else an entry as follows */
	int64 target;
	const char *key; /* of the row: text where properties refer to it, ... */
	int keylen; /* ... else as CdpShortKey makes it */
	char digits[20]; /* what key points to, when it is a number */
	int64 hash; /* of what the entry says */
	const char *event; /* NULL: none */
	int eventlen;
	CdpBundleProperties properties;
	const char *copied; /* a jsonb without its header */
	int copiedlen;
	int nidentifiers;
	Datum *identifiers; /* the writer's; a reader has them packed */
	const char *packed;
} CdpBundleItem;

/* ---- bundle.c: the format ---- */

typedef struct CdpBundleWriter CdpBundleWriter;

extern CdpBundleWriter *CdpBundleWriterMake(const text *source, const text *type, bool undos);
/* False when it does not fit in any more; the first one always does. */
extern bool CdpBundleWriterAdd(CdpBundleWriter *writer, const CdpBundleItem *item);
extern int CdpBundleWriterCount(const CdpBundleWriter *writer);
/* What was added, and the least and greatest id of it; the writer is empty then. */
extern bytea *CdpBundleWriterTake(CdpBundleWriter *writer, int64 *first, int64 *last);

/* Reads the entries of a bundle in the order of their ids. */
typedef struct CdpBundleReader
{
	const char *place;
	const char *end;
	bool undos;
	text *source; /* NULL: none */
	text *type;
	int nkinds;
	const char **kinds;
	int *kindlens;
	int nevents;
	const char **events;
	int *eventlens;
	int64 id; /* of the entry that was read last */
	TimestampTz at;
	int64 target;
} CdpBundleReader;

/* packed must stay where it is as long as it is read. */
extern void CdpBundleReaderBegin(CdpBundleReader *reader, const CdpBundleRow *row, bytea *packed);
extern bool CdpBundleReaderNext(CdpBundleReader *reader, CdpBundleItem *item);
/* The entry as a row of cdp.events, in the current memory context. */
extern void CdpBundleItemRow(const CdpBundleReader *reader, const CdpBundleRow *row,
							 const CdpBundleItem *item, Datum *values, bool *isnull);
/* What tells the entry's row apart, as cdp.attached_rows has it. */
extern bytea *CdpBundleItemKey(const CdpBundleItem *item);
/* The bundle without some entries (ids in order); NULL when none is left. */
extern bytea *CdpBundleWithout(CdpBundleRow *row, bytea *packed, const int64 *ids, int n);
/* The bundle, of undos, without the keys that are in a hash table (CdpKeyForHash); NULL when it has none of them. */
extern bytea *CdpBundleForget(CdpBundleRow *row, bytea *packed, HTAB *keys);
/* What the index on keys holds of a row of an attachment. */
extern int32 CdpBundleBucket(int64 attachment, const bytea *key);
/* In order, each once; returns how many there are then. */
extern int CdpBundleBucketsUnique(int32 *buckets, int n);

/* ---- bundle_scan.c: rows of cdp.bundles, and cdp.events_packed over them ---- */

typedef struct CdpBundleScan CdpBundleScan;

/* By a snapshot that stays registered or active.  NULL: there is no bundle. */
extern CdpBundleScan *CdpBundleScanBegin(Snapshot snapshot);
/* By keys of the index on (xid, last), in their order, if it can be used. */
extern bool CdpBundleScanIndexed(const CdpBundleScan *scan);
extern void CdpBundleScanKeys(CdpBundleScan *scan, ScanKey keys, int nkeys);
/* All of them, or those in blocks from one up to another that is excluded. */
extern void CdpBundleScanBlocks(CdpBundleScan *scan, BlockNumber from, BlockNumber until);
/* What is packed lasts until the next call. */
extern bool CdpBundleScanNext(CdpBundleScan *scan, CdpBundleRow *row, bytea **packed,
							  ItemPointer place);
extern bytea *CdpBundleFromSlot(TupleTableSlot *slot, CdpBundleRow *row);
extern void CdpBundleScanEnd(CdpBundleScan *scan);

/* ---- bundle_change.c: entries that leave their bundles ---- */

struct FdwRoutine;
extern void CdpBundleChangeRoutine(struct FdwRoutine *routine);

/* ---- bundle_forget.c ---- */

/*
 * Entries with these keys have left their bundles: undos of rows of which no bundle
 * has an entry any more lose the key, too.  Within SPI, as the owner.
 */
extern void CdpBundleForgetRows(int64 attachment, Datum *keys, int n);

/* ---- known.c: what counts for the rows of an attachment ---- */

typedef struct CdpKnown
{
	bool found; /* an entry counts for the row: */
	bool loose; /* cdp.attached_rows has the row, whatever it says */
	bool packed; /* a bundle has the row, whatever it says */
	int64 entry;
	int64 hash;
	TimestampTz at; /* DT_NOBEGIN: not later than it was logged */
} CdpKnown;

/* By the active snapshot; within SPI, as the owner.  Keys are those of CdpShortKey. */
/* A key as one of a hash table: its length, then up to 16 bytes. */
#define CDP_KEY_FOR_HASH 17
extern void CdpKeyForHash(const bytea *key, char *result);
extern void CdpKnownRows(int32 attachment, int64 version, Datum *keys, int n, CdpKnown *known);

/* ---- pack.c: writing ---- */

struct CdpCapture;
/* Is what was captured enough to be packed? */
extern bool CdpPackIsDue(const struct CdpCapture *capture);
/* Write it, rows (row_descriptor) and keys of rows that are gone. */
extern void CdpPackWrite(struct CdpCapture *capture, TupleDesc rows, TupleDesc gone);

/* What tells a row apart, in 16 bytes at most (capture.c). */
extern bytea *CdpShortKey(const void *data, Size len);

#endif /* CDP_BUNDLE_H */
