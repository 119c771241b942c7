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
	"SELECT l.b FROM (SELECT unnest($1) AS node) AS u"
	" CROSS JOIN LATERAL (SELECT l.b FROM cdp.links l WHERE l.a = u.node OFFSET 0) AS l"
	" UNION SELECT l.a FROM (SELECT unnest($1) AS node) AS u"
	" CROSS JOIN LATERAL (SELECT l.a FROM cdp.links l WHERE l.b = u.node OFFSET 0) AS l"
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
	" CROSS JOIN LATERAL (SELECT * FROM cdp.links l WHERE l.a = u.node AND l.origin = 'event'"
	" AND (l.entry = ANY ($2) OR l.last_at IS NOT NULL) OFFSET 0) AS l",
	{"int8[]", "int8[]"}
};

/* What one entry says about a pair of nodes, a < b. */
typedef struct Evidence
{
	int64		a;
	int64		b;
	int			entry;			/* index */
	int			ord;			/* place of the other node in it */
} Evidence;

typedef struct EvidenceSet
{
	Evidence   *list;			/* by a, b, entry */
	int64		n;
	CdpEntry   *entries;
} EvidenceSet;

static int
number_order(const void *a, const void *b)
{
	int64		x = *(const int64 *) a;
	int64		y = *(const int64 *) b;

	return x < y ? -1 : x > y ? 1 : 0;
}

/*
 * In order, each once; returns how many are left.
 */
static int
sort_unique(int64 *ids, int n)
{
	int			kept = 0;
	int			i;

	qsort(ids, n, sizeof(int64), number_order);
	for (i = 0; i < n; i++)
		if (kept == 0 || ids[kept - 1] != ids[i])
			ids[kept++] = ids[i];
	return kept;
}

/* ids are in order */
static bool
is_member(const int64 *ids, int n, int64 id)
{
	return bsearch(&id, ids, n, sizeof(int64), number_order) != NULL;
}

static int
evidence_order(const void *a, const void *b)
{
	const Evidence *x = a;
	const Evidence *y = b;

	if (x->a != y->a)
		return x->a < y->a ? -1 : 1;
	if (x->b != y->b)
		return x->b < y->b ? -1 : 1;
	return x->entry < y->entry ? -1 : x->entry > y->entry ? 1 : 0;
}

/*
 * Everything that the entries say about pairs.
 */
static void
collect_evidence(CdpEntry *entries, int n, EvidenceSet *set)
{
	int64		max = 0;
	int			i,
				j;

	for (i = 0; i < n; i++)
		max += Max(entries[i].nnodes - 1, 0);
	set->list = palloc_extended(sizeof(Evidence) * Max(max, 1), MCXT_ALLOC_HUGE);
	set->n = 0;
	set->entries = entries;
	for (i = 0; i < n; i++)
	{
		CdpEntry   *entry = &entries[i];

		if (entry->reject_reason != NULL || CDP_ENTRY_DECIDES(entry->type))
			continue;
		for (j = 1; j < entry->nnodes; j++)
		{
			Evidence   *evidence = &set->list[set->n++];

			evidence->a = Min(entry->owner, entry->nodes[j]);
			evidence->b = Max(entry->owner, entry->nodes[j]);
			evidence->entry = i;
			evidence->ord = j;
		}
	}
	CHECK_FOR_INTERRUPTS();
	qsort(set->list, set->n, sizeof(Evidence), evidence_order);
}

/*
 * The first of the set that is about the pair; set->n when none is.
 */
static int64
find_evidence(EvidenceSet *set, int64 a, int64 b)
{
	Evidence	key = {a, b, -1, 0};
	int64		low = 0;
	int64		high = set->n;

	while (low < high)
	{
		int64		middle = low + (high - low) / 2;

		if (evidence_order(&set->list[middle], &key) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
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
	entries = palloc_extended(sizeof(CdpEntry) * Max((Size) *n, 1), MCXT_ALLOC_HUGE);
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
		(void) CdpEntryJudge(&entries[i]);
	CdpGraphCheck(batch->graph, entries, *n);
	CdpGraphAdd(batch->graph, entries, *n, false);
	return entries;
}

/*
 * What the log has for a pair now: the evidence that counts, or none.
 */
static void
renew_link(CdpBatch *batch, CdpLink *link, EvidenceSet *set)
{
	bool		any = false;
	int64		i;

	CHECK_FOR_INTERRUPTS();
	link->last_tie = NULL;
	for (i = find_evidence(set, link->a->id, link->b->id);
		 i < set->n && set->list[i].a == link->a->id && set->list[i].b == link->b->id;
		 i++)
	{
		CdpEntry   *entry = &set->entries[set->list[i].entry];

		CdpLinkSeen(link, entry->at, entry->tie);
		if (any && !CdpGraphEvidenceCounts(batch->graph, link, entry->at, entry->tie))
			continue;
		any = true;
		link->entry = entry->id;
		link->at = entry->at;
		link->tie = entry->tie;
		link->ord = set->list[i].ord;
	}
	link->a->dirty = link->b->dirty = true;
	link->gone = !any;
	link->changed = any;
}

/*
 * The nodes themselves, which are in order, and all whose entries may name them.
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
 * Nodes whose entries all go at once (a person is erased): they own nothing, and
 * what their entries said of others is found out anew.  Returns the nodes that
 * are named with these and their neighbours, all of them brought in.
 */
static int64 *
add_emptied(CdpBatch *batch, int64 *named, int *n)
{
	int64	   *around;
	int			naround;
	int64	   *result;

	around = with_neighbours(batch->emptied, batch->nemptied, &naround);
	result = palloc(sizeof(int64) * (*n + naround));
	memcpy(result, named, sizeof(int64) * *n);
	memcpy(result + *n, around, sizeof(int64) * naround);
	*n += naround;
	CdpGraphAddNodes(batch->graph, result, *n);
	return result;
}

/*
 * Without those that own nothing.
 */
static int
without_emptied(CdpBatch *batch, int64 *nodes, int n)
{
	int			kept = 0;
	int			i;

	for (i = 0; i < n; i++)
		if (!is_member(batch->emptied, batch->nemptied, nodes[i]))
			nodes[kept++] = nodes[i];
	return kept;
}

/*
 * The evidence that joins these nodes with others, as the entries have it that
 * are left; their states begin anew.
 */
static void
empty_nodes(CdpBatch *batch, EvidenceSet *set)
{
	CdpGraph   *graph = batch->graph;
	CdpLink   **links;
	int			nlinks;
	int			i;

	CdpGraphLoadEvidence(graph, batch->emptied, batch->nemptied);
	nlinks = CdpGraphLinksOf(graph, batch->emptied, batch->nemptied, &links);
	for (i = 0; i < nlinks; i++)
		renew_link(batch, links[i], set);
	for (i = 0; i < batch->nemptied; i++)
	{
		CdpNode    *node = CdpGraphNode(graph, batch->emptied[i]);

		node->new_recent = NULL;
		node->recent_changed = node->recent != NULL;
	}
	CdpRefold(batch, batch->emptied, batch->nemptied, NULL, 0);
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
	EvidenceSet set;
	CdpLink   **links;
	int			nlinks;
	ListCell   *lc;
	int			i;

	foreach(lc, renewed)
		nodes[n++] = *(int64 *) lfirst(lc);
	n = sort_unique(nodes, n);
	if (n == 0)
		return;
	CdpGraphLoadEvidence(graph, nodes, n);
	around = with_neighbours(nodes, n, &naround);
	entries = CdpLoadOwned(batch, around, naround, &nentries);
	CdpGraphLoadDetached(graph);
	nlinks = CdpGraphLinksOf(graph, nodes, n, &links);
	collect_evidence(entries, nentries, &set);
	for (i = 0; i < nlinks; i++)
		renew_link(batch, links[i], &set);
}

/*
 * Compute the states of owners, which are in order, anew from the entries.
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

		batch->refolded = lappend(batch->refolded, &node->id);
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
	CdpLink   **links;
	CdpLink   **missing;
	int			nlinks = 0;
	int			nmissing = 0;
	uint64		r;
	EvidenceSet set;
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
		CdpAccountsNote(batch, &old[i], true);
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
			named[nnamed++] = old[i].nodes[j];
	if (batch->nemptied > 0)
		named = add_emptied(batch, named, &nnamed);
	nnamed = sort_unique(named, nnamed);
	if (nnamed == 0)
		return;
	around = with_neighbours(named, nnamed, &naround);
	naround = without_emptied(batch, around, naround);
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
	CdpRun(&resting_links, args, NULL);
	links = palloc_extended(sizeof(CdpLink *) * Max(SPI_processed, 1), MCXT_ALLOC_HUGE);
	missing = palloc_extended(sizeof(CdpLink *) * Max(SPI_processed, 1), MCXT_ALLOC_HUGE);
	for (r = 0; r < SPI_processed; r++)
	{
		CdpNode    *a = CdpGraphNode(batch->graph, CdpCellInt8(r, 1));
		CdpNode    *b = CdpGraphNode(batch->graph, CdpCellInt8(r, 2));
		bool		found;

		if (a == NULL || b == NULL)
			elog(ERROR, "link between %lld and %lld is not in the graph",
				 (long long) CdpCellInt8(r, 1), (long long) CdpCellInt8(r, 2));
		links[nlinks] = CdpGraphLink(batch->graph, a, b, false, &found);
		if (!found)
			missing[nmissing++] = links[nlinks];
		nlinks++;
	}
	SPI_freetuptable(SPI_tuptable);
	CdpGraphLoadLinks(batch->graph, missing, nmissing);
	collect_evidence(entries, nentries, &set);
	for (i = 0; i < nlinks; i++)
		renew_link(batch, links[i], &set);

	CdpRefold(batch, owners, sort_unique(owners, nowned), entries, nentries);
	if (batch->nemptied > 0)
		empty_nodes(batch, &set);
}
