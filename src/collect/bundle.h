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
#include "utils/rel.h"
#include "utils/snapshot.h"
#include "utils/tuplestore.h"

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
	const char *key; /* of the row: text where properties refer to it, ... */
	int keylen; /* ... else as CdpShortKey makes it */
	char written[40]; /* the key, when it is not in the bundle as it is written: then it is NULL */
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

extern CdpBundleWriter *CdpBundleWriterMake(const text *source, const text *type);
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
/* What the index on keys holds of a row of an attachment. */
extern int32 CdpBundleBucket(int64 attachment, const bytea *key);
/* In order, each once; returns how many there are then. */
extern int CdpBundleBucketsUnique(int32 *buckets, int n);

/* ---- bundle_rows.c: rows of cdp.bundles ---- */

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
extern void CdpBundleScanEnd(CdpBundleScan *scan);

/* ---- bundle_scan.c: cdp.events_packed over them ---- */

/* An error, unless it is cdp.events_packed: anybody's foreign table may be on our server. */
extern void CdpCheckPacked(Relation rel);

/* ---- bundle_change.c: entries that leave their bundles ---- */

struct FdwRoutine;
extern void CdpBundleChangeRoutine(struct FdwRoutine *routine);

/* ---- known.c: what counts for the rows of an attachment ---- */

typedef struct CdpKnown
{
	bool found; /* an entry counts for the row: */
	bool loose; /* cdp.attached_rows has the row, whatever it says */
	bool packed; /* a bundle has the row, whatever cdp.attached_rows says */
	int64 entry;
	int64 hash;
	TimestampTz at; /* DT_NOBEGIN: not later than it was logged */
} CdpKnown;

/* A key as one of a hash table: its length, then up to 16 bytes. */
#define CDP_KEY_FOR_HASH 17
extern void CdpKeyForHash(const bytea *key, char *result);

/* Keys are those of CdpShortKey.  Within SPI, as the owner. */
struct CdpAttachment;
/* By the active snapshot. */
extern void CdpKnownRows(int32 attachment, int64 version, Datum *keys, int n, CdpKnown *known);
extern void CdpKnownLatest(const struct CdpAttachment *attachment, Datum *keys, int n, CdpKnown *known);
/* Tell cdp.attached_rows of those that only a bundle has: then it is there that they change. */
extern void CdpKnow(const struct CdpAttachment *attachment, Datum *keys, const CdpKnown *known, int n);
/* The same of rows whose keys need not be their own. */
extern void CdpKnowDoubles(const struct CdpAttachment *attachment, Datum *keys, int n);

/* ---- pack.c: writing ---- */

struct CdpCapture;

/*
 * Pack the rows that are new, if they are many; returns the others that have
 * changed, which cdp.attached_rows then knows of.
 */
extern Tuplestorestate *CdpPackNew(struct CdpCapture *capture, int64 *others);
/* Tell cdp.attached_rows of the rows that are gone. */
extern void CdpPackKnowGone(struct CdpCapture *capture);

/* What tells a row apart, in 16 bytes at most (capture.c). */
extern bytea *CdpShortKey(const void *data, Size len);

#endif /* CDP_BUNDLE_H */
