/*-------------------------------------------------------------------------
 *
 * log_scan.c
 *	  Entries of the log in the order of (xid, id), read without a statement.
 *
 *	  Nothing says in which partition of cdp.events the entries of a transaction
 *	  are: received_at is the client's statement's, and what is released from
 *	  quarantine stays where it was received.  So every partition is asked, and
 *	  a statement that does so is planned, locked, begun and ended for each of
 *	  them, of which a batch may want several.  Here they are opened once a
 *	  batch, by their index on (xid, id), and those that have nothing cost one
 *	  descent of it.
 *
 * IDENTIFICATION
 *	  src/collect/log_scan.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/skey.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "partitioning/partdesc.h"
#include "storage/bufmgr.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "cdp.h"
#include "collect/collect.h"
#include "compat.h"
#include "direct.h"

/* One partition. */
typedef struct Part
{
	Relation	rel;
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *slot;
	AttrNumber	numbers[CDP_EVENTS_NATTS];	/* of columns in it */
	int64		xid;			/* of the entry in the slot */
	int64		id;
	bool		more;			/* there is one */
} Part;

struct CdpLogScan
{
	Relation	parent;
	int			nparts;
	Part	   *parts;
};

/*
 * By name: a partition that a dump brought need not have its columns in our order.
 */
static AttrNumber
find_column(Relation rel, CdpEventsColumn column)
{
	static const char *const names[CDP_EVENTS_NATTS] = {
		"id", "message_id", "source", "type", "event", "identifiers", "properties",
		"context", "occurred_at", "received_at", "xid", "incarnation"
	};
	TupleDesc	desc = RelationGetDescr(rel);
	int			i;

	for (i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, (column + i) % desc->natts);

		if (!attribute->attisdropped && strcmp(NameStr(attribute->attname), names[column]) == 0)
			return attribute->attnum;
	}
	elog(ERROR, "column \"%s\" of partition \"%s\" does not exist", names[column],
		 RelationGetRelationName(rel));
	return InvalidAttrNumber;	/* keep compiler quiet */
}

/*
 * What the partitions need that have an entry, and few have.
 */
static void
make_slot(Part *part)
{
	int			i;

	part->slot = table_slot_create(part->rel, NULL);
	for (i = 0; i < CDP_EVENTS_NATTS; i++)
		part->numbers[i] = find_column(part->rel, i);
}

/*
 * Open the partition's index on (xid, id); false when it has none that could be
 * used.
 */
static bool
find_index(Part *part)
{
	AttrNumber	xid = find_column(part->rel, CDP_EVENTS_XID);
	AttrNumber	id = find_column(part->rel, CDP_EVENTS_ID);
	List	   *indexes = RelationGetIndexList(part->rel);
	ListCell   *lc;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);
		Form_pg_index form = index->rd_index;

		if (index->rd_rel->relam == BTREE_AM_OID && form->indisvalid && form->indnkeyatts == 2 &&
			form->indkey.values[0] == xid && form->indkey.values[1] == id &&
			index->rd_indoption[0] == 0 && index->rd_indoption[1] == 0 &&
			RelationGetIndexPredicate(index) == NIL &&
			/* as the planner has it: built anew without what older snapshots need */
			(!form->indcheckxmin ||
			 TransactionIdPrecedes(HeapTupleHeaderGetXmin(index->rd_indextuple->t_data),
								   TransactionXmin)))
		{
			part->index = index;
			break;
		}
		index_close(index, NoLock);
	}
	list_free(indexes);
	return part->index != NULL;
}

static void
close_all(CdpLogScan *log)
{
	int			i;

	for (i = 0; i < log->nparts; i++)
	{
		Part	   *part = &log->parts[i];

		if (part->slot != NULL)
			ExecDropSingleTupleTableSlot(part->slot);
		if (part->scan != NULL)
			index_endscan(part->scan);
		if (part->index != NULL)
			index_close(part->index, NoLock);
		if (part->rel != NULL)
			table_close(part->rel, NoLock);
	}
	table_close(log->parent, NoLock);
	pfree(log->parts);
	pfree(log);
}

/*
 * Begin to read what is committed by now (or what the caller's snapshot sees, when
 * statements are to read only).  NULL: some partition cannot be read so, and a
 * statement has to.
 */
CdpLogScan *
CdpLogScanBegin(void)
{
	CdpLogScan *log = palloc0(sizeof(CdpLogScan));
	PartitionDesc partitions;
	int			i;

	log->parent = table_open(CdpRelationOid("events"), AccessShareLock);
	/* whose lock was had before may have got another partition since */
	AcceptInvalidationMessages();
	partitions = RelationGetPartitionDesc(log->parent, true);
	log->parts = palloc0_array(Part, Max(partitions->nparts, 1));
	for (i = 0; i < partitions->nparts; i++)
	{
		Part	   *part = &log->parts[log->nparts++];

		part->rel = table_open(partitions->oids[i], AccessShareLock);
		if (!IsolationIsSerializable() && part->rel->rd_rel->relkind == RELKIND_RELATION &&
			RelationGetNumberOfBlocks(part->rel) == 0)
		{
			/*
			 * One of months to come: nothing that is committed is in it.  A
			 * serializable reader has to lock what he finds empty.
			 */
			table_close(part->rel, NoLock);
			log->nparts--;
			continue;
		}
		if (part->rel->rd_rel->relkind != RELKIND_RELATION || !find_index(part))
		{
			close_all(log);
			return NULL;
		}
	}
	CdpReadingBegin();
	return log;
}

/*
 * Read the next entry of a partition into its slot, which those that have one need.
 */
static void
advance(Part *part)
{
	do
	{
		part->more = index_getnext_tid(part->scan, ForwardScanDirection) != NULL;
		if (!part->more)
			return;
		if (part->slot == NULL)
			make_slot(part);
	} while (!index_fetch_heap(part->scan, part->slot));
	slot_getallattrs(part->slot);
	part->xid = DatumGetInt64(part->slot->tts_values[part->numbers[CDP_EVENTS_XID] - 1]);
	part->id = DatumGetInt64(part->slot->tts_values[part->numbers[CDP_EVENTS_ID] - 1]);
}

/*
 * Hand over entries that satisfy both keys, which are of columns of the index.
 */
static int
read_entries(CdpLogScan *log, ScanKey keys, int max, CdpDirectRow row, void *arg)
{
	Datum		values[CDP_EVENTS_NATTS];
	bool		isnull[CDP_EVENTS_NATTS];
	int			n;
	int			i;

	for (i = 0; i < log->nparts; i++)
	{
		Part	   *part = &log->parts[i];

		if (part->scan == NULL)
			part->scan = CdpIndexBeginScan(part->rel, part->index, GetActiveSnapshot(), 2, 0);
		index_rescan(part->scan, keys, 2, NULL, 0);
		advance(part);
	}
	for (n = 0; n < max; n++)
	{
		Part	   *next = NULL;

		CHECK_FOR_INTERRUPTS();
		for (i = 0; i < log->nparts; i++)
		{
			Part	   *part = &log->parts[i];

			if (part->more &&
				(next == NULL || part->xid < next->xid ||
				 (part->xid == next->xid && part->id < next->id)))
				next = part;
		}
		if (next == NULL)
			break;
		for (i = 0; i < CDP_EVENTS_NATTS; i++)
		{
			values[i] = next->slot->tts_values[next->numbers[i] - 1];
			isnull[i] = next->slot->tts_isnull[next->numbers[i] - 1];
		}
		row(values, isnull, arg);
		advance(next);
	}
	for (i = 0; i < log->nparts; i++)
		if (log->parts[i].slot != NULL)
			ExecClearTuple(log->parts[i].slot);
	return n;
}

/*
 * Entries of one transaction whose ids are above the given one, at most max of
 * them; returns how many.  Each is handed over as a row of cdp.events whose values
 * last until the function returns.
 */
int
CdpLogScanTransaction(CdpLogScan *log, int64 xid, int64 id, int max, CdpDirectRow row, void *arg)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(xid));
	ScanKeyInit(&keys[1], 2, BTGreaterStrategyNumber, F_INT8GT, Int64GetDatum(id));
	return read_entries(log, keys, max, row, arg);
}

/*
 * Entries of transactions between two, both of them excluded, in the same way.
 */
int
CdpLogScanBetween(CdpLogScan *log, int64 above, int64 below, int max, CdpDirectRow row, void *arg)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], 1, BTGreaterStrategyNumber, F_INT8GT, Int64GetDatum(above));
	ScanKeyInit(&keys[1], 1, BTLessStrategyNumber, F_INT8LT, Int64GetDatum(below));
	return read_entries(log, keys, max, row, arg);
}

void
CdpLogScanEnd(CdpLogScan *log)
{
	close_all(log);
	CdpReadingEnd();
}
