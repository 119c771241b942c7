/*-------------------------------------------------------------------------
 *
 * rules.c
 *	  Components in memory, and whether two of them may become one.
 *
 *	  A component is a tree of parents with its members in a ring.  The root
 *	  carries what the rules need: the number of members, how many of them
 *	  are of each kind that has a limit, in which periods they were first seen
 *	  (period.c), and until when there can be evidence on disk.
 *
 *	  Every rule here is monotone: a pair of components that may not be joined
 *	  may not be joined after either of them has grown.  That is what allows
 *	  graph.c to take a union without looking at the order of the evidence.
 *	  (A second piece of evidence lifts the bridge guard; see replay.c.)
 *
 * IDENTIFICATION
 *	  src/identity/rules.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "cdp.h"
#include "identity/graph.h"

CdpNode *
CdpNodeRoot(CdpNode *node)
{
	while (node->parent != node)
	{
		node->parent = node->parent->parent;
		node = node->parent;
	}
	return node;
}

/*
 * Forget the combined states of a component.
 */
void
CdpGraphUncombine(CdpNode *root)
{
	if (root->combined != NULL)
		pfree(root->combined);
	root->combined = NULL;
	list_free(root->uncombined);
	root->uncombined = NIL;
	root->in_combined = false;
}

/*
 * y's members join x, whose states are combined.
 */
static void
join_combined(CdpGraph *graph, CdpNode *x, CdpNode *y)
{
	MemoryContext old;
	CdpNode    *member = y;

	if (x->combined == NULL)
		return;
	old = MemoryContextSwitchTo(graph->resident);
	do
	{
		member->in_combined = false;
		x->uncombined = lappend(x->uncombined, member);
		member = member->next;
	} while (member != y);
	MemoryContextSwitchTo(old);
}

/*
 * Make the node a component of its own.
 */
void
CdpGraphSingle(CdpGraph *graph, CdpNode *node)
{
	int			slot;

	node->parent = node;
	node->next = node->prev = node;
	node->size = 1;
	node->smallest = node->is_gone ? PG_INT64_MAX : node->id;
	CdpGraphUncombine(node);
	node->evidence_until = node->disk_last_seen;
	node->limited = NULL;
	node->nshared = CdpNodeShared(node) != CDP_SHARED_FIRST ? 1 : 0;
	node->over_periods = CDP_MAYBE;
	node->refusals = 0;
	CdpTimelineSingle(node);
	CdpPeriodsForget(node);
	if (graph->nlimited == 0)
		return;
	if (node->counts == NULL)
		node->counts = graph->nlimited <= lengthof(node->few_counts) ? node->few_counts :
			MemoryContextAlloc(graph->resident, sizeof(int) * graph->nlimited);
	memset(node->counts, 0, sizeof(int) * graph->nlimited);
	slot = CdpNodeSlot(graph, node);
	if (slot >= 0)
	{
		node->counts[slot] = 1;
		node->limited = node->next_limited = node;
	}
}

/*
 * Add a ring of limited nodes to that of a root.
 */
static void
join_limited(CdpNode *root, CdpNode *ring)
{
	if (root->limited != NULL && ring != NULL)
	{
		CdpNode    *swap = root->limited->next_limited;

		root->limited->next_limited = ring->next_limited;
		ring->next_limited = swap;
	}
	else if (ring != NULL)
		root->limited = ring;
}

/*
 * Is there a pair of nodes, one on each side, that must not be one person?
 */
static bool
held_apart(CdpGraph *graph, CdpNode *x, CdpNode *y)
{
	CdpNode    *small = x->size <= y->size ? x : y;
	CdpNode    *large = x->size <= y->size ? y : x;
	CdpNode    *member = small;

	if (graph->cannot == NULL)
		return false;
	do
	{
		CdpCannot  *cannot = hash_search(graph->cannot, &member->id,
										 HASH_FIND, NULL);

		if (cannot != NULL)
		{
			ListCell   *lc;

			foreach(lc, cannot->others)
			{
				CdpNode    *other = CdpGraphNode(graph, *(int64 *) lfirst(lc));

				if (other != NULL && CdpNodeRoot(other) == large)
					return true;
			}
		}
		member = member->next;
	} while (member != small);
	return false;
}

/*
 * May the components of x and y become one?  A merge by hand is not held to
 * limits and guards: whoever decides so knows better than the rule.  Only the
 * size guard holds for everything.
 */
CdpVerdict
CdpGraphJudge(CdpGraph *graph, CdpNode *x, CdpNode *y, bool manual,
			  const char **detail)
{
	int			i;

	if (detail != NULL)
		*detail = NULL;
	x = CdpNodeRoot(x);
	y = CdpNodeRoot(y);
	if (x == y)
		return CDP_JOIN_SAME;
	if (held_apart(graph, x, y))
		return CDP_JOIN_CANNOT;
	for (i = 0; i < graph->nlimited && !manual; i++)
	{
		CdpKind    *kind = graph->limiting[i];

		if (x->counts[i] > 0 && y->counts[i] > 0 &&
			x->counts[i] + y->counts[i] > kind->max_per_profile &&
			(kind->within == CDP_PERIOD_EVER ||
			 CdpPeriodsBreakKind(graph, x, y, i)))
		{
			if (detail != NULL)
				*detail = kind->name;
			return CDP_JOIN_LIMIT;
		}
	}
	if (x->size + y->size > cdp_max_profile_identifiers)
		return CDP_JOIN_SIZE;
	if (!manual)
	{
		if (CdpPeriodsBreakRate(graph, x, y))
			return CDP_JOIN_RATE;
		if (cdp_bridge_guard > 0 &&
			x->size >= cdp_bridge_guard && y->size >= cdp_bridge_guard)
			return CDP_JOIN_BRIDGE;
	}
	return CDP_JOIN_OK;
}

/*
 * Would the component of x and y together, which may be joined, keep every
 * rule?  If so, no subset of its evidence can have been refused.
 */
bool
CdpGraphHarmless(CdpGraph *graph, CdpNode *x, CdpNode *y, bool bridge)
{
	int			size;
	bool		ask = false;
	int			i;

	x = CdpNodeRoot(x);
	y = CdpNodeRoot(y);
	size = x->size + (x != y ? y->size : 0);
	for (i = 0; i < graph->nlimited; i++)
	{
		int			count = x->counts[i] + (x != y ? y->counts[i] : 0);

		/* what has none changes no count of what it joins */
		if (count <= graph->limiting[i]->max_per_profile ||
			(x != y && (x->counts[i] == 0 || y->counts[i] == 0)))
			continue;
		if (graph->limiting[i]->within == CDP_PERIOD_EVER)
			return false;
		ask = true;
	}
	if (bridge && cdp_bridge_guard > 0 && size / 2 >= cdp_bridge_guard)
		return false;
	if (cdp_max_new_identifiers_per_hour > 0 &&
		size > cdp_max_new_identifiers_per_hour)
		ask = true;
	/* that both together break no limit of a period has been judged */
	return !ask || (!CdpPeriodsOver(graph, x) && !CdpPeriodsOver(graph, y));
}

void
CdpGraphJoin(CdpGraph *graph, CdpNode *x, CdpNode *y, bool judged, TimestampTz at)
{
	CdpNode    *a = x;
	CdpNode    *b = y;
	CdpNode    *swap;
	int			i;

	x = CdpNodeRoot(x);
	y = CdpNodeRoot(y);
	if (x == y)
		return;
	(void) CdpTimelineJoin(x, y, a, b, at);
	if (x->size < y->size)
	{
		swap = x;
		x = y;
		y = swap;
	}
	if (x->over_periods == CDP_YES || y->over_periods == CDP_YES)
		x->over_periods = CDP_YES;
	else if (!judged || x->over_periods == CDP_MAYBE ||
			 CdpPeriodsOver(graph, y))
		x->over_periods = CDP_MAYBE;
	CdpPeriodsJoin(graph, x, y);
	CdpGraphUncombine(y);
	join_combined(graph, x, y);
	x->smallest = Min(x->smallest, y->smallest);
	y->parent = x;
	swap = x->next;
	x->next = y->next;
	x->next->prev = x;
	y->next = swap;
	swap->prev = y;
	join_limited(x, y->limited);
	x->size += y->size;
	x->nshared += y->nshared;
	x->evidence_until = Max(x->evidence_until, y->evidence_until);
	x->dirty |= y->dirty;
	x->refusals |= y->refusals;
	for (i = 0; i < graph->nlimited; i++)
		x->counts[i] += y->counts[i];
}

/*
 * One that is not the root leaves the component: whose parent it was has the root
 * for one.  These are among those who were with it when it was a root itself; they
 * come before it in the ring.
 */
static void
take_out(CdpNode *root, CdpNode *node)
{
	CdpNode    *member = node->prev;
	int			i;

	for (i = 1; i < node->size && member != node; i++, member = member->prev)
		if (member->parent == node)
			member->parent = root;
	node->prev->next = node->next;
	node->next->prev = node->prev;
}

/*
 * The ring of limited nodes without those that leave.
 */
static void
cut_limited(CdpGraph *graph, CdpNode *root)
{
	CdpNode    *first = root->limited;
	CdpNode    *member = first;
	CdpNode    *last = NULL;

	if (first == NULL)
		return;
	root->limited = NULL;
	do
	{
		CdpNode    *next = member->next_limited;

		if (!member->cut)
		{
			if (last == NULL)
				root->limited = member;
			else
				last->next_limited = member;
			last = member;
		}
		member = next;
	} while (member != first);
	if (last != NULL)
		last->next_limited = root->limited;
}

/*
 * Some members, at most all but one, leave a component.  Returns the root of the
 * others.  Nothing is read, and little is done but where the root leaves, or who gave
 * the component its number: then time goes by the number of those who stay.
 */
CdpNode *
CdpGraphCut(CdpGraph *graph, CdpNode *root, CdpNode **cut, int n)
{
	CdpNode    *member = root;
	CdpNode    *last = NULL;
	CdpNode    *rest = NULL;
	bool		renumber = false;
	int			i,
				slot;

	CdpTimelineCut(root, cut, n);
	CdpGraphUncombine(root);
	CdpPeriodsCut(graph, root, cut, n);
	if (root->over_periods == CDP_YES)
		root->over_periods = CDP_MAYBE;
	cut_limited(graph, root);
	root->size -= n;
	for (i = 0; i < n; i++)
	{
		slot = CdpNodeSlot(graph, cut[i]);
		if (slot >= 0)
			root->counts[slot]--;
		renumber |= cut[i]->id == root->smallest;
	}
	if (!root->cut && !renumber)
	{
		for (i = 0; i < n; i++)
			take_out(root, cut[i]);
		for (i = 0; i < n; i++)
			CdpGraphSingle(graph, cut[i]);
		return root;
	}
	do
	{
		CdpNode    *next = member->next;

		if (!member->cut)
		{
			if (rest == NULL)
				rest = member;
			else
				last->next = member;
			member->prev = last;
			last = member;
			member->parent = rest;
		}
		member = next;
	} while (member != root);
	last->next = rest;
	rest->prev = last;
	rest->limited = root->limited;

	if (rest != root)
	{
		rest->size = root->size;
		rest->evidence_until = root->evidence_until;
		if (graph->nlimited > 0)
			memcpy(rest->counts, root->counts, sizeof(int) * graph->nlimited);
		rest->nshared = root->nshared;
		CdpPeriodsForget(rest);
		rest->over_periods = root->over_periods;
		rest->refusals = root->refusals;
		rest->suspected = 0;
		rest->dirty = root->dirty;
		rest->smallest = root->smallest;
		rest->timeline = root->timeline;
		rest->joined_until = root->joined_until;
		CdpGraphUncombine(rest);
	}
	if (renumber)
	{
		rest->smallest = PG_INT64_MAX;
		for (member = rest->next, i = 0; i < rest->size; member = member->next, i++)
			if (!member->is_gone)
				rest->smallest = Min(rest->smallest, member->id);
	}
	for (i = 0; i < n; i++)
		CdpGraphSingle(graph, cut[i]);
	return rest;
}

const char *
CdpVerdictReason(CdpVerdict verdict)
{
	switch (verdict)
	{
		case CDP_JOIN_SAME:
		case CDP_JOIN_OK:
			break;
		case CDP_JOIN_LIMIT:
			return "limit";
		case CDP_JOIN_CANNOT:
			return "cannot-link";
		case CDP_JOIN_SIZE:
			return "size";
		case CDP_JOIN_RATE:
			return "rate";
		case CDP_JOIN_BRIDGE:
			return "bridge";
		case CDP_JOIN_SHARED:
			return "shared";
		case CDP_JOIN_DETACHED:
			return "detached";
	}
	return NULL;
}

uint16
CdpRefusalOf(const char *reason)
{
	int			verdict;

	/* what a detach took away has no part in anything */
	for (verdict = CDP_JOIN_LIMIT; verdict < CDP_JOIN_DETACHED; verdict++)
		if (strcmp(reason, CdpVerdictReason(verdict)) == 0)
			return CDP_REFUSAL(verdict);
	return 0;
}

/*
 * The link is refused, now or for what was so at its time.
 */
void
CdpLinkRefuse(CdpLink *link, CdpVerdict verdict, const char *detail)
{
	link->status = verdict == CDP_JOIN_CANNOT ? 'o' : 'r';
	link->reason = CdpVerdictReason(verdict);
	link->detail = detail;
	CdpNodeRoot(link->a)->refusals |= CDP_REFUSAL(verdict);
	CdpNodeRoot(link->b)->refusals |= CDP_REFUSAL(verdict);
}
