/*-------------------------------------------------------------------------
 *
 * graph.c
 *	  The part of the identity graph that a batch touches: identifiers of
 *	  entries become nodes, evidence becomes links, links make components.
 *
 *	  A profile is a component of accepted evidence; its id is the smallest
 *	  node number in it.  The rules are applied to evidence in event-time
 *	  order, as Kruskal's algorithm does, so that the result does not depend
 *	  on arrival.  Two shortcuts spare the replay; both give what it would:
 *
 *	  - A union that keeps every rule is taken at once.  If the whole of both
 *		components together violates nothing, no subset of it does, so no link
 *		in it can have been refused at any time.
 *	  - A link that is later than anything on either side is judged at once:
 *		both sides looked then as they look now.
 *
 *	  A large component tells by its timeline (timeline.c) that one of these
 *	  is so when it cannot be seen otherwise.
 *
 *	  Everything else marks the components dirty, and replay.c replays all
 *	  evidence of their clusters.
 *
 * IDENTIFICATION
 *	  src/identity/graph.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "cdp.h"
#include "identity/graph.h"
#include "statement.h"

/* Components of so many nodes have a timeline, when that spares a replay. */
#ifndef TIMELINE_MIN			/* make torture has it smaller */
#define TIMELINE_MIN	256
#endif

/* An identifier's place in one entry. */
typedef struct CdpCandidate
{
	CdpRawIdentifier   *raw;
	int			position;
} Candidate;

/*
 * What does a raw identifier mean?  Kept with the nodes.
 */
static CdpRawIdentifier *
look_at(CdpGraph *graph, CdpKindSet *kinds, CdpIdentifier *raw)
{
	bool		found;
	CdpRawIdentifier *entry;

	if (kinds != graph->kinds)
	{
		entry = palloc0(sizeof(CdpRawIdentifier));
		entry->raw = raw;
		entry->transient = true;
		entry->status = CdpCanonicalise(kinds, raw, &entry->canonical, &entry->kind);
		return entry;
	}
	entry = hash_search(graph->raws, &raw, HASH_ENTER, &found);
	if (!found)
	{
		MemoryContext old = MemoryContextSwitchTo(graph->resident);
		Size		size = VARSIZE_ANY(raw);

		/* should copying fail, the batch fails and with it what is kept */
		entry->raw = memcpy(palloc(size), raw, size);
		entry->canonical = NULL;
		entry->kind = NULL;
		entry->node = NULL;
		entry->transient = false;
		entry->status = CdpCanonicalise(graph->kinds, entry->raw,
										&entry->canonical, &entry->kind);
		MemoryContextSwitchTo(old);
	}
	return entry;
}

/*
 * The node that a raw identifier is known to mean; NULL: it is not, or not any more.
 */
static CdpNode *
known_node(CdpRawIdentifier *raw)
{
	if (raw->node != NULL && raw->node->removed)
		raw->node = NULL;
	return raw->node;
}

static CdpNode *
node_of(CdpGraph *graph, CdpRawIdentifier *raw)
{
	if (known_node(raw) != NULL)
		return raw->node;
	if (raw->transient)
		raw->node = CdpGraphNodeOf(graph, raw->canonical,
								   CdpKindLookup(graph->kinds,
												 VARDATA_ANY(raw->canonical),
												 CdpIdentifierKindLength(raw->canonical)));
	else
		raw->node = CdpGraphNodeOf(graph, raw->canonical, raw->kind);
	return raw->node;
}

static bool
is_linking(CdpRawIdentifier *raw)
{
	return raw->status == CDP_CANONICAL_OK;
}

static int
candidate_order(const void *a, const void *b)
{
	const Candidate *x = a;
	const Candidate *y = b;

	if (is_linking(x->raw) != is_linking(y->raw))
		return is_linking(x->raw) ? -1 : 1;
	if (x->raw->kind->priority != y->raw->kind->priority)
		return x->raw->kind->priority < y->raw->kind->priority ? -1 : 1;
	return x->position < y->position ? -1 : 1;
}

static int
candidate_identity(const void *a, const void *b)
{
	const Candidate *x = a;
	const Candidate *y = b;
	CdpIdentifier *p = x->raw->canonical;
	CdpIdentifier *q = y->raw->canonical;
	int			lp = VARSIZE_ANY_EXHDR(p);
	int			lq = VARSIZE_ANY_EXHDR(q);
	int			cmp = memcmp(VARDATA_ANY(p), VARDATA_ANY(q), Min(lp, lq));

	if (cmp != 0)
		return cmp;
	if (lp != lq)
		return lp < lq ? -1 : 1;
	return x->position < y->position ? -1 : 1;
}

/*
 * Put candidates into their order, each canonical identifier once, at its
 * first place.
 */
static int
sort_candidates(Candidate *candidates, int n)
{
	int			kept = 0;
	int			i;

	if (n < 2)
		return n;
	qsort(candidates, n, sizeof(Candidate), candidate_identity);
	for (i = 1; i < n; i++)
		if (CdpVarlenaMatch(&candidates[kept].raw->canonical,
							&candidates[i].raw->canonical, 0) != 0)
			candidates[++kept] = candidates[i];
	n = kept + 1;
	qsort(candidates, n, sizeof(Candidate), candidate_order);
	return n;
}

/*
 * An account that the entry names; each once.
 */
static void
add_account(CdpEntry *entry, CdpIdentifier *account, int max)
{
	int			i;

	if (entry->accounts == NULL)
		entry->accounts = palloc(sizeof(CdpIdentifier *) * max);
	for (i = 0; i < entry->naccounts; i++)
		if (CdpVarlenaMatch(&entry->accounts[i], &account, 0) == 0)
			return;
	entry->accounts[entry->naccounts++] = account;
}

/*
 * The usable identifiers of an entry: those that link first, then by priority
 * of their kind, then by place; each canonical identifier once.  Sets
 * reject_reason when there is none.
 */
static int
candidates_of(CdpGraph *graph, CdpKindSet *kinds, CdpEntry *entry,
			  Candidate **result)
{
	Datum	   *elems;
	bool	   *nulls;
	int			nelems = 0;
	int			n = 0;
	Candidate  *candidates;
	int			i;

	*result = NULL;
	if (entry->identifiers != NULL)
		deconstruct_array(entry->identifiers,
						  ARR_ELEMTYPE(entry->identifiers), -1, false,
						  TYPALIGN_INT, &elems, &nulls, &nelems);
	candidates = palloc(sizeof(Candidate) * Max(nelems, 1));
	for (i = 0; i < nelems; i++)
	{
		Candidate	candidate;

		if (nulls[i])
			continue;
		candidate.raw = look_at(graph, kinds,
								(CdpIdentifier *) DatumGetPointer(elems[i]));
		candidate.position = i;
		if (candidate.raw->status == CDP_CANONICAL_ACCOUNT)
			add_account(entry, candidate.raw->canonical, nelems);
		if (!is_linking(candidate.raw) &&
			candidate.raw->status != CDP_CANONICAL_LABEL)
			continue;
		candidates[n++] = candidate;
	}
	n = sort_candidates(candidates, n);
	if (n == 0 && entry->naccounts == 0)
	{
		entry->reject_reason = "no usable identifier";
		entry->reject_detail = nelems == 0
			? "The entry names no identifier."
			: "All identifiers of the entry are blocked or cannot be normalised.";
		entry->reject_sqlstate = ERRCODE_INVALID_PARAMETER_VALUE;
	}
	*result = candidates;
	return n;
}

/*
 * A merge or split names two different identifiers of registered kinds, a
 * detach names one.
 */
static bool
check_decision(CdpEntry *entry)
{
	Candidate  *candidates = entry->candidates;

	if (entry->type == CDP_ENTRY_DETACH)
	{
		if (entry->ncandidates == 1 && candidates[0].raw->kind->registered)
			return true;
		entry->reject_reason = "not one identifier";
		entry->reject_detail =
			"A detach names exactly one usable identifier of a registered kind.";
		entry->reject_sqlstate = ERRCODE_INVALID_PARAMETER_VALUE;
		return false;
	}
	if (entry->ncandidates == 2 && ArrayGetNItems(ARR_NDIM(entry->identifiers),
								 ARR_DIMS(entry->identifiers)) == 2 &&
		candidates[0].raw->kind->registered &&
		candidates[1].raw->kind->registered)
		return true;
	entry->reject_reason = "not two identifiers";
	entry->reject_detail =
		"A merge or split names exactly two different, usable identifiers of registered kinds.";
	entry->reject_sqlstate = ERRCODE_INVALID_PARAMETER_VALUE;
	return false;
}

CdpGraphReadHookType CdpGraphReadHook = NULL;

void
CdpGraphCheckAs(CdpGraph *graph, CdpKindSet *kinds, CdpEntry *entry)
{
	int			j;

	entry->ncandidates = 0;
	entry->accounts_known = true;
	entry->naccounts = 0;
	entry->accounts = NULL;
	if (entry->reject_reason != NULL || CDP_ENTRY_NAMES_NOBODY(entry->type))
		return;
	entry->ncandidates = candidates_of(graph, kinds, entry, &entry->candidates);
	if (entry->reject_reason != NULL)
		return;
	if (CDP_ENTRY_DECIDES(entry->type))
	{
		check_decision(entry);
		return;
	}

	/* labels of an entry that has something better get no node */
	for (j = 1; j < entry->ncandidates; j++)
		if (!is_linking(entry->candidates[j].raw))
			entry->ncandidates = j;
	if (entry->by_plans && CdpGraphReadHook != NULL)
		CdpGraphReadHook(&graph->plans, kinds, entry);
}

void
CdpGraphReadProperties(CdpReadingType reading, void *arg, CdpEntry *entries, int n)
{
	struct CdpPlanSet *plans = NULL;

	for (int i = 0; CdpGraphReadHook != NULL && i < n; i++)
		CdpGraphReadHook(&plans, reading == NULL ? NULL : reading(arg, &entries[i]), &entries[i]);
}

void
CdpGraphCheck(CdpGraph *graph, CdpEntry *entries, int n)
{
	int			i;

	for (i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		CdpGraphCheckAs(graph,
						graph->reading == NULL ? graph->kinds :
						graph->reading(graph->reading_arg, &entries[i]),
						&entries[i]);
	}
}

bool
CdpGraphSameReading(const CdpEntry *a, const CdpEntry *b)
{
	int			i;

	if ((a->reject_reason == NULL) != (b->reject_reason == NULL))
		return false;
	if (a->reject_reason != NULL)
		return strcmp(a->reject_reason, b->reject_reason) == 0;
	if (a->ncandidates != b->ncandidates || a->naccounts != b->naccounts)
		return false;
	for (i = 0; i < a->naccounts; i++)
		if (CdpVarlenaMatch(&a->accounts[i], &b->accounts[i], 0) != 0)
			return false;
	for (i = 0; i < a->ncandidates; i++)
	{
		CdpRawIdentifier *x = a->candidates[i].raw;
		CdpRawIdentifier *y = b->candidates[i].raw;

		if (x->status != y->status ||
			CdpVarlenaMatch(&x->canonical, &y->canonical, 0) != 0)
			return false;
	}
	/* both are readings of one row, of which plans may leave something out */
	return a->properties == b->properties ||
		(VARSIZE(a->properties) == VARSIZE(b->properties) &&
		 memcmp(a->properties, b->properties, VARSIZE(a->properties)) == 0);
}

CdpIdentifier **
CdpGraphNamed(const CdpEntry *entry, int *n)
{
	CdpIdentifier **named;

	*n = 0;
	if (entry->ncandidates == 0)
		return NULL;
	named = palloc(sizeof(CdpIdentifier *) * entry->ncandidates);
	for (int i = 0; i < entry->ncandidates; i++)
		named[(*n)++] = entry->candidates[i].raw->canonical;
	return named;
}

CdpIdentifier *
CdpGraphCandidate(const CdpEntry *entry, int i)
{
	return entry->candidates[i].raw->canonical;
}

CdpIdentifier *
CdpGraphOwnerOf(const CdpEntry *entry)
{
	if (entry->reject_reason != NULL || entry->ncandidates == 0)
		return NULL;
	return entry->candidates[0].raw->canonical;
}

void
CdpGraphAdd(CdpGraph *graph, CdpEntry *entries, int n, bool seen)
{
	int			i,
				j;

	for (i = 0; i < n; i++)
	{
		if (entries[i].reject_reason != NULL)
			continue;
		for (j = 0; j < entries[i].ncandidates; j++)
		{
			CdpRawIdentifier *raw = entries[i].candidates[j].raw;

			if (known_node(raw) != NULL)
			{
				CdpGraphActivate(graph, raw->node);
				continue;
			}

			/* nodes stay longer than a transient reading */
			if (raw->transient)
			{
				Size		size = VARSIZE_ANY(raw->canonical);

				raw->canonical = memcpy(MemoryContextAlloc(graph->resident, size),
										raw->canonical, size);
			}
			CdpGraphWant(graph, raw->canonical);
		}
	}
	CdpGraphLoadWanted(graph);

	for (i = 0; i < n; i++)
	{
		CdpEntry   *entry = &entries[i];

		entry->owner = 0;
		entry->owner_node = NULL;
		entry->nnodes = 0;
		if (entry->reject_reason != NULL || entry->ncandidates == 0)
			continue;
		entry->nnodes = entry->ncandidates;
		entry->nodes = palloc(sizeof(int64) * entry->nnodes);
		for (j = 0; j < entry->nnodes; j++)
		{
			CdpNode    *node = node_of(graph, entry->candidates[j].raw);

			entry->nodes[j] = node->id;
			if (seen)
				CdpNodeSeen(node, entry->at);
			if (j == 0)
				entry->owner_node = node;
		}
		entry->owner = entry->nodes[0];
	}
}

/*
 * An entry that counts names the node.
 */
void
CdpNodeSeen(CdpNode *node, TimestampTz at)
{
	if (at < node->first_seen)
	{
		node->first_seen = at;
		node->row_changed = true;
	}
	if (at > node->last_seen)
	{
		node->last_seen = at;
		node->row_changed = true;
	}
}

/*
 * Was the link refused for what cannot be remedied by what comes?
 */
static bool
is_final(const CdpLink *link)
{
	return link->reason != NULL &&
		(CdpRefusalOf(link->reason) & (CDP_REFUSAL(CDP_JOIN_LIMIT) |
									   CDP_REFUSAL(CDP_JOIN_CANNOT) |
									   CDP_REFUSAL(CDP_JOIN_SIZE) |
									   CDP_REFUSAL(CDP_JOIN_RATE))) != 0;
}

/*
 * Collect the evidence that the entries give: for each pair the earliest.
 * Returns those links that are new, and those that were accepted and have
 * earlier evidence than what was known.
 */
static int
collect_links(CdpGraph *graph, CdpEntry *entries, int n, CdpLink ***result)
{
	CdpLink   **links;
	CdpLink    *seen;
	int			nlinks = 0;
	int			max = 0;
	int			i,
				j,
				kept;

	for (i = 0; i < n; i++)
		max += Max(entries[i].nnodes - 1, 0);
	links = palloc(sizeof(CdpLink *) * Max(max, 1));
	seen = palloc0(sizeof(CdpLink) * Max(max, 1));

	/* what this batch says, each pair once */
	for (i = 0; i < n; i++)
	{
		CdpEntry   *entry = &entries[i];

		if (entry->reject_reason != NULL ||
			CDP_ENTRY_DECIDES(entry->type))
			continue;
		for (j = 1; j < entry->nnodes; j++)
		{
			CdpNode    *hub = CdpGraphNode(graph, entry->nodes[0]);
			CdpNode    *other = CdpGraphNode(graph, entry->nodes[j]);
			bool		found;
			CdpLink    *link;
			TimestampTz known;

			/* most evidence repeats what is known */
			if (CdpGraphPairKnown(graph, hub->id, other->id, &known) &&
				known < entry->at && !hub->dirty && !other->dirty &&
				CdpNodeShared(hub) != CDP_SHARED_NEWEST &&
				CdpNodeShared(other) != CDP_SHARED_NEWEST)
				continue;
			link = CdpGraphLink(graph, hub, other, false, &found);
			CdpLinkSeen(link, entry->at, entry->tie);
			if (!found)
				links[nlinks++] = link;
			else if (!link->gone &&
					 !CdpGraphEvidenceCounts(graph, link, entry->at, entry->tie))
				continue;
			else if (!link->listed)
			{
				/* what is known has been looked at, and maybe withdrawn */
				link->gone = false;
				link->changed = true;
				CdpGraphAgain(graph, link);
			}
			link->listed = true;
			link->entry = entry->id;
			link->at = entry->at;
			link->tie = entry->tie;
			link->ord = j;
		}
	}

	/* what is known already; loading overwrites the links, so keep ours */
	for (i = 0; i < nlinks; i++)
		seen[i] = *links[i];
	CdpGraphLoadLinks(graph, links, nlinks);
	for (i = 0, kept = 0; i < nlinks; i++)
	{
		CdpLink    *link = links[i];

		if (link->on_disk && seen[i].last_tie != NULL)
		{
			CdpLinkSeen(link, seen[i].last_at, seen[i].last_tie);
			if (link->last_changed)
				CdpGraphLookAgain(graph, link->a, false);
		}
		if (!link->on_disk)
		{
			link->changed = true;
			links[kept++] = link;
		}
		else if (CdpGraphEvidenceCounts(graph, link, seen[i].at, seen[i].tie))
		{
			link->entry = seen[i].entry;
			link->at = seen[i].at;
			link->tie = seen[i].tie;
			link->ord = seen[i].ord;
			link->changed = true;

			/*
			 * The order of evidence has changed: is that harmless?  What was
			 * refused stays so, unless it was held.
			 */
			if (link->status == 'a' || is_final(link))
				links[kept++] = link;
			else
				CdpGraphDirty(link->a, link->b);
		}
	}
	pfree(seen);
	*result = links;
	return kept;
}

static void
accept(CdpLink *link)
{
	link->status = 'a';
	link->reason = NULL;
	link->detail = NULL;
}

/*
 * Judge one new link, or one that was accepted, or refused for what cannot be
 * remedied, and has earlier evidence now.  make_way: a few may leave a large
 * component for it.
 */
static void
judge_link(CdpGraph *graph, CdpLink *link, bool make_way)
{
	CdpNode    *x = CdpNodeRoot(link->a);
	CdpNode    *y = CdpNodeRoot(link->b);
	const char *detail;
	bool		shared;
	bool		last;
	bool		quiet;
	bool		harmless;
	bool		known = false;
	int			size;
	CdpVerdict	verdict;
	List	   *ties;
	ListCell   *lc;

	if (CdpGraphDetached(graph, link))
	{
		link->status = 'o';
		link->reason = "detached";
		link->detail = NULL;
		return;
	}

	/* a replay will decide */
	if (x->dirty || y->dirty)
	{
		CdpGraphDirty(link->a, link->b);
		return;
	}
	/* once contested, always: what comes can only add to it */
	if (link->a->contested == CDP_YES || link->b->contested == CDP_YES)
	{
		CdpLinkRefuse(link, CDP_JOIN_SHARED, NULL);
		return;
	}

	/*
	 * What is later than everything on both sides is judged last in a replay,
	 * so what it finds is what is here now.  But links of shared identifiers
	 * do not come in the order of time.
	 */
	shared = CdpNodeShared(link->a) != CDP_SHARED_FIRST ||
		CdpNodeShared(link->b) != CDP_SHARED_FIRST ||
		x->nshared > 0 || y->nshared > 0;
	last = !shared && link->at > Max(x->evidence_until, y->evidence_until);
	verdict = CdpGraphJudge(graph, x, y, false, &detail);
	harmless = (verdict == CDP_JOIN_SAME || verdict == CDP_JOIN_OK) &&
		(last || CdpGraphHarmless(graph, x, y, true));

	/* large components are asked how they came about, before all is replayed */
	quiet = last;
	size = x->size + (x != y ? y->size : 0);
	if (!last && !shared &&
		(size >= TIMELINE_MIN ? !harmless || CdpGraphReasonsVary(graph)
		 : !harmless && cdp_bridge_guard > 0 && size / 2 >= cdp_bridge_guard) &&
		CdpTimelineKnow(graph, x) && CdpTimelineKnow(graph, y))
	{
		if (x == y && CdpTimelineJoined(link->a, link->b, link->at))
		{
			/* it was one component before: nothing has come of this */
			accept(link);
			return;
		}
		known = true;
		quiet = link->at > Max(x->joined_until, y->joined_until);
	}
	switch (verdict)
	{
		case CDP_JOIN_SAME:
		case CDP_JOIN_OK:
			if (!harmless && !quiet &&
				!(known && x->timeline == CDP_YES && y->timeline == CDP_YES &&
				  CdpGraphHarmless(graph, x, y, false)))
			{
				CdpGraphDirty(link->a, link->b);
				return;
			}
			if ((!last || graph->nshared > 0) && CdpGraphReasonsVary(graph) &&
				!(known && CdpRefusalsKept(graph, x, y)))
				CdpGraphLookAgain(graph, link->a, false);
			accept(link);
			if (verdict == CDP_JOIN_OK)
				CdpGraphJoin(graph, link->a, link->b, true, link->at);
			else if (x->timeline != CDP_MAYBE)
				(void) CdpTimelineJoin(x, x, link->a, link->b, link->at);

			/* has the bridge guard something to say now? */
			if (!harmless && !quiet && CdpNodeRoot(link->a)->timeline != CDP_YES)
				CdpGraphDirty(link->a, link->b);
			return;

		case CDP_JOIN_LIMIT:
		case CDP_JOIN_CANNOT:
		case CDP_JOIN_SIZE:
		case CDP_JOIN_RATE:
			/* what was refused to small components may lead to a large one */
			if (!quiet && !known && !shared && CdpTimelineKnow(graph, x) &&
				CdpTimelineKnow(graph, y))
			{
				known = true;
				quiet = link->at > Max(x->joined_until, y->joined_until);
			}
			if (quiet)
				CdpLinkRefuse(link, verdict, detail);
			else if (!known || x->timeline != CDP_YES || y->timeline != CDP_YES)
				CdpGraphDirty(link->a, link->b);
			else if (verdict == CDP_JOIN_SIZE || verdict == CDP_JOIN_RATE)
			{
				if (verdict == CDP_JOIN_RATE || !CdpGraphTakePlace(graph, link))
					CdpGraphDirty(link->a, link->b);
			}
			else if (CdpTimelineRefused(graph, link, &verdict, &detail))
				CdpLinkRefuse(link, verdict, detail);
			else if (make_way && CdpGraphMakeWay(graph, link, &ties))
			{
				/* it was accepted then, and what came later has to see */
				judge_link(graph, link, false);
				foreach(lc, ties)
					judge_link(graph, lfirst(lc), false);
			}
			else
				CdpGraphDirty(link->a, link->b);
			return;

		case CDP_JOIN_BRIDGE:
			if (!last || !CdpGraphHold(graph, link))
				CdpGraphDirty(link->a, link->b);
			return;

		case CDP_JOIN_SHARED:
		case CDP_JOIN_DETACHED:
			CdpGraphDirty(link->a, link->b);
			return;
	}
}

/*
 * What is to be judged again: both kinds of evidence in one list.
 */
static int
add_again(CdpGraph *graph, CdpLink ***links, int n)
{
	CdpLink   **all = palloc_extended(sizeof(CdpLink *) * ((Size) n + list_length(graph->again) + 1),
									  MCXT_ALLOC_HUGE);
	ListCell   *lc;

	memcpy(all, *links, sizeof(CdpLink *) * n);
	pfree(*links);
	*links = all;
	foreach(lc, graph->again)
	{
		CdpLink    *link = lfirst(lc);

		if (link->gone)
			continue;
		/* what was held, or depends on who shares, takes a replay */
		if (link->on_disk && link->was_status != 'a' && link->was_reason != NULL &&
			CdpRefusalOf(link->was_reason) != 0 && !is_final(link))
			CdpGraphDirty(link->a, link->b);
		link->loose = false;
		all[n++] = link;
	}
	return n;
}

/*
 * Decide who belongs together.
 */
void
CdpGraphSettle(CdpGraph *graph, CdpEntry *entries, int n)
{
	CdpLink   **links;
	int			nlinks;
	int			i;

	/* nodes that no entry names any more (see apply/withdraw.c) */
	for (i = 0; i < graph->nactive; i++)
		graph->active[i]->is_gone = graph->active[i]->first_seen == DT_NOEND;

	CdpGraphLoadDetached(graph);
	CdpGraphLoadCannot(graph);
	CdpGraphSettleLoose(graph);
	nlinks = collect_links(graph, entries, n, &links);
	nlinks = add_again(graph, &links, nlinks);

	/* who is gone and still with others */
	for (i = 0; i < graph->nactive; i++)
		if (graph->active[i]->is_gone && CdpNodeRoot(graph->active[i])->size > 1)
			CdpGraphDirty(graph->active[i], graph->active[i]);

	CdpGraphLoadContested(graph, links, nlinks);
	CdpGraphRecount(graph);
	qsort(links, nlinks, sizeof(CdpLink *), CdpLinkOrder);
	for (i = 0; i < nlinks; i++)
		judge_link(graph, links[i], true);
	pfree(links);

	CdpGraphCheckSuspects(graph);
	CdpGraphReplayDirty(graph);

	/* the id of a profile is the smallest number in it */
	CdpGraphActivateMoved(graph);
	for (i = 0; i < graph->nactive; i++)
		graph->active[i]->profile = CdpNodeRoot(graph->active[i])->smallest;
}

/*
 * Write what the graph decided, but for the rows of cdp.identities: those
 * carry states as well and are written by who folded them.
 */
void
CdpGraphWrite(CdpGraph *graph)
{
	CdpGraphWriteLinks(graph);
}
