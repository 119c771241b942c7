/*-------------------------------------------------------------------------
 *
 * rows.c
 *	  Rows written without a plan.
 *
 *	  This is what the worker of logical replication does with the rows that
 *	  it gets, but for the search: rows are found by where they were last seen.
 *	  That is a hint, and checked: the row must be there, have the key, and
 *	  nobody may have replaced it.
 *
 *	  Updates by statements prune each page that they come by as soon as half
 *	  of it is in use (fillfactor 50), that is, for each batch anew.  Here it is
 *	  pruned when the new rows do not fit.
 *
 * IDENTIFICATION
 *	  src/rows.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "parser/parse_relation.h"
#include "storage/bufmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "cdp.h"
#include "compat.h"
#include "identity/identity.h"
#include "rows.h"

/* What a new version of a row may be larger than the old one. */
#define GROWTH 32

void
CdpRowsBegin(CdpRows *rows, const char *table)
{
	EState *estate = CreateExecutorState();
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	List *permissions = NIL;

	/* what this transaction has written so far is seen */
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());

	rows->rel = table_open(CdpRelationOid(table), RowExclusiveLock);
	rows->heap = rows->rel->rd_tableam == GetHeapamTableAmRoutine();
	rows->nblocks = RelationGetNumberOfBlocks(rows->rel);
	rows->estate = estate;

	rte->rtekind = RTE_RELATION;
	rte->relid = RelationGetRelid(rows->rel);
	rte->relkind = rows->rel->rd_rel->relkind;
	rte->rellockmode = RowExclusiveLock;
	CdpAddPermissions(&permissions, rte);
	CdpExecInitRangeTable(estate, list_make1(rte), permissions);
	rows->result = makeNode(ResultRelInfo);
	InitResultRelInfo(rows->result, rows->rel, 1, NULL, 0);
	/* where triggers look for it */
	estate->es_opened_result_relations = list_make1(rows->result);
	estate->es_output_cid = GetCurrentCommandId(true);
	estate->es_snapshot = GetActiveSnapshot();
	ExecOpenIndices(rows->result, false);
	CdpEvalPlanQualInit(&rows->epqstate, estate);
	AfterTriggerBeginQuery();

	rows->slot = ExecInitExtraTupleSlot(estate, RelationGetDescr(rows->rel),
										&TTSOpsVirtual);
	rows->old = ExecInitExtraTupleSlot(estate, RelationGetDescr(rows->rel),
									   &TTSOpsVirtual);
	rows->values = rows->slot->tts_values;
	rows->isnull = rows->slot->tts_isnull;
}

void
CdpRowsEnd(CdpRows *rows)
{
	AfterTriggerEndQuery(rows->estate);
	EvalPlanQualEnd(&rows->epqstate);
	ExecCloseIndices(rows->result);
	ExecResetTupleTable(rows->estate->es_tupleTable, false);
	FreeExecutorState(rows->estate);
	table_close(rows->rel, NoLock);
	PopActiveSnapshot();
	CommandCounterIncrement();
}

/*
 * The row that is at this place of a page is the one of this key, and is the
 * latest of its versions.
 */
static bool
is_there(CdpRows *rows, Page page, CdpRowHint *hint, Size *size)
{
	OffsetNumber offset = ItemPointerGetOffsetNumber(hint->tid);
	HeapTupleData tuple;
	ItemId item;
	bool isnull;

	if (offset > PageGetMaxOffsetNumber(page))
		return false;
	item = PageGetItemId(page, offset);
	if (!ItemIdIsNormal(item))
		return false;
	tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
	tuple.t_len = ItemIdGetLength(item);
	tuple.t_tableOid = RelationGetRelid(rows->rel);
	tuple.t_self = *hint->tid;
	*size = MAXALIGN(tuple.t_len);
	return (tuple.t_data->t_infomask & HEAP_XMAX_INVALID) != 0 &&
		DatumGetInt64(heap_getattr(&tuple, 1, RelationGetDescr(rows->rel),
								   &isnull)) == hint->key;
}

void
CdpRowsVisit(CdpRows *rows, CdpRowHint *hints, int n)
{
	BlockNumber block = ItemPointerGetBlockNumber(hints[0].tid);
	Buffer buffer;
	Page page;
	Size need = 0;
	Size room;
	int i;

	if (!rows->heap || block >= rows->nblocks)
	{
		for (i = 0; i < n; i++)
			ItemPointerSetInvalid(hints[i].tid);
		return;
	}
	buffer = ReadBuffer(rows->rel, block);
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	for (i = 0; i < n; i++)
	{
		Size size;

		if (is_there(rows, page, &hints[i], &size))
			need += size + GROWTH + sizeof(ItemIdData);
		else
			ItemPointerSetInvalid(hints[i].tid);
	}
	room = PageGetHeapFreeSpace(page);
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
	if (room < need)
		heap_page_prune_opt(rows->rel, buffer);
	ReleaseBuffer(buffer);
}

bool
CdpRowsFind(CdpRows *rows, const char *index_name, int64 key, ItemPointer tid)
{
	Relation index;
	IndexScanDesc scan = CdpIdentitiesScan(rows->rel, index_name,
										   Int64GetDatum(key), &index);
	TupleTableSlot *slot = table_slot_create(rows->rel, NULL);
	bool found = index_getnext_slot(scan, ForwardScanDirection, slot);

	if (found)
		*tid = slot->tts_tid;
	ExecDropSingleTupleTableSlot(slot);
	index_endscan(scan);
	index_close(index, NoLock);
	return found;
}

void
CdpRowsUpdate(CdpRows *rows, ItemPointer tid)
{
	MemoryContext old;

	rows->old->tts_tid = *tid;
	ExecClearTuple(rows->slot);
	ExecStoreVirtualTuple(rows->slot);
	old = MemoryContextSwitchTo(GetPerTupleMemoryContext(rows->estate));
	ExecSimpleRelationUpdate(rows->result, rows->estate, &rows->epqstate,
							 rows->old, rows->slot);
	MemoryContextSwitchTo(old);
	ResetPerTupleExprContext(rows->estate);
	*tid = rows->slot->tts_tid;
}

void
CdpRowsInsert(CdpRows *rows, ItemPointer tid)
{
	MemoryContext old;

	ExecClearTuple(rows->slot);
	ExecStoreVirtualTuple(rows->slot);
	old = MemoryContextSwitchTo(GetPerTupleMemoryContext(rows->estate));
	ExecSimpleRelationInsert(rows->result, rows->estate, rows->slot);
	MemoryContextSwitchTo(old);
	ResetPerTupleExprContext(rows->estate);
	*tid = rows->slot->tts_tid;
}
