/*-------------------------------------------------------------------------
 *
 * sources.c
 *	  Entries that may say something of a node, read from the log: those of
 *	  its owner, and those of others that name it, in the times that matter.
 *
 * IDENTIFICATION
 *	  src/apply/sources.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "apply/batch.h"
#include "apply/sources.h"
#include "cdp.h"
#include "statement.h"

static CdpStatement owned_entries = {
	"SELECT " CDP_EVENTS_COLUMNS ", n.withheld, u.whole"
	" FROM (SELECT unnest($1) AS owner, unnest($2) AS since, unnest($3) AS until,"
	" unnest($4) AS whole) AS u"
	/* as cdp.owned_entries_of() has it, without the pieces of other times and those who name others */
	" CROSS JOIN LATERAL ("
	"SELECT r.at, r.entry, r.xid, r.received_at, false AS withheld"
	" FROM cdp.identities i CROSS JOIN LATERAL cdp.unpack_entries(i.recent, CASE WHEN NOT u.whole THEN $5 END) r"
	" WHERE i.node_id = u.owner AND r.at >= u.since AND r.at <= u.until"
	" UNION ALL"
	" SELECT r.at, r.entry, r.xid, r.received_at, false"
	" FROM cdp.entry_pieces p CROSS JOIN LATERAL cdp.unpack_entries(p.refs, CASE WHEN NOT u.whole THEN $5 END) r"
	" WHERE p.owner = u.owner AND p.until >= u.since AND p.since <= u.until"
	" AND r.at >= u.since AND r.at <= u.until"
	" UNION ALL"
	" SELECT w.at, w.entry, w.xid, w.received_at, true"
	" FROM cdp.withheld_entries w WHERE w.owner = u.owner"
	" AND w.at >= u.since AND w.at <= u.until) n"
	" JOIN cdp.events e ON e.xid = n.xid AND e.id = n.entry"
	" AND e.received_at = n.received_at",
	{"int8[]", "timestamptz[]", "timestamptz[]", "bool[]", "int4[]"}
};

void
CdpSourceAdd(CdpSources *sources, int64 owner, TimestampTz since, TimestampTz until, bool whole)
{
	if (sources->n == sources->max)
	{
		sources->max = Max(64, 2 * sources->max);
		sources->list = sources->list == NULL
			? palloc(sizeof(CdpSource) * sources->max)
			: repalloc_huge(sources->list, sizeof(CdpSource) * sources->max);
	}
	sources->list[sources->n].owner = owner;
	sources->list[sources->n].since = since;
	sources->list[sources->n].until = until;
	sources->list[sources->n++].whole = whole;
}

/*
 * Entries of the owner may name this node: of all that have been applied none is
 * earlier or later than it was seen.  While history is read anew it may have been
 * another one.
 */
void
CdpSourceAddFor(CdpBatch *batch, CdpSources *sources, int64 owner, const CdpNode *node)
{
	if ((batch->rereading && !batch->erasing) || batch->replaying || batch->graph->reading != NULL ||
		batch->nemptied > 0)
		CdpSourceAdd(sources, owner, DT_NOBEGIN, DT_NOEND, false);
	else
		CdpSourceAdd(sources, owner, node->first_seen,
					 Min(node->last_seen, node->disk_last_seen), false);
}

static int
source_order(const void *a, const void *b)
{
	const CdpSource *x = a;
	const CdpSource *y = b;

	if (x->owner != y->owner)
		return x->owner < y->owner ? -1 : 1;
	return x->since < y->since ? -1 : x->since > y->since ? 1 : 0;
}

/*
 * Each time of an owner once.
 */
static void
merge_sources(CdpSources *sources)
{
	int64		kept = 0;

	qsort(sources->list, sources->n, sizeof(CdpSource), source_order);
	for (int64 i = 0; i < sources->n; i++)
	{
		CdpSource  *source = &sources->list[i];
		CdpSource  *last = kept > 0 ? &sources->list[kept - 1] : NULL;

		if (last != NULL && last->owner == source->owner && source->since <= last->until)
		{
			last->until = Max(last->until, source->until);
			last->whole |= source->whole;
		}
		else
			sources->list[kept++] = *source;
	}
	sources->n = kept;
}

/*
 * Does the entry name one of these nodes, which are in order, beside its owner?
 */
static bool
names_other(CdpGraph *graph, const CdpEntry *entry, const int64 *nodes, int n)
{
	for (int j = 1; j < entry->ncandidates; j++)
	{
		CdpNode    *node = CdpGraphKnown(graph, CdpGraphCandidate(entry, j));

		if (node != NULL && bsearch(&node->id, nodes, n, sizeof(int64), CdpCompareInt8) != NULL)
			return true;
	}
	return false;
}

/*
 * Entries by owner, resolved to nodes: of those sources that are not whole the ones
 * that name one of these nodes, which are in order.  What a policy keeps from
 * counting is among them, with withheld set.
 */
CdpEntry *
CdpSourcesLoad(CdpBatch *batch, CdpSources *sources, const int64 *nodes, int nnodes, int *n)
{
	int64	   *owners;
	TimestampTz *since;
	TimestampTz *until;
	bool	   *whole;
	Datum		args[5];
	char		nulls[5] = {' ', ' ', ' ', ' ', ' '};
	CdpEntry   *entries;
	bool	   *wanted;
	int			nrows;
	int			i;

	merge_sources(sources);
	owners = palloc_extended(sizeof(int64) * Max(sources->n, 1), MCXT_ALLOC_HUGE);
	since = palloc_extended(sizeof(TimestampTz) * Max(sources->n, 1), MCXT_ALLOC_HUGE);
	until = palloc_extended(sizeof(TimestampTz) * Max(sources->n, 1), MCXT_ALLOC_HUGE);
	whole = palloc_extended(sizeof(bool) * Max(sources->n, 1), MCXT_ALLOC_HUGE);
	for (i = 0; i < sources->n; i++)
	{
		owners[i] = sources->list[i].owner;
		since[i] = sources->list[i].since;
		until[i] = sources->list[i].until;
		whole[i] = sources->list[i].whole;
	}
	args[0] = CdpInt8Array(owners, sources->n);
	args[1] = CdpTimestampArray(since, sources->n);
	args[2] = CdpTimestampArray(until, sources->n);
	args[3] = CdpBoolArray(whole, sources->n);
	args[4] = PointerGetDatum(CdpEntriesNaming(nodes, nnodes));
	if (DatumGetPointer(args[4]) == NULL)
		nulls[4] = 'n';
	CdpRun(&owned_entries, args, nulls);
	nrows = SPI_processed;
	entries = palloc_extended(sizeof(CdpEntry) * Max((Size) nrows, 1), MCXT_ALLOC_HUGE);
	wanted = palloc_extended(sizeof(bool) * Max(nrows, 1), MCXT_ALLOC_HUGE);
	for (i = 0; i < nrows; i++)
	{
		Datum		values[CDP_EVENTS_NATTS + 2];
		bool		isnull[CDP_EVENTS_NATTS + 2];

		if (i % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
		heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
						  values, isnull);
		CdpEntryFromRow(&entries[i], values, isnull);
		entries[i].withheld = DatumGetBool(values[CDP_EVENTS_NATTS]);
		wanted[i] = DatumGetBool(values[CDP_EVENTS_NATTS + 1]);
	}
	SPI_freetuptable(SPI_tuptable);
	CdpEntriesReadAll(entries, nrows);
	for (i = 0; i < nrows; i++)
		(void) CdpEntryJudge(&entries[i]);
	CdpGraphCheck(batch->graph, entries, nrows);
	*n = 0;
	for (i = 0; i < nrows; i++)
		if (wanted[i] || names_other(batch->graph, &entries[i], nodes, nnodes))
			entries[(*n)++] = entries[i];
	pfree(wanted);
	CdpGraphAdd(batch->graph, entries, *n, false);
	return entries;
}

/*
 * All entries that these nodes own.
 */
CdpEntry *
CdpLoadOwned(CdpBatch *batch, int64 *owners, int nowners, int *n)
{
	CdpSources	sources = {0};

	for (int i = 0; i < nowners; i++)
		CdpSourceAdd(&sources, owners[i], DT_NOBEGIN, DT_NOEND, true);
	return CdpSourcesLoad(batch, &sources, NULL, 0, n);
}
