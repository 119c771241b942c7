/*-------------------------------------------------------------------------
 *
 * merge_late.c
 *	  A merge by hand of components that have seen something later.
 *
 *	  Clocks of devices are not all right, and so a busy component mostly has
 *	  evidence that is some minutes ahead of whoever merges it with somebody.
 *	  For a replay the merge has its place before that.  Where the other one is
 *	  small, and has seen nothing later, the replay would give what is here
 *	  already when
 *
 *	  - of the kinds with a limit that the small one has, nobody joined the large
 *		one after the merge: so the limits have nothing to say to who did;
 *	  - the guards have nothing to say to both together, thus to no part of them;
 *	  - what was refused to the large one stays so for the same reason, as it has
 *		no room for more of those kinds itself, and nobody of the small one must
 *		be kept apart from anybody;
 *	  - nothing was refused to the small one after the merge, which may have been
 *		between the two.
 *
 * IDENTIFICATION
 *	  src/identity/merge_late.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"

#include "cdp.h"
#include "identity/graph.h"
#include "statement.h"

/* So many nodes are few. */
#define MAX_SMALL 256

static CdpStatement load_refused_since = {
	"SELECT FROM (SELECT unnest($1) AS node) AS u CROSS JOIN LATERAL ("
	"(SELECT FROM cdp.links l WHERE l.a = u.node AND l.reason IS NOT NULL AND l.at >= $2 LIMIT 1)"
	" UNION ALL "
	"(SELECT FROM cdp.links l WHERE l.b = u.node AND l.reason IS NOT NULL AND l.at >= $2 LIMIT 1)"
	") AS l LIMIT 1",
	{ "int8[]", "timestamptz" }
};

/*
 * Was anything refused to the members of a small component since then?
 */
static bool
is_refused_since(CdpNode *root, TimestampTz at)
{
	int64 ids[MAX_SMALL];
	CdpNode *member = root;
	Datum args[2];
	bool result;
	int n = 0;

	if (root->refusals == 0)
		return false;
	do
	{
		ids[n++] = member->id;
		member = member->next;
	} while (member != root);
	args[0] = CdpInt8Array(ids, n);
	args[1] = TimestampTzGetDatum(at);
	result = CdpRun(&load_refused_since, args, NULL) > 0;
	SPI_freetuptable(SPI_tuptable);
	return result;
}

/*
 * Has a member somebody with whom it must not be one person?
 */
static bool
is_kept_apart(CdpGraph *graph, CdpNode *root)
{
	CdpNode *member = root;

	if (graph->cannot == NULL)
		return false;
	do
	{
		if (hash_search(graph->cannot, &member->id, HASH_FIND, NULL) != NULL)
			return true;
		member = member->next;
	} while (member != root);
	return false;
}

/*
 * Of the kinds with a limit that the small component has, did nobody join the large
 * one since then, nor could anybody to whom it refused something?
 */
static bool
limits_are_silent(CdpGraph *graph, CdpNode *small, CdpNode *large, CdpNode *end, TimestampTz at)
{
	int slot;

	for (slot = 0; slot < graph->nlimited; slot++)
	{
		CdpKind *kind = graph->limiting[slot];

		if (small->counts[slot] == 0)
			continue;
		if (kind->within != CDP_PERIOD_EVER ||
			CdpTimelineLimited(graph, end, slot, at) != large->counts[slot] ||
			(large->refusals != 0 && large->counts[slot] < kind->max_per_profile))
			return false;
	}
	return true;
}

bool
CdpGraphMergesLate(CdpGraph *graph, CdpNode *a, CdpNode *b, TimestampTz at)
{
	CdpNode *x = CdpNodeRoot(a);
	CdpNode *y = CdpNodeRoot(b);
	CdpNode *small = x->size <= y->size ? x : y;
	CdpNode *large = small == x ? y : x;

	if (!CdpTimelineKnow(graph, x) || !CdpTimelineKnow(graph, y))
		return false;
	/* were they together before? */
	if (x == y)
		return CdpTimelineJoined(a, b, at);
	if (small->size > MAX_SMALL || small->joined_until >= at ||
		(large->refusals & ~(CDP_REFUSAL(CDP_JOIN_LIMIT) | CDP_REFUSAL(CDP_JOIN_CANNOT) | CDP_REFUSAL(CDP_JOIN_SIZE))) != 0 ||
		!limits_are_silent(graph, small, large, small == x ? b : a, at) ||
		is_kept_apart(graph, small) || is_refused_since(small, at))
		return false;
	return large->joined_until < at ||
		(x->timeline == CDP_YES && y->timeline == CDP_YES &&
		 x->size + y->size <= cdp_max_profile_identifiers &&
		 !CdpPeriodsBreakRate(graph, x, y) &&
		 !CdpPeriodsOver(graph, x) && !CdpPeriodsOver(graph, y));
}
