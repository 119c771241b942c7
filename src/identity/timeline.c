/*-------------------------------------------------------------------------
 *
 * timeline.c
 *	  When did the members of a component come together?
 *
 *	  In a large component a replay is dear, and mostly it shows that late
 *	  evidence changes nothing.  The timeline of a component tells that without
 *	  one.  It is a second forest over its members: a hop from a node to another
 *	  one says that at some time the component of the one was joined with that
 *	  of the other.  Who goes from a node along the hops that are earlier than an
 *	  instant comes to the node that stands for its component as it was then.
 *
 *	  A hop is made from the smaller component to the larger one, so ways are
 *	  short.  Evidence that comes late takes the place of the first hop on its
 *	  way that is later; what that one joined is joined on the way from there.
 *	  So hops may come in any order.
 *
 *	  A node knows how many nodes there are below it.  That is at least what its
 *	  side of its hop had when it was made, so while no hop has as many as the
 *	  bridge guard asks for, no link can have been held.
 *
 *	  Evidence at the very same time is told apart by what is not kept here:
 *	  then a hop counts as later than what is asked about, and as earlier where
 *	  sizes are concerned.
 *
 *	  A timeline is made from cdp.links when it is needed first, goes along with
 *	  the component from then on, and is made anew by a replay.  Components with
 *	  shared identifiers, which are not judged in the order of time, have none.
 *
 * IDENTIFICATION
 *	  src/identity/timeline.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "cdp.h"
#include "identity/graph.h"
#include "statement.h"

/* A longer way than that is not gone. */
#define MAX_HOPS	10000

static CdpStatement load_accepted = {
	"SELECT l.a, l.b, l.at, l.origin = 'manual' FROM (SELECT unnest($1) AS node) AS u"
	" CROSS JOIN LATERAL (SELECT * FROM cdp.links l"
	" WHERE l.a = u.node AND l.status = 'accepted' OFFSET 0) AS l ORDER BY l.at",
	{"int8[]"}
};

typedef struct AcceptedLink
{
	CdpNode    *a;
	CdpNode    *b;
	TimestampTz at;
	bool		manual;
} AcceptedLink;

typedef struct AcceptedLinks
{
	CdpGraph   *graph;
	CdpNode    *root;
	AcceptedLink *list;
	int64		n;
	int64		max;
	/* columns of cdp.links */
	AttrNumber	a;
	AttrNumber	b;
	AttrNumber	at;
	AttrNumber	origin;
	AttrNumber	status;
} AcceptedLinks;

/* When more links are refused than that, those of the members are looked for. */
#define MAX_REFUSED	1000

static CdpStatement load_all_refused = {
	"SELECT l.a, l.b, l.reason FROM cdp.links l WHERE l.reason IS NOT NULL LIMIT $1",
	{"int8"}
};

static CdpStatement load_refusals = {
	"SELECT DISTINCT l.reason FROM (SELECT unnest($1) AS node) AS u"
	" CROSS JOIN LATERAL (SELECT * FROM cdp.links l"
	" WHERE l.a = u.node AND l.status <> 'accepted' OFFSET 0) AS l"
	" UNION "
	"SELECT DISTINCT l.reason FROM (SELECT unnest($1) AS node) AS u"
	" CROSS JOIN LATERAL (SELECT * FROM cdp.links l"
	" WHERE l.b = u.node AND l.status <> 'accepted' OFFSET 0) AS l",
	{"int8[]"}
};

/*
 * The node that stands for the component as it was just before the instant.
 */
static inline CdpNode *
top_at(CdpNode *node, TimestampTz at)
{
	while (node->up != NULL && node->up_at < at)
		node = node->up;
	return node;
}

/*
 * Is x on y's way?
 */
static bool
is_above(CdpNode *x, CdpNode *y)
{
	while (y != NULL && y != x)
		y = y->up;
	return y != NULL;
}

static bool
way_is_long(CdpNode *node)
{
	int			n = 0;

	while (node->up != NULL && n < MAX_HOPS)
	{
		node = node->up;
		n++;
	}
	return n == MAX_HOPS;
}

void
CdpTimelineSingle(CdpNode *node)
{
	node->up = NULL;
	node->up_at = DT_NOEND;
	node->below = 1;
	node->timeline = CDP_YES;
	node->joined_until = DT_NOBEGIN;
}

/*
 * Their components were joined at that time, if not before.  False: a link may
 * have been held for the bridge guard, or it takes too long to tell.
 */
static bool
insert_hop(CdpNode *x, CdpNode *y, TimestampTz at)
{
	int			guard = cdp_bridge_guard > 0 ? cdp_bridge_guard : INT_MAX;
	bool		small = true;

	if (way_is_long(x) || way_is_long(y))
		return false;
	for (;;)
	{
		CdpNode    *former;
		TimestampTz former_at;
		CdpNode    *node;

		x = top_at(x, at);
		y = top_at(y, at);
		if (x == y)
			return small;
		if (!is_above(x, y) && (is_above(y, x) || x->below < y->below))
		{
			CdpNode    *swap = x;

			x = y;
			y = swap;
		}
		former = y->up;
		former_at = y->up_at;
		for (node = former; node != NULL; node = node->up)
			node->below -= y->below;
		y->up = x;
		y->up_at = at;
		small &= y->below < guard;
		for (node = x; node != NULL; node = node->up)
		{
			node->below += y->below;
			if (node->up != NULL)
				small &= node->below < guard;
		}
		if (former == NULL)
			return small;
		y = former;
		at = former_at;
	}
}

/*
 * The components x and y, which may be the same, are joined by a link between
 * a and b.  To be called before they are.  False: see insert_hop.
 */
bool
CdpTimelineJoin(CdpNode *x, CdpNode *y, CdpNode *a, CdpNode *b, TimestampTz at)
{
	bool		small = false;
	char		known = CDP_MAYBE;

	if (at != DT_NOBEGIN && x->timeline != CDP_MAYBE && y->timeline != CDP_MAYBE)
	{
		small = insert_hop(a, b, at);
		known = small && x->timeline == CDP_YES && y->timeline == CDP_YES
			? CDP_YES : CDP_NO;
	}
	x->timeline = y->timeline = known;
	x->joined_until = y->joined_until = Max(at, Max(x->joined_until, y->joined_until));
	return small;
}

/*
 * Members are about to leave a component, all of which came into it by one other
 * member: their hops go with them.  Whose hop leads to one of them has to find another
 * way; then all is forgotten.
 */
void
CdpTimelineCut(CdpNode *root, CdpNode **cut, int n)
{
	CdpNode    *node;
	int			i,
				j;

	if (root->timeline == CDP_MAYBE)
		return;
	for (i = 0; i < n; i++)
	{
		int			below = 1;

		for (j = 0; j < n; j++)
			if (cut[j]->up == cut[i])
				below += cut[j]->below;
		if (below != cut[i]->below)
		{
			root->timeline = CDP_MAYBE;
			return;
		}
	}
	for (i = 0; i < n; i++)
		if (cut[i]->up != NULL && !cut[i]->up->cut)
			for (node = cut[i]->up; node != NULL; node = node->up)
				node->below -= cut[i]->below;
}

static void
add_accepted(AcceptedLinks *links, CdpNode *a, int64 b, TimestampTz at, bool manual)
{
	AcceptedLink *link;

	if (links->n == links->max)
	{
		links->max *= 2;
		links->list = repalloc_huge(links->list, sizeof(AcceptedLink) * links->max);
	}
	link = &links->list[links->n++];
	link->a = a;
	link->b = CdpGraphNode(links->graph, b);
	link->at = at;
	link->manual = manual;
	if (link->a == NULL || link->b == NULL)
		elog(ERROR, "a link with %lld is not in the graph", (long long) b);
}

/* CdpWalkRowCallback: keep what counts at a member */
static void
find_accepted(TupleTableSlot *row, int64 other, void *arg)
{
	AcceptedLinks *links = arg;
	bool		isnull;
	int64		a = DatumGetInt64(slot_getattr(row, links->a, &isnull));
	CdpNode    *node = CdpGraphNode(links->graph, a);
	text	   *status;
	text	   *origin;

	if (node == NULL || CdpNodeRoot(node) != links->root)
		return;
	status = DatumGetTextPP(slot_getattr(row, links->status, &isnull));
	if (*VARDATA_ANY(status) != 'a')
		return;
	origin = DatumGetTextPP(slot_getattr(row, links->origin, &isnull));
	add_accepted(links, node, DatumGetInt64(slot_getattr(row, links->b, &isnull)),
				 DatumGetTimestampTz(slot_getattr(row, links->at, &isnull)),
				 *VARDATA_ANY(origin) == 'm');
}

static int
accepted_order(const void *a, const void *b)
{
	const AcceptedLink *x = a;
	const AcceptedLink *y = b;

	return x->at < y->at ? -1 : x->at > y->at ? 1 : 0;
}

/*
 * The accepted rows at the members of a component, in the order of time.
 */
static void
find_all_accepted(AcceptedLinks *links, Datum members)
{
	bool		isnull;

	links->n = 0;
	links->max = Max(links->root->size, 64);
	links->list = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(AcceptedLink) * links->max);
	if (CdpLinksScanPays(links->root->size))
	{
		Oid			relation = CdpRelationOid("links");

		links->a = get_attnum(relation, "a");
		links->b = get_attnum(relation, "b");
		links->at = get_attnum(relation, "at");
		links->origin = get_attnum(relation, "origin");
		links->status = get_attnum(relation, "status");
		CdpLinksScan(find_accepted, links);
		qsort(links->list, links->n, sizeof(AcceptedLink), accepted_order);
		return;
	}
	CdpRun(&load_accepted, &members, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
		add_accepted(links, CdpGraphNode(links->graph, CdpCellInt8(i, 1)),
					 CdpCellInt8(i, 2), CdpCellInt8(i, 3),
					 DatumGetBool(CdpCell(i, 4, &isnull)));
	SPI_freetuptable(SPI_tuptable);
}

static void
load_timeline(CdpGraph *graph, CdpNode *root, Datum members)
{
	AcceptedLinks accepted = {graph, root};
	CdpLink   **links;
	int			nlinks;
	int			j;
	bool		small = true;

	find_all_accepted(&accepted, members);
	for (int64 i = 0; i < accepted.n; i++)
	{
		AcceptedLink *link = &accepted.list[i];

		if (i % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
		/* this batch may say otherwise, see below */
		if (CdpNodeRoot(link->b) != root ||
			CdpGraphFindLink(graph, link->a->id, link->b->id, link->manual) != NULL)
			continue;
		small &= insert_hop(link->a, link->b, link->at);
		root->joined_until = Max(root->joined_until, link->at);
	}
	pfree(accepted.list);

	/* what this batch has loaded or accepted */
	links = CdpGraphLinks(graph, &nlinks);
	for (j = 0; j < nlinks; j++)
	{
		CdpLink    *link = links[j];

		if (link->status != 'a' || link->gone || CdpNodeRoot(link->a) != root ||
			CdpNodeRoot(link->b) != root)
			continue;
		small &= insert_hop(link->a, link->b, link->at);
		root->joined_until = Max(root->joined_until, link->at);
	}
	pfree(links);
	root->timeline = small ? CDP_YES : CDP_NO;
}

/*
 * Where only few links are refused at all: for what reasons to this component?
 */
static bool
know_few_refusals(CdpGraph *graph, CdpNode *root)
{
	Datum		max = Int64GetDatum(MAX_REFUSED + 1);
	bool		few = CdpRun(&load_all_refused, &max, NULL) <= MAX_REFUSED;
	uint64		i;

	for (i = 0; i < SPI_processed && few; i++)
	{
		CdpNode    *a = CdpGraphNode(graph, CdpCellInt8(i, 1));
		CdpNode    *b = CdpGraphNode(graph, CdpCellInt8(i, 2));
		bool		isnull;

		if ((a != NULL && CdpNodeRoot(a) == root) || (b != NULL && CdpNodeRoot(b) == root))
			root->refusals |= CdpRefusalOf(TextDatumGetCString(CdpCell(i, 3, &isnull)));
	}
	SPI_freetuptable(SPI_tuptable);
	if (few)
		root->refusals &= ~CDP_REFUSALS_UNKNOWN;
	return few;
}

static void
know_refusals(CdpNode *root, Datum members)
{
	uint64		i;

	CdpRun(&load_refusals, &members, NULL);
	for (i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		Datum		reason = CdpCell(i, 1, &isnull);

		if (!isnull)
			root->refusals |= CdpRefusalOf(TextDatumGetCString(reason));
	}
	root->refusals &= ~CDP_REFUSALS_UNKNOWN;
	SPI_freetuptable(SPI_tuptable);
}

/*
 * Make known for what reasons links were refused to a component.
 */
void
CdpRefusalsKnow(CdpGraph *graph, CdpNode *root)
{
	int64	   *ids;
	CdpNode    *member = root;
	Datum		members;
	int			n = 0;

	if (know_few_refusals(graph, root))
		return;
	ids = MemoryContextAllocHuge(graph->context, sizeof(int64) * (Size) root->size);
	do
	{
		ids[n++] = member->id;
		member = member->next;
	} while (member != root);
	members = CdpInt8Array(ids, n);
	know_refusals(root, members);
	pfree(DatumGetPointer(members));
	pfree(ids);
}

/*
 * Make the timeline of a component known, and what was refused to it; false
 * when that cannot be.
 */
bool
CdpTimelineKnow(CdpGraph *graph, CdpNode *root)
{
	int64	   *ids;
	int			n = 0;
	CdpNode    *member = root;
	Datum		members;

	if (graph->sealed || root->nshared > 0)
		return false;
	if (root->timeline == CDP_MAYBE)
	{
		ids = MemoryContextAllocHuge(graph->context, sizeof(int64) * (Size) root->size);
		do
		{
			ids[n++] = member->id;
			member->up = NULL;
			member->up_at = DT_NOEND;
			member->below = 1;
			member = member->next;
		} while (member != root);
		members = CdpInt8Array(ids, n);
		root->joined_until = DT_NOBEGIN;
		load_timeline(graph, root, members);
		pfree(DatumGetPointer(members));
		pfree(ids);
	}
	if (root->refusals & CDP_REFUSALS_UNKNOWN)
		CdpRefusalsKnow(graph, root);
	return true;
}

/*
 * Were the two in one component before that time, already?
 */
bool
CdpTimelineJoined(CdpNode *a, CdpNode *b, TimestampTz at)
{
	return top_at(a, at) == top_at(b, at);
}

/*
 * The member that joined a component by itself after all others; NULL: there is none,
 * or others joined at the same time.  before: until when the others joined.
 */
CdpNode *
CdpTimelineLast(CdpNode *root, TimestampTz *before)
{
	CdpNode    *last = NULL;
	CdpNode    *member = root;

	*before = DT_NOBEGIN;
	do
	{
		if (member->up != NULL && (last == NULL || member->up_at >= last->up_at))
		{
			*before = last == NULL ? DT_NOBEGIN : last->up_at;
			last = member;
		}
		else if (member->up != NULL)
			*before = Max(*before, member->up_at);
		member = member->next;
	} while (member != root);
	return last != NULL && *before < last->up_at && last->below == 1 ? last : NULL;
}

/*
 * The node that stands for the component as it was at the instant, with what came
 * at the very same time, or without.
 */
static inline CdpNode *
top_then(CdpNode *node, TimestampTz at, bool same)
{
	while (node->up != NULL && (node->up_at < at || (same && node->up_at == at)))
		node = node->up;
	return node;
}

/*
 * Was there one on each side of the link who must not be one person?  The smaller
 * component must be small.
 */
static bool
held_apart_then(CdpGraph *graph, CdpLink *link, bool same)
{
	CdpNode    *x = CdpNodeRoot(link->a);
	CdpNode    *y = CdpNodeRoot(link->b);
	CdpNode    *first = x->size <= y->size ? link->a : link->b;
	CdpNode    *small = top_then(first, link->at, same);
	CdpNode    *large = top_then(first == link->a ? link->b : link->a, link->at, same);
	CdpNode    *member = first;
	do
	{
		CdpCannot  *cannot = hash_search(graph->cannot, &member->id, HASH_FIND, NULL);
		ListCell   *lc;

		foreach(lc, cannot == NULL ? NIL : cannot->others)
		{
			CdpNode    *other = CdpGraphNode(graph, *(int64 *) lfirst(lc));

			if (other != NULL && top_then(other, link->at, same) == large &&
				top_then(member, link->at, same) == small)
				return true;
		}
		member = member->next;
	} while (member != first);
	return false;
}

/*
 * How many of the kind were with the node?
 */
static int
limited_then(CdpGraph *graph, CdpNode *node, int slot, TimestampTz at, bool same)
{
	CdpNode    *first = CdpNodeRoot(node)->limited;
	CdpNode    *member = first;
	int			n = 0;

	node = top_then(node, at, same);
	do
	{
		if (CdpNodeSlot(graph, member) == slot && top_then(member, at, same) == node)
			n++;
		member = member->next_limited;
	} while (member != first);
	return n;
}

int
CdpTimelineLimited(CdpGraph *graph, CdpNode *node, int slot, TimestampTz at)
{
	return CdpNodeRoot(node)->limited == NULL ? 0 : limited_then(graph, node, slot, at, false);
}

/*
 * By what would the link have been refused at its time?  CDP_JOIN_OK: by none of the
 * rules that are asked here, or it is not known.
 */
static CdpVerdict
judge_then(CdpGraph *graph, CdpLink *link, bool same, const char **detail)
{
	CdpNode    *x = CdpNodeRoot(link->a);
	CdpNode    *y = CdpNodeRoot(link->b);
	int			i;

	*detail = NULL;
	if (graph->cannot != NULL)
	{
		if (Min(x->size, y->size) > CDP_LARGE_PROFILE)
			return CDP_JOIN_OK;
		if (held_apart_then(graph, link, same))
			return CDP_JOIN_CANNOT;
	}
	for (i = 0; i < graph->nlimited; i++)
	{
		CdpKind    *kind = graph->limiting[i];
		int			a;
		int			b;

		if (x->counts[i] == 0 || y->counts[i] == 0 ||
			x->counts[i] + y->counts[i] <= kind->max_per_profile)
			continue;
		if (kind->within != CDP_PERIOD_EVER)
			return CDP_JOIN_OK;
		a = limited_then(graph, link->a, i, link->at, same);
		b = a == 0 ? 0 : limited_then(graph, link->b, i, link->at, same);
		if (a > 0 && b > 0 && a + b > kind->max_per_profile)
		{
			*detail = kind->name;
			return CDP_JOIN_LIMIT;
		}
	}
	return CDP_JOIN_OK;
}

/*
 * The link is between two components whose timelines are known, and which must not
 * be joined.  Was that so at its time?  Then it was refused, and nothing has come
 * of it.  Rules are asked in the order in which the replay asks them, and what came
 * at the very same time must make no difference.
 */
bool
CdpTimelineRefused(CdpGraph *graph, CdpLink *link, CdpVerdict *verdict, const char **detail)
{
	const char *also;

	*verdict = judge_then(graph, link, false, detail);
	return *verdict != CDP_JOIN_OK &&
		judge_then(graph, link, true, &also) == *verdict && also == *detail;
}

/*
 * The components x and y are about to be joined (or, when they are the same,
 * earlier than they were).  Do all links that were refused to them keep the
 * reason that they have?
 */
bool
CdpRefusalsKept(CdpGraph *graph, CdpNode *x, CdpNode *y)
{
	CdpNode    *small = x->size <= y->size ? x : y;
	CdpNode    *large = x->size <= y->size ? y : x;
	CdpNode    *member = small;
	int			i;

	if ((x->refusals | y->refusals) == 0)
		return true;

	/*
	 * What has nothing that is limited, and was refused nothing, makes no
	 * difference to the reasons that are asked first; size is the next.
	 */
	if (x == y || small->refusals != 0 || small->size > CDP_LARGE_PROFILE ||
		(large->refusals & ~(CDP_REFUSAL(CDP_JOIN_LIMIT) |
							 CDP_REFUSAL(CDP_JOIN_CANNOT) |
							 CDP_REFUSAL(CDP_JOIN_SIZE))) != 0)
		return false;
	for (i = 0; i < graph->nlimited; i++)
		if (small->counts[i] > 0)
			return false;
	if (graph->cannot == NULL)
		return true;
	do
	{
		if (hash_search(graph->cannot, &member->id, HASH_FIND, NULL) != NULL)
			return false;
		member = member->next;
	} while (member != small);
	return true;
}
