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

typedef struct Reading
{
	CdpGraph   *graph;
	bool		asked;			/* are there rows of nodes that were not asked for? */
	/* rows that wait for nodes which are not here yet */
	MemoryContext scratch;
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
} Reading;

static text *
text_of_row(TupleTableSlot *row, AttrNumber column)
{
	bool		isnull;
	Datum		value = slot_getattr(row, column, &isnull);

	return isnull ? NULL : DatumGetTextPP(value);
}

static text *
copy_text(const text *value)
{
	return value == NULL ? NULL : memcpy(palloc(VARSIZE_ANY(value)), value, VARSIZE_ANY(value));
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

/*
 * The row waits until the nodes at its ends are here.
 */
static void
keep_row(Reading *reading, const CdpEvidenceRow *row)
{
	MemoryContext old = MemoryContextSwitchTo(reading->scratch);
	CdpEvidenceRow *r;

	if (reading->n == reading->max)
	{
		reading->max = Max(64, reading->max * 2);
		reading->rows = reading->rows == NULL
			? palloc(sizeof(CdpEvidenceRow) * reading->max)
			: repalloc_huge(reading->rows, sizeof(CdpEvidenceRow) * (Size) reading->max);
	}
	r = &reading->rows[reading->n++];
	*r = *row;
	r->tie = copy_text(row->tie);
	r->status = copy_text(row->status);
	r->reason = copy_text(row->reason);
	r->detail = copy_text(row->detail);
	r->last_tie = copy_text(row->last_tie);
	MemoryContextSwitchTo(old);
}

/* CdpWalkRowCallback: take in what an entry said */
static void
find_row(TupleTableSlot *row, int64 other, void *arg)
{
	Reading    *reading = (Reading *) arg;
	CdpGraph   *graph = reading->graph;
	CdpEvidenceRow r;
	CdpNode    *a;
	CdpNode    *b;
	text	   *origin;
	bool		isnull;

	r.a = DatumGetInt64(slot_getattr(row, reading->a, &isnull));
	r.b = DatumGetInt64(slot_getattr(row, reading->b, &isnull));
	a = CdpGraphNode(graph, r.a);
	b = CdpGraphNode(graph, r.b);
	if (reading->asked && (a == NULL || !a->asked) && (b == NULL || !b->asked))
		return;
	origin = DatumGetTextPP(slot_getattr(row, reading->origin, &isnull));
	if (VARSIZE_ANY_EXHDR(origin) != 5 || memcmp(VARDATA_ANY(origin), "event", 5) != 0)
		return;
	r.entry = DatumGetInt64(slot_getattr(row, reading->entry, &isnull));
	r.at = DatumGetTimestampTz(slot_getattr(row, reading->at, &isnull));
	r.tie = text_of_row(row, reading->tie);
	r.ord = DatumGetInt32(slot_getattr(row, reading->ord, &isnull));
	r.status = text_of_row(row, reading->status);
	r.reason = text_of_row(row, reading->reason);
	r.detail = text_of_row(row, reading->detail);
	r.last_tie = text_of_row(row, reading->last_tie);
	r.last_at = DatumGetTimestampTz(slot_getattr(row, reading->last_at, &isnull));
	if (isnull)
		r.last_tie = NULL;
	if (a != NULL && a->batch == graph->batch && b != NULL && b->batch == graph->batch)
		CdpGraphTakeRow(graph, a, b, &r);
	else
		keep_row(reading, &r);
}

/*
 * The nodes at the ends of the rows that wait come in, and the rows with them.
 */
static void
take_rows(Reading *reading)
{
	CdpGraph   *graph = reading->graph;
	int64	   *missing;
	int			nmissing = 0;

	if (reading->n == 0)
		return;
	missing = MemoryContextAllocHuge(reading->scratch, sizeof(int64) * 2 * (Size) reading->n);
	for (int i = 0; i < reading->n; i++)
	{
		for (int end = 0; end < 2; end++)
		{
			int64		id = end == 0 ? reading->rows[i].a : reading->rows[i].b;
			CdpNode    *node = CdpGraphNode(graph, id);

			if (node == NULL || node->batch != graph->batch)
				missing[nmissing++] = id;
		}
	}
	CdpGraphAddNodes(graph, missing, nmissing);
	for (int i = 0; i < reading->n; i++)
	{
		CdpEvidenceRow *row = &reading->rows[i];
		CdpNode    *a = CdpGraphNode(graph, row->a);
		CdpNode    *b = CdpGraphNode(graph, row->b);

		if (a == NULL || b == NULL)
			elog(ERROR, "link between %lld and %lld is not in the graph",
				 (long long) row->a, (long long) row->b);
		CdpGraphTakeRow(graph, a, b, row);
	}
}

/*
 * Mark the nodes as those that are asked for, or not any more.
 */
static void
ask(CdpNode **nodes, int n, bool asked)
{
	for (int i = 0; i < n; i++)
		nodes[i]->asked = asked;
}

/*
 * Rows are taken from where they stand; a row with both ends among the nodes may come
 * twice.
 */
void
CdpEvidenceRead(CdpGraph *graph, CdpNode **nodes, int n)
{
	Oid			links = CdpRelationOid("links");
	Reading		reading = {graph};

	reading.scratch = AllocSetContextCreate(CurrentMemoryContext, "evidence",
											ALLOCSET_DEFAULT_SIZES);
	reading.a = get_attnum(links, "a");
	reading.b = get_attnum(links, "b");
	reading.entry = get_attnum(links, "entry");
	reading.at = get_attnum(links, "at");
	reading.tie = get_attnum(links, "tie");
	reading.ord = get_attnum(links, "ord");
	reading.origin = get_attnum(links, "origin");
	reading.status = get_attnum(links, "status");
	reading.reason = get_attnum(links, "reason");
	reading.detail = get_attnum(links, "detail");
	reading.last_at = get_attnum(links, "last_at");
	reading.last_tie = get_attnum(links, "last_tie");

	if (CdpLinksScanPays(n))
	{
		reading.asked = true;
		ask(nodes, n, true);
		CdpLinksScan(find_row, &reading);
		ask(nodes, n, false);
	}
	else
	{
		CdpWalk    *walk;

		push_snapshot();
		walk = CdpWalkBegin(false);
		for (int i = 0; i < n; i++)
			CdpWalkRows(walk, nodes[i]->id, find_row, &reading);
		CdpWalkEnd(walk);
		PopActiveSnapshot();
	}
	take_rows(&reading);
	MemoryContextDelete(reading.scratch);
}
