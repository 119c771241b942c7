/*-------------------------------------------------------------------------
 *
 * direct.c
 *	  Rows read without a statement: of small tables, and by keys.
 *
 * IDENTIFICATION
 *	  src/direct.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/skey.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "cdp.h"
#include "compat.h"
#include "direct.h"
#include "statement.h"

static void
find_columns(CdpDirect *direct, Oid relid)
{
	int			i;

	direct->relid = InvalidOid;
	for (i = 0; direct->columns[i] != NULL; i++)
	{
		direct->numbers[i] = get_attnum(relid, direct->columns[i]);
		if (direct->numbers[i] == InvalidAttrNumber)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("column \"%s\" of table \"cdp.%s\" does not exist",
							direct->columns[i], direct->table),
					 errhint("Run ALTER EXTENSION cdp UPDATE.")));
	}
	direct->relid = relid;
}

static Relation
open_table(CdpDirect *direct)
{
	Relation	rel = table_open(CdpRelationOid(direct->table), AccessShareLock);

	if (RelationGetRelid(rel) != direct->relid)
		find_columns(direct, RelationGetRelid(rel));
	return rel;
}

void
CdpReadingBegin(void)
{
	if (CdpStatementsReadOnly)
		return;
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
CdpReadingEnd(void)
{
	if (!CdpStatementsReadOnly)
		PopActiveSnapshot();
}

static void
take_columns(CdpDirect *direct, TupleTableSlot *slot, Datum *values, bool *isnull)
{
	int			i;

	for (i = 0; direct->columns[i] != NULL; i++)
		values[i] = direct->numbers[i] > 0
			? slot_getattr(slot, direct->numbers[i], &isnull[i])
			: slot_getsysattr(slot, direct->numbers[i], &isnull[i]);
}

int
CdpReadDirect(CdpDirect *direct, CdpDirectRow row, void *arg)
{
	Relation	rel = open_table(direct);
	TableScanDesc scan;
	TupleTableSlot *slot;
	Datum		values[CDP_DIRECT_COLUMNS];
	bool		isnull[CDP_DIRECT_COLUMNS];
	int			n = 0;

	CdpReadingBegin();
	scan = table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
	slot = table_slot_create(rel, NULL);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		take_columns(direct, slot, values, isnull);
		row(values, isnull, arg);
		n++;
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	CdpReadingEnd();
	table_close(rel, NoLock);
	return n;
}

struct CdpProber
{
	CdpDirect  *direct;
	Relation	rel;
	Relation	index;
	IndexScanDesc scan;			/* NULL: the index is of no use, the table is read */
	TupleTableSlot *slot;
	ScanKeyData key;
	bool		unpruned;		/* pages are left as they are */
	ItemPointerData entry;		/* of the row that is being taken */
};

static bool
is_heap(Relation rel)
{
	return rel->rd_tableam == GetHeapamTableAmRoutine();
}

CdpProber *
CdpProbeBegin(CdpDirect *direct, const char *name)
{
	CdpProber  *prober = palloc(sizeof(CdpProber));
	Relation	index;
	Oid			equal;
	bool		usable;

	prober->direct = direct;
	prober->rel = open_table(direct);
	prober->index = index = index_open(CdpRelationOid(name), AccessShareLock);
	prober->slot = table_slot_create(prober->rel, NULL);
	CdpReadingBegin();

	/* the planner's condition: it was built anew, without what older snapshots need */
	usable = !index->rd_index->indcheckxmin ||
		TransactionIdPrecedes(HeapTupleHeaderGetXmin(index->rd_indextuple->t_data),
							  TransactionXmin);
	equal = get_opfamily_member(index->rd_opfamily[0], index->rd_opcintype[0],
								index->rd_opcintype[0], BTEqualStrategyNumber);
	ScanKeyEntryInitialize(&prober->key, 0,
						   usable ? 1 : index->rd_index->indkey.values[0],
						   BTEqualStrategyNumber, InvalidOid,
						   index->rd_indcollation[0], get_opcode(equal), (Datum) 0);
	prober->scan = usable ? CdpIndexBeginScan(prober->rel, index, GetActiveSnapshot(), 1, 0)
		: NULL;
	prober->unpruned = direct->unpruned && is_heap(prober->rel);
	return prober;
}

static int
compare_entries(const void *a, const void *b)
{
	return ItemPointerCompare(unconstify(void *, a), unconstify(void *, b));
}

/*
 * What index_fetch_heap() does, but for pruning.  That is due at each update of a
 * page that is filled as its fillfactor says, and costs more than all else here.
 */
static bool
fetch_unpruned(CdpProber *prober)
{
	BufferHeapTupleTableSlot *slot = (BufferHeapTupleTableSlot *) prober->slot;
	IndexScanDesc scan = prober->scan;
	HeapTuple	tuple = &slot->base.tupdata;
	ItemPointerData tid = scan->xs_heaptid;
	bool		all_dead = false;
	bool		found;
	Buffer		buffer;

	ExecClearTuple(prober->slot);
	buffer = ReadBuffer(prober->rel, ItemPointerGetBlockNumber(&tid));
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	found = heap_hot_search_buffer(&tid, prober->rel, buffer, scan->xs_snapshot, tuple,
								   &all_dead, true);
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
	if (found)
	{
		tuple->t_self = tid;
		tuple->t_tableOid = RelationGetRelid(prober->rel);
		ExecStorePinnedBufferHeapTuple(tuple, prober->slot, buffer);
	}
	else
		ReleaseBuffer(buffer);
	if (!scan->xactStartedInRecovery)
		scan->kill_prior_tuple = all_dead;
	return found;
}

/*
 * The next row by the index; an entry that is known leads to none.
 */
static bool
next_by_index(CdpProber *prober, const ItemPointerData *known, int nknown)
{
	for (;;)
	{
		/* a row that was updated in place moves on from where its entry points */
		ItemPointer entry = index_getnext_tid(prober->scan, ForwardScanDirection);

		if (entry == NULL)
			return false;
		CHECK_FOR_INTERRUPTS();
		if (nknown > 0 &&
			bsearch(entry, known, nknown, sizeof(ItemPointerData), compare_entries) != NULL)
			continue;
		prober->entry = *entry;
		if (prober->unpruned ? fetch_unpruned(prober)
			: index_fetch_heap(prober->scan, prober->slot))
			return true;
	}
}

int
CdpProbeOthers(CdpProber *prober, Datum key, const ItemPointerData *known, int nknown,
			   CdpDirectRow row, void *arg)
{
	TableScanDesc scan = NULL;
	Datum		values[CDP_DIRECT_COLUMNS];
	bool		isnull[CDP_DIRECT_COLUMNS];
	int			n = 0;

	prober->key.sk_argument = key;
	ItemPointerSetInvalid(&prober->entry);
	if (prober->scan != NULL)
		index_rescan(prober->scan, &prober->key, 1, NULL, 0);
	else
		scan = table_beginscan(prober->rel, GetActiveSnapshot(), 1, &prober->key);
	while (scan == NULL ? next_by_index(prober, known, nknown)
		   : table_scan_getnextslot(scan, ForwardScanDirection, prober->slot))
	{
		take_columns(prober->direct, prober->slot, values, isnull);
		row(values, isnull, arg);
		n++;
	}
	if (scan != NULL)
		table_endscan(scan);
	return n;
}

int
CdpProbe(CdpProber *prober, Datum key, CdpDirectRow row, void *arg)
{
	return CdpProbeOthers(prober, key, NULL, 0, row, arg);
}

const ItemPointerData *
CdpProbeEntry(CdpProber *prober)
{
	return &prober->entry;
}

void
CdpProbeEnd(CdpProber *prober)
{
	if (prober->scan != NULL)
		index_endscan(prober->scan);
	CdpReadingEnd();
	ExecDropSingleTupleTableSlot(prober->slot);
	index_close(prober->index, NoLock);
	table_close(prober->rel, NoLock);
	pfree(prober);
}

void
CdpMakeRoom(const char *table, const CdpRoom *rooms, int n)
{
	Relation	rel = table_open(CdpRelationOid(table), AccessShareLock);
	BlockNumber nblocks = RelationGetNumberOfBlocks(rel);
	int			next;

	for (int i = 0; i < n && is_heap(rel); i = next)
	{
		Buffer		buffer;
		Size		size = 0;

		CHECK_FOR_INTERRUPTS();
		for (next = i; next < n && rooms[next].block == rooms[i].block; next++)
			size += rooms[next].size;
		if (rooms[i].block >= nblocks)
			continue;
		buffer = ReadBuffer(rel, rooms[i].block);
		/* who fills it meanwhile is not kept from it, so this is a guess, as it is there */
		if (PageGetHeapFreeSpace(BufferGetPage(buffer)) < size)
			heap_page_prune_opt(rel, buffer);
		ReleaseBuffer(buffer);
	}
	table_close(rel, NoLock);
}
