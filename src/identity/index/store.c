/*-------------------------------------------------------------------------
 *
 * store.c
 *	  Where the buckets of an identity_graph index are: meta page, directory,
 *	  the cache of both, locks on buckets, and new and freed pages.
 *
 *	  The block of a bucket never changes while the index has this file, so a
 *	  backend remembers it.  The number of buckets grows; a primary page tells
 *	  how many there were when it was last split, so a backend notices that it
 *	  looked with too old a number, without reading the meta page every time.
 *
 * IDENTIFICATION
 *	  src/identity/index/store.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/buf_internals.h"
#include "storage/freespace.h"
#include "storage/indexfsm.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"

#include "compat.h"
#include "identity/index/graph_index.h"

void
CdpgMetaInit(Page page, uint32 nbuckets, uint32 fillfactor)
{
	CdpgMeta	meta;

	CdpgPageInit(page, CDPG_META, 0, 0);
	meta = CdpgPageMeta(page);
	memset(meta, 0, sizeof(CdpgMetaData));
	meta->magic = CDPG_MAGIC;
	meta->version = CDPG_VERSION;
	meta->nbuckets = meta->base = nbuckets;
	meta->fillfactor = fillfactor;
	((PageHeader) page)->pd_lower = (char *) meta + sizeof(CdpgMetaData) - (char *) page;
}

static void
check_page(Relation index, Buffer buffer, uint16 kinds)
{
	Page		page = BufferGetPage(buffer);
	uint16		kind;

	if (PageIsNew(page))
		CdpgReportCorrupt(index, buffer, "unexpected empty page");
	if (PageGetSpecialSize(page) != sizeof(CdpgOpaqueData) ||
		CdpgPageOpaque(page)->page_id != CDPG_PAGE_ID)
		CdpgReportCorrupt(index, buffer, "not a page of such an index");
	kind = CdpgPageOpaque(page)->flags & CDPG_KIND;
	if ((kind & kinds) == 0 || (kind & (kind - 1)) != 0)
		CdpgReportCorrupt(index, buffer, "unexpected kind of page");
}

/*
 * The meta page must be ours, and of a layout that we know.
 */
void
CdpgCheckMeta(Relation index, Buffer buffer)
{
	Page		page = BufferGetPage(buffer);
	CdpgMeta	meta;

	check_page(index, buffer, CDPG_META);
	meta = CdpgPageMeta(page);
	if (meta->magic != CDPG_MAGIC)
		CdpgReportCorrupt(index, buffer, "the meta page has another magic number");
	if (meta->version != CDPG_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("index \"%s\" has layout version %u, this library knows version %u",
						RelationGetRelationName(index), meta->version, CDPG_VERSION),
				 meta->version > CDPG_VERSION ? errhint("Upgrade the cdp library.")
				 : errhint("Please REINDEX it.")));
	if (meta->base == 0 || meta->nbuckets < meta->base ||
		meta->nbuckets > CDPG_MAX_BUCKETS ||
		meta->ndirectories > CDPG_MAX_DIRECTORIES ||
		meta->nbuckets > meta->ndirectories * CDPG_PER_DIRECTORY)
		CdpgReportCorrupt(index, buffer, "impossible number of buckets");
}

/*
 * Read the meta page into the cache.  No bucket may be locked by the caller:
 * the meta page comes first in the order of locks.
 */
CdpgCache *
CdpgCacheRefresh(Relation index)
{
	CdpgCache  *old = (CdpgCache *) index->rd_amcache;
	CdpgCache  *cache = old;
	Buffer		buffer;
	CdpgMeta	meta;

	buffer = ReadBuffer(index, CDPG_META_BLOCK);
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	CdpgCheckMeta(index, buffer);
	meta = CdpgPageMeta(BufferGetPage(buffer));
	if (old == NULL || old->capacity < meta->nbuckets)
	{
		uint32		capacity = pg_nextpower2_32(Max(meta->nbuckets, 64));

		cache = MemoryContextAllocZero(index->rd_indexcxt,
									   offsetof(CdpgCache, primary) +
										   sizeof(CdpgPlace) * (Size) capacity);
		cache->capacity = capacity;
		if (old != NULL)
		{
			memcpy(cache->primary, old->primary, sizeof(CdpgPlace) * (Size) old->capacity);
			pfree(old);
		}
		index->rd_amcache = cache;
	}
	cache->nbuckets = meta->nbuckets;
	cache->base = meta->base;
	cache->ndirectories = meta->ndirectories;
	memcpy(cache->directories, meta->directories,
		   sizeof(BlockNumber) * meta->ndirectories);
	UnlockReleaseBuffer(buffer);
	return cache;
}

CdpgCache *
CdpgCacheGet(Relation index)
{
	if (index->rd_amcache != NULL)
		return (CdpgCache *) index->rd_amcache;
	return CdpgCacheRefresh(index);
}

void
CdpgCacheForget(Relation index)
{
	if (index->rd_amcache != NULL)
		pfree(index->rd_amcache);
	index->rd_amcache = NULL;
}

/*
 * The primary page of a bucket (below the cache's number of buckets).  Must be
 * asked before any bucket is locked.
 */
BlockNumber
CdpgPrimaryBlock(Relation index, uint32 bucket)
{
	CdpgCache  *cache = CdpgCacheGet(index);

	Assert(bucket < cache->nbuckets);
	if (cache->primary[bucket].block == 0)
	{
		uint32		number = bucket / CDPG_PER_DIRECTORY;
		uint32		first = number * CDPG_PER_DIRECTORY;
		uint32		n = Min(cache->nbuckets - first, CDPG_PER_DIRECTORY);
		Buffer		buffer;
		BlockNumber *blocks;
		uint32		i;

		buffer = ReadBuffer(index, cache->directories[number]);
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		check_page(index, buffer, CDPG_DIRECTORY);
		blocks = CdpgPageDirectory(BufferGetPage(buffer));
		for (i = 0; i < n; i++)
		{
			if (blocks[i] == 0 || blocks[i] > MaxBlockNumber)
				CdpgReportCorrupt(index, buffer, "directory without a bucket's page");
			cache->primary[first + i].block = blocks[i];
		}
		UnlockReleaseBuffer(buffer);
	}
	return cache->primary[bucket].block;
}

/* Lock a page that is pinned, and check that it is what it must be. */
static void
lock_chain(Relation index, Buffer buffer, int lock, uint16 kinds, uint32 bucket)
{
	CdpgOpaque	opaque;

	/* a damaged chain that leads back would keep us waiting for ourselves */
	if (!BufferIsLocal(buffer) &&
		LWLockHeldByMe(BufferDescriptorGetContentLock(GetBufferDescriptor(buffer - 1))))
		CdpgReportCorrupt(index, buffer, "chain of pages that leads back");
	LockBuffer(buffer, lock);
	check_page(index, buffer, kinds);
	opaque = CdpgPageOpaque(BufferGetPage(buffer));
	if ((opaque->flags & (CDPG_PRIMARY | CDPG_OVERFLOW)) && opaque->bucket != bucket)
		CdpgReportCorrupt(index, buffer, "page of another bucket");
}

/*
 * Read and lock a page of a chain.  kinds: what it may be; bucket: whose it
 * must be, when it belongs to a bucket.
 */
Buffer
CdpgReadChain(Relation index, BlockNumber block, int lock, uint16 kinds,
			  uint32 bucket, BufferAccessStrategy strategy)
{
	Buffer		buffer;

	buffer = ReadBufferExtended(index, MAIN_FORKNUM, block, RBM_NORMAL, strategy);
	lock_chain(index, buffer, lock, kinds, bucket);
	return buffer;
}

/*
 * Lock the primary page of a bucket.  What is locked may have been split since
 * the caller chose the bucket: it must compare stamps.
 */
Buffer
CdpgLockBucket(Relation index, uint32 bucket, int lock, BufferAccessStrategy strategy)
{
	BlockNumber block = CdpgPrimaryBlock(index, bucket);
	CdpgPlace  *place = &CdpgCacheGet(index)->primary[bucket];
	Buffer		buffer = place->recent;
	static uint32 turn = 0;

	/*
	 * The server checks that the hint is right.  It does not count this as a
	 * use of the buffer, so do it the long way now and then, lest it be evicted.
	 */
	if (strategy != NULL || !BufferIsValid(buffer) || ++turn % 8 == 0 ||
		!ReadRecentBuffer(CdpRelationLocator(index), MAIN_FORKNUM, block, buffer))
	{
		buffer = ReadBufferExtended(index, MAIN_FORKNUM, block, RBM_NORMAL, strategy);
		CdpgCacheGet(index)->primary[bucket].recent = buffer;
	}
	lock_chain(index, buffer, lock, CDPG_PRIMARY, bucket);
	return buffer;
}

/*
 * A page for new use, locked exclusively, contents undefined.  Nobody holds
 * its lock for long but while it is in a chain, so we need not wait for it.
 */
Buffer
CdpgNewPage(Relation index)
{
	Buffer		buffer;
	bool		lock;

	for (;;)
	{
		BlockNumber block = GetFreeIndexPage(index);

		if (block == InvalidBlockNumber)
			break;
		buffer = ReadBuffer(index, block);

		/* the map may be older than the page, or somebody else was told it too */
		if (ConditionalLockBuffer(buffer))
		{
			Page		page = BufferGetPage(buffer);

			if (PageIsNew(page) ||
				(PageGetSpecialSize(page) == sizeof(CdpgOpaqueData) &&
				 CdpgPageOpaque(page)->page_id == CDPG_PAGE_ID &&
				 (CdpgPageOpaque(page)->flags & CDPG_KIND) == CDPG_DELETED))
				return buffer;
			UnlockReleaseBuffer(buffer);
		}
		else
			ReleaseBuffer(buffer);
	}

	/* lock the page before others may see it: VACUUM looks for new pages */
	lock = !RELATION_IS_LOCAL(index);
	if (lock)
		LockRelationForExtension(index, ExclusiveLock);
	buffer = ReadBuffer(index, P_NEW);
	LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
	if (lock)
		UnlockRelationForExtension(index, ExclusiveLock);
	return buffer;
}

/*
 * Tell the free space map about a page that is marked as deleted, its upper
 * levels too: otherwise nobody finds it before the next VACUUM.
 */
void
CdpgFreePage(Relation index, BlockNumber block)
{
	RecordFreeIndexPage(index, block);
	FreeSpaceMapVacuumRange(index, block, block + 1);
}

/*
 * A chain that is longer than the index has a ring in it.
 */
void
CdpgChainTick(Relation index, Buffer buffer, uint32 *steps)
{
	if (++*steps % 4096 == 0 && *steps > RelationGetNumberOfBlocks(index))
		CdpgReportCorrupt(index, buffer, "endless chain of pages");
}
