/*-------------------------------------------------------------------------
 *
 * withdraw.c
 *	  Take back what entries did that do not count any more.
 *
 *	  States can hardly be subtracted from (a minimum does not remember the second
 *	  smallest; traits/unfold.c does what can be done), so what an entry touched is
 *	  computed anew from the entries that still count: the owner's states, the times of the nodes that it
 *	  named, and the evidence that rested on it, each of these only where it
 *	  can be another one.  All entries that name a node are owned by it or by a
 *	  node that evidence or a decision connects it with, and that is of no
 *	  weaker kind, and none is earlier or later than the node was seen.  This
 *	  keeps the search local, also where the owner has a million entries.
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
#include "apply/sources.h"
#include "cdp.h"
#include "statement.h"

/* nodes whose entries may name one of these nodes */
static CdpStatement neighbours = {
	"SELECT u.node, l.b FROM (SELECT unnest($1) AS node) AS u"
	" CROSS JOIN LATERAL (SELECT l.b FROM cdp.links l WHERE l.a = u.node OFFSET 0) AS l"
	" UNION ALL SELECT u.node, l.a FROM (SELECT unnest($1) AS node) AS u"
	" CROSS JOIN LATERAL (SELECT l.a FROM cdp.links l WHERE l.b = u.node OFFSET 0) AS l"
	" UNION ALL SELECT u.node, d.b FROM (SELECT unnest($1) AS node) AS u JOIN cdp.decisions d ON d.a = u.node"
	" AND d.b IS NOT NULL"
	" UNION ALL SELECT u.node, d.a FROM (SELECT unnest($1) AS node) AS u JOIN cdp.decisions d ON d.b = u.node",
	{"int8[]"}
};

/*
 * Only the pieces that can have the first or the last entry are unpacked: what
 * another one really has tells which.  (A piece may be of more time than what is
 * left in it.)
 */
static CdpStatement owned_times = {
	"SELECT u.owner, n.first, n.last FROM (SELECT unnest($1) AS owner) AS u"
	" CROSS JOIN LATERAL (SELECT min(o.at) AS first, max(o.at) AS last FROM ("
	"SELECT r.at FROM cdp.identities i CROSS JOIN LATERAL cdp.unpack_entries(i.recent) r"
	" WHERE i.node_id = u.owner"
	" UNION ALL"
	" SELECT r.at FROM cdp.entry_pieces p CROSS JOIN LATERAL cdp.unpack_entries(p.refs) r"
	" WHERE p.owner = u.owner AND (p.since <= (SELECT min(q.at)"
	" FROM (SELECT f.refs FROM cdp.entry_pieces f WHERE f.owner = u.owner"
	" ORDER BY f.until LIMIT 1) AS f CROSS JOIN LATERAL cdp.unpack_entries(f.refs) q)"
	" OR p.until >= (SELECT max(q.at)"
	" FROM (SELECT f.refs FROM cdp.entry_pieces f WHERE f.owner = u.owner"
	" ORDER BY f.until DESC LIMIT 1) AS f CROSS JOIN LATERAL cdp.unpack_entries(f.refs) q))"
	" UNION ALL"
	" SELECT w.at FROM cdp.withheld_entries w WHERE w.owner = u.owner) AS o) AS n",
	{"int8[]"}
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

/*
 * In order, each once; returns how many are left.
 */
static int
sort_unique(int64 *ids, int n)
{
	int			kept = 0;
	int			i;

	qsort(ids, n, sizeof(int64), CdpCompareInt8);
	for (i = 0; i < n; i++)
		if (kept == 0 || ids[kept - 1] != ids[i])
			ids[kept++] = ids[i];
	return kept;
}

/* ids are in order */
static bool
is_member(const int64 *ids, int n, int64 id)
{
	return bsearch(&id, ids, n, sizeof(int64), CdpCompareInt8) != NULL;
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
 * What the log has for a pair now: the evidence that counts, or none.
 */
static void
renew_link(CdpBatch *batch, CdpLink *link, EvidenceSet *set)
{
	CdpGraph   *graph = batch->graph;
	CdpLink		before = *link;
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
	link->gone = !any;
	/* evidence of this batch may count now that did not, or be all there is */
	CdpGraphPairKeep(graph, link->a->id, link->b->id, true, 0, NULL);
	/* who shares what is not decided link by link */
	if (CdpNodeRoot(link->a)->nshared > 0 || CdpNodeRoot(link->b)->nshared > 0)
	{
		link->changed = any;
		link->a->dirty = link->b->dirty = true;
		return;
	}
	if (any && before.entry == link->entry && before.ord == link->ord &&
		CdpOrderCompare(before.at, before.tie, link->at, link->tie) == 0 &&
		CdpGraphDetached(graph, link) == (link->reason != NULL &&
										  strcmp(link->reason, "detached") == 0))
		return;
	link->changed = any;
	if (link->status == 'a' &&
		(!any || CdpGraphDetached(graph, link) ||
		 CdpOrderCompare(link->at, link->tie, before.at, before.tie) > 0))
		CdpGraphLoosen(graph, link);
	if (any)
		CdpGraphAgain(graph, link);
	else if (link->reason != NULL && strcmp(link->reason, "bridge") == 0)
		CdpGraphDirty(link->a, link->b);
}

/*
 * Is the node of a kind that links, and does not link itself?
 */
static bool
is_label(CdpGraph *graph, CdpNode *node)
{
	if (node->label == 0)
	{
		CdpIdentifier *canonical;
		CdpKind    *kind;
		CdpCanonicalStatus status = CdpCanonicalise(graph->kinds, node->identifier,
													&canonical, &kind);

		node->label = status == CDP_CANONICAL_OK ? CDP_NO : CDP_YES;
	}
	return node->label == CDP_YES;
}

/*
 * Is the one stronger than the other in every entry that names both, which the
 * other can therefore not own?  While history is read anew kinds may have been
 * others.
 */
static bool
is_stronger(CdpBatch *batch, CdpNode *node, const CdpNode *other)
{
	return batch->graph->reading == NULL &&
		node->kind->registered && node->kind->links &&
		other->kind->registered && other->kind->links &&
		node->kind->priority < other->kind->priority &&
		!is_label(batch->graph, node);
}

/*
 * Who may own entries that name one of these nodes, which are in order, besides
 * themselves.
 */
static void
add_owners_around(CdpBatch *batch, const int64 *nodes, int n, CdpSources *sources)
{
	Datum		arg = CdpInt8Array(nodes, n);
	CdpNode    *node = NULL;
	uint64		r;

	CdpRun(&neighbours, &arg, NULL);
	for (r = 0; r < SPI_processed; r++)
	{
		int64		id = CdpCellInt8(r, 1);
		CdpNode    *other = CdpGraphNode(batch->graph, CdpCellInt8(r, 2));

		/* one may have a million neighbours */
		if (node == NULL || node->id != id)
			node = CdpGraphNode(batch->graph, id);
		if (other == NULL || !is_stronger(batch, node, other))
			CdpSourceAddFor(batch, sources, CdpCellInt8(r, 2), node);
	}
	SPI_freetuptable(SPI_tuptable);
}

/*
 * Nodes whose entries all go at once (a person is erased): they own nothing, and
 * what their entries said of others is found out anew.  Returns the nodes that
 * are named with these and their neighbours, all of them brought in.
 */
static int64 *
add_emptied(CdpBatch *batch, int64 *named, int *n)
{
	Datum		arg = CdpInt8Array(batch->emptied, batch->nemptied);
	int64	   *result;
	uint64		r;

	CdpRun(&neighbours, &arg, NULL);
	result = palloc_extended(sizeof(int64) * ((Size) *n + batch->nemptied + SPI_processed),
							 MCXT_ALLOC_HUGE);
	memcpy(result, named, sizeof(int64) * *n);
	memcpy(result + *n, batch->emptied, sizeof(int64) * batch->nemptied);
	*n += batch->nemptied;
	for (r = 0; r < SPI_processed; r++)
		result[(*n)++] = CdpCellInt8(r, 2);
	SPI_freetuptable(SPI_tuptable);
	*n = sort_unique(result, *n);
	CdpGraphAddNodes(batch->graph, result, *n);
	return result;
}

/*
 * Those that own nothing are no sources.
 */
static void
drop_emptied(CdpBatch *batch, CdpSources *sources)
{
	int64		kept = 0;

	for (int64 i = 0; i < sources->n; i++)
		if (!is_member(batch->emptied, batch->nemptied, sources->list[i].owner))
			sources->list[kept++] = sources->list[i];
	sources->n = kept;
}

/*
 * Without those that own nothing; returns how many are left.
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
 * Merges by hand at these nodes, which are in order, count or do not, as a replay
 * will say.
 */
static void
replay_merges(CdpGraph *graph, const int64 *nodes, int n)
{
	CdpLink   **links;
	int			nlinks;
	int			i;

	links = CdpGraphLinks(graph, &nlinks);
	for (i = 0; i < nlinks; i++)
		if (links[i]->manual && (is_member(nodes, n, links[i]->a->id) ||
								 is_member(nodes, n, links[i]->b->id)))
			CdpGraphDirty(links[i]->a, links[i]->b);
	pfree(links);
}

/*
 * Merges by hand that are withdrawn now: what was loaded of them is void, though
 * their rows are still there.
 */
static void
void_merges(CdpGraph *graph)
{
	CdpLink   **links;
	int			nlinks;
	ListCell   *lc;
	int			i;

	links = CdpGraphLinks(graph, &nlinks);
	for (i = 0; i < nlinks; i++)
		foreach(lc, graph->withdrawn)
			if (links[i]->manual && links[i]->entry == *(int64 *) lfirst(lc))
				links[i]->gone = true;
	pfree(links);
}

static void
load_evidence(CdpGraph *graph, const int64 *ids, int n)
{
	CdpNode   **nodes = palloc(sizeof(CdpNode *) * Max(n, 1));

	for (int i = 0; i < n; i++)
	{
		nodes[i] = CdpGraphNode(graph, ids[i]);
		if (nodes[i] == NULL)
			elog(ERROR, "node %lld is not in the graph", (long long) ids[i]);
	}
	CdpGraphLoadEvidence(graph, nodes, n);
	pfree(nodes);
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

	load_evidence(graph, batch->emptied, batch->nemptied);
	nlinks = CdpGraphLinksOf(graph, batch->emptied, batch->nemptied, &links);
	for (i = 0; i < nlinks; i++)
		renew_link(batch, links[i], set);
	replay_merges(graph, batch->emptied, batch->nemptied);
	void_merges(graph);
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
	CdpSources	sources = {0};
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
	load_evidence(graph, nodes, n);
	for (i = 0; i < n; i++)
		CdpSourceAdd(&sources, nodes[i], DT_NOBEGIN, DT_NOEND, true);
	add_owners_around(batch, nodes, n, &sources);
	entries = CdpSourcesLoad(batch, &sources, nodes, n, &nentries);
	CdpGraphLoadDetached(graph);
	nlinks = CdpGraphLinksOf(graph, nodes, n, &links);
	collect_evidence(entries, nentries, &set);
	for (i = 0; i < nlinks; i++)
		renew_link(batch, links[i], &set);

	replay_merges(graph, nodes, n);
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

	if (nowners == 0)
		return;
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
 * The entry does not count any more, and did: can the states of its owner be had
 * without folding all of its entries anew?
 */
static bool
unfold(CdpBatch *batch, CdpEntry *entry, CdpContributions *contributions)
{
	CdpNode    *node = CdpGraphNode(batch->graph, entry->owner);

	if (batch->rereading || batch->replaying || batch->erasing || batch->graph->reading != NULL ||
		batch->nemptied > 0 || CdpEntryUnknown(entry) || entry->type == CDP_ENTRY_IDENTIFY ||
		entry->naccounts > 0)
		return false;
	if (node->acc == NULL)
		node->acc = CdpNodeOpen(batch->traits, node->state);
	if (!CdpNodeUnfold(node->acc, entry, contributions, batch->applier.clock))
		return false;
	node->folded = true;
	node->row_changed = true;
	CdpGraphUncombine(CdpNodeRoot(node));
	return true;
}

/*
 * Those of the nodes, which are in order, whose first or last time may be that
 * of one of the entries, or of entries that somebody owned who is emptied.
 */
static int
find_unseen(CdpBatch *batch, CdpEntry *old, int nold, const int64 *named, int nnamed, int64 *unseen)
{
	bool	   *is = palloc0(sizeof(bool) * nnamed);
	int			n = 0;
	int			i,
				j;

	for (i = 0; i < nold; i++)
	{
		for (j = 0; j < old[i].nnodes; j++)
		{
			CdpNode    *node = CdpGraphNode(batch->graph, old[i].nodes[j]);
			const int64 *found;

			if (old[i].at > node->first_seen && old[i].at < node->last_seen)
				continue;
			found = bsearch(&node->id, named, nnamed, sizeof(int64), CdpCompareInt8);
			is[found - named] = true;
		}
	}
	for (i = 0; i < nnamed; i++)
	{
		CdpNode    *node = CdpGraphNode(batch->graph, named[i]);

		node->row_changed = true;
		if (is[i] || batch->nemptied > 0)
			unseen[n++] = named[i];
	}
	pfree(is);
	return n;
}

/*
 * When were these nodes seen by entries that they own?
 */
static void
see_owned(CdpBatch *batch, const int64 *nodes, int n)
{
	int64	   *owners = palloc(sizeof(int64) * n);
	Datum		arg;
	uint64		r;

	memcpy(owners, nodes, sizeof(int64) * n);
	arg = CdpInt8Array(owners, without_emptied(batch, owners, n));
	CdpRun(&owned_times, &arg, NULL);
	for (r = 0; r < SPI_processed; r++)
	{
		CdpNode    *node = CdpGraphNode(batch->graph, CdpCellInt8(r, 1));
		bool		isnull;
		Datum		first = CdpCell(r, 2, &isnull);

		if (isnull)
			continue;
		CdpNodeSeen(node, DatumGetTimestampTz(first));
		CdpNodeSeen(node, CdpCellInt8(r, 3));
	}
	SPI_freetuptable(SPI_tuptable);
}

/*
 * The links of these entries that rest on one of them, as the first or perhaps
 * as the last evidence; numbers are in order.
 */
static int
resting_links(CdpBatch *batch, CdpEntry *old, int n, const int64 *ids, int nids,
			  CdpLink ***result)
{
	CdpGraph   *graph = batch->graph;
	CdpLink   **links;
	CdpLink   **missing;
	int			max = 0;
	int			nlinks = 0;
	int			nmissing = 0;
	int			kept = 0;
	int			i,
				j;

	for (i = 0; i < n; i++)
		max += old[i].nnodes;
	links = palloc(sizeof(CdpLink *) * Max(max, 1));
	missing = palloc(sizeof(CdpLink *) * Max(max, 1));
	for (i = 0; i < n; i++)
	{
		if (CDP_ENTRY_DECIDES(old[i].type))
			continue;
		for (j = 1; j < old[i].nnodes; j++)
		{
			bool		found;
			CdpLink    *link = CdpGraphLink(graph, CdpGraphNode(graph, old[i].nodes[0]),
											CdpGraphNode(graph, old[i].nodes[j]),
											false, &found);

			if (found)
				continue;
			links[nlinks++] = link;
			missing[nmissing++] = link;
		}
	}
	CdpGraphLoadLinks(graph, missing, nmissing);
	for (i = 0; i < nlinks; i++)
	{
		if (links[i]->on_disk &&
			(is_member(ids, nids, links[i]->entry) || links[i]->last_tie != NULL))
			links[kept++] = links[i];
		/* it has no row, or is none of ours */
		else if (!links[i]->on_disk)
			links[i]->gone = true;
	}
	pfree(missing);
	*result = links;
	return kept;
}

/*
 * Take back the given entries (list of CdpEntry *, as read from the log).
 */
void
CdpWithdraw(CdpBatch *batch, List *withdrawn)
{
	int			n = list_length(withdrawn);
	CdpEntry   *old = palloc(sizeof(CdpEntry) * n);
	CdpContributions *contributions;
	CdpContributions *of_accounts;
	int64	   *owners = palloc(sizeof(int64) * n);
	int64	   *credited = palloc(sizeof(int64) * n);
	int64	   *ids = palloc(sizeof(int64) * n);
	int64	   *named;
	int64	   *unseen;
	int64	   *sought;
	CdpSources	sources = {0};
	int			nnamed = 0;
	int			nunseen;
	int			nsought;
	int			nowners = 0;
	int			ncredited = 0;
	int			nids = 0;
	int			max = 0;
	CdpEntry   *entries;
	int			nentries;
	CdpLink   **links;
	int			nlinks;
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

	/*
	 * What added nothing to its owner's states takes nothing from them.  What
	 * an entry said that cannot be read any more may have added to any.
	 */
	contributions = palloc0(sizeof(CdpContributions) * n);
	CdpTraitsEvaluate(batch->traits, NULL, old, n, contributions);
	of_accounts = palloc0(sizeof(CdpContributions) * n);
	CdpTraitsEvaluate(CdpAccountTraitSetGet(batch->applier.generation), NULL, old, n,
					  of_accounts);
	CdpEntriesForget(batch, old, n);
	for (i = 0; i < n; i++)
	{
		int64	   *id = palloc(sizeof(int64));

		*id = old[i].id;
		if (old[i].undone)
		{
			batch->graph->undone = lappend(batch->graph->undone, id);
			batch->undone = lappend(batch->undone, &old[i]);
		}
		else
			batch->graph->withdrawn = lappend(batch->graph->withdrawn, id);
		CdpAccountsNote(batch, &old[i], true);
		max += old[i].nnodes;
		if (old[i].owner == 0)
			continue;
		ids[nids++] = old[i].id;
		if ((contributions[i].n > 0 || CdpEntryUnknown(&old[i]) || old[i].type == CDP_ENTRY_IDENTIFY ||
			 old[i].naccounts > 0) && !(old[i].counted && unfold(batch, &old[i], &contributions[i])))
			owners[nowners++] = old[i].owner;
		/* but perhaps to those of accounts, whose traits are others */
		else if (of_accounts[i].n > 0)
			credited[ncredited++] = old[i].owner;
	}
	pfree(contributions);
	pfree(of_accounts);
	CdpWithheldWithdraw(batch, old, n);

	named = palloc(sizeof(int64) * Max(max, 1));
	for (i = 0; i < n; i++)
		for (j = 0; j < old[i].nnodes; j++)
			named[nnamed++] = old[i].nodes[j];
	if (batch->nemptied > 0)
		named = add_emptied(batch, named, &nnamed);
	nnamed = sort_unique(named, nnamed);
	if (nnamed == 0)
		return;
	nowners = CdpRefoldsDefer(batch, owners, sort_unique(owners, nowners));
	ncredited = CdpRefoldsDefer(batch, credited, sort_unique(credited, ncredited));
	for (i = 0; i < ncredited; i++)
		batch->refolded = lappend(batch->refolded, &CdpGraphNode(batch->graph, credited[i])->id);
	nids = sort_unique(ids, nids);
	nlinks = resting_links(batch, old, n, ids, nids, &links);
	unseen = palloc(sizeof(int64) * nnamed);
	nunseen = find_unseen(batch, old, n, named, nnamed, unseen);

	/* whose entries tell all that has to be known, and of whom */
	sought = palloc_extended(sizeof(int64) * ((Size) nunseen + 2 * nlinks + 1), MCXT_ALLOC_HUGE);
	nsought = nunseen;
	memcpy(sought, unseen, sizeof(int64) * nunseen);
	add_owners_around(batch, unseen, nunseen, &sources);
	for (i = 0; i < nowners; i++)
		CdpSourceAdd(&sources, owners[i], DT_NOBEGIN, DT_NOEND, true);
	for (i = 0; i < nlinks; i++)
	{
		CdpNode    *a = links[i]->a;
		CdpNode    *b = links[i]->b;

		sought[nsought++] = a->id;
		sought[nsought++] = b->id;
		if (!is_stronger(batch, b, a))
			CdpSourceAddFor(batch, &sources, a->id, b);
		if (!is_stronger(batch, a, b))
			CdpSourceAddFor(batch, &sources, b->id, a);
	}
	nsought = sort_unique(sought, nsought);
	drop_emptied(batch, &sources);
	entries = CdpSourcesLoad(batch, &sources, sought, nsought, &nentries);
	CdpGraphLoadDetached(batch->graph);

	/* times */
	for (i = 0; i < nunseen; i++)
	{
		CdpNode    *node = CdpGraphNode(batch->graph, unseen[i]);

		node->first_seen = DT_NOEND;
		node->last_seen = DT_NOBEGIN;
	}
	if (nunseen > 0)
		see_owned(batch, unseen, nunseen);
	for (i = 0; i < nentries; i++)
		for (j = 0; j < entries[i].nnodes; j++)
			if (is_member(unseen, nunseen, entries[i].nodes[j]))
				CdpNodeSeen(CdpGraphNode(batch->graph, entries[i].nodes[j]),
							entries[i].at);

	for (i = 0; i < nunseen; i++)
	{
		CdpNode    *node = CdpGraphNode(batch->graph, unseen[i]);

		/* a node that goes takes no part in its component */
		if (node->first_seen == DT_NOEND && !CdpGraphIsLarge(batch->graph, node))
			node->dirty = true;
	}

	/* evidence, states */
	collect_evidence(entries, nentries, &set);
	for (i = 0; i < nlinks; i++)
		renew_link(batch, links[i], &set);
	CdpRefold(batch, owners, nowners, entries, nentries);
	if (batch->nemptied > 0)
		empty_nodes(batch, &set);
}
