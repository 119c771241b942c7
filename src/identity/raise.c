/*-------------------------------------------------------------------------
 *
 * raise.c
 *	  The policy raise: an entry is refused where it is logged.
 *
 *	  What will become of an entry is known when it is applied, by all that is
 *	  in the log then.  Here it is judged by what is applied now, in a graph
 *	  that is thrown away, by the code that the applier uses.  So the error may
 *	  be missing where another entry is still pending; then the applier does
 *	  what it does under the policy refuse.
 *
 * IDENTIFICATION
 *	  src/identity/raise.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/memutils.h"

#include "cdp.h"
#include "identity/graph.h"
#include "statement.h"

/* Beyond all numbers of nodes. */
#define NEXT_NODE	(PG_INT64_MAX / 2)

/*
 * The kind that the link would be refused for; joins the two when it would be
 * accepted.
 */
static CdpKind *
broken_kind(CdpGraph *graph, CdpNode *hub, CdpNode *other)
{
	bool		found;
	CdpLink    *link = CdpGraphLink(graph, hub, other, false, &found);
	const char *detail;

	CdpGraphLoadLinks(graph, &link, 1);
	if (link->on_disk)
		detail = link->status == 'r' ? link->detail : NULL;
	else
	{
		CdpVerdict	verdict = CdpGraphJudge(graph, hub, other, false, &detail);

		if (verdict == CDP_JOIN_OK)
			CdpGraphJoin(graph, hub, other, true, DT_NOBEGIN);
	}
	return detail == NULL ? NULL
		: CdpKindLookup(graph->kinds, detail, strlen(detail));
}

void
CdpCheckRaise(ArrayType *identifiers, const TimestampTz *occurred_at)
{
	CdpKindSet *kinds = CdpKindSetGet(-1);
	CdpUserContext saved;
	CdpGraph   *graph;
	CdpEntry	entry;
	MemoryContext context;
	MemoryContext old;
	int			i;

	if (!CdpKindSetRaises(kinds))
		return;

	CdpBecomeOwner(&saved);
	CdpPinPlans();
	SPI_connect();
	context = AllocSetContextCreate(CurrentMemoryContext, "cdp raise",
									ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	memset(&entry, 0, sizeof(entry));
	entry.type = CDP_ENTRY_TRACK;
	entry.identifiers = identifiers;
	entry.received_at = CdpClock();
	entry.at = CdpEffectiveAt(occurred_at != NULL,
							  occurred_at != NULL ? *occurred_at : 0,
							  entry.received_at);

	graph = CdpGraphBegin(kinds, NEXT_NODE, 0, 0);
	CdpGraphCheck(graph, &entry, 1);
	CdpGraphAdd(graph, &entry, 1, true);
	CdpGraphLoadCannot(graph);
	CdpGraphRecount(graph);
	for (i = 1; i < entry.nnodes; i++)
	{
		CdpNode    *hub = CdpGraphNode(graph, entry.nodes[0]);
		CdpNode    *other = CdpGraphNode(graph, entry.nodes[i]);
		CdpKind    *kind = broken_kind(graph, hub, other);

		if (kind != NULL && kind->policy == CDP_POLICY_RAISE)
			ereport(ERROR,
					(errcode(ERRCODE_CHECK_VIOLATION),
					 errmsg("identifiers \"%s\" and \"%s\" cannot belong to one profile",
							text_to_cstring(hub->identifier),
							text_to_cstring(other->identifier)),
					 kind->within == CDP_PERIOD_EVER
					 ? errdetail("It would have more than %d of kind \"%s\".",
								 kind->max_per_profile, kind->name)
					 : errdetail("It would have more than %d of kind \"%s\" of the same period.",
								 kind->max_per_profile, kind->name)));
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	SPI_finish();
	CdpRestoreUser(&saved);
}
