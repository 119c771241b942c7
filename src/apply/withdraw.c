/*-------------------------------------------------------------------------
 *
 * withdraw.c
 *	  Take back what entries did that do not count any more.
 *
 *	  States cannot be subtracted from (a minimum does not remember the second
 *	  smallest), so what an entry touched is computed anew from the entries
 *	  that still count: the owner's states, the times of the nodes that it
 *	  named, and the evidence that rested on it.  All entries that name a node
 *	  are owned by it or by a node that evidence or a decision connects it
 *	  with, which keeps the search local.
 *
 *	  A detach takes away evidence, not entries: for every pair that has the
 *	  node at one end the log is asked what is the earliest evidence now.
 *
 * IDENTIFICATION
 *	  src/apply/withdraw.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "apply/batch.h"
#include "cdp.h"
#include "statement.h"

/* nodes whose entries may name one of these nodes */
static CdpStatement neighbours = {
	"SELECT l.b FROM (SELECT unnest($1) AS node) AS u JOIN cdp.links l ON l.a = u.node"
	" UNION SELECT l.a FROM (SELECT unnest($1) AS node) AS u JOIN cdp.links l ON l.b = u.node"
	" UNION SELECT d.b FROM (SELECT unnest($1) AS node) AS u JOIN cdp.decisions d ON d.a = u.node"
	" AND d.b IS NOT NULL"
	" UNION SELECT d.a FROM (SELECT unnest($1) AS node) AS u JOIN cdp.decisions d ON d.b = u.node",
	{"int8[]"}
};

static CdpStatement owned_entries = {
	"SELECT " CDP_EVENTS_COLUMNS ", n.withheld"
	" FROM (SELECT unnest($1) AS owner) AS u"
	" CROSS JOIN LATERAL cdp.owned_entries_of(u.owner) n"
	" JOIN cdp.events e ON e.xid = n.xid AND e.id = n.entry"
	" AND e.received_at = n.received_at",
	{"int8[]"}
};

/*
 * Event links that rest on these entries, which touch their nodes, as the first
 * or perhaps as the last evidence.
 */
static CdpStatement resting_links = {
	"SELECT l.a, l.b, l.entry FROM (SELECT unnest($1) AS node) AS u"
	" JOIN cdp.links l ON l.a = u.node AND l.origin = 'event'"
	" WHERE l.entry = ANY ($2) OR l.last_at IS NOT NULL",
	{"int8[]", "int8[]"}
};

static bool
is_member(const int64 *ids, int n, int64 id)
{
	int			i;

	for (i = 0; i < n; i++)
		if (ids[i] == id)
			return true;
	return false;
}

/*
 * The entries that these nodes own, resolved to nodes.  What a policy keeps
 * from counting is among them, with withheld set.
 */
CdpEntry *
CdpLoadOwned(CdpBatch *batch, int64 *owners, int nowners, int *n)
{
	Datum		arg = CdpInt8Array(owners, nowners);
	CdpEntry   *entries;
	uint64		i;

	CdpRun(&owned_entries, &arg, NULL);
	*n = SPI_processed;
	entries = palloc(sizeof(CdpEntry) * Max(*n, 1));
	for (i = 0; i < *n; i++)
	{
		Datum		values[CDP_EVENTS_NATTS + 1];
		bool		isnull[CDP_EVENTS_NATTS + 1];

		heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
						  values, isnull);
		CdpEntryFromRow(&entries[i], values, isnull);
		entries[i].withheld = DatumGetBool(values[CDP_EVENTS_NATTS]);
	}
	SPI_freetuptable(SPI_tuptable);
	for (i = 0; i < *n; i++)
		(void) CdpEntryCheck(&entries[i]);
	CdpGraphCheck(batch->graph, entries, *n);
	CdpGraphAdd(batch->graph, entries, *n, false);
	return entries;
}

/*
 * What the log has for a pair now: the evidence that counts, or none.
 */
static void
renew_link(CdpBatch *batch, CdpNode *a, CdpNode *b, CdpEntry *entries, int n)
{
	bool		found;
	CdpLink    *link = CdpGraphLink(batch->graph, a, b, false, &found);
	bool		any = false;
	int			i,
				j;

	if (!found)
		CdpGraphLoadLinks(batch->graph, &link, 1);
	CHECK_FOR_INTERRUPTS();
	link->last_tie = NULL;
	for (i = 0; i < n; i++)
	{
		CdpEntry   *entry = &entries[i];
		int64		other;

		if (entry->reject_reason != NULL || entry->nnodes < 2 ||
			CDP_ENTRY_DECIDES(entry->type))
			continue;
		if (entry->owner == a->id)
			other = b->id;
		else if (entry->owner == b->id)
			other = a->id;
		else
			continue;
		for (j = 1; j < entry->nnodes; j++)
			if (entry->nodes[j] == other)
				break;
		if (j == entry->nnodes)
			continue;
		CdpLinkSeen(link, entry->at, entry->tie);
		if (any && !CdpGraphEvidenceCounts(batch->graph, link, entry->at, entry->tie))
			continue;
		any = true;
		link->entry = entry->id;
		link->at = entry->at;
		link->tie = entry->tie;
		link->ord = j;
	}
	a->dirty = b->dirty = true;
	link->gone = !any;
	link->changed = any;
}

/*
 * The nodes themselves and all whose entries may name them.
 */
static int64 *
with_neighbours(const int64 *nodes, int n, int *naround)
{
	Datum		arg = CdpInt8Array(nodes, n);
	int64	   *around;
	uint64		r;

	CdpRun(&neighbours, &arg, NULL);
	around = palloc(sizeof(int64) * (n + SPI_processed));
	memcpy(around, nodes, sizeof(int64) * n);
	*naround = n;
	for (r = 0; r < SPI_processed; r++)
	{
		int64		id = CdpCellInt8(r, 1);

		if (!is_member(nodes, n, id))
			around[(*naround)++] = id;
	}
	SPI_freetuptable(SPI_tuptable);
	return around;
}

/*
 * Ask the log anew for the evidence that joins these nodes (int64 *) with
 * others: detaches of them have come or gone, or their latest evidence matters
 * now and did not before.
 */
void
CdpRenewEvidence(CdpBatch *batch, List *renewed)
{
	CdpGraph   *graph = batch->graph;
	int64	   *nodes = palloc(sizeof(int64) * Max(list_length(renewed), 1));
	int			n = 0;
	int64	   *around;
	int			naround;
	CdpEntry   *entries;
	int			nentries;
	CdpLink   **links;
	int			nlinks;
	ListCell   *lc;
	int			i;

	foreach(lc, renewed)
	{
		int64		id = *(int64 *) lfirst(lc);

		if (!is_member(nodes, n, id))
			nodes[n++] = id;
	}
	if (n == 0)
		return;
	CdpGraphLoadEvidence(graph, nodes, n);
	around = with_neighbours(nodes, n, &naround);
	entries = CdpLoadOwned(batch, around, naround, &nentries);
	CdpGraphLoadDetached(graph);
	nlinks = CdpGraphLinksOf(graph, nodes, n, &links);
	for (i = 0; i < nlinks; i++)
		renew_link(batch, links[i]->a, links[i]->b, entries, nentries);
}

/*
 * Compute the states of owners anew from the entries.
 */
void
CdpRefold(CdpBatch *batch, const int64 *owners, int nowners, CdpEntry *entries,
		  int n)
{
	CdpContributions *contributions;
	int			i;

	for (i = 0; i < nowners; i++)
	{
		CdpNode    *node = CdpGraphNode(batch->graph, owners[i]);

		if (node->acc == NULL)
			node->acc = CdpNodeOpen(batch->traits, node->state);
		CdpNodeReset(node->acc, NULL);
		node->folded = true;
		node->row_changed = true;
		CdpGraphUncombine(CdpNodeRoot(node));
	}
	contributions = palloc0(sizeof(CdpContributions) * Max(n, 1));
	CdpTraitsEvaluate(batch->traits, NULL, entries, n, contributions);
	for (i = 0; i < n; i++)
	{
		if (entries[i].reject_reason == NULL && !entries[i].withheld &&
			is_member(owners, nowners, entries[i].owner))
			CdpNodeFold(CdpGraphNode(batch->graph, entries[i].owner)->acc,
						&entries[i], &contributions[i], true);
	}
	pfree(contributions);
}

/*
 * Take back the given entries (list of CdpEntry *, as read from the log).
 */
void
CdpWithdraw(CdpBatch *batch, List *withdrawn)
{
	int			n = list_length(withdrawn);
	CdpEntry   *old = palloc(sizeof(CdpEntry) * n);
	int64	   *owners = palloc(sizeof(int64) * n);
	int64	   *ids = palloc(sizeof(int64) * n);
	int64	   *named;
	int64	   *around;
	int			nnamed = 0;
	int			naround;
	int			nowned = 0;
	int			max = 0;
	CdpEntry   *entries;
	int			nentries;
	Datum		args[3];
	SPITupleTable *rows;
	uint64		nrows;
	uint64		r;
	ListCell   *lc;
	int			i,
				j;

	i = 0;
	foreach(lc, withdrawn)
	{
		if (!batch->rereading)
			CdpHistoryKeep(batch, lfirst(lc));
		old[i++] = *(CdpEntry *) lfirst(lc);
	}
	CdpGraphAdd(batch->graph, old, n, false);

	for (i = 0; i < n; i++)
	{
		int64	   *id = palloc(sizeof(int64));

		*id = old[i].id;
		if (old[i].undone)
			batch->graph->undone = lappend(batch->graph->undone, id);
		else
			batch->graph->withdrawn = lappend(batch->graph->withdrawn, id);
		max += old[i].nnodes;
		if (old[i].owner != 0)
		{
			CdpEntryForget(batch, old[i].owner, old[i].at, old[i].id);
			owners[nowned] = old[i].owner;
			ids[nowned++] = old[i].id;
		}
	}
	CdpWithheldWithdraw(batch, old, n);

	/* the nodes that they named, and all whose entries may name those */
	named = palloc(sizeof(int64) * Max(max, 1));
	for (i = 0; i < n; i++)
		for (j = 0; j < old[i].nnodes; j++)
			if (!is_member(named, nnamed, old[i].nodes[j]))
				named[nnamed++] = old[i].nodes[j];
	if (nnamed == 0)
		return;
	around = with_neighbours(named, nnamed, &naround);
	entries = CdpLoadOwned(batch, around, naround, &nentries);
	CdpGraphLoadDetached(batch->graph);

	/* times */
	for (i = 0; i < nnamed; i++)
	{
		CdpNode    *node = CdpGraphNode(batch->graph, named[i]);

		node->first_seen = DT_NOEND;
		node->last_seen = DT_NOBEGIN;
		node->row_changed = true;
		node->dirty = true;
	}
	for (i = 0; i < nentries; i++)
		for (j = 0; j < entries[i].nnodes; j++)
			if (is_member(named, nnamed, entries[i].nodes[j]))
				CdpNodeSeen(CdpGraphNode(batch->graph, entries[i].nodes[j]),
							entries[i].at);

	/* evidence */
	args[0] = CdpInt8Array(named, nnamed);
	args[1] = CdpInt8Array(ids, nowned);
	nrows = CdpRun(&resting_links, args, NULL);
	rows = SPI_tuptable;
	for (r = 0; r < nrows; r++)
	{
		CdpNode    *a;
		CdpNode    *b;

		SPI_tuptable = rows;
		a = CdpGraphNode(batch->graph, CdpCellInt8(r, 1));
		b = CdpGraphNode(batch->graph, CdpCellInt8(r, 2));
		if (a == NULL || b == NULL)
			elog(ERROR, "link between %lld and %lld is not in the graph",
				 (long long) CdpCellInt8(r, 1), (long long) CdpCellInt8(r, 2));
		renew_link(batch, a, b, entries, nentries);
	}
	SPI_freetuptable(rows);

	CdpRefold(batch, owners, nowned, entries, nentries);
}
