/*-------------------------------------------------------------------------
 *
 * split.c
 *	  Growth of an identity_graph index by linear hashing.
 *
 *	  Whenever an insertion had to make an overflow page, the next bucket in
 *	  line is split in two.  It takes several records: the first makes the new
 *	  bucket and marks both as unfinished, then every record moves some entries
 *	  (so that each is in one of them at any time), the last takes the marks
 *	  away.  Both buckets are locked all the time, so only a crash, an error,
 *	  recovery to a point between, or a standby shows the states between.
 *	  Readers of a bucket that is being filled then read its parent too;
 *	  whoever writes to one of the two ends the split before.
 *
 * IDENTIFICATION
 *	  src/identity/index/split.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/predicate.h"

#include "identity/index/graph_index.h"

/* Whether an entry belongs to the bucket that splits off. */
static inline bool
moves(const CdpgEntry *entry, uint32 new_bucket, uint32 base)
{
	return CdpgBucket(CdpgHash(entry->node), new_bucket + 1, base) == new_bucket;
}

static bool
any_moves(Relation index, Buffer buffer, uint32 new_bucket, uint32 base, CdpgEntry *first)
{
	Page		page = BufferGetPage(buffer);
	int			i;

	for (i = CdpgPageCount(index, buffer, page); i > 0; i--)
	{
		CdpgPageGet(page, i, first);
		if (moves(first, new_bucket, base))
			return true;
	}
	return false;
}

/*
 * Move the entries of one page of the old bucket that belong to the new one.
 * A record has at most four pages: both primary pages, which also keeps
 * readers on a standby out, the page that gives and the one that takes.
 */
static void
move_entries(Relation index, Buffer old, Buffer source, Buffer new, uint32 base)
{
	uint32		new_bucket = CdpgPageOpaque(BufferGetPage(new))->bucket;
	CdpgEntry	entry;

	while (any_moves(index, source, new_bucket, base, &entry))
	{
		BlockNumber next = CdpgPageOpaque(BufferGetPage(new))->next;
		Buffer		target = InvalidBuffer;
		bool		is_new = false;
		GenericXLogState *state;
		Page		new_page;
		Page		from;
		Page		to;
		int			i;

		if (CdpgPageFits(BufferGetPage(new), &entry))
			target = new;
		else if (next != InvalidBlockNumber)
		{
			target = CdpgReadChain(index, next, BUFFER_LOCK_EXCLUSIVE,
								   CDPG_OVERFLOW, new_bucket, NULL);
			if (!CdpgPageFits(BufferGetPage(target), &entry))
			{
				UnlockReleaseBuffer(target);
				target = InvalidBuffer;
			}
		}
		if (!BufferIsValid(target))
		{
			target = CdpgNewPage(index);
			is_new = true;
		}

		state = GenericXLogStart(index);
		from = GenericXLogRegisterBuffer(state, old, 0);
		new_page = GenericXLogRegisterBuffer(state, new, 0);
		if (source != old)
			from = GenericXLogRegisterBuffer(state, source, 0);
		if (target == new)
			to = new_page;
		else
		{
			to = GenericXLogRegisterBuffer(state, target,
										   is_new ? GENERIC_XLOG_FULL_IMAGE : 0);
			if (is_new)
			{
				CdpgPageInit(to, CDPG_OVERFLOW, new_bucket, 0);
				CdpgPageOpaque(to)->next = next;
				CdpgPageOpaque(new_page)->next = BufferGetBlockNumber(target);
			}
		}
		for (i = CdpgPageCount(index, source, from); i > 0; i--)
		{
			CdpgPageGet(from, i, &entry);
			if (moves(&entry, new_bucket, base) && CdpgPageAdd(to, &entry))
				CdpgPageRemove(from, i);
		}
		GenericXLogFinish(state);
		if (target != new)
			UnlockReleaseBuffer(target);
	}
}

/*
 * Draw the entries of overflow pages into the primary page as far as they fit,
 * and free pages that are empty.  The bucket is locked.
 */
void
CdpgSqueeze(Relation index, Buffer primary)
{
	uint32		bucket = CdpgPageOpaque(BufferGetPage(primary))->bucket;
	Buffer		previous = primary;
	uint32		steps = 0;

	for (;;)
	{
		BlockNumber block = CdpgPageOpaque(BufferGetPage(previous))->next;
		Buffer		buffer;
		CdpgEntry	entry;
		bool		fits = false;
		int			n;
		int			i;

		if (block == InvalidBlockNumber)
			break;
		buffer = CdpgReadChain(index, block, BUFFER_LOCK_EXCLUSIVE, CDPG_OVERFLOW,
							   bucket, NULL);
		CdpgChainTick(index, buffer, &steps);
		n = CdpgPageCount(index, buffer, BufferGetPage(buffer));
		for (i = n; i > 0 && !fits; i--)
		{
			CdpgPageGet(BufferGetPage(buffer), i, &entry);
			fits = CdpgPageFits(BufferGetPage(primary), &entry);
		}
		if (n == 0 || fits)
		{
			GenericXLogState *state = GenericXLogStart(index);
			Page		to = GenericXLogRegisterBuffer(state, primary, 0);
			Page		before = previous == primary ? to :
				GenericXLogRegisterBuffer(state, previous, 0);
			Page		from = GenericXLogRegisterBuffer(state, buffer, 0);

			for (i = n; i > 0; i--)
			{
				CdpgPageGet(from, i, &entry);
				if (CdpgPageAdd(to, &entry))
					CdpgPageRemove(from, i);
			}
			n = CdpgPageCount(index, buffer, from);
			if (n == 0)
			{
				CdpgPageOpaque(before)->next = CdpgPageOpaque(from)->next;
				CdpgPageInit(from, CDPG_DELETED, 0, 0);
			}
			GenericXLogFinish(state);
			if (n == 0)
			{
				UnlockReleaseBuffer(buffer);
				CdpgFreePage(index, block);
				continue;
			}
		}
		if (previous != primary)
			UnlockReleaseBuffer(previous);
		previous = buffer;
	}
	if (previous != primary)
		UnlockReleaseBuffer(previous);
}

/*
 * Move what has to be moved from old to new, both locked, and take the marks
 * away.
 */
void
CdpgFinishSplit(Relation index, Buffer old, Buffer new, uint32 base)
{
	uint32		bucket = CdpgPageOpaque(BufferGetPage(old))->bucket;
	BlockNumber next = CdpgPageOpaque(BufferGetPage(old))->next;
	GenericXLogState *state;
	Page		page;
	uint32		steps = 0;

	move_entries(index, old, old, new, base);
	while (next != InvalidBlockNumber)
	{
		Buffer		buffer = CdpgReadChain(index, next, BUFFER_LOCK_EXCLUSIVE,
										   CDPG_OVERFLOW, bucket, NULL);

		CdpgChainTick(index, buffer, &steps);
		move_entries(index, old, buffer, new, base);
		next = CdpgPageOpaque(BufferGetPage(buffer))->next;
		UnlockReleaseBuffer(buffer);
	}

	state = GenericXLogStart(index);
	page = GenericXLogRegisterBuffer(state, old, 0);
	CdpgPageOpaque(page)->flags &= ~CDPG_SPLITTING;
	page = GenericXLogRegisterBuffer(state, new, 0);
	CdpgPageOpaque(page)->flags &= ~CDPG_FILLING;
	GenericXLogFinish(state);

	CdpgSqueeze(index, old);
}

/*
 * The bucket that is to be filled before the one of this page, marked as
 * unfinished, may be written to.
 */
uint32
CdpgUnfinishedSplit(Relation index, Buffer primary)
{
	CdpgOpaque	opaque = CdpgPageOpaque(BufferGetPage(primary));
	bool		splitting = (opaque->flags & CDPG_SPLITTING) != 0;
	uint32		bucket = splitting ? opaque->stamp - 1 : opaque->bucket;
	uint32		base = CdpgCacheGet(index)->base;

	if (bucket < base || (splitting && CdpgParent(bucket, base) != opaque->bucket))
		CdpgReportCorrupt(index, primary, "marks of a split that cannot be");
	return bucket;
}

/*
 * End the split that made this bucket, if it has not ended.
 */
void
CdpgFinishSplitOf(Relation index, uint32 bucket)
{
	uint32		base;
	uint32		parent;
	Buffer		old;
	Buffer		new;

	if (bucket >= CdpgCacheGet(index)->nbuckets)
		(void) CdpgCacheRefresh(index);
	base = CdpgCacheGet(index)->base;
	if (bucket < base || bucket >= CdpgCacheGet(index)->nbuckets)
		ereport(ERROR,
				(errcode(ERRCODE_INDEX_CORRUPTED),
				 errmsg("index \"%s\" has a split of bucket %u, which is none",
						RelationGetRelationName(index), bucket),
				 errhint("Please REINDEX it.")));
	parent = CdpgParent(bucket, base);
	(void) CdpgPrimaryBlock(index, parent);
	(void) CdpgPrimaryBlock(index, bucket);
	old = CdpgLockBucket(index, parent, BUFFER_LOCK_EXCLUSIVE, NULL);
	new = CdpgLockBucket(index, bucket, BUFFER_LOCK_EXCLUSIVE, NULL);
	if (CdpgPageOpaque(BufferGetPage(new))->flags & CDPG_FILLING)
		CdpgFinishSplit(index, old, new, base);
	else if ((CdpgPageOpaque(BufferGetPage(old))->flags & CDPG_SPLITTING) &&
			 CdpgPageOpaque(BufferGetPage(old))->stamp == bucket + 1)
		CdpgReportCorrupt(index, old, "marks of a split that has ended");
	UnlockReleaseBuffer(new);
	UnlockReleaseBuffer(old);
}

/*
 * Make one bucket more.  Does nothing when somebody else is at it, or when
 * there are as many as there can be: then chains grow.
 */
void
CdpgSplit(Relation index)
{
	Buffer		meta_buffer;
	Buffer		directory = InvalidBuffer;
	Buffer		old;
	Buffer		new;
	CdpgMeta	meta;
	uint32		bucket;
	uint32		base;
	uint32		parent;
	uint32		number;
	CdpgCache  *cache;
	GenericXLogState *state;
	CdpgOpaque	opaque;
	Page		page;

	meta_buffer = ReadBuffer(index, CDPG_META_BLOCK);
	if (!ConditionalLockBuffer(meta_buffer))
	{
		ReleaseBuffer(meta_buffer);
		return;
	}
	CdpgCheckMeta(index, meta_buffer);
	meta = CdpgPageMeta(BufferGetPage(meta_buffer));
	bucket = meta->nbuckets;
	if (bucket >= CDPG_MAX_BUCKETS)
	{
		UnlockReleaseBuffer(meta_buffer);
		return;
	}
	base = meta->base;
	parent = CdpgParent(bucket, base);
	number = bucket / CDPG_PER_DIRECTORY;

	/* a directory page, before it is needed */
	if (number >= meta->ndirectories)
	{
		directory = CdpgNewPage(index);
		state = GenericXLogStart(index);
		meta = CdpgPageMeta(GenericXLogRegisterBuffer(state, meta_buffer, 0));
		page = GenericXLogRegisterBuffer(state, directory, GENERIC_XLOG_FULL_IMAGE);
		CdpgPageInit(page, CDPG_DIRECTORY, 0, 0);
		memset(PageGetContents(page), 0, sizeof(BlockNumber) * CDPG_PER_DIRECTORY);
		((PageHeader) page)->pd_lower += sizeof(BlockNumber) * CDPG_PER_DIRECTORY;
		meta->directories[number] = BufferGetBlockNumber(directory);
		meta->ndirectories = number + 1;
		GenericXLogFinish(state);
	}
	else
		directory = CdpgReadChain(index, meta->directories[number],
								  BUFFER_LOCK_EXCLUSIVE, CDPG_DIRECTORY, 0, NULL);

	/* the meta page is locked: ask the directory, not the cache */
	{
		uint32		parent_number = parent / CDPG_PER_DIRECTORY;
		BlockNumber block;

		if (parent_number == number)
			block = CdpgPageDirectory(BufferGetPage(directory))[parent % CDPG_PER_DIRECTORY];
		else
		{
			BlockNumber dir;
			Buffer		buffer;

			meta = CdpgPageMeta(BufferGetPage(meta_buffer));
			dir = meta->directories[parent_number];
			buffer = CdpgReadChain(index, dir, BUFFER_LOCK_SHARE, CDPG_DIRECTORY, 0, NULL);
			block = CdpgPageDirectory(BufferGetPage(buffer))[parent % CDPG_PER_DIRECTORY];
			UnlockReleaseBuffer(buffer);
		}
		old = CdpgReadChain(index, block, BUFFER_LOCK_EXCLUSIVE, CDPG_PRIMARY, parent, NULL);
	}
	opaque = CdpgPageOpaque(BufferGetPage(old));
	if (opaque->flags & (CDPG_SPLITTING | CDPG_FILLING))
	{
		uint32		unfinished = CdpgUnfinishedSplit(index, old);

		/* what was left over is done instead */
		UnlockReleaseBuffer(old);
		UnlockReleaseBuffer(directory);
		UnlockReleaseBuffer(meta_buffer);
		(void) CdpgCacheRefresh(index);
		CdpgFinishSplitOf(index, unfinished);
		return;
	}

	new = CdpgNewPage(index);
	PredicateLockPageSplit(index, BufferGetBlockNumber(old), BufferGetBlockNumber(new));

	state = GenericXLogStart(index);
	page = GenericXLogRegisterBuffer(state, meta_buffer, 0);
	CdpgPageMeta(page)->nbuckets = bucket + 1;
	page = GenericXLogRegisterBuffer(state, directory, 0);
	CdpgPageDirectory(page)[bucket % CDPG_PER_DIRECTORY] = BufferGetBlockNumber(new);
	page = GenericXLogRegisterBuffer(state, old, 0);
	CdpgPageOpaque(page)->flags |= CDPG_SPLITTING;
	CdpgPageOpaque(page)->stamp = bucket + 1;
	page = GenericXLogRegisterBuffer(state, new, GENERIC_XLOG_FULL_IMAGE);
	CdpgPageInit(page, CDPG_PRIMARY | CDPG_FILLING, bucket, bucket + 1);
	GenericXLogFinish(state);
	UnlockReleaseBuffer(directory);
	UnlockReleaseBuffer(meta_buffer);

	CdpgFinishSplit(index, old, new, base);
	UnlockReleaseBuffer(new);
	UnlockReleaseBuffer(old);

	cache = (CdpgCache *) index->rd_amcache;
	if (cache != NULL && cache->nbuckets == bucket && bucket < cache->capacity &&
		number < cache->ndirectories)
		cache->nbuckets = bucket + 1;
}
