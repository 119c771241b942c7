/*-------------------------------------------------------------------------
 *
 * check.c
 *	  Verification of an identity_graph index.
 *
 *	  Bucket by bucket, each under the share lock of its primary page: the
 *	  index may be written to meanwhile, and this works on a standby.  With
 *	  heapallindexed, all entries are put into a Bloom filter, and every row
 *	  that a snapshot from before sees must have its entries in it.
 *
 * IDENTIFICATION
 *	  src/identity/index/check.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/bloomfilter.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "identity/index/graph_index.h"

typedef struct CheckState
{
	/* unchanging */
	Relation	heap;
	Relation	index;
	ReturnSetInfo *info;		/* NULL: raise an error */
	bloom_filter *filter;		/* NULL: not heapallindexed */

	/* changing */
	uint32		nbuckets;
	uint32		base;
	uint32		bucket;
	uint32		stamp;
	bool		splitting;
	BlockNumber heap_blocks;	/* as far as has been asked */
	BlockNumber index_blocks;
	double		missing;
} CheckState;

/* What is fingerprinted; no padding. */
typedef struct Fingerprint
{
	int64		node;
	int64		other;
	uint32		block;
	uint16		offset;
	uint16		flags;
} Fingerprint;

StaticAssertDecl(sizeof(Fingerprint) == 24, "no padding in Fingerprint");

PG_FUNCTION_INFO_V1(cdp_graph_index_check);
PG_FUNCTION_INFO_V1(cdp_graph_index_findings);

/* not pg_attribute_printf: clang does not know the archetype of a gcc server */
static void report(CheckState *state, BlockNumber block, XLogRecPtr lsn,
				   const char *format,...) __attribute__((format(printf, 4, 5)));

static void
report(CheckState *state, BlockNumber block, XLogRecPtr lsn, const char *format,...)
{
	char		message[512];
	va_list		args;

	va_start(args, format);
	vsnprintf(message, sizeof(message), format, args);
	va_end(args);
	if (state->info == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INDEX_CORRUPTED),
				 errmsg("index \"%s\": %s", RelationGetRelationName(state->index), message),
				 block != InvalidBlockNumber ?
				 errdetail_internal("Index block=%u, page lsn=%X/%X.", block,
									LSN_FORMAT_ARGS(lsn)) : 0));
	else
	{
		Datum		values[3];
		bool		nulls[3] = {false, false, false};

		values[0] = Int64GetDatum((int64) block);
		values[1] = LSNGetDatum(lsn);
		values[2] = CStringGetTextDatum(message);
		nulls[0] = nulls[1] = block == InvalidBlockNumber;
		tuplestore_putvalues(state->info->setResult, state->info->setDesc, values, nulls);
	}
}

/*
 * Read and share-lock a page, which must be of one of these kinds; otherwise
 * report that and return InvalidBuffer.
 */
static Buffer
read_page(CheckState *state, BlockNumber block, uint16 kinds)
{
	Buffer		buffer;
	Page		page;
	PageHeader	header;
	XLogRecPtr	lsn;

	if (block >= state->index_blocks)
	{
		state->index_blocks = RelationGetNumberOfBlocks(state->index);
		if (block >= state->index_blocks)
		{
			report(state, block, InvalidXLogRecPtr, "block is beyond the end of the index");
			return InvalidBuffer;
		}
	}
	buffer = ReadBuffer(state->index, block);
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	header = (PageHeader) page;
	lsn = PageGetLSN(page);
	if (PageIsNew(page))
		report(state, block, lsn, "page is new");
	else if (PageGetPageSize(page) != BLCKSZ ||
			 header->pd_special != BLCKSZ - sizeof(CdpgOpaqueData) ||
			 header->pd_lower > header->pd_upper ||
			 header->pd_lower < SizeOfPageHeaderData ||
			 header->pd_upper > header->pd_special)
		report(state, block, lsn, "page header is damaged");
	else if (CdpgPageOpaque(page)->page_id != CDPG_PAGE_ID)
		report(state, block, lsn, "page has another page id");
	else if ((CdpgPageOpaque(page)->flags & CDPG_KIND & kinds) == 0 ||
			 (CdpgPageOpaque(page)->flags & ~(kinds | CDPG_WIDE | CDPG_SPLITTING | CDPG_FILLING)) != 0)
		report(state, block, lsn, "page has flags 0x%X, expected a page of kind 0x%X",
			   CdpgPageOpaque(page)->flags, kinds);
	else
		return buffer;
	UnlockReleaseBuffer(buffer);
	return InvalidBuffer;
}

static void
check_entry(CheckState *state, BlockNumber block, XLogRecPtr lsn, int i,
			const CdpgEntry *entry)
{
	if (entry->flags & CDPG_IS_HUB)
		return;
	if (entry->offset == 0)
		report(state, block, lsn, "entry %d points at no row", i);
	if (entry->block >= state->heap_blocks)
	{
		state->heap_blocks = RelationGetNumberOfBlocks(state->heap);
		if (entry->block >= state->heap_blocks)
			report(state, block, lsn, "entry %d points behind the end of the table, at block %u",
				   i, entry->block);
	}
	if ((entry->flags & CDPG_NODE_NULL) && !(entry->flags & CDPG_OTHER_NULL))
		report(state, block, lsn, "entry %d has impossible flags", i);
	if (state->filter != NULL)
	{
		Fingerprint print;

		print.node = entry->node;
		print.other = entry->other;
		print.block = entry->block;
		print.offset = entry->offset;
		print.flags = entry->flags;
		bloom_add_element(state->filter, (unsigned char *) &print, sizeof(print));
	}
}

static void
check_hub(CheckState *state, const CdpgEntry *hub)
{
	BlockNumber block = hub->block;
	uint32		steps = 0;

	while (block != InvalidBlockNumber)
	{
		Buffer		buffer = read_page(state, block, CDPG_HUB);
		Page		page;
		XLogRecPtr	lsn;
		int			size;
		int			i;

		if (!BufferIsValid(buffer))
			return;
		page = BufferGetPage(buffer);
		lsn = PageGetLSN(page);
		size = ((PageHeader) page)->pd_lower - MAXALIGN(SizeOfPageHeaderData);
		if (CdpgHubNode(page) != hub->node)
			report(state, block, lsn, "page of hub " INT64_FORMAT " is in the chain of hub " INT64_FORMAT,
				   CdpgHubNode(page), hub->node);
		else if (size < 0 || size % sizeof(CdpgHubEntry) != 0 ||
				 size / sizeof(CdpgHubEntry) > CDPG_MAX_HUB)
			report(state, block, lsn, "impossible number of entries");
		else
		{
			for (i = 1; i <= size / (int) sizeof(CdpgHubEntry); i++)
			{
				CdpgEntry	entry;

				CdpgHubGet(page, i, &entry);
				if (entry.flags & CDPG_IS_HUB)
					report(state, block, lsn, "entry %d of a hub is a hub", i);
				check_entry(state, block, lsn, i, &entry);
			}
		}
		block = CdpgPageOpaque(page)->next;
		UnlockReleaseBuffer(buffer);
		if (++steps > state->index_blocks)
		{
			report(state, hub->block, lsn, "chain of hub " INT64_FORMAT " is endless", hub->node);
			return;
		}
	}
}

/*
 * One page of a bucket.  Hubs are remembered, to be visited when this page is
 * no longer locked.
 */
static List *
check_page(CheckState *state, Buffer buffer, List *hubs)
{
	Page		page = BufferGetPage(buffer);
	CdpgOpaque	opaque = CdpgPageOpaque(page);
	BlockNumber block = BufferGetBlockNumber(buffer);
	XLogRecPtr	lsn = PageGetLSN(page);
	bool		wide = (opaque->flags & CDPG_WIDE) != 0;
	int			size = ((PageHeader) page)->pd_lower -
		MAXALIGN(SizeOfPageHeaderData) - CDPG_SLOTS_SIZE;
	int			each = wide ? sizeof(CdpgWideEntry) : sizeof(CdpgShortEntry);
	bool		seen[CDPG_MAX_SHORT + 1];
	uint16	   *slots = (uint16 *) PageGetContents(page);
	int			n;
	int			slot;
	int			i;

	if (opaque->bucket != state->bucket)
		report(state, block, lsn, "page of bucket %u is in the chain of bucket %u",
			   opaque->bucket, state->bucket);
	if (size < 0 || size % each != 0 ||
		size / each > (wide ? CDPG_MAX_WIDE : CDPG_MAX_SHORT))
	{
		report(state, block, lsn, "impossible number of entries");
		return hubs;
	}
	n = size / each;
	memset(seen, 0, sizeof(seen));
	for (slot = 0; slot < CDPG_SLOTS; slot++)
	{
		for (i = slots[slot]; i != 0; i = CdpgPageNext(page, i))
		{
			CdpgEntry	entry;
			uint64		hash;

			if (i > n)
			{
				report(state, block, lsn, "list %d leads to entry %d of %d", slot, i, n);
				break;
			}
			if (seen[i])
			{
				report(state, block, lsn, "entry %d is in a list twice", i);
				break;
			}
			seen[i] = true;
			CdpgPageGet(page, i, &entry);
			hash = CdpgHash(entry.node);
			if (CdpgSlot(hash) != slot)
				report(state, block, lsn, "entry %d of node " INT64_FORMAT " is in list %d, not %d",
					   i, entry.node, slot, CdpgSlot(hash));
			else if (CdpgBucket(hash, state->stamp, state->base) != state->bucket &&
					 !(state->splitting && CdpgBucket(hash, state->stamp, state->base) == state->stamp - 1))
				report(state, block, lsn, "entry %d of node " INT64_FORMAT " is in bucket %u, not %u",
					   i, entry.node, state->bucket, CdpgBucket(hash, state->stamp, state->base));
			check_entry(state, block, lsn, i, &entry);
			if (entry.flags & CDPG_IS_HUB)
			{
				CdpgEntry  *hub = palloc(sizeof(CdpgEntry));

				*hub = entry;
				hubs = lappend(hubs, hub);
			}
		}
	}
	for (i = 1; i <= n; i++)
	{
		if (!seen[i])
			report(state, block, lsn, "entry %d is in no list", i);
	}
	return hubs;
}

static void
check_bucket(CheckState *state, uint32 bucket, BlockNumber block)
{
	Buffer		primary = read_page(state, block, CDPG_PRIMARY);
	CdpgOpaque	opaque;
	BlockNumber next;
	List	   *hubs = NIL;
	ListCell   *lc;
	ListCell   *lc2;
	uint32		steps = 0;

	if (!BufferIsValid(primary))
		return;
	opaque = CdpgPageOpaque(BufferGetPage(primary));
	state->bucket = bucket;
	state->stamp = opaque->stamp;
	state->splitting = (opaque->flags & CDPG_SPLITTING) != 0;
	if (opaque->stamp <= bucket || opaque->stamp < state->base ||
		((opaque->flags & CDPG_FILLING) && bucket < state->base) ||
		((opaque->flags & CDPG_SPLITTING) &&
		 (opaque->stamp <= state->base || (opaque->flags & CDPG_FILLING) ||
		  CdpgParent(opaque->stamp - 1, state->base) != bucket)))
		report(state, block, PageGetLSN(BufferGetPage(primary)),
			   "bucket %u has the impossible stamp %u with flags 0x%X",
			   bucket, opaque->stamp, opaque->flags);
	else
	{
		hubs = check_page(state, primary, hubs);
		next = opaque->next;
		while (next != InvalidBlockNumber)
		{
			Buffer		buffer = read_page(state, next, CDPG_OVERFLOW);

			if (!BufferIsValid(buffer))
				break;
			hubs = check_page(state, buffer, hubs);
			next = CdpgPageOpaque(BufferGetPage(buffer))->next;
			UnlockReleaseBuffer(buffer);
			if (++steps > state->index_blocks)
			{
				report(state, block, InvalidXLogRecPtr, "chain of bucket %u is endless", bucket);
				break;
			}
		}
		foreach (lc, hubs)
		{
			CdpgEntry  *hub = lfirst(lc);

			for_each_cell(lc2, hubs, lnext(hubs, lc))
			{
				if (((CdpgEntry *) lfirst(lc2))->node == hub->node)
					report(state, block, InvalidXLogRecPtr,
						   "bucket %u has two chains of hub " INT64_FORMAT, bucket, hub->node);
			}
			check_hub(state, hub);
		}
	}
	list_free_deep(hubs);
	UnlockReleaseBuffer(primary);
}

/* Meta page, directory and all buckets; false when it made no sense to go on. */
static bool
check_structure(CheckState *state)
{
	Buffer		buffer = read_page(state, CDPG_META_BLOCK, CDPG_META);
	CdpgMetaData meta;
	XLogRecPtr	lsn;
	uint32		bucket = 0;

	if (!BufferIsValid(buffer))
		return false;
	meta = *CdpgPageMeta(BufferGetPage(buffer));
	lsn = PageGetLSN(BufferGetPage(buffer));
	UnlockReleaseBuffer(buffer);
	if (meta.magic != CDPG_MAGIC)
		report(state, CDPG_META_BLOCK, lsn, "the meta page has another magic number");
	else if (meta.version != CDPG_VERSION)
		report(state, CDPG_META_BLOCK, lsn, "layout version is %u, not %u", meta.version, CDPG_VERSION);
	else if (meta.base == 0 || meta.nbuckets < meta.base || meta.ndirectories > CDPG_MAX_DIRECTORIES ||
			 meta.nbuckets > meta.ndirectories * CDPG_PER_DIRECTORY)
		report(state, CDPG_META_BLOCK, lsn, "%u buckets in %u directory pages are impossible",
			   meta.nbuckets, meta.ndirectories);
	else
	{
		state->nbuckets = meta.nbuckets;
		state->base = meta.base;
		while (bucket < state->nbuckets)
		{
			uint32		number = bucket / CDPG_PER_DIRECTORY;
			uint32		skip = bucket % CDPG_PER_DIRECTORY; /* it has grown since */
			uint32		n = Min(state->nbuckets - bucket, CDPG_PER_DIRECTORY - skip);
			BlockNumber blocks[CDPG_PER_DIRECTORY];
			uint32		i;

			if (number >= meta.ndirectories)
				break;
			buffer = read_page(state, meta.directories[number], CDPG_DIRECTORY);
			if (!BufferIsValid(buffer))
				return false;
			memcpy(blocks, CdpgPageDirectory(BufferGetPage(buffer)) + skip, sizeof(BlockNumber) * n);
			lsn = PageGetLSN(BufferGetPage(buffer));
			UnlockReleaseBuffer(buffer);
			for (i = 0; i < n; i++)
			{
				CHECK_FOR_INTERRUPTS();
				if (blocks[i] == CDPG_META_BLOCK || blocks[i] == InvalidBlockNumber)
					report(state, meta.directories[number], lsn, "no page is known of bucket %u", bucket + i);
				else
					check_bucket(state, bucket + i, blocks[i]);
			}
			bucket += n;

			/* there may be more of them by now, with entries that were here */
			buffer = read_page(state, CDPG_META_BLOCK, CDPG_META);
			if (!BufferIsValid(buffer))
				return false;
			meta = *CdpgPageMeta(BufferGetPage(buffer));
			state->nbuckets = meta.nbuckets;
			UnlockReleaseBuffer(buffer);
		}
		return true;
	}
	return false;
}

/* A row of the heap: its entries must have been seen. */
static void
heap_callback(Relation index, ItemPointer tid, Datum *values, bool *isnull,
			  bool alive, void *arg)
{
	CheckState *state = (CheckState *) arg;
	CdpgEntry	entries[2];
	int			n = CdpgMakeEntries(index, values, isnull, tid, entries);
	int			i;

	for (i = 0; i < n; i++)
	{
		Fingerprint print;

		print.node = entries[i].node;
		print.other = entries[i].other;
		print.block = entries[i].block;
		print.offset = entries[i].offset;
		print.flags = entries[i].flags;
		if (bloom_lacks_element(state->filter, (unsigned char *) &print, sizeof(print)))
			report(state, InvalidBlockNumber, InvalidXLogRecPtr,
				   "row (%u,%u) has no entry for node " INT64_FORMAT,
				   entries[i].block, entries[i].offset, entries[i].node);
	}
}

static void
check_index(Oid index_oid, bool heapallindexed, ReturnSetInfo *info)
{
	Oid			heap_oid = IndexGetRelation(index_oid, true);
	CheckState	state;
	Oid			save_userid;
	int			save_context;
	int			save_nestlevel;
	Snapshot	snapshot = NULL;

	memset(&state, 0, sizeof(state));
	state.info = info;

	/* heap before index, as everybody */
	if (OidIsValid(heap_oid))
		state.heap = table_open(heap_oid, AccessShareLock);
	state.index = relation_open(index_oid, AccessShareLock);
	if (state.heap == NULL || !CdpIsGraphIndex(state.index) ||
		heap_oid != IndexGetRelation(index_oid, false))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not an identity_graph index",
						RelationGetRelationName(state.index))));
	if (RELATION_IS_OTHER_TEMP(state.index))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot check temporary indexes of other sessions")));
	if (!state.index->rd_index->indisvalid)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("index \"%s\" is not valid", RelationGetRelationName(state.index))));

	/* expressions and predicates are the table owner's code */
	GetUserIdAndSecContext(&save_userid, &save_context);
	SetUserIdAndSecContext(state.heap->rd_rel->relowner,
						   save_context | SECURITY_RESTRICTED_OPERATION);
	save_nestlevel = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);

	/* an unlogged index is not there on a standby */
	if (!(state.index->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED && RecoveryInProgress()))
	{
		if (heapallindexed)
		{
			int64		rows = Max((int64) state.heap->rd_rel->reltuples,
								   (int64) RelationGetNumberOfBlocks(state.heap) * 50);

			state.filter = bloom_create(Max(rows * 2, 1000), maintenance_work_mem, 0);
			snapshot = RegisterSnapshot(GetTransactionSnapshot());
			if (IsolationUsesXactSnapshot() && state.index->rd_index->indcheckxmin &&
				!TransactionIdPrecedes(HeapTupleHeaderGetXmin(state.index->rd_indextuple->t_data),
									   snapshot->xmin))
				ereport(ERROR,
						(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
						 errmsg("index \"%s\" cannot be verified using transaction snapshot",
								RelationGetRelationName(state.index))));
		}
		if (check_structure(&state) && heapallindexed)
		{
			IndexInfo  *index_info = BuildIndexInfo(state.index);
			TableScanDesc scan = table_beginscan_strat(state.heap, snapshot, 0, NULL, true, true);

			index_info->ii_Concurrent = true;
			index_info->ii_Unique = false;
			(void) table_index_build_scan(state.heap, state.index, index_info, true, false,
										  heap_callback, &state, scan);
		}
		if (heapallindexed)
		{
			UnregisterSnapshot(snapshot);
			bloom_free(state.filter);
		}
	}

	AtEOXact_GUC(false, save_nestlevel);
	SetUserIdAndSecContext(save_userid, save_context);
	relation_close(state.index, AccessShareLock);
	table_close(state.heap, AccessShareLock);
}

/*
 * cdp.graph_index_check(index regclass, heapallindexed boolean) returns void
 */
Datum
cdp_graph_index_check(PG_FUNCTION_ARGS)
{
	check_index(PG_GETARG_OID(0), PG_GETARG_BOOL(1), NULL);
	PG_RETURN_VOID();
}

/*
 * cdp.graph_index_findings(index regclass, heapallindexed boolean)
 *		returns table (block bigint, lsn pg_lsn, finding text)
 */
Datum
cdp_graph_index_findings(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	check_index(PG_GETARG_OID(0), PG_GETARG_BOOL(1), (ReturnSetInfo *) fcinfo->resultinfo);
	return (Datum) 0;
}
