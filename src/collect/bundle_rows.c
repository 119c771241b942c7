/*-------------------------------------------------------------------------
 *
 * bundle_rows.c
 *	  Rows of cdp.bundles, read without a statement: by their index on
 *	  (xid, last), or by pages.
 *
 * IDENTIFICATION
 *	  src/collect/bundle_rows.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/predicate.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "cdp.h"
#include "collect/bundle.h"
#include "compat.h"

struct CdpBundleScan
{
	Relation rel;
	Relation index; /* NULL: cannot be used */
	Snapshot snapshot;
	IndexScanDesc by_index;
	TableScanDesc by_place;
	bool indexed; /* of the two the one that goes on */
	TupleTableSlot *slot;
	bytea *packed; /* if it is a copy */
	BlockNumber until;
};

CdpBundleScan *
CdpBundleScanBegin(Snapshot snapshot)
{
	Relation rel = table_open(CdpRelationOid("bundles"), AccessShareLock);
	CdpBundleScan *scan;
	Relation index;

	if (RelationGetNumberOfBlocks(rel) == 0)
	{
		/* who adds one is noticed from here on; somebody may have just before */
		if (IsolationIsSerializable())
			PredicateLockRelation(rel, snapshot);
		if (!IsolationIsSerializable() || RelationGetNumberOfBlocks(rel) == 0)
		{
			table_close(rel, NoLock);
			return NULL;
		}
	}
	scan = palloc0(sizeof(CdpBundleScan));
	scan->rel = rel;
	scan->snapshot = snapshot;
	scan->slot = table_slot_create(rel, NULL);
	index = index_open(CdpRelationOid("bundles_xid"), AccessShareLock);
	/* the planner's conditions: valid, and not built anew without what older snapshots need */
	if (index->rd_index->indisvalid &&
		(!index->rd_index->indcheckxmin ||
		 TransactionIdPrecedes(HeapTupleHeaderGetXmin(index->rd_indextuple->t_data),
							   TransactionXmin)))
		scan->index = index;
	else
		index_close(index, NoLock);
	return scan;
}

bool
CdpBundleScanIndexed(const CdpBundleScan *scan)
{
	return scan->index != NULL;
}

void
CdpBundleScanKeys(CdpBundleScan *scan, ScanKey keys, int nkeys)
{
	if (scan->index == NULL)
	{
		CdpBundleScanBlocks(scan, 0, InvalidBlockNumber);
		return;
	}
	/* as many keys each time: more than there are may be there for */
	if (scan->by_index != NULL && scan->by_index->numberOfKeys != nkeys)
	{
		index_endscan(scan->by_index);
		scan->by_index = NULL;
	}
	if (scan->by_index == NULL)
		scan->by_index = CdpIndexBeginScan(scan->rel, scan->index, scan->snapshot, nkeys, 0);
	index_rescan(scan->by_index, keys, nkeys, NULL, 0);
	scan->indexed = true;
}

void
CdpBundleScanBlocks(CdpBundleScan *scan, BlockNumber from, BlockNumber until)
{
	ItemPointerData least;
	ItemPointerData greatest;

	if (scan->by_place != NULL)
		table_endscan(scan->by_place);
	scan->until = until;
	scan->indexed = false;
	if (from == 0 && until == InvalidBlockNumber)
	{
		scan->by_place = table_beginscan(scan->rel, scan->snapshot, 0, NULL);
		return;
	}
	ItemPointerSet(&least, from, FirstOffsetNumber);
	ItemPointerSet(&greatest, until > 0 ? until - 1 : 0, MaxOffsetNumber);
	if (until <= from)
		ItemPointerSet(&greatest, 0, 0);
	scan->by_place = table_beginscan_tidrange(scan->rel, scan->snapshot, &least, &greatest);
}

static bool
next_slot(CdpBundleScan *scan)
{
	if (scan->indexed)
		return index_getnext_slot(scan->by_index, ForwardScanDirection, scan->slot);
	if (scan->by_place->rs_flags & SO_TYPE_TIDRANGESCAN)
		return table_scan_getnextslot_tidrange(scan->by_place, ForwardScanDirection, scan->slot);
	return table_scan_getnextslot(scan->by_place, ForwardScanDirection, scan->slot);
}

/*
 * A row of cdp.bundles, and what is packed in it, which may be a copy.
 */
static bytea *
bundle_from_slot(TupleTableSlot *slot, CdpBundleRow *row)
{
	Datum *values = slot->tts_values;

	slot_getallattrs(slot);
	row->xid = DatumGetInt64(values[CDP_BUNDLES_XID]);
	row->last = DatumGetInt64(values[CDP_BUNDLES_LAST]);
	row->first = DatumGetInt64(values[CDP_BUNDLES_FIRST]);
	row->received_at = DatumGetTimestampTz(values[CDP_BUNDLES_RECEIVED_AT]);
	row->attachment = DatumGetInt64(values[CDP_BUNDLES_ATTACHMENT]);
	row->incarnation = DatumGetInt32(values[CDP_BUNDLES_INCARNATION]);
	return DatumGetByteaPP(values[CDP_BUNDLES_PACKED]);
}

bool
CdpBundleScanNext(CdpBundleScan *scan, CdpBundleRow *row, bytea **packed, ItemPointer place)
{
	MemoryContext old;

	CHECK_FOR_INTERRUPTS();
	if (scan->packed != NULL)
	{
		pfree(scan->packed);
		scan->packed = NULL;
	}
	/* not where the caller's row is: indexes keep things from one to the next */
	old = MemoryContextSwitchTo(GetMemoryChunkContext(scan));
	if (!next_slot(scan))
	{
		MemoryContextSwitchTo(old);
		return false;
	}
	*packed = bundle_from_slot(scan->slot, row);
	MemoryContextSwitchTo(old);
	if ((Pointer) *packed != DatumGetPointer(scan->slot->tts_values[CDP_BUNDLES_PACKED]))
		scan->packed = *packed;
	if (place != NULL)
		*place = scan->slot->tts_tid;
	return true;
}

void
CdpBundleScanEnd(CdpBundleScan *scan)
{
	if (scan == NULL)
		return;
	if (scan->packed != NULL)
		pfree(scan->packed);
	if (scan->by_index != NULL)
		index_endscan(scan->by_index);
	if (scan->by_place != NULL)
		table_endscan(scan->by_place);
	ExecDropSingleTupleTableSlot(scan->slot);
	if (scan->index != NULL)
		index_close(scan->index, NoLock);
	table_close(scan->rel, NoLock);
	pfree(scan);
}
