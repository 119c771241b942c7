/*-------------------------------------------------------------------------
 *
 * evidence_rows.c
 *	  Rows of cdp.links by the nodes at their ends: by an identity_graph index
 *	  if there is one over all links, else by the two btrees.
 *
 *	  This is what recomputation closes clusters with, so it is read as a walk
 *	  is, without the executor in between.  Who needs the rows of so many nodes
 *	  that they are a good part of the table reads all of it, in its order, in
 *	  place of looking up each end.
 *
 * IDENTIFICATION
 *	  src/identity/evidence_rows.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "cdp.h"
#include "identity/graph.h"
#include "identity/index/walk.h"
#include "statement.h"

/* Do not read the whole table for fewer nodes. */
#define SCAN_MIN		10000
/* As many nodes to a block as make it worth reading. */
#define SCAN_NODES		4

typedef struct FoundRows
{
	const int64 *nodes;			/* in order, when the table is scanned */
	int			nnodes;
	CdpEvidenceRow *rows;
	int			n;
	int			max;
	/* columns of cdp.links */
	AttrNumber	a;
	AttrNumber	b;
	AttrNumber	entry;
	AttrNumber	at;
	AttrNumber	tie;
	AttrNumber	ord;
	AttrNumber	origin;
	AttrNumber	status;
	AttrNumber	reason;
	AttrNumber	detail;
	AttrNumber	last_at;
	AttrNumber	last_tie;
} FoundRows;

static text *
text_of_row(TupleTableSlot *row, AttrNumber column)
{
	bool		isnull;
	Datum		value = slot_getattr(row, column, &isnull);

	return isnull ? NULL : DatumGetTextPCopy(value);
}

static bool
is_one(const FoundRows *found, int64 node)
{
	return bsearch(&node, found->nodes, found->nnodes, sizeof(int64), CdpCompareInt8) != NULL;
}

/*
 * Is it quicker to read all links than those at so many nodes?
 */
bool
CdpLinksScanPays(int64 nodes)
{
	Relation	links;
	BlockNumber nblocks;

	if (nodes < SCAN_MIN)
		return false;
	links = table_open(CdpRelationOid("links"), AccessShareLock);
	nblocks = RelationGetNumberOfBlocks(links);
	table_close(links, AccessShareLock);
	return nblocks <= nodes / SCAN_NODES;
}

/*
 * What this transaction has written so far is seen, as by a statement.
 */
static void
push_snapshot(void)
{
	if (CdpStatementsReadOnly)
		PushActiveSnapshot(GetActiveSnapshot());
	else
	{
		CommandCounterIncrement();
		PushActiveSnapshot(GetTransactionSnapshot());
	}
}

/*
 * Call for each row of cdp.links.
 */
void
CdpLinksScan(CdpWalkRowCallback callback, void *arg)
{
	Relation	links = table_open(CdpRelationOid("links"), AccessShareLock);
	TupleTableSlot *slot = table_slot_create(links, NULL);
	TableScanDesc scan;

	push_snapshot();
	scan = table_beginscan(links, GetActiveSnapshot(), 0, NULL);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		callback(slot, 0, arg);
	}
	table_endscan(scan);
	PopActiveSnapshot();
	ExecDropSingleTupleTableSlot(slot);
	table_close(links, AccessShareLock);
}

/* CdpWalkRowCallback: keep what an entry said */
static void
find_row(TupleTableSlot *row, int64 other, void *arg)
{
	FoundRows  *found = (FoundRows *) arg;
	CdpEvidenceRow *r;
	text	   *origin;
	bool		isnull;

	if (found->nodes != NULL &&
		!is_one(found, DatumGetInt64(slot_getattr(row, found->a, &isnull))) &&
		!is_one(found, DatumGetInt64(slot_getattr(row, found->b, &isnull))))
		return;
	origin = DatumGetTextPP(slot_getattr(row, found->origin, &isnull));
	if (VARSIZE_ANY_EXHDR(origin) != 5 || memcmp(VARDATA_ANY(origin), "event", 5) != 0)
		return;
	if (found->n == found->max)
	{
		found->max *= 2;
		found->rows = repalloc_huge(found->rows, sizeof(CdpEvidenceRow) * (Size) found->max);
	}
	r = &found->rows[found->n++];
	r->a = DatumGetInt64(slot_getattr(row, found->a, &isnull));
	r->b = DatumGetInt64(slot_getattr(row, found->b, &isnull));
	r->entry = DatumGetInt64(slot_getattr(row, found->entry, &isnull));
	r->at = DatumGetTimestampTz(slot_getattr(row, found->at, &isnull));
	r->tie = text_of_row(row, found->tie);
	r->ord = DatumGetInt32(slot_getattr(row, found->ord, &isnull));
	r->status = text_of_row(row, found->status);
	r->reason = text_of_row(row, found->reason);
	r->detail = text_of_row(row, found->detail);
	r->last_tie = text_of_row(row, found->last_tie);
	r->last_at = DatumGetTimestampTz(slot_getattr(row, found->last_at, &isnull));
	if (isnull)
		r->last_tie = NULL;
}

/*
 * The evidence of entries that touches the nodes, in the current memory
 * context; a row with both ends among them may come twice.
 */
CdpEvidenceRow *
CdpEvidenceRows(const int64 *nodes, int n, int *nrows)
{
	Oid			links = CdpRelationOid("links");
	FoundRows	found;
	int			i;

	found.nodes = NULL;
	found.max = 64;
	found.n = 0;
	found.rows = palloc(sizeof(CdpEvidenceRow) * found.max);
	found.a = get_attnum(links, "a");
	found.b = get_attnum(links, "b");
	found.entry = get_attnum(links, "entry");
	found.at = get_attnum(links, "at");
	found.tie = get_attnum(links, "tie");
	found.ord = get_attnum(links, "ord");
	found.origin = get_attnum(links, "origin");
	found.status = get_attnum(links, "status");
	found.reason = get_attnum(links, "reason");
	found.detail = get_attnum(links, "detail");
	found.last_at = get_attnum(links, "last_at");
	found.last_tie = get_attnum(links, "last_tie");

	if (CdpLinksScanPays(n))
	{
		int64	   *sorted = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(int64) * n);

		memcpy(sorted, nodes, sizeof(int64) * n);
		qsort(sorted, n, sizeof(int64), CdpCompareInt8);
		found.nodes = sorted;
		found.nnodes = n;
		CdpLinksScan(find_row, &found);
		pfree(sorted);
	}
	else
	{
		CdpWalk    *walk;

		push_snapshot();
		walk = CdpWalkBegin(false);
		for (i = 0; i < n; i++)
			CdpWalkRows(walk, nodes[i], find_row, &found);
		CdpWalkEnd(walk);
		PopActiveSnapshot();
	}
	*nrows = found.n;
	return found.rows;
}
