/*-------------------------------------------------------------------------
 *
 * place.c
 *	  Who comes late to a component that is full.
 *
 * IDENTIFICATION
 *	  src/identity/place.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"

#include "cdp.h"
#include "identity/graph.h"
#include "statement.h"

/* After so many members, in all, the last one to come is not looked for any more. */
#define MAX_LOOKED		20000000

/* A row of cdp.links. */
typedef struct Row
{
	int64		a;
	int64		b;
	bool		accepted;
} Row;

static CdpStatement load_rows = {
	"(SELECT l.a, l.b, l.status = 'accepted', l.origin = 'manual'"
	" FROM cdp.links l WHERE l.a = $1 LIMIT 2) UNION ALL "
	"(SELECT l.a, l.b, l.status = 'accepted', l.origin = 'manual'"
	" FROM cdp.links l WHERE l.b = $1 LIMIT 2)",
	{"int8"}
};

/*
 * The rows at a node: is it one by events, or none (row->a is 0)?
 */
static bool
only_row(CdpNode *node, Row *row)
{
	Datum		arg = Int64GetDatum(node->id);
	bool		isnull;
	bool		good;

	memset(row, 0, sizeof(Row));
	good = CdpRun(&load_rows, &arg, NULL) <= 1;
	if (SPI_processed == 1)
	{
		row->a = CdpCellInt8(0, 1);
		row->b = CdpCellInt8(0, 2);
		row->accepted = DatumGetBool(CdpCell(0, 3, &isnull));
		good = !DatumGetBool(CdpCell(0, 4, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
	return good;
}

/*
 * Is the node of no interest to the rules but for its number and hour, and are its
 * links, with that one, all that this batch has of it?
 */
static bool
is_plain(CdpGraph *graph, CdpNode *node, CdpLink *link)
{
	CdpLink   **links;
	bool		result = CdpNodeSlot(graph, node) < 0 && !node->is_gone &&
		(graph->cannot == NULL ||
		 hash_search(graph->cannot, &node->id, HASH_FIND, NULL) == NULL);
	int			n = result ? CdpGraphLinksOf(graph, &node->id, 1, &links) : 0;
	int			i;

	for (i = 0; i < n && result; i++)
		result = links[i] == link;
	if (n > 0)
		pfree(links);
	return result;
}

/*
 * Late evidence for somebody who is alone and comes to a component that was filled
 * later.  It has him from then on, so it is full one earlier: the last one who came
 * does not find a place.  From that time on it is as large as it was, and before it is
 * larger, so whoever was refused for its size is still refused.  What else was refused
 * is, too, when neither of the two makes a difference to it.  False: that takes a replay.
 */
bool
CdpGraphTakePlace(CdpGraph *graph, CdpLink *link)
{
	CdpNode    *x = CdpNodeRoot(link->a);
	CdpNode    *newcomer = x->size == 1 ? link->a : link->b;
	CdpNode    *root = CdpNodeRoot(newcomer == link->a ? link->b : link->a);
	CdpNode    *last;
	CdpNode    *rest;
	TimestampTz before;
	Row			row;
	CdpLink    *tie;
	bool		found;

	if (CdpNodeRoot(newcomer)->size != 1 || root->size != cdp_max_profile_identifiers ||
		!CdpGraphIsLarge(graph, root) || graph->verdicts != NIL ||
		(root->refusals & ~(CDP_REFUSAL(CDP_JOIN_LIMIT) | CDP_REFUSAL(CDP_JOIN_CANNOT) |
							CDP_REFUSAL(CDP_JOIN_SIZE))) != 0 ||
		CdpPeriodsBreakRate(graph, newcomer, root) ||
		graph->nlooked > MAX_LOOKED || !is_plain(graph, newcomer, link) ||
		!only_row(newcomer, &row) ||
		(row.a != 0 && (row.a != link->a->id || row.b != link->b->id)))
		return false;
	graph->nlooked += root->size;
	last = CdpTimelineLast(root, &before);
	if (last == NULL || last->up_at <= link->at || last == link->a || last == link->b ||
		!is_plain(graph, last, NULL) || !only_row(last, &row) || !row.accepted)
		return false;
	tie = CdpGraphLink(graph, CdpGraphNode(graph, row.a), CdpGraphNode(graph, row.b),
					   false, &found);
	CdpGraphLoadLinks(graph, &tie, 1);
	last->cut = true;
	rest = CdpGraphCut(graph, root, &last, 1);
	last->cut = false;
	rest->joined_until = before;
	CdpGraphActivateCut(graph, last, rest);
	link->status = 'a';
	link->reason = NULL;
	link->detail = NULL;
	CdpGraphJoin(graph, link->a, link->b, true, link->at);
	CdpLinkRefuse(tie, CDP_JOIN_SIZE, NULL);
	tie->changed = true;

	/* has the bridge guard something to say, now that there is one more before the last? */
	return CdpNodeRoot(newcomer)->timeline == CDP_YES;
}
