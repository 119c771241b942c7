/*-------------------------------------------------------------------------
 *
 * graph_index.h
 *	  The index access method identity_graph: what is on its pages, and what
 *	  its files share.  See README.md for the protocol.
 *
 *	  Layout version	first release	a reader of another version
 *	  1					1.0				refuses: REINDEX, or a newer library
 *
 * IDENTIFICATION
 *	  src/identity/index/graph_index.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_GRAPH_INDEX_H
#define CDP_GRAPH_INDEX_H

#include "access/amapi.h"
#include "access/generic_xlog.h"
#include "port/pg_bitutils.h"
#include "storage/bufmgr.h"
#include "storage/itemptr.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

#include "compat.h"

#define CDPG_MAGIC			0x43445047	/* "CDPG" */
#define CDPG_VERSION		1
#define CDPG_PAGE_ID		0xFFA7	/* last two bytes of every page */
#define CDPG_META_BLOCK		0

/*
 * The special space, 16 bytes.  Every page that is not new has one.
 */
typedef struct CdpgOpaqueData
{
	uint32		bucket;			/* its bucket; of a hub's page: node, low half */
	uint32		stamp;			/* of a primary page: how many buckets there were
								 * after it was last split; of a hub's page: node,
								 * high half; else 0 */
	BlockNumber next;			/* next page of the chain */
	uint16		flags;
	uint16		page_id;		/* CDPG_PAGE_ID, for tools that look at files */
} CdpgOpaqueData;

typedef CdpgOpaqueData *CdpgOpaque;

StaticAssertDecl(sizeof(CdpgOpaqueData) == 16, "layout of CdpgOpaqueData");

/* what a page is: exactly one of */
#define CDPG_META			0x0001
#define CDPG_DIRECTORY		0x0002
#define CDPG_PRIMARY		0x0004
#define CDPG_OVERFLOW		0x0008
#define CDPG_HUB			0x0010
#define CDPG_DELETED		0x0020
#define CDPG_KIND			0x003F
/* entries of 24 bytes instead of 18 */
#define CDPG_WIDE			0x0040
/* primary page whose entries are on their way to bucket stamp - 1 */
#define CDPG_SPLITTING		0x0080
/* primary page whose entries are on their way from the bucket it split off */
#define CDPG_FILLING		0x0100

#define CdpgPageOpaque(page) ((CdpgOpaque) PageGetSpecialPointer(page))

/*
 * Where buckets are: the meta page lists the directory pages, a directory
 * page lists the primary pages of CDPG_PER_DIRECTORY buckets.
 */
#define CDPG_MAX_DIRECTORIES	1024
#define CDPG_PER_DIRECTORY \
	((BLCKSZ - MAXALIGN(SizeOfPageHeaderData) - sizeof(CdpgOpaqueData)) / \
	 sizeof(BlockNumber))
#define CDPG_MAX_BUCKETS	((uint32) (CDPG_MAX_DIRECTORIES * CDPG_PER_DIRECTORY))

typedef struct CdpgMetaData
{
	uint32		magic;
	uint32		version;
	uint32		nbuckets;
	uint32		ndirectories;
	uint32		fillfactor;		/* as it was when the index was built */
	uint32		base;			/* buckets when the index was built */
	uint32		reserved[2];	/* zero */
	BlockNumber directories[CDPG_MAX_DIRECTORIES];
} CdpgMetaData;

typedef CdpgMetaData *CdpgMeta;

StaticAssertDecl(sizeof(CdpgMetaData) == 32 + 4 * CDPG_MAX_DIRECTORIES,
				 "layout of CdpgMetaData");

#define CdpgPageMeta(page) ((CdpgMeta) PageGetContents(page))
#define CdpgPageDirectory(page) ((BlockNumber *) PageGetContents(page))

/*
 * A page of a bucket: CDPG_SLOTS heads of lists, then entries.  An entry is in
 * the list of its node's slot; heads and next are numbers of entries from 1, 0
 * ends a list.  Entries are made of 16-bit words, so that 18 bytes are 18.
 */
#define CDPG_SLOTS			128

typedef struct CdpgShortEntry
{
	uint16		node[2];		/* low half first */
	uint16		other[2];
	uint16		block[2];
	uint16		offset;			/* with flags */
	uint16		next;
	uint8		node_high;		/* bits 32 to 39 */
	uint8		other_high;
} CdpgShortEntry;

typedef struct CdpgWideEntry
{
	uint16		node[4];
	uint16		other[4];
	uint16		block[2];
	uint16		offset;
	uint16		next;
} CdpgWideEntry;

/* A hub's page is an array of these, in the order of insertion. */
typedef struct CdpgHubEntry
{
	uint16		other[4];
	uint16		block[2];
	uint16		offset;
} CdpgHubEntry;

StaticAssertDecl(sizeof(CdpgShortEntry) == 18, "layout of CdpgShortEntry");
StaticAssertDecl(sizeof(CdpgWideEntry) == 24, "layout of CdpgWideEntry");
StaticAssertDecl(sizeof(CdpgHubEntry) == 14, "layout of CdpgHubEntry");

/* flags of an entry, beside the offset number */
#define CDPG_OFFSET_MASK	0x0FFF
#define CDPG_IS_HUB			0x1000	/* block: head of the node's own chain */
#define CDPG_NODE_NULL		0x2000
#define CDPG_OTHER_NULL		0x4000
#define CDPG_FROM_B			0x8000	/* the node is the row's second column */

#define CDPG_PAGE_ROOM \
	(BLCKSZ - MAXALIGN(SizeOfPageHeaderData) - sizeof(CdpgOpaqueData))
#define CDPG_SLOTS_SIZE		(CDPG_SLOTS * sizeof(uint16))
#define CDPG_MAX_SHORT \
	((int) ((CDPG_PAGE_ROOM - CDPG_SLOTS_SIZE) / sizeof(CdpgShortEntry)))
#define CDPG_MAX_WIDE \
	((int) ((CDPG_PAGE_ROOM - CDPG_SLOTS_SIZE) / sizeof(CdpgWideEntry)))
#define CDPG_MAX_HUB		((int) (CDPG_PAGE_ROOM / sizeof(CdpgHubEntry)))

/* A node with as many entries on a full page gets a chain of its own. */
#define CDPG_HUB_SIZE		150

/*
 * Buckets that are split when one gets an overflow page.  With one, a third of
 * the buckets have chains, and a look-up takes a quarter longer; with three, one
 * in thirty.
 */
#define CDPG_SPLITS			3

/* Nodes in this range fit a short entry. */
#define CdpgFitsShort(n) (((uint64) (n)) < (UINT64CONST(1) << 40))

/* An entry in memory. */
typedef struct CdpgEntry
{
	int64		node;
	int64		other;
	BlockNumber block;
	uint16		offset;
	uint16		flags;
} CdpgEntry;

typedef struct CdpgOptions
{
	int32		vl_len_;
	int			fillfactor;
} CdpgOptions;

#define CDPG_FILLFACTOR			80

/* Where a bucket's primary page is. */
typedef struct CdpgPlace
{
	BlockNumber block;			/* 0: not known yet */
	Buffer		recent;			/* the buffer it was in: a hint */
} CdpgPlace;

/* In rd_amcache, one chunk: what is known of meta page and directories. */
typedef struct CdpgCache
{
	uint32		nbuckets;
	uint32		base;
	uint32		ndirectories;
	uint32		capacity;		/* length of primary */
	BlockNumber directories[CDPG_MAX_DIRECTORIES];
	CdpgPlace	primary[FLEXIBLE_ARRAY_MEMBER];
} CdpgCache;

/*
 * A bijection of 64 bits, murmur's finaliser.  Its high half chooses among the
 * buckets that the index was built with, its low 24 bits among those that these
 * have been split into, others the slot.  Being invertible, it makes a sort key
 * from which the build gets the node back.
 */
static inline uint64
CdpgHash(int64 node)
{
	uint64		h = (uint64) node;

	h ^= h >> 33;
	h *= UINT64CONST(0xff51afd7ed558ccd);
	h ^= h >> 33;
	h *= UINT64CONST(0xc4ceb9fe1a85ec53);
	h ^= h >> 33;
	return h;
}

static inline int64
CdpgUnhash(uint64 h)
{
	h ^= h >> 33;
	h *= UINT64CONST(0x9cb4b2f8129337db);
	h ^= h >> 33;
	h *= UINT64CONST(0x4f74430c22a54005);
	h ^= h >> 33;
	return (int64) h;
}

#define CdpgSlot(hash) ((int) ((hash) >> 24) & (CDPG_SLOTS - 1))

/*
 * Lines of a page of a bucket that whoever looks for this hash will read: they
 * are far from each other, and their turns would come one after the other.
 */
#if defined(__GNUC__)
#define CdpgPrefetch(p) __builtin_prefetch(p)
#else
#define CdpgPrefetch(p) ((void) 0)
#endif

static inline void
CdpgPrefetchPage(const void *page, uint64 hash)
{
	const char *start = (const char *) page;

	CdpgPrefetch(start);
	CdpgPrefetch(start + MAXALIGN(SizeOfPageHeaderData) + CdpgSlot(hash) * sizeof(uint16));
	CdpgPrefetch(start + BLCKSZ - sizeof(CdpgOpaqueData));
}

/* How many buckets there were when the last round of splits began. */
static inline uint32
CdpgRound(uint32 nbuckets, uint32 base)
{
	return base << pg_leftmost_one_pos32(nbuckets / base);
}

/*
 * The bucket of a hash.  A build puts ranges of hashes into buckets, as many as
 * are needed; after that they double in rounds, bucket n giving a part of itself
 * to bucket n + (number of buckets at the beginning of the round).
 */
static inline uint32
CdpgBucket(uint64 hash, uint32 nbuckets, uint32 base)
{
	uint32		round = CdpgRound(nbuckets, base);
	uint32		times = round / base;
	uint32		first = (uint32) (((hash >> 32) * base) >> 32);
	uint32		low = (uint32) hash & 0xFFFFFF;
	uint32		bucket = first + base * (low & (2 * times - 1));

	return bucket < nbuckets ? bucket : first + base * (low & (times - 1));
}

/* The bucket that this one split off from (bucket >= base). */
static inline uint32
CdpgParent(uint32 bucket, uint32 base)
{
	return bucket - CdpgRound(bucket, base);
}

/* page.c */
extern void CdpgPageInit(Page page, uint16 flags, uint32 bucket, uint32 stamp);
extern void CdpgHubPageInit(Page page, int64 node);
extern int64 CdpgHubNode(Page page);
extern int	CdpgPageCount(Relation index, Buffer buffer, Page page);
extern void CdpgPageGet(Page page, int i, CdpgEntry *entry);
extern bool CdpgPageFits(Page page, const CdpgEntry *entry);
extern bool CdpgPageFitsBoth(Page page, const CdpgEntry *x, const CdpgEntry *y);
extern bool CdpgPageAdd(Page page, const CdpgEntry *entry);
extern void CdpgPageArrange(Page page);
extern void CdpgPageRemove(Page page, int i);
extern void CdpgPageSetBlock(Page page, int i, BlockNumber block);
extern int	CdpgPageFirst(Page page, uint64 hash);
extern int	CdpgPageNext(Page page, int i);
extern int	CdpgPageCountNode(Relation index, Buffer buffer, int64 node);
extern int	CdpgPageFindHub(Relation index, Buffer buffer, int64 node);
extern void CdpgHubGet(Page page, int i, CdpgEntry *entry);
extern void CdpgHubAdd(Page page, const CdpgEntry *entry);
extern void CdpgHubSet(Page page, int i, const CdpgEntry *entry);
extern void CdpgHubTruncate(Page page, int n);
pg_noreturn extern void CdpgReportCorrupt(Relation index, Buffer buffer, const char *what);

/* store.c: meta page, directory, locks, allocation */
extern CdpgCache *CdpgCacheGet(Relation index);
extern CdpgCache *CdpgCacheRefresh(Relation index);
extern void CdpgCacheForget(Relation index);
extern void CdpgMetaInit(Page page, uint32 nbuckets, uint32 fillfactor);
extern BlockNumber CdpgPrimaryBlock(Relation index, uint32 bucket);
extern void CdpgCheckMeta(Relation index, Buffer buffer);
extern Buffer CdpgReadChain(Relation index, BlockNumber block, int lock,
							uint16 kinds, uint32 bucket, BufferAccessStrategy strategy);
extern Buffer CdpgLockBucket(Relation index, uint32 bucket, int lock,
							 BufferAccessStrategy strategy);
extern Buffer CdpgNewPage(Relation index);
extern void CdpgFreePage(Relation index, BlockNumber block);
extern void CdpgChainTick(Relation index, Buffer buffer, uint32 *steps);

/* wal.c */
extern void CdpgAddLogged(Relation index, const Buffer *buffers,
						  CdpgEntry *const *entries, int n);

/* insert.c */
extern bool cdpginsert(Relation index, Datum *values, bool *isnull,
					   ItemPointer heap_tid, Relation heap,
					   IndexUniqueCheck check_unique, bool unchanged,
					   struct IndexInfo *info);
extern int	CdpgMakeEntries(Relation index, const Datum *values,
							const bool *isnull, ItemPointer tid,
							CdpgEntry entries[2]);

/* split.c */
extern void CdpgSplit(Relation index);
extern void CdpgFinishSplit(Relation index, Buffer old, Buffer new, uint32 base);
extern uint32 CdpgUnfinishedSplit(Relation index, Buffer primary);
extern void CdpgFinishSplitOf(Relation index, uint32 bucket);
extern void CdpgSqueeze(Relation index, Buffer primary);

/* build.c */
extern IndexBuildResult *cdpgbuild(Relation heap, Relation index,
								   struct IndexInfo *info);
extern void cdpgbuildempty(Relation index);

/* scan.c */
extern IndexScanDesc cdpgbeginscan(Relation index, int nkeys, int norderbys);
extern void cdpgrescan(IndexScanDesc scan, ScanKey keys, int nkeys,
					   ScanKey orderbys, int norderbys);
extern bool cdpggettuple(IndexScanDesc scan, ScanDirection dir);
extern int64 cdpggetbitmap(IndexScanDesc scan, TIDBitmap *tbm);
extern void cdpgendscan(IndexScanDesc scan);

/*
 * Called for each entry of a node, with the bucket share-locked: must not take
 * other locks than the visibility map's, nor fail for long.
 */
typedef void (*CdpgVisit) (const CdpgEntry *entry, void *arg);
/* A hint that this node will be visited soon. */
extern void CdpgExpectNode(Relation index, int64 node);
extern void CdpgVisitNode(Relation index, int64 node, Snapshot snapshot,
						  CdpgVisit visit, void *arg);

/* vacuum.c */
extern IndexBulkDeleteResult *cdpgbulkdelete(IndexVacuumInfo *info,
											 IndexBulkDeleteResult *stats,
											 IndexBulkDeleteCallback callback,
											 void *state);
extern IndexBulkDeleteResult *cdpgvacuumcleanup(IndexVacuumInfo *info,
												IndexBulkDeleteResult *stats);

/* handler.c */
extern bool CdpIsGraphIndex(Relation index);

#endif							/* CDP_GRAPH_INDEX_H */
