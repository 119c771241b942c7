/*-------------------------------------------------------------------------
 *
 * rules.c
 *	  Components in memory, and whether two of them may become one.
 *
 *	  A component is a tree of parents with its members in a ring.  The root
 *	  carries what the rules need: the number of members, how many of them
 *	  are of each kind that has a limit, and until when there can be evidence
 *	  on disk.
 *
 *	  Every rule here is monotone: a pair of components that may not be joined
 *	  may not be joined after either of them has grown.  That is what allows
 *	  graph.c to take a union without looking at the order of the evidence.
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
 * Make the node a component of its own.
 */
void
CdpGraphSingle(CdpGraph *graph, CdpNode *node)
{
	int			slot;

	node->parent = node;
	node->next = node;
	node->size = 1;
	node->evidence_until = node->disk_last_seen;
	if (graph->nlimited == 0)
		return;
	if (node->counts == NULL)
		node->counts = MemoryContextAlloc(graph->resident,
										  sizeof(int) * graph->nlimited);
	memset(node->counts, 0, sizeof(int) * graph->nlimited);
	if (node->kind->registered &&
		(slot = graph->limited[node->kind->index]) >= 0)
		node->counts[slot] = 1;
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
 * the limits of kinds: whoever decides so knows better than the rule.
 */
CdpVerdict
CdpGraphJudge(CdpGraph *graph, CdpNode *x, CdpNode *y, bool manual)
{
	int			i;

	x = CdpNodeRoot(x);
	y = CdpNodeRoot(y);
	if (x == y)
		return CDP_JOIN_SAME;
	if (held_apart(graph, x, y))
		return CDP_JOIN_CANNOT;
	if (!manual)
	{
		for (i = 0; i < graph->nlimited; i++)
		{
			if (x->counts[i] > 0 && y->counts[i] > 0 &&
				x->counts[i] + y->counts[i] > graph->limits[i])
				return CDP_JOIN_LIMIT;
		}
	}
	if (x->size + y->size > cdp_max_profile_identifiers)
		return CDP_JOIN_SIZE;
	return CDP_JOIN_OK;
}

/*
 * Would the component of x and y together keep every limit?  If so, no subset
 * of its evidence can have been refused because of one.
 */
bool
CdpGraphWithinLimits(CdpGraph *graph, CdpNode *x, CdpNode *y)
{
	int			i;

	x = CdpNodeRoot(x);
	y = CdpNodeRoot(y);
	for (i = 0; i < graph->nlimited; i++)
	{
		int			count = x->counts[i] + (x != y ? y->counts[i] : 0);

		if (count > graph->limits[i])
			return false;
	}
	return true;
}

void
CdpGraphJoin(CdpGraph *graph, CdpNode *x, CdpNode *y)
{
	CdpNode    *swap;
	int			i;

	x = CdpNodeRoot(x);
	y = CdpNodeRoot(y);
	if (x == y)
		return;
	if (x->size < y->size)
	{
		swap = x;
		x = y;
		y = swap;
	}
	y->parent = x;
	swap = x->next;
	x->next = y->next;
	y->next = swap;
	x->size += y->size;
	x->evidence_until = Max(x->evidence_until, y->evidence_until);
	x->dirty |= y->dirty;
	for (i = 0; i < graph->nlimited; i++)
		x->counts[i] += y->counts[i];
}

const char *
CdpVerdictReason(CdpVerdict verdict)
{
	switch (verdict)
	{
		case CDP_JOIN_LIMIT:
			return "limit";
		case CDP_JOIN_CANNOT:
			return "cannot-link";
		case CDP_JOIN_SIZE:
			return "size";
		default:
			return NULL;
	}
}
