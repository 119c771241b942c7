/*-------------------------------------------------------------------------
 *
 * replay.c
 *	  The replay of clusters, which defines who belongs together.
 *
 *	  A cluster is what is connected by evidence of any status: links that
 *	  were refused belong to it, because taking something away can admit them.
 *	  The replay forgets all components of a cluster and judges its evidence
 *	  again, under the rules and the cannot-links that are effective now:
 *
 *	  1. links between identifiers that nobody shares, and everything that was
 *		 merged by hand, in the order of time
 *	  2. links of identifiers that are anonymous when they are shared (a kiosk):
 *		 all of an identifier's links are refused when those whom it would
 *		 join cannot be one by the limits of kinds; else in the order of time
 *	  3. links of identifiers that the newest user has (a family's tablet): by
 *		 their latest evidence, the latest first
 *	  4. links between two shared identifiers, in the order of time
 *
 *	  A link that would join two large components by itself is held.  Another
 *	  one between the same two is evidence of its own, and joins them.
 *
 * IDENTIFICATION
 *	  src/identity/replay.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "cdp.h"
#include "identity/graph.h"
#include "statement.h"

#define PHASES	4

/*
 * An anonymous identifier is contested when a link to one that is not shared
 * was refused to it because of that.
 */
static CdpStatement load_contested = {
	"SELECT u.node FROM (SELECT unnest($1) AS node) AS u"
	" WHERE EXISTS (SELECT FROM cdp.links l JOIN cdp.identities i ON i.node_id = l.b"
	" WHERE l.a = u.node AND l.reason = 'shared' AND cdp.kind(i.identifier) <> ALL ($2))"
	" OR EXISTS (SELECT FROM cdp.links l JOIN cdp.identities i ON i.node_id = l.a"
	" WHERE l.b = u.node AND l.reason = 'shared' AND cdp.kind(i.identifier) <> ALL ($2))",
	{"int8[]", "text[]"}
};

/* When more links are held, a replay is no worse than looking at them. */
#define MAX_HELD	1000

static CdpStatement load_held = {
	"SELECT l.a, l.b FROM cdp.links l WHERE l.reason = 'bridge' LIMIT $1",
	{"int8"}
};

/* A link to be sorted: most differ in their time, which spares a look at them. */
typedef struct TimedLink
{
	TimestampTz at;
	CdpLink    *link;
} TimedLink;

typedef struct Replay
{
	CdpGraph   *graph;
	CdpLink   **held;
	int			nheld;
	int			maxheld;
	bool		in_time;		/* links come in the order of time */
} Replay;

/*
 * Close the set of dirty nodes under evidence.  Nodes that join get mark ==
 * graph->mark; in the end all evidence of all marked nodes is in memory.
 */
static void
close_clusters(CdpGraph *graph)
{
	CdpOpenLinks open = {0};
	CdpNode   **frontier;
	int			n;
	int			i;

	graph->mark++;
	graph->replayed = true;
	for (;;)
	{
		CdpGraphSpreadDirty(graph, &open);
		CdpGraphActivateDirty(graph, false);
		frontier = palloc_extended(sizeof(CdpNode *) * (Size) Max(graph->nactive, 1),
								   MCXT_ALLOC_HUGE);
		n = 0;
		for (i = 0; i < graph->nactive; i++)
		{
			CdpNode    *node = graph->active[i];

			if (node->mark != graph->mark && CdpNodeRoot(node)->dirty)
			{
				node->mark = graph->mark;
				frontier[n++] = node;
			}
		}
		if (n == 0)
			break;
		CdpGraphLoadEvidence(graph, frontier, n);
		pfree(frontier);
		CHECK_FOR_INTERRUPTS();
	}
}

static bool
same_text(const char *a, const char *b)
{
	return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static void
set_verdict(CdpLink *link, CdpVerdict verdict, const char *detail)
{
	link->reason = CdpVerdictReason(verdict);
	link->detail = detail;
	link->status = link->reason == NULL ? 'a'
		: verdict == CDP_JOIN_CANNOT || verdict == CDP_JOIN_DETACHED ? 'o' : 'r';
	if (link->status != link->was_status ||
		!same_text(link->reason, link->was_reason) ||
		!same_text(link->detail, link->was_detail))
		link->changed = true;
}

static bool
connects(CdpNode *a, CdpNode *b, CdpNode *x, CdpNode *y)
{
	a = CdpNodeRoot(a);
	b = CdpNodeRoot(b);
	return (a == x && b == y) || (a == y && b == x);
}

/*
 * Is another link held that connects the same components?
 */
static bool
has_company(Replay *replay, CdpLink *link)
{
	CdpNode    *x = CdpNodeRoot(link->a);
	CdpNode    *y = CdpNodeRoot(link->b);
	int			i;

	for (i = 0; i < replay->nheld; i++)
		if (connects(replay->held[i]->a, replay->held[i]->b, x, y))
			return true;
	return false;
}

/*
 * Judge a link that the bridge guard stops and that is later than everything
 * on both sides, without a replay: it is held, or the two are joined and what
 * was held between them is accepted.  False: that takes a replay.
 */
bool
CdpGraphHold(CdpGraph *graph, CdpLink *link)
{
	CdpNode    *x = CdpNodeRoot(link->a);
	CdpNode    *y = CdpNodeRoot(link->b);
	Datum		arg = Int64GetDatum(MAX_HELD + 1);
	List	   *held = NIL;
	CdpLink   **missing;
	int			nmissing = 0;
	ListCell   *lc;
	uint64		i;

	if (graph->sealed)
		return false;
	CdpRun(&load_held, &arg, NULL);
	if (SPI_processed > MAX_HELD)
	{
		SPI_freetuptable(SPI_tuptable);
		return false;
	}
	missing = palloc(sizeof(CdpLink *) * (SPI_processed + 1));
	for (i = 0; i < SPI_processed; i++)
	{
		/* all of both components is in memory */
		CdpNode    *a = CdpGraphNode(graph, CdpCellInt8(i, 1));
		CdpNode    *b = CdpGraphNode(graph, CdpCellInt8(i, 2));
		CdpLink    *other;
		bool		found;

		if (a == NULL || b == NULL || !connects(a, b, x, y))
			continue;
		other = CdpGraphLink(graph, a, b, false, &found);
		if (!found)
			missing[nmissing++] = other;
		held = lappend(held, other);
	}
	SPI_freetuptable(SPI_tuptable);
	CdpGraphLoadLinks(graph, missing, nmissing);
	pfree(missing);
	foreach(lc, graph->held)
	{
		CdpLink    *other = lfirst(lc);

		if (connects(other->a, other->b, x, y))
			held = lappend(held, other);
	}
	if (held == NIL)
	{
		set_verdict(link, CDP_JOIN_BRIDGE, NULL);
		x->refusals |= CDP_REFUSAL(CDP_JOIN_BRIDGE);
		y->refusals |= CDP_REFUSAL(CDP_JOIN_BRIDGE);
		graph->held = lappend(graph->held, link);
		return true;
	}
	held = lappend(held, link);
	foreach(lc, held)
		set_verdict(lfirst(lc), CDP_JOIN_SAME, NULL);
	CdpGraphJoin(graph, link->a, link->b, true, link->at);
	return true;
}

static void
judge(Replay *replay, CdpLink *link)
{
	const char *detail;
	CdpVerdict	verdict = CdpGraphJudge(replay->graph, link->a, link->b,
										link->manual, &detail);

	if (verdict == CDP_JOIN_BRIDGE)
	{
		if (has_company(replay, link))
			verdict = CDP_JOIN_OK;
		else
		{
			if (replay->nheld == replay->maxheld)
			{
				replay->maxheld = Max(16, replay->maxheld * 2);
				replay->held = replay->held == NULL
					? palloc(sizeof(CdpLink *) * replay->maxheld)
					: repalloc(replay->held, sizeof(CdpLink *) * replay->maxheld);
			}
			replay->held[replay->nheld++] = link;
		}
	}
	if (verdict == CDP_JOIN_OK)
		CdpGraphJoin(replay->graph, link->a, link->b, !link->manual,
					 replay->in_time ? link->at : DT_NOBEGIN);
	set_verdict(link, verdict, detail);
}

static int
phase_of(CdpLink *link)
{
	CdpShared	a = CdpNodeShared(link->a);
	CdpShared	b = CdpNodeShared(link->b);

	if (link->manual || (a == CDP_SHARED_FIRST && b == CDP_SHARED_FIRST))
		return 0;
	if (a != CDP_SHARED_FIRST && b != CDP_SHARED_FIRST)
		return 3;
	return a == CDP_SHARED_ANONYMOUS || b == CDP_SHARED_ANONYMOUS ? 1 : 2;
}

static int
timed_order(const void *x, const void *y)
{
	const TimedLink *a = x;
	const TimedLink *b = y;

	if (a->at != b->at)
		return a->at < b->at ? -1 : 1;
	return CdpLinkOrder(&a->link, &b->link);
}

/*
 * In the order of evidence.
 */
static void
sort_links(CdpLink **links, int n)
{
	TimedLink  *timed = palloc_extended(sizeof(TimedLink) * (Size) Max(n, 1), MCXT_ALLOC_HUGE);
	int			i;

	for (i = 0; i < n; i++)
	{
		timed[i].at = links[i]->at;
		timed[i].link = links[i];
	}
	qsort(timed, n, sizeof(TimedLink), timed_order);
	for (i = 0; i < n; i++)
		links[i] = timed[i].link;
	pfree(timed);
}

/*
 * By the latest evidence, the latest first.  While a kind is on its way to
 * "newest", links that have not been asked about have only their earliest.
 */
static int
newest_first(const void *a, const void *b)
{
	const CdpLink *x = *(CdpLink *const *) a;
	const CdpLink *y = *(CdpLink *const *) b;
	int			cmp;

	cmp = CdpOrderCompare(y->last_tie != NULL ? y->last_at : y->at,
						  y->last_tie != NULL ? y->last_tie : y->tie,
						  x->last_tie != NULL ? x->last_at : x->at,
						  x->last_tie != NULL ? x->last_tie : x->tie);

	return cmp != 0 ? cmp : CdpLinkOrder(a, b);
}

/* The end of a link of phase 2 that is shared. */
static CdpNode *
anonymous_end(CdpLink *link)
{
	return CdpNodeShared(link->a) == CDP_SHARED_ANONYMOUS ? link->a : link->b;
}

static CdpNode *
other_end(CdpLink *link)
{
	return CdpNodeShared(link->a) == CDP_SHARED_ANONYMOUS ? link->b : link->a;
}

static int
anonymous_order(const void *a, const void *b)
{
	int64		x = anonymous_end(*(CdpLink *const *) a)->id;
	int64		y = anonymous_end(*(CdpLink *const *) b)->id;

	return x < y ? -1 : x > y ? 1 : 0;
}

static int
pointer_order(const void *a, const void *b)
{
	uintptr_t	x = (uintptr_t) *(CdpNode *const *) a;
	uintptr_t	y = (uintptr_t) *(CdpNode *const *) b;

	return x < y ? -1 : x > y ? 1 : 0;
}

/*
 * Has somebody split the node from one of that component?
 */
static bool
split_from(CdpGraph *graph, CdpNode *node, CdpNode *root)
{
	CdpCannot  *cannot;
	ListCell   *lc;

	if (graph->cannot == NULL)
		return false;
	cannot = hash_search(graph->cannot, &node->id, HASH_FIND, NULL);
	if (cannot == NULL)
		return false;
	foreach(lc, cannot->others)
	{
		CdpNode    *other = CdpGraphNode(graph, *(int64 *) lfirst(lc));

		if (other != NULL && CdpNodeRoot(other) == root)
			return true;
	}
	return false;
}

/*
 * Can those whom the links of one identifier connect not be one by the limits
 * of kinds?
 */
static bool
is_contested(CdpGraph *graph, CdpNode *node, CdpLink **links, int n)
{
	CdpNode   **roots = palloc(sizeof(CdpNode *) * n);
	int			nroots = 0;
	bool		result = false;
	int			kept;
	int			i,
				slot;

	for (i = 0; i < n; i++)
	{
		CdpNode    *root = CdpNodeRoot(other_end(links[i]));

		if (!split_from(graph, node, root))
			roots[nroots++] = root;
	}
	qsort(roots, nroots, sizeof(CdpNode *), pointer_order);
	for (kept = 0, i = 1; i < nroots; i++)
		if (roots[i] != roots[kept])
			roots[++kept] = roots[i];
	nroots = Min(nroots, kept + 1);

	for (slot = 0; slot < graph->nlimited && !result; slot++)
	{
		CdpKind    *kind = graph->limiting[slot];
		int64		total = 0;
		int			having = 0;

		for (i = 0; i < nroots; i++)
		{
			total += roots[i]->counts[slot];
			having += roots[i]->counts[slot] > 0;
		}
		if (total > kind->max_per_profile && having > 1)
			result = kind->within == CDP_PERIOD_EVER ||
				CdpPeriodsBreakMany(graph, roots, nroots, slot);
	}
	pfree(roots);
	return result;
}

/*
 * Which ends of these links are contested, as far as that is not known?
 */
void
CdpGraphLoadContested(CdpGraph *graph, CdpLink **links, int n)
{
	int64	   *ids;
	Datum	   *kinds;
	int			nids = 0;
	int			nkinds = 0;
	int			i;
	uint64		r;
	Datum		args[2];

	if (graph->nshared == graph->nnewest)
		return;
	ids = palloc(sizeof(int64) * Max(2 * n, 1));
	for (i = 0; i < 2 * n; i++)
	{
		CdpNode    *node = i % 2 == 0 ? links[i / 2]->a : links[i / 2]->b;

		if (node->contested != CDP_MAYBE)
			continue;
		node->contested = CDP_NO;
		if (CdpNodeShared(node) == CDP_SHARED_ANONYMOUS)
			ids[nids++] = node->id;
	}
	if (nids > 0)
	{
		kinds = palloc(sizeof(Datum) * Max(CdpKindCount(graph->kinds), 1));
		for (i = 0; i < CdpKindCount(graph->kinds); i++)
		{
			CdpKind    *kind = CdpKindByIndex(graph->kinds, i);

			if (kind->shared != CDP_SHARED_FIRST)
				kinds[nkinds++] = CStringGetTextDatum(kind->name);
		}
		args[0] = CdpInt8Array(ids, nids);
		args[1] = CdpVarlenaArray(kinds, NULL, nkinds, TEXTOID);
		CdpRun(&load_contested, args, NULL);
		for (r = 0; r < SPI_processed; r++)
			CdpGraphNode(graph, CdpCellInt8(r, 1))->contested = CDP_YES;
		SPI_freetuptable(SPI_tuptable);
		pfree(kinds);
	}
	pfree(ids);
}

/*
 * Find the contested ones among the anonymous identifiers.
 */
static void
find_contested(CdpGraph *graph, CdpLink **links, int n)
{
	int			i,
				j;

	qsort(links, n, sizeof(CdpLink *), anonymous_order);
	for (i = 0; i < n; i = j)
	{
		CdpNode    *node = anonymous_end(links[i]);

		for (j = i + 1; j < n && anonymous_end(links[j]) == node; j++)
			;
		node->contested = is_contested(graph, node, links + i, j - i) ? CDP_YES : CDP_NO;
	}
}

/*
 * Judge the links of the marked nodes, which are single.
 */
static void
judge_all(CdpGraph *graph, CdpLink **links, int n)
{
	Replay		replay = {graph};
	CdpLink   **phases[PHASES];
	int			counts[PHASES] = {0};
	int			phase;
	int			i;

	if (graph->nshared == 0)
	{
		phases[0] = links;
		counts[0] = n;
	}
	else
	{
		for (phase = 0; phase < PHASES; phase++)
			phases[phase] = palloc(sizeof(CdpLink *) * Max(n, 1));
		for (i = 0; i < n; i++)
		{
			phase = phase_of(links[i]);
			phases[phase][counts[phase]++] = links[i];
		}
	}
	for (phase = 0; phase < PHASES; phase++)
	{
		replay.in_time = phase == 0;
		if (phase == 1)
			find_contested(graph, phases[phase], counts[phase]);
		if (phase == 2)
			qsort(phases[phase], counts[phase], sizeof(CdpLink *), newest_first);
		else
			sort_links(phases[phase], counts[phase]);
		for (i = 0; i < counts[phase]; i++)
		{
			CdpLink    *link = phases[phase][i];

			if (i % 1024 == 0)
				CHECK_FOR_INTERRUPTS();
			if ((phase == 1 || phase == 3) &&
				(link->a->contested == CDP_YES || link->b->contested == CDP_YES))
				set_verdict(link, CDP_JOIN_SHARED, NULL);
			else
				judge(&replay, link);
		}
		if (graph->nshared == 0)
			break;
	}

	/* what was held and is not needed any more */
	for (i = 0; i < replay.nheld; i++)
	{
		CdpLink    *link = replay.held[i];

		if (CdpNodeRoot(link->a) == CdpNodeRoot(link->b))
			set_verdict(link, CDP_JOIN_SAME, NULL);
	}
	for (i = 0; i < n; i++)
	{
		uint16		refusal;

		if (links[i]->reason == NULL)
			continue;
		refusal = CdpRefusalOf(links[i]->reason);
		CdpNodeRoot(links[i]->a)->refusals |= refusal;
		CdpNodeRoot(links[i]->b)->refusals |= refusal;
	}
}

/*
 * Replay the evidence of all clusters that contain a dirty node.
 */
void
CdpGraphReplayDirty(CdpGraph *graph)
{
	CdpLink   **links;
	int			nlinks;
	int			kept;
	bool		any = false;
	int			i;

	for (i = 0; i < graph->nactive; i++)
	{
		if (graph->active[i]->dirty)
		{
			any = true;
			CdpNodeRoot(graph->active[i])->dirty = true;
		}
	}
	if (!any)
		return;

	close_clusters(graph);

	/* nodes that came in with the closure bring their decisions */
	CdpGraphLoadCannot(graph);
	CdpGraphLoadDetached(graph);

	for (i = 0; i < graph->nactive; i++)
	{
		if (graph->active[i]->mark == graph->mark)
		{
			graph->active[i]->counted_seen = graph->active[i]->first_seen;
			CdpGraphSingle(graph, graph->active[i]);
			graph->active[i]->contested = CDP_NO;
		}
	}
	links = CdpGraphLinksOfMarked(graph, &nlinks);
	for (i = 0, kept = 0; i < nlinks; i++)
	{
		/* what a detach took away has no part in it */
		if (CdpGraphDetached(graph, links[i]))
			set_verdict(links[i], CDP_JOIN_DETACHED, NULL);
		else
			links[kept++] = links[i];
	}
	ereport(DEBUG1,
			(errmsg_internal("judging %d links again", kept)));
	if (kept > 0)
		judge_all(graph, links, kept);
}
