/*-------------------------------------------------------------------------
 *
 * compare.c
 *	  Compares what walks find, by the btrees of cdp.links and by its
 *	  identity_graph index, with the table itself.
 *
 * IDENTIFICATION
 *	  src/identity/index/compare.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "cdp.h"
#include "compat.h"
#include "identity/index/graph_index.h"
#include "identity/index/walk.h"

/* How many neighbours a node has, and a sum of their hashes. */
typedef struct Tally
{
	uint64		count;
	uint64		sum;
} Tally;

typedef struct NodeTally
{
	int64		node;			/* hash key */
	Tally		all;
	Tally		accepted;
	char		status;			/* simplehash */
} NodeTally;

#define SH_PREFIX tally
#define SH_ELEMENT_TYPE NodeTally
#define SH_KEY_TYPE int64
#define SH_KEY node
#define SH_HASH_KEY(tb, key) ((uint32) CdpgHash(key))
#define SH_EQUAL(tb, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

PG_FUNCTION_INFO_V1(cdp_graph_check_walks);

static void
count(Tally *tally, int64 other)
{
	tally->count++;
	tally->sum += CdpgHash(other);
}

static tally_hash *
tally_table(void)
{
	tally_hash *tallies = tally_create(CurrentMemoryContext, 1024, NULL);
	Oid			relid = CdpRelationOid("links");
	Relation	links = table_open(relid, AccessShareLock);
	AttrNumber	columns[2];
	AttrNumber	status = get_attnum(relid, "status");
	TupleTableSlot *slot = table_slot_create(links, NULL);
	TableScanDesc scan = table_beginscan(links, GetActiveSnapshot(), 0, NULL);
	bool		isnull;

	columns[0] = get_attnum(relid, "a");
	columns[1] = get_attnum(relid, "b");
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		int64		ends[2];
		char	   *word;
		bool		accepted;
		int			i;

		CHECK_FOR_INTERRUPTS();
		for (i = 0; i < 2; i++)
			ends[i] = DatumGetInt64(slot_getattr(slot, columns[i], &isnull));
		word = TextDatumGetCString(slot_getattr(slot, status, &isnull));
		accepted = strcmp(word, "accepted") == 0;
		pfree(word);
		for (i = 0; i < 2; i++)
		{
			bool		found;
			NodeTally  *node = tally_insert(tallies, ends[i], &found);

			if (!found)
			{
				memset(&node->all, 0, sizeof(Tally));
				memset(&node->accepted, 0, sizeof(Tally));
			}
			count(&node->all, ends[1 - i]);
			if (accepted)
				count(&node->accepted, ends[1 - i]);
		}
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(links, AccessShareLock);
	return tallies;
}

static void
compare(ReturnSetInfo *info, tally_hash *tallies, bool accepted, bool by_index)
{
	CdpWalk    *walk;
	tally_iterator iterator;
	NodeTally  *node;

	walk = CdpWalkBegin(accepted);
	if (CdpWalkByIndex(walk) == by_index)
	{
		tally_start_iterate(tallies, &iterator);
		while ((node = tally_iterate(tallies, &iterator)) != NULL)
		{
			Tally	   *is = accepted ? &node->accepted : &node->all;
			Tally		found = {0, 0};
			CdpNeighbour *neighbours;
			int			n;
			int			i;

			CHECK_FOR_INTERRUPTS();
			n = CdpWalkNeighbours(walk, node->node, NULL, NULL, &neighbours);
			for (i = 0; i < n; i++)
				count(&found, neighbours[i].other);
			if (found.count != is->count || found.sum != is->sum)
			{
				Datum		values[2];
				bool		nulls[2] = {false, false};

				values[0] = Int64GetDatum(node->node);
				values[1] = CStringGetTextDatum(psprintf("%s: " UINT64_FORMAT " %s, the table has " UINT64_FORMAT "%s",
														 by_index ? "identity_graph index" : "btrees",
														 found.count,
														 accepted ? "accepted links" : "links",
														 is->count,
														 found.count == is->count ? " others" : ""));
				tuplestore_putvalues(info->setResult, info->setDesc, values, nulls);
			}
		}
	}
	CdpWalkEnd(walk);
}

/*
 * cdp.graph_check_walks() returns table (node bigint, finding text)
 */
Datum
cdp_graph_check_walks(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *info = (ReturnSetInfo *) fcinfo->resultinfo;
	bool		saved = cdp_enable_graph_index;
	tally_hash *tallies;

	InitMaterializedSRF(fcinfo, 0);
	tallies = tally_table();
	PG_TRY();
	{
		int			i;

		for (i = 0; i < 4; i++)
		{
			cdp_enable_graph_index = (i & 1) != 0;
			compare(info, tallies, (i & 2) != 0, cdp_enable_graph_index);
		}
	}
	PG_FINALLY();
	{
		cdp_enable_graph_index = saved;
	}
	PG_END_TRY();
	return (Datum) 0;
}
