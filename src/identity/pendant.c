/*-------------------------------------------------------------------------
 *
 * pendant.c
 *	  What hangs on a large component by a single link.
 *
 *	  When evidence is taken away, or somebody splits, the truth is a replay of
 *	  the cluster.  For a component of a million nodes that is dear, and nearly
 *	  always all that comes of it is that a few nodes at its edge leave it, or
 *	  come back.  This is seen without a replay where the link in question is
 *	  the only one between those few, a pendant, and the rest.  Then nobody of
 *	  the rest was ever joined with somebody else of the rest by way of the
 *	  pendant, so the replay makes the same joins on either side, each of
 *	  components that have lost members and won none.  Rules are monotone, so
 *	  all of these are accepted as before, and the bridge guard has less to say.
 *	  What was refused stays so if its reason has nothing to do with those who
 *	  have left: another limit is broken, other cannot-links hold.  All other
 *	  reasons depend on sizes; then there is a replay.
 *
 *	  The same holds where several links lead to the pendant, but all of them from
 *	  one node of the rest.  All are cut, and those that still hold are judged as
 *	  evidence that comes late, and so is what was refused to the pendant.  So it
 *	  may also make way for late evidence that takes it away from the rest.
 *
 *	  A link that joined nobody, because its ends had come together before
 *	  (timeline.c), can be taken away without a trace.
 *
 *	  What comes back is judged like evidence that comes late.
 *
 * IDENTIFICATION
 *	  src/identity/pendant.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"

#include "cdp.h"
#include "identity/graph.h"
#include "statement.h"

/* So many nodes are a few. */
#define MAX_PENDANT		256

/* What changes in one batch beyond that is left to a replay. */
#define MAX_CHANGES		100

/* Of a node's neighbours so many are tried: who hangs on the one? */
#define MAX_NEIGHBOURS	4

static CdpStatement load_rows = {
	"SELECT l.a, l.b, l.origin = 'manual', l.status = 'accepted', l.reason"
	" FROM (SELECT unnest($1) AS node) AS u CROSS JOIN LATERAL ("
	"(SELECT * FROM cdp.links l WHERE l.a = u.node LIMIT $2) UNION ALL "
	"(SELECT * FROM cdp.links l WHERE l.b = u.node LIMIT $2)) AS l",
	{"int8[]", "int8"}
};

static CdpStatement load_merge = {
	"SELECT l.status = 'accepted', l.at FROM cdp.links l"
	" WHERE l.a = $1 AND l.b = $2 AND l.origin = 'manual'",
	{"int8", "int8"}
};

/* A pair of nodes that is linked. */
typedef struct Pair
{
	int64		a;
	int64		b;
} Pair;

typedef struct Piece
{
	int			n;
	CdpNode    *nodes[MAX_PENDANT];
	List	   *pairs;			/* Pair *: what holds it together */
	List	   *ties;			/* Pair *: what holds it to the node without which it was found */
	List	   *refused;		/* Pair *: what was refused to it, to be judged again */
} Piece;

bool
CdpGraphIsLarge(CdpGraph *graph, CdpNode *node)
{
	CdpNode    *root = CdpNodeRoot(node);

	return !graph->sealed && !node->dirty && !root->dirty &&
		root->nshared == 0 && root->size > CDP_LARGE_PROFILE;
}

void
CdpGraphDirty(CdpNode *a, CdpNode *b)
{
	a->dirty = b->dirty = true;
	CdpNodeRoot(a)->dirty = CdpNodeRoot(b)->dirty = true;
}

void
CdpGraphLoosen(CdpGraph *graph, CdpLink *link)
{
	MemoryContext old = MemoryContextSwitchTo(graph->context);

	if (!link->loose)
		graph->loose = lappend(graph->loose, link);
	link->loose = true;
	MemoryContextSwitchTo(old);
}

void
CdpGraphAgain(CdpGraph *graph, CdpLink *link)
{
	MemoryContext old = MemoryContextSwitchTo(graph->context);

	if (!link->again)
		graph->again = lappend(graph->again, link);
	link->again = true;
	MemoryContextSwitchTo(old);
}

/*
 * The rows at these nodes; false: too many.
 */
static bool
rows_at(CdpNode **nodes, int n)
{
	int64		ids[MAX_PENDANT];
	Datum		args[2];
	int			i;

	for (i = 0; i < n; i++)
		ids[i] = nodes[i]->id;
	args[0] = CdpInt8Array(ids, n);
	args[1] = Int64GetDatum(2 * MAX_PENDANT);
	CdpRun(&load_rows, args, NULL);
	pfree(DatumGetPointer(args[0]));
	if (SPI_processed < 2 * MAX_PENDANT)
		return true;
	SPI_freetuptable(SPI_tuptable);
	return false;
}

static char *
reason_of_row(uint64 row)
{
	bool		isnull;
	Datum		value = CdpCell(row, 5, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

/*
 * Is what a row of cdp.links says a link that holds?  other: it does not, but it
 * is another one than that which is being cut, and was refused, or has still to be
 * cut itself.
 */
static bool
holds(CdpGraph *graph, uint64 row, const CdpLink *cutting, bool *other)
{
	bool		isnull;
	bool		manual = DatumGetBool(CdpCell(row, 3, &isnull));
	bool		accepted = DatumGetBool(CdpCell(row, 4, &isnull));
	char	   *reason = reason_of_row(row);
	CdpLink    *link = CdpGraphFindLink(graph, CdpCellInt8(row, 1),
										CdpCellInt8(row, 2), manual);

	if (link != NULL && link->loose && link != cutting &&
		CdpNodeRoot(link->a) == CdpNodeRoot(link->b))
		*other = true;
	if (link != NULL && link->gone)
		return false;
	if (link != NULL && link->status != 0)
	{
		accepted = link->status == 'a' && !link->loose;
		reason = unconstify(char *, link->reason);
	}
	if (!accepted && reason != NULL && CdpRefusalOf(reason) != 0)
		*other = true;
	return accepted;
}

/*
 * A link that was refused to a piece joins nobody, so it can be left out and judged as
 * if it came late, unless it was held.
 */
static bool
can_judge_again(const char *reason, const CdpLink *link)
{
	return (link == NULL || !link->loose) && reason != NULL && CdpRefusalOf(reason) != 0 &&
		(CdpRefusalOf(reason) & (CDP_REFUSAL(CDP_JOIN_BRIDGE) | CDP_REFUSAL(CDP_JOIN_SHARED))) == 0;
}

static List *
add_pair(List *pairs, int64 a, int64 b)
{
	Pair	   *pair = palloc(sizeof(Pair));

	pair->a = a;
	pair->b = b;
	return lappend(pairs, pair);
}

/*
 * A link that holds, with at least one end in the piece; other: the node that is left
 * out.  False: it cannot be part of a piece.
 */
static bool
add_held(CdpGraph *graph, Piece *piece, int64 a, int64 b, bool manual, CdpNode *other)
{
	int			i;

	if (a == other->id || b == other->id)
	{
		piece->ties = add_pair(piece->ties, a, b);
		return !manual;
	}
	piece->pairs = add_pair(piece->pairs, a, b);
	for (i = 0; i < 2; i++)
	{
		CdpNode    *node = CdpGraphNode(graph, i == 0 ? a : b);

		if (node == NULL)
			elog(ERROR, "link between %lld and %lld is not in the graph",
				 (long long) a, (long long) b);
		if (node->cut)
			continue;
		if (piece->n == MAX_PENDANT)
			return false;
		node->cut = true;
		piece->nodes[piece->n++] = node;
	}
	return true;
}

/*
 * The links of this batch at the nodes of a piece between two places, which have been
 * judged and are not in cdp.links yet.
 */
static bool
add_new(CdpGraph *graph, Piece *piece, int done, int upto, CdpLink *cutting, CdpNode *other)
{
	int64		ids[MAX_PENDANT];
	CdpLink   **links;
	bool		good = true;
	int			n;
	int			i;

	for (n = 0; done + n < upto; n++)
		ids[n] = piece->nodes[done + n]->id;
	qsort(ids, n, sizeof(int64), CdpCompareInt8);
	n = CdpGraphLinksOf(graph, ids, n, &links);
	for (i = 0; i < n && good; i++)
	{
		CdpLink    *link = links[i];

		if (link == cutting || link->on_disk || link->gone || link->status == 0)
			continue;
		if (link->status == 'a')
			good = add_held(graph, piece, link->a->id, link->b->id, false, other);
		else if (can_judge_again(link->reason, link))
			piece->refused = add_pair(piece->refused, link->a->id, link->b->id);
		else
			good = CdpRefusalOf(link->reason) == 0;
	}
	if (links != NULL)
		pfree(links);
	return good;
}

/*
 * All that hangs together with a node when another one is left out, and what holds it
 * to that one.  False: it is too large, is held by a merge by hand, or other links to
 * it than the one that is being cut are loose, too.
 */
static bool
find_piece(CdpGraph *graph, CdpLink *cutting, CdpNode *from, CdpNode *other, Piece *piece)
{
	int			done = 0;
	int			i;
	bool		good = from != other;

	piece->n = 0;
	piece->pairs = NIL;
	piece->ties = NIL;
	piece->refused = NIL;
	piece->nodes[piece->n++] = from;
	from->cut = true;
	while (good && done < piece->n)
	{
		uint64		r;
		int			upto = piece->n;

		CHECK_FOR_INTERRUPTS();
		if (!rows_at(piece->nodes + done, upto - done))
		{
			good = false;
			break;
		}
		for (r = 0; r < SPI_processed && good; r++)
		{
			int64		a = CdpCellInt8(r, 1);
			int64		b = CdpCellInt8(r, 2);
			bool		isnull;
			bool		manual = DatumGetBool(CdpCell(r, 3, &isnull));
			bool		disturbs = false;
			CdpLink    *link = CdpGraphFindLink(graph, a, b, manual);

			/* other ties that are loose are cut next */
			if (link != NULL &&
				(link == cutting || (link->loose && (a == other->id || b == other->id))))
				continue;
			if (holds(graph, r, cutting, &disturbs))
				good = add_held(graph, piece, a, b, manual, other);
			else if (disturbs && !manual &&
					 can_judge_again(link != NULL && link->status != 0
									 ? link->reason : reason_of_row(r), link))
				piece->refused = add_pair(piece->refused, a, b);
			else
				good = !disturbs;
		}
		SPI_freetuptable(SPI_tuptable);
		good = good && add_new(graph, piece, done, upto, cutting, other);
		done = upto;
	}
	for (i = 0; i < piece->n; i++)
		piece->nodes[i]->cut = false;
	return good;
}

/*
 * Did the rest have as many of the kind as there may be, when the piece came to it by
 * this link and by none else?  Then it has refused the same by itself.
 */
static bool
was_full_before(CdpGraph *graph, Piece *piece, CdpLink *link, int slot)
{
	CdpKind    *kind = graph->limiting[slot];
	CdpNode    *end = link != NULL && link->a == piece->nodes[0] ? link->b : link != NULL ? link->a : NULL;

	return end != NULL && piece->ties == NIL && kind->within == CDP_PERIOD_EVER &&
		CdpTimelineKnow(graph, CdpNodeRoot(end)) &&
		CdpTimelineLimited(graph, end, slot, link->was_at) >= kind->max_per_profile;
}

/*
 * Does what was refused to the rest have nothing to do with the piece?  link: the one
 * that is cut, and split: because its ends must not be one person, which is new; NULL:
 * another one makes the piece leave.
 */
static bool
is_of_no_concern(CdpGraph *graph, CdpNode *root, Piece *piece, CdpLink *link, bool split)
{
	int			slot;
	int			i;

	if (root->refusals & CDP_REFUSALS_UNKNOWN)
		CdpRefusalsKnow(graph, root);
	if (root->refusals == 0)
		return true;
	if ((root->refusals & ~(CDP_REFUSAL(CDP_JOIN_LIMIT) | CDP_REFUSAL(CDP_JOIN_CANNOT))) != 0)
		return false;
	for (i = 0; i < piece->n; i++)
	{
		CdpNode    *node = piece->nodes[i];
		CdpCannot  *cannot = NULL;

		slot = CdpNodeSlot(graph, node);
		if (slot >= 0 && !was_full_before(graph, piece, link, slot))
			return false;
		if (graph->cannot != NULL)
			cannot = hash_search(graph->cannot, &node->id, HASH_FIND, NULL);
		if (cannot != NULL &&
			!(split && (node == link->a || node == link->b) && list_length(cannot->others) == 1))
			return false;
	}
	return true;
}

/*
 * Nobody in the piece could have been refused to others in it, had they not been with
 * the rest already?  That is asked where there are ties: by way of the rest, those in
 * the piece may have come together earlier than by themselves.
 */
static bool
is_tame(CdpGraph *graph, Piece *piece)
{
	int			slot;
	int			i;

	if ((cdp_max_new_identifiers_per_hour > 0 && piece->n > cdp_max_new_identifiers_per_hour) ||
		(cdp_bridge_guard > 0 && piece->n / 2 >= cdp_bridge_guard))
		return false;
	for (slot = 0; slot < graph->nlimited; slot++)
	{
		int			count = 0;

		for (i = 0; i < piece->n; i++)
			count += CdpNodeSlot(graph, piece->nodes[i]) == slot;
		if (count > graph->limiting[slot]->max_per_profile)
			return false;
	}
	return true;
}

/*
 * Those to whom the piece was refused take part.
 */
static void
add_refused(CdpGraph *graph, Piece *piece)
{
	int64	   *ids = palloc(sizeof(int64) * (2 * list_length(piece->refused) + 1));
	ListCell   *lc;
	int			n = 0;
	int			i;

	foreach(lc, piece->refused)
	{
		Pair	   *pair = lfirst(lc);

		for (i = 0; i < 2; i++)
		{
			CdpNode    *node = CdpGraphNode(graph, i == 0 ? pair->a : pair->b);

			if (node == NULL || CdpNodeRoot(node)->batch != graph->batch)
				ids[n++] = i == 0 ? pair->a : pair->b;
		}
	}
	if (n > 0)
	{
		CdpGraphAddNodes(graph, ids, n);
		CdpGraphLoadCannot(graph);
		CdpGraphLoadDetached(graph);
	}
	pfree(ids);
}

/*
 * The ties of a piece, and what was refused to it, as links, each once.
 */
static List *
load_ties(CdpGraph *graph, Piece *piece)
{
	List	   *pairs = list_concat(piece->ties, piece->refused);
	CdpLink   **missing;
	List	   *ties = NIL;
	ListCell   *lc;
	int			n = 0;

	add_refused(graph, piece);
	missing = palloc(sizeof(CdpLink *) * (list_length(pairs) + 1));
	foreach(lc, pairs)
	{
		Pair	   *pair = lfirst(lc);
		bool		found;
		CdpLink    *link = CdpGraphLink(graph, CdpGraphNode(graph, pair->a),
										CdpGraphNode(graph, pair->b), false, &found);

		if (!found)
			missing[n++] = link;
		ties = list_append_unique_ptr(ties, link);
	}
	CdpGraphLoadLinks(graph, missing, n);
	pfree(missing);
	foreach(lc, ties)
		((CdpLink *) lfirst(lc))->changed = true;
	return ties;
}

/*
 * The piece leaves the component.
 */
static void
cut_piece(CdpGraph *graph, CdpNode *root, Piece *piece)
{
	CdpNode    *rest;
	ListCell   *lc;
	int			i;

	for (i = 0; i < piece->n; i++)
		piece->nodes[i]->cut = true;
	rest = CdpGraphCut(graph, root, piece->nodes, piece->n);
	for (i = 0; i < piece->n; i++)
		piece->nodes[i]->cut = false;
	foreach(lc, piece->pairs)
	{
		Pair	   *pair = lfirst(lc);

		CdpGraphJoin(graph, CdpGraphNode(graph, pair->a), CdpGraphNode(graph, pair->b),
					 false, DT_NOBEGIN);
	}
	CdpGraphActivateCut(graph, piece->nodes[0], rest);
}

/*
 * Part the ends of a link that holds no longer.  split: because the ends must
 * not be one person.  False: that takes a replay.
 */
static bool
cut(CdpGraph *graph, CdpLink *link, bool split)
{
	CdpNode    *root = CdpNodeRoot(link->a);
	Piece	   *piece;
	bool		found;

	if (root != CdpNodeRoot(link->b))
		return true;
	if (!CdpGraphIsLarge(graph, link->a) || !CdpGraphIsLarge(graph, link->b))
		return false;
	piece = palloc(sizeof(Piece));
	found = find_piece(graph, link, link->b, link->a, piece) ||
		find_piece(graph, link, link->a, link->b, piece);
	if (found && piece->n < root->size &&
		(piece->ties == NIL || is_tame(graph, piece)) &&
		is_of_no_concern(graph, root, piece, link, split))
	{
		List	   *ties = load_ties(graph, piece);
		ListCell   *lc;

		cut_piece(graph, root, piece);
		foreach(lc, ties)
			CdpGraphAgain(graph, lfirst(lc));
	}
	else
		found = !split && CdpTimelineKnow(graph, root) &&
			CdpTimelineJoined(link->a, link->b, link->was_at);
	pfree(piece);
	return found;
}

/*
 * Those who hang together with a node leave its component, when all of them hang on
 * one other node of it.
 */
static bool
leave(CdpGraph *graph, CdpLink *link, CdpNode *from, Piece *piece, List **ties)
{
	CdpNode    *root = CdpNodeRoot(from);
	CdpNode    *others[MAX_NEIGHBOURS];
	int			n = 0;
	int			i;
	uint64		r;

	if (!rows_at(&from, 1))
		return false;
	for (r = 0; r < SPI_processed && n < MAX_NEIGHBOURS; r++)
	{
		int64		a = CdpCellInt8(r, 1);
		CdpNode    *other = CdpGraphNode(graph, a == from->id ? CdpCellInt8(r, 2) : a);

		if (other != NULL && CdpNodeRoot(other) == root)
			others[n++] = other;
	}
	SPI_freetuptable(SPI_tuptable);
	for (i = 0; i < n; i++)
	{
		if (!find_piece(graph, link, from, others[i], piece) || piece->ties == NIL ||
			piece->n == root->size || !is_tame(graph, piece) ||
			!is_of_no_concern(graph, root, piece, NULL, false))
			continue;
		*ties = load_ties(graph, piece);
		cut_piece(graph, root, piece);
		return true;
	}
	return false;
}

/*
 * Late evidence was accepted at its time, but who it joins cannot be with those with
 * whom they are now.  So some that are with a large component left it, or rather had
 * not come to it: those at the end of the link, or the ones whose kind has the limit.
 * When they are a pendant, they are taken out; then the link is judged, and after it
 * what had held them, as if both came late.
 */
bool
CdpGraphMakeWay(CdpGraph *graph, CdpLink *link, List **ties)
{
	CdpNode    *ends[2] = {link->a, link->b};
	Piece	   *piece;
	bool		found = false;
	int			i;

	/* what was decided by hand in this batch is not in cdp.links */
	if (graph->verdicts != NIL || graph->nways == MAX_CHANGES)
		return false;
	graph->nways++;
	piece = palloc(sizeof(Piece));
	for (i = 0; i < 2 && !found; i++)
		if (CdpGraphIsLarge(graph, ends[i]))
			found = leave(graph, link, ends[i], piece, ties);
	for (i = 0; i < 2 && !found; i++)
	{
		CdpNode    *limited = CdpNodeRoot(ends[i])->limited;

		if (limited != NULL && limited != ends[i] && limited->next_limited == limited &&
			CdpGraphIsLarge(graph, limited))
			found = leave(graph, link, limited, piece, ties);
	}
	pfree(piece);
	return found;
}

static void
merge_goes(CdpGraph *graph, CdpDecided *decided, CdpNode *a, CdpNode *b)
{
	Datum		args[2];
	CdpLink    *link;
	bool		found;

	args[0] = Int64GetDatum(decided->a);
	args[1] = Int64GetDatum(decided->b);
	if (CdpRun(&load_merge, args, NULL) == 0)
	{
		SPI_freetuptable(SPI_tuptable);
		return;
	}
	link = CdpGraphLink(graph, a, b, true, &found);
	link->status = DatumGetBool(CdpCell(0, 1, &found)) ? 'a' : 'o';
	link->was_at = CdpCellInt8(0, 2);
	link->gone = true;
	link->loose = link->status == 'a';
	SPI_freetuptable(SPI_tuptable);
	if (link->loose && !cut(graph, link, false))
		CdpGraphDirty(a, b);
}

static void
split_comes(CdpGraph *graph, CdpNode *a, CdpNode *b)
{
	CdpLink    *link;
	bool		found;

	/* what was refused between them may have another reason now */
	if (CdpNodeRoot(a) != CdpNodeRoot(b))
	{
		CdpGraphDirty(a, b);
		return;
	}
	link = CdpGraphLink(graph, a, b, false, &found);
	if (!found)
		CdpGraphLoadLinks(graph, &link, 1);
	if (!link->on_disk || link->gone || link->status != 'a')
	{
		/* they are together by way of others */
		link->gone |= !link->on_disk;
		CdpGraphDirty(a, b);
		return;
	}
	link->loose = true;
	if (!cut(graph, link, true))
	{
		CdpGraphDirty(a, b);
		return;
	}
	link->status = 'o';
	link->reason = CdpVerdictReason(CDP_JOIN_CANNOT);
	link->detail = NULL;
	link->changed = true;
	CdpNodeRoot(a)->refusals |= CDP_REFUSAL(CDP_JOIN_CANNOT);
	CdpNodeRoot(b)->refusals |= CDP_REFUSAL(CDP_JOIN_CANNOT);
}

/*
 * What was overruled between two components because of a split.
 */
static void
split_goes(CdpGraph *graph, CdpNode *a, CdpNode *b)
{
	CdpNode    *x = CdpNodeRoot(a);
	CdpNode    *y = CdpNodeRoot(b);
	CdpNode    *small = x->size <= y->size ? x : y;
	CdpNode    *large = x->size <= y->size ? y : x;
	CdpNode    *member = small;
	CdpNode    *members[MAX_PENDANT];
	CdpLink   **links;
	int			n = 0;
	int			nlinks = 0;
	bool		good = x != y && small->size <= MAX_PENDANT;
	uint16		refusals = 0;
	uint64		r;
	int			i;

	if (good)
	{
		do
		{
			members[n++] = member;
			member = member->next;
		} while (member != small);
		good = rows_at(members, n);
	}
	if (!good)
	{
		CdpGraphDirty(a, b);
		return;
	}
	links = palloc(sizeof(CdpLink *) * (SPI_processed + 1));
	for (r = 0; r < SPI_processed && good; r++)
	{
		CdpNode    *p = CdpGraphNode(graph, CdpCellInt8(r, 1));
		CdpNode    *q = CdpGraphNode(graph, CdpCellInt8(r, 2));
		bool		refused = false;
		bool		manual;
		bool		found;
		char	   *reason;
		CdpLink    *link;

		if (holds(graph, r, NULL, &refused) || !refused)
			continue;
		manual = DatumGetBool(CdpCell(r, 3, &found));
		reason = reason_of_row(r);
		/* none: it held until this batch */
		if (manual || reason == NULL ||
			strcmp(reason, CdpVerdictReason(CDP_JOIN_CANNOT)) != 0)
			good = false;
		else if (p == NULL || q == NULL ||
				 (CdpNodeRoot(p) != large && CdpNodeRoot(q) != large))
			refusals |= CDP_REFUSAL(CDP_JOIN_CANNOT);
		else
		{
			link = CdpGraphLink(graph, p, q, false, &found);
			if (found)
				good = false;
			else
				links[nlinks++] = link;
		}
	}
	SPI_freetuptable(SPI_tuptable);
	CdpGraphLoadLinks(graph, links, nlinks);
	if (!good)
		CdpGraphDirty(a, b);
	else
	{
		small->refusals = refusals;
		for (i = 0; i < nlinks; i++)
		{
			links[i]->changed = true;
			CdpGraphAgain(graph, links[i]);
		}
	}
	pfree(links);
}

/*
 * May the bridge guard hold links between the two?  They are accepted when the two are
 * joined otherwise.
 */
static bool
may_be_held(CdpGraph *graph, CdpNode *x, CdpNode *y)
{
	CdpNode    *roots[2] = {x->size <= y->size ? x : y, x->size <= y->size ? y : x};
	int			i;

	for (i = 0; i < 2 && x != y; i++)
	{
		if (roots[i]->refusals & CDP_REFUSALS_UNKNOWN)
			CdpRefusalsKnow(graph, roots[i]);
		if ((roots[i]->refusals & CDP_REFUSAL(CDP_JOIN_BRIDGE)) == 0)
			return false;
	}
	return x != y;
}

/*
 * Two are merged by hand, which breaks no limit.
 */
static void
merge_comes(CdpGraph *graph, CdpDecided *decided, CdpNode *a, CdpNode *b)
{
	CdpNode    *x = CdpNodeRoot(a);
	CdpNode    *y = CdpNodeRoot(b);
	CdpVerdict	verdict;
	CdpLink    *link;
	bool		found;
	bool		late;

	/* another merge of the same two may have been there before */
	link = CdpGraphLink(graph, a, b, true, &found);
	link->gone = link->loose = false;
	link->entry = decided->entry;
	link->at = decided->at;
	link->tie = decided->tie;

	/* there must be nothing that is later, for which it would make a difference */
	late = decided->at <= Max(x->evidence_until, y->evidence_until);
	if (x->dirty || y->dirty || x->nshared > 0 || y->nshared > 0 || may_be_held(graph, x, y) ||
		(late && !CdpGraphMergesLate(graph, a, b, decided->at)))
	{
		CdpGraphDirty(a, b);
		return;
	}
	if (CdpGraphDetached(graph, link))
		verdict = CDP_JOIN_DETACHED;
	else
		verdict = CdpGraphJudge(graph, a, b, true, NULL);
	link->reason = CdpVerdictReason(verdict);
	link->detail = NULL;
	link->status = link->reason == NULL ? 'a'
		: verdict == CDP_JOIN_SIZE ? 'r' : 'o';
	if (verdict == CDP_JOIN_OK)
	{
		CdpGraphJoin(graph, a, b, false, link->at);

		/* has the bridge guard something to say to what came after it? */
		if (late && CdpNodeRoot(a)->joined_until > link->at && CdpNodeRoot(a)->timeline != CDP_YES)
			CdpGraphDirty(a, b);
	}
	else if (link->reason != NULL)
	{
		x->refusals |= CdpRefusalOf(link->reason);
		y->refusals |= CdpRefusalOf(link->reason);
	}
	CdpNodeRoot(a)->evidence_until = Max(CdpNodeRoot(a)->evidence_until, link->at);
	CdpNodeRoot(b)->evidence_until = Max(CdpNodeRoot(b)->evidence_until, link->at);
}

/*
 * First what takes away, then what brings.
 */
static void
take_decisions(CdpGraph *graph)
{
	int			turn;
	ListCell   *lc;

	for (turn = 0; turn < 4; turn++)
	{
		foreach(lc, graph->verdicts)
		{
			CdpDecided *decided = lfirst(lc);
			CdpNode    *a = CdpGraphNode(graph, decided->a);
			CdpNode    *b = CdpGraphNode(graph, decided->b);

			if (turn == 0 && decided->merge && decided->gone)
				merge_goes(graph, decided, a, b);
			else if (turn == 1 && !decided->merge && !decided->gone)
				split_comes(graph, a, b);
			else if (turn == 2 && !decided->merge && decided->gone)
				split_goes(graph, a, b);
			else if (turn == 3 && decided->merge && !decided->gone)
				merge_comes(graph, decided, a, b);
		}
	}
}

/*
 * Cut what has become loose.  A piece is found only when what else holds it and is
 * loose, too, has been cut before; so it makes no difference in which order they come.
 */
static void
cut_loose(CdpGraph *graph)
{
	List	   *left = graph->loose;
	bool		some = list_length(left) <= MAX_CHANGES;
	ListCell   *lc;

	while (some && left != NIL)
	{
		List	   *fast = NIL;

		some = false;
		foreach(lc, left)
		{
			if (cut(graph, lfirst(lc), false))
				some = true;
			else
				fast = lappend(fast, lfirst(lc));
		}
		left = fast;
	}
	foreach(lc, left)
		CdpGraphDirty(((CdpLink *) lfirst(lc))->a, ((CdpLink *) lfirst(lc))->b);
}

void
CdpGraphSettleLoose(CdpGraph *graph)
{
	ListCell   *lc;

	cut_loose(graph);
	if (list_length(graph->verdicts) <= MAX_CHANGES)
		take_decisions(graph);
	else
	{
		foreach(lc, graph->verdicts)
		{
			CdpDecided *decided = lfirst(lc);

			CdpGraphDirty(CdpGraphNode(graph, decided->a), CdpGraphNode(graph, decided->b));
		}
	}
}
